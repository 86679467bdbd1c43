"""One task: its record, its states, and what a job may do with it.

A task's state is changed by one thread at a time, its owner: the thread that made it, then the worker that runs it, or
the thread of a verb that takes it over while it rests. Everybody else reads, or asks: a stop is an event that the
owner looks at. The record is an immutable value that is swapped as a whole, so readers need no lock.

A persisted task writes its record before it acts on it. Not every state is written: only those in which a later reader
of the file would do the right thing (see `DURABLE`).
"""

import dataclasses
import enum
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage import errors, ids, locks
from storage.jobs import recovery

log = logging.getLogger(__name__)


class State(enum.StrEnum):
    """States by the names of the record's format."""

    INIT = "init"
    PREPARING = "preparing"
    BLOCKED = "blocked"
    ACQUIRING = "acquiring"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTING = "aborting"
    WAITRECOVER = "waitrecover"
    RACQUIRING = "racquiring"
    RECOVERING = "recovering"
    RABORTING = "raborting"
    RECOVERED = "recovered"
    FAILED = "failed"


_S = State

SOURCES: Mapping[State, frozenset[State]] = {
    _S.INIT: frozenset(),
    _S.PREPARING: frozenset({_S.INIT, _S.BLOCKED}),
    _S.BLOCKED: frozenset({_S.PREPARING}),
    _S.ACQUIRING: frozenset({_S.PREPARING, _S.ACQUIRING}),
    _S.QUEUED: frozenset({_S.ACQUIRING, _S.RUNNING}),
    _S.RUNNING: frozenset({_S.QUEUED}),
    _S.FINISHED: frozenset({_S.RUNNING, _S.PREPARING}),
    _S.ABORTING: frozenset({_S.PREPARING, _S.BLOCKED, _S.ACQUIRING, _S.QUEUED, _S.RUNNING}),
    _S.WAITRECOVER: frozenset({_S.ABORTING}),
    _S.RACQUIRING: frozenset({_S.ABORTING, _S.FINISHED, _S.RACQUIRING, _S.WAITRECOVER}),
    _S.RECOVERING: frozenset({_S.RACQUIRING}),
    _S.RABORTING: frozenset({_S.RACQUIRING, _S.RECOVERING, _S.WAITRECOVER}),
    _S.RECOVERED: frozenset({_S.RECOVERING}),
    _S.FAILED: frozenset({_S.RECOVERING, _S.ABORTING, _S.RABORTING}),
}
"""Target state to the states it may be entered from (the protocol's table)."""

DONE = frozenset({_S.FINISHED, _S.RECOVERED, _S.FAILED})

DURABLE = frozenset({_S.QUEUED, _S.RUNNING, _S.FINISHED, _S.WAITRECOVER, _S.RECOVERING, _S.RECOVERED, _S.FAILED})
"""States that are written. The others last no longer than a few instructions, and other readers of the format give up
a task that they find `aborting` without rolling it back, but roll back one that they find `running` or `recovering`."""

_EXTERNAL: Mapping[State, tuple[str, str]] = {
    _S.INIT: ("init", ""),
    _S.PREPARING: ("running", ""),
    _S.BLOCKED: ("running", ""),
    _S.ACQUIRING: ("running", ""),
    _S.QUEUED: ("running", ""),
    _S.RUNNING: ("running", ""),
    _S.FINISHED: ("finished", "success"),
    _S.ABORTING: ("aborting", ""),
    _S.WAITRECOVER: ("cleaning", ""),
    _S.RACQUIRING: ("cleaning", ""),
    _S.RECOVERING: ("cleaning", ""),
    _S.RABORTING: ("aborting", ""),
    _S.RECOVERED: ("finished", "cleanSuccess"),
    _S.FAILED: ("finished", "cleanFailure"),
}

SPM = "spm"
HSM = "hsm"
INITIAL_MESSAGE = "waiting for a worker"
CUT_OFF = "cut off when its process ended"


@dataclasses.dataclass(frozen=True)
class Record:
    """Everything about a task that outlives its process.

    Attributes:
        id: the task's id.
        verb: name of the verb that made it.
        tag: `SPM` or `HSM`.
        state: where it is.
        jobs: names of its jobs; jobs are never run from a record.
        recoveries: the rollback stack, bottom first.
        locked: locks it holds, taken again before a rollback after a restart.
        code, message: outcome, or 0 and the progress.
        result: what the job returned; text once it was read from a file.
    """

    id: ids.TaskId
    verb: str
    tag: str = SPM
    state: State = State.INIT
    jobs: tuple[str, ...] = ()
    recoveries: tuple[recovery.Recovery, ...] = ()
    locked: tuple[locks.Lock, ...] = ()
    code: int = 0
    message: str = INITIAL_MESSAGE
    result: object = ""


Save = Callable[[Path, Record], None]


class Task:
    """A task as jobs, recoveries and the manager see it.

    Args:
        record: where it starts.
        store: where its record is kept; None for a task that is not persisted.
        save: writes a record into the store, durably.
        table: recoveries that may be pushed.
    """

    def __init__(
        self,
        record: Record,
        *,
        store: Path | None = None,
        save: Save | None = None,
        table: recovery.Table | None = None,
    ) -> None:
        self._record = record
        self.store = store
        self._save = save
        self._table = table or recovery.Table({})
        self._mutex = threading.Lock()
        self._owner: int | None = None
        self.held: locks.Held | None = None
        self.stopping = threading.Event()
        self.extra: Mapping[str, Any] = {}

    @property
    def record(self) -> Record:
        """The record as it is now."""
        return self._record

    @property
    def id(self) -> ids.TaskId:
        return self._record.id

    @property
    def state(self) -> State:
        return self._record.state

    @property
    def visible_state(self) -> State:
        """The state as watchers see it: a running task that was asked to stop is aborting."""
        state = self.state
        return State.ABORTING if state is State.RUNNING and self.stopping.is_set() else state

    @property
    def resting(self) -> bool:
        """Whether nothing will happen to it by itself: it is done, or parked because its rollback is not known here."""
        return not self.owned and (self.state in DONE or self.state is State.WAITRECOVER)

    # ------------------------------------------------------------ for jobs

    def push(self, step: recovery.Recovery) -> None:
        """Put a step on the rollback stack. Durable on return: only then do what it undoes.

        Raises:
            InvalidRecovery: the table lacks it, so nobody could run it.
            ValueError: a step of that name is there already.
            TaskMetaDataSaveError: it could not be written; nothing was pushed.
        """
        stack = self._record.recoveries
        if self._table.unknown((step,)):
            raise errors.InvalidRecovery(task=self.id, recovery=step.title)
        if any(other.name == step.name for other in stack):
            raise ValueError(f"task {self.id} has a recovery {step.name!r} already")
        self._put(recoveries=(*stack, step))

    def begin(self, *params: str) -> None:
        """Open a scope: what is pushed from here on is replaced by one step in `commit`.

        Args:
            params: parameters of the sentinel; they mean something to other readers of the record only.
        """
        self.push(recovery.sentinel(*params))

    def commit(self, step: recovery.Recovery | None = None) -> None:
        """Close the scope: in one write, drop everything down to the sentinel of `begin`, then push `step`.

        This is the point of no return of the small steps; durable on return.

        Raises:
            ValueError: no scope is open.
            InvalidRecovery, TaskMetaDataSaveError: as in `push`; the stack stays as it was.
        """
        stack = self._record.recoveries
        opened = [index for index, other in enumerate(stack) if other.triple == recovery.SENTINEL]
        if not opened:
            raise ValueError(f"task {self.id} has no open scope")
        if step and self._table.unknown((step,)):
            raise errors.InvalidRecovery(task=self.id, recovery=step.title)
        self._put(recoveries=stack[: opened[-1]] + ((step,) if step else ()))

    def clear_recoveries(self, *left: recovery.Recovery) -> None:
        """Point of no return of the whole task: nothing is undone from here on. Durable on return.

        Args:
            left: steps that finish what is left to be done, should the task not come to its end.

        Raises:
            InvalidRecovery, TaskMetaDataSaveError: as in `push`; the stack stays as it was.
        """
        if unknown := self._table.unknown(left):
            raise errors.InvalidRecovery(task=self.id, recovery=unknown.title)
        self._put(recoveries=left)

    def progress(self, message: str, **extra: Any) -> None:
        """Tell watchers how far the job is; not written.

        Args:
            message: for people.
            extra: more members for the task's status; must be values that the wire can carry.
        """
        self._record = dataclasses.replace(self._record, message=message)
        self.extra = extra

    def check(self) -> None:
        """To be called at every point where a job can stop.

        Raises:
            TaskAborted: somebody asked the running job to stop. Let it pass: the recoveries run then.
        """
        if self.stopping.is_set() and self.state is State.RUNNING:
            raise errors.TaskAborted(task=self.id)

    # ------------------------------------------------------------ for the owner

    def claim(self) -> bool:
        """Become the owner; False when somebody else is."""
        with self._mutex:
            if self._owner is not None:
                return False
            self._owner = threading.get_ident()
            return True

    def disown(self) -> None:
        """Let go of a task that rests."""
        with self._mutex:
            self._owner = None

    @property
    def owned(self) -> bool:
        """Whether some thread works on it."""
        return self._owner is not None

    def enter(self, state: State, **changes: Any) -> None:
        """Go to another state, together with other changes of the record; durable on return when it is `DURABLE`.

        Raises:
            TaskStateTransitionError: the table does not allow it.
            TaskMetaDataSaveError: it could not be written; the task stays where it was.
        """
        if self.state not in SOURCES[state]:
            raise errors.TaskStateTransitionError(task=self.id, state=self.state, wanted=state)
        self._put(write=state in DURABLE, state=state, **changes)

    def retreat(self, state: State, **changes: Any) -> None:
        """As `enter`, for the way back: a rollback that cannot be recorded goes on, since it may run again.

        Raises:
            TaskStateTransitionError: the table does not allow it.
        """
        try:
            self.enter(state, **changes)
        except errors.TaskMetaDataSaveError as error:
            log.error("task %s: state %s is not recorded: %s", self.id, state, error)
            self._put(write=False, state=state, **changes)

    def restart(self) -> None:
        """Take up a record whose process is gone, so that it can be rolled back; nothing is written.

        A rollback that was under way begins anew (the one transition outside of the table); one that had failed stays
        failed.
        """
        if self.state is State.RABORTING:
            self.retreat(State.FAILED)
        elif self.state in (State.RACQUIRING, State.RECOVERING, State.WAITRECOVER, State.INIT):
            self._put(write=False, state=State.ABORTING)
        elif self.state is not State.ABORTING:
            self.enter(State.ABORTING, message=CUT_OFF)

    def release_locks(self) -> None:
        """Give back the locks of the task, if it holds any."""
        if self.held:
            self.held.release()

    def _put(self, *, write: bool = True, **changes: Any) -> None:
        if self._owner != threading.get_ident():
            raise RuntimeError(f"task {self.id} is changed by a thread that does not own it")
        record = dataclasses.replace(self._record, **changes)
        if write and self.store and self._save:
            self._save(self.store, record)
        self._record = record


def info(task: Task) -> dict[str, object]:
    """Wire form of getTaskInfo."""
    return {"id": str(task.id), "verb": task.record.verb}


def status(task: Task) -> dict[str, object]:
    """Wire form of getTaskStatus: always these five members; a running job may add its own."""
    record = task.record
    state, result = _EXTERNAL[task.visible_state]
    extra = dict(task.extra) if record.state is State.RUNNING else {}
    return {
        **extra,
        "taskID": str(record.id),
        "taskState": state,
        "taskResult": result,
        "code": record.code,
        "message": record.message,
    }


def details(task: Task) -> dict[str, object]:
    """Wire form of one entry of getAllTasks."""
    record = task.record
    return {
        **info(task),
        "state": str(task.visible_state),
        "code": record.code,
        "message": record.message,
        "result": record.result,
        "tag": record.tag,
    }


def outcome(error: BaseException) -> tuple[int, str]:
    """Code and message of a job that raised. An unexpected error keeps its details for the log."""
    if isinstance(error, errors.StorageError):
        return error.code, str(error)
    if isinstance(error, OSError) and error.errno:
        reason = os.strerror(error.errno)
    else:
        reason = f"{type(error).__name__}; the log has the details"
    general = errors.GeneralException(reason=reason)
    return general.code, str(general)
