"""Plays a row and judges what came of it: the code, the words, the shape of the reply, and what is left on storage."""

import re
import time
from collections.abc import Mapping
from typing import Any

import fastjsonschema

from storage import errors
from tests.support import daemon as daemons
from tests.support.outcomes import stage as outcome_stage, table
from vdsmlite import status

_SECONDS = 30.0
_CODES = {name: code for name, (code, _) in status.errors_table().items()}
_JSON_REFUSED = -32602
_DONE = {"storage": "OK", "host": "Done"}
_CHECKS: dict[str, Any] = {}


def play(stage: outcome_stage.Stage, row: table.Row) -> None:
    """Make the call of a row and hold it to the catalogue.

    Raises:
        AssertionError: it has another outcome, another form, or left something behind.
    """
    try:
        _play(stage, row)
    finally:
        stage.tidy()


def _play(stage: outcome_stage.Stage, row: table.Row) -> None:
    manager = table.producer(row)
    assert manager is not None
    with manager(stage, row) as attempt:
        host = attempt.host or stage.main
        before = stage.tree()
        answer = host.answer(row.verb, *_trimmed(attempt.arguments))
        if row.outcome == table.SUCCESS:
            _check_success(row, answer)
            if row.where == table.TASK:
                _check_task_success(_finished(host, answer, attempt))
            elif not attempt.once:
                _check_json_success(row, stage.json(host, row, attempt.arguments))
            return
        if row.where == table.TASK:
            _check_success(row, answer)
            _check_task_error(row, _finished(host, answer, attempt), attempt.result)
        else:
            _check_error(row, answer)
            if not attempt.once:
                _check_json_error(row, stage.json(host, row, attempt.arguments))
        if not attempt.changes:
            left = stage.tree()
            changes = {name: (before.get(name), left.get(name)) for name in before.keys() | left.keys()}
            assert not (told := {name: pair for name, pair in changes.items() if pair[0] != pair[1]}), told


def _trimmed(arguments: list[Any]) -> list[Any]:
    """Without optional ones at the end that are not given."""
    given = list(arguments)
    while given and given[-1] is None:
        given.pop()
    return given


def _check_success(row: table.Row, answer: Mapping[str, Any]) -> None:
    assert _code(answer) == 0, answer["status"]
    assert answer["status"]["message"] == _DONE[row.schema.group]
    members = {name: value for name, value in answer.items() if name != "status"}
    _valid(row, members)
    if row.schema.member is None:
        assert not members
    elif row.schema.member != "*":
        assert row.schema.member in members


def _valid(row: table.Row, members: Mapping[str, Any]) -> None:
    if row.verb not in _CHECKS:
        schema = {**row.schema.document["result"]["schema"], "components": {"schemas": table.CATALOGUE.types}}
        _CHECKS[row.verb] = fastjsonschema.compile(schema)
    _CHECKS[row.verb](members)


def _check_json_success(row: table.Row, answer: Mapping[str, Any]) -> None:
    assert set(answer) == {"jsonrpc", "id", "result"}, answer
    member = row.schema.member
    if member is None:
        assert answer["result"] is True
    elif member == "*":
        _valid(row, answer["result"])


def _check_error(row: table.Row, answer: Mapping[str, Any]) -> None:
    assert set(answer) == {"status"}, f"an error carries no result: {sorted(answer)}"
    assert set(answer["status"]) == {"code", "message"}
    assert _code(answer) == _CODES[row.outcome], answer["status"]
    _check_message(row.outcome, answer["status"]["message"])


def _check_json_error(row: table.Row, answer: Mapping[str, Any]) -> None:
    assert set(answer) == {"jsonrpc", "id", "error"}, answer
    found = answer["error"]
    code = found["data"]["status"]["code"] if found["code"] == _JSON_REFUSED else found["code"]
    assert code == _CODES[row.outcome], found
    _check_message(row.outcome, found["message"])


def _check_message(name: str, message: str, more: str = "") -> None:
    """A message says what its class says, and is for people: one line of printable characters."""
    pattern = ".+".join(re.escape(part) for part in re.split(r"\{\w+\}", errors.by_name(name).template))
    assert re.fullmatch(pattern + more, message, re.DOTALL) or name == "InvalidParameterException", message
    assert message and message.isprintable() and len(message) < 2000, message


def _code(answer: Mapping[str, Any]) -> int:
    code = answer["status"]["code"]
    assert type(code) is int
    return code


def _finished(host: daemons.Daemon, answer: Mapping[str, Any], attempt: table.Attempt) -> dict[str, Any]:
    """The status of the task once it is over; it is cleared."""
    task = answer["uuid"]
    if attempt.during is not None:
        attempt.during(task)
    deadline, pause = time.monotonic() + _SECONDS, 0.001
    while (found := host.call("getTaskStatus", task)["taskStatus"])["taskState"] != "finished":
        assert time.monotonic() < deadline, found
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    host.call("clearTask", task)
    assert {"taskState", "taskResult", "code", "message"} <= set(found)
    assert type(found["code"]) is int
    return dict(found)


def _check_task_success(found: Mapping[str, Any]) -> None:
    assert (found["code"], found["taskResult"]) == (0, "success"), found


def _check_task_error(row: table.Row, found: Mapping[str, Any], result: str | None) -> None:
    assert found["code"] == _CODES[row.outcome], found
    assert found["taskResult"] == result or (result is None and found["taskResult"] != "success"), found
    # A rollback that failed, too, is told after what failed first.
    _check_message(row.outcome, found["message"], "(; recovery .+ failed: .+)?")
