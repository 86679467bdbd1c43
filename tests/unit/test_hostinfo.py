"""Figures of the host: the parsers on texts of known content, the readers on this machine."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from storage import hostinfo

CPUINFO = """processor\t: 0
model name\t: Example CPU @ 2.40GHz
cpu MHz\t\t: 2400.000
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu vmx sse2

processor\t: 1
physical id\t: 0
core id\t\t: 0

processor\t: 2
physical id\t: 1
core id\t\t: 0

processor\t: 4
physical id\t: 1
core id\t\t: 1
"""


def test_processors_are_counted_by_package_core_and_thread() -> None:
    found = hostinfo.parse_cpuinfo(CPUINFO)
    assert (found.sockets, found.cores, found.threads, found.online) == (2, 3, 4, ("0", "1", "2", "4"))
    assert (found.model, found.mhz, found.flags) == ("Example CPU @ 2.40GHz", "2400.000", ("fpu", "vmx", "sse2"))


def test_an_architecture_that_tells_less_gives_less() -> None:
    found = hostinfo.parse_cpuinfo("processor\t: 0\nFeatures\t: fp asimd\n\nprocessor\t: 1\n")
    assert (found.sockets, found.cores, found.threads, found.model) == (1, 2, 2, "")
    assert found.flags == ("fp", "asimd")
    assert hostinfo.parse_cpuinfo("").threads == 0


def test_meminfo_in_bytes() -> None:
    found = hostinfo.parse_meminfo("MemTotal:       16 kB\nHugePages_Total:       3\nOdd: x kB\n")
    assert found == {"MemTotal": 16384, "HugePages_Total": 3}


def test_processor_time() -> None:
    assert hostinfo.parse_stat("cpu  1 2 3 4 5 6 7 8 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n") == (3, 3, 4, 26)
    assert hostinfo.parse_stat("") == (0, 0, 0, 0)


def test_load_is_that_of_the_time_between() -> None:
    earlier = hostinfo.Times(100, 100, 100, 100, 1, 1, 10)
    load = hostinfo.load_between(earlier, hostinfo.Times(110, 120, 150, 120, 2, 1.5, 12))
    assert load == hostinfo.Load(user=10, system=20, idle=50, own_user=50, own_system=25)
    assert hostinfo.load_between(earlier, earlier) == hostinfo.Load(0, 0, 0, 0, 0)


def test_os_release_and_brackets() -> None:
    assert hostinfo.parse_os_release("NAME=\"Debian GNU/Linux\"\nVERSION_ID='12'\n# x\n") == {
        "NAME": "Debian GNU/Linux",
        "VERSION_ID": "12",
    }
    assert hostinfo.chosen("always [madvise] never") == "madvise" and hostinfo.chosen("") == ""


@settings(deadline=None)
@given(st.text())
def test_no_text_breaks_a_parser(text: str) -> None:
    hostinfo.parse_cpuinfo(text)
    hostinfo.parse_meminfo(text)
    hostinfo.parse_os_release(text)


def test_this_machine() -> None:
    assert hostinfo.parse_meminfo(hostinfo.read_text("/proc/meminfo"))["MemTotal"] > 0
    assert hostinfo.parse_cpuinfo(hostinfo.read_text("/proc/cpuinfo")).threads == os.sysconf("SC_NPROCESSORS_ONLN")
    assert hostinfo.read_text("/nonexistent", "default") == "default"
    load = hostinfo.Sampler().load()
    assert 0 < load.user + load.system + load.idle <= 100.001


def test_firmware_tables(tmp_path: Path) -> None:
    dmi, tree = tmp_path / "dmi", tmp_path / "tree"
    assert hostinfo.hardware(dmi, tree) == {}
    tree.mkdir()
    (tree / "model").write_bytes(b"Raspberry Pi 4\0")
    assert hostinfo.hardware(dmi, tree) == {"systemProductName": "Raspberry Pi 4"}
    dmi.mkdir()
    for name, text in {
        "sys_vendor": "Dell Inc.\n",
        "product_name": "To Be Filled By O.E.M.\n",
        "product_version": "Not Specified\n",
        "product_uuid": "4c4c4544-0000-2010-8020-80c04f202020\n",
        "product_family": "\n",
    }.items():
        (dmi / name).write_text(text)
    assert hostinfo.hardware(dmi, tree) == {
        "systemManufacturer": "Dell Inc.",
        "systemUUID": "4c4c4544-0000-2010-8020-80c04f202020",
    }


def test_initiators(tmp_path: Path) -> None:
    name = tmp_path / "initiatorname.iscsi"
    assert hostinfo.initiators(tmp_path, str(name)) == {"iSCSI": [], "FC": []}
    name.write_text("## comment\nInitiatorName=iqn.1993-08.org.debian:01:abc\n")
    host = tmp_path / "class/fc_host/host3"
    host.mkdir(parents=True)
    (host / "port_name").write_text("0x500143802426baf4\n")
    (host / "node_name").write_text("0x500143802426baf5\n")
    (host / "symbolic_name").write_text("QLE2562\n")
    assert hostinfo.initiators(tmp_path, str(name)) == {
        "iSCSI": [{"InitiatorName": "iqn.1993-08.org.debian:01:abc"}],
        "FC": [{"model": "QLE2562", "wwpn": "500143802426baf4", "wwnn": "500143802426baf5"}],
    }


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("qemu-img version 7.2.9 (Debian 1:7.2+dfsg-7)\nCopyright", "7.2.9"),
        ("QEMU emulator version 8.0.0", "8.0.0"),
        ("version", ""),
        ("", ""),
    ],
)
def test_versions(said: str, version: str) -> None:
    assert hostinfo.parse_version(said) == version
