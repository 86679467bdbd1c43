"""The volumes' part of raising a domain's version (`storage.domains.conversion` has the whole and the order).

To version 3: a volume's file can be read and written by its group; the capacity of a qcow2 volume is that of its image.
To version 5: first ``CAP`` (bytes) beside ``SIZE`` (sectors), later ``CAP`` alone.

Each image is worked on under its own lock and each record is replaced as a whole, so at every moment every record can
be read in the old version and the new. What cannot be done for one volume (a damaged record, no room in it, an image
that is long in use) is told in words and skipped. A template's record is rewritten in the template's own image, and its
links in other images follow in a second round; a link that a crash left behind says the same in older words.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import os
import stat
from collections.abc import Callable, Iterator

from storage import errors, files, ids
from storage.volumes import image, volume, volume_metadata

log = logging.getLogger(__name__)

Guard = Callable[[ids.ImageId], contextlib.AbstractContextManager[object]]
"""Keeps others from changing an image; raises ResourceTimeout when it is in use for longer."""

_Work = Callable[["_Round", ids.ImageId, ids.VolumeId], None]
_DATA_MODE = 0o660
_WORKERS = 8


class Conversion:
    """Works on all volumes of a domain.

    Args:
        guard: locks one image.
        check: called for each image; what it raises ends the work, between two records.
    """

    def __init__(self, guard: Guard, check: Callable[[], None]) -> None:
        self._guard = guard
        self._check = check

    def prepare(self, member: image.Domain, version: int) -> list[str]:
        """What comes before the domain's record says `version`.

        Returns:
            what was skipped, in words.

        Raises:
            StorageError: the images cannot be listed.
        """
        return self._each(member, {3: _to_version_3, 5: _add_bytes}[version])

    def finish(self, member: image.Domain, version: int) -> list[str]:
        """What comes after it; only version 5 has such a part. Returns and raises as `prepare`."""
        return self._each(member, _drop_sectors)

    def _each(self, member: image.Domain, work: _Work) -> list[str]:
        this = _Round(member, work)
        busy = self._all(this, member.image_ids())
        for image_id in busy:
            if not self._one(this, image_id):
                this.problems.append(f"image {image_id} is in use by a long job")
        this.relink()
        return this.problems

    def _all(self, this: "_Round", image_ids: list[ids.ImageId]) -> list[ids.ImageId]:
        """Work on images, several at a time: nearly all of the time goes into waiting for the disk. Those in use."""
        workers = concurrent.futures.ThreadPoolExecutor(_WORKERS, "conversion")
        try:
            done = list(workers.map(functools.partial(self._one, this), image_ids))
        finally:
            workers.shutdown(cancel_futures=True)
        return [image_id for image_id, worked in zip(image_ids, done, strict=True) if not worked]

    def _one(self, this: "_Round", image_id: ids.ImageId) -> bool:
        self._check()
        try:
            with self._guard(image_id):
                this.run(image_id)
        except errors.ResourceTimeout:
            return False
        return True


class _Round:
    """One pass over a domain.

    Attributes:
        domain: the domain.
        problems: what was skipped.
    """

    def __init__(self, domain: image.Domain, work: _Work) -> None:
        self.domain = domain
        self.problems: list[str] = []
        self._work = work
        self._links: list[tuple[ids.ImageId, ids.ImageId, ids.VolumeId]] = []

    def run(self, image_id: ids.ImageId) -> None:
        """Work on each volume of an image."""
        try:
            found = image.volume_ids(self.domain, image_id)
        except errors.ImageDoesNotExistInSD:
            return
        except errors.StorageError as error:
            self.problems.append(str(error))
            return
        for volume_id in found:
            with self._skipping(image_id, volume_id):
                self._work(self, image_id, volume_id)

    @contextlib.contextmanager
    def _skipping(self, image_id: ids.ImageId, volume_id: ids.VolumeId) -> Iterator[None]:
        try:
            yield
        except errors.VolumeDoesNotExist:
            pass  # deleted meanwhile
        except (errors.StorageError, OSError) as error:
            self.problems.append(f"volume {volume_id} of image {image_id}: {error}")

    def own(
        self, image_id: ids.ImageId, volume_id: ids.VolumeId
    ) -> tuple[bytes, volume_metadata.VolumeMetadata] | None:
        """A volume's record, or None for a template's link, which gets its turn in `relink`."""
        found = image.read_metadata(self.domain, image_id, volume_id)
        if found.image != image_id:
            self._links.append((image_id, found.image, volume_id))
            return None
        return files.read(image.paths(self.domain, image_id, volume_id).meta, volume_metadata.READ_LIMIT), found

    def put(self, image_id: ids.ImageId, volume_id: ids.VolumeId, old: bytes, new: bytes) -> None:
        """Replace a record that differs."""
        if new != old:
            files.replace(image.paths(self.domain, image_id, volume_id).meta, new, image.RECORD_MODE)

    def relink(self) -> None:
        """Make the links of templates' records the records of now."""
        for image_id, owner, volume_id in self._links:
            with self._skipping(image_id, volume_id):
                mine = image.paths(self.domain, owner, volume_id).meta
                if image.read_metadata(self.domain, owner, volume_id).image == owner:
                    with contextlib.suppress(FileNotFoundError):  # that image was deleted meanwhile
                        files.hard_link(mine, image.paths(self.domain, image_id, volume_id).meta)


def _to_version_3(this: _Round, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    if (held := this.own(image_id, volume_id)) is None:
        return
    data, found = held
    path = image.paths(this.domain, image_id, volume_id).data
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    if mode & _DATA_MODE != _DATA_MODE:
        files.set_mode(path, mode | _DATA_MODE)
    if found.format != volume_metadata.COW:
        return
    size = volume.virtual_size(this.domain, image_id, volume_id, found.format)
    if size != found.capacity:
        this.put(image_id, volume_id, data, volume_metadata.encode(dataclasses.replace(found, capacity=size), 0))


def _add_bytes(this: _Round, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    if (held := this.own(image_id, volume_id)) is None:
        return
    data, found = held
    if "CAP" in volume_metadata.inspect(data)[0]:
        return
    try:
        this.put(image_id, volume_id, data, volume_metadata.encode_both(found))
    except errors.MetadataOverflowError:
        # A long description leaves no room for both; with the old key alone it can be read in the new version, too.
        log.debug("volume %s goes to version 5 without the step between", volume_id)


def _drop_sectors(this: _Round, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    if (held := this.own(image_id, volume_id)) is not None:
        data, found = held
        this.put(image_id, volume_id, data, volume_metadata.encode(found, 5))
