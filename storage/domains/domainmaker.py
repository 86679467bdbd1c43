"""Making a file domain, with one commit point.

The whole domain is built in a hidden directory beside its place and then renamed into it. Steps: the directory and
``dom_md``; leases, ids, inbox, outbox; metadata; images; rename. A crash before the rename leaves only the hidden
directory ``.<domain>.<random>.new``, which no reader of the format sees (their patterns skip hidden names) and which
the next creation on the same mount sweeps away; after the rename the domain is complete. A creation that fails for
another reason removes what it made.
"""

import contextlib
import logging
import os
import secrets
import stat
from pathlib import Path

from storage import errors, files, ids
from storage.domains import clusterlock, domain_metadata, filedomain

log = logging.getLogger(__name__)

CREATABLE_VERSIONS = (0, 3, 4, 5)
CLASSES = {1: "Data", 2: "Iso", 3: "Backup"}
"""Number of the protocol to the name in the record."""

ISO_IMAGE = ids.ImageId("11111111-1111-1111-1111-111111111111")

_MAILBOX_SIZE = 16 * 1024 * 1024  # bytes
_SPECIAL_MODE = 0o660
_METADATA_MODE = 0o644
_UNICODE_VERSION = 3  # the first that takes names in other than ASCII
_ALIGNMENT = 1024 * 1024  # bytes between leases, for up to 250 hosts
_BLOCK_SIZE = 512  # bytes
# A free lease of version 0: owner and time as text, in a sector of its own.
_FREE_LEASE = b"------FREE------0000000000000000".ljust(_BLOCK_SIZE, b"\0")


def initial_record(
    domain_id: ids.DomainId,
    *,
    version: int,
    name: str,
    domain_class: str,
    remote_path: str,
    type_name: str = clusterlock.LOCAL_TYPE,
) -> dict[str, str]:
    """The record of a new file domain, keys as of its version; pure.

    Args:
        version: one of `CREATABLE_VERSIONS`.
        name: name for people.
        domain_class: ``Data``, ``Iso`` or ``Backup``.
        remote_path: the connection's path.
        type_name: of the storage, such as ``POSIXFS``.

    Raises:
        UnsupportedDomainVersion: no such version is made here.
        UnicodeArgumentException: the version takes ASCII names only.
        InvalidParameterException: the name holds characters that no record can.
    """
    if version not in CREATABLE_VERSIONS:
        raise errors.UnsupportedDomainVersion(version=version)
    if version < _UNICODE_VERSION and not name.isascii():
        raise errors.UnicodeArgumentException(object="domain", version=version)
    try:
        domain_metadata.check_text("name", name)
    except errors.MetaDataValidationError as error:
        raise errors.InvalidParameterException(name="name", reason=error.fields["reason"]) from None
    values = {
        domain_metadata.VERSION: str(version),
        domain_metadata.DOMAIN_ID: str(domain_id),
        domain_metadata.TYPE: type_name,
        domain_metadata.CLASS: domain_class,
        domain_metadata.ROLE: domain_metadata.REGULAR,
        domain_metadata.DESCRIPTION: name,
        domain_metadata.POOLS: "",
        domain_metadata.REMOTE_PATH: remote_path,
        domain_metadata.LOCK_POLICY: "",
    }
    values |= {key: str(value) for key, value in domain_metadata.LEASE_DEFAULTS.items()}
    if version >= 5:
        values |= {domain_metadata.ALIGNMENT: str(_ALIGNMENT), domain_metadata.BLOCK_SIZE: str(_BLOCK_SIZE)}
    return values


def create(
    mount: Path,
    domain_id: ids.DomainId,
    *,
    version: int,
    name: str,
    domain_class: str,
    remote_path: str,
    type_name: str = clusterlock.LOCAL_TYPE,
) -> filedomain.FileDomain:
    """Make a file domain; complete and durable on return. The caller holds the lock on the mount.

    Args:
        mount: entry of the connection in the repository.
        domain_id, version, name, domain_class, remote_path, type_name: as `initial_record`.

    Raises:
        StorageDomainNotEmpty: the storage holds a domain already, or the remains of this one.
        StorageDomainTargetUnsupported: the file system refuses direct I/O.
        StorageDomainMetadataCreationError: the system refused a step; what was made is removed again.
        StorageError: as `initial_record`.
    """
    values = initial_record(
        domain_id,
        version=version,
        name=name,
        domain_class=domain_class,
        remote_path=remote_path,
        type_name=type_name,
    )
    record = domain_metadata.encode(values)
    domain = filedomain.FileDomain(domain_id, mount)
    try:
        sweep(mount)
        if found := occupant(mount, domain_id):
            raise errors.StorageDomainNotEmpty(path=remote_path, found=found)
        if not files.accepts_direct_io(mount) and not _is_in_memory(mount):
            raise errors.StorageDomainTargetUnsupported(path=remote_path, reason="its file system refuses direct I/O")
        _build(domain, record, version, domain_class)
    except OSError as error:
        raise errors.StorageDomainMetadataCreationError(
            domain=domain_id, reason=f"{error.strerror or error} ({error.filename})"
        ) from error
    return domain


def _build(domain: filedomain.FileDomain, record: bytes, version: int, domain_class: str) -> None:
    building = domain.mount / f".{domain.id}.{secrets.token_hex(4)}{files.TEMPORARY_SUFFIX}"
    made: os.stat_result | None = None
    try:
        files.make_directory(building, 0o755)
        made = os.lstat(building)
        special = building / "dom_md"
        files.make_directory(special, 0o775)
        files.create(special / "leases", _FREE_LEASE if version == 0 else b"", mode=_SPECIAL_MODE)
        files.create(special / "ids", mode=_SPECIAL_MODE)
        files.create(special / "inbox", size=_MAILBOX_SIZE, mode=_SPECIAL_MODE)
        files.create(special / "outbox", size=_MAILBOX_SIZE, mode=_SPECIAL_MODE)
        files.create(special / "metadata", record, mode=_METADATA_MODE)
        files.make_directory(building / "images", 0o755)
        if domain_class == "Iso":
            files.make_directory(building / "images" / ISO_IMAGE, 0o755)
        files.rename(building, domain.path)
    except BaseException:
        _undo(domain, building, made)
        raise


def _undo(domain: filedomain.FileDomain, building: Path, made: os.stat_result | None) -> None:
    with contextlib.suppress(OSError, errors.MiscDirCleanupFailure):
        files.remove_tree(building)
        # When the flush after the rename failed, what we made is in its place already, and nobody can rely on it.
        if made is not None and os.path.samestat(made, os.lstat(domain.path)):
            domain.remove()


def sweep(mount: Path) -> None:
    """Remove what creations and removals left on a mount that died half-way. The caller holds the lock on the mount."""
    for name in os.listdir(mount):
        if _is_leftover(name) and files.file_type(mount / name) == stat.S_IFDIR:
            log.info("removing %s, left by an interrupted creation or removal", mount / name)
            files.remove_tree(mount / name)
        elif name.startswith(files.PROBE_PREFIX) and name.endswith(files.TEMPORARY_SUFFIX):
            files.unlink(mount / name)


def occupant(mount: Path, domain_id: ids.DomainId) -> str:
    """What keeps a new domain from a mount, in words; empty when nothing does. One mount holds one domain.

    Raises:
        OSError: it could not be found out.
    """
    for name in sorted(os.listdir(mount)):
        if name == domain_id:
            return f"a directory of the name {name}; formatStorageDomain removes the remains of a domain"
        # A directory that we may not enter (lost+found) is no domain of ours; any other doubt is an error.
        with contextlib.suppress(PermissionError):
            if not _is_leftover(name) and files.file_type(mount / name / "dom_md") is not None:
                return f"domain {name}" if ids.is_id(name) else f"a directory {name!r} that looks like a domain"
    return ""


def _is_leftover(name: str) -> bool:
    if name.startswith(filedomain.TOMBSTONE_PREFIX):
        return ids.is_id(name.removeprefix(filedomain.TOMBSTONE_PREFIX))
    return name.startswith(".") and name.endswith(files.TEMPORARY_SUFFIX) and ids.is_id(name[1:37])


def _is_in_memory(path: Path) -> bool:
    """Whether a directory is on tmpfs or ramfs, where direct I/O (refused by older kernels) would mean nothing."""
    device = os.stat(path).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == name:
            return after.split()[0] in ("tmpfs", "ramfs")
    return False
