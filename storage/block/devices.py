"""Multipath devices of this host, read from ``/sys`` and ``/dev``. Nothing is opened, scanned or changed.

Only multipath devices count as storage, as in the protocol: a plain disk of the host is nobody's to give away.
"""

import dataclasses
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

SYS = Path("/sys")
MAPPER = Path("/dev/mapper")

ISCSI, FCP, MIXED = "iSCSI", "FCP", "MIXED"

_SECTOR = 512  # bytes; of sizes in /sys, whatever the device's own sectors are
_MULTIPATH = "mpath-"
_SESSION = re.compile(r"session[0-9]+")
_STATES = {"running": "active"}


@dataclasses.dataclass(frozen=True)
class Route:
    """One path to a device: a disk of the kernel.

    Attributes:
        name: of the kernel, such as ``sda``.
        state: ``active`` or ``failed``.
        lun: logical unit number.
        transport: `ISCSI` or `FCP`.
        session: what is known of the iSCSI session: connection, port, iqn, portal, initiatorname.
    """

    name: str
    state: str
    lun: int
    transport: str
    session: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Device:
    """One multipath device.

    Attributes:
        guid: its name, world-wide unique.
        size: bytes.
        vendor, product, revision, serial: what its first path says.
        logical_block, physical_block: bytes, as text.
        routes: in the order of the kernel's names.
        in_use: something stands on it: a partition, a volume, another mapping.
    """

    guid: str
    size: int
    vendor: str
    product: str
    revision: str
    serial: str
    logical_block: str
    physical_block: str
    routes: tuple[Route, ...]
    in_use: bool

    @property
    def transport(self) -> str:
        """`ISCSI`, `FCP`, or `MIXED`."""
        found = {path.transport for path in self.routes}
        return found.pop() if len(found) == 1 else MIXED if found else FCP


def multipath(sys: Path = SYS) -> list[Device]:
    """All multipath devices, ordered by GUID.

    Raises:
        OSError: ``/sys`` cannot be read. One device that goes away meanwhile is left out.
    """
    found = []
    for block in sorted((sys / "block").iterdir()):
        if block.name.startswith("dm-") and _text(block / "dm/uuid").startswith(_MULTIPATH):
            found.append(_device(sys, block))
    return sorted((each for each in found if each.guid), key=lambda each: each.guid)


def transport(sys: Path, name: str) -> str:
    """Transport of a disk of the kernel, or of what a mapping stands on.

    Args:
        name: such as ``sda``, ``dm-3``, ``sda1``.
    """
    block = sys / "class/block" / name
    below = _names(block / "slaves")
    found = {transport(sys, each) for each in below if each != name}
    if found:
        return found.pop() if len(found) == 1 else MIXED
    return ISCSI if _session_name(block) else FCP


def transport_of(path: str, sys: Path = SYS) -> str:
    """Transport of a device by its path, such as ``/dev/mapper/<GUID>``."""
    return transport(sys, os.path.basename(os.path.realpath(path)))


def states(device: Device) -> Iterator[dict[str, object]]:
    """Routes to a device, as ``pathstatus`` of the protocol."""
    for route in device.routes:
        yield {"physdev": route.name, "state": route.state, "lun": route.lun, "type": route.transport}


def is_visible(guid: str, mapper: Path = MAPPER) -> bool:
    """Whether a device of this GUID is there, from the host's directory of mappings."""
    if not guid or "/" in guid or guid in (".", "..") or "\0" in guid:
        return False
    try:
        return stat.S_ISBLK(os.stat(mapper / guid).st_mode)
    except OSError:
        return False


def _device(sys: Path, block: Path) -> Device:
    routes = tuple(_route(sys, name) for name in _names(block / "slaves"))
    first = sys / "class/block" / (routes[0].name if routes else block.name) / "device"
    size = _text(block / "size")
    return Device(
        guid=_text(block / "dm/name"),
        size=int(size) * _SECTOR if size.isdecimal() else 0,
        vendor=_text(first / "vendor"),
        product=_text(first / "model"),
        revision=_text(first / "rev"),
        serial=_serial(first),
        logical_block=_text(block / "queue/logical_block_size"),
        physical_block=_text(block / "queue/physical_block_size"),
        routes=routes,
        in_use=bool(_names(block / "holders")),
    )


def _route(sys: Path, name: str) -> Route:
    block = sys / "class/block" / name
    state = _text(block / "device/state")
    lun = _real(block / "device").rpartition("/")[2].rpartition(":")[2]
    session = _session_name(block)
    return Route(
        name=name,
        state=_STATES.get(state, "failed"),
        lun=int(lun) if lun.isdecimal() else 0,
        transport=ISCSI if session else FCP,
        session=_session(sys, session) if session else {},
    )


def _session(sys: Path, name: str) -> dict[str, str]:
    session = sys / "class/iscsi_session" / name
    number = name.removeprefix("session")
    connection = sys / "class/iscsi_connection" / f"connection{number}:0"
    return {
        "connection": _text(connection / "persistent_address"),
        "port": _text(connection / "persistent_port"),
        "iqn": _text(session / "targetname"),
        "portal": _text(session / "tpgt"),
        "initiatorname": _text(session / "ifacename"),
    }


def _session_name(block: Path) -> str:
    """Name of the iSCSI session that a disk belongs to, from its place in the tree of devices; empty for none."""
    return next((part for part in _real(block).split("/") if _SESSION.fullmatch(part)), "")


def _serial(device: Path) -> str:
    """Serial number, of the page of that name (SPC-4: four bytes of header, then text)."""
    try:
        page = (device / "vpd_pg80").read_bytes()
    except OSError:
        return ""
    return "".join(each for each in page[4:].decode("ascii", "replace").strip("\0 ") if each.isprintable())


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
