"""Calls of verbs as real JSON-RPC texts, whose every answer is held to the document that ``rpc.discover`` returns."""

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import fastjsonschema

from rpc import bridge, catalogue, http, jsonrpc


class Peer:
    """Speaks to a JSON-RPC binding without a network, and believes only the document.

    Args:
        target: calls the verbs.
        errors: error class name -> (status code, message).

    Attributes:
        checked: JSON-RPC names of the methods whose result was held to the document.
    """

    def __init__(self, target: bridge.Bridge, errors: Mapping[str, tuple[int, str]]) -> None:
        self._recorder = _Recorder(target)
        self._binding = jsonrpc.Binding(self._recorder, errors)
        document = self.call("rpc.discover", {})["result"]
        self._components = document["components"]
        self._methods = {method["name"]: method for method in document["methods"]}
        self._checks: dict[str, Callable[[Any], Any]] = {}
        self.checked: set[str] = set()

    def call(self, method: str, params: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
        """The answer, as JSON."""
        text = json.dumps({"jsonrpc": "2.0", "id": "one", "method": method, "params": params})
        response = self._binding(http.Request(http.Head("POST", "/jsonrpc", {}, True), text.encode(), "127.0.0.1:5"))
        assert (response.status, response.content_type) == (HTTPStatus.OK, "application/json")
        answer = json.loads(response.body)
        assert set(answer) in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", "one")
        assert isinstance(answer, dict)
        return answer

    def verb(self, verb: catalogue.Verb, values: Sequence[Any], *, by_name: bool) -> bridge.Reply:
        """Call a verb with the values of an XML-RPC call, each under its name or in the order of JSON-RPC.

        Returns:
            The reply from which the answer was made, which has been held to the document.
        """
        given = {place.name: value for place, value in zip(verb.wire, values, strict=False) if not place.ignored}
        order = [given.get(param.name) for param in verb.params]
        while order and order[-1] is None:
            order.pop()
        answer = self.call(verb.method, given if by_name else order)
        reply = self._recorder.last
        assert reply is not None
        if "result" in answer:
            assert reply.code == 0
            self._check(verb.method, answer["result"])
        elif reply.refused:
            assert answer["error"]["code"] == jsonrpc.INVALID_PARAMS
        else:
            self._check_error(verb.method, answer["error"], reply)
        return reply

    def _check(self, method: str, result: Any) -> None:
        if method not in self._checks:
            document = {"result": self._methods[method]["result"]["schema"], "components": self._components}
            self._checks[method] = fastjsonschema.compile({"$ref": "#/result", **document})
        self._checks[method](result)
        self.checked.add(method)

    def _check_error(self, method: str, error: Mapping[str, Any], reply: bridge.Reply) -> None:
        assert error == {"code": reply.code, "message": reply.message}
        names = [entry["$ref"].rpartition("/")[2] for entry in self._methods[method]["errors"]]
        assert error["code"] in {self._components["errors"][name]["code"] for name in names}


class _Recorder(bridge.Bridge):
    """A bridge that remembers its last reply: the answer on the wire has only a part of it."""

    def __init__(self, target: bridge.Bridge) -> None:
        self.catalogue = target.catalogue
        self._target = target
        self.last: bridge.Reply | None = None

    def call_named(
        self, method: str, params: Mapping[str, Any] | Sequence[Any], context: bridge.Context
    ) -> bridge.Reply:
        self.last = self._target.call_named(method, params, context)
        return self.last
