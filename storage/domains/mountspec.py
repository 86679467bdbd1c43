"""What to mount, and how: from the words of a connection to source, type, options and place. Pure, no I/O.

Sources are put into one form first and named then, so that two spellings of one source are one connection. Options
are explicit, and what a caller adds is looked through: nothing that would make ``mount`` do something else than to
mount the source on our place, or run a program of the caller's choice.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage import errors, layout

NFS, POSIXFS, GLUSTERFS = 1, 6, 7
"""Server type numbers of the protocol."""

# Time limits far below the 180 s after which an engine gives up on a host (the defaults of later vdsm releases).
NFS_TIMEOUT = 100  # tenths of a second
NFS_RETRANS = 3
_NFS_OPTIONS = ("soft", "nosharecache")
_LAST_OPTIONS = ("nosuid", "nodev", "noexec")  # last, so that they win: nothing on storage is a program or a device

_AUTO = "auto"  # the NFS version is negotiated
_VERSION = re.compile(r"[0-9](\.[0-9])?")
_NUMBER = re.compile(r"[0-9]{1,9}")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+(%[0-9A-Za-z_.-]+)?\]|[0-9A-Za-z_.][0-9A-Za-z_.-]*")
_TYPE = re.compile(r"[a-z][a-z0-9_.+-]{0,31}")
_TAG = re.compile(r"[A-Z]+=")  # LABEL=x, UUID=x: what it means changes when a device comes or goes
_OPTION = re.compile(r'(?:[^,"]|"[^"]*")+')

_OTHER_OPERATIONS = frozenset(
    "bind rbind move remount shared rshared slave rslave private rprivate unbindable runbindable".split()  # noqa: SIM905
)
_UNSAFE_OPTIONS = frozenset(("loop", "helper", "uhelper", "fsck", "make"))
_NO_STORAGE = frozenset(
    """autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs hugetlbfs mqueue none overlay
    proc pstore ramfs securityfs swap sysfs tmpfs tracefs""".split()  # noqa: SIM905
)
_DOUBLE_SLASH_TYPES = ("cifs", "smb3")


@dataclasses.dataclass(frozen=True)
class Spec:
    """One mount as it is wanted.

    Attributes:
        server_type: number of the protocol.
        source: device or remote directory, in its one form, as ``mount`` gets it.
        type: of the file system; empty: ``mount`` finds out.
        options: in their order; of two that contradict each other the last wins.
        place: below the directory of mounts.
        network: whether the source is on another host, which may not answer.
    """

    server_type: int
    source: str
    type: str
    options: tuple[str, ...]
    place: Path
    network: bool


def of(server_type: int, parameters: Mapping[str, Any]) -> Spec:
    """What a connection's words ask for.

    Args:
        server_type: `NFS`, `POSIXFS` or `GLUSTERFS`.
        parameters: ``connection`` is the source; ``mnt_options``, ``vfs_type``, and for NFS ``protocol_version``,
            ``timeout`` (tenths of a second) and ``retrans``. An empty text is as good as none.

    Raises:
        InvalidParameterException: timeout, retrans or protocol_version is no number. The protocol refuses the whole
            call for that.
        MountError: the source, the type or an option is not acceptable.
    """
    given = str(parameters.get("connection", ""))
    wanted_type = str(parameters.get("vfs_type") or "")
    numbers = nfs_options(parameters) if server_type == NFS else ()
    try:
        place = named(server_type, given)
    except errors.StorageDomainIllegalRemotePath as error:
        raise errors.MountError(path=repr(given), reason=error.fields["reason"]) from None
    source = canonical(server_type, given)
    if given.startswith("//") and server_type == POSIXFS and wanted_type in _DOUBLE_SLASH_TYPES:
        source = f"/{source}"  # a share is named by two slashes, which the name of its place does not keep
    extra = split_options(given, str(parameters.get("mnt_options") or ""))
    return Spec(
        server_type=server_type,
        source=source,
        type=_checked_type(given, server_type, wanted_type),
        options=(*numbers, *extra, *_LAST_OPTIONS),
        place=place,
        network=not source.startswith("/") or source.startswith("//"),
    )


def named(server_type: int, source: str) -> Path:
    """Place of a source, below the directory of mounts.

    Raises:
        StorageDomainIllegalRemotePath: the source is not acceptable.
    """
    name = _checked_name(source, canonical(server_type, source))
    return Path(layout.GLUSTER, name) if server_type == GLUSTERFS else Path(name)


def canonical(server_type: int, source: str) -> str:
    """The one spelling of a source.

    Raises:
        StorageDomainIllegalRemotePath: the source is not acceptable.
    """
    if server_type == POSIXFS:
        return canonical_posix(source)
    return canonical_remote(source, absolute=server_type == NFS)


def canonical_remote(path: str, *, absolute: bool = True) -> str:
    """The one spelling of ``server:/path``: no doubled and no trailing slash, no ``.``; the root is ``server:/``.

    Args:
        path: what the caller gave; the server may be an IPv6 address in brackets.
        absolute: whether the path must start with a slash. (The name of a Gluster volume need not.)

    Raises:
        StorageDomainIllegalRemotePath: it has no server, no path, a ``..`` component, or control characters.
    """
    if layout.is_unprintable(path):
        raise _illegal(path, "it holds control characters")
    head, colon, tail = path.partition("]:") if path.startswith("[") else path.partition(":")
    host = f"{head}]" if path.startswith("[") else head
    if not colon or not _HOST.fullmatch(host):
        raise _illegal(path, "it is not server:/path")
    if not tail or (absolute and not tail.startswith("/")):
        raise _illegal(path, "its path on the server is not absolute")
    return f"{host}:{'/' if tail.startswith('/') else ''}{_joined(path, tail)}"


def canonical_posix(spec: str) -> str:
    """The one spelling of what a POSIX file system is mounted from: a device, or whatever its type takes.

    Raises:
        StorageDomainIllegalRemotePath: empty, with a ``..`` component, or with control characters.
    """
    if spec.startswith("/"):
        return layout.canonical_local(spec)
    if layout.is_unprintable(spec):
        raise _illegal(spec, "it holds control characters")
    if not spec or spec.startswith("-") or _TAG.match(spec):
        raise _illegal(spec, "it is no path of a device and no remote directory")
    head, colon, tail = spec.partition(":/")
    return f"{head}:/{_joined(spec, tail)}" if colon else _joined(spec, spec)


def nfs_options(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of an NFS mount, without those that the caller adds.

    Locks of version 3 stay on this host (``nolock``): after a failover of the server they would hang, and the cluster
    lock does not use them.

    Raises:
        InvalidParameterException: see `of`.
    """
    timeout = _number("timeout", parameters, NFS_TIMEOUT)
    retrans = _number("retrans", parameters, NFS_RETRANS)
    version = str(parameters.get("protocol_version") or "3")
    if version != _AUTO and not _VERSION.fullmatch(version):
        raise errors.InvalidParameterException(name="protocol_version", reason=f"{version!r:.40} is no version")
    made = [*_NFS_OPTIONS, f"timeo={timeout}", f"retrans={retrans}"]
    if version in ("3", _AUTO):
        made.append("nolock")
    if version != _AUTO:
        made.append(f"nfsvers={version}")
    return tuple(made)


def split_options(source: str, text: str) -> tuple[str, ...]:
    """The options in a text, looked through.

    Raises:
        MountError: one is not acceptable.
    """
    if layout.is_unprintable(text) or text.count('"') % 2:
        raise errors.MountError(path=repr(source), reason="its options hold control characters or an open quote")
    options = tuple(each.strip() for each in _OPTION.findall(text) if each.strip())
    for option in options:
        name = option.partition("=")[0].lower()
        if name in _OTHER_OPERATIONS or name in _UNSAFE_OPTIONS or name.startswith("x-mount"):
            raise errors.MountError(path=repr(source), reason=f"option {name} is not accepted")
    return options


def _number(name: str, parameters: Mapping[str, Any], default: int) -> int:
    value = parameters.get(name)
    if value is None or value == "":
        return default
    if not _NUMBER.fullmatch(str(value)):
        raise errors.InvalidParameterException(name=name, reason=f"{value!r:.40} is no whole number")
    return int(value)


def _checked_type(source: str, server_type: int, wanted: str) -> str:
    if server_type == NFS:
        return "nfs"
    kind = wanted or ("glusterfs" if server_type == GLUSTERFS else "")
    if not kind:
        return ""
    if not _TYPE.fullmatch(kind) or kind in _NO_STORAGE:
        raise errors.MountError(path=repr(source), reason=f"file system type {kind!r:.40} is not accepted")
    if kind.startswith("fuse"):
        # Its mount helper would run, as root, whatever program the source names.
        raise errors.MountError(path=repr(source), reason="file systems of type fuse are not accepted")
    return kind


def _checked_name(source: str, canonical: str) -> str:
    name = layout.encode(canonical)
    if len(name.encode(errors="surrogateescape")) > layout.NAME_LIMIT:
        raise _illegal(source, f"its name exceeds {layout.NAME_LIMIT} bytes")
    if not name or name in layout.CONTAINERS or name.startswith("."):
        raise _illegal(source, "its name is not usable")
    return name


def _joined(path: str, tail: str) -> str:
    parts = [part for part in tail.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _illegal(path, "it has a component '..'")
    return "/".join(parts)


def _illegal(path: str, reason: str) -> errors.StorageDomainIllegalRemotePath:
    return errors.StorageDomainIllegalRemotePath(path=repr(path), reason=reason)
