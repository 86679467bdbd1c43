"""Verbs on one volume."""

from storage import ids
from storage.hsm import copy, merge, volume
from vdsmlite.api import common

SECTOR = 512


class Volume:
    """Verbs on one volume."""

    def __init__(self, services: common.Services, volume_id: str, pool_id: str, domain_id: str, image_id: str) -> None:
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
    ) -> common.Result:
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

    def get_info(self) -> common.Result:
        return volume.get_info(self._services, self._pool, self._domain, self._image, self._volume)

    def get_path(self) -> common.Result:
        return volume.get_path(self._services, self._pool, self._domain, self._image, self._volume)

    def get_size(self) -> common.Result:
        return volume.get_size(self._services, self._pool, self._domain, self._image, self._volume)

    def set_description(self, description: str) -> None:
        volume.set_description(self._services, self._pool, self._domain, self._image, self._volume, description)

    def set_legality(self, legality: str) -> None:
        volume.set_legality(self._services, self._pool, self._domain, self._image, self._volume, legality)

    def copy(
        self,
        dst_img_uuid: str,
        dst_vol_uuid: str,
        desc: str = "",
        dst_sd_uuid: str | None = None,
        vol_type: int = 6,
        vol_format: int | None = None,
        preallocate: int | None = None,
        post_zero: bool = False,
        force: bool = False,
    ) -> common.Result:
        """What is left out is as the volume that is copied."""
        return copy.copy(
            self._services,
            self._pool,
            self._domain,
            self._image,
            self._volume,
            common.or_none(ids.DomainId, dst_sd_uuid),
            ids.ImageId(dst_img_uuid),
            ids.VolumeId(dst_vol_uuid),
            desc,
            vol_type,
            vol_format,
            preallocate,
            force,
        )

    def extend_size(self, new_size: int | str) -> common.Result:
        """Bytes, whether they come as a number or as a text."""
        return merge.extend_size(self._services, self._pool, self._domain, self._image, self._volume, int(new_size))

    def set_size(self, new_size: int | str) -> None:
        """Bytes, whether they come as a number or as a text."""
        volume.set_size(self._services, self._pool, self._domain, self._image, self._volume, int(new_size))

    def refresh(self) -> None:
        volume.refresh(self._services, self._pool, self._domain, self._image, self._volume)
