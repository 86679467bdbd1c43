"""Verbs that merge volumes of an image and make volumes larger."""

import functools

from storage import ids, services as storage_services
from storage.hsm import access
from storage.jobs import tasks
from storage.qemu import qemuimg
from storage.volumes import image, merging, resizing

Services = storage_services.Services


def merge_snapshots(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    ancestor: ids.VolumeId,
    successor: ids.VolumeId,
    post_zero: bool,
) -> dict[str, object]:
    """mergeSnapshots: schedule the merging of everything from `ancestor` up to `successor`, which keeps its id.

    `post_zero` means nothing to files.
    """
    access.refuse_blank(imageID=image_id, ancestor=ancestor, successor=successor)
    domain, held = access.take(services, "mergeSnapshots", pool_id, domain_id, image_id)
    job = functools.partial(_merge, services, domain, image_id, ancestor, successor)
    return access.scheduled(services, "mergeSnapshots", pool_id, held, job)


def _merge(
    services: Services,
    domain: image.Domain,
    image_id: ids.ImageId,
    ancestor: ids.VolumeId,
    successor: ids.VolumeId,
    task: tasks.Task,
) -> dict[str, object]:
    limits = merging.Limits(services.settings.chain_limit, services.settings.l2_limit)
    merged = merging.merge(domain, image_id, ancestor, successor, limits, task, _tool(services))
    return {"uuid": str(merged)}


def extend_size(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    size: int,
) -> dict[str, object]:
    """extendVolumeSize: schedule the growing of a leaf or of a base.

    Args:
        size: bytes.
    """
    access.refuse_blank(imageID=image_id, volumeID=volume_id)
    domain, held = access.take(services, "extendVolumeSize", pool_id, domain_id, image_id)
    job = functools.partial(_extend, services, domain, image_id, volume_id, size)
    return access.scheduled(services, "extendVolumeSize", pool_id, held, job)


def _extend(
    services: Services,
    domain: image.Domain,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    size: int,
    task: tasks.Task,
) -> None:
    resizing.extend(domain, image_id, volume_id, size, services.settings.chain_limit, task, _tool(services))


def _tool(services: Services) -> qemuimg.QemuImg:
    return qemuimg.QemuImg(services.settings.qemu_img, services.settings.qemu_img_timeout)
