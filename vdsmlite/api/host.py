"""Verbs that concern this host as a whole."""

from collections.abc import Sequence

from storage import ids
from storage.hsm import domain, host, monitoring, pool, task
from vdsmlite.api import common


class Host:
    """Verbs that concern this host as a whole."""

    def __init__(self, services: common.Services) -> None:
        self._services = services

    def ping(self) -> None:
        host.ping(self._services)

    def get_vm_list(self, vm_list: Sequence[str] = (), only_uuid: bool = True) -> common.Result:
        return host.get_vm_list(self._services)

    def get_capabilities(self) -> common.Result:
        return host.get_capabilities(self._services)

    def get_stats(self) -> common.Result:
        return host.get_stats(self._services)

    def get_storage_domains(
        self,
        pool_id: str | None = None,
        domain_class: int | None = None,
        storage_type: int | str | None = None,
        remote_path: str | None = None,
    ) -> common.Result:
        """No filter is None, 0 or an empty text: the engine sends a text, a client leaves it out."""
        return domain.get_list(
            self._services,
            common.or_none(ids.PoolId, pool_id),
            domain_class or None,
            int(storage_type or 0) or None,
            remote_path or None,
        )

    def get_storage_repo_stats(self) -> common.Result:
        return monitoring.repo_stats(self._services)

    def start_monitoring_domain(self, sd_uuid: str, host_id: int) -> None:
        monitoring.start(self._services, ids.DomainId(sd_uuid), host_id)

    def stop_monitoring_domain(self, sd_uuid: str) -> None:
        monitoring.stop(self._services, ids.DomainId(sd_uuid))

    def get_connected_storage_pools(self) -> common.Result:
        return pool.get_connected_list(self._services)

    def get_all_tasks_info(self) -> common.Result:
        return task.get_all_info(self._services)

    def get_all_tasks_statuses(self) -> common.Result:
        return task.get_all_statuses(self._services)

    def get_all_tasks(self) -> common.Result:
        return task.get_all(self._services)
