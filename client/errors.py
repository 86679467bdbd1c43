"""What can go wrong on this side of the wire. The text of each is one line for the person who typed the command."""


class ClientError(Exception):
    """Base of all errors of the client; exit code 255."""


class UsageError(ClientError):
    """The command line has no command that could be run."""


class BadAddress(ClientError):
    """The server's address cannot be understood."""


class BadArgument(ClientError):
    """The words of a command cannot be used."""


class CallFailed(ClientError):
    """No reply came, or none that can be understood."""


class Refused(CallFailed):
    """Nobody listens at the server's address."""


class BadReply(ClientError):
    """A reply reports success, but lacks what the verb promises."""
