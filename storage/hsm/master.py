"""Verbs about a pool's master when something happened without this host: another master, or none any more."""

import contextlib
import logging
from collections.abc import Mapping

from storage import errors, ids, locks, services as storage_services
from storage.domains import clusterlock, domain_metadata
from storage.pools import migration, pool, poolmaker

log = logging.getLogger(__name__)

Services = storage_services.Services


def refresh(services: Services, pool_id: ids.PoolId, master_id: ids.DomainId, master_version: int) -> None:
    """refreshStoragePool: take the master and the map of now; nothing to do on the SPM, which made them.

    Raises:
        StoragePoolUnknown: the pool is not connected.
        StoragePoolMasterNotFound: there is no such domain.
        StorageDomainAccessError: it is not usable.
        StorageError: as `pool.Registry.refresh`. After all of these but the first the pool is not connected any more:
            what this host believed is outdated.
    """
    services.pools.get(pool_id)
    with services.locks.hold(locks.exclusive(pool_id), title="refreshStoragePool"):
        which = services.pools.get(pool_id)
        if which.role is pool.Role.SPM:
            return
        try:
            _check_master(services, pool_id, master_id)
            services.pools.refresh(pool_id, master_id, master_version)
        except errors.StorageError:
            with contextlib.suppress(errors.StoragePoolDisconnectionError):
                services.pools.disconnect(which)
            raise
        finally:
            services.monitor.refresh()


def _check_master(services: Services, pool_id: ids.PoolId, master_id: ids.DomainId) -> None:
    try:
        services.domains.find(master_id).validate()
    except errors.StorageDomainDoesNotExist as error:
        raise errors.StoragePoolMasterNotFound(domain=master_id, pool=pool_id) from error
    except errors.StorageError as error:
        raise errors.StorageDomainAccessError(domain=master_id, reason=str(error)) from error


def reconstruct(
    services: Services,
    pool_id: ids.PoolId,
    name: str,
    master_id: ids.DomainId,
    master_version: int,
    domains: Mapping[ids.DomainId, str],
    host_id: int | None,
    lock_renewal: int | None = None,
    lease_time: int | None = None,
    io_timeout: int | None = None,
    lease_retries: int | None = None,
) -> None:
    """reconstructMaster: make a domain the master of a pool whose master is lost; the pool must not be connected here.

    Args:
        name: of the pool; at most 50 characters.
        domains: status by domain, in any case of letters, for the whole pool.
        host_id: id of this host; None: the reserved one.
        lock_renewal, lease_time, io_timeout: seconds; unless all four are given and not 0, the defaults count.
        lease_retries: see there.

    Raises:
        StoragePoolConnected: the pool is connected.
        StorageError: as `migration.check_request` and `migration.reconstruct`.
    """
    _refuse_connected(services, pool_id)
    host = clusterlock.RESERVED_HOST_ID if host_id is None else host_id
    lease = poolmaker.lease_parameters(lock_renewal, lease_time, io_timeout, lease_retries)
    statuses = {each: domain_metadata.plain_status(status) for each, status in domains.items()}
    request = migration.Reconstruction(pool_id, name, master_id, statuses, master_version, host, lease)
    migration.check_request(request)
    with services.locks.hold(locks.exclusive(pool_id), locks.exclusive(master_id), title="reconstructMaster"):
        _refuse_connected(services, pool_id)
        migration.reconstruct(services.domains, request)


def _refuse_connected(services: Services, pool_id: ids.PoolId) -> None:
    if any(each.id == pool_id for each in services.pools.all()):
        raise errors.StoragePoolConnected(pool=pool_id, reason="disconnect it before its master is reconstructed")
