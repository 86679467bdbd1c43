"""Verbs on one volume."""

import functools

from storage import errors, ids, locks, services as storage_services
from storage.hsm import access
from storage.jobs import tasks
from storage.qemu import qemuimg
from storage.volumes import creation, image, resizing, volume, volume_metadata

Services = storage_services.Services

_FORMATS = {4: volume_metadata.COW, 5: volume_metadata.RAW}
_TYPES = {1: volume_metadata.PREALLOCATED, 2: volume_metadata.SPARSE}


def create(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    size: int,
    volume_format: int,
    preallocate: int,
    disk_type: str,
    description: str,
    source_image: ids.ImageId,
    source_volume: ids.VolumeId,
) -> dict[str, object]:
    """createVolume: schedule the making of a volume.

    Args:
        size: bytes; without meaning for a volume with a parent.
        volume_format: 4 COW, 5 RAW.
        preallocate: 1 preallocated, 2 sparse.
        source_image: image of the parent; blank: the same image.
        source_volume: the parent; blank: none.
    """
    access.refuse_blank(imageID=image_id, volumeID=volume_id)
    request = creation.Request(
        image=image_id,
        volume=volume_id,
        size=size,
        format=_format(volume_id, volume_format, has_parent=not source_volume.is_blank),
        type=_type(preallocate),
        disktype=_text("diskType", disk_type),
        description=_text("desc", description),
        source_image=image_id if source_image.is_blank or source_volume.is_blank else source_image,
        parent=None if source_volume.is_blank else source_volume,
    )
    if request.parent is None and size <= 0:
        raise errors.CreateVolumeSizeError(volume=volume_id, size=size, reason="it must be at least 1 byte")
    domain, held = access.take(services, "createVolume", pool_id, domain_id, image_id, request.source_image)
    job = functools.partial(_create, services, domain, request)
    return access.scheduled(services, "createVolume", pool_id, held, job)


def _create(services: Services, domain: image.Domain, request: creation.Request, task: tasks.Task) -> dict[str, object]:
    tool = qemuimg.QemuImg(services.settings.qemu_img, services.settings.qemu_img_timeout)
    made = creation.create(domain, request, task, tool, services.repository.root)
    return {"uuid": str(made)}


def _format(volume_id: ids.VolumeId, code: int, *, has_parent: bool) -> str:
    if code not in _FORMATS:
        reason = f"{code} is neither 4 (COW) nor 5 (RAW)"
        raise errors.IncorrectFormat(object=f"volume {volume_id}", reason=reason)
    if has_parent and _FORMATS[code] != volume_metadata.COW:
        raise errors.IncorrectFormat(object=f"volume {volume_id}", reason="with a parent it must be 4 (COW)")
    return _FORMATS[code]


def _type(code: int) -> str:
    if code not in _TYPES:
        raise errors.IncorrectType(type=code)
    return _TYPES[code]


def _text(name: str, text: str) -> str:
    volume.check_text(name, text)
    return text.strip()


def get_info(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
) -> dict[str, object]:
    """getVolumeInfo."""
    with services.locks.hold(locks.shared(domain_id), title="getVolumeInfo"):
        domain = services.domains.find(domain_id)
        return {"info": volume.info(domain, image_id, volume_id)}


def get_path(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
) -> dict[str, object]:
    """getVolumePath: where the data is, if there is any."""
    with services.locks.hold(locks.shared(domain_id), title="getVolumePath"):
        domain = services.domains.find(domain_id)
        image.directory(domain, image_id)
        volume.sizes(domain, image_id, volume_id)
        return {"path": str(image.paths(domain, image_id, volume_id).data)}


def get_size(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
) -> dict[str, object]:
    """getVolumeSize: sizes of the data file as text. No lock: it is asked for while volumes grow."""
    domain = services.domains.find(domain_id)
    image.directory(domain, image_id)
    size = volume.sizes(domain, image_id, volume_id)
    return {"apparentsize": str(size.apparent), "truesize": str(size.allocated)}


def set_description(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    description: str,
) -> None:
    """setVolumeDescription."""
    volume.check_text("description", description)
    with access.changing(services, "setVolumeDescription", pool_id, domain_id, image_id) as domain:
        volume.set_description(domain, image_id, volume_id, description)


def set_legality(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    legality: str,
) -> None:
    """setVolumeLegality. Nothing checks whether the mark is true."""
    with access.changing(services, "setVolumeLegality", pool_id, domain_id, image_id) as domain:
        volume.set_legality(domain, image_id, volume_id, legality)


def set_size(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
    size: int,
) -> None:
    """volumeSetSize: write a size into the record only. Any host may, because it is the host of a machine that knows
    to what size it has grown its volume.

    Args:
        size: bytes; below 1: not settled.
    """
    access.refuse_blank(imageID=image_id, volumeID=volume_id)
    wanted = (locks.shared(domain_id), locks.exclusive(locks.image_name(image_id, domain_id)))
    with services.locks.hold(*wanted, title="volumeSetSize"):
        resizing.set_size(services.domains.find(domain_id), image_id, volume_id, size)


def refresh(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId,
) -> None:
    """refreshVolume: nothing to do on files, but to say whether there is such a volume."""
    access.refuse_blank(imageID=image_id, volumeID=volume_id)
    with services.locks.hold(locks.shared(domain_id), title="refreshVolume"):
        resizing.exists(services.domains.find(domain_id), image_id, volume_id)
