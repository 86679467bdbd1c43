"""Volume groups of this host, as LVM's own programs report them, in their read-only mode: nothing is activated,
locked, scanned into a cache or changed.

Format: ``lvm fullreport``-style JSON of ``vgs`` and ``pvs`` (lvmreport(7)), sizes in bytes without a unit.
"""

import dataclasses
import json
import os
from collections.abc import Sequence

from storage import errors
from storage.qemu import child

PROGRAM = "lvm"

_LIMITS = child.Limits(seconds=30.0, stdout=16 << 20)
_REPORT = ("--readonly", "--reportformat", "json", "--units", "b", "--nosuffix")
_GROUP_FIELDS = ("vg_name", "vg_uuid", "vg_size", "vg_free", "vg_attr")
_VOLUME_FIELDS = ("pv_name", "pv_uuid", "pv_size", "dev_size", "vg_uuid")
_ATTRIBUTES = ("permission", "resizeable", "exported", "partial", "allocation", "clustered")
_MESSAGE_LIMIT = 300


@dataclasses.dataclass(frozen=True)
class PhysicalVolume:
    """A device in a volume group.

    Attributes:
        device: its path.
        id: LVM's own.
        size: bytes that the group has of it.
        device_size: bytes.
        group: id of its group, empty for none.
    """

    device: str
    id: str
    size: int
    device_size: int
    group: str

    @property
    def name(self) -> str:
        """Name of the device, without directory; the GUID of a multipath device."""
        return os.path.basename(self.device)


@dataclasses.dataclass(frozen=True)
class VolumeGroup:
    """A volume group.

    Attributes:
        name, id: its name, and LVM's own id.
        size, free: bytes.
        attributes: letter by name.
    """

    name: str
    id: str
    size: int
    free: int
    attributes: dict[str, str]

    @property
    def is_partial(self) -> bool:
        """Whether devices of it are missing."""
        return self.attributes["partial"] == "p"


def volume_groups(program: str = PROGRAM) -> list[VolumeGroup]:
    """All volume groups, ordered by name.

    Raises:
        VolumeGroupActionError: LVM is not installed, failed, or said something else.
    """
    found = [
        VolumeGroup(
            name=row["vg_name"],
            id=row["vg_uuid"],
            size=_number(row["vg_size"]),
            free=_number(row["vg_free"]),
            attributes=dict(zip(_ATTRIBUTES, row["vg_attr"].ljust(len(_ATTRIBUTES), "-"), strict=False)),
        )
        for row in _report(program, "vgs", "vg", _GROUP_FIELDS)
    ]
    return sorted(found, key=lambda group: (group.name, group.id))


def physical_volumes(program: str = PROGRAM) -> list[PhysicalVolume]:
    """All devices that LVM knows as its own, ordered by path.

    Raises:
        VolumeGroupActionError: as `volume_groups`.
    """
    found = [
        PhysicalVolume(
            device=row["pv_name"],
            id=row["pv_uuid"],
            size=_number(row["pv_size"]),
            device_size=_number(row["dev_size"]),
            group=row["vg_uuid"],
        )
        for row in _report(program, "pvs", "pv", _VOLUME_FIELDS)
    ]
    return sorted(found, key=lambda volume: volume.device)


def _report(program: str, command: str, kind: str, fields: Sequence[str]) -> list[dict[str, str]]:
    try:
        result = child.run([program, command, *_REPORT, "-o", ",".join(fields)], _LIMITS)
    except FileNotFoundError as error:
        raise errors.VolumeGroupActionError(reason="LVM is not installed on this host") from error
    except OSError as error:
        raise errors.VolumeGroupActionError(reason=f"{program}: {error.strerror}") from error
    if result.killed or result.code:
        said = " ".join(result.stderr.decode("utf-8", "replace").split())
        reason = result.killed or said[:_MESSAGE_LIMIT] or f"exit code {result.code}"
        raise errors.VolumeGroupActionError(reason=f"{command}: {reason!r}")
    return parse(result.stdout, command, kind, fields)


def parse(output: bytes, command: str, kind: str, fields: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a report; pure.

    Args:
        command: for messages.
        kind: name of the list in the report, ``vg`` or ``pv``.
        fields: that each row must have.

    Raises:
        VolumeGroupActionError: it is no such report.
    """
    try:
        rows = [row for report in json.loads(output)["report"] for row in report.get(kind, ())]
        return [{field: str(row[field]) for field in fields} for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.VolumeGroupActionError(reason=f"what {command} reports is not understood") from error


def _number(text: str) -> int:
    digits = text.rstrip("bB")
    return int(digits) if digits.isdecimal() else 0
