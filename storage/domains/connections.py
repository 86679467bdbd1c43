"""Connections to storage servers: what connectStorageServer makes, checks and takes away.

A connection is an entry of ``<repository>/mnt`` named after the server's path (`layout.encode`). For a local directory
the entry is a symbolic link to it; NFS, POSIX file systems and GlusterFS are mounted on it (`mounts`). Each type is an
implementation of `Connection`, listed in `KINDS`.

The name is made from the canonical path, so ``/foo/`` and ``/foo`` are one connection; and because the encoding is not
injective, an entry that points elsewhere is a collision and refused, never re-pointed.
"""

import contextlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from storage import errors, files, layout
from storage.domains import mounter, mounts as mounted, mountspec, mounttable

log = logging.getLogger(__name__)

LOCALFS = 4


class Connection(Protocol):
    """One entry of a connect, disconnect or validate call. All of them may be repeated.

    Raises (all of them):
        StorageError: its code becomes the status of the entry.
    """

    def connect(self) -> None:
        """Make the storage reachable below ``<repository>/mnt``."""

    def disconnect(self) -> None:
        """Undo `connect`; success when nothing is connected."""

    def validate(self) -> None:
        """Check whether `connect` would work; changes nothing."""

    def is_connected(self) -> bool:
        """Whether it is connected; raises when it is, but cannot be used."""


class LocalConnection:
    """A local directory.

    Args:
        repository: where the link is made.
        path: the directory as the caller spells it.

    Raises (all methods):
        StorageServerAccessPermissionError: the path is not an absolute path to a directory that we may list, enter and
            write; or its name is taken by another path.
    """

    # Looking at an entry and making it is one step for everybody in this process.
    _guard = threading.Lock()

    def __init__(self, repository: layout.Repository, path: str) -> None:
        self._repository = repository
        self._path = path

    def connect(self) -> None:
        """Write order: one link, put in place by a rename; a crash leaves it or not (and perhaps a ``*.new`` link)."""
        path = self._checked()
        with self._guard:
            files.make_directory(self._repository.root)
            files.make_directory(self._repository.mnt)
            if not self._is_connected(path):
                files.point(self._repository.connection(path), Path(path))

    def disconnect(self) -> None:
        path = self._canonical()
        with self._guard:
            if self._is_connected(path):
                files.unlink(self._repository.connection(path))

    def validate(self) -> None:
        self._is_connected(self._checked())

    def is_connected(self) -> bool:
        return self._is_connected(self._checked())

    def mount(self) -> Path:
        """The entry of this connection, which must exist and lead to a usable directory."""
        path = self._checked()
        if not self._is_connected(path):
            raise self._refusal("it is not connected; call connectStorageServer first")
        return self._repository.connection(path)

    def _canonical(self) -> str:
        try:
            return layout.canonical_local(self._path)
        except errors.StorageDomainIllegalRemotePath as error:
            raise self._refusal(error.fields["reason"]) from None

    def _checked(self) -> str:
        path = self._canonical()
        try:
            is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        except OSError as error:
            raise self._refusal(error.strerror or str(error)) from error
        if not is_directory:
            raise self._refusal("it is not a directory")
        # The permissions are the operator's business: they are looked at and never changed.
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise self._refusal("the service user lacks read, write or search permission")
        if Path(path).resolve().is_relative_to(self._repository.mnt.resolve()):
            raise self._refusal("it lies inside the repository's own mount directory")
        return path

    def _is_connected(self, path: str) -> bool:
        entry = self._repository.connection(path)
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._refusal(f"{entry} is not a link of ours: {error.strerror}") from error
        if _canonical_or_none(target) != path:
            raise self._refusal(f"its name {entry.name} is taken by {target!r}; disconnect or remove that first")
        return True

    def _refusal(self, reason: str) -> errors.StorageServerAccessPermissionError:
        return errors.StorageServerAccessPermissionError(path=repr(self._path), reason=reason)


class UnsupportedConnection:
    """A connection of a type that this release cannot make, or with words that nothing can be made of."""

    def __init__(self, error: errors.StorageError) -> None:
        self._error = error

    def connect(self) -> None:
        raise self._error

    def validate(self) -> None:
        raise self._error

    def is_connected(self) -> bool:
        raise self._error

    def disconnect(self) -> None:
        """Nothing of this type is ever connected, so there is nothing to undo."""


Factory = Callable[[layout.Repository, mounter.Mounter, Mapping[str, Any]], Connection]


def _local(repository: layout.Repository, tool: mounter.Mounter, parameters: Mapping[str, Any]) -> Connection:
    return LocalConnection(repository, str(parameters.get("connection", "")))


def _mounted(server_type: int) -> Factory:
    def make(repository: layout.Repository, tool: mounter.Mounter, parameters: Mapping[str, Any]) -> Connection:
        try:
            wanted = mountspec.of(server_type, parameters)
        except errors.MountError as error:
            return UnsupportedConnection(error)
        return mounted.MountedConnection(repository, wanted, tool)

    return make


def _block(repository: layout.Repository, tool: mounter.Mounter, parameters: Mapping[str, Any]) -> Connection:
    return UnsupportedConnection(errors.StorageDomainTypeError(type="iSCSI or FCP"))


KINDS: Mapping[int, Factory] = {
    mountspec.NFS: _mounted(mountspec.NFS),
    2: _block,
    3: _block,
    LOCALFS: _local,
    mountspec.POSIXFS: _mounted(mountspec.POSIXFS),
    mountspec.GLUSTERFS: _mounted(mountspec.GLUSTERFS),
}
"""Server type number of the protocol to the maker of its connections."""


FILE_TYPES = (mountspec.NFS, LOCALFS, mountspec.POSIXFS, mountspec.GLUSTERFS)
"""Types that a file domain can be stored on."""


class Connections:
    """All connections of a repository. Links and mounts themselves are the table, so nothing is lost by a restart.

    Args:
        repository: whose connections.
        tool: mounts and unmounts.
    """

    def __init__(self, repository: layout.Repository, tool: mounter.Mounter | None = None) -> None:
        self._repository = repository
        self._tool = tool or mounter.Mounter()

    def of(self, server_type: int, parameters: Mapping[str, Any]) -> Connection:
        """The connection that one entry of a call speaks of.

        Args:
            server_type: number of the protocol, a key of `KINDS`.
            parameters: the entry; ``connection`` is the path.

        Raises:
            KeyError: there is no such server type.
            InvalidParameterException: a number among its words is none; the protocol refuses the whole call for that.
        """
        return KINDS[server_type](self._repository, self._tool, parameters)

    def place(self, domain_type: int, path: str) -> tuple[str, Path]:
        """Where a domain of a type and path is stored: the path in its one form, and the entry of its connection.

        Args:
            domain_type: number of the protocol: 1, 4, 6 or 7.
            path: what was connected.

        Raises:
            StorageDomainIllegalRemotePath: no connection can have such a path.
            StorageServerAccessPermissionError, StorageDomainFSNotMounted: it is not connected, or is unusable.
        """
        if domain_type == LOCALFS:
            path = layout.canonical_local(path)
            return path, self.local_mount(path)
        return mountspec.canonical(domain_type, path), mounted.place_of(self._repository, domain_type, path)

    def local_mount(self, path: str) -> Path:
        """Entry of a connected local directory.

        Raises:
            StorageServerAccessPermissionError: the path is unusable or not connected.
        """
        return LocalConnection(self._repository, path).mount()


def mounts(repository: layout.Repository) -> list[Path]:
    """Entries of all connections, sorted: links of our own shape, and directories that something is mounted on.

    A link that does not point where its name says was made by somebody else and is not followed; a directory without
    a mount is what an interrupted connect left.

    Raises:
        OSError: the directory could not be read; when it does not exist there are no connections.
    """
    found = _entries(repository.mnt)
    if any(entry.name == layout.GLUSTER and _is_directory(entry) for entry in found):
        found += _entries(repository.mnt / layout.GLUSTER)
    links = [Path(entry.path) for entry in found if entry.is_symlink() and _is_ours(entry)]
    directories = [Path(entry.path) for entry in found if entry.name not in layout.CONTAINERS and _is_directory(entry)]
    places = {each.place for each in mounttable.read()} if directories else set()
    return sorted([*links, *(each for each in directories if mounttable.resolved(each) in places)])


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def name_of(path: str) -> str:
    """Name of the entry that a path of any type would have."""
    for canonical in (layout.canonical_local, mountspec.canonical_posix):
        with contextlib.suppress(errors.StorageDomainIllegalRemotePath):
            return layout.encode(canonical(path))
    return layout.encode(path)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        target = os.readlink(entry.path)
    except OSError:  # disconnected meanwhile
        return False
    # Older writers of the format encode the path as it was given, so "/foo/" may be called "_foo_".
    ours = entry.name in (layout.encode(target), layout.encode(_canonical_or_none(target) or ""))
    if not ours and not entry.name.endswith(files.TEMPORARY_SUFFIX):
        log.warning("%s points at %r, which is not where its name says: ignored", entry.path, target)
    return ours


def _canonical_or_none(path: str) -> str | None:
    try:
        return layout.canonical_local(path)
    except errors.StorageDomainIllegalRemotePath:
        return None
