"""A volume's content comes from, or goes to, somewhere else, piece by piece.

Taking in, in this order:

====  ==============================  ===========================================================================
step  change                          a crash after the step leaves
====  ==============================  ===========================================================================
1     recovery recorded               nothing changed: the rollback finds the volume LEGAL as it was
2     record ILLEGAL, and the mark    a volume that nobody uses and `reconcileVolumeChain` leaves alone
3     data emptied, written, flushed  the same, with a part of the new content
4     content verified                the same
5     record LEGAL, without the mark  the new content, whole and verified; the task ends as failed, and says so
====  ==============================  ===========================================================================

What was there before is gone after step 3, so from step 2 on there is no way back: a task that fails, is stopped or cut
off there ends as "failed to clean up", and its message says what became of the volume. A content that is refused stays
where it is, ILLEGAL. The way out of ILLEGAL is another transfer, or deletion.
"""

import dataclasses
import errno
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from storage import errors, files, filewriter, ids
from storage.jobs import tasks
from storage.volumes import image, incoming, steps, volume, volume_metadata

log = logging.getLogger(__name__)

PIECE = 256 * 1024
"""Bytes moved at a time; larger pieces fall out of the processor's cache between being read and being written."""

_HOLE = 64 * 1024
"""Bytes of zeroes that are left out of a sparse file, at the least."""

_ZEROES = bytes(_HOLE)
_ALLOCATION_STEP = 256 * 1024 * 1024
_GENERATIONS = 1000

Pause = Callable[[], None]
"""Called several times a second while an end waits; raises when the transfer has to end."""


class Source(Protocol):
    """Where content comes from. Failures of the other end are raised as errors of the API."""

    def begin(self, task_id: ids.TaskId, pause: Pause) -> int:
        """Get ready; the number of bytes that will come."""

    def fill(self, buffer: memoryview, pause: Pause) -> None:
        """Fill the buffer with what comes next."""

    def close(self) -> None:
        """Let go of the other end; called once, whatever happened."""


class Sink(Protocol):
    """Where content goes to. Failures of the other end are raised as errors of the API."""

    def begin(self, task_id: ids.TaskId, length: int, pause: Pause) -> None:
        """Get ready for so many bytes."""

    def send(self, fd: int, offset: int, count: int, pause: Pause) -> None:
        """Pass on a piece of a file. Raises EOFError when the file ends before."""

    def end(self, pause: Pause) -> None:
        """All was passed on; return when the other end has it."""

    def close(self) -> None:
        """Let go of the other end; called once, whatever happened."""


# ---------------------------------------------------------------- out


def send(path: Path, length: int, sink: Sink, task: tasks.Task) -> None:
    """Send the first bytes of a volume's file.

    Raises:
        VolumeAccessError: the file cannot be read, or became shorter.
        StorageError: the other end failed.
        TaskAborted: it was stopped.
    """
    fd = -1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        sink.begin(task.id, length, task.check)
        for offset in range(0, length, PIECE):
            task.check()
            sink.send(fd, offset, min(PIECE, length - offset), task.check)
            _tell(task, min(offset + PIECE, length), length)
        sink.end(task.check)
    except EOFError:
        raise errors.VolumeAccessError(volume=path.name, reason="its file became shorter") from None
    except OSError as error:
        raise errors.VolumeAccessError(volume=path.name, reason=error.strerror or str(error)) from error
    finally:
        if fd >= 0:
            os.close(fd)


def _tell(task: tasks.Task, done: int, total: int) -> None:
    task.progress(f"moved {done} of {total} bytes", done=str(done), total=str(total))


# ---------------------------------------------------------------- in


def receive(
    domain: image.Domain, image_id: ids.ImageId, chosen: incoming.Target, source: Source, task: tasks.Task
) -> None:
    """Replace the content of a volume; the caller holds the lock of its image, exclusively.

    Raises:
        CreateVolumeSizeError, VolumeIsBusy: nothing was changed.
        NoSpaceLeftOnDomain, VolumeAccessError, VolumeMetadataWriteError: the storage.
        IncorrectFormat, ImageValidationError: see `incoming.verify`.
        StorageError: the other end failed.
        TaskAborted: it was stopped.
    """
    length = source.begin(task.id, task.check)
    chosen.check_length(length)
    task.check()
    with volume.reserved([chosen.paths.data]):
        task.push(steps.transfer(domain.id, image_id, chosen.volume, chosen.metadata.generation))
        marked = _marked(chosen.metadata)
        image.write_metadata(domain, image_id, chosen.volume, marked)
        try:
            _write(chosen, length, source, task)
            incoming.verify(chosen, domain.version)
        except OSError as error:
            raise _explained(domain, chosen, length, error) from error
        task.check()
        image.write_metadata(domain, image_id, chosen.volume, _whole(marked))
    log.info("volume %s of image %s has a new content: %d bytes", chosen.volume, image_id, length)


def _marked(found: volume_metadata.VolumeMetadata) -> volume_metadata.VolumeMetadata:
    extra = {**found.extra, volume_metadata.UNFINISHED: "UNFINISHED"}
    return dataclasses.replace(found, legality=volume_metadata.ILLEGAL, extra=extra)


def _whole(marked: volume_metadata.VolumeMetadata) -> volume_metadata.VolumeMetadata:
    extra = {key: value for key, value in marked.extra.items() if key != volume_metadata.UNFINISHED}
    generation = (marked.generation + 1) % _GENERATIONS
    return dataclasses.replace(marked, legality=volume_metadata.LEGAL, generation=generation, extra=extra)


def _write(chosen: incoming.Target, length: int, source: Source, task: tasks.Task) -> None:
    """Step 3. What the content does not reach reads as zeroes: nothing of the old content shows through."""
    data = chosen.paths.data
    size = chosen.metadata.capacity if chosen.is_raw else length
    sparse = chosen.metadata.type == volume_metadata.SPARSE
    with filewriter.Writer(data) as writer, memoryview(bytearray(min(PIECE, max(length, 1)))) as buffer:
        writer.resize(0)
        if not sparse:
            _allocate(data, size, task)
        for offset in range(0, length, PIECE):
            task.check()
            piece = buffer[: min(PIECE, length - offset)]
            source.fill(piece, task.check)
            if sparse:
                _write_sparse(writer, piece, offset)
            else:
                writer.write(piece, offset)
            _tell(task, offset + len(piece), length)
        writer.resize(size)
        task.check()
        writer.sync()


def _write_sparse(writer: filewriter.Writer, piece: memoryview, offset: int) -> None:
    """Write what is not zero; the file is a hole there already."""
    start = 0
    for at in range(0, len(piece), _HOLE):
        block = piece[at : at + _HOLE]
        if block[0] or block[-1] or bytes(block) != _ZEROES[: len(block)]:
            continue
        writer.write(piece[start:at], offset + start)
        start = at + len(block)
    writer.write(piece[start:], offset + start)


def _allocate(path: Path, size: int, task: tasks.Task) -> None:
    for start in range(0, size, _ALLOCATION_STEP):
        task.check()
        files.allocate(path, start, min(_ALLOCATION_STEP, size - start))


def _explained(domain: image.Domain, chosen: incoming.Target, length: int, error: OSError) -> errors.StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.NoSpaceLeftOnDomain(domain=domain.id, needed=length, free=domain.space()[1])
    return errors.VolumeAccessError(volume=chosen.volume, reason=error.strerror or str(error))


# ---------------------------------------------------------------- what an interrupted transfer leaves behind


def settle(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, generation: int) -> None:
    """The recovery of a transfer into a volume: nothing can be done, but it has to be said what there is.

    Args:
        generation: of the volume when the transfer began.

    Raises:
        ImageValidationError: the volume has lost its content.
        NotImplementedException: it has the new one, as a whole.
    """
    try:
        found = image.read_metadata(domain, image_id, volume_id)
    except (errors.VolumeDoesNotExist, errors.ImageDoesNotExistInSD):
        return
    if is_unfinished(found):
        reason = "the transfer into it did not end well, so it stays ILLEGAL; send it again, or delete the volume"
        raise errors.ImageValidationError(object=f"content of volume {volume_id}", reason=reason)
    if found.generation != generation:
        what = f"undoing the transfer into volume {volume_id}, which has the new content, whole and verified,"
        raise errors.NotImplementedException(what=what)


def is_unfinished(found: volume_metadata.VolumeMetadata) -> bool:
    """Whether a volume is ILLEGAL because a transfer into it did not come to its end."""
    return found.legality == volume_metadata.ILLEGAL and volume_metadata.UNFINISHED in found.extra
