"""Kill many real live merges and count what the daemon makes of them.

    python -m tests.campaigns.merges --runs 200 --seed 1 --jobs 2

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

from tests.campaigns import judgement, scenario
from tests.support import daemon, guest

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
    print(table(results))
    seconds = time.monotonic() - started
    print(f"{len(results)} runs in {seconds:.0f} s, {jobs} at a time, seed {options.seed}")
    lost = len(numbers) - len(results)
    if lost:
        print(f"{lost} runs did not come back")
    return 1 if lost or any(result.problems for result in results) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="merges", description="kill real live merges and reconcile what is left")
    parser.add_argument("--runs", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (default 1)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default 2)")
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
    """A worker: for each domain version a daemon, a pool, and one run after the other."""
    try:
        for version in scenario.VERSIONS:
            mine = [number for number in numbers if scenario.version(number, seed) == version]
            if mine:
                with pool(version, directory) as made:
                    for number in mine:
                        queue.put(judgement.run(made, number, seed))
    finally:
        queue.put(None)


@contextlib.contextmanager
def pool(version: int, directory: Path | None = None) -> Iterator[daemon.Pool]:
    """A daemon with the campaign's margin, and a pool with a domain of that version, in a new place in `directory`."""
    with tempfile.TemporaryDirectory(prefix="vl-merges-", dir=directory) as place:
        storage = Path(place, "storage")
        storage.mkdir()
        with daemon.Daemon(Path(place), {"storage": {"time_margin": scenario.MARGIN}}) as server:
            yield daemon.make_pool(server, storage, version)


def _tell(result: judgement.Result) -> None:
    for problem in result.problems:
        print(f"run {result.number}, {result.cell}: {problem}", flush=True)


def table(results: Sequence[judgement.Result]) -> str:
    """Counts by kind of kill, and in total."""
    lines = ["", f"{'killed merge':<32}{'runs':>6}{'header':>9}{'torn':>6}{'mark':>6}" + _outcomes_head()]
    lines.append(f"{'':<32}{'':>6}{'switched':>9}{'':>6}{'lies':>6}")
    rows = collections.defaultdict(list)
    for result in results:
        rows[result.cell].append(result)
    lines += [_row(str(cell), rows[cell]) for cell in scenario.CELLS if cell in rows]
    lines.append(_row("all", results))
    believed = sum(result.torn or result.mark_lies for result in results)
    lines += [
        "",
        f"Believing headers and marks would have lost flushed bytes in {believed} of {len(results)} runs.",
        f"torn merges undone: {sum(r.torn and r.outcome == 'undone' for r in results)} of {_count(results, 'torn')}; "
        f"complete merges undone: {sum(r.outcome == 'undone' and not r.torn for r in results)}",
        f"wrong leaf: {_count(results, 'wrong_leaf')}, different bytes: {_count(results, 'different')}, "
        f"refused without need: {_count(results, 'bad_refusal')}, "
        f"runs with any problem: {sum(bool(r.problems) for r in results)}",
    ]
    return "\n".join(lines)


def _outcomes_head() -> str:
    return "".join(f"{name:>9}" for name in _COLUMNS)


def _row(name: str, results: Sequence[judgement.Result]) -> str:
    outcomes = collections.Counter(result.outcome for result in results)
    counts = "".join(f"{outcomes[column] or '-':>9}" for column in _COLUMNS)
    facts = f"{_count(results, 'switched') or '-':>9}{_count(results, 'torn') or '-':>6}"
    return f"{name:<32}{len(results):>6}{facts}{_count(results, 'mark_lies') or '-':>6}{counts}"


def _count(results: Sequence[judgement.Result], field: str) -> int:
    return sum(bool(getattr(result, field)) for result in results)


if __name__ == "__main__":
    sys.exit(main())
