"""What the steps of `steps` do when they are run: by a task that failed, after a restart, or to revert a finished task.

A step may have been run before, wholly or in part, and may have been written by another program; its parameters are
text from shared storage. So each action looks at what is there, does only what still makes sense, and takes nothing
from a path but the ids at its end, from which it builds its own. The locks of the task are held.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from storage import errors, files, ids
from storage.jobs import recovery, tasks
from storage.volumes import (
    deletion,
    image,
    staging,
    steps,
    syncing,
    template,
    transfer,
    unmerging,
    volume,
    volume_metadata,
)

log = logging.getLogger(__name__)


class _Finder(Protocol):
    def find(self, domain_id: ids.DomainId) -> image.Domain: ...


class Services(Protocol):
    """What the actions need of the services."""

    @property
    def domains(self) -> _Finder: ...


_Params = tuple[str, ...]
_VolumeAction = Callable[[image.Domain, ids.ImageId, ids.VolumeId], None]

_FILE_NAME = re.compile(r"(_remove_me_.{8}_)?(?P<id>.{36})(_MERGE)?(\.meta|\.lease)?", re.ASCII)
"""Names that a merge gives to a volume's files for a while."""


# ---------------------------------------------------------------- parameters


def located(path: str) -> tuple[ids.DomainId, ids.ImageId, str]:
    """Domain, image and file name (or an empty text) that a path means: ``.../<domain>/images/<image>[/<name>]``.

    Raises:
        InvalidParameterException: it is no such path.
    """
    parts = PurePosixPath(path).parts
    for tail, name in ((parts[-3:], ""), (parts[-4:-1], parts[-1] if parts else "")):
        if len(tail) == 3 and tail[1] == "images" and ids.is_id(tail[0]) and ids.is_id(tail[2]):
            return ids.DomainId(tail[0]), ids.ImageId(tail[2]), name
    raise errors.InvalidParameterException(name="path of a recovery", reason=f"{path!r:.200} is not within an image")


def _by_ids(action: _VolumeAction) -> recovery.Action:
    """An action whose parameters are domain, image and volume. An image that is gone needs nothing more."""

    def run(services: Services, _task: object, params: _Params) -> None:
        domain = services.domains.find(ids.DomainId(params[0]))
        image_id, volume_id = ids.ImageId(params[1]), ids.VolumeId(params[2])
        if _exists(domain, image_id):
            action(domain, image_id, volume_id)

    return run


def _exists(domain: image.Domain, image_id: ids.ImageId) -> bool:
    return os.path.lexists(domain.image_directory(image_id))


def _is_ours(task: tasks.Task, claim: Path) -> bool:
    """Whether this program wrote the task: only it records locks, and only it claims files."""
    return bool(task.record.locked) or os.path.lexists(claim)


def _is_claimed(paths: image.Paths, claim: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(claim), os.lstat(paths.data))
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- creation, from its last step to its first


def remove_created(services: Services, task: tasks.Task, params: _Params) -> None:
    """Delete a finished volume again. One that somebody uses or stands on stays, and the rollback fails.

    Parameters: repository, domain, image, volume, directory.
    """
    domain = services.domains.find(ids.DomainId(params[1]))
    image_id, volume_id = ids.ImageId(params[2]), ids.VolumeId(params[3])
    if not _exists(domain, image_id):
        return
    held = image.contents(domain, image_id)
    if volume_id in held and held.is_own(volume_id):
        standing = {*held.children(volume_id), *volume.stands_on(domain, held, volume_id)}
        if standing:
            raise errors.VolumeImageHasChildren(volume=volume_id, children=", ".join(sorted(standing)))
        deletion.check(domain, image_id, [volume_id], force=True)
        deletion.remove_volume(domain, image_id, volume_id)
    files.unlink(domain.image_directory(image_id) / image.claim_name(volume_id, task.id))
    image.sweep(domain, image_id)


def remove_record(services: Services, task: tasks.Task, params: _Params) -> None:
    """Remove the record of a volume that was being made by this task. Parameter: path of its data."""
    domain, image_id, paths, claim = _making(services, task, params[0])
    if _exists(domain, image_id) and (_is_claimed(paths, claim) or not _is_ours(task, claim)):
        files.unlink(paths.meta)


def remove_data(services: Services, task: tasks.Task, params: _Params) -> None:
    """Remove data and lease that got no record, if this task made them. Parameters: domain, volume, path of the data.

    A task of this program proves that by its claim. Another program's task has made the file if it went on to the
    next step; had it met somebody else's file, this step would be its last.
    """
    domain, image_id, paths, claim = _making(services, task, params[2])
    if not _exists(domain, image_id):
        return
    if not os.path.lexists(paths.meta):
        if _is_claimed(paths, claim) or (not _is_ours(task, claim) and _went_on(task)):
            files.unlink(paths.lease)
            files.unlink(paths.data)
        elif os.path.lexists(paths.data):
            log.warning("%s has no record, but task %s did not make it: it stays", paths.data, task.id)
    files.unlink(claim)


def _making(services: Services, task: tasks.Task, path: str) -> tuple[image.Domain, ids.ImageId, image.Paths, Path]:
    domain_id, image_id, name = located(path)
    domain, volume_id = services.domains.find(domain_id), ids.VolumeId(name.removesuffix(image.META_SUFFIX))
    claim = domain.image_directory(image_id) / image.claim_name(volume_id, task.id)
    return domain, image_id, image.paths(domain, image_id, volume_id), claim


def _went_on(task: tasks.Task) -> bool:
    stack = task.record.recoveries
    return bool(stack) and stack[-1].function != steps.HALF_MADE[-1]


def remove_links(services: Services, _task: object, params: _Params) -> None:
    """Remove a template's links, if no volume of the image stands on it. Parameter: path of the link of its data."""
    domain_id, image_id, name = located(params[0])
    domain = services.domains.find(domain_id)
    if _exists(domain, image_id) and not template.unshare(domain, image_id, ids.VolumeId(name)):
        log.info("links of template %s stay in image %s, which still uses it", name, image_id)


def remove_directory(services: Services, _task: object, params: _Params) -> None:
    """Remove an image's directory, if it is empty. Parameter: its path."""
    domain_id, image_id, _ = located(params[0])
    deletion.remove_directory(services.domains.find(domain_id), image_id)


def unset_shared(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    """Make a template an ordinary volume again, if no other image uses it."""
    held = image.contents(domain, image_id)
    found = held.records.get(volume_id)
    if found is None or not held.is_own(volume_id) or found.voltype != volume_metadata.SHARED:
        return
    if template.users(domain, image_id, [volume_id]):
        return
    image.write_metadata(domain, image_id, volume_id, dataclasses.replace(found, voltype=volume_metadata.LEAF))
    volume.derive_type(domain, image_id, volume_id)


# ---------------------------------------------------------------- deletion, merging, growing


def finish_purge(services: Services, _task: object, params: _Params) -> None:
    """Go on freeing the space of a deleted image. Parameters: domain, image."""
    deletion.purge(services.domains.find(ids.DomainId(params[0])), ids.ImageId(params[1]))


def rename_back(services: Services, _task: object, params: _Params) -> None:
    """Give a file its old name back, if that is free. Parameters: path of the new name, path of the old name."""
    new, old = (located(path) for path in params[:2])
    if new[:2] != old[:2] or not all(_is_file_name(name) for name in (new[2], old[2])):
        reason = f"{new[2]!r:.80} cannot be renamed to {old[2]!r:.80}"
        raise errors.InvalidParameterException(name="path of a recovery", reason=reason)
    place = services.domains.find(new[0]).image_directory(new[1])
    if os.path.lexists(place / new[2]) and not os.path.lexists(place / old[2]):
        files.rename(place / new[2], place / old[2])


def _is_file_name(name: str) -> bool:
    found = _FILE_NAME.fullmatch(name)
    return found is not None and ids.is_id(found["id"])


def settle_capacity(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    """Record the capacity that the data really has, after growing it was interrupted."""
    found = image.read_metadata(domain, image_id, volume_id)
    real = volume.virtual_size(domain, image_id, volume_id, found.format)
    if real != found.capacity:
        image.write_metadata(domain, image_id, volume_id, dataclasses.replace(found, capacity=real))


def settle_transfer(services: Services, _task: object, params: _Params) -> None:
    """Say what has become of a content that was being replaced. Parameters: domain, image, volume, generation."""
    domain = services.domains.find(ids.DomainId(params[0]))
    transfer.settle(domain, ids.ImageId(params[1]), ids.VolumeId(params[2]), int(params[3]))


# ---------------------------------------------------------------- the table


_KNOWN: Mapping[recovery.Triple, recovery.Action] = {
    steps.VOLUME: remove_created,
    steps.RECORD: remove_record,
    steps.PARENT: _by_ids(volume.derive_type),
    steps.HALF_MADE: remove_data,
    steps.SHARE: remove_links,
    steps.DIRECTORY: remove_directory,
    steps.DIRECTORY_450: remove_directory,
    steps.UNSHARE: _by_ids(unset_shared),
    steps.FINISH_DELETE: _by_ids(deletion.finish_volume),
    steps.FINISH_PURGE: finish_purge,
    steps.RENAME: rename_back,
    steps.EXTEND: _by_ids(settle_capacity),
    steps.TRANSFER: settle_transfer,
    steps.STAGED: staging.recover,
    steps.FINISH_STAGED: staging.finish,
    steps.FINISH_SYNC: syncing.recover,
    steps.MERGE: unmerging.recover,
    steps.FINISH_MERGE: unmerging.go_on,
}

_CLASSES = (("volume", "Volume"), ("fileVolume", "FileVolume"))


def _spellings(triple: recovery.Triple) -> list[recovery.Triple]:
    """A function of a volume is named by the general class or by that of file volumes; both mean the same here."""
    if triple[:2] not in _CLASSES:
        return [triple]
    return [(module, name, triple[2]) for module, name in _CLASSES]


ACTIONS: Mapping[recovery.Triple, recovery.Action] = {
    spelling: action for triple, action in _KNOWN.items() for spelling in _spellings(triple)
}
"""For `recovery.Table`, with the services as its context."""
