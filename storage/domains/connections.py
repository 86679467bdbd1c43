"""Connections to storage servers: what connectStorageServer makes, checks and takes away.

A connection is an entry of ``<repository>/mnt`` named after the server's path (`layout.encode`). For a local directory
the entry is a symbolic link to it; that is the only type so far. Network types come as further implementations of
`Connection`, listed in `KINDS`.

The name is made from the canonical path, so ``/foo/`` and ``/foo`` are one connection; and because the encoding is not
injective, an entry that points elsewhere is a collision and refused, never re-pointed.
"""

import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from storage import errors, files, layout

log = logging.getLogger(__name__)

LOCALFS = 4

# Entries of <repository>/mnt that are no connections but hold entries of other kinds.
_CONTAINERS = ("blockSD", "glusterSD")


class Connection(Protocol):
    """One entry of a connect, disconnect or validate call. All three may be repeated.

    Raises (all three):
        StorageError: its code becomes the status of the entry.
    """

    def connect(self) -> None:
        """Make the storage reachable below ``<repository>/mnt``."""

    def disconnect(self) -> None:
        """Undo `connect`; success when nothing is connected."""

    def validate(self) -> None:
        """Check whether `connect` would work; changes nothing."""


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
    """A connection of a type that this release cannot make."""

    def __init__(self, error: errors.StorageError) -> None:
        self._error = error

    def connect(self) -> None:
        raise self._error

    def validate(self) -> None:
        raise self._error

    def disconnect(self) -> None:
        """Nothing of this type is ever connected, so there is nothing to undo."""


Factory = Callable[[layout.Repository, Mapping[str, Any]], Connection]


def _local(repository: layout.Repository, parameters: Mapping[str, Any]) -> Connection:
    return LocalConnection(repository, str(parameters.get("connection", "")))


def _unmountable(kind: str) -> Factory:
    def make(repository: layout.Repository, parameters: Mapping[str, Any]) -> Connection:
        path = repr(str(parameters.get("connection", "")))
        return UnsupportedConnection(errors.MountError(path=path, reason=f"{kind} is not supported yet"))

    return make


def _block(repository: layout.Repository, parameters: Mapping[str, Any]) -> Connection:
    return UnsupportedConnection(errors.StorageDomainTypeError(type="iSCSI or FCP"))


KINDS: Mapping[int, Factory] = {
    1: _unmountable("NFS"),
    2: _block,
    3: _block,
    LOCALFS: _local,
    6: _unmountable("a POSIX file system"),
    7: _unmountable("GlusterFS"),
}
"""Server type number of the protocol to the maker of its connections."""


class Connections:
    """All connections of a repository. The links themselves are the table, so nothing is lost by a restart."""

    def __init__(self, repository: layout.Repository) -> None:
        self._repository = repository

    def of(self, server_type: int, parameters: Mapping[str, Any]) -> Connection:
        """The connection that one entry of a call speaks of.

        Args:
            server_type: number of the protocol, a key of `KINDS`.
            parameters: the entry; ``connection`` is the path.

        Raises:
            KeyError: there is no such server type.
        """
        return KINDS[server_type](self._repository, parameters)

    def local_mount(self, path: str) -> Path:
        """Entry of a connected local directory.

        Raises:
            StorageServerAccessPermissionError: the path is unusable or not connected.
        """
        return LocalConnection(self._repository, path).mount()


def mounts(repository: layout.Repository) -> list[Path]:
    """Entries of all connections, sorted: links of our own shape, and directories that something is mounted on.

    A link that does not point where its name says was made by somebody else and is not followed.

    Raises:
        OSError: the directory could not be read; when it does not exist there are no connections.
    """
    try:
        entries = sorted(os.scandir(repository.mnt), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    return [Path(entry.path) for entry in entries if entry.name not in _CONTAINERS and _is_mount(entry)]


def _is_mount(entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_symlink():
            return entry.is_dir(follow_symlinks=False)
        target = os.readlink(entry.path)
    except FileNotFoundError:  # disconnected meanwhile
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
