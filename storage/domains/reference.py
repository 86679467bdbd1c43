"""A reference to a connection: what it asks for, in the words of its type, and how a host keeps it on disk. Pure.

The record is one JSON object: ``{"version": 1, "references": {<id>: {"type": ..., "params": {...}}}}``.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from storage import errors, layout
from storage.domains import connections, mountspec

RECORD_LIMIT = 4 << 20
"""Most bytes of a record."""

_VERSION = 1
_DEFAULT = "default"  # how a word that was left out is shown
_TEXT_LIMIT = 4096

# Type -> number of the server type, and each of its words to that of a connection. The first one is needed.
_TYPES: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "localfs": (connections.LOCALFS, {"path": "connection"}),
    "nfs": (
        mountspec.NFS,
        {
            "export": "connection",
            "retrans": "retrans",
            "timeout": "timeout",
            "version": "protocol_version",
            "extraOptions": "mnt_options",
        },
    ),
    "posixfs": (mountspec.POSIXFS, {"spec": "connection", "vfsType": "vfs_type", "options": "mnt_options"}),
    "glusterfs": (mountspec.GLUSTERFS, {"spec": "connection", "vfsType": "vfs_type", "options": "mnt_options"}),
}
_ALIASES = {"vfstype": "vfsType"}  # the protocol's own schema spells it so


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a connection is to be made of.

    Attributes:
        type: such as ``nfs``.
        params: its words; what was left out is not there.
    """

    type: str
    params: Mapping[str, str | int]

    @property
    def server_type(self) -> int:
        """Number of the protocol."""
        return _TYPES[self.type][0]

    @property
    def words(self) -> dict[str, str | int]:
        """The words, as those of a connection."""
        names = _TYPES[self.type][1]
        return {names[key]: value for key, value in self.params.items()}

    @property
    def target(self) -> tuple[int, str]:
        """What is connected to: references with one target share one connection."""
        source = str(self.words["connection"])
        if self.server_type == connections.LOCALFS:
            return self.server_type, layout.canonical_local(source)
        return self.server_type, str(mountspec.named(self.server_type, source))

    def shown(self) -> dict[str, Any]:
        """As ``connectionInfo`` of the protocol."""
        return {"type": self.type, "params": {key: self.params.get(key, _DEFAULT) for key in _TYPES[self.type][1]}}


def parse(entry: Any) -> Reference:
    """Read one entry of a call, or of a record.

    Raises:
        StorageServerValidationError: it has no known type, unknown words, or nothing could be connected by them.
        ISCSISetupError: a type that this release does not connect.
    """
    if not isinstance(entry, Mapping):
        raise _invalid("it is no struct")
    kind, given = entry.get("type"), entry.get("params")
    if kind == "iscsi":
        raise errors.ISCSISetupError(reason="this release makes no iSCSI sessions")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise _invalid(f"type {kind!r:.40} is none of {', '.join(sorted(_TYPES))}")
    if not isinstance(given, Mapping):
        raise _invalid("params is no struct")
    params = {
        _ALIASES.get(str(name), str(name)): _value(str(name), given[name]) for name in given if given[name] is not None
    }
    known = _TYPES[kind][1]
    if unknown := sorted(set(params) - set(known)):
        raise _invalid(f"{kind} knows no {unknown[0]!r:.40}; it knows {', '.join(known)}")
    if next(iter(known)) not in params:
        raise _invalid(f"{next(iter(known))} is missing")
    made = Reference(kind, params)
    _check(made)
    return made


def load(data: bytes) -> dict[str, Reference]:
    """Read a record.

    Raises:
        ValueError: it is none.
        StorageServerValidationError, ISCSISetupError: as `parse`.
    """
    content = json.loads(data)
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise ValueError("it is no record of version 1")
    entries = content.get("references")
    if not isinstance(entries, dict):
        raise ValueError("it has no references")
    return {name: parse(entry) for name, entry in entries.items()}


def dump(references: Mapping[str, Reference]) -> bytes:
    """Write a record."""
    entries = {name: {"type": each.type, "params": dict(each.params)} for name, each in sorted(references.items())}
    return json.dumps({"version": _VERSION, "references": entries}, indent=1).encode() + b"\n"


def _value(name: str, value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _invalid(f"{name!r:.40} is neither a text nor a whole number")
    if isinstance(value, str) and (len(value) > _TEXT_LIMIT or layout.is_unprintable(value)):
        raise _invalid(f"{name!r:.40} is too long or holds control characters")
    return value


def _check(made: Reference) -> None:
    """Whether a connection could be made of it at all."""
    try:
        if made.server_type != connections.LOCALFS:
            mountspec.of(made.server_type, made.words)
        _ = made.target
    except (errors.InvalidParameterException, errors.MountError, errors.StorageDomainIllegalRemotePath) as error:
        raise _invalid(str(error)) from None


def _invalid(reason: str) -> errors.StorageServerValidationError:
    return errors.StorageServerValidationError(reason=reason)
