"""Which domain is the master of a pool, when more than one says so.

A change of master writes the new one first and the old one afterwards, so a crash in between leaves two domains with
the role Master. The higher ``MASTER_VERSION`` is the newer and decides: nobody connects to the older while the newer
can be read, and whoever becomes SPM takes the role from all others. Looking writes nothing.
"""

import dataclasses
import logging
from collections.abc import Iterable

from storage import errors, ids
from storage.domains import domain, domain_metadata

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A domain that calls itself the master of a pool.

    Attributes:
        domain: the domain.
        version: the master version that it records; 0 when it records none.
    """

    domain: domain.Domain
    version: int


def check_class(candidate: domain.Domain) -> None:
    """Refuse a domain that can never be a master.

    Raises:
        IsoCannotBeMasterDomain, BackupCannotBeMasterDomain: it is of such a class.
        StorageError: its record cannot be read.
    """
    domain_class = candidate.domain_class
    if domain_class == domain_metadata.ISO:
        raise errors.IsoCannotBeMasterDomain(domain=candidate.id)
    if domain_class != domain_metadata.DATA:
        raise errors.BackupCannotBeMasterDomain(domain=candidate.id)


def claims(
    finder: domain.Finder, pool_id: ids.PoolId, domain_ids: Iterable[ids.DomainId], besides: ids.DomainId
) -> list[Claim]:
    """Other domains of a pool that say they are its master. What cannot be read says nothing.

    Args:
        domain_ids: domains of the pool.
        besides: the domain that is the master as far as the caller knows.
    """
    found = []
    for domain_id in domain_ids:
        if domain_id == besides:
            continue
        try:
            member = finder.find(domain_id)
            metadata = member.metadata()
            if metadata.is_master and pool_id in metadata.pools:
                found.append(Claim(member, metadata.number(domain_metadata.MASTER_VERSION, 0)))
        except errors.StorageError as error:
            log.debug("pool %s: whether domain %s is a master is not known: %s", pool_id, domain_id, error)
    return found


def refuse_newer(
    finder: domain.Finder,
    pool_id: ids.PoolId,
    domain_ids: Iterable[ids.DomainId],
    master_id: ids.DomainId,
    version: int,
) -> None:
    """Check that no other domain became the master after this one.

    Args:
        version: master version of the master.

    Raises:
        StoragePoolWrongMaster: another one has a higher version.
    """
    newer = max(claims(finder, pool_id, domain_ids, master_id), key=lambda claim: claim.version, default=None)
    if newer is not None and newer.version > version:
        reason = f"domain {newer.domain.id} became the master after it, with version {newer.version}"
        raise errors.StoragePoolWrongMaster(domain=master_id, pool=pool_id, reason=reason)


def demote(member: domain.Domain) -> None:
    """Make a domain say in one write that it is no master. Nothing is written when it says so already.

    Raises:
        StorageError: its record cannot be read or written.
    """
    metadata = member.metadata()
    if metadata.is_master or metadata.number(domain_metadata.MASTER_VERSION, 0):
        member.update({domain_metadata.ROLE: domain_metadata.REGULAR, domain_metadata.MASTER_VERSION: "0"})


def demote_others(
    finder: domain.Finder, pool_id: ids.PoolId, domain_ids: Iterable[ids.DomainId], master_id: ids.DomainId
) -> None:
    """Take the role from every other domain that claims it; the caller is SPM. What fails is logged: the next SPM
    tries again, and until then the version decides."""
    for claim in claims(finder, pool_id, domain_ids, master_id):
        try:
            demote(claim.domain)
            log.warning("pool %s: domain %s is the master no more, %s is", pool_id, claim.domain.id, master_id)
        except errors.StorageError as error:
            log.warning("pool %s: domain %s still calls itself the master: %s", pool_id, claim.domain.id, error)
