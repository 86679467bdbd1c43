"""One host of a data centre, and the commands that fail there."""

import dataclasses
from typing import Any

from tests.support.engine import link, reactions, reading


class CommandFailed(Exception):
    """One command has failed.

    Attributes:
        verb: what was called.
        code: the last status code.
        reaction: what that made the engine do.
    """

    def __init__(self, verb: str, status: reading.Status, reaction: reactions.Reaction) -> None:
        super().__init__(f"{verb}: {status.code} {status.message}: {reaction.value}")
        self.verb = verb
        self.code = status.code
        self.reaction = reaction


@dataclasses.dataclass
class Host:
    """A host, as the database has it.

    Attributes:
        number: its id in the pool, from 1.
        up: whether the engine may use it.
    """

    number: int
    link: link.Link
    up: bool = True

    def call(self, verb: str, *values: Any) -> dict[str, Any]:
        """A verb of the host itself: a bad code fails the command, and moves nothing.

        Raises:
            CommandFailed: its code is not 0.
        """
        answer = self.link.call(verb, *values)
        status = reading.status(answer)
        if status.code:
            raise CommandFailed(verb, status, reactions.of(status.code))
        return answer

    def code(self, verb: str, *values: Any) -> int:
        """Code of a verb, whatever it is."""
        return reading.status(self.link.call(verb, *values)).code
