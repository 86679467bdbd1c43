"""Verbs on an image's chain: say what it is, prove it, repair it."""

import functools
from collections.abc import Mapping
from typing import Any

from storage import ids, locks, services as storage_services
from storage.chains import proof, reconcile, report, undo
from storage.hsm import access
from storage.jobs import tasks
from storage.qemu import qemuimg
from storage.volumes import image

Services = storage_services.Services


def reconcile_volume_chain(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    leaf_id: ids.VolumeId,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """reconcileVolumeChain: find out what the chain is, make metadata and headers agree, answer root first.

    Args:
        options: ``leaf`` names one of two candidates, for the case that an earlier call could not decide.

    Raises:
        StoragePoolUnknown, SpmStatusError, StorageDomainNotMemberOfPool: this host must not write there.
        StorageError: see `reconcile.reconcile`.
    """
    chosen = (options or {}).get("leaf")
    rules = reconcile.Rules(services.settings, ids.VolumeId(chosen) if chosen else None)
    tool = qemuimg.QemuImg(services.settings.qemu_img, services.settings.qemu_img_timeout)
    with access.changing(services, "reconcileVolumeChain", pool_id, domain_id, image_id) as where:
        found = reconcile.reconcile(where, image_id, leaf_id, rules, tool)
    return report.repaired(found)


def get_volume_chain(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    leaf_id: ids.VolumeId | None = None,
) -> dict[str, Any]:
    """getVolumeChain: the same look, decision and proof, and nothing written. Works on any host, also on a live image.

    Args:
        pool_id: not used; there for symmetry with reconcileVolumeChain.
        leaf_id: where to look from; None finds the image's leaf.
    """
    rules = reconcile.Rules(services.settings)
    wanted = (locks.shared(domain_id), locks.shared(locks.image_name(image_id, domain_id)))
    with services.locks.hold(*wanted, title="getVolumeChain"):
        where = services.domains.find(domain_id)
        effort = proof.Effort.seconds(services.settings.prove_seconds)
        return report.whole(reconcile.examine(where, image_id, leaf_id, rules, effort))


def undo_reconcile(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    rested: bool = False,
) -> dict[str, Any]:
    """undoReconcile: put back what the last repair of an image replaced, while nothing else has changed since.

    Args:
        rested: the caller's word that no machine has run on the image since.

    Raises:
        StoragePoolUnknown, SpmStatusError, StorageDomainNotMemberOfPool: this host must not write there.
        StorageError: see `undo.undo`.
    """
    tool = qemuimg.QemuImg(services.settings.qemu_img, services.settings.qemu_img_timeout)
    with access.changing(services, "undoReconcile", pool_id, domain_id, image_id) as where:
        return report.undone(undo.undo(where, image_id, tool, rested=rested))


def prove_volume_chain(
    services: Services,
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    image_id: ids.ImageId,
    leaf_id: ids.VolumeId,
) -> dict[str, Any]:
    """proveVolumeChain: compare whatever has to be compared, without a time limit, and keep the answers."""
    where, held = access.take(services, "proveVolumeChain", pool_id, domain_id, image_id)
    job = functools.partial(_prove, where, image_id, leaf_id, reconcile.Rules(services.settings))
    return access.scheduled(services, "proveVolumeChain", pool_id, held, job)


def _prove(
    where: image.Domain, image_id: ids.ImageId, leaf_id: ids.VolumeId, rules: reconcile.Rules, task: tasks.Task
) -> dict[str, Any]:
    def progress(done: int, total: int) -> None:
        task.progress(f"compared {done} of {total} bytes", done=str(done), total=str(total))

    effort = proof.Effort(stopping=task.stopping, progress=progress)
    found = reconcile.prove(where, image_id, leaf_id, rules, effort)
    task.check()
    return {"state": report.whole(found)["state"], "volumes": list(found.chain.volumes)}
