"""A sample of the campaign of damaged requests; and proof that it would notice what it is there for."""

import dataclasses
import re
from pathlib import Path

import pytest

from rpc import arguments, catalogue, http, xmlcodec
from tests.campaigns import figures, wire, wiredaemon, wireends

SCHEMA = catalogue.load()
# Each verb's checks are compiled at its first call, which takes most of the time of a short campaign.
_NAMES = ("ping", "getVolumeInfo", "setVolumeDescription")
FEW = dataclasses.replace(
    SCHEMA,
    verbs={name: SCHEMA.verbs[name] for name in _NAMES},
    by_method={SCHEMA.verbs[name].method: SCHEMA.verbs[name] for name in _NAMES},
)


def test_damaged_requests_harm_nobody(tmp_path: Path) -> None:
    found = figures.Figures("a sample")
    first = wire.indoors(found, SCHEMA, 600, 20)
    wiredaemon.outdoors(found, SCHEMA, tmp_path, 150, 20, first)
    assert found.failures == []
    assert found.counts["requests damaged"] >= 750
    assert found.counts["calls run in process"] > 50, "hardly anything legal: the campaign sees little"
    assert found.counts["hostile requests"] > 100


def _careless(head: http.Head, limit: int | None) -> int:
    found = re.search("[0-9]+", head.headers.get("content-length", "0"))
    return int(found[0]) if found else 0


def _unchecked(verb: catalogue.Verb, types: object) -> arguments.Check:
    return lambda values: values


def _stumbles(self: object, tag: str) -> None:
    raise ZeroDivisionError("a bug in the reader")


@pytest.mark.parametrize(
    ("where", "name", "broken", "seen"),
    [
        (http, "body_length", _careless, "not all are in"),
        (arguments, "compile_check", _unchecked, "not all are in"),
        (xmlcodec._Target, "end", _stumbles, "logged: "),
    ],
    ids=["any length", "no schema", "a bug"],
)
def test_the_campaign_notices(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, broken: object, seen: str
) -> None:
    monkeypatch.setattr(where, name, broken)
    found = figures.Figures("a broken daemon")
    wire.indoors(found, FEW, 1000, 21)
    assert any(re.search(seen, failure) for failure in found.failures), found.failures[:3]


def test_an_answer_is_counted_for_what_it_says() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    body = b'[{"result": 1}, {"error": {}}]'
    found = wireends.answers(ok % (len(body), body) + b"HTTP/1.1 404 Not Found\r\n\r\nHTTP/1.1 2")
    assert [answer.status for answer in found] == [200, 404, 0]
    assert [answer.successes() for answer in found[:2]] == [1, 0]
    with pytest.raises(ValueError):
        found[2].successes()
