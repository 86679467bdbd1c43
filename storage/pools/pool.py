"""A pool as this host is connected to it, and the table of connected pools (the protocol allows one at a time)."""

import contextlib
import enum
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from storage import errors, ids, layout
from storage.domains import domain, domain_metadata
from storage.pools import masters, poolbackend, poollinks, upgrade

log = logging.getLogger(__name__)

MAX_DOMAINS = 100

DomainMap = Mapping[ids.DomainId, str]


class Role(enum.StrEnum):
    """What this host is in the pool, by the names of the protocol."""

    FREE = "Free"
    CONTEND = "Contend"
    SPM = "SPM"


class Pool:
    """One connected pool.

    The role is changed by `spm` only, and only by who holds the pool's lock exclusively.

    Attributes:
        id: the pool.
        host_id: id of this host in the pool.
        master: its master domain.
        backend: where its metadata lives.
        role: what this host is.
        upgrades: domains that wait for a higher version.
    """

    def __init__(
        self,
        repository: layout.Repository,
        domains: domain.Finder,
        pool_id: ids.PoolId,
        host_id: int,
        master: domain.Domain,
        backend: poolbackend.Backend,
    ) -> None:
        self._repository = repository
        self._finder = domains
        self.id = pool_id
        self.host_id = host_id
        self.master = master
        self.backend = backend
        self.role = Role.FREE
        self.upgrades = upgrade.Queue(pool_id)

    @property
    def task_store(self) -> Path:
        """Where the tasks of the pool are kept, inside its master domain."""
        return self._repository.task_store(self.id)

    @property
    def in_memory(self) -> bool:
        """Whether the pool was connected with a map of its domains."""
        return isinstance(self.backend, poolbackend.MemoryBackend)

    def state(self) -> poolbackend.PoolState:
        """What is known about the pool now.

        Raises:
            StorageDomainMasterError: it cannot be read.
        """
        return self.backend.read()

    def member(self, domain_id: ids.DomainId) -> domain.Domain:
        """A domain of the pool.

        Raises:
            StorageDomainDoesNotExist: there is no such domain.
            StorageDomainNotMemberOfPool: it is not in the pool's map.
        """
        found = self._finder.find(domain_id)
        if domain_id not in self.state().domains:
            raise errors.StorageDomainNotMemberOfPool(domain=domain_id, pool=self.id)
        return found

    def check_master(self) -> None:
        """Look again whether the master still is the master of this pool.

        Raises:
            StoragePoolWrongMaster: it is not, or another domain became the master after it.
            StorageDomainMasterError: its record cannot be read.
        """
        state = self.state()
        check_master(self.master, self.id, state.master_version, state.domains if self.in_memory else None)
        masters.refuse_newer(self._finder, self.id, state.domains, self.master.id, state.master_version)

    def demote_others(self) -> None:
        """Leave no other domain of the pool with the role of its master; the caller is its SPM."""
        masters.demote_others(self._finder, self.id, self.state().domains, self.master.id)

    def set_master(self, master: domain.Domain, master_version: int, domains: DomainMap) -> None:
        """Take another domain for the master from now on; nothing is written.

        Args:
            domains: status by domain, which counts where the pool was connected with a map.
        """
        self.master = master
        if self.in_memory:
            self.backend = poolbackend.MemoryBackend(master, master_version, domains)
        else:
            self.backend = poolbackend.DiskBackend(master)

    def holds_lock(self) -> bool:
        """Whether the cluster lock of an SPM is still what it was when it was taken. Not knowing is no loss."""
        try:
            held = self.master.cluster_lock.held()
        except (OSError, errors.StorageError) as error:
            log.warning("pool %s: the cluster lock cannot be looked at: %s", self.id, error)
            return True
        if not held:
            log.error("pool %s: the cluster lock is lost; nothing is changed until the role is given up", self.id)
        return held

    def link(self) -> None:
        """Make the links say what the map says. A domain that cannot be found is logged and has no link.

        Raises:
            StorageDomainMasterError: the map cannot be read.
            StoragePoolConnectionError: a link could not be made.
        """
        paths = {}
        for domain_id, status in self.state().domains.items():
            if status == poolbackend.ACTIVE and domain_id != self.master.id:
                try:
                    paths[domain_id] = self._finder.find(domain_id).path
                except errors.StorageError as error:
                    log.warning("pool %s: no link to domain %s: %s", self.id, domain_id, error)
        paths[self.master.id] = self.master.path
        try:
            poollinks.refresh(self._repository, self.id, self.master.path, paths)
        except OSError as error:
            raise errors.StoragePoolConnectionError(reason=f"links: {error}") from error

    def unlink(self) -> None:
        """Remove the links.

        Raises:
            StoragePoolDisconnectionError: one could not be removed.
        """
        _remove_links(self._repository, self.id)


def _remove_links(repository: layout.Repository, pool_id: ids.PoolId) -> None:
    try:
        poollinks.remove(repository, pool_id)
    except OSError as error:
        raise errors.StoragePoolDisconnectionError(reason=f"links: {error}") from error


class Registry:
    """Connected pools.

    Args:
        repository: where links are made.
        domains: finds domains.
    """

    def __init__(self, repository: layout.Repository, domains: domain.Finder) -> None:
        self._repository = repository
        self._domains = domains
        self._connecting = threading.Lock()
        self._pools: dict[ids.PoolId, Pool] = {}

    def get(self, pool_id: ids.PoolId) -> Pool:
        """A connected pool.

        Raises:
            StoragePoolUnknown: it is not connected.
        """
        pool = self._pools.get(pool_id)
        if pool is None:
            raise errors.StoragePoolUnknown(pool=pool_id)
        return pool

    def spm(self, pool_id: ids.PoolId) -> Pool:
        """A connected pool whose SPM this host is.

        Raises:
            StoragePoolUnknown: it is not connected.
            SpmStatusError: this host is not its SPM, or its cluster lock protects nothing any more.
        """
        pool = self.get(pool_id)
        if pool.role is not Role.SPM or not pool.holds_lock():
            raise errors.SpmStatusError(pool=pool_id)
        return pool

    def all(self) -> list[Pool]:
        """Every connected pool."""
        return list(self._pools.values())

    def connect(
        self,
        pool_id: ids.PoolId,
        host_id: int,
        master_id: ids.DomainId,
        master_version: int,
        domains: DomainMap | None,
    ) -> None:
        """Connect a pool, or bring a connected one up to date; the caller holds the pool's lock exclusively.

        Nothing but links is written. When this raises, a pool that was not connected is not, and one that was is as it
        was before, at most with some links renewed.

        Args:
            host_id: id of this host, 1 to 250.
            master_id: domain that should be the master.
            master_version: version the master should have.
            domains: status by domain; None: as recorded in the master.

        Raises:
            CannotConnectMultiplePools: another pool is connected.
            StoragePoolConnected: it is connected with another host id, or with a map while none is given now.
            StoragePoolMasterNotFound: there is no such master domain.
            StoragePoolWrongMaster: the domain is not the master of this pool, another one became it later, or this host
                is SPM on another one.
            StorageDomainMasterError: its record cannot be read.
            StoragePoolConnectionError: a link could not be made.
        """
        with self._connecting:
            known = self._pools.get(pool_id)
            if known:
                _check_reconnect(known, host_id, domains)
            elif self._pools:
                raise errors.CannotConnectMultiplePools(connected=next(iter(self._pools)), pool=pool_id)
            master = self._find_master(pool_id, master_id)
            if known and known.role is not Role.FREE and known.master.id != master_id:
                reason = f"this host is the SPM on {known.master.id}"
                raise errors.StoragePoolWrongMaster(domain=master_id, pool=pool_id, reason=reason)
            check_master(master, pool_id, master_version, domains)
            backend: poolbackend.Backend = poolbackend.DiskBackend(master)
            if domains is not None:
                backend = poolbackend.MemoryBackend(master, master_version, domains)
            masters.refuse_newer(self._domains, pool_id, backend.read().domains, master_id, master_version)
            fresh = Pool(self._repository, self._domains, pool_id, host_id, master, backend)
            if known:
                fresh.link()
                # The lock of an SPM is released through the object that took it.
                known.master = known.master if known.role is not Role.FREE else master
                known.backend = backend
            else:
                _link_or_nothing(fresh)
                self._pools[pool_id] = fresh

    def refresh(self, pool_id: ids.PoolId, master_id: ids.DomainId, master_version: int) -> None:
        """Bring a connected pool up to date under a master that may be another one; its map, if it has one, stays.

        The caller holds the pool's lock exclusively.

        Raises:
            StoragePoolUnknown: it is not connected.
            StorageError: as `connect`.
        """
        known = self.get(pool_id)
        # A master that is gone must not be asked what it knows.
        domains = known.backend.domains if isinstance(known.backend, poolbackend.MemoryBackend) else None
        self.connect(pool_id, known.host_id, master_id, master_version, domains)

    def disconnect(self, pool: Pool) -> None:
        """Forget a pool and remove its links; the caller holds its lock and has made sure that it is nobody's SPM.

        Raises:
            StoragePoolDisconnectionError: a link could not be removed; the pool stays connected.
        """
        pool.unlink()
        self._pools.pop(pool.id, None)

    def drop_links(self, pool_id: ids.PoolId) -> None:
        """Remove what an earlier process left of a pool that is not connected; the caller holds the pool's lock.

        Raises:
            StoragePoolDisconnectionError: a link could not be removed.
        """
        _remove_links(self._repository, pool_id)

    def _find_master(self, pool_id: ids.PoolId, master_id: ids.DomainId) -> domain.Domain:
        try:
            return self._domains.find(master_id)
        except errors.StorageDomainDoesNotExist as error:
            raise errors.StoragePoolMasterNotFound(domain=master_id, pool=pool_id) from error


def _link_or_nothing(pool: Pool) -> None:
    try:
        pool.link()
    except errors.StorageError:
        with contextlib.suppress(errors.StorageError):
            pool.unlink()
        raise


def _check_reconnect(pool: Pool, host_id: int, domains: DomainMap | None) -> None:
    if pool.host_id != host_id:
        reason = f"with host id {pool.host_id}, not {host_id}"
        raise errors.StoragePoolConnected(pool=pool.id, reason=reason)
    if pool.in_memory and domains is None:
        reason = "with a map of its domains, which must be given again"
        raise errors.StoragePoolConnected(pool=pool.id, reason=reason)


def check_master(master: domain.Domain, pool_id: ids.PoolId, master_version: int, domains: DomainMap | None) -> None:
    """Check that a domain is the master of a pool.

    The recorded version must be the given one. Only with a map may it lag behind: whoever keeps the map elsewhere need
    not have recorded every change of master; a recorded version that is ahead means that the caller's map is outdated.

    Raises:
        StoragePoolWrongMaster: it is not.
        StorageDomainMasterError: its record cannot be read.
    """

    def wrong(reason: str) -> errors.StoragePoolWrongMaster:
        return errors.StoragePoolWrongMaster(domain=master.id, pool=pool_id, reason=reason)

    try:
        metadata = master.metadata()
        pools, recorded = metadata.pools, metadata.number(domain_metadata.MASTER_VERSION, 0)
        status = (metadata.pool_domains if domains is None and metadata.is_master else domains or {}).get(master.id)
    except errors.StorageError as error:
        raise errors.StorageDomainMasterError(reason=str(error)) from error
    if not metadata.is_master:
        raise wrong("its role is Regular")
    if pool_id not in pools:
        raise wrong(f"it belongs to {', '.join(pools) or 'no pool'}")
    if recorded > master_version or (domains is None and recorded != master_version):
        raise wrong(f"its master version is {recorded}, not {master_version}")
    if status != poolbackend.ACTIVE:
        raise wrong(f"its status in the pool is {status or 'missing'}, not {poolbackend.ACTIVE}")
