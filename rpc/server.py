"""The server: one listening socket, one thread a connection, and a deadline on everything that waits for a peer.

The accepting thread never reads, writes or negotiates, so no client can keep another from being accepted. What a peer
may take of time is bounded by request, not by packet; what it may take of memory and threads, by caps.
"""

import errno
import logging
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from rpc import bridge as bridges, connection, jsonrpc, stream, xmlrpc

log = logging.getLogger(__name__)

Routes = connection.Routes


def rpc_routes(
    bridge: bridges.Bridge,
    errors: Mapping[str, tuple[int, str]],
    streams: Mapping[str, stream.Handler] | None = None,
) -> Routes:
    """Where the bindings live: XML-RPC on ``/`` and ``/RPC2``, JSON-RPC on ``/jsonrpc``, streams on ``/``.

    Args:
        bridge: calls the verbs.
        errors: error class name -> (status code, message template), for the API's self-description.
        streams: method of HTTP -> what answers it on ``/``.
    """
    xml = {"POST": xmlrpc.Binding(bridge)}
    return {"/": {**xml, **(streams or {})}, "/RPC2": xml, "/jsonrpc": {"POST": jsonrpc.Binding(bridge, errors)}}


class Server(socketserver.TCPServer):
    """Listens from construction on, accepts from `start` on.

    Args:
        address: host and port; port 0 takes a free one.
        routes: path -> method -> what answers it.
        settings: limits.
        context: TLS context of the server; None for plain HTTP.
        may_connect: decides on the certificate of a peer, as `ssl.SSLSocket.getpeercert` gives it.

    Raises:
        OSError: the address cannot be had.
    """

    allow_reuse_address = True
    # Connections that wait to be accepted. One that finds no place there hears nothing, and tries again after a second.
    request_queue_size = 1024

    def __init__(
        self,
        address: tuple[str, int],
        routes: Routes,
        settings: connection.Settings | None = None,
        context: ssl.SSLContext | None = None,
        may_connect: Callable[[Mapping[str, Any] | None], bool] | None = None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.settings = settings or connection.Settings()
        self._host = connection.Host(routes, self.settings, context, may_connect)
        self._connections: set[connection.Connection] = set()
        self._changed = threading.Condition()
        self._refusals = threading.BoundedSemaphore(self.settings.refusals)
        self._accepting: threading.Thread | None = None
        super().__init__(address, socketserver.BaseRequestHandler)  # the handler class is not used, see process_request

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the server listens on."""
        host, port = self.server_address[:2]
        return str(host), int(port)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def start(self) -> None:
        """Accept connections in a thread of the server's own."""
        self._accepting = threading.Thread(
            target=self.serve_forever, args=(self.settings.poll_seconds,), name="accept", daemon=True
        )
        self._accepting.start()

    def stop(self, grace: float) -> bool:
        """Accept no more, let requests that are running be answered, and close everything.

        Args:
            grace: seconds that running requests may take; those that take longer lose their connection, while the
                verb itself runs on.

        Returns:
            Whether all were answered in time.
        """
        if self._accepting is not None:
            self.shutdown()
            self._accepting.join()
        self.server_close()
        self._host.stopping.set()
        with self._changed:
            for open_connection in self._connections:
                open_connection.retire()
            answered = self._changed.wait_for(lambda: not self._connections, grace)
            for open_connection in self._connections:
                open_connection.abort()
        return answered

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; called by the base class.

        Raises:
            OSError: nothing could be accepted.
        """
        try:
            return self.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                log.error("cannot accept: %s", error)
                time.sleep(0.1)  # the socket stays ready: without a pause the loop would take a whole processor
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread, or refuse it; called by the base class in the accepting thread."""
        host, port = client_address[:2]
        accepted = connection.Connection(self._host, request, f"{host}:{port}")
        if self.connections < self.settings.connections:
            with self._changed:
                self._connections.add(accepted)
            target = accepted.serve
        elif self._refusals.acquire(blocking=False):
            target = accepted.refuse
        else:
            accepted.turn_away()
            return
        try:
            threading.Thread(target=self._run, args=(accepted, target), name=accepted.client, daemon=True).start()
        except RuntimeError as error:  # no more threads
            log.error("%s: refused: %s", accepted.client, error)
            accepted.turn_away()
            self._forget(accepted, target)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong in the accepting thread; called by the base class, which closes the connection."""
        log.exception("%s: connection not served", client_address)

    def _run(self, accepted: connection.Connection, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception:  # a bug in the server itself must not end as a traceback on stderr
            log.exception("%s: connection failed", accepted.client)
        finally:
            self._forget(accepted, target)

    def _forget(self, accepted: connection.Connection, target: Callable[[], None]) -> None:
        accepted.close()
        if target == accepted.refuse:
            self._refusals.release()
            return
        with self._changed:
            self._connections.discard(accepted)
            self._changed.notify_all()
