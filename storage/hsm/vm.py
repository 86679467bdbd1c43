"""Verbs on virtual machines. This host runs none, so every machine that is asked for does not exist."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storage import errors, ids

if TYPE_CHECKING:
    from storage import services as storage_services

Result = dict[str, Any]


def get_all_stats(services: "storage_services.Services") -> Result:
    """Figures of all machines: none."""
    return {"statsList": []}


def get_stats(services: "storage_services.Services", vm_id: ids.VmId) -> Result:
    """Figures of one machine.

    Raises:
        NoSuchVM: always.
    """
    raise errors.NoSuchVM(vm=vm_id)


def merge(
    services: "storage_services.Services",
    vm_id: ids.VmId,
    drive: Mapping[str, Any],
    base: ids.VolumeId,
    top: ids.VolumeId,
    bandwidth: int,
    job_id: str | None,
) -> Result:
    """Merge volumes of a running machine.

    Raises:
        NoSuchVM: always.
    """
    raise errors.NoSuchVM(vm=vm_id)


def snapshot(
    services: "storage_services.Services", vm_id: ids.VmId, drives: Sequence[Mapping[str, Any]], memory: str
) -> Result:
    """Have a running machine write to new volumes from now on.

    Raises:
        NoSuchVM: always.
    """
    raise errors.NoSuchVM(vm=vm_id)
