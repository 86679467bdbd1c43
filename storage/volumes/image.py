"""An image's directory: which volumes it holds, what their records say, who stands on whom.

A volume is three files of one name: ``<volume>`` (data), ``<volume>.meta`` (record) and, where the domain has leases,
``<volume>.lease``. A volume is listed by its record. A template appears in each image made from it as hard links of all
three; whose volume it is stands in the record (``IMAGE=``) and is never guessed from what else the directory holds.

Everything here looks at one directory, the one that the image's lock covers, and follows no symbolic link in it.
"""

import dataclasses
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from storage import errors, files, ids, layout
from storage.volumes import volume_metadata

META_SUFFIX = ".meta"
LEASE_SUFFIX = ".lease"

RECORD_MODE = 0o644
"""Records are read by other services of the host, too."""

_CLAIM = re.compile(rf"(?P<volume>.{{36}})\.(?P<task>.{{36}}){re.escape(files.TEMPORARY_SUFFIX)}", re.ASCII)
_NOT_A_RECORD = (errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.EISDIR, errno.ENXIO)


class Domain(Protocol):
    """What volumes and images need to know of their domain."""

    @property
    def id(self) -> ids.DomainId: ...
    @property
    def path(self) -> Path: ...
    @property
    def version(self) -> int: ...
    @property
    def domain_class(self) -> str: ...
    @property
    def has_leases(self) -> bool: ...
    def image_ids(self) -> list[ids.ImageId]: ...
    def image_directory(self, image_id: ids.ImageId) -> Path: ...
    def space(self) -> tuple[int, int]: ...


@dataclasses.dataclass(frozen=True)
class Paths:
    """The files of one volume, whether they exist or not."""

    data: Path
    meta: Path
    lease: Path

    @property
    def all(self) -> tuple[Path, Path, Path]:
        return (self.data, self.meta, self.lease)


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A record that cannot be used.

    Attributes:
        reason: what is wrong with it.
        values: what can be read of it all the same, by its keys on disk.
    """

    reason: str
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Contents:
    """All records of an image's directory, read at one time.

    Attributes:
        image: the image.
        records: readable records, the links of templates among them.
        damaged: the others.
    """

    image: ids.ImageId
    records: Mapping[ids.VolumeId, volume_metadata.VolumeMetadata]
    damaged: Mapping[ids.VolumeId, Damaged]

    def __contains__(self, volume_id: ids.VolumeId) -> bool:
        return volume_id in self.records or volume_id in self.damaged

    def is_own(self, volume_id: ids.VolumeId) -> bool:
        """Whether the volume belongs to this image, as opposed to a template's link. A damaged one counts as own."""
        return volume_id in self.damaged or self.records[volume_id].image == self.image

    def own(self) -> list[ids.VolumeId]:
        """The image's own volumes, sorted."""
        return sorted(volume_id for volume_id in (*self.records, *self.damaged) if self.is_own(volume_id))

    def children(self, volume_id: ids.VolumeId) -> list[ids.VolumeId]:
        """Own volumes whose record names this one as parent; of damaged records whatever parent can be read counts."""
        found = [v for v in self.own() if self._parent(v) == volume_id]
        return [child for child in found if child != volume_id]

    def _parent(self, volume_id: ids.VolumeId) -> str | None:
        if volume_id in self.records:
            return self.records[volume_id].parent
        return self.damaged[volume_id].values.get("PUUID")


def paths(domain: Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> Paths:
    """Where the files of a volume are."""
    directory = domain.image_directory(image_id)
    return Paths(
        data=directory / volume_id,
        meta=directory / f"{volume_id}{META_SUFFIX}",
        lease=directory / f"{volume_id}{LEASE_SUFFIX}",
    )


def directory(domain: Domain, image_id: ids.ImageId) -> Path:
    """The image's directory, after a look that it is one.

    Raises:
        ImageDoesNotExistInSD: there is nothing of that name.
        ImagePathError: it cannot be looked at, or is something else.
    """
    path = domain.image_directory(image_id)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        raise errors.ImageDoesNotExistInSD(image=image_id, domain=domain.id) from None
    except OSError as error:
        raise errors.ImagePathError(image=image_id, reason=error.strerror) from error
    if not stat.S_ISDIR(mode):
        raise errors.ImagePathError(image=image_id, reason="it is not a directory")
    return path


def volume_ids(domain: Domain, image_id: ids.ImageId) -> list[ids.VolumeId]:
    """Volumes of an image, a template's link included, sorted; names that are no volume's are passed over.

    Raises:
        ImageDoesNotExistInSD, ImagePathError: see `directory`. An image that could not be listed is never an empty one.
    """
    try:
        found = files.names(directory(domain, image_id))
    except OSError as error:
        raise errors.ImagePathError(image=image_id, reason=error.strerror) from error
    return sorted(ids.VolumeId(stem) for stem in _stems(found))


def every_volume(domain: Domain) -> set[str]:
    """Volumes of all images of a domain, each once, as text: `volume_ids` without what it costs ten thousand times.

    An image that is removed meanwhile has none.

    Raises:
        ImagePathError: an image could not be listed.
        StorageError: as ``domain.image_ids``.
    """
    found: set[str] = set()
    place = f"{layout.images(domain.path)}/"
    for image_id in domain.image_ids():
        try:
            fd = os.open(place + image_id, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found.update(_stems(os.listdir(fd)))
            finally:
                os.close(fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise errors.ImagePathError(image=image_id, reason=error.strerror) from error
    return found


def _stems(names: Iterable[str]) -> list[str]:
    """The volumes whose records are among the names."""
    stems = [name.removesuffix(META_SUFFIX) for name in names if name.endswith(META_SUFFIX)]
    return [stem for stem in stems if ids.is_id(stem)]


def contents(domain: Domain, image_id: ids.ImageId) -> Contents:
    """Every record of an image.

    Raises:
        ImageDoesNotExistInSD, ImagePathError: see `directory`.
        VolumeMetadataReadError: the storage did not let a record be read, so nobody knows who stands on whom.
    """
    records: dict[ids.VolumeId, volume_metadata.VolumeMetadata] = {}
    damaged: dict[ids.VolumeId, Damaged] = {}
    for volume_id in volume_ids(domain, image_id):
        try:
            data = _load(domain, image_id, volume_id)
            records[volume_id] = volume_metadata.parse(data)
        except errors.VolumeDoesNotExist:
            continue  # went away since it was listed
        except errors.ImageValidationError as error:
            damaged[volume_id] = Damaged(error.fields["reason"], {})
        except errors.MetaDataValidationError as error:
            damaged[volume_id] = Damaged(error.fields["reason"], volume_metadata.inspect(data)[0])
    return Contents(image_id, records, damaged)


def children(domain: Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> list[ids.VolumeId]:
    """Own volumes of an image whose record names this volume as parent."""
    return contents(domain, image_id).children(volume_id)


def read_metadata(domain: Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> volume_metadata.VolumeMetadata:
    """The record of one volume.

    Raises:
        VolumeDoesNotExist: there is no record.
        ImageValidationError: the record is a symbolic link, not a regular file, or far too long.
        VolumeMetadataReadError: the storage did not let it be read.
        MetaDataValidationError: it makes no sense.
    """
    data = _load(domain, image_id, volume_id)
    try:
        return volume_metadata.parse(data)
    except errors.MetaDataValidationError as error:
        reason = error.fields["reason"]
        raise errors.MetaDataValidationError(object=f"record of volume {volume_id}", reason=reason) from None


def _load(domain: Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> bytes:
    try:
        return files.read(paths(domain, image_id, volume_id).meta, volume_metadata.READ_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        raise errors.VolumeDoesNotExist(volume=volume_id, image=image_id) from None
    except OSError as error:
        if error.errno in _NOT_A_RECORD:
            name = f"record of volume {volume_id}"
            raise errors.ImageValidationError(object=name, reason=error.strerror) from error
        raise errors.VolumeMetadataReadError(volume=volume_id, reason=error.strerror) from error


def write_metadata(
    domain: Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, metadata: volume_metadata.VolumeMetadata
) -> None:
    """Replace the record of a volume; afterwards, and after any crash, it is the old or the new one as a whole.

    A description from times without a limit is cut to what fits. Replacing breaks hard links: who writes a template's
    record has to relink it (`template.relink`).

    Raises:
        VolumeMetadataWriteError: the storage refused.
        MetaDataValidationError, MetadataOverflowError: see `volume_metadata.encode`; nothing was written.
    """
    data = encoded(metadata, domain.version, volume_id)
    try:
        files.replace(paths(domain, image_id, volume_id).meta, data, RECORD_MODE)
    except OSError as error:
        raise errors.VolumeMetadataWriteError(volume=volume_id, reason=error.strerror) from error


def encoded(metadata: volume_metadata.VolumeMetadata, version: int, volume_id: ids.VolumeId) -> bytes:
    """The bytes of a record that must fit, whatever its description."""
    try:
        return volume_metadata.encode(volume_metadata.fitted(metadata, version), version)
    except errors.MetaDataValidationError as error:
        name = f"record of volume {volume_id}"
        raise errors.MetaDataValidationError(object=name, reason=error.fields["reason"]) from None


# ---------------------------------------------------------------- what interrupted work leaves behind


def claim_name(volume_id: ids.VolumeId, task_id: ids.TaskId) -> str:
    """Name of the second link by which a task proves that it made a volume's data file (see `creation`)."""
    return f"{volume_id}.{task_id}{files.TEMPORARY_SUFFIX}"


def sweep(domain: Domain, image_id: ids.ImageId) -> int:
    """Remove temporaries that writers left, and return their number. The caller holds the image's lock.

    A claim stays as long as its volume is not complete: the rollback of its task needs it.

    Raises:
        ImageDoesNotExistInSD, ImagePathError: see `directory`.
    """
    place = directory(domain, image_id)
    try:
        return sum(files.unlink(place / name) for name in _leftovers(place))
    except OSError as error:
        raise errors.ImagePathError(image=image_id, reason=error.strerror) from error


def _leftovers(place: Path) -> Iterator[str]:
    for name in sorted(os.listdir(place)):
        if not name.endswith(files.TEMPORARY_SUFFIX):
            continue
        claim = _CLAIM.fullmatch(name)
        if claim is None or os.path.lexists(place / f"{claim['volume']}{META_SUFFIX}"):
            yield name
