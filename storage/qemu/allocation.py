"""What one layer of a chain holds itself: byte ranges of the guest's disk that hide whatever is below.

For qcow2 that is read from the active L1 and L2 tables alone (format: docs/interop/qcow2.txt of qemu); no guest data is
touched. Data, compressed clusters and explicit zeros all count as held. The tables are untrusted: every offset is
checked against the length of the file, each table is read once, and the total is limited, because a small file can
otherwise describe a huge one. For raw files there are only the holes of the file system, which is weak evidence.

A table is judged as one big integer whose lanes are its entries: a few arithmetic operations on 64 KiB instead of
thousands of steps of the interpreter. Only a table with something special in it is walked entry by entry.
"""

import array
import dataclasses
import errno
import os
import struct
from collections.abc import Iterable, Iterator

from storage.qemu import qcow2

L1_LIMIT = 1 << 20
RANGE_LIMIT = 4 << 20

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ZERO = 1
_U64 = (1 << 64) - 1
_U32 = (1 << 32) - 1


class TableError(qcow2.FormatError):
    """A mapping table contradicts the format or points outside the file: what the layer holds is unknown."""


class LimitExceeded(qcow2.FormatError):
    """The tables may be right, but are larger than the reader accepts: what the layer holds is unknown."""


class Allocation:
    """An immutable set of bytes of the guest's disk, as sorted, separate half-open ranges."""

    __slots__ = ("_edges", "_zeros")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Make a set of (start, end) pairs in any order; they may touch and overlap."""
        builder = _Builder()
        for start, end in sorted(ranges):
            builder.add(start, end)
        self._edges = builder.edges
        self._zeros: Allocation | None = None

    @classmethod
    def _made(cls, edges: "array.array[int]", zeros: "Allocation | None" = None) -> "Allocation":
        made = cls()
        made._edges = edges
        made._zeros = zeros
        return made

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The ranges as (start, end), in bytes, sorted; neighbours never touch."""
        return tuple(_pairs(self._edges))

    @property
    def bytes(self) -> int:
        """How many bytes are in the set."""
        return sum(self._edges[1::2]) - sum(self._edges[::2])

    @property
    def zeros(self) -> "Allocation":
        """The part that the tables of a qcow2 layer declare to be zeros; empty for sets of any other origin."""
        return self._zeros or Allocation()

    def minus(self, other: "Allocation", limit: int | None = None) -> "Allocation":
        """What is in this set and not in the other.

        Args:
            limit: ignore everything from this byte on, e.g. the smaller of two virtual sizes.
        """
        builder = _Builder()
        others = _pairs(other._edges)
        cut = next(others, None)
        for start, end in _pairs(_clipped(self._edges, limit)):
            while cut and cut[0] < end:
                if cut[1] > start:
                    builder.add(start, cut[0])
                    start = cut[1]
                if cut[1] > end:
                    break
                cut = next(others, None)
            builder.add(start, end)
        return Allocation._made(builder.edges)

    def __bool__(self) -> bool:
        return bool(self._edges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Allocation) and self._edges == other._edges

    def __hash__(self) -> int:
        return hash(self._edges.tobytes())

    def __repr__(self) -> str:
        shown = ", ".join(f"{start}..{end}" for start, end in _pairs(self._edges[:8]))
        more = f", {len(self._edges) // 2 - 4} more" if len(self._edges) > 8 else ""
        return f"Allocation({shown}{more}; {self.bytes} bytes)"


def of_qcow2(fd: int, header: qcow2.Header, file_size: int, l2_limit: int) -> Allocation:
    """What a qcow2 layer holds itself.

    Nobody may write to the image meanwhile: the caller looks at its locks before and after.

    Args:
        fd: readable descriptor of the image; its position is neither used nor moved.
        header: of the same file.
        file_size: length of the file in bytes.
        l2_limit: most bytes of L2 tables to read.

    Raises:
        TableError: the tables are damaged or hostile.
        LimitExceeded: the tables are too large or too fragmented for us.
        OSError: a table could not be read.
    """
    if header.data_file or header.unknown_features:
        raise TableError("the mapping depends on a feature that is not supported here")
    scanner = _Scanner(header, file_size)
    for index, offset in _l2_tables(fd, header, file_size, l2_limit):
        table = os.pread(fd, header.cluster_size, offset)
        if len(table) + 511 < header.cluster_size:
            raise TableError(f"L2 table at {offset} is cut off")
        scanner.scan(index, table.ljust(header.cluster_size, b"\0"))
    edges, zeros = (_clipped(part.edges, header.virtual_size) for part in (scanner.held, scanner.zeros))
    return Allocation._made(edges, Allocation._made(zeros))


def of_raw(fd: int, size: int) -> Allocation:
    """Where a raw file is not a hole. Weak evidence: zeros may be stored or punched out; some file systems cannot say.

    Args:
        fd: readable descriptor of a regular file. Its position is moved.
        size: bytes to look at.

    Raises:
        LimitExceeded: more pieces than we keep.
        OSError: the file cannot be searched.
    """
    builder = _Builder()
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        position = os.lseek(fd, start, os.SEEK_HOLE)
        builder.add(start, min(position, size))
    return Allocation._made(builder.edges)


def _l2_tables(fd: int, header: qcow2.Header, file_size: int, l2_limit: int) -> list[tuple[int, int]]:
    """Checked (L1 index, file offset) of all L2 tables that the virtual size needs."""
    length = header.l1_entries * 8
    if length > L1_LIMIT:
        raise LimitExceeded(f"L1 table of {length} bytes")
    data = os.pread(fd, length, header.l1_offset)
    if len(data) < length:
        raise TableError("L1 table is cut off")
    entries = struct.unpack(f">{header.l1_entries}Q", data)
    tables = [(index, entry & _OFFSET) for index, entry in enumerate(entries) if entry & _OFFSET]
    cluster = header.cluster_size
    if len(tables) * cluster > l2_limit:
        raise LimitExceeded(f"{len(tables) * cluster} bytes of L2 tables")
    if len({offset for _, offset in tables}) < len(tables):
        raise TableError("one L2 table serves two L1 entries")
    last = -(-file_size // 512) * 512 - cluster
    for index, offset in tables:
        if offset % cluster or offset > last:
            raise TableError(f"L2 table {index} at {offset}")
        if header.l1_offset <= offset < header.l1_offset + length:
            raise TableError(f"L2 table {index} inside the L1 table")
    return tables


class _Builder:
    """Collects ranges that arrive sorted by start."""

    __slots__ = ("edges",)

    def __init__(self) -> None:
        self.edges: array.array[int] = array.array("Q")

    def add(self, start: int, end: int) -> None:
        if start >= end:
            return
        edges = self.edges
        if edges and edges[-1] >= start:
            edges[-1] = max(end, edges[-1])
            return
        if len(edges) >= 2 * RANGE_LIMIT:
            raise LimitExceeded(f"more than {RANGE_LIMIT} separate pieces")
        edges.append(start)
        edges.append(end)


@dataclasses.dataclass(frozen=True, slots=True)
class _Lanes:
    """Constants as wide as a table, with the same value in each lane (entry): see `_Scanner._plain`."""

    top: int
    offset: int
    special: int
    held: int
    zero: int
    bitmap: int
    whole: int
    last: int
    lift: int


class _Scanner:
    """Turns the L2 tables of one image, in order, into ranges."""

    def __init__(self, header: qcow2.Header, file_size: int) -> None:
        self.held = _Builder()
        self.zeros = _Builder()
        self._header = header
        self._file_size = file_size
        self._cluster = header.cluster_size
        self._width = 16 if header.extended_l2 else 8
        self._entries = self._cluster // self._width
        self._empty = bytes(self._cluster)
        self._lanes: _Lanes | None = None
        self._compressed_offset = (1 << (62 - (header.cluster_bits - 8))) - 1

    def scan(self, index: int, table: bytes) -> None:
        """Add what the table of L1 entry `index` maps."""
        if table == self._empty:
            return
        start = index * self._entries * self._cluster
        if self._plain(start, table):
            return
        if self._header.extended_l2:
            self._walk_extended(start, table)
        else:
            self._walk(start, table)

    def _make_lanes(self) -> _Lanes:
        """The entry is the upper 64 bits of a lane; below it is the subcluster bitmap if there is one."""
        shift = self._width * 8 - 64
        top = 1 << (shift + 63)

        def lanes(value: int) -> int:
            return int.from_bytes(value.to_bytes(self._width, "big") * self._entries, "big")

        misaligned = _OFFSET & (self._cluster - 1)
        not_plain = _ZERO if self._header.version == 2 or self._header.extended_l2 else 0
        bitmap = (1 << shift) - 1
        return _Lanes(
            top=lanes(top),
            offset=lanes(_OFFSET << shift),
            special=lanes((_COMPRESSED | misaligned | not_plain) << shift),
            held=lanes((_OFFSET | _ZERO) << shift),
            zero=lanes(_ZERO << shift),
            bitmap=lanes(bitmap),
            whole=lanes(_U32 & bitmap),
            last=lanes(top + ((self._file_size - 1) << shift) + bitmap),
            lift=lanes(top - 1),
        )

    def _plain(self, start: int, table: bytes) -> bool:
        """Handle a table without anything special; False, with nothing added, when it has to be walked.

        No lane ever carries into its neighbour: an offset has 56 bits and the top bit of a lane is bit 63 of its entry.
        """
        self._lanes = lanes = self._lanes or self._make_lanes()
        value = int.from_bytes(table, "big")
        if value & lanes.special or value & lanes.bitmap != lanes.whole:
            return False
        if (lanes.last - (value & lanes.offset)) & lanes.top != lanes.top:  # an offset behind the end of the file
            return False
        # the top bit of a lane becomes 1 if anything below it was not 0
        held = ((value & lanes.held) + lanes.lift) & lanes.top
        if self._header.extended_l2 and held != lanes.top:  # subclusters without a cluster
            return False
        self._add_runs(self.held, start, held, lanes)
        if value & lanes.zero:
            self._add_runs(self.zeros, start, ((value & lanes.zero) + lanes.lift) & lanes.top, lanes)
        return True

    def _add_runs(self, builder: _Builder, start: int, tops: int, lanes: _Lanes) -> None:
        cluster = self._cluster
        if tops == lanes.top:
            builder.add(start, start + self._entries * cluster)
            return
        flags = tops.to_bytes(self._cluster, "big")[:: self._width]
        first = flags.find(0x80)
        while first >= 0:
            end = flags.find(0, first)
            end = end if end >= 0 else self._entries
            builder.add(start + first * cluster, start + end * cluster)
            first = flags.find(0x80, end)

    def _walk(self, start: int, table: bytes) -> None:
        cluster = self._cluster
        for (entry,) in struct.iter_unpack(">Q", table):
            if entry & (_OFFSET | _COMPRESSED | _ZERO):
                self.held.add(start, start + cluster)
                if self._is_zero(start, entry):
                    self.zeros.add(start, start + cluster)
            start += cluster

    def _is_zero(self, guest: int, entry: int) -> bool:
        """Check a standard entry that is not empty."""
        if entry & _COMPRESSED:
            self._check_compressed(guest, entry)
            return False
        if entry & _ZERO and self._header.version == 2:
            raise TableError(f"zero cluster at guest byte {guest} in a version 2 image")
        self._check_aligned(guest, entry)
        if entry & _ZERO:
            return True
        self._check_inside(guest, entry & _OFFSET)
        return False

    def _walk_extended(self, start: int, table: bytes) -> None:
        cluster = self._cluster
        for entry, bitmap in struct.iter_unpack(">QQ", table):
            if entry & _COMPRESSED:
                self._check_compressed(start, entry)
                self.held.add(start, start + cluster)
            elif bitmap or entry & _ZERO:
                self._check_aligned(start, entry)
                self._add_subclusters(start, entry, bitmap)
            start += cluster

    def _add_subclusters(self, start: int, entry: int, bitmap: int) -> None:
        allocated, zeros = bitmap & _U32, bitmap >> 32
        if entry & _ZERO or allocated & zeros:
            raise TableError(f"subclusters of the cluster at guest byte {start} contradict each other")
        if allocated:
            self._check_inside(start, entry & _OFFSET)
        for first, end in _bit_runs(allocated | zeros, self._cluster // 32):
            self.held.add(start + first, start + end)
        for first, end in _bit_runs(zeros, self._cluster // 32):
            self.zeros.add(start + first, start + end)

    def _check_compressed(self, guest: int, entry: int) -> None:
        self._check_inside(guest, entry & self._compressed_offset)

    def _check_aligned(self, guest: int, entry: int) -> None:
        if entry & _OFFSET & (self._cluster - 1):
            raise TableError(f"cluster at guest byte {guest} is not aligned in the file")

    def _check_inside(self, guest: int, offset: int) -> None:
        if not self._cluster <= offset < self._file_size:
            raise TableError(f"cluster at guest byte {guest} lies outside the file, at {offset}")


def _bit_runs(bits: int, unit: int) -> Iterator[tuple[int, int]]:
    """Runs of set bits, lowest first, as ranges of `unit` bytes a bit."""
    position = 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        length = (~bits & (bits + 1)).bit_length() - 1
        position += skip
        yield position * unit, (position + length) * unit
        bits >>= length
        position += length


def _pairs(edges: "array.array[int]") -> Iterator[tuple[int, int]]:
    walk = iter(edges)
    return zip(walk, walk, strict=True)


def _clipped(edges: "array.array[int]", limit: int | None) -> "array.array[int]":
    """The ranges below `limit`."""
    if limit is None or not edges or edges[-1] <= limit:
        return edges
    kept = edges[:]
    while kept and kept[-2] >= limit:
        del kept[-2:]
    if kept:
        kept[-1] = min(kept[-1], limit)
    return kept
