"""Making a volume: the steps, and what each of them leaves behind when the process ends there.

Before a step that changes something the task pushes what undoes it (names: `steps`, actions: `rollback`).

====  ============================  =====================================  ========================================
step  change                        what undoes it                         a crash after the step leaves
====  ============================  =====================================  ========================================
1     template: source ``SHARED``   ordinary again, if nobody uses it      a template without users
2     the image's directory         removed, if empty                      an empty directory
3     template: links in the image  links removed, if nobody stands on it  links, told from volumes by their record
4     scope opened                  nothing                                -
5     claim, then data              data removed, if claim says it's ours  data without a record: no volume for anybody
6     lease, where the domain has   with the data                          the same
7     parent becomes internal       type by its children again             an image without a leaf: nobody uses it
8     the record                    record removed                         the volume, complete
9     scope closed                  the finished volume is deleted         the same
10    claim removed                 -                                      -
====  ============================  =====================================  ========================================

The *claim* is a second link of the data file under a name that holds the task's id. The file is made under that name
first and then linked to the volume's, which fails if the name is taken. So a rollback can tell its own data file from
one that somebody else had there all along, also when the process ended between "is it free?" and "it is mine".
The record comes last because a volume exists by its record; the parent turns internal before, because an image without
a leaf is refused by everybody, while one with two leaves is written to at the wrong place by some.
"""

import dataclasses
import errno
import logging
import os
import time
from pathlib import Path

from storage import errors, files, ids
from storage.jobs import tasks
from storage.qemu import qcow2, qemuimg
from storage.volumes import image, steps, template, volume, volume_metadata

log = logging.getLogger(__name__)

DATA_MODE = 0o660
LEASE_SIZE = 1024 * 1024
CAPACITY_LIMIT = 2**50
"""Bytes; no file system that a domain may lie on has larger files, and a qcow2 image ends not far beyond."""

_ALLOCATION_STEP = 256 * 1024 * 1024
_FIRST_VERSION_OF_COMPAT_1_1 = 4


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be made.

    Attributes:
        size: bytes; with a parent it means nothing, the capacity is the parent's.
        format, type: as in a record.
        source_image: image of the parent; the image itself for a snapshot.
        parent: volume to stand on, None for a base.
    """

    image: ids.ImageId
    volume: ids.VolumeId
    size: int
    format: str
    type: str
    disktype: str
    description: str
    source_image: ids.ImageId
    parent: ids.VolumeId | None = None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The request after everything was looked at and nothing changed."""

    paths: image.Paths
    metadata: volume_metadata.VolumeMetadata
    record: bytes
    parent: volume_metadata.VolumeMetadata | None
    compat: str


def create(
    domain: image.Domain, request: Request, task: tasks.Task, tool: qemuimg.QemuImg, repository: Path
) -> ids.VolumeId:
    """Make a volume; the caller holds the locks of the image and of the source image, exclusively.

    A failure is left to the task's recoveries.

    Raises:
        VolumeAlreadyExists: a file of that name is there. Nothing was changed.
        VolumeDoesNotExist, ImageDoesNotExistInSD: no such parent.
        CreateIllegalVolumeSnapshotError, VolumeNonShareable: the parent must not be stood on.
        CreateVolumeSizeError, NoSpaceLeftOnDomain: the size.
        CannotCloneVolume, VolumeCreationError: qemu-img, or the storage, did not do it.
        TaskAborted: it was stopped.
    """
    try:
        for image_id in {request.image, request.source_image}:
            if os.path.lexists(domain.image_directory(image_id)):
                image.sweep(domain, image_id)
        plan = _plan(domain, request)
        _make_place(domain, request, plan, task)
        task.begin(domain.id, request.image, request.volume)
        _make_data(domain, request, plan, task, tool)
        if domain.has_leases:
            files.create(plan.paths.lease, size=LEASE_SIZE, mode=DATA_MODE)
        _make_known(domain, request, plan, task)
        task.commit(steps.volume(repository, domain.id, request.image, plan.paths.data))
        files.unlink(_claim(plan, task))
    except OSError as error:
        raise _explained(domain, request, error) from error
    log.info("made volume %s of image %s: %d bytes", request.volume, request.image, plan.metadata.capacity)
    return request.volume


def compat(version: int) -> str:
    """Which qcow2 version a domain's volumes have, as qemu-img names it."""
    return "1.1" if version >= _FIRST_VERSION_OF_COMPAT_1_1 else "0.10"


# ---------------------------------------------------------------- looking


def _plan(domain: image.Domain, request: Request) -> _Plan:
    paths = image.paths(domain, request.image, request.volume)
    if any(os.path.lexists(name) for name in paths.all):
        raise errors.VolumeAlreadyExists(volume=request.volume, image=request.image)
    parent = _usable_parent(domain, request)
    capacity = _capacity(domain, request, parent)
    version = domain.version
    metadata = volume_metadata.VolumeMetadata(
        domain=domain.id,
        image=request.image,
        parent=request.parent or ids.VolumeId(ids.BLANK),
        capacity=capacity,
        format=request.format,
        # An image over a backing file cannot be preallocated, so it is not called so.
        type=volume_metadata.SPARSE if parent else request.type,
        voltype=volume_metadata.LEAF,
        disktype=request.disktype,
        description=volume_metadata.cut(request.description, volume_metadata.DESCRIPTION_LIMIT),
        legality=volume_metadata.LEGAL,
        ctime=int(time.time()),
        sequence=_next_sequence(domain, request.image) if version >= 5 else 0,
    )
    _check_space(domain, metadata)
    record = image.encoded(metadata, version, request.volume)
    return _Plan(paths, metadata, record, parent, compat(version))


def _usable_parent(domain: image.Domain, request: Request) -> volume_metadata.VolumeMetadata | None:
    if request.parent is None:
        return None
    if request.parent == request.volume:
        raise errors.InvalidParameterException(name="volume id", reason="a volume cannot stand on itself")
    if request.format != volume_metadata.COW:
        raise errors.IncorrectFormat(object=f"volume {request.volume}", reason="only COW can stand on a parent")
    image.directory(domain, request.source_image)
    found = image.read_metadata(domain, request.source_image, request.parent)
    if found.legality == volume_metadata.ILLEGAL:
        raise errors.CreateIllegalVolumeSnapshotError(volume=request.parent)
    if found.legality == volume_metadata.FAKE:
        raise errors.VolumeNonShareable(volume=request.parent, reason="it is a stand-in without data")
    if request.source_image != request.image and found.voltype != volume_metadata.SHARED:
        _check_sharing(domain, request, request.parent, found)
    return found


def _check_sharing(
    domain: image.Domain, request: Request, parent: ids.VolumeId, found: volume_metadata.VolumeMetadata
) -> None:
    """Whether an ordinary volume of another image may become a template: from then on nobody may write to it."""
    reason = None
    if not found.parent.is_blank:
        reason = f"it is neither a template nor a base: it stands on {found.parent}"
    elif standing := image.children(domain, request.source_image, parent):
        reason = f"volume {standing[0]} of its own image stands on it"
    if reason:
        raise errors.VolumeNonShareable(volume=parent, reason=reason)
    if in_use := volume.busy(image.paths(domain, request.source_image, parent).data):
        raise errors.VolumeIsBusy(volume=parent, reason=f"{in_use}, so it cannot become a template")


def _capacity(domain: image.Domain, request: Request, parent: volume_metadata.VolumeMetadata | None) -> int:
    """Bytes of the new volume, whole sectors. Over a parent: what a guest of the parent sees, never less, because the
    data beyond would be lost; should its record and its data disagree, the larger."""
    if parent is None or request.parent is None:
        sector = volume_metadata.SECTOR
        capacity = -(-request.size // sector) * sector
    else:
        real = volume.virtual_size(domain, request.source_image, request.parent, parent.format)
        capacity = max(real, parent.capacity)
    if not 0 < capacity <= CAPACITY_LIMIT:
        reason = f"it must lie between 1 and {CAPACITY_LIMIT} bytes"
        raise errors.CreateVolumeSizeError(volume=request.volume, size=capacity, reason=reason)
    return capacity


def _next_sequence(domain: image.Domain, image_id: ids.ImageId) -> int:
    try:
        held = image.contents(domain, image_id)
    except errors.ImageDoesNotExistInSD:
        return 1
    return 1 + max((found.sequence for found in held.records.values() if found.image == image_id), default=0)


def _check_space(domain: image.Domain, metadata: volume_metadata.VolumeMetadata) -> None:
    free = domain.space()[1]
    if metadata.type == volume_metadata.PREALLOCATED and free < metadata.capacity:
        raise errors.NoSpaceLeftOnDomain(domain=domain.id, needed=metadata.capacity, free=free)


# ---------------------------------------------------------------- making


def _make_place(domain: image.Domain, request: Request, plan: _Plan, task: tasks.Task) -> None:
    """Steps 1 to 3: a template out of the parent, if it is another image's; a directory; the template's links."""
    place = domain.image_directory(request.image)
    source, parent = request.source_image, request.parent if request.source_image != request.image else None
    if parent and plan.parent and plan.parent.voltype != volume_metadata.SHARED:
        with volume.reserved([image.paths(domain, source, parent).data]):
            task.push(steps.set_shared(domain.id, source, parent))
            template.set_shared(domain, source, parent)
    if not os.path.lexists(place):
        task.push(steps.directory(place, request.image))
        files.make_directory(place)
    image.directory(domain, request.image)
    if parent and not template.is_shared(domain, source, request.image, parent):
        task.push(steps.share(place / parent))
        template.share(domain, source, request.image, parent)


def _make_data(domain: image.Domain, request: Request, plan: _Plan, task: tasks.Task, tool: qemuimg.QemuImg) -> None:
    """Step 5."""
    task.check()
    task.push(steps.half_made(domain.id, request.volume, plan.paths.data))
    files.create(_claim(plan, task), mode=DATA_MODE)
    try:
        files.link(_claim(plan, task), plan.paths.data)
    except FileExistsError:
        raise errors.VolumeAlreadyExists(volume=request.volume, image=request.image) from None
    if request.format == volume_metadata.COW:
        _make_qcow2(request, plan, task, tool)
    elif plan.metadata.type == volume_metadata.PREALLOCATED:
        _allocate(plan, task)
    else:
        files.extend(plan.paths.data, plan.metadata.capacity)
    files.sync(plan.paths.data)
    _verify(request, plan)


def _claim(plan: _Plan, task: tasks.Task) -> Path:
    data = plan.paths.data
    return data.with_name(image.claim_name(ids.VolumeId(data.name), task.id))


def _allocate(plan: _Plan, task: tasks.Task) -> None:
    capacity = plan.metadata.capacity
    for start in range(0, capacity, _ALLOCATION_STEP):
        task.check()
        tell_space(task, start, capacity)
        files.allocate(plan.paths.data, start, min(_ALLOCATION_STEP, capacity - start))


def tell_space(task: tasks.Task, done: int, total: int) -> None:
    """Tell how much of a file has its blocks.

    Args:
        done, total: bytes; `total` is not 0.
    """
    percent = 100 * done // total
    message = f"setting space aside, {percent} %"
    task.progress(message, percent=str(percent), done=str(done), total=str(total))


def _make_qcow2(request: Request, plan: _Plan, task: tasks.Task, tool: qemuimg.QemuImg) -> None:
    """The backing file is named, not opened: it may be in use by a running VM, and usually is."""
    backing_format = volume.QEMU_FORMATS[plan.parent.format] if plan.parent else None
    preallocation = "falloc" if plan.metadata.type == volume_metadata.PREALLOCATED else None
    try:
        tool.create(
            plan.paths.data,
            "qcow2",
            plan.metadata.capacity,
            backing=request.parent,
            backing_format=backing_format,
            compat=plan.compat,
            preallocation=preallocation,
            stop=task.stopping,
        )
    except qemuimg.Stopped:
        raise errors.TaskAborted(task=task.id) from None
    except qemuimg.Failed as error:
        if "No space left" in error.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise _not_made(request, str(error)) from error
    except qemuimg.QemuImgError as error:
        raise _not_made(request, str(error)) from error


def _verify(request: Request, plan: _Plan) -> None:
    """What was made is what the record will say."""
    data = plan.paths.data
    if request.format == volume_metadata.RAW:
        if (size := os.lstat(data).st_size) != plan.metadata.capacity:
            raise _not_made(request, f"the file has {size} bytes instead of {plan.metadata.capacity}")
        return
    try:
        head = volume.header(data)
    except qcow2.HeaderError as error:
        raise _not_made(request, error.reason) from None
    backing_format = volume.QEMU_FORMATS[plan.parent.format] if plan.parent else None
    wanted = (2 if plan.compat == "0.10" else 3, plan.metadata.capacity, request.parent, backing_format, ())
    made = (head.version, head.virtual_size, head.backing_name, head.backing_format, head.objections)
    if made != wanted:
        raise _not_made(request, f"qemu-img made {made!a} instead of {wanted!a}")


def _make_known(domain: image.Domain, request: Request, plan: _Plan, task: tasks.Task) -> None:
    """Steps 7 and 8."""
    if plan.parent and request.parent and plan.parent.image == request.image:
        task.push(steps.parent(domain.id, request.image, request.parent))
        if plan.parent.voltype == volume_metadata.LEAF:
            internal = dataclasses.replace(plan.parent, voltype=volume_metadata.INTERNAL)
            image.write_metadata(domain, request.image, request.parent, internal)
    task.check()
    task.push(steps.record(plan.paths.data))
    files.create(plan.paths.meta, plan.record, mode=image.RECORD_MODE)


# ---------------------------------------------------------------- failing


def _not_made(request: Request, reason: str) -> errors.StorageError:
    if request.parent:
        return errors.CannotCloneVolume(volume=request.volume, parent=request.parent, reason=reason)
    return errors.VolumeCreationError(reason=reason)


def _explained(domain: image.Domain, request: Request, error: OSError) -> errors.StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.NoSpaceLeftOnDomain(domain=domain.id, needed=request.size, free=domain.space()[1])
    if error.errno == errno.EFBIG:
        reason = "the file system has no files that large"
        return errors.CreateVolumeSizeError(volume=request.volume, size=request.size, reason=reason)
    return errors.VolumeCreationError(reason=f"{Path(error.filename or '.').name}: {error.strerror}")
