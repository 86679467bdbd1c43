"""A right value for every type of a parameter, and calls made of them."""

from collections.abc import Mapping
from typing import Any

from rpc import catalogue

ID = "47bd7538-c48b-4b94-ba94-def922151d48"
OTHER = "11BD7538-C48B-4B94-BA94-DEF922151D48"

# One value that each type accepts, and what reaches the API for it.
RIGHT: dict[str, tuple[Any, Any]] = {
    "UUID": (OTHER, OTHER),
    "UUIDList": ([ID, OTHER], [ID, OTHER]),
    "IdList": ([], []),
    "UUIDOrEmpty": (OTHER, OTHER),
    "VmUpdateList": ([{}, {"vm": ID, "ovf": "<Envelope>\n\u00e9</Envelope>", "imglist": f"{ID},{OTHER}"}],) * 2,
    "Line": ('{"DiskAlias":"\u00e9=\u4e2d\U0001f600"}',) * 2,
    "Location": ("/data/with space",) * 2,
    "Int": ("-1", -1),
    "IntOrEmpty": ("", ""),
    "Bool": ("False", False),
    "VolumeSize": ("1073741824", "1073741824"),
    "DiskType": (2, 2),
    "Legality": ("ILLEGAL", "ILLEGAL"),
    "ImageFlags": ({ID: "false", OTHER: True},) * 2,
    "VolumeCapacity": ("-1", "-1"),
    "ConnectionList": ([{"id": "", "connection": "/x", "port": "", "user": ""}],) * 2,
    "DomainStatusMap": ({ID: "active", OTHER: "Attached"},) * 2,
    "DomainStatuses": ({ID: "active", OTHER: "Attached"},) * 2,
    "ReconcileOptions": ({"leaf": ID},) * 2,
    "ImageSharingMethodArgs": ({"method": "http", "url": "http://[::1]:9/a?b=c", "headers": {"X": "y"}},) * 2,
    "ConnectionRefMap": ({"a/\u00e9": {"type": "localfs", "params": {"path": "/x", "none": None}}},) * 2,
    "ConnectionRefIdList": (["a", ID],) * 2,
    "FenceOptions": ("lanplus=1\nslot=2",) * 2,
    "FencePolicy": ({"storageDomainHostIdMap": {ID: "1", OTHER: 2}},) * 2,
    "VmDrive": ({"domainID": ID, "poolID": ID, "imageID": ID, "volumeID": ID, "device": "disk"},) * 2,
    "VmDriveList": ([{"domainID": ID, "imageID": ID, "baseVolumeID": ID, "volumeID": OTHER}],) * 2,
    "DeviceList": (["3600a0b80"],) * 2,
    "DeviceType": ("iscsi",) * 2,
    "VolumeGroupID": ("Zd3UBa-lJf7-TCr1-AqBq-oCbz-mGAl-5uUrWn",) * 2,
    "ISCSIPortal": ({"connection": "::1", "port": "3260", "user": "", "password": ""},) * 2,
    "Ignored": ("true",) * 2,
}


def type_of(schema: Mapping[str, Any]) -> str:
    name = catalogue.type_name(schema)
    assert name is not None
    return name


def named(verb: catalogue.Verb) -> dict[str, Any]:
    return {param.name: RIGHT[type_of(param.schema)][0] for param in verb.params}


def positional(verb: catalogue.Verb) -> list[Any]:
    return [RIGHT[type_of(position.schema)][0] for position in verb.wire]
