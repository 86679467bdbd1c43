"""Task records on disk: one directory a task, replaced as a whole. The bytes are `taskformat`'s business.

Saving builds ``<id>.temp``, makes it durable, and swaps it with ``<id>``, which for a moment is called ``<id>.backup``.
Crash windows, and which copy counts then:

* while ``.temp`` is being written: it is not complete, so ``<id>`` counts: the old record;
* ``.temp`` complete, before or between the two renames: ``.temp`` counts: the new record, not yet acted upon;
* after the renames: ``<id>`` counts: the new record; an older ``.backup`` may be left.

So the newest complete copy always counts. A copy is complete when every file that its ``.task`` announces is there and
ends with a line end. Other writers of the format may leave an empty ``<id>`` beside a good ``.backup``, which is why
left-overs are settled before anything else is written: the name ``<id>`` never exists before its content, and the only
good copy is never removed.

The caller is alone with the store: it holds the cluster lock, or the store belongs to this host.
"""

import errno
import os
from pathlib import Path

from storage import errors, files, ids
from storage.jobs import taskformat, tasks

TEMP = ".temp"
BACKUP = ".backup"
NEWEST_FIRST = (TEMP, "", BACKUP)

_FILE_LIMIT = 1024 * 1024


def save(store: Path, record: tasks.Record) -> None:
    """Write a record; durable on return. After a crash the store holds the old or the new one.

    Raises:
        TaskMetaDataSaveError: it could not be written; the old record counts (or the new one, if only the last flush
            failed).
    """
    try:
        settle(store, record.id)
        temp = _copy(store, record.id, TEMP)
        files.create_directory(temp, taskformat.encode(record, store))
        files.swap_directory(temp, _copy(store, record.id, ""), _copy(store, record.id, BACKUP))
    except OSError as error:
        raise errors.TaskMetaDataSaveError(task=record.id, reason=error.strerror or str(error)) from error


def load(store: Path) -> tuple[list[tasks.Record], list[str]]:
    """All records of a store, and what is wrong with those that cannot be read. Changes nothing.

    Raises:
        OSError: the store could not be listed; a missing store is empty.
    """
    records, problems = [], []
    try:
        names = files.names(store)
    except FileNotFoundError:
        return [], []
    for name in sorted({name.partition(".")[0] for name in names}):
        if not ids.is_id(name):
            problems.append(f"{store}: {name!r} is no task id")
            continue
        task_id = ids.TaskId(name)
        try:
            copy, reasons = _newest(store, task_id)
        except OSError as error:
            copy, reasons = None, [error.strerror or str(error)]
        if copy:
            records.append(copy[1])
        else:
            problems.append(f"{store}: task {task_id} cannot be read: {'; '.join(reasons)}")
    return records, problems


def settle(store: Path, task_id: ids.TaskId) -> None:
    """Make the newest complete copy the plain one, and drop the others; nothing to do in a store without left-overs.

    At every point the newest complete copy stays complete: torn and older ones go first. Torn means that it was read
    and found so; a copy that could not be read at all stops everything.

    Raises:
        OSError: what could not be read or done; may be repeated.
    """
    plain, temp, backup = (_copy(store, task_id, suffix) for suffix in ("", TEMP, BACKUP))
    if not (os.path.lexists(temp) or os.path.lexists(backup)):
        return
    copy, _ = _newest(store, task_id)
    newest = copy[0] if copy else None
    if newest == TEMP:
        files.swap_directory(temp, plain, backup)
        return
    files.discard(temp)
    if newest == BACKUP:
        files.discard(plain)
        files.rename(backup, plain)
    else:
        files.discard(backup)


def remove(store: Path, task_id: ids.TaskId) -> None:
    """Forget a record; already gone is success. The oldest copy goes first, so that no older state comes back.

    Raises:
        OSError: what could not be done; may be repeated.
    """
    for suffix in reversed(NEWEST_FIRST):
        files.discard(_copy(store, task_id, suffix))


def sweep(store: Path) -> None:
    """Drop what nobody can need: removals that a crash cut off, and first saves that never got as far as a record.

    Raises:
        OSError: what could not be read or done; may be repeated.
    """
    try:
        entries = list(os.scandir(store))
    except FileNotFoundError:
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            continue
        if entry.name.endswith(files.TEMPORARY_SUFFIX):
            files.remove_tree(Path(entry.path))
        elif entry.name.endswith(TEMP) and ids.is_id(entry.name.removesuffix(TEMP)):
            _drop_unborn(store, ids.TaskId(entry.name.removesuffix(TEMP)))


def _drop_unborn(store: Path, task_id: ids.TaskId) -> None:
    others = any(os.path.lexists(_copy(store, task_id, suffix)) for suffix in ("", BACKUP))
    if not others and _newest(store, task_id)[0] is None:
        files.discard(_copy(store, task_id, TEMP))


def _newest(store: Path, task_id: ids.TaskId) -> tuple[tuple[str, tasks.Record] | None, list[str]]:
    """Suffix and record of the newest complete copy, and why the newer ones are not complete.

    Raises:
        OSError: a copy could not be read; that does not make it torn.
    """
    reasons: list[str] = []
    for suffix in NEWEST_FIRST:
        path = _copy(store, task_id, suffix)
        try:
            return (suffix, taskformat.decode(task_id, _read(path, f"{task_id}."))), reasons
        except FileNotFoundError:
            continue
        except errors.TaskMetaDataLoadError as error:
            reasons.append(f"{path.name}: {error.fields['reason']}")
    return None, reasons


def _read(directory: Path, prefix: str) -> dict[str, bytes]:
    if directory.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "it is a symbolic link", str(directory))
    names = [name for name in files.names(directory) if name.startswith(prefix)]
    return {name: files.read(directory / name, _FILE_LIMIT) for name in names}


def _copy(store: Path, task_id: ids.TaskId, suffix: str) -> Path:
    return store / f"{task_id}{suffix}"
