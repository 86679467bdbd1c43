"""The success of every verb."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.support import daemon as daemons, httpserver
from tests.support.outcomes import general, stage as outcome_stage, table

Stage = outcome_stage.Stage
Row = table.Row
Attempt = table.Attempt
SUCCESS, BLANK = table.SUCCESS, outcome_stage.BLANK
produces, at = table.produces, general.at
Attempts = Iterator[Attempt]


@produces(
    SUCCESS,
    *("getAllTasks", "getAllTasksInfo", "getAllTasksStatuses", "getAllVmStats", "getConnectedStoragePoolsList"),
    *("getDeviceList", "getDevicesVisibility", "getFileStats", "getImageDomainsList", "getImagesList", "getIsoList"),
    *("getFloppyList", "getSpmStatus", "getStorageDomainInfo", "getStorageDomainStats", "getStorageDomainsList"),
    *("getStoragePoolInfo", "getVdsCapabilities", "getVdsStats", "getVmsInfo", "getVmsList", "getVolumeChain"),
    *("getVolumeInfo", "getVolumePath", "getVolumeSize", "getVolumesList", "list", "ping", "refreshVolume"),
    *("repoStats", "storageServer_ConnectionRefs_statuses", "teardownImage", "validateStorageDomain"),
    *("prepareImage", "setLogLevel", "activateStorageDomain", "extendStorageDomain", "setStorageDomainDescription"),
    *("setStoragePoolDescription", "updateVM", "removeVM", "upgradeStoragePool", "reconcileVolumeChain"),
    *("proveVolumeChain", "setVolumeLegality"),
)
def as_it_is(stage: Stage, row: Row) -> Attempts:
    """A call that finds the world as it is good enough, and leaves nothing that counts."""
    values = {"getFileStats": {"storagedomainID": stage.iso}, "getVmsList": {"storagedomainID": stage.master}}
    yield at(stage, row, **values.get(row.verb, {}))


# ---------------------------------------------------------------- images


@produces(SUCCESS, "deleteVolume", "deleteImage", "mergeSnapshots", "extendVolumeSize", "volumeSetSize")
@produces(SUCCESS, "setVolumeDescription")
def of_a_fresh_image(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, imageID=stage.fresh_image())


@produces(SUCCESS, "createVolume", "copyImage")
def into_a_new_image(stage: Stage, row: Row) -> Attempts:
    name = "imageID" if row.verb == "createVolume" else "dstImgUUID"
    image = outcome_stage.new_id()
    stage.made_by(image, stage.there if name == "dstImgUUID" else stage.here)
    yield at(stage, row, **{name: image})


@produces(SUCCESS, "moveImage", "moveMultipleImages", "cloneImageStructure")
def to_another_domain(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    stage.made_by(image, stage.there)
    yield at(stage, row, **({"imgDict": {image: "false"}} if row.verb == "moveMultipleImages" else {"imageID": image}))


@produces(SUCCESS, "syncImageData")
def of_two_structures(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    stage.fresh_image(stage.there, image)
    yield at(stage, row, imageID=image)


@produces(SUCCESS, "uploadImage", "downloadImage")
def over_http(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    with httpserver.serving() as server:
        server.content = b"new"
        volume = stage.base if row.verb == "uploadImage" else one_volume(stage, image)
        place = {"method": "http", "url": server.url("/ok"), "headers": {}}
        yield at(stage, row, methodArgs=place, imageID=image, volumeID=volume)


def one_volume(stage: Stage, image: str) -> str:
    """Leave an image only its base."""
    for volume in (stage.middle, stage.leaf):
        for path in stage.directory(image).glob(f"{volume}*"):
            path.unlink()
    meta = stage.directory(image) / f"{stage.base}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=INTERNAL", "VOLTYPE=LEAF"))
    return stage.base


@produces(SUCCESS, "undoReconcile")
def after_a_repair(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, imageID=repaired(stage))


def repaired(stage: Stage) -> str:
    """An image of which one record was put right."""
    image = stage.fresh_image()
    meta = stage.directory(image) / f"{stage.middle}.meta"
    meta.write_text(meta.read_text().replace("LEGALITY=LEGAL", "LEGALITY=ILLEGAL"))
    stage.main.call("reconcileVolumeChain", *stage.arguments("reconcileVolumeChain", imageID=image))
    return image


# ---------------------------------------------------------------- tasks


@contextlib.contextmanager
def finished_task(stage: Stage, host: daemons.Daemon | None = None) -> Iterator[str]:
    """A finished task that can be reverted; it is cleared, if it is still there."""
    host = host or stage.main
    values = {"imageID": outcome_stage.new_id()}
    stage.made_by(values["imageID"])
    task = str(host.call("createVolume", *stage.arguments("createVolume", **values))["uuid"])
    general.wait_for(lambda: general.state_of(host, task) == "finished")
    try:
        yield task
    finally:
        host.answer("clearTask", task)


@produces(SUCCESS, "getTaskInfo", "getTaskStatus", "stopTask")
def of_a_task(stage: Stage, row: Row) -> Attempts:
    with finished_task(stage) as task:
        yield at(stage, row, taskID=task)


@produces(SUCCESS, "clearTask", "revertTask")
def of_a_task_once(stage: Stage, row: Row) -> Attempts:
    with finished_task(stage) as task:
        yield Attempt(stage.arguments(row.verb, taskID=task), once=True)


# ---------------------------------------------------------------- domains and pools


@produces(SUCCESS, "connectStorageServer", "disconnectStorageServer", "validateStorageServerConnection")
def of_a_directory(stage: Stage, row: Row) -> Attempts:
    place = stage.root / "more"
    place.mkdir()
    entry = outcome_stage.connection(place)
    yield Attempt(stage.arguments(row.verb, connectionParams=entry), host=stage.spare)
    stage.spare.answer("disconnectStorageServer", daemons.LOCALFS, BLANK, entry)
    place.rmdir()


@produces(SUCCESS, "createStorageDomain", "formatStorageDomain", "createStoragePool", "connectStoragePool")
@produces(SUCCESS, "disconnectStoragePool", "destroyStoragePool", "spmStart", "spmStop", "fenceSpmStorage")
@produces(SUCCESS, "refreshStoragePool", "reconstructMaster")
def of_a_pool_of_its_own(stage: Stage, row: Row) -> Attempts:
    upto = {
        "createStorageDomain": "storage",
        "formatStorageDomain": "domains",
        "createStoragePool": "domains",
        "reconstructMaster": "domains",
        "connectStoragePool": "pool",
        "destroyStoragePool": "spm",
        "spmStop": "spm",
    }
    with stage.rig(upto.get(row.verb, "connected")) as rig:
        yield Attempt(rig_arguments(stage, row, rig), host=stage.spare, once=True)


def rig_arguments(stage: Stage, row: Row, rig: outcome_stage.Rig, **values: Any) -> list[Any]:
    """Arguments of a verb on a rig's pool and its first domain."""
    known = {
        "storagepoolID": rig.pool,
        "storagedomainID": rig.first,
        "masterSdUUID": rig.first,
        "typeArgs": str(stage.storage(rig.first)),
        "domainList": [rig.first],
        "hostId": 1,
        **({"domainDict": {rig.first: "active"}} if row.verb == "reconstructMaster" else {}),
    }
    names = {each.name for each in row.schema.wire}
    return stage.arguments(row.verb, **{name: value for name, value in (known | values).items() if name in names})


@produces(SUCCESS, "attachStorageDomain", "deactivateStorageDomain", "detachStorageDomain", "forcedDetachStorageDomain")
def of_a_member(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected", master=(1, 3), member=(1, 3)) as rig:
        rig.start()
        if row.verb == "attachStorageDomain":
            stage.spare.call("detachStorageDomain", rig.member, rig.pool, BLANK, 1)
        arguments = rig_arguments(stage, row, rig, storagedomainID=rig.member, masterSdUUID=BLANK)
        yield Attempt(arguments, host=stage.spare, once=True)


# ---------------------------------------------------------------- host


STATUSES = "storageServer_ConnectionRefs_statuses"


@produces(SUCCESS, "startMonitoringDomain", "stopMonitoringDomain")
def of_a_watch(stage: Stage, row: Row) -> Attempts:
    yield Attempt(stage.arguments(row.verb), host=stage.spare)
    stage.spare.call("stopMonitoringDomain", stage.here)


@produces(SUCCESS, "storageServer_ConnectionRefs_acquire", "storageServer_ConnectionRefs_release")
def of_references(stage: Stage, row: Row) -> Attempts:
    yield Attempt(stage.arguments(row.verb), host=stage.spare)
    stage.spare.call("storageServer_ConnectionRefs_release", list(stage.spare.call(STATUSES)["connectionslist"]))
