"""What people start by hand: the campaign and the demo, run as they run them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns import judgement, merges, scenario
from tests.support import guest

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(bool(guest.missing()), reason=f"needs {', '.join(guest.missing())}"),
]

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=50)


def test_demo_shows_a_torn_merge_and_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = run("tests.campaigns.demo")
    assert done.returncode == 0, done.stderr
    assert "TORN MERGE" in done.stdout and "that chain lacks 3145728 flushed bytes" in " ".join(done.stdout.split())
    digests = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  sha256 ")]
    assert len(digests) == 6 and digests[::2] == digests[1::2] and len(set(digests)) == 3
    assert done.stdout.endswith("Every byte that the guest had flushed is there.\n")
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_campaign_counts_every_run(tmp_path: Path) -> None:
    """Three runs: QEMU killed alone, then together with the daemon, then the daemon in its repair."""
    assert {cell.killed for cell in scenario.SCHEDULE[:3]} == set(scenario.KILLS)
    done = run("tests.campaigns.merges", "--runs", "3", "--seed", "4", "--jobs", "2", "--directory", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs in" in done.stdout and "wrong leaf: 0, different bytes: 0" in done.stdout
    assert not list(tmp_path.iterdir()), "something was left behind"


@pytest.mark.parametrize("problems, runs, code", [([], 1, 0), (["wrong leaf"], 1, 1), ([], 2, 1)])
def test_campaign_fails_on_any_problem_and_on_lost_runs(
    monkeypatch: pytest.MonkeyPatch, problems: list[str], runs: int, code: int
) -> None:
    result = judgement.Result(0, scenario.CELLS[0], outcome="kept", problems=problems)
    monkeypatch.setattr(merges, "_parallel", lambda *arguments: [result])
    assert merges.main(["--runs", str(runs)]) == code
