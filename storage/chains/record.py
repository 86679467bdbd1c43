"""What is known of one volume before anybody decides anything: its metadata, its header, its file. Pure data.

A header is untrusted input: a guest writes its own disk. Whatever is wrong with a volume becomes a named `Fault` with
the error class it leads to; none of those codes makes an engine move the SPM to another host, because no other host
would see anything else.
"""

import dataclasses
import re

from storage import errors, ids
from storage.qemu import qcow2
from storage.volumes import volume_metadata


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something wrong with a volume, under a stable name.

    Attributes:
        name: stable, for scripts: ``backing-loop``, ``metadata-unreadable`` …
        volume: the volume it was found at.
        message: what is wrong, for people.
        error: class of the error when the fault stands in the way of an answer.
    """

    name: str
    volume: ids.VolumeId
    message: str
    error: type[errors.StorageError]

    def raised(self, image: ids.ImageId) -> errors.StorageError:
        """The fault as the exception that a verb ends with."""
        if self.error is errors.ImageIsNotLegalChain:
            return errors.ImageIsNotLegalChain(image=image, reason=self.message)
        if self.error is errors.VolumeIsBusy:
            return errors.VolumeIsBusy(volume=self.volume, reason=self.message)
        return self.error(object=f"volume {self.volume}", reason=self.message)


@dataclasses.dataclass(frozen=True)
class Record:
    """One volume of an image's directory.

    Attributes:
        volume: its id.
        own: whether the volume belongs to this image; a template's link does not.
        metadata: the parsed record beside it, None when it cannot be read.
        link: the volume that its header names as backing, None when it names none (always for raw).
        text: that backing name as it is written, for people.
        backing_format: format of the backing volume as the header states it, ``qcow2`` or ``raw``.
        faults: what is wrong with this volume by itself.
        gone: there is no data file.
        size: length of the data file in bytes.
        allocated: bytes it takes on the storage, which may change without a write.
        mtime_ns: when the data file was last written, nanoseconds since the epoch.
        inode: of the data file.
        marked_ns: when the metadata of an ILLEGAL volume was last written, nanoseconds since the epoch.
    """

    volume: ids.VolumeId
    own: bool = True
    metadata: volume_metadata.VolumeMetadata | None = None
    link: ids.VolumeId | None = None
    text: str | None = None
    backing_format: str | None = None
    faults: tuple[Fault, ...] = ()
    gone: bool = False
    size: int = 0
    allocated: int = dataclasses.field(default=0, compare=False)
    mtime_ns: int = 0
    inode: int = 0
    marked_ns: int = 0

    @property
    def parent(self) -> ids.VolumeId | None:
        """The parent that the metadata names, None for a base or an unreadable record."""
        if self.metadata is None or self.metadata.parent.is_blank:
            return None
        return self.metadata.parent

    @property
    def settled(self) -> bool:
        """Whether this volume may have its metadata rewritten here: own and no template."""
        return self.own and self.metadata is not None and self.metadata.voltype != volume_metadata.SHARED

    @property
    def illegal(self) -> bool:
        return self.metadata is not None and self.metadata.legality == volume_metadata.ILLEGAL

    @property
    def half_deleted(self) -> bool:
        """Whether somebody began to delete it and the data is gone, so that nothing can stand on it any more."""
        return self.illegal and self.gone


_CHAIN = errors.ImageIsNotLegalChain
_INVALID = errors.ImageValidationError
_FORMAT = errors.IncorrectFormat


def link_of(text: str, image: ids.ImageId) -> ids.VolumeId | None:
    """The volume that a backing name means, None when it leads anywhere but into the image's own directory.

    Accepted are a bare id and any number of ``../<this image>/`` before it: vdsm 3.5 wrote one, and each live merge of
    its time added one more.
    """
    prefix = f"../{image}/"
    while text.startswith(prefix):
        text = text[len(prefix) :]
    return ids.VolumeId.known(text) if ids.is_id(text) else None


def printable(text: str) -> str:
    """Text of an image made safe to show: control and undecodable characters escaped, length bounded."""
    return re.sub(r"[^\x20-\x7e]", lambda found: found.group().encode("unicode_escape", "replace").decode(), text)[:200]


def header_faults(volume: ids.VolumeId, header: qcow2.Header, link: ids.VolumeId | None) -> tuple[Fault, ...]:
    """What in a readable header keeps us from relying on the image; `link` is what its backing name means."""
    found = []
    if header.unknown_features:
        text = f"header needs unknown features: {', '.join(header.unknown_features)}"
        found.append(Fault("header-unsupported", volume, text, _FORMAT))
    if header.data_file:
        found.append(Fault("data-file", volume, "header names an external data file", _INVALID))
    if header.crypt:
        found.append(Fault("encrypted", volume, "image is encrypted, so its content cannot be checked", _INVALID))
    if header.corrupt:
        text = "image is marked corrupt; copy what can be read before anything else"
        found.append(Fault("corrupt-flag", volume, text, _INVALID))
    if header.snapshots:
        found.append(Fault("internal-snapshots", volume, "image holds internal snapshots", _INVALID))
    if header.backing_name is not None:
        if link is None:
            text = f"backing name '{printable(header.backing_name)}' leads out of the image"
            found.append(Fault("backing-outside", volume, text, _INVALID))
        elif header.backing_format not in ("qcow2", "raw"):
            text = "header does not say the format of its backing volume, so qemu would guess it from guest data"
            found.append(Fault("backing-format-missing", volume, text, _INVALID))
    return tuple(found)


def metadata_fault(volume: ids.VolumeId, reason: str) -> Fault:
    return Fault("metadata-unreadable", volume, f"metadata of volume {volume} cannot be read: {reason}", _INVALID)


def data_fault(volume: ids.VolumeId, reason: str) -> Fault:
    return Fault("data-missing", volume, f"data of volume {volume} cannot be read: {reason}", _CHAIN)


def header_fault(volume: ids.VolumeId, reason: str) -> Fault:
    return Fault("header-unreadable", volume, f"header cannot be read: {reason}", _FORMAT)


def backing_format_fault(volume: ids.VolumeId, backing: ids.VolumeId, said: str, recorded: str) -> Fault:
    text = f"header says its backing volume {backing} is {said}, metadata says {recorded}"
    return Fault("backing-format-differs", volume, text, _FORMAT)


def missing(volume: ids.VolumeId, backing: ids.VolumeId) -> Fault:
    text = f"volume {volume} stands on volume {backing}, which the image does not hold"
    return Fault("backing-missing", volume, text, _CHAIN)


def loop(volume: ids.VolumeId, backing: ids.VolumeId) -> Fault:
    text = f"volume {volume} names {backing} as backing, which stands on it already"
    return Fault("backing-loop", volume, text, _CHAIN)


def too_deep(volume: ids.VolumeId, limit: int) -> Fault:
    return Fault("chain-too-deep", volume, f"chain has more than {limit} volumes", _CHAIN)


def foreign(volume: ids.VolumeId, image: ids.ImageId) -> Fault:
    return Fault("volume-foreign", volume, f"metadata says it belongs to image {image}", _INVALID)


def raw_with_parent(volume: ids.VolumeId, parent: ids.VolumeId) -> Fault:
    text = f"metadata says raw, which stands on nothing, and names {parent} as parent"
    return Fault("raw-with-parent", volume, text, _FORMAT)


def transfer_unfinished(volume: ids.VolumeId) -> Fault:
    text = f"a transfer into volume {volume} did not end, so its content is worth nothing; send it again, or delete it"
    return Fault("transfer-unfinished", volume, text, _CHAIN)
