"""Descriptions of machines (OVF texts) that an engine keeps inside a domain: the master, or a backup domain.

Layout (format: the protocol's): ``<domain>/master/vms/<machine>/<machine>.ovf``, UTF-8. Links are not followed, and
only ids make paths. Crash windows:

* a new machine: its directory is made whole under a temporary name and renamed, so it is never seen without its text;
* a known machine: the text is replaced as a whole, old or new;
* removal: the directory goes by one rename, then its content.

What a crash leaves has a temporary name (``*.new``), which no listing sees and the next change in the domain sweeps
away. The caller excludes other changes to the same machine; `sweep` wants all of them excluded.
"""

import contextlib
import errno
import logging
import os
import secrets
import stat
from pathlib import Path

from storage import errors, files, ids, layout
from storage.domains import domain as storage_domain

log = logging.getLogger(__name__)

OVF_LIMIT = 16 * 1024 * 1024
"""Most bytes of a text that are read."""

_SUFFIX = ".ovf"
_TEXT_MODE = 0o660
_DIRECTORY_MODE = 0o755


def directory(domain: storage_domain.Domain) -> Path:
    """Where the machines of a domain are.

    Raises:
        VMPathNotExists: there is no such directory.
        StorageDomainAccessError: it could not be looked at.
    """
    place = layout.master_vms(domain.path)
    try:
        if all(files.file_type(each) == stat.S_IFDIR for each in (place.parent, place)):
            return place
    except OSError as error:
        raise _access_error(domain, error) from error
    raise errors.VMPathNotExists(domain=domain.id)


def listed(domain: storage_domain.Domain) -> list[ids.VmId]:
    """The machines of a domain, sorted.

    Raises:
        VMPathNotExists, StorageDomainAccessError: as `directory`.
    """
    place = directory(domain)
    try:
        names = [name for name in files.names(place) if ids.is_id(name)]
        return [ids.VmId(name) for name in sorted(names) if files.file_type(place / name) == stat.S_IFDIR]
    except OSError as error:
        raise _access_error(domain, error) from error


def read(domain: storage_domain.Domain, vm_id: ids.VmId) -> str | None:
    """The text of a machine; None when the domain does not know the machine.

    Raises:
        MissingOvfFileFromVM: the machine has a directory, but no text that can be used.
        VMPathNotExists, StorageDomainAccessError: as `directory`.
    """
    home = directory(domain) / vm_id
    try:
        if files.file_type(home) != stat.S_IFDIR:
            return None
        return files.read(home / _name(vm_id), OVF_LIMIT).decode()
    except FileNotFoundError as error:
        # Removed meanwhile, or never whole.
        if files.file_type(home) is None:
            return None
        raise errors.MissingOvfFileFromVM(vm=vm_id, domain=domain.id, reason="the file is missing") from error
    except UnicodeDecodeError as error:
        raise errors.MissingOvfFileFromVM(vm=vm_id, domain=domain.id, reason="it is not UTF-8") from error
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EINVAL, errno.ELOOP):
            reason = error.strerror or str(error)
            raise errors.MissingOvfFileFromVM(vm=vm_id, domain=domain.id, reason=reason) from error
        raise _access_error(domain, error) from error


def write(domain: storage_domain.Domain, vm_id: ids.VmId, text: str) -> None:
    """Keep the text of a machine, new or known; durable on return.

    Raises:
        NoSpaceLeftOnDomain: the old text is in place.
        MiscDirCleanupFailure: something that is no directory has the machine's name.
        VMPathNotExists, StorageDomainAccessError: as `directory`.
    """
    home = directory(domain) / vm_id
    data = text.encode()
    try:
        kind = files.file_type(home)
        if kind is None:
            _make(home, vm_id, data)
        elif kind == stat.S_IFDIR:
            files.sweep_temporaries(home)
            files.replace(home / _name(vm_id), data, _TEXT_MODE)
        else:
            raise errors.MiscDirCleanupFailure(path=home, reason="it is no directory")
    except OSError as error:
        raise _write_error(domain, home, error, len(data)) from error


def _make(home: Path, vm_id: ids.VmId, data: bytes) -> None:
    building = home.with_name(f"{vm_id}.{secrets.token_hex(4)}{files.TEMPORARY_SUFFIX}")
    try:
        files.create_directory(building, {_name(vm_id): data}, _DIRECTORY_MODE)
        files.rename(building, home)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove_tree(building)
        raise


def remove(domain: storage_domain.Domain, vm_id: ids.VmId) -> None:
    """Forget a machine; success when it is not known.

    Raises:
        MiscDirCleanupFailure: it could not be removed whole; the call can be repeated.
        VMPathNotExists, StorageDomainAccessError: as `directory`.
    """
    home = directory(domain) / vm_id
    try:
        if files.file_type(home) in (None, stat.S_IFDIR):
            files.discard(home)
        else:
            files.unlink(home)
    except OSError as error:
        raise errors.MiscDirCleanupFailure(path=home, reason=error.strerror or str(error)) from error


def sweep(domain: storage_domain.Domain) -> None:
    """Remove what changes left that were cut short. What cannot be removed is logged: it is in nobody's way."""
    place = directory(domain)
    try:
        for left in (place / name for name in os.listdir(place) if name.endswith(files.TEMPORARY_SUFFIX)):
            log.info("removing %s, left by an interrupted change", left)
            if files.file_type(left) == stat.S_IFDIR:
                files.remove_tree(left)
            else:
                files.unlink(left)
    except OSError as error:
        log.warning("domain %s: %s", domain.id, error)


def _name(vm_id: ids.VmId) -> str:
    return f"{vm_id}{_SUFFIX}"


def _write_error(domain: storage_domain.Domain, home: Path, error: OSError, size: int) -> errors.StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.NoSpaceLeftOnDomain(domain=domain.id, needed=size, free=domain.space()[1])
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
        return errors.MiscDirCleanupFailure(path=home, reason=error.strerror or str(error))
    return _access_error(domain, error)


def _access_error(domain: storage_domain.Domain, error: OSError) -> errors.StorageDomainAccessError:
    return errors.StorageDomainAccessError(domain=domain.id, reason=error.strerror or str(error))
