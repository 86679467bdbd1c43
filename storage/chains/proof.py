"""Answers to the one question about a volume, by reading the images: would the child read the same without it?

Tables first, because they are small: what the dropped volumes hold, less what the child hides anyway, is what counts,
and what of that the target does not hold itself is where a torn merge shows. Those parts are compared first, so that a
torn merge is found at once. Then the rest: only equal bytes are proof.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from storage import ids
from storage.chains import evidence, layer, walk
from storage.qemu import allocation
from storage.volumes import volume_metadata

CHUNK = 1 << 20


@dataclasses.dataclass
class Effort:
    """How far a proof may go.

    Attributes:
        deadline: on the monotonic clock, None without limit.
        stopping: set by whoever wants the proof to end early.
        progress: told the bytes compared and the bytes to compare.
    """

    deadline: float | None = None
    stopping: threading.Event = dataclasses.field(default_factory=threading.Event)
    progress: Callable[[int, int], None] = lambda done, total: None

    @classmethod
    def seconds(cls, limit: float) -> "Effort":
        return cls(deadline=time.monotonic() + limit)

    def exhausted(self) -> bool:
        return self.stopping.is_set() or (self.deadline is not None and time.monotonic() > self.deadline)


class _OutOfTime(Exception):
    """The effort allowed is spent."""


@dataclasses.dataclass
class _Count:
    """Bytes compared so far, and of how many."""

    total: int
    done: int = 0


def answer(
    question: evidence.Question,
    records: walk.Records,
    paths: Mapping[ids.VolumeId, Path],
    effort: Effort,
    l2_limit: int,
) -> evidence.Answer:
    """Put a question to the images. Never raises for what is in them: what cannot be read is "not known".

    Args:
        paths: data file of every volume.
        effort: how long it may take.
        l2_limit: most bytes of allocation tables to read for one volume.
    """
    new = question.below
    under = walk.headers(records, records[question.upper[-1]].link)
    old = (*question.upper, *(new[new.index(under[0]) :] if under and under[0] in new else under))
    child = [question.child] if question.child else []
    try:
        with contextlib.ExitStack() as stack:
            layers = {
                volume: stack.enter_context(_open(records, paths, volume, l2_limit))
                for volume in dict.fromkeys((*old, *new, *child))
            }
            old_layers, new_layers = [layers[v] for v in old], [layers[v] for v in new]
            return _compare(old_layers, new_layers, layers[question.child] if question.child else None, effort)
    except layer.Unreadable as error:
        return evidence.Answer(covered=None, same=None, common=None, note=str(error))


def _open(
    records: walk.Records, paths: Mapping[ids.VolumeId, Path], volume: ids.VolumeId, l2_limit: int
) -> layer.Layer:
    metadata = records[volume].metadata
    if metadata is None or records[volume].faults:
        reason = records[volume].faults[0].message if records[volume].faults else "metadata cannot be read"
        raise layer.Unreadable(f"volume {volume}: {reason}")
    return layer.Layer(paths[volume], metadata.format == volume_metadata.COW, l2_limit)


def _compare(
    old: Sequence[layer.Layer], new: Sequence[layer.Layer], child: layer.Layer | None, effort: Effort
) -> evidence.Answer:
    disk = (child or old[0]).size
    counts = _differing(old, new, disk).minus(child.held if child else allocation.Allocation(), disk)
    lacking = counts.minus(new[0].held if new else allocation.Allocation())
    common = counts.minus(lacking)
    if child is None and (not new or new[0].size < disk):
        # A merge makes its target as large as the leaf before it copies anything.
        return evidence.Answer(False, False, None, counts.bytes, note="the target's disk is smaller")
    count = _Count(counts.bytes)
    note, lacks_same, common_same = "", None, None
    try:
        lacks_same, note = _equal(lacking, old, new, effort, count)
        common_same, also = _equal(common, old, new, effort, count)
        note = note or also
    except _OutOfTime:
        note = note or "the time allowed ran out"
    except layer.Unreadable as error:
        note = note or str(error)
    covered = None if new and new[0].forgets else _covered(lacking, lacks_same, old)
    return evidence.Answer(covered, _both(lacks_same, common_same), common_same, count.total, count.done, note)


def _covered(lacking: allocation.Allocation, same: bool | None, old: Sequence[layer.Layer]) -> bool | None:
    """Whether the target was given everything, judged by what it lacks and whether that reads the same.

    A merge writes no zeros where the target reads zeros anyway, so lacking those proves nothing by itself.
    """
    if not lacking or same is not None:
        return not lacking or same
    zeros = allocation.Allocation(pair for each in old for pair in each.held.zeros.ranges)
    return False if lacking.minus(zeros) else None


def _differing(old: Sequence[layer.Layer], new: Sequence[layer.Layer], disk: int) -> allocation.Allocation:
    """All that is held above the volumes that both stacks end in; elsewhere they cannot differ.

    Except behind the end of a shorter volume, which hides what the volumes beneath hold there.
    """
    shared = 0
    while shared < min(len(old), len(new)) and old[-1 - shared] is new[-1 - shared]:
        shared += 1
    apart = (*old[: len(old) - shared], *new[: len(new) - shared])
    ranges = [pair for each in apart for pair in each.held.ranges]
    shortest = min((each.size for each in apart), default=disk)
    if shortest < disk:
        below = old[len(old) - shared :]
        ranges += [(max(start, shortest), end) for each in below for start, end in each.held.ranges if end > shortest]
    return allocation.Allocation(ranges)


def _both(first: bool | None, second: bool | None) -> bool | None:
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


def _equal(
    ranges: allocation.Allocation,
    old: Sequence[layer.Layer],
    new: Sequence[layer.Layer],
    effort: Effort,
    count: _Count,
) -> tuple[bool, str]:
    """Whether both stacks show the same bytes in all ranges, and where the first difference is."""
    for first, last in ranges.ranges:
        for start in range(first, last, CHUNK):
            if effort.exhausted():
                raise _OutOfTime
            end = min(last, start + CHUNK)
            ours, theirs = layer.read(old, start, end), layer.read(new, start, end)
            count.done += end - start
            effort.progress(count.done, count.total)
            if ours != theirs:
                where = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
                return False, f"first difference at guest byte {start + where}"
    return True, ""
