"""Verbs on a storage pool and on the role of SPM."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence

from storage import errors, ids, locks, services as storage_services
from storage.domains import clusterlock, domain_metadata, filedomain
from storage.hsm import upgrade
from storage.jobs import tasks
from storage.pools import pool, poolbackend, poolmaker, spm

log = logging.getLogger(__name__)

Services = storage_services.Services

_MAP_ATTEMPTS = 5


def create(
    services: Services,
    pool_id: ids.PoolId,
    name: str,
    master_id: ids.DomainId,
    domain_ids: Sequence[ids.DomainId],
    master_version: int,
    lock_renewal: int | None = None,
    lease_time: int | None = None,
    io_timeout: int | None = None,
    lease_retries: int | None = None,
) -> None:
    """createStoragePool: make a pool; it is not connected afterwards.

    Args:
        name: at most 50 characters.
        domain_ids: all domains, the master among them; it becomes Active, the others Attached.
        lock_renewal, lease_time, io_timeout: seconds; unless all four are given and not 0, the defaults count.
        lease_retries: see there.

    Raises:
        StorageError: as `poolmaker.check_request` and `poolmaker.create`.
    """
    lease = poolmaker.lease_parameters(lock_renewal, lease_time, io_timeout, lease_retries)
    request = poolmaker.Request(pool_id, name, master_id, tuple(domain_ids), master_version, lease)
    poolmaker.check_request(request)
    services.domains.find(master_id)
    with services.locks.hold(*_exclusive(pool_id, domain_ids), title="createStoragePool"):
        poolmaker.create(services.domains, request)


def connect(
    services: Services,
    pool_id: ids.PoolId,
    host_id: int,
    master_id: ids.DomainId,
    master_version: int,
    domains_map: pool.DomainMap | None,
) -> None:
    """connectStoragePool: connect a pool, or bring a connected one up to date, also on the SPM.

    Args:
        host_id: id of this host in the pool.
        domains_map: status by domain; None: as recorded in the master.

    Raises:
        InvalidParameterException: the host id or a status is none.
        StorageError: as `pool.Registry.connect`.
    """
    if not 1 <= host_id <= clusterlock.MAX_HOST_ID:
        raise errors.InvalidParameterException(name="hostID", reason=f"{host_id} is not 1 to {clusterlock.MAX_HOST_ID}")
    domains = None if domains_map is None else {each: _status(status) for each, status in domains_map.items()}
    with services.locks.hold(locks.exclusive(pool_id), title="connectStoragePool"):
        services.pools.connect(pool_id, host_id, master_id, master_version, domains)
    services.monitor.refresh()


def _status(text: str) -> str:
    status = domain_metadata.plain_status(text)
    if status not in domain_metadata.STATUSES:
        raise errors.InvalidParameterException(name="domainDict", reason=f"{text!r:.80} is no status of a domain")
    return status


def disconnect(services: Services, pool_id: ids.PoolId, host_id: int) -> None:
    """disconnectStoragePool: forget a pool; success when it is not connected. Links of an earlier process go, too.

    Raises:
        InvalidParameterException: the host id is negative.
        IsSpm: this host is its SPM, or about to be.
        StoragePoolDisconnectionError: a link could not be removed.
    """
    if host_id < 0:
        raise errors.InvalidParameterException(name="hostID", reason=f"{host_id} is negative")
    with services.locks.hold(locks.exclusive(pool_id), title="disconnectStoragePool"):
        try:
            which = services.pools.get(pool_id)
        except errors.StoragePoolUnknown:
            services.pools.drop_links(pool_id)
            return
        if which.role is not pool.Role.FREE:
            raise errors.IsSpm(pool=pool_id, role=which.role)
        services.pools.disconnect(which)
    services.monitor.refresh()


def destroy(services: Services, pool_id: ids.PoolId, host_id: int) -> None:
    """destroyStoragePool: detach all domains, the master last, give up the role and disconnect.

    Raises:
        StoragePoolUnknown: it is not connected.
        HostIdMismatch: it is connected with another host id.
        SpmStatusError: this host is not its SPM.
        TaskInProgress: a task is at work; nothing has changed.
        StorageError: as `poolmaker.dissolve`; the role is kept.
    """
    which = services.pools.get(pool_id)
    if which.host_id != host_id:
        raise errors.HostIdMismatch(pool=pool_id, connected=which.host_id, given=host_id)
    _refuse_tasks(services, pool_id)
    which.upgrades.cancel()
    with _whole_pool(services, pool_id, "destroyStoragePool"):
        which = services.pools.spm(pool_id)
        spm.destroy(which, services.tasks, services.domains)
        services.pools.disconnect(which)
    services.monitor.refresh()


def get_info(services: Services, pool_id: ids.PoolId) -> dict[str, object]:
    """getStoragePoolInfo: the pool and each of its domains. Sizes are text, in bytes.

    Raises:
        StoragePoolUnknown: it is not connected.
        StoragePoolMasterNotFound: its master is gone.
        StoragePoolActionError: its metadata cannot be read.
    """
    which = services.pools.get(pool_id)
    with services.locks.hold(locks.shared(pool_id), title="getStoragePoolInfo"):
        try:
            services.domains.find(which.master.id)
            state = which.state()
            master = which.master.metadata()
        except errors.StorageDomainDoesNotExist as error:
            raise errors.StoragePoolMasterNotFound(domain=which.master.id, pool=pool_id) from error
        except errors.StorageError as error:
            raise errors.StoragePoolActionError(reason=str(error)) from error
        info = {
            "type": master.type,
            "name": state.name,
            "domains": domain_metadata.encode_pool_domains(state.domains),
            "master_uuid": str(which.master.id),
            "master_ver": state.master_version,
            "lver": state.lver,
            "spm_id": state.spm_id,
            "pool_status": "connected",
            "version": str(master.version),
        }
        dominfo = {str(each): _domain_info(services, each, status) for each, status in state.domains.items()}
        info["isoprefix"] = next((each["isoprefix"] for each in dominfo.values() if each["isoprefix"]), "")
        return {"info": info, "dominfo": dominfo}


def _domain_info(services: Services, domain_id: ids.DomainId, status: str) -> dict[str, object]:
    """One entry of dominfo. It is there for every domain: the engine drops a domain that is missing from its list."""
    entry: dict[str, object] = {"status": status, "alerts": [], "isoprefix": ""}
    if status == poolbackend.ACTIVE:
        health = services.monitor.of(domain_id)
        entry["version"] = health.found.version if health.valid else -1
        if health.valid and health.found.total is not None:
            entry["isoprefix"] = health.found.iso_directory
            entry.update(disktotal=str(health.found.total), diskfree=str(health.found.free))
    return entry


def get_connected_list(services: Services) -> dict[str, list[str]]:
    """getConnectedStoragePoolsList: ids of the connected pools."""
    return {"poollist": [str(each.id) for each in services.pools.all()]}


def spm_start(
    services: Services,
    pool_id: ids.PoolId,
    prev_id: int,
    prev_lver: int,
    max_host_id: int | None,
    domain_version: int | None,
) -> dict[str, str]:
    """spmStart: schedule that this host becomes the SPM.

    Args:
        prev_id, prev_lver: what the caller takes the last SPM and lock version to be; a difference is logged.
        max_host_id: highest host id in the pool; None: 250.
        domain_version: version that the domains should have; None: as they are.

    Raises:
        UnsupportedDomainVersion: no such version.
        StoragePoolUnknown: the pool is not connected.
        IsSpm: this host is its SPM already, or about to be.
    """
    if domain_version is not None and domain_version not in filedomain.VERSIONS:
        raise errors.UnsupportedDomainVersion(version=domain_version)
    which = services.pools.get(pool_id)
    _refuse_role(which)
    held = services.locks.take([locks.exclusive(pool_id)], "spmStart")
    try:
        which = services.pools.get(pool_id)
        _refuse_role(which)
    except BaseException:
        held.release()
        raise
    log.info("spmStart of pool %s after SPM %s, lock version %s", pool_id, prev_id, prev_lver)
    limit = max_host_id or clusterlock.MAX_HOST_ID
    job = functools.partial(_start, services, which, (prev_id, prev_lver), limit, domain_version)
    return {"uuid": str(services.tasks.schedule("spmStart", job, tag=tasks.HSM, held=held))}


def _refuse_role(which: pool.Pool) -> None:
    if which.role is not pool.Role.FREE:
        raise errors.IsSpm(pool=which.id, role=which.role)


def _start(
    services: Services,
    which: pool.Pool,
    expected: tuple[int, int],
    max_host_id: int,
    domain_version: int | None,
    task: tasks.Task,
) -> None:
    if which.host_id > max_host_id:
        reason = f"the highest host id is {max_host_id}"
        raise errors.AcquireHostIdFailure(host_id=which.host_id, domain=which.master.id, reason=reason)
    state = which.state()
    if expected != (state.spm_id, state.lver):
        log.info("pool %s: the last SPM was %s, lock version %s, not %s", which.id, state.spm_id, state.lver, expected)
    task.progress("taking the cluster lock")
    # No verb writes before the role is there, and a job that an earlier SPM left waits for its rollback.
    convert = upgrade.converter(services, task.check, locking=False)
    spm.start(which, services.tasks, domain_version=domain_version, check=task.check, convert=convert)
    if domain_version is not None:
        _upgrade_others(services, which, domain_version)


def _upgrade_others(services: Services, which: pool.Pool, version: int) -> None:
    """The role is there; what cannot be begun now is no reason to give it up."""
    try:
        upgrade.in_background(services, which, version)
    except errors.StorageError as error:
        log.warning("pool %s: its domains are not upgraded to version %s: %s", which.id, version, error)


def spm_stop(services: Services, pool_id: ids.PoolId) -> None:
    """spmStop: give up the role. Waits for verbs that work on the pool's domains, but not for tasks.

    Raises:
        StoragePoolUnknown: the pool is not connected.
        SpmStatusError: this host is not its SPM.
        TaskInProgress: a task is at work; nothing has changed.
        SpmStopError: the role is given up, but the pool's record still names this host.
    """
    _refuse_tasks(services, pool_id)
    services.pools.get(pool_id).upgrades.cancel()
    with _whole_pool(services, pool_id, "spmStop"):
        spm.stop(services.pools.get(pool_id), services.tasks)


def _refuse_tasks(services: Services, pool_id: ids.PoolId) -> None:
    """Say at once that a task is at work, instead of waiting for the locks that it holds.

    It is the role that counts: it can be given up also when the cluster lock is lost.
    """
    which = services.pools.get(pool_id)
    if which.role is not pool.Role.SPM:
        raise errors.SpmStatusError(pool=pool_id)
    if busy := services.tasks.busy(which.task_store):
        raise errors.TaskInProgress(pool=pool_id, task=busy)


def fence(services: Services, pool_id: ids.PoolId) -> dict[str, object]:
    """fenceSpmStorage: record that nobody is SPM, after the host that was it is gone; the status afterwards.

    Raises:
        StoragePoolUnknown: the pool is not connected.
        SpmFenceError: the SPM is alive, a task is at work here, or the record cannot be written.
        StorageDomainMasterError: the pool's metadata cannot be read.
    """
    which = services.pools.get(pool_id)
    if which.in_memory:
        return get_spm_status(services, pool_id)
    which.upgrades.cancel()
    with _whole_pool(services, pool_id, "fenceSpmStorage"):
        spm.fence(services.pools.get(pool_id), services.tasks)
    return get_spm_status(services, pool_id)


def get_spm_status(services: Services, pool_id: ids.PoolId) -> dict[str, object]:
    """getSpmStatus: the role of this host, and who the pool says is SPM.

    Raises:
        StoragePoolUnknown: it is not connected.
        StorageDomainMasterError: the pool's metadata cannot be read.
    """
    which = services.pools.get(pool_id)
    state = which.state()
    return {"spm_st": {"spmStatus": str(which.role), "spmLver": state.lver, "spmId": state.spm_id}}


@contextlib.contextmanager
def _whole_pool(services: Services, pool_id: ids.PoolId, title: str) -> Iterator[None]:
    """Hold a connected pool and all of its domains, so that no verb is at work on any of them."""
    for _ in range(_MAP_ATTEMPTS):
        members = _members(services, pool_id)
        with services.locks.hold(*_exclusive(pool_id, members), title=title):
            if _members(services, pool_id) == members:
                yield
                return
    raise errors.OperationInProgress(object=f"pool {pool_id}", reason="its domains change all the time; try again")


def _members(services: Services, pool_id: ids.PoolId) -> list[ids.DomainId]:
    which = services.pools.get(pool_id)
    try:
        return sorted({which.master.id, *which.state().domains})
    except errors.StorageDomainMasterError as error:
        # Storage that is gone must not keep this host from giving up the role.
        log.warning("pool %s: its domains are not known: %s", pool_id, error)
        return [which.master.id]


def _exclusive(pool_id: ids.PoolId, domain_ids: Sequence[ids.DomainId]) -> list[locks.Lock]:
    return [locks.exclusive(pool_id), *(locks.exclusive(each) for each in domain_ids)]
