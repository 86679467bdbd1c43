"""The real server on a real socket: broken requests, slow peers, TLS, and the end of the server."""

import contextlib
import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xmlrpc import client as stdlib

import pytest
import trustme
from hypothesis import HealthCheck, given, settings, strategies as st

from rpc import connection, server, tls
from tests.support import fake_api, hostilewire, wire

Pair = tuple[server.Server, fake_api.FakeApi]

# Short enough to wait for, long enough for a legal request on a busy machine.
FAST = connection.Settings(request_seconds=1, idle_seconds=1, linger_seconds=5, poll_seconds=0.02)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with wire.running(tmp_path / "schema") as pair:
        yield pair


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Pair]:
    """A server that gives nobody more than a second."""
    with wire.running(tmp_path / "schema", FAST) as pair:
        yield pair


def proxy(address: tuple[str, int], path: str = "/") -> Any:
    return stdlib.ServerProxy(f"http://{address[0]}:{address[1]}{path}", allow_none=True)


# ---------------------------------------------------------------- legal requests


@pytest.mark.parametrize("path", ["/", "/RPC2"])
def test_the_standard_librarys_client_is_answered(pair: Pair, path: str) -> None:
    with proxy(pair[0].address, path) as client:
        assert client.ping() == {"status": {"code": 0, "message": "Done"}}
        assert client.echoAll(fake_api.ID, fake_api.ID, None, "3")["count"] == 3
        with pytest.raises(stdlib.Fault):
            client.nonsense()
        assert client.ping()["status"]["code"] == 0


def test_json_is_answered_on_its_path(pair: Pair) -> None:
    call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "Host.count", "params": [5]}).encode()
    note = json.dumps({"jsonrpc": "2.0", "method": "Host.ping"}).encode()
    with wire.connect(pair[0].address) as sock:
        sock.sendall(wire.post(note, "/jsonrpc"))
        assert wire.status(sock.recv(65536)) == 204
        sock.sendall(wire.post(call, "/jsonrpc"))
        response = wire.read_response(sock)
    assert wire.status(response) == 200
    assert json.loads(response.partition(b"\r\n\r\n")[2])["result"] == 5


def test_one_connection_carries_many_requests_even_all_at_once(pair: Pair) -> None:
    with wire.connect(pair[0].address) as sock:
        for _ in range(3):
            sock.sendall(wire.post(wire.ping()))
            assert wire.status(wire.read_response(sock)) == 200
        sock.sendall(wire.post(wire.ping()) * 5 + wire.post(wire.ping(), Connection="close"))
        assert wire.read_all(sock).count(b"HTTP/1.1 200 OK") == 6
    assert pair[1].calls == 9


def test_a_version_1_0_client_is_answered_and_left(pair: Pair) -> None:
    request = wire.post(wire.ping()).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert wire.status(wire.talk(pair[0].address, request)) == 200


def test_a_client_that_asks_first_is_told_to_go_on(pair: Pair) -> None:
    head, _, body = wire.post(wire.ping(), Expect="100-continue").partition(b"\r\n\r\n")
    with wire.connect(pair[0].address) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert wire.status(wire.read_response(sock)) == 200


# ---------------------------------------------------------------- broken requests

BODY = wire.ping()


@pytest.mark.parametrize("request_bytes", hostilewire.HTTP_BROKEN.values(), ids=hostilewire.HTTP_BROKEN)
def test_a_broken_request_is_refused_and_its_connection_ended(
    pair: Pair, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    running, api = pair
    response = wire.talk(running.address, request_bytes)
    assert 400 <= wire.status(response) <= 417 or wire.status(response) in (431, 505)
    assert b"Connection: close" in response
    assert b"Traceback" not in response
    assert b"Server:" not in response
    assert len(response) < 500
    assert response.count(b"HTTP/1.1 ") == 1
    assert api.calls == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_methods_that_are_allowed_are_named(pair: Pair) -> None:
    response = wire.talk(pair[0].address, hostilewire.HTTP_BROKEN["get"])
    assert wire.status(response) == 405
    assert b"Allow: POST\r\n" in response


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_request_never_hangs_the_server_nor_breaks_it(pair: Pair, data: st.DataObject) -> None:
    """Whatever one flips, cuts or doubles: an answer or an end comes, and the next request is served."""
    request = wire.post(BODY, Connection="close")
    place = data.draw(st.integers(0, len(request)))
    width = data.draw(st.integers(0, 8))
    piece = data.draw(st.binary(max_size=8) | st.sampled_from([b"\r\n", b"\n", b"\0", b": ", request]))
    mutated = request[:place] + piece + request[place + width :]
    with wire.connect(pair[0].address) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(mutated)
        sock.shutdown(socket.SHUT_WR)
        response = wire.read_all(sock)
        assert b"Traceback" not in response
        assert not response or 200 <= wire.status(response) < 506
        assert wire.status(response) != 500
    assert wire.status(wire.talk(pair[0].address, request)) == 200


def test_a_bug_in_a_binding_is_an_answer_without_details(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    buggy = server.Server(("127.0.0.1", 0), {"/": {"POST": broken}}, FAST)
    buggy.start()
    try:
        response = wire.talk(buggy.address, wire.post(b""))
    finally:
        assert buggy.stop(wire.PATIENCE)
    assert wire.status(response) == 500
    assert b"secret" not in response
    assert "secret detail" in caplog.text


# ---------------------------------------------------------------- slow peers

REQUEST = wire.post(BODY)

SLOW = {
    "silent": b"",
    "half a line": REQUEST[:9],
    "half a head": REQUEST[:30],
    "half a body": REQUEST[:-5],
}


@pytest.mark.parametrize("start", SLOW.values(), ids=SLOW)
def test_a_slow_peer_is_cut_and_disturbs_nobody(hasty: Pair, start: bytes) -> None:
    slow = [wire.connect(hasty[0].address) for _ in range(40)]
    for sock in slow:
        sock.sendall(start)
    with proxy(hasty[0].address) as client:
        assert client.ping()["status"]["code"] == 0
    for sock in slow:
        with sock:
            assert wire.status(wire.read_all(sock)) == (408 if start else 0)


def test_a_drop_a_time_does_not_stretch_the_deadline(hasty: Pair) -> None:
    """Each byte comes well within any limit for one packet; all of them never come."""
    with wire.connect(hasty[0].address) as sock:
        sock.settimeout(0.05)
        received = b""
        sent = 0
        with contextlib.suppress(ConnectionError):
            for _ in range(400):
                sock.sendall(b"POST / HTTP/1.1\r\nA: "[sent : sent + 1] or b"a")
                sent += 1
                with contextlib.suppress(TimeoutError):
                    received = sock.recv(65536)
                    break
    assert wire.status(received) == 408
    assert sent < 400


def test_an_idle_connection_is_closed_between_requests(hasty: Pair) -> None:
    with wire.connect(hasty[0].address) as sock:
        sock.sendall(REQUEST)
        assert wire.status(wire.read_response(sock)) == 200
        assert wire.read_all(sock) == b""


def test_a_peer_that_does_not_take_its_answers_is_cut(hasty: Pair) -> None:
    call = wire.post(stdlib.dumps(("system.listMethods",) * 1, "give").encode())
    big = wire.post(stdlib.dumps(("a" * 900_000,), "give").encode())
    with wire.connect(hasty[0].address) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(ConnectionError):
            for _ in range(60):
                sock.sendall(big)
            sock.sendall(call)
        hasty[0].stop(wire.PATIENCE)
        assert hasty[0].connections == 0


def test_a_verb_may_take_longer_than_any_deadline_of_the_wire(hasty: Pair) -> None:
    running, api = hasty
    with wire.connect(running.address) as sock:
        sock.sendall(wire.post(wire.ping("wait")))
        wire.wait_until(api.started)
        assert not api.go_on.wait(1.5 * FAST.request_seconds)
        api.go_on.set()
        assert b"waited" in wire.read_response(sock)


# ---------------------------------------------------------------- caps


def test_connections_beyond_the_cap_are_told_so(tmp_path: Path) -> None:
    few = connection.Settings(connections=2, refusals=1, linger_seconds=5, poll_seconds=0.02)
    with wire.running(tmp_path / "schema", few) as (running, _):
        with wire.connect(running.address) as first, wire.connect(running.address) as second:
            for sock in (first, second):
                sock.sendall(REQUEST)
                assert wire.status(wire.read_response(sock)) == 200
            response = wire.talk(running.address, REQUEST)
            assert wire.status(response) == 503
            assert b"Retry-After" in response
            first.sendall(REQUEST)
            assert wire.status(wire.read_response(first)) == 200
        for _ in range(2000):  # the server learns by and by that the two have gone
            if wire.status(wire.talk(running.address, wire.post(BODY, Connection="close"))) == 200:
                return
        pytest.fail("closed connections still count")


def test_a_burst_beyond_the_cap_is_told_so_too(tmp_path: Path) -> None:
    """The one refusal that may take its time waits for a silent peer; the others are not to be met with silence."""
    few = connection.Settings(connections=1, refusals=1, linger_seconds=20, poll_seconds=0.02)
    with wire.running(tmp_path / "schema", few) as (running, _), contextlib.ExitStack() as stack:
        first = stack.enter_context(wire.connect(running.address))
        first.sendall(REQUEST)
        assert wire.status(wire.read_response(first)) == 200
        silent = [stack.enter_context(wire.connect(running.address)) for _ in range(20)]
        assert [wire.status(wire.read_response(sock)) for sock in silent] == [503] * 20


def test_no_thread_and_no_descriptor_is_left(pair: Pair) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    wire.talk(pair[0].address, hostilewire.HTTP_BROKEN["get"])
    before = descriptors()
    for request in list(hostilewire.HTTP_BROKEN.values()) * 2:
        wire.talk(pair[0].address, request)
    assert pair[0].stop(wire.PATIENCE)
    assert descriptors() <= before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("127.0.0.1:")]


# ---------------------------------------------------------------- the end


def test_a_stop_lets_a_running_verb_answer_and_ends_idle_connections(tmp_path: Path) -> None:
    with wire.running(tmp_path / "schema") as (running, api):
        idle, silent, busy = (wire.connect(running.address) for _ in range(3))
        idle.sendall(REQUEST)
        assert wire.status(wire.read_response(idle)) == 200
        busy.sendall(wire.post(wire.ping("wait")))
        wire.wait_until(api.started)
        results: list[bool] = []
        stopping = threading.Thread(target=lambda: results.append(running.stop(wire.PATIENCE)))
        stopping.start()
        assert wire.read_all(idle) == wire.read_all(silent) == b""
        with pytest.raises(OSError):
            socket.create_connection(running.address, timeout=wire.PATIENCE)
        api.go_on.set()
        response = wire.read_all(busy)
        stopping.join()
        assert b"waited" in response
        assert b"Connection: close" in response
        assert results == [True]
        for sock in (idle, silent, busy):
            sock.close()


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    with wire.running(tmp_path / "schema") as (running, api), wire.connect(running.address) as busy:
        busy.sendall(wire.post(wire.ping("wait")))
        wire.wait_until(api.started)
        assert running.stop(0.2) is False
        assert wire.read_all(busy) == b""


def test_a_server_that_never_started_can_be_stopped() -> None:
    assert server.Server(("127.0.0.1", 0), {}).stop(0)


# ---------------------------------------------------------------- TLS


class Authority:
    """A certificate authority, the files of a server, and contexts of clients."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.directory = directory
        own = self.ca.issue_cert("localhost", "127.0.0.1")
        (directory / "key.pem").write_bytes(own.private_key_pem.bytes())
        (directory / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in own.cert_chain_pems))
        self.ca.cert_pem.write_to_path(str(directory / "ca.pem"))

    def settings(self, **changes: Any) -> tls.Settings:
        certificate, key, authorities = (self.directory / name for name in ("cert.pem", "key.pem", "ca.pem"))
        return tls.Settings(certificate, key, authorities, **changes)

    def client(self, name: str | None = "engine.example", ca: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if name is not None:
            (ca or self.ca).issue_cert(name, common_name=name).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextlib.contextmanager
def secure(
    authority: Authority, tmp_path: Path, limits: connection.Settings | None = None, **changes: Any
) -> Iterator[Pair]:
    rules = authority.settings(**changes)
    context = tls.server_context(rules)
    with wire.running(tmp_path / "schema", limits, context, may_connect=tls.name_check(rules)) as pair:
        yield pair


def talk_securely(address: tuple[str, int], context: ssl.SSLContext) -> bytes:
    """What comes back over TLS; nothing when the server ends the connection instead."""
    plain = wire.connect(address)
    with contextlib.suppress(ssl.SSLError, ConnectionError), contextlib.closing(plain):
        sock = context.wrap_socket(plain, server_hostname="localhost")
        with sock:
            sock.sendall(wire.post(BODY, Connection="close"))
            return wire.read_all(sock)
    return b""


def test_a_client_with_a_certificate_is_answered(authority: Authority, tmp_path: Path) -> None:
    with secure(authority, tmp_path) as (running, _):
        url = f"https://localhost:{running.address[1]}/"
        with stdlib.ServerProxy(url, context=authority.client()) as client:
            assert client.ping() == {"status": {"code": 0, "message": "Done"}}
            assert client.ping() == {"status": {"code": 0, "message": "Done"}}


def test_strangers_are_turned_away_before_a_byte_is_parsed(authority: Authority, tmp_path: Path) -> None:
    old = authority.client()
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with secure(authority, tmp_path, clients=frozenset({"engine.example"})) as (running, api):
        assert talk_securely(running.address, authority.client(None)) == b""
        assert talk_securely(running.address, authority.client(ca=trustme.CA())) == b""
        assert talk_securely(running.address, authority.client("other.example")) == b""
        assert talk_securely(running.address, old) == b""
        assert b"HTTP" not in wire.talk(running.address, REQUEST)
        assert api.calls == 0
        assert wire.status(talk_securely(running.address, authority.client())) == 200


def test_connections_beyond_the_cap_are_told_so_over_tls(authority: Authority, tmp_path: Path) -> None:
    few = connection.Settings(connections=1, linger_seconds=5, poll_seconds=0.02)
    with secure(authority, tmp_path, few) as (running, api), wire.connect(running.address) as plain:
        with authority.client().wrap_socket(plain, server_hostname="localhost") as first:
            first.sendall(REQUEST)
            assert wire.status(wire.read_response(first)) == 200
            assert wire.status(talk_securely(running.address, authority.client())) == 503
            assert talk_securely(running.address, authority.client(None)) == b"", "only those who may come are told"
        assert api.calls == 1


def test_a_client_that_is_silent_before_the_handshake_delays_nobody(authority: Authority, tmp_path: Path) -> None:
    limits = connection.Settings(handshake_seconds=2, poll_seconds=0.02)
    with secure(authority, tmp_path, limits) as (running, _):
        silent = [wire.connect(running.address) for _ in range(40)]
        hello = wire.connect(running.address)
        hello.sendall(b"\x16\x03\x01")
        assert wire.status(talk_securely(running.address, authority.client())) == 200
        for sock in [*silent, hello]:
            with sock:
                assert wire.read_all(sock) == b""


def test_a_client_that_is_silent_after_the_handshake_is_cut(authority: Authority, tmp_path: Path) -> None:
    with secure(authority, tmp_path, FAST) as (running, _), wire.connect(running.address) as plain:
        sock = authority.client().wrap_socket(plain, server_hostname="localhost")
        with sock:
            assert wire.read_all(sock) == b""


def test_a_stop_ends_connections_over_tls_and_answers_those_that_run(authority: Authority, tmp_path: Path) -> None:
    with secure(authority, tmp_path) as (running, api):
        context = authority.client()
        with contextlib.ExitStack() as stack:
            idle, busy = (
                stack.enter_context(context.wrap_socket(wire.connect(running.address), server_hostname="localhost"))
                for _ in range(2)
            )
            busy.sendall(wire.post(wire.ping("wait")))
            wire.wait_until(api.started)
            stopping = threading.Thread(target=running.stop, args=(wire.PATIENCE,))
            stopping.start()
            assert wire.read_all(idle) == b""
            api.go_on.set()
            assert b"waited" in wire.read_all(busy)
            stopping.join()


def test_client_rules_need_authorities(authority: Authority) -> None:
    files = authority.settings()
    with pytest.raises(ValueError, match="authorities"):
        tls.server_context(tls.Settings(files.certificate, files.key, clients=frozenset({"a"})))
