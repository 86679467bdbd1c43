"""Verbs on block storage: what they say of what is there, and that whatever would change something is refused."""

import json
import types
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from storage import errors, ids
from storage.block import devices, lvm
from storage.hsm import block

TYPES = Path(__file__).parents[2] / "schema" / "types.json"
NAME = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")
GROUP = "Zd3UBa-lJf7-TCr1-AqBq-oCbz-mGAl-5uUrWn"
OTHER = "Ad3UBa-lJf7-TCr1-AqBq-oCbz-mGAl-5uUrWn"
GUID = "36001405"
SERVICES: Any = None

VGS = [
    {"vg_name": "vg1", "vg_uuid": GROUP, "vg_size": "10737418240", "vg_free": "1048576", "vg_attr": "wz--n-"},
    {"vg_name": "root", "vg_uuid": OTHER, "vg_size": "4194304", "vg_free": "0", "vg_attr": "wzxpn-"},
]
PVS = [
    {"pv_name": f"/dev/mapper/{GUID}", "pv_uuid": "pv-1", "pv_size": "10737418240", "dev_size": "10738466816"},
    {"pv_name": "/dev/vda2", "pv_uuid": "pv-2", "pv_size": "4194304", "dev_size": "4194304"},
    {"pv_name": "/dev/vdb", "pv_uuid": "pv-3", "pv_size": "8", "dev_size": "8"},
]


def fits(name: str, answer: object) -> None:
    schemas = json.loads(TYPES.read_text())
    jsonschema.validate(answer, {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


def device(guid: str = GUID, size: int = 20 << 30, transport: str = devices.ISCSI) -> devices.Device:
    route = devices.Route("sdb", "active", 1, transport, {"iqn": "iqn.x"} if transport == devices.ISCSI else {})
    return devices.Device(guid, size, "LIO", "disk", "4.0", "S1", "512", "512", (route,), False)


def lvm_program(directory: Path, body: str = "") -> str:
    """A program that reports, or does something else; it notes how it was called."""
    (directory / "vgs.json").write_text(json.dumps({"report": [{"vg": VGS}], "log": []}))
    volumes = [{**each, "vg_uuid": group} for each, group in zip(PVS, (GROUP, OTHER, ""), strict=True)]
    (directory / "pvs.json").write_text(json.dumps({"report": [{"pv": volumes}]}))
    program = directory / "lvm"
    program.write_text(f'#!/bin/sh\necho "$@" >> {directory}/calls\n{body or f"cat {directory}/$1.json"}\n')
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with LVM and one multipath device."""
    use(monkeypatch, lvm_program(tmp_path))
    monkeypatch.setattr(devices, "multipath", lambda: [device()])
    found = {f"/dev/mapper/{GUID}": devices.ISCSI}
    monkeypatch.setattr(devices, "transport_of", lambda path: found.get(path, devices.FCP))
    return tmp_path


def use(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    real_groups, real_volumes = lvm.volume_groups, lvm.physical_volumes
    monkeypatch.setattr(lvm, "volume_groups", lambda: real_groups(program))
    monkeypatch.setattr(lvm, "physical_volumes", lambda: real_volumes(program))


def test_volume_groups(host: Path) -> None:
    answer = block.get_volume_groups(SERVICES, None)
    fits("VolumeGroupListResult", answer)
    first, second = answer["vglist"]
    assert (first["name"], first["state"], first["type"], first["vgfree"]) == ("root", "PARTIAL", 2, "0")
    assert (second["name"], second["state"], second["type"], second["vgUUID"]) == ("vg1", "OK", 3, GROUP)
    assert second["attr"] == {
        "permission": "w",
        "resizeable": "z",
        "exported": "-",
        "partial": "-",
        "allocation": "n",
        "clustered": "-",
    }
    names = {
        kind: [each["name"] for each in block.get_volume_groups(SERVICES, kind)["vglist"]] for kind in (0, 2, 3, 9)
    }
    assert names == {0: ["root", "vg1"], 2: ["root"], 3: ["vg1"], 9: []}


def test_lvm_is_only_ever_asked_in_its_read_only_mode(host: Path) -> None:
    block.get_volume_groups(SERVICES, None)
    block.get_volume_group(SERVICES, GROUP)
    block.get_devices(SERVICES, None)
    with pytest.raises(errors.VolumeGroupRemoveError):
        block.remove_volume_group(SERVICES, GROUP)
    calls = (host / "calls").read_text().splitlines()
    assert calls and all(call.split()[:2] in (["vgs", "--readonly"], ["pvs", "--readonly"]) for call in calls)


def test_one_volume_group(host: Path) -> None:
    answer = block.get_volume_group(SERVICES, GROUP)
    fits("VolumeGroupInfoResult", answer)
    [member] = answer["info"]["pvlist"]
    assert (member["GUID"], member["vgUUID"], member["pvUUID"], member["fwrev"]) == (GUID, GROUP, "pv-1", "0000")
    assert (member["capacity"], member["devcapacity"], member["vendorID"]) == ("10737418240", "10738466816", "LIO")
    plain = block.get_volume_group(SERVICES, OTHER)
    fits("VolumeGroupInfoResult", plain)
    assert (plain["info"]["pvlist"][0]["GUID"], plain["info"]["pvlist"][0]["pathlist"]) == ("vda2", [])
    with pytest.raises(errors.VolumeGroupDoesNotExist) as caught:
        block.get_volume_group(SERVICES, NAME)
    assert caught.value.code == 506


def test_groups_are_not_removed_and_those_that_are_not_there_need_not_be(host: Path) -> None:
    with pytest.raises(errors.VolumeGroupRemoveError) as caught:
        block.remove_volume_group(SERVICES, GROUP)
    assert caught.value.code == 508
    block.remove_volume_group(SERVICES, NAME)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo '  WARNING: no' >&2; exit 5", "WARNING: no"),
        ("exit 3", "exit code 3"),
        ("echo nonsense", "not understood"),
        ("echo '[]'", "not understood"),
        ("""echo '{"report": [{"vg": [{"vg_name": "x"}]}]}'""", "not understood"),
    ],
)
def test_what_lvm_does_not_tell_is_not_an_empty_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str
) -> None:
    use(monkeypatch, lvm_program(tmp_path, body))
    for action in (
        lambda: block.get_volume_groups(SERVICES, None),
        lambda: block.get_volume_group(SERVICES, GROUP),
        lambda: block.remove_volume_group(SERVICES, GROUP),
    ):
        with pytest.raises(errors.VolumeGroupActionError, match=reason) as caught:
            action()
        assert caught.value.code == 500


def test_a_host_without_lvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, str(tmp_path / "none"))
    with pytest.raises(errors.VolumeGroupActionError, match="not installed"):
        block.get_volume_groups(SERVICES, None)
    monkeypatch.setattr(devices, "multipath", list)
    assert block.get_devices(SERVICES, None) == {"devList": []}, "without devices LVM is not asked"
    monkeypatch.setattr(devices, "multipath", lambda: [device()])
    with pytest.raises(errors.BlockDeviceActionError) as caught:
        block.get_devices(SERVICES, None)
    assert caught.value.code == 600


def test_a_host_with_lvm_and_no_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, lvm_program(tmp_path, """printf '{"report":[{"%s":[]}]}' ${1%s}"""))
    assert block.get_volume_groups(SERVICES, None) == {"vglist": []}
    block.remove_volume_group(SERVICES, GROUP)


def test_devices(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = device("other", transport=devices.FCP)
    monkeypatch.setattr(devices, "multipath", lambda: [device(), free])
    answer = block.get_devices(SERVICES, None)
    fits("DeviceListResult", answer)
    first, second = answer["devList"]
    assert (first["GUID"], first["status"], first["vgUUID"], first["devtype"]) == (GUID, "used", GROUP, "iSCSI")
    assert first["pathlist"] == [{"iqn": "iqn.x"}] and first["pathstatus"][0]["physdev"] == "sdb"
    assert (second["GUID"], second["status"], second["vgUUID"], second["devtype"]) == ("other", "free", "", "FCP")
    found = {
        kind: [each["GUID"] for each in block.get_devices(SERVICES, kind)["devList"]]
        for kind in (0, "", 2, "fcp", "3", "iScsi")
    }
    both, fcp, iscsi = [GUID, "other"], ["other"], [GUID]
    assert found == {0: both, "": both, 2: fcp, "fcp": fcp, "3": iscsi, "iScsi": iscsi}
    for wrong in (4, "nfs", -1):
        with pytest.raises(errors.StorageDomainTypeError):
            block.get_devices(SERVICES, wrong)


def test_visibility() -> None:
    assert block.get_visibility(SERVICES, ["../null", "36001405"]) == {"visible": {"../null": False, "36001405": False}}
    assert block.get_visibility(SERVICES, []) == {"visible": {}}


def test_making_a_group_is_refused_by_what_is_wrong_first(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(*guids: str) -> int:
        with pytest.raises(errors.StorageError) as caught:
            block.create_volume_group(SERVICES, NAME, guids, True)
        return caught.value.code

    assert [attempt(), attempt(GUID, GUID), attempt(GUID, "none"), attempt(GUID)] == [1000, 1000, 606, 502]
    monkeypatch.setattr(devices, "multipath", lambda: [device(size=(10 << 30) - 1)])
    assert attempt(GUID) == 504
    assert not (host / "calls").exists()


def test_discovery_is_refused() -> None:
    with pytest.raises(errors.ISCSIDiscoveryError) as caught:
        block.discover(SERVICES, "::1", 3260, "", "")
    assert caught.value.code == 475


def test_extending_a_domain_on_files() -> None:
    domain = types.SimpleNamespace(type="LOCALFS")
    pool = types.SimpleNamespace(member=lambda domain_id: domain)
    services: Any = types.SimpleNamespace(pools=types.SimpleNamespace(spm=lambda pool_id: pool))
    block.extend(services, ids.PoolId(NAME), NAME, [], False)
    with pytest.raises(errors.InvalidParameterException, match="on files") as caught:
        block.extend(services, ids.PoolId(NAME), NAME, [GUID], True)
    assert caught.value.code == 1000
