"""Files of an ISO domain: what is below its one image directory, by their paths relative to it.

Links to directories are not entered. A link to a file counts when the file is inside, too: what is outside is nobody's
business who asks for a list. Names that no reply can carry are left out.
"""

import dataclasses
import errno
import fnmatch
import logging
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from storage import errors, layout
from storage.domains import domain as storage_domain, domainmaker

log = logging.getLogger(__name__)

MACHINE_USER = "qemu"
"""The user that machines run as, where there is one."""

ALL = "*"

_MAX_DEPTH = 32  # directories within directories; a tree is deeper by mistake only


@dataclasses.dataclass(frozen=True)
class Account:
    """Whom a file must be readable for.

    Attributes:
        user, groups: numbers.
    """

    user: int
    groups: frozenset[int]

    def may(self, info: os.stat_result, permission: int) -> bool:
        """Whether the permission bits allow it.

        Args:
            permission: ``os.R_OK`` or ``os.X_OK``.
        """
        if self.user == 0:
            return True
        shift = 6 if info.st_uid == self.user else 3 if info.st_gid in self.groups else 0
        return bool(info.st_mode >> shift & permission)


@dataclasses.dataclass(frozen=True)
class IsoFile:
    """A file.

    Attributes:
        name: path relative to the image directory.
        size: bytes.
        ctime: seconds since the epoch.
        readable: whether a machine may read it.
    """

    name: str
    size: int
    ctime: float
    readable: bool


def machine_account() -> Account:
    """The account that machines run under here: that of `MACHINE_USER`, else that of this process."""
    try:
        entry = pwd.getpwnam(MACHINE_USER)
    except KeyError:
        return Account(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
    return Account(entry.pw_uid, frozenset(os.getgrouplist(MACHINE_USER, entry.pw_gid)))


def matcher(pattern: str, case_sensitive: bool) -> Callable[[str], bool]:
    """What decides whether a path fits a shell's pattern, as a whole or by its last name. Pure."""
    if pattern == ALL:
        return lambda path: True
    fits = re.compile(fnmatch.translate(pattern), 0 if case_sensitive else re.IGNORECASE).match
    return lambda path: bool(fits(path) or fits(path.rpartition("/")[2]))


def directory(domain: storage_domain.Domain) -> Path:
    """The image directory of an ISO domain.

    Raises:
        GetFileStatsError: the domain has none, or it cannot be looked at.
    """
    place = domain.image_directory(domainmaker.ISO_IMAGE)
    try:
        if stat.S_ISDIR(os.lstat(place).st_mode):
            return place
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _error(domain, error.strerror or str(error)) from error
    raise _error(domain, "it has no directory of ISO files")


def find(domain: storage_domain.Domain, fits: Callable[[str], bool]) -> list[IsoFile]:
    """The files whose relative path fits, sorted by name.

    Raises:
        GetFileStatsError: the directory, or one within it, cannot be read.
    """
    root = directory(domain)
    try:
        found = list(_walk(_Tree(root, Path(os.path.realpath(root)), machine_account(), fits), "", True, 0))
    except OSError as error:
        raise _error(domain, f"{error.filename}: {error.strerror}") from error
    return sorted(found, key=lambda each: each.name)


def _error(domain: storage_domain.Domain, reason: str) -> errors.GetFileStatsError:
    return errors.GetFileStatsError(reason=f"domain {domain.id}: {reason}")


@dataclasses.dataclass(frozen=True)
class _Tree:
    root: Path
    real: Path
    account: Account
    fits: Callable[[str], bool]


def _walk(tree: _Tree, prefix: str, reachable: bool, depth: int) -> Iterator[IsoFile]:
    place = tree.root / prefix
    try:
        reachable = reachable and tree.account.may(os.stat(place), os.X_OK)
        with os.scandir(place) as listing:
            entries = list(listing)
    except (FileNotFoundError, PermissionError) as error:
        if not depth:
            raise
        log.warning("%s is left out: %s", place, error.strerror)
        return
    for entry in entries:
        path = prefix + entry.name
        if layout.is_unprintable(path):
            log.warning("%r below %s is left out: no reply can carry its name", path, tree.root)
        elif entry.is_dir(follow_symlinks=False):
            if depth < _MAX_DEPTH:
                yield from _walk(tree, path + "/", reachable, depth + 1)
        elif tree.fits(path) and (info := _file(tree, entry)):
            readable = reachable and tree.account.may(info, os.R_OK)
            yield IsoFile(path, info.st_size, info.st_ctime, readable)


def _file(tree: _Tree, entry: "os.DirEntry[str]") -> os.stat_result | None:
    """What is known of a regular file; None for anything else, and for what has gone meanwhile."""
    try:
        if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(tree.real):
            return None
        info = entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            raise
        return None
    return info if stat.S_ISREG(info.st_mode) else None
