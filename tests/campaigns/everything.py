"""All campaigns, and their figures at the end.

    python -m tests.campaigns.everything --seed 1

Exit code 0: every campaign came to its end, and none has found a failure. Each can be run alone with
``python -m tests.campaigns.NAME``, which takes a size and repeats what failed.

Those that measure times, or use two processors themselves, run by themselves; of the others two run at a time.
"""

import argparse
import dataclasses
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ALONE = ("merges", "headers", "slow", "soak")
BESIDE = (
    "crashes --rounds errors",
    "wire",
    "crashes --rounds kills",
    "hostile",
    "crashes --rounds power --runs 10",
    "inuse",
    "blkdebug",
    "straced --runs 1",
    "fulldisk",
    "paths",
)
"""Modules and their arguments, the longest first, so that neither of two lanes is idle for long."""

_FIGURES = re.compile(r"^\S.*: .*\bfailures [0-9,]+$")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one ended: its exit code, the lines with its figures, and how long it took."""

    name: str
    code: int
    figures: list[str]
    seconds: float

    @property
    def good(self) -> bool:
        return self.code == 0 and bool(self.figures)

    def __str__(self) -> str:
        told = self.figures or ["no figures: it did not come to its end"]
        ended = "" if self.code == 0 else f", exit code {self.code}"
        return "\n".join([*(f"  {line}" for line in told), f"    ({self.name}, {self.seconds:.0f} s{ended})"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="everything", description="all campaigns")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (default 1)")
    parser.add_argument("--only", action="append", help="this campaign; may be given more than once")
    options = parser.parse_args(arguments)

    def wanted(commands: Sequence[str]) -> list[str]:
        return [each for each in commands if not options.only or each.split()[0] in options.only]

    started = time.monotonic()
    outcomes = [_run(each, options.seed) for each in wanted(ALONE)]
    with futures.ThreadPoolExecutor(max_workers=2) as lanes:
        outcomes += lanes.map(lambda each: _run(each, options.seed), wanted(BESIDE))
    print("\nAll figures:")
    for outcome in outcomes:
        print(outcome)
    failed = sum(not outcome.good for outcome in outcomes)
    print(f"{len(outcomes)} campaigns in {(time.monotonic() - started) / 60:.0f} minutes, {failed} of them failed")
    return 1 if failed or not outcomes else 0


def _run(command: str, seed: int) -> Outcome:
    """Run one, and pass on what it prints."""
    name, *rest = command.split()
    print(f"== {command}", flush=True)
    arguments = [sys.executable, "-u", "-m", f"tests.campaigns.{name}", *rest, "--seed", str(seed)]
    started = time.monotonic()
    figures = []
    with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{name} | {line}", end="", flush=True)
            if _FIGURES.match(line.rstrip()):
                figures.append(line.rstrip())
    return Outcome(command, process.returncode, figures, time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
