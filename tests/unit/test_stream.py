"""Pieces over a socket, plain and TLS: whole, late, cut, and ended by whoever runs the transfer."""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
import trustme

from rpc import http, stream

MIB = 1 << 20
LONG = 30.0

Pair = tuple[socket.socket, socket.socket]


def go_on() -> None:
    """Nobody wants an end."""


class Ended(Exception):
    pass


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@contextlib.contextmanager
def plain() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as there:
        here, _ = server.accept()
        with here:
            there.settimeout(LONG)
            yield here, there


@contextlib.contextmanager
def secure(authority: trustme.CA) -> Iterator[Pair]:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    with plain() as (here, there):
        ends: list[ssl.SSLSocket] = []
        wrap = threading.Thread(
            target=lambda: ends.append(client.wrap_socket(there, server_hostname="localhost")), daemon=True
        )
        wrap.start()
        with server.wrap_socket(here, server_side=True) as mine:
            wrap.join(LONG)
            with ends[0] as theirs:
                yield mine, theirs


@pytest.fixture(params=["plain", "tls"])
def pair(request: pytest.FixtureRequest, authority: trustme.CA) -> Iterator[Pair]:
    with plain() if request.param == "plain" else secure(authority) as found:
        yield found


def reading(sock: socket.socket, count: int) -> tuple[threading.Thread, bytearray]:
    """Read so many bytes in a thread."""
    found = bytearray()

    def read() -> None:
        while len(found) < count and (data := sock.recv(65536)):
            found.extend(data)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, found


def writing(sock: socket.socket, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=sock.sendall, args=(data,), daemon=True)
    thread.start()
    return thread


def test_pieces_arrive_whole(pair: Pair) -> None:
    here, there = pair
    data = os.urandom(3 * MIB + 7)
    writer = writing(there, data)
    wire, buffer = stream.Wire(here, LONG), memoryview(bytearray(MIB))
    found = b""
    for size in (MIB, 1, MIB, MIB, 6):
        assert wire.fill(buffer[:size], go_on) == size
        found += bytes(buffer[:size])
    writer.join(LONG)
    assert found == data


def test_what_was_received_before_comes_first(pair: Pair) -> None:
    here, there = pair
    before = bytearray(b"abcdef")

    def take(limit: int) -> bytes:
        taken = bytes(before[:limit])
        del before[:limit]
        return taken

    there.sendall(b"ghi")
    wire, buffer = stream.Wire(here, LONG, take), memoryview(bytearray(8))
    assert wire.fill(buffer[:4], go_on) == 4 and bytes(buffer[:4]) == b"abcd"
    assert wire.fill(buffer[:5], go_on) == 5 and bytes(buffer[:5]) == b"efghi"


def test_the_end_of_the_stream_cuts_a_piece(pair: Pair) -> None:
    here, there = pair
    there.sendall(b"abc")
    if isinstance(there, ssl.SSLSocket):
        there.settimeout(0)
        with contextlib.suppress(OSError):
            there.unwrap()
    socket.socket.shutdown(there, socket.SHUT_WR)
    wire, buffer = stream.Wire(here, LONG), memoryview(bytearray(8))
    assert wire.fill(buffer, go_on) == 3 and bytes(buffer[:3]) == b"abc"
    assert wire.receive(buffer, go_on) == 0


@pytest.mark.parametrize("bytes_per_pause", [0, 1])
def test_a_piece_has_its_time_however_often_a_byte_comes(pair: Pair, bytes_per_pause: int) -> None:
    here, there = pair
    pauses = []

    def pause() -> None:
        pauses.append(1)
        there.sendall(b"a" * bytes_per_pause)
        threading.Event().wait(0.01)

    with pytest.raises(TimeoutError, match=r"0\.3 s"):
        stream.Wire(here, 0.3).fill(memoryview(bytearray(MIB)), pause)
    assert pauses


def after(count: int) -> Callable[[], None]:
    """A pause that ends everything at its n-th call."""
    calls = []

    def pause() -> None:
        calls.append(1)
        if len(calls) == count:
            raise Ended

    return pause


@pytest.mark.parametrize("count", [1, 2, 3])
def test_waiting_can_be_ended(pair: Pair, tmp_path: Path, count: int) -> None:
    here, _ = pair
    wire = stream.Wire(here, LONG)
    with pytest.raises(Ended):
        wire.fill(memoryview(bytearray(8)), after(count))
    (tmp_path / "file").write_bytes(bytes(MIB))
    with (tmp_path / "file").open("rb") as file, pytest.raises(Ended):
        pause = after(count)
        while True:  # nobody reads
            wire.send_file(file.fileno(), 0, MIB, pause)


def test_files_go_out_piece_by_piece(pair: Pair, tmp_path: Path) -> None:
    here, there = pair
    data = os.urandom(5 * MIB)
    (tmp_path / "file").write_bytes(data)
    reader, found = reading(there, len(data) - MIB)
    wire = stream.Wire(here, LONG)
    with (tmp_path / "file").open("rb") as file:
        for offset in range(MIB, 5 * MIB, MIB):
            wire.send_file(file.fileno(), offset, MIB, go_on)
        assert file.tell() == 0
        with pytest.raises(EOFError):
            wire.send_file(file.fileno(), 5 * MIB - 1, 2, go_on)
    reader.join(LONG)
    assert found[: 4 * MIB] == data[MIB:]


def test_nobody_reads(pair: Pair, tmp_path: Path) -> None:
    here, _ = pair
    (tmp_path / "file").write_bytes(bytes(MIB))
    wire = stream.Wire(here, 0.3)
    with (tmp_path / "file").open("rb") as file, pytest.raises(TimeoutError):
        while True:
            wire.send_file(file.fileno(), 0, MIB, go_on)
    with pytest.raises(TimeoutError):
        wire.send(bytes(64 * MIB), go_on)


def test_bytes_go_out_whole(pair: Pair) -> None:
    here, there = pair
    data = os.urandom(5 * MIB)
    reader, found = reading(there, len(data))
    stream.Wire(here, LONG).send(data, go_on)
    reader.join(LONG)
    assert found == data


def exchange(sock: socket.socket, **headers: str) -> stream.Exchange:
    return stream.Exchange(http.Head("PUT", "/", headers, True), "client", sock, http.Reader(lambda: b""), LONG)


def test_the_peer_is_told_to_go_on_only_when_its_body_is_wanted() -> None:
    with plain() as (here, there):
        found = exchange(here, expect="100-continue")
        found.body(LONG)
        assert there.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert not found.answered
        found.respond(http.Response(b"x", "text/plain"))
        assert found.answered
        assert there.recv(1000).endswith(b"Connection: close\r\n\r\nx")


def test_an_answer_that_streams_has_its_length_and_ends_the_connection() -> None:
    with plain() as (here, there):
        found = exchange(here)
        found.begin(HTTPStatus.PARTIAL_CONTENT, {"Task-Id": "t"}, 3, LONG).send(b"abc", go_on)
        assert found.answered
        head, _, body = there.recv(1000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 206 Partial Content\r\n") and body == b"abc"
        lines = head.split(b"\r\n")
        assert {b"Content-Length: 3", b"Task-Id: t", b"Connection: close"} <= set(lines)
