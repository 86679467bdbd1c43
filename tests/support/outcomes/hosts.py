"""Errors of the verbs on tasks, machines, references, connections, block storage and the host itself."""

import contextlib
import os
from collections.abc import Iterator

from storage import hostinfo
from tests.support import daemon as daemons, faulty
from tests.support.outcomes import general, pools, stage as outcome_stage, successes, table

Stage = outcome_stage.Stage
Row = table.Row
Attempt = table.Attempt
produces, at, new_id, on_rig = table.produces, general.at, outcome_stage.new_id, pools.on_rig
Attempts = Iterator[Attempt]
BLANK, SUCCESS = outcome_stage.BLANK, table.SUCCESS

# ---------------------------------------------------------------- tasks


@produces("TaskStateError", "clearTask")
@produces("TaskNotFinished", "revertTask")
def of_a_task_at_work(stage: Stage, row: Row) -> Attempts:
    with general.occupied(stage) as tasks:
        yield at(stage, row, taskID=tasks[0])


@produces("TaskClearError", "clearTask", root=True)
def of_a_task_whose_record_stays(stage: Stage, row: Row) -> Attempts:
    records = stage.place(stage.master) / "master" / "tasks"
    with successes.finished_task(stage) as task, faulty.pinned(records, readonly=True):
        yield at(stage, row, taskID=task)


@produces("TaskStateTransitionError", "revertTask")
def of_a_task_that_is_undone(stage: Stage, row: Row) -> Attempts:
    with successes.finished_task(stage) as task:
        stage.main.call("revertTask", task)
        yield at(stage, row, taskID=task)


@produces("InvalidRecovery", "revertTask")
def of_a_task_with_an_unknown_recovery(stage: Stage, row: Row) -> Attempts:
    """As another program of the pool may have left it."""
    with stage.rig() as rig:
        values = {"storagepoolID": rig.pool, "storagedomainID": rig.first}
        task = str(stage.spare.call("createVolume", *stage.arguments("createVolume", **values))["uuid"])
        general.wait_for(lambda: general.state_of(stage.spare, task) == "finished")
        stage.spare.call("spmStop", rig.pool)
        for path in (stage.place(rig.first) / "master" / "tasks" / task).glob("*.recover.*"):
            path.write_bytes(path.read_bytes().replace(b"function = ", b"function = un"))
        rig.start()
        yield on_rig(stage, row, rig, taskID=task)
        stage.spare.call("clearTask", task)


# ---------------------------------------------------------------- descriptions of machines


@produces("StorageDomainNotActive", "updateVM", "removeVM")
def in_a_domain_that_is_not_in_use(stage: Stage, row: Row) -> Attempts:
    with stage.rig("spm", master=(1, 3), member=(1, 3)) as rig:
        yield on_rig(stage, row, rig, storagedomainID=rig.member)


@contextlib.contextmanager
def machine(stage: Stage, content: bytes | None = None) -> Iterator[str]:
    """A name among the machines of the master: a directory, or a file with a content."""
    vm = new_id()
    place = stage.place(stage.master) / "master" / "vms" / vm
    if content is None:
        place.mkdir()
    else:
        place.write_bytes(content)
    try:
        yield vm
    finally:
        outcome_stage.remove(place)


def entry(vm: str, text: str = "<Envelope/>") -> list[dict[str, str]]:
    return [{"vm": vm, "ovf": text, "imglist": ""}]


@produces("MiscDirCleanupFailure", "updateVM")
def with_a_file_in_its_place(stage: Stage, row: Row) -> Attempts:
    with machine(stage, b"") as vm:
        yield at(stage, row, vmList=entry(vm))


@produces("MiscDirCleanupFailure", "removeVM", root=True)
def that_stays(stage: Stage, row: Row) -> Attempts:
    with machine(stage) as vm, faulty.pinned(stage.place(stage.master) / "master" / "vms", readonly=True):
        yield at(stage, row, vmUUID=vm)


@produces("NoSpaceLeftOnDomain", "updateVM", root=True)
def without_space(stage: Stage, row: Row) -> Attempts:
    with faulty.small(stage.place(stage.master) / "master" / "vms", 16 << 10):
        yield at(stage, row, vmList=entry(new_id(), "x" * (64 << 10)))


@produces("StorageDomainTypeNotBackup", "getVmsInfo")
def of_a_data_domain(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, storagedomainID=stage.here)


@produces("MissingOvfFileFromVM", "getVmsInfo")
def of_a_machine_without_description(stage: Stage, row: Row) -> Attempts:
    with machine(stage) as vm:
        yield at(stage, row, storagedomainID="", vmList=[vm])


@produces("StorageDomainNotMemberOfPool", "getVmsInfo")
def of_a_backup_domain_of_nobody(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.stray)
    with stage.instead(path, general.resealed(path, CLASS="Backup")):
        yield at(stage, row, storagedomainID=stage.stray)


@produces("ResourceTimeout", "getVmsInfo", root=True)
def while_the_domain_is_held(stage: Stage, row: Row) -> Attempts:
    """The verb that holds the domain waits for another one, the master."""
    attach = (stage.main, "attachStorageDomain", stage.backup, stage.pool)
    with faulty.over(stage.record(stage.master), 0) as server, stage.background(*attach):
        general.wait_for(lambda: server.waited_for)
        yield at(stage, row)
        server.end()


# ---------------------------------------------------------------- connections


@produces("StorageServerConnectionError", "connectStorageServer", "validateStorageServerConnection")
@produces("StorageServerDisconnectionError", "disconnectStorageServer")
def of_no_type(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, domainType=9)


@produces(
    "StorageServerActionError",
    *("storageServer_ConnectionRefs_acquire", "storageServer_ConnectionRefs_release"),
    "storageServer_ConnectionRefs_statuses",
)
def with_a_damaged_record(stage: Stage, row: Row) -> Attempts:
    yield Attempt(stage.arguments(row.verb), host=stage.extra("forgetful", lambda: _spoil(stage)))


def _spoil(stage: Stage) -> daemons.Daemon:
    directory = stage.root / "forgetful"
    (directory / "repository").mkdir(parents=True)
    (directory / "repository" / "connections.json").write_bytes(b"{")
    return stage.daemon("forgetful")


# ---------------------------------------------------------------- block storage


@produces("VolumeGroupActionError", "getVGInfo", "getVGList", "removeVG")
@produces("VolumeGroupDoesNotExist", "getVGInfo")
@produces("VolumeGroupRemoveError", "removeVG")
@produces(SUCCESS, "getVGInfo", "getVGList", "removeVG")
def as_lvm_tells(stage: Stage, row: Row) -> Attempts:
    host = stage.extra("block", lambda: _with_lvm(stage))
    fails = row.outcome == "VolumeGroupActionError"
    (stage.root / "bin" / "fails").write_text("5" if fails else "0")
    known = row.outcome == "VolumeGroupRemoveError" or (row.verb == "getVGInfo" and row.outcome == SUCCESS)
    group = {} if row.verb == "getVGList" else {"lvmvolumegroupID": GROUP if known else GROUP[::-1]}
    yield Attempt(stage.arguments(row.verb, **group), host=host)


GROUP = "Zd3UBa-lJf7-TCr1-AqBq-oCbz-mGAl-5uUrWn"
_LVM = f"""#!/bin/sh
[ "$(cat "$(dirname "$0")/fails")" = 0 ] || exit 5
case "$1" in
vgs) echo '{{"report": [{{"vg": [{{"vg_name": "g", "vg_uuid": "{GROUP}", "vg_size": "4194304", "vg_free": "0",
 "vg_attr": "wz--n-"}}]}}]}}';;
pvs) echo '{{"report": [{{"pv": []}}]}}';;
esac
"""


def _with_lvm(stage: Stage) -> daemons.Daemon:
    """A daemon on a host where LVM is a program that knows one group."""
    directory = stage.root / "bin"
    directory.mkdir()
    (directory / "lvm").write_text(_LVM)
    (directory / "lvm").chmod(0o755)
    (directory / "fails").write_text("0")
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{directory}:{path}"
    try:
        return stage.daemon("block")
    finally:
        os.environ["PATH"] = path


@produces("StorageDomainTypeError", "getDeviceList")
def of_no_block_type(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, storageType="9")


@produces("InaccessiblePhysDev", "createVG")
@produces("ISCSIDiscoveryError", "discoverSendTargets")
@produces("NoSuchVM", "getVmStats", "merge", "snapshot")
def always_here(stage: Stage, row: Row) -> Attempts:
    """What a host without devices, sessions and machines answers."""
    yield at(stage, row)


# ---------------------------------------------------------------- the host


@produces(SUCCESS, "fenceNode")
def of_a_living_host(stage: Stage, row: Row) -> Attempts:
    """It holds the lock of a domain, so it is not fenced."""
    policy = {"storageDomainHostIdMap": {stage.master: 1}}
    yield at(stage, row, action="off", policy=policy)


@produces("FenceAgentError", "fenceNode")
@produces("UnexpectedError", "fenceNode")
def with_what_there_is_not(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, agent="no_such", action="status" if row.outcome == "FenceAgentError" else "hit")


@produces(SUCCESS if hostinfo.hardware() else "HardwareInfoError", "getVdsHardwareInfo")
def as_the_firmware_has_it(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row)


@produces(SUCCESS, "prepareForShutdown")
def of_a_daemon_that_may_end(stage: Stage, row: Row) -> Attempts:
    yield Attempt(stage.arguments(row.verb), host=stage.daemon("short-lived"), once=True)
