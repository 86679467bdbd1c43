"""What every domain can do, and how domains are found.

A domain is found by looking for its record below each connection; images are never touched for that. Finding costs a
few lstats a connection, and for a known domain just those of its own connection.
"""

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from storage import errors, ids, layout
from storage.domains import clusterlock, connections, domain_metadata, filedomain

log = logging.getLogger(__name__)


class Domain(Protocol):
    """A storage domain, whatever it is stored on. Every property looks at the storage anew and may raise StorageError.

    Attributes:
        id: its id.
        path: its directory, ``<repository>/mnt/<encoded path>/<id>``.
        mount: the entry of its connection.
    """

    id: ids.DomainId
    path: Path
    mount: Path

    @property
    def version(self) -> int: ...

    @property
    def type(self) -> str: ...

    @property
    def domain_class(self) -> str: ...

    @property
    def pools(self) -> list[ids.PoolId]: ...

    @property
    def remote_path(self) -> str: ...

    @property
    def has_leases(self) -> bool: ...

    @property
    def cluster_lock(self) -> clusterlock.ClusterLock: ...

    def exists(self) -> bool: ...

    def metadata(self) -> domain_metadata.DomainMetadata: ...

    def read_record(self) -> bytes: ...

    def update(self, changes: Mapping[str, str | None]) -> domain_metadata.DomainMetadata: ...

    def set_pool(self, pool_id: ids.PoolId) -> None: ...

    def clear_pool(self, pool_id: ids.PoolId | None = None) -> None: ...

    def image_ids(self) -> list[ids.ImageId]: ...

    def image_directory(self, image_id: ids.ImageId) -> Path: ...

    def space(self) -> tuple[int, int]: ...

    def validate(self) -> None: ...

    def remove(self) -> None: ...


class Finder:
    """All domains on connected storage. One object for each domain, so that all use one cluster lock.

    Args:
        repository: whose connections are searched.
        local_posixfs: see `clusterlock.for_domain`.
    """

    def __init__(self, repository: layout.Repository, *, local_posixfs: bool = False) -> None:
        self._repository = repository
        self._local_posixfs = local_posixfs
        self._guard = threading.Lock()
        self._known: dict[Path, filedomain.FileDomain] = {}
        self._places: dict[ids.DomainId, Path] = {}

    def find(self, domain_id: ids.DomainId) -> Domain:
        """The domain of this id. Its record may still be damaged: whoever reads it is told.

        Raises:
            StorageDomainDoesNotExist: no connection holds it.
            StorageDomainLayoutError: two different directories claim to be it; neither is used.
            StorageDomainAccessError: it was not found, and a connection could not be looked at.
        """
        with self._guard:
            place = self._places.get(domain_id)
        if place is not None:
            try:
                if (domain := self._at(domain_id, place)).exists():
                    return domain
            except OSError as error:
                raise _access_error(domain_id, error) from error
        return self._search(domain_id)

    def all(self) -> list[Domain]:
        """Every domain whose record can be read, ordered by id. What cannot is logged and left out."""
        found: list[Domain] = []
        for domain_id in sorted(self._scan()):
            try:
                domain = self.find(domain_id)
                domain.metadata()
            except errors.StorageDomainDoesNotExist:
                continue  # the remains of one: a directory without record
            except errors.StorageError as error:
                log.warning("domain %s is left out: %s", domain_id, error)
            else:
                found.append(domain)
        return found

    def forget(self) -> None:
        """Look for every domain anew the next time, because connections have changed."""
        with self._guard:
            self._places.clear()

    def remains(self, domain_id: ids.DomainId) -> Domain | None:
        """What an interrupted creation or removal left under this id, or None.

        Raises:
            StorageDomainAccessError: a connection could not be looked at.
        """
        try:
            for mount in self._mounts(domain_id):
                if (domain := self._at(domain_id, mount)).remains():
                    return domain
        except OSError as error:
            raise _access_error(domain_id, error) from error
        return None

    def _mounts(self, domain_id: ids.DomainId) -> list[Path]:
        try:
            return connections.mounts(self._repository)
        except OSError as error:
            raise _access_error(domain_id, error) from error

    def _search(self, domain_id: ids.DomainId) -> Domain:
        found: list[filedomain.FileDomain] = []
        doubt: OSError | None = None
        for mount in self._mounts(domain_id):
            domain = self._at(domain_id, mount)
            try:
                # One directory may be connected twice, by two names.
                if domain.exists() and not any(os.path.samefile(domain.path, other.path) for other in found):
                    found.append(domain)
            except OSError as error:
                log.warning("%s cannot be searched for domain %s: %s", mount, domain_id, error)
                doubt = error
        if len(found) > 1:
            places = " and ".join(str(each.path) for each in found)
            raise errors.StorageDomainLayoutError(domain=domain_id, reason=f"it is at {places}; disconnect one of them")
        if found:
            with self._guard:
                self._places[domain_id] = found[0].mount
                return self._known.setdefault(found[0].path, found[0])
        if doubt is not None:
            raise _access_error(domain_id, doubt) from doubt
        raise errors.StorageDomainDoesNotExist(domain=domain_id)

    def _scan(self) -> set[ids.DomainId]:
        found: set[ids.DomainId] = set()
        for mount in connections.mounts(self._repository):
            try:
                found.update(ids.DomainId(name) for name in os.listdir(mount) if ids.is_id(name))
            except OSError as error:
                log.warning("%s cannot be searched for domains: %s", mount, error)
        return found

    def _at(self, domain_id: ids.DomainId, mount: Path) -> filedomain.FileDomain:
        with self._guard:
            known = self._known.get(mount / domain_id)
            return known or filedomain.FileDomain(domain_id, mount, local_posixfs=self._local_posixfs)


def _access_error(domain_id: ids.DomainId, error: OSError) -> errors.StorageDomainAccessError:
    return errors.StorageDomainAccessError(domain=domain_id, reason=error.strerror or str(error))
