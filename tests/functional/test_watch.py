"""The watch over domains in a real daemon: what clients are told, also while storage hangs."""

import contextlib
import json
import shutil
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon, hung

INTERVAL = 0.2
LIMIT = 1.0
CONFIG = {"storage": {"sd_health_check": INTERVAL, "sd_health_timeout": LIMIT}}


class Place:
    """A daemon with a pool of a master and another active domain, each in a directory of its own.

    Attributes:
        master, other: domain id and directory.
    """

    def __init__(self, running: daemon.Daemon, root: Path) -> None:
        self.daemon = running
        self.pool = str(uuid.uuid4())
        self.master, self.other = self.domain(root / "master"), self.domain(root / "other")
        running.call("createStoragePool", 0, self.pool, "pool", self.master[0], [self.master[0]], 1)
        self.connect(self.other[0])

    def domain(self, directory: Path, domain_class: int = 1) -> tuple[str, Path]:
        directory.mkdir()
        domain_id = str(uuid.uuid4())
        entry = [{"id": domain_id, "connection": str(directory)}]
        [status] = self.daemon.call("connectStorageServer", 4, daemon.BLANK, entry)["statuslist"]
        assert status["status"] == 0
        self.daemon.call("createStorageDomain", 4, domain_id, "d", str(directory), domain_class, 3)
        return domain_id, directory

    def connect(self, *others: str) -> None:
        """Connect the pool with these domains active, beside the master."""
        domains = {domain_id: "active" for domain_id in (self.master[0], *others)}
        self.daemon.call("connectStoragePool", self.pool, 1, "key", self.master[0], 1, domains)

    def stats(self) -> dict[str, Any]:
        found = self.daemon.call("getVdsStats")["info"]["storageDomains"]
        assert isinstance(found, dict)
        return found

    def repo(self) -> dict[str, Any]:
        found = self.daemon.call("repoStats")
        return {key: value for key, value in found.items() if key != "status"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    home = tmp_path / "daemon"
    home.mkdir()
    with daemon.Daemon(home, CONFIG) as running:
        yield Place(running, tmp_path)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def read_by_the_engine(entry: dict[str, Any]) -> None:
    """The engine's own conversions of an entry of storageDomains."""
    assert type(entry["code"]) is int
    for name in ("lastCheck", "delay"):
        assert type(entry[name]) is str and float(entry[name]) >= 0
    assert type(entry["actual"]) is bool


def test_what_clients_are_told_of_healthy_domains(place: Place) -> None:
    for found in (place.stats(), place.repo()):
        assert set(found) == {place.master[0], place.other[0]}
        for entry in found.values():
            read_by_the_engine(entry)
            assert (entry["code"], entry["valid"], entry["actual"], entry["acquired"]) == (0, True, True, True)
            assert entry["version"] == 3
            assert int(entry["disktotal"]) >= int(entry["diskfree"]) > 0 and type(entry["diskfree"]) is str
    dominfo = place.daemon.call("getStoragePoolInfo", place.pool)["dominfo"]
    assert set(dominfo) == {place.master[0], place.other[0]}
    for entry in dominfo.values():
        assert entry["status"] == "Active" and entry["version"] == 3
        assert type(entry["disktotal"]) is str and int(entry["disktotal"]) >= int(entry["diskfree"]) > 0


def test_the_watch_follows_the_pool(place: Place) -> None:
    place.connect()
    assert set(place.repo()) == {place.master[0]}
    place.connect(place.other[0])
    assert set(place.stats()) == {place.master[0], place.other[0]}
    place.daemon.call("disconnectStoragePool", place.pool, 1, "key")
    assert place.stats() == {} and place.repo() == {}


def test_the_watch_finds_out_by_itself(place: Place) -> None:
    record = place.other[1] / place.other[0] / "dom_md" / "metadata"
    good = record.read_bytes()
    record.write_bytes(good.replace(b"VERSION=3", b"VERSION=4"))
    until(lambda: place.repo()[place.other[0]]["code"] == 752)
    entry = place.repo()[place.other[0]]
    read_by_the_engine(entry)
    assert (entry["valid"], entry["acquired"], entry["version"]) == (False, False, -1)
    assert "disktotal" not in entry and place.stats()[place.master[0]]["code"] == 0
    dominfo = place.daemon.call("getStoragePoolInfo", place.pool)["dominfo"][place.other[0]]
    assert dominfo["status"] == "Active" and dominfo["version"] == -1 and "disktotal" not in dominfo
    record.write_bytes(good)
    until(lambda: place.repo()[place.other[0]]["valid"])
    shutil.rmtree(place.other[1] / place.other[0])
    until(lambda: place.stats()[place.other[0]]["code"] == 358)


def test_watching_by_name(place: Place) -> None:
    unknown = str(uuid.uuid4())
    place.daemon.call("startMonitoringDomain", unknown, "1")
    place.daemon.call("startMonitoringDomain", unknown, 1)
    until(lambda: place.repo()[unknown]["actual"])
    entry = place.repo()[unknown]
    assert (entry["code"], entry["valid"], entry["version"]) == (358, False, -1)
    free, _ = place.domain(place.other[1].with_name("free"))
    place.daemon.call("startMonitoringDomain", free, 1)
    assert place.stats()[free]["code"] == 0
    for domain_id in (unknown, unknown, free):
        place.daemon.call("stopMonitoringDomain", domain_id)
    place.daemon.call("stopMonitoringDomain", place.other[0])
    assert set(place.repo()) == {place.master[0], place.other[0]}, "what the pool uses is watched on"
    assert place.daemon.answer("startMonitoringDomain", unknown, "one")["status"]["code"] == 1000
    assert place.daemon.answer("startMonitoringDomain", "../x", 1)["status"]["code"] == 1000


def test_over_json_rpc_the_map_has_no_wrapping(place: Place) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "Host.getStorageRepoStats", "params": {}}
    request = urllib.request.Request(
        f"{place.daemon.url}jsonrpc", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        found = json.load(reply)["result"]
    assert set(found) == {place.master[0], place.other[0]}


# ---------------------------------------------------------------- storage that hangs


@contextlib.contextmanager
def hanging(place: Place, which: tuple[str, Path]) -> Iterator[None]:
    """A domain's storage hangs, and the watch has noticed."""
    with hung.over(which[1]):
        until(lambda: not place.repo()[which[0]]["valid"])
        yield


@pytest.mark.root
@pytest.mark.skipif(not hung.possible(), reason="needs /dev/fuse")
def test_storage_that_hangs_is_reported_and_holds_up_nobody(place: Place) -> None:
    threads = Path(f"/proc/{place.daemon.process.pid}/task")
    with hanging(place, place.other):
        entry = place.stats()[place.other[0]]
        read_by_the_engine(entry)
        assert (entry["code"], entry["valid"], entry["actual"]) == (379, False, True)
        assert float(entry["delay"]) > LIMIT and float(entry["lastCheck"]) > LIMIT
        before = len(list(threads.iterdir()))
        for _ in range(5):
            assert place.stats()[place.master[0]]["valid"]
            place.connect()
            assert set(place.stats()) == {place.master[0]}
            place.daemon.call("ping")
        until(lambda: float(place.repo()[place.master[0]]["lastCheck"]) < LIMIT)
        assert len(list(threads.iterdir())) <= before + 1, "nothing piles up"
    place.connect(place.other[0])
    until(lambda: place.stats()[place.other[0]]["valid"])


@pytest.mark.root
@pytest.mark.skipif(not hung.possible(), reason="needs /dev/fuse")
def test_a_master_that_hangs_does_not_hide_the_others(place: Place) -> None:
    with hanging(place, place.master):
        calls = [threading.Thread(target=ask, args=(place.daemon.url,)) for _ in range(4)]
        for each in calls:
            each.start()
        for each in calls:
            each.join(30)
        assert not any(each.is_alive() for each in calls)
        found = place.stats()
        assert not found[place.master[0]]["valid"] and found[place.other[0]]["valid"]
    until(lambda: place.stats()[place.master[0]]["valid"])


def ask(url: str) -> None:
    proxy = daemon.connect(url)
    proxy.getVdsStats()
    proxy("close")()


@pytest.mark.root
@pytest.mark.skipif(not hung.possible(), reason="needs /dev/fuse")
def test_the_daemon_ends_while_storage_hangs(place: Place) -> None:
    with hanging(place, place.other):
        assert place.daemon.stop() == 0
