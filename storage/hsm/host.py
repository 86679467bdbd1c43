"""Verbs about this host. Only what is known is answered; a key that is not known is left out, never made up.

Left out of the capabilities: networks, bridges, nics, bondings, vlans, netConfigDirty (no network is managed here),
reservedMem, guestOverhead, rngSources, numaNodes, numaNodeDistance, autoNumaBalancing (they tell an engine where to
run machines, and this host runs none), supportedProtocols, lastClient and lastClientIface.
Left out of the statistics: rates and counters of network interfaces, per-processor and per-node figures, ksmCpu,
haScore and netConfigDirty.
"""

import functools
import logging
import os
import platform
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import errors, hostinfo
from storage.hsm import monitoring
from storage.qemu import child

if TYPE_CHECKING:
    from storage import services as storage_services

Result = dict[str, Any]

PROTOCOL = "4.16.38"
"""The vdsm release whose verbs these are. The engine accepts hosts by this number (4.9 to 4.16 for engine 3.5)."""

_MOST_SEVERE = 100
_QEMU = f"qemu-system-{platform.machine()}"

log = logging.getLogger(__name__)

_sampler = hostinfo.Sampler()
_started = time.monotonic()
_generation = str(uuid.uuid4())


def ping(services: "storage_services.Services") -> None:
    """Nothing; that it is answered is the answer."""


def get_vm_list(services: "storage_services.Services") -> Result:
    """No machines: this host runs none."""
    return {"vmList": []}


def get_hardware_info(services: "storage_services.Services") -> Result:
    """What the firmware says of this machine; what it does not say is left out.

    Raises:
        HardwareInfoError: it says nothing, or nothing that this user may read.
    """
    if not (found := hostinfo.hardware()):
        raise errors.HardwareInfoError(reason="the firmware's tables are not there, or not readable for this user")
    return {"info": found}


def set_log_level(services: "storage_services.Services", level: int) -> None:
    """Set the least severity that the log takes, until the daemon ends. The audit lines stay.

    Args:
        level: number of Python's logging: 10 DEBUG, 20 INFO, 30 WARNING, 40 ERROR, 50 CRITICAL.

    Raises:
        InvalidParameterException: it is none that could mean something.
    """
    if not 0 <= level <= _MOST_SEVERE:
        raise errors.InvalidParameterException(name="level", reason=f"levels are 0 to {_MOST_SEVERE}")
    logging.getLogger().setLevel(level)
    log.log(_MOST_SEVERE, "the log takes what is of level %d and above", level)


def prepare_for_shutdown(services: "storage_services.Services") -> None:
    """Have the daemon end as if it had got SIGTERM: this call is answered, and so are those under way.

    Raises:
        UnexpectedError: there is no daemon that could end.
    """
    services.control.end()


def get_capabilities(services: "storage_services.Services") -> Result:
    """What this host and this release can do. Numbers are text, as the protocol has them here; memory in MiB."""
    initiators = hostinfo.initiators()
    info: Result = {
        "ISCSIInitiatorName": next((each["InitiatorName"] for each in initiators["iSCSI"]), ""),
        "kvmEnabled": _truth(os.access("/dev/kvm", os.R_OK | os.W_OK)),
        "memSize": str(_memory().get("MemTotal", 0) // hostinfo.MIB),
        "version_name": "vdsmlite",
        "software_version": PROTOCOL.rpartition(".")[0],
        "software_revision": PROTOCOL.rpartition(".")[2],
        "supportedENGINEs": ["3.5"],
        "clusterLevels": ["3.5"],
        "operatingSystem": _operating_system(),
        "packages2": _packages(services.settings.qemu_img),
        # Neither is done by this release, and there are no machines to do it to.
        "liveMerge": _truth(False),
        "liveSnapshot": _truth(False),
        "emulatedMachines": [],
        "vmTypes": [],
        "HBAInventory": initiators,
        "hooks": {},
        "selinux": {"mode": hostinfo.read_text("/sys/fs/selinux/enforce", "-1")},
        "kdumpStatus": int(hostinfo.read_text("/sys/kernel/kexec_crash_loaded") or -1),
    }
    if host_id := hostinfo.read_text("/etc/vdsm/vdsm.id") or hostinfo.read_text("/sys/class/dmi/id/product_uuid"):
        info["uuid"] = host_id
    return {"info": info | _processors()}


def _processors() -> Result:
    found = hostinfo.parse_cpuinfo(hostinfo.read_text("/proc/cpuinfo"))
    return {
        "cpuModel": found.model,
        "cpuSpeed": found.mhz,
        "cpuFlags": ",".join(found.flags),
        "cpuSockets": str(found.sockets),
        "cpuCores": str(found.cores),
        "cpuThreads": str(found.threads),
        "onlineCpus": ",".join(found.online),
    }


def _operating_system() -> Result:
    release = hostinfo.parse_os_release(hostinfo.read_text("/etc/os-release"))
    return {
        "name": release.get("NAME", platform.system()),
        "version": release.get("VERSION_ID", ""),
        "release": release.get("BUILD_ID", ""),
    }


def _packages(qemu_img: str) -> Result:
    kernel, _, kernel_release = platform.release().partition("-")
    found = {
        "vdsm": {"version": PROTOCOL, "release": "0"},
        "kernel": {"version": kernel, "release": kernel_release},
        "python": {"version": platform.python_version(), "release": ""},
    }
    for name, program in (("qemu-img", qemu_img), ("qemu-kvm", _QEMU)):
        if version := _version(program):
            found[name] = {"version": version, "release": ""}
    return found


@functools.cache
def _version(program: str) -> str:
    """Version of a program of QEMU, empty when it is not there. Asked once: it changes when the host is upgraded."""
    try:
        said = child.run([program, "--version"], child.Limits(seconds=10.0, stdout=1 << 16)).stdout
    except OSError:
        return ""
    return hostinfo.parse_version(said.decode("utf-8", "replace"))


def get_stats(services: "storage_services.Services") -> Result:
    """Load and memory (MiB), measured now, and the health of the domains in use, from the watch over them.

    Processor use is that since the last call, at the first call that since boot.
    """
    info: Result = {
        "storageDomains": _storage_domains(services),
        "diskStats": _disk_stats(services.repository.root),
        "vmCount": 0,
        "vmActive": 0,
        "vmMigrating": 0,
        "dateTime": time.strftime("%Y-%m-%dT%H:%M:%S GMT", time.gmtime()),
        "bootTime": _boot_time(),
        "elapsedTime": str(int(time.monotonic() - _started)),
        "generationID": _generation,
        "statsAge": "0.00",
        "momStatus": "disabled",
        "haStats": {
            "configured": False,
            "active": False,
            "score": 0,
            "globalMaintenance": False,
            "localMaintenance": False,
        },
        "ksmState": hostinfo.read_text("/sys/kernel/mm/ksm/run") == "1",
        "ksmPages": int(hostinfo.read_text("/sys/kernel/mm/ksm/pages_to_scan") or 0),
        "thpState": hostinfo.chosen(hostinfo.read_text("/sys/kernel/mm/transparent_hugepage/enabled")),
    }
    return {"info": info | _memory_stats() | _load_stats()}


def _disk_stats(path: Path) -> Result:
    return {str(path): {"free": str(hostinfo.free_mib(path))}} if path.is_dir() else {}


def _memory_stats() -> Result:
    memory = _memory()
    total, available = memory.get("MemTotal", 0), memory.get("MemAvailable", 0)
    shared_pages = int(hostinfo.read_text("/sys/kernel/mm/ksm/pages_sharing") or 0)
    return {
        "memUsed": str(round(100 * (total - available) / (total or 1))),
        "memAvailable": available // hostinfo.MIB,
        "memFree": memory.get("MemFree", 0) // hostinfo.MIB,
        "memCommitted": 0,
        "memShared": shared_pages * os.sysconf("SC_PAGE_SIZE") // hostinfo.MIB,
        "swapTotal": memory.get("SwapTotal", 0) // hostinfo.MIB,
        "swapFree": memory.get("SwapFree", 0) // hostinfo.MIB,
        "anonHugePages": str(memory.get("AnonHugePages", 0) // hostinfo.MIB),
    }


def _load_stats() -> Result:
    load = _sampler.load()
    return {
        "cpuLoad": f"{os.getloadavg()[0]:.2f}",
        "cpuUser": f"{load.user:.2f}",
        "cpuSys": f"{load.system:.2f}",
        "cpuIdle": f"{load.idle:.2f}",
        "cpuUserVdsmd": f"{load.own_user:.2f}",
        "cpuSysVdsmd": f"{load.own_system:.2f}",
    }


def _storage_domains(services: "storage_services.Services") -> Result:
    """Health of each watched domain; whoever was not looked at yet is looked at now."""
    return {str(each): monitoring.wire(found) for each, found in services.monitor.health().items()}


def _memory() -> dict[str, int]:
    return hostinfo.parse_meminfo(hostinfo.read_text("/proc/meminfo"))


def _boot_time() -> str:
    lines = hostinfo.read_text("/proc/stat").splitlines()
    return next((line.split()[1] for line in lines if line.startswith("btime ")), "0")


def _truth(value: bool) -> str:
    return str(value).lower()
