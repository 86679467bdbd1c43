"""Why an outcome that the schema declares cannot be produced on storage of files, in a sentence each."""

import functools

from storage import hostinfo
from tests.support.outcomes import table

CALL, TASK, SUCCESS = table.CALL, table.TASK, table.SUCCESS

UNFORESEEN = "It stands for what nobody foresaw: only a fault of the daemon is answered so."
NOT_YET = "Not yet provoked."
_RACE = "Only a change by another process between two looks of one call, or two steps of one task, is answered so."
_NO_DEVICES = "It needs multipath devices, which no file can stand for."
_NO_CHANGE = "This release changes nothing on block devices, and makes no sessions."
_NO_MACHINES = "This host runs no machines."
_AGENT = "It needs a fence agent installed among the programs of the system."
_HOST_ID = "A pool is connected with a host id that every cluster lock accepts, or not at all."
_LOCAL = "It needs a domain of a type that other hosts can reach, which no host can be the SPM of here."
_FIRMWARE = "The firmware tells of this host what it tells: one of two outcomes."
_DIRECT = "It needs a file system that refuses direct I/O and is not in memory."
_FLUSH = "The storage must answer to a look at the image, and fail in the same moment when that is flushed."
_MANY = "It takes a thousand domains that are watched at once; the unit tests of the watch do it with fewer."
_ROOM = "A record that is made anew, or shortened, has room: its description is cut to what fits."
_NO_STOP = "No step of it takes so long that it could be asked to stop between two of them."

# Outcome, where, reason, verbs.
_TOLD: tuple[tuple[str, str, str, str], ...] = (
    (SUCCESS, CALL, _NO_CHANGE, "createVG discoverSendTargets"),
    (SUCCESS, CALL, _NO_MACHINES, "getVmStats merge snapshot"),
    (SUCCESS, CALL, _FIRMWARE, "" if hostinfo.hardware() else "getVdsHardwareInfo"),
    ("HardwareInfoError", CALL, _FIRMWARE, "getVdsHardwareInfo" if hostinfo.hardware() else ""),
    ("VolumeGroupSizeError", CALL, _NO_DEVICES, "createVG"),
    ("VolumeGroupCreateError", CALL, _NO_DEVICES, "createVG"),
    ("BlockDeviceActionError", CALL, "It needs a kernel whose /sys cannot be read.", "getDeviceList"),
    ("FenceError", CALL, _AGENT, "fenceNode"),
    ("FenceRefusedError", CALL, _AGENT, "fenceNode"),
    (
        "AcquireHostIdFailure",
        CALL,
        _HOST_ID,
        "attachStorageDomain deactivateStorageDomain detachStorageDomain forcedDetachStorageDomain",
    ),
    (
        "OperationInProgress",
        CALL,
        _RACE,
        "destroyStoragePool fenceSpmStorage removeVM spmStop updateVM upgradeStoragePool",
    ),
    ("NotImplementedException", CALL, _LOCAL, "activateStorageDomain deactivateStorageDomain upgradeStoragePool"),
    ("NotImplementedException", TASK, _LOCAL, "spmStart"),
    ("StorageDomainTargetUnsupported", CALL, _DIRECT, "createStorageDomain"),
    ("ResourceTimeout", CALL, "The verb takes no lock here.", "extendStorageDomain"),
    ("AddTaskError", CALL, "A host that is no SPM has no other tasks to fill its queue with.", "spmStart"),
    ("AddTaskError", TASK, _RACE, "spmStart"),
    ("GeneralException", CALL, _MANY, "startMonitoringDomain"),
    ("TaskAborted", CALL, "A rollback would have to hang just while it is asked to stop.", "stopTask"),
    ("FileStorageDomainStaleNFSHandle", CALL, _RACE, "updateVM"),
    ("StorageDomainLayoutError", CALL, _RACE, "refreshStoragePool"),
    (
        "StoragePoolNotConnected",
        CALL,
        "It means a call without a pool, which a call without force refuses as an argument.",
        "detachStorageDomain",
    ),
    ("OperationInProgress", CALL, _RACE, "reconcileVolumeChain undoReconcile"),
    ("VolumeAccessError", CALL, _FLUSH, "getVolumeChain reconcileVolumeChain undoReconcile"),
    ("VolumeAccessError", TASK, _FLUSH, "proveVolumeChain"),
    ("MetaDataValidationError", TASK, _RACE, "mergeSnapshots syncImageData"),
    ("MetadataOverflowError", TASK, _ROOM, "createVolume copyImage mergeSnapshots syncImageData"),
    ("TaskAborted", TASK, _NO_STOP, "deleteImage deleteVolume extendVolumeSize proveVolumeChain spmStart"),
    ("IncorrectFormat", TASK, _RACE, "extendVolumeSize"),
    ("GeneralException", TASK, UNFORESEEN, "uploadImage"),
    ("StorageException", TASK, UNFORESEEN, "proveVolumeChain"),
    ("IncorrectFormat", TASK, "The reply says so already: nothing else can change a request.", "createVolume"),
    ("TaskMetaDataSaveError", TASK, _RACE, "deleteImage deleteVolume downloadImage proveVolumeChain"),
    ("MergeVolumeRollbackError", TASK, "The storage must fail in a rollback, and not before it.", "mergeSnapshots"),
    ("MoveTemplateImageError", TASK, _RACE, "moveImage moveMultipleImages"),
    ("CannotDeleteSharedVolume", TASK, _RACE, "moveImage moveMultipleImages"),
)


@functools.cache
def _all() -> dict[table.Row, str]:
    found = {}
    for outcome, where, reason, verbs in _TOLD:
        for verb in verbs.split():
            found[table.Row(verb, outcome, where)] = reason
    for row in table.rows():
        is_default = row.where == CALL and row.outcome in (row.schema.default_error, "GeneralException")
        if is_default and not table.is_produced(row):
            found[row] = UNFORESEEN
    return found


def of(row: table.Row) -> str:
    """The reason; empty when there is none."""
    return _all().get(row, "")


def explained() -> set[table.Row]:
    return set(_all())
