"""What is sent in place of ids, texts and paths, for every parameter of every verb, found from the schema alone."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from rpc import catalogue
from storage import ids
from tests.support import samples

VERBS = catalogue.load()

_WIDE = str.maketrans("0123456789abcdef", "".join(chr(0xFEE0 + ord(each)) for each in "0123456789abcdef"))
_TEXTS = ("Line", "Location")

_NAMES = {
    "storagepoolID": "pool",
    "storagedomainID": "domain",
    "masterSdUUID": "domain",
    "srcSdUUID": "domain",
    "dstSdUUID": "domain",
    "SdUUID": "domain",
    "domainList": "domain",
    "domainDict": "domain",
    "imageID": "image",
    "srcImgUUID": "image",
    "imgDict": "image",
    "volumeID": "volume",
    "leafVolID": "volume",
    "successor": "volume",
    "srcVolUUID": "volume",
    "volumeList": "volume",
    "options": "volume",
    "ancestor": "base",
    "taskID": "task",
}
"""What a parameter's ids are ids of. The rest are of machines, jobs, or new."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call by JSON-RPC name.

    Attributes:
        verb: the verb.
        where: the parameter, and the place within it.
        kind: what the id there is an id of; empty for others.
        params: all parameters.
    """

    verb: catalogue.Verb
    where: str
    kind: str
    params: Mapping[str, Any]


def no_ids(real: str, elsewhere: str) -> list[str]:
    """What is no id, made from one.

    Args:
        elsewhere: absolute path of something that must not be touched.
    """
    return [
        *("../x", f"../{real}", f"../../{real}", f"{real}/..", f"{real}/../{real}", f"/{real}", elsewhere),
        *(f"{real}\n", f"\n{real}", f"{real[:-1]}\n", f"{real}\nPUUID={real}", f"{real}\0", f"{real[:-1]}\0"),
        *(real.translate(_WIDE), real.replace("-", "\u2010"), f"{{{real}}}", f"urn:uuid:{real}", real.replace("-", "")),
        *("%2e%2e%2f" + real, f"{real}%2f..", "a" * 300, (real * 9)[:300], f"{real}x", f" {real}", f"{real}.meta"),
        *("", ".", "..", "*", "?" * 36, "-f", "--help", "_remove_me_" + real, f"{real}.new", "~", "mnt", "images"),
    ]


BAD_TEXTS = (
    *(f"a{each}PUUID=b" for each in "\n\r\t\v\f\0\x1b\x7f\x85\u2028\u2029"),
    *("\ud800", "a\udfff", "\ufffe", "x" * 5000),
)
"""No text of one line."""


def calls(real: Mapping[str, str], kinds: frozenset[str] | None = None) -> Iterator[tuple[Call, str]]:
    """Every place of an id in every verb: a right call, and the id that stands there.

    Args:
        real: existing ids by what they are of.
        kinds: only places of these.
    """
    for verb in VERBS.verbs.values():
        params = {param.name: _right(param, real) for param in verb.params}
        for param in verb.params:
            kind = _NAMES.get(param.name, "")
            if (kinds is not None and kind not in kinds) or samples.type_of(param.schema) == "ConnectionRefIdList":
                continue  # references to connections have free names
            for path, found in _leaves(params[param.name]):
                if ids.is_id(found):
                    yield Call(verb, _told(param.name, path), kind, params), found


def takes_empty(call: Call) -> bool:
    """Whether an empty text stands for no id there."""
    schemas = {param.name: param.schema for param in call.verb.params}
    return samples.type_of(schemas[call.where.partition("|")[0]]) == "UUIDOrEmpty"


def texts(real: Mapping[str, str]) -> Iterator[tuple[Call, str]]:
    """Every place of a text of one line, in the same way."""
    for verb in VERBS.verbs.values():
        params = {param.name: _right(param, real) for param in verb.params}
        for param in verb.params:
            if samples.type_of(param.schema) in (*_TEXTS, "ConnectionList", "DomainStatuses"):
                for path, found in _leaves(params[param.name]):
                    if not ids.is_id(found):
                        yield Call(verb, _told(param.name, path), "", params), found


def put(call: Call, value: str) -> dict[str, Any]:
    """The parameters of a call with something else in its place."""
    name, *path = call.where.split("|")
    params = copy.deepcopy(dict(call.params))
    if not path:
        params[name] = value
        return params
    target = params[name]
    for step in path[:-1]:
        target = target[int(step) if isinstance(target, list) else step]
    last = path[-1]
    if isinstance(target, list):
        target[int(last)] = value
    elif last.startswith("key "):
        target[value] = target.pop(last.removeprefix("key "))
    else:
        target[last] = value
    return params


def _told(name: str, path: tuple[str, ...]) -> str:
    return "|".join((name, *path))


def _right(param: catalogue.Param, real: Mapping[str, str]) -> Any:
    value = copy.deepcopy(samples.RIGHT[samples.type_of(param.schema)][0])
    if samples.type_of(param.schema) == "IdList":
        value = [samples.ID]
    if kind := _NAMES.get(param.name):
        return _with(value, real[kind])
    return value


def _with(value: Any, real: str) -> Any:
    """The value with an id that exists in place of its first one."""
    if isinstance(value, str):
        return real if ids.is_id(value) else value
    if isinstance(value, list):
        return [_with(value[0], real), *value[1:]] if value else value
    if isinstance(value, dict) and value:
        first, *rest = value.items()
        key = real if ids.is_id(first[0]) else first[0]
        return {key: _with(first[1], real), **dict(rest)}
    return value


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _leaves(each, (*path, str(number)))
    elif isinstance(value, dict):
        for key, each in value.items():
            if ids.is_id(key):
                yield (*path, f"key {key}"), key
            yield from _leaves(each, (*path, key))
