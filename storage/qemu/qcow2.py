"""A bounded reader of qcow2 headers that believes nothing.

Layout: qemu's specification of the format (docs/interop/qcow2.txt), versions 2 and 3; every number is big-endian. A
guest or whoever uploaded the image wrote these bytes, so the reader does one read of 112 bytes and one of at most
64 KiB, compares every table with the length of the file (which qemu does not), opens no other file and answers with
a `Header` or a `HeaderError`.

What is merely unusual (encrypted, external data file, internal snapshots, ...) is reported, so that the caller can
decide; what contradicts itself is refused, also where some qemu tool would guess.
"""

import dataclasses
import os
import struct

MAGIC = b"QFI\xfb"

HEAD_BYTES = 112
AREA_BYTES = 64 * 1024
NAME_BYTES = 1023
MAX_L1_ENTRIES = 1 << 22
MAX_SNAPSHOTS = 65536
MAX_REFCOUNT_TABLE = 8 << 20
MAX_BITMAP_DIRECTORY = (64 << 20) - 1024

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = (1 << 5) - 1
_AUTOCLEAR_BITMAPS = 1
_AUTOCLEAR_RAW_DATA = 2

_END = 0
_BACKING_FORMAT = 0xE2792ACA
_FEATURE_NAMES = 0x6803F857
_BITMAPS = 0x23852875
_LUKS = 0x0537BE77

_CONTROL = frozenset(range(32)) | {127}


class FormatError(Exception):
    """An image contradicts the format, or is beyond a limit of the reader.

    Attributes:
        reason: what is wrong, safe to print: bytes of the image appear escaped.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class HeaderError(FormatError):
    """The header cannot be used."""


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a header claims.

    Attributes:
        version: 2 or 3.
        virtual_size: bytes of the guest's disk, a multiple of 512.
        cluster_bits: 9..21; a cluster is 1 << cluster_bits bytes.
        backing_name: as stored, None without a backing file. Bytes that are not UTF-8 appear as surrogates; there are
            no ASCII control characters. It may be anything a hostile mind writes: a path, ``json:``, an address.
        backing_format: as stored, None when absent (then qemu would probe) or without a backing file.
        l1_offset: byte position of the active L1 table, inside the file when `l1_entries` is not 0.
        l1_entries: entries that the virtual size needs, never more; the table may be longer.
        dirty: reference counts may be stale; reading is safe.
        corrupt: a writer found nonsense; qemu refuses to write.
        data_file: guest data lives in another file, which a writer would overwrite.
        extended_l2: 16-byte L2 entries with 32 subclusters each.
        compression: "zlib" or "zstd", of compressed clusters if there are any.
        unknown_features: incompatible bits that this reader does not know, with the name the image gives them, escaped.
        snapshots: number of internal snapshots.
        crypt: 0 none, 1 AES, 2 LUKS.
        bitmaps: persistent bitmaps are stored and valid.
    """

    version: int
    virtual_size: int
    cluster_bits: int
    backing_name: str | None
    backing_format: str | None
    l1_offset: int
    l1_entries: int
    dirty: bool
    corrupt: bool
    data_file: bool
    extended_l2: bool
    compression: str
    unknown_features: tuple[str, ...]
    snapshots: int
    crypt: int
    bitmaps: bool

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def objections(self) -> tuple[str, ...]:
        """Why a volume with this header must not be handed to a tool that writes; empty for what vdsm makes."""
        found = [f"unknown incompatible feature {feature}" for feature in self.unknown_features]
        if self.corrupt:
            found.append("marked corrupt by a writer")
        if self.data_file:
            found.append("guest data in an external file")
        if self.crypt:
            found.append(f"encrypted (method {self.crypt})")
        if self.snapshots:
            found.append(f"{self.snapshots} internal snapshots")
        if self.backing_name is not None and self.backing_format not in ("raw", "qcow2"):
            found.append(f"backing format {self.backing_format!a} instead of raw or qcow2")
        return tuple(found)


@dataclasses.dataclass(slots=True)
class _Fields:
    """The fixed fields as stored, and what the checks need beside them."""

    file_size: int
    version: int
    backing_offset: int
    backing_size: int
    cluster_bits: int
    size: int
    crypt: int
    l1_size: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int
    incompatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    length: int = 72
    compression: int = 0

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l1_entries(self) -> int:
        entry = 16 if self.incompatible & _EXTENDED_L2 else 8
        covered = self.cluster_size * (self.cluster_size // entry)
        return -(-self.size // covered)


def read_header(fd: int, size: int) -> Header:
    """Read and check the header of a qcow2 image.

    Args:
        fd: readable descriptor of the image; its position is neither used nor moved.
        size: length of the file in bytes.

    Raises:
        HeaderError: the file is no usable qcow2 image, or could not be read; nothing else is raised.
    """
    try:
        fields = _fixed_fields(os.pread(fd, HEAD_BYTES, 0), size)
        _check_fields(fields)
        limit = fields.backing_offset or fields.cluster_size
        end = fields.backing_offset + fields.backing_size if fields.backing_offset else limit
        area = os.pread(fd, min(end, AREA_BYTES), 0)
        extensions = _extensions(area, fields.length, limit)
        name = _backing_name(fd, area, fields)
    except OSError as error:
        raise HeaderError(f"cannot be read: {error.strerror}") from error
    return _header(fields, extensions, name)


def _fixed_fields(head: bytes, file_size: int) -> _Fields:
    if len(head) < _V2.size or head[:4] != MAGIC:
        raise HeaderError("not in qcow2 format")
    _, version, *rest = _V2.unpack_from(head)
    fields = _Fields(file_size, version, *rest)
    if version == 2:
        return fields
    if version != 3:
        raise HeaderError(f"version {version} instead of 2 or 3")
    if len(head) < _V2.size + _V3.size:
        raise HeaderError("shorter than its header")
    fields.incompatible, _, fields.autoclear, fields.refcount_order, fields.length = _V3.unpack_from(head, _V2.size)
    if fields.length > 104:
        fields.compression = head[104] if len(head) > 104 else 0
    return fields


def _check_fields(fields: _Fields) -> None:
    """Everything that can be said without reading on; the order makes each check safe for the next."""
    smallest = 14 if fields.incompatible & _EXTENDED_L2 else 9
    _require(smallest <= fields.cluster_bits <= 21, f"cluster size 2^{fields.cluster_bits}")
    _require(fields.size < 1 << 63 and fields.size % 512 == 0, f"virtual size {fields.size}")
    _require(fields.crypt <= 2, f"encryption method {fields.crypt}")
    _check_layout(fields)
    _check_tables(fields)


def _check_layout(fields: _Fields) -> None:
    cluster, length = fields.cluster_size, fields.length
    if fields.version == 3:
        _require(104 <= length <= cluster and length % 8 == 0, f"header length {length}")
        _require(length <= fields.file_size, "shorter than its header")
        _require(fields.refcount_order <= 6, f"reference counts of 2^{fields.refcount_order} bits")
        _require(fields.compression <= 1, f"compression type {fields.compression}")
        _require(
            bool(fields.compression) == bool(fields.incompatible & _COMPRESSION),
            "compression type and feature bit disagree",
        )
        _require(
            not fields.autoclear & _AUTOCLEAR_RAW_DATA or bool(fields.incompatible & _DATA_FILE),
            "a raw data file without a data file",
        )
    if fields.backing_offset:
        _require(length <= fields.backing_offset <= cluster, f"backing name at {fields.backing_offset}")
        _require(
            fields.backing_size <= min(NAME_BYTES, cluster - fields.backing_offset),
            f"backing name of {fields.backing_size} bytes",
        )


def _check_tables(fields: _Fields) -> None:
    cluster = fields.cluster_size
    need = fields.l1_entries
    _require(need <= fields.l1_size <= MAX_L1_ENTRIES, f"L1 table of {fields.l1_size} entries, {need} needed")
    _require(fields.l1_offset % cluster == 0 and fields.l1_offset < 1 << 63, f"L1 table at {fields.l1_offset}")
    if need:
        _require(fields.l1_offset >= cluster, "L1 table inside the header")
        _require(fields.l1_offset + need * 8 <= _round_up(fields.file_size, 512), "L1 table beyond the end of the file")
    table = fields.refcount_clusters * cluster
    _require(0 < table <= MAX_REFCOUNT_TABLE, f"reference count table of {fields.refcount_clusters} clusters")
    _require(
        fields.refcount_offset % cluster == 0 and cluster <= fields.refcount_offset,
        f"reference count table at {fields.refcount_offset}",
    )
    _require(
        fields.refcount_offset + table <= _round_up(fields.file_size, cluster),
        "reference count table beyond the end of the file",
    )
    _require(
        fields.snapshots <= MAX_SNAPSHOTS and fields.snapshots_offset % cluster == 0,
        f"table of {fields.snapshots} snapshots at {fields.snapshots_offset}",
    )


def _extensions(area: bytes, start: int, limit: int) -> dict[int, bytes]:
    """Header extensions by id: u32 id, u32 length, data, padding to 8 bytes; ends with id 0 or at the limit."""
    found: dict[int, bytes] = {}
    position = start
    while position < limit:
        if position + 8 > len(area) and limit > AREA_BYTES and len(area) >= AREA_BYTES:
            raise HeaderError(f"more than {AREA_BYTES} bytes of header extensions")
        # reads beyond the end of the file give zeros: the end mark
        kind, length = struct.unpack(">II", area[position : position + 8].ljust(8, b"\0"))
        if position + 8 + length > limit:  # the end mark, too, has to fit with its length, which means nothing else
            raise HeaderError(f"header extension {kind:#x} of {length} bytes")
        if kind == _END:
            break
        position += 8
        data = area[position : position + length]
        if len(data) < length:
            raise HeaderError(f"header extension {kind:#x} is cut off")
        if kind in found:
            raise HeaderError(f"header extension {kind:#x} occurs twice")
        found[kind] = data
        position += _round_up(length, 8)
    return found


def _backing_name(fd: int, area: bytes, fields: _Fields) -> str | None:
    offset, size = fields.backing_offset, fields.backing_size
    if not offset or not size:
        return None
    name = area[offset : offset + size] if offset + size <= len(area) else os.pread(fd, size, offset)
    if len(name) < size:
        raise HeaderError("backing name beyond the end of the file")
    if not _CONTROL.isdisjoint(name):
        raise HeaderError(f"control byte in the backing name {name[:64]!a}")
    return name.decode("utf-8", "surrogateescape")


def _header(fields: _Fields, extensions: dict[int, bytes], name: str | None) -> Header:
    backing_format = _backing_format(extensions.get(_BACKING_FORMAT))
    _check_luks(fields, extensions.get(_LUKS))
    bits = fields.incompatible
    return Header(
        version=fields.version,
        virtual_size=fields.size,
        cluster_bits=fields.cluster_bits,
        backing_name=name,
        backing_format=backing_format if name is not None else None,
        l1_offset=fields.l1_offset,
        l1_entries=fields.l1_entries,
        dirty=bool(bits & _DIRTY),
        corrupt=bool(bits & _CORRUPT),
        data_file=bool(bits & _DATA_FILE),
        extended_l2=bool(bits & _EXTENDED_L2),
        compression="zstd" if fields.compression else "zlib",
        unknown_features=_unknown(bits & ~_KNOWN, extensions.get(_FEATURE_NAMES, b"")),
        snapshots=fields.snapshots,
        crypt=fields.crypt,
        bitmaps=_bitmaps(fields, extensions.get(_BITMAPS)),
    )


def _backing_format(data: bytes | None) -> str | None:
    if not data:
        return None
    if len(data) >= 16 or not _CONTROL.isdisjoint(data):
        raise HeaderError(f"backing format {data[:64]!a}")
    return data.decode("utf-8", "surrogateescape")


def _check_luks(fields: _Fields, data: bytes | None) -> None:
    if (data is not None) != (fields.crypt == 2):
        raise HeaderError("LUKS encryption and its header extension disagree")
    if data is not None:
        aligned = len(data) == 16 and int.from_bytes(data[:8], "big") % fields.cluster_size == 0
        _require(aligned, "LUKS header extension")


def _bitmaps(fields: _Fields, data: bytes | None) -> bool:
    """Whether bitmaps are valid. Without the autoclear bit an older program left the extension behind: ignored."""
    if not fields.autoclear & _AUTOCLEAR_BITMAPS:
        return False
    if data is None or len(data) != 24:
        raise HeaderError("bitmaps without a proper header extension")
    count, reserved, size, offset = struct.unpack(">IIQQ", data)
    _require(not reserved, "bitmaps of a later kind")
    _require(1 <= count <= 65535 and size <= MAX_BITMAP_DIRECTORY, f"{count} bitmaps in {size} bytes")
    _require(
        offset % fields.cluster_size == 0 and offset + size <= _round_up(fields.file_size, 512),
        f"bitmap directory at {offset}",
    )
    return True


def _unknown(bits: int, names: bytes) -> tuple[str, ...]:
    """Texts for unknown bits. The name table (rows of type, bit, 46 bytes of name) is the image's own: escape it."""
    if not bits:
        return ()
    named = {
        names[row + 1]: names[row + 2 : row + 48].partition(b"\0")[0]
        for row in range(0, len(names) - 47, 48)
        if names[row] == 0
    }
    return tuple(
        f"bit {bit} ({ascii(named[bit])[1:]})" if bit in named else f"bit {bit}" for bit in range(64) if bits >> bit & 1
    )


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise HeaderError(reason)
