"""The readers of headers and tables against qemu on thousands of images, and against bytes that are no images any more.

    python -m tests.campaigns.headers --runs 10000 --mutations 100000 --seed 1

1. `runs` legal images, nine of ten by our own writer and one by `qemu-img create`: both accept or both refuse, with the
   same sizes, names and flags, and the same map of what the image holds.
2. `mutations` of such images: bits flipped, fields at their extremes, words of the tables replaced, the file cut. The
   readers raise nothing but their own error, and memory stays below `MEMORY` bytes an image. What they accept without
   objection qemu must accept as well, and see the same size and names; asked for one in `SAMPLE`, for all refusals by
   the rules of the format are no matter of agreement: ours are the stricter ones.
3. Images made to be expensive (`_BOMBS`), under the same limit.

Exit code 0: no failure. A failure names the number of its image; the same seed makes it again.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import random
import resource
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from storage.qemu import allocation, qcow2
from tests.campaigns import figures
from tests.support import asker, images, qcow2writer, qmp

MIB = 1 << 20
SAMPLE = 30
BATCH = 100
"""Mutations of one image."""
MEMORY = 192 * MIB
"""Most that one image may cost; the largest answer has 4 Mi ranges of 16 bytes, and as many of zeros."""
L2_LIMIT = 256 * MIB

_FIELDS = ((4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8), (56, 4), (60, 4), (64, 8))
_FIELDS_3 = ((72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1))


@dataclasses.dataclass(frozen=True)
class Read:
    """What our readers made of an image: a header or a reason; and what it holds, None when that was refused."""

    header: qcow2.Header | None
    reason: str = ""
    held: allocation.Allocation | None = None

    @property
    def accepted(self) -> bool:
        return self.header is not None and not self.header.unknown_features

    @property
    def trusted(self) -> bool:
        """Whether a tool may be given it: some objections are things that qemu itself takes or not."""
        return self.header is not None and all("backing format" in each for each in self.header.objections)


def read(fd: int, length: int) -> Read:
    """Ask our readers; whatever they should not raise passes through."""
    try:
        header = qcow2.read_header(fd, length)
    except qcow2.HeaderError as error:
        if not error.reason.isprintable() or len(error.reason) > 500:
            raise AssertionError(f"a reason that cannot be shown: {error.reason!a}") from error
        return Read(None, error.reason)
    try:
        return Read(header, held=allocation.of_qcow2(fd, header, length, L2_LIMIT))
    except (allocation.TableError, allocation.LimitExceeded) as error:
        return Read(header, error.reason)


def run(
    count: int, mutations: int, seed: int, directory: Path, *, part: tuple[int, int] = (0, 1), bombs: bool = True
) -> figures.Figures:
    """The campaign, or a part of it.

    Args:
        count: legal images.
        mutations: of images.
        directory: where to work, empty; all names in images lead there at the most.
        part: number of the part, and of how many.
        bombs: also the images that are made to be expensive.
    """
    found = figures.Figures("headers and tables")
    bench = _Bench(found, directory)
    with contextlib.closing(bench):
        for number in range(part[0], count, part[1]):
            bench.guarded(f"image {number}", functools.partial(_compare, bench, random.Random(f"{seed} {number}")))
        _mutate_all(bench, range(part[0] * BATCH, mutations, part[1] * BATCH), mutations, seed)
        if bombs:
            _explode(bench)
        found.add("qemu died", bench.asker.restarts)
    return found


def joined(parts: Iterable[figures.Figures]) -> figures.Figures:
    """The outcome of all parts."""
    found = figures.Figures("headers and tables")
    for each in parts:
        found.failures += each.failures
        for what, number in each.counts.items():
            known = found.counts.get(what, 0)
            found.counts[what] = max(known, number) if what.endswith("at the most") else known + number
    return found


class _Bench:
    """One file that is every image in turn, and qemu to be asked about it."""

    def __init__(self, found: figures.Figures, directory: Path) -> None:
        self.found = found
        self.path = directory / "image"
        self.created = directory / "created"
        (directory / "data").touch()
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        self.asker = asker.Asker(directory)
        self.peak = 0
        self.slowest = 0.0

    def close(self) -> None:
        os.close(self.fd)
        self.asker.__exit__(None, None, None)

    def guarded(self, name: str, work: Callable[[], object]) -> None:
        """Do it, and note whatever it raises as a failure."""
        try:
            work()
        except Exception as error:  # that nothing of the kind comes is what is tested
            self.found.failures.append(f"{name}: {type(error).__name__}: {error}")

    def limited(self, length: int) -> Read:
        """Read the image with an eye on memory (and time, for the report)."""
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        started = time.perf_counter()
        result = read(self.fd, length)
        self.slowest = max(self.slowest, time.perf_counter() - started)
        peak = tracemalloc.get_traced_memory()[1] - before
        self.peak = max(self.peak, peak)
        assert peak <= MEMORY, f"{peak} bytes of memory"
        return result


# ---------------------------------------------------------------- legal images


def _compare(bench: _Bench, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.1:
        bench.found.add("made by qemu-img")
        _compare_created(bench, rng)
        return
    bench.found.add("made by our writer")
    image = qcow2writer.draw(rng, crypt=kind > 0.98, data_file=0.96 < kind < 0.98)
    image.write(bench.fd)
    mine = read(bench.fd, image.length)
    _check_intended(mine, image)
    # the old encryption wants a key of all but `qemu-img info`, which is also asked for some others
    ask = asker.by_tool if image.crypt or kind > 0.94 else bench.asker.ask
    _check_told(bench, mine, bench.path, ask)
    # whether an image holds anything is told by its own tables only
    if mine.accepted and image.has_data and not image.data_name and not image.crypt:
        _check_map(bench, mine, bench.path)


def _compare_created(bench: _Bench, rng: random.Random) -> None:
    recipe = images.random_recipe(rng)
    options = dict(recipe.options)
    if options["compat"] == "1.1":
        options["refcount_bits"] = rng.choice((1, 2, 4, 8, 16, 32, 64))
        options["compression_type"] = rng.choice(("zlib", "zstd"))
        options["lazy_refcounts"] = rng.choice(("on", "off"))
    if options["cluster_size"] >= 4096:  # smaller ones have tables without end
        options["preallocation"] = rng.choice(("off", "metadata"))
    backing = rng.choice((None, "base", "../other/base", "x" * 255))
    if backing and options["cluster_size"] < 2048:
        backing = "base"
    if backing:
        options.pop("preallocation", None)
    if options.get("preallocation") == "metadata" and recipe.size > 256 * MIB:
        options["preallocation"] = "off"
    backing_format = rng.choice(("raw", "qcow2"))
    images.create(bench.created, recipe.size, backing=backing, backing_format=backing_format, **options)
    with bench.created.open("rb") as stream:
        mine = read(stream.fileno(), bench.created.stat().st_size)
    assert mine.accepted, f"refused, {mine.reason}: {options}"
    _check_told(bench, mine, bench.created, bench.asker.ask)
    _check_map(bench, mine, bench.created)


def _check_intended(mine: Read, image: qcow2writer.Image) -> None:
    header = mine.header
    assert header is not None, f"a legal header is refused: {mine.reason}"
    name = image.name.decode("utf-8", "surrogateescape") or None
    assert header.backing_name == name
    assert header.backing_format == ((image.backing_format.decode() or None) if name else None)
    assert header.virtual_size == image.size and header.l1_entries == image.l1_entries
    facts = (header.snapshots, header.bitmaps, header.crypt, header.data_file, len(header.unknown_features))
    known = (image.snapshots, bool(image.bitmaps), image.crypt, bool(image.data_name), image.unknown.bit_count())
    assert facts == known, f"{facts} instead of {known}"


def _check_told(bench: _Bench, mine: Read, path: Path, ask: Callable[[Path], asker.Told]) -> None:
    """Both accept, or both refuse, and what they accept they see as the same."""
    try:
        theirs = ask(path)
    except asker.Refused as error:
        assert not mine.accepted, f"accepted, and qemu refuses: {error}"
        bench.found.add("refused by both")
        return
    assert mine.accepted and mine.header, f"refused, {mine.reason}, and qemu accepts"
    bench.found.add("accepted by both")
    _check_same(mine.header, theirs)


def _check_same(header: qcow2.Header, theirs: asker.Told) -> None:
    ours = asker.Told(
        size=header.virtual_size,
        cluster=header.cluster_size,
        name=asker.shown(header.backing_name),
        backing_format=asker.shown(header.backing_format),
        version=header.version,
        dirty=header.dirty,
        corrupt=header.corrupt,
        extended=header.extended_l2,
        compression=header.compression,
    )
    seen = dataclasses.replace(theirs, name=asker.shown(theirs.name), backing_format=asker.shown(theirs.backing_format))
    assert ours == seen, f"{ours!a} and {seen!a}"


def _check_map(bench: _Bench, mine: Read, path: Path) -> None:
    if mine.held is None:
        bench.found.add("maps beyond our limits")
        return
    bench.found.add("maps compared")
    rows = [row for row in images.map_rows(path) if row["present"]]
    zeros = [row for row in rows if row["zero"] and not row["data"]]
    for ours, theirs in ((mine.held, rows), (mine.held.zeros, zeros)):
        pieces = allocation.Allocation((row["start"], row["start"] + row["length"]) for row in theirs)
        assert ours == pieces, f"{ours} and {pieces}"


# ---------------------------------------------------------------- what is no legal image any more


def _mutate_all(bench: _Bench, batches: Iterable[int], mutations: int, seed: int) -> None:
    tracemalloc.start()
    try:
        for number in batches:
            rng = random.Random(f"{seed} mutations {number}")
            image = qcow2writer.draw(rng, crypt=rng.random() < 0.05, data_file=rng.random() < 0.05, small=True)
            image.write(bench.fd)
            for again in range(number, min(number + BATCH, mutations)):
                work = functools.partial(_mutate, bench, image, random.Random(f"{seed} mutation {again}"))
                bench.guarded(f"mutation {again}", work)
    finally:
        tracemalloc.stop()
    bench.found.add("KiB of memory for one at the most", bench.peak >> 10)
    bench.found.add("ms for one at the most", int(bench.slowest * 1000))


def _mutate(bench: _Bench, image: qcow2writer.Image, rng: random.Random) -> None:
    length = image.length
    with contextlib.ExitStack() as stack:
        if rng.random() < 0.1:
            length = rng.choice((rng.randrange(600), rng.randrange(image.length + 1), image.length // 2))
            stack.callback(image.write, bench.fd)
            os.ftruncate(bench.fd, length)
        for offset, data in _changes(image, rng):
            if offset + len(data) <= length:
                old = os.pread(bench.fd, len(data), offset)
                stack.callback(os.pwrite, bench.fd, old, offset)
                os.pwrite(bench.fd, data, offset)
        mine = bench.limited(length)
        bench.found.add("mutations")
        if not mine.trusted:
            bench.found.add("of them refused" if mine.header is None else "of them objected to")
            return
        if mine.held is None:
            bench.found.add("of them with tables refused")
        if rng.randrange(SAMPLE) == 0:
            _check_sample(bench, mine)


def _changes(image: qcow2writer.Image, rng: random.Random) -> Iterator[tuple[int, bytes]]:
    """Some pieces to be written over the image: mostly one, sometimes a few."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.random()
        header = image.header
        if kind < 0.4:
            offset, width = rng.choice(_FIELDS + (_FIELDS_3 if image.version == 3 else ()))
            yield offset, _number(rng, width, int.from_bytes(header[offset : offset + width], "big"))
        elif kind < 0.6:
            offset = rng.randrange(len(header))
            yield offset, bytes((header[offset] ^ 1 << rng.randrange(8),))
        elif kind < 0.8:
            start = 72 if image.version == 2 else 104
            offset = rng.randrange(start, len(header) + 1) // 4 * 4
            yield offset, _number(rng, 4, 8)
        elif image.tables:
            table = rng.choice(image.tables)
            offset = table + 8 * rng.randrange(max(1, min(image.cluster // 8, 4 * image.l1_entries)))
            yield offset, _entry(rng, image) * rng.choice((1, 1, 2, 30))


def _number(rng: random.Random, width: int, now: int) -> bytes:
    """An extreme value of a field, or one next to what it is."""
    bits = 8 * width
    edges = [0, 1, 2, 3, 7, 8, 9, 21, 22, 63, 255, 512, 1023, 1024, 65535, 65536, (1 << bits) - 1, (1 << bits) - 512]
    edges += [
        1 << rng.randrange(bits),
        now + 1,
        now - 1,
        now * 2,
        now ^ 1 << rng.randrange(bits),
        rng.getrandbits(bits),
    ]
    return (rng.choice(edges) & ((1 << bits) - 1)).to_bytes(width, "big")


def _entry(rng: random.Random, image: qcow2writer.Image) -> bytes:
    host = rng.randrange(image.length // image.cluster + 3) * image.cluster
    flags = rng.choice((0, 1, 1 << 63, 1 << 62, 1 << 63 | 1, 3 << 62, 0x1FE, rng.getrandbits(64)))
    return struct.pack(">Q", (host | flags) & (1 << 64) - 1)


def _check_sample(bench: _Bench, mine: Read) -> None:
    """What we accept, qemu accepts, and sees the same in it."""
    assert mine.header is not None
    bench.found.add("of them shown to qemu")
    try:
        _check_same(mine.header, bench.asker.ask(bench.path))
    except asker.Refused as error:
        raise AssertionError(f"accepted, and qemu refuses: {error}") from error
    except qmp.Gone as error:
        raise AssertionError("accepted, and qemu dies of it") from error


# ---------------------------------------------------------------- images made to be expensive


def _bomb(fd: int, bits: int, tables: int, pattern: Sequence[int]) -> int:
    """An image with as many L2 tables, all filled with a pattern of entries; the length of the file."""
    cluster = 1 << bits
    l1 = -(-tables * 8 // cluster)
    first = 2 + l1
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", 3, 0, 0, bits, tables * cluster * (cluster // 8), 0, tables, 2 * cluster, cluster, 1, 0, 0),
        *(0, 0, 0, 4, 104),
    )
    os.ftruncate(fd, 0)
    os.pwrite(fd, head, 0)
    os.pwrite(fd, struct.pack(f">{tables}Q", *((first + number) * cluster for number in range(tables))), 2 * cluster)
    words = (list(pattern) * (cluster // 8))[: cluster // 8]
    table = struct.pack(f">{cluster // 8}Q", *words)
    for number in range(tables):
        os.pwrite(fd, table, (first + number) * cluster)
    return (first + tables) * cluster


_BOMBS: dict[str, tuple[int, int, Sequence[int]]] = {
    "a piece every other cluster": (21, 64, (1 << 21, 0)),
    "a piece every other cluster, small tables": (9, 1 << 16, (1 << 9, 0)),
    "zeros every other cluster": (16, 1024, (1, 0)),
    "all compressed": (21, 8, (1 << 62 | 1 << 21,)),
    "all compressed, small tables": (9, 1 << 15, (1 << 62 | 1 << 9,)),
    "one compressed in each small table": (9, 1 << 16, (1 << 62 | 1 << 9, *(0,) * 63)),
}


def explode(name: str, path: Path) -> tuple[int, float]:
    """Read a bomb in this process: bytes by which its memory grew, and processor seconds."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        length = _bomb(fd, *_BOMBS[name])
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        read(fd, length)
        seconds = time.process_time() - started
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10, seconds
    finally:
        os.close(fd)


def _explode(bench: _Bench) -> None:
    """Each bomb in a process of its own, whose memory tells; to trace every allocation would take minutes."""
    context = multiprocessing.get_context("spawn")
    most, slowest = 0, 0.0
    for name in _BOMBS:
        with concurrent.futures.ProcessPoolExecutor(1, context) as alone:
            grown, seconds = alone.submit(explode, name, bench.path).result()
        if grown > MEMORY:
            bench.found.failures.append(f"bomb, {name}: {grown} bytes of memory")
        most, slowest = max(most, grown), max(slowest, seconds)
        bench.found.add("bombs")
    bench.found.add("MiB of memory for a bomb at the most", most >> 20)
    bench.found.add("ms of processor for a bomb at the most", int(slowest * 1000))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="headers", description="readers of images against qemu and against nonsense")
    parser.add_argument("--runs", type=int, default=10_000, help="legal images (default 10000)")
    parser.add_argument("--mutations", type=int, default=100_000, help="mutated ones (default 100000)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (default 1)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    jobs: int = options.jobs
    with (
        tempfile.TemporaryDirectory(prefix="vl-headers-") as directory,
        concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool,
    ):
        parts = []
        for number in range(jobs):
            place = Path(directory, str(number))
            place.mkdir()
            work = functools.partial(run, part=(number, jobs), bombs=number == 0)
            parts.append(pool.submit(work, options.runs, options.mutations, options.seed, place))
        code = figures.tell(joined(part.result() for part in parts))
    print(f"{time.monotonic() - started:.0f} s, seed {options.seed}")
    return code


if __name__ == "__main__":
    sys.exit(main())
