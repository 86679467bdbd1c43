"""What is to be copied or merged: each volume looked at before a tool opens it.

A tool follows what a header says: to a backing file, read in the format that the header names, and a writer even into
an external data file. A guest writes its own disk and an upload is anyone's, so every header is held to the records
first: the parent, its format, and nothing that a managed volume does not have.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from storage import errors, ids
from storage.qemu import qcow2
from storage.volumes import image, preparation, volume, volume_metadata


@dataclasses.dataclass(frozen=True)
class Layer:
    """One volume of an image, checked.

    Attributes:
        volume: its id.
        metadata: its record.
        path: its data.
        own: whether it belongs to the image, as opposed to a template's link.
        data_format: what the data is for qemu-img: ``qcow2`` or ``raw``.
        capacity: bytes that a guest sees, by the data itself, whole sectors.
        allocated: bytes that the data takes on the storage.
    """

    volume: ids.VolumeId
    metadata: volume_metadata.VolumeMetadata
    path: Path
    own: bool
    data_format: str
    capacity: int
    allocated: int

    @property
    def parent(self) -> ids.VolumeId | None:
        """What it stands on; nothing is beneath a template."""
        if self.metadata.parent.is_blank or self.metadata.voltype == volume_metadata.SHARED:
            return None
        return self.metadata.parent

    @property
    def is_shared(self) -> bool:
        return self.metadata.voltype == volume_metadata.SHARED


def chain(domain: image.Domain, held: image.Contents, leaf: ids.VolumeId, limit: int) -> list[Layer]:
    """The volumes that a guest on `leaf` reads, root first.

    Args:
        limit: most volumes of a chain.

    Raises:
        VolumeDoesNotExist: there is no such volume.
        ImageIsNotLegalChain, PrepareIllegalVolumeError, ImageValidationError: see `preparation.chain`; also for a
            stand-in without data.
        IncorrectFormat: a header has something that a managed volume does not have, or calls its parent a format that
            the parent's record does not.
    """
    names = preparation.chain(domain, held, leaf, limit)
    layers = [_layer(domain, held, name) for name in reversed(names)]
    for beneath, here in zip([None, *layers], layers, strict=False):
        _check(here, beneath)
    return layers


def whole(domain: image.Domain, held: image.Contents, limit: int) -> list[Layer]:
    """All volumes of an image, parents before their children, the links of templates that they need first.

    Raises:
        StorageError: see `chain`. A volume that cannot be used keeps the image from being copied: what was left out
            would be lost with the original.
    """
    own = held.own()
    if not own:
        raise errors.ImageIsNotLegalChain(image=held.image, reason="it has no volume of its own")
    found: dict[ids.VolumeId, Layer] = {}
    for volume_id in own:
        if not held.children(volume_id):
            found |= {layer.volume: layer for layer in chain(domain, held, volume_id, limit)}
    if missing := [volume_id for volume_id in own if volume_id not in found]:
        reason = f"volume {missing[0]} leads to no leaf"
        raise errors.ImageIsNotLegalChain(image=held.image, reason=reason)
    return _parents_first(found)


def _parents_first(found: dict[ids.VolumeId, Layer]) -> list[Layer]:
    ordered: dict[ids.VolumeId, Layer] = {}
    for layer in found.values():
        above = []
        here: Layer | None = layer
        while here is not None and here.volume not in ordered:
            above.append(here)
            here = found[here.parent] if here.parent else None
        ordered |= {each.volume: each for each in reversed(above)}
    return list(ordered.values())


def refuse_writers(layers: Iterable[Layer]) -> None:
    """Refuse what somebody writes to just now: a copy of it would be a state that never was.

    Raises:
        VolumeIsBusy: a live process has a volume open for writing. Readers, as of a template, are no obstacle.
    """
    for layer in layers:
        if reason := volume.busy(layer.path, writers_only=True):
            raise errors.VolumeIsBusy(volume=layer.volume, reason=reason)


def refuse_users(layers: Iterable[Layer]) -> None:
    """Refuse what somebody has open at all, because it is about to change or to go.

    Raises:
        VolumeIsBusy: a live process has a volume open.
    """
    for layer in layers:
        if reason := volume.busy(layer.path):
            raise errors.VolumeIsBusy(volume=layer.volume, reason=reason)


def guest_bytes(layers: Sequence[Layer]) -> int:
    """Most bytes that a copy of the whole disk holds: what all layers take, and never more than the disk has."""
    return min(layers[-1].capacity, sum(layer.allocated for layer in layers))


def _layer(domain: image.Domain, held: image.Contents, volume_id: ids.VolumeId) -> Layer:
    found = held.records[volume_id]
    if found.legality != volume_metadata.LEGAL:
        reason = f"volume {volume_id} is {found.legality}, a stand-in without data"
        raise errors.ImageIsNotLegalChain(image=held.image, reason=reason)
    path = image.paths(domain, held.image, volume_id).data
    liar = found.format == volume_metadata.COW and found.parent.is_blank and not volume.is_qcow2(path)
    data_format = volume_metadata.RAW if liar else found.format
    return Layer(
        volume=volume_id,
        metadata=found,
        path=path,
        own=held.is_own(volume_id),
        data_format=volume.QEMU_FORMATS[data_format],
        capacity=volume.virtual_size(domain, held.image, volume_id, data_format),
        allocated=volume.sizes(domain, held.image, volume_id).allocated,
    )


def _check(here: Layer, beneath: Layer | None) -> None:
    if here.data_format != "qcow2":
        return
    name = f"data of volume {here.volume}"
    try:
        head = volume.header(here.path)
    except qcow2.HeaderError as error:
        raise errors.ImageValidationError(object=name, reason=error.reason) from None
    except OSError as error:
        raise errors.VolumeAccessError(volume=here.volume, reason=error.strerror) from error
    if head.objections:
        raise errors.IncorrectFormat(object=name, reason="; ".join(head.objections))
    if head.backing_name is None or beneath is None:
        return
    if head.backing_format != beneath.data_format:
        reason = f"its header calls its parent {head.backing_format}, which is {beneath.data_format}"
        raise errors.IncorrectFormat(object=name, reason=reason)
