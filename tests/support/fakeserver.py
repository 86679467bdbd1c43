"""A stand-in for the daemon: an XML-RPC server on a free loopback port that gives canned replies and notes calls."""

import contextlib
import dataclasses
import socketserver
import ssl
import threading
import xmlrpc.client
import xmlrpc.server
from collections.abc import Callable, Iterable, Iterator
from typing import Any

OK = {"code": 0, "message": "OK"}


@dataclasses.dataclass
class Fake:
    """What the test sees of the server.

    Attributes:
        address: host:port.
        calls: verb and arguments of every call so far.
        headers: HTTP headers of every call so far.
        connections: how many connections were accepted.
        replies: verb -> reply, or a function from the arguments to the reply. An exception is raised: a fault.
    """

    replies: dict[str, Any]
    address: str = ""
    calls: list[tuple[str, list[Any]]] = dataclasses.field(default_factory=list)
    headers: list[dict[str, str]] = dataclasses.field(default_factory=list)
    connections: int = 0

    def answer(self, verb: str, values: Iterable[Any]) -> Any:
        arguments = list(values)
        self.calls.append((verb, arguments))
        reply: Any | Callable[..., Any] = self.replies[verb]
        if callable(reply):
            reply = reply(*arguments)
        if isinstance(reply, Exception):
            raise reply
        return reply


def ok(**members: Any) -> dict[str, Any]:
    """A reply that reports success."""
    return {"status": dict(OK), **members}


def failure(code: int, message: str) -> dict[str, Any]:
    """A reply that reports a failure."""
    return {"status": {"code": code, "message": message}}


@contextlib.contextmanager
def serving(replies: dict[str, Any], context: ssl.SSLContext | None = None) -> Iterator[Fake]:
    """Run a server for the time of a block.

    Args:
        context: TLS, or None for plain HTTP.
    """
    fake = Fake(replies)

    class Handler(xmlrpc.server.SimpleXMLRPCRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            fake.headers.append(dict(self.headers.items()))
            super().do_POST()

    class Server(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer):
        daemon_threads = True
        block_on_close = False

        def _dispatch(self, method: str, params: Iterable[Any]) -> Any:
            return fake.answer(method, params)

        def get_request(self) -> Any:
            connection, address = super().get_request()
            fake.connections += 1
            return (context.wrap_socket(connection, server_side=True) if context else connection), address

    with Server(("127.0.0.1", 0), Handler, logRequests=False) as server:
        fake.address = "{}:{}".format(*server.server_address)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


def fault(code: int, text: str) -> xmlrpc.client.Fault:
    """A fault to reply with."""
    return xmlrpc.client.Fault(code, text)
