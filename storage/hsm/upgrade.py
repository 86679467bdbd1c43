"""Raising a pool's domains to a higher version: the master at once, the others in use one after the other behind.

What the background does not get to, because the role or the process ends, is raised by the next upgrade, by the next
spmStart with that version, or when a domain is activated.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence

from storage import errors, ids, locks, services as storage_services
from storage.domains import conversion, domain, domain_metadata, filedomain
from storage.jobs import tasks
from storage.pools import membership, pool, poolbackend
from storage.volumes import conversion as volume_conversion

log = logging.getLogger(__name__)

Services = storage_services.Services

VERB = "upgradeStoragePool"
_PATIENCE = 1.0  # seconds to wait for an image that is in use; it is tried twice, and its old record can be read


def upgrade(services: Services, pool_id: ids.PoolId, version: int) -> dict[str, str]:
    """upgradeStoragePool: raise the master, and begin with the other domains in use.

    Args:
        version: what the data domains of the pool shall have; the others keep theirs.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host must not write.
        PoolUpgradeInProgress: an earlier upgrade is not through.
        UnsupportedDomainVersion: no such version, or there is no way to it.
        CurrentVersionTooAdvancedError: the master has a higher one.
        StorageError: as `conversion.convert`; the master can be used as it is, and the call repeated.
    """
    master = services.pools.spm(pool_id).master
    with services.locks.hold(locks.exclusive(pool_id), locks.shared(master.id), title=VERB):
        which = services.pools.spm(pool_id)
        if which.master.id != master.id:
            raise errors.OperationInProgress(object=f"pool {pool_id}", reason="its master has just changed; try again")
        which.upgrades.refuse_second()
        if version not in filedomain.VERSIONS:
            raise errors.UnsupportedDomainVersion(version=version)
        master_is_safe = functools.partial(services.pools.spm, pool_id)
        converter(services, master_is_safe, locking=True)(which.master, version)
        in_background(services, which, version)
    return {"upgradeStatus": "started"}


def converter(services: Services, check: Callable[[], object], *, locking: bool) -> membership.Convert:
    """What raises one domain to a version.

    Args:
        check: raises when the work has to end; called for each image and before the domain's record is written.
        locking: whether images have to be locked one by one, because the domain is not held exclusively.
    """

    def convert(member: domain.Domain, version: int) -> None:
        def guard(image_id: ids.ImageId) -> contextlib.AbstractContextManager[None]:
            if not locking:
                return contextlib.nullcontext()
            name = locks.image_name(image_id, member.id)
            return services.locks.hold(locks.exclusive(name), title=VERB, timeout=_PATIENCE)

        def go_on() -> None:
            check()

        conversion.convert(member, version, volume_conversion.Conversion(guard, go_on), go_on)

    return convert


def in_background(services: Services, which: pool.Pool, version: int) -> None:
    """Begin to raise the domains in use that have a lower version; the caller holds the pool's lock.

    Raises:
        PoolUpgradeInProgress: an earlier upgrade is not through.
        AddTaskError: the daemon takes no more work.
    """
    waiting = _waiting(services, which, version)
    if not waiting:
        return
    which.upgrades.begin(waiting)
    try:
        services.tasks.schedule(VERB, functools.partial(_work, services, which, version, waiting), tag=tasks.HSM)
    except BaseException:
        for domain_id in waiting:
            which.upgrades.done(domain_id)
        raise


def _waiting(services: Services, which: pool.Pool, version: int) -> list[ids.DomainId]:
    waiting = []
    for domain_id, status in which.state().domains.items():
        if status != poolbackend.ACTIVE or domain_id == which.master.id:
            continue
        try:
            record = services.domains.find(domain_id).metadata()
        except errors.StorageError as error:
            log.warning("domain %s is not upgraded: %s", domain_id, error)
            continue
        if record.domain_class == domain_metadata.DATA and record.version < version:
            waiting.append(domain_id)
    return waiting


def _work(
    services: Services, which: pool.Pool, version: int, domain_ids: Sequence[ids.DomainId], task: tasks.Task
) -> None:
    """The job: one domain after the other; what goes wrong with one is no matter of the others."""

    def check() -> None:
        task.check()
        if which.upgrades.stopping or services.pools.spm(which.id) is not which:
            raise errors.SpmStatusError(pool=which.id)

    try:
        for number, domain_id in enumerate(domain_ids):
            task.progress(f"upgrading domain {domain_id}, {number + 1} of {len(domain_ids)}")
            try:
                _raise_one(services, which, domain_id, version, check)
            except errors.StorageError as error:
                log.warning("domain %s is not upgraded to version %s: %s", domain_id, version, error)
            which.upgrades.done(domain_id)
    finally:
        for domain_id in domain_ids:
            which.upgrades.done(domain_id)
    # Nobody was told the id of this task, so nobody would clear it.
    services.tasks.clear(task.id)


def _raise_one(
    services: Services, which: pool.Pool, domain_id: ids.DomainId, version: int, check: Callable[[], None]
) -> None:
    with services.locks.hold(locks.shared(domain_id), title=VERB):
        check()
        if which.state().domains.get(domain_id) == poolbackend.ACTIVE:
            member = services.domains.find(domain_id)
            if member.version < version:
                converter(services, check, locking=True)(member, version)
