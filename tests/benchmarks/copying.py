"""``copyImage`` against a bare ``qemu-img convert`` of the same files, by turns.

A copy is done when it is durable: the bare tool leaves its target in the memory of the host, so it is measured with a
flush of that, too, and without, for whoever compares with that. Between the turns everything is flushed, so that nobody
pays for another's writes.
"""

import os
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support import daemon, images

BLANK = "00000000-0000-0000-0000-000000000000"
_RAW, _COW, _SPARSE, _LEAF = 5, 4, 2, 8
_PAUSE, _POLL = 0.5, 0.005  # seconds


def report(pool: daemon.Pool, place: Path, say: Callable[[str, str, str], None], size: int, repeats: int) -> None:
    """Measure and print.

    Args:
        place: an existing directory on the file system of the pool's storage.
        size: of the disk, in bytes; half of it is data.
    """
    for name, fmt, code in (("raw", "raw", _RAW), ("cow", "qcow2", _COW)):
        image = pool.make_image_chain(size, [fmt])
        source = image.layers[image.leaf].path
        images.write_pattern(source, size // 4, size // 2, 7, fmt=fmt)
        target = place / "bare"

        def bare(source: Path = source, fmt: str = fmt, target: Path = target) -> None:
            subprocess.run(["qemu-img", "convert", "-f", fmt, "-O", fmt, source, target], check=True)

        def flushed(bare: Callable[[], None] = bare, target: Path = target) -> None:
            bare()
            fd = os.open(target, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

        copies = _Copies(pool, image, code)
        plain, durable, ours = _by_turns([bare, flushed, copies.make], repeats, [target], copies.remove)
        mib = size >> 20
        say(f"copyImage {name}->{name}, {mib} MiB: / qemu-img convert, flushed", f"{ours / durable:.2f}", "< 1.1")
        say(f"copyImage {name}->{name}, {mib} MiB: / the same, which is not durable then", f"{ours / plain:.2f}", "-")
        pool.delete_image(image)


class _Copies:
    """Makes one copy at a time and removes it."""

    def __init__(self, pool: daemon.Pool, image: daemon.Image, code: int) -> None:
        self._pool = pool
        self._image = image
        self._code = code
        self._copy = ""

    def make(self) -> None:
        self._copy, volume = str(uuid.uuid4()), str(uuid.uuid4())
        where = (self._pool.domain, self._pool.id, BLANK, self._image.id, self._image.leaf)
        how = (self._copy, volume, "a copy", BLANK, _LEAF, self._code, _SPARSE)
        server = self._pool.daemon
        task = server.call("copyImage", *where, *how)["uuid"]
        while server.call("getTaskStatus", task)["taskStatus"]["taskState"] != "finished":
            time.sleep(_POLL)
        server.wait_task("copyImage", task)

    def remove(self) -> None:
        if self._copy:
            self._pool.daemon.task("deleteImage", self._pool.domain, self._pool.id, self._copy)
        self._copy = ""


def _by_turns(
    actions: Sequence[Callable[[], None]], repeats: int, targets: Sequence[Path], remove: Callable[[], None]
) -> list[float]:
    """Median seconds of each action, cleaned up after outside of the measurement; the first round does not count.

    Freeing what one has written keeps the storage busy while the next runs, so there is a pause, and the order changes.
    """
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(repeats + 1):
        order = [(number + turn) % len(actions) for number in range(len(actions))]
        for number in order:
            os.sync()
            time.sleep(_PAUSE)
            started = time.perf_counter()
            actions[number]()
            if turn:
                times[number].append(time.perf_counter() - started)
            remove()
            for target in targets:
                target.unlink(missing_ok=True)
    return [statistics.median(column) for column in times]
