"""A domain in a directory: how it is looked at, changed and removed. `domainmaker` makes one.

Layout (format: the protocol's file domain, all versions) below ``<mount>/<domain id>``::

    dom_md/metadata          the record (`domain_metadata`); it is there exactly when the domain is
    dom_md/ids, leases       of the cluster lock; empty on a local directory
    dom_md/inbox, outbox     mailboxes, 16 MiB each, sparse
    images/<image>/          volumes, each of up to three files
    master/tasks, vms        only on a master, made when a host becomes SPM
"""

import collections
import contextlib
import errno
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path

from storage import errors, files, ids, layout
from storage.domains import clusterlock, domain_metadata, mounttable

VERSIONS = (0, 2, 3, 4, 5)
"""Versions that are read. 2 exists on block storage only and is never made here."""

METADATA_LIMIT = 256 * 1024
"""Most bytes of a domain record; a pool of a hundred domains needs six thousand."""

TOMBSTONE_PREFIX = ".remove_me_"

_LEASE_VERSION = 3  # the first with a lease file a volume

# Read, change, write of one record is one step for everybody in this process, whichever object it goes through.
_update_locks: dict[str, contextlib.AbstractContextManager[bool]] = collections.defaultdict(threading.RLock)


class FileDomain:
    """One domain below one mount. Making the object reads nothing; each look reads the storage anew.

    Args:
        domain_id: the domain.
        mount: entry of its connection in the repository, ``<repository>/mnt/<encoded path>``.
        local_posixfs: see `clusterlock.for_domain`.
    """

    def __init__(self, domain_id: ids.DomainId, mount: Path, *, local_posixfs: bool = False) -> None:
        self._local_posixfs = local_posixfs
        self.id = domain_id
        self.mount = mount
        self.path = mount / domain_id
        self._guard = threading.Lock()
        self._cluster_lock: clusterlock.ClusterLock | None = None

    def __repr__(self) -> str:
        return f"FileDomain({str(self.path)!r})"

    @property
    def metadata_path(self) -> Path:
        return self.path / layout.METADATA

    @property
    def ids_path(self) -> Path:
        """File of the cluster lock."""
        return self.path / "dom_md" / "ids"

    def exists(self) -> bool:
        """Whether the record is there, in directories of its own: links are not followed. Three lstats, no reading.

        Raises:
            OSError: it could not be found out.
        """
        return (
            files.file_type(self.path) == stat.S_IFDIR
            and files.file_type(self.metadata_path.parent) == stat.S_IFDIR
            and files.file_type(self.metadata_path) == stat.S_IFREG
        )

    def remains(self) -> bool:
        """Whether a domain without record still has a directory: an interrupted creation or removal left it.

        Raises:
            OSError: it could not be found out.
        """
        left = (self.path, self.path / "dom_md")  # a link in place of the first would lead out of the storage
        is_there = all(files.file_type(each) == stat.S_IFDIR for each in left)
        return is_there or files.file_type(self._tombstone) == stat.S_IFDIR

    def metadata(self) -> domain_metadata.DomainMetadata:
        """The record as it is now, verified.

        Raises:
            StorageDomainMetadataNotFound: there is none.
            StorageDomainAccessError: it cannot be read, or is empty.
            FileStorageDomainStaleNFSHandle: the server has forgotten the mount.
            MetaDataSealIsBroken, MetaDataValidationError: it is damaged.
            StorageDomainLayoutError: it is the record of another domain.
            UnsupportedDomainVersion: a version that is not known here.
        """
        metadata = domain_metadata.parse(self.read_record(), f"metadata of domain {self.id}")
        if not metadata.raw:
            raise errors.StorageDomainAccessError(domain=self.id, reason="its metadata is empty")
        if metadata.domain_id.lower() != self.id.lower():
            raise errors.StorageDomainLayoutError(
                domain=self.id, reason=f"its metadata is that of domain {metadata.domain_id}"
            )
        if metadata.version not in VERSIONS:
            raise errors.UnsupportedDomainVersion(version=metadata.version)
        return metadata

    def read_record(self) -> bytes:
        """The record as bytes, unchecked; raises as `metadata` for what cannot be read."""
        try:
            return files.read(self.metadata_path, METADATA_LIMIT)
        except (FileNotFoundError, NotADirectoryError):
            raise errors.StorageDomainMetadataNotFound(domain=self.id, path=self.metadata_path) from None
        except OSError as error:
            raise self._access_error(error) from error

    @property
    def version(self) -> int:
        return self.metadata().version

    @property
    def type(self) -> str:
        """Type name such as ``LOCALFS``."""
        return self.metadata().type

    @property
    def domain_class(self) -> str:
        """``Data``, ``Iso`` or ``Backup``."""
        return self.metadata().domain_class

    @property
    def pools(self) -> list[ids.PoolId]:
        """Pools the domain is attached to."""
        return self.metadata().pools

    @property
    def remote_path(self) -> str:
        """Where the connection leads: the target of its link, or the source of its mount; empty when it is gone."""
        try:
            return os.readlink(self.mount)
        except OSError:
            found = mounttable.at(self.mount)
        return "" if found is None else found.source

    @property
    def cluster_lock(self) -> clusterlock.ClusterLock:
        """The lock of the SPM: always the same object, because whoever took it must give it back through it."""
        with self._guard:
            if self._cluster_lock is None:
                kind, found = self.metadata().type, mounttable.at(self.mount)
                file_system = None if found is None else found.type
                self._cluster_lock = clusterlock.for_domain(
                    self.id, kind, self.ids_path, file_system, local_posixfs=self._local_posixfs
                )
            return self._cluster_lock

    @property
    def has_leases(self) -> bool:
        """Whether volumes of this domain have lease files. Says so the domain itself, not its version: where sanlock
        has initialised ``ids`` and ``leases``, it was made by a host that expects them."""
        try:
            initialised = all((self.path / "dom_md" / name).stat().st_size > 0 for name in ("ids", "leases"))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._access_error(error) from error
        return initialised and self.version >= _LEASE_VERSION

    def image_ids(self) -> list[ids.ImageId]:
        """Ids of all images: directories with a well-formed id as a name. What waits for removal has none.

        Raises:
            StorageDomainLayoutError: the directory of images is missing.
            StorageDomainAccessError: it cannot be read.
        """
        try:
            with os.scandir(layout.images(self.path)) as entries:
                names = [each.name for each in entries if ids.is_id(each.name) and each.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            raise errors.StorageDomainLayoutError(domain=self.id, reason="the directory 'images' is missing") from None
        except OSError as error:
            raise self._access_error(error) from error
        return [ids.ImageId(name) for name in sorted(names)]

    def image_directory(self, image_id: ids.ImageId) -> Path:
        """Where an image's volumes are, whether or not there is such an image."""
        return layout.images(self.path) / image_id

    def space(self) -> tuple[int, int]:
        """Total and free bytes of the file system; free is what an unprivileged writer gets."""
        try:
            found = os.statvfs(self.path)
        except OSError as error:
            raise self._access_error(error) from error
        return found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail

    def validate(self) -> None:
        """Check that the domain is usable.

        Raises:
            StorageDomainLayoutError: files or directories that every domain has are missing.
            StorageError: as `metadata`.
        """
        metadata = self.metadata()
        for check in (lambda: metadata.type, lambda: metadata.domain_class, lambda: metadata.pools):
            check()
        wanted = {"dom_md/ids": stat.S_IFREG, "dom_md/leases": stat.S_IFREG, "images": stat.S_IFDIR}
        try:
            missing = [name for name, kind in wanted.items() if files.file_type(self.path / name) != kind]
        except OSError as error:
            raise self._access_error(error) from error
        if missing:
            raise errors.StorageDomainLayoutError(domain=self.id, reason=f"missing: {', '.join(missing)}")

    def update(self, changes: Mapping[str, str | None]) -> domain_metadata.DomainMetadata:
        """Change keys of the record in one durable transaction; the record afterwards.

        The record is read and verified, the new one made in memory and put in place by one `files.replace`: after a
        crash at any point it is the old or the new one. Nothing is written when anything fails before, so damage is
        never sealed again. Excludes other threads; other hosts are excluded by the caller's role.

        Args:
            changes: values by key; None removes the key. Other keys stay as they are, also unknown ones.

        Raises:
            MetaDataValidationError: a value cannot be stored.
            StorageDomainAccessError: the new record could not be written; the old one is in place.
            StorageError: as `metadata`.
        """
        with self._updating():
            current = self.metadata()
            values = dict(current.raw)
            for key, value in changes.items():
                if value is None:
                    values.pop(key, None)
                else:
                    values[key] = value
            return self._replace(current, values)

    def _replace(
        self, current: domain_metadata.DomainMetadata, values: dict[str, str]
    ) -> domain_metadata.DomainMetadata:
        data = domain_metadata.encode(values)
        new = domain_metadata.parse(data, current.name)
        if new.raw != current.raw:
            try:
                mode = stat.S_IMODE(os.lstat(self.metadata_path).st_mode)
                files.sweep_replaced(self.metadata_path)
                files.replace(self.metadata_path, data, mode)
            except OSError as error:
                raise self._access_error(error) from error
        return new

    def set_pool(self, pool_id: ids.PoolId) -> None:
        """Record that the domain belongs to a pool, and is no master there; a second time changes nothing.

        The role goes in the same write: one that is left from another pool must not make it a second master of this.

        Raises:
            StorageDomainAlreadyAttached: it belongs to another pool and is no ISO domain, which several may share.
        """
        with self._updating():
            metadata = self.metadata()
            pools = metadata.pools
            if pool_id in pools:
                return
            if pools and metadata.domain_class != "Iso":
                raise errors.StorageDomainAlreadyAttached(domain=self.id, pool=pools[0])
            joined = ",".join([*pools, pool_id])
            self.update({domain_metadata.POOLS: joined, domain_metadata.ROLE: domain_metadata.REGULAR})

    def clear_pool(self, pool_id: ids.PoolId | None = None) -> None:
        """Record in one write that the domain has left a pool and is no master.

        Args:
            pool_id: the pool; None: every pool.

        Raises:
            StorageDomainNotInPool: it does not belong to that pool.
        """
        with self._updating():
            pools = self.pools
            if pool_id is not None and pool_id not in pools:
                raise errors.StorageDomainNotInPool(domain=self.id, pool=pool_id)
            left = [each for each in pools if pool_id not in (None, each)]
            self.update({domain_metadata.POOLS: ",".join(left), domain_metadata.ROLE: domain_metadata.REGULAR})

    def _updating(self) -> contextlib.AbstractContextManager[bool]:
        return _update_locks[str(self.metadata_path)]

    def remove(self) -> None:
        """Remove the domain with all its images; nothing is left of it on return. Repeatable.

        Write order: the directory is renamed to the hidden tombstone ``.remove_me_<domain>``, and from then on the
        domain is gone for everybody; then the content goes. A crash during that leaves a part of the tombstone, and a
        repeated removal or the next creation on the mount finishes the work.

        The caller holds the locks on the domain and on the mount, and has decided that the domain may go.

        Raises:
            MiscDirCleanupFailure: something could not be removed. Once the tombstone is there, the domain is gone even
                so.
        """
        try:
            files.remove_tree(self._tombstone)
            with contextlib.suppress(FileNotFoundError):
                files.rename(self.path, self._tombstone)
            files.remove_tree(self._tombstone)
        except OSError as error:
            raise errors.MiscDirCleanupFailure(
                path=error.filename or self._tombstone, reason=error.strerror or str(error)
            ) from error

    @property
    def _tombstone(self) -> Path:
        return self.mount / f"{TOMBSTONE_PREFIX}{self.id}"

    def _access_error(self, error: OSError) -> errors.StorageError:
        if error.errno == errno.ESTALE:
            return errors.FileStorageDomainStaleNFSHandle(domain=self.id)
        return errors.StorageDomainAccessError(domain=self.id, reason=error.strerror or str(error))
