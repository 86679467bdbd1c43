"""Bringing the data of an image's volumes into volumes that are there: after `moving.clone_structure`, or again.

The new data is built aside first (`staging`; what is not brought is there as a second link, to stand on), so until it
is complete nothing of the target has changed. Then, in this order, each step repeatable:

1. every volume that gets new data is marked ILLEGAL: some have new data and some old ones for a moment;
2. each one's data is put in the place of the old;
3. each one's record says ``LEGAL``, parents first, with the size that the data has.

Before step 1 the recovery is pushed that goes on from wherever it ended: what is to be put in place is complete, so
going on is always possible and never wrong. Before that a rollback removes what was built aside.
"""

import dataclasses
import os
from collections.abc import Sequence

from storage import errors, files, ids
from storage.jobs import tasks
from storage.qemu import qemuimg
from storage.volumes import copying, image, moving, source, staging, steps, template, volume, volume_metadata

ALL, INTERNAL, LEAF = "ALL", "INTERNAL", "LEAF"
TYPES = (ALL, INTERNAL, LEAF)


def sync_data(
    route: moving.Route, image_id: ids.ImageId, which: str, task: tasks.Task, tool: qemuimg.QemuImg
) -> list[ids.VolumeId]:
    """Bring the data of an image to its structure in another domain; the caller holds the locks of both.

    Args:
        which: `ALL` volumes, the `INTERNAL` ones only, or the `LEAF` only.

    Returns:
        The volumes that were brought.

    Raises:
        ImageDoesNotExistInSD: on either side.
        DestImageActionError: the two have different volumes.
        VolumeIsBusy: a live process writes to a volume here, or has one open there.
        VolumeNonWritable: a template there that images stand on.
        NoSpaceLeftOnDomain, CopyImageError, TaskAborted, ...: see `moving.copy_images`.
    """

    def failed(reason: str) -> Exception:
        return errors.CopyImageError(image=image_id, reason=reason)

    with copying.explained(route.target, task, image_id, failed):
        image.sweep(route.target, image_id)
        layers = source.whole(route.origin, image.contents(route.origin, image_id), route.limit)
        there = source.whole(route.target, image.contents(route.target, image_id), route.limit)
        _check_same(route.target, image_id, layers, there)
        chosen = _chosen(layers, which)
        targets = {layer.volume: layer for layer in there}
        source.refuse_writers(chosen)
        source.refuse_users(targets[layer.volume] for layer in chosen)
        _refuse_templates(route.target, image_id, chosen)
        if not chosen:
            return []
        parents = {layer.parent for layer in layers if layer.own}
        formats = {layer.volume: layer.data_format for layer in there}
        wanted = [moving.wanted_layer(route.target, layer, formats, parents) for layer in chosen]
        copying.check_space(route.target, sum(copying.needed(each, tool) for each in wanted))
        _build(route.target, image_id, there, wanted, task, tool)
    return [layer.volume for layer in chosen]


def _check_same(
    target: image.Domain, image_id: ids.ImageId, here: Sequence[source.Layer], there: Sequence[source.Layer]
) -> None:
    def shape(layers: Sequence[source.Layer]) -> dict[ids.VolumeId, tuple[object, ...]]:
        return {each.volume: (each.parent, each.data_format if each.own else "") for each in layers}

    if shape(here) != shape(there):
        reason = "its volumes, their parents or formats are not those of the original"
        raise errors.DestImageActionError(image=image_id, domain=target.id, reason=reason)


def _chosen(layers: Sequence[source.Layer], which: str) -> list[source.Layer]:
    parents = {layer.parent for layer in layers if layer.own}
    own = [layer for layer in layers if layer.own]
    if which == INTERNAL:
        return [layer for layer in own if layer.volume in parents]
    return [layer for layer in own if which == ALL or layer.volume not in parents]


def _refuse_templates(target: image.Domain, image_id: ids.ImageId, chosen: Sequence[source.Layer]) -> None:
    """The links of a template in other images would keep the old data."""
    shared = [layer.volume for layer in chosen if layer.is_shared]
    if users := template.users(target, image_id, shared):
        reason = f"it is a template that images {', '.join(users)} stand on"
        raise errors.VolumeNonWritable(volume=shared[0], reason=reason)


def _build(
    target: image.Domain,
    image_id: ids.ImageId,
    there: Sequence[source.Layer],
    wanted: Sequence[copying.Wanted],
    task: tasks.Task,
    tool: qemuimg.QemuImg,
) -> None:
    staged = staging.Staging(target, image_id, task, has_leases=False)
    staged.open()
    brought = {each.volume: each for each in wanted}
    for layer in there:
        if layer.volume not in brought:
            files.link(layer.path, image.paths(staged, image_id, layer.volume).data)
    meter = copying.Meter(task, "copying volume", [each.origin.allocated for each in wanted if each.origin])
    for each in wanted:
        copying.build(staged, each, tool, meter.next())
    task.check()
    with volume.reserved(layer.path for layer in there if layer.volume in brought):
        task.push(steps.finish_sync(target.id, image_id, list(brought)))
        finish(target, image_id, task.id, list(brought))
        task.clear_recoveries()
    staged.close()
    files.remove_tree(staged.place)


def finish(
    target: image.Domain, image_id: ids.ImageId, task_id: ids.TaskId, volume_ids: Sequence[ids.VolumeId]
) -> None:
    """Steps 1 to 3, from wherever they ended.

    Args:
        volume_ids: what gets new data, parents first.
    """
    place = staging.place_of(target, image_id, task_id)
    if any(os.path.lexists(place / volume_id) for volume_id in volume_ids):
        for volume_id in volume_ids:
            _mark(target, image_id, volume_id, volume_metadata.ILLEGAL)
        for volume_id in volume_ids:
            if os.path.lexists(place / volume_id):
                files.put_over(place / volume_id, image.paths(target, image_id, volume_id).data)
    for volume_id in volume_ids:
        _mark(target, image_id, volume_id, volume_metadata.LEGAL)


def _mark(target: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, legality: str) -> None:
    found = image.read_metadata(target, image_id, volume_id)
    changed = dataclasses.replace(found, legality=legality)
    if legality == volume_metadata.LEGAL:
        raw = found.format == volume_metadata.RAW or not volume.is_qcow2(image.paths(target, image_id, volume_id).data)
        data_format = volume_metadata.RAW if raw else volume_metadata.COW
        changed = dataclasses.replace(changed, capacity=volume.virtual_size(target, image_id, volume_id, data_format))
    if changed != found:
        image.write_metadata(target, image_id, volume_id, changed)


def recover(services: staging.Services, task: tasks.Task, params: tuple[str, ...]) -> None:
    """The recovery. Parameters: domain, image, volumes."""
    domain, image_id = services.domains.find(ids.DomainId(params[0])), ids.ImageId(params[1])
    if os.path.lexists(domain.image_directory(image_id)):
        finish(domain, image_id, task.id, [ids.VolumeId(each) for each in params[2:]])
