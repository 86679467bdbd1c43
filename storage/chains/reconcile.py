"""Find out what an image's chain really is, and make its metadata say so: look, decide, prove, confirm, repair, answer.

The deciding is pure (`chain.plan`); this module feeds it with what it asks for. A question is put to the images only
while the plan depends on it, so a healthy chain costs two small reads a volume and no data at all.
"""

import dataclasses
import time

from storage import errors, ids, settings
from storage.chains import chain, evidence, inspection, proof, record, repair, verdicts, walk
from storage.qemu import qemuimg
from storage.volumes import image as image_files


@dataclasses.dataclass(frozen=True)
class Finding:
    """All that is known after looking and deciding.

    Attributes:
        leaf: the volume the chain was looked at from.
        sight: what is on storage.
        chain: what it means.
        answers: the evidence asked for on the way.
        in_use: volumes that a live process has open; then nothing was proved, for the bytes move.
        related: every volume that header or metadata lead to from the leaf.
    """

    leaf: ids.VolumeId
    sight: inspection.Sight
    chain: chain.Chain
    answers: walk.Answers
    in_use: tuple[ids.VolumeId, ...]
    related: tuple[ids.VolumeId, ...]


@dataclasses.dataclass(frozen=True)
class Rules:
    """What bounds an examination: the settings, and the operator's word if there is one."""

    settings: settings.Settings
    chosen: ids.VolumeId | None = None


def examine(
    where: image_files.Domain, image: ids.ImageId, leaf: ids.VolumeId | None, rules: Rules, effort: proof.Effort
) -> Finding:
    """Look, decide and prove; reads only.

    Args:
        leaf: the caller's leaf; None to find it.

    Raises:
        ImageDoesNotExistInSD, ImagePathError: there is nothing to look at.
        ImageValidationError: the leaf is no volume of the image, or cannot be found.
    """
    sight = inspection.look(where.image_directory(image), image, where.id)
    top = _leaf(sight, leaf)
    related = tuple(_related(sight.records, top))
    try:
        in_use = tuple(inspection.in_use(sight, related))
    except OSError as error:
        raise errors.VolumeAccessError(volume=top, reason=error.strerror) from error
    kept = verdicts.load(verdicts.path_of(where.path, image), sight)
    answers: dict[evidence.Question, evidence.Answer] = {}
    while (plan := _plan(sight, top, answers, rules)).question is not None:
        question = plan.question
        if in_use:
            plan = chain.Chain(fault=_moving(top, in_use))
            break
        answers[question] = kept.get(question) or proof.answer(
            question, sight.records, sight.paths, effort, rules.settings.l2_limit
        )
    return Finding(top, sight, plan, answers, in_use, related)


def reconcile(
    where: image_files.Domain, image: ids.ImageId, leaf: ids.VolumeId, rules: Rules, tool: qemuimg.QemuImg
) -> Finding:
    """Examine and repair. The caller holds the image's lock and the cluster's.

    Returns:
        what was found and has been written; a second call finds the same chain and no changes.

    Raises:
        VolumeIsBusy: a live process has the chain open. Nothing is changed, unless it came while headers were changed.
        ImageIsNotLegalChain and the errors of the faults in `record`: there is no safe outcome. Nothing is changed.
    """
    found = examine(where, image, leaf, rules, proof.Effort.seconds(rules.settings.prove_seconds))
    if found.in_use:
        raise errors.VolumeIsBusy(volume=found.in_use[0], reason="a live process has it open; stop the VM first")
    if found.chain.fault is not None:
        raise found.chain.fault.raised(image)
    if found.chain.changes:
        repair.confirm(found.sight, _concerned(found), tool)
        repair.flush(found.sight, _relied_on(found))
        repair.unchanged(found.sight, where, found.related)
        repair.carry_out(found.sight, where, found.leaf, found.chain.changes, tool)
    return found


def prove(
    where: image_files.Domain, image: ids.ImageId, leaf: ids.VolumeId, rules: Rules, effort: proof.Effort
) -> Finding:
    """Examine without a time limit and keep the answers for `reconcile`. Changes no volume."""
    found = examine(where, image, leaf, rules, effort)
    if found.in_use:
        raise errors.VolumeIsBusy(volume=found.in_use[0], reason="a live process has it open; stop the VM first")
    repair.flush(found.sight, _relied_on(found))
    verdicts.save(verdicts.path_of(where.path, image), found.sight, found.answers)
    return found


def _plan(sight: inspection.Sight, top: ids.VolumeId, answers: walk.Answers, rules: Rules) -> chain.Chain:
    bounds = walk.Bounds(rules.settings.time_margin, rules.settings.chain_limit, _started())
    return chain.plan(sight.records, top, answers, bounds, rules.chosen)


def _started() -> float:
    """When this host was started, seconds since the epoch."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _leaf(sight: inspection.Sight, leaf: ids.VolumeId | None) -> ids.VolumeId:
    if leaf is not None:
        if leaf not in sight.records:
            reason = f"volume {leaf} is not there"
            raise errors.ImageValidationError(object=f"image {sight.image}", reason=reason)
        return leaf
    named = {v for r in sight.records.values() for v in (r.link, r.parent)}
    heads = [r for r in sight.records.values() if r.volume not in named and r.own]
    leaves = [r for r in heads if r.metadata is not None and r.metadata.voltype != "INTERNAL"] or heads
    if len(leaves) != 1:
        names = ", ".join(r.volume for r in leaves) or "none"
        raise errors.ImageValidationError(object=f"image {sight.image}", reason=f"say which is the leaf: {names}")
    return leaves[0].volume


def _related(records: walk.Records, top: ids.VolumeId) -> list[ids.VolumeId]:
    """Every volume that header or metadata lead to from the leaf."""
    found: dict[ids.VolumeId, None] = {}
    wanted: list[ids.VolumeId | None] = [top]
    while wanted:
        volume = wanted.pop()
        if volume is not None and volume in records and volume not in found:
            found[volume] = None
            wanted += [records[volume].link, records[volume].parent]
    return list(found)


def _concerned(found: Finding) -> list[ids.VolumeId]:
    """Volumes whose header the outcome rests on."""
    changed = [change.volume for change in found.chain.changes]
    moved = [volume for volume, _ in (*found.chain.dropped, *found.chain.kept)]
    asked = [volume for question in found.answers for volume in (question.child, question.target) if volume]
    return [volume for volume in dict.fromkeys((*changed, *moved, *asked)) if volume in found.sight.records]


def _relied_on(found: Finding) -> list[ids.VolumeId]:
    """Volumes that have to hold what they were found to hold, once others are dropped."""
    return [v for question in found.answers for v in (*question.below, question.child) if v is not None]


def _moving(top: ids.VolumeId, in_use: tuple[ids.VolumeId, ...]) -> record.Fault:
    text = f"volume {in_use[0]} is open in a live process, so nothing can be proved while its bytes move"
    return record.Fault("in-use", top, text, errors.VolumeIsBusy)
