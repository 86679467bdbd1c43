"""Answers that took long to find, kept with what was looked at, and good only as long as that is unchanged.

One JSON file an image in ``dom_md/journal/<image>.proof`` of its domain, so that an answer survives a restart and a
hand-over to another host. A file that cannot be read is no answer, never an error: the proof is then made again.
Whoever keeps an answer flushes the files that it rests on first; else a loss of power could change them, and not their
times.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from storage import errors, files, ids
from storage.chains import evidence, inspection, walk

READ_LIMIT = 1 << 20


def path_of(domain_path: Path, image: ids.ImageId) -> Path:
    """Where the answers about an image are kept."""
    return domain_path / "dom_md" / "journal" / f"{image}.proof"


def load(path: Path, sight: inspection.Sight) -> dict[evidence.Question, evidence.Answer]:
    """The kept answers whose volumes are as they were."""
    try:
        kept = json.loads(files.read(path, READ_LIMIT))["answers"]
        found = {}
        for each in kept:
            question = _question(each["question"])
            if each["files"] == _fingerprint(sight.records, question):
                found[question] = _answer(each["answer"])
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError, errors.InvalidParameterException):
        return {}


def save(path: Path, sight: inspection.Sight, answers: walk.Answers) -> None:
    """Keep answers that settle something, instead of those kept before; durable on return.

    Raises:
        StorageException: they cannot be kept; those kept before are.
    """
    kept = [
        {
            "question": dataclasses.asdict(question),
            "answer": dataclasses.asdict(answer),
            "files": _fingerprint(sight.records, question),
        }
        for question, answer in answers.items()
        if answer.same is not None
    ]
    try:
        files.make_directory(path.parent)
        files.sweep_replaced(path)
        files.replace(path, json.dumps({"version": 1, "answers": kept}, indent=1).encode())
    except OSError as error:
        reason = f"the answers cannot be kept: {error.strerror or error}"
        raise errors.StorageException(reason=reason) from error


def _question(kept: dict[str, Any]) -> evidence.Question:
    upper, below = (tuple(ids.VolumeId(each) for each in kept[key]) for key in ("upper", "below"))
    return evidence.Question(upper, ids.VolumeId(kept["child"]) if kept["child"] else None, below)


def _answer(kept: dict[str, Any]) -> evidence.Answer:
    found = evidence.Answer(**kept)
    if any(value not in (True, False, None) for value in (found.covered, found.same, found.common)):
        raise ValueError("neither yes nor no")
    return dataclasses.replace(found, remembered=True)


def _fingerprint(records: walk.Records, question: evidence.Question) -> list[list[str | int]]:
    """Every file that the answer came from, with length, time and identity, and in the order of the stacks.

    The order counts: a repair points headers back and then restores the times of their files.
    """
    child = [question.child] if question.child else []
    volumes = (*question.upper, *walk.headers(records, question.upper[-1])[1:], *child, *question.below)
    return [[v, records[v].size, records[v].mtime_ns, records[v].inode] for v in volumes if v in records]
