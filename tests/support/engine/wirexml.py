"""XML-RPC as the engine's client library writes and reads it, with its vendor extensions off.

A text is sent without a type element, an integer as ``i4``; Python's client does neither, so a server sees both. An
answer may hold the types of the specification and nothing else: no ``nil``, no ``i8``, no name with a prefix, integers
of 32 bits. Where the library is silent about an element out of place, this reader is not.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.sax import saxutils

INT_MIN, INT_MAX = -(2**31), 2**31 - 1

_INT = re.compile(r"-?[0-9]{1,10}")
_DOUBLE = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Unreadable(AssertionError):
    """The answer is not one that the client library reads."""


class Fault(Exception):
    """No verb was reached.

    Attributes:
        code: its number.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"fault {code}: {text}")
        self.code = code


def encode(name: str, values: Sequence[Any]) -> bytes:
    """Body of a call.

    Raises:
        TypeError: the engine has no such value: None, a double, an integer beyond 32 bits.
    """
    params = "".join(f"<param>{_value(value)}</param>" for value in values)
    text = f'<?xml version="1.0" encoding="UTF-8"?><methodCall><methodName>{name}</methodName>'
    return f"{text}<params>{params}</params></methodCall>".encode()


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f"<value>{saxutils.escape(value)}</value>"
    if isinstance(value, bool):
        return f"<value><boolean>{value:d}</boolean></value>"
    if isinstance(value, int) and INT_MIN <= value <= INT_MAX:
        return f"<value><i4>{value}</i4></value>"
    if isinstance(value, Mapping):
        members = "".join(
            f"<member><name>{saxutils.escape(name)}</name>{_value(member)}</member>" for name, member in value.items()
        )
        return f"<value><struct>{members}</struct></value>"
    if isinstance(value, list | tuple):
        return f"<value><array><data>{''.join(map(_value, value))}</data></array></value>"
    raise TypeError(f"an engine sends no {value!r}")


def decode(body: bytes) -> Any:
    """The value of an answer.

    Raises:
        Fault: it is a fault.
        Unreadable: it holds anything that the library does not know, or in another place.
    """
    if b"<!" in body:
        raise Unreadable("a document type or a comment")
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise Unreadable(f"not well-formed: {error}") from error
    child = _only(root, "methodResponse", ("params", "fault"))
    if child.tag == "params":
        return _read(_only(_only(child, "params", ("param",)), "param", ("value",)))
    fault = _read(_only(child, "fault", ("value",)))
    if set(fault) != {"faultCode", "faultString"} or type(fault["faultCode"]) is not int:
        raise Unreadable(f"no fault: {fault}")
    raise Fault(fault["faultCode"], fault["faultString"])


def _only(element: ElementTree.Element, tag: str, children: Sequence[str]) -> ElementTree.Element:
    """The one child of an element that is called `tag` and has nothing else in it."""
    _expect(element, tag)
    if len(element) != 1 or element[0].tag not in children:
        raise Unreadable(f"{tag} holds {[child.tag for child in element]}")
    return element[0]


def _expect(element: ElementTree.Element, tag: str) -> None:
    if element.tag != tag or element.attrib:
        raise Unreadable(f"{element.tag} {element.attrib} in place of {tag}")
    texts = [element.text, *(child.tail for child in element)]
    if len(element) and any(text and not text.isspace() for text in texts):
        raise Unreadable(f"text between the elements of {tag}")


def _read(element: ElementTree.Element) -> Any:
    _expect(element, "value")
    if not len(element):
        return element.text or ""
    if len(element) != 1:
        raise Unreadable("a value with two types")
    inner = element[0]
    if inner.tag == "struct":
        return _struct(inner)
    if inner.tag == "array":
        data = _only(inner, "array", ("data",))
        _expect(data, "data")
        return [_read(each) for each in data]
    return _scalar(inner)


def _struct(element: ElementTree.Element) -> dict[str, Any]:
    _expect(element, "struct")
    members: dict[str, Any] = {}
    for member in element:
        _expect(member, "member")
        if [child.tag for child in member] != ["name", "value"] or len(member[0]):
            raise Unreadable(f"a member of {[child.tag for child in member]}")
        name = member[0].text or ""
        if name in members:
            raise Unreadable(f"member {name} twice")
        members[name] = _read(member[1])
    return members


def _scalar(element: ElementTree.Element) -> Any:
    text = element.text or ""
    if len(element) or element.attrib:
        raise Unreadable(f"{element.tag} is not plain")
    if element.tag == "string":
        return text
    if element.tag in ("int", "i4") and _INT.fullmatch(text) and INT_MIN <= int(text) <= INT_MAX:
        return int(text)
    if element.tag == "boolean" and text in ("0", "1"):
        return text == "1"
    if element.tag == "double" and _DOUBLE.fullmatch(text):
        return float(text)
    raise Unreadable(f"<{element.tag}>{text:.60}")
