"""Building an image aside and putting it in its place as a whole, so that no half-made image is ever seen.

The *place* is a directory ``<image>.<task>.new`` beside the images; every scan passes over such names. It holds data,
leases, and at the very end the records, which start ``LEGAL`` for the reason that nobody can see them before all data
is on disk. An image that is to be overwritten stays untouched meanwhile. Then:

1. the old image, if there is one, gets the name ``<image>.<task>.old.new``;
2. the place gets the name of the image: from here on the image exists;
3. whoever builds clears his recoveries, or goes on with what makes the building final (`moving`);
4. the marker, an empty file ``<task>.new`` within the image, and the old image go.

The recovery (`undo`) is pushed before the place is made and asks the disk how far it came:

====================  ======================================================================================
found                 done
====================  ======================================================================================
the place             it goes; an old image that had stepped aside gets its name back
the image, marked     it is ours. Of a move whose original is gone it stays; else it goes, the old one comes back
neither               nothing was begun, or all of it is undone
====================  ======================================================================================

A crash between 1 and 2 leaves an image that is missing until the recovery ran; both directories are complete then.
The marker proves who made an image, so the rollback of one task never removes the work of another.
"""

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from storage import errors, files, ids, layout
from storage.jobs import recovery, tasks
from storage.volumes import image, steps, volume, volume_metadata

log = logging.getLogger(__name__)

_OLD = ".old"


class _Finder(Protocol):
    def find(self, domain_id: ids.DomainId) -> image.Domain: ...


class Services(Protocol):
    """What the recovery needs of the services."""

    @property
    def domains(self) -> _Finder: ...


class Staging:
    """An image being built. It looks like the domain, with the place instead of the image's own directory.

    Args:
        domain: where the image is to be.
        image_id: the image.
        task: whose work it is; the caller holds the image's lock exclusively.
        has_leases: whether volumes get leases; None: as the domain says.
    """

    def __init__(
        self, domain: image.Domain, image_id: ids.ImageId, task: tasks.Task, *, has_leases: bool | None = None
    ) -> None:
        self._domain = domain
        self.image = image_id
        self.task = task
        self.id = domain.id
        self.path = domain.path
        self.version = domain.version
        self.domain_class = domain.domain_class
        self.has_leases = domain.has_leases if has_leases is None else has_leases
        self.place = place_of(domain, image_id, task.id)

    def image_ids(self) -> list[ids.ImageId]:
        return self._domain.image_ids()

    def image_directory(self, image_id: ids.ImageId) -> Path:
        return self.place if image_id == self.image else self._domain.image_directory(image_id)

    def space(self) -> tuple[int, int]:
        return self._domain.space()

    def open(self, original: ids.DomainId | None = None) -> None:
        """Make the place.

        Args:
            original: domain that the image is moved from; None for a copy.
        """
        sweep(self._domain, self.image)
        self.task.push(steps.staged(self.id, self.image, original))
        files.make_directory(self.place)
        files.create(self.place / _marker(self.task.id))

    def publish(self, records: Mapping[ids.VolumeId, volume_metadata.VolumeMetadata]) -> None:
        """Write the records, and put the image in its place; an image that is there steps aside.

        All data must be on disk.
        """
        self.task.check()
        for volume_id, metadata in records.items():
            data = image.encoded(metadata, self.version, volume_id)
            files.create(image.paths(self, self.image, volume_id).meta, data, mode=image.RECORD_MODE)
        final = self._domain.image_directory(self.image)
        with _unused(self._domain, self.image):
            if os.path.lexists(final):
                files.rename(final, _old(self._domain, self.image, self.task.id))
            files.rename(self.place, final)

    def close(self) -> None:
        """Remove what proves whose work it was, and the image that was overwritten; repeatable."""
        _tidy(self._domain, self.image, self.task.id)

    @property
    def rest(self) -> recovery.Recovery:
        """The step that closes it, once it is to stay."""
        return steps.finish_staged(self.id, self.image)


def _tidy(domain: image.Domain, image_id: ids.ImageId, task_id: ids.TaskId) -> None:
    files.unlink(domain.image_directory(image_id) / _marker(task_id))
    files.remove_tree(_old(domain, image_id, task_id))


def sweep(domain: image.Domain, image_id: ids.ImageId) -> None:
    """Settle what a rollback that failed left behind; the caller holds the image's lock, so nobody is at work."""
    final, images = domain.image_directory(image_id), layout.images(domain.path)
    for name in sorted(os.listdir(images)):
        stem, _, rest = name.partition(".")
        if stem != image_id or not rest.endswith(files.TEMPORARY_SUFFIX):
            continue
        if rest.endswith(_OLD + files.TEMPORARY_SUFFIX) and not os.path.lexists(final):
            log.warning("%s had stepped aside for an image that never came, and is back", name)
            files.rename(images / name, final)
        else:
            log.warning("%s was left behind and is removed", name)
            files.remove_tree(images / name)


def undo(domain: image.Domain, image_id: ids.ImageId, task_id: ids.TaskId, *, original_is_gone: bool) -> None:
    """What the module says about the recovery.

    Raises:
        VolumeIsBusy: a live process uses the image that would have to go.
    """
    final = domain.image_directory(image_id)
    place, old = place_of(domain, image_id, task_id), _old(domain, image_id, task_id)
    marker = final / _marker(task_id)
    if not os.path.lexists(place) and os.path.lexists(marker):
        if original_is_gone:
            files.unlink(marker)
            files.remove_tree(old)
            return
        with _unused(domain, image_id):
            files.rename(final, place)
    if os.path.lexists(old) and not os.path.lexists(final):
        files.rename(old, final)
    files.remove_tree(place)


def _unused(domain: image.Domain, image_id: ids.ImageId) -> contextlib.AbstractContextManager[None]:
    """Nobody may have an image open that steps aside, nor open it meanwhile; see `volume.reserved`."""
    try:
        held = image.contents(domain, image_id)
    except errors.ImageDoesNotExistInSD:
        return contextlib.nullcontext()
    return volume.reserved(image.paths(domain, image_id, volume_id).data for volume_id in held.own())


def recover(services: Services, task: tasks.Task, params: tuple[str, ...]) -> None:
    """The recovery. Parameters: domain, image, domain of the original or the blank id."""
    domain = services.domains.find(ids.DomainId(params[0]))
    image_id, original = ids.ImageId(params[1]), ids.DomainId(params[2])
    gone = not original.is_blank and not os.path.lexists(services.domains.find(original).image_directory(image_id))
    undo(domain, image_id, task.id, original_is_gone=gone)


def finish(services: Services, task: tasks.Task, params: tuple[str, ...]) -> None:
    """The recovery of an image that stays. Parameters: domain, image."""
    _tidy(services.domains.find(ids.DomainId(params[0])), ids.ImageId(params[1]), task.id)


def place_of(domain: image.Domain, image_id: ids.ImageId, task_id: ids.TaskId) -> Path:
    """Where a task builds an image."""
    return layout.images(domain.path) / f"{image_id}.{task_id}{files.TEMPORARY_SUFFIX}"


def _old(domain: image.Domain, image_id: ids.ImageId, task_id: ids.TaskId) -> Path:
    return layout.images(domain.path) / f"{image_id}.{task_id}{_OLD}{files.TEMPORARY_SUFFIX}"


def _marker(task_id: ids.TaskId) -> str:
    return f"{task_id}{files.TEMPORARY_SUFFIX}"
