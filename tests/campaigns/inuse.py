"""A guest that has the disk open, or starts on it just before any step that a verb takes, loses nothing.

    python -m tests.campaigns.inuse --stride 1 --seed 1

Each verb is called while the leaf, an internal volume or the base is open in a live QEMU, for writing and for reading;
and again and again with a guest that starts before its first step, its second, its third ..., until a run has none
left. Either the guest gets hold of the disk, then all that it ever flushes is in the image that is there afterwards; or
it does not, then the verb is done as if nobody had come.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.campaigns import figures, inuse_cases
from tests.support import arrival, guest, oracle, site, visitor

BUSY = 203
_VOLUMES = {inuse_cases.BASE: 1, inuse_cases.INTERNAL: 2, inuse_cases.LEAF: 3}

Case = inuse_cases.Case
Play = inuse_cases.Play


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="inuse", description="call every verb on disks that somebody has open")
    parser.add_argument("--stride", type=int, default=1, help="let a guest start before every n-th step only")
    parser.add_argument("--seed", type=int, default=1, help="first step, where not every one is tried")
    parser.add_argument("--only", help="cases whose name has this in it")
    options = parser.parse_args(arguments)
    if guest.missing():
        print(f"this needs {', '.join(guest.missing())}", file=sys.stderr)
        return 2
    chosen = [case for case in inuse_cases.CASES if not options.only or options.only in case.name]
    return figures.tell(run(chosen, options.stride, options.seed))


def run(cases: Iterable[Case] = inuse_cases.CASES, stride: int = 1, seed: int = 1) -> figures.Figures:
    """Do all of it.

    Args:
        stride: a guest starts before every n-th step.
        seed: which of the first n it is.
    """
    found = figures.Figures("disks in use")
    with tempfile.TemporaryDirectory(prefix="vl-inuse-") as place, arrival.flushless():
        for number, case in enumerate(cases):
            root = Path(place, str(number))
            root.mkdir()
            with site.running(root) as where:
                found.add("verbs")
                held(case, where, found)
                appearing(case, where, found, stride, seed % stride)
    return found


# ---------------------------------------------------------------- held from the start


def held(case: Case, where: site.Site, found: figures.Figures) -> None:
    """Call the verb while somebody has a volume open."""
    places = list(_VOLUMES) if len(case.formats) == len(_VOLUMES) else [inuse_cases.LEAF]
    for place in places:
        for mode in (visitor.WRITER, visitor.READER):
            play = case.stage(where)
            problems = _hold(case, play, place, mode)
            found.add("held")
            found.failures += [f"{case.name}, {place} held by a {mode}: {problem}" for problem in problems]
            _clear(play)


def _hold(case: Case, play: Play, place: str, mode: str) -> list[str]:
    # A writer on a lower volume changes what the leaf reads, so there somebody just has it open.
    disk = play.truth if place == inuse_cases.LEAF else oracle.Disk(inuse_cases.SIZE)
    count = min(_VOLUMES[place], len(case.formats))
    somebody = visitor.Visitor(play.layers(count), disk, mode, idle=place != inuse_cases.LEAF)
    somebody.arrive()
    before = play.disk.records()
    with case.directed():
        outcome = case.act(play)
    readers = case.writers if case.readers is None else case.readers
    refuses = place in (case.writers if mode == visitor.WRITER else readers)
    problems = somebody.leave()
    if not somebody.opened:
        problems.append(f"nobody could open it: {somebody.refusal}")
    if (outcome.code == BUSY) != refuses or not outcome.clean:
        problems.append(f"{outcome}")
    if refuses:
        problems += _unchanged(play, before)
    if refuses and case.repairs:
        problems += _again(case, play)
    if refuses or case.record:
        problems += _reads(play, play.disk, play.truth)
    return problems


# ---------------------------------------------------------------- appearing meanwhile


def appearing(case: Case, where: site.Site, found: figures.Figures, stride: int, first: int) -> None:
    """Have a guest start before every n-th step of the verb, each time on a new image."""
    at, coming = first, True
    while coming:
        play = case.stage(where)
        stay = _Stay(case, play, at)
        coming = stay.coming.came
        if coming:
            found.add("guests that appeared")
            found.add("that got hold of the disk" if stay.opened else "that were kept away")
        if not stay.outcome.clean:
            found.add("undone in part, disk whole")
        found.failures += [f"{case.name}, {stay}: {problem}" for problem in stay.problems()]
        _clear(play)
        at += stride


class _Stay:
    """One call of a verb during which a guest starts."""

    def __init__(self, case: Case, play: Play, at: int) -> None:
        self._case = case
        self._play = play
        self._at = at
        self._guest = visitor.Visitor(play.layers(), play.truth)
        self._before = play.disk.records()
        self._met: dict[str, str] = {}
        self.coming = arrival.Arrival(at, self._come)
        play.step = self.coming.step
        with case.directed(), self.coming.watching():
            self.outcome = case.act(play)
        self._trouble = self._guest.leave()

    def _come(self) -> None:
        self._met = self._play.disk.records()
        self._guest.arrive()

    @property
    def opened(self) -> bool:
        """The guest got hold of the disk."""
        return self._guest.opened

    def __str__(self) -> str:
        if not self.coming.came:
            return "undisturbed"
        return f"guest {'' if self.opened else 'not '}let in before step {self._at} ({self.coming.where})"

    def problems(self) -> list[str]:
        """What is wrong afterwards."""
        found = [*self._trouble]
        case, play, outcome = self._case, self._play, self.outcome
        if outcome.code not in (0, BUSY) or not (outcome.clean or (case.leaves and self.opened)):
            found.append(f"{outcome}")
        if outcome.code == BUSY:
            return found + self._refused()
        if case.shares and self.opened and "VOLTYPE=LEAF" in self._met.get(f"{play.disk.volumes[-1]}.meta", ""):
            found.append("a volume that a machine writes to became a template")
        if case.after == inuse_cases.REPLACED:
            # Who was let in after all came upon the new content, and wrote into that.
            play.fresh.flushed.update({block: play.truth.flushed[block] for block in self._guest.blocks})
            return found + _reads(play, play.disk, play.fresh)
        if case.after == inuse_cases.SAME or self.opened:
            return found + _reads(play, _place(play), play.truth)
        return [*found, "it is still there"] if play.disk.path(-1).exists() else found

    def _refused(self) -> list[str]:
        found = [] if self.opened else [f"{self.outcome} because of a guest that is not there"]
        found += _unchanged(self._play, self._before)
        if self._case.repairs:
            found += _again(self._case, self._play)
        return found + _reads(self._play, self._play.disk, self._play.truth)


def _again(case: Case, play: Play) -> list[str]:
    """What is to be repaired reads right only when nobody is in the way any more."""
    outcome = case.act(play)
    return [] if outcome.code == 0 else [f"{outcome}, although nobody has it open any more"]


def _place(play: Play) -> inuse_cases.Image:
    """Where the image is now."""
    if play.disk.directory.exists():
        return play.disk
    return inuse_cases.Image(play.site, play.disk.id, play.site.there, play.disk.volumes)


def _reads(play: Play, disk: inuse_cases.Image, truth: oracle.Disk) -> list[str]:
    """Whether a guest finds on the leaf what it should."""
    path = disk.path(-1)
    if not path.exists():
        return ["the image is gone that a guest needs"]
    record = path.with_name(f"{path.name}.meta").read_text()
    problems = [] if "LEGALITY=LEGAL" in record else ["the leaf is not LEGAL"]
    fmt = "raw" if "FORMAT=RAW" in record else "qcow2"
    difference = oracle.different(path, fmt, truth, play.site.root)
    return problems + ([str(difference)] if difference else [])


def _unchanged(play: Play, before: dict[str, str]) -> list[str]:
    """Whether names and records are those of before; lengths may have grown by what the guest wrote."""
    if not play.disk.directory.exists():
        return ["the image is gone"]
    after = play.disk.records()
    names = [name for name in {*before, *after} if (name in before) != (name in after)]
    changed = [name for name in before if name.endswith(".meta") and after.get(name) != before[name]]
    return [f"changed: {', '.join(sorted({*names, *changed}))}"] if names or changed else []


def _clear(play: Play) -> None:
    play.site.forget(play.disk.id)
    if play.other is not None:
        play.site.forget(play.other.id)


if __name__ == "__main__":
    sys.exit(main())
