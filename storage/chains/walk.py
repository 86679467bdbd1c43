"""The way down from a leaf: which volume each volume really stands on. Pure.

qemu follows headers, so the header is what the guest sees next; but a header is a claim. Where it skips volumes that
metadata still has in between, somebody merged them, or seemed to: then the images are asked (`evidence.Question`)
whether the child reads the same without them. Only if it does the header is believed. If it does not, or nobody could
tell, the merge counts as torn and the child is put back on the volume it came from, which is safe as long as that
volume exists: a merge only reads it.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from storage import ids
from storage.chains import evidence, record

Records = Mapping[ids.VolumeId, record.Record]
Answers = Mapping[evidence.Question, evidence.Answer]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Limits of an examination.

    Attributes:
        margin: seconds by which one file must have been written later than another to count as evidence.
        limit: most volumes of a chain.
        started: when this host was started, seconds since the epoch. Times from before may be those of a host that
            lost power, which takes back the times of the last writes, but not the writes.
    """

    margin: float
    limit: int
    started: float = 0.0


class Blocked(Exception):
    """The way down ends at a fault."""

    def __init__(self, fault: record.Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Asked(Exception):
    """The way down depends on a question that has no answer yet."""

    def __init__(self, question: evidence.Question) -> None:
        super().__init__(str(question))
        self.question = question


@dataclasses.dataclass(frozen=True)
class Step:
    """One volume of the way and what it stands on.

    Attributes:
        volume: the volume.
        parent: what it really stands on, None for the base.
        skipped: volumes that metadata has between the two and the header has not.
        restored: the header must be pointed back at `parent`, the first of `skipped`.
        answer: the evidence, when there was a question.
    """

    volume: ids.VolumeId
    parent: ids.VolumeId | None
    skipped: tuple[ids.VolumeId, ...] = ()
    restored: bool = False
    answer: evidence.Answer | None = None


def down(records: Records, top: ids.VolumeId, answers: Answers, bounds: Bounds) -> list[Step]:
    """The steps from `top` to the base, `top` first.

    What a volume should stand on is judged by what is really beneath, not by what the headers there say: a merge may
    seem complete only because another one below it is torn. So the way is settled from the base upwards.

    Raises:
        Blocked: a volume on the way cannot be used, is missing, or comes twice.
        Asked: an answer is missing.
    """
    return _down(records, top, answers, bounds.limit, (), {})


def _down(
    records: Records,
    volume: ids.VolumeId,
    answers: Answers,
    limit: int,
    above: tuple[ids.VolumeId, ...],
    done: dict[ids.VolumeId, list[Step]],
) -> list[Step]:
    if volume in done:
        return done[volume]
    if volume in above:
        raise Blocked(record.loop(above[-1], volume))
    if len(above) >= limit:
        raise Blocked(record.too_deep(above[0], limit))
    here = usable(records, volume)
    if here.link is not None and here.link not in records:
        raise Blocked(record.missing(volume, here.link))
    below = [] if here.link is None else _down(records, here.link, answers, limit, (*above, volume), done)
    step = _step(records, here, tuple(each.volume for each in below), answers)
    if step.restored and step.parent is not None:
        below = _down(records, step.parent, answers, limit, (*above, volume), done)
    done[volume] = [step, *below]
    return done[volume]


def _step(records: Records, here: record.Record, below: tuple[ids.VolumeId, ...], answers: Answers) -> Step:
    between = skipped(records, here, below)
    if not between:
        return Step(here.volume, here.link)
    question = evidence.Question(between, here.volume, below)
    if question not in answers:
        raise Asked(question)
    answer = answers[question]
    if answer.same:
        return Step(here.volume, here.link, between, answer=answer)
    return Step(here.volume, between[0], between, restored=True, answer=answer)


def usable(records: Records, volume: ids.VolumeId) -> record.Record:
    """The record of a volume that can be relied on.

    Raises:
        Blocked: it has a fault.
    """
    here = records[volume]
    if here.faults:
        raise Blocked(here.faults[0])
    return here


def skipped(records: Records, here: record.Record, below: Iterable[ids.VolumeId]) -> tuple[ids.VolumeId, ...]:
    """Volumes that metadata has between a volume and what its header names, nearest first.

    Empty when both agree, when the header merely adds volumes, and when what metadata names is gone or stands on this
    very volume: then nothing is left that could be put back, and the header is the only account there is. A half
    deleted volume cannot be put back either, but tells what it stood on.

    Args:
        below: what really stands beneath its header's volume, that one included.
    """
    if here.metadata is None or not here.own:
        return ()
    known = {here.volume, *headers(records, here.link), *below}
    found: list[ids.VolumeId] = []
    volume = here.parent
    while volume is not None and volume in records and volume not in known:
        if here.volume in headers(records, volume):
            break
        if not records[volume].half_deleted:
            found.append(volume)
        known.add(volume)
        volume = records[volume].parent
    return tuple(found)


def headers(records: Records, volume: ids.VolumeId | None) -> list[ids.VolumeId]:
    """Volumes met by following headers alone from `volume`, stopping at whatever is missing or comes twice."""
    found: dict[ids.VolumeId, None] = {}
    while volume is not None and volume in records and volume not in found:
        found[volume] = None
        volume = records[volume].link
    return list(found)
