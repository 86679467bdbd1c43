"""Guest bytes read without qemu, against the bytes that qemu reads; and damage, which is only ever Unreadable."""

import itertools
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from storage.chains import layer
from tests.support import chains, images

pytestmark = pytest.mark.qemu

LIMIT = 16 << 20
STACKS = max(24, images.EXAMPLES // 2)


@contextmanager
def opened(*layers: tuple[Path, bool]) -> Iterator[list[layer.Layer]]:
    """Layers, top first: path and whether it is qcow2."""
    with ExitStack() as stack:
        yield [stack.enter_context(layer.Layer(path, is_qcow2, LIMIT)) for path, is_qcow2 in layers]


def whole(layers: list[layer.Layer], step: int) -> bytes:
    size = layers[0].size
    return b"".join(layer.read(layers, start, min(size, start + step)) for start in range(0, size, step))


def one(path: Path, offset: int = 0, length: int | None = None) -> bytes:
    with opened((path, True)) as layers:
        return layer.read(layers, offset, layers[0].size if length is None else offset + length)


# ---------------------------------------------------------------- against qemu


def random_options(rng: random.Random) -> dict[str, object]:
    extended = rng.random() < 0.3
    bits = rng.randint(14 if extended else 9, 21)
    options: dict[str, object] = {"cluster_size": 1 << bits, "compat": "1.1"}
    if extended:
        options["extended_l2"] = "on"
    elif rng.random() < 0.3:
        options["compat"] = "0.10"
    return options


def random_commands(rng: random.Random, size: int, cluster: int, version2: bool) -> list[str]:
    commands = []
    if rng.random() < 0.5 and size >= cluster:
        start = rng.randrange(0, size // cluster) * cluster
        commands.append(f"write -q -c -P {rng.randint(1, 255)} {start} {cluster}")
    for _ in range(rng.randint(0, 8)):
        offset = rng.randrange(0, size, 512)
        length = min(size - offset, rng.choice([512, 4096, cluster, 3 * cluster, 200_192]) // 512 * 512)
        kinds = [f"write -q -P {rng.randint(1, 255)}", f"write -q -P {rng.randint(1, 255)}", "discard -q"]
        kinds += [] if version2 else ["write -q -z", "write -q -z -u"]
        commands.append(f"{rng.choice(kinds)} {offset} {length}")
    return commands


def random_stack(directory: Path, rng: random.Random) -> list[tuple[Path, bool]]:
    """Up to four layers of different formats, clusters and odd sizes, top first."""
    made: list[tuple[Path, bool]] = []
    for number in range(rng.randint(1, 4)):
        path = directory / f"layer{number}"
        size = rng.randint(1, 6000) * 512
        raw = not made and rng.random() < 0.4
        if raw:
            images.create(path, size, fmt="raw")
            images.qemu_io(path, *(random_commands(rng, size, 65536, True) or ["flush"])[-3:], fmt="raw", check=False)
        else:
            options = random_options(rng)
            below = {"backing": made[0][0].name, "backing_format": "qcow2" if made[0][1] else "raw"} if made else {}
            images.create(path, size, **below, **options)
            cluster = int(str(options["cluster_size"]))
            if commands := random_commands(rng, size, cluster, options["compat"] == "0.10"):
                images.qemu_io(path, *commands)
        made.insert(0, (path, not raw))
    return made


@pytest.mark.parametrize("seed", range(STACKS))
def test_random_stacks_read_as_qemu_reads_them(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    stack = random_stack(tmp_path, rng)
    path, is_qcow2 = stack[0]
    expected = images.read_guest(path, fmt="qcow2" if is_qcow2 else "raw")
    with opened(*stack) as layers:
        assert whole(layers, rng.choice([512, 5000, 65536, 1 << 20])) == expected
        for _ in range(30):
            start = rng.randrange(0, layers[0].size)
            end = rng.randint(start, layers[0].size)
            assert layer.read(layers, start, end) == expected[start:end]


def test_a_short_layer_hides_what_lies_beneath_its_end(tmp_path: Path) -> None:
    images.create(tmp_path / "base", 256 * 1024)
    images.write_pattern(tmp_path / "base", 0, 256 * 1024, 5)
    images.create(tmp_path / "mid", 64 * 1024, backing="base")
    images.create(tmp_path / "top", 512 * 1024, backing="mid")
    with opened(*((tmp_path / name, True) for name in ("top", "mid", "base"))) as layers:
        assert whole(layers, 65536) == images.read_guest(tmp_path / "top") == b"\5" * 65536 + bytes(448 * 1024)


@pytest.mark.parametrize("options", [{}, {"compat": "0.10"}, {"extended_l2": "on"}], ids=str)
def test_compressed_clusters(tmp_path: Path, options: dict[str, object]) -> None:
    path = images.create(tmp_path / "image", 4 << 20, **options)
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(65536))
    images.qemu_io(path, "write -q -c -P 3 0 64k", f"write -q -c -s {tmp_path / 'noise'} 64k 64k", "write -q 1M 512")
    assert one(path) == images.read_guest(path)


def test_what_a_range_is_made_of_has_no_gaps(tmp_path: Path) -> None:
    path = images.create(tmp_path / "image", 1 << 20, extended_l2="on")
    images.qemu_io(path, "write -q -P 1 3k 100k", "write -q -z 300k 10k", "write -q -c -P 9 512k 64k")
    with opened((path, True)) as layers:
        for start, end in ((0, 1 << 20), (1, 2), (70_000, 900_001), (1 << 19, 3 << 20)):
            pieces = list(layers[0].pieces(start, end))
            assert [pieces[0].start, pieces[-1].end] == [start, end]
            assert all(a.end == b.start for a, b in itertools.pairwise(pieces))


def test_which_layers_may_forget_what_they_were_given(tmp_path: Path) -> None:
    """Only a version 2 image without backing drops a cluster when zeros are written to it (and raw has no tables)."""
    raw = images.create(tmp_path / "raw", 1 << 20, fmt="raw")
    made = {}
    for compat in ("0.10", "1.1"):
        root = images.create(tmp_path / f"root{compat}", 1 << 20, compat=compat)
        child = images.create(tmp_path / f"child{compat}", 1 << 20, backing=root.name, compat=compat)
        for path in (root, child):
            images.qemu_io(
                path, "write -q -P 7 0 256k", "write -q -z 0 64k", "write -q -z -u 64k 64k", "discard -q 128k 64k"
            )
            with opened((path, True)) as layers:
                made[path.name] = (layers[0].forgets, layers[0].held.bytes)
    with opened((raw, False)) as layers:
        assert layers[0].forgets
    assert made == {
        "root0.10": (True, 65536),
        "child0.10": (False, 4 * 65536),
        "root1.1": (False, 4 * 65536),
        "child1.1": (False, 4 * 65536),
    }


# ---------------------------------------------------------------- what cannot be read


def test_zstd_is_refused_where_it_is_needed_and_only_there(tmp_path: Path) -> None:
    path = images.create(tmp_path / "image", 1 << 20, compression_type="zstd")
    images.qemu_io(path, "write -q -c -P 3 0 64k", "write -q -P 4 64k 64k")
    assert one(path, 65536, 65536) == b"\4" * 65536
    with pytest.raises(layer.Unreadable, match="zstd"):
        one(path, 0, 1)


@pytest.mark.parametrize("damage", ["rubbish", "cut off"])
def test_a_damaged_compressed_cluster_is_unreadable_as_it_is_for_qemu(tmp_path: Path, damage: str) -> None:
    path = images.create(tmp_path / "image", 1 << 20)
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 128 + random.Random(1).randbytes(32768))
    images.qemu_io(path, f"write -q -c -s {tmp_path / 'noise'} 0 64k")
    place = chains.entry_place(path, 0)
    where = images.number(path, place, 8) & ((1 << 54) - 1)
    if damage == "rubbish":
        images.patch(path, where, b"\xff" * 4096)
    else:
        images.patch_number(path, place, 1 << 62 | where, 8)
    assert images.qemu_img("convert", "-O", "raw", path, tmp_path / "flat", check=False).returncode
    with pytest.raises(layer.Unreadable):
        one(path, 0, 512)


@pytest.mark.parametrize("kind", ["missing", "symlink", "fifo", "directory", "text"])
def test_what_is_no_image_is_unreadable(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    real = images.create(tmp_path / "real", 1 << 20)
    if kind == "symlink":
        path.symlink_to(real)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "text":
        path.write_text("x" * 1000)
    with pytest.raises(layer.Unreadable):
        one(path, 0, 512)


def test_more_tables_than_allowed_are_unreadable(tmp_path: Path) -> None:
    path = images.create(tmp_path / "image", 4 << 30)
    images.qemu_io(path, *(f"write -q {number}G 64k" for number in range(4)))
    with pytest.raises(layer.Unreadable), layer.Layer(path, True, 65536):
        pass


def tables(path: Path) -> list[int]:
    """Places of the L1 entry, of used L2 entries, and of their data."""
    found = [images.number(path, 40, 8) + byte for byte in range(8)]
    for offset in (0, 65536, 131072, 196608):
        found += [chains.entry_place(path, offset) + byte for byte in range(8)]
    return found


def standard(path: Path) -> Path:
    images.create(path, 1 << 20)
    images.qemu_io(
        path, "write -q -P 1 0 64k", "write -q -z 64k 64k", "write -q -c -P 9 128k 64k", "write -q -P 4 192k 64k"
    )
    return path


def test_hostile_tables_never_escape(tmp_path: Path) -> None:
    """Whatever the header, the tables and compressed data say, the answer is bytes or Unreadable."""
    rng = random.Random(7)
    plain = standard(tmp_path / "plain").read_bytes()
    extended = images.create(tmp_path / "extended", 1 << 20, extended_l2="on")
    images.qemu_io(extended, "write -q -P 1 0 10k", "write -q -z 20k 8k", "write -q -c -P 9 64k 64k")
    path, places = tmp_path / "hostile", tables(tmp_path / "plain")
    outcomes = {"read": 0, "refused": 0}
    for number in range(600):
        data = bytearray(plain if number % 3 else extended.read_bytes())
        for _ in range(rng.randint(1, 4)):
            where = rng.choice([rng.choice(places), rng.randrange(len(data)), rng.randrange(120)])
            data[where] = rng.choice([0, 255, rng.randrange(256), data[where] ^ 1 << rng.randrange(8)])
        if not number % 7:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            with opened((path, True)) as layers:
                end = min(layers[0].size, 1 << 20)
                assert len(layer.read(layers, 0, end)) == end
            outcomes["read"] += 1
        except layer.Unreadable:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 40, outcomes


def test_damaged_tables_read_as_qemu_reads_them_or_not_at_all(tmp_path: Path) -> None:
    rng = random.Random(11)
    plain = standard(tmp_path / "plain").read_bytes()
    path, places = tmp_path / "damaged", tables(tmp_path / "plain")
    agreed = 0
    for _ in range(60):
        data = bytearray(plain)
        for where in rng.sample(places, 2):
            data[where] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            ours = one(path)
        except layer.Unreadable:
            continue
        done = images.qemu_img("convert", "-f", "qcow2", "-O", "raw", path, tmp_path / "flat", check=False)
        assert done.returncode == 0, "we read what qemu refuses to read"
        assert ours == (tmp_path / "flat").read_bytes()
        agreed += 1
    assert agreed > 5
