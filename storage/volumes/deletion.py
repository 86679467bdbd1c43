"""Deleting volumes and images so that an end of the process at any point leaves something that can be deleted again.

A volume, in this order:

1. the record says ``ILLEGAL``, parent kept: from here on nobody uses the volume, and everybody still knows whose it is;
2. the parent's type is what its other children say;
3. data, then lease;
4. the record, last. Until it is gone the volume is *half deleted*: listed, ILLEGAL, without data, to be deleted again.

An image: its directory gets the name ``_remove_me_<image>``, which is the one step that counts; the space is freed
afterwards, by whoever comes across such a directory.

Meanwhile no qemu can open what goes: the look whether somebody has it open, and the steps, are one (`volume.reserved`).

"Already gone" is success for every step. What has been started is finished by the task's recovery (`rollback`): the
request was checked before the first change, and half a volume is of no use to anybody.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from storage import errors, files, ids, layout
from storage.jobs import tasks
from storage.volumes import image, steps, template, volume, volume_metadata

log = logging.getLogger(__name__)

TOMBSTONE_PREFIX = "_remove_me_"


# ---------------------------------------------------------------- volumes


def delete_volumes(
    domain: image.Domain,
    image_id: ids.ImageId,
    volume_ids: Sequence[ids.VolumeId],
    task: tasks.Task,
    *,
    force: bool = False,
) -> None:
    """Delete volumes of one image in the order given, children before their parents; the caller holds its lock.

    All are checked before the first is touched.

    Args:
        force: also with children, as a template, or with a damaged record. Never while in use.

    Raises:
        ImageDoesNotExistInSD, VolumeDoesNotExist: there is no such thing (half-deleted volumes do exist).
        CannotDeleteSharedVolume, VolumeImageHasChildren, VolumeIsBusy: see `force`. Nothing was changed.
        CannotDeleteVolume: the storage did not remove a file; call again.
        TaskAborted: stopped between two volumes.
    """
    check(domain, image_id, volume_ids, force=force)
    image.sweep(domain, image_id)
    held = image.contents(domain, image_id)
    for volume_id in volume_ids:
        task.check()
        with _unused(domain, held, [volume_id]):
            task.push(steps.finish_delete(domain.id, image_id, volume_id))
            remove_volume(domain, image_id, volume_id)
            task.clear_recoveries()


def check(
    domain: image.Domain, image_id: ids.ImageId, volume_ids: Sequence[ids.VolumeId], *, force: bool = False
) -> None:
    """Whether volumes may be deleted in this order; see `delete_volumes`. Changes nothing."""
    held = image.contents(domain, image_id)
    gone: list[ids.VolumeId] = []
    for volume_id in volume_ids:
        if volume_id not in held or volume_id in gone:
            raise errors.VolumeDoesNotExist(volume=volume_id, image=image_id)
        if not force:
            _check_expendable(domain, held, volume_id, gone)
        if held.is_own(volume_id) and (reason := volume.busy(image.paths(domain, image_id, volume_id).data)):
            raise errors.VolumeIsBusy(volume=volume_id, reason=reason)
        gone.append(volume_id)


def _check_expendable(
    domain: image.Domain, held: image.Contents, volume_id: ids.VolumeId, gone: Sequence[ids.VolumeId]
) -> None:
    found = held.records.get(volume_id)
    if found is None:
        reason = f"record of volume {volume_id} is damaged ({held.damaged[volume_id].reason}); use force"
        raise errors.CannotDeleteVolume(reason=reason)
    if found.voltype == volume_metadata.SHARED:
        users = template.users(domain, found.image, [volume_id])
        raise errors.CannotDeleteSharedVolume(volume=volume_id, users=_listed(users) or "may")
    standing = {*held.children(volume_id), *volume.stands_on(domain, held, volume_id)}
    if children := sorted(standing.difference(gone)):
        raise errors.VolumeImageHasChildren(volume=volume_id, children=_listed(children))


def remove_volume(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    """Steps 1 to 4 of a volume that was checked; goes on where an earlier call ended.

    Raises:
        CannotDeleteVolume: a file could not be removed.
        VolumeMetadataWriteError: the tombstone, or the parent's record, could not be written. The data is there.
    """
    held = image.contents(domain, image_id)
    found = held.records.get(volume_id)
    if found is not None and held.is_own(volume_id):
        if found.legality != volume_metadata.ILLEGAL:
            tombstone = dataclasses.replace(found, legality=volume_metadata.ILLEGAL)
            image.write_metadata(domain, image_id, volume_id, tombstone)
        if not found.parent.is_blank:
            volume.derive_type(domain, image_id, found.parent, going=(volume_id,))
    paths = image.paths(domain, image_id, volume_id)
    if failed := volume.unlink_files((paths.data, paths.lease)) or volume.unlink_files((paths.meta,)):
        raise errors.CannotDeleteVolume(reason="; ".join(failed))
    log.info("deleted volume %s of image %s", volume_id, image_id)


def finish_volume(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    """Go on deleting a volume whose deletion was begun, and leave one alone whose deletion was not.

    Raises:
        VolumeIsBusy: a live process has it open.
        StorageError: see `remove_volume`.
    """
    image.sweep(domain, image_id)
    held = image.contents(domain, image_id)
    if volume_id not in held:
        return
    data = image.paths(domain, image_id, volume_id).data
    found = held.records.get(volume_id)
    marked = found is not None and held.is_own(volume_id) and found.legality == volume_metadata.ILLEGAL
    if marked or not os.path.lexists(data):
        check(domain, image_id, [volume_id], force=True)
        with _unused(domain, held, [volume_id]):
            remove_volume(domain, image_id, volume_id)


def _unused(
    domain: image.Domain, held: image.Contents, volume_ids: Sequence[ids.VolumeId]
) -> contextlib.AbstractContextManager[None]:
    """See `volume.reserved`. A template's link is left out: other images may run on it, and its data stays."""
    own = [volume_id for volume_id in volume_ids if volume_id in held and held.is_own(volume_id)]
    return volume.reserved(image.paths(domain, held.image, volume_id).data for volume_id in own)


# ---------------------------------------------------------------- images


def retire(domain: image.Domain, image_id: ids.ImageId) -> None:
    """Make an image disappear; afterwards, and after any crash, it is wholly there or wholly gone.

    The caller holds the image's lock.

    Raises:
        ImageDoesNotExistInSD: there is no such image.
        CannotDeleteSharedVolume: other images need a template of it. Only then are other images looked at.
        VolumeIsBusy: a live process has a volume of it open.
        ImageDeleteError: the storage refused.
    """
    held = image.contents(domain, image_id)
    templates = [volume_id for volume_id in held.own() if _may_be_template(held, volume_id)]
    if users := template.users(domain, image_id, templates):
        raise errors.CannotDeleteSharedVolume(volume=_listed(templates), users=_listed(users))
    try:
        purge(domain, image_id)  # of an earlier image of this id
        with _unused(domain, held, held.own()):
            files.rename(domain.image_directory(image_id), tombstone_of(domain, image_id))
    except OSError as error:
        raise errors.ImageDeleteError(image=image_id, reason=error.strerror or str(error)) from error
    log.info("deleted image %s", image_id)


def _may_be_template(held: image.Contents, volume_id: ids.VolumeId) -> bool:
    """Of a damaged record anything is believed that keeps data from being deleted."""
    if volume_id in held.records:
        return held.records[volume_id].voltype == volume_metadata.SHARED
    return held.damaged[volume_id].values.get("VOLTYPE", volume_metadata.SHARED) == volume_metadata.SHARED


def purge(domain: image.Domain, image_id: ids.ImageId) -> None:
    """Free the space of a deleted image; already gone is success.

    Raises:
        ImageDeleteError: the storage refused; call again.
    """
    try:
        files.remove_tree(tombstone_of(domain, image_id))
    except OSError as error:
        raise errors.ImageDeleteError(image=image_id, reason=error.strerror or str(error)) from error


def leftovers(domain: image.Domain) -> list[ids.ImageId]:
    """Images that were deleted and whose space was not freed. Other programs' temporaries are none of them."""
    names = files.names(layout.images(domain.path))
    stems = [name.removeprefix(TOMBSTONE_PREFIX) for name in names if name.startswith(TOMBSTONE_PREFIX)]
    return sorted(ids.ImageId(stem) for stem in stems if ids.is_id(stem))


def purge_leftovers(domain: image.Domain) -> int:
    """Free what earlier deletions left behind, and return the number of images; failures are logged, not raised."""
    done = 0
    try:
        for image_id in leftovers(domain):
            purge(domain, image_id)
            done += 1
    except (OSError, errors.ImageDeleteError) as error:
        log.warning("domain %s: space of deleted images is not freed yet: %s", domain.id, error)
    return done


def tombstone_of(domain: image.Domain, image_id: ids.ImageId) -> Path:
    """Where a deleted image waits for its space to be freed."""
    return layout.images(domain.path) / f"{TOMBSTONE_PREFIX}{image_id}"


def remove_directory(domain: image.Domain, image_id: ids.ImageId) -> bool:
    """Remove an image's directory that holds nothing but temporaries; False when it has to stay."""
    place = domain.image_directory(image_id)
    if not os.path.lexists(place):
        return True
    image.sweep(domain, image_id)
    return not os.listdir(place) and files.remove_directory(place)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
