"""What the words of a command are, for those who complete or explain them; from usage lines and parameters alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from client import arguments
from client.commands import Command
from rpc import catalogue

# Words of commands that are more than their verb's positions.
_CHOICES: Mapping[tuple[str, int], tuple[str, ...]] = {
    ("list", 0): ("long", "table", "ids"),
}


@dataclasses.dataclass(frozen=True)
class Word:
    """One word of a command.

    Attributes:
        name: as the usage line has it, without brackets.
        optional: whether it may be left out.
        about: what it is, "" where the schema does not say.
        choices: what it can be, where that is a short list.
    """

    name: str
    optional: bool
    about: str = ""
    choices: tuple[str, ...] = ()


def of(command: Command, types: Mapping[str, Any]) -> list[Word]:
    """The words of a command in order.

    Args:
        types: the schema's types by name.
    """
    if command.verb is None:
        return [Word(*_bare(token)) for token in _tokens(command)]
    tokens = [token for token in _tokens(command) if not token.startswith("[-")]
    wire = command.verb.wire if command.positional else ()
    found = []
    for place, token in enumerate(tokens):
        name, optional = _bare(token)
        choices = _CHOICES.get((command.name, place), ())
        if place < len(wire):
            found.append(_word(command.verb, wire[place], name, optional, types))
        else:
            found.append(Word(name, optional, choices=choices))
    return found


def flags(command: Command) -> list[str]:
    """Options of the command itself, which stand among its words."""
    return [_bare(token)[0] for token in _tokens(command) if token.startswith("[-")]


def _tokens(command: Command) -> list[str]:
    """The usage line in pieces; a command whose words are none has its summary in that place."""
    has_words = command.verb is None or bool(command.verb.usage)
    return command.usage[0].split() if has_words else []


def _word(
    verb: catalogue.Verb, param: catalogue.WireParam, name: str, optional: bool, types: Mapping[str, Any]
) -> Word:
    schema = arguments.resolve(param.schema, types)
    choices = tuple(str(each) for each in schema.get("enum", ()))
    if arguments.is_boolean(schema):
        choices = ("true", "false")
    described = {entry["name"]: entry.get("description", "") for entry in verb.document["params"]}
    return Word(name, optional, described.get(param.name, ""), choices)


def _bare(token: str) -> tuple[str, bool]:
    """Name of a token of a usage line, and whether the word may be left out."""
    if token.startswith("<"):
        return token.strip("<>"), False
    return token.removeprefix("[").removesuffix("]"), True
