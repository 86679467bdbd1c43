"""Streams of a volume against ``cp`` of the same file, by turns.

What counts is when the bytes are durable: a PUT is answered when they are, so ``cp`` is measured with the flush of its
target, too. The client, in a process of its own, sends a file and receives into one.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import daemon

MIB = 1 << 20

_CLIENT = """
import os, socket, sys
address, path, how, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
names = sys.argv[5:]
host, port = address.rsplit(":", 1)
head = "".join(f"{name}\\r\\n" for name in names)
with socket.create_connection((host, int(port))) as sock:
    if how == "PUT":
        sock.sendall(f"PUT / HTTP/1.1\\r\\n{head}Content-Length: {size}\\r\\n\\r\\n".encode())
        with open(path, "rb") as file:
            sock.sendfile(file)
        answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer
    else:
        sock.sendall(f"GET / HTTP/1.1\\r\\n{head}Range: bytes=0-{size - 1}\\r\\n\\r\\n".encode())
        data = b""
        while b"\\r\\n\\r\\n" not in data:
            data += sock.recv(65536)
        assert data.startswith(b"HTTP/1.1 206"), data[:200]
        rest = data.partition(b"\\r\\n\\r\\n")[2]
        buffer = memoryview(bytearray(262144))
        with open(path, "wb", buffering=0) as file:
            done = file.write(rest)
            while done < size and (count := sock.recv_into(buffer)):
                done += file.write(buffer[:count])
            assert done == size
            os.fsync(file.fileno())
"""


def report(pool: daemon.Pool, place: Path, say: Callable[[str, str, str], None], size: int, repeats: int) -> None:
    """Measure and print.

    Args:
        place: an existing directory on the file system of the pool's storage.
        size: of the volume, in bytes.
    """
    image = pool.make_image_chain(size, ["raw"])
    volume = image.layers[image.leaf].path
    source = place / "source"
    with source.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())
    names = [f"Storage-Pool-Id: {pool.id}", f"Storage-Domain-Id: {pool.domain}", f"Image-Id: {image.id}"]

    def client(how: str, path: Path) -> None:
        command = [sys.executable, "-I", "-S", "-c", _CLIENT, pool.daemon.address, str(path), how, str(size), *names]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    def copied(origin: Path, target: Path) -> None:
        subprocess.run(["cp", "--sparse=never", "--reflink=never", origin, target], check=True)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    target = place / "target"
    actions = [
        lambda: copied(source, target),
        lambda: client("PUT", source),
        lambda: copied(volume, target),
        lambda: client("GET", target),
    ]
    before = _peak(pool)
    durations = _by_turns(actions, target, repeats)
    for name, (theirs, ours) in (("PUT", durations[:2]), ("GET", durations[2:])):
        say(f"{name} of {size // MIB} MiB, durable: MiB/s", f"{size / MIB / ours:.0f}", "")
        say("cp of it, flushed: MiB/s", f"{size / MIB / theirs:.0f}", "")
        say(f"  {name} takes times as long", f"{ours / theirs:.2f}", "<= 1.50")
    say("memory that the streams took: MiB (VmHWM)", f"{_peak(pool) - before:.1f}", "")
    pool.delete_image(image)
    for path in (source, target):
        path.unlink()


def _by_turns(actions: list[Callable[[], None]], target: Path, repeats: int) -> list[float]:
    """Median seconds of each; before each the file to be written is gone and nothing waits to be written to disk."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for column, action in zip(times, actions, strict=True):
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
            os.sync()
            started = time.perf_counter()
            action()
            column.append(time.perf_counter() - started)
    return [statistics.median(column) for column in times]


def _peak(pool: daemon.Pool) -> float:
    """MiB."""
    lines = Path(f"/proc/{pool.daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
