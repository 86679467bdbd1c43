"""Errors of the verbs on pools: made, connected, left, given another master, ended."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.support import faulty
from tests.support.outcomes import general, stage as outcome_stage, successes, table

Stage = outcome_stage.Stage
Row = table.Row
Attempt = table.Attempt
produces, at, new_id = table.produces, general.at, outcome_stage.new_id
Attempts = Iterator[Attempt]
LONG = "x" * 51
FOREIGN = "\u4e2d"


def on_rig(stage: Stage, row: Row, rig: outcome_stage.Rig, **values: object) -> Attempt:
    """The verb on a rig's pool; once, for such rows are about what happens the first time."""
    return Attempt(successes.rig_arguments(stage, row, rig, **values), host=stage.spare, once=True)


@contextlib.contextmanager
def unlinkable(stage: Stage, repository: Path, pool: str) -> Iterator[None]:
    """A file in place of the directory of a connected pool's links."""
    with stage.instead(repository / pool, b""):
        yield


# ---------------------------------------------------------------- createStoragePool, reconstructMaster


def create(stage: Stage, row: Row, master: str, *others: str, **values: object) -> Attempt:
    return at(stage, row, storagepoolID=new_id(), masterSdUUID=master, domainList=[master, *others], **values)


def with_master(stage: Stage, row: Row, master: str) -> Attempt:
    """The row's verb, whichever of the two that make a domain the master of a pool."""
    return create(stage, row, master) if row.verb == "createStoragePool" else rebuild(stage, row, master)


@produces("StorageDomainDoesNotExist", "createStoragePool", "reconstructMaster")
def of_an_unknown_domain(stage: Stage, row: Row) -> Attempts:
    yield with_master(stage, row, new_id())


@produces("StorageDomainLayoutError", "createStoragePool", "reconstructMaster")
def of_a_domain_that_is_there_twice(stage: Stage, row: Row) -> Attempts:
    with general.doubled(stage, stage.here):
        yield with_master(stage, row, stage.here)


@produces("StorageDomainAccessError", "createStoragePool", "reconstructMaster")
def of_a_domain_out_of_reach(stage: Stage, row: Row) -> Attempts:
    with stage.looping(stage.storage(stage.here)):
        yield with_master(stage, row, stage.here)


@produces("StorageDomainAlreadyAttached", "createStoragePool", "reconstructMaster")
@produces("IsoCannotBeMasterDomain", "createStoragePool", "reconstructMaster")
@produces("BackupCannotBeMasterDomain", "createStoragePool", "reconstructMaster")
def of_a_domain_that_cannot_be_it(stage: Stage, row: Row) -> Attempts:
    wrong = {"Iso": stage.iso, "Bac": stage.backup}
    yield with_master(stage, row, wrong.get(row.outcome[:3], stage.here))


@produces("MixedSDVersionError", "createStoragePool")
def of_two_versions(stage: Stage, row: Row) -> Attempts:
    with stage.rig("domains", old=(1, 3), new=(1, 4)) as rig:
        yield on_rig(stage, row, rig, domainList=[rig.old, rig.new])


@produces("StoragePoolDescriptionTooLongError", "createStoragePool")
def with_a_long_name(stage: Stage, row: Row) -> Attempts:
    yield create(stage, row, stage.here, name=LONG)


@produces("TooManyDomainsInStoragePoolError", "createStoragePool")
def of_too_many(stage: Stage, row: Row) -> Attempts:
    yield create(stage, row, stage.here, *(new_id() for _ in range(100)))


@produces("UnicodeArgumentException", "createStoragePool", "reconstructMaster")
def with_a_foreign_name(stage: Stage, row: Row) -> Attempts:
    with stage.rig("domains", old=(1, 0)) as rig:
        yield on_rig(stage, row, rig, name=FOREIGN)


@produces("AcquireLockFailure", "createStoragePool", "reconstructMaster")
def of_a_domain_that_another_process_holds(stage: Stage, row: Row) -> Attempts:
    with general.locked(stage, stage.stray):
        yield with_master(stage, row, stage.stray)


@produces("ResourceTimeout", "createStoragePool", "reconstructMaster", root=True)
def while_a_domain_is_held(stage: Stage, row: Row) -> Attempts:
    with general.hung_verb(stage, stage.here):
        yield with_master(stage, row, stage.here)


# ---------------------------------------------------------------- connectStoragePool, disconnectStoragePool


@produces("CannotConnectMultiplePools", "connectStoragePool")
def another_pool(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, storagepoolID=new_id())


@produces("StoragePoolMasterNotFound", "connectStoragePool")
def with_an_unknown_master(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, masterSdUUID=new_id())


@produces("StoragePoolWrongMaster", "connectStoragePool")
def with_another_master(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, masterSdUUID=stage.here)


@produces("StoragePoolConnected", "connectStoragePool")
def with_another_host_id(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, hostID=2)


@produces("StoragePoolConnectionError", "connectStoragePool", "activateStorageDomain")
def without_links(stage: Stage, row: Row) -> Attempts:
    with unlinkable(stage, stage.main.repository, stage.pool):
        yield at(stage, row)


@produces("IsSpm", "disconnectStoragePool", "spmStart")
def of_the_spm(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row)


@produces("StoragePoolDisconnectionError", "disconnectStoragePool")
def with_links_that_stay(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig, unlinkable(stage, stage.spare.repository, rig.pool):
        yield on_rig(stage, row, rig)


# ---------------------------------------------------------------- destroyStoragePool


@produces("SpmStatusError", "destroyStoragePool")
def of_another_host(stage: Stage, row: Row) -> Attempts:
    yield Attempt(stage.arguments(row.verb, hostID=2), host=stage.other)


@produces("HostIdMismatch", "destroyStoragePool")
def with_a_host_id_that_is_not_mine(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, hostID=9)


@produces("TaskInProgress", "destroyStoragePool", "spmStop")
def while_a_task_is_at_work(stage: Stage, row: Row) -> Attempts:
    with general.occupied(stage):
        yield at(stage, row)


@produces("StorageDomainAccessError", "destroyStoragePool", root=True)
def of_a_master_that_stays(stage: Stage, row: Row) -> Attempts:
    with stage.rig() as rig, faulty.pinned(stage.record(rig.first)):
        yield on_rig(stage, row, rig)


@produces("StoragePoolDisconnectionError", "destroyStoragePool")
def with_links_that_stay_when_all_is_done(stage: Stage, row: Row) -> Attempts:
    with stage.rig() as rig, unlinkable(stage, stage.spare.repository, rig.pool):
        attempt = on_rig(stage, row, rig)
        attempt.changes = True
        yield attempt


# ---------------------------------------------------------------- the role


@produces("SpmFenceError", "fenceSpmStorage")
def of_a_living_spm(stage: Stage, row: Row) -> Attempts:
    yield Attempt(stage.arguments(row.verb), host=stage.other)


@produces("StorageDomainMasterError", "fenceSpmStorage")
def with_a_map_and_a_damaged_master(stage: Stage, row: Row) -> Attempts:
    with stage.rig("pool") as rig:
        rig.connect({rig.first: "active"})
        path = stage.record(rig.first)
        with stage.instead(path, general.DAMAGE["MetaDataSealIsBroken"](path)):
            yield on_rig(stage, row, rig)


@produces("SpmStopError", "spmStop", root=True)
def with_a_record_that_stays(stage: Stage, row: Row) -> Attempts:
    """The role is given up, which is what counts; that it is not recorded is told."""
    with stage.rig() as rig, faulty.pinned(stage.record(rig.first)):
        yield on_rig(stage, row, rig)


@produces("UnsupportedDomainVersion", "spmStart")
def to_no_version(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, domVersion=9)


@produces("ResourceTimeout", "spmStart", root=True)
def while_another_verb_hangs(stage: Stage, row: Row) -> Attempts:
    """A change of the connection holds the pool."""
    with stage.rig("connected") as rig, faulty.over(stage.record(rig.first), 0) as server:
        arguments = (rig.pool, 1, "key", rig.first, 1)
        with stage.background(stage.spare, "connectStoragePool", *arguments):
            general.wait_for(lambda: server.waited_for)
            yield on_rig(stage, row, rig)
            server.end()


# ---------------------------------------------------------------- starting


@produces("AcquireHostIdFailure", "spmStart", where=table.TASK)
def with_a_host_id_above_the_limit(stage: Stage, row: Row) -> Attempts:
    with stage.rig("pool") as rig:
        stage.spare.call("connectStoragePool", rig.pool, 9, "key", rig.first, 1)
        yield on_rig(stage, row, rig, maxHostID=5)
        stage.spare.call("disconnectStoragePool", rig.pool, 9, "key")


@produces("AcquireLockFailure", "spmStart", where=table.TASK)
def with_a_lock_that_is_held(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig, general.locked(stage, rig.first):
        yield on_rig(stage, row, rig)


@produces("StorageDomainMasterError", "spmStart", where=table.TASK)
def with_a_damaged_master(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig:
        path = stage.record(rig.first)
        with stage.instead(path, general.DAMAGE["MetaDataSealIsBroken"](path)):
            yield on_rig(stage, row, rig)


@produces("StoragePoolWrongMaster", "spmStart", where=table.TASK)
def with_a_master_that_is_none_any_more(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig:
        path = stage.record(rig.first)
        with stage.instead(path, general.resealed(path, ROLE="Regular")):
            yield on_rig(stage, row, rig)


@produces("CurrentVersionTooAdvancedError", "spmStart", where=table.TASK)
def to_a_lower_version(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig:
        attempt = on_rig(stage, row, rig, domVersion=0)
        attempt.changes = True  # the lock version counts attempts
        yield attempt


@produces("UnsupportedDomainVersion", "spmStart", where=table.TASK)
def to_a_version_without_a_way(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected", old=(1, 0)) as rig:
        attempt = on_rig(stage, row, rig, domVersion=2)
        attempt.changes = True
        yield attempt


@produces("SpmStartError", "spmStart", where=table.TASK)
def with_a_file_in_place_of_its_directories(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig:
        (stage.place(rig.first) / "master").touch()
        attempt = on_rig(stage, row, rig)
        attempt.changes = True
        yield attempt


# ---------------------------------------------------------------- getStoragePoolInfo, lists


@produces("StoragePoolMasterNotFound", "getStoragePoolInfo")
def of_a_lost_master(stage: Stage, row: Row) -> Attempts:
    with stage.instead(stage.storage(stage.master), None):
        yield at(stage, row)


@produces("StoragePoolActionError", "getStoragePoolInfo")
def of_a_damaged_master(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.master)
    with stage.instead(path, general.DAMAGE["MetaDataSealIsBroken"](path)):
        yield at(stage, row)


@produces("GetIsoListError", "getIsoList", "getFloppyList")
def of_a_pool_without_isos(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig:
        yield on_rig(stage, row, rig)


# ---------------------------------------------------------------- refreshStoragePool


def refreshed(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig:
        values = {"masterSdUUID": new_id()} if row.outcome == "StoragePoolMasterNotFound" else {"masterVersion": 9}
        yield on_rig(stage, row, rig, **values)


produces("StoragePoolMasterNotFound", "refreshStoragePool")(refreshed)
produces("StoragePoolWrongMaster", "refreshStoragePool")(refreshed)


@produces("StorageDomainAccessError", "refreshStoragePool")
def under_a_master_out_of_reach(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig, stage.looping(stage.storage(rig.first)):
        yield on_rig(stage, row, rig)


@produces("StorageDomainMasterError", "refreshStoragePool")
def with_a_senseless_map(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig:
        path = stage.record(rig.first)
        with stage.instead(path, general.resealed(path, POOL_DOMAINS="x")):
            yield on_rig(stage, row, rig)


@produces("StoragePoolConnectionError", "refreshStoragePool")
def with_links_in_the_way(stage: Stage, row: Row) -> Attempts:
    with stage.rig("connected") as rig, unlinkable(stage, stage.spare.repository, rig.pool):
        yield on_rig(stage, row, rig)


# ---------------------------------------------------------------- reconstructMaster


def rebuild(stage: Stage, row: Row, master: str, **values: object) -> Attempt:
    known = {"storagepoolID": new_id(), "masterSdUUID": master, "domainDict": {master: "active"}, "hostId": 1}
    return at(stage, row, **{**known, **values})


@produces("StoragePoolConnected", "reconstructMaster")
def of_a_connected_pool(stage: Stage, row: Row) -> Attempts:
    yield rebuild(stage, row, stage.master, storagepoolID=stage.pool)


@produces("StorageDomainStatusError", "reconstructMaster")
def with_no_status(stage: Stage, row: Row) -> Attempts:
    yield rebuild(stage, row, stage.here, domainDict={stage.here: "gone"})


@produces("StoragePoolDescriptionTooLongError", "reconstructMaster")
def with_a_name_too_long(stage: Stage, row: Row) -> Attempts:
    yield rebuild(stage, row, stage.here, name=LONG)


@produces("TooManyDomainsInStoragePoolError", "reconstructMaster")
def with_too_many(stage: Stage, row: Row) -> Attempts:
    many = dict.fromkeys([stage.here, *(new_id() for _ in range(100))], "active")
    yield rebuild(stage, row, stage.here, domainDict=many)


@produces("AcquireHostIdFailure", "reconstructMaster")
def with_an_impossible_host_id(stage: Stage, row: Row) -> Attempts:
    yield rebuild(stage, row, stage.stray, hostId=251)


# ---------------------------------------------------------------- upgradeStoragePool, setStoragePoolDescription


@produces("StoragePoolDescriptionTooLongError", "setStoragePoolDescription")
def a_long_description(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, description=LONG)


@produces("UnicodeArgumentException", "setStoragePoolDescription")
def a_foreign_description(stage: Stage, row: Row) -> Attempts:
    with stage.rig(old=(1, 0)) as rig:
        yield on_rig(stage, row, rig, description=FOREIGN)


@produces("StorageDomainAccessError", "setStoragePoolDescription", "upgradeStoragePool", root=True)
def in_a_record_that_stays(stage: Stage, row: Row) -> Attempts:
    with faulty.pinned(stage.record(stage.master)):
        is_upgrade = row.verb == "upgradeStoragePool"
        yield at(stage, row, **({"targetDomVersion": 4} if is_upgrade else {"description": "new"}))


@produces("UnsupportedDomainVersion", "upgradeStoragePool")
@produces("CurrentVersionTooAdvancedError", "upgradeStoragePool")
def to_a_version_that_cannot_be(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, targetDomVersion=9 if row.outcome.startswith("Unsupported") else 0)


@produces("StorageDomainMasterError", "upgradeStoragePool")
def with_a_map_that_makes_no_sense(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.master)
    with stage.instead(path, general.resealed(path, POOL_DOMAINS="x")):
        yield at(stage, row)


@produces("AddTaskError", "upgradeStoragePool")
def of_another_domain_with_a_full_queue(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.there)
    with stage.instead(path, general.resealed(path, VERSION="0")), general.occupied(stage, waiting=1):
        yield at(stage, row)


@produces("PoolUpgradeInProgress", "upgradeStoragePool")
def while_one_is_not_through(stage: Stage, row: Row) -> Attempts:
    """It waits for the only worker."""
    path = stage.record(stage.there)
    with stage.instead(path, general.resealed(path, VERSION="0")):
        with general.occupied(stage):
            stage.main.call(row.verb, *stage.arguments(row.verb))
            yield at(stage, row)
        general.wait_for(lambda: not stage.main.call("getAllTasks")["tasks"])
