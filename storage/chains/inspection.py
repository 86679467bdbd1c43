"""The look at an image: every volume of its directory, metadata and header, as it is on storage now. Reads only.

Reads the image's own directory and nothing else, so the cost grows with the chain, not with the domain. Opens each
volume once, without following links; never guesses a format; never runs a program.
"""

import dataclasses
import errno
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from storage import errors, files, ids
from storage.chains import record
from storage.qemu import allocation, imagelock, qcow2
from storage.volumes import image as image_files, volume_metadata

NEVER = 1 << 63
"""Nanoseconds: later than anything, for a time that could not be read."""

_FORMATS = {volume_metadata.COW: "qcow2", volume_metadata.RAW: "raw"}


@dataclasses.dataclass(frozen=True)
class Sight:
    """What the look found.

    Attributes:
        image: whose volumes these are.
        directory: where they are.
        records: all of them by id, also damaged ones and links of a template.
    """

    image: ids.ImageId
    directory: Path
    records: Mapping[ids.VolumeId, record.Record]

    @property
    def paths(self) -> dict[ids.VolumeId, Path]:
        """Data file of each volume."""
        return {volume: self.directory / volume for volume in self.records}

    def data_files(self) -> dict[ids.VolumeId, tuple[int, int]]:
        """Length in bytes and time of the last write (ns) of each data file that belongs to this image alone."""
        return {v: (here.size, here.mtime_ns) for v, here in self.records.items() if here.own and not here.gone}


def look(directory: Path, image: ids.ImageId, domain: ids.DomainId) -> Sight:
    """Read all volumes of an image.

    Raises:
        ImageDoesNotExistInSD: there is no such directory.
        ImagePathError: it cannot be read.
        ImageValidationError: it is a symbolic link, or something else.
    """
    try:
        if not stat.S_ISDIR(os.lstat(directory).st_mode):
            raise errors.ImageValidationError(object=f"image {image}", reason="it is not a directory")
        volumes = _volumes(files.names(directory))
    except FileNotFoundError:
        raise errors.ImageDoesNotExistInSD(image=image, domain=domain) from None
    except OSError as error:
        raise errors.ImagePathError(image=image, reason=error.strerror) from error
    place = str(directory)  # joining paths as objects would be a sixth of the work
    found = {volume: _read(f"{place}/{volume}", volume, image) for volume in volumes}
    return Sight(image, directory, {volume: _crossed(here, found) for volume, here in found.items()})


def _volumes(names: Iterable[str]) -> list[ids.VolumeId]:
    """Ids that appear as a data file or as a metadata file: a volume that lost one of the two is still a volume."""
    stems = {name.removesuffix(image_files.META_SUFFIX) for name in names}
    return [ids.VolumeId.known(stem) for stem in sorted(stems) if ids.is_id(stem)]


@dataclasses.dataclass(frozen=True)
class _File:
    """What the data file tells."""

    size: int = 0
    allocated: int = 0
    mtime_ns: int = 0
    inode: int = 0
    header: qcow2.Header | None = None
    fault: record.Fault | None = None
    gone: bool = False


def _read(data: str, volume: ids.VolumeId, image: ids.ImageId) -> record.Record:
    path = f"{data}{image_files.META_SUFFIX}"
    metadata, faults = _metadata(path, volume, image)
    found = _file(data, volume, metadata)
    if found.fault is not None and not (metadata is None and found.fault.name == "header-unreadable"):
        faults.append(found.fault)
    text = backing_format = link = None
    if found.header is not None:
        text, backing_format = found.header.backing_name, found.header.backing_format
        link = None if text is None else record.link_of(text, image)
        faults += record.header_faults(volume, found.header, link)
    return record.Record(
        volume=volume,
        own=metadata is None or metadata.image == image,
        metadata=metadata,
        link=link,
        text=text,
        backing_format=backing_format,
        faults=tuple(faults),
        gone=found.gone,
        size=found.size,
        allocated=found.allocated,
        mtime_ns=found.mtime_ns,
        inode=found.inode,
        marked_ns=_marked(path, metadata),
    )


def _metadata(
    path: str, volume: ids.VolumeId, image: ids.ImageId
) -> tuple[volume_metadata.VolumeMetadata | None, list[record.Fault]]:
    try:
        metadata = volume_metadata.parse(files.read(path, volume_metadata.READ_LIMIT))
    except FileNotFoundError:
        return None, [record.metadata_fault(volume, "it is missing")]
    except OSError as error:
        return None, [record.metadata_fault(volume, str(error.strerror))]
    except errors.StorageError as error:
        return None, [record.metadata_fault(volume, str(error))]
    faults = []
    if metadata.image != image and metadata.voltype != volume_metadata.SHARED:
        faults.append(record.foreign(volume, metadata.image))
    if metadata.format == volume_metadata.RAW and not metadata.parent.is_blank:
        faults.append(record.raw_with_parent(volume, metadata.parent))
    if metadata.legality == volume_metadata.ILLEGAL and volume_metadata.UNFINISHED in metadata.extra:
        faults.append(record.transfer_unfinished(volume))
    return metadata, faults


def _marked(path: str, metadata: volume_metadata.VolumeMetadata | None) -> int:
    """When an ILLEGAL volume got its mark, or its record was last written for another reason."""
    if metadata is None or metadata.legality != volume_metadata.ILLEGAL:
        return 0
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return NEVER


def _file(path: str, volume: ids.VolumeId, metadata: volume_metadata.VolumeMetadata | None) -> _File:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else str(error.strerror)
        return _File(fault=record.data_fault(volume, reason), gone=error.errno == errno.ENOENT)
    header = fault = None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return _File(fault=record.data_fault(volume, "it is not a regular file"))
        if metadata is None or metadata.format == volume_metadata.COW:
            header = qcow2.read_header(fd, info.st_size)
        # Without metadata the format is not known. Then a header is read for its link alone, and proves nothing.
        if metadata is None and header is not None and _holds_nothing(fd, header, info.st_size):
            header = None
    except qcow2.HeaderError as error:
        fault = record.header_fault(volume, error.reason)
    except OSError as error:
        return _File(fault=record.data_fault(volume, str(error.strerror)))
    finally:
        os.close(fd)
    return _File(info.st_size, info.st_blocks * 512, info.st_mtime_ns, info.st_ino, header, fault)


def _holds_nothing(fd: int, header: qcow2.Header, size: int) -> bool:
    """Whether an image has not a single table, as one whose making was interrupted: nobody needs what it stands on."""
    try:
        return not allocation.of_qcow2(fd, header, size, l2_limit=0)
    except qcow2.FormatError:
        return False


def _crossed(here: record.Record, found: Mapping[ids.VolumeId, record.Record]) -> record.Record:
    """The record after its header was compared with what the backing volume's metadata says."""
    backing = found.get(here.link) if here.link else None
    if backing is None or backing.metadata is None or here.backing_format is None:
        return here
    recorded = _FORMATS[backing.metadata.format]
    if here.backing_format == recorded:
        return here
    fault = record.backing_format_fault(here.volume, backing.volume, here.backing_format, recorded)
    return dataclasses.replace(here, faults=(*here.faults, fault))


def in_use(sight: Sight, volumes: Iterable[ids.VolumeId]) -> dict[ids.VolumeId, imagelock.Holders]:
    """Volumes of these that a live process has open. A template's link does not count: other images may run on it."""
    found = {}
    for volume in volumes:
        here = sight.records[volume]
        if here.own and not any(fault.name == "data-missing" for fault in here.faults):
            holders = imagelock.holders(f"{sight.directory}/{volume}")
            if holders:
                found[volume] = holders
    return found
