"""Copying an image to another domain, volume by volume, with its chain kept; moving it; and its empty structure.

Everything is built aside (`staging`), so the target is wholly there or not at all. A move then retires the original,
which is one rename and the point of no return:

====  ==========================================  =====================================================================
step  change                                      a rollback after it
====  ==========================================  =====================================================================
1     a stand-in for a template that the target   removes it
      lacks, on backup domains only
2     the image is built and put in its place     removes it, the original is as it was
3     move: the original gets a tombstone's name  keeps the image: it is the only one now
4     recoveries are cleared, but for step 5      goes on with step 5
5     marker, tombstone and what was overwritten  goes on with it
====  ==========================================  =====================================================================

So at any moment, and after any crash and its rollback, an image that is moved is in one domain at least, and in exactly
one once all is settled.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Container, Iterator, Mapping, Sequence

from storage import errors, files, ids
from storage.jobs import tasks
from storage.qemu import qemuimg
from storage.volumes import copying, deletion, image, source, staging, steps, template, volume, volume_metadata

log = logging.getLogger(__name__)

BACKUP = "Backup"
_FAKE_DESCRIPTION = "Fake volume"


@dataclasses.dataclass(frozen=True)
class Route:
    """From where to where images go.

    Attributes:
        origin, target: two domains.
        limit: most volumes of a chain.
        force: also over images that are there.
    """

    origin: image.Domain
    target: image.Domain
    limit: int
    force: bool = False


def copy_images(
    route: Route, image_ids: Sequence[ids.ImageId], task: tasks.Task, tool: qemuimg.QemuImg, *, remove: bool
) -> None:
    """Copy images to another domain; the caller holds the locks of all on both sides, and of their templates there.

    Args:
        remove: delete the originals afterwards, once all copies are complete.

    Raises:
        ImageDoesNotExistInSD: no such image, or the target lacks its template.
        VolumeAlreadyExists, OverwriteImageError: the target has such an image, and `force` was not given.
        MoveTemplateImageError: an original that would go is a template in use.
        VolumeIsBusy: a live process writes to an image, or has one open that would go.
        ImageIsNotLegalChain, ...: see `source.whole`.
        NoSpaceLeftOnDomain: they do not fit; checked before the first byte.
        CopyImageError: qemu-img did not do it.
        TaskAborted: it was stopped.
    """
    with _explained(route.target, task, image_ids[0]):
        plans = [_plan(route, image_id, remove=remove) for image_id in image_ids]
        copying.check_space(route.target, sum(copying.needed(w, tool) for plan in plans for w in plan.wanted))
        weights = [w.origin.allocated for plan in plans for w in plan.wanted if w.origin]
        meter = copying.Meter(task, "copying volume", weights)
        done: list[staging.Staging] = []
        for plan in sorted(plans, key=lambda plan: not plan.is_template):
            # Planned anew, for an image may have brought what the next one stands on.
            done += _carry(route, _plan(route, plan.image, remove=remove), task, tool, meter, remove=remove)
        gone = image_ids if remove else ()
        for image_id in gone:
            deletion.retire(route.origin, image_id)
        purges = [steps.finish_purge(route.origin.id, image_id) for image_id in gone]
        task.clear_recoveries(*(staged.rest for staged in done), *purges)
        for staged in reversed(done):
            staged.close()
    for image_id in gone:
        deletion.purge(route.origin, image_id)
    task.clear_recoveries()


def clone_structure(route: Route, image_id: ids.ImageId, task: tasks.Task, tool: qemuimg.QemuImg) -> None:
    """Make an image's volumes in another domain, empty: a machine is about to mirror into the leaf, and
    `syncing.sync_data` brings the rest.

    Only the leaf gets its blocks set aside; the others get theirs with their data. Headers are all that is read, so
    a machine may be at work on the image.

    Raises:
        StorageError: see `copy_images`.
    """
    with _explained(route.target, task, image_id):
        plan = _plan(route, image_id, remove=False, structure_only=True)
        copying.check_space(route.target, sum(copying.needed(w, tool) for w in plan.wanted))
        meter = copying.Meter(task, "making volume", [1 for _ in plan.wanted], in_bytes=False)
        done = _carry(route, plan, task, tool, meter, remove=False)
        task.clear_recoveries(*(staged.rest for staged in done))
        for staged in reversed(done):
            staged.close()
        task.clear_recoveries()


# ---------------------------------------------------------------- looking


@dataclasses.dataclass(frozen=True)
class _Plan:
    """An image to be built.

    Attributes:
        templates: volumes beneath it that belong to other images, as the origin has them.
        wanted: its own, parents first.
        replaced: stand-ins in its place that others are linked to.
    """

    image: ids.ImageId
    templates: tuple[source.Layer, ...]
    wanted: tuple[copying.Wanted, ...]
    replaced: tuple[ids.VolumeId, ...]

    @property
    def is_template(self) -> bool:
        return any(wanted.metadata.voltype == volume_metadata.SHARED for wanted in self.wanted)


def _plan(route: Route, image_id: ids.ImageId, *, remove: bool, structure_only: bool = False) -> _Plan:
    held = image.contents(route.origin, image_id)
    layers = source.whole(route.origin, held, route.limit)
    own = [layer for layer in layers if layer.own]
    if remove:
        source.refuse_users(own)
        refuse_template_in_use(route.origin, held)
    elif not structure_only:
        source.refuse_writers(own)
    replaced = _stand_ins(route.target, image_id, own)
    if not replaced:
        copying.check_free(route.target, image_id, [layer.volume for layer in own], force=route.force)
    formats = {layer.volume: layer.data_format for layer in own}
    templates = tuple(layer for layer in layers if not layer.own)
    formats |= {layer.volume: _template_format(route.target, layer) for layer in templates}
    parents = {layer.parent for layer in own}
    wanted = [wanted_layer(route.target, layer, formats, parents) for layer in own]
    if structure_only:
        wanted = [
            dataclasses.replace(each, origin=None, set_aside=each.set_aside and each.volume not in parents)
            for each in wanted
        ]
    return _Plan(image_id, templates, tuple(wanted), replaced)


def refuse_template_in_use(domain: image.Domain, held: image.Contents) -> None:
    """Refuse to take a template away from images that stand on it.

    Raises:
        MoveTemplateImageError: there are such images.
    """
    shared = [v for v in held.own() if v in held.records and held.records[v].voltype == volume_metadata.SHARED]
    if users := template.users(domain, held.image, shared):
        raise errors.MoveTemplateImageError(image=held.image, users=", ".join(users))


def template_images(domain: image.Domain, image_id: ids.ImageId) -> list[ids.ImageId]:
    """Images whose templates an image has links of, by its records; none where nothing can be read."""
    with contextlib.suppress(errors.StorageError):
        held = image.contents(domain, image_id)
        return sorted({found.image for found in held.records.values() if found.image != image_id})
    return []


def check_templates(route: Route, image_id: ids.ImageId) -> None:
    """Whether the target has the templates that an image stands on; a backup domain need not.

    Raises:
        ImageDoesNotExistInSD: it lacks one.
    """
    if route.target.domain_class == BACKUP:
        return
    for owner in template_images(route.origin, image_id):
        image.directory(route.target, owner)


def wanted_layer(
    target: image.Domain,
    layer: source.Layer,
    formats: Mapping[ids.VolumeId, str],
    parents: Container[ids.VolumeId | None],
) -> copying.Wanted:
    """The same volume in another domain.

    Args:
        formats: what the data of each volume of the image is there, for qemu-img.
        parents: volumes that others of the image stand on.
    """
    parent = layer.parent
    voltype = volume_metadata.INTERNAL if layer.volume in parents else volume_metadata.LEAF
    metadata = dataclasses.replace(
        layer.metadata,
        domain=target.id,
        parent=parent or ids.VolumeId(ids.BLANK),
        capacity=layer.capacity,
        type=volume_metadata.SPARSE if parent else layer.metadata.type,
        voltype=volume_metadata.SHARED if layer.is_shared else voltype,
        sequence=layer.metadata.sequence if target.version >= 5 else 0,
    )
    return copying.Wanted(
        volume=layer.volume,
        metadata=metadata,
        data_format=layer.data_format,
        origin=layer,
        parent_format=formats[parent] if parent else None,
        set_aside=metadata.type == volume_metadata.PREALLOCATED and parent is None,
    )


def _template_format(target: image.Domain, layer: source.Layer) -> str:
    """What a template's data is in the target; a stand-in is made as COW."""
    found = _template_there(target, layer)
    if found is None:
        return "qcow2"
    if found.capacity != layer.metadata.capacity:
        reason = (
            f"template {layer.volume} has {found.capacity} bytes in domain {target.id}, not {layer.metadata.capacity}"
        )
        raise errors.ImageIsNotLegalChain(image=layer.metadata.image, reason=reason)
    return volume.QEMU_FORMATS[found.format]


def _template_there(target: image.Domain, layer: source.Layer) -> volume_metadata.VolumeMetadata | None:
    """The record of a template in the target; None: it may be made as a stand-in.

    Raises:
        ImageDoesNotExistInSD: it is not there, and the target is no backup domain.
        VolumeNonShareable: it is there and is no template.
    """
    owner = layer.metadata.image
    try:
        image.directory(target, owner)
    except errors.ImageDoesNotExistInSD:
        if target.domain_class == BACKUP:
            return None
        raise
    try:
        found = image.read_metadata(target, owner, layer.volume)
    except errors.VolumeDoesNotExist:
        raise errors.ImageDoesNotExistInSD(image=owner, domain=target.id) from None
    if found.voltype != volume_metadata.SHARED or found.legality == volume_metadata.ILLEGAL:
        reason = f"in domain {target.id} it is {found.legality} and {found.voltype}"
        raise errors.VolumeNonShareable(volume=layer.volume, reason=reason)
    return found


def _stand_ins(target: image.Domain, image_id: ids.ImageId, own: Sequence[source.Layer]) -> tuple[ids.VolumeId, ...]:
    """Stand-ins in the target for just the templates that are brought now."""
    try:
        held = image.contents(target, image_id)
    except errors.ImageDoesNotExistInSD:
        return ()
    fakes = [v for v in held.own() if v in held.records and held.records[v].legality == volume_metadata.FAKE]
    brought = [layer.volume for layer in own if layer.is_shared]
    return tuple(fakes) if fakes and held.own() == fakes == sorted(brought) else ()


# ---------------------------------------------------------------- making


def _carry(
    route: Route, plan: _Plan, task: tasks.Task, tool: qemuimg.QemuImg, meter: copying.Meter, *, remove: bool
) -> list[staging.Staging]:
    """Build one image and put it in its place, after stand-ins for the templates that it needs."""
    target = route.target
    done = [_stand_in(target, layer, task, tool) for layer in plan.templates if not _template_there(target, layer)]
    staged = staging.Staging(target, plan.image, task)
    staged.open(route.origin.id if remove else None)
    for layer in plan.templates:
        template.share(staged, layer.metadata.image, plan.image, layer.volume)
    for wanted in plan.wanted:
        copying.build(staged, wanted, tool, meter.next())
    staged.publish({wanted.volume: wanted.metadata for wanted in plan.wanted})
    for volume_id in plan.replaced:
        _relink(target, plan.image, volume_id)
    log.info(
        "image %s: %d volumes from domain %s in domain %s", plan.image, len(plan.wanted), route.origin.id, target.id
    )
    return [*done, staged]


def _stand_in(target: image.Domain, layer: source.Layer, task: tasks.Task, tool: qemuimg.QemuImg) -> staging.Staging:
    """A template without data, for a backup domain: the format that vdsm gives it is part of the protocol."""
    staged = staging.Staging(target, layer.metadata.image, task)
    metadata = dataclasses.replace(
        layer.metadata,
        domain=target.id,
        parent=ids.VolumeId(ids.BLANK),
        format=volume_metadata.COW,
        type=volume_metadata.SPARSE,
        voltype=volume_metadata.SHARED,
        description=_FAKE_DESCRIPTION,
        legality=volume_metadata.FAKE,
        sequence=1 if target.version >= 5 else 0,
    )
    staged.open()
    copying.build(staged, copying.Wanted(layer.volume, metadata, "qcow2", None), tool)
    staged.publish({layer.volume: metadata})
    return staged


def _relink(target: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    """Make the links of a stand-in in other images links of the real template; repeatable. Data first: a record that
    says that it is the real one must not stand beside the stand-in."""
    for other in template.users(target, image_id, [volume_id]):
        here, there = image.paths(target, image_id, volume_id), image.paths(target, other, volume_id)
        for mine, theirs in zip((here.data, here.lease, here.meta), (there.data, there.lease, there.meta), strict=True):
            if files.file_type(mine) is not None:
                files.hard_link(mine, theirs)


@contextlib.contextmanager
def _explained(target: image.Domain, task: tasks.Task, image_id: ids.ImageId) -> Iterator[None]:
    def failed(reason: str) -> Exception:
        return errors.CopyImageError(image=image_id, reason=reason)

    with copying.explained(target, task, image_id, failed):
        yield
