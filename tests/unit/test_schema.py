"""Walks every entry of the schema: each must be sound in itself and fit the API that carries it out."""

import inspect
import json
import re
import string
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import fastjsonschema
import jsonschema
import pytest
import referencing
import referencing.jsonschema

from rpc import catalogue
from storage import errors
from tests.support import entries
from vdsmlite import api, status

ROOT = entries.ROOT
CATALOGUE, VERBS, every_verb = entries.CATALOGUE, entries.VERBS, entries.every_verb

TYPE = "#/components/schemas/"
ERROR = "#/components/errors/"

# The verbs of the first release. A list of its own, so that a lost file does not go unnoticed.
NAMES = """
    connectStorageServer disconnectStorageServer validateStorageServerConnection createStorageDomain formatStorageDomain
    getStorageDomainInfo getStorageDomainStats getStorageDomainsList validateStorageDomain createStoragePool
    connectStoragePool disconnectStoragePool destroyStoragePool getStoragePoolInfo getConnectedStoragePoolsList spmStart
    spmStop getSpmStatus createVolume deleteVolume deleteImage prepareImage teardownImage getVolumeInfo getVolumePath
    getVolumeSize getVolumesList getImagesList setVolumeLegality setVolumeDescription clearTask getTaskInfo
    getTaskStatus revertTask stopTask getAllTasksInfo getAllTasksStatuses getAllTasks ping list getVdsCapabilities
    getVdsStats reconcileVolumeChain getVolumeChain proveVolumeChain undoReconcile
    repoStats startMonitoringDomain stopMonitoringDomain getFileStats getIsoList getFloppyList getImageDomainsList
    getVmsList getVmsInfo updateVM removeVM
    attachStorageDomain activateStorageDomain deactivateStorageDomain detachStorageDomain forcedDetachStorageDomain
    setStorageDomainDescription setStoragePoolDescription fenceSpmStorage refreshStoragePool upgradeStoragePool
    reconstructMaster
    uploadImage downloadImage
    storageServer_ConnectionRefs_acquire storageServer_ConnectionRefs_release storageServer_ConnectionRefs_statuses
    getVdsHardwareInfo setLogLevel prepareForShutdown fenceNode getAllVmStats getVmStats merge snapshot
    copyImage moveImage moveMultipleImages cloneImageStructure syncImageData mergeSnapshots
    extendVolumeSize volumeSetSize refreshVolume
    createVG getVGInfo removeVG getVGList getDeviceList getDevicesVisibility discoverSendTargets extendStorageDomain
""".split()  # noqa: SIM905


def test_the_verbs_are_those_of_the_release() -> None:
    assert sorted(CATALOGUE.verbs) == sorted(NAMES)
    assert len(NAMES) == len(set(NAMES))


# ---------------------------------------------------------------- the document


def openrpc_validator() -> jsonschema.Draft7Validator:
    """Validator of the meta-schema of OpenRPC, which refers to one of JSON Schema: draft 7 takes that place."""
    json_schema = referencing.jsonschema.DRAFT7.create_resource(
        {"allOf": [{"$ref": "http://json-schema.org/draft-07/schema#"}]}
        | {"definitions": {"JSONSchemaObject": {"properties": {"$ref": {"type": "string", "format": "uri-reference"}}}}}
    )
    draft7 = referencing.jsonschema.DRAFT7.create_resource(jsonschema.Draft7Validator.META_SCHEMA)
    registry = referencing.Registry().with_resources(  # type: ignore[var-annotated]
        [
            ("https://meta.json-schema.tools", json_schema),
            ("https://meta.json-schema.tools/", json_schema),
            ("http://json-schema.org/draft-07/schema", draft7),
        ]
    )
    meta = json.loads((ROOT / "tests/support/openrpc-meta.json").read_text())
    return jsonschema.Draft7Validator(meta, registry=registry)


def document() -> dict[str, Any]:
    return json.loads(json.dumps(CATALOGUE.openrpc(status.errors_table())))


def problems(found: Mapping[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message:.200}" for error in openrpc_validator().iter_errors(found)]


def test_the_document_is_openrpc() -> None:
    assert problems(document()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("info"),
        lambda found: found.update(openrpc="9.9"),
        lambda found: found["methods"][0].pop("name"),
        lambda found: found["methods"][0].update(surprise=1),
        lambda found: found["methods"][0]["params"][0].pop("schema"),
        lambda found: found["methods"][0]["params"][0].update(schema={"type": "wrong"}),
        lambda found: found["methods"][0]["errors"].append({"$ref": 1}),
        lambda found: found["components"]["schemas"].update(Broken={"type": 3}),
        lambda found: found["components"]["errors"].update(Broken={"code": "1", "message": "x"}),
    ],
)
def test_the_meta_schema_finds_damage(damage: Any) -> None:
    found = document()
    damage(found)
    assert problems(found)


def test_every_reference_of_the_document_leads_somewhere() -> None:
    found = document()
    references = set(strings_of_key(found, "$ref"))
    assert references
    for reference in references:
        target = found
        for step in reference.removeprefix("#/").split("/"):
            assert step in target, reference
            target = target[step]


def test_every_method_of_the_document_says_what_json_rpc_answers() -> None:
    for method in document()["methods"]:
        verb = CATALOGUE.by_method[method["name"]]
        if verb.member is None:
            assert method["result"]["schema"] == {"const": True}
        elif verb.member == "*":
            assert method["result"] == verb.document["result"]
        else:
            assert method["result"]["name"] == verb.member
            assert method["result"]["schema"], f"{verb.name}: nothing is said of {verb.member}"


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert CATALOGUE.document["info"]["version"] == project["version"]


def test_error_templates_of_the_document_are_those_of_the_classes() -> None:
    table = document()["components"]["errors"]
    assert table["VolumeIsBusy"] == {"code": 203, "message": errors.VolumeIsBusy.template}
    assert table["StorageException"]["code"] == 200
    assert "StorageError" not in table


# ---------------------------------------------------------------- types


@pytest.mark.parametrize("name", sorted(CATALOGUE.types))
def test_type_is_json_schema_and_used(name: str) -> None:
    schema = CATALOGUE.types[name]
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema.get("x-coerce") in (None, "int", "bool")
    used = set(strings_of_key([verb.document for verb in VERBS], "$ref")) | set(strings_of_key(CATALOGUE.types, "$ref"))
    assert TYPE + name in used
    fastjsonschema.compile({"$ref": TYPE + name, "components": {"schemas": CATALOGUE.types}})


@pytest.mark.parametrize("name", sorted(CATALOGUE.types))
def test_pattern_is_anchored(name: str) -> None:
    for pattern in strings_of_key(CATALOGUE.types[name], "pattern"):
        assert pattern.startswith("^") and pattern.endswith("$")
        # Alternatives at the top would escape the anchors.
        assert "|" not in pattern or (pattern.startswith("^(") and pattern.endswith(")$"))


def test_objects_in_answers_require_only_what_they_describe() -> None:
    for schema in every_schema(CATALOGUE.types):
        if "properties" in schema:
            assert set(schema.get("required", ())) <= set(schema["properties"])


# ---------------------------------------------------------------- every entry


@every_verb
def test_texts(verb: catalogue.Verb) -> None:
    texts = [verb.summary, verb.description, *(param.get("description", "x.") for param in verb.document["params"])]
    assert 10 < len(verb.summary) <= 100
    assert verb.summary.endswith(".") and verb.summary[0] in string.ascii_uppercase
    for text in texts:
        assert text == text.strip() and text.isascii()
        assert not re.search(r"vdsm's own|\bTODO\b|\bsession\b", text)


@every_verb
def test_frame(verb: catalogue.Verb) -> None:
    entry = verb.document
    assert entry["paramStructure"] == "either"
    assert verb.group in ("storage", "host")
    assert verb.kind in ("sync", "task")
    assert isinstance(verb.spm, bool)
    assert verb.since == ("0.1" if verb.name in ("getVolumeChain", "proveVolumeChain", "undoReconcile") else "3.5")
    assert set(entry) <= {
        *("name", "summary", "description", "paramStructure", "params", "result", "errors"),
        *(
            "x-group",
            "x-since",
            "x-kind",
            "x-spm",
            "x-default-error",
            "x-member",
            "x-xmlrpc",
            "x-client",
            "x-task-errors",
        ),
    }
    assert re.fullmatch(r"[A-Z][A-Za-z]+\.[a-z][A-Za-z]+", verb.method)


@every_verb
def test_parameters(verb: catalogue.Verb) -> None:
    names = [param.name for param in verb.params]
    assert len(names) == len(set(names))
    assert len({param.argument for param in verb.params}) == len(names)
    required = [param.required for param in verb.params]
    assert required == sorted(required, reverse=True), "OpenRPC wants the required parameters first"
    for param in verb.params:
        assert catalogue.type_name(param.schema) in CATALOGUE.types
        if catalogue.type_name(param.schema) not in ("UUID", "Legality", "UUIDList"):
            described = next(entry for entry in verb.document["params"] if entry["name"] == param.name)
            assert described.get("description"), f"{param.name}: say its unit or what it means"


@every_verb
def test_wire_order(verb: catalogue.Verb) -> None:
    names = [position.name for position in verb.wire]
    assert len(names) == len(set(names))
    required = [position.required for position in verb.wire]
    assert required == sorted(required, reverse=True), "a position may be left out only if all after it may be"
    for entry, position in zip(verb.document["x-xmlrpc"]["params"], verb.wire, strict=True):
        if isinstance(entry, str):
            assert not position.ignored
        else:
            assert entry["ignored"] is True and position.ignored
            assert entry["name"] not in {param.name for param in verb.params}


@every_verb
def test_errors(verb: catalogue.Verb) -> None:
    task_errors = [entry["$ref"].removeprefix(ERROR) for entry in verb.document.get("x-task-errors", ())]
    for names in (verb.errors, task_errors):
        assert len(names) == len(set(names))
        for name in names:
            assert issubclass(errors.by_name(name), errors.StorageError)
    assert (verb.default_error or "GeneralException") in verb.errors
    assert ("InvalidParameterException" in verb.errors) == bool(verb.params)
    assert bool(task_errors) == (verb.kind == "task")
    if verb.spm:
        assert "SpmStatusError" in verb.errors


@every_verb
def test_default_error_can_be_translated(verb: catalogue.Verb) -> None:
    code, message = status.translate(ZeroDivisionError("secret"), verb.default_error)
    assert code == (errors.by_name(verb.default_error).code if verb.default_error else 100)
    assert message and "secret" not in message


@every_verb
def test_result(verb: catalogue.Verb) -> None:
    name = catalogue.type_name(verb.document["result"]["schema"])
    assert name is not None
    result = CATALOGUE.types[name]
    assert result["type"] == "object"
    members = result.get("properties", {})
    if verb.member is None:
        assert not members
    elif verb.member == "*":
        assert len(members) > 1 or "propertyNames" in result
    else:
        assert verb.member in result["required"]
    if verb.kind == "task":
        assert (name, verb.member) == ("TaskReply", "uuid")


@every_verb
def test_answers_stay_open(verb: catalogue.Verb) -> None:
    for schema in every_schema(resolved(verb.document["result"]["schema"])):
        assert schema.get("additionalProperties") is not False


@every_verb
def test_api_method_fits(verb: catalogue.Verb) -> None:
    found = api.CLASSES[verb.api_class]
    constructor = list(inspect.signature(found).parameters)
    assert constructor[0] == "services"
    method = dict(inspect.signature(getattr(found, verb.api_method)).parameters)
    method.pop("self")
    arguments = {param.argument: param for param in verb.params}
    assert set(constructor[1:]) <= set(arguments)
    assert set(method) == set(arguments) - set(constructor)
    for name in constructor[1:]:
        assert arguments[name].required
    for name, parameter in method.items():
        has_default = parameter.default is not inspect.Parameter.empty
        assert has_default == (not arguments[name].required), name
        described = next(entry for entry in verb.document["params"] if entry["name"] == arguments[name].name)
        assert ("x-default" in described) == has_default
        if has_default:
            default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert described["x-default"] == default and type(described["x-default"]) is type(default)
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def test_every_public_api_method_has_an_entry() -> None:
    found = {
        f"{name}.{method}" for name, cls in api.CLASSES.items() for method in vars(cls) if not method.startswith("_")
    }
    assert found == {f"{verb.api_class}.{verb.api_method}" for verb in VERBS}


def test_api_object_offers_the_classes_bound() -> None:
    bound = api.API("services")  # type: ignore[arg-type]
    for verb in VERBS:
        parameters = inspect.signature(getattr(bound, verb.api_class)).parameters
        assert "services" not in parameters


# ---------------------------------------------------------------- looking through JSON


def strings_of_key(value: Any, key: str) -> Iterator[str]:
    """Every text under a key, however deep. (A property may be called like a keyword: those are no texts.)"""
    if isinstance(value, Mapping):
        for name, member in value.items():
            if name == key and isinstance(member, str):
                yield member
            yield from strings_of_key(member, key)
    elif isinstance(value, list):
        for item in value:
            yield from strings_of_key(item, key)


def every_schema(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema, itself included."""
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from every_schema(member)
    elif isinstance(value, list):
        for item in value:
            yield from every_schema(item)


def resolved(schema: dict[str, Any]) -> list[Any]:
    """A schema and all types that it leads to."""
    seen: dict[str, Any] = {}
    todo = list(strings_of_key(schema, "$ref"))
    while todo:
        name = todo.pop().removeprefix(TYPE)
        if name not in seen:
            seen[name] = CATALOGUE.types[name]
            todo += strings_of_key(seen[name], "$ref")
    return [schema, *seen.values()]
