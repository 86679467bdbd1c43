"""The engine of the tests must be as strict as the real one: each answer that would break it is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.engine import reactions, reading, wirexml

ID = "47bd7538-c48b-4b94-ba94-def922151d48"


def answer(value: str) -> bytes:
    return f"<?xml version='1.0'?><methodResponse><params><param>{value}</param></params></methodResponse>".encode()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<value>a &lt;</value>", "a <"),
        ("<value/>", ""),
        ("<value><string>\u00e9</string></value>", "\u00e9"),
        ("<value><int>-2147483648</int></value>", -(2**31)),
        ("<value> <i4>5</i4>\n</value>", 5),
        ("<value><boolean>1</boolean></value>", True),
        ("<value><double>0.5</double></value>", 0.5),
        ("<value><array><data><value>a</value></data></array></value>", ["a"]),
        ("<value><struct><member><name>a</name><value>b</value></member></struct></value>", {"a": "b"}),
    ],
)
def test_what_the_client_reads(text: str, value: Any) -> None:
    found = wirexml.decode(answer(text))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "<value><nil/></value>",
        "<value><i8>1</i8></value>",
        "<value><int>2147483648</int></value>",
        "<value><int>1.0</int></value>",
        "<value><int></int></value>",
        "<value><boolean>true</boolean></value>",
        "<value><double>nan</double></value>",
        "<value><base64>YQ==</base64></value>",
        "<value><array><value>a</value></array></value>",
        "<value><struct><member><name>a</name></member></struct></value>",
        "<value><struct><member><name>a</name><value/></member><member><name>a</name><value/></member></struct></value>",
        "<value><string>a</string><string>b</string></value>",
        "<value>text<int>1</int></value>",
        "<value type='int'>1</value>",
        "<value xmlns:ex='x'><ex:nil/></value>",
        "<string>a</string>",
        "<value>a</value><value>b</value>",
        "<value>a",
        "<!-- a --><value/>",
    ],
)
def test_what_the_client_does_not_read(text: str) -> None:
    with pytest.raises(wirexml.Unreadable):
        wirexml.decode(answer(text))


def test_calls_are_in_the_clients_own_spelling() -> None:
    text = wirexml.encode("a", ["<", 1, True, ["b"], {"c": ""}]).decode()
    for part in ("<value>&lt;</value>", "<i4>1</i4>", "<boolean>1</boolean>", "<name>c</name><value></value>"):
        assert part in text
    for value in (None, 2**31, 0.5):
        with pytest.raises(TypeError):
            wirexml.encode("a", [value])


TASK = {"code": 0, "message": "", "taskState": "running", "taskResult": ""}
VOLUME = {
    **{"uuid": ID, "parent": ID, "description": "", "status": "OK", "capacity": "1", "truesize": "1"},
    **{"format": "COW", "type": "SPARSE"},
}
POOL = {
    "info": {"type": "LOCALFS", "name": "a", "master_ver": 1, "master_uuid": ID, "isoprefix": ""},
    "dominfo": {ID: {"status": "Active", "diskfree": "1", "disktotal": "2", "alerts": []}},
}
STATS = {"info": {"storageDomains": {ID: {"code": 0, "lastCheck": "0.1", "delay": "0.001"}}}}

Reader = Callable[[dict[str, Any]], Any]
GOOD: list[tuple[Reader, dict[str, Any]]] = [
    (reading.status, {"status": {"code": 0, "message": "OK"}}),
    (reading.one_id, {"uuid": ID}),
    (reading.task, {"taskStatus": TASK}),
    (reading.tasks, {"allTasksStatus": {ID: TASK}}),
    (reading.volume, {"info": VOLUME}),
    (reading.pool, POOL),
    (reading.domain_problems, STATS),
    (reading.spm, {"spm_st": {"spmStatus": "SPM", "spmLver": 1, "spmId": 1}}),
]


@pytest.mark.parametrize(("reader", "good"), GOOD, ids=lambda each: getattr(each, "__name__", ""))
def test_good_answers_are_read(reader: Reader, good: dict[str, Any]) -> None:
    reader(good)


@pytest.mark.parametrize(
    ("index", "path", "value"),
    [
        (0, ("status", "code"), "0"),
        (0, ("status", "code"), True),
        (0, ("status",), []),
        (1, ("uuid",), ""),
        (1, ("uuid",), 5),
        (2, ("taskStatus", "code"), "0"),
        (2, ("taskStatus", "taskState"), "Running"),
        (2, ("taskStatus", "taskState"), "finished"),
        (2, ("taskStatus", "taskResult"), "ok"),
        (3, ("allTasksStatus",), []),
        (3, ("allTasksStatus", ID), {"code": 0, "message": "", "taskState": "running"}),
        (4, ("info", "status"), "FINE"),
        (4, ("info", "capacity"), "1.0"),
        (4, ("info", "parent"), ""),
        (4, ("info", "format"), "QCOW2"),
        (5, ("dominfo", ID, "diskfree"), 1),
        (5, ("dominfo", ID, "status"), "Broken"),
        (5, ("info", "master_ver"), "one"),
        (6, ("info", "storageDomains", ID, "code"), "0"),
        (6, ("info", "storageDomains", ID, "lastCheck"), 0.1),
        (7, ("spm_st", "spmStatus"), "Unknown_Pool"),
        (7, ("spm_st", "spmId"), ""),
    ],
)
def test_bad_answers_are_not(index: int, path: tuple[str, ...], value: Any) -> None:
    reader, good = GOOD[index]
    bad = copy.deepcopy(good)
    place = bad
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises((reading.Broken, KeyError)):
        reader(bad)


def test_reactions() -> None:
    found = {code: reactions.of(code).name for code in (0, 99, 654, 324, 304, 262, 201, 200, 100, 16, 4900, 5022)}
    assert list(found.values()) == [
        *("DONE", "LATER", "SPM_LOST", "RECONSTRUCT", "MASTER", "FAIL", "FAILOVER", "FAILOVER", "FAILOVER", "FAILOVER"),
        *("UNICODE", "NETWORK"),
    ]
