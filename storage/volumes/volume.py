"""One volume: what its files say, and changes of its record. Making one is in `creation`, deleting in `deletion`."""

import contextlib
import dataclasses
import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from storage import errors, files, ids
from storage.qemu import imagelock, qcow2
from storage.volumes import image, template, volume_metadata

_NOT_IN_USE = (errno.ENOENT, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ENOLCK, errno.EOPNOTSUPP)

_MAGIC = b"QFI\xfb"

QEMU_FORMATS = {volume_metadata.COW: "qcow2", volume_metadata.RAW: "raw"}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of a data file: its length, and what it takes on the storage."""

    apparent: int
    allocated: int


def sizes(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> Sizes:
    """Sizes of a volume's data file, which no record is asked for.

    Raises:
        VolumeDoesNotExist: there is no data.
        ImageValidationError: the data is a symbolic link or not a regular file.
        VolumeAccessError: the storage did not let it be looked at.
    """
    path = image.paths(domain, image_id, volume_id).data
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise errors.VolumeDoesNotExist(volume=volume_id, image=image_id) from None
    except OSError as error:
        raise errors.VolumeAccessError(volume=volume_id, reason=error.strerror) from error
    if not stat.S_ISREG(info.st_mode):
        raise errors.ImageValidationError(object=f"data of volume {volume_id}", reason="it is not a regular file")
    return Sizes(info.st_size, info.st_blocks * 512)


def header(path: Path) -> qcow2.Header:
    """The header of a qcow2 volume.

    Raises:
        qcow2.HeaderError: it cannot be used.
        OSError: the file cannot be opened; ELOOP for a symbolic link.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return qcow2.read_header(fd, info.st_size)
    finally:
        os.close(fd)


def is_qcow2(path: Path) -> bool:
    """Whether data that is called COW begins like qcow2. Memory of machines is called so by vdsm 3.5 and does not."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(fd, len(_MAGIC), 0) == _MAGIC
    finally:
        os.close(fd)


def virtual_size(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, volume_format: str) -> int:
    """Bytes that a guest sees of this volume, whole sectors, by the data itself.

    Raises:
        VolumeDoesNotExist, VolumeAccessError: see `sizes`.
        ImageValidationError: it is no image of that format, or one that must not be relied on.
    """
    found = sizes(domain, image_id, volume_id)
    if volume_format == volume_metadata.RAW:
        return -(-found.apparent // volume_metadata.SECTOR) * volume_metadata.SECTOR
    name = f"data of volume {volume_id}"
    try:
        head = header(image.paths(domain, image_id, volume_id).data)
    except qcow2.HeaderError as error:
        raise errors.ImageValidationError(object=name, reason=error.reason) from None
    except OSError as error:
        raise errors.VolumeAccessError(volume=volume_id, reason=error.strerror) from error
    if head.objections:
        raise errors.ImageValidationError(object=name, reason="; ".join(head.objections))
    return head.virtual_size


def stands_on(domain: image.Domain, held: image.Contents, volume_id: ids.VolumeId) -> list[ids.VolumeId]:
    """Own volumes whose qcow2 header names this volume as backing, however the name is spelt.

    What has no readable header names nobody: data that is gone, raw data, damage.
    """
    return [other for other in held.own() if other != volume_id and _names(domain, held, other, volume_id)]


def _names(domain: image.Domain, held: image.Contents, volume_id: ids.VolumeId, backing: ids.VolumeId) -> bool:
    if volume_id in held.records and held.records[volume_id].format == volume_metadata.RAW:
        return False  # whatever a guest wrote at the start of its disk
    try:
        name = header(image.paths(domain, held.image, volume_id).data).backing_name
    except (qcow2.HeaderError, OSError):
        return False
    return name is not None and backing in name


def derive_type(
    domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, going: Collection[ids.VolumeId] = ()
) -> None:
    """Make a volume's ``VOLTYPE`` what its children say: internal with any, leaf without. Repeatable.

    A template stays one, and what is not there or belongs to another image is left alone.

    Args:
        going: children that do not count any more.
    """
    held = image.contents(domain, image_id)
    found = held.records.get(volume_id)
    if found is None or not held.is_own(volume_id) or found.voltype == volume_metadata.SHARED:
        return
    children = [child for child in held.children(volume_id) if child not in going]
    has_any = any(_counts(domain, held, child, {volume_id}) for child in children)
    wanted = volume_metadata.INTERNAL if has_any else volume_metadata.LEAF
    if found.voltype != wanted:
        image.write_metadata(domain, image_id, volume_id, dataclasses.replace(found, voltype=wanted))


def _counts(domain: image.Domain, held: image.Contents, child: ids.VolumeId, seen: set[ids.VolumeId]) -> bool:
    """Whether a child makes its parent internal: not when it is half deleted, or was dropped from the chain.

    A dropped volume is ILLEGAL and no leaf any more, and nobody in use stands on it.
    """
    if child in seen or not os.path.lexists(image.paths(domain, held.image, child).data):
        return False
    found = held.records.get(child)
    if found is None or found.legality != volume_metadata.ILLEGAL or found.voltype == volume_metadata.LEAF:
        return True
    return any(_counts(domain, held, other, {*seen, child}) for other in held.children(child))


def busy(path: Path, *, writers_only: bool = False) -> str | None:
    """How a live process uses an image file, or None.

    What is gone, is no regular file, or lies where there are no such locks is not in use as far as anybody can tell.

    Args:
        writers_only: whoever only reads does not count.

    Raises:
        VolumeAccessError: it could not be asked, which is not the same.
    """
    try:
        found = imagelock.holders(path)
    except OSError as error:
        if error.errno in _NOT_IN_USE:
            return None
        raise errors.VolumeAccessError(volume=path.name, reason=error.strerror) from error
    return _use(found, writers_only=writers_only)


@contextlib.contextmanager
def reserved(paths: Iterable[Path]) -> Iterator[None]:
    """Have nobody open these image files during a block, neither now nor while it runs: no qemu can, our own included.

    For changes after which whoever opened a file a moment ago would be left with one that nobody sees any more. What
    is no image that could be opened is passed over, as by `busy`.

    Raises:
        VolumeIsBusy: a live process has one open.
        VolumeAccessError: it could not be asked.
    """
    with contextlib.ExitStack() as stack:
        for path in paths:
            try:
                found = stack.enter_context(imagelock.reserved(path))
            except OSError as error:
                if error.errno in _NOT_IN_USE:
                    continue
                raise errors.VolumeAccessError(volume=path.name, reason=error.strerror) from error
            if used := _use(found):
                raise errors.VolumeIsBusy(volume=path.name, reason=used)
        yield


def _use(found: imagelock.Holders, *, writers_only: bool = False) -> str | None:
    if found.writer:
        return "a live process has it open for writing"
    return "a live process has it open" if found.readers and not writers_only else None


def info(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> dict[str, object]:
    """Wire form of getVolumeInfo. A record that cannot be read is no failure but the status ``INVALID``.

    Raises:
        ImageDoesNotExistInSD, ImagePathError, VolumeDoesNotExist, VolumeMetadataReadError: see `image`.
    """
    image.directory(domain, image_id)
    try:
        found = image.read_metadata(domain, image_id, volume_id)
    except (errors.MetaDataValidationError, errors.ImageValidationError):
        return {"apparentsize": "0", "truesize": "0", "status": "INVALID", "children": []}
    try:
        size = sizes(domain, image_id, volume_id)
        status = "OK"
    except (errors.VolumeDoesNotExist, errors.ImageValidationError):
        size, status = Sizes(0, 0), "INVALID"
    if found.legality == volume_metadata.ILLEGAL:
        status = "ILLEGAL"
    return {
        "uuid": str(volume_id),
        "type": found.type,
        "format": found.format,
        "disktype": found.disktype,
        "voltype": found.voltype,
        "capacity": str(found.capacity),
        "parent": str(found.parent),
        "description": found.description,
        "pool": "",
        "domain": str(found.domain),
        "image": str(found.image),
        "ctime": str(found.ctime),
        "mtime": "0",
        "legality": found.legality,
        "apparentsize": str(size.apparent),
        "truesize": str(size.allocated),
        "status": status,
        "children": [],
    }


def set_legality(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, legality: str) -> None:
    """Mark a volume.

    Raises:
        InvalidParameterException: no legality, or a template's link, whose record is that of the template's image.
        StorageError: see `image.read_metadata` and `image.write_metadata`.
    """
    if legality not in volume_metadata.LEGALITIES:
        reason = f"{legality!r:.40} is none of {', '.join(volume_metadata.LEGALITIES)}"
        raise errors.InvalidParameterException(name="legality", reason=reason)
    found = _changeable(domain, image_id, volume_id)
    # Whoever calls it LEGAL knows; the next ILLEGAL then means what it means everywhere.
    still = legality == volume_metadata.ILLEGAL
    extra = {key: value for key, value in found.extra.items() if still or key != volume_metadata.UNFINISHED}
    _change(domain, image_id, volume_id, found, dataclasses.replace(found, legality=legality, extra=extra))


def set_description(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, text: str) -> None:
    """Describe a volume; blanks at both ends are not kept.

    Raises:
        InvalidParameterException: a character that a record cannot hold, or a template's link.
        MetadataOverflowError: the text is too long. Nothing is cut, because somebody typed it.
        StorageError: see `image.read_metadata` and `image.write_metadata`.
    """
    check_text("description", text)
    found = _changeable(domain, image_id, volume_id)
    changed = dataclasses.replace(found, description=text.strip())
    size = len(changed.description.encode())
    if size > volume_metadata.DESCRIPTION_LIMIT:
        limit = volume_metadata.DESCRIPTION_LIMIT
        raise errors.MetadataOverflowError(object=f"description of volume {volume_id}", size=size, limit=limit)
    volume_metadata.encode(changed, domain.version)
    _change(domain, image_id, volume_id, found, changed)


def set_capacity(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, capacity: int) -> None:
    """Record a capacity, in bytes, whatever the data has; a value below 1 says that it is not settled.

    Raises:
        InvalidParameterException: a template's link.
        StorageError: see `image.read_metadata` and `image.write_metadata`.
    """
    found = _changeable(domain, image_id, volume_id)
    _change(domain, image_id, volume_id, found, dataclasses.replace(found, capacity=capacity))


def check_text(name: str, text: str) -> None:
    """Refuse a text that a line-based record cannot hold; raises InvalidParameterException."""
    if (bad := volume_metadata.unsafe_character(text)) is not None:
        raise errors.InvalidParameterException(name=name, reason=f"it holds {bad}, which no record can keep")


def _changeable(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> volume_metadata.VolumeMetadata:
    image.directory(domain, image_id)
    found = image.read_metadata(domain, image_id, volume_id)
    if found.image != image_id:
        reason = f"volume {volume_id} is a template of image {found.image}; name that image to change it"
        raise errors.InvalidParameterException(name="image id", reason=reason)
    return found


def _change(
    domain: image.Domain,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    found: volume_metadata.VolumeMetadata,
    changed: volume_metadata.VolumeMetadata,
) -> None:
    """Write order: the record, then, of a template, its links in other images. A crash leaves the old or the new record
    here, and maybe older ones in other images until the next change; so a template is relinked even without one."""
    if changed != found:
        image.write_metadata(domain, image_id, volume_id, changed)
    if changed.voltype == volume_metadata.SHARED:
        template.relink(domain, image_id, volume_id)


def unlink_files(names: Collection[Path]) -> list[str]:
    """Remove each name; what could not be removed, for people. One failure does not keep the others."""
    failed = []
    for name in names:
        try:
            files.unlink(name)
        except OSError as error:
            failed.append(f"{name.name}: {error.strerror}")
    return failed
