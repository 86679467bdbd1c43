"""What an image's chain is and what has to be written so that everybody sees the same. Pure: data in, data out.

`plan` looks at the records of one image and answers with a `Chain`, or with the questions that somebody has to put to
the images first (`evidence`), or with the faults that stand in the way. It computes the parent that **every** surviving
volume should have and lists differences only, so a second plan after the changes lists none.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from storage import errors, ids
from storage.chains import evidence, leaf, record, walk
from storage.volumes import volume_metadata

PARENT, LEGALITY, VOLTYPE, BACKING = "parent", "legality", "voltype", "backing"


@dataclasses.dataclass(frozen=True)
class Change:
    """One field of one volume to be written.

    Attributes:
        field: ``parent``, ``legality`` and ``voltype`` are metadata, ``backing`` is the image's header.
        before, after: values, the blank id for "no parent".
        why: the reason, for people.
    """

    volume: ids.VolumeId
    field: str
    before: str
    after: str
    why: str


@dataclasses.dataclass(frozen=True)
class Chain:
    """The outcome.

    Attributes:
        volumes: root first, template included; empty when there is no outcome.
        changes: what to write, in the order in which to write it.
        dropped: volumes that the plan takes out of the chain, with the reason.
        kept: volumes whose merge was undone, with the reason.
        reason: why the leaf is the leaf, when that had to be decided.
        fault: what stands in the way of an outcome.
        candidates: the volumes that may be the leaf, when nobody can know.
        question: what has to be answered before the plan can go on.
    """

    volumes: tuple[ids.VolumeId, ...] = ()
    changes: tuple[Change, ...] = ()
    dropped: tuple[tuple[ids.VolumeId, str], ...] = ()
    kept: tuple[tuple[ids.VolumeId, str], ...] = ()
    reason: str = ""
    fault: record.Fault | None = None
    candidates: tuple[ids.VolumeId, ...] = ()
    question: evidence.Question | None = None


def plan(
    records: walk.Records,
    top: ids.VolumeId,
    answers: walk.Answers,
    bounds: walk.Bounds,
    chosen: ids.VolumeId | None = None,
) -> Chain:
    """The chain beneath the volume that the caller calls the leaf.

    Args:
        records: every volume of the image's directory.
        top: the caller's leaf; need not be the real one. A volume inside a chain gives the part beneath it.
        answers: evidence collected so far.
        bounds: of the examination.
        chosen: the operator's word on which of two candidates to keep; counts only where the evidence does not say.
    """
    try:
        verdict = leaf.settle(records, top, answers, bounds)
        if verdict.leaf is None or chosen is not None:
            verdict = _chosen(verdict, chosen, top)
        if verdict.leaf is None:
            return Chain(candidates=verdict.candidates, fault=_undecided(top, verdict))
        way = walk.headers(records, top)
        left = way[: way.index(verdict.leaf)]
        steps = walk.down(records, verdict.leaf, answers, bounds)
    except walk.Asked as asked:
        return Chain(question=asked.question)
    except walk.Blocked as blocked:
        return Chain(fault=blocked.fault)
    return _outcome(records, left, verdict, steps)


def _chosen(verdict: leaf.Verdict, chosen: ids.VolumeId | None, top: ids.VolumeId) -> leaf.Verdict:
    if chosen is None or chosen == verdict.leaf:
        return verdict
    if verdict.leaf is None and chosen in verdict.candidates:
        return dataclasses.replace(verdict, leaf=chosen, reason=f"chosen by the caller, though {verdict.reason}")
    names = " or ".join(verdict.candidates if verdict.leaf is None else (verdict.leaf,))
    reason = f"the caller chose {chosen}, but the evidence allows only {names}: {verdict.reason}"
    return dataclasses.replace(verdict, leaf=None, reason=reason)


def _undecided(top: ids.VolumeId, verdict: leaf.Verdict) -> record.Fault:
    names = " or ".join(verdict.candidates)
    text = (
        f"the leaf is {names}: {verdict.reason}. Look at both, then name one in the option 'leaf'; "
        "proveVolumeChain compares all bytes where the time did not suffice"
    )
    return record.Fault("leaf-undecided", top, text, errors.ImageIsNotLegalChain)


def _outcome(
    records: walk.Records, left: Sequence[ids.VolumeId], verdict: leaf.Verdict, steps: Sequence[walk.Step]
) -> Chain:
    below = (*left, *(step.volume for step in steps))
    between = [volume for upper in left for volume in walk.skipped(records, records[upper], below)]
    dropped = [(volume, verdict.reason) for volume in (*left, *between)]
    kept = []
    for step in steps:
        told = step.answer.told() if step.answer else ""
        for volume in step.skipped:
            if step.restored:
                kept.append((volume, f"{step.volume} would not read the same without it ({told})"))
            else:
                dropped.append((volume, f"{step.volume} reads the same without it ({told})"))
    rest = _rest(records, {volume for volume, _ in dropped}, steps)
    needed = {volume for volume, _ in dropped if volume in rest or leaf.standing_on(rest, volume)}
    return Chain(
        volumes=tuple(step.volume for step in reversed(steps)),
        changes=_changes(records, rest, [volume for volume in left if volume not in needed], verdict, steps),
        dropped=tuple((volume, why) for volume, why in dropped if volume not in needed),
        kept=tuple(kept),
        reason=verdict.reason if verdict.decided else "",
    )


def _rest(records: walk.Records, gone: Collection[ids.VolumeId], steps: Sequence[walk.Step]) -> walk.Records:
    """The volumes that are not taken out of this chain, those of the chain standing where they will stand."""
    rest = {volume: here for volume, here in records.items() if volume not in gone}
    for step in steps:
        rest[step.volume] = here = records[step.volume]
        if here.settled and here.metadata is not None and not here.link == here.parent == step.parent:
            parent = step.parent or ids.VolumeId(ids.BLANK)
            metadata = dataclasses.replace(here.metadata, parent=parent)
            rest[step.volume] = dataclasses.replace(here, link=step.parent, metadata=metadata)
    return rest


def _changes(
    records: walk.Records,
    rest: walk.Records,
    left: Sequence[ids.VolumeId],
    verdict: leaf.Verdict,
    steps: Sequence[walk.Step],
) -> tuple[Change, ...]:
    """All changes in the order that a crash may cut short anywhere: see `repair`."""
    headers = list(_headers(records, steps))
    metadata = list(_metadata(records, rest, verdict, steps))
    first: list[Change] = []
    if headers and verdict.decided:
        first = [c for c in metadata if (c.volume, c.field, c.after) == (verdict.leaf, LEGALITY, volume_metadata.LEGAL)]
    return (*first, *headers, *(c for c in metadata if c not in first), *_marks(records, left, verdict))


def _headers(records: walk.Records, steps: Sequence[walk.Step]) -> Iterable[Change]:
    """Each of these makes one child read again what it read before its merge began."""
    for step in steps:
        if step.restored and step.parent is not None:
            before = records[step.volume].link or ids.BLANK
            why = f"merge of {step.skipped[0]} is undone, it was not complete"
            yield Change(step.volume, BACKING, before, step.parent, why)


def _metadata(
    records: walk.Records, rest: walk.Records, verdict: leaf.Verdict, steps: Sequence[walk.Step]
) -> Iterable[Change]:
    """Metadata changes of the chain, root to leaf."""
    for step in reversed(steps):
        here = records[step.volume]
        if not here.settled:
            continue
        leads = step.volume != steps[0].volume or bool(leaf.standing_on(rest, step.volume))
        parent = step.parent or ids.VolumeId(ids.BLANK)
        yield from _wanted(here, parent=parent, why="it stands on that volume")
        if here.illegal:
            why = verdict.reason if step.volume == verdict.leaf and verdict.decided else "the chain needs it"
            yield from _wanted(here, legality=volume_metadata.LEGAL, why=why)
        voltype = volume_metadata.INTERNAL if leads else volume_metadata.LEAF
        yield from _wanted(here, voltype=voltype, why="a volume stands on it" if leads else "no volume stands on it")


def _marks(records: walk.Records, left: Sequence[ids.VolumeId], verdict: leaf.Verdict) -> Iterable[Change]:
    """What says for good that volumes were dropped from the top."""
    for volume in left:
        yield from _wanted(records[volume], legality=volume_metadata.ILLEGAL, why=verdict.reason)
        yield from _wanted(records[volume], voltype=volume_metadata.INTERNAL, why="dropped from the chain")


def _wanted(here: record.Record, *, why: str, **values: str) -> Iterable[Change]:
    for field, after in values.items():
        before = getattr(here.metadata, field)
        if before != after:
            yield Change(here.volume, field, before, after, why)


def apply(metadata: volume_metadata.VolumeMetadata, changes: Iterable[Change]) -> volume_metadata.VolumeMetadata:
    """The metadata of one volume after its changes; header changes are not metadata and leave it alone."""
    values = {change.field: change.after for change in changes if change.field != BACKING}
    if PARENT in values:
        return dataclasses.replace(metadata, **{**values, PARENT: ids.VolumeId(values[PARENT])})  # type: ignore[arg-type]
    return dataclasses.replace(metadata, **values)  # type: ignore[arg-type]


def sync(records: walk.Records, top: ids.VolumeId, actual: Sequence[ids.VolumeId]) -> tuple[Change, ...]:
    """Changes that make metadata say what somebody knows who watched the merge: the protocol's syncVolumeChain.

    Args:
        top: the leaf before the merge.
        actual: the chain as it is, root first.

    Every volume of `actual` gets its neighbour as parent, however many were dropped between them and wherever. A leaf
    that is no longer in the chain is marked ILLEGAL; one that is in it becomes LEGAL again, which undoes the mark of a
    pivot that failed. Other volumes' legality is nobody's business here.
    """
    changes: list[Change] = []
    if top not in actual and records[top].settled:
        changes += _wanted(records[top], legality=volume_metadata.ILLEGAL, why="no longer in the chain")
    parent = ids.VolumeId(ids.BLANK)
    for volume in actual:
        if records[volume].settled:
            changes += _wanted(records[volume], parent=parent, why="it stands on that volume")
            if volume == top:
                changes += _wanted(records[volume], legality=volume_metadata.LEGAL, why="it is in the chain")
        parent = volume
    return tuple(changes)
