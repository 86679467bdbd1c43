"""Verbs on a storage domain."""

from storage import ids
from storage.hsm import domain
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
