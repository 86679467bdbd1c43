"""The rules of a request's head and body, on bytes that arrive in any pieces."""

import itertools
from http import HTTPStatus

import pytest
from hypothesis import given, settings, strategies as st

from rpc import http

REQUEST = b"POST /RPC2?x=1 HTTP/1.1\r\nHost: a\r\nFlowID:  f1 \r\nContent-Length: 4\r\n\r\nbody"


def reader_of(*pieces: bytes) -> http.Reader:
    remaining = [piece for piece in pieces if piece]
    return http.Reader(lambda: remaining.pop(0) if remaining else b"")


def head_of(data: bytes) -> http.Head:
    head = reader_of(data).head()
    assert head is not None
    return head


def refusal_of(data: bytes) -> http.HttpError:
    with pytest.raises(http.HttpError) as refusal:
        http.body_length(head_of(data), 1000)
    return refusal.value


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 2 * len(REQUEST)), max_size=6))
def test_two_requests_are_read_however_they_arrive(cuts: list[int]) -> None:
    data = REQUEST + b"\r\n" + REQUEST
    edges = [0, *sorted(cuts), len(data)]
    reader = reader_of(*(data[start:end] for start, end in itertools.pairwise(edges)))
    for _ in range(2):
        head = reader.head()
        assert head == http.Head("POST", "/RPC2", {"host": "a", "flowid": "f1", "content-length": "4"}, keep_alive=True)
        assert reader.body(http.body_length(head, 1000)) == b"body"
    assert reader.head() is None


@pytest.mark.parametrize("cut", range(1, len(REQUEST)))
def test_a_request_that_is_cut_off_is_no_request(cut: int) -> None:
    reader = reader_of(REQUEST[:cut])
    with pytest.raises(http.Disconnected):
        head = reader.head()
        assert head is not None
        reader.body(http.body_length(head, 1000))


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nConnection: Close\r\n\r\n", False),
        (b"POST / HTTP/1.0\r\n\r\n", False),
        (b"POST / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_connections_live_on_from_version_1_1(head: bytes, keep_alive: bool) -> None:
    assert head_of(head).keep_alive is keep_alive


def test_an_absolute_target_is_a_path_too() -> None:
    assert head_of(b"POST http://host:54321/RPC2?a HTTP/1.1\r\n\r\n").path == "/RPC2"
    assert head_of(b"POST http://host HTTP/1.1\r\n\r\n").path == "/"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\r\n\r\nPOST / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"\xff", 400),
        (b"POST / HTTP/1.1\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\n", 400),
        (b"POST  / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1 \r\n\r\n", 400),
        (b"POST /\xff HTTP/1.1\r\n\r\n", 400),
        (b"POST * HTTP/1.1\r\n\r\n", 400),
        (b"PO(ST / HTTP/1.1\r\n\r\n", 400),
        (b"POST / http/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.10\r\n\r\n", 400),
        (b"POST / HTTP/9.9\r\n\r\n", 505),
        (b"POST / HTTP/2.0\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length : 4\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nA: \0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nA: b\rc\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"POST /" + b"a" * 70_000, 414),
        (b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nA: " + b"a" * 70_000, 431),
        (b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 200, 431),
        (b"POST / HTTP/1.1\r\n" + (b"A: " + b"a" * 60_000 + b"\r\n") * 6, 431),
    ],
)
def test_a_head_that_breaks_the_rules_is_refused_at_once(data: bytes, expected: int) -> None:
    assert refusal_of(data).status.value == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (b"", 411),
        (b"Content-Length: \r\n", 400),
        (b"Content-Length: -1\r\n", 400),
        (b"Content-Length: +4\r\n", 400),
        (b"Content-Length: 5_2_8\r\n", 400),
        (b"Content-Length: 0x4\r\n", 400),
        (b"Content-Length: 4.0\r\n", 400),
        (b"Content-Length: 4, 4\r\n", 400),
        (b"Content-Length: \xb2\r\n", 400),
        (b"Content-Length: 4\r\nContent-Length: 4\r\n", 400),
        (b"Content-Length: 4\r\ncontent-length: 5\r\n", 400),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n", 400),
        (b"Content-Length: 1001\r\n", 413),
        (b"Content-Length: 1000000000000\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n", 411),
        (b"Transfer-Encoding: identity\r\n", 411),
        (b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Content-Length: 4\r\nContent-Encoding: gzip\r\n", 415),
        (b"Content-Length: 4\r\nExpect: miracles\r\n", 417),
    ],
)
def test_a_length_that_is_not_plain_is_refused(headers: bytes, expected: int) -> None:
    assert refusal_of(b"POST / HTTP/1.1\r\n" + headers + b"\r\n").status.value == expected


def test_web_pages_are_refused() -> None:
    http.refuse_browsers(head_of(b"POST / HTTP/1.1\r\n\r\n"))
    with pytest.raises(http.HttpError) as refusal:
        http.refuse_browsers(head_of(b"POST / HTTP/1.1\r\nOrigin: http://evil\r\n\r\n"))
    assert refusal.value.status is HTTPStatus.FORBIDDEN


def test_a_response_is_one_piece_and_says_how_long_it_is() -> None:
    data = http.encode(http.Response(b"<a/>", "text/xml"), keep_alive=True)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert {b"Content-Type: text/xml", b"Content-Length: 4"} <= set(lines)
    assert not any(line.startswith((b"Server", b"Connection")) for line in lines)
    assert body == b"<a/>"
    closing = http.encode(http.Response(status=HTTPStatus.NO_CONTENT), keep_alive=False)
    assert b"Connection: close" in closing
    assert b"Content-Length" not in closing


@settings(deadline=None)
@given(data=st.binary(max_size=200) | st.text(alphabet="POST /HP1.:\r\n \t", max_size=200).map(str.encode))
def test_odd_bytes_are_a_head_or_refused(data: bytes) -> None:
    try:
        head = reader_of(data).head()
    except (http.HttpError, http.Disconnected):
        return
    assert head is None or head.path.startswith("/")
