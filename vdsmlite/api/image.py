"""Verbs on an image: a disk, which is a chain of volumes."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from storage import ids
from storage.hsm import chain, copy, image, merge, transfer
from vdsmlite import remote
from vdsmlite.api import common


class Image:
    """Verbs on an image: a disk, which is a chain of volumes."""

    def __init__(self, services: common.Services, image_id: str, pool_id: str, domain_id: str) -> None:
        self._services = services
        self._image = ids.ImageId(image_id)
        self._pool = ids.PoolId(pool_id)
        self._domain = ids.DomainId(domain_id)

    def delete(self, post_zero: bool = False, force: bool = False) -> common.Result:
        return image.delete(self._services, self._pool, self._domain, self._image, post_zero, force)

    def delete_volumes(self, volume_list: Sequence[str], post_zero: bool = False, force: bool = False) -> common.Result:
        volumes = [ids.VolumeId(each) for each in volume_list]
        return image.delete_volumes(self._services, self._pool, self._domain, self._image, volumes, post_zero, force)

    def prepare(self, volume_id: str | None = None) -> common.Result:
        wanted = common.or_none(ids.VolumeId, volume_id)
        return image.prepare(self._services, self._pool, self._domain, self._image, wanted)

    def teardown(self, volume_id: str | None = None) -> None:
        wanted = common.or_none(ids.VolumeId, volume_id)
        image.teardown(self._services, self._pool, self._domain, self._image, wanted)

    def reconcile_volume_chain(self, leaf_vol_id: str, options: Mapping[str, Any] | None = None) -> common.Result:
        leaf = ids.VolumeId(leaf_vol_id)
        return chain.reconcile_volume_chain(self._services, self._pool, self._domain, self._image, leaf, options)

    def undo_reconcile(self, rested: bool = False) -> common.Result:
        return chain.undo_reconcile(self._services, self._pool, self._domain, self._image, rested)

    def get_volume_chain(self, leaf_vol_id: str | None = None) -> common.Result:
        leaf = common.or_none(ids.VolumeId, leaf_vol_id)
        return chain.get_volume_chain(self._services, self._pool, self._domain, self._image, leaf)

    def prove_volume_chain(self, leaf_vol_id: str) -> common.Result:
        leaf = ids.VolumeId(leaf_vol_id)
        return chain.prove_volume_chain(self._services, self._pool, self._domain, self._image, leaf)

    def upload(self, method_args: Mapping[str, Any], volume_id: str | None = None) -> common.Result:
        """From storage to the other end."""
        volume = common.or_none(ids.VolumeId, volume_id)
        sink = functools.partial(remote.Sink, remote.Place(method_args, self._image))
        return transfer.upload(self._services, self._pool, self._domain, self._image, volume, sink)

    def download(self, method_args: Mapping[str, Any], volume_id: str | None = None) -> common.Result:
        """From the other end to storage."""
        volume = common.or_none(ids.VolumeId, volume_id)
        source = functools.partial(remote.Source, remote.Place(method_args, self._image))
        return transfer.download(self._services, self._pool, self._domain, self._image, volume, source)

    def move(self, dst_sd_uuid: str, operation: int, post_zero: bool = False, force: bool = False) -> common.Result:
        target = ids.DomainId(dst_sd_uuid)
        return copy.move(self._services, self._pool, self._domain, self._image, target, operation, post_zero, force)

    def clone_structure(self, dst_sd_uuid: str) -> common.Result:
        target = ids.DomainId(dst_sd_uuid)
        return copy.clone_structure(self._services, self._pool, self._domain, self._image, target)

    def sync_data(self, dst_sd_uuid: str, sync_type: str) -> common.Result:
        target = ids.DomainId(dst_sd_uuid)
        return copy.sync_data(self._services, self._pool, self._domain, self._image, target, sync_type)

    def merge_snapshots(self, ancestor: str, successor: str, post_zero: bool = False) -> common.Result:
        ends = ids.VolumeId(ancestor), ids.VolumeId(successor)
        return merge.merge_snapshots(self._services, self._pool, self._domain, self._image, *ends, post_zero)
