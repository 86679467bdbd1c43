"""Errors about what keeps connections up, and about block storage."""

from storage.errors import base

# ---------------------------------------------------------------- references to connections


class StorageServerActionError(base.StorageError):
    code = 450
    template = "connections that are kept up: {reason}"


class StorageServerValidationError(base.StorageError):
    code = 453
    template = "connection cannot be made of these words: {reason}"


class ISCSISetupError(base.StorageError):
    code = 465
    template = "iSCSI session could not be made: {reason}"


class ISCSIDiscoveryError(base.StorageError):
    code = 475
    template = "targets of {portal} could not be discovered: {reason}"


class StorageServerConnectionRefIdAlreadyInUse(base.StorageError):
    code = 478
    template = "reference {reference} is in use already; release it first"


class StorageServerConnectionRefIdDoesNotExist(base.StorageError):
    code = 479
    template = "reference {reference} does not exist"


# ---------------------------------------------------------------- volume groups and devices


class VolumeGroupActionError(base.StorageError):
    code = 500
    template = "volume groups cannot be looked at: {reason}"


class VolumeGroupCreateError(base.StorageError):
    code = 502
    template = "volume group could not be made: {reason}"


class VolumeGroupSizeError(base.StorageError):
    code = 504
    template = "the devices hold {size} bytes together; a volume group needs {needed}"


class VolumeGroupDoesNotExist(base.StorageError):
    code = 506
    template = "volume group {group} does not exist on this host"


class VolumeGroupRemoveError(base.StorageError):
    code = 508
    template = "volume group {group} could not be removed: {reason}"


class BlockDeviceActionError(base.StorageError):
    code = 600
    template = "block devices cannot be looked at: {reason}"


class InaccessiblePhysDev(base.StorageError):
    code = 606
    template = "devices are not accessible on this host: {devices}"
