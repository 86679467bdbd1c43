"""Verbs on the descriptions of machines that an engine keeps in a pool: in its master, or in a backup domain.

Changes exclude each other by name: ``vms_<domain>`` for the whole domain, ``vms_<machine>_<domain>`` for one machine.
The role is asked for twice, for the reason that `access` gives.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence

from storage import errors, ids, locks, services as storage_services
from storage.domains import domain as storage_domain, machines
from storage.pools import poolbackend

log = logging.getLogger(__name__)

Services = storage_services.Services

MEMBERS = ("vm", "ovf", "imglist")
"""What an entry of updateVM must have. The list of images is part of the protocol and means nothing."""


def get_list(services: Services, pool_id: ids.PoolId, domain_id: ids.DomainId | None) -> dict[str, list[str]]:
    """getVmsList: ids of the machines.

    Args:
        domain_id: any domain of the pool; None: its master.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host is not the SPM.
        StorageDomainDoesNotExist, StorageDomainNotMemberOfPool: no such domain.
        VMPathNotExists, StorageDomainAccessError: its directory of machines is missing, or cannot be read.
    """
    with _reading(services, "getVmsList", pool_id, domain_id) as domain:
        return {"vmlist": [str(each) for each in machines.listed(domain)]}


def get_info(
    services: Services, pool_id: ids.PoolId, domain_id: ids.DomainId | None, vm_ids: Sequence[ids.VmId] | None
) -> dict[str, dict[str, str]]:
    """getVmsInfo: descriptions of machines. Machines that are named but not known are left out.

    Args:
        domain_id: a backup domain of the pool; None: its master.
        vm_ids: the machines; None or empty: all.

    Raises:
        StorageDomainTypeNotBackup: the domain is no backup domain.
        MissingOvfFileFromVM: the description of a machine cannot be used. When all were asked for, such a machine is
            logged and left out as long as there are others: one must not hide them.
        StorageError: as `get_list`.
    """
    services.pools.spm(pool_id)
    if domain_id is not None and (domain_class := services.domains.find(domain_id).domain_class) != "Backup":
        raise errors.StorageDomainTypeNotBackup(domain=domain_id, domain_class=domain_class)
    with _reading(services, "getVmsInfo", pool_id, domain_id) as domain:
        found: dict[str, str] = {}
        failures: list[errors.MissingOvfFileFromVM] = []
        for vm_id in vm_ids or machines.listed(domain):
            try:
                text = machines.read(domain, vm_id)
            except errors.MissingOvfFileFromVM as error:
                log.warning("%s", error)
                failures.append(error)
            else:
                if text is not None:
                    found[str(vm_id)] = text
    if failures and (vm_ids or not found):
        raise failures[0]
    return {"vmlist": found}


def update(
    services: Services, pool_id: ids.PoolId, entries: Sequence[Mapping[str, str]], domain_id: ids.DomainId | None
) -> None:
    """updateVM: keep descriptions of machines. All entries are tried, and then the first failure is raised.

    Args:
        entries: each with `MEMBERS`; an empty one is skipped.
        domain_id: a domain of the pool; None: its master.

    Raises:
        InvalidParameterException: an entry lacks a member; nothing has changed.
        StoragePoolUnknown, SpmStatusError: this host must not write.
        StorageDomainDoesNotExist, StorageDomainNotMemberOfPool, StorageDomainNotActive: no such domain in use.
        OperationInProgress: the pool has got another master meanwhile.
        StorageError: as `machines.write`.
    """
    texts = {_machine(entry): entry["ovf"] for entry in entries if entry}
    failures = []
    with _changing(services, "updateVM", pool_id, domain_id) as domain:
        machines.sweep(domain)
        for vm_id, text in texts.items():
            try:
                machines.write(domain, vm_id, text)
            except errors.StorageError as error:
                log.warning("machine %s is not updated: %s", vm_id, error)
                failures.append(error)
    if failures:
        raise failures[0]


def _machine(entry: Mapping[str, str]) -> ids.VmId:
    for name in MEMBERS:
        if name not in entry:
            raise errors.InvalidParameterException(name="vmList", reason=f"an entry lacks {name}")
    return ids.VmId(entry["vm"])


def remove(services: Services, pool_id: ids.PoolId, vm_id: ids.VmId, domain_id: ids.DomainId | None) -> None:
    """removeVM: forget the description of a machine; success when it is not known.

    Raises:
        StorageError: as `update` and `machines.remove`.
    """
    with _changing(services, "removeVM", pool_id, domain_id, vm_id) as domain:
        machines.remove(domain, vm_id)


def _place(services: Services, pool_id: ids.PoolId, domain_id: ids.DomainId | None) -> ids.DomainId:
    """Id of the domain that is meant."""
    which = services.pools.spm(pool_id)
    return which.master.id if domain_id is None else domain_id


@contextlib.contextmanager
def _reading(
    services: Services, verb: str, pool_id: ids.PoolId, domain_id: ids.DomainId | None
) -> Iterator[storage_domain.Domain]:
    wanted = _place(services, pool_id, domain_id)
    with services.locks.hold(locks.shared(wanted), title=verb):
        yield services.pools.spm(pool_id).member(wanted)


@contextlib.contextmanager
def _changing(
    services: Services, verb: str, pool_id: ids.PoolId, domain_id: ids.DomainId | None, vm_id: ids.VmId | None = None
) -> Iterator[storage_domain.Domain]:
    """Exclude other changes to one machine, or to all of them."""
    wanted = _place(services, pool_id, domain_id)
    names = [locks.shared(pool_id), locks.Lock(f"vms_{wanted}", exclusive=vm_id is None)]
    if vm_id is not None:
        names.append(locks.exclusive(f"vms_{vm_id}_{wanted}"))
    with services.locks.hold(*names, title=verb):
        which = services.pools.spm(pool_id)
        if domain_id is None and which.master.id != wanted:
            raise errors.OperationInProgress(object=f"pool {pool_id}", reason="its master has changed; try again")
        domain = which.member(wanted)
        if which.state().domains.get(wanted) != poolbackend.ACTIVE:
            raise errors.StorageDomainNotActive(domain=wanted, pool=pool_id)
        yield domain
