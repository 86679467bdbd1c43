"""Figures of this host, from ``/proc`` and ``/sys``: pure parsers of those texts, and small readers of the files."""

import dataclasses
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Processor:
    """The host's processors.

    Attributes:
        model: name of the model, as the first processor has it.
        mhz: speed as text.
        flags: features.
        sockets, cores, threads: how many packages, physical cores and logical processors.
        online: numbers of the logical processors.
    """

    model: str
    mhz: str
    flags: tuple[str, ...]
    sockets: int
    cores: int
    threads: int
    online: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Times:
    """Processor time of the whole host (ticks), of this process (seconds), and the clock (seconds) at one moment."""

    user: float
    system: float
    idle: float
    other: float
    own_user: float
    own_system: float
    clock: float


@dataclasses.dataclass(frozen=True)
class Load:
    """Use of the processors in percent of all of them; of this process in percent of one."""

    user: float
    system: float
    idle: float
    own_user: float
    own_system: float


def parse_cpuinfo(text: str) -> Processor:
    """Read ``/proc/cpuinfo``. What an architecture does not tell is empty; a processor it does not group is a core."""
    blocks = [_fields(block, ":") for block in text.split("\n\n") if "processor" in block]
    first = blocks[0] if blocks else {}
    sockets = {block.get("physical id", "0") for block in blocks}
    cores = {(block.get("physical id", "0"), block.get("core id", block["processor"])) for block in blocks}
    return Processor(
        model=first.get("model name", ""),
        mhz=first.get("cpu MHz", ""),
        flags=tuple((first.get("flags") or first.get("Features", "")).split()),
        sockets=len(sockets),
        cores=len(cores),
        threads=len(blocks),
        online=tuple(block["processor"] for block in blocks),
    )


def parse_meminfo(text: str) -> dict[str, int]:
    """Read ``/proc/meminfo``: bytes by name."""
    found = {}
    for name, value in _fields(text, ":").items():
        number, _, unit = value.partition(" ")
        if number.isdecimal():
            found[name] = int(number) * (1024 if unit == "kB" else 1)
    return found


def parse_stat(text: str) -> tuple[float, float, float, float]:
    """Read ``/proc/stat``: processor ticks since boot as (user, system, idle, other)."""
    for line in text.splitlines():
        if line.startswith("cpu "):
            user, nice, system, idle, *other = (float(number) for number in line.split()[1:9])
            return user + nice, system, idle, sum(other)
    return 0.0, 0.0, 0.0, 0.0


def parse_os_release(text: str) -> dict[str, str]:
    """Read ``/etc/os-release``: values by name, without quotes."""
    return {name: value.strip("'\"") for name, value in _fields(text, "=").items()}


def parse_version(text: str) -> str:
    """The version in what a program of QEMU says, such as ``qemu-img version 7.2.9 (Debian 1:7.2+dfsg-7)``."""
    words = text.split()
    return words[words.index("version") + 1] if "version" in words[:-1] else ""


def load_between(earlier: Times | None, later: Times) -> Load:
    """Use of the processors between two looks; since boot without an earlier one."""
    earlier = earlier or Times(0, 0, 0, 0, 0, 0, 0)
    user, system, idle, other = (
        max(0.0, getattr(later, name) - getattr(earlier, name)) for name in ("user", "system", "idle", "other")
    )
    whole = user + system + idle + other or 1.0
    span = max(later.clock - earlier.clock, 1e-3)
    return Load(
        user=100 * user / whole,
        system=100 * system / whole,
        idle=100 * idle / whole,
        own_user=100 * max(0.0, later.own_user - earlier.own_user) / span,
        own_system=100 * max(0.0, later.own_system - earlier.own_system) / span,
    )


_DMI = {
    "systemManufacturer": "sys_vendor",
    "systemProductName": "product_name",
    "systemVersion": "product_version",
    "systemSerialNumber": "product_serial",
    "systemUUID": "product_uuid",
    "systemFamily": "product_family",
}
_DEVICE_TREE = {"systemProductName": "model", "systemSerialNumber": "serial-number"}
# What vendors write where they have nothing to say.
_UNSPECIFIED = frozenset(("", "none", "not specified", "to be filled by o.e.m.", "default string", "system version"))


def hardware(dmi: Path = Path("/sys/class/dmi/id"), device_tree: Path = Path("/proc/device-tree")) -> dict[str, str]:
    """What the firmware says of this machine, by the protocol's names; what is not specified or not for us is left out.

    Args:
        dmi: the kernel's DMI table, a file a field.
        device_tree: in place of it, on machines that have no such table.
    """
    found = _firmware(dmi, _DMI) or _firmware(device_tree, _DEVICE_TREE)
    return {name: text for name, text in found.items() if text.lower() not in _UNSPECIFIED}


def initiators(
    sys: Path = Path("/sys"), name_file: str = "/etc/iscsi/initiatorname.iscsi"
) -> dict[str, list[dict[str, str]]]:
    """Initiators of this host: its iSCSI name, and the Fibre Channel adapters."""
    name = parse_os_release(read_text(name_file)).get("InitiatorName", "")
    adapters = [
        {
            "model": read_text(str(host / "symbolic_name")),
            "wwpn": read_text(str(host / "port_name")).removeprefix("0x"),
            "wwnn": read_text(str(host / "node_name")).removeprefix("0x"),
        }
        for host in _entries(sys / "class/fc_host")
    ]
    return {"iSCSI": [{"InitiatorName": name}] if name else [], "FC": adapters}


class Sampler:
    """Remembers the last look at the processors, so that the next one tells about the time in between."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._last: Times | None = None

    def load(self) -> Load:
        """Use of the processors since the last call; of the time since boot at the first."""
        now = _times()
        with self._guard:
            last, self._last = self._last, now
        return load_between(last, now)


def read_text(path: str, default: str = "") -> str:
    """Text of a file of ``/proc``, ``/sys`` or ``/etc``, stripped; the default when it is not there or not for us."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return default


def boot_id() -> str:
    """What tells one start of this host from every other; empty where the kernel does not say."""
    return read_text("/proc/sys/kernel/random/boot_id").strip()


def chosen(text: str) -> str:
    """The word in brackets in a text such as ``always [madvise] never``."""
    return text.partition("[")[2].partition("]")[0]


def free_mib(path: Path) -> int:
    """Free space for an unprivileged writer where a path is, in MiB."""
    found = os.statvfs(path)
    return found.f_frsize * found.f_bavail // MIB


def _firmware(directory: Path, names: Mapping[str, str]) -> dict[str, str]:
    found = {name: read_text(str(directory / file)).strip("\0 ") for name, file in names.items()}
    return {name: text for name, text in found.items() if text}


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _times() -> Times:
    own = os.times()
    return Times(*parse_stat(read_text("/proc/stat")), own.user, own.system, time.monotonic())


def _fields(text: str, separator: str) -> Mapping[str, str]:
    pairs = (line.partition(separator) for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in pairs if found}
