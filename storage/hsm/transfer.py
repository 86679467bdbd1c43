"""Verbs and streams that carry a volume's content to or from another host.

"Upload" is from storage to the other end, "download" the way back: the names are the protocol's. Storage knows nothing
of how the other end is reached; it gets a source or a sink (`storage.volumes.transfer`).
"""

import functools
from collections.abc import Callable

from storage import errors, ids, services as storage_services
from storage.hsm import access
from storage.jobs import tasks
from storage.volumes import image, incoming, transfer

Services = storage_services.Services

_WAIT_SECONDS = 60.0


def upload(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId | None,
    sink: Callable[[float], transfer.Sink],
) -> dict[str, object]:
    """uploadImage: schedule the sending of an image that is a single volume.

    Args:
        volume_id: which; None: the only one.
        sink: makes the end where it goes, from the seconds that each piece may take.
    """
    domain, held = access.take(services, "uploadImage", pool_id, domain_id, image_id, exclusive=False)
    job = functools.partial(_upload, domain, image_id, volume_id, sink(services.settings.transfer_seconds))
    return access.scheduled(services, "uploadImage", pool_id, held, job)


def _upload(
    domain: image.Domain,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId | None,
    sink: transfer.Sink,
    task: tasks.Task,
) -> None:
    try:
        held = image.contents(domain, image_id)
        chosen = incoming.alone(held, volume_id)
        length = incoming.readable(domain, held, chosen, None)
        transfer.send(image.paths(domain, image_id, chosen).data, length, sink, task)
    finally:
        sink.close()


def download(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId | None,
    source: Callable[[float], transfer.Source],
) -> dict[str, object]:
    """downloadImage: schedule the replacing of the content of an image that is a single volume.

    Args:
        volume_id: which; None: the only one.
        source: makes the end where it comes from, from the seconds that each piece may take.
    """
    domain, held = access.take(services, "downloadImage", pool_id, domain_id, image_id)
    limits = services.settings
    end = source(limits.transfer_seconds)
    job = functools.partial(_download, limits.chain_limit, domain, image_id, volume_id, end)
    return access.scheduled(services, "downloadImage", pool_id, held, job)


def _download(
    chain_limit: int,
    domain: image.Domain,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId | None,
    source: transfer.Source,
    task: tasks.Task,
) -> None:
    try:
        image.sweep(domain, image_id)
        held = image.contents(domain, image_id)
        chosen = incoming.target(domain, held, incoming.alone(held, volume_id), chain_limit)
        transfer.receive(domain, image_id, chosen, source, task)
    finally:
        source.close()


def upload_to_stream(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId | None,
    length: int,
    sink: transfer.Sink,
) -> tasks.Task:
    """Schedule the sending of the first `length` bytes of a volume's file, after everything was looked at."""
    verb = "uploadImageToStream"
    domain, held = access.take(services, verb, pool_id, domain_id, image_id, exclusive=False)
    try:
        contents = image.contents(domain, image_id)
        chosen = _named(contents, volume_id)
        incoming.readable(domain, contents, chosen, length)
    except BaseException:
        held.release()
        raise
    job = functools.partial(transfer.send, image.paths(domain, image_id, chosen).data, length, sink)
    return _task(services, access.scheduled(services, verb, pool_id, held, job))


def download_from_stream(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    volume_id: ids.VolumeId | None,
    length: int,
    source: transfer.Source,
) -> tasks.Task:
    """Schedule the replacing of a volume's content by `length` bytes, after everything was looked at."""
    verb = "downloadImageFromStream"
    domain, held = access.take(services, verb, pool_id, domain_id, image_id)
    try:
        image.sweep(domain, image_id)
        contents = image.contents(domain, image_id)
        chosen = incoming.target(domain, contents, _named(contents, volume_id), services.settings.chain_limit)
        chosen.check_length(length)
    except BaseException:
        held.release()
        raise
    job = functools.partial(transfer.receive, domain, image_id, chosen, source)
    return _task(services, access.scheduled(services, verb, pool_id, held, job))


def _named(held: image.Contents, volume_id: ids.VolumeId | None) -> ids.VolumeId:
    chosen = incoming.sole(held) if volume_id is None else volume_id
    if chosen is None:
        raise errors.InvalidParameterException(name="volume id", reason=f"image {held.image} has not just one volume")
    return chosen


def _task(services: Services, reply: dict[str, object]) -> tasks.Task:
    return services.tasks.get(ids.TaskId(str(reply["uuid"])))


def wait(services: Services, task: tasks.Task) -> dict[str, object]:
    """Wait until a task rests, and give its status as getTaskStatus would."""
    try:
        while not services.tasks.wait(task.id, _WAIT_SECONDS):
            pass
    except errors.UnknownTask:
        pass  # somebody has cleared it, so it rests
    return tasks.status(task)
