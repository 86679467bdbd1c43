"""XML-RPC: bodies that are read, bodies that are refused and how cheaply, and answers."""

import tracemalloc
from http import HTTPStatus
from pathlib import Path
from typing import Any
from xmlrpc import client as stdlib

import pytest
from hypothesis import given, settings, strategies as st

from rpc import bridge, http, xmlcodec, xmlrpc
from tests.support import fake_api, hostilewire

ID = fake_api.ID
MIB = 1024 * 1024


@pytest.mark.parametrize("body", hostilewire.XML_DOCUMENT_TYPES.values(), ids=hostilewire.XML_DOCUMENT_TYPES)
def test_a_document_type_is_refused_before_it_costs_anything(body: bytes) -> None:
    assert_refused_cheaply(body, well_formed=False)


@pytest.mark.parametrize("body", hostilewire.XML_TOO_MUCH.values(), ids=hostilewire.XML_TOO_MUCH)
def test_too_much_is_refused_before_it_is_built(body: bytes) -> None:
    assert_refused_cheaply(body, well_formed=True)


def assert_refused_cheaply(body: bytes, *, well_formed: bool) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(xmlcodec.DecodeError) as refusal:
            xmlcodec.decode(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refusal.value.well_formed is well_formed
    assert len(str(refusal.value)) < 200
    assert peak < 2 * MIB + 2 * len(body)


@pytest.mark.parametrize("body", hostilewire.XML_NO_CALLS.values(), ids=hostilewire.XML_NO_CALLS)
def test_xml_that_is_no_call_is_refused(body: bytes) -> None:
    with pytest.raises(xmlcodec.DecodeError) as refusal:
        xmlcodec.decode(body)
    assert refusal.value.well_formed


@pytest.mark.parametrize("body", hostilewire.XML_NOT_WELL_FORMED.values(), ids=hostilewire.XML_NOT_WELL_FORMED)
def test_what_is_no_xml_is_refused(body: bytes) -> None:
    with pytest.raises(xmlcodec.DecodeError) as refusal:
        xmlcodec.decode(body)
    assert not refusal.value.well_formed


@pytest.mark.parametrize(
    ("inner", "value"),
    [
        ("", ""),
        ("plain", "plain"),
        ("<string>a &lt;&#10;</string>", "a <\n"),
        ("<string> x </string>", " x "),
        ("<![CDATA[<a>]]>", "<a>"),
        ("<int>-7</int>", -7),
        ("<i4>+7</i4>", 7),
        ("<i8>9223372036854775807</i8>", 2**63 - 1),
        ("\n<boolean>1</boolean>\n", True),
        ("<double>-1.5e3</double>", -1500.0),
        ("<nil/>", None),
        ("<ex:nil/>", None),
        ("<array><data/></array>", []),
        ("<struct></struct>", {}),
    ],
)
def test_values_are_read(inner: str, value: Any) -> None:
    method, params = xmlcodec.decode(hostilewire.with_value(inner))
    assert method == "m"
    assert params == [value]
    assert type(params[0]) is type(value)


def test_a_call_needs_no_params_and_may_be_in_another_encoding() -> None:
    assert xmlcodec.decode(b"<methodCall><methodName>m</methodName></methodCall>") == ("m", [])
    latin = "<?xml version='1.0' encoding='iso-8859-1'?>" + hostilewire.with_value("\xe4").decode()
    assert xmlcodec.decode(latin.encode("latin-1")) == ("m", ["\xe4"])


# XML turns a carriage return into a line feed while it is read, so no sender can mean one that is written plainly.
ODD = [chr(number) for number in (*range(9), 11, 12, *range(13, 32), 0xFFFE, 0xFFFF)]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=ODD), max_size=20)
wire_values = st.recursive(
    st.booleans() | st.integers(-(2**31), 2**31 - 1) | texts | st.floats(-1e9, 1e9, allow_subnormal=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(values=st.lists(wire_values, max_size=5))
def test_what_the_standard_library_writes_is_read(values: list[Any]) -> None:
    body = stdlib_dumps(values)
    assert xmlcodec.decode(body) == ("some.method", values)


@settings(deadline=None)
@given(value=wire_values)
def test_the_standard_library_reads_what_is_written(value: Any) -> None:
    assert loads(xmlcodec.encode_response(value)) == value


def stdlib_dumps(values: list[Any]) -> bytes:
    return stdlib.dumps(tuple(values), "some.method").encode()


def loads(body: bytes) -> Any:
    return stdlib.loads(body)[0][0]


@settings(deadline=None)
@given(body=st.binary(max_size=200) | st.text(alphabet="<>/&;!=[]'\"ametholdCvui1 ", max_size=200).map(str.encode))
def test_odd_bytes_are_refused_in_an_orderly_way(body: bytes) -> None:
    with pytest.raises(xmlcodec.DecodeError):
        xmlcodec.decode(body)


@settings(deadline=None)
@given(cut=st.integers(0, 400), garbage=st.binary(max_size=3))
def test_a_damaged_call_is_read_or_refused(cut: int, garbage: bytes) -> None:
    body = stdlib_dumps([ID, 5, True, {"a": ["b"]}])
    damaged = body[:cut] + garbage + body[cut + len(garbage) :]
    try:
        method, params = xmlcodec.decode(damaged)
    except xmlcodec.DecodeError:
        return
    assert isinstance(method, str)
    assert isinstance(params, list)


@pytest.mark.parametrize("value", [None, 2**31, -(2**31) - 1, [2**40], {"a": None}, {1: 2}, float("inf"), {1}, b"x"])
def test_what_clients_do_not_know_is_not_written(value: Any) -> None:
    with pytest.raises(xmlcodec.EncodeError):
        xmlcodec.encode_response(value)


def test_a_value_that_contains_itself_is_not_written() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(xmlcodec.EncodeError):
        xmlcodec.encode_response(loop)


def test_characters_that_xml_has_not_do_not_break_the_answer() -> None:
    assert loads(xmlcodec.encode_response("a\x01\udcff<&>\r\n]]>")) == "a\ufffd\ufffd<&>\r\n]]>"


# ---------------------------------------------------------------- the binding


class Peer:
    """Calls the binding as a client would."""

    def __init__(self, directory: Path) -> None:
        self.api = fake_api.FakeApi()
        self.records: list[bridge.Record] = []
        self.binding = xmlrpc.Binding(fake_api.make_bridge(directory, self.api, self.records))

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        head = http.Head("POST", "/", headers or {}, True)
        response = self.binding(http.Request(head, body, "127.0.0.1:5"))
        assert (response.status, response.content_type) == (HTTPStatus.OK, "text/xml")
        return response.body

    def call(self, name: str, *values: Any) -> Any:
        return loads(self.post(stdlib.dumps(values, name, allow_none=True).encode()))


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path / "schema")


def test_an_answer_is_the_status_and_the_members(peer: Peer) -> None:
    answer = peer.call("echoAll", ID, ID, None, "3", "true")
    assert answer == {
        "status": {"code": 0, "message": "OK"},
        "image": ID,
        "pool": ID,
        "count": 3,
        "force": True,
        "options": {},
    }
    assert peer.call("ping") == {"status": {"code": 0, "message": "Done"}}


def test_an_error_is_a_status_too(peer: Peer) -> None:
    assert peer.call("fail", "known") == {"status": {"code": 262, "message": "the chain is broken"}}
    assert peer.call("echoAll")["status"]["code"] == 16
    assert peer.call("echoAll", "../x", ID, 0, 1)["status"]["code"] == 1000


@pytest.mark.parametrize("name", ["nonsense", "__class__", "_answer", "system", "system.exit", "Image.echoAll"])
def test_an_unknown_method_is_fault_1(peer: Peer, name: str) -> None:
    with pytest.raises(stdlib.Fault) as fault:
        peer.call(name)
    assert fault.value.faultCode == 1


@pytest.mark.parametrize(
    ("body", "code"), [(b"<a", -32700), (hostilewire.laughs(6), -32700), (hostilewire.XML_NO_CALLS["base64"], -32600)]
)
def test_a_body_that_is_no_call_is_a_fault(peer: Peer, body: bytes, code: int) -> None:
    with pytest.raises(stdlib.Fault) as fault:
        loads(peer.post(body))
    assert fault.value.faultCode == code
    assert peer.api.calls == 0


@pytest.mark.parametrize("what", ["none", "big", "set", "nan"])
def test_a_result_that_cannot_be_sent_is_a_logged_bug(peer: Peer, what: str, caplog: pytest.LogCaptureFixture) -> None:
    assert peer.call("give", what)["status"]["code"] == 100
    assert "give" in caplog.text


def test_the_flow_id_reaches_the_audit(peer: Peer) -> None:
    peer.post(stdlib.dumps((), "ping").encode(), {"flowid": "a" * 500 + "\x1b\n"})
    assert [record.flow_id for record in peer.records] == ["a" * 128]


def test_introspection_lists_helps_and_signs(peer: Peer) -> None:
    names = peer.call("system.listMethods")
    assert set(names) == {
        *("ping", "wait", "fail", "give", "echoAll", "count", "measure"),
        *("system.listMethods", "system.methodHelp", "system.methodSignature", "system.multicall"),
    }
    assert "echoAll" in peer.call("system.methodHelp", "echoAll")
    assert peer.call("system.methodSignature", "ping") == [["struct"]]
    assert peer.call("system.methodSignature", "echoAll") == [
        ["struct", "string", "string", "string", "int"],
        ["struct", "string", "string", "string", "int", "boolean"],
        ["struct", "string", "string", "string", "int", "boolean", "struct"],
    ]
    assert peer.call("system.methodSignature", "system.multicall") == "undef"
    for name in names:
        assert peer.call("system.methodHelp", name)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("system.listMethods", [1]),
        ("system.methodHelp", []),
        ("system.methodHelp", [5]),
        ("system.methodHelp", ["nonsense"]),
        ("system.methodSignature", [{}]),
        ("system.multicall", []),
        ("system.multicall", ["ping"]),
        ("system.multicall", [[{"methodName": "ping", "params": []}] * 65]),
    ],
)
def test_introspection_called_wrongly_is_a_fault(peer: Peer, name: str, values: list[Any]) -> None:
    with pytest.raises(stdlib.Fault):
        peer.call(name, *values)
    assert peer.api.calls == 0


def test_a_multicall_answers_each_call_in_its_place(peer: Peer) -> None:
    calls: list[Any] = [
        {"methodName": "ping", "params": []},
        {"methodName": "nonsense", "params": []},
        {"methodName": "fail", "params": ["known"]},
        {"methodName": "give", "params": ["big"]},
        {"methodName": "system.multicall", "params": [[]]},
        {"methodName": "system.listMethods", "params": []},
        {"methodName": "ping"},
        "ping",
    ]
    answers = peer.call("system.multicall", calls)
    codes = [answer["faultCode"] if isinstance(answer, dict) else answer[0] for answer in answers]
    assert [code["status"]["code"] if isinstance(code, dict) else code for code in codes[:5]] == [
        0,
        1,
        262,
        100,
        -32602,
    ]
    assert "ping" in codes[5]
    assert codes[6:] == [-32602, -32602]
    assert peer.call("system.multicall", []) == []
