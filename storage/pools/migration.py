"""Giving a pool another master: by its SPM (`migrate`), or from outside when the old one is lost (`reconstruct`).

Migration, in this order, with the new domain's cluster lock held from the start:

1. take no more tasks (none may be at work);
2. into the new domain's ``master/``: copies of the tasks and machine descriptions of the old one;
3. in one write of the new domain's record: role, pool keys, the map in which the old one is Attached, the new master
   version. **This is the point of no return**: before it the old domain is the master and nothing has changed for
   anybody; after it the new one is;
4. this host's links, so that tasks are recorded in the new place; tasks are taken again;
5. into the old domain's record: that it is no master; then its tasks and machine descriptions go, and its cluster lock.

A crash between 3 and 5 leaves two domains with the role Master, of which the higher version decides (`masters`). What
is left of the copies of an interrupted migration is replaced by the next one.

Reconstruction writes the same keys in one write into a domain that is to be the master from then on, and then takes the
role from every other domain of the map that it can reach and that nobody uses. It needs no pool and no SPM.
"""

import dataclasses
import logging
from collections.abc import Mapping

from storage import errors, files, ids, layout
from storage.domains import clusterlock, domain, domain_metadata
from storage.jobs import taskmanager, tasks, taskstore
from storage.pools import mastercopy, masters, membership, pool, poolbackend, poolmaker

log = logging.getLogger(__name__)


# ---------------------------------------------------------------- migration


def check(which: pool.Pool, finder: domain.Finder, new_id: ids.DomainId, version: int) -> domain.Domain:
    """The domain that is to be the master, after a look whether it can be.

    Raises:
        StoragePoolWrongMaster: the version is not above the one of now.
        InvalidParameterException: it is the master already.
        StorageDomainNotInPool: it is not in the pool's map, or does not name the pool.
        StorageDomainNotActive: it is not in use.
        IsoCannotBeMasterDomain, BackupCannotBeMasterDomain: it is of such a class.
        StorageDomainDoesNotExist: it is not to be found.
        StorageError: a record cannot be read.
    """
    state = which.state()
    if version <= state.master_version:
        reason = f"the new master version {version} is not above {state.master_version}"
        raise errors.StoragePoolWrongMaster(domain=new_id, pool=which.id, reason=reason)
    if new_id not in state.domains:
        raise errors.StorageDomainNotInPool(domain=new_id, pool=which.id)
    if new_id == which.master.id:
        raise errors.InvalidParameterException(name="masterSdUUID", reason=f"domain {new_id} is the master already")
    if state.domains[new_id] != poolbackend.ACTIVE:
        raise errors.StorageDomainNotActive(domain=new_id, pool=which.id)
    new = finder.find(new_id)
    new.validate()
    masters.check_class(new)
    if which.id not in new.pools:
        raise errors.StorageDomainNotInPool(domain=new_id, pool=which.id)
    return new


def migrate(
    which: pool.Pool, manager: taskmanager.Manager, new: domain.Domain, version: int, convert: membership.Convert
) -> None:
    """Make another domain the master and take the old one out of use. The caller holds the locks on the pool and both
    domains exclusively, is the SPM, and has called `check`.

    Args:
        version: the new master version.
        convert: raises a domain to a version.

    Raises:
        AcquireHostIdFailure, AcquireLockFailure: the new domain's cluster lock is not to be had.
        TaskInProgress: a task is at work.
        StorageDomainMasterCopyError: what the master keeps could not be copied.
        StorageError: a record cannot be read or written. In all these cases the old domain is the master.
        StoragePoolConnectionError: the new domain is the master, but this host's links are not up to date; tasks are
            not taken until the SPM is started anew.
    """
    old = which.master
    known = {task.id for task in manager.all(tasks.SPM)}
    if busy := manager.close(which.task_store):
        raise errors.TaskInProgress(pool=which.id, task=busy)
    try:
        domains = _hand_over(which, old, new, version, convert)
    except BaseException:
        manager.open(which.task_store)
        raise
    which.set_master(new, version, domains)
    try:
        which.link()
        manager.open(which.task_store)
        _drop_cleared(which, known - {task.id for task in manager.all(tasks.SPM)})
    finally:
        _retire(old)


def _hand_over(
    which: pool.Pool, old: domain.Domain, new: domain.Domain, version: int, convert: membership.Convert
) -> pool.DomainMap:
    """Steps 2 and 3; the new map. The new domain's cluster lock is held afterwards, but not when this raises."""
    new.cluster_lock.acquire(which.host_id)
    try:
        if (wanted := old.version) > new.version:
            convert(new, wanted)
        for path in mastercopy.copy(old, new):
            log.warning("%s is neither a file nor a directory and stays behind", path)
        state = which.state()
        domains = {**state.domains, old.id: poolbackend.ATTACHED}
        _commit(new, _keys(which, old, state, domains, version), version)
    except BaseException:
        new.cluster_lock.release()
        raise
    return domains


def _keys(
    which: pool.Pool, old: domain.Domain, state: poolbackend.PoolState, domains: pool.DomainMap, version: int
) -> dict[str, str | None]:
    record = old.metadata()
    # With a map in memory the cluster lock says who is SPM, and nobody would take these numbers away again.
    nobody = domain_metadata.NOBODY
    spm_id, lver = (nobody, nobody) if which.in_memory else (state.spm_id, state.lver)
    return {
        domain_metadata.ROLE: domain_metadata.MASTER,
        domain_metadata.MASTER_VERSION: str(version),
        domain_metadata.POOL_DESCRIPTION: state.name,
        domain_metadata.POOL_DOMAINS: domain_metadata.encode_pool_domains(domains),
        domain_metadata.POOL_SPM_ID: str(spm_id),
        domain_metadata.POOL_SPM_LVER: str(lver),
        domain_metadata.LOCK_POLICY: record.lock_policy,
        **{key: str(number) for key, number in record.lease_parameters.items()},
    }


def _commit(new: domain.Domain, changes: Mapping[str, str | None], version: int) -> None:
    """One write; when it fails, what the record says now decides, for a failed flush comes after the change."""
    try:
        new.update(changes)
    except errors.StorageError:
        if not _is_master(new, version):
            raise
        log.exception("domain %s is the master, although the write seemed to fail", new.id)


def _is_master(member: domain.Domain, version: int) -> bool:
    try:
        record = member.metadata()
        return record.is_master and record.number(domain_metadata.MASTER_VERSION, 0) == version
    except errors.StorageError:
        return False


def _drop_cleared(which: pool.Pool, task_ids: set[ids.TaskId]) -> None:
    """Remove copied records of tasks that were cleared while they were copied."""
    for task_id in task_ids:
        try:
            taskstore.remove(which.task_store, task_id)
        except OSError as error:
            log.warning("task %s was cleared, but will show again: %s", task_id, error)


def _retire(old: domain.Domain) -> None:
    """Step 5, as far as it goes: the next SPM takes the role from whoever still has it."""
    try:
        masters.demote(old)
        mastercopy.drop(old)
    except (errors.StorageError, OSError) as error:
        log.warning("domain %s is no master any more, but not all of it could be told so: %s", old.id, error)
    finally:
        old.cluster_lock.release()


# ---------------------------------------------------------------- reconstruction


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What shall be.

    Attributes:
        pool: id of the pool.
        name: its name, for people.
        master: id of the domain that is to be its master.
        domains: status by domain, of all its domains; the master's own is Active, whatever it says here.
        master_version: of the new master.
        host_id: id of this host, for the cluster lock.
        lease: the four lease parameters by key of the record; None: the defaults.
    """

    pool: ids.PoolId
    name: str
    master: ids.DomainId
    domains: Mapping[ids.DomainId, str]
    master_version: int
    host_id: int = clusterlock.RESERVED_HOST_ID
    lease: Mapping[str, int] | None = None


def check_request(request: Reconstruction) -> None:
    """Refuse what no storage is needed to refuse.

    Raises:
        InvalidParameterException: the master is not among the domains, a number is negative, or the name holds control
            characters.
        StoragePoolDescriptionTooLongError: the name is too long.
        StorageDomainStatusError: a status is none.
        TooManyDomainsInStoragePoolError: too many domains.
    """
    if request.host_id < 0:
        raise errors.InvalidParameterException(name="hostId", reason=f"{request.host_id} is negative")
    if request.master_version < 0:
        raise errors.InvalidParameterException(name="masterVersion", reason="it is negative")
    if request.master not in request.domains:
        raise errors.InvalidParameterException(name="domainDict", reason=f"the master {request.master} is not in it")
    if len(request.domains) > pool.MAX_DOMAINS:
        raise errors.TooManyDomainsInStoragePoolError(limit=pool.MAX_DOMAINS)
    poolmaker.check_name(request.name)
    for domain_id, status in request.domains.items():
        if status not in domain_metadata.STATUSES:
            raise errors.StorageDomainStatusError(domain=domain_id, status=repr(status)[:80])


def reconstruct(finder: domain.Finder, request: Reconstruction) -> None:
    """Make a domain the master of a pool whose master is lost. The caller holds the locks on the pool and the domain.

    Raises:
        StorageDomainDoesNotExist: there is no such domain.
        StorageDomainAccessError: it is not usable.
        IsoCannotBeMasterDomain, BackupCannotBeMasterDomain: it is of such a class.
        StorageDomainAlreadyAttached: it belongs to another pool.
        UnicodeArgumentException: its version takes ASCII names only.
        AcquireHostIdFailure, AcquireLockFailure: its cluster lock is not to be had.
        StorageError: its record could not be written; repeat the call.
    """
    master = finder.find(request.master)
    _check_future(request, master)
    with master.cluster_lock.hold(request.host_id):
        record = _check_future(request, master)
        try:
            if not record.is_master:
                # What an interrupted migration has copied here is not what any master left to be rolled back.
                files.remove_tree(layout.master_tasks(master.path))
        except OSError as error:
            raise errors.StorageDomainAccessError(domain=master.id, reason=error.strerror or str(error)) from error
        _commit(master, _whole(request), request.master_version)
    for claim in masters.claims(finder, request.pool, request.domains, request.master):
        _depose(claim.domain, request.host_id)


def _check_future(request: Reconstruction, master: domain.Domain) -> domain_metadata.DomainMetadata:
    try:
        master.validate()
        record = master.metadata()
    except errors.StorageError as error:
        raise errors.StorageDomainAccessError(domain=master.id, reason=str(error)) from error
    masters.check_class(master)
    if foreign := [each for each in record.pools if each != request.pool]:
        raise errors.StorageDomainAlreadyAttached(domain=master.id, pool=foreign[0])
    poolmaker.check_ascii(request.name, record.version)
    return record


def _whole(request: Reconstruction) -> dict[str, str | None]:
    nobody = str(domain_metadata.NOBODY)
    return {
        domain_metadata.POOLS: request.pool,
        domain_metadata.ROLE: domain_metadata.MASTER,
        domain_metadata.MASTER_VERSION: str(request.master_version),
        domain_metadata.POOL_DESCRIPTION: request.name,
        domain_metadata.POOL_DOMAINS: domain_metadata.encode_pool_domains(
            {**request.domains, request.master: poolbackend.ACTIVE}
        ),
        domain_metadata.POOL_SPM_ID: nobody,
        domain_metadata.POOL_SPM_LVER: nobody,
        **poolmaker.lease_changes(request.lease),
    }


def _depose(member: domain.Domain, host_id: int) -> None:
    """Take the role from a former master that nobody is SPM on; the next SPM of the pool tries again."""
    try:
        with member.cluster_lock.hold(host_id):
            masters.demote(member)
    except errors.StorageError as error:
        log.warning("domain %s still calls itself a master: %s", member.id, error)
