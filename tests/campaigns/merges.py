"""Kill many real live merges and count what the daemon makes of them.

    python -m tests.campaigns.merges --runs 1000 --seed 1

Exit code 0: no wrong leaf, no different bytes, no refusal where the evidence was clear, nothing else amiss.
A run is repeated with ``--only NUMBER`` and the same seed (what QEMU does within a millisecond is not in our hands).
"""

import argparse
import collections
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

from tests.campaigns import figures, judgement, scenario
from tests.support import guest, revival

_COLUMNS = ("merged", "undone", "kept", "dropped", "refused", "failed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _options(arguments)
    if guest.missing():
        print(f"this needs {', '.join(guest.missing())}", file=sys.stderr)
        return 2
    numbers = [options.only] if options.only is not None else range(options.runs)
    jobs = max(1, min(options.jobs, len(numbers)))
    started = time.monotonic()
    results = _parallel(numbers, jobs, options.seed, options.directory)
    seconds = time.monotonic() - started
    print(table(results))
    print(f"{len(results)} runs in {seconds:.0f} s, {jobs} at a time, seed {options.seed}\n")
    return figures.tell(counted(results, len(numbers)))


def run(runs: int, seed: int, jobs: int = 3, directory: Path | None = None) -> figures.Figures:
    """Do it, and count.

    Args:
        runs: how many.
        jobs: how many at a time.
        directory: where to work; default the system's temporary directory.
    """
    return counted(_parallel(range(runs), max(1, min(jobs, runs)), seed, directory), runs)


def counted(results: Sequence[judgement.Result], wanted: int) -> figures.Figures:
    """The figures of some runs.

    Args:
        wanted: how many runs there should have been.
    """
    made = figures.Figures("killed merges")
    cuts = [cut for result in results for cut in result.cuts]
    made.counts = {
        "runs": len(results),
        "cells": len({result.cell for result in results}),
        "daemons killed": len(cuts) + sum(result.cell.killed == scenario.TOGETHER for result in results),
        "in a repair": len(cuts),
        "with its qemu-img": sum(cut.child for cut in cuts),
        "torn merges": _count(results, "torn"),
        "lying marks": _count(results, "mark_lies"),
        "wrong leaf": _count(results, "wrong_leaf"),
        "different bytes": _count(results, "different"),
        "refused rightly": sum(result.outcome == "refused" and not result.bad_refusal for result in results),
        "resolved by the deep check": _count(results, "resolved"),
        "repairs undone and made again": _count(results, "undone"),
    }
    made.failures = [
        f"run {result.number}, {result.cell}: {problem}" for result in results for problem in result.problems
    ]
    made.failures += [f"{wanted - len(results)} runs did not come back"] if wanted > len(results) else []
    return made


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="merges", description="kill real live merges and reconcile what is left")
    parser.add_argument("--runs", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (default 1)")
    parser.add_argument(
        "--jobs", type=int, default=3, help="how many at a time (default 3: they often wait for the disk)"
    )
    parser.add_argument("--only", type=int, help="do this run only")
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    return parser.parse_args(arguments)


def _parallel(numbers: Sequence[int], jobs: int, seed: int, directory: Path | None) -> list[judgement.Result]:
    """Share the runs among processes, each with a daemon of its own; processes, since kills need exact timing."""
    context = multiprocessing.get_context("spawn")
    queue: Queue[judgement.Result | None] = context.Queue()
    workers = [
        context.Process(target=work, args=(queue, list(numbers[job::jobs]), seed, directory)) for job in range(jobs)
    ]
    for worker in workers:
        worker.start()
    results = []
    open_ends = len(workers)
    while open_ends:
        try:
            result = queue.get(timeout=1)
        except Empty:
            if any(worker.is_alive() for worker in workers):
                continue
            break  # one ended without a word: its runs are missing in the count
        if result is None:
            open_ends -= 1
            continue
        results.append(result)
        _tell(result)
    for worker in workers:
        worker.join()
    return sorted(results, key=lambda result: result.number)


def work(queue: "Queue[judgement.Result | None]", numbers: Iterable[int], seed: int, directory: Path | None) -> None:
    """A worker: for each kind of place a daemon, a pool, and one run after the other."""
    try:
        places = collections.defaultdict(list)
        for number in numbers:
            places[scenario.place(number, seed)].append(number)
        for (version, hasty), mine in places.items():
            with pool(version, directory, hasty=hasty) as made:
                for number in mine:
                    queue.put(judgement.run(made, number, seed))
    finally:
        queue.put(None)


@contextlib.contextmanager
def pool(version: int, directory: Path | None = None, *, hasty: bool = False) -> Iterator[revival.Pool]:
    """A daemon with the campaign's margin, and a pool with a domain of that version, in a new place in `directory`."""
    settings = {"time_margin": scenario.MARGIN}
    with (
        tempfile.TemporaryDirectory(prefix="vl-merges-", dir=directory) as place,
        revival.pool(Path(place), version, settings, hasty=hasty) as made,
    ):
        yield made


def _tell(result: judgement.Result) -> None:
    for problem in result.problems:
        print(f"run {result.number}, {result.cell}: {problem}", flush=True)


def table(results: Sequence[judgement.Result]) -> str:
    """Counts by kind of kill, and in total."""
    lines = [
        "",
        f"{'killed merge':<28}{'runs: qemu  with  in the':>26}{'header':>9}{'torn':>6}{'mark':>6}{_outcomes_head()}",
        f"{'':<28}{'alone daemon  repair':>26}{'switched':>9}{'':>6}{'lies':>6}",
    ]
    rows = collections.defaultdict(list)
    for result in results:
        rows[result.cell.merge].append(result)
    lines += [_row(merge, rows[merge]) for merge in dict.fromkeys(cell.merge for cell in scenario.CELLS)]
    lines.append(_row("all", results))
    return "\n".join([*lines, "", *_told(results)])


def _told(results: Sequence[judgement.Result]) -> list[str]:
    """What the rows do not show."""
    believed = sum(result.torn or result.mark_lies for result in results)
    undone = [result for result in results if result.outcome == "undone" and not result.torn]
    hasty = [result for result in results if result.hasty]
    cuts = [cut for result in results for cut in result.cuts]
    early = [cut for cut in cuts if not cut.answered]
    return [
        f"Believing headers and marks would have lost flushed bytes in {believed} of {len(results)} runs.",
        f"torn merges undone: {sum(r.torn and r.outcome == 'undone' for r in results)} of {_count(results, 'torn')}; "
        f"complete merges undone: {sum(not r.hasty for r in undone)}, "
        f"and {sum(r.hasty for r in undone)} without time to compare",
        f"kills in a repair: {len(cuts)}, of which before a change {sum(not cut.changed for cut in early)}, "
        f"after one {sum(cut.changed for cut in early)}, with the answer {len(cuts) - len(early)}; "
        f"at or in a change of a header {sum(cut.child for cut in cuts)}",
        f"without time to compare: {len(hasty)} runs, referred to the deep check {_count(hasty, 'referred')}, "
        f"resolved by it {_count(results, 'resolved')}; refused after it {_outcome(results, 'refused')}",
        f"wrong leaf: {_count(results, 'wrong_leaf')}, different bytes: {_count(results, 'different')}, "
        f"refused without need: {_count(results, 'bad_refusal')}, "
        f"runs with any problem: {sum(bool(r.problems) for r in results)}",
    ]


def _outcomes_head() -> str:
    return "".join(f"{name:>8}" for name in _COLUMNS)


def _row(name: str, results: Sequence[judgement.Result]) -> str:
    kills = collections.Counter(result.cell.killed for result in results)
    runs = "".join(f"{kills[killed] or '-':>{width}}" for killed, width in zip(scenario.KILLS, (11, 7, 8), strict=True))
    outcomes = "".join(f"{_outcome(results, column) or '-':>8}" for column in _COLUMNS)
    facts = f"{_count(results, 'switched') or '-':>9}{_count(results, 'torn') or '-':>6}"
    return f"{name:<28}{runs}{facts}{_count(results, 'mark_lies') or '-':>6}{outcomes}"


def _outcome(results: Sequence[judgement.Result], outcome: str) -> int:
    return sum(result.outcome == outcome for result in results)


def _count(results: Sequence[judgement.Result], field: str) -> int:
    return sum(bool(getattr(result, field)) for result in results)


if __name__ == "__main__":
    sys.exit(main())
