"""Every verb that writes, ended at every step, cut off from its power at any, and given errors at every step.

Three rounds over one table of scenarios (`tests/support/scenarios.py`):

* ``kills``: the process ends before each change of a file; every second time a write that was under way is there in
  part. What a flush would add is the next round's business.
* ``power``: the power goes at a random change; of what was not flushed any part is there that a journaling file system
  may have kept (`tests/support/unsynced.py`).
* ``errors``: EIO, ENOSPC, EINTR and short writes, once and for ever, at steps drawn at random, or with ``--every`` at
  each.

After each an independent reader must find the old or the new state, or one that is documented and that the repeated
call finishes; nothing torn; nothing left over once the verb was called again.
"""

import argparse
import concurrent.futures
import contextlib
import logging
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from storage import errors
from tests.campaigns import figures
from tests.support import scenarios, stage, trouble, unsynced

Found = tuple[dict[str, int], list[str]]


class Round:
    """Counts and failures of one scenario."""

    def __init__(self, play: stage.Stage, scenario: scenarios.Scenario, seed: int) -> None:
        self.play = play
        self.scenario = scenario
        self.seed = seed
        self.counts: dict[str, int] = {}
        self.failures: list[str] = []
        play.enter(scenario)

    def add(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def take(self, where: str, verdict: stage.Verdict) -> None:
        """Count a verdict and keep what is wrong with it."""
        self.add(f"state {verdict.kind}")
        if verdict.wrong:
            text = "; ".join(verdict.wrong).replace(str(self.play.root), "")
            self.failures.append(f"{self.scenario}, {where} (seed {self.seed}): {text:.600}")

    def choices(self, number: int) -> random.Random:
        return random.Random(f"{self.seed} {self.scenario} {number}")

    # ------------------------------------------------------------ the rounds

    def kills(self, most: int | None) -> None:
        """End the process at each point; `most` of them, drawn at random, when that is given."""
        journal = self.play.record()
        points = journal.points
        if most is not None and len(points) > most:
            points = self.choices(0).sample(points, most)
        for number, at in enumerate(points):
            journal.killed(at, self.choices(at) if number % 2 else None)
            self.add("kills")
            self.take(f"killed before change {at}", self.play.judge(thorough=number % 8 == 0))

    def power(self, runs: int) -> None:
        """Lose the power so often, at random points; half of the file systems flush all names together."""
        journal = self.play.record()
        for number in range(runs):
            choices = self.choices(number)
            at = choices.randrange(len(journal.changes) + 1)
            rules = unsynced.Rules(choices, together=number % 2 == 0)
            if journal.lost(at, rules):
                self.add("losses of power with something at stake")
            self.add("losses of power")
            self.take(f"loss of power {number} before change {at}", self.play.judge(thorough=number % 8 == 0))

    def errors(self, most: int | None) -> None:
        """Each kind of trouble at each step; at `most` of them, drawn at random, when that is given."""
        known: dict[tuple[str, ...], int] = {}
        for kind in trouble.KINDS:
            probe = trouble.Trouble(1 << 30, kind)
            if probe.names not in known:
                known[probe.names] = self._struck(probe, judge=False)
            steps = known[probe.names]
            points = list(range(steps))
            if most is not None and steps > most:
                points = self.choices(steps).sample(points, most)
            for at in points:
                self._struck(trouble.Trouble(at, kind))

    def _struck(self, fault: trouble.Trouble, *, judge: bool = True) -> int:
        """Call the verb with something going wrong; the number of steps at which it could."""
        self.play.restore()
        where = f"{fault.kind} at step {fault.at}"
        with stage.hosted(self.play.root) as host:
            with stage.flushless():
                scenarios.up(host, self.play.root, self.scenario.ready)
            with stage.struck(fault):
                code = self.scenario.act(host)
            if not judge:
                return fault.done
            self.add("errors injected" if fault.fired else "errors that met nothing")
            alive = host.answer("getConnectedStoragePoolsList")["status"]["code"]
        wrong = [] if alive == 0 else [f"the host answers {alive} afterwards"]
        if code == errors.GeneralException.code:
            wrong.append("it answers 100, which says nothing")
        verdict = self.play.judge(thorough=fault.done % 8 == 0, failed=True)
        if code == 0 and verdict.kind == "old" and self.play.old.differences(self.play.new):
            wrong.append("it answers 0, and nothing has changed")
        verdict.wrong[:0] = wrong
        self.take(f"{where}, code {code}", verdict)
        return fault.done


ROUNDS: dict[str, tuple[Callable[..., None], int | None]] = {
    "kills": (Round.kills, None),
    "power": (Round.power, 18),
    "errors": (Round.errors, 3),
}
"""What is done, and how often for each scenario; None: at every point."""


def _one(job: tuple[str, str, int, int | None, str]) -> Found:
    """A round of one scenario, in a process of its own or in this one."""
    kind, name, seed, size, directory = job
    with _quiet(), tempfile.TemporaryDirectory(prefix="crash-", dir=directory) as place:
        play = stage.Stage(Path(place))
        this = Round(play, play.named(name), seed)
        ROUNDS[kind][0](this, size)
        return this.counts, this.failures


def run(
    sizes: dict[str, int | None] | None = None,
    names: Iterable[str] | None = None,
    seed: int = 0,
    workers: int = 2,
    directory: Path | None = None,
) -> figures.Figures:
    """Play rounds.

    Args:
        sizes: rounds and how often; default `ROUNDS`.
        names: scenarios; default all.
        seed: of everything that is drawn.
        workers: processes; 1: this one.
        directory: where the storage is; default: in memory, where there is such a place.
    """
    memory = Path("/dev/shm")
    where = str(directory or (memory if memory.is_dir() else tempfile.gettempdir()))
    wanted = {kind: size for kind, (_, size) in ROUNDS.items()} if sizes is None else sizes
    names = [each.name for each in scenarios.table(Path("/"))] if names is None else list(names)
    found = figures.Figures("crashes", {"scenarios": len(names)})
    jobs = [(kind, name, seed, size, where) for kind, size in wanted.items() for name in names]
    if workers == 1:
        _collect(found, map(_one, jobs))
    else:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
            _collect(found, pool.map(_one, jobs))
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Thousands of foreseen errors are not worth a log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _collect(found: figures.Figures, outcomes: Iterable[Found]) -> None:
    for counts, failures in outcomes:
        for what, number in counts.items():
            found.add(what, number)
        found.failures += failures


def main() -> int:
    """Play all rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, help="losses of power for each scenario")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--only", nargs="*", help="scenarios whose names begin so")
    parser.add_argument("--rounds", nargs="*", default=list(ROUNDS), choices=list(ROUNDS))
    parser.add_argument("--every", action="store_true", help="errors at each step; takes an hour")
    options = parser.parse_args()
    sizes = {kind: ROUNDS[kind][1] for kind in options.rounds}
    if options.runs and "power" in sizes:
        sizes["power"] = options.runs
    if options.every and "errors" in sizes:
        sizes["errors"] = None
    names = [each.name for each in scenarios.table(Path("/"))]
    if options.only:
        names = [name for name in names if name.startswith(tuple(options.only))]
    started = time.monotonic()
    found = run(sizes, names, options.seed)
    print(f"{time.monotonic() - started:.0f} s, seed {options.seed}")
    return figures.tell(found)


if __name__ == "__main__":
    sys.exit(main())
