"""What every command gets: the schema, a way to call the server, and how the person wants to see things."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from client import style
from rpc import catalogue


@dataclasses.dataclass(frozen=True)
class Session:
    """One run of the client.

    Attributes:
        catalogue: the schema.
        call: calls a verb by its XML-RPC name with positional arguments, returns the reply (see transport.Server.call).
        invocation: how the client was called up to and including the server, for commands that it suggests.
        oneliner: whether to print without pretty-printing.
        terminal: how drawings look.
    """

    catalogue: catalogue.Catalogue
    call: Callable[[str, Sequence[Any]], dict[str, Any]]
    invocation: str
    oneliner: bool
    terminal: style.Style
