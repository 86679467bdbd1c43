"""Verbs on an image."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from storage import errors, ids, layout, locks, services as storage_services
from storage.hsm import access
from storage.jobs import tasks
from storage.volumes import deletion, image, preparation, steps

log = logging.getLogger(__name__)

Services = storage_services.Services


def delete_volumes(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_ids: Sequence[ids.VolumeId],
    post_zero: bool,
    force: bool,
) -> dict[str, object]:
    """deleteVolume: schedule the deletion of volumes, in the order given. `post_zero` means nothing to files."""
    access.refuse_blank(imageID=image_id)
    for volume_id in volume_ids:
        access.refuse_blank(volumeList=volume_id)
    domain, held = access.take(services, "deleteVolume", pool_id, domain_id, image_id)
    job = functools.partial(_delete_volumes, domain, image_id, tuple(volume_ids), force)
    return access.scheduled(services, "deleteVolume", pool_id, held, job)


def _delete_volumes(
    domain: image.Domain, image_id: ids.ImageId, volume_ids: Sequence[ids.VolumeId], force: bool, task: tasks.Task
) -> None:
    deletion.delete_volumes(domain, image_id, volume_ids, task, force=force)


def delete(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    post_zero: bool,
    force: bool,
) -> dict[str, object]:
    """deleteImage: when this returns, the image is gone for everybody; the task frees its space.

    `post_zero` and `force` mean nothing here.
    """
    domain, held = access.take(services, "deleteImage", pool_id, domain_id, image_id)
    try:
        deletion.retire(domain, image_id)
    except BaseException:
        held.release()
        raise
    job = functools.partial(_purge, domain, image_id)
    try:
        return access.scheduled(services, "deleteImage", pool_id, held, job)
    except errors.TaskMetaDataSaveError as error:
        # On full storage there may be no room for the task's record, and what would make room is the image itself.
        log.warning("image %s is freed at once: %s", image_id, error)
        deletion.purge(domain, image_id)
        _, held = access.take(services, "deleteImage", pool_id, domain_id, image_id)
        return access.scheduled(services, "deleteImage", pool_id, held, job)


def _purge(domain: image.Domain, image_id: ids.ImageId, task: tasks.Task) -> bool:
    task.push(steps.finish_purge(domain.id, image_id))
    task.progress("freeing space")
    deletion.purge(domain, image_id)
    task.clear_recoveries()
    deletion.purge_leftovers(domain)
    return True


def prepare(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId | None,
) -> dict[str, object]:
    """prepareImage: check that a guest may run on this volume, and tell where the files of its chain are.

    Raises:
        VolumeDoesNotExist: no such volume, no such image, or no volume named.
        StorageError: see `preparation.chain`.
    """
    if volume_id is None:
        raise errors.VolumeDoesNotExist(volume="(none was named)", image=image_id)
    wanted = (locks.shared(domain_id), locks.shared(locks.image_name(image_id, domain_id)))
    with services.locks.hold(*wanted, title="prepareImage"):
        domain = services.domains.find(domain_id)
        try:
            held = image.contents(domain, image_id)
        except errors.ImageDoesNotExistInSD:
            raise errors.VolumeDoesNotExist(volume=volume_id, image=image_id) from None
        chain = preparation.chain(domain, held, volume_id, services.settings.chain_limit)
        run = preparation.link(services.repository, domain, image_id)
        through = run if pool_id.is_blank else _pool_path(services, domain.pools, pool_id, domain_id, image_id)
        return {
            "path": str(through / volume_id),
            "info": preparation.location(domain, image_id, volume_id),
            "imgVolumesInfo": [preparation.location(domain, image_id, each) for each in chain],
        }


def _pool_path(
    services: Services,
    attached: Sequence[ids.PoolId],
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
) -> Path:
    """The image seen through the links of the pool that the domain names, whichever was asked for."""
    pool = attached[0] if attached else pool_id
    return layout.images(services.repository.domain_link(pool, domain_id)) / image_id


def teardown(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId | None,
) -> None:
    """teardownImage: take the link of prepareImage back; success also when there is none."""
    with services.locks.hold(locks.shared(domain_id), title="teardownImage"):
        services.domains.find(domain_id)
        preparation.unlink(services.repository, domain_id, image_id)
