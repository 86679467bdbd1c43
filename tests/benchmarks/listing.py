"""Listing verbs in a crowded domain, and many clients at once: what ``make bench`` prints about them.

Clients speak HTTP over plain sockets with requests made beforehand, so that the figures are the daemon's, not theirs.
"""

import functools
import socket
import statistics
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Sequence
from typing import Any

from tests.support import daemon

Say = Callable[[str, str, str], None]

CLIENTS = 8
_CALLS = 150  # of each client, in one round
_ROUNDS = 5
_LISTINGS = 15


def report(pool: daemon.Pool, crowd: int, say: Say) -> None:
    """Measure and print.

    Args:
        pool: its domain holds `crowd` images, and perhaps some more.
        say: prints what, the figure, and the target.
    """
    lists: dict[str, Sequence[Any]] = {
        "getImagesList": (pool.domain,),
        "getVolumesList": (pool.domain, pool.id),
    }
    for verb, arguments in lists.items():
        answer = pool.daemon.call(verb, *arguments)
        found = answer["imageslist" if verb == "getImagesList" else "uuidlist"]
        assert len(found) >= crowd, f"{verb} gives {len(found)}"
        times = [_seconds(functools.partial(_exchange, pool, [(verb, arguments)], 1)) for _ in range(_LISTINGS)]
        say(f"{verb} of {crowd} images: ms a call", f"{statistics.median(times) * 1000:.0f}", "")
    image = pool.make_image_chain(1 << 20, ["qcow2"])
    info = ("getVolumeInfo", (pool.domain, pool.id, image.id, image.leaf))
    rates: dict[str, list[float]] = {"ping": [], "getVolumeInfo": []}
    for _ in range(_ROUNDS):  # by turns, so that a slow moment of the machine meets both alike
        for name, call in (("ping", ("ping", ())), ("getVolumeInfo", info)):
            rates[name].append(_rate(pool, call))
    noop, told = (statistics.median(rates[name]) for name in ("ping", "getVolumeInfo"))
    say(f"ping, {CLIENTS} clients at once: calls a second", f"{noop:.0f}", "")
    say(f"getVolumeInfo, {CLIENTS} clients at once: calls a second", f"{told:.0f}", "")
    say("  share of the no-op verb's calls a second", f"{told / noop:.2f}", "")
    pool.delete_image(image)


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _rate(pool: daemon.Pool, call: tuple[str, Sequence[Any]]) -> float:
    """Calls a second of all clients together."""
    failures: list[BaseException] = []

    def client() -> None:
        try:
            _exchange(pool, [call], _CALLS, ready)
        except BaseException as error:  # told by the main thread
            failures.append(error)
            ready.abort()

    ready = threading.Barrier(CLIENTS + 1)
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    ready.wait(60)
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return CLIENTS * _CALLS / (time.perf_counter() - started)


def _exchange(
    pool: daemon.Pool, calls: Sequence[tuple[str, Sequence[Any]]], times: int, ready: threading.Barrier | None = None
) -> None:
    """Make calls over a connection of one's own."""
    host, _, port = pool.daemon.address.rpartition(":")
    requests = [_request(verb, arguments) for verb, arguments in calls]
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ready is not None:
            ready.wait(60)
        for _ in range(times):
            for request in requests:
                connection.sendall(request)
                body = _answer(connection)
                assert b"<name>code</name><value><int>0</int>" in body.replace(b"\n", b""), body[:500]


def _request(verb: str, arguments: Sequence[Any]) -> bytes:
    body = xmlrpc.client.dumps(tuple(arguments), verb).encode()
    head = f"POST / HTTP/1.1\r\nHost: bench\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _answer(connection: socket.socket) -> bytes:
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _receive(connection)
    head = bytes(data[:end]).lower()
    length = int(head.partition(b"content-length:")[2].split()[0])
    while len(data) < end + 4 + length:
        data += _receive(connection)
    return bytes(data[end + 4 :])


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 18)
    if not data:
        raise ConnectionError("the daemon closed the connection")
    return data
