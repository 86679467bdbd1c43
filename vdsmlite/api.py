"""The public classes of the API: one method a verb, each one call of the storage floor.

The schema says what a verb takes and answers; the bridge has checked the arguments against it before a method here
runs, and finds class and method by the verb's JSON-RPC name ("Image.deleteVolumes" is ``Image.delete_volumes``).
Here plain values become typed ids, and the wire's quirks end: storage sees one meaning for each argument. Some
arguments are part of the protocol and mean nothing (``scsi_key``); they are taken and dropped here.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from storage import ids
from storage import services as storage_services
from storage.hsm import chain, connection, domain, host, image, pool, task, volume

Services = storage_services.Services
Result = dict[str, Any]
_Id = TypeVar("_Id", ids.PoolId, ids.ImageId, ids.VolumeId)

SECTOR = 512


class API:
    """The API classes, bound to the services that their verbs run on."""

    def __init__(self, services: Services) -> None:
        self.Host = functools.partial(Host, services)
        self.StoragePool = functools.partial(StoragePool, services)
        self.StorageDomain = functools.partial(StorageDomain, services)
        self.Image = functools.partial(Image, services)
        self.Volume = functools.partial(Volume, services)
        self.Task = functools.partial(Task, services)


class Host:
    """Verbs that concern this host as a whole."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def ping(self) -> None:
        host.ping(self._services)

    def get_vm_list(self, vm_list: Sequence[str] = (), only_uuid: bool = True) -> Result:
        return host.get_vm_list(self._services)

    def get_capabilities(self) -> Result:
        return host.get_capabilities(self._services)

    def get_stats(self) -> Result:
        return host.get_stats(self._services)

    def get_storage_domains(
        self,
        pool_id: str | None = None,
        domain_class: int | None = None,
        storage_type: int | str | None = None,
        remote_path: str | None = None,
    ) -> Result:
        """No filter is None, 0 or an empty text: the engine sends a text, a client leaves it out."""
        return domain.get_list(
            self._services,
            _or_none(ids.PoolId, pool_id),
            domain_class or None,
            int(storage_type or 0) or None,
            remote_path or None,
        )

    def get_connected_storage_pools(self) -> Result:
        return pool.get_connected_list(self._services)

    def get_all_tasks_info(self) -> Result:
        return task.get_all_info(self._services)

    def get_all_tasks_statuses(self) -> Result:
        return task.get_all_statuses(self._services)

    def get_all_tasks(self) -> Result:
        return task.get_all(self._services)


class StoragePool:
    """Verbs on a storage pool, and on the connections to storage servers, which the protocol files here."""

    def __init__(self, services: Services, pool_id: str) -> None:
        self._services = services
        self._pool = ids.PoolId(pool_id)

    def connect_storage_server(self, domain_type: int, connection_params: list[dict[str, Any]]) -> Result:
        return connection.connect(self._services, domain_type, connection_params)

    def disconnect_storage_server(self, domain_type: int, connection_params: list[dict[str, Any]]) -> Result:
        return connection.disconnect(self._services, domain_type, connection_params)

    def validate_storage_server_connection(self, domain_type: int, connection_params: list[dict[str, Any]]) -> Result:
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

    def get_info(self) -> Result:
        return pool.get_info(self._services, self._pool)

    def spm_start(
        self,
        prev_id: int,
        prev_lver: int,
        enable_scsi_fencing: object,
        max_host_id: int = 250,
        dom_version: int | None = None,
    ) -> Result:
        return pool.spm_start(self._services, self._pool, prev_id, prev_lver, max_host_id, dom_version)

    def spm_stop(self) -> None:
        pool.spm_stop(self._services, self._pool)

    def get_spm_status(self) -> Result:
        return pool.get_spm_status(self._services, self._pool)


class StorageDomain:
    """Verbs on a storage domain."""

    def __init__(self, services: Services, domain_id: str) -> None:
        self._services = services
        self._domain = ids.DomainId(domain_id)

    def create(self, domain_type: int, type_args: str, name: str, domain_class: int, version: int = 0) -> None:
        domain.create(self._services, self._domain, domain_type, type_args, name, domain_class, version)

    def format(self, auto_detach: bool = False) -> None:
        domain.format(self._services, self._domain, auto_detach)

    def validate(self) -> None:
        domain.validate(self._services, self._domain)

    def get_info(self) -> Result:
        return domain.get_info(self._services, self._domain)

    def get_stats(self) -> Result:
        return domain.get_stats(self._services, self._domain)

    def get_images(self) -> Result:
        return domain.get_images(self._services, self._domain)

    def get_volumes(self, pool_id: str, image_id: str | None = None) -> Result:
        return domain.get_volumes(self._services, self._domain, _or_none(ids.ImageId, image_id))


class Image:
    """Verbs on an image: a disk, which is a chain of volumes."""

    def __init__(self, services: Services, image_id: str, pool_id: str, domain_id: str) -> None:
        self._services = services
        self._image = ids.ImageId(image_id)
        self._pool = ids.PoolId(pool_id)
        self._domain = ids.DomainId(domain_id)

    def delete(self, post_zero: bool = False, force: bool = False) -> Result:
        return image.delete(self._services, self._pool, self._domain, self._image, post_zero, force)

    def delete_volumes(self, volume_list: Sequence[str], post_zero: bool = False, force: bool = False) -> Result:
        volumes = [ids.VolumeId(each) for each in volume_list]
        return image.delete_volumes(self._services, self._pool, self._domain, self._image, volumes, post_zero, force)

    def prepare(self, volume_id: str | None = None) -> Result:
        wanted = _or_none(ids.VolumeId, volume_id)
        return image.prepare(self._services, self._pool, self._domain, self._image, wanted)

    def teardown(self, volume_id: str | None = None) -> None:
        wanted = _or_none(ids.VolumeId, volume_id)
        image.teardown(self._services, self._pool, self._domain, self._image, wanted)

    def reconcile_volume_chain(self, leaf_vol_id: str, options: Mapping[str, Any] | None = None) -> Result:
        leaf = ids.VolumeId(leaf_vol_id)
        return chain.reconcile_volume_chain(self._services, self._pool, self._domain, self._image, leaf, options)

    def get_volume_chain(self, leaf_vol_id: str | None = None) -> Result:
        leaf = _or_none(ids.VolumeId, leaf_vol_id)
        return chain.get_volume_chain(self._services, self._pool, self._domain, self._image, leaf)

    def prove_volume_chain(self, leaf_vol_id: str) -> Result:
        leaf = ids.VolumeId(leaf_vol_id)
        return chain.prove_volume_chain(self._services, self._pool, self._domain, self._image, leaf)


class Volume:
    """Verbs on one volume."""

    def __init__(self, services: Services, volume_id: str, pool_id: str, domain_id: str, image_id: str) -> None:
        self._services = services
        self._volume = ids.VolumeId(volume_id)
        self._pool = ids.PoolId(pool_id)
        self._domain = ids.DomainId(domain_id)
        self._image = ids.ImageId(image_id)

    def create(
        self,
        size: int | str,
        vol_format: int,
        preallocate: int,
        disk_type: int | str,
        desc: str,
        src_img_uuid: str | None = None,
        src_vol_uuid: str | None = None,
    ) -> Result:
        """The same digits mean sectors as a number and bytes as a text; below here it is bytes."""
        return volume.create(
            self._services,
            self._pool,
            self._domain,
            self._image,
            self._volume,
            int(size) if isinstance(size, str) else size * SECTOR,
            vol_format,
            preallocate,
            str(disk_type),
            desc,
            ids.ImageId(src_img_uuid or ids.BLANK),
            ids.VolumeId(src_vol_uuid or ids.BLANK),
        )

    def get_info(self) -> Result:
        return volume.get_info(self._services, self._pool, self._domain, self._image, self._volume)

    def get_path(self) -> Result:
        return volume.get_path(self._services, self._pool, self._domain, self._image, self._volume)

    def get_size(self) -> Result:
        return volume.get_size(self._services, self._pool, self._domain, self._image, self._volume)

    def set_description(self, description: str) -> None:
        volume.set_description(self._services, self._pool, self._domain, self._image, self._volume, description)

    def set_legality(self, legality: str) -> None:
        volume.set_legality(self._services, self._pool, self._domain, self._image, self._volume, legality)


class Task:
    """Verbs on a background task."""

    def __init__(self, services: Services, task_id: str) -> None:
        self._services = services
        self._task = ids.TaskId(task_id)

    def get_info(self) -> Result:
        return task.get_info(self._services, self._task)

    def get_status(self) -> Result:
        return task.get_status(self._services, self._task)

    def stop(self) -> None:
        task.stop(self._services, self._task)

    def clear(self) -> None:
        task.clear(self._services, self._task)

    def revert(self) -> None:
        task.revert(self._services, self._task)


def _or_none(kind: type[_Id], text: str | None) -> _Id | None:
    """The id, or None where the protocol says "none": left out or the blank id."""
    return None if text is None or text == ids.BLANK else kind(text)
