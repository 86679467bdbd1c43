"""Verbs on volume groups and on iSCSI portals."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage import errors, ids
from storage.hsm import block
from vdsmlite.api import common


class LVMVolumeGroup:
    """Verbs on a volume group. Its id is LVM's own, and no id of the protocol."""

    def __init__(self, services: common.Services) -> None:
        self._services = services

    def create(self, name: str, devlist: Sequence[str], force: bool = False) -> common.Result:
        return block.create_volume_group(self._services, ids.DomainId(name), devlist, force)

    def get_info(self, lvmvolumegroup_id: str) -> common.Result:
        return block.get_volume_group(self._services, lvmvolumegroup_id)

    def remove(self, lvmvolumegroup_id: str) -> None:
        block.remove_volume_group(self._services, lvmvolumegroup_id)


class ISCSIConnection:
    """Verbs on an iSCSI portal."""

    def __init__(self, services: common.Services) -> None:
        self._services = services

    def discover_send_targets(
        self,
        host: str = "",
        port: int = 3260,
        user: str = "",
        password: str = "",
        con: Mapping[str, Any] | None = None,
    ) -> common.Result:
        """XML-RPC has the four in one struct, JSON-RPC each by its name."""
        if con is not None:
            host, port, user, password = con["connection"], int(con["port"]), con["user"], con["password"]
        if not host:
            raise errors.InvalidParameterException(name="con", reason="it must have the address of a portal")
        return block.discover(self._services, host, port, user, password)
