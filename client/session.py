"""What every command gets: the schema, a way to call the server, and what the person said about all commands."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rpc import catalogue


@dataclasses.dataclass(frozen=True)
class Session:
    """One run of the client.

    Attributes:
        catalogue: the schema.
        call: calls a verb by its XML-RPC name with positional arguments, returns the reply (see transport.Server.call).
        invocation: the words that called the client, up to and including the server, for commands that it suggests.
        oneliner: whether to print without pretty-printing.
        wait: whether a command that starts a task waits for its end.
        poll: as `call`, for questions that are answered at once and may be asked again: bounded in time, and not part
            of what ``--json`` shows.
    """

    catalogue: catalogue.Catalogue
    call: Callable[[str, Sequence[Any]], dict[str, Any]]
    invocation: tuple[str, ...]
    oneliner: bool
    wait: bool
    poll: Callable[[str, Sequence[Any]], dict[str, Any]]
