"""What the guest's disk must hold, and what an image really shows.

The guest writes whole blocks of 64 KiB, each filled with a serial number of its own, so every byte says which write it
came from. A write counts once its flush has returned; what was under way when QEMU was killed may be there or not, and
a torn one sector by sector. Everything else must be exactly as it was.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support import images

BLOCK = 64 * 1024
SECTOR = 512


@functools.lru_cache(maxsize=64)
def pattern(serial: int) -> bytes:
    """One block's content; serial 0 is a block of zeroes, one never written."""
    return struct.pack(">Q", serial) * (BLOCK // 8)


class Disk:
    """The guest's disk as the guest knows it.

    Attributes:
        size: bytes.
        flushed: block number -> serial of the last write whose flush has returned.
        pending: block number -> serials written since, oldest first.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.flushed: dict[int, int] = {}
        self.pending: dict[int, list[int]] = {}
        self._serial = 0

    def begin(self, block: int, *, zeroes: bool = False) -> bytes:
        """Note a write that is about to be sent, and give its content: new, or zeroes."""
        self._serial += 1
        serial = 0 if zeroes else self._serial
        self.pending.setdefault(block, []).append(serial)
        return pattern(serial)

    def settle(self) -> None:
        """Note that a flush has returned."""
        for block, serials in self.pending.items():
            self.flushed[block] = serials[-1]
        self.pending.clear()

    def digest(self) -> str:
        """SHA-256 of the whole disk.

        Raises:
            ValueError: a write is under way, so that its content is not settled.
        """
        if self.pending:
            raise ValueError("there are writes that were not flushed")
        content = hashlib.sha256()
        for block in range(self.size // BLOCK):
            content.update(pattern(self.flushed.get(block, 0)))
        return content.hexdigest()

    def allowed(self, block: int) -> list[bytes]:
        """Contents that the block may have, the flushed one first."""
        return [pattern(serial) for serial in (self.flushed.get(block, 0), *self.pending.get(block, ()))]


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where an image does not show what the guest had.

    Attributes:
        offset: first wrong byte of the guest's disk.
        bytes: size of all wrong 512-byte sectors together.
    """

    offset: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.bytes} bytes wrong, the first at {self.offset}"


def different(image: Path, image_format: str, disk: Disk, scratch: Path | None = None) -> Difference | None:
    """Compare what an image shows, through its whole backing chain, with what the guest had; None when it is right.

    Args:
        image: the topmost image of the chain to be judged.
        image_format: ``qcow2`` or ``raw``.
        disk: the truth.
        scratch: directory for the flattened copy; default the system's.

    Raises:
        AssertionError: qemu-img cannot read the chain.
    """
    with flattened(image, image_format, scratch) as path:
        return compare(path, disk)


@contextlib.contextmanager
def flattened(image: Path, image_format: str, scratch: Path | None = None) -> Iterator[Path]:
    """A raw copy of what the guest sees, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="flat-", dir=scratch) as directory:
        path = Path(directory, "raw")
        images.qemu_img("convert", "-f", image_format, "-O", "raw", image, path)
        yield path


def compare(raw: Path, disk: Disk) -> Difference | None:
    """Compare a raw file with the truth; None when it is right. Blocks neither written nor held must be zeroes."""
    first, wrong = -1, 0
    with raw.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size != disk.size:
            return Difference(min(size, disk.size), abs(size - disk.size))
        for block in sorted({*disk.flushed, *disk.pending, *_blocks_with_data(stream.fileno(), size)}):
            data = os.pread(stream.fileno(), BLOCK, block * BLOCK)
            allowed = disk.allowed(block)
            if data in allowed:
                continue
            for start in range(0, len(data), SECTOR):
                if all(data[start : start + SECTOR] != one[start : start + SECTOR] for one in allowed):
                    first = block * BLOCK + start if first < 0 else first
                    wrong += SECTOR
    return Difference(first, wrong) if wrong else None


def digest(image: Path, image_format: str, scratch: Path | None = None) -> str:
    """SHA-256 of the guest-visible bytes."""
    with flattened(image, image_format, scratch) as path, path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def backing_name(image: Path) -> str | None:
    """The backing file's name in a qcow2 header, as it is written there; read on our own, without any tool."""
    with image.open("rb") as stream:
        head = os.pread(stream.fileno(), 24, 0)
        magic, _, offset, length = struct.unpack(">4sIQI", head[:20])
        if magic != b"QFI\xfb":
            raise ValueError(f"{image} is not a qcow2 image")
        return os.pread(stream.fileno(), length, offset).decode() if offset else None


def fingerprint(directory: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, size and content of every file below a directory: two are equal only if nothing was changed."""
    found = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = _content_digest(path)
        found[str(path.relative_to(directory))] = (info.st_mode, info.st_size if path.is_file() else 0, content)
    return found


def _content_digest(path: Path) -> str:
    # Holes and written zeroes are the same content, and a file system may turn one into the other at any time.
    content = hashlib.sha256()
    with path.open("rb") as stream:
        for block in _blocks_with_data(stream.fileno(), os.fstat(stream.fileno()).st_size):
            data = os.pread(stream.fileno(), BLOCK, block * BLOCK)
            if data.count(0) != len(data):
                content.update(struct.pack(">Q", block) + data)
    return content.hexdigest()


def _blocks_with_data(fd: int, size: int) -> Iterable[int]:
    for start, end in _data_ranges(fd, size):
        yield from range(start // BLOCK, (end + BLOCK - 1) // BLOCK)


def _data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
