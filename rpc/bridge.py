"""From (verb, arguments) to a method call on an API object, and from its outcome to a status and a result.

Both bindings come through here, so both refuse the same calls with the same words. Statuses exist only from here
outwards: inside the process a failure is an exception.
"""

import dataclasses
import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rpc import arguments, catalogue

log = logging.getLogger(__name__)

# Codes of the protocol that the bridge itself answers with.
UNEXPECTED = 16  # the call does not fit the verb: the reference answers so for a wrong number of arguments
GENERAL = 100
INVALID_PARAMETER = 1000

_SUCCESS = {"storage": "OK", "host": "Done"}

Translate = Callable[[Exception, str | None], tuple[int, str]]


class UnknownVerb(LookupError):
    """No verb of that name; the bindings have an answer of their own for it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """Who calls.

    Attributes:
        client: address of the peer, "host:port".
        flow_id: correlation id that the caller sent, empty without one.
        transport: "xml-rpc" or "json-rpc".
    """

    client: str
    flow_id: str = ""
    transport: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """Outcome of a call.

    Attributes:
        code: 0, or a status code of the protocol.
        message: text for people.
        result: members of the result, without the status.
        refused: the call did not fit the schema, and nothing was run.
        verb: the verb that was meant.
    """

    code: int
    message: str
    result: Mapping[str, Any]
    verb: catalogue.Verb
    refused: bool = False

    @property
    def status(self) -> dict[str, Any]:
        """The ``status`` member of the XML-RPC answer."""
        return {"code": self.code, "message": self.message}


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One line of the audit log.

    Attributes:
        time: start of the call, seconds since the epoch.
        client, flow_id, transport: as in the context.
        verb: XML-RPC name.
        ids: id parameters of the call by name; empty when the call was refused, since they are unchecked then.
        code: status code of the answer.
        milliseconds: duration.
    """

    time: float
    client: str
    flow_id: str
    transport: str
    verb: str
    ids: Mapping[str, str]
    code: int
    milliseconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """How to call a verb: made at its first call, kept for all others."""

    check: arguments.Check
    factory: Callable[..., Any]
    constructor: frozenset[str]
    ids: tuple[str, ...]


class Bridge:
    """Calls verbs.

    Args:
        verbs: the catalogue.
        api: holds the API classes as attributes, ready to be called with the ids that their constructors name.
        translate: turns an exception, and the name of the verb's default error, into a status code and a message.
        audit: takes one record for every call of a known verb.
    """

    def __init__(
        self,
        verbs: catalogue.Catalogue,
        api: Any,
        translate: Translate,
        audit: Callable[[Record], None] | None = None,
    ) -> None:
        self.catalogue = verbs
        self._api = api
        self._translate = translate
        self._audit = audit
        self._plans: dict[str, _Plan] = {}
        self._planning = threading.Lock()

    def call_positional(self, name: str, values: Sequence[Any], context: Context) -> Reply:
        """Call by XML-RPC name, arguments in XML-RPC order; None stands for an optional one left out.

        Raises:
            UnknownVerb: no such verb.
        """
        verb = self.catalogue.verbs.get(name)
        if verb is None:
            raise UnknownVerb(name)
        return self._call(verb, functools.partial(arguments.from_wire, verb, values), context)

    def call_named(self, method: str, params: Mapping[str, Any] | Sequence[Any], context: Context) -> Reply:
        """Call by JSON-RPC name, parameters by name, or by position in JSON-RPC order.

        Raises:
            UnknownVerb: no such verb.
        """
        verb = self.catalogue.by_method.get(method)
        if verb is None:
            raise UnknownVerb(method)
        if isinstance(params, Mapping):
            return self._call(verb, functools.partial(arguments.from_names, verb, params), context)
        return self._call(verb, functools.partial(arguments.from_order, verb, params), context)

    def broken(self, verb: catalogue.Verb, reason: object) -> Reply:
        """Log a result that the wire cannot carry, a bug of ours, and make the answer for it."""
        log.error("%s returned what cannot be sent: %s", verb.name, reason)
        code = GENERAL if verb.group == "storage" else UNEXPECTED
        return Reply(code, "internal error: the result cannot be sent", {}, verb)

    def _call(self, verb: catalogue.Verb, bind: Callable[[], dict[str, Any]], context: Context) -> Reply:
        started, start = time.time(), time.perf_counter()
        ids: Mapping[str, str] = {}
        try:
            plan = self._plans.get(verb.name) or self._plan(verb)
            values = plan.check(bind())
            ids = {name: value for name in plan.ids if isinstance(value := values.get(name), str)}
            reply = self._run(verb, plan, values)
        except arguments.Refused as refusal:
            code = INVALID_PARAMETER if refusal.value else UNEXPECTED
            reply = Reply(code, str(refusal), {}, verb, refused=True)
        except Exception as error:  # whatever a verb raises becomes a status: nothing else may reach the wire
            reply = self._failure(verb, error)
        if self._audit is not None:
            took = (time.perf_counter() - start) * 1000
            client, flow_id, transport = context.client, context.flow_id, context.transport
            self._audit(Record(started, client, flow_id, transport, verb.name, ids, reply.code, took))
        return reply

    def _run(self, verb: catalogue.Verb, plan: _Plan, values: Mapping[str, Any]) -> Reply:
        constructor: dict[str, Any] = {}
        method: dict[str, Any] = {}
        for param in verb.params:
            if param.name in values:
                target = constructor if param.argument in plan.constructor else method
                target[param.argument] = values[param.name]
        result = getattr(plan.factory(**constructor), verb.api_method)(**method)
        if result is None:
            result = {}
        elif not isinstance(result, dict):
            return self.broken(verb, f"a {type(result).__name__} in place of members")
        return Reply(0, _SUCCESS.get(verb.group, "OK"), result, verb)

    def _failure(self, verb: catalogue.Verb, error: Exception) -> Reply:
        # Errors of the API carry their code as a class attribute; anything else was not foreseen: log its traceback.
        if not isinstance(getattr(type(error), "code", None), int):
            log.error("%s failed unexpectedly", verb.name, exc_info=error)
        try:
            code, message = self._translate(error, verb.default_error)
        except Exception:  # the last line of defence; a second failure must not hide that there is an answer to give
            log.exception("%s: no status for %r", verb.name, error)
            code, message = GENERAL, "internal error"
        return Reply(code, message, {}, verb)

    def _plan(self, verb: catalogue.Verb) -> _Plan:
        with self._planning:
            factory = getattr(self._api, verb.api_class)
            plan = _Plan(
                check=arguments.compile_check(verb, self.catalogue.types),
                factory=factory,
                constructor=frozenset(inspect.signature(factory).parameters),
                ids=tuple(param.name for param in verb.params if param.name.endswith(("ID", "UUID"))),
            )
            self._plans[verb.name] = plan
            return plan
