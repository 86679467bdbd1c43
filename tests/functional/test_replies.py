"""What the verbs really answer, against what the schema says: members, types, and which errors.

Bridge, API and storage are the real ones; only the network is left out.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest

from rpc import bridge, catalogue
from storage import errors, ids, services, settings
from tests.support import httpserver, jsonpeer, samples
from vdsmlite import api, status

CATALOGUE = catalogue.load(Path(__file__).resolve().parents[2] / "schema")
VERBS = list(CATALOGUE.verbs.values())
CONTEXT = bridge.Context(client="127.0.0.1:1")

POOL = "6e4d6a96-1234-1234-8905-b5eec55c1535"
DOMAIN = "def32ac7-1234-1234-8a8c-1c887333fe65"
SECOND_DOMAIN = "9af9bd7f-6167-4ae8-aac6-95a5e5f36f60"
THIRD_DOMAIN = "39af9bd7-6167-4ae8-aac6-95a5e5f36f60"
ISO_DOMAIN = "ef932ac7-1234-1234-8a8c-1c887333fe65"
MACHINE = "33bd7538-c48b-4b94-ba94-def922151d48"
IMAGE = "47bd7538-c48b-4b94-ba94-def922151d48"
BASE = "11bd7538-c48b-4b94-ba94-def922151d48"
LEAF = "22bd7538-c48b-4b94-ba94-def922151d48"
MIB = 1024 * 1024


@functools.cache
def result_check(name: str) -> Callable[[Any], Any]:
    """Checker of a verb's whole result, by its schema."""
    schema = CATALOGUE.verbs[name].document["result"]["schema"]
    check: Callable[[Any], Any] = fastjsonschema.compile({**schema, "components": {"schemas": CATALOGUE.types}})
    return check


class Client:
    """Calls verbs, and holds every reply to the schema.

    Attributes:
        answered: verbs that have answered with code 0.
    """

    def __init__(self, built: services.Services) -> None:
        self._bridge = bridge.Bridge(CATALOGUE, api.API(built), status.translate)
        self.answered: set[str] = set()

    def __call__(self, name: str, *values: Any) -> dict[str, Any]:
        reply = self.try_call(name, *values)
        assert reply.code == 0, f"{name}: {reply.code} {reply.message}"
        self.answered.add(name)
        return dict(reply.result)

    def try_call(self, name: str, *values: Any) -> bridge.Reply:
        verb = CATALOGUE.verbs[name]
        reply = self._reply(verb, values)
        if reply.code == 0:
            result_check(name)(reply.result)
            assert verb.member in (None, "*") or verb.member in reply.result
            if verb.member is None:
                assert not reply.result
        elif not reply.refused:
            declared = {errors.by_name(error).code for error in verb.errors}
            assert reply.code in declared, f"{name} does not declare {reply.code}: {reply.message}"
        return reply

    def _reply(self, verb: catalogue.Verb, values: tuple[Any, ...]) -> bridge.Reply:
        return self._bridge.call_positional(verb.name, values, CONTEXT)

    def task(self, name: str, *values: Any) -> str:
        """Call a task verb and wait for the end of its task."""
        task: str = self(name, *values)["uuid"]
        while (found := self("getTaskStatus", task)["taskStatus"])["taskState"] != "finished":
            time.sleep(0.01)
        assert found["taskResult"] == "success", found
        return task


class JsonClient(Client):
    """Calls over JSON-RPC, and holds what that answers to its document as well."""

    def __init__(self, built: services.Services, *, by_name: bool) -> None:
        super().__init__(built)
        self.peer = jsonpeer.Peer(self._bridge, status.errors_table())
        self.by_name = by_name

    def _reply(self, verb: catalogue.Verb, values: tuple[Any, ...]) -> bridge.Reply:
        return self.peer.verb(verb, values, by_name=self.by_name)


@pytest.fixture
def built(tmp_path: Path) -> Iterator[services.Services]:
    built = services.build(settings.Settings(repository=tmp_path / "repository", lock_timeout=5.0))
    level = logging.getLogger().level
    yield built
    logging.getLogger().setLevel(level)
    built.close()


@pytest.fixture
def client(built: services.Services) -> Client:
    return Client(built)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    path = tmp_path / "storage"
    path.mkdir(mode=0o775)
    return path


def connection(path: Path) -> list[dict[str, str]]:
    return [{"id": ids.BLANK, "connection": str(path), "port": "", "iqn": "", "user": "", "password": ""}]


def up(client: Client, path: Path, version: str) -> None:
    """From a directory to the SPM of a pool, with the arguments of the engine."""
    client("validateStorageServerConnection", 4, POOL, connection(path))
    [entry] = client("connectStorageServer", 4, POOL, connection(path))["statuslist"]
    assert entry == {"id": ids.BLANK, "status": 0}
    client("createStorageDomain", 4, DOMAIN, "a domain", str(path), 1, version)
    client("createStoragePool", 0, POOL, "a pool", DOMAIN, [DOMAIN], 1, "ON", 5, 60, 10, 3)
    client("connectStoragePool", POOL, 1, POOL, DOMAIN, 1, {DOMAIN: "active"})
    task = client.task("spmStart", POOL, -1, "-1", 0, "false", 250, version)
    assert task in client("getAllTasks")["tasks"]
    client("clearTask", task)
    assert client("getSpmStatus", POOL)["spm_st"]["spmStatus"] == "SPM"


def look(client: Client, volume: str) -> None:
    """Every verb that only reads."""
    where = (DOMAIN, POOL, IMAGE, volume)
    assert client("getVolumeInfo", *where)["info"]["status"] == "OK"
    assert Path(client("getVolumePath", *where)["path"]).is_file()
    client("getVolumeSize", *where)
    for name in ("getStorageDomainInfo", "getStorageDomainStats", "validateStorageDomain", "getImagesList"):
        client(name, DOMAIN)
    client("getStorageDomainsList", POOL, 1, "", "")
    client("getVolumesList", DOMAIN, POOL, IMAGE)
    client("getStoragePoolInfo", POOL)
    for name in ("getConnectedStoragePoolsList", "getVdsCapabilities", "getVdsStats", "ping"):
        client(name)
    client("list", "true", [])


def chain(client: Client) -> None:
    """The verbs on a chain of two volumes."""
    prepared = client("prepareImage", POOL, DOMAIN, IMAGE, LEAF)
    assert {each["volumeID"] for each in prepared["imgVolumesInfo"]} == {BASE, LEAF}
    client("teardownImage", POOL, DOMAIN, IMAGE, LEAF)
    found = client("getVolumeChain", POOL, DOMAIN, IMAGE)
    assert (found["volumes"], found["state"]) == ([BASE, LEAF], "consistent")
    client("setVolumeLegality", DOMAIN, POOL, IMAGE, LEAF, "ILLEGAL")
    assert client("getVolumeChain", POOL, DOMAIN, IMAGE, LEAF)["changes"]
    client.task("proveVolumeChain", POOL, DOMAIN, IMAGE, LEAF)
    repaired = client("reconcileVolumeChain", POOL, DOMAIN, IMAGE, LEAF)
    assert repaired["changed"]
    again = client("reconcileVolumeChain", POOL, DOMAIN, IMAGE, LEAF)
    assert (again["volumes"], again["changed"]) == (repaired["volumes"], False)
    undone = client("undoReconcile", POOL, DOMAIN, IMAGE)
    assert len(undone["changes"]) == len(repaired["changes"])
    assert not client("undoReconcile", POOL, DOMAIN, IMAGE, "true")["changed"]
    assert client("reconcileVolumeChain", POOL, DOMAIN, IMAGE, LEAF)["changes"] == repaired["changes"]


def watch(client: Client) -> None:
    """The verbs of the watch over domains."""
    client("startMonitoringDomain", ISO_DOMAIN, "1")
    found = client("repoStats")
    assert (found[DOMAIN]["code"], found[ISO_DOMAIN]["code"]) == (0, 358)
    client("stopMonitoringDomain", ISO_DOMAIN)
    assert list(client("repoStats")) == [DOMAIN]


def machines(client: Client) -> None:
    """The verbs on descriptions of machines."""
    entry = {"vm": MACHINE, "ovf": "<Envelope>\u00e9</Envelope>", "imglist": IMAGE}
    client("updateVM", POOL, [entry, {}])
    assert client("getVmsList", POOL, "")["vmlist"] == [MACHINE]
    assert client("getVmsInfo", POOL, ids.BLANK, [])["vmlist"] == {MACHINE: entry["ovf"]}
    client("removeVM", POOL, MACHINE, DOMAIN)
    assert client("getVmsInfo", POOL)["vmlist"] == {}


def isos(client: Client, path: Path) -> None:
    """The verbs on ISO files."""
    path.mkdir()
    client("connectStorageServer", 4, POOL, connection(path))
    client("createStorageDomain", 4, ISO_DOMAIN, "isos", str(path), 2, 0)
    client("connectStoragePool", POOL, 1, POOL, DOMAIN, 1, {DOMAIN: "active", ISO_DOMAIN: "active"})
    place = path / ISO_DOMAIN / "images" / "11111111-1111-1111-1111-111111111111"
    (place / "a.iso").touch()
    (place / "b.vfd").touch()
    assert set(client("getFileStats", ISO_DOMAIN, "*", False)["fileStats"]) == {"a.iso", "b.vfd"}
    assert client("getIsoList", POOL)["isolist"] == ["a.iso"]
    assert client("getFloppyList", POOL)["isolist"] == ["b.vfd"]
    client("connectStoragePool", POOL, 1, POOL, DOMAIN, 1, {DOMAIN: "active"})


def membership(client: Client, path: Path, version: str) -> None:
    """A second domain comes, becomes the master, and goes; the pool ends as it began, with a higher master version."""
    path.mkdir(mode=0o775)
    client("connectStorageServer", 4, POOL, connection(path))
    client("createStorageDomain", 4, SECOND_DOMAIN, "second", str(path), 1, version)
    client("attachStorageDomain", SECOND_DOMAIN, POOL)
    client("activateStorageDomain", SECOND_DOMAIN, POOL)
    client("setStorageDomainDescription", SECOND_DOMAIN, "another name")
    client("setStoragePoolDescription", POOL, "another pool")
    assert client("upgradeStoragePool", POOL, version)["upgradeStatus"] == "started"
    client("deactivateStorageDomain", DOMAIN, POOL, SECOND_DOMAIN, 2)
    client("activateStorageDomain", DOMAIN, POOL)
    client("deactivateStorageDomain", SECOND_DOMAIN, POOL, DOMAIN, 3)
    client("detachStorageDomain", SECOND_DOMAIN, POOL, ids.BLANK, 1)
    client("forcedDetachStorageDomain", SECOND_DOMAIN, POOL)
    client("connectStoragePool", POOL, 1, POOL, DOMAIN, 3, {DOMAIN: "active"})
    client("formatStorageDomain", SECOND_DOMAIN)


def transfers(client: Client) -> None:
    """A content goes out, and another one comes in."""
    with httpserver.serving() as server:
        place = {"method": "http", "url": server.url("/ok"), "headers": {}}
        client.task("uploadImage", place, POOL, DOMAIN, IMAGE, BASE)
        assert server.content == bytes(MIB)
        server.content = b"new"
        client.task("downloadImage", place, POOL, DOMAIN, IMAGE, ids.BLANK)
    assert Path(client("getVolumePath", DOMAIN, POOL, IMAGE, BASE)["path"]).read_bytes() == b"new".ljust(MIB, b"\0")


def copies(client: Client, path: Path, version: str) -> None:
    """An image goes to another domain and comes back in every way, and its volumes are merged and grown."""
    path.mkdir(mode=0o775)
    client("connectStorageServer", 4, POOL, connection(path))
    client("createStorageDomain", 4, THIRD_DOMAIN, "third", str(path), 1, version)
    client("attachStorageDomain", THIRD_DOMAIN, POOL)
    client("activateStorageDomain", THIRD_DOMAIN, POOL)
    volumes = [f"{number}3bd7538-c48b-4b94-ba94-def922151d48" for number in range(3)]
    image, copy = (f"{number}4bd7538-c48b-4b94-ba94-def922151d48" for number in range(2))
    for number, volume in enumerate(volumes):
        form, parent = (4, volumes[number - 1]) if number else (5, ids.BLANK)
        client.task("createVolume", DOMAIN, POOL, image, str(MIB), form, 2, 2, volume, "x", image, parent)
    leaf, where = volumes[-1], (POOL, DOMAIN, image)
    client.task("extendVolumeSize", *where, leaf, str(2 * MIB))
    client("volumeSetSize", DOMAIN, POOL, image, leaf, 2 * MIB)
    client("refreshVolume", DOMAIN, POOL, image, leaf)
    assert client("getVolumeInfo", DOMAIN, POOL, image, leaf)["info"]["capacity"] == str(2 * MIB)
    made = (copy, LEAF, "a copy", THIRD_DOMAIN, 6, 5, 2, "false", "false")
    client.task("copyImage", DOMAIN, POOL, "", image, leaf, *made)
    assert client("getVolumeInfo", THIRD_DOMAIN, POOL, copy, LEAF)["info"]["voltype"] == "SHARED"
    client.task("cloneImageStructure", *where, THIRD_DOMAIN)
    client.task("syncImageData", *where, THIRD_DOMAIN, "INTERNAL")
    client.task("moveImage", POOL, DOMAIN, THIRD_DOMAIN, image, "", 2, "false", "true")
    client.task("moveMultipleImages", POOL, THIRD_DOMAIN, DOMAIN, {image: "false", copy: "false"}, "", "false")
    client.task("mergeSnapshots", DOMAIN, POOL, "", image, volumes[0], leaf, "false")
    assert client("getVolumeChain", POOL, DOMAIN, image)["volumes"] == [leaf]
    for each in (image, copy):
        client.task("deleteImage", DOMAIN, POOL, each)
    client("deactivateStorageDomain", THIRD_DOMAIN, POOL, ids.BLANK, 1)
    client("detachStorageDomain", THIRD_DOMAIN, POOL, ids.BLANK, 1)
    client("formatStorageDomain", THIRD_DOMAIN)


def host(client: Client, path: Path) -> None:
    """Verbs on the host, and on references to connections."""
    client("setLogLevel", 30)
    assert client("getAllVmStats")["statsList"] == []
    assert client("getDevicesVisibility", ["3600"])["visible"] == {"3600": False}
    client("getDeviceList", 3)
    wanted = {"a": {"type": "localfs", "params": {"path": str(path)}}, "b": {"type": "iscsi", "params": {}}}
    assert client("storageServer_ConnectionRefs_acquire", wanted)["results"] == {"a": 0, "b": 465}
    assert set(client("storageServer_ConnectionRefs_statuses")["connectionslist"]) == {"a"}
    assert client("storageServer_ConnectionRefs_release", ["a", "b"])["results"] == {"a": 0, "b": 479}


# Verbs that need a machine, a fence agent, LVM, firmware tables, or a process to end; see test_host_verbs.
NOT_ON_EVERY_HOST = set(
    """createVG discoverSendTargets fenceNode getVGInfo getVGList getVdsHardwareInfo getVmStats merge prepareForShutdown
    removeVG snapshot""".split()  # noqa: SIM905
)


@pytest.mark.qemu
@pytest.mark.parametrize("version", ["0", "5"])
def test_every_verb_answers_as_the_schema_says(client: Client, storage: Path, version: str) -> None:
    every_verb(client, storage, version)


@pytest.mark.qemu
@pytest.mark.parametrize(("version", "by_name"), [("3", True), ("4", False)])
def test_every_method_answers_as_its_document_says(
    built: services.Services, storage: Path, version: str, by_name: bool
) -> None:
    client = JsonClient(built, by_name=by_name)
    every_verb(client, storage, version)
    assert {CATALOGUE.by_method[method].name for method in client.peer.checked} == client.answered


def every_verb(client: Client, storage: Path, version: str) -> None:
    """All that a host without machines and volume groups can do."""
    up(client, storage, version)
    size = str(MIB)
    client.task("createVolume", DOMAIN, POOL, IMAGE, size, 5, 2, 2, BASE, "base", ids.BLANK, ids.BLANK)
    task = client.task("createVolume", DOMAIN, POOL, IMAGE, size, 4, 2, 2, LEAF, '{"DiskAlias":"a=b"}', IMAGE, BASE)
    client("getTaskInfo", task)
    assert task in client("getAllTasksInfo")["allTasksInfo"]
    assert task in client("getAllTasksStatuses")["allTasksStatus"]
    client("stopTask", task)
    client("setVolumeDescription", DOMAIN, POOL, IMAGE, BASE, "another")
    look(client, LEAF)
    assert client("getImageDomainsList", POOL, IMAGE)["domainslist"] == [DOMAIN]
    chain(client)
    watch(client)
    machines(client)
    isos(client, storage.with_name("isos"))
    client.task("deleteVolume", DOMAIN, POOL, IMAGE, [LEAF], "false", "false")
    client("revertTask", client.task("createVolume", DOMAIN, POOL, IMAGE, size, 4, 2, 2, LEAF, "x", IMAGE, BASE))
    transfers(client)
    client.task("deleteImage", DOMAIN, POOL, IMAGE, "false", "false")
    copies(client, storage.with_name("third"), version)
    membership(client, storage.with_name("second"), version)
    client("spmStop", POOL)
    client("disconnectStoragePool", POOL, 1, POOL)
    client("reconstructMaster", POOL, "a pool", DOMAIN, {DOMAIN: "active"}, 4, "ON", 5, 60, 10, 3, 1)
    client("connectStoragePool", POOL, 1, POOL, DOMAIN, 4)
    client("refreshStoragePool", POOL, DOMAIN, 4)
    assert client("fenceSpmStorage", POOL, -1, -1)["spm_st"] == {"spmStatus": "Free", "spmLver": -1, "spmId": -1}
    client.task("spmStart", POOL, -1, -1, 0, "false")
    client("extendStorageDomain", DOMAIN, POOL, [])
    client("destroyStoragePool", POOL, 1, POOL)
    client("formatStorageDomain", DOMAIN, "true")
    client("disconnectStorageServer", 4, POOL, connection(storage))
    host(client, storage)
    assert client.answered >= set(CATALOGUE.verbs) - NOT_ON_EVERY_HOST


def test_errors_over_json_are_those_of_the_document(built: services.Services) -> None:
    client = JsonClient(built, by_name=True)
    for verb in VERBS:
        for client.by_name in (True, False):
            client.try_call(verb.name, *samples.positional(verb))


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_errors_on_an_empty_host_are_declared(client: Client, verb: catalogue.Verb) -> None:
    client.try_call(verb.name, *samples.positional(verb))


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_errors_for_unknown_things_are_declared(client: Client, storage: Path, verb: catalogue.Verb) -> None:
    up(client, storage, "3")
    unknown = "99999999-9999-4999-8999-999999999999"
    for known in ({}, {"storagepoolID": POOL}, {"storagepoolID": POOL, "storagedomainID": DOMAIN}):
        values = samples.positional(verb)
        for place, position in enumerate(verb.wire):
            if samples.type_of(position.schema) == "UUID":
                values[place] = known.get(position.name, unknown)
        reply = client.try_call(verb.name, *values)
        assert not reply.refused, reply.message
