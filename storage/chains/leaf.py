"""Which of two volumes holds what the guest wrote last: a leaf marked ILLEGAL, or the parent it was merged into. Pure.

vdsm marks the leaf ILLEGAL just before it asks qemu for the pivot, so the mark means "about to pivot" and "pivoted"
alike. Until the pivot's own flush the parent lacks what the guest has flushed; after it the leaf gets stale at once.
Headers say nothing: the leaf's names the parent in both cases. What remains:

1. equal bytes: both read the same, so the parent (it is what the merge was for) loses nothing;
2. not covered, the parent lacks clusters of the leaf: the copy was never complete, so the leaf. Except when the parent
   was written clearly later *and* differs where it does hold data, which contradicts itself;
3. covered, but different: whoever was written later, by a clear margin, and after the mark. The last of a copy may be
   written long after the guest's last write, so the parent's margin grows with what the leaf holds (`DRAIN_RATE`);
4. anything else: nobody can know. Both are named and nothing is changed.

The time of a file's last write is not the time of the guest's last write, in four ways:

* a merge from beneath the leaf writes to the parent, too: so a parent must have been written after the mark;
* a pivot flushes the target, not the leaf: qemu writes the rest of the leaf's tables when it closes it, which may be
  when the machine is shut down, long after the guest's last write to the parent. So the leaf counts as the later one
  only if the parent was not written since the mark;
* a repair points headers back: it restores the time, and has decided about the leaf for good before (`chain`);
* a guest's flush makes its data durable, but not the time of the write, so a host that loses power takes the times of
  the last writes back, to whatever they were before (seen on ext4: by any amount). What was durable at the mark has
  its right time. So where the host was started since, only what was written clearly after the mark counts.

The merge may also have gone further down than one volume. If any volume below the parent was written after it, that
one is examined too, and a contradiction is never resolved by guessing.
"""

import dataclasses

from storage import ids
from storage.chains import evidence, record, walk
from storage.volumes import volume_metadata

DRAIN_RATE = 10 * 1024 * 1024
"""Bytes a second that a merge copies at the very least; slower than any storage a guest could live on."""

_SECOND = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Who is the leaf.

    Attributes:
        leaf: the volume to go on with, None when the evidence does not say.
        candidates: the volumes it may be, the caller's leaf first; one when nothing had to be decided.
        reason: why, for people.
        decided: whether anything had to be decided at all.
    """

    leaf: ids.VolumeId | None
    candidates: tuple[ids.VolumeId, ...]
    reason: str
    decided: bool = True


def settle(records: walk.Records, leaf: ids.VolumeId, answers: walk.Answers, bounds: walk.Bounds) -> Verdict:
    """Decide about the caller's leaf, and about its parent too when that one turns out to be the leaf and is marked.

    Args:
        bounds: of the examination.

    Raises:
        walk.Blocked: a volume that must be examined cannot be used.
        walk.Asked: an answer is missing.
    """
    verdict = _settle(records, leaf, answers, bounds)
    last = verdict.leaf
    if last is None or last == leaf or not records[last].illegal:
        return verdict
    way = walk.headers(records, leaf)
    dropped = set(way[: way.index(last)])
    below = settle({v: r for v, r in records.items() if v not in dropped}, last, answers, bounds)
    if below.leaf == last:
        return dataclasses.replace(verdict, reason=f"{verdict.reason}; {last} is {below.reason}")
    return dataclasses.replace(below, candidates=(leaf, *below.candidates))


def _settle(records: walk.Records, leaf: ids.VolumeId, answers: walk.Answers, bounds: walk.Bounds) -> Verdict:
    here = walk.usable(records, leaf)
    if not here.illegal or not here.settled:
        return Verdict(leaf, (leaf,), "not marked ILLEGAL, so no pivot was asked for", decided=False)
    parent = here.link
    if parent is None:
        return Verdict(leaf, (leaf,), "marked ILLEGAL, but nothing stands beneath it that could have taken its data")
    if parent not in records:
        raise walk.Blocked(record.missing(leaf, parent))
    beneath = walk.usable(records, parent)
    if not beneath.settled:
        return Verdict(leaf, (leaf,), "marked ILLEGAL, but a template beneath it takes no merges")
    if needed := standing_on(records, leaf):
        return Verdict(leaf, (leaf,), f"marked ILLEGAL, but volume {needed[0]} stands on it")
    if already_dropped(records, here, beneath):
        return Verdict(parent, (leaf, parent), "dropped before: its parent is the leaf since then")
    below = _below(records, parent, answers, bounds)
    question = evidence.Question((leaf, *walk.skipped(records, here, below)), None, below)
    verdict = _weigh(here, beneath, _answer(question, answers), bounds)
    return _further(records, here, beneath, answers, bounds) or verdict


def standing_on(records: walk.Records, volume: ids.VolumeId) -> list[ids.VolumeId]:
    """Volumes whose header or metadata names `volume` and that lead to a leaf.

    A leaf counts whatever its mark says: somebody may still find out that it holds the guest's last writes. So does a
    volume of which nothing is known but its header. What an earlier repair, an earlier merge or an unfinished deletion
    left behind is no leaf and leads to none.
    """
    beneath = walk.headers(records, volume)
    rest = [r for r in records.values() if r.volume not in beneath]
    return sorted(r.volume for r in rest if volume in (r.link, r.parent) and _leads_to_leaf(records, r, {volume}))


def _leads_to_leaf(records: walk.Records, here: record.Record, seen: set[ids.VolumeId]) -> bool:
    if here.volume in seen or here.half_deleted:
        return False
    if here.metadata is None or here.metadata.voltype == volume_metadata.LEAF:
        return True
    above = [r for r in records.values() if here.volume in (r.link, r.parent)]
    return any(_leads_to_leaf(records, r, seen | {here.volume}) for r in above)


def already_dropped(records: walk.Records, here: record.Record, beneath: record.Record) -> bool:
    """Whether an earlier repair has settled it: only that leaves a marked volume that is no leaf on a parent that is.

    The parent may have got another volume on top since, whose making needs a settled parent. A guest may have run on
    either, so the bytes must not be asked again.
    """
    if here.metadata is None or beneath.metadata is None or here.metadata.voltype == volume_metadata.LEAF:
        return False
    if beneath.metadata.voltype == volume_metadata.LEAF:
        return True
    return bool(standing_on({v: r for v, r in records.items() if v != here.volume}, beneath.volume))


def _below(
    records: walk.Records, target: ids.VolumeId, answers: walk.Answers, bounds: walk.Bounds
) -> tuple[ids.VolumeId, ...]:
    return tuple(step.volume for step in walk.down(records, target, answers, bounds))


def _answer(question: evidence.Question, answers: walk.Answers) -> evidence.Answer:
    if question not in answers:
        raise walk.Asked(question)
    return answers[question]


def _weigh(here: record.Record, beneath: record.Record, answer: evidence.Answer, bounds: walk.Bounds) -> Verdict:
    both = (here.volume, beneath.volume)
    told = answer.told()
    if answer.same:
        return Verdict(beneath.volume, both, f"the parent reads the same ({told})")
    last, when = _written_last(here, beneath, answer.held, bounds)
    if answer.covered is False:
        if last is not beneath or answer.common:
            return Verdict(here.volume, both, f"its parent lacks data that it holds ({told})")
        return Verdict(None, both, f"the parent lacks data of the leaf, yet {when} and the rest differs ({told})")
    if answer.same is None:
        return Verdict(None, both, f"bytes had to be compared and were not all compared ({told})")
    return Verdict(last.volume if last else None, both, f"the bytes differ, and {when} ({told})")


def _written_last(
    here: record.Record, beneath: record.Record, held: int, bounds: walk.Bounds
) -> tuple[record.Record | None, str]:
    """Which of the two was clearly written last, if any, and what the times say, for people."""
    later = (beneath.mtime_ns - here.mtime_ns) / _SECOND
    feigned = max(here.mtime_ns, beneath.mtime_ns) / _SECOND < bounds.started
    if later > bounds.margin + held / DRAIN_RATE:
        last, when = beneath, f"the parent was written {later:.3f} s later than the leaf"
    elif -later > bounds.margin:
        last, when = here, f"the leaf was written {-later:.3f} s later than its parent"
    else:
        return None, f"the last writes lie {abs(later):.3f} s apart"
    if feigned and (last.mtime_ns - here.marked_ns) / _SECOND <= bounds.margin:
        return None, f"{when}, which a loss of power may feign so soon after the mark"
    if last.mtime_ns < here.marked_ns:
        return None, f"{when}, but before the leaf was marked"
    if last is here and beneath.mtime_ns >= here.marked_ns:
        return None, f"{when}, but the parent was written after the mark, too"
    return last, when


def _further(
    records: walk.Records, here: record.Record, beneath: record.Record, answers: walk.Answers, bounds: walk.Bounds
) -> Verdict | None:
    """A volume below the parent that may have been the target, when the evidence does not exclude it.

    If the guest went on there, it was written after the mark, like a parent.
    """
    way = walk.headers(records, here.volume)
    below = [records[v] for v in way[2:] if records[v].settled and not records[v].faults]
    latest = max(below, key=lambda r: r.mtime_ns, default=None)
    if latest is None or latest.mtime_ns <= max(beneath.mtime_ns, here.marked_ns):
        return None
    if (here.mtime_ns - latest.mtime_ns) / _SECOND > bounds.margin:
        return None
    upper = tuple(way[: way.index(latest.volume)])
    answer = _answer(evidence.Question(upper, None, _below(records, latest.volume, answers, bounds)), answers)
    if answer.covered is False or answer.same:
        return None
    reason = f"volume {latest.volume} was written after {beneath.volume} above it and may be the leaf ({answer.told()})"
    return Verdict(None, (here.volume, beneath.volume, latest.volume), reason)
