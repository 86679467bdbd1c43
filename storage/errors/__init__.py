"""Every error a verb can answer with: one small class each, with its code and its message template.

Codes and names are the protocol's own (the engine sorts its reaction by the number: some codes make it move the SPM
to another host, so a logical fault must never borrow one of those). A message names the object, the fact and the
next step. Fields are keyword arguments and must be exactly those of the template.
"""

from storage.errors.base import (
    GeneralException as GeneralException,
    StorageError as StorageError,
    StorageException as StorageException,
    template_fields as template_fields,
)
from storage.errors.call import (
    InvalidParameterException as InvalidParameterException,
    MiscDirCleanupFailure as MiscDirCleanupFailure,
    NotImplementedException as NotImplementedException,
    OperationInProgress as OperationInProgress,
    ResourceTimeout as ResourceTimeout,
    UnicodeArgumentException as UnicodeArgumentException,
)
from storage.errors.domain import (
    CannotDetachMasterStorageDomain as CannotDetachMasterStorageDomain,
    CannotFormatAttachedStorageDomain as CannotFormatAttachedStorageDomain,
    CannotFormatStorageDomainInConnectedPool as CannotFormatStorageDomainInConnectedPool,
    CurrentVersionTooAdvancedError as CurrentVersionTooAdvancedError,
    FileStorageDomainStaleNFSHandle as FileStorageDomainStaleNFSHandle,
    GetStorageDomainListError as GetStorageDomainListError,
    MixedSDVersionError as MixedSDVersionError,
    MountError as MountError,
    NoSpaceLeftOnDomain as NoSpaceLeftOnDomain,
    StorageDomainAccessError as StorageDomainAccessError,
    StorageDomainActionError as StorageDomainActionError,
    StorageDomainAlreadyAttached as StorageDomainAlreadyAttached,
    StorageDomainAlreadyExists as StorageDomainAlreadyExists,
    StorageDomainClassError as StorageDomainClassError,
    StorageDomainCreationError as StorageDomainCreationError,
    StorageDomainDescriptionTooLongError as StorageDomainDescriptionTooLongError,
    StorageDomainDoesNotExist as StorageDomainDoesNotExist,
    StorageDomainFSNotMounted as StorageDomainFSNotMounted,
    StorageDomainIllegalRemotePath as StorageDomainIllegalRemotePath,
    StorageDomainLayoutError as StorageDomainLayoutError,
    StorageDomainMasterCopyError as StorageDomainMasterCopyError,
    StorageDomainMasterError as StorageDomainMasterError,
    StorageDomainMetadataCreationError as StorageDomainMetadataCreationError,
    StorageDomainMetadataNotFound as StorageDomainMetadataNotFound,
    StorageDomainNotActive as StorageDomainNotActive,
    StorageDomainNotEmpty as StorageDomainNotEmpty,
    StorageDomainNotInPool as StorageDomainNotInPool,
    StorageDomainNotMemberOfPool as StorageDomainNotMemberOfPool,
    StorageDomainStatusError as StorageDomainStatusError,
    StorageDomainTargetUnsupported as StorageDomainTargetUnsupported,
    StorageDomainTypeError as StorageDomainTypeError,
    StorageDomainTypeNotBackup as StorageDomainTypeNotBackup,
    StorageServerAccessPermissionError as StorageServerAccessPermissionError,
    StorageServerConnectionError as StorageServerConnectionError,
    StorageServerDisconnectionError as StorageServerDisconnectionError,
    UnsupportedDomainVersion as UnsupportedDomainVersion,
)
from storage.errors.pool import (
    AcquireHostIdFailure as AcquireHostIdFailure,
    AcquireLockFailure as AcquireLockFailure,
    BackupCannotBeMasterDomain as BackupCannotBeMasterDomain,
    CannotConnectMultiplePools as CannotConnectMultiplePools,
    GetFileStatsError as GetFileStatsError,
    GetFloppyListError as GetFloppyListError,
    GetIsoListError as GetIsoListError,
    HostIdMismatch as HostIdMismatch,
    ImagesNotSupportedError as ImagesNotSupportedError,
    IsoCannotBeMasterDomain as IsoCannotBeMasterDomain,
    IsSpm as IsSpm,
    MissingOvfFileFromVM as MissingOvfFileFromVM,
    PoolUpgradeInProgress as PoolUpgradeInProgress,
    ReconstructMasterError as ReconstructMasterError,
    SpmFenceError as SpmFenceError,
    SpmStartError as SpmStartError,
    SpmStatusError as SpmStatusError,
    SpmStopError as SpmStopError,
    StoragePoolActionError as StoragePoolActionError,
    StoragePoolConnected as StoragePoolConnected,
    StoragePoolConnectionError as StoragePoolConnectionError,
    StoragePoolCreationError as StoragePoolCreationError,
    StoragePoolDescriptionTooLongError as StoragePoolDescriptionTooLongError,
    StoragePoolDestroyingError as StoragePoolDestroyingError,
    StoragePoolDisconnectionError as StoragePoolDisconnectionError,
    StoragePoolMasterNotFound as StoragePoolMasterNotFound,
    StoragePoolNotConnected as StoragePoolNotConnected,
    StoragePoolUnknown as StoragePoolUnknown,
    StoragePoolWrongMaster as StoragePoolWrongMaster,
    TooManyDomainsInStoragePoolError as TooManyDomainsInStoragePoolError,
    VMPathNotExists as VMPathNotExists,
)
from storage.errors.task import (
    AddTaskError as AddTaskError,
    InvalidRecovery as InvalidRecovery,
    TaskAborted as TaskAborted,
    TaskClearError as TaskClearError,
    TaskInProgress as TaskInProgress,
    TaskMetaDataLoadError as TaskMetaDataLoadError,
    TaskMetaDataSaveError as TaskMetaDataSaveError,
    TaskNotFinished as TaskNotFinished,
    TaskStateError as TaskStateError,
    TaskStateTransitionError as TaskStateTransitionError,
    UnknownTask as UnknownTask,
)
from storage.errors.volume import (
    CannotCloneVolume as CannotCloneVolume,
    CannotDeleteSharedVolume as CannotDeleteSharedVolume,
    CannotDeleteVolume as CannotDeleteVolume,
    CopyImageError as CopyImageError,
    CreateIllegalVolumeSnapshotError as CreateIllegalVolumeSnapshotError,
    CreateVolumeSizeError as CreateVolumeSizeError,
    DestImageActionError as DestImageActionError,
    ImageDeleteError as ImageDeleteError,
    ImageDoesNotExistInSD as ImageDoesNotExistInSD,
    ImageIsNotLegalChain as ImageIsNotLegalChain,
    ImagePathError as ImagePathError,
    ImageValidationError as ImageValidationError,
    IncorrectFormat as IncorrectFormat,
    IncorrectType as IncorrectType,
    InternalVolumeNonWritable as InternalVolumeNonWritable,
    MergeSnapshotsError as MergeSnapshotsError,
    MergeVolumeRollbackError as MergeVolumeRollbackError,
    MetaDataKeyNotFoundError as MetaDataKeyNotFoundError,
    MetadataOverflowError as MetadataOverflowError,
    MetaDataSealIsBroken as MetaDataSealIsBroken,
    MetaDataValidationError as MetaDataValidationError,
    MoveImageError as MoveImageError,
    MoveTemplateImageError as MoveTemplateImageError,
    MultipleMoveImageError as MultipleMoveImageError,
    OverwriteImageError as OverwriteImageError,
    PrepareIllegalVolumeError as PrepareIllegalVolumeError,
    SharedVolumeNonWritable as SharedVolumeNonWritable,
    TemplateCreationError as TemplateCreationError,
    VolumeAccessError as VolumeAccessError,
    VolumeAlreadyExists as VolumeAlreadyExists,
    VolumeCreationError as VolumeCreationError,
    VolumeDoesNotExist as VolumeDoesNotExist,
    VolumeImageHasChildren as VolumeImageHasChildren,
    VolumeIsBusy as VolumeIsBusy,
    VolumeMetadataReadError as VolumeMetadataReadError,
    VolumeMetadataWriteError as VolumeMetadataWriteError,
    VolumeNonShareable as VolumeNonShareable,
    VolumeNonWritable as VolumeNonWritable,
    VolumeResizeValueError as VolumeResizeValueError,
)


def by_name(name: str) -> type[StorageError]:
    """The error class of a catalogue name such as ``VolumeDoesNotExist``.

    Raises:
        KeyError: when no such class exists.
    """
    found = globals().get(name)
    if not (isinstance(found, type) and issubclass(found, StorageError)):
        raise KeyError(name)
    return found
