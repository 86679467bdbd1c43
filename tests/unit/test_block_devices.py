"""Multipath devices, from a tree that looks like ``/sys``."""

from pathlib import Path

import pytest

from storage.block import devices

GUID = "360014051234567890abcdef1234567890"


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode() + b"\n")


class Sys:
    """A tree of devices.

    Args:
        root: where.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "block").mkdir(parents=True)

    def disk(self, name: str, parent: str, lun: int = 0, state: str = "running") -> None:
        """A disk of the kernel at a place in the tree of devices."""
        device = self.root / "devices" / parent / f"target3:0:0/3:0:0:{lun}"
        block = device / "block" / name
        for file, text in {"vendor": "LIO-ORG", "model": "disk  ", "rev": "4.0", "state": state}.items():
            write(device / file, text)
        write(device / "vpd_pg80", b"\0\x80\0\x08SER-1234")
        write(block / "size", "2048")
        (block / "device").symlink_to(device)
        self._link(name, block)

    def mapping(
        self, name: str, kind: str, guid: str, below: list[str], sectors: int, above: tuple[str, ...] = ()
    ) -> None:
        """A mapped device."""
        block = self.root / "devices/virtual/block" / name
        write(block / "dm/uuid", f"{kind}{guid}")
        write(block / "dm/name", guid)
        write(block / "size", str(sectors))
        write(block / "queue/logical_block_size", "512")
        write(block / "queue/physical_block_size", "4096")
        for directory, names in (("slaves", below), ("holders", above)):
            for each in names:
                write(block / directory / each, "")
        self._link(name, block)

    def session(self, number: int) -> None:
        """An iSCSI session."""
        session = self.root / f"class/iscsi_session/session{number}"
        write(session / "targetname", "iqn.2003-01.org:t1")
        write(session / "tpgt", "1")
        write(session / "ifacename", "default")
        connection = self.root / f"class/iscsi_connection/connection{number}:0"
        write(connection / "persistent_address", "10.0.0.5")
        write(connection / "persistent_port", "3260")

    def _link(self, name: str, block: Path) -> None:
        (self.root / "class/block").mkdir(parents=True, exist_ok=True)
        (self.root / "class/block" / name).symlink_to(block)
        (self.root / "block" / name).symlink_to(block)


@pytest.fixture
def sys(tmp_path: Path) -> Sys:
    return Sys(tmp_path / "sys")


def test_plain_disks_and_other_mappings_are_no_storage(sys: Sys) -> None:
    assert devices.multipath(sys.root) == []
    sys.disk("sda", "pci0/host0")
    sys.mapping("dm-0", "LVM-", "vg-root", ["sda"], 2048)
    assert devices.multipath(sys.root) == []


def test_a_device_with_two_routes(sys: Sys) -> None:
    sys.session(7)
    sys.disk("sdb", "platform/host3/session7", lun=4)
    sys.disk("sdc", "pci0/host4/rport-1", lun=5, state="offline")
    sys.mapping("dm-3", "mpath-", GUID, ["sdb", "sdc"], 41943040)
    [found] = devices.multipath(sys.root)
    assert (found.guid, found.size) == (GUID, 20 << 30)
    assert (found.vendor, found.product, found.revision, found.serial) == ("LIO-ORG", "disk", "4.0", "SER-1234")
    assert (found.logical_block, found.physical_block, found.in_use) == ("512", "4096", False)
    assert found.transport == devices.MIXED
    assert list(devices.states(found)) == [
        {"physdev": "sdb", "state": "active", "lun": 4, "type": "iSCSI"},
        {"physdev": "sdc", "state": "failed", "lun": 5, "type": "FCP"},
    ]
    assert [route.session for route in found.routes if route.session] == [
        {
            "connection": "10.0.0.5",
            "port": "3260",
            "iqn": "iqn.2003-01.org:t1",
            "portal": "1",
            "initiatorname": "default",
        }
    ]


def test_what_stands_on_a_device_uses_it(sys: Sys) -> None:
    sys.disk("sdb", "pci0/host4/rport-1")
    sys.mapping("dm-3", "mpath-", GUID, ["sdb"], 8, above=("dm-4",))
    sys.mapping("dm-4", "LVM-", "vg-data", ["dm-3"], 8)
    [found] = devices.multipath(sys.root)
    assert found.in_use and found.transport == devices.FCP
    assert devices.transport(sys.root, "dm-4") == devices.FCP


def test_transport_is_that_of_what_is_below(sys: Sys) -> None:
    sys.session(7)
    sys.disk("sdb", "platform/host3/session7")
    sys.disk("sdc", "pci0/host4")
    sys.mapping("dm-3", "mpath-", GUID, ["sdb"], 8)
    sys.mapping("dm-4", "LVM-", "a", ["dm-3"], 8)
    sys.mapping("dm-5", "LVM-", "b", ["dm-3", "sdc"], 8)
    kinds = {name: devices.transport(sys.root, name) for name in ("sdb", "sdc", "dm-3", "dm-4", "dm-5", "gone")}
    assert kinds == {"sdb": "iSCSI", "sdc": "FCP", "dm-3": "iSCSI", "dm-4": "iSCSI", "dm-5": "MIXED", "gone": "FCP"}


def test_a_device_that_is_going_away_is_an_empty_one(sys: Sys) -> None:
    sys.mapping("dm-3", "mpath-", GUID, ["sdz"], 8)
    (sys.root / "block/dm-3/size").unlink()
    [found] = devices.multipath(sys.root)
    assert (found.size, found.vendor, found.serial) == (0, "", "")


@pytest.mark.parametrize("guid", ["", ".", "..", "../null", "/dev/null", "a\0b", "missing", "file"])
def test_what_is_not_visible(tmp_path: Path, guid: str) -> None:
    (tmp_path / "file").touch()
    assert not devices.is_visible(guid, tmp_path)


def test_what_is_visible(tmp_path: Path) -> None:
    disk = next((each for each in Path("/dev").iterdir() if each.is_block_device()), None)
    if disk is None:
        pytest.skip("needs a block device in /dev")
    (tmp_path / GUID).symlink_to(disk)
    assert devices.is_visible(GUID, tmp_path)


def test_this_hosts_devices_can_be_read() -> None:
    assert isinstance(devices.multipath(), list)
