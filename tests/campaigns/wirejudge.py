"""A second opinion on requests, by readers that are not the daemon's: the standard library's and jsonschema's.

They are more tolerant than the daemon. So whatever the daemon runs must be legal for them, and mean the same to them;
what the daemon refuses may be legal for them.
"""

import dataclasses
import http.server
import io
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.parsers import expat
from xmlrpc import client as stdlib

import jsonschema

from rpc import catalogue

_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as the standard library's server understands it.

    Attributes:
        method: of HTTP.
        path: of the target.
        body: as long as its one Content-Length says.
    """

    method: str
    path: str
    body: bytes


@dataclasses.dataclass(frozen=True)
class Call:
    """A legal call of a verb: XML-RPC name, and values by name, coerced as the schema allows."""

    verb: str
    values: Mapping[str, Any]

    @property
    def text(self) -> str:
        """One text for all equal calls; 1, 1.0 and true differ."""
        return f"{self.verb} {_ordered(self.values)!r}"


def _ordered(value: Any) -> Any:
    """A value with its dictionaries in order. Tolerant readers give keys of any type."""
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value, key=repr)}
    return [_ordered(each) for each in value] if isinstance(value, list) else value


class _Reader(http.server.BaseHTTPRequestHandler):
    """The standard library's reader of heads, without a socket."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.rfile = stream
        self.client_address = ("", 0)

    def read(self) -> bool:
        self.raw_requestline = self.rfile.readline(65537)
        if self.raw_requestline == b"\r\n":  # an empty line before a request is to be skipped
            self.raw_requestline = self.rfile.readline(65537)
        return bool(self.raw_requestline) and self.parse_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Called where it refuses; nobody is there to be told."""

    def handle_expect_100(self) -> bool:
        return True


def requests(data: bytes) -> list[Request]:
    """The requests of a connection, in order, until one that is none or that says not plainly where it ends."""
    stream = io.BytesIO(data)
    found = []
    reader = _Reader(stream)
    while reader.read():
        lengths = reader.headers.get_all("Content-Length") or []
        plain = (
            len(lengths) == 1
            and _DIGITS.fullmatch(lengths[0].strip(" \t"))
            and "Transfer-Encoding" not in reader.headers
        )
        if lengths and not plain:
            break
        length = int(lengths[0]) if plain else 0
        body = stream.read(length)
        if len(body) < length:
            break
        found.append(Request(reader.command, urllib.parse.urlsplit(reader.path).path or "/", body))
    return found


class Judge:
    """Says which calls are in a request.

    Args:
        schema: of the API.
    """

    def __init__(self, schema: catalogue.Catalogue) -> None:
        self._schema = schema
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}

    def calls(self, request: Request) -> list[Call]:
        """Legal calls of verbs, in their order; those that are not legal are left out."""
        if request.method != "POST":
            return []
        if request.path in ("/", "/RPC2"):
            return self._xml(request.body)
        return self._json(request.body) if request.path == "/jsonrpc" else []

    def _xml(self, body: bytes) -> list[Call]:
        try:
            values, name = stdlib.loads(body)
        except (ValueError, LookupError, TypeError, expat.ExpatError, stdlib.Error):
            return []
        if name != "system.multicall":
            return self._positional(name, values)
        calls: list[Call] = []
        for each in values[0] if len(values) == 1 and isinstance(values[0], list) else []:
            if isinstance(each, dict) and isinstance(each.get("params"), list):
                calls += self._positional(each.get("methodName"), each["params"])
        return calls

    def _json(self, body: bytes) -> list[Call]:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return []
        calls: list[Call] = []
        for each in content if isinstance(content, list) else [content]:
            if isinstance(each, dict) and each.get("jsonrpc") == "2.0":
                calls += self._named(each.get("method"), each.get("params", {}))
        return calls

    def _positional(self, name: object, values: Sequence[Any]) -> list[Call]:
        verb = self._schema.verbs.get(name) if isinstance(name, str) else None
        if verb is None:
            return []
        own = {each["name"]: each for each in verb.document["params"]}
        places = [own[each] if isinstance(each, str) else each for each in verb.document["x-xmlrpc"]["params"]]
        return self._bound(verb, places, values)

    def _named(self, method: object, params: Any) -> list[Call]:
        verb = self._schema.by_method.get(method) if isinstance(method, str) else None
        if verb is None:
            return []
        places = verb.document["params"]
        if isinstance(params, list):
            return self._bound(verb, places, params)
        if not isinstance(params, dict) or not set(params) <= {each["name"] for each in places}:
            return []
        return self._checked(verb, places, params)

    def _bound(self, verb: catalogue.Verb, places: Sequence[Any], values: Sequence[Any]) -> list[Call]:
        if len(values) > len(places):
            return []
        bound = {place["name"]: value for place, value in zip(places, values, strict=False)}
        return self._checked(verb, places, bound)

    def _checked(self, verb: catalogue.Verb, places: Sequence[Any], values: Mapping[str, Any]) -> list[Call]:
        known = {each["name"] for each in verb.document["params"]}
        kept: dict[str, Any] = {}
        for place in places:
            name, schema = place["name"], place["schema"]
            value = values.get(name)
            if name not in values or (value is None and not place.get("required", False)):
                if place.get("required", False):
                    return []
                continue
            if not self._validator(schema).is_valid(value):
                return []
            if name in known:
                kept[name] = self._coerced(schema, value)
        return [Call(verb.name, kept)]

    def _validator(self, schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
        key = json.dumps(schema)
        if key not in self._validators:
            whole = {**schema, "components": {"schemas": self._schema.types}}
            self._validators[key] = jsonschema.Draft202012Validator(whole)
        return self._validators[key]

    def _coerced(self, schema: Mapping[str, Any], value: Any) -> Any:
        if not isinstance(value, str):
            return value
        reference = schema.get("$ref", "").rpartition("/")[2]
        coerce = self._schema.types.get(reference, schema).get("x-coerce")
        ways: dict[str | None, Callable[[str], Any]] = {"int": int, "bool": lambda text: text.lower() == "true"}
        return ways.get(coerce, str)(value)
