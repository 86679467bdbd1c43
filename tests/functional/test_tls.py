"""Who may not come in over TLS: each is turned away before one byte of a request is looked at."""

import contextlib
import datetime
import random
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rpc import connection, http, server, tls
from tests.support import certificates, wire

NAME = "engine.example"
DAY = datetime.timedelta(days=1)
LIMITS = connection.Settings(handshake_seconds=3, request_seconds=3, idle_seconds=3, poll_seconds=0.02)


class Site:
    """A server that asks for certificates, and what it has read of requests.

    Attributes:
        looks: how often it began to read a request.
    """

    def __init__(self, authority: certificates.Authority, running: server.Server, looks: list[int]) -> None:
        self.authority = authority
        self.address = running.address
        self.looks = looks
        self.good, _ = authority.issue(NAME)

    def talk(self, context: ssl.SSLContext) -> bytes:
        """What comes back over TLS to a legal call; nothing when the server ends the connection instead."""
        plain = wire.connect(self.address)
        with contextlib.closing(plain), contextlib.suppress(ssl.SSLError, ConnectionError):
            sock = context.wrap_socket(plain, server_hostname="localhost")
            with sock:
                sock.sendall(wire.post(wire.ping(), Connection="close"))
                return wire.read_all(sock)
        return b""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    authority = certificates.Authority(tmp_path)
    own, _ = authority.issue("localhost", purpose=certificates.SERVER)
    gone, serial = authority.issue(NAME)
    gone.rename(tmp_path / "gone.pem")
    rules = tls.Settings(own, own, authority.path, authority.revoke(serial), frozenset({NAME}))
    looks: list[int] = []
    head = http.Reader.head

    def counted(reader: http.Reader) -> http.Head | None:
        looks.append(1)
        return head(reader)

    monkeypatch.setattr(http.Reader, "head", counted)
    context = tls.server_context(rules)
    with wire.running(tmp_path / "schema", LIMITS, context, may_connect=tls.name_check(rules)) as (running, _):
        yield Site(authority, running, looks)


def of(certificate: Callable[[Site], Path | None]) -> Callable[[Site], ssl.SSLContext]:
    return lambda site: site.authority.client(certificate(site))


def foreign(site: Site, name: str) -> Path:
    """A certificate of an authority that is not ours, whatever it is called."""
    place = site.authority.directory / "foreign"
    place.mkdir()
    return certificates.Authority(place, name).issue(NAME)[0]


def old(site: Site, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = site.authority.client(site.good)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


def without_certificate(site: Site, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = site.authority.client(None)
    context.minimum_version = context.maximum_version = version
    return context


STRANGERS: dict[str, Callable[[Site], ssl.SSLContext]] = {
    "no certificate, 1.2": lambda site: without_certificate(site, ssl.TLSVersion.TLSv1_2),
    "no certificate, 1.3": lambda site: without_certificate(site, ssl.TLSVersion.TLSv1_3),
    "foreign authority": of(lambda site: foreign(site, "others")),
    "foreign authority of our name": of(lambda site: foreign(site, "tests")),
    "signed by itself": of(lambda site: site.authority.issue(NAME, own=True)[0]),
    "expired": of(lambda site: site.authority.issue(NAME, starts=-2 * DAY, ends=-DAY)[0]),
    "not valid yet": of(lambda site: site.authority.issue(NAME, starts=DAY, ends=2 * DAY)[0]),
    "revoked": of(lambda site: site.authority.directory / "gone.pem"),
    "a server's certificate": of(lambda site: site.authority.issue(NAME, purpose=certificates.SERVER)[0]),
    "a name that is not on the list": of(lambda site: site.authority.issue("other.example")[0]),
    "a name that begins so": of(lambda site: site.authority.issue(f"{NAME}.evil.example")[0]),
    "TLS 1.0": lambda site: old(site, ssl.TLSVersion.TLSv1),
    "TLS 1.1": lambda site: old(site, ssl.TLSVersion.TLSv1_1),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_a_stranger_is_turned_away_before_a_byte_is_read(site: Site, who: str) -> None:
    assert site.talk(STRANGERS[who](site)) == b""
    assert site.looks == []
    assert wire.status(site.talk(site.authority.client(site.good))) == 200
    assert site.looks, "else the test could not fail"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_may_come_is_answered(site: Site, version: ssl.TLSVersion) -> None:
    context = site.authority.client(site.good)
    context.minimum_version = context.maximum_version = version
    assert wire.status(site.talk(context)) == 200


@pytest.mark.parametrize("request_bytes", [wire.post(wire.ping()), b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"\0" * 70_000])
def test_plain_text_is_no_tls(site: Site, request_bytes: bytes) -> None:
    assert b"HTTP" not in wire.talk(site.address, request_bytes)
    assert site.looks == []


def hello(context: ssl.SSLContext) -> bytes:
    """What a client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def test_damaged_hellos_get_nowhere_and_delay_nobody(site: Site) -> None:
    rng = random.Random(8)
    context = site.authority.client(site.good)
    first = hello(context)
    for _ in range(200):
        place = rng.randrange(len(first))
        damaged = first[:place] + rng.randbytes(rng.randint(0, 3)) + first[place + rng.randint(0, 3) :]
        with wire.connect(site.address) as sock:
            with contextlib.suppress(OSError):  # it may have gone already
                sock.sendall(damaged + wire.post(wire.ping()))
                sock.shutdown(socket.SHUT_WR)
            assert b"HTTP" not in wire.read_all(sock)
    assert site.looks == []
    assert wire.status(site.talk(context)) == 200


def test_a_request_inside_of_the_handshake_is_not_read(site: Site) -> None:
    """Of TLS 1.3 a client may believe that it is in, and send, before the server has seen its certificate."""
    context = without_certificate(site, ssl.TLSVersion.TLSv1_3)
    plain = wire.connect(site.address)
    refused = contextlib.suppress(ssl.SSLError, ConnectionError)
    with context.wrap_socket(plain, server_hostname="localhost") as sock, refused:
        sock.sendall(wire.post(wire.ping()) * 10)
        assert wire.read_all(sock) == b""
    assert site.looks == []
