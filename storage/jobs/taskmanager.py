"""The task machine: who runs tasks, when, and what becomes of them.

A verb schedules a job and answers with the task's id. The record says `queued` before anybody may run it, `running`
before the job begins, `finished` before success is reported, and `recovering` before the first recovery runs, so that
whatever a crash cuts off is rolled back by the next SPM (`load` and `recover`). Jobs are never run again. Rolling back
runs the recoveries last in, first out; they may run twice.

Locks that a verb took for its task are the task's until its end, and are taken again before a rollback after a restart.
"""

import collections
import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from storage import errors, ids, locks
from storage.jobs import recovery, taskrun, tasks, taskstore

log = logging.getLogger(__name__)

_Action = Callable[[tasks.Task], None]
_S = tasks.State

_PATIENCE = 10.0  # seconds that a done task may take to give its locks back


class Manager:
    """All tasks of the process.

    Args:
        table: recoveries that may be run.
        lock_table: where locks are taken again for a rollback.
        workers: most jobs at a time.
        limit: most tasks that wait for a worker.
    """

    def __init__(
        self, table: recovery.Table, lock_table: locks.LockTable, *, workers: int = 10, limit: int = 500
    ) -> None:
        self._table = table
        self._lock_table = lock_table
        self._workers = workers
        self._limit = limit
        self._condition = threading.Condition()
        self._tasks: dict[ids.TaskId, tasks.Task] = {}
        self._queue: collections.deque[tuple[tasks.Task, _Action]] = collections.deque()
        self._closed: set[Path] = set()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._stopped = False

    # ------------------------------------------------------------ new tasks

    def schedule(
        self,
        verb: str,
        job: taskrun.Job,
        *,
        tag: str = tasks.SPM,
        held: locks.Held | None = None,
        store: Path | None = None,
    ) -> ids.TaskId:
        """Queue a job as a new task; when this returns, the task is recorded and will run.

        Args:
            verb: public name of the verb.
            job: gets the task; what it returns is the result, what it raises the outcome.
            tag: `tasks.SPM` or `tasks.HSM`.
            held: locks of the task. They are the task's from now on, also when this raises.
            store: where the record is kept; None for a task that need not survive the process.

        Raises:
            AddTaskError: the queue is full, the process ends, or the store is closed.
            TaskMetaDataSaveError: the record cannot be written.
        """
        locked = held.locks if held else ()
        task = self._make(tasks.Record(ids.TaskId.new(), verb, tag, jobs=(verb,), locked=locked), store)
        task.held = held
        task.claim()
        try:
            self._admit(task)
            self._begin(task)
        except BaseException:
            task.release_locks()
            raise
        self._enqueue(task, functools.partial(taskrun.run, self._table, job))
        return task.id

    def _make(self, record: tasks.Record, store: Path | None) -> tasks.Task:
        return tasks.Task(record, store=store, save=taskstore.save, table=self._table)

    def _admit(self, task: tasks.Task) -> None:
        with self._condition:
            if self._stopped:
                raise errors.AddTaskError(task=task.id, reason="the daemon is about to end")
            if task.store in self._closed:
                raise errors.AddTaskError(task=task.id, reason="this host is not the SPM any more")
            if len(self._queue) >= self._limit:
                raise errors.AddTaskError(task=task.id, reason=f"{self._limit} tasks are waiting already")
            self._tasks[task.id] = task

    def _begin(self, task: tasks.Task) -> None:
        try:
            task.enter(_S.PREPARING)
            task.enter(_S.ACQUIRING)
            task.enter(_S.QUEUED)
        except BaseException:
            with self._condition:
                self._tasks.pop(task.id, None)
            if task.store:
                # Best effort: a record that stays announces nothing to undo.
                with contextlib.suppress(OSError):
                    taskstore.remove(task.store, task.id)
            raise

    def _enqueue(self, task: tasks.Task, action: _Action) -> None:
        with self._condition:
            task.disown()
            self._queue.append((task, action))
            if self._idle < len(self._queue) and len(self._threads) < self._workers:
                thread = threading.Thread(target=self._work, name=f"task-worker-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._condition.notify_all()

    # ------------------------------------------------------------ workers

    def _work(self) -> None:
        while picked := self._pick():
            task, action = picked
            try:
                action(task)
            except Exception:  # a fault of this machinery must not cost a worker; the task stays visible as it is
                log.exception("task %s: unexpected", task.id)
            finally:
                self._rest(task)

    def _pick(self) -> tuple[tasks.Task, _Action] | None:
        with self._condition:
            self._idle += 1
            self._condition.wait_for(lambda: self._queue or self._stopped)
            self._idle -= 1
            if self._stopped:
                return None
            task, action = self._queue.popleft()
            task.claim()
            return task, action

    def _rest(self, task: tasks.Task) -> None:
        task.release_locks()
        with self._condition:
            task.disown()
            self._condition.notify_all()

    # ------------------------------------------------------------ verbs

    def get(self, task_id: ids.TaskId) -> tasks.Task:
        """A task by its id.

        Raises:
            UnknownTask: there is none.
        """
        with self._condition:
            task = self._tasks.get(task_id)
        if task is None:
            raise errors.UnknownTask(task=task_id)
        return task

    def all(self, tag: str = "") -> list[tasks.Task]:
        """All tasks whose tag contains `tag`, oldest first."""
        with self._condition:
            return [task for task in self._tasks.values() if tag in task.record.tag]

    def stop(self, task_id: ids.TaskId) -> None:
        """Ask a task to stop; success when it is done already.

        A task that waits is rolled back here and now; a running one when its job looks (`Task.check`) or ends. A parked
        one is given up: it ends as failed, its recoveries still not run.

        Raises:
            UnknownTask: there is none.
            TaskAborted: it is on its way to an end already.
        """
        task = self.get(task_id)
        with self._condition:
            state = task.visible_state
            if state in tasks.DONE:
                return
            waiting = next((item for item in self._queue if item[0] is task), None)
            if state is _S.QUEUED and waiting:
                self._queue.remove(waiting)
                mine = task.claim()
            else:
                mine = state is _S.WAITRECOVER and task.claim()
            if not mine:
                if state not in (_S.INIT, _S.PREPARING, _S.ACQUIRING, _S.QUEUED, _S.RUNNING):
                    raise errors.TaskAborted(task=task_id)
                task.stopping.set()
                return
        try:
            if state is _S.WAITRECOVER:
                task.retreat(_S.RABORTING)
                task.retreat(_S.FAILED, message=f"{task.record.message}; given up")
            else:
                taskrun.roll_back(self._table, task, 0, taskrun.STOPPED_EARLY)
        finally:
            self._rest(task)

    def clear(self, task_id: ids.TaskId) -> None:
        """Forget a task, on disk first. A task without a record is forgotten even while it runs.

        Raises:
            UnknownTask: there is none.
            TaskStateError: it has a record and is not done.
            TaskClearError: its record cannot be removed.
        """
        task = self.get(task_id)
        if task.store:
            if not self._take_over(task, tasks.DONE):
                raise errors.TaskStateError(task=task_id, state=task.visible_state)
            try:
                # Without the role the record belongs to the next SPM, and shows again should that be this host.
                if task.store not in self._closed:
                    taskstore.remove(task.store, task_id)
            except OSError as error:
                raise errors.TaskClearError(task=task_id, reason=error.strerror or str(error)) from error
            finally:
                self._rest(task)
        with self._condition:
            self._tasks.pop(task_id, None)

    def revert(self, task_id: ids.TaskId) -> None:
        """Run the recoveries that a finished task kept, in the caller's thread; the outcome is in the task's status.

        Raises:
            UnknownTask: there is none.
            TaskNotFinished: it is not done.
            TaskStateTransitionError: it was rolled back, cannot be, or somebody does it just now.
            InvalidRecovery: a recovery is not known here; nothing was run.
            ResourceTimeout: its locks are not to be had; nothing was run.
        """
        task = self.get(task_id)
        if task.state not in tasks.DONE:
            raise errors.TaskNotFinished(task=task_id, state=task.visible_state)
        if step := self._table.unknown(task.record.recoveries):
            raise errors.InvalidRecovery(task=task_id, recovery=step.title)
        if task.state is not _S.FINISHED or task.store in self._closed:
            raise errors.TaskStateTransitionError(task=task_id, state=task.state, wanted=_S.RECOVERING)
        with self._lock_table.hold(*task.record.locked, title=f"revert of task {task_id}"):
            if not self._take_over(task, {_S.FINISHED}):
                raise errors.TaskStateTransitionError(task=task_id, state=task.state, wanted=_S.RECOVERING)
            try:
                task.enter(_S.RACQUIRING)
                taskrun.recover(self._table, task)
            finally:
                self._rest(task)

    def _take_over(self, task: tasks.Task, states: Collection[_S]) -> bool:
        """Own a task that is in one of the states, waiting for an owner who just ends; False when it is not."""
        with self._condition:
            self._condition.wait_for(lambda: task.state not in states or not task.owned, _PATIENCE)
            return task.state in states and task.claim()

    # ------------------------------------------------------------ restart

    def load(self, store: Path) -> list[ids.TaskId]:
        """Make the records of a store visible, and take the locks of those to be rolled back. Nothing runs yet.

        The store counts: tasks of it that this process knows from before are replaced, or forgotten when their record
        is gone. It is open for new tasks from now on.

        Raises:
            OSError: the store cannot be read.
            AddTaskError: one of its tasks is still at work in this process.
            ResourceTimeout: a lock is not to be had. Nothing was loaded, as in all these cases.
        """
        taskstore.sweep(store)
        records, problems = taskstore.load(store)
        for problem in problems:
            log.error("%s", problem)
        loaded = [self._make(record, store) for record in records]
        try:
            for task in loaded:
                if task.state not in tasks.DONE:
                    task.held = self._lock_table.take(task.record.locked, f"rollback of task {task.id}")
            self._replace(store, loaded)
        except BaseException:
            for task in loaded:
                task.release_locks()
            raise
        return [task.id for task in loaded]

    def _replace(self, store: Path, loaded: list[tasks.Task]) -> None:
        with self._condition:
            for task in loaded:
                known = self._tasks.get(task.id)
                if known and not known.resting:
                    raise errors.AddTaskError(task=task.id, reason="it is still at work here")
            for known in list(self._tasks.values()):
                if known.store == store and known.resting:
                    del self._tasks[known.id]
            self._tasks.update({task.id: task for task in loaded})
            self._closed.discard(store)

    def recover(self, task_ids: Iterable[ids.TaskId]) -> None:
        """Roll back what `load` found unfinished, on the workers; done tasks stay as they are."""
        for task_id in task_ids:
            task = self.get(task_id)
            if task.state in tasks.DONE:
                continue
            task.claim()
            task.restart()
            if task.state is _S.FAILED:
                self._rest(task)
            else:
                log.info("task %s (%s) was cut off and is rolled back", task.id, task.record.verb)
                self._enqueue(task, functools.partial(taskrun.resume, self._table))

    def busy(self, store: Path) -> ids.TaskId | None:
        """A task that the SPM must not leave behind, if there is one."""
        with self._condition:
            # A done task may still be giving its locks back.
            self._condition.wait_for(lambda: all(task.state not in tasks.DONE for task in self._left(store)), _PATIENCE)
            return next((task.id for task in self._left(store)), None)

    def _left(self, store: Path) -> list[tasks.Task]:
        mine = [task for task in self._tasks.values() if task.store == store or task.record.tag == tasks.SPM]
        return [task for task in mine if not task.resting]

    def close(self, store: Path) -> ids.TaskId | None:
        """Take no more tasks of a store, unless it is `busy`: then the task that keeps it so.

        What rests stays visible; it may be looked at, but not reverted.
        """
        with self._condition:
            if busy := self.busy(store):
                return busy
            self._closed.add(store)
            return None

    def open(self, store: Path) -> None:
        """Take `close` back."""
        with self._condition:
            self._closed.discard(store)

    def unload(self, task_ids: Iterable[ids.TaskId]) -> None:
        """Take `load` back; the records stay."""
        for task_id in task_ids:
            task = self.get(task_id)
            task.release_locks()
            with self._condition:
                self._tasks.pop(task_id, None)

    # ------------------------------------------------------------ end

    def wait(self, task_id: ids.TaskId, seconds: float) -> bool:
        """Wait until a task rests; whether it does."""
        task = self.get(task_id)
        with self._condition:
            return self._condition.wait_for(lambda: task.resting, seconds)

    def shutdown(self, seconds: float) -> list[ids.TaskId]:
        """Begin no more tasks, and wait for those at work.

        What still runs after half of the time is asked to stop. Every phase is on record before it is acted upon, so
        what does not stop in time may be killed: it is rolled back later, as is what waits in the queue.

        Args:
            seconds: most time this takes.

        Returns:
            Tasks that are still at work.
        """
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
            if not self._condition.wait_for(lambda: not self._at_work(), seconds / 2):
                for task in self._at_work():
                    task.stopping.set()
                self._condition.wait_for(lambda: not self._at_work(), seconds / 2)
            return [task.id for task in self._at_work()]

    def _at_work(self) -> list[tasks.Task]:
        return [task for task in self._tasks.values() if task.owned]
