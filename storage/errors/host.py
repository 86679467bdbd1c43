"""Errors of the verbs about this host and its machines. Their codes are small numbers of a table of their own."""

from storage.errors import base


class NoSuchVM(base.StorageError):
    code = 1
    template = "machine {vm} does not exist on this host"


class UnexpectedError(base.StorageError):
    code = 16
    template = "unexpected failure: {reason}"


class FenceAgentError(base.StorageError):
    code = 43
    template = "fence agent {agent} is not installed on this host"


class FenceError(base.StorageError):
    """The fence agent has failed, or its exit status was 1."""

    code = 1
    template = "fence agent {agent}: {reason}"


class FenceRefusedError(base.StorageError):
    """The exit status of the fence agent was 2."""

    code = 2
    template = "fence agent {agent}: {reason}"


class HardwareInfoError(base.StorageError):
    code = 57
    template = "hardware of this host cannot be read: {reason}"
