"""Errors about tasks."""

from storage.errors import base


class UnknownTask(base.StorageError):
    code = 401
    template = "task {task} is not known here"


class TaskClearError(base.StorageError):
    code = 402
    template = "task {task} cannot be cleared: {reason}"


class TaskNotFinished(base.StorageError):
    code = 403
    template = "task {task} is not finished yet ({state})"


class AddTaskError(base.StorageError):
    code = 405
    template = "task {task} cannot be queued: {reason}"


class TaskInProgress(base.StorageError):
    code = 406
    template = "pool {pool} still has task {task} in progress"


class TaskMetaDataSaveError(base.StorageError):
    code = 407
    template = "task {task} cannot be saved: {reason}"


class TaskMetaDataLoadError(base.StorageError):
    code = 408
    template = "task {task} cannot be loaded: {reason}"


class TaskStateError(base.StorageError):
    code = 410
    template = "task {task} is {state}; stop it or wait for its end before clearing it"


class TaskAborted(base.StorageError):
    code = 411
    template = "task {task} was stopped"


class InvalidRecovery(base.StorageError):
    code = 430
    template = "task {task}: recovery {recovery} is not known here, and nothing is run by the name in a file"


class TaskStateTransitionError(base.StorageError):
    code = 441
    template = "task {task} cannot go from {state} to {wanted}"
