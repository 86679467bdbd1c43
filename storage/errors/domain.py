"""Errors about domains and storage servers."""

from storage.errors import base

# ---------------------------------------------------------------- domains


class StorageDomainActionError(base.StorageError):
    code = 350
    template = "domain action failed: {reason}"


class StorageDomainCreationError(base.StorageError):
    code = 351
    template = "domain could not be created: {reason}"


class StorageDomainNotInPool(base.StorageError):
    code = 353
    template = "domain {domain} does not name pool {pool} in its metadata"


class StorageDomainMasterError(base.StorageError):
    code = 355
    template = "pool metadata in the master domain cannot be used: {reason}"


class StorageDomainDoesNotExist(base.StorageError):
    code = 358
    template = "domain {domain} does not exist on any connected storage server"


class StorageDomainFSNotMounted(base.StorageError):
    code = 360
    template = "storage {path} is not connected; call connectStorageServer first"


class StorageDomainNotEmpty(base.StorageError):
    code = 361
    template = "storage {path} already holds {found}"


class StorageDomainMetadataCreationError(base.StorageError):
    code = 362
    template = "metadata files of domain {domain} could not be made: {reason}"


class StorageDomainMetadataNotFound(base.StorageError):
    code = 364
    template = "metadata of domain {domain} is missing at {path}"


class StorageDomainAlreadyExists(base.StorageError):
    code = 365
    template = "domain {domain} exists already"


class StorageDomainNotActive(base.StorageError):
    code = 369
    template = "domain {domain} is not active in pool {pool}"


class StorageDomainMasterCopyError(base.StorageError):
    code = 370
    template = "what the master keeps could not be copied to domain {domain}: {reason}"


class StorageDomainLayoutError(base.StorageError):
    code = 371
    template = "domain {domain} has an unusable layout: {reason}"


class StorageDomainTypeError(base.StorageError):
    code = 372
    template = "domain type {type} cannot be used here"


class GetStorageDomainListError(base.StorageError):
    code = 373
    template = "domains cannot be listed: {reason}"


class StorageDomainNotMemberOfPool(base.StorageError):
    code = 375
    template = "domain {domain} is not a member of pool {pool}"


class StorageDomainStatusError(base.StorageError):
    code = 376
    template = "{status} is no status that domain {domain} can have in a pool"


class StorageDomainTypeNotBackup(base.StorageError):
    code = 378
    template = "domain {domain} is of class {domain_class}, not Backup"


class StorageDomainAccessError(base.StorageError):
    code = 379
    template = "domain {domain} cannot be accessed: {reason}"


class StorageDomainAlreadyAttached(base.StorageError):
    code = 380
    template = "domain {domain} is attached to pool {pool} already"


class CannotDetachMasterStorageDomain(base.StorageError):
    code = 383
    template = "domain {domain} is the master of pool {pool} and cannot be detached; make another one the master first"


class FileStorageDomainStaleNFSHandle(base.StorageError):
    code = 384
    template = "domain {domain}: the storage server answers with a stale handle"


class StorageDomainClassError(base.StorageError):
    code = 386
    template = "domain class {domain_class} is none of 1 (Data), 2 (Iso), 3 (Backup)"


class StorageDomainDescriptionTooLongError(base.StorageError):
    code = 387
    template = "domain name is longer than {limit} characters"


class StorageDomainIllegalRemotePath(base.StorageError):
    code = 390
    template = "path {path} is not acceptable: {reason}"


class CannotFormatAttachedStorageDomain(base.StorageError):
    code = 391
    template = "domain {domain} is attached to pool {pool}; detach it or pass autoDetach"


class CannotFormatStorageDomainInConnectedPool(base.StorageError):
    code = 392
    template = "domain {domain} belongs to the connected pool {pool}"


class UnsupportedDomainVersion(base.StorageError):
    code = 394
    template = "domain version {version} is not supported here"


class CurrentVersionTooAdvancedError(base.StorageError):
    code = 395
    template = "domain {domain} has version {current}, which cannot be lowered to {wanted}"


class NoSpaceLeftOnDomain(base.StorageError):
    code = 397
    template = "domain {domain} has too little free space: {needed} bytes needed, {free} bytes free"


class MixedSDVersionError(base.StorageError):
    code = 398
    template = "domain {domain} has version {version}, the master {master} has {master_version}"


class StorageDomainTargetUnsupported(base.StorageError):
    code = 399
    template = "storage {path} cannot hold a domain: {reason}"


# ---------------------------------------------------------------- connections


class StorageServerConnectionError(base.StorageError):
    code = 451
    template = "storage server could not be connected: {reason}"


class StorageServerDisconnectionError(base.StorageError):
    code = 452
    template = "storage server could not be disconnected: {reason}"


class StorageServerAccessPermissionError(base.StorageError):
    code = 469
    template = "path {path} cannot be used: {reason}"


class MountError(base.StorageError):
    code = 477
    template = "storage {path} could not be mounted: {reason}"
