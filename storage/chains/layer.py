"""Guest bytes as one volume holds them, and as a stack of volumes shows them; read without any other program.

Format of the tables: qemu's docs/interop/qcow2.txt. Offsets come from the image, so they are masked, and reads behind
the end of the file give zeros, as qemu gives. `allocation` has judged the same tables before anything is read here.
"""

import array
import contextlib
import dataclasses
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from storage.qemu import allocation, qcow2

DATA, ZERO, COMPRESSED, NOTHING = "data", "zero", "compressed", "nothing"

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZERO = 1
_SUBCLUSTERS = 32


class Unreadable(Exception):
    """Guest bytes of a volume cannot be read here; the reason is for people."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the guest's disk in one layer: half-open byte range, what it is, where it lies in the file."""

    start: int
    end: int
    kind: str
    where: int = 0


class Layer:
    """One open volume.

    Args:
        path: data file.
        is_qcow2: the format, from metadata; never guessed.
        l2_limit: most bytes of allocation tables to read.

    Raises:
        Unreadable: the file cannot be opened, or its header or tables cannot be used.
    """

    def __init__(self, path: Path, is_qcow2: bool, l2_limit: int) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            self._stack.callback(os.close, self._fd)
            self.file_size = os.fstat(self._fd).st_size
            self._header = qcow2.read_header(self._fd, self.file_size) if is_qcow2 else None
            self.held = self._find_held(l2_limit)
        except (OSError, qcow2.FormatError) as error:
            self._stack.close()
            raise Unreadable(f"{path.name}: {error}") from error
        self._table_index = -1
        self._table: Sequence[int] = ()
        self._l1: Sequence[int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def size(self) -> int:
        """Bytes of the guest's disk."""
        return self._header.virtual_size if self._header else self.file_size

    @property
    def forgets(self) -> bool:
        """Whether it may hold less than it was once given, so that what it lacks proves nothing.

        Raw has no tables. A version 2 image has no mark for zeros: where nothing stands beneath it, qemu drops a
        cluster when the guest discards it or writes zeros to it.
        """
        return self._header is None or (self._header.version == 2 and self._header.backing_name is None)

    def _find_held(self, l2_limit: int) -> allocation.Allocation:
        if self._header is None:
            return allocation.Allocation([(0, self.file_size)])
        return allocation.of_qcow2(self._fd, self._header, self.file_size, l2_limit)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """What the layer has for a range, in order and without gaps; behind its end it shows zeros."""
        inside = min(end, self.size)
        if start < inside:
            yield from self._raw(start, inside) if self._header is None else self._clusters(self._header, start, inside)
        if inside < end:
            yield Piece(max(start, inside), end, ZERO)

    def content(self, piece: Piece) -> bytes:
        """Bytes of a piece that is not NOTHING.

        Raises:
            Unreadable: a compressed cluster cannot be decoded, or the file cannot be read.
        """
        length = piece.end - piece.start
        if piece.kind == ZERO:
            return bytes(length)
        try:
            if piece.kind == COMPRESSED:
                return self._decompressed(piece)
            return os.pread(self._fd, length, piece.where).ljust(length, b"\0")
        except (OSError, zlib.error) as error:
            raise Unreadable(f"guest byte {piece.start}: {error}") from error

    @staticmethod
    def _raw(start: int, end: int) -> Iterator[Piece]:
        yield Piece(start, end, DATA, start)

    def _clusters(self, header: qcow2.Header, start: int, end: int) -> Iterator[Piece]:
        cluster = header.cluster_size
        while start < end:
            index = start // cluster
            stop = min(end, (index + 1) * cluster)
            entry, bitmap = self._entry(header, index)
            if entry & _COMPRESSED:
                yield Piece(start, stop, COMPRESSED, entry)
            elif header.extended_l2:
                yield from self._subclusters(cluster, start, stop, entry, bitmap)
            elif entry & _ZERO:
                yield Piece(start, stop, ZERO)
            elif entry & _OFFSET:
                yield Piece(start, stop, DATA, (entry & _OFFSET) + start % cluster)
            else:
                yield Piece(start, stop, NOTHING)
            start = stop

    @staticmethod
    def _subclusters(cluster: int, start: int, end: int, entry: int, bitmap: int) -> Iterator[Piece]:
        unit = cluster // _SUBCLUSTERS
        while start < end:
            number = start % cluster // unit
            stop = min(end, (start // unit + 1) * unit)
            if bitmap >> (_SUBCLUSTERS + number) & 1:
                yield Piece(start, stop, ZERO)
            elif bitmap >> number & 1:
                yield Piece(start, stop, DATA, (entry & _OFFSET) + start % cluster)
            else:
                yield Piece(start, stop, NOTHING)
            start = stop

    def _entry(self, header: qcow2.Header, cluster: int) -> tuple[int, int]:
        """L2 entry and subcluster bitmap of a guest cluster."""
        width = 2 if header.extended_l2 else 1
        entries = header.cluster_size // (8 * width)
        if cluster // entries != self._table_index:
            if self._l1 is None:
                self._l1 = self._words(header.l1_offset, header.l1_entries * 8)
            where = self._l1[cluster // entries] & _OFFSET
            self._table = self._words(where, header.cluster_size) if where else ()
            self._table_index = cluster // entries
        if not self._table:
            return 0, 0
        place = cluster % entries * width
        return self._table[place], self._table[place + 1] if width == 2 else 0

    def _words(self, offset: int, length: int) -> Sequence[int]:
        words = array.array("Q", os.pread(self._fd, length, offset).ljust(length, b"\0"))
        if sys.byteorder == "little":
            words.byteswap()
        return words

    def _decompressed(self, piece: Piece) -> bytes:
        assert self._header is not None
        if self._header.compression != "zlib":
            raise Unreadable(f"guest byte {piece.start} is compressed with {self._header.compression}")
        cluster, shift = self._header.cluster_size, 62 - (self._header.cluster_bits - 8)
        where = piece.where & ((1 << shift) - 1)
        sectors = (piece.where & (_COMPRESSED - 1)) >> shift
        stored = os.pread(self._fd, (sectors + 1) * 512 - where % 512, where)
        plain = zlib.decompressobj(-12).decompress(stored, cluster)
        if len(plain) < cluster:
            raise Unreadable(f"guest byte {piece.start}: compressed cluster is cut off")
        first = piece.start % cluster
        return plain[first : first + piece.end - piece.start]


def read(layers: Sequence[Layer], start: int, end: int) -> bytes:
    """What a guest sees of a range through a stack of layers, top first; zeros where no layer has anything.

    Raises:
        Unreadable: a layer that has the bytes cannot give them.
    """
    buffer = bytearray(end - start)
    wanted = [(start, end)]
    for each in layers:
        deeper: list[tuple[int, int]] = []
        for first, last in wanted:
            for piece in each.pieces(first, last):
                if piece.kind == NOTHING:
                    deeper.append((piece.start, piece.end))
                else:
                    buffer[piece.start - start : piece.end - start] = each.content(piece)
        if not deeper:
            break
        wanted = deeper
    return bytes(buffer)
