"""What ``make bench`` prints: ratios, each measured within one run by turns, medians of the repeats.

Targets stand beside the figures; nothing is asserted, since a busy machine is no reason to fail.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import xmlrpc.client
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.benchmarks import copying, listing, streams
from tests.support import daemon, images

MIB = 1 << 20
_CROWD = 10_000

_BARE_SERVER = """
import sys
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer
class Handler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"
server = SimpleXMLRPCServer(("127.0.0.1", 0), requestHandler=Handler, logRequests=False, allow_none=True)
server.register_function(lambda: {"status": {"code": 0, "message": "Done"}}, "ping")
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def main() -> int:
    """Entry point."""
    print(f"{'what':<66}{'figure':>14}   target")
    with tempfile.TemporaryDirectory(prefix="vl-bench-") as directory, contextlib.ExitStack() as stack:
        place = Path(directory)
        empty, crowded = (stack.enter_context(_pool(place / name)) for name in ("empty", "crowded"))
        for depth, repeats, target in ((10, 15, 10), (50, 7, 30)):
            _against_reference(empty, depth, repeats, target)
        _crowd(empty, crowded, repeats=200)
        listing.report(crowded, _CROWD, _say)
        copying.report(empty, place, _say, size=2048 * MIB, repeats=6)
        streams.report(empty, place, _say, size=512 * MIB, repeats=5)
        _ping(empty, rounds=9, calls=400)
        _say("memory of the daemon after all that: MiB (VmRSS)", f"{_memory(empty.daemon):.1f}", "< 50")
        _start(place, repeats=7)
    return 0


@contextlib.contextmanager
def _pool(directory: Path) -> Iterator[daemon.Pool]:
    directory.mkdir()
    with daemon.Daemon(directory) as server:
        storage = directory / "storage"
        storage.mkdir()
        yield daemon.make_pool(server, storage)


def _say(what: str, figure: str, target: str) -> None:
    print(f"{what:<66}{figure:>14}   {target}", flush=True)


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def by_turns(actions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each action; they take turns, so that a slow moment of the machine meets all alike.

    Each runs once unmeasured, to fill caches and open connections.
    """
    for action in actions:
        action()
    times = [[_seconds(action) for action in actions] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _against_reference(pool: daemon.Pool, depth: int, repeats: int, target: int) -> None:
    """Our verb over the wire, against one ``qemu-img info`` a volume, without anything around it."""
    image = pool.make_image_chain(64 * MIB, ["qcow2"] * depth)
    for number, layer in enumerate(image.layers.values()):
        images.write_pattern(layer.path, number * MIB, 65536, number + 1)

    def ours() -> None:
        answer = pool.reconcile(image, image.leaf)
        assert answer["volumes"] == image.volumes, answer

    def reference() -> None:
        for layer in reversed(image.layers.values()):
            images.info(layer.path)

    mine, theirs = by_turns([ours, reference], repeats)
    _say(f"reconcile, healthy chain of {depth}: ms a call, over XML-RPC", f"{mine * 1000:.1f}", "")
    _say("the same by qemu-img info a volume: ms, without a daemon around it", f"{theirs * 1000:.1f}", "")
    _say(f"  times faster at depth {depth}", f"{theirs / mine:.1f}", f">= {target}")
    pool.delete_image(image)


def _crowd(empty: daemon.Pool, crowded: daemon.Pool, repeats: int) -> None:
    """One image alone in its domain, and one among ten thousand others."""
    calls: list[Callable[[], object]] = []
    for pool in (empty, crowded):
        image = pool.make_image_chain(64 * MIB)
        calls.append(lambda pool=pool, image=image: pool.reconcile(image, image.leaf))  # type: ignore[misc]
    _fill(crowded, _CROWD)
    alone, among = by_turns(calls, repeats)
    _say("reconcile in an empty domain: ms a call", f"{alone * 1000:.2f}", "")
    _say(f"reconcile among {_CROWD} other images: ms a call", f"{among * 1000:.2f}", "")
    _say("  times as long", f"{among / alone:.2f}", "<= 1.20")


def _fill(pool: daemon.Pool, count: int) -> None:
    """Images as the format says, made by hand: a directory with a raw volume's three files, the data one empty."""
    directory = pool.storage / pool.domain / "images"
    for _ in range(count):
        image, volume = uuid.uuid4(), uuid.uuid4()
        record = {
            "CTIME": 1, "DESCRIPTION": "", "DISKTYPE": 2, "DOMAIN": pool.domain, "FORMAT": "RAW", "IMAGE": image,
            "LEGALITY": "LEGAL", "MTIME": 0, "POOL_UUID": "", "PUUID": daemon.BLANK, "SIZE": 2048, "TYPE": "SPARSE",
            "VOLTYPE": "LEAF",
        }  # fmt: skip
        home = directory / str(image)
        home.mkdir()
        (home / str(volume)).touch()
        text = "".join(f"{key}={value}\n" for key, value in record.items())
        (home / f"{volume}.meta").write_text(f"{text}EOF\n")


def _ping(pool: daemon.Pool, rounds: int, calls: int) -> None:
    """A verb that does nothing, against the standard library's server that does nothing else; one connection each."""
    with _bare_server() as url:
        bare, ours = daemon.connect(url), daemon.connect(pool.daemon.url)

        def many(proxy: xmlrpc.client.ServerProxy) -> Callable[[], object]:
            return lambda: [proxy.ping() for _ in range(calls)]

        mine, theirs = by_turns([many(ours), many(bare)], rounds)
        bare("close")()
        ours("close")()
    _say("ping: calls a second, one connection", f"{calls / mine:.0f}", "")
    _say("bare standard-library server, keep-alive: calls a second", f"{calls / theirs:.0f}", "")
    _say("  share of its calls a second", f"{theirs / mine:.2f}", ">= 0.80")


@contextlib.contextmanager
def _bare_server() -> Iterator[str]:
    command = [sys.executable, "-I", "-c", _BARE_SERVER]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


def _memory(server: daemon.Daemon) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def _start(place: Path, repeats: int) -> None:
    times, sizes = [], []
    for number in range(repeats):
        directory = place / f"start-{number}"
        directory.mkdir()
        with daemon.Daemon(directory) as server:
            times.append(server.ready_seconds)
            server.call("ping")
            sizes.append(_memory(server))
    _say("daemon: seconds from exec to ready", f"{statistics.median(times):.2f}", "< 0.50")
    _say("memory of a daemon that just started: MiB (VmRSS)", f"{statistics.median(sizes):.1f}", "< 50")


if __name__ == "__main__":
    sys.exit(main())
