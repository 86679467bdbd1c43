"""What a layer holds: against `qemu-img map`, against a naive reading of the same tables, and with hostile tables."""

import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from storage.qemu import allocation, qcow2
from tests.support import images

LIMIT = 256 << 20
CLUSTER = 65536
COPIED = 1 << 63
COMPRESSED = 1 << 62

Ranges = list[tuple[int, int]]
Made = tuple[int, int, bool, list[tuple[int, int]]]
"""Version, cluster bits, extended L2, and (entry, subcluster bitmap) of one table."""


def look(path: Path, l2_limit: int = LIMIT) -> allocation.Allocation:
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        return allocation.of_qcow2(fd, qcow2.read_header(fd, size), size, l2_limit)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- sets of ranges


def test_ranges_are_sorted_and_merged() -> None:
    found = allocation.Allocation([(20, 30), (0, 5), (5, 10), (25, 40), (50, 50)])
    assert found.ranges == ((0, 10), (20, 40))
    assert found.bytes == 30
    assert found and not allocation.Allocation()
    assert found == allocation.Allocation([(0, 10), (20, 40)])
    assert len({found, allocation.Allocation([(20, 40), (0, 10)])}) == 1
    assert found != allocation.Allocation([(0, 10)])
    assert not found.zeros
    assert "0..10" in repr(found)


SETS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1])))


def members(ranges: Ranges) -> set[int]:
    return {value for start, end in ranges for value in range(start, end)}


@settings(deadline=None, max_examples=300)
@given(SETS, SETS, st.one_of(st.none(), st.integers(0, 80)))
def test_minus_is_the_difference_of_sets(left: Ranges, right: Ranges, limit: int | None) -> None:
    difference = allocation.Allocation(left).minus(allocation.Allocation(right), limit)
    expected = {value for value in members(left) - members(right) if limit is None or value < limit}
    assert members(list(difference.ranges)) == expected
    assert difference.bytes == len(expected)
    assert all(first[1] < second[0] for first, second in zip(difference.ranges, difference.ranges[1:], strict=False))


def test_too_many_pieces_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "RANGE_LIMIT", 3)
    allocation.Allocation([(i, i + 1) for i in (0, 2, 4)])
    with pytest.raises(allocation.LimitExceeded):
        allocation.Allocation([(i, i + 1) for i in (0, 2, 4, 6)])


# ---------------------------------------------------------------- honest images


@pytest.mark.qemu
@pytest.mark.timeout(0)
def test_agrees_with_qemu_img_map_on_random_images(tmp_path: Path) -> None:
    """Cluster sizes 512 B to 2 MiB, versions 2 and 3, subclusters, compressed, zero, discard, odd sizes, overlays."""
    held = zero = 0
    for seed in range(images.EXAMPLES):
        rng = random.Random(seed)
        recipe = images.random_recipe(rng)
        backing = None
        if rng.random() < 0.5:
            backing = images.create(tmp_path / "base", 1 << 20)
            images.write_pattern(backing, 0, 1 << 20, 3)
        path = images.make_random(tmp_path / "image", recipe, backing=backing)
        found = look(path)
        assert list(found.ranges) == images.held_ranges(path), recipe
        assert list(found.zeros.ranges) == images.zero_ranges(path), recipe
        held += bool(found)
        zero += bool(found.zeros)
        path.unlink()
    assert held > images.EXAMPLES / 4 and zero, "the random images hold too little to mean anything"


@pytest.mark.qemu
@pytest.mark.parametrize("options", [{}, {"extended_l2": "on"}, {"cluster_size": 4096}, {"compat": "0.10"}])
def test_large_and_full_images(options: dict[str, Any], tmp_path: Path) -> None:
    """Whole tables, which the reader judges at once; preallocated subclusters hold nothing."""
    path = images.create(tmp_path / "image", 2 << 30, preallocation="metadata", **options)
    assert list(look(path).ranges) == images.held_ranges(path)
    images.write_patterns(path, [(0, 1, 1), (1 << 30, 3 << 20, 2), ((2 << 30) - 512, 512, 3)])
    assert list(look(path).ranges) == images.held_ranges(path)


@pytest.mark.qemu
def test_a_saved_machine_state_behind_the_disk_is_not_read(tmp_path: Path) -> None:
    """A longer L1 table than the size needs, and entries behind the end of the disk, say nothing about the disk."""
    path = images.create(tmp_path / "image", 1 << 20)
    images.write_pattern(path, 0, 1 << 20, 1)
    images.patch_number(path, 24, 512 * 1024 + 512, 8)
    assert look(path).ranges == ((0, 512 * 1024 + 512),)


def test_holes_of_a_raw_file(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(b"x" * 8192)
    os.truncate(path, 64 << 20)
    images.patch(path, 32 << 20, b"y" * 4096)
    fd = os.open(path, os.O_RDONLY)
    try:
        found = allocation.of_raw(fd, 64 << 20)
        assert found.bytes < 4 << 20, "the file system of the test cannot tell holes"
        assert not allocation.Allocation([(0, 8192), (32 << 20, (32 << 20) + 4096)]).minus(found)
        assert allocation.of_raw(fd, 4096).ranges == ((0, 4096),)
        assert not allocation.of_raw(fd, 0)
    finally:
        os.close(fd)
    path.write_bytes(b"")
    with path.open("rb") as stream:
        assert not allocation.of_raw(stream.fileno(), 4096)


# ---------------------------------------------------------------- any table


def header(version: int, bits: int, extended: bool, clusters: int) -> qcow2.Header:
    return qcow2.Header(
        version=version,
        virtual_size=clusters << bits,
        cluster_bits=bits,
        backing_name=None,
        backing_format=None,
        l1_offset=1 << bits,
        l1_entries=1,
        dirty=False,
        corrupt=False,
        data_file=False,
        extended_l2=extended,
        compression="zlib",
        unknown_features=(),
        snapshots=0,
        crypt=0,
        bitmaps=False,
    )


def naive(made: Made, size: int) -> tuple[set[int], set[int]]:
    """The specification read literally, one subcluster (or cluster) at a time; KeyError stands for "refuse"."""
    version, bits, extended, entries = made
    parts = 32 if extended else 1
    held: set[int] = set()
    zeros: set[int] = set()
    for index, (entry, bitmap) in enumerate(entries):
        units = range(index * parts, (index + 1) * parts)
        if entry & COMPRESSED:
            if not 1 << bits <= entry & ((1 << (70 - bits)) - 1) < size:
                raise KeyError
            held.update(units)
            continue
        offset, is_zero = entry & 0x00FFFFFFFFFFFE00, bool(entry & 1)
        if not is_zero and not (bitmap if extended else offset):
            continue
        if offset % (1 << bits) or (is_zero and (version == 2 or extended)):
            raise KeyError
        for part, unit in enumerate(units):
            data, zero = (bitmap >> part & 1, bitmap >> (32 + part) & 1) if extended else (not is_zero, is_zero)
            if data and (zero or not 1 << bits <= offset < size):
                raise KeyError
            held.update({unit} if data or zero else ())
            zeros.update({unit} if zero else ())
    return held, zeros


@st.composite
def tables(draw: st.DrawFn) -> Made:
    extended = draw(st.booleans())
    version = 3 if extended else draw(st.sampled_from([2, 3]))
    bits = 14 if extended else 9
    count = (1 << bits) // (16 if extended else 8)
    good = st.integers(2, 40).map(lambda place: COPIED | place << bits)
    plain = st.one_of(good, st.just(0), st.just(COPIED), st.sampled_from([0x100, 0x02]))
    odd = st.one_of(
        good.map(lambda entry: entry | 1),
        st.just(1),
        st.integers(1 << bits, 41 << bits).map(lambda place: COMPRESSED | 1 << (70 - bits) | place),
        st.integers(38, 45).map(lambda place: place << bits),
        st.integers(0, 2**64 - 1),
        st.just(20 << bits | 512),
    )
    word = st.integers(0, 2**32 - 1)
    bitmap = st.one_of(
        st.just(2**32 - 1), st.just(0), word, word.map(lambda bits: bits << 32), st.integers(0, 2**64 - 1)
    )
    filler = (draw(plain), 2**32 - 1 if extended else 0)
    entries = [filler] * count
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, count - 1))
        length = draw(st.sampled_from([1, 1, 3, count]))
        value = (draw(draw(st.sampled_from([plain, odd]))), draw(bitmap) if extended else 0)
        entries[start : start + length] = [value] * len(entries[start : start + length])
    return version, bits, extended, entries


def look_at(made: Made, size: int) -> allocation.Allocation:
    """What an image with this one table holds; the table is its third cluster."""
    version, bits, extended, entries = made
    cluster = 1 << bits
    packed = b"".join(struct.pack(">QQ", *entry) if extended else struct.pack(">Q", entry[0]) for entry in entries)
    fd = os.memfd_create("image")
    try:
        os.ftruncate(fd, size)
        os.pwrite(fd, (COPIED | 2 * cluster).to_bytes(8, "big"), cluster)
        os.pwrite(fd, packed, 2 * cluster)
        return allocation.of_qcow2(fd, header(version, bits, extended, cluster // (16 if extended else 8)), size, LIMIT)
    finally:
        os.close(fd)


@settings(deadline=None, max_examples=max(300, images.EXAMPLES))
@given(tables())
def test_any_table_is_read_as_the_specification_says(made: Made) -> None:
    _, bits, extended, _ = made
    size = 41 << bits
    try:
        held, zeros = naive(made, size)
    except KeyError:
        with pytest.raises(allocation.TableError):
            look_at(made, size)
        return
    found = look_at(made, size)
    unit = (1 << bits) // 32 if extended else 1 << bits
    assert found == allocation.Allocation((place * unit, (place + 1) * unit) for place in held)
    assert found.zeros == allocation.Allocation((place * unit, (place + 1) * unit) for place in zeros)


DATA = COPIED | 5 << 14
SUB = 512


@pytest.mark.parametrize(
    ("entry", "bitmap", "held", "zeros"),
    [
        (DATA, 1, [(0, SUB)], []),
        (DATA, 1 << 31, [(31 * SUB, 32 * SUB)], []),
        (DATA, 0b110 | 1 << 35, [(SUB, 4 * SUB)], [(3 * SUB, 4 * SUB)]),
        (0, (2**32 - 1) << 32, [(0, 32 * SUB)], [(0, 32 * SUB)]),
        (DATA, 2**32 - 1, [(0, 32 * SUB)], []),
        (DATA, 0, [], []),
        (1 << 40, 1 << 32, [(0, SUB)], [(0, SUB)]),
        (COMPRESSED | 5 << 14 | 77, 0, [(0, 32 * SUB)], []),
        (DATA, 1 | 1 << 32, None, None),
        (COPIED, 1, None, None),
        (COPIED, 2**32 - 1, None, None),
        (DATA | 1, 2, None, None),
        (DATA | 1, 2**32 - 1, None, None),
        (1, 0, None, None),
        (DATA | 512, 1 << 32, None, None),
        (DATA | 512, 2**32 - 1, None, None),
        (1 << 40, 1, None, None),
        (1 << 40, 2**32 - 1, None, None),
        (COMPRESSED | 1 << 40, 0, None, None),
    ],
)
def test_subclusters(entry: int, bitmap: int, held: Ranges | None, zeros: Ranges | None) -> None:
    for count in (1, 1024):
        made = (3, 14, True, [(entry, bitmap)] * count)
        if held is None or zeros is None:
            with pytest.raises(allocation.TableError):
                look_at(made, 41 << 14)
            continue
        found = look_at(made, 41 << 14)
        repeated = [(start + (i << 14), end + (i << 14)) for i in range(count) for start, end in held]
        assert found == allocation.Allocation(repeated)
        assert found.zeros.bytes == count * sum(end - start for start, end in zeros)


# ---------------------------------------------------------------- hostile tables (real images, damaged)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """1 GiB, so two L2 tables (512 MiB each) if both halves are written."""
    path = images.create(tmp_path_factory.mktemp("original") / "image", 1 << 30)
    images.write_patterns(path, [(0, 4 * CLUSTER, 1), (512 << 20, CLUSTER, 2)])
    yield path


@pytest.fixture
def image(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / "image"))


def l1(path: Path, index: int = 0) -> int:
    """File offset of an L1 entry."""
    return images.number(path, 40, 8) + 8 * index


def l2(path: Path, index: int = 0) -> int:
    """File offset of an entry in the first L2 table."""
    return (images.number(path, l1(path), 8) & 0x00FFFFFFFFFFFE00) + 8 * index


def set_l1(value: int) -> Callable[[Path], object]:
    return lambda path: images.patch_number(path, l1(path), value, 8)


def set_l2(value: int) -> Callable[[Path], object]:
    return lambda path: images.patch_number(path, l2(path), value, 8)


def whole_clusters(path: Path) -> int:
    """Extend the file to whole clusters; its length."""
    length = -(-path.stat().st_size // CLUSTER) * CLUSTER
    os.truncate(path, length)
    return length


def version_2(path: Path) -> Path:
    """The same image as version 2: what was the feature area becomes the end mark of extensions."""
    images.patch(path, 72, bytes(64))
    return images.patch_number(path, 4, 2, 4)


REFUSED: dict[str, Callable[[Path], object]] = {
    "31 L1 entry unaligned": set_l1(COPIED | 0x40200),
    "31 L1 entry past the end": set_l1(COPIED | 1 << 40),
    "31 L1 entry partly past the end": lambda path: set_l1(path.stat().st_size // CLUSTER * CLUSTER)(path),
    "31 L1 entry = the L1 itself": lambda path: set_l1(images.number(path, 40, 8))(path),
    "31 L1 entry = the header": set_l1(512),
    "amplification: one table twice": lambda path: set_l1(images.number(path, l1(path, 1), 8))(path),
    "32 L2 entry unaligned": set_l2(COPIED | 0x50200),
    "32 L2 entry past the end": set_l2(COPIED | 1 << 40),
    "32 L2 entry at the very end": lambda path: set_l2(COPIED | whole_clusters(path))(path),
    "34 zero bit in version 2": lambda path: set_l2(1)(version_2(path)),
    "34 preallocated zero in version 2": lambda path: set_l2(COPIED | 0x50001)(version_2(path)),
    "35 compressed past the end": set_l2(COMPRESSED | 1 << 40),
    "35 compressed past the end, highest bit": set_l2(COMPRESSED | 1 << 53 | 0x51234),
    "35 compressed in the header": set_l2(COMPRESSED | 100),
    "36 extended L2 bit switched on": lambda path: images.patch_number(path, 72, 1 << 4, 8),
}


@pytest.mark.qemu
@pytest.mark.parametrize("case", REFUSED)
def test_hostile_and_refused(case: str, image: Path) -> None:
    assert look(image).ranges == ((0, 4 * CLUSTER), (512 << 20, (512 << 20) + CLUSTER))
    REFUSED[case](image)
    with pytest.raises(qcow2.HeaderError if case.startswith("36") else allocation.TableError) as caught:
        look(image)
    assert caught.value.reason.isprintable()


ACCEPTED: dict[str, tuple[Callable[[Path], object], int]] = {
    "31 reserved bits in L1": (
        lambda path: images.patch_number(path, l1(path), images.number(path, l1(path), 8) | 255, 8),
        0,
    ),
    "32 reserved bits in L2": (lambda path: set_l2(images.number(path, l2(path), 8) | 0xFE | 0x3F << 56)(path), 0),
    "32 COPIED and no offset": (set_l2(COPIED), 1),
    "32 reserved bits and no offset": (set_l2(0x1FE), 1),
    "33 two guests, one host": (lambda path: set_l2(images.number(path, l2(path, 1), 8))(path), 0),
    "35 compressed rubbish": (set_l2(COMPRESSED | 0x51234), 0),
    "35 compressed, many sectors": (set_l2(COMPRESSED | 0xFF << 54 | 0x51234), 0),
    "35 compressed with COPIED": (set_l2(COPIED | COMPRESSED | 0x51234), 0),
    "zero": (set_l2(1), 0),
    "preallocated zero past the end": (set_l2(1 | 1 << 40), 0),
}


@pytest.mark.qemu
@pytest.mark.parametrize("case", ACCEPTED)
def test_hostile_and_read_as_qemu_does(case: str, image: Path) -> None:
    change, first = ACCEPTED[case]
    change(image)
    assert look(image).ranges == ((first * CLUSTER, 4 * CLUSTER), (512 << 20, (512 << 20) + CLUSTER))
    if case != "preallocated zero past the end":
        assert list(look(image).ranges) == images.held_ranges(image)


@pytest.mark.qemu
def test_limits(image: Path, tmp_path: Path) -> None:
    assert look(image, 2 * CLUSTER)
    with pytest.raises(allocation.LimitExceeded):
        look(image, 2 * CLUSTER - 1)
    wide = images.create(tmp_path / "wide", 64 << 20, cluster_size=512)
    images.patch_number(wide, 24, 1 << 33, 8)
    images.patch_number(wide, 36, 1 << 18, 4)
    os.truncate(wide, 4 << 20)
    with pytest.raises(allocation.LimitExceeded, match="L1"):
        look(wide)


@pytest.mark.qemu
def test_a_foreign_layout_is_not_guessed(image: Path) -> None:
    for bits in (1 << 2, 1 << 5):
        images.patch_number(image, 72, bits, 8)
        with pytest.raises(allocation.TableError):
            look(image)


@pytest.mark.qemu
def test_a_file_that_shrinks_meanwhile_is_not_read_as_empty(image: Path) -> None:
    fd = os.open(image, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        header = qcow2.read_header(fd, size)
        for length in (l2(image) + 100, l1(image)):
            os.ftruncate(fd, length)
            with pytest.raises(allocation.TableError, match="cut off"):
                allocation.of_qcow2(fd, header, size, LIMIT)
    finally:
        os.close(fd)
