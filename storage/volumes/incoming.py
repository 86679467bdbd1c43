"""What may be sent out of a volume, which volume may be given another content, and whether that content can be trusted.

Whoever sends an image chooses every byte of it, and a qcow2 header can name any file of the host. So nothing is opened
but the volume's own file, by our own reader, and what is accepted is a list of what may be there, not of what may not.
"""

import dataclasses
import os

from storage import errors, ids
from storage.qemu import qcow2
from storage.volumes import image, preparation, volume, volume_metadata

_FIRST_VERSION_WITH_QCOW2_3 = 4
_TABLES = 16 * 1024 * 1024
"""Bytes of the tables of a small qcow2 image with clusters of any size; a large one has a tenth of its capacity."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A volume whose content may be replaced.

    Attributes:
        paths: of its files.
        metadata: its record.
        backing_format: qemu's name for the format of its parent, None without one.
    """

    paths: image.Paths
    metadata: volume_metadata.VolumeMetadata
    backing_format: str | None

    @property
    def volume(self) -> ids.VolumeId:
        return ids.VolumeId(self.paths.data.name)

    @property
    def is_raw(self) -> bool:
        return self.metadata.format == volume_metadata.RAW

    @property
    def limit(self) -> int:
        """Most bytes that its file may have: the guest's disk, and tables around it where the format has such."""
        capacity = self.metadata.capacity
        return capacity if self.is_raw else capacity + capacity // 10 + _TABLES

    def check_length(self, length: int) -> None:
        """Refuse more bytes than there is room for; raises CreateVolumeSizeError."""
        if length > self.limit:
            reason = f"it takes at most {self.limit} bytes"
            raise errors.CreateVolumeSizeError(volume=self.volume, size=length, reason=reason)

    def check_idle(self) -> None:
        """Refuse a volume in use; raises VolumeIsBusy."""
        if used := volume.busy(self.paths.data):
            raise errors.VolumeIsBusy(volume=self.volume, reason=used)


# ---------------------------------------------------------------- which volume


def sole(held: image.Contents) -> ids.VolumeId | None:
    """The volume of an image that has no other and no template; None when it has another number of them."""
    found = [*held.records, *held.damaged]
    return found[0] if len(found) == 1 and held.is_own(found[0]) else None


def alone(held: image.Contents, volume_id: ids.VolumeId | None) -> ids.VolumeId:
    """The volume that a verb on a whole image means.

    Args:
        volume_id: what the caller named, None for the only one.

    Raises:
        CopyImageError: there are several, or what was named stands on another and is no disk by itself.
        VolumeDoesNotExist: there is none of that name.
    """
    chosen = sole(held) if volume_id is None else volume_id
    if chosen is None:
        reason = "it has not exactly one volume, or is made from a template"
        raise errors.CopyImageError(image=held.image, reason=reason)
    if chosen not in held:
        raise errors.VolumeDoesNotExist(volume=chosen, image=held.image)
    if chosen in held.records and not held.records[chosen].parent.is_blank:
        reason = f"volume {chosen} stands on {held.records[chosen].parent}, so its file is not the whole disk"
        raise errors.CopyImageError(image=held.image, reason=reason)
    return chosen


def target(domain: image.Domain, held: image.Contents, volume_id: ids.VolumeId, chain_limit: int) -> Target:
    """A volume whose content may be replaced: an own leaf, on which nobody stands, in a place that is as it should be.

    Args:
        chain_limit: most volumes of a chain.

    Raises:
        VolumeDoesNotExist: there is none of that name, or it has no data.
        ImageValidationError: its record, its data or its chain is damaged.
        SharedVolumeNonWritable, InternalVolumeNonWritable: others stand on it.
        PrepareIllegalVolumeError: it, or what it stands on, is ILLEGAL for another reason than an unfinished transfer.
        ImageIsNotLegalChain: what it stands on does not fit together.
        IncorrectFormat: it is a stand-in without data, or raw over a parent.
        VolumeIsBusy: a live process has it open.
    """
    found = _record(held, volume_id)
    _check_leaf(domain, held, volume_id, found)
    if found.legality == volume_metadata.ILLEGAL and volume_metadata.UNFINISHED not in found.extra:
        raise errors.PrepareIllegalVolumeError(volume=volume_id, image=held.image)
    backing_format = None
    if not found.parent.is_blank:
        if found.format == volume_metadata.RAW:
            raise errors.IncorrectFormat(object=f"volume {volume_id}", reason="raw data cannot stand on a parent")
        if found.parent not in held:
            raise errors.ImageIsNotLegalChain(image=held.image, reason=f"volume {found.parent} is missing")
        preparation.chain(domain, held, found.parent, chain_limit)
        backing_format = volume.QEMU_FORMATS[held.records[found.parent].format]
    volume.sizes(domain, held.image, volume_id)
    chosen = Target(image.paths(domain, held.image, volume_id), found, backing_format)
    chosen.check_idle()
    return chosen


def _record(held: image.Contents, volume_id: ids.VolumeId) -> volume_metadata.VolumeMetadata:
    if volume_id in held.damaged:
        reason = held.damaged[volume_id].reason
        raise errors.ImageValidationError(object=f"record of volume {volume_id}", reason=reason)
    if volume_id not in held.records:
        raise errors.VolumeDoesNotExist(volume=volume_id, image=held.image)
    found = held.records[volume_id]
    if found.legality == volume_metadata.FAKE:
        raise errors.IncorrectFormat(object=f"volume {volume_id}", reason="it is FAKE, a stand-in without data")
    return found


def _check_leaf(
    domain: image.Domain, held: image.Contents, volume_id: ids.VolumeId, found: volume_metadata.VolumeMetadata
) -> None:
    linked = os.lstat(image.paths(domain, held.image, volume_id).meta).st_nlink > 1
    if found.voltype == volume_metadata.SHARED or not held.is_own(volume_id) or linked:
        raise errors.SharedVolumeNonWritable(volume=volume_id)
    standing = {*held.children(volume_id), *volume.stands_on(domain, held, volume_id)}
    if standing or found.voltype != volume_metadata.LEAF:
        reason = f"{', '.join(sorted(standing)) or 'nobody'} stands on it, and its record calls it {found.voltype}"
        raise errors.InternalVolumeNonWritable(volume=volume_id, reason=reason)


def readable(domain: image.Domain, held: image.Contents, volume_id: ids.VolumeId, length: int | None) -> int:
    """Bytes to send of a volume that may be sent.

    Args:
        length: bytes wanted from its start, None for the whole file.

    Raises:
        VolumeDoesNotExist, ImageValidationError, IncorrectFormat: see `target`.
        PrepareIllegalVolumeError: nobody knows whether its data is good.
        VolumeIsBusy: a live process writes to it, so what would be sent never was there as a whole.
        InvalidParameterException: it has fewer bytes.
    """
    found = _record(held, volume_id)
    if found.legality != volume_metadata.LEGAL:
        raise errors.PrepareIllegalVolumeError(volume=volume_id, image=held.image)
    size = volume.sizes(domain, held.image, volume_id).apparent
    if length is not None and length > size:
        raise errors.InvalidParameterException(name="range", reason=f"volume {volume_id} has {size} bytes")
    used = volume.busy(image.paths(domain, held.image, volume_id).data, writers_only=True)
    if used:
        raise errors.VolumeIsBusy(volume=volume_id, reason=used)
    return size if length is None else length


# ---------------------------------------------------------------- which content


def verify(chosen: Target, version: int) -> None:
    """Hold the content of a volume, written by a stranger, to its record. Raw data may be anything, and stays raw.

    Args:
        version: of the domain: hosts that know only old ones know only old images.

    Raises:
        IncorrectFormat: it is not a qcow2 image, or one of another version.
        ImageValidationError: it is one, but refers to other files than its parent, or to its parent in another way, or
            has anything that volumes made here do not have.
    """
    if chosen.is_raw:
        return
    name = f"data of volume {chosen.volume}"
    try:
        head = volume.header(chosen.paths.data)
    except qcow2.HeaderError as error:
        raise errors.IncorrectFormat(object=name, reason=error.reason) from None
    if head.version != 2 and version < _FIRST_VERSION_WITH_QCOW2_3:
        reason = f"a domain of version {version} takes qcow2 of version 2 only (compat 0.10)"
        raise errors.IncorrectFormat(object=name, reason=reason)
    if faults := _faults(chosen, head):
        raise errors.ImageValidationError(object=name, reason="; ".join(faults))


def _faults(chosen: Target, head: qcow2.Header) -> list[str]:
    faults = list(head.objections)
    if head.dirty:
        faults.append("it was not closed properly")
    parent = None if chosen.metadata.parent.is_blank else str(chosen.metadata.parent)
    if head.backing_name != parent:
        shown = "nothing" if head.backing_name is None else f"{head.backing_name[:80]!a}"
        faults.append(f"it stands on {shown} instead of {parent or 'nothing'}")
    elif head.backing_format != chosen.backing_format:
        faults.append(f"it takes its parent for {head.backing_format}, which is {chosen.backing_format}")
    capacity = chosen.metadata.capacity
    if head.virtual_size > capacity or (parent and head.virtual_size < capacity):
        faults.append(f"its disk has {head.virtual_size} bytes instead of {capacity}")
    return faults
