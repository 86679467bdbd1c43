"""Cold merges and copies by a qemu-img whose disk fails in the middle, at every point that QEMU lets one choose.

    python -m tests.campaigns.blkdebug

Each fault meets each way in which the daemon has qemu-img write data. Afterwards the task must have failed with its
code, every volume must read as before, nothing may be left behind, and the same call must work once the disk does.
Where qemu-img succeeds in spite of a fault, so may the task, with the right bytes.
"""

import argparse
import contextlib
import dataclasses
import itertools
import random
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tests.campaigns import figures
from tests.support import daemon, faultytool, images, oracle

MIB = 1 << 20
SIZE = 16 * MIB
_MOVE, _LEAF = 2, 8
_MERGE_FAILED, _COPY_FAILED, _NO_SPACE = 252, 261, 397
_COUNTED_TOO_OFTEN = re.compile(r"ERROR OFLAG_COPIED .*refcount=(?![01]$)\d+$")


@dataclasses.dataclass(frozen=True)
class Way:
    """A verb, and the data work in it that meets the faults.

    Attributes:
        name: for people.
        command: of qemu-img, that does this work.
        failed: code of the task for whatever is no lack of space.
        layers: bytes of data in each volume of the image, root first.
        grown: the leaf's disk is larger than those beneath.
        act: calls the verb, waits, and gives the volumes that must read the same as a volume did before:
            path and format, and which one.
    """

    name: str
    command: str
    failed: int
    layers: tuple[int, ...]
    act: "Callable[[Site, daemon.Image], list[Same]]"
    grown: bool = False

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Same:
    """A volume that now must read as another one did before."""

    path: Path
    format: str
    before: str


class Site:
    """A daemon with the faulty tool, a pool of two domains, of which the second is there for copies."""

    def __init__(self, server: daemon.Daemon, tool: faultytool.FaultyTool, place: Path) -> None:
        self.tool = tool
        self.daemon = server
        self._place = place
        pool_id, *domains = [str(uuid.uuid4()) for _ in range(3)]
        for domain_id in domains:
            storage = place / f"storage-{domain_id}"
            storage.mkdir()
            connection = [{"id": str(uuid.uuid4()), "connection": str(storage)}]
            server.call("connectStorageServer", daemon.LOCALFS, daemon.BLANK, connection)
            server.call("createStorageDomain", daemon.LOCALFS, domain_id, "tests", str(storage), 1, 5)
        here, self.there = domains
        server.call("createStoragePool", 0, pool_id, "tests", here, domains, 1)
        server.call("connectStoragePool", pool_id, 1, "key", here, 1, {each: "active" for each in domains})
        server.task("spmStart", pool_id, -1, -1, -1, 0)
        self.pool = daemon.Pool(server, pool_id, here, place / f"storage-{here}")

    def images(self, domain: str) -> Path:
        """Where the images of a domain are."""
        return self._place / f"storage-{domain}" / domain / "images"

    def make(self, way: Way) -> daemon.Image:
        """An image with data of its own in each volume."""
        made = self.pool.make_image_chain(SIZE, ["qcow2"] * len(way.layers))
        offset = 0
        for number, (layer, length) in enumerate(zip(made.layers.values(), way.layers, strict=True), 1):
            images.write_patterns(layer.path, [(offset, length, number)])
            offset += length
        if way.grown:
            self.daemon.task("extendVolumeSize", self.pool.id, self.pool.domain, made.id, made.leaf, str(2 * SIZE))
        return made


# ---------------------------------------------------------------- ways


def _merge(first: int, last: int) -> "Callable[[Site, daemon.Image], list[Same]]":
    def act(site: Site, image: daemon.Image) -> list[Same]:
        ancestor, successor = image.volumes[first], image.volumes[last]
        arguments = (site.pool.domain, site.pool.id, daemon.BLANK, image.id, ancestor, successor, "false")
        site.daemon.task("mergeSnapshots", *arguments)
        return [Same(layer.path, layer.format, v) for v, layer in image.layers.items() if v != ancestor]

    return act


def _copy(site: Site, image: daemon.Image) -> list[Same]:
    target, volume = str(uuid.uuid4()), str(uuid.uuid4())
    arguments = (site.pool.domain, site.pool.id, daemon.BLANK, image.id, image.leaf, target, volume, "a copy")
    site.daemon.task("copyImage", *arguments, site.there, _LEAF, daemon.COW, daemon.SPARSE, "false", "false")
    made = Same(site.images(site.there) / target / volume, "qcow2", image.leaf)
    return [made, *(Same(layer.path, layer.format, v) for v, layer in image.layers.items())]


def _move(site: Site, image: daemon.Image) -> list[Same]:
    arguments = (site.pool.id, site.pool.domain, site.there, image.id, daemon.BLANK, _MOVE, "false", "false")
    site.daemon.task("moveImage", *arguments)
    return [Same(site.images(site.there) / image.id / volume, "qcow2", volume) for volume in image.volumes]


WAYS = [
    Way("merge upwards", "rebase", _MERGE_FAILED, (2 * MIB, MIB, 4 * MIB), _merge(1, 2)),
    Way("merge downwards", "commit", _MERGE_FAILED, (4 * MIB, MIB, MIB), _merge(0, 1)),
    Way("merge downwards, keeping", "snapshot", _MERGE_FAILED, (4 * MIB, MIB, MIB), _merge(0, 1)),
    Way("merge by a copy", "convert", _MERGE_FAILED, (2 * MIB, MIB), _merge(0, 1), grown=True),
    Way("copy", "convert", _COPY_FAILED, (2 * MIB, MIB, MIB), _copy),
    Way("move", "convert", _COPY_FAILED, (2 * MIB, MIB, MIB), _move),
]


# ---------------------------------------------------------------- one case


@dataclasses.dataclass
class Result:
    """What became of one case.

    Attributes:
        fired: qemu-img or the task failed; else the fault was never met, or QEMU got over it.
        survived: the task succeeded in spite of the fault.
        code: of the task.
        problems: everything that must not be.
    """

    way: Way
    fault: faultytool.Fault
    fired: bool = False
    survived: bool = False
    code: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def expect(self, good: bool, problem: str) -> None:
        if not good:
            self.problems.append(problem)


class Stage:
    """The image of a way: made once, kept aside, and put back before each case."""

    def __init__(self, site: Site, way: Way, aside: Path) -> None:
        self._site = site
        self._way = way
        self._clean()
        self.image = site.make(way)
        self._aside = aside / self.image.id
        _put(self.image.directory, self._aside)
        self._digests = {v: oracle.digest(layer.path, layer.format) for v, layer in self.image.layers.items()}
        self._records = self._info()
        self._names = self._found()

    def play(self, fault: faultytool.Fault) -> Result:
        """One case: with the fault, and where that made the call fail, without it."""
        result = Result(self._way, fault)
        self._restore()
        self._site.tool.set(self._way.command, fault)
        try:
            same = self._way.act(self._site, self.image)
            result.survived = True
            self._check(same, result, "in spite of the fault")
        except daemon.VerbFailed as error:
            result.code = error.code
            result.expect(error.code in self._expected(fault), f"the task says {error}")
        self._site.tool.clear()
        met = [call for call in self._site.tool.calls() if call.met]
        result.expect(len(met) == 1, f"the fault had no chance: {self._site.tool.calls()}")
        result.fired = any(call.code for call in met) or not result.survived
        if not result.survived:
            self._check_unchanged(result)
            try:
                self._check(self._way.act(self._site, self.image), result, "without the fault")
            except daemon.VerbFailed as error:
                result.problems.append(f"again, without the fault: {error}")
        return result

    def _expected(self, fault: faultytool.Fault) -> set[int]:
        """Codes that the task may fail with."""
        if fault.event == "read_aio":  # qemu-img does not always say why it could not read
            return {self._way.failed, _NO_SPACE} if fault.error == "ENOSPC" else {self._way.failed}
        return {_NO_SPACE} if fault.error == "ENOSPC" else {self._way.failed}

    def _restore(self) -> None:
        self._clean()
        _put(self._aside, self.image.directory)

    def _clean(self) -> None:
        for domain in (self._site.pool.domain, self._site.there):
            for found in sorted(self._site.images(domain).iterdir()):
                shutil.rmtree(found)

    def _check_unchanged(self, result: Result) -> None:
        """After a failure all is as before, but for clusters that nothing refers to."""
        for volume, layer in self.image.layers.items():
            result.expect(not (errors := _corruptions(layer.path)), f"{volume} is corrupt: {errors}")
            result.expect(not images.info(layer.path).get("snapshots"), f"{volume} has a snapshot")
            same = oracle.digest(layer.path, layer.format) == self._digests[volume]
            result.expect(same, f"{volume} reads different after the failure")
        result.expect(self._info() == self._records, f"records say {self._info()} after the failure")
        result.expect(self._found() == self._names, f"left behind: {sorted({*self._found()} ^ {*self._names})}")

    def _check(self, same: Sequence[Same], result: Result, when: str) -> None:
        """After a success every byte is where it should be."""
        for each in same:
            wanted = self._digests[each.before]
            result.expect(oracle.digest(each.path, each.format) == wanted, f"{each.path.name} is wrong {when}")
            result.expect(not (errors := _corruptions(each.path)), f"{each.path.name} is corrupt {when}: {errors}")
        names = {Path(name).name.partition(".")[0] for name in self._found() if "/" in name}
        wanted_names = {each.path.name for each in same}
        result.expect(names == wanted_names, f"there are volumes {sorted(names)} {when}")

    def _info(self) -> dict[str, dict[str, object]]:
        keys = ("parent", "legality", "voltype", "format", "capacity", "status")
        found = {volume: self._site.pool.info(self.image, volume) for volume in self.image.volumes}
        return {volume: {key: info.get(key) for key in keys} for volume, info in found.items()}

    def _found(self) -> list[str]:
        """Everything among the images of both domains."""
        roots = [self._site.images(domain) for domain in (self._site.pool.domain, self._site.there)]
        return [str(path.relative_to(root)) for root in roots for path in sorted(root.rglob("*"))]


def _corruptions(path: Path) -> list[str]:
    """Errors in the tables of an image. Clusters that are counted too often are none: nobody will take them again.

    Those get the word "error" only where a flag says that they are used once, as after a snapshot that failed half way.
    """
    done = images.qemu_img("check", "-f", "qcow2", path, check=False)
    if done.returncode not in (0, 2, 3):
        raise RuntimeError(done.stderr)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    return [line for line in errors if not _COUNTED_TOO_OFTEN.match(line)]


def _put(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--sparse=always", "--", str(source), str(target)], check=True)


# ---------------------------------------------------------------- all cases


@contextlib.contextmanager
def site() -> Iterator[tuple[Site, Path]]:
    """A site in a new place, and a directory beside it."""
    with tempfile.TemporaryDirectory(prefix="vl-blkdebug-") as name:
        place = Path(name)
        for directory in ("tool", "aside"):
            (place / directory).mkdir()
        tool = faultytool.FaultyTool(place / "tool")
        with daemon.Daemon(place, {"storage": {"qemu_img": str(tool.program)}}) as server:
            yield Site(server, tool, place), place / "aside"


def play(cases: Iterable[tuple[str, faultytool.Fault]]) -> list[Result]:
    """Play cases, each the name of a way and a fault; those of one way best after each other."""
    ways = {way.name: way for way in WAYS}
    results = []
    with site() as (made, aside):
        for name, mine in itertools.groupby(cases, key=lambda case: case[0]):
            stage = Stage(made, ways[name], aside)
            results += [stage.play(fault) for _, fault in mine]
    return results


def run(faults: int, seed: int) -> figures.Figures:
    """Do it, and count.

    Args:
        faults: how many of the faults each way meets, at most all.
        seed: of the choice, where not all are wanted.
    """
    return counted(play(_cases(faults, seed)))


def _cases(faults: int, seed: int) -> list[tuple[str, faultytool.Fault]]:
    chosen = faultytool.FAULTS
    if faults < len(chosen):
        chosen = random.Random(seed).sample(chosen, faults)
    return [(way.name, fault) for way in WAYS for fault in chosen]


def counted(results: Sequence[Result]) -> figures.Figures:
    """The figures of some cases."""
    made = figures.Figures("failing disks under qemu-img")
    made.counts = {
        "cases": len(results),
        "fired": sum(result.fired for result in results),
        "undone": sum(not result.survived for result in results),
        "never fired": sum(not result.fired for result in results),
    }
    made.failures = [f"{r.way}, {r.fault}: {problem}" for r in results for problem in r.problems]
    return made


def table(results: Sequence[Result]) -> str:
    """For each way and event what became of its faults: the code of the task, + for success in spite of a failing
    qemu-img, and "never" where qemu-img did not fail."""
    lines = [f"{'':<28}" + "".join(f"{event:>24}" for event in faultytool.EVENTS)]
    for way in dict.fromkeys(result.way for result in results):
        cells = []
        for event in faultytool.EVENTS:
            mine = [result for result in results if result.way == way and result.fault.event == event]
            cells.append(" ".join("never" if not r.fired else "+" if r.survived else str(r.code) for r in mine))
        lines.append(f"{way.name:<28}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="blkdebug", description="cold merges and copies on a disk that fails")
    parser.add_argument("--runs", type=int, default=len(faultytool.FAULTS), help="faults that each way meets (all)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of faults (1)")
    options = parser.parse_args(arguments)
    results = play(_cases(options.runs, options.seed))
    print(table(results))
    return figures.tell(counted(results))


if __name__ == "__main__":
    sys.exit(main())
