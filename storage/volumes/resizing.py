"""Making a volume larger, and saying what size it has. Nothing is ever made smaller here.

A volume grows in this order, after the recovery is pushed: the data, then the record. A crash in between leaves data
that is larger than the record says, which nobody's guest can tell; the rollback records the size that the data has.
"""

import dataclasses
import os
from pathlib import Path

from storage import errors, files, ids
from storage.jobs import tasks
from storage.qemu import qemuimg
from storage.volumes import copying, creation, image, source, steps, volume, volume_metadata

_ALLOCATION_STEP = 256 * 1024 * 1024


def extend(
    domain: image.Domain,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    size: int,
    limit: int,
    task: tasks.Task,
    tool: qemuimg.QemuImg,
) -> None:
    """Make a leaf, or the base of a chain, larger; the caller holds the image's lock exclusively.

    A raw file may be grown while a machine has it open, and has to be, before the machine can be told. A qcow2 file
    may not: its machine grows it itself.

    Args:
        size: bytes, rounded up to a sector; the size that it has already is success.
        limit: most volumes of a chain.

    Raises:
        ImageDoesNotExistInSD, VolumeDoesNotExist: there is no such volume.
        VolumeNonWritable: it is a template, or between others.
        VolumeResizeValueError: smaller than it is, or larger than any file.
        VolumeIsBusy: a live process has a qcow2 volume open.
        IncorrectFormat, ImageValidationError, ImageIsNotLegalChain, PrepareIllegalVolumeError: see `source.chain`;
            the tool opens all of it.
        NoSpaceLeftOnDomain: it is preallocated, and what it would grow by does not fit.
        VolumeExtendingError: qemu-img, or the storage, did not do it.
        TaskAborted: it was stopped.
    """
    image.sweep(domain, image_id)
    found = _growable(domain, image_id, volume_id)
    wanted = -(-size // volume_metadata.SECTOR) * volume_metadata.SECTOR
    real = volume.virtual_size(domain, image_id, volume_id, found.format)
    if wanted < real:
        raise errors.VolumeResizeValueError(volume=volume_id, size=size, reason=f"it has {real} bytes")
    if wanted > creation.CAPACITY_LIMIT:
        reason = f"it must not exceed {creation.CAPACITY_LIMIT} bytes"
        raise errors.VolumeResizeValueError(volume=volume_id, size=size, reason=reason)

    def failed(reason: str) -> Exception:
        return errors.VolumeExtendingError(volume=volume_id, reason=reason)

    if wanted > real and found.format == volume_metadata.COW:
        source.chain(domain, image.contents(domain, image_id), volume_id, limit)
    path = image.paths(domain, image_id, volume_id).data
    with copying.explained(domain, task, volume_id, failed):
        task.push(steps.extend(domain.id, image_id, volume_id))
        if wanted > real and found.format == volume_metadata.COW:
            tool.resize(path, "qcow2", wanted)
            files.sync(path)
        elif wanted > real or os.lstat(path).st_size != real:
            _grow_raw(domain, found, path, wanted, task)
        if wanted != found.capacity:
            image.write_metadata(domain, image_id, volume_id, dataclasses.replace(found, capacity=wanted))
        task.clear_recoveries()


def _growable(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> volume_metadata.VolumeMetadata:
    held = image.contents(domain, image_id)
    found = image.read_metadata(domain, image_id, volume_id)
    if not held.is_own(volume_id) or found.voltype == volume_metadata.SHARED:
        raise errors.VolumeNonWritable(volume=volume_id, reason="it is a template")
    children = {*held.children(volume_id), *volume.stands_on(domain, held, volume_id)}
    if (children or found.voltype == volume_metadata.INTERNAL) and not found.parent.is_blank:
        raise errors.VolumeNonWritable(volume=volume_id, reason="it is neither a leaf nor a base")
    used = volume.busy(image.paths(domain, image_id, volume_id).data)
    if used and found.format == volume_metadata.COW:
        raise errors.VolumeIsBusy(volume=volume_id, reason=used)
    return found


def _grow_raw(
    domain: image.Domain, found: volume_metadata.VolumeMetadata, path: Path, wanted: int, task: tasks.Task
) -> None:
    start = os.lstat(path).st_size
    if found.type == volume_metadata.PREALLOCATED:
        copying.check_space(domain, wanted - start)
        for place in range(start, wanted, _ALLOCATION_STEP):
            task.check()
            creation.tell_space(task, place - start, wanted - start)
            files.allocate(path, place, min(_ALLOCATION_STEP, wanted - place))
        files.sync(path)
    files.extend(path, wanted)


def set_size(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, size: int) -> None:
    """Write a size into a volume's record and nowhere else; who asks knows that the data has it.

    Args:
        size: bytes, rounded up to a sector. 0, or less, says that the size is not settled; a domain of version 5 can
            say that with 0 only.

    Raises:
        ImageDoesNotExistInSD, VolumeDoesNotExist: there is no such volume.
        InvalidParameterException: it is a template's link, or the size is larger than any file.
        StorageError: see `image.read_metadata` and `image.write_metadata`.
    """
    if size > creation.CAPACITY_LIMIT:
        reason = f"it must not exceed {creation.CAPACITY_LIMIT} bytes"
        raise errors.InvalidParameterException(name="newSize", reason=reason)
    capacity = -(-size // volume_metadata.SECTOR) * volume_metadata.SECTOR
    if size < 0:
        capacity = 0 if domain.version >= 5 else -volume_metadata.SECTOR
    volume.set_capacity(domain, image_id, volume_id, capacity)


def exists(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    """Nothing but a look whether there is such a volume.

    Raises:
        ImageDoesNotExistInSD, VolumeDoesNotExist, ...: see `volume.sizes`.
    """
    image.directory(domain, image_id)
    image.read_metadata(domain, image_id, volume_id)
    volume.sizes(domain, image_id, volume_id)
