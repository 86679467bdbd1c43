"""The public classes of the API: one method a verb, each one call of the storage floor.

The schema says what a verb takes and answers; the bridge has checked the arguments against it before a method here
runs, and finds class and method by the verb's JSON-RPC name ("Image.deleteVolumes" is ``Image.delete_volumes``).
Here plain values become typed ids, and the wire's quirks end: storage sees one meaning for each argument. Some
arguments are part of the protocol and mean nothing (``scsi_key``); they are taken and dropped here.
"""

import functools
from collections.abc import Mapping

from vdsmlite.api import block, common, domain, host, image, pool, references, task, vm, volume

CLASSES: Mapping[str, type] = {
    "Host": host.Host,
    "StoragePool": pool.StoragePool,
    "StorageDomain": domain.StorageDomain,
    "Image": image.Image,
    "Volume": volume.Volume,
    "Task": task.Task,
    "ConnectionRefs": references.ConnectionRefs,
    "ISCSIConnection": block.ISCSIConnection,
    "LVMVolumeGroup": block.LVMVolumeGroup,
    "VM": vm.VM,
}


class API:
    """The API classes by name, bound to the services that their verbs run on."""

    def __init__(self, services: common.Services) -> None:
        for name, kind in CLASSES.items():
            setattr(self, name, functools.partial(kind, services))
