"""Making a pool out of domains, and taking it apart.

Making writes in this order, and can be repeated after a crash at any point:

1. into the master: what the pool will be, and that it is being made (`CREATING`); the role stays Regular, and without
   the role Master nobody reads the pool keys;
2. into every other domain: that it belongs to the pool;
3. into the master, in one write: lease parameters, its own membership, the role Master, and `CREATING` away. Only this
   makes the pool.

After a crash before 3 there is no pool, and domains that step 2 has reached belong to one that does not exist. The same
call again takes them: the master says that they were meant. Another call is refused until they are formatted.

Taking apart goes the other way: every other domain first, the master last, in one write. After a crash in between the
pool still is one, with domains in its map that have left it; destroying it again finishes the work.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from storage import errors, ids
from storage.domains import clusterlock, domain, domain_metadata
from storage.pools import pool, poolbackend

log = logging.getLogger(__name__)

NAME_LIMIT = 50
UNICODE_VERSION = 3
"""The first version of a domain that takes names in other than ASCII."""

CREATING = "VDSMLITE_CREATING"
"""Key of a master-to-be: id of the pool that is being made. Other readers keep and ignore it."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What shall be made.

    Attributes:
        pool: id of the pool.
        name: its name, for people.
        master: id of its master domain.
        domains: ids of all its domains, the master among them.
        master_version: to begin with.
        lease: the four lease parameters by key of the record; None: the defaults.
    """

    pool: ids.PoolId
    name: str
    master: ids.DomainId
    domains: Sequence[ids.DomainId]
    master_version: int
    lease: Mapping[str, int] | None = None


def check_request(request: Request) -> None:
    """Refuse what no storage is needed to refuse.

    Raises:
        InvalidParameterException: the master is not among the domains, the name holds control characters or line
            separators, or a number is out of range.
        StoragePoolDescriptionTooLongError: the name is too long.
        StoragePoolCreationError: a domain is listed twice.
        TooManyDomainsInStoragePoolError: too many domains.
    """
    if request.master not in request.domains:
        reason = f"the master {request.master} is not in the list"
        raise errors.InvalidParameterException(name="domainList", reason=reason)
    if len(set(request.domains)) < len(request.domains):
        raise errors.StoragePoolCreationError(reason="a domain is listed twice")
    if len(request.domains) > pool.MAX_DOMAINS:
        raise errors.TooManyDomainsInStoragePoolError(limit=pool.MAX_DOMAINS)
    check_name(request.name)
    if request.master_version < 0:
        raise errors.InvalidParameterException(name="masterVersion", reason="it is negative")


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a pool.

    Raises:
        StoragePoolDescriptionTooLongError: it is too long.
        InvalidParameterException: it holds control characters or line separators.
    """
    if len(name) > NAME_LIMIT:
        raise errors.StoragePoolDescriptionTooLongError(limit=NAME_LIMIT)
    try:
        domain_metadata.check_text("name", name)
    except errors.MetaDataValidationError as error:
        raise errors.InvalidParameterException(name="poolName", reason=error.fields["reason"]) from None


def check_ascii(name: str, version: int) -> None:
    """Refuse a pool's name that a master of this version cannot hold.

    Raises:
        UnicodeArgumentException: it is not ASCII.
    """
    if not name.isascii() and version < UNICODE_VERSION:
        raise errors.UnicodeArgumentException(object="pool in a domain of", version=version)


def lease_parameters(*given: int | None) -> dict[str, int] | None:
    """The four lease parameters by key of the record, or None for the defaults: they count only together and not 0.

    Args:
        given: renewal, lease and I/O time in seconds, and retries.
    """
    numbers = [number for number in given if number]
    return dict(zip(domain_metadata.LEASE_DEFAULTS, numbers, strict=True)) if len(numbers) == len(given) else None


def lease_changes(lease: Mapping[str, int] | None) -> dict[str, str | None]:
    """Lease parameters as keys of a master's record; None: the defaults, and that they are in force."""
    policy: dict[str, str | None] = {domain_metadata.LOCK_POLICY: "ON"} if lease is None else {}
    return policy | {key: str(number) for key, number in (lease or domain_metadata.LEASE_DEFAULTS).items()}


def create(domains: domain.Finder, request: Request) -> None:
    """Make a pool. The caller holds the locks on the pool and on every domain.

    Raises:
        StorageDomainDoesNotExist: the master does not exist.
        StorageDomainAccessError: another domain does not, or a domain is not usable.
        IsoCannotBeMasterDomain, BackupCannotBeMasterDomain: the master is of such a class.
        StorageDomainAlreadyAttached: a domain belongs to a pool.
        MixedSDVersionError: a data domain has another version than the master.
        UnicodeArgumentException: the master's version takes ASCII names only.
        AcquireLockFailure: the master's cluster lock is not to be had.
        StorageError: a record could not be written; there is no pool, and the call can be repeated.
    """
    master = domains.find(request.master)
    others = [_find(domains, each) for each in request.domains if each != request.master]
    _check(request, master, others)
    with master.cluster_lock.hold(clusterlock.RESERVED_HOST_ID):
        # Another process may have been faster until we had the lock.
        _check(request, master, others)
        master.update(_promise(request))
        for each in others:
            each.set_pool(request.pool)
        master.update(_commit(request))


def _find(domains: domain.Finder, domain_id: ids.DomainId) -> domain.Domain:
    try:
        return domains.find(domain_id)
    except errors.StorageError as error:
        raise errors.StorageDomainAccessError(domain=domain_id, reason=str(error)) from error


def _check(request: Request, master: domain.Domain, others: Sequence[domain.Domain]) -> None:
    records = {each.id: _record(each) for each in (master, *others)}
    top = records[master.id]
    if top.domain_class != domain_metadata.DATA:
        refusal = (
            errors.IsoCannotBeMasterDomain
            if top.domain_class == domain_metadata.ISO
            else errors.BackupCannotBeMasterDomain
        )
        raise refusal(domain=master.id)
    meant = top.text(CREATING, "") == request.pool and not top.is_master
    for domain_id, record in records.items():
        foreign = [each for each in record.pools if each != request.pool or not meant or domain_id == master.id]
        if foreign and record.domain_class != domain_metadata.ISO:
            raise errors.StorageDomainAlreadyAttached(domain=domain_id, pool=foreign[0])
        if record.domain_class == domain_metadata.DATA and record.version != top.version:
            raise errors.MixedSDVersionError(
                domain=domain_id, version=record.version, master=master.id, master_version=top.version
            )
    check_ascii(request.name, top.version)


def _record(each: domain.Domain) -> domain_metadata.DomainMetadata:
    try:
        each.validate()
        return each.metadata()
    except errors.StorageDomainAccessError:
        raise
    except errors.StorageError as error:
        raise errors.StorageDomainAccessError(domain=each.id, reason=str(error)) from error


def _promise(request: Request) -> dict[str, str | None]:
    others = {each: poolbackend.ATTACHED for each in request.domains}
    return {
        domain_metadata.POOL_DESCRIPTION: request.name,
        domain_metadata.POOL_SPM_ID: str(domain_metadata.NOBODY),
        domain_metadata.POOL_SPM_LVER: str(domain_metadata.NOBODY),
        domain_metadata.MASTER_VERSION: str(request.master_version),
        domain_metadata.POOL_DOMAINS: domain_metadata.encode_pool_domains(
            {**others, request.master: poolbackend.ACTIVE}
        ),
        CREATING: request.pool,
    }


def _commit(request: Request) -> dict[str, str | None]:
    return {
        domain_metadata.POOLS: request.pool,
        domain_metadata.ROLE: domain_metadata.MASTER,
        CREATING: None,
        **lease_changes(request.lease),
    }


def dissolve(which: pool.Pool, domains: domain.Finder) -> None:
    """Make the domains of a pool belong to nobody. The caller holds its cluster lock and the locks on all domains.

    Domains that cannot be reached are logged; they go on naming a pool that is gone until they are detached by force.

    Raises:
        StorageError: the master could not be changed; the pool is still one, and the call can be repeated.
    """
    for domain_id in which.state().domains:
        if domain_id != which.master.id:
            _detach(which, domains, domain_id)
    which.master.update(
        {
            domain_metadata.POOLS: "",
            domain_metadata.ROLE: domain_metadata.REGULAR,
            domain_metadata.POOL_SPM_ID: str(domain_metadata.NOBODY),
        }
    )


def _detach(which: pool.Pool, domains: domain.Finder, domain_id: ids.DomainId) -> None:
    try:
        domains.find(domain_id).clear_pool(which.id)
    except errors.StorageDomainNotInPool:
        pass  # it has left already
    except errors.StorageError as error:
        log.warning("pool %s is destroyed, but domain %s cannot be told: %s", which.id, domain_id, error)
