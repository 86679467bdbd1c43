"""The header reader: against qemu-img on honest images, against a table of hostile ones, against mutated bytes."""

import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from storage.qemu import qcow2
from tests.support import images

# offsets of header fields
VERSION, BACKING_OFFSET, BACKING_SIZE, CLUSTER_BITS, SIZE, CRYPT, L1_SIZE, L1_OFFSET = 4, 8, 16, 20, 24, 32, 36, 40
REFCOUNT_OFFSET, REFCOUNT_CLUSTERS, SNAPSHOTS, SNAPSHOTS_OFFSET = 48, 56, 60, 64
INCOMPATIBLE, AUTOCLEAR, REFCOUNT_ORDER, HEADER_LENGTH, COMPRESSION = 72, 88, 96, 100, 104

BACKING_FORMAT, FEATURE_NAMES, BITMAPS, LUKS, DATA_FILE = 0xE2792ACA, 0x6803F857, 0x23852875, 0x0537BE77, 0x44415441


def read(path: Path) -> qcow2.Header:
    fd = os.open(path, os.O_RDONLY)
    try:
        return qcow2.read_header(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def read_bytes(data: bytes, size: int | None = None) -> qcow2.Header:
    fd = os.memfd_create("image")
    try:
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data) if size is None else size)
        return qcow2.read_header(fd, len(data) if size is None else size)
    finally:
        os.close(fd)


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


def header(
    *extensions: bytes, name: bytes = b"", version: int = 3, bits: int = 16, size: int = 64 << 20, length: int = 112
) -> bytes:
    """The first bytes of a small valid image as qemu 7.2 lays it out; length 4 clusters is up to the caller."""
    fixed = length if version == 3 else 72
    area = b"".join(extensions) + bytes(8)
    cluster = 1 << bits
    data = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(qcow2.MAGIC, version, fixed + len(area) if name else 0, len(name), bits, size),
        *(0, 1, 3 * cluster, cluster, 1, 0, 0),
    )
    if version == 3:
        data += struct.pack(">QQQII", 0, 0, 0, 4, length).ljust(length - 72, b"\0")
    return data + area + name


def parse(data: bytes, clusters: int = 4) -> qcow2.Header:
    return read_bytes(data, max(len(data), clusters << data[23]))


def put(data: bytes, offset: int, value: int, width: int) -> bytes:
    return data[:offset] + value.to_bytes(width, "big") + data[offset + width :]


# ---------------------------------------------------------------- honest images


@pytest.mark.qemu
@pytest.mark.timeout(0)
def test_agrees_with_qemu_img_info_on_random_images(tmp_path: Path) -> None:
    for seed in range(images.EXAMPLES):
        rng = random.Random(seed)
        recipe = images.random_recipe(rng)
        backing = rng.choice([None, "base", "../other/base", "x" * rng.choice([255, 1000]), "b\u00e4se"])
        if backing and recipe.options["cluster_size"] < 2048 and len(backing) > 64:
            backing = "base"
        path = images.create(tmp_path / "image", recipe.size, backing=backing, **recipe.options)
        found, told = read(path), images.info(path)
        assert found.virtual_size == told["virtual-size"], recipe
        assert found.cluster_size == told["cluster-size"], recipe
        assert found.backing_name == told.get("backing-filename"), recipe
        assert found.backing_format == told.get("backing-filename-format"), recipe
        specific = told["format-specific"]["data"]
        assert found.version == (2 if specific["compat"] == "0.10" else 3)
        assert found.extended_l2 == specific.get("extended-l2", False)
        assert (found.dirty, found.corrupt) == (told["dirty-flag"], specific.get("corrupt", False))
        assert found.objections == ()
        path.unlink()


@pytest.mark.qemu
def test_shows_what_qemu_img_can_switch_on(tmp_path: Path) -> None:
    assert read(images.create(tmp_path / "a", compression_type="zstd")).compression == "zstd"
    encrypted = tmp_path / "b"
    secret = "secret,id=s,data=x"
    images.qemu_img(
        "create",
        "-q",
        "--object",
        secret,
        "-f",
        "qcow2",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s",
        encrypted,
        "1M",
    )
    assert read(encrypted).crypt == 2
    assert "encrypted" in read(encrypted).objections[0]
    external = images.create(tmp_path / "c", 1 << 20, data_file=tmp_path / "c.raw")
    assert read(external).data_file
    assert read(external).objections == ("guest data in an external file",)
    kept = images.create(tmp_path / "d")
    images.qemu_img("snapshot", "-c", "s", kept)
    images.qemu_img("bitmap", "--add", kept, "m")
    assert (read(kept).snapshots, read(kept).bitmaps) == (1, True)
    assert read(kept).objections == ("1 internal snapshots",)


def test_reads_few_bytes_and_leaves_the_descriptor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.pread

    def counting(fd: int, length: int, offset: int) -> bytes:
        asked.append(length)
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    found = parse(header(extension(BACKING_FORMAT, b"qcow2"), name=b"base"))
    assert (found.backing_name, found.backing_format) == ("base", "qcow2")
    assert asked[0] == 112 and len(asked) == 2 and asked[1] < 200
    asked.clear()
    parse(header(bits=21))
    assert asked == [112, 65536]


def test_version_2_has_extensions_where_version_3_has_features() -> None:
    found = parse(header(extension(BACKING_FORMAT, b"raw"), extension(0x1234, b"\xff" * 40), name=b"base", version=2))
    assert (found.version, found.backing_name, found.backing_format) == (2, "base", "raw")
    assert found.unknown_features == ()


def test_needed_l1_entries_follow_the_size_not_the_table() -> None:
    table = 65536 * 8192
    for size, need in [(0, 0), (512, 1), (table, 1), (table + 512, 2)]:
        assert parse(put(header(size=size), L1_SIZE, 4000, 4)).l1_entries == need
    extended = put(put(header(size=table), INCOMPATIBLE, 1 << 4, 8), L1_SIZE, 2, 4)
    assert parse(extended).l1_entries == 2


def test_a_backing_name_far_behind_is_read_on_its_own() -> None:
    data = put(put(header(bits=21), BACKING_OFFSET, 1 << 20, 8), BACKING_SIZE, 4, 4)
    assert parse(data.ljust(1 << 20, b"\0") + b"base").backing_name == "base"


def test_backing_names_keep_their_bytes() -> None:
    assert parse(header(name=b"b\xff\xfe")).backing_name == "b\udcff\udcfe"
    assert parse(header(name=b'json:{"driver":"raw"}')).backing_name == 'json:{"driver":"raw"}'
    assert parse(header(extension(BACKING_FORMAT, b"qcow2"))).backing_format is None, "no backing file, no format"
    nameless = put(header(name=b"base"), BACKING_SIZE, 0, 4)
    assert parse(nameless).backing_name is None


def test_unknown_features_are_named_and_escaped() -> None:
    row = bytes([0, 5]) + b"evil\n\x1b[31m".ljust(46, b"\0")
    found = parse(put(header(extension(FEATURE_NAMES, row)), INCOMPATIBLE, 1 << 5 | 1 << 63, 8))
    assert found.unknown_features == ("bit 5 ('evil\\n\\x1b[31m')", "bit 63")
    assert len(found.objections) == 2
    assert all(text.isprintable() for text in found.objections)


def test_an_unread_file_is_a_header_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(qcow2.HeaderError, match="cannot be read"):
            qcow2.read_header(fd, 4096)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- limits that qemu has too


@pytest.mark.parametrize("bits", [9, 12, 16, 21])
def test_the_name_may_fill_its_cluster_but_not_more(bits: int) -> None:
    start = 120
    fits = min(1023, (1 << bits) - start)
    assert parse(header(name=b"n" * fits, bits=bits, size=512)).backing_name == "n" * fits
    with pytest.raises(qcow2.HeaderError, match="backing name"):
        parse(header(name=b"n" * (fits + 1), bits=bits, size=512))


def test_extensions_beyond_the_area_are_refused() -> None:
    many = [extension(0x1000 + i, bytes(8184)) for i in range(9)]
    with pytest.raises(qcow2.HeaderError, match=r"65536 bytes of header extensions|cut off"):
        parse(header(*many, bits=21))
    assert parse(header(*many[:7], bits=21)).version == 3
    with pytest.raises(qcow2.HeaderError, match="65536 bytes of header extensions"):
        parse(header(extension(0x1000, bytes(65536 - 112 - 8)), extension(0x1001, b""), bits=21))


def test_extensions_may_not_run_into_the_name() -> None:
    data = header(extension(0x1000, bytes(16)), name=b"base")
    assert parse(put(data, 116, 24, 4)).backing_name == "base"
    with pytest.raises(qcow2.HeaderError, match="of 25 bytes"):
        parse(put(data, 116, 25, 4))


def test_a_name_inside_the_header_is_refused_wherever_it_is_printable() -> None:
    data = header(name=b"base")[:104] + b"\0basebas" + header(name=b"base")[112:]
    with pytest.raises(qcow2.HeaderError, match="backing name at 105"):
        parse(put(data, BACKING_OFFSET, 105, 8))


def test_reference_counts_are_limited_in_a_large_file_too() -> None:
    assert read_bytes(put(header(), REFCOUNT_CLUSTERS, 128, 4), 1 << 30)
    with pytest.raises(qcow2.HeaderError, match="129 clusters"):
        read_bytes(put(header(), REFCOUNT_CLUSTERS, 129, 4), 1 << 30)


def test_extensions_may_end_at_the_name_without_an_end_mark() -> None:
    data = header(extension(BACKING_FORMAT, b"raw"), name=b"base")
    data = put(data[:128] + data[136:], BACKING_OFFSET, 128, 8)
    assert parse(data).backing_format == "raw"


@pytest.mark.parametrize("rest", range(1, 8))
def test_what_is_left_before_the_name_is_an_extension_too(rest: int) -> None:
    """qemu reads the 8 bytes of one there, some of which are the name's, and refuses."""
    data = header(extension(BACKING_FORMAT, b"raw"), name=b"base")
    data = data[:128] + bytes(rest) + b"base"
    with pytest.raises(qcow2.HeaderError, match="header extension"):
        parse(put(data, BACKING_OFFSET, 128 + rest, 8))


def test_an_end_mark_has_to_fit_as_well() -> None:
    data = put(put(header(name=b"base" * 20), BACKING_OFFSET, 128, 8), BACKING_SIZE, 4, 4)
    assert parse(data).backing_name == "base"
    assert parse(put(data, 116, 8, 4)).backing_name == "base"
    with pytest.raises(qcow2.HeaderError, match="of 9 bytes"):
        parse(put(data, 116, 9, 4))


@pytest.mark.parametrize(
    ("offset", "width", "good", "bad"),
    [
        (CLUSTER_BITS, 4, [], [0, 8, 22, 63, 2**32 - 1]),
        (SIZE, 8, [0, 512], [1000, 2**62, 2**63, 2**64 - 512]),
        (CRYPT, 4, [0, 1], [3, 2**32 - 1]),
        (L1_SIZE, 4, [1, 2**22], [0, 2**22 + 1]),
        (L1_OFFSET, 8, [2 << 16], [0, 1, 512, 4 << 16, 1 << 63, 2**64 - 65536]),
        (REFCOUNT_OFFSET, 8, [3 << 16], [0, 512, 4 << 16, 2**64 - 65536]),
        (REFCOUNT_CLUSTERS, 4, [1, 3], [0, 4, 129, 2**32 - 1]),
        (SNAPSHOTS, 4, [0, 65536], [65537]),
        (SNAPSHOTS_OFFSET, 8, [0, 65536], [512]),
        (AUTOCLEAR, 8, [1 << 5], [1, 2, 3]),
        (REFCOUNT_ORDER, 4, [0, 6], [7, 2**32 - 1]),
        (HEADER_LENGTH, 4, [104, 112], [0, 72, 103, 105, 65544, 2**32 - 1]),
        (COMPRESSION, 1, [0], [1, 2, 255]),
    ],
)
def test_each_field_has_its_bounds(offset: int, width: int, good: list[int], bad: list[int]) -> None:
    data = header()
    for value in good:
        read_bytes(put(data, offset, value, width), 4 << 16)
    for value in bad:
        with pytest.raises(qcow2.HeaderError):
            read_bytes(put(data, offset, value, width), 4 << 16)


def test_feature_bits_that_disagree_with_other_fields_are_refused() -> None:
    for incompatible, compression, bits in [(1 << 3, 0, 16), (1 << 4, 0, 13)]:
        data = put(put(header(bits=bits, size=512), INCOMPATIBLE, incompatible, 8), COMPRESSION, compression, 1)
        with pytest.raises(qcow2.HeaderError):
            parse(data)
    assert parse(put(put(header(), INCOMPATIBLE, 1 << 3, 8), COMPRESSION, 1, 1)).compression == "zstd"


def bitmaps(count: int = 1, size: int = 32, offset: int = 65536) -> bytes:
    return extension(BITMAPS, struct.pack(">IIQQ", count, 0, size, offset))


@pytest.mark.parametrize(
    ("found", "accepted"),
    [
        (bitmaps(), True),
        (bitmaps(count=0), False),
        (bitmaps(count=65536), False),
        (bitmaps(size=(64 << 20) - 1023), False),
        (bitmaps(offset=512), False),
        (bitmaps(offset=1 << 40), False),
        (extension(BITMAPS, bytes(23)), False),
        (extension(BITMAPS, struct.pack(">IIQQ", 1, 1, 32, 65536)), False),
    ],
)
def test_bitmaps(found: bytes, accepted: bool) -> None:
    assert not parse(header(found)).bitmaps, "without the autoclear bit they are ignored"
    data = put(header(found), AUTOCLEAR, 1, 8)
    if accepted:
        assert parse(data).bitmaps
    else:
        with pytest.raises(qcow2.HeaderError):
            parse(data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [(BACKING_FORMAT, b"x" * 16), (BACKING_FORMAT, b"raw\0"), (BACKING_FORMAT, b"a\nb"), (LUKS, bytes(16))],
)
def test_extensions_with_bad_content(kind: int, data: bytes) -> None:
    with pytest.raises(qcow2.HeaderError):
        parse(header(extension(kind, data), name=b"base"))


def test_luks_needs_its_extension() -> None:
    with pytest.raises(qcow2.HeaderError, match="LUKS"):
        parse(put(header(), CRYPT, 2, 4))
    with pytest.raises(qcow2.HeaderError, match="LUKS"):
        parse(put(header(extension(LUKS, struct.pack(">QQ", 100, 512))), CRYPT, 2, 4))
    assert parse(put(header(extension(LUKS, struct.pack(">QQ", 65536, 512))), CRYPT, 2, 4)).crypt == 2


# ---------------------------------------------------------------- the table of hostile images (real ones, damaged)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("original")
    base = images.create(directory / "base")
    path = images.create(directory / "image", backing=base.name)
    images.write_pattern(path, 0, 256 << 10, 1)
    yield path


def number(offset: int, value: int, width: int) -> Callable[[Path], object]:
    return lambda path: images.patch_number(path, offset, value, width)


def name(data: bytes) -> Callable[[Path], object]:
    """Replace the backing name in place."""

    def change(path: Path) -> None:
        images.patch(path, images.number(path, BACKING_OFFSET, 8), data)
        images.patch_number(path, BACKING_SIZE, len(data), 4)

    return change


def twice(path: Path) -> None:
    """The format extension a second time, in place of the feature names that follow it (384 bytes)."""
    at = path.read_bytes()[:4096].index(FEATURE_NAMES.to_bytes(4, "big"))
    images.patch(path, at, extension(BACKING_FORMAT, b"raw") + extension(0x7777, bytes(392 - 16 - 8)))


REFUSED: dict[str, Callable[[Path], object]] = {
    "1 cut to 512 bytes": lambda path: os.truncate(path, 512),
    "1 cut to 60 bytes": lambda path: os.truncate(path, 60),
    "1 empty": lambda path: os.truncate(path, 0),
    "2 version 1": number(VERSION, 1, 4),
    "2 version 4": number(VERSION, 4, 4),
    "3 cluster bits 8": number(CLUSTER_BITS, 8, 4),
    "3 cluster bits 22": number(CLUSTER_BITS, 22, 4),
    "3 cluster bits 63": number(CLUSTER_BITS, 63, 4),
    "4 header length 0": number(HEADER_LENGTH, 0, 4),
    "4 header length 103": number(HEADER_LENGTH, 103, 4),
    "4 header length 65544": number(HEADER_LENGTH, 65544, 4),
    "5 header length 105": number(HEADER_LENGTH, 105, 4),
    "6 backing offset 65537": number(BACKING_OFFSET, 65537, 8),
    "7 backing offset in the header": number(BACKING_OFFSET, 8, 8),
    "8 name of 1024": number(BACKING_SIZE, 1024, 4),
    "8 name of 2^32-1": number(BACKING_SIZE, 2**32 - 1, 4),
    "8 name past the cluster": lambda path: (number(BACKING_OFFSET, 65530, 8)(path), number(BACKING_SIZE, 8, 4)(path)),
    "9 name of 1023 over a short one": number(BACKING_SIZE, 1023, 4),
    "10 NUL inside the name": name(b"base\0other"),
    "10 line feed inside the name": name(b"base\nother"),
    "14 format twice": twice,
    "15 extension of 2^32-1": number(116, 2**32 - 1, 4),
    "15 extension past the name": number(116, 4096, 4),
    "16 size 2^62": number(SIZE, 2**62, 8),
    "16 size 2^63": number(SIZE, 2**63, 8),
    "16 size 2^64-512": number(SIZE, 2**64 - 512, 8),
    "17 size 1000": number(SIZE, 1000, 8),
    "18 L1 of 0": number(L1_SIZE, 0, 4),
    "18 L1 of 2^22+1": number(L1_SIZE, 2**22 + 1, 4),
    "20 L1 past the end": number(L1_OFFSET, 1 << 40, 8),
    "21 L1 at 0": number(L1_OFFSET, 0, 8),
    "22 no reference counts": number(REFCOUNT_CLUSTERS, 0, 4),
    "22 reference counts of 129 clusters": number(REFCOUNT_CLUSTERS, 129, 4),
    "22 reference counts unaligned": number(REFCOUNT_OFFSET, 65537, 8),
    "23 reference counts past the end": number(REFCOUNT_OFFSET, 1 << 40, 8),
    "23 reference counts at 0": number(REFCOUNT_OFFSET, 0, 8),
    "24 65537 snapshots": number(SNAPSHOTS, 65537, 4),
    "28 LUKS without its extension": number(CRYPT, 2, 4),
    "28 encryption 3": number(CRYPT, 3, 4),
    "30 bitmaps without an extension": number(AUTOCLEAR, 1, 8),
    "raw data file without a data file": number(AUTOCLEAR, 2, 8),
}


@pytest.mark.qemu
@pytest.mark.parametrize("case", REFUSED)
def test_hostile_and_refused(case: str, original: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(original, tmp_path / "image"))
    assert read(path).backing_name == "base"
    REFUSED[case](path)
    with pytest.raises(qcow2.HeaderError) as caught:
        read(path)
    assert caught.value.reason.isprintable()


REPORTED: dict[str, tuple[Callable[[Path], object], dict[str, object], bool]] = {
    "11 json name": (name(b'json:{"driver":"raw"}'), {"backing_name": 'json:{"driver":"raw"}'}, False),
    "12 nbd name": (name(b"nbd://127.0.0.1:1/x"), {"backing_name": "nbd://127.0.0.1:1/x"}, False),
    "13 its own name": (name(b"image"), {"backing_name": "image"}, False),
    "14 bogus format": (lambda path: images.patch(path, 120, b"bogus"), {"backing_format": "bogus"}, True),
    "14 no format": (number(112, 0, 4), {"backing_format": None}, True),
    "17 size 0": (number(SIZE, 0, 8), {"virtual_size": 0, "l1_entries": 0}, False),
    "19 L1 of 2^22": (number(L1_SIZE, 2**22, 4), {"l1_entries": 1}, False),
    "24 snapshots": (number(SNAPSHOTS, 65536, 4), {"snapshots": 65536}, True),
    "25 unknown bit 5": (number(INCOMPATIBLE, 1 << 5, 8), {"unknown_features": ("bit 5",)}, True),
    "25 unknown bit 63": (number(INCOMPATIBLE, 1 << 63, 8), {"unknown_features": ("bit 63",)}, True),
    "26 dirty": (number(INCOMPATIBLE, 1, 8), {"dirty": True}, False),
    "26 corrupt": (number(INCOMPATIBLE, 2, 8), {"corrupt": True}, True),
    "27 data file": (number(INCOMPATIBLE, 4, 8), {"data_file": True}, True),
    "28 AES": (number(CRYPT, 1, 4), {"crypt": 1}, True),
}


@pytest.mark.qemu
@pytest.mark.parametrize("case", REPORTED)
def test_hostile_and_reported(case: str, original: Path, tmp_path: Path) -> None:
    change, expected, objection = REPORTED[case]
    path = Path(shutil.copy(original, tmp_path / "image"))
    change(path)
    found = read(path)
    assert {key: getattr(found, key) for key in expected} == expected
    assert bool(found.objections) == objection


# ---------------------------------------------------------------- any bytes

_FIELDS = [(4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8), (56, 4), (60, 4), (64, 8)]
_FIELDS += [(72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1), (112, 4), (116, 4)]
_NUMBERS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 63).map(lambda bit: 1 << bit),
    st.sampled_from([0, 1, 2, 9, 16, 21, 72, 104, 112, 511, 512, 1023, 1024, 65535, 65536, 131072, 2**32 - 1]),
)


def never_anything_else(data: bytes, size: int) -> None:
    try:
        found = read_bytes(data, size)
    except qcow2.HeaderError as error:
        assert error.reason.isprintable()
        return
    assert found.version in (2, 3)
    assert 9 <= found.cluster_bits <= 21
    assert found.virtual_size % 512 == 0
    assert not found.l1_entries or found.l1_offset + found.l1_entries * 8 <= size + 511
    assert found.backing_name is None or 1 <= len(os.fsencode(found.backing_name)) <= 1023
    assert all(text.isprintable() for text in found.objections)


@settings(deadline=None, max_examples=max(200, images.EXAMPLES))
@given(
    st.sampled_from([2, 3]),
    st.lists(st.tuples(st.sampled_from(_FIELDS), _NUMBERS), min_size=1, max_size=4),
    st.one_of(st.just(4 << 16), st.integers(0, 5 << 16)),
)
def test_mutated_fields(version: int, changes: list[tuple[tuple[int, int], int]], size: int) -> None:
    data = header(extension(BACKING_FORMAT, b"qcow2"), extension(0x99, b"abc"), name=b"base", version=version)
    for (offset, width), value in changes:
        data = put(data, offset, value % (1 << 8 * width), width)
    never_anything_else(data, size)


@settings(deadline=None, max_examples=max(200, images.EXAMPLES))
@given(
    st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=16)), max_size=6), st.binary(max_size=300)
)
@example([], b"")
def test_mutated_bytes(changes: list[tuple[int, bytes]], tail: bytes) -> None:
    data = bytearray(header(extension(BACKING_FORMAT, b"qcow2"), name=b"base") + tail)
    for offset, replacement in changes:
        data[offset : offset + len(replacement)] = replacement
    never_anything_else(bytes(data), 4 << 16)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_rubbish(data: bytes) -> None:
    never_anything_else(data, len(data))
    never_anything_else(qcow2.MAGIC + data, len(data) + 4)
