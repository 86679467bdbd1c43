"""The one place that changes files of a domain, a task store or a journal.

Every function says what is durable when it returns. Nothing here follows a symbolic link as the last component, and
nothing overwrites a file except `replace`, whose name says so. Temporary names are unique, so two writers never share
one, and end in ``.new``, which every scan ignores.

What cannot be promised: a device that acknowledges a flush it did not do; a network file system mounted ``async``.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

TEMPORARY_SUFFIX = ".new"

PROBE_PREFIX = ".probe."

_PROBE_SIZE = 4096  # bytes; a multiple of every sector size in use

_PIECE = 4 * 1024 * 1024  # bytes that are copied at a time

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def read(path: Path | str, limit: int) -> bytes:
    """Content of a small regular file.

    Args:
        path: the file; a symbolic link is refused with ELOOP.
        limit: most bytes accepted.

    Raises:
        OSError: EFBIG when the file is larger than the limit, EINVAL when it is not a regular file, else the system's.
    """
    fd = os.open(path, _READ | os.O_NONBLOCK)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data, piece = b"", min(limit, max(info.st_size, 512)) + 1
        while len(data) <= limit and (more := os.read(fd, piece)):
            data += more
        if len(data) > limit or info.st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
        return data
    finally:
        os.close(fd)


def replace(path: Path, data: bytes, mode: int = 0o660, *, mtime_ns: int | None = None) -> None:
    """Put `data` under `path` as a whole: afterwards, and after any crash, the file holds the old or the new content.

    Args:
        mtime_ns: modification time that comes with the content, nanoseconds since the epoch; None for now.

    Write order: temporary file, fsync of it, rename, fsync of the directory. A crash before the rename leaves a
    ``*.new`` file that `sweep_temporaries` removes. Durable on return.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        _write_new(temporary, data, mode, mtime_ns=mtime_ns)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def create(path: Path, data: bytes = b"", *, size: int | None = None, mode: int = 0o660) -> None:
    """Make a new file; durable on return.

    Args:
        data: first bytes of the file.
        size: length in bytes to extend to, sparse; default the length of `data`.
        mode: exact permission bits, whatever the umask.

    Raises:
        FileExistsError: the name is taken (also by a symbolic link). Nothing is changed.
        OSError: the file could not be made whole; it is removed again.
    """
    try:
        _write_new(path, data, mode, size)
    except FileExistsError:
        raise
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    sync_directory(path.parent)


def _write_new(path: Path, data: bytes, mode: int, size: int | None = None, *, mtime_ns: int | None = None) -> None:
    fd = os.open(path, _CREATE, mode)
    try:
        os.fchmod(fd, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if size is not None:
            os.ftruncate(fd, size)
        if mtime_ns is not None:
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        os.fsync(fd)
    finally:
        os.close(fd)


def extend(path: Path, size: int) -> None:
    """Grow an existing file to `size` bytes, sparse; durable on return. Never shrinks."""
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
            os.fsync(fd)
    finally:
        os.close(fd)


def allocate(path: Path, offset: int, length: int) -> None:
    """Have the storage set blocks aside for a part of an existing file, growing it where needed; not durable: `sync`.

    What is there stays. Where the file system cannot set blocks aside, they are written instead.

    Raises:
        OSError: ENOSPC when there are not enough blocks; some may have been set aside.
    """
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, offset, length)
    finally:
        os.close(fd)


def set_mode(path: Path, mode: int) -> None:
    """Give a regular file exact permission bits; durable on return.

    Raises:
        OSError: EINVAL when it is no regular file, ELOOP when it is a symbolic link, else the system's.
    """
    fd = os.open(path, _READ | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync(path: Path) -> None:
    """Flush a file that another program wrote, so that what is recorded about it next is true after a crash."""
    fd = os.open(path, _READ)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def synced(path: Path) -> Iterator[None]:
    """Let another program write to a file within a block, and flush the file after it.

    The file is held open from before: the system tells of what it failed to write later only to who was there.

    Raises:
        OSError: what was written is not on disk.
    """
    fd = os.open(path, _READ)
    try:
        yield
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. A file system that cannot (EINVAL) is accepted; an I/O error is not."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int = 0o775) -> bool:
    """Make one directory, durable on return; False when it is there already (and is a real directory)."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
        return False
    sync_directory(path.parent)
    return True


def unlink(path: Path) -> bool:
    """Remove a file name; False when it was gone already, which is success for every destructive step."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def remove_directory(path: Path) -> bool:
    """Remove an empty directory; False when it was gone already."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True


def remove_tree(path: Path) -> None:
    """Remove a directory and all below it without following any link. Already gone is success; crash-repeatable.

    Raises:
        NotADirectoryError: the path is a link. Nothing is changed.
    """
    if path.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "a symbolic link, not a directory", str(path))
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
    remove_directory(path)


def discard(path: Path) -> None:
    """Remove a directory so that it goes at once: first its name becomes a temporary one, then it is taken apart.

    A crash in between leaves a ``*.new`` directory, never a half-empty one under `path`. Already gone is success.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        os.rename(path, temporary)
    except FileNotFoundError:
        return
    sync_directory(path.parent)
    remove_tree(temporary)


def create_directory(path: Path, contents: Mapping[str, bytes], mode: int = 0o775) -> None:
    """Make a directory with small files in it; directory and files are durable on return.

    Raises:
        FileExistsError: the name is taken. Nothing is changed.
        OSError: it could not be made whole; a part of it may be left.
    """
    os.mkdir(path, mode)
    for name, data in contents.items():
        _write_new(path / name, data, 0o660)
    sync_directory(path)
    sync_directory(path.parent)


def swap_directory(new: Path, current: Path, previous: Path) -> None:
    """Put the directory `new` in the place of `current`; all three are names in one directory. Durable on return.

    Write order: drop a left-over `previous`, rename `current` to `previous`, rename `new` to `current`, fsync, drop
    `previous`. Two renames, so there is one window in which `current` is missing: then `new` is complete, because the
    caller made it durable before. `current` may be missing from the start.
    """
    discard(previous)
    with contextlib.suppress(FileNotFoundError):
        os.rename(current, previous)
    os.rename(new, current)
    sync_directory(current.parent)
    discard(previous)


def rename(source: Path, target: Path) -> None:
    """Rename within one file system, durable on return. The target must not exist.

    Raises:
        FileExistsError: the target exists. Nothing is changed.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def put_over(source: Path, target: Path) -> None:
    """Put a finished file in the place of another, which is gone then; durable on return.

    After any crash the target is the old or the new file. Where both are names of one file, `source` just goes.
    """
    os.rename(source, target)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(source)  # renaming does nothing when both are names of one file
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def copy_ranges(
    source: Path, target: Path, ranges: Iterable[tuple[int, int]], check: Callable[[], None] = lambda: None
) -> None:
    """Copy parts of a file to the same places of an existing one, which grows where needed; not durable: `sync`.

    Args:
        ranges: half-open byte ranges; what lies behind the source's end is left out.
        check: called between pieces; what it raises ends the copy.
    """
    with contextlib.ExitStack() as stack:
        reader = os.open(source, _READ)
        stack.callback(os.close, reader)
        writer = os.open(target, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, writer)
        for start, end in ranges:
            while start < end:
                check()
                data = os.pread(reader, min(end - start, _PIECE), start)
                if not data:
                    break
                written = os.pwrite(writer, data, start)
                start += written


def link(source: Path, target: Path) -> None:
    """Give a file a second name that must be free; durable on return.

    Raises:
        FileExistsError: the name is taken, also by a symbolic link. Nothing is changed.
    """
    os.link(source, target, follow_symlinks=False)
    sync_directory(target.parent)


def hard_link(source: Path, target: Path) -> None:
    """Give a file a second name; an existing target is replaced only when it is no link of the same file."""
    if os.path.lexists(target) and os.path.samefile(source, target):
        return
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    os.link(source, temporary, follow_symlinks=False)
    os.rename(temporary, target)
    sync_directory(target.parent)


def point(link: Path, target: Path) -> None:
    """Make or move a symbolic link of ours atomically; an entry that is not a symbolic link is refused (EEXIST)."""
    if os.path.lexists(link) and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "not a symbolic link", str(link))
    temporary = link.with_name(f"{link.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    os.symlink(target, temporary)
    os.rename(temporary, link)
    sync_directory(link.parent)


def claim(path: Path, data: bytes) -> int:
    """Take a file as a lock between processes (flock) and say in it who has it; it is made where it is missing.

    The lock lasts until `unclaim` or the end of the process and all children that share the descriptor. The content
    is for people and is not durable.

    Args:
        data: the new content, a decimal number and a line end.

    Returns:
        The descriptor that keeps the lock.

    Raises:
        BlockingIOError: another process has it.
        FileExistsError: the file holds something else than a number, so it is not a lock. Nothing is changed.
        OSError: ELOOP when it is a symbolic link, else the system's.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(fd, path):  # its owner removed it between our open and our lock
                os.close(fd)
                continue
            if not stat.S_ISREG(os.fstat(fd).st_mode) or os.read(fd, 64).strip(b"0123456789\n"):
                raise FileExistsError(errno.EEXIST, "it holds something else than a number", str(path))
            os.ftruncate(fd, 0)
            os.pwrite(fd, data, 0)
            return fd
        except BaseException:
            os.close(fd)
            raise


def unclaim(path: Path, fd: int) -> None:
    """Remove a file that `claim` took, if it is still the one, and give the lock up. Not durable."""
    if _is_at(fd, path):
        with contextlib.suppress(OSError):  # a directory that became read-only: the lock goes all the same
            os.unlink(path)
    fcntl.flock(fd, fcntl.LOCK_UN)  # closing alone would leave it to a child between fork and exec
    os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def accepts_direct_io(directory: Path) -> bool:
    """Whether the file system under a directory takes direct I/O (O_DIRECT), which machines use for their disks.

    Found out by one aligned block in a private file, whose name nobody else uses and which is removed again; a crash
    leaves a hidden ``*.new`` file of one block.

    Raises:
        OSError: the file could not be made or written for another reason.
    """
    probe = directory / f"{PROBE_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        fd = os.open(probe, _CREATE | os.O_DIRECT, 0o600)
        try:
            with mmap.mmap(-1, _PROBE_SIZE) as block:
                os.write(fd, block)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        # Refusing O_DIRECT comes after the file was made, so it is removed in every case.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(probe)
    return True


def file_type(path: Path) -> int | None:
    """What a name is, links not followed: ``stat.S_IFREG``, ``stat.S_IFDIR``, ...; None when nothing has that name.

    Raises:
        OSError: it could not be found out.
    """
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def names(directory: Path) -> list[str]:
    """Names in a directory, without temporaries. Raises OSError when it could not be read: that is not "empty"."""
    return [name for name in os.listdir(directory) if not name.endswith(TEMPORARY_SUFFIX)]


def sweep_temporaries(directory: Path) -> int:
    """Remove what writers left that died before their rename; the number removed. The caller holds the lock."""
    left = [name for name in os.listdir(directory) if name.endswith(TEMPORARY_SUFFIX)]
    return sum(unlink(directory / name) for name in left)


def sweep_replaced(path: Path) -> None:
    """Remove what calls of `replace` for one file left that died before their rename; other names are left alone.

    The caller sees to it that nobody replaces the file meanwhile.
    """
    mine = re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}" + re.escape(TEMPORARY_SUFFIX))
    for name in os.listdir(path.parent):
        if mine.fullmatch(name):
            unlink(path.with_name(name))


def restore_mtime(path: Path, mtime_ns: int) -> None:
    """Give a file back the modification time it had, in nanoseconds since the epoch.

    For changes that are no news from the guest: the time of a volume's last write is evidence about its content.
    """
    info = os.lstat(path)
    os.utime(path, ns=(info.st_atime_ns, mtime_ns), follow_symlinks=False)
