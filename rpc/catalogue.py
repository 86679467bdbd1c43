"""The API as data: loads the schema, one JSON file a verb, into what server, client and tests ask for.

A verb's file is an OpenRPC method object; what OpenRPC has no word for is in its ``x-`` members. Everything else about
a verb (names on the Python side, argument order on the wire, the client's usage) is derived here, once.
Standard library only, and no validator is compiled here: the command-line client starts with this module.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent

# A capital starts a word after a small letter or digit, and ends a run of capitals (VMList -> VM List, but IDs stays).
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z](?![A-Z]|$))")

# Ids that every class is built from have short names inside; the wire has the protocol's own.
_SHORT_NAMES = {"storagepoolID": "pool_id", "storagedomainID": "domain_id"}

_TYPE_REFERENCE = "#/components/schemas/"
_ERROR_REFERENCE = "#/components/errors/"


class CatalogueError(Exception):
    """The schema on disk is not what this module reads; the message names the file and the member."""


@dataclasses.dataclass(frozen=True)
class Param:
    """A named parameter of a verb.

    Attributes:
        name: name on the JSON-RPC wire and in messages.
        argument: name of the Python argument.
        required: whether a call without it is refused.
        schema: its JSON Schema, usually a ``$ref`` into the types.
        coerce: "int" or "bool" where text is accepted for it on the wire, else None.
    """

    name: str
    argument: str
    required: bool
    schema: Mapping[str, Any]
    coerce: str | None


@dataclasses.dataclass(frozen=True)
class WireParam:
    """One position of the XML-RPC argument list.

    Attributes:
        name: name for messages and usage.
        schema: its JSON Schema.
        required: whether a call that ends before it is refused.
        param: the parameter that takes the value; None where the protocol has a position that means nothing to us.
    """

    name: str
    schema: Mapping[str, Any]
    required: bool
    param: Param | None

    @property
    def ignored(self) -> bool:
        return self.param is None


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb of the API, as its schema file says.

    Attributes:
        name: XML-RPC name.
        method: JSON-RPC name, "Class.method".
        summary, description: texts for people.
        params: parameters of the JSON-RPC binding, in its order.
        wire: positions of the XML-RPC binding, in its order.
        kind: "sync", or "task" when it answers with the id of a task.
        spm: only the host that is the storage pool's manager runs it.
        default_error: class name of the error that an unexpected failure becomes; None for the general one.
        member: member of the result that JSON-RPC returns; "*" for all of it, None for nothing (true).
        errors: class names of the errors it may answer with.
        group: "storage" or "host".
        command: its command in the client, None without one; `usage` are that command's usage lines.
        since: version of the protocol that brought it.
        document: the OpenRPC method object, as read.
    """

    name: str
    method: str
    summary: str
    description: str
    params: tuple[Param, ...]
    wire: tuple[WireParam, ...]
    kind: str
    spm: bool
    default_error: str | None
    member: str | None
    errors: tuple[str, ...]
    group: str
    command: str | None
    usage: tuple[str, ...]
    since: str
    document: Mapping[str, Any]

    @property
    def api_class(self) -> str:
        """Name of the API class, e.g. "Image"."""
        return self.method.partition(".")[0]

    @property
    def api_method(self) -> str:
        """Name of the Python method of that class, e.g. "reconcile_volume_chain"."""
        return snake(self.method.partition(".")[2])


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """All verbs and types.

    Attributes:
        verbs: XML-RPC name -> Verb, sorted by name.
        by_method: JSON-RPC name -> Verb.
        types: type name -> JSON Schema (OpenRPC's ``components.schemas``).
        document: the frame of the OpenRPC document (``openrpc``, ``info``).
    """

    verbs: dict[str, Verb]
    by_method: dict[str, Verb]
    types: dict[str, Any]
    document: dict[str, Any]

    def openrpc(self, errors: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
        """The OpenRPC document of the API: what JSON-RPC takes and answers, so results are the members it returns.

        Args:
            errors: error class name -> (status code, message or message template).

        Source of the format: https://spec.open-rpc.org, version 1.2.6.
        """
        components = {
            "schemas": self.types,
            "errors": {name: {"code": code, "message": message} for name, (code, message) in sorted(errors.items())},
        }
        methods = [{**verb.document, "result": self._json_result(verb)} for verb in self.verbs.values()]
        return {**self.document, "methods": methods, "components": components}

    def _json_result(self, verb: Verb) -> Mapping[str, Any]:
        """Content descriptor of what JSON-RPC answers; a verb's file describes the whole result, as XML-RPC has it."""
        whole: Mapping[str, Any] = verb.document["result"]
        if verb.member == "*":
            return whole
        if verb.member is None:
            return {"name": "done", "schema": {"const": True}}
        members = _resolve(whole["schema"], self.types).get("properties", {})
        return {"name": verb.member, "schema": members.get(verb.member, {})}


def load(directory: Path | None = None) -> Catalogue:
    """Read the schema.

    Args:
        directory: holds ``document.json``, ``types.json``, ``verbs/<XML-RPC name>.json``; the installed schema if None.

    Raises:
        CatalogueError: a file is no JSON, misses a member, or refers to a type or parameter that does not exist.
        OSError: a file cannot be read.
    """
    directory = directory or default_directory()
    types = _read(directory / "types.json")
    verbs: dict[str, Verb] = {}
    by_method: dict[str, Verb] = {}
    for path in sorted((directory / "verbs").iterdir()):
        if path.suffix != ".json":
            continue
        verb = _read_verb(path, types)
        if verb.method in by_method:
            raise CatalogueError(f"{path}: method {verb.method} is also that of {by_method[verb.method].name}")
        verbs[verb.name] = by_method[verb.method] = verb
    return Catalogue(verbs, by_method, types, _read(directory / "document.json"))


def default_directory() -> Path:
    """Where the schema is: inside the daemon's package when installed, at the top of a checkout otherwise."""
    installed = _ROOT / "vdsmlite" / "schema"
    return installed if installed.is_dir() else _ROOT / "schema"


def snake(name: str) -> str:
    """Python's spelling of a camelCase name: masterSdUUID -> master_sd_uuid."""
    return _WORD_START.sub("_", name).lower()


def argument_name(name: str) -> str:
    """Name of the Python argument for a parameter of the wire."""
    return _SHORT_NAMES.get(name) or snake(name)


def type_name(schema: Mapping[str, Any]) -> str | None:
    """Name of the type that a schema refers to, None when it is written out."""
    reference = schema.get("$ref", "")
    return reference.removeprefix(_TYPE_REFERENCE) if reference.startswith(_TYPE_REFERENCE) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise CatalogueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CatalogueError(f"{path}: not an object")
    return content


def _read_verb(path: Path, types: Mapping[str, Any]) -> Verb:
    content = _read(path)
    try:
        verb = _verb(content, types)
    except (KeyError, TypeError, AttributeError) as error:
        raise CatalogueError(f"{path}: member is missing or of the wrong type: {error}") from error
    except CatalogueError as error:
        raise CatalogueError(f"{path}: {error}") from error
    if verb.name != path.stem:
        raise CatalogueError(f"{path}: holds verb {verb.name}; the file must be called after it")
    return verb


def _verb(content: dict[str, Any], types: Mapping[str, Any]) -> Verb:
    params = tuple(_param(entry, types) for entry in content["params"])
    client = content.get("x-client", {})
    return Verb(
        name=content["x-xmlrpc"]["name"],
        method=content["name"],
        summary=content["summary"],
        description=content.get("description", ""),
        params=params,
        wire=_wire(content["x-xmlrpc"]["params"], {param.name: param for param in params}, types),
        kind=content["x-kind"],
        spm=content["x-spm"],
        default_error=content["x-default-error"],
        member=content["x-member"],
        errors=tuple(entry["$ref"].removeprefix(_ERROR_REFERENCE) for entry in content["errors"]),
        group=content["x-group"],
        command=client.get("command"),
        usage=tuple(client.get("usage", ())),
        since=content["x-since"],
        document=content,
    )


def _param(entry: dict[str, Any], types: Mapping[str, Any]) -> Param:
    schema = entry["schema"]
    resolved = _resolve(schema, types)
    return Param(
        name=entry["name"],
        argument=argument_name(entry["name"]),
        required=entry.get("required", False),
        schema=schema,
        coerce=resolved.get("x-coerce"),
    )


def _wire(entries: list[Any], params: Mapping[str, Param], types: Mapping[str, Any]) -> tuple[WireParam, ...]:
    wire = []
    for entry in entries:
        if isinstance(entry, str):
            if entry not in params:
                raise CatalogueError(f"x-xmlrpc names {entry}, which is no parameter")
            param = params[entry]
            wire.append(WireParam(entry, param.schema, param.required, param))
        else:
            _resolve(entry["schema"], types)
            wire.append(WireParam(entry["name"], entry["schema"], entry.get("required", False), None))
    missing = [param.name for param in params.values() if param.required and param.name not in {w.name for w in wire}]
    if missing:
        raise CatalogueError(f"x-xmlrpc has no position for {', '.join(missing)}")
    return tuple(wire)


def _resolve(schema: Mapping[str, Any], types: Mapping[str, Any]) -> Mapping[str, Any]:
    name = type_name(schema)
    if name is None:
        return schema
    if name not in types:
        raise CatalogueError(f"type {name} does not exist")
    found: Mapping[str, Any] = types[name]
    return found
