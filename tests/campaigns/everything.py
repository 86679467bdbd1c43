"""All campaigns, one after the other, and their figures at the end.

    python -m tests.campaigns.everything --seed 1

Exit code 0: every campaign came to its end, and none has found a failure. Each can be run alone with
``python -m tests.campaigns.NAME``, which takes a size and repeats what failed.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CAMPAIGNS: tuple[tuple[str, ...], ...] = (
    ("merges", "--runs", "1000"),
    ("blkdebug",),
    ("crashes",),
    ("straced",),
    ("fulldisk",),
    ("headers",),
    ("hostile",),
    ("paths",),
    ("inuse",),
    ("wire",),
    ("slow",),
    ("soak",),
)
"""Module and arguments of each at its full size."""

_FIGURES = re.compile(r"^\S.*: .*\bfailures [0-9,]+$")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="everything", description="all campaigns")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (default 1)")
    parser.add_argument("--only", action="append", help="this campaign; may be given more than once")
    options = parser.parse_args(arguments)
    wanted = [each for each in CAMPAIGNS if not options.only or each[0] in options.only]
    outcomes = []
    started = time.monotonic()
    for name, *rest in wanted:
        print(f"== {name} {' '.join(rest)}", flush=True)
        outcomes.append(_run(name, [*rest, "--seed", str(options.seed)]))
    print("\nAll figures:")
    for name, (code, figures, seconds) in zip((each[0] for each in wanted), outcomes, strict=True):
        for line in figures or [f"{name}: came to no figures"]:
            print(f"  {line}")
        print(f"    ({name}: {seconds:.0f} s{'' if code == 0 else f', exit code {code}'})")
    failed = [outcome for outcome in outcomes if outcome[0] or not outcome[1]]
    print(f"{len(wanted)} campaigns in {(time.monotonic() - started) / 60:.0f} minutes, {len(failed)} of them failed")
    return 1 if failed else 0


def _run(name: str, arguments: Sequence[str]) -> tuple[int, list[str], float]:
    """Run one and pass on what it prints; its exit code, the lines with figures, and seconds."""
    command = [sys.executable, "-u", "-m", f"tests.campaigns.{name}", *arguments]
    started = time.monotonic()
    figures = []
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if _FIGURES.match(line.rstrip()):
                figures.append(line.rstrip())
    return process.returncode, figures, time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
