"""Verbs that change which domains belong to a pool and which of them are in use."""

import contextlib
import functools
import logging
from collections.abc import Iterator

from storage import errors, ids, locks, services as storage_services
from storage.hsm import upgrade
from storage.pools import membership, migration, pool

log = logging.getLogger(__name__)

Services = storage_services.Services


@contextlib.contextmanager
def _changing(services: Services, verb: str, pool_id: ids.PoolId, *domain_ids: ids.DomainId) -> Iterator[pool.Pool]:
    """Hold a pool and some domains exclusively. The role is asked for again once the locks are there: a verb that
    waited behind spmStop must not write."""
    services.pools.spm(pool_id)
    names = [locks.exclusive(pool_id), *(locks.exclusive(each) for each in domain_ids)]
    with services.locks.hold(*names, title=verb):
        yield services.pools.spm(pool_id)


def attach(services: Services, domain_id: ids.DomainId, pool_id: ids.PoolId) -> None:
    """attachStorageDomain: make a domain a member of the pool; it has to be activated before it is used.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host must not write.
        StorageDomainDoesNotExist: there is no such domain.
        StorageError: as `membership.attach`.
    """
    with _changing(services, "attachStorageDomain", pool_id, domain_id) as which:
        membership.attach(which, services.domains.find(domain_id))


def activate(services: Services, domain_id: ids.DomainId, pool_id: ids.PoolId) -> None:
    """activateStorageDomain: bring a member into use; a data domain gets the master's version.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host must not write.
        StorageDomainDoesNotExist: there is no such domain.
        StorageError: as `membership.activate`.
    """
    with _changing(services, "activateStorageDomain", pool_id, domain_id) as which:
        # Whoever writes on a domain holds it shared, so its images need no locks here.
        convert = upgrade.converter(services, functools.partial(services.pools.spm, pool_id), locking=False)
        membership.activate(which, services.domains.find(domain_id), convert)
    services.monitor.refresh()


def deactivate(
    services: Services,
    domain_id: ids.DomainId,
    pool_id: ids.PoolId,
    new_master_id: ids.DomainId | None,
    master_version: int,
) -> None:
    """deactivateStorageDomain: take a member out of use; the master hands its role over first.

    Args:
        new_master_id: the next master, when the domain is the one of now; None: then nothing happens.
        master_version: of the next master.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host must not write.
        StorageDomainNotMemberOfPool: the domain is not in the pool's map.
        StorageDomainAccessError: it is not usable, and a new master was named.
        StorageError: as `membership.deactivate`, `migration.check` and `migration.migrate`.
    """
    others = [] if new_master_id is None else [new_master_id]
    with _changing(services, "deactivateStorageDomain", pool_id, domain_id, *others) as which:
        if domain_id not in which.state().domains:
            raise errors.StorageDomainNotMemberOfPool(domain=domain_id, pool=pool_id)
        if new_master_id is not None:
            _must_be_usable(services, domain_id)
        if domain_id != which.master.id:
            membership.deactivate(which, domain_id)
        elif new_master_id is None:
            log.info("pool %s: domain %s is the master and stays active, for no other was named", pool_id, domain_id)
        else:
            new = migration.check(which, services.domains, new_master_id, master_version)
            convert = upgrade.converter(services, functools.partial(services.pools.spm, pool_id), locking=False)
            migration.migrate(which, services.tasks, new, master_version, convert)
    services.monitor.refresh()


def _must_be_usable(services: Services, domain_id: ids.DomainId) -> None:
    try:
        services.domains.find(domain_id).validate()
    except errors.StorageDomainAccessError:
        raise
    except errors.StorageError as error:
        raise errors.StorageDomainAccessError(domain=domain_id, reason=str(error)) from error


def detach(services: Services, domain_id: ids.DomainId, pool_id: ids.PoolId | None, force: bool = False) -> None:
    """detachStorageDomain: make a domain leave the pool.

    Args:
        force: as `forced_detach`.

    Raises:
        InvalidParameterException: no pool is named, without force.
        StoragePoolUnknown, SpmStatusError: this host must not write.
        StorageDomainDoesNotExist: there is no such domain.
        StorageError: as `membership.detach`.
    """
    if force:
        forced_detach(services, domain_id, pool_id)
        return
    if pool_id is None:
        raise errors.InvalidParameterException(name="storagepoolID", reason="it must not be the blank id")
    with _changing(services, "detachStorageDomain", pool_id, domain_id) as which:
        membership.detach(which, services.domains.find(domain_id))
    services.monitor.refresh()


def forced_detach(services: Services, domain_id: ids.DomainId, pool_id: ids.PoolId | None) -> None:
    """forcedDetachStorageDomain: make the pool forget a domain that cannot be reached.

    Without a pool it is the domain that forgets its pools, on any host.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host must not write on the pool.
        StoragePoolNotConnected: no pool is named and none is connected.
        StorageDomainActionError: no pool is named and several are connected.
        StorageDomainDoesNotExist: no pool is named and there is no such domain.
        StorageError: as `membership.forget` and `membership.release`.
    """
    if pool_id is None:
        _release(services, domain_id)
        return
    with _changing(services, "forcedDetachStorageDomain", pool_id, domain_id) as which:
        membership.forget(which, domain_id)
    services.monitor.refresh()


def _release(services: Services, domain_id: ids.DomainId) -> None:
    connected = services.pools.all()
    if not connected:
        raise errors.StoragePoolNotConnected()
    if len(connected) > 1:
        raise errors.StorageDomainActionError(reason="several pools are connected; name one")
    with services.locks.hold(locks.exclusive(domain_id), title="forcedDetachStorageDomain"):
        master_of = connected[0].id if connected[0].master.id == domain_id else None
        membership.release(services.domains.find(domain_id), connected[0].host_id, master_of)
