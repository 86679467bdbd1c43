"""Verbs on block storage. They look, and answer what is there; nothing on a device is ever changed by this release.

What would make, extend or remove a volume group is refused, after its arguments were held to what is there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from storage import errors, ids
from storage.block import devices, lvm

if TYPE_CHECKING:
    from storage import services as storage_services

Result = dict[str, Any]

FCP, ISCSI = 2, 3
"""Domain types of the protocol."""

_TYPES = {"2": FCP, "FCP": FCP, "3": ISCSI, "ISCSI": ISCSI}
_LEAST_SIZE = 10 << 30  # bytes; of all devices of a volume group together
_NOT_HERE = "this release changes nothing on block devices"
_FIRMWARE = "0000"  # the protocol tells no other


def get_volume_groups(services: "storage_services.Services", storage_type: int | None) -> Result:
    """Volume groups of this host, ordered by name.

    Args:
        storage_type: only those on this type of storage, 2 or 3. A group on both counts as iSCSI.

    Raises:
        VolumeGroupActionError: LVM is not installed, or failed.
    """
    groups, volumes = lvm.volume_groups(), lvm.physical_volumes()
    shown = [_group(each, volumes) for each in groups]
    return {"vglist": [each for each in shown if storage_type in (None, 0, each["type"])]}


def get_volume_group(services: "storage_services.Services", group_id: str) -> Result:
    """One volume group with its devices.

    Raises:
        VolumeGroupDoesNotExist: there is none of this id.
        VolumeGroupActionError: LVM is not installed, or failed.
    """
    group = _find(group_id)
    volumes = [each for each in lvm.physical_volumes() if each.group == group.id]
    known = {each.guid: each for each in devices.multipath()}
    members = [_member(each, known.get(each.name)) for each in volumes]
    return {"info": {**_group(group, volumes), "pvlist": members}}


def create_volume_group(
    services: "storage_services.Services", name: ids.DomainId, guids: Sequence[str], force: bool
) -> Result:
    """Refused: see the module. What is wrong with the arguments is told first.

    Raises:
        InvalidParameterException: no devices, or one twice.
        InaccessiblePhysDev: a device is not there.
        VolumeGroupSizeError: they hold less than 10 GiB together.
        VolumeGroupCreateError: all is well with them.
    """
    if not guids or len(set(guids)) != len(guids):
        raise errors.InvalidParameterException(name="devlist", reason="it must name devices, each once")
    known = {each.guid: each for each in devices.multipath()}
    if missing := [guid for guid in guids if guid not in known]:
        raise errors.InaccessiblePhysDev(devices=", ".join(missing)[:300])
    size = sum(known[guid].size for guid in guids)
    if size < _LEAST_SIZE:
        raise errors.VolumeGroupSizeError(size=size, needed=_LEAST_SIZE)
    raise errors.VolumeGroupCreateError(reason=_NOT_HERE)


def remove_volume_group(services: "storage_services.Services", group_id: str) -> None:
    """Success when there is no such group; one that is there is not removed.

    Raises:
        VolumeGroupRemoveError: it exists.
        VolumeGroupActionError: whether it exists cannot be found out.
    """
    try:
        group = _find(group_id)
    except errors.VolumeGroupDoesNotExist:
        return
    raise errors.VolumeGroupRemoveError(group=group.name, reason=_NOT_HERE)


def get_devices(services: "storage_services.Services", storage_type: int | str | None) -> Result:
    """Multipath devices of this host, ordered by GUID.

    Args:
        storage_type: only those of this type: 2 or FCP, 3 or ISCSI, in any case; None, 0 or empty: all.

    Raises:
        StorageDomainTypeError: another type.
        BlockDeviceActionError: ``/sys`` cannot be read.
    """
    wanted = None
    if storage_type not in (None, 0, "", "0"):
        wanted = _TYPES.get(str(storage_type).upper())
        if wanted is None:
            raise errors.StorageDomainTypeError(type=f"{storage_type!r:.40}")
    try:
        found = devices.multipath()
    except OSError as error:
        raise errors.BlockDeviceActionError(reason=error.strerror or str(error)) from error
    shown = [each for each in found if wanted in (None, _type_of(each.transport))]
    # Without devices there is nothing to ask LVM about, and it need not be there.
    owners = {each.name: each for each in _known_volumes()} if shown else {}
    return {"devList": [_device(each, owners.get(each.guid)) for each in shown]}


def get_visibility(services: "storage_services.Services", guids: Sequence[str]) -> Result:
    """Which of these devices are there."""
    return {"visible": {guid: devices.is_visible(guid) for guid in guids}}


def discover(services: "storage_services.Services", host: str, port: int, user: str, password: str) -> Result:
    """Refused: asking a portal for its targets records them in the database of the host's initiator.

    Raises:
        ISCSIDiscoveryError: always.
    """
    raise errors.ISCSIDiscoveryError(portal=f"{host}:{port}", reason="this release makes no iSCSI sessions")


def extend(
    services: "storage_services.Services",
    pool_id: ids.PoolId,
    domain_id: ids.DomainId,
    guids: Sequence[str],
    force: bool,
) -> None:
    """Give a domain more devices. Domains here are on files, which grow with their file system: without devices there
    is nothing to do, and with some there is nothing that they could be given to.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host must not change the pool.
        StorageDomainNotMemberOfPool, StorageDomainDoesNotExist: no such domain.
        InvalidParameterException: devices for a domain on files. (The protocol accepts them, and does nothing.)
    """
    domain = services.pools.spm(pool_id).member(domain_id)
    if guids:
        reason = f"domain {domain_id} is of type {domain.type}: it is on files, which take no devices"
        raise errors.InvalidParameterException(name="devlist", reason=reason)


def _find(group_id: str) -> lvm.VolumeGroup:
    for group in lvm.volume_groups():
        if group.id == group_id:
            return group
    raise errors.VolumeGroupDoesNotExist(group=group_id)


def _known_volumes() -> list[lvm.PhysicalVolume]:
    try:
        return lvm.physical_volumes()
    except errors.VolumeGroupActionError as error:
        raise errors.BlockDeviceActionError(reason=str(error)) from error


def _type_of(transport: str) -> int:
    return FCP if transport == devices.FCP else ISCSI


def _group(group: lvm.VolumeGroup, volumes: Sequence[lvm.PhysicalVolume]) -> Result:
    transports = {_transport(each) for each in volumes if each.group == group.id}
    return {
        "name": group.name,
        "vgUUID": group.id,
        "vgsize": str(group.size),
        "vgfree": str(group.free),
        "type": ISCSI if transports - {devices.FCP} else FCP,
        "attr": group.attributes,
        "state": "PARTIAL" if group.is_partial else "OK",
    }


def _transport(volume: lvm.PhysicalVolume) -> str:
    return devices.transport_of(volume.device)


def _device(device: devices.Device, owner: lvm.PhysicalVolume | None) -> Result:
    return {
        **_described(device),
        "pvUUID": owner.id if owner else "",
        "vgUUID": owner.group if owner else "",
        "logicalblocksize": device.logical_block,
        "physicalblocksize": device.physical_block,
        "status": "used" if owner or device.in_use else "free",
    }


def _member(volume: lvm.PhysicalVolume, device: devices.Device | None) -> Result:
    """A device of a group. Of one that is no multipath device only LVM's own words are known."""
    if device is None:
        nothing = dict.fromkeys(("vendorID", "productID", "serial"), "")
        told: Result = {**nothing, "GUID": volume.name, "devtype": _transport(volume), "pathstatus": [], "pathlist": []}
    else:
        told = _described(device)
    sizes = {"capacity": str(volume.size), "devcapacity": str(volume.device_size)}
    return {**told, **sizes, "fwrev": _FIRMWARE, "pvUUID": volume.id, "vgUUID": volume.group}


def _described(device: devices.Device) -> Result:
    return {
        "GUID": device.guid,
        "vendorID": device.vendor,
        "productID": device.product,
        "fwrev": device.revision,
        "serial": device.serial,
        "capacity": str(device.size),
        "devtype": device.transport,
        "pathstatus": list(devices.states(device)),
        "pathlist": [route.session for route in device.routes if route.session],
    }
