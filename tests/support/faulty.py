"""Storage that fails: a file system (FUSE) over a file or directory, whose names are there and whose contents are not.

What was there can be looked up and looked at (lstat) as before; whoever opens it, lists it or asks for its space gets
an error of the test's choice, or waits. Needs root.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support import hung

possible = hung.possible

_PATIENCE = 20.0  # seconds after which nobody has to wait any more, or a test that fails would never end
_DETACH = 2  # MNT_DETACH of <sys/mount.h>
_READ_ONLY, _REMOUNT, _BIND = 1, 32, 4096
_ROOT = 1
_BUFFER = 1 << 17

# Operations and structures of <linux/fuse.h>, protocol 7.26.
_LOOKUP, _FORGET, _GETATTR, _INIT, _ACCESS, _INTERRUPT, _BATCH_FORGET = 1, 2, 3, 26, 34, 36, 42
_SILENT = (_FORGET, _INTERRUPT, _BATCH_FORGET)
_REQUEST = struct.Struct("<IIQQIIII")
_REPLY = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def over(path: Path, number: int, *, blind: bool = False) -> Iterator["Server"]:
    """Have whatever is below a path fail with an error number, while the block runs.

    Args:
        number: e.g. ``errno.ESTALE``; 0 makes callers wait until the block ends, and fail with EIO then.
        blind: whether looking at it (lstat) fails, too.

    Raises:
        OSError: it could not be mounted.
    """
    server = Server(path, number, blind)
    try:
        yield server
    finally:
        server.end()


@contextlib.contextmanager
def pinned(path: Path, *, readonly: bool = False, moved_to: Path | None = None) -> Iterator[None]:
    """Mount a file or directory over itself while the block runs: it can be used as before, but nothing can take its
    place.

    Args:
        readonly: nothing can be written below it either.
        moved_to: where it is at the end of the block, when a directory above it gets another name meanwhile.
    """
    name = os.fsencode(path)
    _check(_libc.mount(name, name, None, _BIND, None))
    try:
        if readonly:
            _check(_libc.mount(None, name, None, _BIND | _REMOUNT | _READ_ONLY, None))
        yield
    finally:
        _check(_libc.umount2(os.fsencode(moved_to or path), _DETACH))


@contextlib.contextmanager
def small(directory: Path, spare: int, *, empty: bool = False) -> Iterator[None]:
    """A file system in place of a directory, with what was in there and so many bytes more, while the block runs.

    Args:
        spare: bytes, above 0.
        empty: without what was in there.
    """
    aside = Path(tempfile.mkdtemp(dir=directory.parent.parent, prefix=".aside-"))
    name = os.fsencode(directory)
    if not empty:
        _copy(directory, aside / "was")
    _check(_libc.mount(b"small", name, b"tmpfs", 0, b"size=64m"))
    try:
        if not empty:
            _copy(aside / "was", directory)
        found = os.statvfs(directory)
        size = (found.f_blocks - found.f_bfree) * found.f_frsize + spare
        _check(_libc.mount(b"small", name, b"tmpfs", _REMOUNT, f"size={size}".encode()))
        yield
    finally:
        _check(_libc.umount2(name, _DETACH))
        shutil.rmtree(aside)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-aT", "--sparse=always", str(source), str(target)], check=True, timeout=60)


class Server:
    """See `over`."""

    def __init__(self, path: Path, number: int, blind: bool) -> None:
        self._path = path
        self._number = number
        self._blind = blind
        self._nodes = {_ROOT: _Node(path)}
        self._waiting: list[int] = []
        self._ended = threading.Event()
        self._gone = False
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            options = f"fd={self._fd},rootmode={os.lstat(path).st_mode:o},user_id=0,group_id=0,allow_other"
            _check(_libc.mount(b"faulty", os.fsencode(path), b"fuse", 0, options.encode()))
        except BaseException:
            os.close(self._fd)
            raise
        self._thread = threading.Thread(target=self._serve, name="faulty", daemon=True)
        self._thread.start()
        self._timer = threading.Timer(_PATIENCE, self._let_go)
        self._timer.daemon = True
        self._timer.start()

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._waiting)

    def end(self) -> None:
        """Let everybody go, and show again what was there; a second time nothing happens."""
        if self._gone:
            return
        self._gone = True
        self._timer.cancel()
        self._let_go()
        _check(_libc.umount2(os.fsencode(self._path), _DETACH))
        self._thread.join(5)
        os.close(self._fd)

    def _let_go(self) -> None:
        self._ended.set()
        for unique in self._waiting:
            self._answer(unique, b"", errno.EIO)

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, _BUFFER)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # that request was taken back
                return  # unmounted
            _, operation, unique, node, *_ = _REQUEST.unpack_from(request)
            if operation not in _SILENT:
                self._react(operation, unique, node, request[_REQUEST.size :])

    def _react(self, operation: int, unique: int, node: int, body: bytes) -> None:
        if operation == _INIT:
            self._answer(unique, struct.pack("<IIIIHHI40x", 7, 26, 0, 0, 8, 8, 4096))
        elif operation == _GETATTR and not self._blind:
            self._answer(unique, struct.pack("<QII", 0, 0, 0) + self._nodes[node].attributes(node))
        elif operation == _ACCESS:
            self._answer(unique, b"")
        elif operation == _LOOKUP:
            self._look_up(unique, node, os.fsdecode(body.rstrip(b"\0")))
        elif self._number == 0 and not self._ended.is_set():
            self._waiting.append(unique)
        else:
            self._answer(unique, b"", self._number or errno.EIO)

    def _look_up(self, unique: int, node: int, name: str) -> None:
        found = self._nodes[node].entries.get(name)
        if found is None:
            self._answer(unique, b"", errno.ENOENT)
            return
        number = next((key for key, known in self._nodes.items() if known is found), len(self._nodes) + 1)
        self._nodes[number] = found
        self._answer(unique, struct.pack("<QQQQII", number, 0, 0, 0, 0, 0) + found.attributes(number))

    def _answer(self, unique: int, body: bytes, number: int = 0) -> None:
        with contextlib.suppress(OSError):  # whoever asked may be gone
            os.write(self._fd, _REPLY.pack(_REPLY.size + len(body), -number, unique) + body)


class _Node:
    """What was there before it was hidden."""

    def __init__(self, path: Path) -> None:
        self._status = os.lstat(path)
        below = path.iterdir() if stat.S_ISDIR(self._status.st_mode) else ()
        self.entries = {each.name: _Node(each) for each in below}

    def attributes(self, number: int) -> bytes:
        found = self._status
        times = [int(each) for each in (found.st_atime, found.st_mtime, found.st_ctime)]
        size, mode, links = found.st_size, found.st_mode, found.st_nlink
        return _ATTRIBUTES.pack(number, size, found.st_blocks, *times, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
