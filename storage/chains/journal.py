"""What repairs replaced, kept beside the image so that a repair can be understood, and undone, later.

One JSON file an image: ``dom_md/journal/<image>.json`` of its domain (nobody else looks there, and it moves with the
domain). An entry is durable before the first byte of its repair is written: a crash in the middle leaves an entry that
says more than was done, never less.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage import errors, files, ids
from storage.chains import chain

ENTRIES = 50
READ_LIMIT = 32 << 20
"""Bytes; more than one repair of the longest chain takes, records of vdsm 3.5 with their long descriptions included."""


def path_of(domain_path: Path, image: ids.ImageId) -> Path:
    """Where the journal of an image is."""
    return domain_path / "dom_md" / "journal" / f"{image}.json"


def entries(path: Path) -> list[dict[str, Any]]:
    """All entries, oldest first.

    Raises:
        ImageValidationError: the journal exists and cannot be read; a repair must not overwrite it.
    """
    try:
        return list(json.loads(files.read(path, READ_LIMIT))["entries"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"move it away to go on: {error}"
        raise errors.ImageValidationError(object=f"journal {path.name}", reason=reason) from error


def write(
    path: Path, leaf: ids.VolumeId, changes: Sequence[chain.Change], metadata: Mapping[ids.VolumeId, tuple[str, str]]
) -> None:
    """Add an entry; durable on return.

    Args:
        leaf: the volume that the caller named.
        changes: all that the repair is about to do, in order.
        metadata: for each volume whose record is rewritten, the whole text before and after.
    """
    entry = {
        "time": int(time.time()),
        "leaf": leaf,
        "changes": [
            {"volume": c.volume, "field": c.field, "before": c.before, "after": c.after, "why": c.why} for c in changes
        ],
        "metadata": {volume: {"before": before, "after": after} for volume, (before, after) in metadata.items()},
    }
    kept = [*entries(path), entry][-ENTRIES:]
    while len(data := json.dumps({"version": 1, "entries": kept}, indent=1).encode()) > READ_LIMIT and len(kept) > 1:
        del kept[0]
    files.make_directory(path.parent)
    files.replace(path, data)
