"""Images for tests: made by the real qemu tools, then written, damaged and read back.

Everything works inside a directory that the test hands in. A hostile image must only name files of that directory: a
writer that opens an image with an external data file writes into the named file.
"""

import dataclasses
import json
import os
import random
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MIB = 1 << 20
EXAMPLES = int(os.environ.get("VDSMLITE_EXAMPLES", "40"))
"""How many random images a differential test makes; a campaign sets 10000."""

_ENVIRONMENT = {**os.environ, "LC_ALL": "C"}


def run(*command: str | Path, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a tool without a shell; with `check` a failure shows its messages."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout,
        env=_ENVIRONMENT,
    )
    if check and done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done


def qemu_img(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run qemu-img."""
    return run("qemu-img", *arguments, check=check)


def qemu_io(path: Path, *commands: str, fmt: str = "qcow2", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run qemu-io commands on an image in one process. `read -P` reports a mismatch on stdout, not by its exit code."""
    asked = [part for command in commands for part in ("-c", command)]
    return run("qemu-io", "-f", fmt, *asked, path, check=check)


def create(
    path: Path,
    size: int = 64 * MIB,
    *,
    fmt: str = "qcow2",
    backing: str | None = None,
    backing_format: str = "qcow2",
    **options: Any,
) -> Path:
    """Make an image as a volume of a chain is made: the backing name is stored as given, and not opened.

    Args:
        size: virtual size in bytes.
        options: options of the format, e.g. ``cluster_size=4096, compat="0.10", extended_l2="on"``.
    """
    arguments: list[str | Path] = ["create", "-q", "-f", fmt]
    if options:
        arguments += ["-o", ",".join(f"{key}={value}" for key, value in options.items())]
    if backing is not None:
        arguments += ["-u", "-F", backing_format, "-b", backing]
    qemu_img(*arguments, path, str(size))
    return path


def make_chain(
    directory: Path,
    n: int,
    *,
    size: int = 64 * MIB,
    names: Sequence[str] | None = None,
    base_format: str = "qcow2",
    write: bool = True,
    **options: Any,
) -> list[Path]:
    """A chain of `n` layers, root first, each backed by the bare name of the one before, formats recorded.

    Args:
        directory: where; must exist.
        size: virtual size of every layer in bytes.
        names: file names, root first; default ``layer0``, ``layer1``, ...
        base_format: "qcow2" or "raw", of the root.
        write: layer `i` gets 64 KiB of byte i + 1 at 64 KiB * i, and 64 KiB of it at 64 KiB * n, which all layers hold.
        options: options of the qcow2 layers, as for `create`.
    """
    names = names or [f"layer{i}" for i in range(n)]
    paths: list[Path] = []
    for i in range(n):
        fmt = "qcow2" if i else base_format
        path = directory / names[i]
        if i:
            backing_format = "qcow2" if i > 1 else base_format
            create(path, size, backing=names[i - 1], backing_format=backing_format, **options)
        else:
            create(path, size, fmt=fmt, **(options if fmt == "qcow2" else {}))
        paths.append(path)
        if write:
            write_patterns(path, [(65536 * i, 65536, i + 1), (65536 * n, 65536, i + 1)], fmt=fmt)
    return paths


def write_pattern(path: Path, offset: int, length: int, byte: int, *, fmt: str = "qcow2") -> None:
    """Write `length` bytes of value `byte` at guest offset `offset`, through a real qemu, flushed."""
    write_patterns(path, [(offset, length, byte)], fmt=fmt)


def write_patterns(path: Path, patterns: Iterable[tuple[int, int, int]], *, fmt: str = "qcow2") -> None:
    """Write several (offset, length, byte) in one process, flushed."""
    qemu_io(path, *[f"write -q -P {byte} {offset} {length}" for offset, length, byte in patterns], "flush", fmt=fmt)


def read_guest(path: Path, *, fmt: str = "qcow2", offset: int = 0, length: int | None = None) -> bytes:
    """Bytes of the guest's disk as seen through the image and its whole chain. Makes and removes a file beside it."""
    raw = path.with_name(f"{path.name}.raw-{os.getpid()}")
    try:
        qemu_img("convert", "-f", fmt, "-O", "raw", path, raw)
        with raw.open("rb") as stream:
            stream.seek(offset)
            return stream.read(-1 if length is None else length)
    finally:
        raw.unlink(missing_ok=True)


def info(path: Path, fmt: str = "qcow2") -> dict[str, Any]:
    """`qemu-img info` as a dict."""
    found: dict[str, Any] = json.loads(qemu_img("info", "-f", fmt, "--output=json", path).stdout)
    return found


def map_rows(path: Path) -> list[dict[str, Any]]:
    """`qemu-img map` of one qcow2 layer alone: its backing file is not opened."""
    node = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": str(path)}}
    rows: list[dict[str, Any]] = json.loads(qemu_img("map", "--output=json", "json:" + json.dumps(node)).stdout)
    return rows


def held_ranges(path: Path) -> list[tuple[int, int]]:
    """What a qcow2 layer holds itself according to qemu-img: merged half-open byte ranges."""
    return _merged((row["start"], row["start"] + row["length"]) for row in map_rows(path) if row["present"])


def zero_ranges(path: Path) -> list[tuple[int, int]]:
    """What a qcow2 layer declares to be zeros (no data stored) according to qemu-img: merged half-open byte ranges."""
    rows = (row for row in map_rows(path) if row["present"] and row["zero"] and not row["data"])
    return _merged((row["start"], row["start"] + row["length"]) for row in rows)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in ranges:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def patch(path: Path, offset: int, data: bytes) -> Path:
    """Overwrite bytes of the file itself, as an attacker or a broken disk would."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)
    return path


def patch_number(path: Path, offset: int, value: int, width: int) -> Path:
    """Overwrite a big-endian field of `width` bytes."""
    return patch(path, offset, value.to_bytes(width, "big"))


def number(path: Path, offset: int, width: int) -> int:
    """Read a big-endian field of `width` bytes."""
    with path.open("rb") as stream:
        stream.seek(offset)
        return int.from_bytes(stream.read(width), "big")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A random image: how it is made, so that a failing test can show it."""

    size: int
    options: dict[str, Any]
    commands: tuple[str, ...]
    compressed: bool

    @property
    def version(self) -> int:
        return 2 if self.options["compat"] == "0.10" else 3


def random_recipe(rng: random.Random) -> Recipe:
    """Choose cluster size 512 B..2 MiB, version, subclusters, an odd size, and writes, zeroes and discards."""
    extended = rng.random() < 0.25
    bits = rng.randint(14 if extended else 9, 21)
    cluster = 1 << bits
    version2 = not extended and rng.random() < 0.3
    options: dict[str, Any] = {"cluster_size": cluster, "compat": "0.10" if version2 else "1.1"}
    if extended:
        options["extended_l2"] = "on"
    tables = rng.choice([1, 1, 2, 5]) * cluster * (cluster // (16 if extended else 8))
    size = max(512, rng.randint(1, min(tables, 8 << 30)) // 512 * 512)
    unit = max(512, cluster // (32 if extended else 1))
    commands = tuple(_random_command(rng, size, unit, version2) for _ in range(rng.randint(0, 12)))
    return Recipe(size, options, commands, compressed=rng.random() < 0.3)


def _random_command(rng: random.Random, size: int, unit: int, version2: bool) -> str:
    offset = rng.randrange(0, size, 512)
    if rng.random() < 0.5:
        offset = offset // unit * unit
    length = min(size - offset, rng.choice([512, unit, unit * rng.randint(1, 20), 2 * MIB]), 4 * MIB)
    kinds = ["write -q -P 7", "write -q -P 9", "discard -q"]
    if not version2:
        kinds += ["write -q -z", "write -q -z -u"]
    return f"{rng.choice(kinds)} {offset} {length}"


def make_random(path: Path, recipe: Recipe, *, backing: Path | None = None) -> Path:
    """Make the image of a recipe, optionally over an existing qcow2 image in the same directory."""
    create(path, recipe.size, backing=backing.name if backing else None, **recipe.options)
    commands = list(recipe.commands)
    cluster = int(str(recipe.options["cluster_size"]))
    if recipe.compressed and recipe.size >= cluster:
        commands.insert(0, f"write -q -c -P 5 0 {min(recipe.size // cluster, 3) * cluster}")
    if commands:
        qemu_io(path, *commands)
    return path
