"""References, verbs on the host and on block storage, over a real daemon."""

import contextlib
import http.client
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon as daemons

BLANK = daemons.BLANK
VM = "33bd7538-c48b-4b94-ba94-def922151d48"
# The fixed ids of the protocol's own functional test.
REFS = ("53acd629-47e6-42d8-ba99-cd0b12ff0e1e", "87e618fe-587c-4704-a9f8-9fd9321fd907")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[daemons.Daemon]:
    with start(tmp_path) as made:
        yield made


def start(tmp_path: Path, **storage: Any) -> daemons.Daemon:
    directory = tmp_path / "daemon"
    directory.mkdir(exist_ok=True)
    return daemons.Daemon(directory, {"storage": {"reconnect_interval": 0.1, **storage}})


def code(daemon: daemons.Daemon, verb: str, *arguments: Any) -> int:
    return int(daemon.answer(verb, *arguments)["status"]["code"])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def json_rpc(daemon: daemons.Daemon, method: str, **params: Any) -> dict[str, Any]:
    connection = http.client.HTTPConnection(daemon.address, timeout=60)
    with contextlib.closing(connection):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        connection.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
        found = json.loads(connection.getresponse().read())
    assert isinstance(found, dict)
    return found


# ---------------------------------------------------------------- references


def local(path: Path) -> dict[str, Any]:
    return {"type": "localfs", "params": {"path": str(path)}}


def statuses(daemon: daemons.Daemon) -> dict[str, Any]:
    found = daemon.call("storageServer_ConnectionRefs_statuses")["connectionslist"]
    assert isinstance(found, dict)
    return found


def directories(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "teststorage0", tmp_path / "teststorage1"]
    for each in made:
        each.mkdir(0o775)
    return made


def test_the_beginning_of_the_protocols_own_functional_test(daemon: daemons.Daemon, tmp_path: Path) -> None:
    paths = directories(tmp_path)
    wanted = {ref: local(path) for ref, path in zip(REFS, paths, strict=True)}
    answer = daemon.call("storageServer_ConnectionRefs_acquire", wanted)
    assert answer["results"] == dict.fromkeys(REFS, 0)
    until(lambda: all(statuses(daemon)[ref]["connected"] is True for ref in REFS))
    assert statuses(daemon)[REFS[0]] == {
        "connected": True,
        "lastError": [0, ""],
        "connectionInfo": {"type": "localfs", "params": {"path": str(paths[0])}},
    }
    domain = str(uuid.uuid4())
    assert code(daemon, "getStorageDomainInfo", domain) == 358
    daemon.call("createStorageDomain", 4, domain, "test domain0", str(paths[0]), 1, 3)
    daemon.call("formatStorageDomain", domain, True)
    assert daemon.call("storageServer_ConnectionRefs_release", list(REFS))["results"] == dict.fromkeys(REFS, 0)
    assert statuses(daemon) == {}
    until(lambda: os.listdir(daemon.repository / "mnt") == [])


def test_each_reference_has_its_own_result(daemon: daemons.Daemon, tmp_path: Path) -> None:
    first, _ = directories(tmp_path)
    daemon.call("storageServer_ConnectionRefs_acquire", {"a": local(first)})
    wanted = {"a": local(first), "b": {"type": "sharedfs", "params": {}}, "c": {"type": "iscsi", "params": {}}, "d": {}}
    found = daemon.call("storageServer_ConnectionRefs_acquire", wanted)["results"]
    assert found == {"a": 478, "b": 453, "c": 465, "d": 453}
    assert daemon.call("storageServer_ConnectionRefs_release", ["a", "b"])["results"] == {"a": 0, "b": 479}


def test_what_cannot_be_connected_says_why(daemon: daemons.Daemon, tmp_path: Path) -> None:
    missing = tmp_path / "later"
    nfs = {"type": "nfs", "params": {"export": "127.0.0.1:/x", "retrans": 1, "timeout": "5", "version": "3"}}
    wanted = {"missing": local(missing), "nfs": nfs}
    assert set(daemon.call("storageServer_ConnectionRefs_acquire", wanted)["results"].values()) == {0}
    until(lambda: statuses(daemon)["missing"]["lastError"][0] == 469)
    if shutil.which("mount.nfs") is None:
        until(lambda: statuses(daemon)["nfs"]["lastError"][0] == 477)
        assert statuses(daemon)["nfs"]["connectionInfo"]["params"]["extraOptions"] == "default"
    missing.mkdir()
    until(lambda: bool(statuses(daemon)["missing"]["connected"]))
    assert statuses(daemon)["missing"]["lastError"] == [0, ""]


def test_references_outlive_a_killed_daemon(tmp_path: Path) -> None:
    first, _ = directories(tmp_path)
    with start(tmp_path) as before:
        before.call("storageServer_ConnectionRefs_acquire", {"a": local(first)})
        until(lambda: bool(statuses(before)["a"]["connected"]))
        before.kill()
    [link] = (tmp_path / "daemon/repository/mnt").iterdir()
    link.unlink()
    with start(tmp_path) as after:
        until(lambda: bool(statuses(after)["a"]["connected"]))
        assert link.is_symlink()
        assert stat.S_IMODE((after.repository / "connections.json").stat().st_mode) == 0o600
        assert after.call("storageServer_ConnectionRefs_release", ["a"])["results"] == {"a": 0}
        until(lambda: not link.is_symlink())


def test_references_over_json(daemon: daemons.Daemon, tmp_path: Path) -> None:
    first, _ = directories(tmp_path)
    assert json_rpc(daemon, "ConnectionRefs.acquire", conRefArgs={"a": local(first)})["result"] == {"a": 0}
    assert set(json_rpc(daemon, "ConnectionRefs.statuses")["result"]) == {"a"}
    assert json_rpc(daemon, "ConnectionRefs.release", refIDs=["a"])["result"] == {"a": 0}


# ---------------------------------------------------------------- connections


@pytest.mark.parametrize(("server_type", "source"), [(1, "127.0.0.1:/x"), (7, "127.0.0.1:vol")])
def test_a_host_without_a_client_of_the_network_file_system(
    daemon: daemons.Daemon, server_type: int, source: str
) -> None:
    if shutil.which("mount.nfs") or shutil.which("mount.glusterfs"):
        pytest.skip("this host has clients for network file systems")
    entry = [{"id": BLANK, "connection": source, "port": "", "iqn": "", "user": "", "password": "", "mnt_options": ""}]
    for verb in ("connectStorageServer", "validateStorageServerConnection"):
        [found] = daemon.call(verb, server_type, BLANK, entry)["statuslist"]
        assert found == {"id": BLANK, "status": 477}
    [found] = daemon.call("disconnectStorageServer", server_type, BLANK, entry)["statuslist"]
    assert found["status"] == 0
    assert code(daemon, "createStorageDomain", server_type, str(uuid.uuid4()), "x", source, 1, 3) == 360
    assert code(daemon, "createStorageDomain", server_type, str(uuid.uuid4()), "x", "nowhere", 1, 3) == 390
    assert [name for name in os.listdir(daemon.repository / "mnt") if name != "glusterSD"] == []


def test_a_wrong_number_refuses_the_whole_call(daemon: daemons.Daemon, tmp_path: Path) -> None:
    entries = [{"id": "a", "connection": "s:/x"}, {"id": "b", "connection": "s:/y", "timeout": "long"}]
    for verb in ("connectStorageServer", "disconnectStorageServer"):
        assert code(daemon, verb, 1, BLANK, entries) == 1000


# ---------------------------------------------------------------- the host


def test_a_host_without_machines(daemon: daemons.Daemon) -> None:
    assert daemon.call("getAllVmStats")["statsList"] == []
    drive = {"poolID": VM, "domainID": VM, "imageID": VM, "volumeID": VM}
    snapshot = [{"domainID": VM, "imageID": VM, "baseVolumeID": VM, "volumeID": VM}]
    assert code(daemon, "getVmStats", VM) == 1
    assert code(daemon, "merge", VM, drive, VM, VM, "0", VM) == 1
    assert code(daemon, "snapshot", VM, snapshot) == 1
    assert code(daemon, "snapshot", VM, snapshot, ",".join([VM] * 6)) == 1
    assert json_rpc(daemon, "VM.getStats", vmID=VM)["error"]["code"] == 1


def test_hardware(daemon: daemons.Daemon) -> None:
    answer = daemon.answer("getVdsHardwareInfo")
    if answer["status"]["code"]:
        assert answer["status"]["code"] == 57
        assert not any(Path(each).exists() for each in ("/sys/class/dmi/id/sys_vendor", "/proc/device-tree/model"))
    else:
        assert answer["info"] and all(isinstance(each, str) and each for each in answer["info"].values())


def test_the_level_of_the_log(daemon: daemons.Daemon) -> None:
    assert code(daemon, "setLogLevel", 50) == 0
    assert code(daemon, "connectStorageServer", 4, BLANK, [{"id": "quiet", "connection": "/no/quiet"}]) == 0
    assert code(daemon, "setLogLevel", "20") == 0
    assert code(daemon, "connectStorageServer", 4, BLANK, [{"id": "loud", "connection": "/no/loud"}]) == 0
    until(lambda: "/no/loud" in daemon.log)
    assert "/no/quiet" not in daemon.log
    assert daemon.log.count("connectStorageServer") >= 2, "audit lines are written at any level"
    assert code(daemon, "setLogLevel", 1000) == 1000
    assert code(daemon, "setLogLevel") == 16


def test_the_daemon_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    with start(tmp_path) as daemon:
        assert code(daemon, "prepareForShutdown") == 0
        assert daemon.process.wait(timeout=30) == 0
        assert not (daemon.repository / "vdsmlite.pid").exists()


def test_fencing(daemon: daemons.Daemon) -> None:
    words = ("127.0.0.1", "", "vdsmlite_test_none", "user", "password")
    assert code(daemon, "fenceNode", *words, "status") == 43
    assert code(daemon, "fenceNode", *words, "explode", False, "", {"storageDomainHostIdMap": {BLANK: 1}}) == 16
    assert "password" not in daemon.log


# ---------------------------------------------------------------- block storage


def test_block_storage_is_looked_at_and_never_changed(daemon: daemons.Daemon) -> None:
    guid, group = "360014050000000000000000000000000", "Zd3UBa-lJf7-TCr1-AqBq-oCbz-mGAl-5uUrWn"
    assert daemon.call("getDevicesVisibility", [guid, "../null"])["visible"] == {guid: False, "../null": False}
    assert code(daemon, "createVG", str(uuid.uuid4()), [guid], False) == 606
    assert code(daemon, "createVG", str(uuid.uuid4()), []) == 1000
    assert code(daemon, "getDeviceList", "nfs") == 372
    portal = {"connection": "127.0.0.1", "port": "3260", "user": "", "password": ""}
    assert code(daemon, "discoverSendTargets", portal) == 475
    assert code(daemon, "discoverSendTargets", {"connection": "127.0.0.1"}) == 1000
    found = json_rpc(daemon, "ISCSIConnection.discoverSendTargets", host="h", port=1, user="", password="")
    assert found["error"]["code"] == 475
    if shutil.which("lvm"):
        assert isinstance(daemon.call("getVGList")["vglist"], list)
        assert code(daemon, "getVGInfo", group) == 506
        assert code(daemon, "removeVG", group) == 0
    else:
        assert [code(daemon, verb, *words) for verb, words in (("getVGList", ()), ("getVGInfo", (group,)))] == [
            500,
            500,
        ]
        assert code(daemon, "removeVG", group) == 500


@pytest.mark.skipif(any(Path("/sys/block").glob("dm-*")), reason="needs a host without mapped devices")
def test_a_host_without_multipath_devices(daemon: daemons.Daemon) -> None:
    for words in ((), (2,), (3,), ("FCP",), ("iscsi",)):
        assert daemon.call("getDeviceList", *words)["devList"] == []


def test_extending_a_domain(daemon: daemons.Daemon, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    pool = daemons.make_pool(daemon, storage)
    assert code(daemon, "extendStorageDomain", pool.domain, pool.id, []) == 0
    assert code(daemon, "extendStorageDomain", pool.domain, pool.id, ["guid"], True) == 1000
    assert code(daemon, "extendStorageDomain", str(uuid.uuid4()), pool.id, []) in (358, 375)
    assert code(daemon, "extendStorageDomain", pool.domain, str(uuid.uuid4()), []) == 309
    daemon.call("spmStop", pool.id)
    assert code(daemon, "extendStorageDomain", pool.domain, pool.id, []) == 654
