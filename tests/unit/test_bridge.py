"""From arguments to a call, and from an outcome to a status."""

import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from rpc import arguments, bridge, catalogue
from tests.support import fake_api

ID = fake_api.ID
CONTEXT = bridge.Context("127.0.0.1:5", "flow", "xml-rpc")
NAMED = {"storagepoolID": ID, "imageID": ID, "count": 3}


@pytest.fixture
def api() -> fake_api.FakeApi:
    return fake_api.FakeApi()


@pytest.fixture
def records() -> list[bridge.Record]:
    return []


@pytest.fixture
def target(tmp_path: Path, api: fake_api.FakeApi, records: list[bridge.Record]) -> bridge.Bridge:
    return fake_api.make_bridge(tmp_path / "schema", api, records)


def test_positions_of_the_wire_find_their_parameters(target: bridge.Bridge) -> None:
    other = ID.replace("7", "8")
    reply = target.call_positional("echoAll", [ID, other, "key", "12", "TRUE", {"leaf": ID}], CONTEXT)
    assert (reply.code, reply.message) == (0, "OK")
    assert reply.result == {"image": ID, "pool": other, "count": 12, "force": True, "options": {"leaf": ID}}


def test_names_and_json_positions_find_their_parameters(target: bridge.Bridge) -> None:
    named = target.call_named("Image.echoAll", {**NAMED, "force": "false"}, CONTEXT)
    ordered = target.call_named("Image.echoAll", [ID, ID, 3, False], CONTEXT)
    assert named.code == ordered.code == 0
    assert named.result == ordered.result == {"image": ID, "pool": ID, "count": 3, "force": False, "options": {}}


def test_nothing_in_an_optional_place_is_an_omission(target: bridge.Bridge) -> None:
    reply = target.call_positional("echoAll", [ID, ID, None, 3, None, None], CONTEXT)
    assert reply.result["force"] is False
    assert target.call_named("Image.echoAll", {**NAMED, "force": None}, CONTEXT).code == 0


def test_nothing_in_a_required_place_is_refused(target: bridge.Bridge) -> None:
    reply = target.call_positional("echoAll", [ID, None, None, 3], CONTEXT)
    assert (reply.code, reply.refused) == (1000, True)
    assert "storagepoolID" in reply.message


def test_success_of_a_host_verb_says_done(target: bridge.Bridge) -> None:
    reply = target.call_positional("ping", [], CONTEXT)
    assert (reply.status, reply.result) == ({"code": 0, "message": "Done"}, {})


@pytest.mark.parametrize(
    ("values", "named"),
    [([], "imageID"), ([ID, ID, "key"], "count"), ([ID, ID, "key", 3, True, {}, 7], "6 arguments")],
)
def test_a_wrong_number_of_arguments_is_code_16(
    target: bridge.Bridge, api: fake_api.FakeApi, values: list[Any], named: str
) -> None:
    reply = target.call_positional("echoAll", values, CONTEXT)
    assert (reply.code, reply.refused, reply.result) == (16, True, {})
    assert named in reply.message
    assert api.calls == 0


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({}, "storagepoolID"),
        ({**NAMED, "speed": 1}, "speed"),
        ([ID, ID], "count"),
        ([ID, ID, 1, True, {}, 1], "5 parameters"),
    ],
)
def test_json_parameters_that_miss_or_are_unknown_are_refused(target: bridge.Bridge, params: Any, named: str) -> None:
    reply = target.call_named("Image.echoAll", params, CONTEXT)
    assert (reply.code, reply.refused) == (16, True)
    assert named in reply.message


WRONG: list[tuple[str, Any]] = [
    ("count", True),
    ("count", 1.0),
    ("count", 1.5),
    ("count", 2**31),
    ("count", 2**70),
    ("count", "12a"),
    ("count", " 12"),
    ("count", "\uff11\uff12"),
    ("count", "9" * 5000),
    ("count", []),
    ("force", 1),
    ("force", 0.0),
    ("force", "yes"),
    ("options", []),
    ("options", {"speed": 1}),
    ("options", {"leaf": "../x"}),
    ("options", {"depth": 1.0}),
    ("options", {"depth": True}),
    ("options", {"depth": 2**70}),
    *[
        ("imageID", value)
        for value in (
            "",
            "../" + ID,
            "/" + ID,
            ID + "\n",
            ID + "\0",
            ID[:-1],
            ID + "0",
            "{" + ID + "}",
            "urn:uuid:" + ID,
            ID.replace("7", "\uff17"),
            ID.replace("-", ""),
            "%2e" + ID[3:],
            "x" * 300,
            5,
            [ID],
            {"id": ID},
            True,
            1.0,
        )
    ],
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_refused_by_the_name_of_its_parameter(
    target: bridge.Bridge, api: fake_api.FakeApi, records: list[bridge.Record], name: str, value: Any
) -> None:
    reply = target.call_named("Image.echoAll", {**NAMED, name: value}, CONTEXT)
    assert (reply.code, reply.refused, reply.result) == (1000, True, {})
    assert f"parameter {name}" in reply.message
    assert len(reply.message) < 400
    assert api.calls == 0
    assert [(record.code, record.ids) for record in records] == [(1000, {})]


@pytest.mark.parametrize("value", [1.0, 2.5, True, 2**70])
def test_an_integer_without_bounds_takes_neither_fraction_nor_truth_nor_endless_digits(
    target: bridge.Bridge, value: Any
) -> None:
    assert target.call_positional("count", [value], CONTEXT).code == 1000
    assert target.call_positional("count", [2**60], CONTEXT).code == 0


def test_a_number_may_have_a_fraction_where_the_schema_speaks_of_numbers(target: bridge.Bridge) -> None:
    assert target.call_positional("measure", [0.5], CONTEXT).result == {"echo": 0.5}
    assert target.call_positional("give", [{"x": [0.5]}], CONTEXT).result == {"echo": {"x": [0.5]}}


def test_a_known_error_keeps_its_code_and_leaves_no_traceback(
    target: bridge.Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    reply = target.call_positional("fail", ["known"], CONTEXT)
    assert (reply.code, reply.message, reply.refused) == (262, "the chain is broken", False)
    assert not caplog.records


def test_an_unknown_error_becomes_the_default_and_its_traceback_stays_in_the_log(
    target: bridge.Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    reply = target.call_positional("fail", ["otherwise"], CONTEXT)
    assert (reply.code, reply.message) == (200, "default Known")
    assert "secret detail" in caplog.text
    assert "Traceback" in caplog.text


def test_a_translation_that_fails_still_gives_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def translate(error: Exception, default: str | None) -> tuple[int, str]:
        raise RuntimeError("secret")

    verbs = catalogue.load(fake_api.write_schema(tmp_path / "schema"))
    target = bridge.Bridge(verbs, fake_api.FakeApi(), translate)
    reply = target.call_positional("fail", ["known"], CONTEXT)
    assert reply.code == 100
    assert "secret" not in reply.message
    assert "secret" in caplog.text


def test_a_result_that_is_no_dict_is_a_logged_bug(target: bridge.Bridge, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert target.call_positional("give", ["list"], CONTEXT).code == 100
    assert "give" in caplog.text


def test_an_unknown_verb_is_not_a_status(target: bridge.Bridge, records: list[bridge.Record]) -> None:
    for name in ("nonsense", "__class__", "Image.echoAll", ""):
        with pytest.raises(bridge.UnknownVerb):
            target.call_positional(name, [], CONTEXT)
    with pytest.raises(bridge.UnknownVerb):
        target.call_named("echoAll", {}, CONTEXT)
    assert records == []


def test_each_call_leaves_one_audit_record(target: bridge.Bridge, records: list[bridge.Record]) -> None:
    target.call_positional("echoAll", [ID, ID, None, 3], CONTEXT)
    target.call_positional("fail", ["known"], CONTEXT)
    first, second = records
    assert (first.verb, first.code, first.client, first.flow_id, first.transport) == (
        "echoAll",
        0,
        "127.0.0.1:5",
        "flow",
        "xml-rpc",
    )
    assert first.ids == {"storagepoolID": ID, "imageID": ID}
    assert first.milliseconds >= 0
    assert (second.verb, second.code, second.ids) == ("fail", 262, {})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.just(ID),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(values=st.lists(json_values, max_size=8))
def test_whatever_is_sent_only_fitting_values_reach_the_api(values: list[Any]) -> None:
    verb = VERBS.verbs["echoAll"]
    try:
        checked = CHECK(arguments.from_wire(verb, values))
    except arguments.Refused:
        return
    assert checked["imageID"] == checked["storagepoolID"] == ID
    assert type(checked["count"]) is int
    assert type(checked.get("force", False)) is bool
    assert type(checked.get("options", {})) is dict


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    global VERBS, CHECK
    VERBS = catalogue.load(fake_api.write_schema(tmp_path_factory.mktemp("fake") / "schema"))
    CHECK = arguments.compile_check(VERBS.verbs["echoAll"], VERBS.types)


VERBS: catalogue.Catalogue
CHECK: arguments.Check


def test_the_checks_of_all_verbs_do_not_each_hold_all_types() -> None:
    """Some hundred of them stay in memory, and each first call waits for one to be made."""
    verbs = catalogue.load()
    some = list(verbs.verbs.values())[:10]
    arguments.compile_check(some[0], verbs.types)
    tracemalloc.start()
    try:
        checks = [arguments.compile_check(verb, verbs.types) for verb in some]
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 2 * len(json.dumps(verbs.types)) * len(checks)
