"""Live merges of a real QEMU, killed, then reconciled by the real daemon: the guest's bytes decide."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.campaigns import judgement, merges, scenario
from tests.support import believer, daemon, guest, revival

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(bool(guest.missing()), reason=f"needs {', '.join(guest.missing())}"),
]

SEED = 20
RUNS = [
    *scenario.CELLS[: len(scenario.CELLS) // len(scenario.KILLS)],  # every merge once
    scenario.Cell("internal", "switching", "qcow2", scenario.REPAIR),
    scenario.Cell("active", "pivoting", "qcow2"),
]


@pytest.fixture(scope="module")
def pools() -> Iterator[Callable[[int], revival.Pool]]:
    """A pool for each domain version, made when first asked for."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda version: stack.enter_context(merges.pool(version)))


@pytest.mark.parametrize("number", range(len(RUNS)), ids=lambda number: str(RUNS[number]).replace(" ", "-"))
def test_killed_merge_keeps_every_flushed_byte(pools: Callable[[int], revival.Pool], number: int) -> None:
    result = judgement.run(pools(scenario.VERSIONS[number // 2 % 2]), number, SEED, RUNS[number])
    assert not result.problems
    if result.torn:
        assert result.outcome == "undone"
    if result.cell.moment in ("running", "ready") and not result.switched:  # a merge may be through before the kill
        assert result.outcome == "kept"


@pytest.mark.parametrize("name", ["internal switching (qcow2)", "active marked (qcow2)", "active marked (raw)"])
def test_believing_headers_and_marks_is_noticed(tmp_path: Path, name: str) -> None:
    """The judgement must see lost bytes: here a stand-in for the daemon does what everybody does."""
    cell = next(cell for cell in scenario.CELLS if str(cell) == name)
    for number in range(20):
        result = judgement.run(believer.Believer(tmp_path), number, SEED, cell)
        if result.torn or result.mark_lies:
            break
        assert not result.problems
    else:
        pytest.fail("no kill of 20 fell into the window")
    assert result.different
    assert result.wrong_leaf == (cell.commit == "active")
    assert any("bytes wrong" in problem for problem in result.problems)


def test_a_refusal_without_need_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = {"status": {"code": 262, "message": "cannot be settled"}}
    monkeypatch.setattr(believer.Believer, "reconcile", lambda *arguments: refusal)
    result = judgement.run(believer.Believer(tmp_path), 0, SEED, scenario.Cell("active", "ready", "qcow2"))
    assert result.bad_refusal and result.outcome == "refused"


def test_a_changed_directory_is_noticed(tmp_path: Path) -> None:
    class Writer(believer.Believer):
        def look(self, image: daemon.Image, leaf: str) -> dict[str, object]:
            (image.directory / "left-over").touch()
            return super().look(image, leaf)

    result = judgement.run(Writer(tmp_path), 0, SEED, scenario.Cell("internal", "running", "qcow2"))
    assert result.problems == ["getVolumeChain changed something"]


def test_table_counts_what_the_results_say() -> None:
    cell = scenario.CELLS[0]
    good = judgement.Result(0, cell, switched=True, torn=True, outcome="undone")
    bad = judgement.Result(1, cell, outcome="merged", different=True, problems=["different bytes"])
    text = merges.table([good, bad])
    row = next(line for line in text.splitlines() if line.startswith(cell.merge))
    assert row.split()[3:] == ["2", "-", "-", "1", "1", "-", "1", "1", "-", "-", "-", "-"]
    assert "different bytes: 1" in text and "torn merges undone: 1 of 1" in text
    figures = merges.counted([good, bad], 3)
    assert (figures.counts["runs"], figures.counts["torn merges"], figures.counts["different bytes"]) == (2, 1, 1)
    assert figures.failures == [f"run 1, {cell}: different bytes", "1 runs did not come back"]
