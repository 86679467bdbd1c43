"""Which domains belong to a pool and which of them are in use: attach, activate, deactivate, detach.

Two records say it: the domain's own (``POOL_UUID``) and the pool's map (`poolbackend`). A domain's own record keeps
every other pool away, so it is written first when a domain comes and last when it goes. Each verb writes each of the
two at most once, in one replacement, and a repeated call finishes what a crash cut off:

* attach: record, map. Cut off in between, the domain names the pool and the pool does not know of it;
* activate: role, conversion to the pool's version, directories of a backup domain, map, link;
* deactivate: map, link;
* detach: map, link, record. Cut off, the domain names the pool and the pool does not know of it, as above: it can be
  detached again, or attached again.

The caller holds the locks on the pool and the domain exclusively, and is its SPM.
"""

import contextlib
import logging
from collections.abc import Callable

from storage import errors, files, ids, layout
from storage.domains import domain, domain_metadata
from storage.pools import masters, pool, poolbackend

log = logging.getLogger(__name__)

Convert = Callable[[domain.Domain, int], None]
"""Raises a domain to a version; it does nothing to one that has it."""


def attach(which: pool.Pool, member: domain.Domain) -> None:
    """Make a domain a member of the pool, Attached. One that is a member already stays as it is.

    Raises:
        TooManyDomainsInStoragePoolError: the pool is full.
        MixedSDVersionError: a data domain of a higher version than the master's.
        StorageDomainAlreadyAttached: it belongs to another pool and is no ISO domain.
        AcquireHostIdFailure, AcquireLockFailure: its cluster lock is not to be had.
        StorageError: a record cannot be read or written; repeat the call.
    """
    domains = dict(which.state().domains)
    if member.id in domains and which.id in member.pools:
        log.info("domain %s is attached to pool %s already", member.id, which.id)
        return
    if member.id not in domains and len(domains) >= pool.MAX_DOMAINS:
        raise errors.TooManyDomainsInStoragePoolError(limit=pool.MAX_DOMAINS)
    metadata = member.metadata()
    if metadata.domain_class == domain_metadata.DATA and metadata.version > (top := which.master.version):
        raise errors.MixedSDVersionError(
            domain=member.id, version=metadata.version, master=which.master.id, master_version=top
        )
    with member.cluster_lock.hold(which.host_id):
        member.set_pool(which.id)
    which.backend.set_domains({member.id: poolbackend.ATTACHED, **domains})


def activate(which: pool.Pool, member: domain.Domain, convert: Convert) -> None:
    """Bring a member into use.

    Args:
        convert: raises a data domain to the version of the master.

    Raises:
        StorageDomainNotMemberOfPool: it is not in the pool's map.
        StorageDomainNotInPool: it is, but its own record does not name the pool.
        StorageError: a record cannot be read or written, or a link be made; repeat the call.
    """
    domains = dict(which.state().domains)
    if member.id not in domains:
        raise errors.StorageDomainNotMemberOfPool(domain=member.id, pool=which.id)
    metadata = member.metadata()
    if which.id not in metadata.pools:
        raise errors.StorageDomainNotInPool(domain=member.id, pool=which.id)
    if domains[member.id] != poolbackend.ACTIVE:
        masters.demote(member)
        if metadata.domain_class == domain_metadata.DATA and metadata.version < (wanted := which.master.version):
            convert(member, wanted)
        if metadata.domain_class == domain_metadata.BACKUP:
            make_master_tree(member)
        which.backend.set_domains({**domains, member.id: poolbackend.ACTIVE})
    which.link()


def make_master_tree(member: domain.Domain) -> None:
    """Make the directories for machine descriptions and tasks, where they are missing.

    Raises:
        StorageDomainAccessError: they cannot be made.
    """
    tasks = layout.master_tasks(member.path)
    try:
        for directory in (tasks.parent, tasks, layout.master_vms(member.path)):
            files.make_directory(directory, 0o755)
    except OSError as error:
        raise errors.StorageDomainAccessError(domain=member.id, reason=error.strerror or str(error)) from error


def deactivate(which: pool.Pool, domain_id: ids.DomainId) -> None:
    """Take a member that is not the master out of use; it need not be reachable.

    Raises:
        StorageDomainNotMemberOfPool: it is not in the pool's map.
        StorageError: the map cannot be written, or a link not removed; repeat the call.
    """
    domains = dict(which.state().domains)
    if domain_id not in domains:
        raise errors.StorageDomainNotMemberOfPool(domain=domain_id, pool=which.id)
    if domains[domain_id] != poolbackend.ATTACHED:
        which.backend.set_domains({**domains, domain_id: poolbackend.ATTACHED})
    which.link()


def detach(which: pool.Pool, member: domain.Domain) -> None:
    """Make a domain leave the pool.

    Raises:
        StorageDomainNotMemberOfPool: neither the map nor the domain's record says that it is a member.
        StorageDomainNotInPool: it is in the map, but its own record does not name the pool.
        CannotDetachMasterStorageDomain: it is the master.
        AcquireHostIdFailure, AcquireLockFailure: the cluster lock of an ISO domain is not to be had.
        StorageError: a record cannot be read or written; repeat the call.
    """
    domains = which.state().domains
    metadata = member.metadata()
    named = which.id in metadata.pools
    if member.id not in domains and not named:
        raise errors.StorageDomainNotMemberOfPool(domain=member.id, pool=which.id)
    if not named:
        raise errors.StorageDomainNotInPool(domain=member.id, pool=which.id)
    _refuse_master(which, member.id)
    # Other pools may change the record of an ISO domain meanwhile; any other has only this SPM.
    is_iso = metadata.domain_class == domain_metadata.ISO
    with member.cluster_lock.hold(which.host_id) if is_iso else contextlib.nullcontext():
        _drop(which, member.id)
        member.clear_pool(which.id)


def forget(which: pool.Pool, domain_id: ids.DomainId) -> None:
    """Take a domain off the pool's map, whatever its own record says; it need not be reachable. Not there: success.

    Raises:
        CannotDetachMasterStorageDomain: it is the master.
        StorageError: the map cannot be written, or a link not removed; repeat the call.
    """
    _refuse_master(which, domain_id)
    _drop(which, domain_id)


def release(member: domain.Domain, host_id: int, master_of: ids.PoolId | None) -> None:
    """Make a domain belong to no pool, whatever the pools think of it.

    Args:
        host_id: id of this host, for the domain's cluster lock.
        master_of: the connected pool whose master this domain is, if it is one.

    Raises:
        CannotDetachMasterStorageDomain: it is that master.
        AcquireHostIdFailure, AcquireLockFailure: its cluster lock is not to be had: it may be in use elsewhere.
        StorageError: its record cannot be read or written.
    """
    if master_of is not None:
        raise errors.CannotDetachMasterStorageDomain(domain=member.id, pool=master_of)
    with member.cluster_lock.hold(host_id):
        member.clear_pool()


def _refuse_master(which: pool.Pool, domain_id: ids.DomainId) -> None:
    if domain_id == which.master.id:
        raise errors.CannotDetachMasterStorageDomain(domain=domain_id, pool=which.id)


def _drop(which: pool.Pool, domain_id: ids.DomainId) -> None:
    domains = dict(which.state().domains)
    if domains.pop(domain_id, None) is not None:
        which.backend.set_domains(domains)
    which.link()
