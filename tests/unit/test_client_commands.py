"""Commands of the client against a server with canned replies: exact arguments on the wire, exact lines, exit codes."""

import pathlib
from typing import Any

import pytest

from client import commands, errors, output
from rpc import arguments as server_arguments, catalogue
from tests.support import clienting, fakeserver
from tests.support.fakeserver import ok

SCHEMA = catalogue.load()
SP, SD, IMG, VOL, TASK, OTHER = clienting.ids(6)
BLANK = output.BLANK_ID
INFO = {"type": "COW", "list": ["a", "b"], "number": 3}

# command line -> (call on the wire, reply, stdout)
CASES: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    f"clearTask {TASK}": ([TASK], ok(), "{'status': {'code': 0, 'message': 'OK'}}\n\n"),
    f"connectStoragePool {SP} 1 key": ([SP, 1, "key", BLANK, -1], ok(), "\n"),
    f"connectStoragePool {SP} 1 key {SD}": ([SP, 1, "key", SD, -1], ok(), "\n"),
    f"connectStoragePool {SP} 1 key {SD} 7 {SD}=active,{IMG}=attached": (
        [SP, 1, "key", SD, 7, {SD: "active", IMG: "attached"}],
        ok(),
        "\n",
    ),
    f"connectStorageServer 4 {SP} id={SD},connection=/a=b": (
        [4, SP, [{"id": SD, "connection": "/a=b"}]],
        ok(statuslist=[{"id": SD, "status": 0}]),
        "\n",
    ),
    f"createStorageDomain 4 {SD} name /srv/x 1": ([4, SD, "name", "/srv/x", 1], ok(), "\n"),
    f"createStorageDomain 4 {SD} name /srv/x 1 3": ([4, SD, "name", "/srv/x", 1, 3], ok(), "\n"),
    f"createStoragePool 4 {SP} pool {SD} {SD},{IMG} 1": ([4, SP, "pool", SD, [SD, IMG], 1], ok(), "\n"),
    f"createStoragePool 4 {SP} pool {SD} {SD} 1 ON 5 60 10 3": (
        [4, SP, "pool", SD, [SD], 1, "ON", 5, 60, 10, 3],
        ok(),
        "\n",
    ),
    f"createVolume {SD} {SP} {IMG} 2048 4 2 2 {VOL} text": (
        [SD, SP, IMG, str(2048 << 30), 4, 2, 2, VOL, "text"],
        ok(uuid=TASK),
        f"{TASK}\n",
    ),
    f"createVolume {SD} {SP} {IMG} 1 4 2 2 {VOL} text {IMG} {OTHER}": (
        [SD, SP, IMG, "1073741824", 4, 2, 2, VOL, "text", IMG, OTHER],
        ok(uuid=TASK),
        f"{TASK}\n",
    ),
    f"deleteImage {SD} {SP} {IMG}": ([SD, SP, IMG, "False", "False"], ok(uuid=TASK), f"{TASK}\n"),
    f"deleteImage {SD} {SP} {IMG} TRUE": ([SD, SP, IMG, "TRUE", "False"], ok(uuid=TASK), f"{TASK}\n"),
    f"deleteVolume {SD} {SP} {IMG} {VOL},{OTHER}": (
        [SD, SP, IMG, [VOL, OTHER], "False", "False"],
        ok(uuid=TASK),
        f"{TASK}\n",
    ),
    f"destroyStoragePool {SP} 1 key": ([SP, 1, "key"], ok(), "\n"),
    f"disconnectStoragePool {SP} 1 key": ([SP, 1, "key"], ok(), "\n"),
    f"disconnectStorageServer 4 {SP} id={SD}": ([4, SP, [{"id": SD}]], ok(statuslist=[]), "\n"),
    f"formatStorageDomain {SD}": ([SD, "False"], ok(), "\n"),
    f"formatStorageDomain {SD} true": ([SD, "true"], ok(), "\n"),
    "getAllTasks": ([], ok(tasks={TASK: {"id": TASK, "code": 0}}), f"{TASK} :\n\tid = {TASK}\n\tcode = 0\n\n"),
    "getAllTasks spm,hsm": ([["spm", "hsm"]], ok(tasks={}), "\n"),
    "getAllTasksInfo": ([], ok(allTasksInfo={TASK: {"verb": "x"}}), f"{TASK} :\n\tverb = x\n\n"),
    "getAllTasksStatuses": (
        [],
        {"allTasksStatus": {}},
        "{'allTasksStatus': {}, 'status': {'code': 0, 'message': 'OK'}}\n\n",
    ),
    "getConnectedStoragePoolsList": ([], ok(poollist=[SP]), f"{SP}\n\n"),
    f"getImagesList {SD}": ([SD], ok(imageslist=[IMG, OTHER]), f"{IMG}\n{OTHER}\n\n"),
    f"getParent {SD} {SP} {IMG} {VOL}": ([SD, SP, IMG, VOL], ok(info={"parent": OTHER}), f"{OTHER}\n"),
    f"getSpmStatus {SP}": ([SP], ok(spm_st={"spmStatus": "SPM", "spmLver": 0}), "\tspmStatus = SPM\n\tspmLver = 0\n\n"),
    f"getStorageDomainInfo {SD}": ([SD], ok(info=INFO), "\ttype = COW\n\tlist = ['a', 'b']\n\tnumber = 3\n\n"),
    f"getStorageDomainStats {SD}": (
        [SD],
        ok(stats={"disktotal": "10737418240", "diskfree": "1000", "mdavalid": True}),
        "\tdisktotal = 10737418240 (10 GiB)\n\tdiskfree = 1000 (1000 B)\n\n",
    ),
    "getStorageDomainsList": ([BLANK], ok(domlist=[SD]), f"{SD}\n\n"),
    f"getStorageDomainsList {SP}": ([SP], ok(domlist=[]), "\n"),
    f"getStoragePoolInfo {SP}": (
        [SP],
        ok(info={"name": "p"}, dominfo={SD: {"status": "Active", "alerts": []}}),
        f"\tname = p\n\t{SD} = {{'status': 'Active', 'alerts': []}}\n\n",
    ),
    f"getTaskInfo {TASK}": ([TASK], ok(TaskInfo={"id": TASK, "verb": "v"}), f"\tid = {TASK}\n\tverb = v\n\n"),
    f"getTaskStatus {TASK}": (
        [TASK],
        {"taskStatus": {"taskID": TASK, "taskState": "finished", "taskResult": "success", "message": "done"}},
        f"TASK: {TASK} STATUS: finished RESULT: success MESSAGE: 'done'\n"
        f"{{'taskStatus': {{'taskID': '{TASK}', 'taskState': 'finished', 'taskResult': 'success', 'message': 'done'}},"
        " 'status': {'code': 0, 'message': 'OK'}}\n\n",
    ),
    "getVdsCapabilities": ([], ok(info={"b": "4", "a": ["x"]}), "\ta = ['x']\n\tb = '4'\n"),
    "getVdsCaps": ([], ok(info={"cpu": "4"}), "\tcpu = '4'\n"),
    "getVdsStats": ([], ok(info={"z": 1, "y": {"k": True}}), "\ty = {'k': True}\n\tz = 1\n"),
    f"getVolumeInfo {SD} {SP} {IMG} {VOL}": ([SD, SP, IMG, VOL], ok(info={"uuid": VOL}), f"\tuuid = {VOL}\n\n"),
    f"getVolumePath {SD} {SP} {IMG} {VOL}": ([SD, SP, IMG, VOL], ok(path="/rhev/x"), "/rhev/x\n"),
    f"getVolumeSize {SD} {SP} {IMG} {VOL}": (
        [SD, SP, IMG, VOL],
        ok(truesize="1", apparentsize="2"),
        "\tapparentsize = '2'\n\ttruesize = '1'\n\n",
    ),
    "list": ([True, []], ok(vmList=[{"vmId": VOL, "status": "Up"}]), f"{VOL}\n\tstatus = Up\n\tvmId = {VOL}\n\n"),
    "list ids": ([False, []], ok(vmList=[{"vmId": VOL, "status": "Up"}, OTHER]), f"{VOL}\n{OTHER}\n"),
    f"list table vms:{VOL},{OTHER}": (
        [True, [VOL, OTHER]],
        ok(vmList=[{"vmId": VOL, "pid": "7", "vmName": "n", "status": "Up", "guestIPs": ""}]),
        f"{VOL}  7  n  Up\n",
    ),
    f"prepareImage {SP} {SD} {IMG}": ([SP, SD, IMG], ok(path="/p", info={"path": "/p"}), "{'path': '/p'}\n\n"),
    f"prepareImage {SP} {SD} {IMG} {VOL}": ([SP, SD, IMG, VOL], ok(path="/p", info={}), "{}\n\n"),
    f"proveVolumeChain {SP} {SD} {IMG} {VOL}": ([SP, SD, IMG, VOL], ok(uuid=TASK), f"{TASK}\n"),
    f"reconcileVolumeChain {SP} {SD} {IMG} {VOL}": (
        [SP, SD, IMG, VOL],
        ok(volumes=[VOL, OTHER]),
        f"{VOL}\n{OTHER}\n\n",
    ),
    f"reconcileVolumeChain {SP} {SD} {IMG} {VOL} leaf={OTHER}": (
        [SP, SD, IMG, VOL, {"leaf": OTHER}],
        ok(volumes=[OTHER]),
        f"{OTHER}\n\n",
    ),
    f"revertTask {TASK}": ([TASK], ok(), "{'status': {'code': 0, 'message': 'OK'}}\n\n"),
    f"setVolumeDescription {SD} {SP} {IMG} {VOL} words": ([SD, SP, IMG, VOL, "words"], ok(), "\n"),
    f"setVolumeLegality {SD} {SP} {IMG} {VOL} ILLEGAL": ([SD, SP, IMG, VOL, "ILLEGAL"], ok(), "OK\n"),
    f"spmStart {SP} -1 -1 0 false": ([SP, -1, -1, 0, "false"], ok(uuid=TASK), f"{TASK}\n"),
    f"spmStart {SP} -1 -1 0 false 250 3": ([SP, -1, -1, 0, "false", 250, 3], ok(uuid=TASK), f"{TASK}\n"),
    f"spmStop {SP}": ([SP], ok(), "\n"),
    f"stopTask {TASK}": ([TASK], ok(), "{'status': {'code': 0, 'message': 'OK'}}\n\n"),
    f"teardownImage {SP} {SD} {IMG}": ([SP, SD, IMG], ok(), "OK\n"),
    f"validateStorageDomain {SD}": ([SD], ok(), "\n"),
    f"validateStorageServerConnection 4 {SP} id={SD}": (
        [4, SP, [{"id": SD}]],
        ok(statuslist=[{"id": SD, "status": 0}]),
        f"Connection id: {SD}, status: 0\n\n",
    ),
}

STATS = {"code": 0, "valid": True}
CASES |= {
    "repoStats": ([], ok(**{SD: STATS}), f"{SD} {STATS}\n\n"),
    f"startMonitoringDomain {SD} 1": ([SD, 1], ok(), "OK\n"),
    f"stopMonitoringDomain {SD}": ([SD], ok(), "OK\n"),
    f"getFileStats {SD}": ([SD], ok(fileStats={"a.iso": {"size": "1"}}), "a.iso {'size': '1'}\n\n"),
    f"getFileStats {SD} *.iso": ([SD, "*.iso", "False"], ok(fileStats={}), "\n"),
    f"getFileStats {SD} *.iso true": ([SD, "*.iso", "true"], ok(fileStats={}), "\n"),
    f"getIsoList {SP}": ([SP], ok(isolist=["b", "a"]), "ISO files that machines can read:\nb\na\n\n"),
    f"getFloppyList {SP}": ([SP], ok(isolist=["a.vfd"]), "a.vfd\n\n"),
    f"getImageDomainsList {SP} {IMG}": ([SP, IMG], ok(domainslist=[SD]), f"{SD}\n\n"),
    f"getVmsList {SP}": ([SP, BLANK], ok(vmlist=[]), "No machines are kept there.\n\n"),
    f"getVmsList {SP} {SD}": ([SP, SD], ok(vmlist=[VOL, OTHER]), f"{'=' * 32}\n{VOL}\n{'=' * 32}\n{OTHER}\n\n"),
    f"getVmsInfo {SP}": ([SP, BLANK], ok(vmlist={}), "No machines are kept there.\n\n"),
    f"getVmsInfo {SP} {SD} {VOL},{OTHER}": (
        [SP, SD, [VOL, OTHER]],
        ok(vmlist={VOL: "<a/>\n"}),
        f"{'=' * 32}\n{VOL}=<a/>\\n\n\n",
    ),
    f"updateVM {SP} vm={VOL},ovf=<a/>,imglist=": ([SP, [{"vm": VOL, "ovf": "<a/>", "imglist": ""}]], ok(), "\n"),
    f"updateVM {SP} imglist={IMG}+{SD},vm={VOL},ovf=<a/>,b=c,,d {SD}": (
        [SP, [{"vm": VOL, "ovf": "<a/>,b=c,,d", "imglist": f"{IMG},{SD}"}], SD],
        ok(),
        "\n",
    ),
    f"removeVM {SP} {VOL}": ([SP, VOL], ok(), "\n"),
    f"removeVM {SP} {VOL} {SD}": ([SP, VOL, SD], ok(), "\n"),
    f"uploadImage method=http,url=http://a/b?c=d {SP} {SD} {IMG}": (
        [{"method": "http", "url": "http://a/b?c=d"}, SP, SD, IMG],
        ok(uuid=TASK),
        f"{TASK}\n",
    ),
    f"downloadImage {{'method':'http','url':'http://a/b,c','headers':{{'X-A':'b'}}}} {SP} {SD} {IMG} {VOL}": (
        [{"method": "http", "url": "http://a/b,c", "headers": {"X-A": "b"}}, SP, SD, IMG, VOL],
        ok(uuid=TASK),
        f"{TASK}\n",
    ),
}

# Commands with tests of their own: several calls, or a picture.
ELSEWHERE = {"chain", "getVolumesList", "undoReconcile"}

WORDS = {
    "BlankableUUID": SD,
    "DomainStatuses": f"{SD}=active",
    "DeviceList": "guid1,guid2",
    "ISCSIPortal": "connection=127.0.0.1,port=3260,user=,password=",
    "ImageFlags": f"{IMG}=false",
    "Int": "1",
    "Line": "text",
    "UUID": SD,
    "VmDriveList": f"domainID={SD},imageID={IMG},baseVolumeID={SD},volumeID={SP}",
    "VolumeGroupID": "abcdef-0123-4567-89ab-cdef-0123-456789",
    "VmDrive": f"poolID={SP},domainID={SD},imageID={IMG},volumeID={SD}",
}
"""A word for each type that the remaining commands take."""

ENDING_WITH_THE_CODE = {
    "getAllVmStats",
    "getVdsCapabilities",
    "getVdsHardwareInfo",
    "getVdsStats",
    "getVmStats",
    "list",
    "merge",
}
"""Commands whose failures end with the status code itself, as in the protocol's own client. All others end with 1."""


def plain_lines() -> dict[str, str]:
    """Commands that are mere words in wire order, each with the words that it needs."""
    known = {line.split()[0] for line in CASES} | ELSEWHERE
    lines = {}
    for verb in SCHEMA.verbs.values():
        if verb.command and verb.command not in known:
            wanted = verb.usage[0].split(" [")[0].split() if verb.usage and verb.usage[0].startswith("<") else []
            types = [catalogue.type_name(place.schema) for place in verb.wire]
            lines[verb.command] = " ".join([verb.command, *(WORDS.get(t or "", "1") for t in types[: len(wanted)])])
    return lines


PLAIN = plain_lines() | {
    "discoverST": "discoverST 127.0.0.1:3260",
    "snapshot": f"snapshot {SP} {SD} {IMG} {SD} {SP}",
}


def verb_of(command: str) -> catalogue.Verb:
    command = {"getVdsCaps": "getVdsCapabilities", "getParent": "getVolumeInfo"}.get(command, command)
    return next(verb for verb in SCHEMA.verbs.values() if verb.command == command)


@pytest.mark.parametrize("line", CASES)
def test_wire_arguments_and_output(line: str) -> None:
    sent, reply, shown = CASES[line]
    command, *words = line.split()
    verb = verb_of(command)
    reply = {**reply, "status": dict(fakeserver.OK)}
    with fakeserver.serving({verb.name: reply}) as fake:
        assert clienting.run(fake, command, *words) == (0, shown, "")
    assert fake.calls == [(verb.name, sent)]


@pytest.mark.parametrize("line", CASES)
def test_the_server_takes_what_is_sent(line: str) -> None:
    verb = verb_of(line.split()[0])
    check = server_arguments.compile_check(verb, SCHEMA.types)
    check(server_arguments.from_wire(verb, CASES[line][0]))


def test_no_command_is_left_out_above() -> None:
    assert {line.split()[0] for line in CASES} | ELSEWHERE | set(PLAIN) == set(commands.table(SCHEMA))


@pytest.mark.parametrize("command", PLAIN)
def test_the_server_takes_what_a_plain_command_sends(command: str) -> None:
    verb = verb_of(command)
    with fakeserver.serving({verb.name: ok(uuid=TASK)}) as fake:
        _, shown, notes = clienting.run(fake, *PLAIN[command].split())
    assert fake.calls, shown + notes
    [(_, sent)] = fake.calls
    server_arguments.compile_check(verb, SCHEMA.types)(server_arguments.from_wire(verb, sent))


@pytest.mark.parametrize("verb", [verb for verb in SCHEMA.verbs.values() if verb.command], ids=lambda verb: verb.name)
def test_every_verb_with_a_command_reports_its_failures(verb: catalogue.Verb) -> None:
    line = next((line for line in CASES if line.split()[0] == verb.command), PLAIN.get(verb.command or "", ""))
    line = line or f"{verb.command} {SP} {SD} {IMG}"
    with fakeserver.serving({name: fakeserver.failure(654, "not SPM") for name in SCHEMA.verbs}) as fake:
        code, shown, notes = clienting.run(fake, *line.split())
    assert (shown, notes) == ("not SPM\n", "")
    assert code == (654 % 256 if verb.command in ENDING_WITH_THE_CODE else 1)


@pytest.mark.parametrize("code", [256, 512])
def test_a_host_failure_never_exits_with_0(code: int) -> None:
    with fakeserver.serving({"getVdsStats": fakeserver.failure(code, "x")}) as fake:
        assert clienting.run(fake, "getVdsStats")[0] == 255


@pytest.mark.parametrize("verb", [verb for verb in SCHEMA.verbs.values() if verb.command], ids=lambda verb: verb.name)
def test_too_many_words_call_nothing(verb: catalogue.Verb) -> None:
    assert verb.command is not None
    with fakeserver.serving({}) as fake:
        code, shown, _ = clienting.run(fake, verb.command, *["1"] * 20)
    assert code == 255
    assert shown.splitlines()[0].startswith(f"ERROR: {verb.command}: ")
    assert fake.calls == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"getVolumeInfo {SD} {SP} {IMG}", "takes 4 arguments, not 3"),
        (f"spmStart {SP} x -1 0 false", "prevID: 'x' is not an integer"),
        (f"spmStart {SP} \uff12 -1 0 false", "prevID: '\uff12' is not an integer"),
        (f"spmStart {SP} 4294967296 -1 0 false", "prevID: '4294967296' does not fit into an XML-RPC int (32 bits)"),
        (f"spmStart {SP} -1 -1 often false", "recoveryMode: 'often' is not an integer"),
        (f"deleteImage {SD} {SP} {IMG} yes", "postZero: 'yes' is neither true nor false"),
        (f"deleteVolume {SD} {SP} {IMG} {VOL},", f"volumeList: '{VOL},' has an empty item"),
        (f"createVolume {SD} {SP} {IMG} 1.5 4 2 2 {VOL} d", "size: '1.5' is not a whole number of GiB"),
        (f"createVolume {SD} {SP} {IMG} -1 4 2 2 {VOL} d", "size: '-1' is not a whole number of GiB"),
        (f"connectStorageServer 4 {SP} id", "connectionParams: 'id' is not key=value"),
        (f"connectStorageServer 4 {SP} id=1,id=2", "connectionParams: 'id' is given twice"),
        (f"updateVM {SP} vm=1,ovf=2", "vmList: 'vm=1,ovf=2' is not vm=id,ovf=text,imglist=id+id"),
        (f"updateVM {SP} x,vm=1,ovf=,imglist=", "vmList: 'x,vm=1,ovf=,imglist=' is not vm=id,ovf=text,imglist=id+id"),
        (f"reconcileVolumeChain {SP} {SD} {IMG} {VOL} {VOL}", f"options: '{VOL}' is not key=value"),
        (f"uploadImage http://a/ {SP} {SD} {IMG}", "methodArgs: 'http://a/' is not key=value"),
        (f"uploadImage {{'a':b()}} {SP} {SD} {IMG}", "methodArgs: \"{'a':b()}\" is not a literal in braces"),
        (f"uploadImage {{1,2}} {SP} {SD} {IMG}", "methodArgs: '{1,2}' is not a struct"),
        (
            f"uploadImage {{'a':1.5}} {SP} {SD} {IMG}",
            "methodArgs: '1.5' is neither a text nor a whole number, a list or a struct",
        ),
        (f"chain {SP} {SD}", "takes 3 to 4 arguments, not 2"),
        (f"chain --yaml {SP} {SD} {IMG}", "'--yaml' is no option of this command"),
        ("list everything", "'everything' is neither a view (long, table, ids) nor vms:id,id,..."),
    ],
)
def test_wrong_words_are_named_and_call_nothing(line: str, reason: str) -> None:
    command = line.split()[0]
    with fakeserver.serving({}) as fake:
        code, shown, notes = clienting.run(fake, *line.split())
    first, empty, name, *usage = shown.splitlines()
    assert (code, first, empty, name, notes) == (255, f"ERROR: {command}: {reason}", "", command, "")
    assert usage and all(line.startswith("\t") for line in usage)
    assert usage[0].strip() == commands.table(SCHEMA)[command].usage[0]
    assert fake.calls == []


@pytest.mark.parametrize("bad", ["a\x00b", "a\x1b[31mb", "\ud800", "\udcff", "\ufffe"])
def test_what_xml_cannot_carry_is_refused(bad: str) -> None:
    with fakeserver.serving({}) as fake:
        code, shown, _ = clienting.run(fake, "setVolumeDescription", SD, SP, IMG, VOL, bad)
    assert code == 255
    assert "holds a character that XML cannot carry" in shown
    assert bad not in shown
    assert fake.calls == []


def test_text_goes_unchanged() -> None:
    text = "<&>'\" ä 漢 \U0001f600 a=b,c"
    with fakeserver.serving({"setVolumeDescription": ok()}) as fake:
        assert clienting.run(fake, "setVolumeDescription", SD, SP, IMG, VOL, text)[0] == 0
    assert fake.calls == [("setVolumeDescription", [SD, SP, IMG, VOL, text])]


def test_nothing_from_the_server_reaches_the_terminal_raw() -> None:
    evil = "\x9b31m\u202e\u2028\n\t"
    shown_evil = r"\x9b31m\u202e\u2028\n\t"
    info = {f"k{evil}": evil, "list": [evil], "nested": {evil: evil}}
    with fakeserver.serving(
        {
            "getVolumeInfo": ok(info=info),
            "getVolumePath": ok(path=evil),
            "getImagesList": ok(imageslist=[evil]),
            "getVdsStats": ok(info=info),
            "getTaskStatus": ok(taskStatus={"message": evil}),
            "getAllTasks": ok(tasks={evil: info}),
            "spmStop": fakeserver.failure(1, evil),
        }
    ) as fake:
        for line in (
            f"getVolumeInfo {SD} {SP} {IMG} {VOL}",
            f"getVolumePath {SD} {SP} {IMG} {VOL}",
            f"getImagesList {SD}",
            "getVdsStats",
            f"getTaskStatus {TASK}",
            "getAllTasks",
            f"spmStop {SP}",
        ):
            _, shown, _ = clienting.run(fake, *line.split())
            assert shown_evil in shown
            assert all(char.isprintable() or char in "\n\t" for char in shown)
            assert not any(text.strip("\n\t") != text.strip() for text in shown.split("\n"))


def test_long_host_facts_are_broken_up_and_aligned() -> None:
    packages = {f"package-{number}": {"version": "1.0", "release": "1"} for number in range(3)}
    with fakeserver.serving({"getVdsCapabilities": ok(info={"packages2": packages})}) as fake:
        _, shown, _ = clienting.run(fake, "getVdsCaps")
        first, second, _ = shown.splitlines()
        assert first == "\tpackages2 = {'package-0': {'release': '1', 'version': '1.0'},"
        assert second == "\t" + " " * 12 + " 'package-1': {'release': '1', 'version': '1.0'},"


def test_changes_of_a_reconcile_go_to_stderr() -> None:
    change = {"volumeID": VOL, "field": "parent", "before": OTHER, "after": BLANK, "why": "merged\x9b"}
    with fakeserver.serving(
        {"reconcileVolumeChain": ok(volumes=[VOL], changes=[change], chain=[], changed=True)}
    ) as fake:
        code, shown, notes = clienting.run(fake, "reconcileVolumeChain", SP, SD, IMG, VOL)
    assert (code, shown) == (0, f"{VOL}\n\n")
    told, undo = notes.splitlines()
    assert told == f"changed: volume {VOL} parent {OTHER} -> none (merged\\x9b)"
    assert undo.startswith("to put that back: ") and undo.endswith(f" undoReconcile {SP} {SD} {IMG}")


@pytest.mark.parametrize(("more", "sent"), [((), "False"), (("true",), "true")])
def test_an_undoing_that_had_nothing_to_do_says_so(more: tuple[str, ...], sent: str) -> None:
    with fakeserver.serving({"undoReconcile": ok(repairTime="7", changed=False, changes=[])}) as fake:
        result = clienting.run(fake, "undoReconcile", SP, SD, IMG, *more)
    assert result == (0, "OK\n", "nothing was left to put back\n")
    assert fake.calls == [("undoReconcile", [SP, SD, IMG, sent])]


def test_connections_that_fail_are_named_on_stderr() -> None:
    states = [{"id": SD, "status": 0}, {"id": IMG, "status": 477}]
    with fakeserver.serving({"connectStorageServer": ok(statuslist=states)}) as fake:
        result = clienting.run(fake, "connectStorageServer", "4", SP, f"id={SD}")
    assert result == (0, "\n", f"connection {IMG} failed: status 477\n")


def test_volumes_list_of_an_image() -> None:
    infos = {
        VOL: ok(info={"description": "root", "parent": BLANK}),
        OTHER: ok(info={"description": "", "parent": VOL}),
        TASK: fakeserver.failure(207, "metadata is damaged"),
    }
    replies = {
        "getVolumesList": ok(uuidlist=[VOL, OTHER, TASK]),
        "getVolumeInfo": lambda sd, sp, img, vol: infos[vol],
    }
    with fakeserver.serving(replies) as fake:
        code, shown, notes = clienting.run(fake, "getVolumesList", SD, SP, IMG)
    assert (code, shown.splitlines()) == (0, [f"{VOL} : root. ", f"{OTHER} : Parent is {VOL}", f"{TASK} : ", ""])
    assert notes == f"volume {TASK}: metadata is damaged\n"
    assert fake.calls[0] == ("getVolumesList", [SD, SP, IMG])
    assert fake.calls[1:] == [("getVolumeInfo", [SD, SP, IMG, volume]) for volume in (VOL, OTHER, TASK)]
    assert fake.connections == 1


def test_volumes_list_of_a_domain_asks_for_its_images() -> None:
    replies = {
        "getImagesList": ok(imageslist=[IMG, OTHER]),
        "getVolumesList": lambda sd, sp, img: ok(uuidlist=[VOL] if img == IMG else []),
        "getVolumeInfo": ok(info={"parent": BLANK}),
    }
    with fakeserver.serving(replies) as fake:
        assert clienting.run(fake, "getVolumesList", SD, SP) == (0, f"{VOL} : \n\n", "")
    assert [call for call in fake.calls if call[0] == "getVolumesList"] == [
        ("getVolumesList", [SD, SP, IMG]),
        ("getVolumesList", [SD, SP, OTHER]),
    ]


def test_volumes_list_fails_with_the_image_list() -> None:
    with fakeserver.serving({"getImagesList": fakeserver.failure(358, "no domain")}) as fake:
        assert clienting.run(fake, "getVolumesList", SD, SP) == (1, "no domain\n", "")


@pytest.mark.parametrize("parent", [BLANK, ""])
def test_no_parent_exits_1(parent: str) -> None:
    with fakeserver.serving({"getVolumeInfo": ok(info={"parent": parent})}) as fake:
        assert clienting.run(fake, "getParent", SD, SP, IMG, VOL)[0] == 1


@pytest.mark.parametrize("reply", [ok(), ok(info="text"), ok(info=[])])
def test_a_reply_without_its_member_is_an_error(reply: dict[str, Any]) -> None:
    with fakeserver.serving({"getVdsStats": reply}) as fake:
        assert clienting.run(fake, "getVdsStats") == (255, "", "ERROR: the server's reply has no usable info\n")


@pytest.mark.parametrize("reply", [{"status": {"code": "0"}}, {"status": {}}])
def test_a_status_without_a_code_is_a_failure(reply: dict[str, Any]) -> None:
    with fakeserver.serving({"spmStop": reply}) as fake:
        assert clienting.run(fake, "spmStop", SP)[0] == 1


def test_sizes_for_people() -> None:
    sizes = {"0": "0 B", "1023": "1023 B", "1024": "1 KiB", "1048575": "1 MiB", "1610612736": "1.5 GiB"}
    assert {text: output.size(text) for text in sizes} == sizes
    assert [output.size(bad) for bad in ("", "x", None, "-1", "nan", "inf")] == ["?"] * 6


def test_bad_argument_is_an_error_of_the_client() -> None:
    assert issubclass(errors.BadArgument, errors.ClientError)


def test_client_knows_only_the_catalogue() -> None:
    for path in (pathlib.Path(commands.__file__).parent).iterdir():
        if path.suffix == ".py":
            assert "storage import" not in path.read_text() and "vdsmlite" not in path.read_text(), path
