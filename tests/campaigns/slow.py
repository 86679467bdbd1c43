"""Hang on the daemon in five ways, two hundred clients at once, and see that nobody else has to wait for it.

    python -m tests.campaigns.slow --runs 3 --seed 1

Meanwhile a legal client calls, and its times are told. The slow ones never let go by themselves: threads and
descriptors must come back because the daemon cuts them. Then more clients than it may have: each must be told so.
"""

import argparse
import contextlib
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from xmlrpc import client as stdlib

from tests.campaigns import figures
from tests.support import daemon, processes, wire

NAME = "slow clients"
KINDS = ("silent", "head by bytes", "body by bytes", "takes no answer", "upload that stops")

SECONDS = 3.0
"""What this campaign's daemon gives a request, the pause between two, and a piece of a stream."""
PATIENCE = 30.0
P99_LIMIT = 0.1
CONNECTIONS = 64
WORKERS = 4
CONFIG = {
    "server": {"request_seconds": SECONDS, "idle_seconds": SECONDS},
    "storage": {"transfer_seconds": SECONDS, "lock_timeout": SECONDS, "workers": WORKERS},
    "log": {"level": "WARNING"},
}
_IMAGES = 8


def run(runs: int = 3, seed: int = 1, clients: int = 200, p99_limit: float | None = P99_LIMIT) -> figures.Figures:
    """The whole campaign.

    Args:
        runs: how often all slow clients come.
        clients: how many at once.
        p99_limit: seconds within which 99 of 100 legal calls must be answered meanwhile; None: they must be answered.
    """
    found = figures.Figures(NAME)
    with tempfile.TemporaryDirectory(prefix="vl-slow-") as place:
        crowd(found, Path(place), runs, seed, clients, p99_limit)
    with tempfile.TemporaryDirectory(prefix="vl-slow-") as place:
        overload(found, Path(place), clients)
    return found


def crowd(found: figures.Figures, place: Path, runs: int, seed: int, clients: int, p99_limit: float | None) -> None:
    """Slow clients, several times, and a legal one."""
    (place / "storage").mkdir()
    with daemon.Daemon(place, CONFIG) as server:
        pool = daemon.make_pool(server, place / "storage")
        images = [pool.make_image_chain(1 << 20, ("raw",)) for _ in range(_IMAGES)]
        took: list[float] = []
        pid = server.process.pid
        # Becoming SPM took one worker; the others start when they are needed, and stay.
        wanted = processes.threads(pid) + WORKERS - 1, processes.descriptors(pid)
        for number in range(runs):
            rng = random.Random(f"{seed}/{number}")
            took += _round(found, pool, images, rng, clients, wanted)
        judge(found, took, p99_limit, seed)
        if p99_limit is not None and found.counts["at once at most"] < clients * 3 // 4:
            found.failures.append("the slow clients were not there at once: this machine is too busy to tell")
        for image in images:  # none is stuck in a lock, none kept half of an upload for the whole
            if pool.info(image, image.leaf)["legality"] not in ("LEGAL", "ILLEGAL"):
                found.failures.append(f"image {image.id} has lost its metadata")
            pool.delete_image(image)
        found.failures += ["a traceback in the log"] * server.log.count("Traceback")
        if server.stop() != 0:
            found.failures.append("the daemon did not end as asked")


def judge(found: figures.Figures, took: Sequence[float], p99_limit: float | None, seed: int) -> None:
    """Tell how long legal calls took, and whether that is too long."""
    most = p99(took)
    if p99_limit is not None and most > p99_limit:
        found.failures.append(f"99 of 100 legal calls took up to {most * 1000:.0f} ms, seed {seed}")
    found.add("legal calls meanwhile", len(took))
    found.add("p99 of them in ms", round(most * 1000))
    found.add("the longest in ms", round(max(took) * 1000))


def p99(times: Sequence[float]) -> float:
    """The time within which 99 of 100 were done."""
    return sorted(times)[len(times) * 99 // 100]


def _round(
    found: figures.Figures,
    pool: daemon.Pool,
    images: Sequence[daemon.Image],
    rng: random.Random,
    clients: int,
    wanted: tuple[int, int],
) -> list[float]:
    """All slow clients come and are cut; gives how long legal calls took meanwhile.

    Args:
        wanted: threads and descriptors that the daemon may have when all are cut.
    """
    took: list[float] = []
    with contextlib.ExitStack() as stack:
        crowd_of = [Slow(pool, images, KINDS[number % len(KINDS)], rng) for number in range(clients)]
        for slow in crowd_of:
            stack.enter_context(contextlib.closing(slow.sock))
        done = threading.Event()
        hanging = threading.Thread(target=_hang, args=(crowd_of, done))
        hanging.start()
        try:
            most, seconds = _meanwhile(pool, images, took, wanted)
        finally:
            done.set()
            hanging.join()
        found.failures += [f"{slow.kind}: not cut" for slow in crowd_of if not slow.is_cut()]
    found.add("slow clients", clients)
    found.counts["ms until all were cut"] = max(found.counts.get("ms until all were cut", 0), round(seconds * 1000))
    if seconds > PATIENCE:
        found.failures.append(f"after {PATIENCE:g} s not all threads and descriptors are back; {wanted} are wanted")
    found.counts["at once at most"] = max(found.counts.get("at once at most", 0), most)
    return took


def _meanwhile(
    pool: daemon.Pool, images: Sequence[daemon.Image], took: list[float], wanted: tuple[int, int]
) -> tuple[int, float]:
    """Call until the slow ones are cut; gives how many there were at once at most, and how many seconds it took."""
    pid = pool.daemon.process.pid
    most = 0
    started = time.monotonic()
    while (seconds := time.monotonic() - started) <= PATIENCE:
        threads, descriptors = processes.threads(pid), processes.descriptors(pid)
        most = max(most, threads - wanted[0])
        if took and threads <= wanted[0] and descriptors <= wanted[1]:
            break
        took.append(_call(pool, images[len(took) % len(images)], new=len(took) % 10 == 0))
    return most, seconds


def _call(pool: daemon.Pool, image: daemon.Image, *, new: bool) -> float:
    """A legal call, on a connection of its own or on the one that is there; gives the seconds that it took."""
    started = time.perf_counter()
    if new:
        proxy = daemon.connect(pool.daemon.url)
        assert isinstance(answer := proxy.ping(), dict) and answer["status"]["code"] == 0
        proxy("close")()
    else:
        pool.daemon.call("getVolumeInfo", pool.domain, pool.id, image.id, image.leaf)
    return time.perf_counter() - started


class Slow:
    """A client that hangs.

    Attributes:
        kind: one of KINDS.
        sock: its connection.
    """

    def __init__(self, pool: daemon.Pool, images: Sequence[daemon.Image], kind: str, rng: random.Random) -> None:
        self.kind = kind
        host, port = pool.daemon.address.rsplit(":", 1)
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect((host, int(port)))
        request = wire.post(stdlib.dumps(("x" * 500,), "getVolumeInfo").encode())
        self._drops = iter(b"")
        if kind == "head by bytes":
            self._drops = iter(request)
        elif kind == "body by bytes":
            head, separator, body = request.partition(b"\r\n\r\n")
            self.sock.sendall(head + separator)
            self._drops = iter(body)
        elif kind == "takes no answer":
            self.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                discover = wire.post(b'{"jsonrpc": "2.0", "method": "rpc.discover", "id": 1}', "/jsonrpc")
                self.sock.send(discover * 200)
        elif kind == "upload that stops":
            self.sock.sendall(_upload(pool, rng.choice(images)) + b"a" * 300_000)
            if rng.random() < 0.5:
                self.sock.shutdown(socket.SHUT_WR)
        self.sock.setblocking(False)

    def drip(self) -> None:
        """The next byte, if this one sends bytes; whether it arrives does not matter."""
        for drop in self._drops:
            with contextlib.suppress(OSError):
                self.sock.send(bytes([drop]))
            return

    def is_cut(self) -> bool:
        """Whether the daemon has ended the connection: all that was on its way can be read, and then comes the end."""
        self.sock.settimeout(PATIENCE)
        try:
            wire.read_all(self.sock)
        except TimeoutError:
            return False
        return True


def _upload(pool: daemon.Pool, image: daemon.Image) -> bytes:
    lines = ["PUT / HTTP/1.1", "Host: a", "Content-Length: 1000000", f"Storage-Pool-Id: {pool.id}"]
    lines += [f"Storage-Domain-Id: {pool.domain}", f"Image-Id: {image.id}", "", ""]
    return "\r\n".join(lines).encode()


def _hang(crowd_of: Sequence[Slow], done: threading.Event) -> None:
    while not done.wait(0.1):
        for slow in crowd_of:
            slow.drip()


# ---------------------------------------------------------------- too many


def overload(found: figures.Figures, place: Path, clients: int) -> None:
    """As many connections as may be, and then as many more as `clients`, all at once and silent."""
    with daemon.Daemon(place, {"server": {"connections": CONNECTIONS}, "log": {"level": "WARNING"}}) as server:
        server.proxy("close")()
        host, port = server.address.rsplit(":", 1)
        with contextlib.ExitStack() as stack:
            for sock in _connected(stack, (host, int(port)), CONNECTIONS):
                sock.sendall(wire.post(wire.ping()))
                if wire.status(wire.read_response(sock)) != 200:
                    found.failures.append("refused before the limit was reached")
            told = [wire.status(wire.read_all(sock)) for sock in _connected(stack, (host, int(port)), clients)]
        found.add("told 503", told.count(503))
        if told.count(503) != clients:
            found.failures.append(f"of {clients} beyond the limit {told.count(503)} were told so: {sorted(set(told))}")
        if not processes.settles(lambda: _pings(server), PATIENCE):
            found.failures.append("no call is answered after an overload")


def _connected(stack: contextlib.ExitStack, address: tuple[str, int], count: int) -> Iterator[socket.socket]:
    """Sockets that are all connected before the first is used."""
    return iter([stack.enter_context(wire.connect(address)) for _ in range(count)])


def _pings(server: daemon.Daemon) -> bool:
    try:
        return bool(server.answer("ping")["status"]["code"] == 0)
    except (OSError, stdlib.ProtocolError):
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="slow", description="hang on the daemon in five ways at once")
    parser.add_argument("--runs", type=int, default=3, help="how often (default 3)")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (default 1)")
    options = parser.parse_args(arguments)
    return figures.tell(run(options.runs, options.seed))


if __name__ == "__main__":
    sys.exit(main())
