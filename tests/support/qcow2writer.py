"""A writer of qcow2 images that is nobody's: any legal header and mapping, byte by byte, from a random generator.

It shares nothing with the reader under test but the specification (qemu's docs/interop/qcow2.txt), and reaches what no
option of `qemu-img create` does: headers longer than today's, unknown extensions and bits, names that end with their
cluster, tables anywhere in a file of a tebibyte. Reference counts are left out: who reads does not need them.
"""

import dataclasses
import os
import random
import struct
from collections.abc import Sequence

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40

DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED = (1 << bit for bit in range(5))
BACKING_FORMAT, FEATURE_NAMES, BITMAPS, DATA_FILE_NAME = 0xE2792ACA, 0x6803F857, 0x23852875, 0x44415441
L1_LIMIT = 1 << 22

_COPIED, _COMPRESSED = 1 << 63, 1 << 62
_BASE = struct.Struct(">4sIQIIQIIQQIIQ")
_MORE = struct.Struct(">QQQII")
_SNAPSHOT = struct.Struct(">QIHHIIQII")
_BITMAP = struct.Struct(">QIIBBHI")
_NAMES = ("base", "../a/base", "/nowhere/base", 'json:{"driver":"raw"}', "nbd://127.0.0.1:1/x", "b\u00e4se \u4e2d", "b")


@dataclasses.dataclass
class Image:
    """A qcow2 file as pieces, and what it is meant to say.

    Attributes:
        pieces: (offset, bytes) of what is not zero, later ones over earlier ones.
        length: bytes of the file.
        features: incompatible feature bits.
        data_name: of the external data file, None without.
        has_data: whether any cluster is mapped.
        tables: places of L2 tables in the file, and of the L1 table, first.
    """

    version: int = 3
    bits: int = 16
    size: int = 0
    name: bytes = b""
    backing_format: bytes = b""
    features: int = 0
    compression: int = 0
    crypt: int = 0
    snapshots: int = 0
    bitmaps: int = 0
    l1_entries: int = 0
    data_name: str | None = None
    has_data: bool = False
    tables: list[int] = dataclasses.field(default_factory=list)
    pieces: list[tuple[int, bytes]] = dataclasses.field(default_factory=list)
    length: int = 0

    @property
    def cluster(self) -> int:
        return 1 << self.bits

    @property
    def extended(self) -> bool:
        return bool(self.features & EXTENDED)

    @property
    def entries(self) -> int:
        """Entries of an L2 table."""
        return self.cluster // (16 if self.extended else 8)

    @property
    def unknown(self) -> int:
        """Incompatible bits that nobody knows."""
        return self.features >> 5

    @property
    def header(self) -> bytes:
        """The first cluster as far as it is written."""
        return self.pieces[-1][1]

    def write(self, fd: int) -> None:
        """Make the file of an open descriptor this image."""
        os.ftruncate(fd, 0)
        os.ftruncate(fd, self.length)
        for offset, data in self.pieces:
            os.pwrite(fd, data, offset)


def draw(rng: random.Random, *, crypt: bool = False, data_file: bool = False, small: bool = False) -> Image:
    """A random legal image; a few have incompatible bits that nobody knows, which every reader has to refuse.

    Args:
        crypt: the old AES encryption.
        data_file: guest data in a file ``data``, which the caller makes.
        small: a virtual size and a file of some MiB at the most, and rarely clusters larger than 64 KiB.
    """
    image = Image(version=3 if data_file else rng.choice((2, 3, 3)), crypt=int(crypt))
    _draw_features(rng, image, data_file)
    image.bits = rng.randint(14 if image.extended else 9, 16 if small and rng.random() < 0.97 else 21)
    image.size = _draw_size(rng, image, small)
    image.l1_entries = -(-image.size // (image.cluster * image.entries))
    place = _Place(rng, image, small)
    l1_size = min(L1_LIMIT, image.l1_entries + rng.choice((0, 0, 1, 7, 500)))
    l1_offset = place.take(l1_size * 8 or 1)
    image.tables.append(l1_offset)
    refcount_clusters = rng.choice((1, 1, 2, max(1, (64 * KIB) >> image.bits)))
    refcount_offset = place.take(refcount_clusters * image.cluster)
    _draw_tables(rng, image, place, l1_offset)
    snapshots_offset = _draw_snapshots(rng, image, place)
    extensions = _draw_extensions(rng, image, place)
    image.length = place.end
    head = _BASE.pack(
        *(b"QFI\xfb", image.version, 0, 0, image.bits, image.size, image.crypt, l1_size, l1_offset),
        *(refcount_offset, refcount_clusters, image.snapshots, snapshots_offset),
    )
    _put_header(rng, image, head, extensions)
    return image


def _draw_features(rng: random.Random, image: Image, data_file: bool) -> None:
    if image.version == 2:
        return
    for bit, share in ((DIRTY, 0.1), (CORRUPT, 0.1), (COMPRESSION, 0.15), (EXTENDED, 0.2)):
        image.features |= bit if rng.random() < share else 0
    image.compression = int(bool(image.features & COMPRESSION))
    if rng.random() < 0.03:
        image.features |= 1 << rng.randint(5, 63)
    if data_file:
        image.features |= DATA_FILE
        image.data_name = "data"


def _draw_size(rng: random.Random, image: Image, small: bool) -> int:
    table = image.cluster * image.entries
    most = min((1 << 63) - 512, table * L1_LIMIT, 64 * MIB if small else 1 << 63)
    wanted = rng.choice(
        (
            *(0, 512, rng.randrange(64 * MIB), rng.randrange(TIB), table, table - 512, table + 512, 3 * table),
            *((1 << rng.randint(9, 62)) + rng.choice((-512, 0, 512)), rng.randrange(1, 4) * MIB, image.cluster),
        )
    )
    # Larger L1 tables are legal, and take time to read: few of them.
    most = most if rng.random() < 0.01 else min(most, table * 4096)
    return max(0, min(most, wanted) // 512 * 512)


class _Place:
    """Gives out clusters of the file, with gaps, some of them wide."""

    def __init__(self, rng: random.Random, image: Image, small: bool) -> None:
        self._rng = rng
        self._image = image
        self._gaps = (0, 0, 0, 1, 5) if small else (0, 0, 0, 0, 1, 5, 77, (1 << 34) >> image.bits)
        self.end = image.cluster

    def take(self, length: int) -> int:
        cluster = self._image.cluster
        offset = self.end + self._rng.choice(self._gaps) * cluster
        self.end = offset + -(-length // cluster) * cluster
        return offset


def _draw_tables(rng: random.Random, image: Image, place: _Place, l1_offset: int) -> None:
    """A few L2 tables, each with some runs of entries; most images have none."""
    if not image.l1_entries or image.unknown or rng.random() < 0.6:
        return
    for index in sorted(rng.sample(range(image.l1_entries), min(image.l1_entries, rng.choice((1, 1, 2, 4))))):
        runs = [(rng.randrange(image.entries), rng.choice((1, 1, 2, 9, 100))) for _ in range(rng.randint(1, 6))]
        runs += [(0, image.entries)] if rng.random() < 0.1 and image.bits < 14 else []
        offset = place.take(image.cluster)
        image.tables.append(offset)
        image.pieces.append((l1_offset + 8 * index, struct.pack(">Q", _COPIED | offset)))
        for start, length in runs:
            data = _run(rng, image, place, min(length, image.entries - start))
            image.pieces.append((offset + start * (16 if image.extended else 8), data))
            image.has_data = True


def _run(rng: random.Random, image: Image, place: _Place, length: int) -> bytes:
    """Neighbouring L2 entries of one kind."""
    kind = rng.choice(("data", "data", "data", "zero", "kept zero", "compressed", "nothing"))
    offset = place.take(length * image.cluster)
    found = []
    for number in range(length):
        host = offset + number * image.cluster
        if kind == "compressed" and not image.data_name:
            shift = 62 - (image.bits - 8)
            place_of_it = host + rng.randrange(image.cluster)
            sectors = rng.randrange(1 << (62 - shift)) if shift < 62 else 0
            found.append((_COMPRESSED | sectors << shift | place_of_it, 0))
        elif kind == "nothing":
            found.append((0, 0))
        elif image.extended:
            found.append(_subclusters(rng, kind, host))
        elif kind == "zero" and image.version == 3:
            found.append((1, 0))
        else:
            found.append((_COPIED | host | int(kind == "kept zero" and image.version == 3), 0))
    words = [word for entry in found for word in (entry if image.extended else entry[:1])]
    return struct.pack(f">{len(words)}Q", *words)


def _subclusters(rng: random.Random, kind: str, host: int) -> tuple[int, int]:
    some = rng.getrandbits(32)
    if kind == "zero":
        return 0, some << 32
    if kind == "kept zero":
        return _COPIED | host, 0xFFFF_FFFF << 32
    data = rng.choice((0xFFFF_FFFF, some))
    return _COPIED | host, (rng.getrandbits(32) & ~data) << 32 | data


def _draw_snapshots(rng: random.Random, image: Image, place: _Place) -> int:
    """Internal snapshots of nothing, with names; the place of their table."""
    if rng.random() > 0.08:
        return rng.choice((0, 0, place.end))
    image.snapshots = rng.randint(1, 3)
    table = b""
    for number in range(image.snapshots):
        name, identity = b"n" * rng.choice((1, 20, 255)), str(number + 1).encode()
        extra = struct.pack(">QQ", 0, image.size)
        entry = _SNAPSHOT.pack(0, 0, len(identity), len(name), 1, 0, 0, 0, len(extra)) + extra + identity + name
        table += entry + bytes(-len(entry) % 8)
    offset = place.take(len(table))
    image.pieces.append((offset, table))
    return offset


def _draw_extensions(rng: random.Random, image: Image, place: _Place) -> list[bytes]:
    """Header extensions in any order, and the backing name."""
    found = []
    if rng.random() < 0.6 and not image.data_name:
        image.name = _draw_name(rng)
        image.backing_format = rng.choice((b"", b"raw", b"qcow2", b"qcow2", b"vmdk", b"f" * 15))
    if image.backing_format:
        found.append((BACKING_FORMAT, image.backing_format))
    elif rng.random() < 0.1:
        found.append((BACKING_FORMAT, b"raw" if not image.name else b""))
    if rng.random() < 0.3:
        rows = [bytes((kind, bit)) + b"name".ljust(46, b"\0") for kind, bit in ((0, 0), (0, 5), (1, 0), (2, 9))]
        found.append((FEATURE_NAMES, b"".join(rows[: rng.randint(0, 4)])))
    for number in range(rng.choice((0, 0, 0, 1, 2))):
        found.append((0x0DEAD000 + number, rng.randbytes(rng.choice((0, 1, 8, 63, 200)))))
    if image.data_name:
        found.append((DATA_FILE_NAME, image.data_name.encode()))
    if image.version == 3 and image.size and image.size < TIB and image.bits > 10 and rng.random() < 0.05:
        found.append((BITMAPS, _draw_bitmaps(rng, image, place)))
    rng.shuffle(found)
    return [struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in found]


def _draw_name(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return rng.choice(_NAMES).encode()
    length = rng.choice((1, 36, 255, 1022, 1023, rng.randint(1, 1023)))
    return bytes(rng.choice(b"abcXYZ019-_./: ,=") for _ in range(length))


def _draw_bitmaps(rng: random.Random, image: Image, place: _Place) -> bytes:
    image.bitmaps = rng.randint(1, 3)
    directory = b""
    granularity = 16
    while image.size > 8 * image.cluster << granularity:  # one cluster of bits each
        granularity += 1
    for number in range(image.bitmaps):
        name = f"bitmap {number}".encode()
        entry = _BITMAP.pack(place.take(image.cluster), 1, 0, 1, granularity, len(name), 0) + name
        directory += entry + bytes(-len(entry) % 8)
    offset = place.take(len(directory))
    image.pieces.append((offset, directory))
    return struct.pack(">IIQQ", image.bitmaps, 0, len(directory), offset)


def _put_header(rng: random.Random, image: Image, head: bytes, extensions: Sequence[bytes]) -> None:
    """Fixed fields, extensions, name; what the first cluster has no room for is left out, from the end."""
    if image.version == 3:
        length = rng.choice((112, 112, 120, 160) if image.compression else (104, 112, 112, 120, 160))
        compatible = rng.choice((0, 1, 1 << 40))
        autoclear = int(bool(image.bitmaps)) | rng.choice((0, 0, 1 << 33))
        head += _MORE.pack(image.features, compatible, autoclear, rng.randint(0, 6), length)
        head = (head + bytes((image.compression,))).ljust(length, b"\0")[:length]
    kept = list(extensions)
    while (room := image.cluster - len(head) - sum(map(len, kept)) - 8) < 0:
        _forget(image, kept.pop())
    if len(image.name) > room:
        image.name = image.name[:room]
    end = bytes(8) if rng.random() < 0.8 or not image.name else b""
    area = head + b"".join(kept) + end
    if image.name:
        offset = rng.choice((len(area), len(area), image.cluster - len(image.name)))
        if not end:
            offset = len(area)
        area = area[:8] + struct.pack(">QI", offset, len(image.name)) + area[20:]
        image.pieces.append((offset, image.name))
    if image.version == 3 and not image.bitmaps:
        area = area[:95] + bytes((area[95] & 0xFE,)) + area[96:]
    image.pieces.append((0, area))


def _forget(image: Image, extension: bytes) -> None:
    kind = int.from_bytes(extension[:4], "big")
    if kind == BACKING_FORMAT:
        image.backing_format = b""
    elif kind == BITMAPS:
        image.bitmaps = 0
    elif kind == DATA_FILE_NAME:
        image.data_name = None
