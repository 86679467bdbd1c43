"""Make storage agree with a plan, so that every state in between is a chain that the same plan would finish.

Write order, and what a crash leaves:

1. the journal entry; a crash after it has changed nothing yet;
2. where the marked leaf stays *and* headers have to be pointed back: its record, LEGAL again. Pointing back writes to
   files whose times are evidence, so the decision has to be safe before; prepareImage still refuses such a chain;
3. headers that are pointed back: each makes one child read again what it read before its merge began. A crash between
   two leaves some merges undone and others still to undo; each is judged by what is really beneath it, not by what the
   headers there say yet, so the rest is found again as it was;
4. metadata of the chain from root to leaf, one atomic write a volume;
5. metadata of a leaf that was dropped. Its record says when it was marked, which is evidence, so it comes last: then
   it is settled.

Whoever calls again after a crash finds the rest of the same changes and nothing else. What the decision was read from
is flushed before the first change: a process that was killed in a merge leaves data in the memory of the host only,
and what was dropped may be deleted as soon as we have answered.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from storage import errors, files, hostinfo, ids
from storage.chains import chain, inspection, journal
from storage.qemu import qemuimg
from storage.volumes import image, volume_metadata

_FORMATS = {volume_metadata.COW: "qcow2", volume_metadata.RAW: "raw"}


def confirm(sight: inspection.Sight, volumes: Iterable[ids.VolumeId], tool: qemuimg.QemuImg) -> None:
    """Let qemu-img, the arbiter, say the same of each volume as the look did; its locks show a chain in use.

    Raises:
        VolumeIsBusy: a live process has a volume open.
        ImageValidationError: qemu-img contradicts the look.
    """
    for volume in dict.fromkeys(volumes):
        here = sight.records[volume]
        if here.metadata is None or not here.own:
            continue
        try:
            info = tool.info(sight.directory / volume, _FORMATS[here.metadata.format])
        except qemuimg.InUse as error:
            raise errors.VolumeIsBusy(volume=volume, reason="a live process writes to it") from error
        except qemuimg.QemuImgError as error:
            raise errors.ImageValidationError(object=f"volume {volume}", reason=f"qemu-img: {error}") from error
        if info.backing_name != here.text:
            reason = f"qemu-img reads backing name {info.backing_name!a}, we read {here.text!a}"
            raise errors.ImageValidationError(object=f"volume {volume}", reason=reason)


def unchanged(before: inspection.Sight, where: image.Domain, volumes: Iterable[ids.VolumeId]) -> None:
    """Look again just before writing.

    Args:
        volumes: those that nobody may have open.

    Raises:
        VolumeIsBusy: somebody opened one since the first look.
        OperationInProgress: something changed since the first look; nothing has been written.
    """
    after = inspection.look(before.directory, before.image, where.id)
    unused(after, [volume for volume in volumes if volume in after.records])
    if after.records != before.records:
        moved = [v for v in before.records if after.records.get(v) != before.records[v]] or list(after.records)
        reason = f"volume {moved[0]} changed while it was examined; call again"
        raise errors.OperationInProgress(object=f"image {before.image}", reason=reason)


def unused(sight: inspection.Sight, volumes: Iterable[ids.VolumeId]) -> None:
    """See that nobody has volumes open.

    Raises:
        VolumeIsBusy: a live process has one.
        VolumeAccessError: it could not be asked.
    """
    asked = list(volumes)
    try:
        busy = inspection.in_use(sight, asked)
    except OSError as error:
        raise errors.VolumeAccessError(volume=asked[0], reason=error.strerror) from error
    for volume in busy:
        raise errors.VolumeIsBusy(volume=volume, reason="a live process has it open; stop the VM first")


def flush(sight: inspection.Sight, volumes: Iterable[ids.VolumeId]) -> None:
    """Have on disk what was read of these volumes, for it may so far be in the memory of the host only.

    Raises:
        VolumeAccessError: the storage could not write it.
    """
    for volume in dict.fromkeys(volumes):
        try:
            files.sync(sight.directory / volume)
        except OSError as error:
            raise errors.VolumeAccessError(volume=volume, reason=error.strerror) from error


def carry_out(
    sight: inspection.Sight,
    where: image.Domain,
    leaf: ids.VolumeId,
    changes: Sequence[chain.Change],
    tool: qemuimg.QemuImg,
) -> None:
    """Write all changes in their order, neighbouring ones of one record at once.

    Raises:
        VolumeIsBusy: somebody opened a volume meanwhile; a second call finishes what was begun.
        VolumeMetadataWriteError: the storage refused a write.
        MetaDataValidationError, MetadataOverflowError: a record cannot be written as it is. Nothing has been written.
    """
    with _writing(leaf, "journal: "):
        writes = _writes(sight, where.version, changes)
        entry = journal.Entry(
            kind=journal.REPAIR,
            time=int(time.time()),
            boot=hostinfo.boot_id(),
            leaf=leaf,
            changes=tuple(changes),
            writes=writes,
            files=sight.data_files(),
        )
        journal.write(journal.path_of(where.path, sight.image), entry)
    for write in writes:
        perform(sight.directory, write, tool)


def perform(directory: Path, write: journal.Write, tool: qemuimg.QemuImg) -> None:
    """Do one step; durable on return.

    Raises:
        VolumeIsBusy: somebody opened the volume meanwhile.
        VolumeMetadataWriteError: the storage refused the write.
        ImageValidationError: qemu-img did.
    """
    path = directory / write.volume
    with _writing(write.volume):
        if write.kind == journal.HEADER:
            _point(path, write, tool)
        else:
            record = path.with_name(f"{write.volume}{image.META_SUFFIX}")
            files.replace(record, journal.data_of(write.after), image.RECORD_MODE, mtime_ns=write.after_ns or None)


@contextlib.contextmanager
def _writing(volume: ids.VolumeId, what: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.VolumeMetadataWriteError(volume=volume, reason=f"{what}{error.strerror}") from error


def _writes(sight: inspection.Sight, version: int, changes: Iterable[chain.Change]) -> tuple[journal.Write, ...]:
    """The steps, neighbouring changes of one record in one."""
    found = []
    current = {volume: here.metadata for volume, here in sight.records.items()}
    texts: dict[ids.VolumeId, str] = {}
    for (volume, is_header), group in itertools.groupby(changes, key=lambda c: (c.volume, c.field == chain.BACKING)):
        if is_header:
            found.append(_header(sight, next(group)))
            continue
        metadata = current[volume]
        assert metadata is not None
        current[volume] = changed = chain.apply(metadata, group)
        text, time_ns = (texts[volume], 0) if volume in texts else record_of(sight, volume)
        texts[volume] = journal.text_of(image.encoded(changed, version, volume))
        found.append(journal.Write(volume, journal.RECORD, text, texts[volume], before_ns=time_ns))
    return tuple(found)


def record_of(sight: inspection.Sight, volume: ids.VolumeId) -> tuple[str, int]:
    """A record as it is, and when it was written: for a marked leaf that is evidence."""
    path = sight.directory / f"{volume}{image.META_SUFFIX}"
    return journal.text_of(files.read(path, volume_metadata.READ_LIMIT)), os.lstat(path).st_mtime_ns


def _header(sight: inspection.Sight, change: chain.Change) -> journal.Write:
    here, backing = sight.records[change.volume], sight.records[ids.VolumeId(change.after)]
    assert backing.metadata is not None
    return journal.Write(
        volume=change.volume,
        kind=journal.HEADER,
        before=here.text or "",
        after=change.after,
        before_format=here.backing_format or "",
        after_format=_FORMATS[backing.metadata.format],
        before_ns=here.mtime_ns,
        after_ns=here.mtime_ns,
    )


def _point(path: Path, write: journal.Write, tool: qemuimg.QemuImg) -> None:
    """Have the header name another backing. That is no news from the guest, so the file keeps its time."""
    try:
        tool.rebase_unsafe(path, write.after or None, write.after_format or None)
    except qemuimg.InUse as error:
        raise errors.VolumeIsBusy(volume=write.volume, reason="a live process opened it") from error
    except qemuimg.QemuImgError as error:
        raise errors.ImageValidationError(object=f"volume {write.volume}", reason=f"qemu-img: {error}") from error
    files.sync(path)
    files.restore_mtime(path, write.after_ns)
