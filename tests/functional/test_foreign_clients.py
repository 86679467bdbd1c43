"""Clients that were not written here drive a real daemon: from a directory to a repaired chain, and into errors."""

import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonrpclib
import pytest

from tests.support import daemon, foreign, frontier

pytestmark = pytest.mark.qemu

BLANK = daemon.BLANK
LOCALFS, COW, SPARSE, DATA_DISK = daemon.LOCALFS, daemon.COW, daemon.SPARSE, daemon.DATA_DISK
# More bytes than 32 bits count, and more sectors too.
LARGE = (1 << 44) + (1 << 20)
NOBODY = "99999999-9999-4999-8999-999999999999"
TEXT = "Gro\u00dfe <Platte> & \"C\" '\u4e2d\u6587' \U0001f600 =;|"
PATIENCE = 50.0

Xml = foreign.PythonXml | frontier.Client

XML_CLIENTS = [
    pytest.param(foreign.PythonXml, id="python"),
    pytest.param(
        frontier.Client,
        id="perl",
        marks=pytest.mark.skipif(frontier.missing(), reason="needs Perl's Frontier::Client"),
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon.Daemon]:
    with daemon.Daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    place = tmp_path / "stor\u00e4ge & <more>"
    place.mkdir(mode=0o775)
    return place


@pytest.fixture(params=XML_CLIENTS)
def xml(request: pytest.FixtureRequest, server: daemon.Daemon) -> Iterator[Xml]:
    with request.param(server.url) as client:
        yield client


def ok(answer: Any) -> dict[str, Any]:
    """The struct of an answer whose status is good."""
    assert type(answer["status"]["code"]) is int and answer["status"] == {"code": 0, "message": "OK"}, answer
    assert isinstance(answer, dict)
    return answer


def code(answer: Any) -> int:
    assert set(answer) == {"status"} and set(answer["status"]) == {"code", "message"}
    return int(answer["status"]["code"])


def until_finished(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Status of a task when it has finished."""
    end = time.monotonic() + PATIENCE
    while (found := look())["taskState"] != "finished":
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def run(client: Xml, verb: str, *values: Any) -> dict[str, Any]:
    """A task from its start until it is cleared; how it ended."""
    task = ok(client.call(verb, *values))["uuid"]
    if verb != "spmStart":  # of all tasks only the SPM tells
        assert task in ok(client.call("getAllTasksStatuses"))["allTasksStatus"]
    found = until_finished(lambda: ok(client.call("getTaskStatus", task))["taskStatus"])
    ok(client.call("clearTask", task))
    assert code(client.call("getTaskStatus", task)) == 401
    return found


def pool_of(client: Xml, storage: Path) -> tuple[str, str]:
    """A pool with one domain, of which the host is the SPM; the two ids."""
    pool, domain = str(uuid.uuid4()), str(uuid.uuid4())
    connection = {"id": BLANK, "connection": str(storage), "port": "", "iqn": "", "user": "", "password": ""}
    answer = ok(client.call("connectStorageServer", LOCALFS, BLANK, [connection]))
    assert answer["statuslist"] == [{"id": BLANK, "status": 0}]
    ok(client.call("createStorageDomain", LOCALFS, domain, TEXT[:40], str(storage), 1, "3"))
    ok(client.call("createStoragePool", 0, pool, "pool", domain, [domain], 1, "ON", 5, 60, 10, 3))
    ok(client.call("connectStoragePool", pool, 1, pool, domain, 1, {domain: "active"}))
    assert run(client, "spmStart", pool, -1, "-1", 0, "false", 250, "3")["taskResult"] == "success"
    info = ok(client.call("getStorageDomainInfo", domain))["info"]
    assert (info["name"], info["remotePath"], info["pool"]) == (TEXT[:40], str(storage), [pool])
    space = ok(client.call("getStoragePoolInfo", pool))["dominfo"][domain]
    assert int(space["disktotal"]) >= int(space["diskfree"]) > 0 and isinstance(space["diskfree"], str)
    return pool, domain


def chain_of(client: Xml, pool: str, domain: str, image: str) -> list[str]:
    """An image of three volumes of a size that no number of the format holds; their ids, root first."""
    volumes: list[str] = []
    for _ in range(3):
        volume, source = str(uuid.uuid4()), (image, volumes[-1]) if volumes else (BLANK, BLANK)
        how = (str(LARGE), COW, SPARSE, DATA_DISK, volume, TEXT)
        found = run(client, "createVolume", domain, pool, image, *how, *source)
        assert (found["code"], found["taskResult"]) == (0, "success"), found
        volumes.append(volume)
    for volume, parent in zip(volumes, [BLANK, *volumes], strict=False):
        info = ok(client.call("getVolumeInfo", domain, pool, image, volume))["info"]
        assert (info["capacity"], info["description"], info["parent"]) == (str(LARGE), TEXT, parent)
    assert sorted(ok(client.call("getVolumesList", domain, pool, image))["uuidlist"]) == sorted(volumes)
    return volumes


def test_xml_rpc_from_a_directory_to_a_repaired_chain(xml: Xml, storage: Path) -> None:
    pool, domain = pool_of(xml, storage)
    image = str(uuid.uuid4())
    volumes = chain_of(xml, pool, domain, image)
    where = (pool, domain, image, volumes[-1])
    looked = ok(xml.call("getVolumeChain", *where))
    assert (looked["volumes"], looked["state"], looked["changes"]) == (volumes, "consistent", [])
    ok(xml.call("setVolumeLegality", domain, pool, image, volumes[-1], "ILLEGAL"))
    for changed in (True, False):
        repaired = ok(xml.call("reconcileVolumeChain", *where))
        assert repaired["changed"] is changed
        assert set(repaired["volumes"]) <= set(volumes)
    for volume in reversed(volumes):
        if volume not in repaired["volumes"]:
            assert run(xml, "deleteVolume", domain, pool, image, [volume], "false", "false")["code"] == 0
    assert ok(xml.call("getVolumesList", domain, pool, image))["uuidlist"]
    assert run(xml, "deleteImage", domain, pool, image, "false", "false")["code"] == 0
    assert ok(xml.call("getImagesList", domain))["imageslist"] == []
    ok(xml.call("spmStop", pool))
    ok(xml.call("disconnectStoragePool", pool, 1, pool))


def test_xml_rpc_errors(xml: Xml, server: daemon.Daemon) -> None:
    assert code(xml.call("getStoragePoolInfo", NOBODY)) == 309
    assert code(xml.call("getVolumeInfo", NOBODY, NOBODY, NOBODY, NOBODY)) == 358
    assert code(xml.call("getStorageDomainInfo", "../etc")) == 1000
    assert code(xml.call("getStorageDomainInfo")) == 16
    assert code(xml.call("getTaskStatus", NOBODY)) == 401
    for name in ("noSuchVerb", "system.nonsense", "Host.ping"):
        with pytest.raises(frontier.Fault, match="not supported") as caught:
            xml.call(name)
        assert caught.value.code in (1, None)
    message = xml.call("storageServer_ConnectionRefs_release", [TEXT])["results"]
    assert message == {TEXT: 479}, "text comes back as it went"


def test_xml_rpc_says_what_there_is(xml: Xml) -> None:
    names = xml.call("system.listMethods")
    assert {"reconcileVolumeChain", "getVolumeChain", "createVolume"} <= set(names)
    assert "chain" in xml.call("system.methodHelp", "reconcileVolumeChain")
    assert xml.call("system.methodSignature", "ping")
    calls = [{"methodName": "ping", "params": []}, {"methodName": "getTaskStatus", "params": [NOBODY]}]
    [[first], [second]] = xml.call("system.multicall", calls)
    assert (first["status"]["code"], second["status"]["code"]) == (0, 401)


# ---------------------------------------------------------------- JSON-RPC


@pytest.fixture
def client(server: daemon.Daemon) -> Iterator[foreign.JsonRpc]:
    with foreign.JsonRpc(f"{server.url}jsonrpc") as made:
        yield made


def run_json(client: foreign.JsonRpc, method: str, **named: Any) -> dict[str, Any]:
    """A task from its start until it is cleared; how it ended."""
    task = client.call(method, **named)
    if method != "StoragePool.spmStart":
        assert task in client.call("Host.getAllTasksStatuses")
    found = until_finished(lambda: client.call("Task.getStatus", taskID=task))
    assert client.call("Task.clear", task) is True
    return found


def test_json_rpc_from_a_directory_to_a_repaired_chain(client: foreign.JsonRpc, storage: Path) -> None:
    pool, domain, image = (str(uuid.uuid4()) for _ in range(3))
    connection = {"id": BLANK, "connection": str(storage)}
    known = {"storagepoolID": BLANK, "domainType": LOCALFS, "connectionParams": [connection]}
    assert client.call("StoragePool.connectStorageServer", **known) == [{"id": BLANK, "status": 0}]
    kind = {"domainType": LOCALFS, "typeArgs": str(storage), "name": TEXT[:40], "domainClass": 1, "version": "3"}
    assert client.call("StorageDomain.create", storagedomainID=domain, **kind) is True
    frame = {"name": "pool", "masterSdUUID": domain, "masterVersion": 1, "domainList": [domain]}
    assert client.call("StoragePool.create", storagepoolID=pool, **frame) is True
    told = {"hostID": 1, "scsiKey": pool, "masterSdUUID": domain, "masterVersion": 1, "domainDict": {domain: "active"}}
    assert client.call("StoragePool.connect", storagepoolID=pool, **told) is True
    start = {"prevID": -1, "prevLver": -1, "enableScsiFencing": False}
    assert run_json(client, "StoragePool.spmStart", storagepoolID=pool, **start)["taskResult"] == "success"
    place = {"storagepoolID": pool, "storagedomainID": domain, "imageID": image}
    volumes: list[str] = []
    for _ in range(3):
        volume, source = str(uuid.uuid4()), (image, volumes[-1]) if volumes else (BLANK, BLANK)
        how = {"size": str(LARGE), "volFormat": COW, "preallocate": SPARSE, "diskType": DATA_DISK, "desc": TEXT}
        source_of = dict(zip(("srcImgUUID", "srcVolUUID"), source, strict=True))
        assert run_json(client, "Volume.create", **place, volumeID=volume, **how, **source_of)["code"] == 0
        volumes.append(volume)
    info = client.call("Volume.getInfo", **place, volumeID=volumes[1])
    assert (info["capacity"], info["description"], info["parent"]) == (str(LARGE), TEXT, volumes[0])
    assert client.call("Volume.setLegality", **place, volumeID=volumes[-1], legality="ILLEGAL") is True
    found = client.call("Image.reconcileVolumeChain", **place, leafVolID=volumes[-1])
    assert found == client.call("Image.reconcileVolumeChain", **place, leafVolID=volumes[-1])
    assert set(found) <= set(volumes)
    deleted = run_json(client, "Image.delete", **place, postZero=False, force=False)
    assert deleted["taskResult"] == "success"
    assert client.call("StoragePool.spmStop", pool) is True
    assert client.call("StoragePool.disconnect", pool, 1, pool) is True


def test_json_rpc_errors(client: foreign.JsonRpc) -> None:
    for wanted, method, named in (
        (309, "StoragePool.getInfo", {"storagepoolID": NOBODY}),
        (401, "Task.getStatus", {"taskID": NOBODY}),
        (-32602, "Task.getStatus", {"taskID": "../etc"}),
        (-32602, "Task.getStatus", {}),
        (-32602, "Task.getStatus", {"taskID": NOBODY, "speed": 1}),
        (-32601, "Task.noSuchMethod", {}),
        (-32601, "getTaskStatus", {"taskID": NOBODY}),
    ):
        with pytest.raises(frontier.Fault) as caught:
            client.call(method, **named)
        assert caught.value.code == wanted, method


def test_json_rpc_batch_with_a_notification(client: foreign.JsonRpc) -> None:
    batch = jsonrpclib.MultiCall(client.proxy)
    batch.Host.ping()
    batch._notify.Host.setLogLevel(level=20)
    batch.Task.getStatus(NOBODY)
    batch.Host.getStorageRepoStats()
    results = batch()
    assert len(results) == 3 and results[0] is True and isinstance(results[2], dict)
    with pytest.raises(jsonrpclib.ProtocolError) as caught:
        results[1]
    assert caught.value.args[0][0] == 401


def test_json_rpc_notification_alone_is_run_and_has_no_content(client: foreign.JsonRpc, server: daemon.Daemon) -> None:
    """This client wants content all the same, and says so when the call is long done."""
    with pytest.raises(jsonrpclib.jsonrpc.TransportError) as silent:
        client.proxy._notify.Task.clear(taskID=NOBODY)
    assert silent.value.errcode == 204
    assert re.search(r"\bclearTask\b.*\b401\b", server.log)


def test_json_rpc_discovery(client: foreign.JsonRpc) -> None:
    document = client.call("rpc.discover")
    assert document["openrpc"].startswith("1.")
    assert {"Image.reconcileVolumeChain", "Host.ping"} <= {method["name"] for method in document["methods"]}
