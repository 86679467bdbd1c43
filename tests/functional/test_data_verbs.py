"""The verbs on data as an engine calls them, over real bridge, locks, tasks and storage; errors by the catalogue."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rpc import bridge, catalogue
from storage import services, settings
from storage.volumes import copying
from tests.support import disks, images
from vdsmlite import api, status

pytestmark = pytest.mark.qemu

CATALOGUE = catalogue.load()
CONTEXT = bridge.Context(client="127.0.0.1:1")
BLANK = "00000000-0000-0000-0000-000000000000"
POOL = "6e4d6a96-1234-1234-8905-b5eec55c1535"
HERE, THERE = "def32ac7-1234-1234-8a8c-1c887333fe65", "9af9bd7f-6167-4ae8-aac6-95a5e5f36f60"
IMAGE, OTHER, THIRD = (f"{n}7bd7538-c48b-4b94-ba94-def922151d48" for n in range(3))
V1, V2, V3, V4 = (f"{n}1bd7538-c48b-4b94-ba94-def922151d48" for n in range(4))
NOBODY = "99999999-9999-4999-8999-999999999999"
MIB = images.MIB


class Host:
    """A host that is the SPM of a pool of two domains."""

    def __init__(self, root: Path, program: str = "qemu-img", version: str = "3") -> None:
        self.root = root
        wanted = settings.Settings(repository=root / "repository", lock_timeout=0.3, qemu_img=program)
        self.services = services.build(wanted)
        self._bridge = bridge.Bridge(CATALOGUE, api.API(self.services), status.translate)
        known = (root / "pool").exists()
        for number, domain in enumerate((HERE, THERE)):
            place = root / f"storage{number}"
            place.mkdir(exist_ok=True)
            self.call("connectStorageServer", 4, POOL, [{"id": "x", "connection": str(place)}])
            if not known:
                self.call("createStorageDomain", 4, domain, "a domain", str(place), 1, version)
        if not known:
            self.call("createStoragePool", 0, POOL, "a pool", HERE, [HERE, THERE], 1)
            (root / "pool").touch()
        self.call("connectStoragePool", POOL, 1, POOL, HERE, 1, {HERE: "active", THERE: "active"})
        assert self.task("spmStart", POOL, -1, -1, 0, "false")["code"] == 0

    def answer(self, name: str, *values: Any) -> bridge.Reply:
        return self._bridge.call_positional(name, values, CONTEXT)

    def call(self, name: str, *values: Any) -> dict[str, Any]:
        reply = self.answer(name, *values)
        assert reply.code == 0, f"{name}: {reply.code} {reply.message}"
        return dict(reply.result)

    def task(self, name: str, *values: Any) -> dict[str, Any]:
        """Call a verb and wait for its task; the task's status."""
        return self.wait(self.call(name, *values)["uuid"])

    def wait(self, task: str) -> dict[str, Any]:
        while (found := self.call("getTaskStatus", task)["taskStatus"])["taskState"] != "finished":
            time.sleep(0.01)
        return dict(found)

    def done(self, name: str, *values: Any) -> None:
        found = self.task(name, *values)
        assert (found["code"], found["taskResult"]) == (0, "success"), found

    def code(self, name: str, *values: Any) -> tuple[str, int]:
        """Where a call fails, and with what code; codes must be declared."""
        verb = CATALOGUE.verbs[name]
        reply = self.answer(name, *values)
        if reply.code:
            where, code, declared = "call", reply.code, verb.errors
        else:
            found = self.wait(reply.result["uuid"])
            assert found["taskResult"] == "cleanSuccess"
            where, code = "task", found["code"]
            declared = tuple([each["$ref"].rpartition("/")[2] for each in verb.document["x-task-errors"]])
        table = status.errors_table()
        assert code in {table[error][0] for error in declared}, f"{name} does not declare {code}"
        return where, code

    def make(self, volume: str, parent: str = BLANK, image: str = IMAGE, domain: str = HERE, source: str = "") -> Path:
        form = 5 if parent == BLANK else 4
        self.done("createVolume", domain, POOL, image, str(8 * MIB), form, 2, 2, volume, "x", source or image, parent)
        return self.path(volume, image, domain)

    def path(self, volume: str, image: str = IMAGE, domain: str = HERE) -> Path:
        return Path(self.call("getVolumePath", domain, POOL, image, volume)["path"])

    def info(self, volume: str, image: str = IMAGE, domain: str = HERE) -> dict[str, Any]:
        return dict(self.call("getVolumeInfo", domain, POOL, image, volume)["info"])

    def guest(self, volume: str, image: str = IMAGE, domain: str = HERE) -> bytes:
        fmt = {"COW": "qcow2", "RAW": "raw"}[self.info(volume, image, domain)["format"]]
        return images.read_guest(self.path(volume, image, domain), fmt=fmt)

    def chain(self) -> None:
        """Three volumes with data."""
        for number, (volume, parent) in enumerate(((V1, BLANK), (V2, V1), (V3, V2)), 1):
            path = self.make(volume, parent)
            images.write_pattern(path, number * 65536, 2 * 65536, number, fmt="raw" if number == 1 else "qcow2")

    def close(self) -> None:
        self.services.close(5)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.close()


def copy_to(
    image: str, volume: str, *, domain: str = BLANK, role: int = 8, form: int = 5, kind: int = 2
) -> tuple[Any, ...]:
    return (image, volume, "a copy", domain, role, form, kind, "false", "false")


# ---------------------------------------------------------------- flows of an engine


def test_cold_merge_as_an_engine_does_it(host: Host) -> None:
    """mergeSnapshots of the deleted snapshot and its child; then getVolumeInfo of the child, whose id stays."""
    host.chain()
    expected = host.guest(V3)
    host.done("mergeSnapshots", HERE, POOL, BLANK, IMAGE, V2, V3, "false")
    info = host.info(V3)
    assert (info["parent"], info["format"], info["voltype"], info["status"]) == (V1, "COW", "LEAF", "OK")
    assert host.guest(V3) == expected
    host.done("mergeSnapshots", HERE, POOL, BLANK, IMAGE, V1, V3, "false")
    info = host.info(V3)
    assert (info["parent"], info["format"], info["capacity"]) == (BLANK, "RAW", str(8 * MIB))
    assert host.guest(V3) == expected
    assert host.call("getVolumesList", HERE, POOL, IMAGE)["uuidlist"] == [V3]
    assert host.call("getVolumeChain", POOL, HERE, IMAGE)["state"] == "consistent"


def test_cold_move_as_an_engine_does_it(host: Host) -> None:
    """moveImage as a copy, then deleteImage of the original."""
    host.chain()
    expected = host.guest(V3)
    host.done("moveImage", POOL, HERE, THERE, IMAGE, BLANK, 1, "false", "false")
    host.done("deleteImage", HERE, POOL, IMAGE, "false", "false")
    assert host.guest(V3, IMAGE, THERE) == expected
    assert host.call("getVolumeChain", POOL, THERE, IMAGE)["state"] == "consistent"
    assert host.call("getImagesList", HERE)["imageslist"] == []


def test_live_migration_as_an_engine_does_it(host: Host) -> None:
    """The structure, the internal volumes while a machine mirrors into the leaf, and the original goes."""
    host.chain()
    expected = host.guest(V3)
    host.done("cloneImageStructure", POOL, HERE, IMAGE, THERE)
    images.write_pattern(host.path(V3, IMAGE, THERE), 3 * 65536, 2 * 65536, 3)
    host.done("syncImageData", POOL, HERE, IMAGE, THERE, "INTERNAL")
    assert host.guest(V3, IMAGE, THERE) == expected
    host.done("deleteImage", HERE, POOL, IMAGE, "false", "false")
    host.call("prepareImage", POOL, THERE, IMAGE, V3)


def test_template_as_an_engine_makes_it(host: Host) -> None:
    host.chain()
    expected = host.guest(V3)
    host.done("copyImage", HERE, POOL, BLANK, IMAGE, V3, *copy_to(OTHER, V4, role=6, form=4))
    assert host.info(V4, OTHER)["voltype"] == "SHARED"
    host.make(V1, V4, THIRD, source=OTHER)
    assert host.guest(V1, THIRD) == expected
    assert host.code("moveImage", POOL, HERE, THERE, THIRD, "", 1, "false", "false") == ("call", 268)
    host.done("copyImage", HERE, POOL, BLANK, OTHER, V4, *copy_to(OTHER, V4, domain=THERE, role=6, form=4))
    host.done("moveImage", POOL, HERE, THERE, THIRD, "", 2, "false", "false")
    assert host.guest(V1, THIRD, THERE) == expected
    assert host.code("deleteImage", THERE, POOL, OTHER) == ("call", 223)


def test_left_out_format_and_allocation_are_those_of_the_source(host: Host) -> None:
    """The defaults of the protocol are refused by vdsm, so nobody depends on them."""
    host.chain()
    host.done("copyImage", HERE, POOL, BLANK, IMAGE, V3, OTHER, V4, "a template")
    info = host.info(V4, OTHER)
    assert (info["format"], info["type"], info["voltype"]) == ("COW", "SPARSE", "SHARED")


# ---------------------------------------------------------------- errors of the catalogue


def test_errors_of_copies(host: Host) -> None:
    host.chain()
    host.make(V1, image=OTHER, domain=THERE)
    here = (HERE, POOL, BLANK, IMAGE)
    assert host.code("copyImage", *here, V3, *copy_to(IMAGE, V4)) == ("call", 1000)
    assert host.code("copyImage", *here, V3, *copy_to(OTHER, V4, role=7)) == ("call", 1000)
    assert host.code("copyImage", HERE, NOBODY, "", IMAGE, V3, *copy_to(OTHER, V4)) == ("call", 309)
    assert host.code("copyImage", NOBODY, POOL, "", IMAGE, V3, *copy_to(OTHER, V4)) == ("call", 358)
    assert host.code("copyImage", *here, V3, *copy_to(OTHER, V4, domain=NOBODY)) == ("call", 358)
    assert host.code("copyImage", HERE, POOL, "", NOBODY, V3, *copy_to(OTHER, V4)) == ("call", 268)
    assert host.code("copyImage", *here, V3, *copy_to(OTHER, V4, form=3)) == ("call", 202)
    assert host.code("copyImage", *here, V3, *copy_to(OTHER, V4, kind=0)) == ("call", 231)
    assert host.code("copyImage", *here, NOBODY, *copy_to(OTHER, V4)) == ("task", 201)
    assert host.code("copyImage", *here, V3, *copy_to(OTHER, V1, domain=THERE)) == ("task", 212)
    assert host.code("copyImage", *here, V3, *copy_to(OTHER, V4, domain=THERE)) == ("task", 265)
    host.call("setVolumeLegality", HERE, POOL, IMAGE, V2, "ILLEGAL")
    assert host.code("copyImage", *here, V3, *copy_to(OTHER, V4)) == ("call", 262)
    host.call("spmStop", POOL)
    assert host.code("copyImage", *here, V3, *copy_to(OTHER, V4)) == ("call", 654)


def test_errors_of_moves(host: Host) -> None:
    host.chain()
    plain = ("", 1, "false", "false")
    assert host.code("moveImage", POOL, HERE, HERE, IMAGE, *plain) == ("call", 1000)
    assert host.code("moveImage", NOBODY, HERE, THERE, IMAGE, *plain) == ("call", 309)
    assert host.code("moveImage", POOL, HERE, NOBODY, IMAGE, *plain) == ("call", 358)
    assert host.code("moveImage", POOL, HERE, THERE, NOBODY, *plain) == ("task", 268)
    assert host.code("moveImage", POOL, HERE, THERE, IMAGE, "", 3) == ("task", 253)
    assert host.code("moveMultipleImages", POOL, HERE, HERE, {IMAGE: "false"}, "") == ("call", 1000)
    assert host.code("moveMultipleImages", POOL, HERE, THERE, {NOBODY: "false"}, "") == ("task", 268)
    host.make(V4, image=OTHER)
    host.make(V1, V4, THIRD, source=OTHER)
    for operation in (1, 2):
        assert host.code("moveImage", POOL, HERE, THERE, OTHER, "", operation) == ("call", 266)
    assert host.code("moveMultipleImages", POOL, HERE, THERE, {THIRD: "false"}, "") == ("call", 268)
    host.done("moveImage", POOL, HERE, THERE, IMAGE, *plain)
    assert host.code("moveImage", POOL, HERE, THERE, IMAGE, *plain) == ("task", 212)
    assert host.code("cloneImageStructure", POOL, HERE, IMAGE, THERE) == ("task", 212)
    assert host.code("cloneImageStructure", POOL, HERE, NOBODY, THERE) == ("task", 268)
    assert host.code("cloneImageStructure", POOL, HERE, IMAGE, HERE) == ("call", 1000)
    assert host.code("syncImageData", POOL, HERE, IMAGE, THERE, "NONE") == ("task", 2000)
    assert host.code("syncImageData", POOL, HERE, NOBODY, THERE, "ALL") == ("task", 268)
    host.done("deleteVolume", THERE, POOL, IMAGE, [V3])
    assert host.code("syncImageData", POOL, HERE, IMAGE, THERE, "ALL") == ("task", 260)


def test_errors_of_merges_and_growing(host: Host) -> None:
    host.chain()
    assert host.code("mergeSnapshots", HERE, POOL, "", IMAGE, NOBODY, V2) == ("task", 262)
    assert host.code("mergeSnapshots", HERE, POOL, "", IMAGE, V3, V2) == ("task", 262)
    assert host.code("mergeSnapshots", HERE, POOL, "", NOBODY, V1, V2) == ("task", 268)
    assert host.code("mergeSnapshots", HERE, POOL, "", IMAGE, BLANK, V2) == ("call", 1000)
    assert host.code("mergeSnapshots", NOBODY, POOL, "", IMAGE, V1, V2) == ("call", 358)
    where = (POOL, HERE, IMAGE)
    assert host.code("extendVolumeSize", *where, V3, str(MIB)) == ("task", 232)
    assert host.code("extendVolumeSize", *where, V2, str(16 * MIB)) == ("task", 213)
    assert host.code("extendVolumeSize", *where, NOBODY, str(16 * MIB)) == ("task", 201)
    assert host.code("extendVolumeSize", POOL, HERE, NOBODY, V1, str(16 * MIB)) == ("task", 268)
    assert host.code("extendVolumeSize", *where, V1, "-1") == ("call", 1000)
    for verb, more in (("volumeSetSize", (5,)), ("refreshVolume", ())):
        assert host.code(verb, NOBODY, POOL, IMAGE, V1, *more) == ("call", 358)
        assert host.code(verb, HERE, POOL, NOBODY, V1, *more) == ("call", 268)
        assert host.code(verb, HERE, POOL, IMAGE, NOBODY, *more) == ("call", 201)
        assert host.code(verb, HERE, POOL, IMAGE, BLANK, *more) == ("call", 1000)


# ---------------------------------------------------------------- tasks


def test_stop_and_progress_and_locks(tmp_path: Path) -> None:
    """A copy that hangs: watched, in the way of others, stopped, and nothing is left of it."""
    marker = tmp_path / "pid"
    body = f'[ "$1" = convert ] || exec qemu-img "$@"\necho "    (37.50/100%)"\necho $$ > {marker}\nexec sleep 60'
    host = Host(tmp_path, str(disks.wrapper(tmp_path / "qemu-img", body)))
    host.chain()
    task = host.call("moveImage", POOL, HERE, THERE, IMAGE, "", 2, "false", "false")["uuid"]
    while not (marker.exists() and marker.read_text().strip()):
        time.sleep(0.01)
    while (found := host.call("getTaskStatus", task)["taskStatus"])["percent"] == "0":
        time.sleep(0.01)
    assert found["taskState"] == "running" and found["message"].startswith("copying volume 1 of 3, ")
    assert int(found["done"]) < int(found["total"])
    assert host.code("deleteImage", HERE, POOL, IMAGE) == ("call", 851)
    host.call("getVolumeInfo", HERE, POOL, IMAGE, V3)
    assert host.answer("getVolumeInfo", THERE, POOL, IMAGE, V3).code == 268
    host.call("stopTask", task)
    assert host.wait(task)["code"] == 411
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)
    assert host.call("getImagesList", THERE)["imageslist"] == []
    assert sorted(path.name for path in (tmp_path / "storage1" / THERE / "images").iterdir()) == []
    host.done("deleteImage", HERE, POOL, IMAGE)
    host.close()


@pytest.mark.parametrize(("command", "verb"), [("commit", "mergeSnapshots"), ("convert", "moveImage")])
def test_next_spm_undoes_what_a_dead_host_left(tmp_path: Path, command: str, verb: str) -> None:
    """The process goes while the tool has done all of its work and nothing is recorded yet."""
    marker, go = tmp_path / "pid", tmp_path / "go"
    body = f'[ "$1" = {command} ] || exec qemu-img "$@"\nqemu-img "$@"\necho $$ > {marker}\n'
    body += f"while [ ! -e {go} ]; do sleep 0.05; done; exit 1"
    host = Host(tmp_path, str(disks.wrapper(tmp_path / "qemu-img", body)))
    host.chain()
    images.write_pattern(host.path(V1), MIB, 4 * MIB, 1, fmt="raw")
    expected = [host.guest(each) for each in (V1, V2, V3)]
    before = {each.name: each.read_text() for each in host.path(V1).parent.glob("*.meta")}
    arguments = {
        "mergeSnapshots": (HERE, POOL, "", IMAGE, V1, V2),
        "moveImage": (POOL, HERE, THERE, IMAGE, "", 2),
    }[verb]
    task = host.call(verb, *arguments)["uuid"]
    while not (marker.exists() and marker.read_text().strip()):
        time.sleep(0.01)
    frozen = tmp_path.with_name(f"{tmp_path.name}-after")
    images.run("cp", "-a", "--sparse=always", tmp_path, frozen)
    go.touch()
    host.wait(task)
    host.close()
    images.run(
        "sh", "-c", f"rm -rf {tmp_path}/storage* {tmp_path}/pool && cp -a {frozen}/storage* {frozen}/pool {tmp_path}"
    )
    host = Host(tmp_path)
    found = host.wait(task)
    assert found["taskResult"] == "cleanSuccess"
    assert [host.guest(each) for each in (V1, V2, V3)] == expected
    place = host.path(V1).parent
    assert {each.name: each.read_text() for each in place.glob("*.meta")} == before
    assert host.call("getVolumeChain", POOL, HERE, IMAGE)["state"] == "consistent"
    assert host.call("getImagesList", THERE)["imageslist"] == []
    host.close()


def test_moves_to_and_fro_at_once(host: Host) -> None:
    """Locks are taken in one order, so crossing moves wait for each other and never for ever."""
    host.services.locks.timeout = 60
    host.chain()
    host.make(V4, image=OTHER, domain=THERE)
    expected = host.guest(V3)
    failures = []

    def shuttle(image: str, ends: tuple[str, str]) -> None:
        for number in range(4):
            origin, target = ends if number % 2 == 0 else ends[::-1]
            if (found := host.task("moveImage", POOL, origin, target, image, "", 2))["code"]:
                failures.append(found)

    crews = [threading.Thread(target=shuttle, args=each) for each in ((IMAGE, (HERE, THERE)), (OTHER, (THERE, HERE)))]
    for crew in crews:
        crew.start()
    for crew in crews:
        crew.join(60)
    assert not failures and host.guest(V3) == expected


@pytest.mark.root
def test_full_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: everything that was begun goes, and the code says what is wrong."""
    place = tmp_path / "storage1"
    place.mkdir()
    images.run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place)
    try:
        place.chmod(0o775)
        host = Host(tmp_path)
        _fill_up(host, place, monkeypatch)
        host.close()
    finally:
        images.run("umount", "-l", place)


def _fill_up(host: Host, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.write_pattern(host.make(V1), 0, 8 * MIB, 1, fmt="raw")
    filler = place / "filler"
    filler.write_bytes(b"x" * (60 * MIB))
    assert host.code("moveImage", POOL, HERE, THERE, IMAGE, "", 1) == ("task", 397)
    # The size is checked before the first byte; now somebody else fills the storage right after that.
    prealloc = copy_to(OTHER, V4, domain=THERE, kind=1)
    with monkeypatch.context() as patch:
        patch.setattr(copying, "check_space", lambda *_: None)
        assert host.code("moveImage", POOL, HERE, THERE, IMAGE, "", 2) == ("task", 397)
        assert host.code("copyImage", HERE, POOL, "", IMAGE, V1, *prealloc) == ("task", 397)
    assert os.listdir(place / THERE / "images") == []
    filler.unlink()
    host.done("moveImage", POOL, HERE, THERE, IMAGE, "", 2)
    images.write_pattern(host.make(V2, V1, domain=THERE), 0, 8 * MIB, 2)
    expected = host.guest(V2, IMAGE, THERE)
    filler.write_bytes(b"x" * (os.statvfs(place).f_bavail * 4096 - MIB))
    with monkeypatch.context() as patch:
        patch.setattr(copying, "check_space", lambda *_: None)
        assert host.code("mergeSnapshots", THERE, POOL, "", IMAGE, V1, V2) == ("task", 397)
    filler.unlink()
    assert host.guest(V2, IMAGE, THERE) == expected
    assert host.guest(V1, IMAGE, THERE) == b"\1" * (8 * MIB)
    host.done("mergeSnapshots", THERE, POOL, "", IMAGE, V1, V2)
    assert host.guest(V2, IMAGE, THERE) == expected
