"""Verbs that concern this host as a whole."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage import fencing, ids
from storage.hsm import block, domain, fence, host, monitoring, pool, task, vm
from vdsmlite.api import common


class Host:
    """Verbs that concern this host as a whole."""

    def __init__(self, services: common.Services) -> None:
        self._services = services

    def ping(self) -> None:
        host.ping(self._services)

    def get_hardware_info(self) -> common.Result:
        return host.get_hardware_info(self._services)

    def set_log_level(self, level: int) -> None:
        host.set_log_level(self._services, level)

    def prepare_for_shutdown(self) -> None:
        host.prepare_for_shutdown(self._services)

    def fence_node(
        self,
        addr: str,
        port: str,
        agent: str,
        username: str,
        password: str,
        action: str,
        secure: bool = False,
        options: str = "",
        policy: Mapping[str, Any] | None = None,
    ) -> common.Result:
        given = fencing.Request(agent, addr, port, username, password, action, secure, options)
        found = (policy or {}).get("storageDomainHostIdMap") or {}
        return fence.fence(self._services, given, {ids.DomainId(each): int(found[each]) for each in found})

    def get_all_vm_stats(self) -> common.Result:
        return vm.get_all_stats(self._services)

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

    def get_lvm_volume_groups(self, storage_type: int | None = None) -> common.Result:
        return block.get_volume_groups(self._services, storage_type)

    def get_device_list(self, storage_type: int | str | None = None) -> common.Result:
        return block.get_devices(self._services, storage_type)

    def get_devices_visibility(self, guid_list: Sequence[str]) -> common.Result:
        return block.get_visibility(self._services, guid_list)

    def get_connected_storage_pools(self) -> common.Result:
        return pool.get_connected_list(self._services)

    def get_all_tasks_info(self) -> common.Result:
        return task.get_all_info(self._services)

    def get_all_tasks_statuses(self) -> common.Result:
        return task.get_all_statuses(self._services)

    def get_all_tasks(self) -> common.Result:
        return task.get_all(self._services)
