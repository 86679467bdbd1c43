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

from storage import errors, files, ids, imagelock, qcow2, record, volume_metadata
from storage import image as image_files

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


def look(directory: Path, image: ids.ImageId, domain: ids.DomainId) -> Sight:
    """Read all volumes of an image.

    Raises:
        ImageDoesNotExistInSD: there is no such directory.
        ImagePathError: it cannot be read.
    """
    try:
        volumes = _volumes(files.names(directory))
    except FileNotFoundError:
        raise errors.ImageDoesNotExistInSD(image=image, domain=domain) from None
    except OSError as error:
        raise errors.ImagePathError(image=image, reason=error.strerror) from error
    found = {volume: _read(directory, volume, image) for volume in volumes}
    return Sight(image, directory, {volume: _crossed(here, found) for volume, here in found.items()})


def _volumes(names: Iterable[str]) -> list[ids.VolumeId]:
    """Ids that appear as a data file or as a metadata file: a volume that lost one of the two is still a volume."""
    stems = {name.removesuffix(image_files.META_SUFFIX) for name in names}
    return [ids.VolumeId(stem) for stem in sorted(stems) if ids.is_id(stem)]


def _read(directory: Path, volume: ids.VolumeId, image: ids.ImageId) -> record.Record:
    metadata, faults = _metadata(directory / f"{volume}{image_files.META_SUFFIX}", volume)
    here = record.Record(volume, metadata=metadata, faults=tuple(faults))
    if metadata is None:
        return _with_file(here, directory / volume, image)
    own = metadata.image == image
    if not own and metadata.voltype != volume_metadata.SHARED:
        faults.append(record.foreign(volume, metadata.image))
    if metadata.format == volume_metadata.RAW and not metadata.parent.is_blank:
        faults.append(record.raw_with_parent(volume, metadata.parent))
    return _with_file(dataclasses.replace(here, own=own, faults=tuple(faults)), directory / volume, image)


def _metadata(path: Path, volume: ids.VolumeId) -> tuple[volume_metadata.VolumeMetadata | None, list[record.Fault]]:
    try:
        return volume_metadata.parse(files.read(path, volume_metadata.READ_LIMIT)), []
    except FileNotFoundError:
        return None, [record.metadata_fault(volume, "it is missing")]
    except OSError as error:
        return None, [record.metadata_fault(volume, str(error.strerror))]
    except errors.StorageError as error:
        return None, [record.metadata_fault(volume, str(error))]


def _with_file(here: record.Record, path: Path, image: ids.ImageId) -> record.Record:
    """The record with what the data file tells."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else str(error.strerror)
        return _faulty(here, record.data_fault(here.volume, reason))
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return _faulty(here, record.data_fault(here.volume, "it is not a regular file"))
        here = dataclasses.replace(
            here, size=info.st_size, allocated=info.st_blocks * 512, mtime_ns=info.st_mtime_ns, inode=info.st_ino
        )
        if here.metadata is None or here.metadata.format != volume_metadata.COW:
            return here
        return _with_header(here, qcow2.read_header(fd, info.st_size), image)
    except qcow2.HeaderError as error:
        return _faulty(here, record.header_fault(here.volume, error.reason))
    except OSError as error:
        return _faulty(here, record.data_fault(here.volume, str(error.strerror)))
    finally:
        os.close(fd)


def _with_header(here: record.Record, header: qcow2.Header, image: ids.ImageId) -> record.Record:
    text = header.backing_name
    link = record.link_of(text, image) if text is not None else None
    faults = record.header_faults(here.volume, header, image)
    here = dataclasses.replace(here, link=link, text=text, backing_format=header.backing_format)
    return _faulty(here, *faults)


def _crossed(here: record.Record, found: Mapping[ids.VolumeId, record.Record]) -> record.Record:
    """The record after its header was compared with what the backing volume's metadata says."""
    backing = found.get(here.link) if here.link else None
    if backing is None or backing.metadata is None or here.backing_format is None:
        return here
    recorded = _FORMATS[backing.metadata.format]
    if here.backing_format == recorded:
        return here
    return _faulty(here, record.backing_format_fault(here.volume, backing.volume, here.backing_format, recorded))


def _faulty(here: record.Record, *faults: record.Fault) -> record.Record:
    return dataclasses.replace(here, faults=(*here.faults, *faults))


def in_use(sight: Sight, volumes: Iterable[ids.VolumeId]) -> dict[ids.VolumeId, imagelock.Holders]:
    """Volumes of these that a live process has open. A template's link does not count: other images may run on it."""
    found = {}
    for volume in volumes:
        here = sight.records[volume]
        if here.own and not any(fault.name == "data-missing" for fault in here.faults):
            holders = imagelock.holders(sight.directory / volume)
            if holders:
                found[volume] = holders
    return found
