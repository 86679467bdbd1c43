"""Errors about arguments, locks, and what does not fit elsewhere."""

from storage.errors import base


class ResourceTimeout(base.StorageError):
    code = 851
    template = "lock on {resource} was not granted within {seconds} s; {holder}"


class InvalidParameterException(base.StorageError):
    code = 1000
    template = "parameter {name}: {reason}"


class NotImplementedException(base.StorageError):
    code = 2000
    template = "{what} is not possible in this release"


class OperationInProgress(base.StorageError):
    code = 2005
    template = "{object}: {reason}"


class MiscDirCleanupFailure(base.StorageError):
    code = 2008
    template = "directory {path} could not be emptied: {reason}"


class UnicodeArgumentException(base.StorageError):
    code = 4900
    template = "{object} version {version} takes ASCII names only"
