"""A task machine over a real store, whose recoveries note what ran, and jobs that wait until a test lets them go on."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import errors, locks
from storage.jobs import recovery, taskmanager, tasks, taskstore

SECONDS = 20.0
Job = Callable[[tasks.Task], object]


class Machine:
    """A manager over a store, with recoveries that note what ran."""

    def __init__(self, store: Path, *, workers: int = 2, limit: int = 10, known: tuple[str, ...] = ("undo",)) -> None:
        store.mkdir(exist_ok=True)
        self.store = store
        self.undone: list[str] = []
        actions: dict[recovery.Triple, recovery.Action] = {("m", "O", name): self.undo for name in known}
        actions["m", "O", "broken"] = self.fail
        self.locks = locks.LockTable(timeout=0.05)
        self.manager = taskmanager.Manager(recovery.Table(actions), self.locks, workers=workers, limit=limit)

    def undo(self, _context: object, _task: object, params: tuple[str, ...]) -> None:
        """A recovery that works."""
        self.undone.append(params[0])

    def fail(self, _context: object, _task: object, params: tuple[str, ...]) -> None:
        """A recovery that does not."""
        raise errors.ImageDeleteError(image=params[0], reason="still there")

    def schedule(self, job: Job, **options: Any) -> tasks.Task:
        """Schedule a job with a record in the store, unless options say otherwise."""
        options.setdefault("store", self.store)
        return self.manager.get(self.manager.schedule("createVolume", job, **options))

    def run(self, job: Job, **options: Any) -> tasks.Task:
        """As `schedule`, and wait for its end."""
        task = self.schedule(job, **options)
        assert self.manager.wait(task.id, SECONDS)
        return task

    def on_disk(self, task: tasks.Task) -> tasks.Record | None:
        """What the store says of a task."""
        return next((record for record in taskstore.load(self.store)[0] if record.id == task.id), None)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine over an empty store, shut down at the end."""
    made = Machine(tmp_path / "tasks")
    yield made
    made.manager.shutdown(SECONDS)


def step(name: str, function: str = "undo") -> recovery.Recovery:
    """A recovery that notes its name."""
    return recovery.Recovery(name, "m", "O", function, (name,))


class Gate:
    """A job that waits inside until the test lets it go on."""

    def __init__(self, *, polls: bool = True) -> None:
        self.inside = threading.Event()
        self.open = threading.Event()
        self._polls = polls

    def __call__(self, task: tasks.Task) -> str:
        task.push(step("a"))
        self.inside.set()
        while not self.open.wait(0.01):
            if self._polls:
                task.check()
        return "done"
