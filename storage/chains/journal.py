"""What repairs replaced, kept beside the image so that a repair can be understood, and undone, later.

One JSON file an image: ``dom_md/journal/<image>.json`` of its domain (nobody else looks there, and it moves with the
domain). An entry is durable before the first byte of its repair is written: a crash in the middle leaves an entry that
says more than was done, never less.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage import errors, files, ids
from storage.chains import chain

ENTRIES = 50
READ_LIMIT = 32 << 20
"""Bytes; more than one repair of the longest chain takes, records of vdsm 3.5 with their long descriptions included."""

REPAIR, UNDO = "repair", "undo"
RECORD, HEADER = "record", "header"


@dataclasses.dataclass(frozen=True)
class Write:
    """One step of a repair, or of its undoing: a volume's whole record, or what the header of its image stands on.

    Attributes:
        kind: ``record`` or ``header``.
        before, after: the text of the record; or the backing name, empty for none.
        before_format, after_format: of the backing volume, ``qcow2`` or ``raw``; empty for a record or no backing.
        before_ns, after_ns: time of the file's last write, nanoseconds since the epoch; 0 as it comes.
    """

    volume: ids.VolumeId
    kind: str
    before: str
    after: str
    before_format: str = ""
    after_format: str = ""
    before_ns: int = 0
    after_ns: int = 0

    @property
    def old(self) -> tuple[str, str]:
        return self.before, self.before_format

    @property
    def new(self) -> tuple[str, str]:
        return self.after, self.after_format

    def inverse(self) -> "Write":
        """The step back."""
        there = (self.after, self.before, self.after_format, self.before_format, self.after_ns, self.before_ns)
        return Write(self.volume, self.kind, *there)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One repair.

    Attributes:
        kind: ``repair``, or ``undo`` of the repair before it.
        time: when it began, seconds since the epoch.
        boot: the host's start in which that was (`hostinfo.boot_id`); empty when not known.
        leaf: the volume that the caller named.
        changes: what it is about to do, for people.
        writes: the same as steps, in their order.
        files: length and time of the last write (nanoseconds) of each volume's data, before and after the repair.
    """

    kind: str
    time: int
    boot: str
    leaf: ids.VolumeId
    changes: tuple[chain.Change, ...]
    writes: tuple[Write, ...]
    files: Mapping[ids.VolumeId, tuple[int, int]]


def path_of(domain_path: Path, image: ids.ImageId) -> Path:
    """Where the journal of an image is."""
    return domain_path / "dom_md" / "journal" / f"{image}.json"


def text_of(data: bytes) -> str:
    """A file's content as text that JSON keeps; `data_of` gives exactly the content again."""
    return data.decode("utf-8", "surrogateescape")


def data_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def newest(path: Path) -> Entry | None:
    """The latest entry, None when there is none.

    Raises:
        ImageValidationError: the journal exists and cannot be read.
    """
    found = entries(path)
    if not found:
        return None
    try:
        return _entry(found[-1])
    except (KeyError, TypeError, ValueError, errors.InvalidParameterException) as error:
        raise _unreadable(path, error) from error


def entries(path: Path) -> list[dict[str, Any]]:
    """All entries as they are kept, oldest first.

    Raises:
        ImageValidationError: the journal exists and cannot be read; a repair must not overwrite it.
    """
    try:
        return list(json.loads(files.read(path, READ_LIMIT))["entries"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> errors.ImageValidationError:
    return errors.ImageValidationError(object=f"journal {path.name}", reason=f"move it away to go on: {error!r:.200}")


def write(path: Path, entry: Entry) -> None:
    """Add an entry; durable on return."""
    kept = [*entries(path), dataclasses.asdict(entry)][-ENTRIES:]
    while len(data := json.dumps({"version": 1, "entries": kept}, indent=1).encode()) > READ_LIMIT and len(kept) > 1:
        del kept[0]
    files.make_directory(path.parent)
    files.sweep_replaced(path)
    files.replace(path, data)


def _entry(kept: Mapping[str, Any]) -> Entry:
    if kept["kind"] not in (REPAIR, UNDO):
        raise ValueError(f"neither a repair nor its undoing: {kept['kind']!a:.50}")
    return Entry(
        kind=kept["kind"],
        time=int(kept["time"]),
        boot=str(kept["boot"]),
        leaf=ids.VolumeId(kept["leaf"]),
        changes=tuple(chain.Change(**{**each, "volume": ids.VolumeId(each["volume"])}) for each in kept["changes"]),
        writes=tuple(_step(**each) for each in kept["writes"]),
        files={ids.VolumeId(volume): (int(size), int(time)) for volume, (size, time) in kept["files"].items()},
    )


def _step(volume: str, kind: str, before_ns: int, after_ns: int, **texts: str) -> Write:
    if kind not in (RECORD, HEADER) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"not a step of a repair: {kind!a:.50}")
    return Write(ids.VolumeId(volume), kind, before_ns=int(before_ns), after_ns=int(after_ns), **texts)
