"""Errors about pools and the role of SPM."""

from storage.errors import base

# ---------------------------------------------------------------- pools


class StoragePoolActionError(base.StorageError):
    code = 300
    template = "pool action failed: {reason}"


class StoragePoolCreationError(base.StorageError):
    code = 301
    template = "pool could not be created: {reason}"


class StoragePoolConnectionError(base.StorageError):
    code = 302
    template = "pool could not be connected: {reason}"


class StoragePoolDisconnectionError(base.StorageError):
    code = 303
    template = "pool could not be disconnected: {reason}"


class StoragePoolMasterNotFound(base.StorageError):
    code = 304
    template = "master domain {domain} of pool {pool} was not found; connect its storage server first"


class ReconstructMasterError(base.StorageError):
    code = 306
    template = "master could not be reconstructed: {reason}"


class StoragePoolDestroyingError(base.StorageError):
    code = 308
    template = "pool could not be destroyed: {reason}"


class StoragePoolUnknown(base.StorageError):
    code = 309
    template = "pool {pool} is not connected on this host"


class StoragePoolNotConnected(base.StorageError):
    code = 313
    template = "no pool is connected on this host"


class GetIsoListError(base.StorageError):
    code = 314
    template = "ISO files cannot be listed: {reason}"


class GetFloppyListError(base.StorageError):
    code = 315
    template = "floppy images cannot be listed: {reason}"


class IsoCannotBeMasterDomain(base.StorageError):
    code = 317
    template = "ISO domain {domain} cannot be the master of a pool"


class BackupCannotBeMasterDomain(base.StorageError):
    code = 319
    template = "backup domain {domain} cannot be the master of a pool"


class MissingOvfFileFromVM(base.StorageError):
    code = 320
    template = "the description of machine {vm} in domain {domain} cannot be used: {reason}"


class VMPathNotExists(base.StorageError):
    code = 322
    template = "domain {domain} has no directory of machines ('master/vms')"


class CannotConnectMultiplePools(base.StorageError):
    code = 323
    template = "pool {connected} is connected already; disconnect it before pool {pool}"


class StoragePoolWrongMaster(base.StorageError):
    code = 324
    template = "domain {domain} is not the master of pool {pool}: {reason}"


class StoragePoolConnected(base.StorageError):
    code = 325
    template = "pool {pool} is connected already: {reason}"


class StoragePoolDescriptionTooLongError(base.StorageError):
    code = 327
    template = "pool name is longer than {limit} characters"


class TooManyDomainsInStoragePoolError(base.StorageError):
    code = 328
    template = "a pool holds at most {limit} domains"


class PoolUpgradeInProgress(base.StorageError):
    code = 396
    template = "pool {pool} is being upgraded already; domains left: {domains}"


class ImagesNotSupportedError(base.StorageError):
    code = 329
    template = "domain {domain} is of class {domain_class}, which holds no disk images"


class GetFileStatsError(base.StorageError):
    code = 330
    template = "files cannot be listed: {reason}"


# ---------------------------------------------------------------- SPM


class SpmStartError(base.StorageError):
    code = 650
    template = "SPM could not be started: {reason}"


class AcquireLockFailure(base.StorageError):
    code = 651
    template = "cluster lock of domain {domain} could not be taken: {reason}"


class SpmStopError(base.StorageError):
    code = 653
    template = "SPM could not be stopped: {reason}"


class SpmStatusError(base.StorageError):
    code = 654
    template = "this host is not the SPM of pool {pool}"


class SpmFenceError(base.StorageError):
    code = 655
    template = "SPM could not be fenced: {reason}"


class IsSpm(base.StorageError):
    code = 656
    template = "this host is the SPM of pool {pool} ({role}); call spmStop first"


class AcquireHostIdFailure(base.StorageError):
    code = 661
    template = "host id {host_id} could not be taken in domain {domain}: {reason}"


class HostIdMismatch(base.StorageError):
    code = 700
    template = "pool {pool} is connected with host id {connected}, not {given}"
