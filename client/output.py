"""Replies become lines. Scripts of twenty years parse these, so their shape is the protocol client's own.

Nothing that a server sends reaches the terminal raw: a character that a terminal might obey (or that would make one
line two) is shown as its escape.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from client import errors

BLANK_ID = "00000000-0000-0000-0000-000000000000"

Reply = Mapping[str, Any]
Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command leaves behind: lines for stdout, lines for stderr, exit code.

    Attributes:
        usable: whether the server was asked and its replies could be used.
        document: what ``--json`` shows in place of the replies; None: the replies.
    """

    lines: Sequence[str]
    code: int = 0
    notes: Sequence[str] = ()
    usable: bool = True
    document: Any = None


def escape(value: object) -> str:
    """Text of a value with everything unprintable (control, format, surrogate ...) as a Python escape."""
    text = value if isinstance(value, str) else repr(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def or_none(value: str) -> str:
    """An id, or "none" for the empty and the blank one."""
    return "none" if value in ("", BLANK_ID) else value


def status(reply: Reply) -> tuple[int, str]:
    """Code and message of a reply. A status without a usable code counts as a failure."""
    found = reply.get("status")
    if not isinstance(found, Mapping) or not isinstance(found.get("code"), int):
        return 100, "the reply has no status"
    return found["code"], str(found.get("message", ""))


def failed(reply: Reply, group: str) -> Outcome | None:
    """The outcome if the reply reports a failure, else None.

    Args:
        group: "host" exits with the status code itself, "storage" with 1.
    """
    code, message = status(reply)
    if code == 0:
        return None
    if group != "host":
        return Outcome([escape(message)], 1)
    # An exit code has 8 bits; a failure whose code ends in eight zeros must not look like success.
    return Outcome([escape(message)], code % 256 or 255)


def member(reply: Reply, name: str, kind: type[Kind]) -> Kind:
    """A member of a successful reply.

    Raises:
        errors.BadReply: it is missing or of another type.
    """
    value = reply.get(name)
    if not isinstance(value, kind):
        raise errors.BadReply(f"the server's reply has no usable {name}")
    return value


def structs(reply: Reply, name: str) -> list[Mapping[str, Any]]:
    """A member that is a list of structs; whatever else is in the list is left out, and no list is an empty one."""
    value = reply.get(name)
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def message(reply: Reply) -> list[str]:
    return [escape(status(reply)[1])]


def raw(reply: Reply) -> list[str]:
    """The whole reply as one dict, then an empty line."""
    return [escape(dict(reply)), ""]


def listed(values: Iterable[Any]) -> list[str]:
    """One value a line, then an empty line."""
    return [*(escape(value) for value in values), ""]


def facts(*structs: Mapping[str, Any]) -> list[str]:
    """A tab and ``key = value`` for each member in the order sent, then an empty line."""
    return [*(_fact(key, escape(value)) for struct in structs for key, value in struct.items()), ""]


def entries(found: Mapping[str, Any]) -> list[str]:
    """Each name and its struct on a line, then an empty line."""
    return [*(f"{escape(name)} {escape(value)}" for name, value in found.items()), ""]


def sorted_facts(struct: Mapping[str, Any], oneliner: bool) -> list[str]:
    """As `facts`, but sorted by key, and values in Python's notation, perhaps over several lines, unless `oneliner`."""
    lines = []
    for key in sorted(struct):
        value = struct[key]
        if oneliner:
            lines.append(_fact(key, escape(value)))
            continue
        first, *rest = pretty(value)
        lines.append(_fact(key, first))
        lines.extend("\t" + " " * (len(escape(key)) + 3) + line for line in rest)
    return lines


def pretty(value: object) -> list[str]:
    """A value in Python's notation; structs and lists that are too long for a line are broken up."""
    if isinstance(value, str):
        return [repr(value)]
    # Only the host's verbs come here; the others need not wait for the import.
    import pprint

    return pprint.pformat(value).splitlines()


def tasks(infos: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Each task's id on a line and its members under it, then an empty line."""
    lines = []
    for task, info in infos.items():
        lines.append(f"{escape(task)} :")
        lines.extend(facts(info)[:-1])
    return [*lines, ""]


def size(value: object) -> str:
    """A number of bytes (int, or text as the wire has it) for people: "1.5 GiB"; "?" when it is none."""
    try:
        amount = float(str(value))
    except ValueError:
        return "?"
    if not 0 <= amount < float(1 << 80):
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if round(amount, 1) < 1024 or unit == "PiB":
            break
        amount /= 1024
    digits = f"{amount:.1f}".removesuffix(".0")
    return f"{digits} {unit}"


def _fact(key: str, value: str) -> str:
    return f"\t{escape(key)} = {value}"
