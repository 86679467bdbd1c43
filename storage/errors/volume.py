"""Errors about volumes, images, and what they say of themselves."""

from storage.errors import base

# ---------------------------------------------------------------- volumes


class VolumeDoesNotExist(base.StorageError):
    code = 201
    template = "volume {volume} does not exist in image {image}"


class IncorrectFormat(base.StorageError):
    code = 202
    template = "{object}: format is not acceptable: {reason}"


class VolumeIsBusy(base.StorageError):
    code = 203
    template = "volume {volume} is in use: {reason}"


class VolumeImageHasChildren(base.StorageError):
    code = 204
    template = "volume {volume} still has children {children}; delete those first or use force"


class VolumeCreationError(base.StorageError):
    code = 205
    template = "volume could not be created: {reason}"


class VolumeExtendingError(base.StorageError):
    code = 206
    template = "volume {volume} could not be made larger: {reason}"


class VolumeMetadataReadError(base.StorageError):
    code = 207
    template = "metadata of volume {volume} cannot be read: {reason}"


class VolumeMetadataWriteError(base.StorageError):
    code = 208
    template = "metadata of volume {volume} cannot be written: {reason}"


class VolumeAccessError(base.StorageError):
    code = 209
    template = "volume {volume} cannot be accessed: {reason}"


class VolumeAlreadyExists(base.StorageError):
    code = 212
    template = "volume {volume} already exists in image {image}"


class VolumeNonWritable(base.StorageError):
    code = 213
    template = "volume {volume} must not be changed: {reason}"


class VolumeNonShareable(base.StorageError):
    code = 214
    template = "volume {volume} cannot be shared: {reason}"


class CannotCloneVolume(base.StorageError):
    code = 217
    template = "volume {volume} cannot be made on top of {parent}: {reason}"


class SharedVolumeNonWritable(base.StorageError):
    code = 219
    template = "volume {volume} is a template, and other images stand on it: it must not be written to"


class InternalVolumeNonWritable(base.StorageError):
    code = 220
    template = "volume {volume} is not a leaf, and must not be written to: {reason}"


class CannotDeleteVolume(base.StorageError):
    code = 222
    template = "volume cannot be deleted: {reason}"


class CannotDeleteSharedVolume(base.StorageError):
    code = 223
    template = "volume {volume} is a template that images {users} still use"


class CreateIllegalVolumeSnapshotError(base.StorageError):
    code = 226
    template = "parent volume {volume} is ILLEGAL; ask reconcileVolumeChain what the chain is first"


class PrepareIllegalVolumeError(base.StorageError):
    code = 227
    template = "volume {volume} of image {image} is ILLEGAL and must not be used; reconcileVolumeChain repairs it"


class CreateVolumeSizeError(base.StorageError):
    code = 229
    template = "volume {volume}: size {size} is not acceptable: {reason}"


class IncorrectType(base.StorageError):
    code = 231
    template = "volume allocation {type} is neither 1 (preallocated) nor 2 (sparse)"


class VolumeResizeValueError(base.StorageError):
    code = 232
    template = "volume {volume} cannot get a size of {size} bytes: {reason}"


# ---------------------------------------------------------------- images


class TemplateCreationError(base.StorageError):
    code = 251
    template = "volume could not be copied: {reason}"


class MergeSnapshotsError(base.StorageError):
    code = 252
    template = "volumes could not be merged: {reason}"


class MoveImageError(base.StorageError):
    code = 253
    template = "image could not be moved: {reason}"


class ImagePathError(base.StorageError):
    code = 254
    template = "directory of image {image} cannot be accessed: {reason}"


class ImageValidationError(base.StorageError):
    code = 255
    template = "{object} is not what its metadata says: {reason}"


class ImageDeleteError(base.StorageError):
    code = 256
    template = "image {image} could not be deleted: {reason}"


class DestImageActionError(base.StorageError):
    code = 260
    template = "image {image} in domain {domain} does not fit what is to be copied: {reason}"


class CopyImageError(base.StorageError):
    code = 261
    template = "image {image} could not be copied: {reason}"


class ImageIsNotLegalChain(base.StorageError):
    code = 262
    template = "chain of image {image} cannot be settled: {reason}"


class MultipleMoveImageError(base.StorageError):
    code = 264
    template = "images could not be moved: {reason}"


class OverwriteImageError(base.StorageError):
    code = 265
    template = "image {image} exists in domain {domain} already: {reason}"


class MoveTemplateImageError(base.StorageError):
    code = 266
    template = "image {image} is a template that images {users} still use"


class MergeVolumeRollbackError(base.StorageError):
    code = 267
    template = "merge into volume {volume} could not be undone: {reason}"


class ImageDoesNotExistInSD(base.StorageError):
    code = 268
    template = "image {image} does not exist in domain {domain}"


# ---------------------------------------------------------------- domain and volume metadata


class MetaDataKeyNotFoundError(base.StorageError):
    code = 751
    template = "{object}: key {key} is missing"


class MetaDataSealIsBroken(base.StorageError):
    code = 752
    template = "{object}: checksum {found} does not match the content ({computed})"


class MetaDataValidationError(base.StorageError):
    code = 753
    template = "{object}: {reason}"


class MetadataOverflowError(base.StorageError):
    code = 756
    template = "{object}: {size} bytes of metadata do not fit into {limit}; shorten the description"
