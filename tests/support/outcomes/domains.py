"""Errors of the verbs on domains and on which of them belong to a pool."""

import errno
from collections.abc import Iterator

from tests.support import faulty
from tests.support.outcomes import general, pools, stage as outcome_stage, table

Stage = outcome_stage.Stage
Row = table.Row
Attempt = table.Attempt
produces, at, new_id, on_rig = table.produces, general.at, outcome_stage.new_id, pools.on_rig
Attempts = Iterator[Attempt]
BLANK = outcome_stage.BLANK
RECORD_ERRORS = (*general.DAMAGE, "FileStorageDomainStaleNFSHandle", "StorageDomainMetadataNotFound")


# ---------------------------------------------------------------- createStorageDomain, formatStorageDomain


@produces("StorageDomainAlreadyExists", "createStorageDomain")
def that_is_there(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row)


@produces("StorageDomainNotEmpty", "createStorageDomain")
@produces("StorageDomainClassError", "createStorageDomain")
@produces("UnsupportedDomainVersion", "createStorageDomain")
@produces("StorageDomainTypeError", "createStorageDomain")
@produces("StorageDomainIllegalRemotePath", "createStorageDomain")
@produces("StorageServerAccessPermissionError", "createStorageDomain")
@produces("StorageDomainFSNotMounted", "createStorageDomain")
def with_a_wrong_argument(stage: Stage, row: Row) -> Attempts:
    wrong: dict[str, dict[str, object]] = {
        "StorageDomainNotEmpty": {},
        "StorageDomainClassError": {"domainClass": 9},
        "UnsupportedDomainVersion": {"version": 9},
        "StorageDomainTypeError": {"domainType": 3},
        "StorageDomainIllegalRemotePath": {"typeArgs": "no/absolute/path"},
        "StorageServerAccessPermissionError": {"typeArgs": str(stage.root)},
        "StorageDomainFSNotMounted": {"domainType": 6, "typeArgs": "/dev/nothing"},
    }
    values = {"storagedomainID": new_id(), "typeArgs": str(stage.storage(stage.here))}
    yield at(stage, row, **{**values, **wrong[row.outcome]})


@produces("UnicodeArgumentException", "createStorageDomain")
def with_a_foreign_name(stage: Stage, row: Row) -> Attempts:
    with stage.rig("storage") as rig:
        yield on_rig(stage, row, rig, version=0, name=pools.FOREIGN)


@produces("StorageDomainMetadataCreationError", "createStorageDomain", root=True)
def on_storage_that_fails(stage: Stage, row: Row) -> Attempts:
    with stage.rig("storage") as rig, faulty.over(stage.storage(rig.first), errno.EIO):
        yield on_rig(stage, row, rig)


@produces("ResourceTimeout", "createStorageDomain", root=True)
def while_another_is_made_there(stage: Stage, row: Row) -> Attempts:
    with stage.rig("storage") as rig, faulty.over(stage.storage(rig.first), 0) as server:
        arguments = (4, new_id(), "a name", str(stage.storage(rig.first)), 1, 3)
        with stage.background(stage.spare, row.verb, *arguments):
            general.wait_for(lambda: server.waited_for)
            yield on_rig(stage, row, rig, storagedomainID=new_id())
            server.end()


@produces("CannotFormatStorageDomainInConnectedPool", "formatStorageDomain")
def of_a_connected_pool(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, autoDetach="false")


@produces("CannotFormatAttachedStorageDomain", "formatStorageDomain")
def of_a_pool_that_is_not_connected(stage: Stage, row: Row) -> Attempts:
    with stage.rig("pool") as rig:
        yield on_rig(stage, row, rig, autoDetach="false")


@produces("StorageDomainActionError", "formatStorageDomain")
def with_a_lock_that_is_held(stage: Stage, row: Row) -> Attempts:
    with stage.rig("domains") as rig, general.locked(stage, rig.first):
        yield on_rig(stage, row, rig)


@produces("MiscDirCleanupFailure", "formatStorageDomain", root=True)
def on_storage_that_keeps_everything(stage: Stage, row: Row) -> Attempts:
    with stage.rig("domains") as rig, faulty.pinned(stage.storage(rig.first), readonly=True):
        yield on_rig(stage, row, rig)


# ---------------------------------------------------------------- members


@produces("StorageDomainNotInPool", "activateStorageDomain", "detachStorageDomain")
def that_does_not_know_of_the_pool(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.here)
    with stage.instead(path, general.resealed(path, POOL_UUID="")):
        yield at(stage, row)


@produces("TooManyDomainsInStoragePoolError", "attachStorageDomain")
def one_too_many(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.master)
    many = ",".join(f"{each}:Attached" for each in [stage.master, *(new_id() for _ in range(99))])
    with stage.instead(path, general.resealed(path, POOL_DOMAINS=many)):
        yield at(stage, row)


@produces("MixedSDVersionError", "attachStorageDomain")
def of_a_higher_version(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.stray)
    with stage.instead(path, general.resealed(path, VERSION="4")):
        yield at(stage, row)


@produces("StorageDomainAlreadyAttached", "attachStorageDomain")
def of_another_pool(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.stray)
    with stage.instead(path, general.resealed(path, POOL_UUID=new_id())):
        yield at(stage, row)


@produces("AcquireLockFailure", "attachStorageDomain", "detachStorageDomain", "forcedDetachStorageDomain")
@produces("AcquireLockFailure", "deactivateStorageDomain")
def held_by_another(stage: Stage, row: Row) -> Attempts:
    domain = {"attach": stage.stray, "detach": stage.iso}.get(row.verb.removesuffix("StorageDomain"), stage.here)
    with general.locked(stage, domain):
        if row.verb == "deactivateStorageDomain":
            yield succeeded_by(stage, row, domain)
        else:
            pool = BLANK if row.verb == "forcedDetachStorageDomain" else stage.pool
            yield at(stage, row, storagedomainID=domain, storagepoolID=pool)


@produces("CannotDetachMasterStorageDomain", "detachStorageDomain", "forcedDetachStorageDomain")
def the_master(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, storagedomainID=stage.master)


@produces("StoragePoolNotConnected", "forcedDetachStorageDomain")
def of_no_pool(stage: Stage, row: Row) -> Attempts:
    yield Attempt(stage.arguments(row.verb, storagepoolID=BLANK), host=stage.spare)


def forced(stage: Stage, row: Row) -> Attempts:
    """Without a pool it is the domain's own record that is changed."""
    general_row = table.general(row)
    with general_row(stage, row) as attempt:
        names = [each.name for each in row.schema.wire]
        attempt.arguments[names.index("storagepoolID")] = BLANK
        yield attempt


for _error in ("StorageDomainDoesNotExist", "StorageDomainLayoutError", "StorageDomainAccessError", *general.DAMAGE):
    produces(_error, "forcedDetachStorageDomain")(forced)
for _error in ("FileStorageDomainStaleNFSHandle", "StorageDomainMetadataNotFound"):
    produces(_error, "forcedDetachStorageDomain", root=True)(forced)


@produces("StoragePoolConnectionError", "detachStorageDomain", "forcedDetachStorageDomain", "deactivateStorageDomain")
def with_links_in_the_way(stage: Stage, row: Row) -> Attempts:
    """The map says so already; the call is to be repeated."""
    rigged = stage.rig("spm", master=(1, 3), member=(1, 3))
    with rigged as rig, pools.unlinkable(stage, stage.spare.repository, rig.pool):
        attempt = on_rig(stage, row, rig, storagedomainID=rig.member, masterSdUUID=BLANK)
        attempt.changes = True
        yield attempt


# ---------------------------------------------------------------- deactivateStorageDomain: another master


def succeeded_by(stage: Stage, row: Row, domain: str, version: int = 2) -> Attempt:
    """The master goes, and another domain is to be it."""
    return at(stage, row, storagedomainID=stage.master, masterSdUUID=domain, masterVersion=version)


@produces("StoragePoolWrongMaster", "deactivateStorageDomain")
@produces("StorageDomainNotInPool", "deactivateStorageDomain")
@produces("IsoCannotBeMasterDomain", "deactivateStorageDomain")
@produces("BackupCannotBeMasterDomain", "deactivateStorageDomain")
def by_one_that_cannot_be_it(stage: Stage, row: Row) -> Attempts:
    wrong = {"StorageDomainNotInPool": stage.stray, "IsoCannotBeMasterDomain": stage.iso}
    domain = stage.backup if row.outcome.startswith("Backup") else wrong.get(row.outcome, stage.here)
    yield succeeded_by(stage, row, domain, 1 if row.outcome == "StoragePoolWrongMaster" else 2)


@produces("StorageDomainNotActive", "deactivateStorageDomain")
def by_one_that_is_not_in_use(stage: Stage, row: Row) -> Attempts:
    with stage.rig("spm", master=(1, 3), member=(1, 3)) as rig:
        yield on_rig(stage, row, rig, masterSdUUID=rig.member, masterVersion=2)


@produces("TaskInProgress", "deactivateStorageDomain")
def while_a_task_is_at_work(stage: Stage, row: Row) -> Attempts:
    """The task is about another domain than the two that change."""
    with general.occupied(stage):
        yield succeeded_by(stage, row, stage.there)


@produces("StorageDomainMasterCopyError", "deactivateStorageDomain")
def by_one_without_room(stage: Stage, row: Row) -> Attempts:
    blocker = stage.place(stage.here) / "master"
    blocker.touch()
    yield succeeded_by(stage, row, stage.here)
    blocker.unlink()


@produces("StorageDomainDoesNotExist", "deactivateStorageDomain")
def by_one_that_is_gone(stage: Stage, row: Row) -> Attempts:
    with stage.instead(stage.storage(stage.here), None):
        yield succeeded_by(stage, row, stage.here)


def by_one_that_is_damaged(stage: Stage, row: Row) -> Attempts:
    """What is wrong with the domain that is to be the master."""
    with table.general(row)(stage, row):
        yield succeeded_by(stage, row, stage.here)


for _error in ("StorageDomainLayoutError", "StorageDomainAccessError", *general.DAMAGE):
    produces(_error, "deactivateStorageDomain")(by_one_that_is_damaged)
for _error in ("FileStorageDomainStaleNFSHandle", "StorageDomainMetadataNotFound"):
    produces(_error, "deactivateStorageDomain", root=True)(by_one_that_is_damaged)


# ---------------------------------------------------------------- descriptions


@produces("StorageDomainDescriptionTooLongError", "setStorageDomainDescription")
def long(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, description=pools.LONG)


@produces("UnicodeArgumentException", "setStorageDomainDescription")
def foreign(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, storagedomainID=stage.iso, description=pools.FOREIGN)


@produces("StorageDomainActionError", "setStorageDomainDescription")
def of_no_member(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, storagedomainID=stage.stray)


@produces("StoragePoolUnknown", "setStorageDomainDescription")
@produces("StorageDomainNotMemberOfPool", "setStorageDomainDescription")
def that_names_another_pool(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.stray)
    pool = new_id() if row.outcome == "StoragePoolUnknown" else stage.pool
    with stage.instead(path, general.resealed(path, POOL_UUID=pool)):
        yield at(stage, row, storagedomainID=stage.stray)


# ---------------------------------------------------------------- looks


def with_devices(stage: Stage, row: Row) -> Attempts:
    """The type of a domain is asked for when devices are to be given to it."""
    with table.general(row)(stage, row):
        yield at(stage, row, devlist=["3600a0b80"])


for _error in general.DAMAGE:
    produces(_error, "extendStorageDomain")(with_devices)
for _error in ("FileStorageDomainStaleNFSHandle", "StorageDomainMetadataNotFound"):
    produces(_error, "extendStorageDomain", root=True)(with_devices)


@produces("FileStorageDomainStaleNFSHandle", "getImagesList", "getVolumesList", "getStorageDomainStats", root=True)
def stale_directory(stage: Stage, row: Row) -> Attempts:
    with faulty.over(stage.place(stage.here), errno.ESTALE):
        yield at(stage, row, **({"imageID": BLANK} if row.verb == "getVolumesList" else {}))


def of_a_member_that_is_damaged(stage: Stage, row: Row) -> Attempts:
    """Every active domain is looked at; this is one that is not the master."""
    with general.condition(row.outcome, stage, stage.here):
        yield at(stage, row)


for _error in ("StorageDomainLayoutError", "StorageDomainAccessError", *general.DAMAGE):
    produces(_error, "getImageDomainsList")(of_a_member_that_is_damaged)
for _error in ("FileStorageDomainStaleNFSHandle", "StorageDomainMetadataNotFound"):
    produces(_error, "getImageDomainsList", root=True)(of_a_member_that_is_damaged)


@produces("StorageDomainDoesNotExist", "getImageDomainsList")
def of_a_member_that_is_gone(stage: Stage, row: Row) -> Attempts:
    with stage.instead(stage.storage(stage.here), None):
        yield at(stage, row)


@produces("GetFileStatsError", "getFileStats")
def of_no_iso_domain(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row)


@produces("VMPathNotExists")
def without_directory_of_machines(stage: Stage, row: Row) -> Attempts:
    if row.verb == "getVmsInfo":
        with stage.instead(stage.place(stage.backup) / "master" / "vms", None):
            yield at(stage, row)
    else:
        yield at(stage, row, storagedomainID=stage.here)
