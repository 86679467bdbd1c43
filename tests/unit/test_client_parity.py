"""Scripts written for the protocol's own client of 3.5: the same commands, taking what they took, ending as they did.

Only what a script can depend on is held here. What the commands send and print is in the tests of the commands.
"""

import pytest

from client import commands, words
from rpc import catalogue

SCHEMA = catalogue.load()
COMMANDS = commands.table(SCHEMA)

# Command, least and most words that it takes. A failure ends them with 1.
ENDING_WITH_ONE = """
    activateStorageDomain 2 2; attachStorageDomain 2 2; clearTask 1 1; cloneImageStructure 4 4;
    connectStoragePool 3 6; connectStorageServer 3 3; copyImage 8 14; createStorageDomain 5 6;
    createStoragePool 6 11; createVG 2 3; createVolume 9 11; deactivateStorageDomain 4 4; deleteImage 3 5;
    deleteVolume 4 6; destroyStoragePool 3 3; detachStorageDomain 4 4; disconnectStoragePool 3 3;
    disconnectStorageServer 3 3; discoverST 1 3; downloadImage 5 5; extendStorageDomain 3 3; extendVolumeSize 5 5;
    fenceNode 6 8; fenceSpmStorage 3 3; forcedDetachStorageDomain 2 2; formatStorageDomain 1 2; getAllTasks 0 1;
    getAllTasksInfo 0 0; getAllTasksStatuses 0 0; getConnectedStoragePoolsList 0 0; getDeviceList 0 1;
    getDevicesVisibility 1 1; getFileStats 1 2; getFloppyList 1 1; getImageDomainsList 2 2; getImagesList 1 1;
    getIsoList 1 1; getParent 4 4; getSpmStatus 1 1; getStorageDomainInfo 1 1; getStorageDomainStats 1 1;
    getStorageDomainsList 0 1; getStoragePoolInfo 1 1; getTaskInfo 1 1; getTaskStatus 1 1; getVGInfo 1 1;
    getVGList 0 1; getVmsInfo 1 3; getVmsList 1 2; getVolumeInfo 4 4; getVolumePath 4 4; getVolumeSize 4 4;
    getVolumesList 2 3; mergeSnapshots 6 7; moveImage 6 8; moveMultiImage 5 6; prepareForShutdown 0 0;
    prepareImage 3 4; reconcileVolumeChain 4 4; reconstructMaster 5 11; refreshStoragePool 3 3; removeVG 1 1;
    removeVM 2 3; repoStats 0 0; revertTask 1 1; setLogLevel 1 1; setStorageDomainDescription 2 2;
    setStoragePoolDescription 2 2; setVolumeDescription 5 5; setVolumeLegality 5 5; snapshot 5 5; spmStart 5 7;
    spmStop 1 1; startMonitoringDomain 2 2; stopMonitoringDomain 1 1; stopTask 1 1; syncImageData 5 5;
    teardownImage 3 4; updateVM 2 3; upgradeStoragePool 2 2; uploadImage 5 5; validateStorageDomain 1 1;
    validateStorageServerConnection 3 3
"""

# The same; a failure ends them with the status code itself.
ENDING_WITH_THE_CODE = """
    getAllVmStats 0 0; getVdsCapabilities 0 0; getVdsCaps 0 0; getVdsHardwareInfo 0 0; getVdsStats 0 0;
    getVmStats 1 2; list 0 2; merge 4 6
"""

# Verbs that had no command either.
WITHOUT = {
    "ping",
    "refreshVolume",
    "storageServer_ConnectionRefs_acquire",
    "storageServer_ConnectionRefs_release",
    "storageServer_ConnectionRefs_statuses",
    "volumeSetSize",
}

# Additions.
NEW = {"chain", "proveVolumeChain", "undoReconcile"}


def rows(text: str) -> list[tuple[str, int, int]]:
    """A table as rows."""
    cells = (cell.split() for cell in text.split(";"))
    return [(name, int(least), int(most)) for name, least, most in cells]


@pytest.mark.parametrize(
    ("group", "name", "least", "most"),
    [("storage", *row) for row in rows(ENDING_WITH_ONE)] + [("host", *row) for row in rows(ENDING_WITH_THE_CODE)],
)
def test_a_command_takes_and_ends_as_ever(group: str, name: str, least: int, most: int) -> None:
    command = COMMANDS[name]
    known = words.of(command, SCHEMA.types)
    assert sum(not word.optional for word in known) <= least <= most <= len(known)
    assert command.group == group


def test_nothing_is_missing_and_what_is_new_is_known() -> None:
    listed = {name for name, _, _ in rows(ENDING_WITH_ONE) + rows(ENDING_WITH_THE_CODE)}
    assert set(COMMANDS) - listed == NEW
    assert {verb.name for verb in SCHEMA.verbs.values() if verb.command is None} == WITHOUT
