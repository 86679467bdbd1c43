"""A small schema and an API without storage, for tests of the rpc floor."""

import json
import threading
from pathlib import Path
from typing import Any

from rpc import bridge, catalogue

ID = "7c5aa5a4-2b1d-4e6b-9d0c-6a1f0e1b2c3d"

TYPES: dict[str, Any] = {
    "UUID": {"description": "An id.", "type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    "Int": {
        "anyOf": [
            {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
            {"type": "string", "pattern": "^-?[0-9]{1,9}$"},
        ],
        "x-coerce": "int",
    },
    "Bool": {"anyOf": [{"type": "boolean"}, {"enum": ["true", "false"]}], "x-coerce": "bool"},
    "Count": {"type": "integer"},
    "Ratio": {"type": "number"},
    "Options": {
        "type": "object",
        "properties": {"leaf": {"$ref": "#/components/schemas/UUID"}, "depth": {"type": "integer"}},
        "additionalProperties": False,
    },
    "Any": {},
    "Result": {"type": "object"},
}


def param(name: str, kind: str, *, required: bool = True) -> dict[str, Any]:
    """A parameter of an entry; `kind` is one of TYPES."""
    return {"name": name, "required": required, "schema": {"$ref": f"#/components/schemas/{kind}"}}


def entry(method: str, name: str, params: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A verb's file; its wire order is that of `params` unless `changes` say otherwise."""
    content: dict[str, Any] = {
        "name": method,
        "summary": f"Does what {name} says.",
        "paramStructure": "either",
        "params": params,
        "result": {"name": "result", "schema": {"$ref": "#/components/schemas/Result"}},
        "errors": [{"$ref": "#/components/errors/Known"}],
        "x-group": "storage",
        "x-since": "0.1",
        "x-kind": "sync",
        "x-spm": False,
        "x-default-error": "Known",
        "x-member": "echo",
        "x-xmlrpc": {"name": name, "params": [item["name"] for item in params]},
    }
    return content | changes


ENTRIES = [
    entry("Host.ping", "ping", [], **{"x-group": "host", "x-member": None, "x-default-error": None}),
    entry("Host.wait", "wait", []),
    entry("Host.fail", "fail", [param("how", "Any")]),
    entry("Host.give", "give", [param("what", "Any", required=False)]),
    entry(
        "Image.echoAll",
        "echoAll",
        [
            param("storagepoolID", "UUID"),
            param("imageID", "UUID"),
            param("count", "Int"),
            param("force", "Bool", required=False),
            param("options", "Options", required=False),
        ],
        **{
            "x-member": "*",
            "x-xmlrpc": {
                "name": "echoAll",
                "params": [
                    "imageID",
                    "storagepoolID",
                    {"name": "scsiKey", "schema": {"$ref": "#/components/schemas/Any"}, "ignored": True},
                    "count",
                    "force",
                    "options",
                ],
            },
            "x-client": {"command": "echoAll", "usage": ["<imgUUID> <spUUID> <key> <count>"]},
        },
    ),
    entry("Host.count", "count", [param("number", "Count")]),
    entry("Host.measure", "measure", [param("ratio", "Ratio")]),
]


def write_schema(directory: Path, entries: list[dict[str, Any]] | None = None) -> Path:
    """Put a schema into a directory, and return the directory."""
    (directory / "verbs").mkdir(parents=True)
    frame = {"openrpc": "1.2.6", "info": {"title": "fake", "version": "1"}}
    (directory / "document.json").write_text(json.dumps(frame))
    (directory / "types.json").write_text(json.dumps(TYPES))
    for content in ENTRIES if entries is None else entries:
        (directory / "verbs" / f"{content['x-xmlrpc']['name']}.json").write_text(json.dumps(content))
    return directory


class KnownError(Exception):
    """Stands for an error of the API: has a code."""

    code = 262


class FakeApi:
    """Attributes are the API's classes; `calls` counts verbs that ran, `started` and `go_on` hold ``wait`` up."""

    def __init__(self) -> None:
        self.calls = 0
        self.started = threading.Event()
        self.go_on = threading.Event()

    def Host(self) -> "Host":
        return Host(self)

    def Image(self, image_id: str, pool_id: str) -> "Image":
        return Image(self, image_id, pool_id)


class Host:
    def __init__(self, api: FakeApi) -> None:
        self._api = api
        api.calls += 1

    def ping(self) -> None:
        return None

    def wait(self) -> dict[str, Any]:
        self._api.started.set()
        assert self._api.go_on.wait(30)
        return {"echo": "waited"}

    def fail(self, how: str) -> None:
        raise KnownError("the chain is broken") if how == "known" else ZeroDivisionError("secret detail")

    def give(self, what: Any = "nothing given") -> Any:
        values = {"none": None, "big": 2**40, "set": {1}, "nan": float("nan"), "chars": "a\x01\udcff<&>\r\n"}
        if what == "list":
            return ["no", "dict"]
        return {"echo": values.get(what, what) if isinstance(what, str) else what}

    def count(self, number: int) -> dict[str, Any]:
        return {"echo": number}

    def measure(self, ratio: float) -> dict[str, Any]:
        return {"echo": ratio}


class Image:
    def __init__(self, api: FakeApi, image_id: str, pool_id: str) -> None:
        api.calls += 1
        self._ids = {"image": image_id, "pool": pool_id}

    def echo_all(self, count: int, force: bool = False, options: dict[str, Any] | None = None) -> dict[str, Any]:
        return {**self._ids, "count": count, "force": force, "options": options or {}}


def translate(error: Exception, default: str | None) -> tuple[int, str]:
    """As the daemon's: known errors speak for themselves, others become the default."""
    if isinstance(error, KnownError):
        return error.code, str(error)
    return (200, f"default {default}") if default else (100, "unexpected")


def make_bridge(directory: Path, api: FakeApi, records: list[bridge.Record] | None = None) -> bridge.Bridge:
    """A bridge over the fake schema, written into `directory`."""
    audit = records.append if records is not None else None
    return bridge.Bridge(catalogue.load(write_schema(directory)), api, translate, audit)
