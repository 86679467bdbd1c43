"""The record beside every volume: ``images/<image>/<volume>.meta``.

Source of the format: vdsm 3.5 and 4.50, which read each other's records. Lines ``KEY=value``, then a line ``EOF``; the
first ``=`` splits, order carries no meaning, unknown keys are kept. Domain versions below 5 keep the capacity as
``SIZE`` in 512-byte sectors (and ``MTIME=0``), version 5 as ``CAP`` in bytes (and ``SEQ``); a domain caught in the
middle of its upgrade may hold either or both, so a reader prefers ``CAP``. A whole record has at most 512 bytes,
because on block storage it lives in one sector.

One parser serves two readers: `parse` is strict and for operations, `inspect` tells what is there and what is wrong.
"""

import dataclasses
import re
from collections.abc import Mapping

from storage import errors, ids

SECTOR = 512
RECORD_LIMIT = 512
READ_LIMIT = 64 * 1024
"""Most bytes of a record that are looked at: vdsm 3.5 wrote file records of any length."""
DESCRIPTION_LIMIT = 210
"""Bytes of a description that fit beside the longest values of every other key."""

RAW, COW = "RAW", "COW"
SPARSE, PREALLOCATED = "SPARSE", "PREALLOCATED"
LEAF, INTERNAL, SHARED = "LEAF", "INTERNAL", "SHARED"
LEGAL, ILLEGAL, FAKE = "LEGAL", "ILLEGAL", "FAKE"
LEGALITIES = (LEGAL, ILLEGAL, FAKE)

UNFINISHED = "TRANSFER"
"""Key, ours, of a record whose volume is ILLEGAL because its content is being replaced from outside, or was, in part:
unlike a mark before a pivot it never means that the data may be good. Other programs ignore it."""

_CHOICES = {
    "FORMAT": (RAW, COW),
    "TYPE": (SPARSE, PREALLOCATED),
    "VOLTYPE": (LEAF, INTERNAL, SHARED),
    "LEGALITY": LEGALITIES,
}
_NUMBERS = {
    "CAP": (0, 2**63 - 1),
    "SIZE": (-1, 2**54),  # below 1: "not settled", written while a size changes
    "CTIME": (0, 2**63 - 1),
    "GEN": (0, 999),
    "SEQ": (0, 2**32 - 1),
}
_IDS = ("DOMAIN", "IMAGE", "PUUID")
_REQUIRED = ("DOMAIN", "IMAGE", "PUUID", "FORMAT", "TYPE", "VOLTYPE", "DISKTYPE", "DESCRIPTION", "CTIME")
_KNOWN = frozenset((*_CHOICES, *_NUMBERS, *_IDS, *_REQUIRED, "MTIME", "POOL_UUID"))

_END = "EOF"
_CLEARED = "NONE"
_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OBJECT = "volume metadata"


@dataclasses.dataclass(frozen=True)
class VolumeMetadata:
    """What a volume's record says.

    Attributes:
        domain, image: where the volume belongs; in a template's link that is the template's own image.
        parent: the volume beneath, or the blank id.
        capacity: bytes that the guest sees.
        format: ``RAW`` or ``COW``.
        type: ``SPARSE`` or ``PREALLOCATED``.
        voltype: ``LEAF``, ``INTERNAL`` or ``SHARED`` (a template).
        disktype: what the creator gave, uninterpreted.
        legality: ``LEGAL``, ``ILLEGAL`` (must not be used) or ``FAKE`` (stand-in for a template).
        ctime: seconds since the epoch.
        generation: counts finished data operations, 0 to 999.
        sequence: order of creation within the image; kept by domain version 5 only.
        extra: keys this program does not know, kept when the record is rewritten.
    """

    domain: ids.DomainId
    image: ids.ImageId
    parent: ids.VolumeId
    capacity: int
    format: str
    type: str
    voltype: str
    disktype: str
    description: str
    legality: str
    ctime: int
    generation: int = 0
    sequence: int = 0
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)


def parse(data: bytes) -> VolumeMetadata:
    """The record, or a refusal.

    Raises:
        MetaDataValidationError: a key is missing, doubled or out of range, the text is not UTF-8, or the record was
            cleared. Nothing else is raised, whatever the bytes.
    """
    values, problems = inspect(data)
    if problems:
        raise errors.MetaDataValidationError(object=_OBJECT, reason="; ".join(problems[:4]))
    return VolumeMetadata(
        domain=ids.DomainId.known(values["DOMAIN"]),
        image=ids.ImageId.known(values["IMAGE"]),
        parent=ids.VolumeId.known(values["PUUID"]),
        capacity=int(values["CAP"]) if "CAP" in values else int(values["SIZE"]) * SECTOR,
        format=values["FORMAT"],
        type=values["TYPE"],
        voltype=values["VOLTYPE"],
        disktype=values["DISKTYPE"],
        description=values["DESCRIPTION"],
        legality=values.get("LEGALITY", LEGAL),
        ctime=int(values["CTIME"]),
        generation=int(values.get("GEN", "0")),
        sequence=int(values.get("SEQ", "0")),
        extra={key: value for key, value in values.items() if key not in _KNOWN},
    )


def inspect(data: bytes) -> tuple[dict[str, str], list[str]]:
    """What can be read of a record, and what is wrong with it; never raises.

    Returns:
        the values by their keys on disk, and the reasons why `parse` would refuse (none: it would not).
    """
    values, problems = _split(data)
    if _CLEARED in values:
        return values, ["the record was cleared"]
    problems += [f"{key} is missing" for key in _REQUIRED if key not in values]
    if "CAP" not in values and "SIZE" not in values:
        problems.append("CAP and SIZE are both missing")
    for key, value in values.items():
        if reason := _fault(key, value):
            problems.append(f"{key} {reason}")
    return values, problems


def _split(data: bytes) -> tuple[dict[str, str], list[str]]:
    values: dict[str, str] = {}
    problems: list[str] = []
    if len(data) > READ_LIMIT:
        data = data[:READ_LIMIT]
        problems.append(f"longer than {READ_LIMIT} bytes")
    data = data.rstrip(b"\0")
    # A record with nothing odd in it, which is nearly every one, is looked through once and not line by line.
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    odd = _UNSAFE.search("".join(lines)) is not None
    for line in lines:
        key, separator, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if key.startswith(_END):
            break
        if not separator or not key:
            continue
        if odd:
            problems += _oddities(line, key)
            value = _UNSAFE.sub(" ", _readable(value)).strip()  # old records may hold tabs in a description
            key = _readable(key)
        if key in values:
            problems.append(f"{key!r:.40} comes twice")
        else:
            values[key] = value
    return values, problems


def _oddities(line: str, key: str) -> list[str]:
    problems = [f"{_readable(key)!r:.40} is not UTF-8"] if _readable(line) != line else []
    odd = unsafe_character(_readable(key)) is not None
    return [*problems, f"{_readable(key)!r:.40} is not a key"] if odd else problems


def _readable(text: str) -> str:
    """The text with a replacement for every byte that was no UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _fault(key: str, value: str) -> str | None:
    """Why a value cannot be what its key needs."""
    if key in _IDS:
        return None if ids.is_id(value) else f"{value!r:.60} is not an id"
    if key in _CHOICES:
        return None if value in _CHOICES[key] else f"{value!r:.60} is none of {', '.join(_CHOICES[key])}"
    if key in _NUMBERS:
        low, high = _NUMBERS[key]
        if _NUMBER.fullmatch(value) is None or not low <= int(value) <= high:
            return f"{value!r:.60} is not a number from {low} to {high}"
    return None


def encode(metadata: VolumeMetadata, version: int) -> bytes:
    """The record as a domain of this version keeps it.

    Args:
        metadata: the values; a `capacity` of a version below 5 must be whole sectors.
        version: the domain's version.

    Raises:
        MetaDataValidationError: a value would not be read back as it is: a control character, a line separator, a
            number out of range.
        MetadataOverflowError: the record is longer than 512 bytes in UTF-8.
    """
    return _encoded(metadata, _values(metadata, version), version)


def encode_both(metadata: VolumeMetadata) -> bytes:
    """The record as a domain holds it while it is raised to version 5: the keys of version 4, and ``CAP``.

    Raises:
        MetaDataValidationError, MetadataOverflowError: as `encode`.
    """
    return _encoded(metadata, _values(metadata, 4) | {"CAP": str(metadata.capacity)}, 4)


def _encoded(metadata: VolumeMetadata, values: Mapping[str, str], version: int) -> bytes:
    for key, value in values.items():
        if (bad := unsafe_character(key + value)) is not None:
            raise errors.MetaDataValidationError(object=_OBJECT, reason=f"{key!r:.40} holds {bad}")
    text = "".join(f"{key}={values[key]}\n" for key in sorted(values)) + f"{_END}\n"
    data = text.encode("utf-8")
    if len(data) > RECORD_LIMIT:
        raise errors.MetadataOverflowError(object=_OBJECT, size=len(data), limit=RECORD_LIMIT)
    # Reading it back is the one check that no value and no unknown key can get around.
    wanted = dataclasses.replace(
        metadata, description=metadata.description.strip(), sequence=metadata.sequence if version >= 5 else 0
    )
    if parse(data) != wanted:
        raise errors.MetaDataValidationError(object=_OBJECT, reason="the values would be read back differently")
    return data


def _values(metadata: VolumeMetadata, version: int) -> dict[str, str]:
    values = dict(metadata.extra)
    values |= {
        "CTIME": str(metadata.ctime),
        "DESCRIPTION": metadata.description.strip(),
        "DISKTYPE": metadata.disktype,
        "DOMAIN": metadata.domain,
        "FORMAT": metadata.format,
        "GEN": str(metadata.generation),
        "IMAGE": metadata.image,
        "LEGALITY": metadata.legality,
        "PUUID": metadata.parent,
        "TYPE": metadata.type,
        "VOLTYPE": metadata.voltype,
    }
    if version >= 5:
        return values | {"CAP": str(metadata.capacity), "SEQ": str(metadata.sequence)}
    if metadata.capacity % SECTOR:
        reason = f"capacity {metadata.capacity} is not a multiple of {SECTOR} bytes"
        raise errors.MetaDataValidationError(object=_OBJECT, reason=reason)
    return values | {"SIZE": str(metadata.capacity // SECTOR), "MTIME": "0"}


def fitted(metadata: VolumeMetadata, version: int) -> VolumeMetadata:
    """The same record with as much of the description as a record of 512 bytes can hold.

    vdsm 3.5 limits no description, so a record of its making may be too long to be rewritten; refusing would leave a
    volume that can be neither marked nor deleted.

    Raises:
        MetadataOverflowError: the record does not fit even without a description.
    """
    try:
        encode(metadata, version)
        return metadata
    except errors.MetadataOverflowError:
        rest = len(encode(dataclasses.replace(metadata, description=""), version))
        return dataclasses.replace(metadata, description=cut(metadata.description, RECORD_LIMIT - rest))


def cut(text: str, limit: int) -> str:
    """The longest beginning of a text that has at most `limit` bytes in UTF-8, never half a character, stripped."""
    return text.strip().encode("utf-8", "ignore")[:limit].decode("utf-8", "ignore").strip()


def unsafe_character(text: str) -> str | None:
    """The name of the first character that a line-based record cannot take, or None.

    Those are control characters (the line feed above all: it would inject keys), the Unicode line and paragraph
    separators, at which vdsm 4.50 splits lines, and lone surrogates, which have no UTF-8 form.
    """
    found = _UNSAFE.search(text)
    return f"U+{ord(found.group()):04X}" if found else None
