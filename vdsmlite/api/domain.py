"""Verbs on a storage domain."""

from collections.abc import Sequence

from storage import ids
from storage.hsm import block, description as naming, domain, iso, membership
from vdsmlite.api import common


class StorageDomain:
    """Verbs on a storage domain."""

    def __init__(self, services: common.Services, domain_id: str) -> None:
        self._services = services
        self._domain = ids.DomainId(domain_id)

    def create(self, domain_type: int, type_args: str, name: str, domain_class: int, version: int = 0) -> None:
        domain.create(self._services, self._domain, domain_type, type_args, name, domain_class, version)

    def format(self, auto_detach: bool = False) -> None:
        domain.format(self._services, self._domain, auto_detach)

    def extend(self, pool_id: str, devlist: Sequence[str], force: bool = False) -> None:
        block.extend(self._services, ids.PoolId(pool_id), self._domain, devlist, force)

    def validate(self) -> None:
        domain.validate(self._services, self._domain)

    def get_info(self) -> common.Result:
        return domain.get_info(self._services, self._domain)

    def get_stats(self) -> common.Result:
        return domain.get_stats(self._services, self._domain)

    def get_images(self) -> common.Result:
        return domain.get_images(self._services, self._domain)

    def get_volumes(self, pool_id: str, image_id: str | None = None) -> common.Result:
        return domain.get_volumes(self._services, self._domain, common.or_none(ids.ImageId, image_id))

    def get_file_stats(self, pattern: str = "*", case_sensitive: bool = False) -> common.Result:
        return iso.get_file_stats(self._services, self._domain, pattern, case_sensitive)

    def attach(self, pool_id: str) -> None:
        membership.attach(self._services, self._domain, ids.PoolId(pool_id))

    def activate(self, pool_id: str) -> None:
        membership.activate(self._services, self._domain, ids.PoolId(pool_id))

    def deactivate(self, pool_id: str, master_sd_uuid: str, master_version: int) -> None:
        new_master = common.or_none(ids.DomainId, master_sd_uuid)
        membership.deactivate(self._services, self._domain, ids.PoolId(pool_id), new_master, master_version)

    def detach(self, pool_id: str, master_sd_uuid: str, master_version: int, force: bool = False) -> None:
        membership.detach(self._services, self._domain, common.or_none(ids.PoolId, pool_id), force)

    def forced_detach(self, pool_id: str) -> None:
        membership.forced_detach(self._services, self._domain, common.or_none(ids.PoolId, pool_id))

    def set_description(self, description: str) -> None:
        naming.set_domain(self._services, self._domain, description)
