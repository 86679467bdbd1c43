"""Arguments of a call: bound to the parameters of the verb, coerced where the wire allows, checked against the schema.

Every refusal names the parameter. Values never appear in a message: they are unchecked, and may be of any size.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fastjsonschema

from rpc import catalogue

Check = Callable[[dict[str, Any]], dict[str, Any]]

# Nothing of the API counts further than this, and a longer number buys time in every later conversion to text.
_LARGEST = 2**63 - 1
_INT_TEXT = re.compile(r"-?[0-9]{1,19}")
_BOOL_TEXT = {"true": True, "false": False}
_MESSAGE_LIMIT = 300


class Refused(Exception):
    """The call does not fit the schema.

    Attributes:
        value: a value is wrong; False: arguments are missing, or there are too many.
    """

    def __init__(self, message: str, *, value: bool) -> None:
        super().__init__(message if len(message) <= _MESSAGE_LIMIT else f"{message[:_MESSAGE_LIMIT]}...")
        self.value = value


def from_wire(verb: catalogue.Verb, values: Sequence[Any]) -> dict[str, Any]:
    """Bind the positions of an XML-RPC call.

    Raises:
        Refused: wrong number of arguments.
    """
    if len(values) > len(verb.wire):
        raise Refused(f"{verb.name} takes at most {len(verb.wire)} arguments, not {len(values)}", value=False)
    for position in verb.wire[len(values) :]:
        if position.required:
            raise Refused(f"{verb.name}: parameter {position.name} is missing", value=False)
    bound = {position.name: value for position, value in zip(verb.wire, values, strict=False)}
    return _without_omitted(bound, verb.wire)


def from_order(verb: catalogue.Verb, values: Sequence[Any]) -> dict[str, Any]:
    """Bind the positions of a JSON-RPC call.

    Raises:
        Refused: wrong number of arguments.
    """
    if len(values) > len(verb.params):
        raise Refused(f"{verb.method} takes at most {len(verb.params)} parameters, not {len(values)}", value=False)
    return from_names(verb, {param.name: value for param, value in zip(verb.params, values, strict=False)})


def from_names(verb: catalogue.Verb, values: Mapping[str, Any]) -> dict[str, Any]:
    """Bind named parameters.

    Raises:
        Refused: one is missing or unknown.
    """
    known = {param.name for param in verb.params}
    for name in values:
        if name not in known:
            raise Refused(f"{verb.method} has no parameter {name!r:.60}", value=False)
    for param in verb.params:
        if param.required and param.name not in values:
            raise Refused(f"{verb.method}: parameter {param.name} is missing", value=False)
    return _without_omitted(values, verb.params)


def _without_omitted(
    values: Mapping[str, Any], params: Sequence[catalogue.Param] | Sequence[catalogue.WireParam]
) -> dict[str, Any]:
    """Nothing (nil, null) in an optional place means that it was left out; in a required one it is a wrong value."""
    if None not in values.values():
        return dict(values)
    optional = {param.name for param in params if not param.required}
    return {name: value for name, value in values.items() if value is not None or name not in optional}


def compile_check(verb: catalogue.Verb, types: Mapping[str, Any]) -> Check:
    """Make the checker of a verb's bound arguments: it coerces, checks, and fills in defaults of the schema.

    Args:
        verb: the verb.
        types: the catalogue's types.

    Returns:
        A function from bound values to checked ones, raising Refused. Compiling takes milliseconds: keep it.
        Values of ignored wire positions are checked, too, and stay in the result.
    """
    schemas = {position.name: position.schema for position in verb.wire} | {p.name: p.schema for p in verb.params}
    call = {"type": "object", "properties": schemas}
    # The compiler writes the schema at the root into its code, whole: behind a reference, the types are not part of it.
    validate = fastjsonschema.compile({"$ref": "#/call", "call": call, "components": {"schemas": types}})
    coercions = {param.name: _COERCIONS[param.coerce] for param in verb.params if param.coerce}
    fractional = frozenset(name for name, schema in schemas.items() if _takes_fractions(schema, types))
    return functools.partial(_check, validate, coercions, fractional)


def _check(
    validate: Callable[[dict[str, Any]], Any],
    coercions: Mapping[str, Callable[[Any], Any]],
    fractional: frozenset[str],
    values: dict[str, Any],
) -> dict[str, Any]:
    for name, coerce in coercions.items():
        if name in values:
            values[name] = coerce(values[name])
    for name, value in values.items():
        if type(value) is not str:
            _check_numbers(name, value, fractions=name in fractional)
    try:
        validate(values)
    except fastjsonschema.JsonSchemaValueException as error:
        raise _refusal(error) from error
    return values


def _check_numbers(name: str, value: Any, *, fractions: bool) -> None:
    """What JSON Schema lets pass: 1.0 for an integer, and integers of any length."""
    if isinstance(value, float):
        if not fractions:
            raise Refused(f"parameter {name}: must not be a fractional number", value=True)
    elif isinstance(value, int):
        if not -_LARGEST <= value <= _LARGEST:
            raise Refused(f"parameter {name}: the number is too large", value=True)
    elif isinstance(value, dict):
        for member in value.values():
            _check_numbers(name, member, fractions=fractions)
    elif isinstance(value, list | tuple):
        for member in value:
            _check_numbers(name, member, fractions=fractions)


def _refusal(error: fastjsonschema.JsonSchemaValueException) -> Refused:
    where = ".".join(str(step) for step in error.path[1:])
    wanted = error.definition.get("description") if isinstance(error.definition, dict) else None
    if wanted:
        return Refused(f"parameter {where}: wrong value. Wanted: {wanted}", value=True)
    reason = str(error.message).removeprefix(error.name or "").strip()
    return Refused(f"parameter {where}: {reason}", value=True)


def _coerce_int(value: Any) -> Any:
    return int(value) if isinstance(value, str) and _INT_TEXT.fullmatch(value) else value


def _coerce_bool(value: Any) -> Any:
    return _BOOL_TEXT.get(value.lower(), value) if isinstance(value, str) else value


_COERCIONS: dict[str, Callable[[Any], Any]] = {"int": _coerce_int, "bool": _coerce_bool}


def _takes_fractions(schema: Mapping[str, Any], types: Mapping[str, Any]) -> bool:
    """Whether a number with a fraction can be meant: the schema speaks of numbers, or allows anything."""
    text = json.dumps(schema)
    seen: set[str] = set()
    while missing := set(re.findall(r'"#/components/schemas/([^"]+)"', text)) - seen:
        seen |= missing
        text += "".join(json.dumps(types[name]) for name in missing)
    return '"number"' in text or not re.search(r'"(type|enum|const|anyOf|oneOf|allOf)"', text)
