"""Building the data of volumes: alone, over their parents, or as a copy of what stands elsewhere.

How `qemu-img convert` is used follows from format, allocation and whether there is a parent:

============  =============  ====================================================================================
target        parent         how
============  =============  ====================================================================================
raw           none           the file is made in its full length first, sparse or with all blocks set aside, and
                             zeros are not written: so a sparse one stays sparse, and the other keeps its blocks
qcow2         none           the image is made first (its version is the domain's), zeros are not written either
qcow2         a volume       made over the parent by name; only what the source's own layer holds is copied
============  =============  ====================================================================================

A target that exists when qemu-img starts would be filled with zeros throughout where nobody told it that it is empty
already: on some network storage that writes the whole disk. Formats are the records', never guessed.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from storage import errors, files, ids
from storage.jobs import tasks
from storage.qemu import qcow2, qemuimg
from storage.volumes import creation, image, source, staging, template, volume, volume_metadata

log = logging.getLogger(__name__)

_ALLOCATION_STEP = 256 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A volume to be built.

    Attributes:
        volume: its id.
        metadata: the record it is to have.
        data_format: what its data is to be for qemu-img; differs from the record for memory of machines only.
        origin: where the data comes from; None: it stays empty.
        collapsed: copy the disk as the origin shows it through its whole chain, not the origin's own layer.
        parent_format: what the parent's data is for qemu-img, None without a parent.
        set_aside: reserve all blocks.
    """

    volume: ids.VolumeId
    metadata: volume_metadata.VolumeMetadata
    data_format: str
    origin: source.Layer | None
    collapsed: bool = False
    parent_format: str | None = None
    set_aside: bool = False

    @property
    def parent(self) -> ids.VolumeId | None:
        return None if self.metadata.parent.is_blank else self.metadata.parent


class Meter:
    """How far a job is that consists of several copies.

    Args:
        task: whose progress it is.
        title: what is done, for people.
        weights: bytes that each part copies, about; or how much work each is.
        in_bytes: whether they are bytes, which are told then, beside the percents.
    """

    def __init__(self, task: tasks.Task, title: str, weights: Sequence[int], *, in_bytes: bool = True) -> None:
        self._task = task
        self._in_bytes = in_bytes
        self._title = title
        self._weights = [max(1, weight) for weight in weights]
        self._part = -1

    def next(self) -> Callable[[float], None]:
        """Begin the next part; what to call with the percents that it has done."""
        self._part += 1
        self.report(0.0)
        return self.report

    def report(self, percent: float) -> None:
        """Tell how far the part is."""
        total = sum(self._weights)
        done = sum(self._weights[: self._part]) + int(self._weights[self._part] * percent / 100)
        overall = 100 * done // total
        which = f" {self._part + 1} of {len(self._weights)}" if len(self._weights) > 1 else ""
        message = f"{self._title}{which}, {overall} %"
        told = {"done": str(done), "total": str(total)} if self._in_bytes else {}
        self._task.progress(message, percent=str(overall), **told)


@contextlib.contextmanager
def explained(
    domain: image.Domain, task: tasks.Task, name: ids.VolumeId | ids.ImageId, failed: Callable[[str], Exception]
) -> Iterator[None]:
    """Turn what qemu-img and the storage raise into errors of the API.

    Args:
        name: what is worked on, for messages.
        failed: makes the error of whatever is nothing special, out of a reason.

    Raises:
        TaskAborted: it was stopped.
        NoSpaceLeftOnDomain: the storage was full.
        VolumeIsBusy: a live process has an image open.
    """
    try:
        yield
    except qemuimg.Stopped:
        raise errors.TaskAborted(task=task.id) from None
    except qemuimg.InUse as error:
        raise errors.VolumeIsBusy(volume=name, reason=f"a live process has an image of it open ({error})") from error
    except qemuimg.Failed as error:
        if "No space left" in error.stderr or "Disk quota exceeded" in error.stderr:
            raise _full(domain, "more") from error
        raise failed(str(error)) from error
    except qemuimg.QemuImgError as error:
        raise failed(str(error)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(domain, "more") from error
        raise failed(f"{Path(error.filename or '.').name}: {error.strerror}") from error


def check_space(domain: image.Domain, needed: int) -> None:
    """Refuse before the first byte what cannot fit.

    Args:
        needed: bytes.

    Raises:
        NoSpaceLeftOnDomain: it does not fit.
    """
    if domain.space()[1] < needed:
        raise _full(domain, str(needed))


def _full(domain: image.Domain, needed: str) -> errors.NoSpaceLeftOnDomain:
    return errors.NoSpaceLeftOnDomain(domain=domain.id, needed=needed, free=domain.space()[1])


def needed(wanted: Wanted, tool: qemuimg.QemuImg, below: Sequence[source.Layer] = ()) -> int:
    """Bytes of storage that a volume takes, at most as far as that can be known without reading all data.

    Args:
        below: for a collapsed copy, the chain of the origin, root first.
    """
    origin = wanted.origin
    if origin is None:
        return wanted.metadata.capacity if wanted.set_aside else 0
    if wanted.data_format == "raw":
        return origin.capacity if wanted.set_aside else source.guest_bytes(below or [origin])
    if wanted.collapsed:
        return tool.measure(origin.path, origin.data_format, "qcow2", preallocated=wanted.set_aside)
    return wanted.metadata.capacity if wanted.set_aside else origin.allocated


def build(
    staged: staging.Staging, wanted: Wanted, tool: qemuimg.QemuImg, progress: Callable[[float], None] | None = None
) -> None:
    """Make data and lease of one volume; its parent is there. Everything is on disk on return, except names.

    Raises:
        QemuImgError, OSError: see `explained`.
        TaskAborted: it was stopped.
        CopyImageError: what was made is not what was wanted.
    """
    paths = image.paths(staged, staged.image, wanted.volume)
    beneath = None
    if wanted.parent and not wanted.collapsed:
        beneath = image.paths(staged, staged.image, wanted.parent).data
    fill(paths.data, wanted, creation.compat(staged.version), tool, staged.task, beneath=beneath, progress=progress)
    if staged.has_leases:
        files.create(paths.lease, size=creation.LEASE_SIZE, mode=creation.DATA_MODE)


def fill(
    path: Path,
    wanted: Wanted,
    compat: str,
    tool: qemuimg.QemuImg,
    task: tasks.Task,
    *,
    beneath: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Make the data of one volume under a name that is free; it is on disk on return.

    Args:
        compat: qcow2 version, as qemu-img names it.
        beneath: data of the parent, which is there; None without one.

    Raises:
        Exception: as `build`.
    """
    task.check()
    files.create(path, mode=creation.DATA_MODE)
    if wanted.data_format == "raw":
        _make_raw(path, wanted, task)
    else:
        _make_qcow2(path, wanted, compat, tool, task)
    with files.synced(path):
        if wanted.origin:
            tool.convert(
                wanted.origin.path,
                wanted.origin.data_format,
                path,
                wanted.data_format,
                existing=True,
                zeroed=beneath is None,
                beneath=beneath,
                beneath_format=wanted.parent_format if beneath else None,
                stop=task.stopping,
                progress=progress,
            )
    verify(path, wanted, compat)


def _make_raw(path: Path, wanted: Wanted, task: tasks.Task) -> None:
    capacity = wanted.metadata.capacity
    if not wanted.set_aside:
        files.extend(path, capacity)
        return
    for start in range(0, capacity, _ALLOCATION_STEP):
        task.check()
        creation.tell_space(task, start, capacity)
        files.allocate(path, start, min(_ALLOCATION_STEP, capacity - start))


def _make_qcow2(path: Path, wanted: Wanted, compat: str, tool: qemuimg.QemuImg, task: tasks.Task) -> None:
    tool.create(
        path,
        "qcow2",
        wanted.metadata.capacity,
        backing=wanted.parent,
        backing_format=wanted.parent_format,
        compat=compat,
        preallocation="falloc" if wanted.set_aside else None,
        cluster_size=_cluster_size(wanted),
        stop=task.stopping,
    )


def _cluster_size(wanted: Wanted) -> int | None:
    """A layer is copied in clusters of its own size: smaller pieces would be filled up from what is beneath."""
    if wanted.origin is None or wanted.parent is None or wanted.collapsed:
        return None
    return volume.header(wanted.origin.path).cluster_size


def verify(path: Path, wanted: Wanted, compat: str) -> None:
    """What was made is what the record will say.

    Raises:
        CopyImageError: it is not.
    """
    capacity, image_id = wanted.metadata.capacity, wanted.metadata.image
    if wanted.data_format == "raw":
        if (size := os.lstat(path).st_size) != capacity:
            raise errors.CopyImageError(image=image_id, reason=f"the file has {size} bytes instead of {capacity}")
        return
    try:
        head = volume.header(path)
    except qcow2.HeaderError as error:
        raise errors.CopyImageError(image=image_id, reason=error.reason) from None
    expected = (2 if compat == "0.10" else 3, capacity, wanted.parent, wanted.parent_format, ())
    made = (head.version, head.virtual_size, head.backing_name, head.backing_format, head.objections)
    if made != expected:
        raise errors.CopyImageError(image=image_id, reason=f"qemu-img made {made!a} instead of {expected!a}")


# ---------------------------------------------------------------- a whole disk into one volume


@dataclasses.dataclass(frozen=True)
class Request:
    """A disk to be copied into one volume.

    Attributes:
        volume: id of the new volume.
        description: of the new volume.
        shared: make it a template.
        format, type: as in a record; None: as the volume that is copied.
        force: also over an image that is there.
    """

    volume: ids.VolumeId
    description: str
    shared: bool
    format: str | None
    type: str | None
    force: bool


def collapse(
    layers: Sequence[source.Layer],
    target: image.Domain,
    image_id: ids.ImageId,
    request: Request,
    task: tasks.Task,
    tool: qemuimg.QemuImg,
) -> ids.VolumeId:
    """Copy a disk, read through its whole chain, into a new image of one volume.

    The caller holds the locks of both images.

    Args:
        layers: the chain, root first.
        image_id: the new image.

    Raises:
        VolumeAlreadyExists, OverwriteImageError: there is such an image, and `force` was not given.
        IncorrectFormat: data that is called COW and is not.
        VolumeIsBusy: a live process writes to the disk.
        NoSpaceLeftOnDomain: it does not fit; checked before the first byte.
        CopyImageError: qemu-img did not do it.
        TaskAborted: it was stopped.
    """
    origin = layers[-1]
    if origin.data_format != volume.QEMU_FORMATS[origin.metadata.format]:
        raise errors.IncorrectFormat(object=f"volume {origin.volume}", reason="it is called COW but is not")
    source.refuse_writers(layers)
    check_free(target, image_id, [request.volume], force=request.force)
    wanted = _one_volume(target, origin, image_id, request)
    with explained(target, task, origin.volume, lambda reason: errors.CopyImageError(image=image_id, reason=reason)):
        check_space(target, needed(wanted, tool, layers))
        staged = staging.Staging(target, image_id, task)
        staged.open()
        meter = Meter(task, "copying the disk", [source.guest_bytes(layers)])
        build(staged, wanted, tool, meter.next())
        staged.publish({wanted.volume: wanted.metadata})
        task.clear_recoveries(staged.rest)
        staged.close()
        task.clear_recoveries()
    log.info("copied the disk of volume %s into volume %s of image %s", origin.volume, wanted.volume, image_id)
    return wanted.volume


def _one_volume(target: image.Domain, origin: source.Layer, image_id: ids.ImageId, request: Request) -> Wanted:
    record_format = request.format or origin.metadata.format
    record_type = request.type or origin.metadata.type
    metadata = dataclasses.replace(
        origin.metadata,
        domain=target.id,
        image=image_id,
        parent=ids.VolumeId(ids.BLANK),
        capacity=origin.capacity,
        format=record_format,
        type=record_type,
        voltype=volume_metadata.SHARED if request.shared else volume_metadata.LEAF,
        description=volume_metadata.cut(request.description, volume_metadata.DESCRIPTION_LIMIT),
        ctime=int(time.time()),
        generation=0,
        sequence=1 if target.version >= 5 else 0,
        extra={},
    )
    return Wanted(
        volume=request.volume,
        metadata=metadata,
        data_format=volume.QEMU_FORMATS[record_format],
        origin=origin,
        collapsed=True,
        set_aside=record_type == volume_metadata.PREALLOCATED,
    )


def check_free(target: image.Domain, image_id: ids.ImageId, volume_ids: Sequence[ids.VolumeId], *, force: bool) -> None:
    """Refuse to overwrite an image of that id that must stay; changes nothing.

    It may with `force`, and when all it has are stand-ins and volumes marked ILLEGAL. What could not be looked at is
    never overwritten, and neither is what others stand on or have open.

    Raises:
        VolumeAlreadyExists: one of the volumes is there.
        OverwriteImageError: the image is there.
        VolumeIsBusy, StorageError: see above.
    """
    try:
        held = image.contents(target, image_id)
    except errors.ImageDoesNotExistInSD:
        return
    if not os.listdir(target.image_directory(image_id)):
        return
    if not (force or is_worthless(held)):
        if taken := [volume_id for volume_id in volume_ids if volume_id in held]:
            raise errors.VolumeAlreadyExists(volume=taken[0], image=image_id)
        reason = "delete it first, or use force"
        raise errors.OverwriteImageError(image=image_id, domain=target.id, reason=reason)
    refuse_needed(target, held)


def is_worthless(held: image.Contents) -> bool:
    """Whether all that an image has are stand-ins and volumes marked ILLEGAL. A damaged one may be anything."""
    own = held.own()
    return bool(own) and all(v in held.records and held.records[v].legality != volume_metadata.LEGAL for v in own)


def refuse_needed(target: image.Domain, held: image.Contents) -> None:
    """Refuse to put something in the place of an image that others stand on or have open.

    Raises:
        OverwriteImageError: other images stand on it.
        VolumeIsBusy: a live process has a volume of it open.
    """
    shared = [v for v in held.own() if v in held.damaged or held.records[v].voltype == volume_metadata.SHARED]
    if users := template.users(target, held.image, shared):
        reason = f"images {', '.join(users)} stand on it"
        raise errors.OverwriteImageError(image=held.image, domain=target.id, reason=reason)
    for volume_id in held.own():
        if used := volume.busy(image.paths(target, held.image, volume_id).data):
            raise errors.VolumeIsBusy(volume=volume_id, reason=used)
