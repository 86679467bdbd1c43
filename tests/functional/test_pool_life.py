"""The life of a pool of two domains over a real daemon: the reference's own functional test, and what an engine does.

Replies are read as the engine of 3.5 reads them: the code is an int, sizes are text, a missing member is a fault.
"""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon as support

BLANK = support.BLANK
POOL = "6e4d6a96-1234-1234-8905-b5eec55c1535"
MASTER = "def32ac7-1234-1234-8a8c-1c887333fe65"
OTHER = "9af9bd7f-6167-4ae8-aac6-95a5e5f36f60"
IMAGES = {
    MASTER: ("47bd7538-c48b-4b94-ba94-def922151d48", "11bd7538-c48b-4b94-ba94-def922151d48"),
    OTHER: ("bace8f68-4c5a-43f2-acb4-fa8daf58c0f9", "bb3cbda6-a711-45a6-a6f2-c32661939e93"),
}
REFERENCES = {MASTER: "53acd629-47e6-42d8-ba99-cd0b12ff0e1e", OTHER: "87e618fe-587c-4704-a9f8-9fd9321fd907"}
SECONDS = 30.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[support.Daemon]:
    place = tmp_path / "daemon"
    place.mkdir()
    with support.Daemon(place) as running:
        yield running


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """A directory for each domain."""
    found = {}
    for number, domain in enumerate((MASTER, OTHER)):
        found[domain] = tmp_path / f"teststorage{number}"
        found[domain].mkdir(mode=0o775)
    return found


def code(daemon: support.Daemon, verb: str, *arguments: Any) -> int:
    """Status code of a call, cast as an engine casts it."""
    status = daemon.answer(verb, *arguments)["status"]
    assert type(status["code"]) is int and isinstance(status["message"], str)
    return int(status["code"])


def wait(condition: Any, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def finished(daemon: support.Daemon, task: str) -> dict[str, Any]:
    """Poll a task, as an engine does, until it has finished; its status."""
    found: dict[str, Any] = {}

    def done() -> bool:
        nonlocal found
        found = daemon.call("getTaskStatus", task)["taskStatus"]
        assert type(found["code"]) is int and {"message", "taskResult", "taskState", "taskID"} <= set(found)
        return bool(found["taskState"] == "finished")

    wait(done)
    return found


# ---------------------------------------------------------------- the reference's functional test


@pytest.mark.qemu
@pytest.mark.parametrize("version", [0, 3])
def test_the_references_storage_test(daemon: support.Daemon, places: dict[str, Path], version: int) -> None:
    """Its calls, in its order, with its arguments; a left-over of an earlier run is not there."""
    wanted = {REFERENCES[each]: {"type": "localfs", "params": {"path": str(places[each])}} for each in places}
    assert daemon.call("storageServer_ConnectionRefs_acquire", wanted)["results"] == dict.fromkeys(wanted, 0)

    def connected() -> bool:
        known = daemon.call("storageServer_ConnectionRefs_statuses")["connectionslist"]
        return all(known[each]["connected"] for each in wanted)

    wait(connected)
    for domain, place in places.items():
        assert code(daemon, "getStorageDomainInfo", domain) == 358
        name = f"test domain{place.name[-1]}"
        daemon.call("createStorageDomain", 4, domain, name, str(place), 1, version)
    assert daemon.call("getConnectedStoragePoolsList")["poollist"] == []
    daemon.call("createStoragePool", 0, POOL, "local storage pool", MASTER, [MASTER], 1)
    daemon.call("connectStoragePool", POOL, 1, "scsikey", MASTER, 1)
    assert finished(daemon, daemon.call("spmStart", POOL, -1, -1, -1, 0)["uuid"])["taskResult"] == "success"
    daemon.call("attachStorageDomain", OTHER, POOL)
    daemon.call("activateStorageDomain", OTHER, POOL)
    assert set(daemon.call("getVdsStats")["info"]["storageDomains"]) == set(places)

    for domain, (image, volume) in IMAGES.items():
        arguments = (domain, POOL, image, 20971520, 4, 2, 8, volume, "a volume")
        assert finished(daemon, daemon.call("createVolume", *arguments)["uuid"])["code"] == 0
    for domain, (image, volume) in IMAGES.items():
        assert finished(daemon, daemon.call("deleteVolume", domain, POOL, image, [volume])["uuid"])["code"] == 0

    daemon.call("deactivateStorageDomain", OTHER, POOL, BLANK, 1)
    daemon.call("detachStorageDomain", OTHER, POOL, BLANK, 1)
    daemon.call("destroyStoragePool", POOL, 1, "scsiKey")
    for domain in places:
        daemon.call("formatStorageDomain", domain, True)
    daemon.call("storageServer_ConnectionRefs_release", list(wanted))
    assert [list(place.iterdir()) for place in places.values()] == [[], []]


def test_the_references_negative_test(daemon: support.Daemon, places: dict[str, Path]) -> None:
    connect(daemon, places)
    for domain, version in ((MASTER, 0), (OTHER, 3)):
        daemon.call("createStorageDomain", 4, domain, "x", str(places[domain]), 1, version)
    assert code(daemon, "createStoragePool", 0, POOL, "x", MASTER, [MASTER, OTHER], 0) == 398
    assert code(daemon, "createStoragePool", 0, POOL, "x", MASTER, [OTHER], 0) == 1000


# ---------------------------------------------------------------- an engine


def connect(daemon: support.Daemon, places: dict[str, Path]) -> None:
    """connectStorageServer for each domain, every value a text, as an engine sends them."""
    for place in places.values():
        empty = dict.fromkeys(("port", "iqn", "user", "password"), "")
        entry = {"id": str(uuid.uuid4()), "connection": str(place), **empty}
        assert daemon.call("connectStorageServer", 4, POOL, [entry])["statuslist"] == [{"id": entry["id"], "status": 0}]


def statuses(domains: dict[str, str]) -> dict[str, str]:
    return {domain: status.lower() for domain, status in domains.items()}


class Engine:
    """What an engine keeps about its pool: the map, the master and its version. The daemon is only told.

    Attributes:
        master, version: of the pool.
        domains: status by domain.
    """

    def __init__(self, daemon: support.Daemon) -> None:
        self.daemon = daemon
        self.master, self.version = MASTER, 1
        self.domains = {MASTER: "active"}

    def refresh(self) -> None:
        """A host comes up, or the map has changed: the same call, with the whole map."""
        self.daemon.call("connectStoragePool", POOL, 1, POOL, self.master, self.version, statuses(self.domains))

    def elect(self, version: str = "3") -> None:
        """Make the host SPM, unless it is."""
        self.refresh()
        status = self.daemon.call("getSpmStatus", POOL)["spm_st"]
        if status["spmStatus"] == "SPM":
            return
        arguments = (int(status["spmId"]), str(status["spmLver"]), 0, "false", 250, version)
        task = self.daemon.call("spmStart", POOL, *arguments)["uuid"]
        assert finished(self.daemon, task)["taskResult"] == "success"
        assert self.daemon.call("getSpmStatus", POOL)["spm_st"]["spmStatus"] == "SPM"
        self.daemon.call("clearTask", task)

    def keep_alive(self) -> dict[str, Any]:
        """What is asked every ten seconds; the domains, of which none may be missing."""
        assert self.daemon.call("getSpmStatus", POOL)["spm_st"]["spmStatus"] == "SPM"
        found = self.daemon.call("getStoragePoolInfo", POOL)
        info, domains = found["info"], found["dominfo"]
        assert (info["master_uuid"], int(info["master_ver"])) == (self.master, self.version)
        assert set(domains) == set(self.domains), "a domain that is missing would be dropped"
        for domain, entry in domains.items():
            assert entry["status"].lower() == self.domains[domain]
            if entry["status"] == "Active":
                assert int(entry["disktotal"]) >= int(entry["diskfree"]) and type(entry["diskfree"]) is str
        assert isinstance(domains, dict)
        return domains


def first_domain(daemon: support.Daemon, places: dict[str, Path], version: str = "3") -> Engine:
    """From a directory to an active pool (engine.md 4.1, steps 1 to 4)."""
    connect(daemon, places)
    daemon.call("createStorageDomain", 4, MASTER, "first", str(places[MASTER]), 1, version)
    assert int(daemon.call("getStorageDomainStats", MASTER)["stats"]["disktotal"]) > 0
    daemon.call("createStoragePool", 0, POOL, "pool", MASTER, [MASTER], 1, "ON", 5, 60, 10, 3)
    engine = Engine(daemon)
    engine.elect(version)
    daemon.call("activateStorageDomain", MASTER, POOL)
    engine.refresh()
    return engine


def second_domain(engine: Engine, places: dict[str, Path], version: str = "3") -> None:
    """engine.md 4.1, step 5."""
    daemon = engine.daemon
    daemon.call("createStorageDomain", 4, OTHER, "second", str(places[OTHER]), 1, version)
    assert daemon.call("getStorageDomainInfo", OTHER)["info"]["pool"] == []
    daemon.call("attachStorageDomain", OTHER, POOL)
    engine.domains[OTHER] = "attached"
    engine.refresh()
    assert daemon.call("getImagesList", OTHER)["imageslist"] == []
    daemon.call("activateStorageDomain", OTHER, POOL)
    engine.domains[OTHER] = "active"
    engine.refresh()


@pytest.mark.parametrize("version", ["0", "3"])
def test_an_engine_builds_a_pool_and_keeps_it(daemon: support.Daemon, places: dict[str, Path], version: str) -> None:
    engine = first_domain(daemon, places, version)
    second_domain(engine, places, version)
    engine.keep_alive()
    engine.elect(version)
    assert set(daemon.call("getVdsStats")["info"]["storageDomains"]) == {MASTER, OTHER}
    daemon.call("deactivateStorageDomain", OTHER, POOL, BLANK, 1)
    engine.domains[OTHER] = "attached"
    engine.refresh()
    engine.keep_alive()
    daemon.call("detachStorageDomain", OTHER, POOL, BLANK, 1)
    del engine.domains[OTHER]
    engine.refresh()
    engine.keep_alive()


def test_a_domain_of_a_lost_pool_is_imported(daemon: support.Daemon, places: dict[str, Path]) -> None:
    engine = first_domain(daemon, places)
    daemon.call("createStorageDomain", 4, OTHER, "second", str(places[OTHER]), 1, "3")
    lost = str(uuid.uuid4())
    daemon.call("createStoragePool", 0, lost, "lost", OTHER, [OTHER], 1, "ON", 5, 60, 10, 3)
    assert daemon.call("getStorageDomainInfo", OTHER)["info"]["pool"] == [lost]
    assert code(daemon, "attachStorageDomain", OTHER, POOL) == 380
    daemon.call("forcedDetachStorageDomain", OTHER, BLANK)
    daemon.call("attachStorageDomain", OTHER, POOL)
    daemon.call("activateStorageDomain", OTHER, POOL)
    engine.domains[OTHER] = "active"
    engine.refresh()
    engine.keep_alive()


def test_the_master_moves_and_a_restart_finds_it(
    daemon: support.Daemon, places: dict[str, Path], tmp_path: Path
) -> None:
    engine = first_domain(daemon, places)
    second_domain(engine, places)
    assert code(daemon, "deactivateStorageDomain", MASTER, POOL, OTHER, 1) == 324
    assert code(daemon, "detachStorageDomain", MASTER, POOL, OTHER, 2) == 383
    daemon.call("deactivateStorageDomain", MASTER, POOL, OTHER, 2)
    engine.master, engine.version, engine.domains[MASTER] = OTHER, 2, "attached"
    engine.refresh()
    engine.keep_alive()
    daemon.kill()
    again = tmp_path / "again"
    again.mkdir()
    with support.Daemon(again) as after:
        engine.daemon = after
        connect(after, places)
        assert code(after, "connectStoragePool", POOL, 1, POOL, MASTER, 1, {MASTER: "active"}) == 324
        engine.elect()
        engine.keep_alive()
        after.call("detachStorageDomain", MASTER, POOL, BLANK, 1)
        assert after.call("getStorageDomainInfo", MASTER)["info"]["pool"] == []


def test_a_lost_master_is_replaced(daemon: support.Daemon, places: dict[str, Path]) -> None:
    engine = first_domain(daemon, places)
    second_domain(engine, places)
    daemon.call("spmStop", POOL)
    daemon.call("disconnectStoragePool", POOL, 1, POOL)
    (places[MASTER] / MASTER).rename(places[MASTER] / "lost")
    found = {MASTER: "active", OTHER: "active"}
    assert code(daemon, "connectStoragePool", POOL, 1, POOL, MASTER, 1, found) == 304
    daemon.call("reconstructMaster", POOL, "pool", OTHER, found, 2, "ON", 5, 60, 10, 3, 1)
    engine.master, engine.version, engine.domains = OTHER, 2, {OTHER: "active"}
    engine.elect()
    engine.keep_alive()
    # The lost one comes back, and is no master any more once the SPM has seen it.
    (places[MASTER] / "lost").rename(places[MASTER] / MASTER)
    assert code(daemon, "connectStoragePool", POOL, 1, POOL, MASTER, 1, found) != 0
    daemon.call("spmStop", POOL)
    engine.domains[MASTER] = "attached"
    engine.elect()
    assert daemon.call("getStorageDomainInfo", MASTER)["info"]["role"] == "Regular"
    daemon.call("activateStorageDomain", MASTER, POOL)


def test_a_pool_without_a_map_is_refreshed(daemon: support.Daemon, places: dict[str, Path]) -> None:
    """A data centre of 3.4 and before: the map is in the master, and refreshStoragePool tells of changes."""
    connect(daemon, places)
    daemon.call("createStorageDomain", 4, MASTER, "first", str(places[MASTER]), 1, "3")
    daemon.call("createStoragePool", 0, POOL, "pool", MASTER, [MASTER], 1)
    assert code(daemon, "refreshStoragePool", POOL, MASTER, 1) == 309
    daemon.call("connectStoragePool", POOL, 1, POOL, MASTER, 1)
    daemon.call("refreshStoragePool", POOL, MASTER, 1)
    assert code(daemon, "attachStorageDomain", OTHER, POOL) == 654
    assert code(daemon, "refreshStoragePool", POOL, MASTER, 2) == 324
    assert code(daemon, "getSpmStatus", POOL) == 309


@pytest.mark.qemu
def test_a_pool_grows_older_by_three_versions(daemon: support.Daemon, places: dict[str, Path]) -> None:
    engine = first_domain(daemon, places, "0")
    second_domain(engine, places, "0")
    for domain, (image, volume) in IMAGES.items():
        daemon.task("createVolume", domain, POOL, image, str(2**20), 4, 2, 2, volume, "é".encode().hex())
    before = [info(daemon, domain) for domain in IMAGES]
    for version in ("3", "4", "5"):
        assert daemon.call("upgradeStoragePool", POOL, version)["upgradeStatus"] == "started"
        wait(lambda version=version: all(version_of(daemon, domain) == version for domain in IMAGES))
        assert [info(daemon, domain) for domain in IMAGES] == before
        engine.refresh()
        engine.keep_alive()
    assert code(daemon, "upgradeStoragePool", POOL, "4") == 395
    daemon.call("spmStop", POOL)
    engine.elect("5")


def version_of(daemon: support.Daemon, domain: str) -> str:
    return str(daemon.call("getStorageDomainInfo", domain)["info"]["version"])


def info(daemon: support.Daemon, domain: str) -> dict[str, Any]:
    found = daemon.call("getVolumeInfo", domain, POOL, *IMAGES[domain])["info"]
    assert isinstance(found, dict) and found["status"] == "OK"
    return found


def test_iso_and_backup_domains(daemon: support.Daemon, places: dict[str, Path], tmp_path: Path) -> None:
    engine = first_domain(daemon, places)
    iso, backup = str(uuid.uuid4()), str(uuid.uuid4())
    for domain, domain_class in ((iso, 2), (backup, 3)):
        place = tmp_path / domain
        place.mkdir(mode=0o775)
        connect(daemon, {domain: place})
        daemon.call("createStorageDomain", 4, domain, "x", str(place), domain_class, "0")
        daemon.call("attachStorageDomain", domain, POOL)
        daemon.call("activateStorageDomain", domain, POOL)
        engine.domains[domain] = "active"
    engine.refresh()
    engine.keep_alive()
    prefix = Path(daemon.call("getStoragePoolInfo", POOL)["info"]["isoprefix"])
    assert prefix.is_dir() and prefix.samefile(tmp_path / iso / iso / "images" / "11111111-1111-1111-1111-111111111111")
    assert (tmp_path / backup / backup / "master" / "vms").is_dir()
    assert code(daemon, "deactivateStorageDomain", MASTER, POOL, iso, 2) == 317
    assert code(daemon, "deactivateStorageDomain", MASTER, POOL, backup, 2) == 319
