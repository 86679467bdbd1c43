"""Files that nobody may open: the kernel (inotify) tells who did, whatever program it was.

A hostile image names them. That they are still the same afterwards would not say that nobody read them.
"""

import ctypes
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import images

_OPENED, _MODIFIED, _ATTRIBUTES, _CREATED, _DELETED, _MOVED = 0x20, 0x2, 0x4, 0x100, 0x200, 0xC0
_EVENT = struct.Struct("iIII")
_NAMES = {_OPENED: "opened", _MODIFIED: "modified", _CREATED: "created", _DELETED: "deleted"}

_libc = ctypes.CDLL(None, use_errno=True)


class Canary:
    """A directory with a raw file, a qcow2 image and a record in it, a port, and a guard. Use as a context manager.

    Attributes:
        directory: where the files are.
        raw, qcow2, record: the files.
        port: where nobody may connect to, on the loopback address.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.raw, self.qcow2, self.record = (directory / name for name in ("secret.raw", "secret.qcow2", "secret.meta"))
        self.raw.write_bytes(b"a secret" * 8192)
        images.create(self.qcow2, 1 << 20)
        self.record.write_bytes(b"DOMAIN=secret\nEOF\n")
        self._sum = self._digest()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        wanted = _OPENED | _MODIFIED | _ATTRIBUTES | _CREATED | _DELETED | _MOVED
        if self._fd < 0 or _libc.inotify_add_watch(self._fd, os.fsencode(directory), wanted) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        self._socket.close()

    def songs(self) -> list[str]:
        """What happened since the last question, in words."""
        found = list(self._events())
        try:
            self._socket.accept()[0].close()
            found.append("somebody connected")
        except BlockingIOError:
            pass
        return found

    def unchanged(self) -> bool:
        """Whether the files are what they were. Opens them, which is not told."""
        same = self._digest() == self._sum
        list(self._events())
        return same

    def _events(self) -> Iterator[str]:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        while data:
            _, mask, _, length = _EVENT.unpack_from(data)
            name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0").decode()
            what = " ".join(word for bit, word in _NAMES.items() if mask & bit) or f"event {mask:#x}"
            yield f"{name or 'the directory'} {what}"
            data = data[_EVENT.size + length :]

    def _digest(self) -> str:
        found = hashlib.sha256()
        for path in sorted(self.directory.iterdir()):
            found.update(path.name.encode() + path.read_bytes())
        return found.hexdigest()
