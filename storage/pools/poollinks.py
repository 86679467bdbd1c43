"""The directory of a connected pool: one link a domain in use, and ``mastersd``. Nothing else is ever in it.

Each link is put in place by a rename, so a reader finds the old or the new target. New links come first, the master
second, and those that are not wanted any more go last; a crash leaves a directory that the next refresh completes.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from storage import files, ids, layout


def refresh(
    repository: layout.Repository, pool_id: ids.PoolId, master: Path, domains: Mapping[ids.DomainId, Path]
) -> None:
    """Make the pool's directory say what is given.

    Args:
        master: directory of the master domain.
        domains: directory by domain, for each domain in use; the master is one of them.

    Raises:
        OSError: what could not be done; may be repeated.
    """
    directory = repository.pool_directory(pool_id)
    files.make_directory(directory)
    files.sweep_temporaries(directory)
    for domain_id, path in domains.items():
        _point(repository.domain_link(pool_id, domain_id), path)
    _point(repository.master_link(pool_id), master)
    for name in files.names(directory):
        if name != layout.MASTER_LINK and name not in domains:
            _unlink(directory / name)


def remove(repository: layout.Repository, pool_id: ids.PoolId) -> None:
    """Remove the pool's directory; already gone is success.

    Raises:
        OSError: something could not be removed, also because it is not a link of ours; may be repeated.
    """
    directory = repository.pool_directory(pool_id)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        _unlink(directory / name)
    files.remove_directory(directory)


def _point(link: Path, target: Path) -> None:
    if not (link.is_symlink() and os.readlink(link) == str(target)):
        files.point(link, target)


def _unlink(path: Path) -> None:
    if files.file_type(path) == stat.S_IFLNK:
        files.unlink(path)
