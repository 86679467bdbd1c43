"""The lock that makes one host the SPM: one interface, one implementation for storage that only this host sees.

`LocalLock` is an ``flock`` on ``dom_md/ids``, as the protocol has it for local directories: it excludes every other
process of the same host, vdsm included, and nobody else. The file stays as it is, empty or initialised by sanlock.
Storage that several hosts see needs disk Paxos (sanlock); until that exists, such domains get `UnsupportedLock`, whose
acquire refuses. Falling back to the local lock there would allow two SPMs at once. A POSIX file system may be on a
device of this host alone, which nothing on it tells: there the operator may say so (``storage.local_posixfs``).
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from storage import errors, ids

MAX_HOST_ID = 250
RESERVED_HOST_ID = 250
"""Host id of verbs that need the lock before the host has an id of its own."""

LOCAL_TYPE = "LOCALFS"
POSIX_TYPE = "POSIXFS"

SINGLE_HOST_FILE_SYSTEMS = frozenset(("btrfs", "ext2", "ext3", "ext4", "f2fs", "xfs"))
"""Types of file systems on a device that only one host can have mounted at a time."""

# A look (`inquire`) holds the file shared for microseconds; an acquire that meets it must not fail.
_ATTEMPTS = 5
_PAUSE = 0.02  # seconds


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a cluster lock.

    Attributes:
        host_id: host id, or None when the lock does not tell (another process of this host).
        version: how often the lock was taken before, as far as the lock counts; the local one does not and says 0.
    """

    host_id: int | None
    version: int


class ClusterLock(Protocol):
    """Mutual exclusion between hosts for one domain.

    A lock is owned by the object that acquired it, not by a thread. It is never released by garbage collection: the
    owner releases it, in a `finally` or with `hold`; the end of the process ends it too.
    """

    def acquire(self, host_id: int) -> None:
        """Take the lock; does not wait for another holder.

        Raises:
            AcquireHostIdFailure: the host id is not one of 1..250.
            AcquireLockFailure: somebody holds it (this object too: taking twice would release once too early), or it
                cannot be taken at all.
        """

    def release(self) -> None:
        """Give the lock back; without it, nothing happens."""

    def inquire(self) -> Holder | None:
        """Who holds the lock, or None when it is free. Takes nothing that could disturb a holder.

        Raises:
            AcquireLockFailure: it cannot be found out.
        """

    def held(self) -> bool:
        """Whether this object still holds the lock: looked up now, for a check before each commit."""

    def hold(self, host_id: int) -> contextlib.AbstractContextManager[None]:
        """`acquire` and release around a block."""


def for_domain(
    domain_id: ids.DomainId,
    type_name: str,
    ids_path: Path,
    file_system: str | None = None,
    *,
    local_posixfs: bool = False,
) -> ClusterLock:
    """The lock that a domain needs, by the type in its metadata and never by the shape of its path.

    Args:
        domain_id: the domain.
        type_name: value of TYPE, such as ``LOCALFS``.
        ids_path: the domain's ``dom_md/ids``.
        file_system: type of the file system that the connection has mounted, such as ``xfs``; None without a mount.
        local_posixfs: the operator says that POSIX file systems here are seen by this host only. That is believed
            only of file systems that two hosts cannot have mounted at the same time anyway.
    """
    if type_name == LOCAL_TYPE:
        return LocalLock(domain_id, ids_path)
    reason = f"domains of type {type_name} need sanlock, which is not supported yet: other hosts may see them"
    if type_name == POSIX_TYPE and not local_posixfs:
        reason += "; storage.local_posixfs says that this host is the only one"
    elif type_name == POSIX_TYPE and file_system not in SINGLE_HOST_FILE_SYSTEMS:
        reason += f" (storage.local_posixfs does not hold for file systems of type {file_system})"
    elif type_name == POSIX_TYPE:
        return LocalLock(domain_id, ids_path)
    return UnsupportedLock(domain_id, reason)


class LocalLock:
    """A cluster lock among the processes of one host."""

    def __init__(self, domain_id: ids.DomainId, path: Path) -> None:
        self._domain = domain_id
        self._path = path
        self._guard = threading.Lock()
        self._fd: int | None = None
        self._host_id: int | None = None

    def acquire(self, host_id: int) -> None:
        check_host_id(self._domain, host_id)
        with self._guard:
            if self._fd is not None:
                raise self._failure(f"it is held already, for host id {self._host_id}")
            fd = self._open()
            try:
                self._lock(fd)
                if not _is_at(fd, self._path):
                    raise self._failure("dom_md/ids was replaced meanwhile; try again")
            except BaseException:
                os.close(fd)
                raise
            self._fd, self._host_id = fd, host_id

    def release(self) -> None:
        with self._guard:
            fd, self._fd, self._host_id = self._fd, None, None
        if fd is not None:
            # Closing alone would leave it to a child between fork and exec, which shares the descriptor.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def inquire(self) -> Holder | None:
        with self._guard:
            if self._fd is not None:
                return Holder(self._host_id, 0)
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Holder(None, 0)
        finally:
            os.close(fd)
        return None

    def held(self) -> bool:
        with self._guard:
            # A lock on a file that is no longer dom_md/ids protects nothing.
            return self._fd is not None and _is_at(self._fd, self._path)

    @contextlib.contextmanager
    def hold(self, host_id: int) -> Iterator[None]:
        self.acquire(host_id)
        try:
            yield
        finally:
            self.release()

    def _open(self) -> int:
        # Reading is enough for flock. The descriptor is not inherited, or a child would keep the lock after our end.
        try:
            return os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise self._failure(f"dom_md/ids cannot be opened: {error.strerror}") from error

    def _lock(self, fd: int) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise self._failure(f"flock: {error.strerror}") from error
            if attempt < _ATTEMPTS:
                time.sleep(_PAUSE)
        raise self._failure("another process of this host holds it")

    def _failure(self, reason: str) -> errors.AcquireLockFailure:
        return errors.AcquireLockFailure(domain=self._domain, reason=reason)


class UnsupportedLock:
    """Stands in for a lock that cannot be taken here, so that the domain can at least be looked at."""

    def __init__(self, domain_id: ids.DomainId, reason: str) -> None:
        self._domain = domain_id
        self._reason = reason

    def acquire(self, host_id: int) -> None:
        raise errors.AcquireLockFailure(domain=self._domain, reason=self._reason)

    def release(self) -> None:
        return None

    def inquire(self) -> Holder | None:
        raise errors.AcquireLockFailure(domain=self._domain, reason=self._reason)

    def held(self) -> bool:
        return False

    @contextlib.contextmanager
    def hold(self, host_id: int) -> Iterator[None]:
        self.acquire(host_id)
        yield


def check_host_id(domain_id: ids.DomainId, host_id: int) -> None:
    """Refuse an impossible host id.

    Raises:
        AcquireHostIdFailure: not one of 1..250.
    """
    if not 1 <= host_id <= MAX_HOST_ID:
        raise errors.AcquireHostIdFailure(domain=domain_id, host_id=host_id, reason=f"host ids are 1 to {MAX_HOST_ID}")


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)
