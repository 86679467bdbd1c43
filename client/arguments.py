"""Words of a command line become values of the wire.

What a word must be comes from the schema of the parameter it stands for. Syntax only: whether an id exists, or a number
makes sense, is the server's to say.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from client import errors
from rpc import catalogue

GIB = 1 << 30

# XML-RPC's <int>.
_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1
_INTEGER = re.compile(r"[+-]?[0-9]+")


def check_count(words: Sequence[str], least: int, most: int) -> None:
    """Raise errors.BadArgument unless there are `least` to `most` words."""
    if not least <= len(words) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise errors.BadArgument(f"takes {wanted} argument{'' if wanted == '1' else 's'}, not {len(words)}")


def convert(word: str, param: catalogue.WireParam, types: Mapping[str, Any]) -> Any:
    """The wire's value for a word.

    Args:
        word: as typed.
        param: the parameter it stands for.
        types: the schema's types by name.

    Raises:
        errors.BadArgument: the word is not of the parameter's type.
    """
    return _converter(resolve(param.schema, types), types)(word)


def _converter(schema: Mapping[str, Any], types: Mapping[str, Any]) -> Callable[[str], Any]:
    if is_boolean(schema):
        return boolean_word
    if schema.get("x-coerce") == "int" or _is(schema, "integer"):
        return integer
    if _is(schema, "array"):
        items = resolve(schema.get("items", {}), types)
        return struct_list if _is(items, "object") else comma_list
    return struct if _is(schema, "object") else text


def _is(schema: Mapping[str, Any], kind: str) -> bool:
    kinds = schema.get("type", ())
    return kind == kinds or (kind in kinds and not isinstance(kinds, str))


def resolve(schema: Mapping[str, Any], types: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself, or the type that it refers to."""
    name = catalogue.type_name(schema)
    found: Mapping[str, Any] = types[name] if name is not None else schema
    return found


def is_boolean(schema: Mapping[str, Any]) -> bool:
    """Whether a resolved schema takes true and false."""
    return schema.get("x-coerce") == "bool" or _is(schema, "boolean")


def integer(word: str) -> int:
    """A decimal number that fits into XML-RPC's int of 32 bits."""
    if not _INTEGER.fullmatch(word):
        raise errors.BadArgument(f"{shown(word)} is not an integer")
    value = int(word) if len(word) < 20 else _INT_MAX + 1
    if not _INT_MIN <= value <= _INT_MAX:
        raise errors.BadArgument(f"{shown(word)} does not fit into an XML-RPC int (32 bits)")
    return value


def boolean_word(word: str) -> str:
    """True or false in any case, still as text: that is how the protocol's storage verbs take it."""
    if word.lower() not in ("true", "false"):
        raise errors.BadArgument(f"{shown(word)} is neither true nor false")
    return word


def gibibytes(word: str) -> str:
    """A size in GiB as the text of a number of bytes.

    Sent as text because the number of sectors, which the protocol also takes, does not fit into an int from 1024 GiB
    on.
    """
    if not re.fullmatch("[0-9]{1,9}", word):
        raise errors.BadArgument(f"{shown(word)} is not a whole number of GiB")
    return str(int(word) * GIB)


def comma_list(word: str) -> list[str]:
    """Items between commas; none may be empty."""
    items = [text(item) for item in word.split(",")]
    if "" in items:
        raise errors.BadArgument(f"{shown(word)} has an empty item")
    return items


def pairs(word: str) -> dict[str, str]:
    """key=value,key=value as a struct. A value may hold an equal sign, but no comma."""
    found: dict[str, str] = {}
    for item in word.split(","):
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise errors.BadArgument(f"{shown(item)} is not key=value")
        if key in found:
            raise errors.BadArgument(f"{shown(key)} is given twice")
        found[text(key)] = text(value)
    return found


def struct(word: str) -> dict[str, Any]:
    """A struct as key=value,key=value or, where a value is a struct itself, as a literal in braces."""
    if not word.startswith("{"):
        return pairs(word)
    import ast  # most commands have no use for it

    try:
        found = ast.literal_eval(word)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise errors.BadArgument(f"{shown(word)} is not a literal in braces") from None
    if not isinstance(found, dict):
        raise errors.BadArgument(f"{shown(word)} is not a struct")
    return {str(key): _carried(value) for key, value in found.items()}


def _carried(value: Any) -> Any:
    """A value of a literal, if the wire can carry it."""
    if isinstance(value, dict):
        return {text(str(key)): _carried(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_carried(member) for member in value]
    if isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return text(value)
    raise errors.BadArgument(f"{shown(str(value))} is neither a text nor a whole number, a list or a struct")


def machines(word: str) -> list[dict[str, str]]:
    """The one machine of updateVM, ``vm=id,ovf=text,imglist=a+b``, in any order.

    The text may hold commas and equal signs; it ends before ``,vm=`` or ``,imglist=``. Images are sent with commas.
    """
    parts = re.split(r"(?:^|,)(vm|ovf|imglist)=", word)
    if parts[0] or sorted(parts[1::2]) != ["imglist", "ovf", "vm"]:
        raise errors.BadArgument(f"{shown(word)} is not vm=id,ovf=text,imglist=id+id")
    found = {key: text(value) for key, value in zip(parts[1::2], parts[2::2], strict=True)}
    return [found | {"imglist": found["imglist"].replace("+", ",")}]


def struct_list(word: str) -> list[dict[str, str]]:
    """A list of the one struct that a command line has room for."""
    return [pairs(word)]


def text(word: str) -> str:
    """The word, if XML can carry it."""
    for char in word:
        if not _fits_xml(char):
            raise errors.BadArgument(f"{shown(word)} holds a character that XML cannot carry: {char!a}")
    return word


def shown(word: str) -> str:
    """A word as it appears in a message: quoted, without control characters, not longer than a line."""
    return repr(word if len(word) <= 60 else word[:57] + "...")


def _fits_xml(char: str) -> bool:
    """Whether XML 1.0 can carry it; what it cannot, it cannot escape either. Surrogates are bytes that are no text."""
    return char in "\t\n\r" or " " <= char <= "\ud7ff" or "\ue000" <= char <= "\ufffd" or char >= "\U00010000"
