"""Calls that violate the schema, for every verb and every parameter: refused by name, and nothing is run."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rpc import bridge, catalogue
from tests.support import samples

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = catalogue.load(ROOT / "schema")
VERBS = list(CATALOGUE.verbs.values())
CONTEXT = bridge.Context(client="127.0.0.1:1")

ID = samples.ID
OTHER = samples.OTHER

NO_IDS: list[Any] = [
    "",
    "x",
    "/etc/passwd",
    "../" + ID,
    f"{ID[:33]}/..",
    ID + "\n",
    "\n" + ID,
    ID + " ",
    ID[:-1] + "\n",
    ID[:-1] + "\x00",
    ID[:-1],
    ID + "0",
    ID.replace("4", "\uff14"),
    ID.replace("1", "\u0661"),
    ID.replace("-", "\u2010"),
    "{" + ID + "}",
    "urn:uuid:" + ID,
    ID.replace("-", ""),
    ID[:8] + ID[9:18] + "--" + ID[18:],
    ID.replace("a", "g"),
    "*" * 36,
    "[a-f]" + ID[5:],
    7,
    4.5,
    True,
    [ID],
    {"id": ID},
    [],
]
NO_TEXTS: list[Any] = [
    7,
    4.5,
    True,
    ["text"],
    {"text": "text"},
    *(f"a{c}b" for c in "\n\r\t\x00\x1b\x7f\x85\u2028\u2029\ud800\ufffe"),
]
NO_INTS: list[Any] = [
    "",
    "x",
    "1.0",
    "1e3",
    "0x10",
    " 1",
    "1\n",
    "1_0",
    "\uff11",
    "--1",
    4.5,
    1.0,
    True,
    [1],
    {},
    2**31,
    -(2**31) - 1,
    2**70,
    "2147483648",
    "9" * 5000,
]

# What each type of a parameter refuses.
WRONG: dict[str, list[Any]] = {
    "UUID": NO_IDS,
    "UUIDList": [*([ID, wrong] for wrong in NO_IDS), ID, {ID: ID}, [], [ID, ID], True],
    "IdList": [*([wrong] for wrong in NO_IDS), ID, {ID: ID}, True],
    "UUIDOrEmpty": [wrong for wrong in NO_IDS if wrong != ""],
    "VmUpdateList": [
        *([{"vm": wrong, "ovf": "", "imglist": ""}] for wrong in NO_IDS),
        *([{"vm": ID, "ovf": f"a{c}b", "imglist": ""}] for c in "\x00\x0b\x1b\ud800\ufffe"),
        *([{"vm": ID, "ovf": wrong, "imglist": ""}] for wrong in (7, True, None, ["text"], {})),
        *([{"vm": ID, "ovf": "", "imglist": wrong}] for wrong in (7, True, None, [ID], {})),
        [{"vm": ID, "ovf": ""}],
        [{"ovf": "", "imglist": ""}],
        {"vm": ID, "ovf": "", "imglist": ""},
        [ID],
        [[]],
        ID,
        7,
        True,
    ],
    "Line": [*NO_TEXTS, "a" * 5000],
    "ConnectionRefMap": [
        *({wrong: {"type": "localfs"}} for wrong in ("", "a\nb", "a\x00b", "a" * 256)),
        *({"x": wrong} for wrong in ("localfs", 7, True, None, ["localfs"])),
        ID,
        ["x"],
        7,
        True,
    ],
    "ConnectionRefIdList": [*([wrong] for wrong in ("", "a\nb", "a" * 256, 7, True, None, [ID])), ID, {ID: ID}, 7],
    "FenceOptions": [*(wrong for wrong in NO_TEXTS if wrong != "a\nb"), "a" * 5000],
    "FencePolicy": [
        *({"storageDomainHostIdMap": {wrong: 1}} for wrong in NO_IDS if isinstance(wrong, str)),
        *({"storageDomainHostIdMap": {ID: wrong}} for wrong in NO_INTS),
        *({"storageDomainHostIdMap": wrong} for wrong in (ID, [ID], 7, True)),
        ID,
        [ID],
        7,
        True,
    ],
    "VmDrive": [
        *({"domainID": wrong, "imageID": ID, "volumeID": ID} for wrong in NO_IDS),
        {"domainID": ID, "imageID": ID},
        {},
        ID,
        [ID],
        7,
        True,
    ],
    "VmDriveList": [[ID], [{"domainID": 7}], [{"domainID": "a\nb"}], ID, {"domainID": ID}, 7, True],
    "DeviceList": [*([wrong] for wrong in NO_TEXTS), ID, {ID: ID}, 7, True],
    "DeviceType": [4.5, True, ["2"], {}, "a\nb", "a" * 5000],
    "VolumeGroupID": [wrong for wrong in NO_IDS if wrong not in (ID + "0", ID.replace("a", "g"))],
    "ISCSIPortal": [
        *({"connection": wrong, "port": 1, "user": "", "password": ""} for wrong in NO_TEXTS),
        *({"connection": "a", "port": wrong, "user": "", "password": ""} for wrong in NO_INTS),
        {"connection": "a", "port": "3260"},
        {},
        "a:3260",
        ["a"],
        7,
        True,
    ],
    "Location": [*NO_TEXTS, "/" * 5000],
    "Int": NO_INTS,
    "IntOrEmpty": [wrong for wrong in NO_INTS if wrong != ""],
    "Bool": ["", "yes", "1", "0", "on", "true\n", " true", "truefalse", 0, 1, 1.0, ["true"], {}],
    "VolumeSize": [-1, "-1", "", "1G", "1.5", " 1", "1\n", "\uff11", 1.5, 1.0, True, [1], {}, 2**63, "9" * 20],
    "VolumeCapacity": ["", "-", "1G", "1.5", " 1", "1\n", "--1", "\uff11", 1.5, 1.0, True, [1], {}, "9" * 20],
    "ImageFlags": [
        *({wrong: True} for wrong in NO_IDS if isinstance(wrong, str)),
        *({ID: wrong} for wrong in ("", "yes", 1, None, [True], {})),
        {},
        ID,
        [ID],
        7,
        True,
    ],
    "DiskType": ["", "data", "DATA\n", "TOOLONG", "../X", "\uff12", -1, 2.0, True, [2], {}],
    "Legality": ["", "legal", "LEGAL\n", "UNKNOWN", 1, True, ["LEGAL"], {}],
    "ConnectionList": [
        ID,
        {"id": "x"},
        7,
        True,
        [ID],
        [[]],
        [{}],
        [{"connection": "/x"}],
        *([{"id": text}] for text in NO_TEXTS),
    ]
    + [[{"id": "x", "connection": wrong}] for wrong in NO_TEXTS]
    + [[{"id": "x", "port": wrong}] for wrong in (4.5, True, [], {}, "a\nb")]
    + [[{"id": "x", "unheard_of": "a\nb"}]],
    "DomainStatuses": [ID, 7, True, [ID], {ID: 7}, {ID: "a\nb"}, {"x": "active"}],
    "DomainStatusMap": [*({wrong: "active"} for wrong in NO_IDS if isinstance(wrong, str))]
    + [{ID: wrong} for wrong in ("", "Gone", "active\n", 1, True, None, ["active"], {})]
    + [ID, [ID], 7, True],
    "ReconcileOptions": [
        *({"leaf": wrong} for wrong in NO_IDS),
        {"leaf": None},
        {"other": ID},
        {"leaf": ID, "force": True},
        ID,
        [ID],
        7,
        True,
    ],
    "ImageSharingMethodArgs": [
        {"method": "http"},
        {"url": "http://a/"},
        *({"method": method, "url": "http://a/"} for method in ("ftp", "HTTP", "", 7, None, ["http"])),
        *({"method": "http", "url": url} for url in NO_TEXTS),
        *({"method": "http", "url": "http://a/", "headers": headers} for headers in ("X: y", ["X"], {"X": 7}, None, 7)),
        {"method": "http", "url": "http://a/", "headers": {"X": "y" * 20_000}},
        "http://a/",
        ["http", "http://a/"],
        7,
        True,
    ],
}

CONSTRUCTORS = {
    "Host": (),
    "StoragePool": ("pool_id",),
    "StorageDomain": ("domain_id",),
    "Image": ("image_id", "pool_id", "domain_id"),
    "Volume": ("volume_id", "pool_id", "domain_id", "image_id"),
    "Task": ("task_id",),
    "ConnectionRefs": (),
    "ISCSIConnection": (),
    "LVMVolumeGroup": (),
    "VM": ("vm_id",),
}


class Recorder:
    """Stands for the API: takes every call, does nothing, and remembers the arguments."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def factory(**ids: str) -> "Instance":
            return Instance(self, ids)

        parameter = inspect.Parameter
        parameters = [parameter(each, parameter.POSITIONAL_OR_KEYWORD) for each in CONSTRUCTORS[name]]
        factory.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return factory


@dataclasses.dataclass
class Instance:
    recorder: Recorder
    ids: Mapping[str, str]

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        def method(**arguments: Any) -> dict[str, Any]:
            self.recorder.calls.append({**self.ids, **arguments})
            return {}

        return method


RECORDER = Recorder()
# One bridge for all: compiling a verb's check takes longer than a call.
BRIDGE = bridge.Bridge(CATALOGUE, RECORDER, lambda error, default: (100, "no verb ran"))


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    RECORDER.calls.clear()
    yield
    RECORDER.calls.clear()


def assert_refused(reply: bridge.Reply, name: str) -> None:
    assert RECORDER.calls == []
    assert reply.refused
    assert reply.code in (bridge.UNEXPECTED, bridge.INVALID_PARAMETER)
    assert re.search(rf"\b{name}\b", reply.message), reply.message
    assert len(reply.message) < 400
    assert reply.message.isprintable()


every_verb = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
every_parameter = pytest.mark.parametrize(
    ("verb", "param"),
    [(verb, param) for verb in VERBS for param in verb.params],
    ids=lambda value: value.name,
)


# ---------------------------------------------------------------- what is right passes


@every_verb
def test_a_right_call_by_name_runs(verb: catalogue.Verb) -> None:
    reply = BRIDGE.call_named(verb.method, samples.named(verb), CONTEXT)
    assert (reply.code, reply.refused) == (0, False), reply.message
    assert RECORDER.calls == [
        {param.argument: samples.RIGHT[samples.type_of(param.schema)][1] for param in verb.params}
    ]


@every_verb
def test_a_right_call_by_position_runs(verb: catalogue.Verb) -> None:
    reply = BRIDGE.call_positional(verb.name, samples.positional(verb), CONTEXT)
    assert (reply.code, reply.refused) == (0, False), reply.message
    expected = {p.param.argument: samples.RIGHT[samples.type_of(p.schema)][1] for p in verb.wire if p.param is not None}
    assert RECORDER.calls == [expected]


@every_verb
def test_optional_parameters_may_be_left_out_or_nothing(verb: catalogue.Verb) -> None:
    required = {param.name: samples.RIGHT[samples.type_of(param.schema)][0] for param in verb.params if param.required}
    nothing = {param.name: None for param in verb.params if not param.required}
    for params in (required, required | nothing):
        RECORDER.calls.clear()
        assert BRIDGE.call_named(verb.method, params, CONTEXT).code == 0
        assert set(RECORDER.calls[0]) == {param.argument for param in verb.params if param.required}
    shortest = [samples.RIGHT[samples.type_of(position.schema)][0] for position in verb.wire if position.required]
    assert BRIDGE.call_positional(verb.name, shortest, CONTEXT).code == 0


def test_every_type_of_a_parameter_is_tried() -> None:
    used = {samples.type_of(param.schema) for verb in VERBS for param in verb.params}
    assert used - {"Ignored"} == set(WRONG)
    assert used == set(samples.RIGHT)


# ---------------------------------------------------------------- what is wrong does not


@every_parameter
def test_missing(verb: catalogue.Verb, param: catalogue.Param) -> None:
    if not param.required:
        return
    params = samples.named(verb)
    del params[param.name]
    assert_refused(BRIDGE.call_named(verb.method, params, CONTEXT), param.name)
    place = [position.name for position in verb.wire].index(param.name)
    assert_refused(BRIDGE.call_positional(verb.name, samples.positional(verb)[:place], CONTEXT), param.name)


@every_parameter
def test_nothing_in_place_of_a_required_value(verb: catalogue.Verb, param: catalogue.Param) -> None:
    if param.required and samples.type_of(param.schema) != "Ignored":
        assert_refused(BRIDGE.call_named(verb.method, samples.named(verb) | {param.name: None}, CONTEXT), param.name)


@every_parameter
def test_wrong_value(verb: catalogue.Verb, param: catalogue.Param) -> None:
    places = [position.name for position in verb.wire]
    for wrong in WRONG.get(samples.type_of(param.schema), ()):
        reply = BRIDGE.call_named(verb.method, samples.named(verb) | {param.name: wrong}, CONTEXT)
        assert_refused(reply, param.name)
        assert reply.code == bridge.INVALID_PARAMETER
        if param.name in places:
            values = samples.positional(verb)
            values[places.index(param.name)] = wrong
            assert_refused(BRIDGE.call_positional(verb.name, values, CONTEXT), param.name)


@every_verb
def test_too_many_and_unknown(verb: catalogue.Verb) -> None:
    for extra in (None, "x"):
        reply = BRIDGE.call_positional(verb.name, [*samples.positional(verb), extra], CONTEXT)
        assert_refused(reply, verb.name)
    assert_refused(BRIDGE.call_named(verb.method, [*samples.named(verb).values(), "x"], CONTEXT), verb.method)
    assert_refused(BRIDGE.call_named(verb.method, samples.named(verb) | {"unheardOf": 1}, CONTEXT), "unheardOf")
