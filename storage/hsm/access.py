"""Getting hold of images to change them: role, locks and membership, in the one order that is safe.

The role is asked for twice. Before the locks, so that a host that is not the SPM answers at once; and after them,
because a verb may have waited behind spmStop, and must not write any more then.
"""

import contextlib
from collections.abc import Callable, Iterator

from storage import errors, ids, locks, services as storage_services
from storage.jobs import tasks
from storage.volumes import image

Services = storage_services.Services


def take(
    services: Services,
    verb: str,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    *image_ids: ids.ImageId,
    exclusive: bool = True,
) -> tuple[image.Domain, locks.Held]:
    """Lock images for a change; whoever calls gives the locks back.

    Args:
        exclusive: False where a task of the pool only reads them.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host must not write.
        ResourceTimeout: others were too long at work.
        StorageDomainDoesNotExist, StorageDomainNotMemberOfPool: no such domain.
        ImagesNotSupportedError: an ISO domain.
    """
    services.pools.spm(pool_id)
    lock = locks.exclusive if exclusive else locks.shared
    images = [lock(locks.image_name(each, domain_id)) for each in image_ids]
    held = services.locks.take([locks.shared(domain_id), *images], verb)
    try:
        return member(services, pool_id, domain_id), held
    except BaseException:
        held.release()
        raise


@contextlib.contextmanager
def changing(
    services: Services, verb: str, pool_id: ids.PoolId, domain_id: ids.DomainId, *image_ids: ids.ImageId
) -> Iterator[image.Domain]:
    """`take`, and give the locks back after a block."""
    domain, held = take(services, verb, pool_id, domain_id, *image_ids)
    try:
        yield domain
    finally:
        held.release()


def scheduled(
    services: Services, verb: str, pool_id: ids.PoolId, held: locks.Held, job: Callable[[tasks.Task], object]
) -> dict[str, object]:
    """Make a job a task of the pool, which owns the locks from now on. The answer of every task verb."""
    store = services.repository.task_store(pool_id)
    return {"uuid": str(services.tasks.schedule(verb, job, held=held, store=store))}


def refuse_blank(**given: ids.ImageId | ids.VolumeId) -> None:
    """Refuse ids that mean "none"."""
    for name, value in given.items():
        if value.is_blank:
            raise errors.InvalidParameterException(name=name, reason="it must not be the blank id")


def member(services: Services, pool_id: ids.PoolId, domain_id: ids.DomainId) -> image.Domain:
    """A domain of a pool whose SPM this host is; raises as `take`."""
    domain: image.Domain = services.pools.spm(pool_id).member(domain_id)
    if (domain_class := domain.domain_class) == "Iso":
        raise errors.ImagesNotSupportedError(domain=domain_id, domain_class=domain_class)
    return domain
