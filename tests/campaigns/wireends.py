"""What a conversation of the wire campaign goes to: the rpc floor in this process, or a daemon; and what came back."""

import contextlib
import dataclasses
import json
import logging
import socket
import threading
import types
from collections.abc import Sequence
from typing import Any, Self, cast
from xml.parsers import expat
from xmlrpc import client as stdlib

from rpc import bridge, catalogue, connection, server
from storage import errors
from tests.campaigns import wirejudge
from tests.support import wire
from vdsmlite import status, streams

_LOGGERS = [logging.getLogger(name) for name in ("rpc", "vdsmlite")]


@dataclasses.dataclass(frozen=True)
class Answer:
    """One response.

    Attributes:
        status: of HTTP; 0 for what is no response.
        kind: its Content-Type.
    """

    status: int
    kind: str
    body: bytes

    def successes(self) -> int:
        """How many verbs say in it that all went well.

        Raises:
            ValueError: it is no answer that the protocol knows.
        """
        if 400 <= self.status <= 431 or self.status in (204, 505):
            return 0
        if self.status in (200, 206) and self.kind in ("application/octet-stream", ""):
            return 1
        if self.kind == "application/json":
            content = json.loads(self.body)
            if self.status == 500:  # a stream's way to say what a verb says with a status
                return 0 if content["status"]["code"] else 1
            answers = content if isinstance(content, list) else [content]
            return sum("result" in each and "openrpc" not in str(each["result"])[:20] for each in answers)
        if self.status == 200 and self.kind == "text/xml":
            return self._xml_successes()
        raise ValueError(f"status {self.status} with {self.kind or 'nothing'}")

    def _xml_successes(self) -> int:
        try:
            found: Any = stdlib.loads(self.body)[0][0]
        except stdlib.Fault:
            return 0
        except (expat.ExpatError, stdlib.Error) as error:
            raise ValueError(f"no XML-RPC: {error}") from error
        results = [each[0] for each in found if isinstance(each, list)] if isinstance(found, list) else [found]
        return sum(isinstance(each, dict) and each["status"]["code"] == 0 for each in results)


def answers(data: bytes) -> list[Answer]:
    """The responses of a connection; what follows the last whole one is a response of status 0."""
    found: list[Answer] = []
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        number = wire.status(head + separator)
        if number == 100:
            data = rest
            continue
        names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        length = int(names.get(b"content-length", b"0"))
        if not separator or len(rest) < length:
            return [*found, Answer(0, "", data)]
        found.append(Answer(number, names.get(b"content-type", b"").decode(), rest[:length]))
        data = rest[length:]
    return found


class Indoors:
    """The rpc floor in this process, with the streams' handlers, above verbs that only note that they were called.

    As a context manager it listens to what is logged meanwhile.

    Attributes:
        ran: calls of verbs since the last conversation began.
        complaints: records of errors that were logged, ever.
    """

    def __init__(self, schema: catalogue.Catalogue) -> None:
        self.ran: list[wirejudge.Call] = []
        self.complaints: list[str] = []
        self._verbs = {(verb.api_class, verb.api_method): verb for verb in schema.verbs.values()}
        target = bridge.Bridge(schema, self, status.translate)
        ends = streams.handlers(_no_services(), lambda record: None)
        limits = connection.Settings(linger_seconds=5)
        self._host = connection.Host(server.rpc_routes(target, {}, ends), limits, None, None)
        self._listener = _Listener(self.complaints)

    def __enter__(self) -> Self:
        for logger in _LOGGERS:
            logger.addHandler(self._listener)
            logger.propagate = False
        return self

    def __exit__(self, *error: object) -> None:
        for logger in _LOGGERS:
            logger.removeHandler(self._listener)
            logger.propagate = True

    def __getattr__(self, api_class: str) -> Any:
        """A class of the API, for the bridge."""
        return lambda: _Noting(self, api_class)

    def note(self, api_class: str, api_method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Called for each method of the API; gives a result that the wire can carry."""
        verb = self._verbs[api_class, api_method]
        names = {param.argument: param.name for param in verb.params}
        self.ran.append(wirejudge.Call(verb.name, {names[name]: value for name, value in arguments.items()}))
        return {} if verb.member in (None, "*") else {verb.member: "done"}

    def converse(self, data: bytes) -> bytes:
        """Everything that comes back for some bytes and the end."""
        self.ran.clear()
        near, far = socket.socketpair()
        received: list[bytes] = []
        peer = threading.Thread(target=_speak, args=(near, data, received))  # buffers are small, so both sides must act
        served = connection.Connection(self._host, _Pipe(fileno=far.detach()), "127.0.0.1:1")
        peer.start()
        try:
            served.serve()
        finally:
            served.close()
            peer.join()
            near.close()
        return received[0]


def _speak(sock: socket.socket, data: bytes, received: list[bytes]) -> None:
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    received.append(wire.read_all(sock))


class _Pipe(socket.socket):
    """A local socket that has no TCP to set options of."""

    def setsockopt(self, *arguments: Any) -> None:
        pass


class _Noting:
    def __init__(self, home: Indoors, api_class: str) -> None:
        self._home = home
        self._api_class = api_class

    def __getattr__(self, api_method: str) -> Any:
        return lambda **arguments: self._home.note(self._api_class, api_method, arguments)


class _Listener(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        self._complaints.append(f"{record.getMessage()} {record.exc_info}")


def _no_services() -> streams.Services:
    """Services of a host that is in no pool."""

    def unknown(pool_id: object) -> object:
        raise errors.StoragePoolUnknown(pool=pool_id)

    settings = types.SimpleNamespace(workers=2, lock_timeout=5.0, transfer_seconds=5.0)
    return cast(streams.Services, types.SimpleNamespace(settings=settings, pools=types.SimpleNamespace(spm=unknown)))


def talk(address: str, data: bytes, *, end: bool, patience: float) -> socket.socket:
    """Send some bytes to a daemon, with the end if wanted; what comes back is to be read from the socket."""
    host, port = address.rsplit(":", 1)
    sock = socket.create_connection((host, int(port)), timeout=patience)
    with contextlib.suppress(ConnectionError):  # it may have refused, and left, while we still send
        sock.sendall(data)
    if end:
        with contextlib.suppress(OSError):  # "not connected", when it has left
            sock.shutdown(socket.SHUT_WR)
    return sock


def in_order(some: Sequence[str], all_of: Sequence[str]) -> bool:
    """Whether the ones occur among the others, in their order."""
    others = iter(all_of)
    return all(each in others for each in some)
