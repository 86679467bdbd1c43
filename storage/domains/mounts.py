"""Connections that are mounts: NFS, POSIX file systems, GlusterFS.

The mount is made on a directory of ``<repository>/mnt`` that is named after the source. The kernel's table of mounts is
the only record, so nothing is lost by a restart of the daemon.

Connecting: make the directory; mount; look whether it can be used. A crash after the first step leaves an empty
directory, which the next connect uses and the next disconnect removes; one after the second leaves the mount, which is
then found as connected. Disconnecting: unmount; remove the directory. Both may be repeated after a crash at any point.
"""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from storage import errors, files, layout
from storage.domains import mounter, mountspec, mounttable

_STACKED = 16  # most mounts on one place that a disconnect takes away

_HELPERS = ("/sbin", "/usr/sbin", "/usr/local/sbin")
_NEED_HELPERS = ("nfs", "nfs4", "glusterfs", "cifs", "smb3", "ceph")

# Looking at a place and mounting on it is one step for everybody in this process.
_guards: dict[str, threading.Lock] = {}
_guards_lock = threading.Lock()


class MountedConnection:
    """A file system that is mounted.

    Args:
        repository: where the place is.
        wanted: what to mount.
        tool: mounts and unmounts.

    Raises (all methods):
        MountError: it cannot be mounted or unmounted, or something else is mounted on its place.
        StorageServerAccessPermissionError: it is mounted, but this user cannot list, enter and write its root.
    """

    def __init__(self, repository: layout.Repository, wanted: mountspec.Spec, tool: mounter.Mounter) -> None:
        self._repository = repository
        self._wanted = wanted
        self._tool = tool
        self._place = repository.mnt / wanted.place

    def connect(self) -> None:
        for directory in (self._repository.root, self._repository.mnt, self._place.parent):
            files.make_directory(directory)
        with self._guarded():
            if not self._is_mounted():
                self._mount()
            else:
                self._check_usable()

    def disconnect(self) -> None:
        with self._guarded():
            for _ in range(_STACKED):
                if not self._is_mounted():
                    break
                self._unmount()
            self._remove_place()

    def validate(self) -> None:
        """Whether connecting could work, as far as that shows without another host being asked."""
        if self._is_mounted():
            self._check_usable()
            return
        kind = self._wanted.type
        helpers = [Path(directory, f"mount.{kind}") for directory in _HELPERS]
        if kind in _NEED_HELPERS and not any(each.exists() for each in helpers):
            raise self._failure(f"this host has no client for {kind}: mount.{kind} is not installed")
        if not self._wanted.network:
            try:
                is_device = stat.S_ISBLK(os.stat(self._wanted.source).st_mode)
            except OSError as error:
                raise self._failure(error.strerror or str(error)) from error
            if not is_device:
                raise self._failure("it is not a block device")

    def is_connected(self) -> bool:
        if not self._is_mounted():
            return False
        self._check_usable()
        return True

    def _mount(self) -> None:
        files.make_directory(self._place, 0o755)
        if os.listdir(self._place):
            raise self._failure(f"{self._place} holds files, which the mount would hide")
        wanted = self._wanted
        try:
            self._tool.mount(wanted.source, self._place, wanted.type, wanted.options)
            if not self._is_mounted():
                raise self._failure("mount reports success, and nothing is mounted")
            self._check_usable()
        except errors.StorageError:
            # A mount that was not over in time may have come about even so.
            with contextlib.suppress(errors.StorageError, OSError):
                if self._is_mounted():
                    self._unmount()
                self._remove_place()
            raise

    def _unmount(self) -> None:
        source = self._wanted.source
        try:
            self._tool.unmount(source, self._place)
        except mounter.Busy:
            raise  # who uses it would lose it unawares
        except errors.MountError:
            if not self._wanted.network:
                raise
            self._tool.unmount(source, self._place, force=True)

    def _remove_place(self) -> None:
        """Remove the directory; one that holds files was none of ours, and one that is held busy stays for the next."""
        with contextlib.suppress(OSError):
            files.remove_directory(self._place)

    def _is_mounted(self) -> bool:
        found = mounttable.at(self._place)
        if found is None:
            if os.path.lexists(self._place) and files.file_type(self._place) != stat.S_IFDIR:
                raise self._failure(f"{self._place} is there already, and is not a directory")
            return False
        if not is_same(self._wanted, found):
            reason = f"its name {self._place.name} is taken by {found.source!r}; disconnect that first"
            raise self._failure(reason)
        return True

    def _check_usable(self) -> None:
        if not os.access(self._place, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            reason = "the service user lacks read, write or search permission on its root, or it is mounted read-only"
            raise errors.StorageServerAccessPermissionError(path=repr(self._wanted.source), reason=reason)

    def _failure(self, reason: str) -> errors.MountError:
        return errors.MountError(path=repr(self._wanted.source), reason=reason)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        with _guards_lock:
            guard = _guards.setdefault(str(self._place), threading.Lock())
        with guard:
            yield


def is_same(wanted: mountspec.Spec, found: mounttable.Mounted) -> bool:
    """Whether a mount is of the source that is wanted: by text, and for a device by its number.

    The kernel may show a device by another path (``/dev/dm-1`` for ``/dev/mapper/x``), and a remote directory in
    another spelling.
    """
    if wanted.network:
        return _comparable(found.source) == _comparable(wanted.source)
    if found.source == wanted.source:
        return True
    number = _device_number(wanted.source)
    return number is not None and number in (found.device, _device_number(found.source))


def place_of(repository: layout.Repository, server_type: int, source: str) -> Path:
    """The place of a source that is connected.

    Raises:
        StorageDomainIllegalRemotePath: the source is not acceptable.
        StorageDomainFSNotMounted: it is not connected.
    """
    place = repository.mnt / mountspec.named(server_type, source)
    if mounttable.at(place) is None:
        raise errors.StorageDomainFSNotMounted(path=repr(source))
    return place


def _device_number(path: str) -> int | None:
    try:
        looked = os.stat(path)
    except OSError:
        return None
    return looked.st_rdev if stat.S_ISBLK(looked.st_mode) else None


def _comparable(source: str) -> str:
    head, colon, tail = source.partition(":")
    return f"{head}:{tail.strip('/')}" if colon else source
