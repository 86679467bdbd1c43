"""Running one task to its end, in the thread that owns it: the job, or the way back."""

import logging
from collections.abc import Callable

from storage import errors
from storage.jobs import recovery, tasks

log = logging.getLogger(__name__)

Job = Callable[[tasks.Task], object]

STOPPED_EARLY = "stopped before it began"

_S = tasks.State


def run(table: recovery.Table, job: Job, task: tasks.Task) -> None:
    """Run the job of a queued task. Success counts when `finished` is on disk; all else is rolled back."""
    if task.stopping.is_set():
        roll_back(table, task, 0, STOPPED_EARLY)
        return
    try:
        task.enter(_S.RUNNING, message="running")
        result = job(task)
        if not task.stopping.is_set():
            task.enter(_S.FINISHED, code=0, message="1 of 1 jobs done", result="" if result is None else result)
            return
        code, message = 0, "stopped; the job had come to its end and was undone"
    except Exception as error:  # whatever a job raises is the outcome of its task, not the end of its worker
        unexpected = not isinstance(error, errors.StorageError)
        log.info("task %s (%s) failed: %s", task.id, task.record.verb, error, exc_info=unexpected)
        code, message = tasks.outcome(errors.TaskAborted(task=task.id) if task.stopping.is_set() else error)
    roll_back(table, task, code, message)


def roll_back(table: recovery.Table, task: tasks.Task, code: int, message: str) -> None:
    """Undo an unfinished task, or park it when one of its recoveries is not known here: then none runs.

    Args:
        table: what may be run.
        task: a task that is not done.
        code: outcome to show.
        message: the reason to show.
    """
    if task.state is not _S.ABORTING:
        task.retreat(_S.ABORTING, code=code, message=message)
    task.stopping.clear()
    if step := table.unknown(task.record.recoveries):
        refusal = errors.InvalidRecovery(task=task.id, recovery=step.title)
        log.error("%s; the task is parked", refusal)
        task.retreat(_S.WAITRECOVER, code=code or refusal.code, message=f"{message}; {refusal}")
        return
    task.retreat(_S.RACQUIRING)
    recover(table, task)


def resume(table: recovery.Table, task: tasks.Task) -> None:
    """Roll back a task whose process is gone."""
    roll_back(table, task, task.record.code, task.record.message)


def recover(table: recovery.Table, task: tasks.Task) -> None:
    """Run the recoveries of a `racquiring` task, last in, first out."""
    task.retreat(_S.RECOVERING)
    steps = task.record.recoveries
    for number, step in reversed(list(enumerate(steps))):
        try:
            table.run(task, step)
        except Exception as error:  # any failure ends the rollback: lower steps rely on the upper ones
            # Some recoveries end so by design: a transfer that was cut is settled by saying that it stays ILLEGAL.
            unexpected = not isinstance(error, errors.StorageError)
            log.error("task %s: recovery %s failed: %s", task.id, step.title, error, exc_info=unexpected)
            _give_up(task, step, steps[: number + 1], error)
            return
    task.retreat(_S.RECOVERED, recoveries=())


def _give_up(task: tasks.Task, step: recovery.Recovery, left: tuple[recovery.Recovery, ...], error: Exception) -> None:
    code, reason = tasks.outcome(error)
    record = task.record
    message = f"{record.message}; recovery {step.title} failed: {reason}"
    task.retreat(_S.RABORTING)
    task.retreat(_S.FAILED, code=record.code or code, message=message, recoveries=left)
