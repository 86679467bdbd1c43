"""Undoing a merge that was not finished, or finishing one that passed its point of no return (`merging`).

Every part looks at what is there and does only what is left to do, in the reverse order of the merge, so a crash in the
middle of the way back is no more than a reason to come again.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Protocol

from storage import errors, files, ids, settings
from storage.chains import record
from storage.jobs import tasks
from storage.qemu import allocation, qcow2, qemuimg
from storage.volumes import image, merging, staging, volume, volume_metadata


class Services(staging.Services, Protocol):
    """What the recoveries need of the services."""

    @property
    def settings(self) -> settings.Settings: ...


@dataclasses.dataclass(frozen=True)
class Merge:
    """A merge as its recovery knows it.

    Attributes:
        ancestor, successor: the two ends.
        parent, format, type: what the successor's record said before.
    """

    ancestor: ids.VolumeId
    successor: ids.VolumeId
    parent: ids.VolumeId
    format: str
    type: str


def recover(services: Services, task: tasks.Task, params: tuple[str, ...]) -> None:
    """The recovery of a merge. Parameters: domain, image, ancestor, successor; its parent, format and type before.

    Raises:
        MergeVolumeRollbackError: it could not be undone; nothing is lost, and it may be tried again.
    """
    domain, image_id = services.domains.find(ids.DomainId(params[0])), ids.ImageId(params[1])
    if not os.path.lexists(domain.image_directory(image_id)):
        return
    known = Merge(ids.VolumeId(params[2]), ids.VolumeId(params[3]), ids.VolumeId(params[4]), params[5], params[6])
    try:
        undo(domain, image_id, known, task.id, _tool(services), services.settings.l2_limit)
    except (qemuimg.QemuImgError, qcow2.FormatError, OSError) as error:
        raise errors.MergeVolumeRollbackError(volume=known.successor, reason=str(error)) from error


def go_on(services: Services, task: tasks.Task, params: tuple[str, ...]) -> None:
    """The recovery after the point of no return. Parameters: domain, image, successor, merged volumes."""
    domain, image_id = services.domains.find(ids.DomainId(params[0])), ids.ImageId(params[1])
    if os.path.lexists(domain.image_directory(image_id)):
        gone = [ids.VolumeId(each) for each in params[3:]]
        merging.finish(domain, image_id, ids.VolumeId(params[2]), gone, task, _tool(services))


def _tool(services: Services) -> qemuimg.QemuImg:
    return qemuimg.QemuImg(services.settings.qemu_img, services.settings.qemu_img_timeout)


def undo(
    domain: image.Domain,
    image_id: ids.ImageId,
    known: Merge,
    task_id: ids.TaskId,
    tool: qemuimg.QemuImg,
    l2_limit: int,
) -> None:
    """Have all volumes as they were before a merge, from wherever it ended; raises what `recover` makes one error."""
    names = merging.names_of(domain, image_id, known.ancestor, known.successor, task_id)
    ancestor, successor = (image.paths(domain, image_id, each).data for each in (known.ancestor, known.successor))
    if os.path.lexists(names.old):
        if not os.path.lexists(ancestor):
            files.rename(successor, ancestor)
        files.put_over(names.old, successor)
    for name in (names.new, names.keeping):
        files.unlink(name)
    _point_back(domain, image_id, known, tool)
    held = image.contents(domain, image_id)
    above = held.children(known.successor)
    merging.tell_format(domain, image_id, above, known.successor, known.format, tool)
    _restore_record(domain, image_id, known)
    _restore_content(domain, image_id, known, names, tool, l2_limit)
    merging.mark(domain, image_id, known.ancestor, volume_metadata.LEGAL)


def _point_back(domain: image.Domain, image_id: ids.ImageId, known: Merge, tool: qemuimg.QemuImg) -> None:
    """The header of a successor that pulled names the volume that it stood on."""
    path = image.paths(domain, image_id, known.successor).data
    head = volume.header(path)
    if head.backing_name is not None and record.link_of(head.backing_name, image_id) == known.parent:
        return
    beneath = image.read_metadata(domain, image_id, known.parent)
    tool.rebase_unsafe(path, known.parent, volume.QEMU_FORMATS[beneath.format])
    files.sync(path)


def _restore_record(domain: image.Domain, image_id: ids.ImageId, known: Merge) -> None:
    found = image.read_metadata(domain, image_id, known.successor)
    was = dataclasses.replace(
        found, parent=known.parent, format=known.format, type=known.type, legality=volume_metadata.LEGAL
    )
    if was != found:
        image.write_metadata(domain, image_id, known.successor, was)


def _restore_content(
    domain: image.Domain,
    image_id: ids.ImageId,
    known: Merge,
    names: merging.Names,
    tool: qemuimg.QemuImg,
    l2_limit: int,
) -> None:
    """The ancestor reads by itself as it did: what was kept of it is put back, then dropped."""
    path = image.paths(domain, image_id, known.ancestor).data
    if image.read_metadata(domain, image_id, known.ancestor).format == volume_metadata.COW:
        if names.snapshot in tool.snapshots(path):
            for action in ("apply", "delete"):
                tool.snapshot(path, action, names.snapshot)
                files.sync(path)
    elif os.path.lexists(names.kept):
        for held in _overwritten(domain, image_id, known, l2_limit):
            files.copy_ranges(names.kept, path, held.ranges)
        files.sync(path)
        files.unlink(names.kept)


def _overwritten(
    domain: image.Domain, image_id: ids.ImageId, known: Merge, l2_limit: int
) -> Sequence[allocation.Allocation]:
    """Where the volumes above the ancestor hold anything: nothing else of it was written to."""
    found = []
    volume_id = known.successor
    while volume_id != known.ancestor:
        found.append(merging.held_by(image.paths(domain, image_id, volume_id).data, "qcow2", l2_limit))
        volume_id = image.read_metadata(domain, image_id, volume_id).parent
    return found
