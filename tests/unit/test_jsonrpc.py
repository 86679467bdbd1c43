"""JSON-RPC 2.0: requests, batches, notifications, and JSON that is refused."""

import json
import tracemalloc
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from rpc import bridge, catalogue, http, jsonrpc
from tests.support import fake_api, hostilewire

ID = fake_api.ID
MIB = 1024 * 1024
NAMED = {"storagepoolID": ID, "imageID": ID, "count": 3}


class Peer:
    """Calls the binding as a client would."""

    def __init__(self, directory: Path) -> None:
        self.api = fake_api.FakeApi()
        self.records: list[bridge.Record] = []
        target = fake_api.make_bridge(directory, self.api, self.records)
        self.binding = jsonrpc.Binding(target, {"Known": (262, "broken")})

    def post(self, body: bytes | str) -> Any:
        """The answer as Python values; None where there is none."""
        encoded = body.encode() if isinstance(body, str) else body
        response = self.binding(http.Request(http.Head("POST", "/jsonrpc", {}, True), encoded, "127.0.0.1:5"))
        if response.status is HTTPStatus.NO_CONTENT:
            assert response.body == b""
            return None
        assert (response.status, response.content_type) == (HTTPStatus.OK, "application/json")
        return json.loads(response.body)

    def call(self, method: str, params: Any = None, **members: Any) -> Any:
        call = {"jsonrpc": "2.0", "id": 1, "method": method} | members
        return self.post(json.dumps(call if params is None else call | {"params": params}))


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path / "schema")


def test_a_call_returns_the_member_that_the_schema_names(peer: Peer) -> None:
    assert peer.call("Host.count", {"number": 4}) == {"jsonrpc": "2.0", "id": 1, "result": 4}
    assert peer.call("Host.ping") == {"jsonrpc": "2.0", "id": 1, "result": True}
    everything = {"image": ID, "pool": ID, "count": 3, "force": False, "options": {}}
    assert peer.call("Image.echoAll", NAMED)["result"] == everything
    assert peer.call("Image.echoAll", [ID, ID, 3])["result"] == everything


@pytest.mark.parametrize("request_id", ["a", "", 0, -5, 2**40, None])
def test_the_id_comes_back(peer: Peer, request_id: Any) -> None:
    assert peer.call("Host.ping", id=request_id) == {"jsonrpc": "2.0", "id": request_id, "result": True}


def test_an_error_has_the_code_of_its_status(peer: Peer) -> None:
    assert peer.call("Host.fail", ["known"]) == {
        "jsonrpc": "2.0",
        "id": 1,
        "error": {"code": 262, "message": "the chain is broken"},
    }
    assert peer.call("Host.fail", ["other"])["error"] == {"code": 200, "message": "default Known"}


@pytest.mark.parametrize(
    ("params", "named", "status"),
    [
        ({"storagepoolID": ID}, "imageID", 16),
        ({**NAMED, "speed": 1}, "speed", 16),
        ({**NAMED, "imageID": "../" + ID}, "imageID", 1000),
        ({**NAMED, "count": 1.0}, "count", 1000),
        ([ID, ID, True], "count", 1000),
        ([ID] * 6, "5 parameters", 16),
    ],
)
def test_params_that_do_not_fit_are_named(peer: Peer, params: Any, named: str, status: int) -> None:
    error = peer.call("Image.echoAll", params)["error"]
    assert error["code"] == -32602
    assert named in error["message"]
    assert error["data"]["status"]["code"] == status
    assert peer.api.calls == 0


@pytest.mark.parametrize("method", ["echoAll", "Image", "Image.__class__", "Host.nonsense", "rpc.nonsense", ""])
def test_an_unknown_method_is_not_found(peer: Peer, method: str) -> None:
    assert peer.call(method)["error"]["code"] == -32601


@pytest.mark.parametrize(
    "call",
    [
        5,
        "text",
        None,
        True,
        {},
        {"method": "Host.ping", "id": 1},
        {"jsonrpc": "1.0", "method": "Host.ping", "id": 1},
        {"jsonrpc": 2.0, "method": "Host.ping", "id": 1},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "method": 5, "id": 1},
        {"jsonrpc": "2.0", "method": "Host.ping", "params": "text", "id": 1},
        {"jsonrpc": "2.0", "method": "Host.ping", "params": None, "id": 1},
        {"jsonrpc": "2.0", "method": "Host.ping", "id": [1]},
        {"jsonrpc": "2.0", "method": "Host.ping", "id": True},
        {"jsonrpc": "2.0", "method": "Host.ping", "id": 1.5},
    ],
)
def test_what_is_no_request_is_invalid(peer: Peer, call: Any) -> None:
    answer = peer.post(json.dumps(call))
    assert answer["error"]["code"] == -32600
    assert answer["id"] in (None, 1)
    assert peer.api.calls == 0


def test_a_notification_runs_and_is_not_answered(peer: Peer) -> None:
    for method in ("Host.ping", "Host.fail", "Host.nonsense"):
        assert peer.post(json.dumps({"jsonrpc": "2.0", "method": method, "params": []})) is None
    assert [(record.verb, record.code) for record in peer.records] == [("ping", 0), ("fail", 16)]


def test_a_batch_answers_all_but_notifications(peer: Peer) -> None:
    calls = [
        {"jsonrpc": "2.0", "method": "Host.count", "params": [1], "id": "a"},
        {"jsonrpc": "2.0", "method": "Host.ping"},
        {"jsonrpc": "2.0", "method": "Host.nonsense", "id": "b"},
        7,
        {"jsonrpc": "2.0", "method": "Host.fail", "params": ["known"], "id": "c"},
    ]
    answers = peer.post(json.dumps(calls))
    assert [answer["id"] for answer in answers] == ["a", "b", None, "c"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, -32601, -32600, 262]
    assert peer.post(json.dumps(calls[1:2])) is None


def test_calls_of_a_batch_know_nothing_of_each_other(peer: Peer) -> None:
    """One id twice, an id of each type, named and positional parameters, and bad calls between good ones."""
    count = {"jsonrpc": "2.0", "method": "Host.count"}
    calls = [
        {**count, "params": {"number": 1}, "id": None},
        {**count, "params": [2], "id": 7},
        {**count, "params": {"number": "x"}},
        {**count, "params": {}, "id": 7},
        [{**count, "params": [4], "id": 8}],
        {**count, "params": {"number": 5}},
        {**count, "params": {"number": 6, "more": 6}, "id": "a"},
        {**count, "params": [7], "id": "7"},
    ]
    answers = peer.post(json.dumps(calls))
    assert [answer["id"] for answer in answers] == [None, 7, 7, None, "a", "7"]
    assert [answer.get("result") for answer in answers] == [1, 2, None, None, None, 7]
    errors = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert errors == [-32602, -32600, -32602]
    assert [record.code for record in peer.records] == [0, 0, 1000, 16, 0, 16, 0]


def test_a_batch_of_nonsense_has_an_answer_for_each(peer: Peer) -> None:
    answers = peer.post("[1, [], {}, null]")
    assert [(answer["id"], answer["error"]["code"]) for answer in answers] == [(None, -32600)] * 4


@pytest.mark.parametrize("params", [None, [], {}])
def test_a_method_without_parameters_takes_an_empty_set_of_them(peer: Peer, params: Any) -> None:
    assert peer.call("Host.ping", params)["result"] is True


def test_null_leaves_an_optional_parameter_out_and_is_no_value_of_another(peer: Peer) -> None:
    everything = {"image": ID, "pool": ID, "count": 3, "force": False, "options": {}}
    assert peer.call("Image.echoAll", [ID, ID, 3, None, None])["result"] == everything
    assert peer.call("Image.echoAll", NAMED | {"force": None})["result"] == everything
    assert peer.call("Image.echoAll", NAMED | {"imageID": None})["error"]["code"] == -32602
    assert peer.call("Image.echoAll", [ID, None, 3])["error"]["code"] == -32602


def test_members_that_the_protocol_does_not_know_are_ignored(peer: Peer) -> None:
    assert peer.call("Host.count", [1], extra={"a": [1]})["result"] == 1


@pytest.mark.parametrize("calls", [[], [{"jsonrpc": "2.0", "method": "Host.ping"}] * 65])
def test_a_batch_is_bounded(peer: Peer, calls: list[Any]) -> None:
    assert peer.post(json.dumps(calls))["error"]["code"] == -32600
    assert peer.api.calls == 0


@pytest.mark.parametrize("body", hostilewire.JSON_NOT_ACCEPTED.values(), ids=hostilewire.JSON_NOT_ACCEPTED)
def test_json_that_is_not_accepted_is_a_parse_error(peer: Peer, body: bytes) -> None:
    tracemalloc.start()
    try:
        answer = peer.post(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer["error"]["code"] == -32700
    assert answer["id"] is None
    assert len(answer["error"]["message"]) < 200
    assert peak < 2 * MIB + 2 * len(body)
    assert peer.api.calls == 0


def test_32_levels_are_not_too_deep() -> None:
    assert jsonrpc.decode(b"[" * 32 + b"]" * 32)


@pytest.mark.parametrize("what", ["set", "nan"])
def test_a_result_that_cannot_be_sent_is_a_logged_bug(peer: Peer, what: str, caplog: pytest.LogCaptureFixture) -> None:
    assert peer.call("Host.give", [what])["error"]["code"] == 100
    assert "give" in caplog.text


def test_a_result_without_its_member_is_a_logged_bug(
    peer: Peer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_api.Host, "count", lambda self, number: {"other": number})
    assert peer.call("Host.count", [1])["error"]["code"] == 100
    assert "count" in caplog.text


def test_json_carries_what_xml_cannot(peer: Peer) -> None:
    assert peer.call("Host.give", ["big"])["result"] == 2**40
    assert peer.call("Host.give", ["none"])["result"] is None


def test_discover_describes_the_api(peer: Peer) -> None:
    document = peer.call("rpc.discover")["result"]
    assert {method["name"] for method in document["methods"]} >= {"Host.ping", "Image.echoAll"}
    assert document["components"]["errors"] == {"Known": {"code": 262, "message": "broken"}}
    assert peer.call("rpc.discover", {"x": 1})["error"]["code"] == -32602


def test_the_description_is_made_once(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer than hundreds of calls, so that few bytes could keep the daemon busy for long."""
    found = peer.call("rpc.discover")
    monkeypatch.setattr(catalogue.Catalogue, "openrpc", None)
    assert peer.call("rpc.discover", id="other") == found | {"id": "other"}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(value=json_values, escape=st.booleans())
def test_ordinary_json_is_read(value: Any, escape: bool) -> None:
    assert jsonrpc.decode(json.dumps(value, ensure_ascii=escape).encode()) == value


@settings(deadline=None)
@given(
    body=st.binary(max_size=100) | st.text(alphabet='{}[]",:0123456789.eE+-\\truefalsn ', max_size=100).map(str.encode)
)
def test_odd_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        jsonrpc.decode(body)
    except jsonrpc.JsonError:
        return
    json.loads(body)
