"""Put back what the last repair of an image replaced, while nothing else has changed since.

The journal says what every record and every header was; this goes its steps backwards, so each state in between is one
that the repair itself went through. Undoing has an entry of its own, durable before the first step: whoever calls again
after a crash finishes it, and whoever calls reconcileVolumeChain instead finishes the repair.

A guest that ran since then may have written to what the repair left in the chain, and putting the old records back
could make an older content the valid one. So anything that differs from what the repair left behind is a refusal that
names it. The times of files speak only for the start of the host in which the repair was made: a loss of power may take
back the time of a write that itself is durable. After another start, or on another host, somebody has to say that no
machine has run since.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from storage import errors, hostinfo, ids
from storage.chains import chain, inspection, journal, record, repair
from storage.qemu import qemuimg
from storage.volumes import image as image_files, volume_metadata


@dataclasses.dataclass(frozen=True)
class Undone:
    """The outcome.

    Attributes:
        time: when the repair was made, seconds since the epoch.
        changes: what was put back; empty when it had been put back before.
    """

    time: int
    changes: tuple[chain.Change, ...]


def undo(where: image_files.Domain, image: ids.ImageId, tool: qemuimg.QemuImg, *, rested: bool = False) -> Undone:
    """Undo the last repair. The caller holds the image's lock and the cluster's.

    Args:
        rested: the caller's word that no machine has run on the image since the repair, for when times cannot tell.

    Raises:
        VolumeIsBusy: a live process has a volume open. Nothing is changed.
        ImageIsNotLegalChain: there is no repair to undo, or something has changed since. Nothing is changed.
        ImageValidationError: the journal cannot be read. Nothing is changed.
        OperationInProgress: something changed while we looked. Nothing is changed.
        VolumeAccessError: what is there cannot be read. Nothing is changed.
        VolumeMetadataWriteError: the storage refused a write; a second call finishes what was begun.
    """
    sight = inspection.look(where.image_directory(image), image, where.id)
    # Before what changed: a machine that runs has mostly written, and is what somebody has to know of first.
    repair.unused(sight, sight.records)
    path = journal.path_of(where.path, image)
    last = journal.newest(path)
    if last is None:
        raise _refused(image, "no repair of the image is recorded in its domain")
    entry = last if last.kind == journal.UNDO else _inverse(last)
    found = [_Present(write, *_present(sight, write)) for write in _writes(entry, image)]
    _refuse_changes(sight, entry, found, rested)
    left = [each.write for each in _to_do(found)]
    if left:
        repair.unchanged(sight, where, sight.records)
        if entry is not last:
            journal.write(path, entry)
        for write in left:
            repair.perform(sight.directory, write, tool)
    done = {(write.volume, write.kind) for write in left}
    kinds = {True: journal.HEADER, False: journal.RECORD}
    put_back = (c for c in entry.changes if (c.volume, kinds[c.field == chain.BACKING]) in done)
    return Undone(entry.time, tuple(put_back))


@dataclasses.dataclass(frozen=True)
class _Present:
    """A step, and what there is in its place: text and format as in `journal.Write.old`."""

    write: journal.Write
    text: str
    backing_format: str


def _inverse(entry: journal.Entry) -> journal.Entry:
    changes = (
        dataclasses.replace(change, before=change.after, after=change.before, why="the repair is undone")
        for change in reversed(entry.changes)
    )
    writes = tuple(write.inverse() for write in reversed(entry.writes))
    return dataclasses.replace(entry, kind=journal.UNDO, changes=tuple(changes), writes=writes)


def _writes(entry: journal.Entry, image: ids.ImageId) -> Iterator[journal.Write]:
    """The steps of an entry; a journal is only a file, so they are looked at before they are believed."""
    for write in entry.writes:
        if write.kind == journal.HEADER:
            backing = record.link_of(write.after, image)
            if write.after and (backing is None or write.after_format not in ("qcow2", "raw")):
                named = f"{write.after_format!a:.20} backing {write.after!a:.100}"
                raise _refused(image, f"its journal names what is no volume of the image: {named}")
        elif volume_metadata.parse(journal.data_of(write.after)).image != image:
            raise _refused(image, f"its journal holds a record of another image for volume {write.volume}")
        yield write


def _present(sight: inspection.Sight, write: journal.Write) -> tuple[str, str]:
    here = sight.records.get(write.volume)
    if here is None or here.gone:
        return "", ""
    if write.kind == journal.HEADER:
        return here.text or "", here.backing_format or ""
    try:
        return repair.record_of(sight, write.volume)[0], ""
    except FileNotFoundError:
        return "", ""
    except OSError as error:
        raise errors.VolumeAccessError(volume=write.volume, reason=error.strerror) from error


def _to_do(found: Iterable[_Present]) -> Iterator[_Present]:
    """The steps that are still to be done: of a volume's steps those from the one that what there is comes from."""
    started: set[tuple[ids.VolumeId, str]] = set()
    for each in found:
        key = each.write.volume, each.write.kind
        if key in started or (each.text, each.backing_format) == each.write.old:
            started.add(key)
            yield each


def _refuse_changes(sight: inspection.Sight, entry: journal.Entry, found: Iterable[_Present], rested: bool) -> None:
    differences = [*_volumes(sight, entry), *_steps(found)]
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise _refused(sight.image, f"{differences[0]}{more}")
    if not rested and (not entry.boot or entry.boot != hostinfo.boot_id()):
        reason = (
            "it was made before this host was started, or on another one, so the times of files do not tell whether a "
            "machine has run since; if you know that none has, say so with 'rested'"
        )
        raise _refused(sight.image, reason)


def _volumes(sight: inspection.Sight, entry: journal.Entry) -> Iterator[str]:
    present = sight.data_files()
    for volume in sorted({*present, *entry.files}):
        if volume not in present:
            yield f"volume {volume} is gone"
        elif volume not in entry.files:
            yield f"volume {volume} was made since"
        elif present[volume] != entry.files[volume]:
            yield f"volume {volume} was written since"


def _steps(found: Iterable[_Present]) -> Iterator[str]:
    known: dict[tuple[ids.VolumeId, str], set[tuple[str, str]]] = {}
    there = {}
    for each in found:
        key = each.write.volume, each.write.kind
        known.setdefault(key, set()).update((each.write.old, each.write.new))
        there[key] = each.text, each.backing_format
    for (volume, kind), texts in known.items():
        if there[volume, kind] not in texts:
            yield f"the {kind} of volume {volume} was changed since"


def _refused(image: ids.ImageId, reason: str) -> errors.ImageIsNotLegalChain:
    return errors.ImageIsNotLegalChain(image=image, reason=f"its last repair is not undone: {reason}")
