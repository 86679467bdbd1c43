"""Verbs on background tasks."""

from storage import errors, ids, services as storage_services
from storage.jobs import tasks
from storage.pools import pool

Services = storage_services.Services


def get_info(services: Services, task_id: ids.TaskId) -> dict[str, object]:
    """getTaskInfo: which verb made the task.

    Raises:
        UnknownTask: there is none.
    """
    return {"TaskInfo": tasks.info(services.tasks.get(task_id))}


def get_status(services: Services, task_id: ids.TaskId) -> dict[str, object]:
    """getTaskStatus: state, outcome, and how far a running one is.

    Raises:
        UnknownTask: there is none.
    """
    return {"taskStatus": tasks.status(services.tasks.get(task_id))}


def stop(services: Services, task_id: ids.TaskId) -> None:
    """stopTask: ask for a stop; raises as `taskmanager.Manager.stop`."""
    services.tasks.stop(task_id)


def clear(services: Services, task_id: ids.TaskId) -> None:
    """clearTask: forget a task; raises as `taskmanager.Manager.clear`."""
    services.tasks.clear(task_id)


def revert(services: Services, task_id: ids.TaskId) -> None:
    """revertTask: undo a finished task; raises as `taskmanager.Manager.revert`."""
    services.tasks.revert(task_id)


def get_all_info(services: Services) -> dict[str, object]:
    """getAllTasksInfo: verb by task, tasks of the SPM only.

    Raises:
        SpmStatusError: this host is not the SPM of any pool.
    """
    _require_spm(services)
    return {"allTasksInfo": {str(task.id): tasks.info(task) for task in services.tasks.all(tasks.SPM)}}


def get_all_statuses(services: Services) -> dict[str, object]:
    """getAllTasksStatuses: status by task, tasks of the SPM only.

    Raises:
        SpmStatusError: this host is not the SPM of any pool.
    """
    _require_spm(services)
    return {"allTasksStatus": {str(task.id): tasks.status(task) for task in services.tasks.all(tasks.SPM)}}


def get_all(services: Services) -> dict[str, object]:
    """getAllTasks: every task of this host with its internal state and its result."""
    return {"tasks": {str(task.id): tasks.details(task) for task in services.tasks.all()}}


def _require_spm(services: Services) -> None:
    pools = services.pools.all()
    if not any(each.role is pool.Role.SPM for each in pools):
        raise errors.SpmStatusError(pool=pools[0].id if pools else "(none is connected)")
