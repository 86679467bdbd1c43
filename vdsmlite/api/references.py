"""Verbs on references to connections, which this host keeps up."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.hsm import references
from vdsmlite.api import common


class ConnectionRefs:
    """Verbs on references to connections, which this host keeps up."""

    def __init__(self, services: common.Services) -> None:
        self._services = services

    def acquire(self, con_ref_args: Mapping[str, Any]) -> common.Result:
        return references.acquire(self._services, con_ref_args)

    def release(self, ref_ids: Sequence[str]) -> common.Result:
        return references.release(self._services, ref_ids)

    def statuses(self) -> common.Result:
        return references.statuses(self._services)
