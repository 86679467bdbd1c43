"""Verbs about the host: the answers fit the schema, and the health of domains is that of this moment."""

import json
import logging
import re
import types
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from storage import control, errors, hostinfo, ids, layout, settings
from storage.domains import connections, domain, domainmaker, monitor
from storage.hsm import host
from storage.pools import inuse

A = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")
B = ids.DomainId("9af9bd7f-6167-4ae8-aac6-95a5e5f36f60")
C = ids.DomainId("1af9bd7f-6167-4ae8-aac6-95a5e5f36f60")
POOL = ids.PoolId("6e4d6a96-1234-1234-8905-b5eec55c1535")
TYPES = Path(__file__).parents[2] / "schema" / "types.json"


@pytest.fixture
def services(tmp_path: Path) -> Any:
    repository = layout.Repository(tmp_path / "repository")
    repository.root.mkdir()
    finder, pools = domain.Finder(repository), types.SimpleNamespace(all=list)
    watch = monitor.Monitor(lambda each: monitor.DomainLook(finder, each), inuse.InUse(pools))  # type: ignore[arg-type]
    wanted = settings.Settings(repository.root)
    return types.SimpleNamespace(
        repository=repository, domains=finder, pools=pools, monitor=watch, settings=wanted, control=control.Control()
    )


def fits(name: str, answer: object) -> None:
    schemas = json.loads(TYPES.read_text())
    jsonschema.validate(answer, {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


def test_there_are_no_machines(services: Any) -> None:
    assert host.ping(services) is None
    assert host.get_vm_list(services) == {"vmList": []}


def test_capabilities_fit_the_schema_and_the_engine(services: Any) -> None:
    answer = host.get_capabilities(services)
    fits("CapabilitiesResult", answer)
    info = answer["info"]
    major, minor = info["packages2"]["vdsm"]["version"].split(".")[:2]
    assert (4, 9) <= (int(major), int(minor)) <= (4, 16), "the range that the engine accepts"
    assert set(info["HBAInventory"]) == {"iSCSI", "FC"}
    assert info["packages2"]["kernel"]["version"]
    assert info["liveMerge"] == info["liveSnapshot"] == "false"
    assert int(info["memSize"]) > 0 and int(info["cpuThreads"]) >= int(info["cpuCores"]) >= int(info["cpuSockets"]) > 0


@pytest.mark.qemu
def test_capabilities_name_the_version_of_qemu(services: Any) -> None:
    assert re.match(r"[0-9]+\.[0-9]", host.get_capabilities(services)["info"]["packages2"]["qemu-img"]["version"])


def test_hardware_is_what_the_firmware_says(services: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostinfo, "hardware", lambda: {"systemManufacturer": "QEMU"})
    answer = host.get_hardware_info(services)
    fits("HardwareInfoResult", answer)
    assert answer == {"info": {"systemManufacturer": "QEMU"}}
    monkeypatch.setattr(hostinfo, "hardware", dict)
    with pytest.raises(errors.HardwareInfoError) as caught:
        host.get_hardware_info(services)
    assert caught.value.code == 57


def test_the_level_of_the_log(services: Any) -> None:
    root = logging.getLogger()
    before = root.level
    try:
        host.set_log_level(services, 10)
        assert root.level == logging.DEBUG
        for wrong in (-1, 101):
            with pytest.raises(errors.InvalidParameterException):
                host.set_log_level(services, wrong)
        assert root.level == logging.DEBUG
    finally:
        root.setLevel(before)


def test_the_process_is_asked_to_end_once(services: Any) -> None:
    with pytest.raises(errors.UnexpectedError) as caught:
        host.prepare_for_shutdown(services)
    assert caught.value.code == 16
    asked: list[int] = []
    services.control.on_end(lambda: asked.append(1))
    host.prepare_for_shutdown(services)
    host.prepare_for_shutdown(services)
    assert asked == [1]


def test_statistics_fit_the_schema(services: Any) -> None:
    for _ in range(2):
        answer = host.get_stats(services)
        fits("HostStatsResult", answer)
        info = answer["info"]
        assert info["storageDomains"] == {} and info["vmCount"] == 0
        assert info["memFree"] > 0 and 0 <= int(info["memUsed"]) <= 100
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d GMT", info["dateTime"])


def test_health_is_that_of_the_connected_pools_domains_now(services: Any, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    table = connections.Connections(services.repository)
    table.of(4, {"connection": str(path)}).connect()
    made = domainmaker.create(
        table.local_mount(str(path)), A, version=4, name="", domain_class="Data", remote_path=str(path)
    )
    state = types.SimpleNamespace(domains={A: "Active", B: "Attached", C: "Active"})
    pool = types.SimpleNamespace(id=POOL, master=made, state=lambda: state)
    services.pools.all = lambda: [pool]
    answer = host.get_stats(services)
    fits("HostStatsResult", answer)
    found = answer["info"]["storageDomains"]
    assert sorted(found) == sorted([A, C]), "active domains, found or not, and no others"
    assert (found[C]["code"], found[C]["valid"]) == (358, False)
    assert (found[A]["code"], found[A]["version"], found[A]["valid"]) == (0, 4, True)
    assert float(found[A]["lastCheck"]) == 0 and 0 < float(found[A]["delay"]) < 60

    made.metadata_path.write_bytes(b"VERSION=4\n_SHA_CKSUM=x\n")
    found = host.get_stats(services)["info"]["storageDomains"]
    assert (found[A]["code"], found[A]["version"], found[A]["valid"]) == (752, -1, False)

    def unreadable() -> object:
        raise errors.StorageDomainMasterError(reason="unreadable")

    pool.state = unreadable
    codes = {key: each["code"] for key, each in host.get_stats(services)["info"]["storageDomains"].items()}
    assert codes == {A: 752, C: 358}, "what was known of the map before holds"
    table.of(4, {"connection": str(path)}).disconnect()
    assert host.get_stats(services)["info"]["storageDomains"][A]["code"] == 358
