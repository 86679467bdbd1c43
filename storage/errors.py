"""Every error a verb can answer with: one small class each, with its code and its message template.

Codes and names are the protocol's own (the engine sorts its reaction by the number: some codes make it move the SPM
to another host, so a logical fault must never borrow one of those). A message names the object, the fact and the
next step. Fields are keyword arguments and must be exactly those of the template.
"""

import string
from typing import Any, ClassVar


class StorageError(Exception):
    """Base of all errors that are part of the API.

    Raises:
        TypeError: when the fields given are not the fields of the template.
    """

    code: ClassVar[int] = 200
    template: ClassVar[str] = "storage action failed: {reason}"

    def __init__(self, **fields: Any) -> None:
        wanted = template_fields(self.template)
        if set(fields) != wanted:
            raise TypeError(f"{type(self).__name__} takes {sorted(wanted)}, not {sorted(fields)}")
        self.fields = fields
        super().__init__(self.template.format(**fields))


def template_fields(template: str) -> set[str]:
    """Names of the fields in a message template."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


class GeneralException(StorageError):
    code = 100
    template = "unexpected failure: {reason}"


class StorageException(StorageError):
    code = 200
    template = "storage action failed: {reason}"


# ---------------------------------------------------------------- volumes


class VolumeDoesNotExist(StorageError):
    code = 201
    template = "volume {volume} does not exist in image {image}"


class IncorrectFormat(StorageError):
    code = 202
    template = "{object}: format is not acceptable: {reason}"


class VolumeIsBusy(StorageError):
    code = 203
    template = "volume {volume} is in use: {reason}"


class VolumeImageHasChildren(StorageError):
    code = 204
    template = "volume {volume} still has children {children}; delete those first or use force"


class VolumeCreationError(StorageError):
    code = 205
    template = "volume could not be created: {reason}"


class VolumeMetadataReadError(StorageError):
    code = 207
    template = "metadata of volume {volume} cannot be read: {reason}"


class VolumeMetadataWriteError(StorageError):
    code = 208
    template = "metadata of volume {volume} cannot be written: {reason}"


class VolumeAccessError(StorageError):
    code = 209
    template = "volume {volume} cannot be accessed: {reason}"


class VolumeAlreadyExists(StorageError):
    code = 212
    template = "volume {volume} already exists in image {image}"


class VolumeNonShareable(StorageError):
    code = 214
    template = "volume {volume} cannot be shared: {reason}"


class CannotCloneVolume(StorageError):
    code = 217
    template = "volume {volume} cannot be made on top of {parent}: {reason}"


class CannotDeleteVolume(StorageError):
    code = 222
    template = "volume cannot be deleted: {reason}"


class CannotDeleteSharedVolume(StorageError):
    code = 223
    template = "volume {volume} is a template that images {users} still use"


class CreateIllegalVolumeSnapshotError(StorageError):
    code = 226
    template = "parent volume {volume} is ILLEGAL; ask reconcileVolumeChain what the chain is first"


class PrepareIllegalVolumeError(StorageError):
    code = 227
    template = "volume {volume} of image {image} is ILLEGAL and must not be used; reconcileVolumeChain repairs it"


class CreateVolumeSizeError(StorageError):
    code = 229
    template = "volume {volume}: size {size} is not acceptable: {reason}"


class IncorrectType(StorageError):
    code = 231
    template = "volume allocation {type} is neither 1 (preallocated) nor 2 (sparse)"


# ---------------------------------------------------------------- images


class ImagePathError(StorageError):
    code = 254
    template = "directory of image {image} cannot be accessed: {reason}"


class ImageValidationError(StorageError):
    code = 255
    template = "{object} is not what its metadata says: {reason}"


class ImageDeleteError(StorageError):
    code = 256
    template = "image {image} could not be deleted: {reason}"


class ImageIsNotLegalChain(StorageError):
    code = 262
    template = "chain of image {image} cannot be settled: {reason}"


class ImageDoesNotExistInSD(StorageError):
    code = 268
    template = "image {image} does not exist in domain {domain}"


# ---------------------------------------------------------------- pools


class StoragePoolActionError(StorageError):
    code = 300
    template = "pool action failed: {reason}"


class StoragePoolCreationError(StorageError):
    code = 301
    template = "pool could not be created: {reason}"


class StoragePoolConnectionError(StorageError):
    code = 302
    template = "pool could not be connected: {reason}"


class StoragePoolDisconnectionError(StorageError):
    code = 303
    template = "pool could not be disconnected: {reason}"


class StoragePoolMasterNotFound(StorageError):
    code = 304
    template = "master domain {domain} of pool {pool} was not found; connect its storage server first"


class StoragePoolDestroyingError(StorageError):
    code = 308
    template = "pool could not be destroyed: {reason}"


class StoragePoolUnknown(StorageError):
    code = 309
    template = "pool {pool} is not connected on this host"


class IsoCannotBeMasterDomain(StorageError):
    code = 317
    template = "ISO domain {domain} cannot be the master of a pool"


class BackupCannotBeMasterDomain(StorageError):
    code = 319
    template = "backup domain {domain} cannot be the master of a pool"


class CannotConnectMultiplePools(StorageError):
    code = 323
    template = "pool {connected} is connected already; disconnect it before pool {pool}"


class StoragePoolWrongMaster(StorageError):
    code = 324
    template = "domain {domain} is not the master of pool {pool}: {reason}"


class StoragePoolConnected(StorageError):
    code = 325
    template = "pool {pool} is connected already: {reason}"


class StoragePoolDescriptionTooLongError(StorageError):
    code = 327
    template = "pool name is longer than {limit} characters"


class TooManyDomainsInStoragePoolError(StorageError):
    code = 328
    template = "a pool holds at most {limit} domains"


class ImagesNotSupportedError(StorageError):
    code = 329
    template = "domain {domain} is of class {domain_class}, which holds no disk images"


# ---------------------------------------------------------------- domains


class StorageDomainActionError(StorageError):
    code = 350
    template = "domain action failed: {reason}"


class StorageDomainCreationError(StorageError):
    code = 351
    template = "domain could not be created: {reason}"


class StorageDomainNotInPool(StorageError):
    code = 353
    template = "domain {domain} does not name pool {pool} in its metadata"


class StorageDomainMasterError(StorageError):
    code = 355
    template = "pool metadata in the master domain cannot be used: {reason}"


class StorageDomainDoesNotExist(StorageError):
    code = 358
    template = "domain {domain} does not exist on any connected storage server"


class StorageDomainFSNotMounted(StorageError):
    code = 360
    template = "storage {path} is not connected; call connectStorageServer first"


class StorageDomainNotEmpty(StorageError):
    code = 361
    template = "storage {path} already holds {found}"


class StorageDomainMetadataCreationError(StorageError):
    code = 362
    template = "metadata files of domain {domain} could not be made: {reason}"


class StorageDomainMetadataNotFound(StorageError):
    code = 364
    template = "metadata of domain {domain} is missing at {path}"


class StorageDomainAlreadyExists(StorageError):
    code = 365
    template = "domain {domain} exists already"


class StorageDomainLayoutError(StorageError):
    code = 371
    template = "domain {domain} has an unusable layout: {reason}"


class StorageDomainTypeError(StorageError):
    code = 372
    template = "domain type {type} cannot be used here"


class StorageDomainNotMemberOfPool(StorageError):
    code = 375
    template = "domain {domain} is not a member of pool {pool}"


class StorageDomainAccessError(StorageError):
    code = 379
    template = "domain {domain} cannot be accessed: {reason}"


class StorageDomainAlreadyAttached(StorageError):
    code = 380
    template = "domain {domain} is attached to pool {pool} already"


class FileStorageDomainStaleNFSHandle(StorageError):
    code = 384
    template = "domain {domain}: the storage server answers with a stale handle"


class StorageDomainClassError(StorageError):
    code = 386
    template = "domain class {domain_class} is none of 1 (Data), 2 (Iso), 3 (Backup)"


class StorageDomainDescriptionTooLongError(StorageError):
    code = 387
    template = "domain name is longer than {limit} characters"


class StorageDomainIllegalRemotePath(StorageError):
    code = 390
    template = "path {path} is not acceptable: {reason}"


class CannotFormatAttachedStorageDomain(StorageError):
    code = 391
    template = "domain {domain} is attached to pool {pool}; detach it or pass autoDetach"


class CannotFormatStorageDomainInConnectedPool(StorageError):
    code = 392
    template = "domain {domain} belongs to the connected pool {pool}"


class UnsupportedDomainVersion(StorageError):
    code = 394
    template = "domain version {version} is not supported here"


class CurrentVersionTooAdvancedError(StorageError):
    code = 395
    template = "domain {domain} has version {current}, which cannot be lowered to {wanted}"


class NoSpaceLeftOnDomain(StorageError):
    code = 397
    template = "domain {domain} has too little free space: {needed} bytes needed, {free} bytes free"


class MixedSDVersionError(StorageError):
    code = 398
    template = "domain {domain} has version {version}, the master {master} has {master_version}"


class StorageDomainTargetUnsupported(StorageError):
    code = 399
    template = "storage {path} cannot hold a domain: {reason}"


# ---------------------------------------------------------------- tasks


class UnknownTask(StorageError):
    code = 401
    template = "task {task} is not known here"


class TaskClearError(StorageError):
    code = 402
    template = "task {task} cannot be cleared: {reason}"


class TaskNotFinished(StorageError):
    code = 403
    template = "task {task} is not finished yet ({state})"


class AddTaskError(StorageError):
    code = 405
    template = "task {task} cannot be queued: {reason}"


class TaskInProgress(StorageError):
    code = 406
    template = "pool {pool} still has task {task} in progress"


class TaskMetaDataSaveError(StorageError):
    code = 407
    template = "task {task} cannot be saved: {reason}"


class TaskMetaDataLoadError(StorageError):
    code = 408
    template = "task {task} cannot be loaded: {reason}"


class TaskStateError(StorageError):
    code = 410
    template = "task {task} is {state}; stop it or wait for its end before clearing it"


class TaskAborted(StorageError):
    code = 411
    template = "task {task} was stopped"


class InvalidRecovery(StorageError):
    code = 430
    template = "task {task}: recovery {recovery} is not known here, and nothing is run by the name in a file"


class TaskStateTransitionError(StorageError):
    code = 441
    template = "task {task} cannot go from {state} to {wanted}"


# ---------------------------------------------------------------- connections


class StorageServerConnectionError(StorageError):
    code = 451
    template = "storage server could not be connected: {reason}"


class StorageServerDisconnectionError(StorageError):
    code = 452
    template = "storage server could not be disconnected: {reason}"


class StorageServerAccessPermissionError(StorageError):
    code = 469
    template = "path {path} cannot be used: {reason}"


class MountError(StorageError):
    code = 477
    template = "storage {path} could not be mounted: {reason}"


# ---------------------------------------------------------------- SPM


class SpmStartError(StorageError):
    code = 650
    template = "SPM could not be started: {reason}"


class AcquireLockFailure(StorageError):
    code = 651
    template = "cluster lock of domain {domain} could not be taken: {reason}"


class SpmStopError(StorageError):
    code = 653
    template = "SPM could not be stopped: {reason}"


class SpmStatusError(StorageError):
    code = 654
    template = "this host is not the SPM of pool {pool}"


class IsSpm(StorageError):
    code = 656
    template = "this host is the SPM of pool {pool} ({role}); call spmStop first"


class AcquireHostIdFailure(StorageError):
    code = 661
    template = "host id {host_id} could not be taken in domain {domain}: {reason}"


class HostIdMismatch(StorageError):
    code = 700
    template = "pool {pool} is connected with host id {connected}, not {given}"


# ---------------------------------------------------------------- domain and volume metadata


class MetaDataKeyNotFoundError(StorageError):
    code = 751
    template = "{object}: key {key} is missing"


class MetaDataSealIsBroken(StorageError):
    code = 752
    template = "{object}: checksum {found} does not match the content ({computed})"


class MetaDataValidationError(StorageError):
    code = 753
    template = "{object}: {reason}"


class MetadataOverflowError(StorageError):
    code = 756
    template = "{object}: {size} bytes of metadata do not fit into {limit}; shorten the description"


# ---------------------------------------------------------------- locks, arguments


class ResourceTimeout(StorageError):
    code = 851
    template = "lock on {resource} was not granted within {seconds} s; {holder}"


class InvalidParameterException(StorageError):
    code = 1000
    template = "parameter {name}: {reason}"


class NotImplementedException(StorageError):
    code = 2000
    template = "{what} is not possible in this release"


class OperationInProgress(StorageError):
    code = 2005
    template = "{object}: {reason}"


class MiscDirCleanupFailure(StorageError):
    code = 2008
    template = "directory {path} could not be emptied: {reason}"


class UnicodeArgumentException(StorageError):
    code = 4900
    template = "{object} version {version} takes ASCII names only"


def by_name(name: str) -> type[StorageError]:
    """The error class of a catalogue name such as ``VolumeDoesNotExist``.

    Raises:
        KeyError: when no such class exists.
    """
    found = globals().get(name)
    if not (isinstance(found, type) and issubclass(found, StorageError)):
        raise KeyError(name)
    return found
