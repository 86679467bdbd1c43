"""Verbs on a storage pool, and on the connections to storage servers, which the protocol files here."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage import ids
from storage.hsm import connection, copy, description as naming, iso, machines, master, pool, upgrade as upgrading
from vdsmlite.api import common


class StoragePool:
    """Verbs on a storage pool, and on the connections to storage servers, which the protocol files here."""

    def __init__(self, services: common.Services, pool_id: str) -> None:
        self._services = services
        self._pool = ids.PoolId(pool_id)

    def connect_storage_server(self, domain_type: int, connection_params: list[dict[str, Any]]) -> common.Result:
        return connection.connect(self._services, domain_type, connection_params)

    def disconnect_storage_server(self, domain_type: int, connection_params: list[dict[str, Any]]) -> common.Result:
        return connection.disconnect(self._services, domain_type, connection_params)

    def validate_storage_server_connection(
        self, domain_type: int, connection_params: list[dict[str, Any]]
    ) -> common.Result:
        return connection.validate(self._services, domain_type, connection_params)

    def create(
        self,
        name: str,
        master_sd_uuid: str,
        master_version: int,
        domain_list: Sequence[str],
        lock_renewal_interval_sec: int | None = None,
        lease_time_sec: int | None = None,
        io_op_timeout_sec: int | None = None,
        lease_retries: int | None = None,
    ) -> None:
        pool.create(
            self._services,
            self._pool,
            name,
            ids.DomainId(master_sd_uuid),
            [ids.DomainId(each) for each in domain_list],
            master_version,
            lock_renewal_interval_sec,
            lease_time_sec,
            io_op_timeout_sec,
            lease_retries,
        )

    def connect(
        self,
        host_id: int,
        scsi_key: str,
        master_sd_uuid: str,
        master_version: int,
        domain_dict: Mapping[str, str] | None = None,
    ) -> None:
        """Statuses come in any case (the engine sends small letters) and go down capitalised, as they are stored."""
        domains = None
        if domain_dict is not None:
            domains = {ids.DomainId(each): status.capitalize() for each, status in domain_dict.items()}
        master = ids.DomainId(master_sd_uuid)
        pool.connect(self._services, self._pool, host_id, master, master_version, domains)

    def disconnect(self, host_id: int, scsi_key: str, remove: bool = False) -> None:
        pool.disconnect(self._services, self._pool, host_id)

    def destroy(self, host_id: int, scsi_key: str) -> None:
        pool.destroy(self._services, self._pool, host_id)

    def get_info(self) -> common.Result:
        return pool.get_info(self._services, self._pool)

    def spm_start(
        self,
        prev_id: int,
        prev_lver: int,
        enable_scsi_fencing: object,
        max_host_id: int = 250,
        dom_version: int | None = None,
    ) -> common.Result:
        return pool.spm_start(self._services, self._pool, prev_id, prev_lver, max_host_id, dom_version)

    def spm_stop(self) -> None:
        pool.spm_stop(self._services, self._pool)

    def get_spm_status(self) -> common.Result:
        return pool.get_spm_status(self._services, self._pool)

    def get_iso_list(self, filename_extension: str = "iso") -> common.Result:
        return iso.get_iso_list(self._services, self._pool, filename_extension)

    def get_floppy_list(self) -> common.Result:
        return iso.get_floppy_list(self._services, self._pool)

    def get_domains_containing_image(self, image_id: str) -> common.Result:
        return iso.get_image_domains_list(self._services, self._pool, ids.ImageId(image_id))

    def get_backed_up_vms_list(self, domain_id: str | None = None) -> common.Result:
        return machines.get_list(self._services, self._pool, _domain(domain_id))

    def get_backed_up_vms_info(
        self, domain_id: str | None = None, vm_list: Sequence[str] | None = None
    ) -> common.Result:
        wanted = [ids.VmId(each) for each in vm_list or ()]
        return machines.get_info(self._services, self._pool, _domain(domain_id), wanted)

    def update_vms(self, vm_list: Sequence[Mapping[str, str]], domain_id: str | None = None) -> None:
        machines.update(self._services, self._pool, vm_list, _domain(domain_id))

    def remove_vm(self, vm_uuid: str, domain_id: str | None = None) -> None:
        machines.remove(self._services, self._pool, ids.VmId(vm_uuid), _domain(domain_id))

    def fence(self) -> common.Result:
        return pool.fence(self._services, self._pool)

    def refresh(self, master_sd_uuid: str, master_version: int) -> None:
        master.refresh(self._services, self._pool, ids.DomainId(master_sd_uuid), master_version)

    def set_description(self, description: str) -> None:
        naming.set_pool(self._services, self._pool, description)

    def upgrade(self, target_dom_version: int) -> common.Result:
        return upgrading.upgrade(self._services, self._pool, target_dom_version)

    def reconstruct_master(
        self,
        name: str,
        master_sd_uuid: str,
        master_version: int,
        domain_dict: Mapping[str, str],
        host_id: int | None = None,
        lock_renewal_interval_sec: int | None = None,
        lease_time_sec: int | None = None,
        io_op_timeout_sec: int | None = None,
        lease_retries: int | None = None,
    ) -> None:
        master.reconstruct(
            self._services,
            self._pool,
            name,
            ids.DomainId(master_sd_uuid),
            master_version,
            {ids.DomainId(each): status for each, status in domain_dict.items()},
            host_id,
            lock_renewal_interval_sec,
            lease_time_sec,
            io_op_timeout_sec,
            lease_retries,
        )

    def move_multiple_images(
        self, src_sd_uuid: str, dst_sd_uuid: str, img_dict: Mapping[str, object], force: bool = False
    ) -> common.Result:
        """What the images are mapped to, whether to overwrite the originals, means nothing to files."""
        origin, target = ids.DomainId(src_sd_uuid), ids.DomainId(dst_sd_uuid)
        images = [ids.ImageId(each) for each in img_dict]
        return copy.move_multiple(self._services, self._pool, origin, target, images, force)


def _domain(text: str | None) -> ids.DomainId | None:
    """The domain, or None for the pool's master, for which an empty text stands, too."""
    return common.or_none(ids.DomainId, text or None)
