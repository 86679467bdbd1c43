"""Descriptions of machines and ISO files over a real daemon, as an engine asks for them; and a killed daemon."""

import os
import threading
import uuid
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon

# Without carriage returns: clients send them bare, and XML makes line feeds of those.
OVF = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<ovf:Envelope name="Gr\u00f6\u00dfe \u4e2d \U0001f600">&amp;]]&gt;\t</ovf:Envelope>\n'
)
ISO_IMAGE = "11111111-1111-1111-1111-111111111111"
VM, OTHER = (str(uuid.uuid4()) for _ in range(2))


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[daemon.Pool]:
    home, storage = tmp_path / "daemon", tmp_path / "storage"
    home.mkdir()
    storage.mkdir()
    with daemon.Daemon(home) as running:
        yield daemon.make_pool(running, storage)


def entry(vm: str, ovf: str = OVF) -> dict[str, str]:
    return {"vm": vm, "ovf": ovf, "imglist": ",".join(str(uuid.uuid4()) for _ in range(2))}


def code(pool: daemon.Pool, verb: str, *arguments: Any) -> int:
    found = pool.daemon.answer(verb, *arguments)["status"]["code"]
    assert isinstance(found, int)
    return found


def texts(pool: daemon.Pool, *arguments: Any) -> dict[str, str]:
    found = pool.daemon.call("getVmsInfo", pool.id, *arguments)["vmlist"]
    assert isinstance(found, dict)
    return found


def test_the_engines_round_trip(pool: daemon.Pool) -> None:
    pool.daemon.call("updateVM", pool.id, [entry(VM), entry(OTHER, "<other/>")])
    path = pool.storage / pool.domain / "master" / "vms" / VM / f"{VM}.ovf"
    assert path.read_bytes() == OVF.encode(), "every character as it was sent"
    assert texts(pool, daemon.BLANK, []) == {VM: OVF, OTHER: "<other/>"}
    assert texts(pool, daemon.BLANK, [VM]) == {VM: OVF}
    assert sorted(pool.daemon.call("getVmsList", pool.id, daemon.BLANK)["vmlist"]) == sorted([VM, OTHER])
    pool.daemon.call("updateVM", pool.id, [entry(VM, "<new/>")], daemon.BLANK)
    assert texts(pool, "", [VM, str(uuid.uuid4())]) == {VM: "<new/>"}
    pool.daemon.call("removeVM", pool.id, VM)
    pool.daemon.call("removeVM", pool.id, VM, pool.domain)
    assert texts(pool) == {OTHER: "<other/>"}
    assert os.listdir(path.parents[1]) == [OTHER]


def test_ids_never_leave_their_directory(pool: daemon.Pool) -> None:
    precious = pool.storage / pool.domain / "images"
    for name in ("../../images", "..", ".", "", VM + "/..", "/" + VM, VM + "\n"):
        assert code(pool, "removeVM", pool.id, name) == 1000
        assert code(pool, "updateVM", pool.id, [entry(name)]) == 1000
        assert code(pool, "getVmsInfo", pool.id, daemon.BLANK, [name]) == 1000
    assert precious.is_dir()


def test_codes(pool: daemon.Pool) -> None:
    unknown = str(uuid.uuid4())
    vms = pool.storage / pool.domain / "master" / "vms"
    assert code(pool, "updateVM", pool.id, [{"vm": VM, "ovf": ""}]) == 1000
    assert code(pool, "getVmsList", unknown) == 309
    assert code(pool, "getVmsList", pool.id, unknown) == 358
    assert code(pool, "getVmsInfo", pool.id, pool.domain, []) == 378
    (vms / VM).mkdir(parents=True)
    assert code(pool, "getVmsInfo", pool.id, daemon.BLANK, [VM]) == 320
    (vms / OTHER).write_text("no directory")
    assert code(pool, "updateVM", pool.id, [entry(OTHER), entry(VM)]) == 2008
    assert texts(pool) == {VM: OVF}, "the other one was kept"
    vms.rename(vms.with_name("away"))
    assert code(pool, "updateVM", pool.id, [entry(VM)]) == code(pool, "removeVM", pool.id, VM) == 322
    vms.with_name("away").rename(vms)
    pool.daemon.call("spmStop", pool.id)
    for verb, *more in (("getVmsList",), ("getVmsInfo", "", []), ("updateVM", [entry(VM)]), ("removeVM", VM)):
        assert code(pool, verb, pool.id, *more) == 654


def test_a_killed_daemon_leaves_whole_descriptions(tmp_path: Path) -> None:
    home, storage = tmp_path / "daemon", tmp_path / "storage"
    home.mkdir()
    storage.mkdir()
    known = [str(uuid.uuid4()) for _ in range(20)]
    with daemon.Daemon(home) as running:
        pool = daemon.make_pool(running, storage)
        updating = threading.Thread(target=update_for_ever, args=(running.url, pool.id, known))
        updating.start()
        vms = storage / pool.domain / "master" / "vms"
        daemon_has_begun(vms)
        running.kill()
        updating.join()
    for name in os.listdir(vms):
        if not name.endswith(".new"):
            text = (vms / name / f"{name}.ovf").read_text()
            number = text.partition(" ")[0]
            assert text == description(int(number)), "old or new, never a part"


def description(number: int) -> str:
    return f"{number} " + "x" * 5000 * (number % 7)


def update_for_ever(url: str, pool: str, machines: list[str]) -> None:
    proxy = daemon.connect(url)
    number = 0
    try:
        while True:
            number += 1
            proxy.updateVM(pool, [entry(vm, description(number)) for vm in machines])
            proxy.removeVM(pool, machines[number % len(machines)])
    except (OSError, xmlrpc.client.Error):
        proxy("close")()


def daemon_has_begun(vms: Path) -> None:
    while len(os.listdir(vms) if vms.is_dir() else []) < 15:
        pass


def test_iso_files(pool: daemon.Pool, tmp_path: Path) -> None:
    place, domain_id = tmp_path / "isos", str(uuid.uuid4())
    place.mkdir()
    assert code(pool, "getIsoList", pool.id) == code(pool, "getFloppyList", pool.id) == 314
    pool.daemon.call("connectStorageServer", 4, pool.id, [{"id": domain_id, "connection": str(place)}])
    pool.daemon.call("createStorageDomain", 4, domain_id, "isos", str(place), 2, 0)
    directory = place / domain_id / "images" / ISO_IMAGE
    for name in ("CentOS 7.ISO", "drivers.vfd", "\u00e4.iso"):
        (directory / name).write_bytes(b"x" * 2048)
    (directory / "out.iso").symlink_to("/etc/passwd")
    domains = {pool.domain: "active", domain_id: "active"}
    pool.daemon.call("connectStoragePool", pool.id, 1, "key", pool.domain, 1, domains)
    assert pool.daemon.call("getIsoList", pool.id)["isolist"] == ["CentOS 7.ISO", "\u00e4.iso"]
    assert pool.daemon.call("getFloppyList", pool.id)["isolist"] == ["drivers.vfd"]
    found = pool.daemon.call("getFileStats", domain_id, "*.iso", False)["fileStats"]
    assert set(found) == {"CentOS 7.ISO", "\u00e4.iso"}
    for each in found.values():
        assert each["size"] == "2048" and type(each["ctime"]) is str and each["status"] == 0
    assert set(pool.daemon.call("getFileStats", domain_id, "*.iso", True)["fileStats"]) == {"\u00e4.iso"}
    assert code(pool, "getFileStats", pool.domain) == 330
    assert code(pool, "getFileStats", str(uuid.uuid4())) == 358
    image = pool.make_image_chain(1 << 20, ["raw"])
    assert pool.daemon.call("getImageDomainsList", pool.id, image.id)["domainslist"] == [pool.domain]
    assert pool.daemon.call("getImageDomainsList", pool.id, str(uuid.uuid4()))["domainslist"] == []
