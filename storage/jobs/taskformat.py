"""Task records as bytes, in the protocol's own format, so that the next host of the pool can roll them back. No I/O.

A record is a set of files: ``<id>.task``, ``<id>.job.<n>``, ``<id>.recover.<n>`` and, once finished, ``<id>.result``.
Each holds lines ``field = value``; ``=`` inside a value is written ``_eq_``, and parameters are joined by commas. A
value that this cannot carry (it holds ``_eq_`` itself, a line end, a comma in a parameter) is written as ``field.hex``,
hexadecimal JSON, instead: readers that know only the plain form lose it, as they would have lost the value. Fields of
ours that others skip: ``endCode``, ``endMessage`` (why a task was rolled back) and ``locks``.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from storage import errors, ids, locks
from storage.jobs import recovery, tasks

_HEX = ".hex"
_VERSION = 1
_COUNT_LIMIT = 4096
_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
# What some reader takes for the end of a line, other control characters, and what UTF-8 cannot hold.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_HEAD = ("id", "name", "state", "njobs", "nrecoveries")
_STEP = ("name", "moduleName", "object", "function", "params")

Fields = dict[str, object]


def encode(record: tasks.Record, store: Path) -> dict[str, bytes]:
    """File name to content.

    Args:
        record: the task.
        store: where it is kept; recorded for other readers, ignored on reading.
    """
    head: Fields = {
        "id": str(record.id),
        "name": record.verb,
        "tag": record.tag,
        "store": str(store),
        "recoveryPolicy": "auto",
        "persistPolicy": "auto",
        "cleanPolicy": "manual",
        "priority": "low",
        "state": str(record.state),
        "njobs": str(len(record.jobs)),
        "nrecoveries": str(len(record.recoveries)),
        "metadataVersion": str(_VERSION),
        "endCode": str(record.code),
        "endMessage": record.message,
        "locks": " ".join(f"{lock.name}:{'exclusive' if lock.exclusive else 'shared'}" for lock in record.locked),
    }
    contents = {f"{record.id}.task": _lines(head)}
    for number, name in enumerate(record.jobs):
        contents[f"{record.id}.job.{number}"] = _lines({"name": name, "runcmd": f"{record.verb} (never run again)"})
    for number, step in enumerate(record.recoveries):
        contents[f"{record.id}.recover.{number}"] = _lines(_step_fields(step))
    if record.state is tasks.State.FINISHED:
        end: Fields = {"code": str(record.code), "message": record.message, "result": str(record.result)}
        contents[f"{record.id}.result"] = _lines(end)
    return contents


def decode(task_id: ids.TaskId, contents: Mapping[str, bytes]) -> tasks.Record:
    """Read what `encode`, or another writer of the format, wrote: fields in any order, unknown ones skipped.

    Raises:
        TaskMetaDataLoadError: a file is missing or torn, or a value is not what its field may hold.
    """
    try:
        return _decode(task_id, contents)
    except ValueError as error:
        raise errors.TaskMetaDataLoadError(task=task_id, reason=str(error)) from None


def _decode(task_id: ids.TaskId, contents: Mapping[str, bytes]) -> tasks.Record:
    head = _fields(contents, f"{task_id}.task", _HEAD)
    if head["id"] != task_id:
        raise ValueError(f"it is the record of {head['id']!r:.80}")
    jobs = [_fields(contents, f"{task_id}.job.{n}", ("name",)) for n in range(_count(head["njobs"]))]
    steps = [_step(contents, f"{task_id}.recover.{n}") for n in range(_count(head["nrecoveries"]))]
    state = tasks.State(_text(head["state"]))
    end: Fields = {"code": head.get("endCode", "0"), "message": head.get("endMessage", tasks.INITIAL_MESSAGE)}
    if state is tasks.State.FINISHED:
        end = _fields(contents, f"{task_id}.result", ("code", "message"))
    return tasks.Record(
        id=task_id,
        verb=_text(head["name"]),
        tag=_text(head.get("tag", "")),
        state=state,
        jobs=tuple(_text(job["name"]) for job in jobs),
        recoveries=tuple(steps),
        locked=tuple(_lock(word) for word in _text(head.get("locks", "")).split()),
        code=_number(end["code"]),
        message=_text(end["message"]),
        result=_text(end.get("result", "")),
    )


def _step_fields(step: recovery.Recovery) -> Fields:
    joined = ",".join(step.params)
    params: object = joined if _split(joined) == step.params and _plain(joined) is not None else list(step.params)
    return {
        "name": step.name,
        "moduleName": step.module,
        "object": step.object,
        "function": step.function,
        "params": params,
    }


def _step(contents: Mapping[str, bytes], name: str) -> recovery.Recovery:
    fields = _fields(contents, name, _STEP)
    params = fields["params"]
    if isinstance(params, list):
        values = tuple(_text(value) for value in params)
    else:
        values = _split(_text(params))
    words = [_text(fields[key]) for key in _STEP[:4]]
    return recovery.Recovery(words[0], words[1], words[2], words[3], values)


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _lines(fields: Fields) -> bytes:
    lines = []
    for field, value in fields.items():
        plain = _plain(value) if isinstance(value, str) else None
        if plain is None:
            lines.append(f"{field}{_HEX} = {json.dumps(value).encode().hex()}\n")
        else:
            lines.append(f"{field} = {plain}\n")
    return "".join(lines).encode("utf-8")


def _plain(value: str) -> str | None:
    """The value as a line carries it, or None when it would not come back as it was."""
    escaped = value.replace("=", "_eq_")
    if _UNSAFE.search(value) or value != value.strip() or escaped.replace("_eq_", "=") != value:
        return None
    return escaped


def _fields(contents: Mapping[str, bytes], name: str, required: tuple[str, ...]) -> Fields:
    """Fields of one file, the exact form winning over the plain one.

    Raises:
        ValueError: missing, not UTF-8, cut off inside a line, or without a required field.
    """
    data = contents.get(name)
    if data is None:
        raise ValueError(f"{name} is missing")
    if not data.endswith(b"\n"):
        raise ValueError(f"{name} is torn")
    fields: Fields = {}
    exact: Fields = {}
    for line in data.decode("utf-8").split("\n"):
        parts = [part.strip() for part in line.split("=")]
        if len(parts) != 2:
            continue
        if parts[0].endswith(_HEX):
            exact[parts[0].removesuffix(_HEX)] = json.loads(bytes.fromhex(parts[1]))
        else:
            fields[parts[0]] = parts[1].replace("_eq_", "=")
    fields.update(exact)
    if missing := [field for field in required if field not in fields]:
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    return fields


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is not text")
    return value


def _number(value: object) -> int:
    text = _text(value)
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r:.80} is not a number")
    return int(text)


def _count(value: object) -> int:
    number = _number(value)
    if not 0 <= number <= _COUNT_LIMIT:
        raise ValueError(f"{number} parts is more than a task can have")
    return number


def _lock(word: str) -> locks.Lock:
    name, _, mode = word.rpartition(":")
    if not name or mode not in ("exclusive", "shared"):
        raise ValueError(f"{word!r:.80} is not a lock")
    return locks.Lock(name, mode == "exclusive")
