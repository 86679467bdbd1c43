"""From the text of an address to the one the server binds, and whether strangers can reach it."""

import dataclasses
import socket

from vdsmlite import config


@dataclasses.dataclass(frozen=True)
class Address:
    """An address to bind.

    Attributes:
        host: numeric address.
        port: 0 for any free one.
        loopback: only this machine can reach it.
    """

    host: str
    port: int
    loopback: bool


def resolve(text: str) -> Address:
    """The address that ``HOST:PORT`` or ``[IPV6]:PORT`` means.

    Raises:
        Refused: no such form, or no such host.
    """
    host, colon, digits = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise config.Refused(f"server.listen: write an IPv6 address as [ADDRESS]:PORT, not {text!r}")
    if not colon or not host or not (digits.isascii() and digits.isdigit()) or int(digits) > 65535:
        raise config.Refused(f"server.listen must be HOST:PORT, not {text!r}")
    try:
        found = socket.getaddrinfo(host, int(digits), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise config.Refused(f"server.listen: {host}: {error}") from error
    numeric = str(found[0][4][0])
    return Address(numeric, int(digits), numeric.startswith("127.") or numeric == "::1")


def show(host: str, port: int) -> str:
    """An address as people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_safe(address: Address, wanted: config.Config) -> None:
    """Refuse to serve strangers who show no certificate.

    Raises:
        Refused: other machines can reach the address, clients need no certificate, and nobody asked for that.
    """
    if address.loopback or wanted.tls.authorities or wanted.server.insecure:
        return
    raise config.Refused(
        f"refusing to listen on {show(address.host, address.port)}: clients would need no certificate, and everyone who"
        " reaches the port could destroy every volume. Set tls.certificate, tls.key and tls.authorities, listen on"
        " 127.0.0.1, or give --insecure"
    )
