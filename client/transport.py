"""Calls on the server: XML-RPC over one kept-alive HTTP or HTTPS connection.

A verb is sent once and never again by itself: after a lost connection nobody knows whether the server did the work,
and creating or deleting twice is worse than an error message. (Who only asks, like `waiting`, may ask again.)
"""

import dataclasses
import errno
import http.client
import os
import re
import socket
import ssl
import xmlrpc.client
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

from client import errors

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 54321
DEFAULT_TRUSTSTORE = Path("/etc/pki/vdsm")

# Only for reaching the server. A reply may take as long as the verb does: the caller has Ctrl-C, and keep-alive probes
# of the kernel find a server that is gone.
_CONNECT_SECONDS = 20

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the server is. `host` has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Address of a server: ``host``, ``host:port``, ``[IPv6]``, ``[IPv6]:port``, a bare IPv6, or ``0`` for this host.

    Raises:
        BadAddress: the text is none of these.
    """
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise errors.BadAddress(f"not a server address: {text!a}; give host, host:port or [IPv6]:port")
    host = match["host"].strip("[]")
    port = int(match["port"]) if match["port"] else DEFAULT_PORT
    if not 0 < port < 65536:
        raise errors.BadAddress(f"port {port} is outside 1..65535")
    return Address(DEFAULT_HOST if host == "0" else host, port)


def tls_context(truststore: Path) -> ssl.SSLContext:
    """TLS with our certificate, for a server whose certificate comes from the trust store's authority.

    The host name is not checked: hosts are known to each other by address, and only the authority's own hosts have
    certificates.

    Args:
        truststore: directory with ``keys/vdsmkey.pem``, ``certs/vdsmcert.pem`` and ``certs/cacert.pem``.

    Raises:
        CallFailed: a file is missing, unreadable, or no key or certificate.
    """
    key, certificate = truststore / "keys" / "vdsmkey.pem", truststore / "certs" / "vdsmcert.pem"
    authority = truststore / "certs" / "cacert.pem"
    for path in (key, certificate, authority):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise errors.CallFailed(f"TLS needs {path}: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except (ssl.SSLError, OSError) as error:
        raise errors.CallFailed(f"trust store {truststore}: {error}") from error
    return context


def flow_id() -> str:
    """Id under which the server logs this command's calls: VDSM_FLOW_ID of the environment, else a new one."""
    given = "".join(char for char in os.environ.get("VDSM_FLOW_ID", "") if char.isascii() and char.isprintable())
    return given.strip()[:64] or f"vdsClient-{os.urandom(4).hex()}"


class Server:
    """The server at an address. Not for several threads."""

    def __init__(self, address: Address, context: ssl.SSLContext | None, flow: str) -> None:
        """
        Args:
            address: where to connect (at the first call).
            context: TLS, or None for plain HTTP.
            flow: value of the FlowID header.
        """
        self.address = address
        self._answered = False
        self._headers = {"Content-Type": "text/xml", "User-Agent": "vdsClient", "FlowID": flow}
        if context is None:
            self._connection = http.client.HTTPConnection(address.host, address.port, _CONNECT_SECONDS)
        else:
            self._connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=_CONNECT_SECONDS, context=context
            )

    def call(self, verb: str, arguments: Sequence[Any], seconds: float | None = None) -> dict[str, Any]:
        """Call a verb, return its reply. After a failure the next call opens a new connection.

        Args:
            seconds: how long the server may be silent; None: as long as it likes.

        Raises:
            Refused: nobody listens.
            CallFailed: anything else that kept a reply from coming: network, TLS, HTTP, an XML-RPC fault.
        """
        try:
            body = xmlrpc.client.dumps(tuple(arguments), verb).encode()
        except (OverflowError, TypeError) as error:
            raise errors.CallFailed(f"arguments of {verb} do not fit into XML-RPC: {error}") from error
        try:
            values, _ = xmlrpc.client.loads(self._exchange(body, seconds))
        except xmlrpc.client.Fault as fault:
            raise errors.CallFailed(f"{verb}: fault {fault.faultCode}: {fault.faultString}") from fault
        except ConnectionRefusedError as error:
            raise errors.Refused(f"Connection to {self.address} refused") from error
        except OSError as error:
            self.close()
            raise errors.CallFailed(f"{self.address}: {_reason(error, self._answered)}") from error
        except (http.client.HTTPException, xmlrpc.client.Error, expat.ExpatError, ValueError, TypeError) as error:
            self.close()
            reason = str(error) or type(error).__name__
            raise errors.CallFailed(f"{self.address}: reply cannot be understood: {reason}") from error
        self._answered = True
        return _only_struct(verb, values)

    def close(self) -> None:
        self._connection.close()

    def _exchange(self, body: bytes, seconds: float | None) -> bytes:
        if self._connection.sock is None:
            self._connect()
        self._connection.sock.settimeout(seconds)
        self._connection.request("POST", "/RPC2", body, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status != http.client.OK:
            raise errors.CallFailed(f"{self.address} answered with HTTP status {response.status} {response.reason}")
        return content

    def _connect(self) -> None:
        self._connection.connect()
        opened: socket.socket = self._connection.sock
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _only_struct(verb: str, values: Sequence[Any]) -> dict[str, Any]:
    value = values[0] if len(values) == 1 else None
    if not isinstance(value, dict) or not isinstance(value.get("status"), dict):
        raise errors.CallFailed(f"{verb}: the reply is no struct with a status")
    return value


def _reason(error: OSError, answered: bool) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, http.client.RemoteDisconnected) or error.errno in (errno.ECONNRESET, errno.EPIPE):
        hint = "" if answered else " (does the server want TLS? then use -s)"
        return f"connection was closed before a reply came{hint}"
    return error.strerror or str(error) or type(error).__name__
