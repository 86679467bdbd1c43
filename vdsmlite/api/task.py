"""Verbs on a background task."""

from storage import ids
from storage.hsm import task
from vdsmlite.api import common


class Task:
    """Verbs on a background task."""

    def __init__(self, services: common.Services, task_id: str) -> None:
        self._services = services
        self._task = ids.TaskId(task_id)

    def get_info(self) -> common.Result:
        return task.get_info(self._services, self._task)

    def get_status(self) -> common.Result:
        return task.get_status(self._services, self._task)

    def stop(self) -> None:
        task.stop(self._services, self._task)

    def clear(self) -> None:
        task.clear(self._services, self._task)

    def revert(self) -> None:
        task.revert(self._services, self._task)
