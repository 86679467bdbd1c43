"""HTTP/1.1, the part of it that a server of small calls needs, read strictly: bytes in, requests out.

Nothing here touches a socket, so every rule can be tested with bytes. What is refused, is refused because two readers
of the same bytes may understand them differently: a second Content-Length, a length that is not plain digits, a
Transfer-Encoding, a bare line feed, a folded header. Format: RFC 9112 and RFC 9110.
"""

import dataclasses
import email.utils
import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

# The limits of the standard library's own server.
LINE_LIMIT = 65536
HEADER_LIMIT = 100
# All header lines together, which the standard library leaves open.
HEAD_LIMIT = 4 * LINE_LIMIT

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_HEADER_LINE = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_LENGTH = re.compile(r"[0-9]{1,18}")
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)

# A second one of these would make the meaning of the request depend on who reads it.
_ONLY_ONCE = frozenset({"content-length", "host", "transfer-encoding", "content-type", "content-encoding", "expect"})


class HttpError(Exception):
    """A request that gets an answer of its own and ends its connection.

    Args:
        status: the status of the answer.
        reason: one line for the caller.
        headers: more headers of the answer.
    """

    def __init__(self, status: HTTPStatus, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


class Disconnected(Exception):
    """The peer closed the connection in the middle of a request: nobody is left to answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """Request line and headers.

    Attributes:
        method: as sent, e.g. "POST".
        path: of the target, without query; compared whole, never joined to a directory.
        headers: lower-case name -> value; several lines of one name are joined with commas.
        keep_alive: whether the connection lives on after the answer.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    keep_alive: bool

    @property
    def flow_id(self) -> str:
        """The caller's correlation id for logs: printable ASCII, at most 128 characters, empty when absent."""
        flow_id = self.headers.get("flowid", "")
        return "".join(c for c in flow_id[:128] if " " <= c <= "~")


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request as the bindings see it.

    Attributes:
        head: request line and headers.
        body: all of the body.
        client: address of the peer, "host:port".
    """

    head: Head
    body: bytes
    client: str

    @property
    def flow_id(self) -> str:
        """As of the head."""
        return self.head.flow_id


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """What a binding answers."""

    body: bytes = b""
    content_type: str = ""
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Reader:
    """Cuts requests out of a stream.

    Args:
        receive: returns the next bytes of the stream, at least one, or none at its end; what it raises passes through.
    """

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._buffer = bytearray()

    @property
    def pending(self) -> bool:
        """Whether bytes of the next request are here already."""
        return bool(self._buffer)

    def head(self) -> Head | None:
        """The next request's head; None when the stream ends where a request would begin.

        Raises:
            HttpError: it breaks the rules.
            Disconnected: the stream ended inside it.
        """
        if not self._buffer and not self._fill():
            return None
        if not (b" " < self._buffer[:1] <= b"~" or self._buffer[:1] in b"\r\n"):
            raise HttpError(HTTPStatus.BAD_REQUEST, "not HTTP")  # perhaps TLS, whose sender now waits for our hello
        return parse_head(self._lines())

    def body(self, length: int) -> bytes:
        """The next `length` bytes.

        Raises:
            Disconnected: the stream ended before.
        """
        while len(self._buffer) < length:
            self._must_fill()
        return self._take(length)

    def take(self, limit: int) -> bytes:
        """Bytes that are here already, at most `limit`; none when there are none."""
        return self._take(limit)

    def _lines(self) -> list[bytes]:
        """Lines up to the empty one, without their ends. Refuses at once, without waiting for the rest."""
        lines: list[bytes] = []
        start = searched = 0
        while True:
            newline = self._buffer.find(b"\n", searched)
            if newline < 0 or newline - start > LINE_LIMIT:
                if max(newline, len(self._buffer)) - start > LINE_LIMIT:
                    raise _too_long(lines)
                searched = len(self._buffer)
                self._must_fill()
                continue
            line = bytes(self._buffer[start:newline])
            start = searched = newline + 1
            if not line.endswith(b"\r"):
                raise HttpError(HTTPStatus.BAD_REQUEST, "a line must end with CR LF")
            if line != b"\r":
                lines.append(line[:-1])
            elif lines or start > 2:
                self._take(start)
                return lines
            if len(lines) > HEADER_LIMIT + 1 or start > HEAD_LIMIT:
                raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers")

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def _must_fill(self) -> None:
        if not self._fill():
            raise Disconnected

    def _fill(self) -> bool:
        data = self._receive()
        self._buffer += data
        return bool(data)


def _too_long(lines: list[bytes]) -> HttpError:
    if lines:
        return HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "header line too long")
    return HttpError(HTTPStatus.REQUEST_URI_TOO_LONG, "request line too long")


def parse_head(lines: list[bytes]) -> Head:
    """A head from its lines.

    Raises:
        HttpError: 400 for what is no HTTP/1 head, 505 for another version.
    """
    match = _REQUEST_LINE.fullmatch(lines[0]) if lines else None
    if match is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, "not an HTTP request line")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise HttpError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only versions 1.0 and 1.1 are spoken")
    headers = _parse_headers(lines[1:])
    connection = headers.get("connection", "").lower()
    return Head(method.decode(), _path(target.decode()), headers, minor == b"1" and "close" not in connection)


def _parse_headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER_LINE.fullmatch(line)
        if match is None:
            raise HttpError(HTTPStatus.BAD_REQUEST, "malformed header line")
        name = match[1].decode().lower()
        value = match[2].decode("latin-1").rstrip(" \t")
        if name in headers:
            if name in _ONLY_ONCE:
                raise HttpError(HTTPStatus.BAD_REQUEST, f"more than one {name} header")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _path(target: str) -> str:
    if not target.startswith("/"):
        match = _ABSOLUTE.match(target)
        if match is None:
            raise HttpError(HTTPStatus.BAD_REQUEST, "the target must be a path")
        target = target[match.end() :] or "/"
    return target.partition("?")[0]


def body_length(head: Head, limit: int | None) -> int:
    """Length of the body, known before one byte of it is read.

    Args:
        head: of the request.
        limit: most bytes accepted, None where the reader has limits of its own.

    Raises:
        HttpError: 400, 411, 413, 415 or 417.
    """
    headers = head.headers
    text = headers.get("content-length")
    if "transfer-encoding" in headers:
        status = HTTPStatus.LENGTH_REQUIRED if text is None else HTTPStatus.BAD_REQUEST
        raise HttpError(status, "send a Content-Length, no Transfer-Encoding")
    if text is None:
        raise HttpError(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length")
    if not text.isascii() or _LENGTH.fullmatch(text) is None:
        raise HttpError(HTTPStatus.BAD_REQUEST, "Content-Length must be digits")
    length = int(text)
    if limit is not None and length > limit:
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have {limit} bytes")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body without a Content-Encoding")
    if headers.get("expect", "100-continue").lower() != "100-continue":
        raise HttpError(HTTPStatus.EXPECTATION_FAILED, "unknown expectation")
    return length


def refuse_browsers(head: Head) -> None:
    """Refuse what a web page sent: a browser on the same host must not reach the API for the page it shows.

    Browsers add Origin to every POST that crosses sites, and no page of ours exists.

    Raises:
        HttpError: 403.
    """
    if "origin" in head.headers:
        raise HttpError(HTTPStatus.FORBIDDEN, "no calls from web pages")


def encode(response: Response, *, keep_alive: bool) -> bytes:
    """Head and body in one piece, so that they leave in one packet."""
    headers = {"Content-Type": response.content_type} if response.content_type else {}
    if response.status is not HTTPStatus.NO_CONTENT:
        headers["Content-Length"] = str(len(response.body))
    return _encode_head(response.status, {**headers, **response.headers}, keep_alive) + response.body


def encode_head(status: HTTPStatus, headers: Mapping[str, str], length: int) -> bytes:
    """The head of an answer whose body, of `length` bytes, follows and ends the connection."""
    return _encode_head(status, {"Content-Length": str(length), **headers}, keep_alive=False)


def _encode_head(status: HTTPStatus, headers: Mapping[str, str], keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Date: {_date(int(time.time()))}"]
    lines.extend(f"{name}: {value}" for name, value in headers.items())
    if not keep_alive:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def error_response(error: HttpError) -> Response:
    """One line of plain text."""
    return Response(f"{error.reason}\n".encode(), "text/plain; charset=utf-8", error.status, error.headers)


_last_date = (0, "")


def _date(second: int) -> str:
    global _last_date  # formatting costs more than the rest of the head; a race here costs one more formatting
    known, text = _last_date
    if known != second:
        text = email.utils.formatdate(second, usegmt=True)
        _last_date = (second, text)
    return text
