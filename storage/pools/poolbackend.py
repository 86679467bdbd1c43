"""Where the metadata of a connected pool lives: in its master domain, or in this process with the lock as witness.

With the disk backend the master's record holds everything. With the memory backend the caller of connectStoragePool
brings the map of domains and repeats it whenever it changes; who the SPM is says the cluster lock, and nothing about
the pool is written. Both answer the same questions.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from storage import errors, ids
from storage.domains import clusterlock, domain, domain_metadata

ACTIVE = "Active"
ATTACHED = "Attached"


@dataclasses.dataclass(frozen=True)
class PoolState:
    """What is known about a pool at one moment.

    Attributes:
        name: name of the pool.
        master_version: counts the changes of master.
        domains: status by domain, one of `domain_metadata.STATUSES`.
        spm_id: host id of the SPM, or `domain_metadata.NOBODY`.
        lver: version of the SPM lock, or `domain_metadata.NOBODY`.
    """

    name: str
    master_version: int
    domains: Mapping[ids.DomainId, str]
    spm_id: int
    lver: int


class Backend(Protocol):
    """Metadata of one pool."""

    def read(self) -> PoolState:
        """The state now.

        Raises:
            StorageDomainMasterError: the master's record cannot be read, or lacks what a master has.
        """

    def set_spm(self, spm_id: int, lver: int | None = None) -> None:
        """Record who is SPM; durable on return, one write.

        Args:
            spm_id: host id or `domain_metadata.NOBODY`.
            lver: version of the lock; None: as it is.

        Raises:
            StorageError: it could not be written.
        """

    def set_domains(self, domains: Mapping[ids.DomainId, str]) -> None:
        """Make this the map of the pool's domains; with the disk backend durable on return, one write.

        Args:
            domains: status by domain.

        Raises:
            StorageError: it could not be written; the old map counts.
        """


class DiskBackend:
    """All in the record of the master domain, read anew for every question."""

    def __init__(self, master: domain.Domain) -> None:
        self._master = master

    def read(self) -> PoolState:
        try:
            metadata = self._master.metadata()
            return PoolState(
                metadata.pool_description,
                metadata.master_version,
                metadata.pool_domains,
                metadata.spm_id,
                metadata.spm_lver,
            )
        except errors.StorageError as error:
            raise errors.StorageDomainMasterError(reason=str(error)) from error

    def set_spm(self, spm_id: int, lver: int | None = None) -> None:
        changes = {domain_metadata.POOL_SPM_ID: str(spm_id)}
        if lver is not None:
            changes[domain_metadata.POOL_SPM_LVER] = str(lver)
        self._master.update(changes)

    def set_domains(self, domains: Mapping[ids.DomainId, str]) -> None:
        self._master.update({domain_metadata.POOL_DOMAINS: domain_metadata.encode_pool_domains(domains)})


class MemoryBackend:
    """The map as the caller gave it; the SPM as the cluster lock knows it.

    Args:
        master: domain whose lock makes a host the SPM.
        master_version: as the caller gave it.
        domains: status by domain.
    """

    def __init__(self, master: domain.Domain, master_version: int, domains: Mapping[ids.DomainId, str]) -> None:
        self._master = master
        self._master_version = master_version
        self._domains = dict(domains)

    @property
    def domains(self) -> Mapping[ids.DomainId, str]:
        """The map, for which no storage is asked."""
        return dict(self._domains)

    def read(self) -> PoolState:
        try:
            name = self._master.metadata().pool_description
            holder = self._master.cluster_lock.inquire()
        except errors.StorageError as error:
            raise errors.StorageDomainMasterError(reason=str(error)) from error
        spm_id, lver = _witnessed(holder)
        return PoolState(name, self._master_version, self._domains, spm_id, lver)

    def set_spm(self, spm_id: int, lver: int | None = None) -> None:
        """Nothing to write: taking and releasing the lock is the record."""

    def set_domains(self, domains: Mapping[ids.DomainId, str]) -> None:
        """Kept until the caller of connectStoragePool brings the next map, which should say the same."""
        self._domains = dict(domains)


def _witnessed(holder: clusterlock.Holder | None) -> tuple[int, int]:
    """Host id and lock version; the protocol takes version 0, which is all the local lock can say, for missing."""
    if holder is None:
        return domain_metadata.NOBODY, domain_metadata.NOBODY
    return holder.host_id or domain_metadata.NOBODY, holder.version or domain_metadata.NOBODY
