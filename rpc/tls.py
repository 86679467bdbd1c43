"""TLS of the server: what a peer must show before one byte of its request is read."""

import dataclasses
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """Files and rules, as the configuration names them.

    Attributes:
        certificate: PEM file with the server's certificate, and the chain below the root if there is one.
        key: PEM file with its private key, without passphrase.
        authorities: PEM file with the authorities that sign clients; None: clients show no certificate.
        revoked: PEM file with revocation lists of those authorities; None: no look-up.
        clients: names (common name or alternative name) that may connect; empty: all that the authorities signed.
    """

    certificate: Path
    key: Path
    authorities: Path | None = None
    revoked: Path | None = None
    clients: frozenset[str] = frozenset()


def server_context(settings: Settings) -> ssl.SSLContext:
    """Context of the listening side: TLS 1.2 at least, client certificates required where authorities are named.

    Raises:
        OSError: a file cannot be read, or (ssl.SSLError) does not hold what it should.
        ValueError: rules about clients without authorities to trust.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A peer that just goes away is no attack here: a request says how long it is. Without this its end is an error.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_IGNORE_UNEXPECTED_EOF
    context.load_cert_chain(settings.certificate, settings.key)
    if settings.authorities is None:
        if settings.revoked or settings.clients:
            raise ValueError("client rules need authorities that sign the clients")
        return context
    context.load_verify_locations(cafile=settings.authorities)
    context.verify_mode = ssl.CERT_REQUIRED
    if settings.revoked is not None:
        context.load_verify_locations(cafile=settings.revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def name_check(settings: Settings) -> Callable[[Mapping[str, Any] | None], bool] | None:
    """What decides on a peer's certificate, by the list of names; None when every signed certificate will do."""
    if not settings.clients:
        return None
    return lambda certificate: not settings.clients.isdisjoint(peer_names(certificate))


def peer_names(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Names in a certificate as `ssl.SSLSocket.getpeercert` gives it: common names, DNS names and addresses."""
    if not certificate:
        return frozenset()
    common = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
    other = {value for _, value in certificate.get("subjectAltName", ())}
    return frozenset(common | other)
