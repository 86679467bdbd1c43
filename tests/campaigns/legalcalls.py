"""Legal requests of every kind, made of the schema: what mutations start from."""

import json
import random
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from xmlrpc import client as stdlib

from rpc import catalogue

Schema = Mapping[str, Any]

# A text for each pattern that a schema may ask for: the first that fits is taken.
_TEXTS = ("a text", "1", "true", "OK1", "")
_FOREIGN = [str(uuid.UUID(int=number, version=4)) for number in range(7, 12)]
# System calls of XML-RPC, and of them those that take the name of a method.
_NAMED = ("system.methodHelp", "system.methodSignature")


class Maker:
    """Makes requests.

    Args:
        rng: every choice comes from it.
        verbs: what may be called; a call must do no harm even when it is legal.
        known: name of a parameter -> ids that exist; others, and sometimes these too, get ids that do not.
    """

    def __init__(
        self, rng: random.Random, verbs: Sequence[catalogue.Verb], types: Schema, known: Mapping[str, Sequence[str]]
    ) -> None:
        self._rng = rng
        self._verbs = verbs
        self._types = types
        self._known = known

    def any(self) -> bytes:
        """A request of any kind, head and body."""
        return self._rng.choice((self.xml, self.xml, self.json, self.json, self.put, self.get))()

    def xml(self) -> bytes:
        """An XML-RPC call; sometimes of introspection, or many in one."""
        kind = self._rng.random()
        if kind < 0.1:
            name = self._rng.choice(_NAMED)
            body = stdlib.dumps((self._rng.choice(self._verbs).name,), name)
        elif kind < 0.2:
            many = [{"methodName": name, "params": values} for name, values in (self._xml_call() for _ in range(3))]
            body = stdlib.dumps((many,), "system.multicall", allow_none=True)
        else:
            name, values = self._xml_call()
            body = stdlib.dumps(tuple(values), name, allow_none=True)
        return self.post(self._rng.choice(("/", "/RPC2")), "text/xml", body.encode())

    def json(self) -> bytes:
        """A JSON-RPC request, or a batch."""
        content: Any = self._json_call()
        if self._rng.random() < 0.3:
            content = [self._json_call() for _ in range(self._rng.randint(1, 4))]
        return self.post("/jsonrpc", "application/json", json.dumps(content).encode())

    def put(self) -> bytes:
        """An upload, as an engine sends it, to an image that does not exist."""
        body = self._rng.randbytes(self._rng.randint(0, 600))
        length = f"Content-Length: {len(body)}"
        return self._head("PUT / HTTP/1.1", "Content-Type: application/octet-stream", length, *self._where()) + body

    def get(self) -> bytes:
        """A download, as an engine asks for it, of an image that does not exist."""
        return self._head("GET / HTTP/1.1", f"Range: bytes=0-{self._rng.randint(0, 4095)}", *self._where())

    def post(self, path: str, kind: str, body: bytes) -> bytes:
        """A request with a body."""
        lines = [f"Content-Type: {kind}", f"Content-Length: {len(body)}", f"FlowID: {self._rng.randrange(10**6):x}"]
        self._rng.shuffle(lines)
        return self._head(f"POST {path} HTTP/1.1", *lines) + body

    def _head(self, *lines: str) -> bytes:
        return "\r\n".join([lines[0], "Host: localhost", *lines[1:], "", ""]).encode()

    def _where(self) -> list[str]:
        pool, domain = (self._id(name) for name in ("storagepoolID", "storagedomainID"))
        names = {"Storage-Pool-Id": pool, "Storage-Domain-Id": domain, "Image-Id": self._foreign()}
        names["Volume-Id"] = self._foreign()
        return ["connection: close", *(f"{name}: {value}" for name, value in names.items())]

    def _xml_call(self) -> tuple[str, list[Any]]:
        verb = self._rng.choice(self._verbs)
        fewest = max((place for place, each in enumerate(verb.wire, 1) if each.required), default=0)
        count = self._rng.randint(fewest, len(verb.wire))
        return verb.name, [self._value(each.name, each.schema) for each in verb.wire[:count]]

    def _json_call(self) -> dict[str, Any]:
        verb = self._rng.choice(self._verbs)
        call: dict[str, Any] = {"jsonrpc": "2.0", "method": verb.method, "id": self._rng.choice((1, "a", None, 2**40))}
        chosen = [each for each in verb.params if each.required or self._rng.random() < 0.5]
        named = {each.name: self._value(each.name, each.schema) for each in chosen}
        in_order = [each.name for each in verb.params][: len(named)] == list(named)
        call["params"] = list(named.values()) if in_order and self._rng.random() < 0.3 else named
        if self._rng.random() < 0.1:
            del call["id"]
        return call

    def _id(self, name: str) -> str:
        known = self._known.get(name, ())
        return self._rng.choice(known) if known and self._rng.random() < 0.7 else self._foreign()

    def _foreign(self) -> str:
        return self._rng.choice(_FOREIGN)

    def _value(self, name: str, schema: Schema) -> Any:
        kind = catalogue.type_name(schema)
        if kind in ("UUID", "UUIDOrEmpty"):
            return self._id(name)
        return sample(schema, self._types, self._rng)


def sample(schema: Schema, types: Schema, rng: random.Random) -> Any:
    """A value that fits a schema, of the parts of JSON Schema that this project's types are written in.

    Raises:
        LookupError: it has a part that is not known here.
    """
    reference = catalogue.type_name(schema)
    if reference is not None:
        return _FOREIGN[0] if reference == "UUID" else sample(types[reference], types, rng)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if schema.get("type") == "object":
        return _object(schema, types, rng)
    if "anyOf" in schema:
        return sample(rng.choice(schema["anyOf"]), types, rng)
    if schema.get("type") == "array":
        return [sample(schema.get("items", {}), types, rng) for _ in range(max(1, schema.get("minItems", 0)))]
    return _scalar(schema, rng)


def _scalar(schema: Schema, rng: random.Random) -> Any:
    kind = schema.get("type")
    if kind == "integer":
        return rng.randint(max(0, schema.get("minimum", 0)), min(5, schema.get("maximum", 5)))
    if kind == "string":
        return _text(schema)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind is None:
        return rng.choice(("key", 1, True))
    raise LookupError(f"no value for {schema}")


def _object(schema: Schema, types: Schema, rng: random.Random) -> dict[str, Any]:
    required = set(schema.get("required", ()))
    for choice in schema.get("anyOf", ()):
        required |= set(choice.get("required", ()))
    properties = schema.get("properties", {})
    made = {
        name: sample(inner, types, rng) for name, inner in properties.items() if name in required or rng.random() < 0.3
    }
    if not made and schema.get("minProperties"):
        made[sample(schema["propertyNames"], types, rng)] = sample(schema["additionalProperties"], types, rng)
    return made


def _text(schema: Schema) -> str:
    pattern = schema.get("pattern", "")
    for text in (*_TEXTS, _FOREIGN[0]):
        if re.search(pattern, text) and schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", 99):
            return text
    raise LookupError(f"no text for {pattern}")
