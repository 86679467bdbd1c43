"""The JSON-RPC 2.0 binding, with batches and notifications. Format: https://www.jsonrpc.org/specification

JSON is read strictly: what two readers may understand differently (a key given twice, NaN, a number that no double or
64-bit integer holds, half of a surrogate pair) is refused.
"""

import json
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from rpc import bridge, http

log = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

DEPTH_LIMIT = 32
BATCH_LIMIT = 64
# More commas than this are not parsed at all: a parsed element costs far more than its two bytes.
COMMA_LIMIT = 10_000

_LARGEST = 2**63 - 1
_NOTHING = object()


class JsonError(ValueError):
    """The text is not JSON as this API takes it."""


class _Error(Exception):
    def __init__(self, code: int, message: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.content: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.content["data"] = data


class Binding:
    """Answers POSTs whose body is a JSON-RPC request or a batch of them.

    Args:
        target: calls the verbs.
        errors: error class name -> (status code, message), for the document that ``rpc.discover`` returns.
    """

    def __init__(self, target: bridge.Bridge, errors: Mapping[str, tuple[int, str]]) -> None:
        self._bridge = target
        self._errors = errors
        self._described = ""

    def __call__(self, request: http.Request) -> http.Response:
        """Answer a request; never raises for anything that is in it."""
        context = bridge.Context(request.client, request.flow_id, "json-rpc")
        try:
            content = decode(request.body)
        except JsonError as error:
            log.warning("%s: call refused: %s", request.client, error)
            return _response(_failed(None, _Error(PARSE_ERROR, str(error))))
        if not isinstance(content, list):
            answer = self._answer(content, context)
            return _response(answer) if answer is not None else http.Response(status=HTTPStatus.NO_CONTENT)
        if not 1 <= len(content) <= BATCH_LIMIT:
            return _response(_failed(None, _Error(INVALID_REQUEST, f"a batch has 1 to {BATCH_LIMIT} requests")))
        answers = [answer for call in content if (answer := self._answer(call, context)) is not None]
        return _response("[" + ",".join(answers) + "]") if answers else http.Response(status=HTTPStatus.NO_CONTENT)

    def _answer(self, call: Any, context: bridge.Context) -> str | None:
        """Text of the answer to one request; None to a notification, however it ended."""
        try:
            _check_request(call)
        except _Error as error:
            known = call.get("id") if isinstance(call, dict) else None
            return _failed(known if _is_id(known) else None, error)
        request_id = call.get("id", _NOTHING)
        try:
            answer = self._result(call["method"], call.get("params", ()), request_id, context)
        except _Error as error:
            answer = _failed(request_id, error)
        return None if request_id is _NOTHING else answer

    def _result(self, method: str, params: Any, request_id: Any, context: bridge.Context) -> str:
        if method == "rpc.discover":
            if params:
                raise _Error(INVALID_PARAMS, "rpc.discover takes no parameter")
            return _with_result(request_id, self._document())
        try:
            reply = self._bridge.call_named(method, params, context)
        except bridge.UnknownVerb as error:
            raise _Error(METHOD_NOT_FOUND, f"method {method!r:.60} is not known; rpc.discover lists all") from error
        if reply.refused:
            raise _Error(INVALID_PARAMS, reply.message, {"status": reply.status})
        if reply.code:
            raise _Error(reply.code, reply.message)
        try:
            return _succeeded(request_id, _member(reply))
        except (KeyError, TypeError, ValueError) as error:
            broken = self._bridge.broken(reply.verb, repr(error))
            raise _Error(broken.code, broken.message) from error

    def _document(self) -> str:
        """The API's description as JSON, made once: it is long, and asking for it is short."""
        if not self._described:
            self._described = _encode(self._bridge.catalogue.openrpc(self._errors))
        return self._described


def _check_request(call: Any) -> None:
    if not isinstance(call, dict):
        raise _Error(INVALID_REQUEST, "a request is an object")
    if call.get("jsonrpc") != "2.0":
        raise _Error(INVALID_REQUEST, 'jsonrpc must be "2.0"')
    if not isinstance(call.get("method"), str):
        raise _Error(INVALID_REQUEST, "method must be a text")
    if not isinstance(call.get("params", {}), dict | list):
        raise _Error(INVALID_REQUEST, "params must be an object or an array")
    if not _is_id(call.get("id")):
        raise _Error(INVALID_REQUEST, "id must be a text, an integer or null")


def _is_id(value: Any) -> bool:
    return value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _member(reply: bridge.Reply) -> Any:
    member = reply.verb.member
    if member is None:
        return True
    return reply.result if member == "*" else reply.result[member]


def _succeeded(request_id: Any, result: Any) -> str:
    return _with_result(request_id, _encode(result))


def _with_result(request_id: Any, text: str) -> str:
    return f'{{"jsonrpc":"2.0","id":{_encode(None if request_id is _NOTHING else request_id)},"result":{text}}}'


def _failed(request_id: Any, error: _Error) -> str:
    return _encode({"jsonrpc": "2.0", "id": None if request_id is _NOTHING else request_id, "error": error.content})


def _encode(value: Any) -> str:
    # ASCII escapes keep odd characters of a message (a file name's undecodable bytes) from breaking the encoding.
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _response(text: str) -> http.Response:
    return http.Response(text.encode("ascii"), "application/json")


def decode(body: bytes) -> Any:
    """A JSON text as Python values.

    Raises:
        JsonError: not UTF-8, not JSON, or JSON that is not accepted here.
    """
    if body.count(b",") > COMMA_LIMIT:
        raise JsonError("too many elements")
    try:
        content = _DECODER.decode(body.decode())
    except RecursionError as error:
        raise JsonError("too deep") from error
    except UnicodeDecodeError as error:
        raise JsonError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error}") from error
    _check(content, DEPTH_LIMIT)
    return content


def _check(value: Any, depth: int) -> None:
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict | list):
        if depth == 0:
            raise JsonError("too deep")
        if isinstance(value, dict):
            for key in value:
                _check_text(key)
            value = value.values()
        for member in value:
            _check(member, depth - 1)


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise JsonError("a text has half of a surrogate pair") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise JsonError("an object has a key twice")
    return content


def _int(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > _LARGEST:
        raise JsonError("an integer has more than 64 bits")
    return value


def _float(text: str) -> float:
    if not math.isfinite(value := float(text[:400])) or len(text) > 400:
        raise JsonError("a number is too large or too long")
    return value


def _constant(text: str) -> Any:
    raise JsonError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant, strict=True
)
