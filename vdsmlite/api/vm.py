"""Verbs on a virtual machine."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage import ids
from storage.hsm import vm
from vdsmlite.api import common


class VM:
    """Verbs on a virtual machine."""

    def __init__(self, services: common.Services, vm_id: str) -> None:
        self._services = services
        self._vm = ids.VmId(vm_id)

    def get_stats(self) -> common.Result:
        return vm.get_stats(self._services, self._vm)

    def merge(
        self,
        drive: Mapping[str, Any],
        base_vol_uuid: str,
        top_vol_uuid: str,
        bandwidth: int = 0,
        job_uuid: str | None = None,
    ) -> common.Result:
        base, top = ids.VolumeId(base_vol_uuid), ids.VolumeId(top_vol_uuid)
        job = common.or_none(ids.Id, job_uuid or None)
        return vm.merge(self._services, self._vm, drive, base, top, bandwidth, job)

    def snapshot(self, snap_drives: Sequence[Mapping[str, Any]], snap_memory: str = "") -> common.Result:
        return vm.snapshot(self._services, self._vm, snap_drives, snap_memory)
