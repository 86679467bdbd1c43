"""Commands on the host, its machines and its devices: exact arguments on the wire, exact lines."""

from typing import Any

import pytest

from client import errors, host
from rpc import arguments as server_arguments, catalogue
from tests.support import clienting, fakeserver
from tests.support.fakeserver import ok

SCHEMA = catalogue.load()
VM, SD, IMG, BASE, TOP = clienting.ids(5)
GROUP = "Zd3UBa-lJf7-TCr1-AqBq-oCbz-mGAl-5uUrWn"
RULER = "=" * 32
PORTAL = {"connection": "10.0.0.5", "port": "3260", "user": "", "password": ""}
FENCE = "fenceNode 10.0.0.9 7 ipmilan admin word"

# command line -> (verb, call on the wire, reply, stdout)
CASES: dict[str, tuple[str, list[Any], dict[str, Any], str]] = {
    f"{FENCE} status": (
        "fenceNode",
        ["10.0.0.9", "7", "ipmilan", "admin", "word", "status", "False"],
        ok(power="on"),
        "on\n",
    ),
    f"{FENCE} off true lanplus=1,delay=2": (
        "fenceNode",
        ["10.0.0.9", "7", "ipmilan", "admin", "word", "off", "true", "lanplus=1,delay=2"],
        ok(power="unknown", operationStatus="initiated"),
        "OK\n",
    ),
    "getAllVmStats": (
        "getAllVmStats",
        [],
        ok(statsList=[{"vmId": VM, "status": "Up", "b": 2, "a": "1"}]),
        f"{VM}\n\tStatus = Up\n\ta = 1\n\tb = 2\n\n",
    ),
    f"getVmStats {VM}": ("getVmStats", [VM], ok(statsList=[{"vmId": VM, "a": "1"}]), f"\ta = 1\n\tvmId = {VM}\n"),
    f"getVmStats {VM} a": ("getVmStats", [VM], ok(statsList=[{"vmId": VM, "a": "1"}]), "1\n"),
    "getVdsHardwareInfo": ("getVdsHardwareInfo", [], ok(info={"b": "x", "a": "y"}), "\ta = 'y'\n\tb = 'x'\n"),
    "setLogLevel 10": ("setLogLevel", [10], ok(), "\n"),
    "prepareForShutdown": ("prepareForShutdown", [], ok(), "\n"),
    f"merge {VM} domainID={SD},imageID={IMG},volumeID={TOP} {BASE} {TOP}": (
        "merge",
        [VM, {"domainID": SD, "imageID": IMG, "volumeID": TOP}, BASE, TOP],
        ok(),
        "OK\n",
    ),
    f"snapshot {VM} {SD} {IMG} {BASE} {TOP}": (
        "snapshot",
        [VM, [{"domainID": SD, "imageID": IMG, "baseVolumeID": BASE, "volumeID": TOP}]],
        ok(),
        "OK\n",
    ),
    f"createVG {SD} a,b true": ("createVG", [SD, ["a", "b"], "true"], ok(uuid=GROUP), f"{GROUP}\n"),
    f"removeVG {GROUP}": ("removeVG", [GROUP], ok(), "\n"),
    f"getVGInfo {GROUP}": (
        "getVGInfo",
        [GROUP],
        ok(info={"name": "vg", "pvlist": [{"GUID": "a"}, {"GUID": "b"}]}),
        f"{RULER}\nname = vg\n{RULER}\npvlist =\n\t{{'GUID': 'a'}}\n\t{{'GUID': 'b'}}\n\n",
    ),
    "getVGList": ("getVGList", [], ok(vglist=[{"name": "vg", "type": 3}]), f"{RULER}\nname = vg\ntype = 3\n\n"),
    "getVGList 2": ("getVGList", [2], ok(vglist=[]), "\n"),
    "getDeviceList": ("getDeviceList", [], ok(devList=[{"GUID": "a"}]), "[{'GUID': 'a'}]\n\n"),
    "getDevicesVisibility a,b": (
        "getDevicesVisibility",
        [["a", "b"]],
        ok(visible={"a": True, "b": False}),
        "\ta = True\n\tb = False\n\n",
    ),
    "discoverST 10.0.0.5": (
        "discoverSendTargets",
        [PORTAL],
        ok(fullTargets=["10.0.0.5:3260,1 iqn.x"], targets=["iqn.x"]),
        "---- fullTargets\n10.0.0.5:3260,1 iqn.x\n---- targets\niqn.x\n\n",
    ),
    "discoverST 10.0.0.5:99 joe word": (
        "discoverSendTargets",
        [PORTAL | {"port": "99", "user": "joe", "password": "word"}],
        ok(fullTargets=[], targets=[]),
        "---- fullTargets\n---- targets\n\n",
    ),
    f"extendStorageDomain {SD} {VM} a,b": ("extendStorageDomain", [SD, VM, ["a", "b"]], ok(), "\n"),
}


@pytest.mark.parametrize("line", CASES)
def test_wire_arguments_and_output(line: str) -> None:
    name, sent, reply, shown = CASES[line]
    with fakeserver.serving({name: reply}) as fake:
        assert clienting.run(fake, *line.split()) == (0, shown, "")
    assert fake.calls == [(name, sent)]
    verb = SCHEMA.verbs[name]
    server_arguments.compile_check(verb, SCHEMA.types)(server_arguments.from_wire(verb, sent))


# Commands that end with the code of a failure itself; all others end with 1.
CODES = {"getAllVmStats": 9, "getVmStats": 9, "getVdsHardwareInfo": 9, "merge": 9}


@pytest.mark.parametrize("line", CASES)
def test_failures_are_shown(line: str) -> None:
    verb = SCHEMA.verbs[CASES[line][0]]
    with fakeserver.serving({verb.name: fakeserver.failure(9, "no")}) as fake:
        assert clienting.run(fake, *line.split()) == (CODES.get(verb.name, 1), "no\n", "")


@pytest.mark.parametrize(
    ("word", "address", "port"),
    [
        ("host", "host", 3260),
        ("host:1", "host", 1),
        ("10.0.0.5:3261", "10.0.0.5", 3261),
        ("::1", "::1", 3260),
        ("2001:db8::5", "2001:db8::5", 3260),
        ("[::1]", "::1", 3260),
        ("[::1]:99", "::1", 99),
    ],
)
def test_portals(word: str, address: str, port: int) -> None:
    assert host.portal(word) == (address, port)


@pytest.mark.parametrize("word", ["", ":1", "host:", "host:x", "[::1", "[::1]x", "[]:1", "[::1]:"])
def test_what_is_no_portal(word: str) -> None:
    with pytest.raises(errors.BadArgument):
        host.portal(word)


@pytest.mark.parametrize("line", ["discoverST", "discoverST a b", "snapshot a", f"getVmStats {VM} a b"])
def test_wrong_numbers_of_words(line: str) -> None:
    with fakeserver.serving({}) as fake:
        code, _, _ = clienting.run(fake, *line.split())
    assert code == 255 and fake.calls == []
