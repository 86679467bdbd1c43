"""The table: every verb of the schema with its success and each error that it declares, and who provokes which.

A row comes from the schema alone. What produces it is registered by the modules of the families (`produces`); what no
real storage on files can produce has a reason instead (`reasons`). A row with neither, or with both, is a fault.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rpc import catalogue

if TYPE_CHECKING:
    from tests.support.outcomes import stage as outcome_stage

CATALOGUE = catalogue.load()
SUCCESS = "success"
CALL, TASK = "call", "task"


@dataclasses.dataclass(frozen=True, order=True)
class Row:
    """One outcome of one verb.

    Attributes:
        verb: its XML-RPC name.
        outcome: class name of an error, or `SUCCESS`.
        where: `CALL` for the reply itself, `TASK` for the status of the task that it made.
    """

    verb: str
    outcome: str
    where: str = CALL

    def __str__(self) -> str:
        return f"{self.verb}-{self.outcome}" + ("-task" if self.where == TASK and self.outcome != SUCCESS else "")

    @property
    def schema(self) -> catalogue.Verb:
        return CATALOGUE.verbs[self.verb]


@dataclasses.dataclass
class Attempt:
    """A call that must have the outcome of its row.

    Attributes:
        arguments: in the order of XML-RPC.
        host: which daemon is called; None: the one that is SPM.
        changes: whether a refused call may leave something on storage that was not there before.
        once: whether it cannot be made a second time over JSON-RPC.
        result: how a task that failed ends: rolled back, or not wholly; None: either.
        ready: whether the task has come to where it can be stopped.
        during: run between the reply and the end of its task, with the task's id.
    """

    arguments: list[Any]
    host: Any = None
    changes: bool = False
    once: bool = False
    during: Callable[[str], None] | None = None
    result: str | None = "cleanSuccess"
    ready: Callable[[], bool] = bool


Provocation = Callable[["outcome_stage.Stage", Row], Iterator[Attempt]]
Manager = Callable[["outcome_stage.Stage", Row], contextlib.AbstractContextManager[Attempt]]

_produced: dict[Row, Manager] = {}
_general: dict[tuple[str, str], Manager] = {}
needs_root: set[Manager] = set()


def rows() -> list[Row]:
    """All rows, verb by verb in the order of the schema."""
    found = []
    for verb in CATALOGUE.verbs.values():
        found.append(Row(verb.name, SUCCESS, TASK if verb.kind == "task" else CALL))
        found += [Row(verb.name, error) for error in verb.errors]
        declared = [entry["$ref"].rpartition("/")[2] for entry in verb.document.get("x-task-errors", ())]
        found += [Row(verb.name, error, TASK) for error in declared]
    return found


def produces(outcome: str, *verbs: str, where: str = CALL, root: bool = False) -> Callable[[Provocation], Provocation]:
    """Register what provokes an outcome of some verbs; without verbs: of all that declare it and have no other.

    Args:
        root: whether it needs root.
    """

    def register(function: Provocation) -> Provocation:
        manager = contextlib.contextmanager(function)
        for verb in verbs:
            is_task = outcome == SUCCESS and CATALOGUE.verbs[verb].kind == "task"
            row = Row(verb, outcome, TASK if is_task else where)
            if row in _produced:
                raise ValueError(f"{row} is produced twice")
            _produced[row] = manager
        if not verbs:
            _general[outcome, where] = manager
        if root:
            needs_root.add(manager)
        return function

    return register


def producer(row: Row) -> Manager | None:
    """What provokes a row: its own, or the general one of the error unless the row has a reason."""
    from tests.support.outcomes import reasons

    if (own := _produced.get(row)) is not None:
        return own
    return None if reasons.of(row) else _general.get((row.outcome, row.where))


def is_produced(row: Row) -> bool:
    """Whether a row has a provocation of its own."""
    return row in _produced


def general(row: Row) -> Manager:
    """What provokes the row's error for verbs that have no provocation of their own."""
    return _general[row.outcome, row.where]


def faults(every: Iterable[Row]) -> list[str]:
    """What is wrong with the table itself."""
    from tests.support.outcomes import reasons

    known = set(every)
    found = [f"{row}: neither produced nor explained" for row in known if not producer(row) and not reasons.of(row)]
    found += [
        f"{row}: produced, and explained why it cannot be" for row in known if row in _produced and reasons.of(row)
    ]
    found += [f"{row}: produced, but not declared by the schema" for row in set(_produced) - known]
    found += [f"{row}: explained, but not declared by the schema" for row in reasons.explained() - known]
    return sorted(found)


def summary() -> str:
    """The figures in one line."""
    from tests.support.outcomes import reasons

    every = rows()
    successes = sum(1 for row in every if row.outcome == SUCCESS and producer(row))
    produced = sum(1 for row in every if row.outcome != SUCCESS and producer(row))
    verbs = len({row.verb for row in every})
    later = sum(1 for row in every if reasons.of(row) == reasons.NOT_YET)
    rest = len(every) - successes - produced - later
    told = f"outcomes: {verbs} verbs, {successes} successes, {produced} errors produced, {rest} cannot be produced"
    return told + (f", {later} not yet provoked" if later else "")
