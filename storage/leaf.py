"""Which of two volumes holds what the guest wrote last: a leaf marked ILLEGAL, or the parent it was merged into. Pure.

vdsm marks the leaf ILLEGAL just before it asks qemu for the pivot, so the mark means "about to pivot" and "pivoted"
alike. Until the pivot's own flush the parent lacks what the guest has flushed; after it the leaf gets stale at once.
Headers say nothing: the leaf's names the parent in both cases. What remains:

1. equal bytes: both read the same, so the parent (it is what the merge was for) loses nothing;
2. not covered, the parent lacks clusters of the leaf: the copy was never complete, so the leaf. Except when the parent
   was written clearly later *and* differs where it does hold data: after a pivot a guest's discards can take clusters
   away from a parent that has no backing file, so that contradicts itself;
3. covered, but different: whoever was written later, by a clear margin. The last of a copy may be written long after
   the guest's last write, so the margin for the parent grows with what the leaf holds (`DRAIN_RATE`);
4. anything else: nobody can know. Both are named and nothing is changed.

The merge may also have gone further down than one volume. If any volume below the parent was written after it, that
one is examined too, and a contradiction is never resolved by guessing.
"""

import dataclasses

from storage import evidence, ids, record, volume_metadata, walk

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
    if already_dropped(here, beneath):
        return Verdict(parent, (leaf, parent), "dropped before: its parent is the leaf since then")
    upper = (leaf, *walk.skipped(records, here))
    verdict = _weigh(here, beneath, _answer(records, answers, upper, parent, bounds), bounds.margin)
    return _further(records, here, beneath, answers, bounds) or verdict


def standing_on(records: walk.Records, volume: ids.VolumeId) -> list[ids.VolumeId]:
    """Volumes whose header (or metadata, where no header names anything) names `volume` and that lead to a leaf.

    A leaf counts whatever its mark says: somebody may still find out that it holds the guest's last writes. What an
    earlier repair or an earlier merge left behind is no leaf and leads to none.
    """
    beneath = walk.headers(records, volume)
    rest = [r for r in records.values() if r.volume not in beneath]
    children = [r for r in rest if volume in (r.link, None if r.link else r.parent)]
    return sorted(r.volume for r in children if _leads_to_leaf(records, r, {volume}))


def _leads_to_leaf(records: walk.Records, here: record.Record, seen: set[ids.VolumeId]) -> bool:
    if here.volume in seen or here.metadata is None or not here.own:
        return False
    if here.metadata.voltype == volume_metadata.LEAF:
        return True
    above = [r for r in records.values() if r.link == here.volume]
    return any(_leads_to_leaf(records, r, seen | {here.volume}) for r in above)


def already_dropped(here: record.Record, beneath: record.Record) -> bool:
    """Whether an earlier repair has settled it: only that makes the parent LEAF and LEGAL and the dropped one not LEAF.

    A guest may have run on the parent since, so the bytes must not be asked again.
    """
    return (
        here.metadata is not None
        and beneath.metadata is not None
        and here.metadata.voltype != volume_metadata.LEAF
        and beneath.metadata.voltype == volume_metadata.LEAF
        and not beneath.illegal
    )


def _answer(
    records: walk.Records,
    answers: walk.Answers,
    upper: tuple[ids.VolumeId, ...],
    target: ids.VolumeId,
    bounds: walk.Bounds,
) -> evidence.Answer:
    steps = walk.down(records, target, answers, bounds)
    question = evidence.Question(upper, None, tuple(step.volume for step in steps))
    if question not in answers:
        raise walk.Asked(question)
    return answers[question]


def _weigh(here: record.Record, beneath: record.Record, answer: evidence.Answer, margin: float) -> Verdict:
    both = (here.volume, beneath.volume)
    told = answer.told()
    later = (beneath.mtime_ns - here.mtime_ns) / _SECOND
    clearly_later = later > margin + answer.held / DRAIN_RATE
    if answer.same:
        return Verdict(beneath.volume, both, f"the parent reads the same ({told})")
    if answer.covered is False:
        if not clearly_later or answer.common:
            return Verdict(here.volume, both, f"its parent lacks data that it holds ({told})")
        reason = f"the parent lacks data of the leaf, yet differs and was written {later:.3f} s later ({told})"
        return Verdict(None, both, reason)
    if answer.same is None:
        return Verdict(None, both, f"bytes had to be compared and were not all compared ({told})")
    if clearly_later:
        return Verdict(beneath.volume, both, f"its parent was written {later:.3f} s later ({told})")
    if -later > margin:
        return Verdict(here.volume, both, f"it was written {-later:.3f} s later than its parent ({told})")
    return Verdict(None, both, f"the bytes differ and the last writes lie {abs(later):.3f} s apart ({told})")


def _further(
    records: walk.Records, here: record.Record, beneath: record.Record, answers: walk.Answers, bounds: walk.Bounds
) -> Verdict | None:
    """A volume below the parent that may have been the target, when the evidence does not exclude it."""
    way = walk.headers(records, here.volume)
    below = [records[v] for v in way[2:] if records[v].settled and not records[v].faults]
    latest = max(below, key=lambda r: r.mtime_ns, default=None)
    if latest is None or latest.mtime_ns <= beneath.mtime_ns:
        return None
    if (here.mtime_ns - latest.mtime_ns) / _SECOND > bounds.margin:
        return None
    answer = _answer(records, answers, tuple(way[: way.index(latest.volume)]), latest.volume, bounds)
    if answer.covered is False or answer.same:
        return None
    reason = f"volume {latest.volume} was written after {beneath.volume} above it and may be the leaf ({answer.told()})"
    return Verdict(None, (here.volume, latest.volume), reason)
