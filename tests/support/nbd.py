"""A tiny synchronous NBD client: the guest's disk controller, so to speak.

One request at a time over a Unix socket; fixed newstyle handshake with NBD_OPT_GO, simple replies (the protocol's
doc/proto.md). Exactly what a test guest needs: `write`, `flush`, `read`. A write is durable only after a flush.
"""

import contextlib
import socket
import struct
from pathlib import Path

_OPTION_GO = 7
_REPLY_ACK, _REPLY_INFO = 1, 3
_READ, _WRITE, _DISCONNECT, _FLUSH, _WRITE_ZEROES = 0, 1, 2, 3, 6


class Failed(OSError):
    """The server answered a request with an error number."""


class Client:
    """A connection to one export.

    Args:
        path: the server's Unix socket.
        export: the export's name.
        timeout: seconds that any single answer may take.

    Raises:
        ConnectionError: the connection ended (then every request in flight may or may not have been done).
    """

    def __init__(self, path: Path, export: str, timeout: float = 20.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._handle = 0
        try:
            self._socket.connect(str(path))
            self.size = self._handshake(export.encode())
        except BaseException:
            self._socket.close()
            raise

    def _handshake(self, name: bytes) -> int:
        magic, option_magic, _ = struct.unpack(">8s8sH", self._receive(18))
        if (magic, option_magic) != (b"NBDMAGIC", b"IHAVEOPT"):
            raise ConnectionError("not an NBD server")
        self._socket.sendall(struct.pack(">I", 3))  # fixed newstyle, no zeroes
        body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self._socket.sendall(b"IHAVEOPT" + struct.pack(">II", _OPTION_GO, len(body)) + body)
        size = -1
        while True:
            _, _, kind, length = struct.unpack(">QIII", self._receive(20))
            data = self._receive(length)
            if kind == _REPLY_ACK:
                return size
            if kind != _REPLY_INFO:
                raise ConnectionError(f"export {name!r} refused: {kind:#x} {data!r}")
            if data[:2] == b"\0\0":
                size = struct.unpack(">HQH", data)[1]

    def write(self, offset: int, data: bytes) -> None:
        """Write at a byte offset. Not durable until `flush` has returned."""
        self._request(_WRITE, offset, len(data), data)

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make a range read as zeroes, without sending any. Not durable until `flush` has returned."""
        self._request(_WRITE_ZEROES, offset, length)

    def flush(self) -> None:
        """Make every finished write durable."""
        self._request(_FLUSH, 0, 0)

    def read(self, offset: int, length: int) -> bytes:
        self._request(_READ, offset, length)
        return self._receive(length)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, _DISCONNECT, 0, 0, 0))
        self._socket.close()

    def _request(self, kind: int, offset: int, length: int, data: bytes = b"") -> None:
        self._handle += 1
        try:
            self._socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, self._handle, offset, length) + data)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionError(str(error)) from error
        magic, number, handle = struct.unpack(">IIQ", self._receive(16))
        if magic != 0x67446698 or handle != self._handle:
            raise ConnectionError("the server's answer makes no sense")
        if number:
            raise Failed(number, f"request {kind} at {offset}")

    def _receive(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            try:
                data = self._socket.recv(length - len(parts))
            except ConnectionError:
                raise
            except TimeoutError:
                raise
            except OSError as error:
                raise ConnectionError(str(error)) from error
            if not data:
                raise ConnectionError("the server is gone")
            parts += data
        return bytes(parts)
