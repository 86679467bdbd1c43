"""Make storage agree with a plan, so that every state in between is a chain that the same plan would finish.

Write order, and what a crash leaves:

1. the journal entry; a crash after it has changed nothing yet;
2. headers that are pointed back: each makes one child read again what it read before its merge began. A crash between
   two leaves some merges undone and others still to undo; each is judged by what is really beneath it, not by what the
   headers there say yet, so the rest is found again as it was;
3. metadata of dropped volumes, then of the chain from root to leaf, one atomic write a volume. Who is the leaf is
   decided by the leaf's own record, which comes last; until then the evidence is what it was.

Whoever calls again after a crash finds the rest of the same changes and nothing else.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from storage import chain, errors, files, ids, image, inspection, journal, qemuimg, volume_metadata

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


def unchanged(before: inspection.Sight, where: image.Domain) -> None:
    """Look again just before writing.

    Raises:
        OperationInProgress: something changed since the first look; nothing has been written.
    """
    after = inspection.look(before.directory, before.image, where.id)
    if after.records != before.records:
        moved = [v for v in before.records if after.records.get(v) != before.records[v]] or list(after.records)
        reason = f"volume {moved[0]} changed while it was examined; call again"
        raise errors.OperationInProgress(object=f"image {before.image}", reason=reason)


def carry_out(
    sight: inspection.Sight,
    where: image.Domain,
    leaf: ids.VolumeId,
    changes: Sequence[chain.Change],
    tool: qemuimg.QemuImg,
) -> None:
    """Write all changes in their order.

    Raises:
        VolumeIsBusy: somebody opened a volume meanwhile; a second call finishes what was begun.
        VolumeMetadataWriteError: the storage refused a write.
    """
    rewritten = _rewritten(sight, where.version, changes)
    texts = {v: (_text(sight.directory / f"{v}{image.META_SUFFIX}"), data.decode()) for v, data in rewritten.items()}
    journal.write(journal.path_of(where.path, sight.image), leaf, changes, texts)
    for change in changes:
        if change.field == chain.BACKING:
            _point_back(sight, change, tool)
    for volume, data in rewritten.items():
        try:
            files.replace(sight.directory / f"{volume}{image.META_SUFFIX}", data, image.RECORD_MODE)
        except OSError as error:
            raise errors.VolumeMetadataWriteError(volume=volume, reason=error.strerror) from error


def _text(path: Path) -> str:
    return files.read(path, volume_metadata.READ_LIMIT).decode("utf-8", "replace")


def _rewritten(sight: inspection.Sight, version: int, changes: Sequence[chain.Change]) -> dict[ids.VolumeId, bytes]:
    """New metadata text of each volume whose record changes, in the order of the changes."""
    written: dict[ids.VolumeId, bytes] = {}
    only_metadata = [change for change in changes if change.field != chain.BACKING]
    for volume, group in itertools.groupby(only_metadata, key=lambda change: change.volume):
        metadata = sight.records[volume].metadata
        assert metadata is not None
        written[volume] = volume_metadata.encode(chain.apply(metadata, group), version)
    return written


def _point_back(sight: inspection.Sight, change: chain.Change, tool: qemuimg.QemuImg) -> None:
    path = sight.directory / change.volume
    backing = sight.records[ids.VolumeId(change.after)]
    assert backing.metadata is not None
    try:
        tool.rebase_unsafe(path, change.after, _FORMATS[backing.metadata.format])
    except qemuimg.InUse as error:
        raise errors.VolumeIsBusy(volume=change.volume, reason="a live process opened it") from error
    except qemuimg.QemuImgError as error:
        raise errors.ImageValidationError(object=f"volume {change.volume}", reason=f"qemu-img: {error}") from error
    files.sync(path)
    files.restore_mtime(path, sight.records[change.volume].mtime_ns)
