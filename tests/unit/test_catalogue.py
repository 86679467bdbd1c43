"""The schema loader, on a small schema and on the real one."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rpc import catalogue
from tests.support import fake_api


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("storagepoolID", "pool_id"),
        ("storagedomainID", "domain_id"),
        ("imageID", "image_id"),
        ("volumeID", "volume_id"),
        ("taskID", "task_id"),
        ("leafVolID", "leaf_vol_id"),
        ("masterSdUUID", "master_sd_uuid"),
        ("srcImgUUID", "src_img_uuid"),
        ("domainDict", "domain_dict"),
        ("ioOpTimeoutSec", "io_op_timeout_sec"),
        ("getVMList", "get_vm_list"),
        ("vmIDs", "vm_ids"),
        ("size", "size"),
    ],
)
def test_python_names_follow_from_those_of_the_wire(name: str, argument: str) -> None:
    assert catalogue.argument_name(name) == argument


def test_a_verb_has_what_its_file_says(tmp_path: Path) -> None:
    loaded = catalogue.load(fake_api.write_schema(tmp_path / "schema"))
    verb = loaded.verbs["echoAll"]
    assert loaded.by_method["Image.echoAll"] is verb
    assert (verb.api_class, verb.api_method) == ("Image", "echo_all")
    assert [(p.name, p.argument, p.required, p.coerce) for p in verb.params] == [
        ("storagepoolID", "pool_id", True, None),
        ("imageID", "image_id", True, None),
        ("count", "count", True, "int"),
        ("force", "force", False, "bool"),
        ("options", "options", False, None),
    ]
    assert [(w.name, w.ignored, w.required) for w in verb.wire] == [
        ("imageID", False, True),
        ("storagepoolID", False, True),
        ("scsiKey", True, False),
        ("count", False, True),
        ("force", False, False),
        ("options", False, False),
    ]
    assert (verb.command, verb.usage) == ("echoAll", ("<imgUUID> <spUUID> <key> <count>",))
    assert (verb.member, verb.kind, verb.spm, verb.group) == ("*", "sync", False, "storage")
    assert (verb.default_error, verb.errors) == ("Known", ("Known",))
    assert loaded.verbs["ping"].command is None
    assert list(loaded.verbs) == sorted(loaded.verbs)


def test_openrpc_joins_methods_types_and_errors(tmp_path: Path) -> None:
    loaded = catalogue.load(fake_api.write_schema(tmp_path / "schema"))
    document = loaded.openrpc({"Known": (262, "broken")})
    assert document["openrpc"] == "1.2.6"
    assert {method["name"] for method in document["methods"]} == set(loaded.by_method)
    assert document["components"] == {
        "schemas": fake_api.TYPES,
        "errors": {"Known": {"code": 262, "message": "broken"}},
    }


def test_openrpc_has_the_results_of_json_rpc_not_those_of_the_file(tmp_path: Path) -> None:
    directory = fake_api.write_schema(tmp_path / "schema")
    types = {**fake_api.TYPES, "Result": {"type": "object", "properties": {"echo": {"type": "integer"}}}}
    (directory / "types.json").write_text(json.dumps(types))
    loaded = catalogue.load(directory)
    results = {method["name"]: method["result"] for method in loaded.openrpc({})["methods"]}
    assert results["Host.count"] == {"name": "echo", "schema": {"type": "integer"}}
    assert results["Host.ping"]["schema"] == {"const": True}
    whole = {"name": "result", "schema": {"$ref": "#/components/schemas/Result"}}
    assert results["Image.echoAll"] == whole == loaded.verbs["count"].document["result"]


def drop_summary(content: dict[str, Any]) -> None:
    del content["summary"]


def unknown_type(content: dict[str, Any]) -> None:
    content["params"][0]["schema"] = {"$ref": "#/components/schemas/Nonsense"}


def unknown_position(content: dict[str, Any]) -> None:
    content["x-xmlrpc"]["params"].append("nonsense")


def lost_position(content: dict[str, Any]) -> None:
    content["x-xmlrpc"]["params"] = ["imageID"]


def other_name(content: dict[str, Any]) -> None:
    content["x-xmlrpc"]["name"] = "other"


def params_of_wrong_type(content: dict[str, Any]) -> None:
    content["params"] = 7


def same_method(content: dict[str, Any]) -> None:
    content["name"] = "Host.ping"


@pytest.mark.parametrize(
    "damage",
    [drop_summary, unknown_type, unknown_position, lost_position, other_name, params_of_wrong_type, same_method],
)
def test_a_damaged_entry_is_refused_with_the_name_of_its_file(tmp_path: Path, damage: Any) -> None:
    directory = fake_api.write_schema(tmp_path / "schema")
    content = copy.deepcopy(next(e for e in fake_api.ENTRIES if e["name"] == "Image.echoAll"))
    damage(content)
    (directory / "verbs" / "echoAll.json").write_text(json.dumps(content))
    with pytest.raises(catalogue.CatalogueError, match="json"):
        catalogue.load(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    directory = fake_api.write_schema(tmp_path / "schema")
    (directory / "types.json").write_text(text)
    with pytest.raises(catalogue.CatalogueError, match=r"types\.json"):
        catalogue.load(directory)


def test_the_schema_of_this_checkout_loads() -> None:
    loaded = catalogue.load()
    verb = loaded.verbs["reconcileVolumeChain"]
    assert [position.param.argument for position in verb.wire if position.param] == [
        "pool_id",
        "domain_id",
        "image_id",
        "leaf_vol_id",
        "options",
    ]


def test_loading_needs_no_validator_and_no_server() -> None:
    """The client starts with this module, and has a tenth of a second for everything."""
    code = "import sys; from rpc import catalogue; catalogue.load(); print(*sys.modules)"
    root = Path(catalogue.__file__).resolve().parent.parent
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not {"fastjsonschema", "jsonschema", "xmlrpc", "http.server", "ssl"} & set(run.stdout.split())
