"""Verbs that copy images: into one volume, to another domain with their chain, or just their structure."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

from storage import errors, ids, locks, services as storage_services
from storage.hsm import access
from storage.jobs import tasks
from storage.qemu import qemuimg
from storage.volumes import copying, image, moving, source, syncing, volume, volume_metadata

Services = storage_services.Services

COPY, MOVE = 1, 2
_SHARED, _LEAF = 6, 8
_FORMATS = {4: volume_metadata.COW, 5: volume_metadata.RAW}
_TYPES = {1: volume_metadata.PREALLOCATED, 2: volume_metadata.SPARSE}

_Places = tuple[image.Domain, image.Domain]
_Job = Callable[[moving.Route, tasks.Task], None]


def copy(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    target_domain: ids.DomainId | None,
    target_image: ids.ImageId,
    target_volume: ids.VolumeId,
    description: str,
    role: int,
    volume_format: int | None,
    preallocate: int | None,
    force: bool,
) -> dict[str, object]:
    """copyImage: schedule the copying of a disk, read through its whole chain, into one volume.

    Args:
        volume_id: what a guest would run on.
        target_domain: None: the same.
        role: 6 a template, 8 an ordinary volume.
        volume_format: 4 COW, 5 RAW; None: as the volume.
        preallocate: 1 preallocated, 2 sparse; None: as the volume.
        force: also over an image that is there.

    Raises:
        InvalidParameterException: the copy would be the original, or a value is none of the above.
        IncorrectFormat, IncorrectType: see above.
        ImageDoesNotExistInSD: there is no such image.
        ImageIsNotLegalChain: its chain cannot be read as it is.
        StorageError: see `_take`.
    """
    access.refuse_blank(srcImgUUID=image_id, srcVolUUID=volume_id, dstImgUUID=target_image, dstVolUUID=target_volume)
    where = target_domain or domain_id
    if where == domain_id and target_image == image_id:
        raise errors.InvalidParameterException(name="dstImgUUID", reason="within one domain it must be another image")
    if where == domain_id and target_volume == volume_id:
        raise errors.InvalidParameterException(name="dstVolUUID", reason="within one domain it must be another id")
    if role not in (_SHARED, _LEAF):
        raise errors.InvalidParameterException(name="volType", reason=f"{role} is neither 6 (template) nor 8 (leaf)")
    volume.check_text("desc", description)
    request = copying.Request(
        volume=target_volume,
        description=description,
        shared=role == _SHARED,
        format=_format(target_volume, volume_format),
        type=_type(preallocate),
        force=force,
    )
    wanted = [
        locks.shared(locks.image_name(image_id, domain_id)),
        locks.exclusive(locks.image_name(target_image, where)),
    ]
    places, held = _take(services, "copyImage", pool_id, domain_id, where, wanted)
    with _released_on_failure(held):
        _look(places[0], image_id, volume_id, services.settings.chain_limit)
    job = functools.partial(_copy, services, places, image_id, volume_id, target_image, request)
    return access.scheduled(services, "copyImage", pool_id, held, job)


def _look(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, limit: int) -> None:
    """Tell at once what the protocol tells at once: no such image, or a chain that cannot be used."""
    held = image.contents(domain, image_id)
    if volume_id not in held:
        return  # which the protocol tells in the task
    try:
        source.chain(domain, held, volume_id, limit)
    except errors.PrepareIllegalVolumeError as error:
        raise errors.ImageIsNotLegalChain(image=image_id, reason=str(error)) from error


def _copy(
    services: Services,
    places: _Places,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    target_image: ids.ImageId,
    request: copying.Request,
    task: tasks.Task,
) -> dict[str, object]:
    origin, target = places
    layers = source.chain(origin, image.contents(origin, image_id), volume_id, services.settings.chain_limit)
    made = copying.collapse(layers, target, target_image, request, task, _tool(services))
    return {"uuid": str(made)}


def _format(volume_id: ids.VolumeId, code: int | None) -> str | None:
    if code is None:
        return None
    if code not in _FORMATS:
        reason = f"{code} is neither 4 (COW) nor 5 (RAW)"
        raise errors.IncorrectFormat(object=f"volume {volume_id}", reason=reason)
    return _FORMATS[code]


def _type(code: int | None) -> str | None:
    if code is None:
        return None
    if code not in _TYPES:
        raise errors.IncorrectType(type=code)
    return _TYPES[code]


def move(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    target_domain: ids.DomainId,
    operation: int,
    post_zero: bool,
    force: bool,
) -> dict[str, object]:
    """moveImage: schedule the copying of an image to another domain, with its chain kept volume by volume.

    Args:
        operation: 1 copy; 2 move: the original goes once the copy is complete.
        post_zero: means nothing to files.
        force: also over an image that is there.

    Raises:
        InvalidParameterException: both domains are the same.
        ImageDoesNotExistInSD: the target lacks the template that the image stands on.
        MoveTemplateImageError: the image is a template in use.
        StorageError: see `_take`.
    """
    job = functools.partial(_move, services, [image_id], operation)
    exclusive = operation != COPY
    return _many(services, "moveImage", pool_id, (domain_id, target_domain), [image_id], job, force, exclusive)


def move_multiple(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    target_domain: ids.DomainId,
    images: Sequence[ids.ImageId],
    force: bool,
) -> dict[str, object]:
    """moveMultipleImages: schedule the moving of images; the originals go once all copies are complete.

    Args:
        images: their ids.

    Raises:
        StorageError: see `move`.
    """
    image_ids = sorted(set(images))
    if not image_ids:
        raise errors.InvalidParameterException(name="imgDict", reason="it names no image")
    job = functools.partial(_move, services, image_ids, MOVE)
    return _many(services, "moveMultipleImages", pool_id, (domain_id, target_domain), image_ids, job, force, True)


def _many(
    services: Services,
    verb: str,
    pool_id: ids.PoolId,
    domain_ids: tuple[ids.DomainId, ids.DomainId],
    image_ids: Sequence[ids.ImageId],
    job: _Job,
    force: bool,
    exclusive: bool,
) -> dict[str, object]:
    domain_id, target_domain = domain_ids
    _refuse_same(domain_id, target_domain)
    for image_id in image_ids:
        access.refuse_blank(imageID=image_id)
    services.pools.spm(pool_id)
    wanted = _wishes(services, domain_ids, image_ids, exclusive)
    places, held = _take(services, verb, pool_id, domain_id, target_domain, wanted)
    route = moving.Route(*places, services.settings.chain_limit, force)
    with _released_on_failure(held):
        for image_id in image_ids:
            moving.check_templates(route, image_id)
            _refuse_template_in_use(places[0], image_id)
    return access.scheduled(services, verb, pool_id, held, functools.partial(job, route))


def _wishes(
    services: Services,
    domain_ids: tuple[ids.DomainId, ids.DomainId],
    image_ids: Sequence[ids.ImageId],
    exclusive: bool,
) -> list[locks.Lock]:
    """Locks of the images on both sides, and of their templates in the target: nobody may delete those meanwhile; on a
    backup domain they may have to be made."""
    origin, target = domain_ids
    mine = locks.exclusive if exclusive else locks.shared
    wanted = [mine(locks.image_name(each, origin)) for each in image_ids]
    wanted += [locks.exclusive(locks.image_name(each, target)) for each in image_ids]
    found = services.domains.find(origin)
    owners = {owner for each in image_ids for owner in moving.template_images(found, each)}
    theirs = locks.exclusive if services.domains.find(target).domain_class == moving.BACKUP else locks.shared
    return wanted + [theirs(locks.image_name(each, target)) for each in owners]


def _refuse_template_in_use(domain: image.Domain, image_id: ids.ImageId) -> None:
    """An image that is not there is told of in the task."""
    if domain.domain_class == moving.BACKUP:
        return
    try:
        held = image.contents(domain, image_id)
    except errors.ImageDoesNotExistInSD:
        return
    moving.refuse_template_in_use(domain, held)


def _move(
    services: Services, image_ids: Sequence[ids.ImageId], operation: int, route: moving.Route, task: tasks.Task
) -> None:
    if operation not in (COPY, MOVE):
        raise errors.MoveImageError(reason=f"operation {operation} is neither 1 (copy) nor 2 (move)")
    moving.copy_images(route, image_ids, task, _tool(services), remove=operation == MOVE)


def clone_structure(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    target_domain: ids.DomainId,
) -> dict[str, object]:
    """cloneImageStructure: schedule the making of an image's volumes, empty, in another domain.

    Raises:
        InvalidParameterException: both domains are the same.
        StorageError: see `_take`.
    """
    return _between(services, "cloneImageStructure", pool_id, (domain_id, target_domain), image_id, _clone)


def _clone(services: Services, image_id: ids.ImageId, route: moving.Route, task: tasks.Task) -> None:
    moving.clone_structure(route, image_id, task, _tool(services))


def sync_data(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    target_domain: ids.DomainId,
    which: str,
) -> dict[str, object]:
    """syncImageData: schedule the bringing of data to an image's structure in another domain.

    Args:
        which: ALL, INTERNAL or LEAF; anything else fails the task.

    Raises:
        InvalidParameterException: both domains are the same.
        StorageError: see `_take`.
    """
    job = functools.partial(_sync, which)
    return _between(services, "syncImageData", pool_id, (domain_id, target_domain), image_id, job)


def _sync(which: str, services: Services, image_id: ids.ImageId, route: moving.Route, task: tasks.Task) -> None:
    if which not in syncing.TYPES:
        raise errors.NotImplementedException(what=f"synchronisation {which!a:.40}")
    syncing.sync_data(route, image_id, which, task, _tool(services))


def _between(
    services: Services,
    verb: str,
    pool_id: ids.PoolId,
    domain_ids: tuple[ids.DomainId, ids.DomainId],
    image_id: ids.ImageId,
    job: Callable[[Services, ids.ImageId, moving.Route, tasks.Task], None],
) -> dict[str, object]:
    _refuse_same(*domain_ids)
    access.refuse_blank(imageID=image_id)
    services.pools.spm(pool_id)
    wanted = _wishes(services, domain_ids, [image_id], exclusive=False)
    places, held = _take(services, verb, pool_id, *domain_ids, wanted)
    route = moving.Route(*places, services.settings.chain_limit)
    return access.scheduled(services, verb, pool_id, held, functools.partial(job, services, image_id, route))


def _refuse_same(domain_id: ids.DomainId, target_domain: ids.DomainId) -> None:
    if domain_id == target_domain:
        raise errors.InvalidParameterException(name="dstSdUUID", reason="it must be another domain")


def _take(
    services: Services,
    verb: str,
    pool_id: ids.PoolId,
    origin: ids.DomainId,
    target: ids.DomainId,
    wanted: Iterable[locks.Lock],
) -> tuple[_Places, locks.Held]:
    """Lock two domains and images in them, in one sorted step; whoever calls gives the locks back.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host must not write.
        ResourceTimeout: others were too long at work.
        StorageDomainDoesNotExist, StorageDomainNotMemberOfPool: no such domain.
        ImagesNotSupportedError: an ISO domain.
    """
    services.pools.spm(pool_id)
    held = services.locks.take([locks.shared(origin), locks.shared(target), *wanted], verb)
    with _released_on_failure(held):
        return (access.member(services, pool_id, origin), access.member(services, pool_id, target)), held


@contextlib.contextmanager
def _released_on_failure(held: locks.Held) -> Iterator[None]:
    try:
        yield
    except BaseException:
        held.release()
        raise


def _tool(services: Services) -> qemuimg.QemuImg:
    return qemuimg.QemuImg(services.settings.qemu_img, services.settings.qemu_img_timeout)
