"""Copying what a master keeps, tasks of the pool and descriptions of machines, to the domain that comes after it."""

import os
import stat
from pathlib import Path

from storage import errors, files, layout
from storage.domains import domain

_LIMIT = 64 * 1024 * 1024  # bytes of one file; a machine description has some ten thousand


def copy(old: domain.Domain, new: domain.Domain) -> list[Path]:
    """Make the new domain's copies those of the old one; what it had is removed. Durable on return, and repeatable.

    Returns:
        What stays behind, because it is neither a file nor a directory.

    Raises:
        StorageDomainMasterCopyError: something could not be copied; the copy is not whole.
    """
    left: list[Path] = []
    try:
        files.make_directory(layout.master_tasks(new.path).parent, 0o755)
        for place in (layout.master_tasks, layout.master_vms):
            source, target = place(old.path), place(new.path)
            files.remove_tree(target)
            files.make_directory(target, 0o755)
            if files.file_type(source) is not None:
                left += _fill(target, source)
    except OSError as error:
        raise errors.StorageDomainMasterCopyError(
            domain=new.id, reason=f"{error.strerror or error} ({error.filename})"
        ) from error
    return left


def drop(old: domain.Domain) -> None:
    """Remove what a master kept that is none any more; raises OSError."""
    files.remove_tree(layout.master_tasks(old.path))
    files.remove_tree(layout.master_vms(old.path))


def _fill(target: Path, source: Path) -> list[Path]:
    left: list[Path] = []
    for entry in sorted(os.scandir(source), key=lambda each: each.name):
        path, mode = Path(entry.path), stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
        if entry.is_dir(follow_symlinks=False):
            files.make_directory(target / entry.name, mode)
            left += _fill(target / entry.name, path)
        elif entry.is_file(follow_symlinks=False):
            # In one step: nothing that is half copied may ever pass for a machine, whatever becomes of the migration.
            files.replace(target / entry.name, files.read(path, _LIMIT), mode)
        else:
            left.append(path)
    return left
