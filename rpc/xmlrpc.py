"""The XML-RPC binding: every answer of a verb is a struct with a ``status``; a fault means that no verb was reached."""

import logging
from typing import Any

from rpc import bridge, catalogue, http, xmlcodec

log = logging.getLogger(__name__)

# 1 is what clients of the reference know for an unknown method; the others are of the convention
# http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php
UNKNOWN_METHOD = 1
NOT_WELL_FORMED = -32700
INVALID_CALL = -32600
INVALID_PARAMS = -32602

CALL_LIMIT = 64

_TYPE_NAMES = {"integer": "int", "number": "double", "boolean": "boolean", "array": "array", "object": "struct"}


class _Fault(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Binding:
    """Answers POSTs whose body is an XML-RPC call.

    Args:
        target: calls the verbs.
        limits: of one call.
    """

    def __init__(self, target: bridge.Bridge, limits: xmlcodec.Limits | None = None) -> None:
        self._bridge = target
        self._limits = limits or xmlcodec.Limits()
        self._system = {
            "system.listMethods": self._list_methods,
            "system.methodHelp": self._method_help,
            "system.methodSignature": self._method_signature,
        }

    def __call__(self, request: http.Request) -> http.Response:
        """Answer a request; never raises for anything that is in it."""
        context = bridge.Context(request.client, request.flow_id, "xml-rpc")
        try:
            name, params = xmlcodec.decode(request.body, self._limits)
            body = self._answer(name, params, context)
        except xmlcodec.DecodeError as error:
            log.warning("%s: call refused: %s", request.client, error)
            body = xmlcodec.encode_fault(INVALID_CALL if error.well_formed else NOT_WELL_FORMED, str(error))
        except _Fault as fault:
            log.warning("%s: %s", request.client, fault.text)
            body = xmlcodec.encode_fault(fault.code, fault.text)
        return http.Response(body, "text/xml")

    def _answer(self, name: str, params: list[Any], context: bridge.Context) -> bytes:
        if name == "system.multicall":
            return xmlcodec.encode_response(self._multicall(params, context))
        if name in self._system:
            return xmlcodec.encode_response(self._system[name](params))
        reply = self._verb(name, params, context)
        try:
            return xmlcodec.encode_response(_struct(reply))
        except xmlcodec.EncodeError as error:
            return xmlcodec.encode_response(_struct(self._bridge.broken(reply.verb, error)))

    def _verb(self, name: str, params: list[Any], context: bridge.Context) -> bridge.Reply:
        try:
            return self._bridge.call_positional(name, params, context)
        except bridge.UnknownVerb as error:
            raise _Fault(UNKNOWN_METHOD, f"method {name!r:.60} is not supported") from error

    def _multicall(self, params: list[Any], context: bridge.Context) -> list[Any]:
        """Results in the order of the calls, each in an array of one; a fault struct where a call failed."""
        if len(params) != 1 or not isinstance(params[0], list):
            raise _Fault(INVALID_PARAMS, "system.multicall takes one array")
        if len(params[0]) > CALL_LIMIT:
            raise _Fault(INVALID_PARAMS, f"system.multicall takes at most {CALL_LIMIT} calls")
        results: list[Any] = []
        for call in params[0]:
            try:
                results.append([self._one_of_many(call, context)])
            except _Fault as fault:
                results.append({"faultCode": fault.code, "faultString": fault.text})
        return results

    def _one_of_many(self, call: Any, context: bridge.Context) -> Any:
        if not isinstance(call, dict) or set(call) != {"methodName", "params"}:
            raise _Fault(INVALID_PARAMS, "a call is a struct of methodName and params")
        name, params = call["methodName"], call["params"]
        if not isinstance(name, str) or not isinstance(params, list) or name == "system.multicall":
            raise _Fault(INVALID_PARAMS, "methodName is a text and no multicall, params an array")
        if name in self._system:
            return self._system[name](params)
        reply = self._verb(name, params, context)
        try:
            xmlcodec.encode_response(_struct(reply))  # one that cannot be sent must not take the others with it
        except xmlcodec.EncodeError as error:
            reply = self._bridge.broken(reply.verb, error)
        return _struct(reply)

    def _list_methods(self, params: list[Any]) -> list[str]:
        if params:
            raise _Fault(INVALID_PARAMS, "system.listMethods takes no argument")
        return sorted([*self._bridge.catalogue.verbs, *self._system, "system.multicall"])

    def _method_help(self, params: list[Any]) -> str:
        verb = self._named(params)
        if verb is None:
            return "see http://xmlrpc-c.sourceforge.net/introspection.html"
        return f"{verb.summary}\n\n{verb.description}".strip()

    def _method_signature(self, params: list[Any]) -> list[list[str]] | str:
        """One signature for each number of arguments: type of the result, then types of the arguments."""
        verb = self._named(params)
        if verb is None:
            return "undef"
        types = [_type_name(position.schema, self._bridge.catalogue) for position in verb.wire]
        fewest = max((place for place, position in enumerate(verb.wire, 1) if position.required), default=0)
        return [["struct", *types[:count]] for count in range(fewest, len(types) + 1)]

    def _named(self, params: list[Any]) -> catalogue.Verb | None:
        """The verb that the one argument of an introspection call names; None for a method that is no verb."""
        if len(params) != 1 or not isinstance(params[0], str):
            raise _Fault(INVALID_PARAMS, "the argument is the name of a method")
        name = params[0]
        if name in self._system or name == "system.multicall":
            return None
        verb = self._bridge.catalogue.verbs.get(name)
        if verb is None:
            raise _Fault(UNKNOWN_METHOD, f"method {name!r:.60} is not supported")
        return verb


def _struct(reply: bridge.Reply) -> dict[str, Any]:
    return {**reply.result, "status": reply.status}


def _type_name(schema: Any, known: catalogue.Catalogue) -> str:
    """XML-RPC's name for a schema's type; of several, the first; text where any is taken."""
    name = catalogue.type_name(schema)
    resolved = known.types[name] if name else schema
    first = next(iter(resolved.get("anyOf", ())), resolved)
    if "$ref" in first:
        return _type_name(first, known)
    return _TYPE_NAMES.get(first.get("type", "string"), "string")
