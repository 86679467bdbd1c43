"""XML-RPC, from bytes and to bytes. Format: http://xmlrpc.com/spec.md

Reading is strict where the standard library's is tolerant: a document type, an element in the wrong place, a member
given twice, a number that is none, too deep or too many elements are refused while they are parsed, before memory is
spent on them. Of the types, those that no verb has a use for (base64, dateTime) are refused by name. ``nil`` is
understood, but never written: the clients of this API do not know it.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from xml.parsers import expat

import defusedxml.xmlrpc

INT_MAX = 2**31 - 1
INT_MIN = -(2**31)

_INT = re.compile(r"[+-]?[0-9]{1,19}")
_DOUBLE = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,3})?")
_LONG = 2**63

# Characters that need an escape, or that XML 1.0 cannot carry at all (lone surrogates among them).
_SPECIAL = re.compile("[&<>\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}

_INTS = frozenset({"int", "i4", "i8"})
_SCALARS = _INTS | {"string", "boolean", "double", "nil", "ex:nil"}
_CONTAINERS = frozenset({"struct", "array"})
_TYPES = _SCALARS | _CONTAINERS
_COUNTED = _CONTAINERS | {"param"}
# Elements whose children are given by position, and those with any number of one child.
_ORDER: dict[str, tuple[frozenset[str], ...]] = {
    "": (frozenset({"methodCall"}),),
    "methodCall": (frozenset({"methodName"}), frozenset({"params"})),
    "param": (frozenset({"value"}),),
    "value": (_TYPES,),
    "member": (frozenset({"name"}), frozenset({"value"})),
    "array": (frozenset({"data"}),),
}
_REPEATED = {"params": "param", "struct": "member", "data": "value"}
_FEWEST = {"methodCall": 1, "param": 1, "member": 2, "array": 1}


class DecodeError(ValueError):
    """The body is no call that this API could understand.

    Attributes:
        well_formed: it is XML, but not a call within the limits.
    """

    def __init__(self, message: str, *, well_formed: bool = True) -> None:
        super().__init__(message)
        self.well_formed = well_formed


class EncodeError(ValueError):
    """A value that XML-RPC has no type for."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a call may hold.

    Attributes:
        depth: structs and arrays inside each other.
        elements: XML elements.
        params: arguments.
    """

    depth: int = 32
    elements: int = 8_000
    params: int = 64


_DEFAULT_LIMITS = Limits()


def decode(body: bytes, limits: Limits = _DEFAULT_LIMITS) -> tuple[str, list[Any]]:
    """Method name and arguments of a call.

    Args:
        body: the XML document; UTF-8 unless its declaration says otherwise.
        limits: beyond them the call is refused.

    Raises:
        DecodeError: anything is wrong with it.
    """
    if body.count(b"=") > limits.elements:  # attributes mean nothing here, but the parser would collect all of them
        raise DecodeError("too many attributes")
    target = _Target(limits)
    parser = _Parser(target)
    try:
        parser.feed(body)
        parser.close()
    except DecodeError:
        raise
    except expat.ExpatError as error:
        raise DecodeError(f"not well-formed XML: {error}", well_formed=False) from error
    except (ValueError, LookupError) as error:  # defusedxml's refusals, and encodings that do not exist
        raise DecodeError(f"refused: {type(error).__name__}", well_formed=False) from error
    finally:
        with contextlib.suppress(expat.ExpatError, ValueError, LookupError):
            parser.close()  # parser and handlers refer to each other: without this each failure waits for the collector
    return target.call()


class _Parser(defusedxml.xmlrpc.DefusedExpatParser):
    """Refuses a document type at its first character. Text arrives in few pieces, however it was escaped."""

    def __init__(self, target: Any) -> None:
        super().__init__(target, forbid_dtd=True)
        self._parser.buffer_text = True  # type: ignore[attr-defined]  # the stubs know no private attributes


class _Target:
    """Builds the call from the parser's events; runs for each element of each call, hence lists and no objects."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = limits.elements
        self._depth = 0
        # Of the innermost open element: name, values of its children so far, text. Those around it are on the stack.
        self._tag = ""
        self._items: list[Any] = []
        self._text = ""
        self._around: list[tuple[str, list[Any], str]] = []

    def call(self) -> tuple[str, list[Any]]:
        method, *params = self._items[0]
        return method, params[0] if params else []

    def xml(self, encoding: str | None, standalone: int | None) -> None:
        """Called by the base class of the parser; a declaration means nothing here."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        parent, items = self._tag, self._items
        if parent in _REPEATED:
            allowed = _REPEATED[parent] == tag
        else:
            order = _ORDER.get(parent, ())
            allowed = len(items) < len(order) and tag in order[len(items)]
        if not allowed:
            raise DecodeError(f"element {tag!r:.40} has no place in {parent or 'the document'!r}")
        self._left -= 1
        if self._left < 0:
            raise DecodeError(f"more than {self._limits.elements} elements")
        if tag in _COUNTED:
            self._count(tag, len(items))
        self._around.append((parent, items, self._text))
        self._tag, self._items, self._text = tag, [], ""

    def _count(self, tag: str, place: int) -> None:
        if tag == "param":
            if place >= self._limits.params:
                raise DecodeError(f"more than {self._limits.params} arguments")
            return
        self._depth += 1
        if self._depth > self._limits.depth:
            raise DecodeError(f"more than {self._limits.depth} structs and arrays inside each other")

    def data(self, text: str) -> None:
        self._text += text

    def end(self, tag: str) -> None:
        leaf = _LEAVES.get(tag)
        if leaf is not None:
            value = leaf(self._text)
        elif tag == "value" and not self._items:
            value = self._text
        else:
            value = self._composed(tag)
        self._tag, self._items, self._text = self._around.pop()
        self._items.append(value)

    def _composed(self, tag: str) -> Any:
        items = self._items
        if self._text and not self._text.isspace():
            raise DecodeError(f"text has no place in {tag!r}")
        if len(items) < _FEWEST.get(tag, 0):
            raise DecodeError(f"element {tag!r} is incomplete")
        if tag in ("value", "param"):
            return items[0]
        if tag in _CONTAINERS:
            self._depth -= 1
            return items[0] if tag == "array" else _struct(items)
        return items


def _struct(members: list[list[Any]]) -> dict[str, Any]:
    struct = {name: value for name, value in members}
    if len(struct) != len(members):
        raise DecodeError("a struct has a member twice")
    return struct


def _int(text: str) -> int:
    if not _INT.fullmatch(text) or not -_LONG <= (value := int(text)) < _LONG:
        raise DecodeError("an int is not an integer of 64 bits")
    return value


def _double(text: str) -> float:
    if not _DOUBLE.fullmatch(text) or not math.isfinite(value := float(text)):
        raise DecodeError("a double is not a finite decimal number")
    return value


def _boolean(text: str) -> bool:
    if text not in ("0", "1"):
        raise DecodeError("a boolean is neither 0 nor 1")
    return text == "1"


def _nil(text: str) -> None:
    if text:
        raise DecodeError("a nil has content")


_LEAVES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(_INTS, _int),
    "string": str,
    "name": str,
    "methodName": str,
    "double": _double,
    "boolean": _boolean,
    "nil": _nil,
    "ex:nil": _nil,
}


def encode_response(value: Any) -> bytes:
    """Body of an answer.

    Raises:
        EncodeError: the value holds None, an integer beyond 32 bits, or something else that the format cannot carry.
    """
    out = ["<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n"]
    _dump(value, out.append, 0)
    out.append("</param>\n</params>\n</methodResponse>\n")
    return "".join(out).encode()


def encode_fault(code: int, text: str) -> bytes:
    """Body of an answer to a call that reached no verb."""
    out = ["<?xml version='1.0'?>\n<methodResponse>\n<fault>\n"]
    _dump({"faultCode": code, "faultString": text}, out.append, 0)
    out.append("</fault>\n</methodResponse>\n")
    return "".join(out).encode()


def _dump(value: Any, write: Callable[[str], None], depth: int) -> None:
    if isinstance(value, str):
        write(f"<value><string>{_escape(value)}</string></value>\n")
    elif isinstance(value, bool):
        write(f"<value><boolean>{value:d}</boolean></value>\n")
    elif isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise EncodeError("an int beyond 32 bits; send a text")
        write(f"<value><int>{value:d}</int></value>\n")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise EncodeError("a double that is not finite")
        write(f"<value><double>{value!r}</double></value>\n")
    elif isinstance(value, dict | list | tuple):
        _dump_container(value, write, depth + 1)
    else:
        raise EncodeError(f"no type for {type(value).__name__}")


def _dump_container(value: Any, write: Callable[[str], None], depth: int) -> None:
    if depth > 100:
        raise EncodeError("a value that is too deep, or contains itself")
    if isinstance(value, dict):
        write("<value><struct>\n")
        for name, member in value.items():
            if not isinstance(name, str):
                raise EncodeError("a member name that is no text")
            write(f"<member>\n<name>{_escape(name)}</name>\n")
            _dump(member, write, depth)
            write("</member>\n")
        write("</struct></value>\n")
    else:
        write("<value><array><data>\n")
        for member in value:
            _dump(member, write, depth)
        write("</data></array></value>\n")


def _escape(text: str) -> str:
    return text if _SPECIAL.search(text) is None else _SPECIAL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0], "\ufffd")
