"""The record of a domain, ``dom_md/metadata``: bytes to values and back, without I/O.

Format (the protocol's own, all versions): lines ``KEY=value``, keys in byte order, the last line ``_SHA_CKSUM=<hex>``,
the SHA-1 of every ``KEY=value`` in that order without separators, non-ASCII characters as XML references.

Readers of that format disagree in three points, so this one accepts what any of them wrote and writes only what all of
them read: values are stripped (one of them strips before it computes the checksum, another does not); lines end at
``\\n`` only on reading, and nothing that anybody takes for a line end is written; padding with NULs is dropped.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping

from storage import errors, ids

NAME = "domain metadata"
CHECKSUM = "_SHA_CKSUM"

VERSION = "VERSION"
DOMAIN_ID = "SDUUID"
TYPE = "TYPE"
CLASS = "CLASS"
ROLE = "ROLE"
DESCRIPTION = "DESCRIPTION"
POOLS = "POOL_UUID"
REMOTE_PATH = "REMOTE_PATH"
LOCK_POLICY = "LOCKPOLICY"
LOCK_RENEWAL = "LOCKRENEWALINTERVALSEC"
LEASE_TIME = "LEASETIMESEC"
IO_TIMEOUT = "IOOPTIMEOUTSEC"
LEASE_RETRIES = "LEASERETRIES"
ALIGNMENT = "ALIGNMENT"
BLOCK_SIZE = "BLOCK_SIZE"

POOL_DESCRIPTION = "POOL_DESCRIPTION"
POOL_SPM_ID = "POOL_SPM_ID"
POOL_SPM_LVER = "POOL_SPM_LVER"
POOL_DOMAINS = "POOL_DOMAINS"
MASTER_VERSION = "MASTER_VERSION"

DATA = "Data"
ISO = "Iso"
BACKUP = "Backup"
MASTER = "Master"
REGULAR = "Regular"
NOBODY = -1
"""POOL_SPM_ID of a pool without SPM, POOL_SPM_LVER of one that never had any."""

LEASE_DEFAULTS: Mapping[str, int] = {LOCK_RENEWAL: 5, LEASE_TIME: 60, IO_TIMEOUT: 10, LEASE_RETRIES: 3}
STATUSES = ("Active", "Attached", "Unattached", "Unknown")

_DEFAULT_ALIGNMENT = 1024 * 1024
_DEFAULT_BLOCK_SIZE = 512
# C0, DEL, C1 with NEL, line and paragraph separator, and lone surrogates, which UTF-8 cannot hold.
_REFUSED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class DomainMetadata:
    """The values of one record. Each property checks its own key, so one bad value spoils nothing else.

    Attributes:
        raw: every key and value as text, unknown keys included, without the checksum.
        name: what to call the record in a message.

    Raises (the properties):
        MetaDataKeyNotFoundError: the key is missing and has no default.
        MetaDataValidationError: the value is not what the key may hold.
    """

    raw: Mapping[str, str]
    name: str = dataclasses.field(default=NAME, compare=False)

    @property
    def version(self) -> int:
        return self.number(VERSION)

    @property
    def domain_id(self) -> ids.DomainId:
        text = self.text(DOMAIN_ID)
        if not ids.is_id(text):
            raise self._invalid(f"{DOMAIN_ID}={text!r:.80} is not an id")
        return ids.DomainId(text)

    @property
    def type(self) -> str:
        """Type name such as ``LOCALFS``."""
        return self.text(TYPE)

    @property
    def domain_class(self) -> str:
        """``Data``, ``Iso`` or ``Backup``."""
        return self.text(CLASS)

    @property
    def role(self) -> str:
        return self.text(ROLE, REGULAR)

    @property
    def is_master(self) -> bool:
        """Whether the domain says it is a master; the pool keys mean something only then."""
        return self.role == MASTER

    @property
    def description(self) -> str:
        return self.text(DESCRIPTION, "")

    @property
    def remote_path(self) -> str:
        """The connection as it was when the domain was made; may be outdated."""
        return self.text(REMOTE_PATH, "")

    @property
    def pools(self) -> list[ids.PoolId]:
        """Pools the domain is attached to: none, one, or several for an ISO domain."""
        entries = [entry.strip() for entry in self.text(POOLS, "").split(",")]
        for entry in entries:
            if entry and not ids.is_id(entry):
                raise self._invalid(f"{POOLS} holds {entry!r:.80}, which is not an id")
        return [ids.PoolId(entry) for entry in entries if entry and entry != ids.BLANK]

    @property
    def lock_policy(self) -> str:
        return self.text(LOCK_POLICY, "")

    @property
    def alignment(self) -> int:
        """Bytes between two leases. Only version 5 records it."""
        return self.number(ALIGNMENT, _DEFAULT_ALIGNMENT) if self.version >= 5 else _DEFAULT_ALIGNMENT

    @property
    def block_size(self) -> int:
        """Bytes of a sector of the storage. Only version 5 records it."""
        return self.number(BLOCK_SIZE, _DEFAULT_BLOCK_SIZE) if self.version >= 5 else _DEFAULT_BLOCK_SIZE

    @property
    def lease_parameters(self) -> dict[str, int]:
        """The four lease parameters, seconds and a count; an empty value reads as its default."""
        return {key: self.number(key, default) for key, default in LEASE_DEFAULTS.items()}

    @property
    def pool_description(self) -> str:
        return self.text(POOL_DESCRIPTION, "")

    @property
    def spm_id(self) -> int:
        """Host id of the pool's SPM, or `NOBODY`."""
        return self.number(POOL_SPM_ID)

    @property
    def spm_lver(self) -> int:
        """Lock version: how often the pool got an SPM, counted from 0; `NOBODY` before the first."""
        return self.number(POOL_SPM_LVER)

    @property
    def master_version(self) -> int:
        return self.number(MASTER_VERSION)

    @property
    def pool_domains(self) -> dict[ids.DomainId, str]:
        """Domains of the pool and their status."""
        return decode_pool_domains(self.text(POOL_DOMAINS), self.name)

    def text(self, key: str, default: str | None = None) -> str:
        """Value of a key as text."""
        value = self.raw.get(key, default)
        if value is None:
            raise errors.MetaDataKeyNotFoundError(object=self.name, key=key)
        return value

    def number(self, key: str, default: int | None = None) -> int:
        """Value of a key as a number; an empty or missing value gives the default."""
        text = self.text(key, None if default is None else "")
        if not text and default is not None:
            return default
        if not _NUMBER.fullmatch(text):
            raise self._invalid(f"{key}={text!r:.80} is not a number")
        return int(text)

    def _invalid(self, reason: str) -> errors.MetaDataValidationError:
        return errors.MetaDataValidationError(object=self.name, reason=reason)


def parse(data: bytes, name: str = NAME) -> DomainMetadata:
    """Read a record.

    Args:
        data: the whole file. Empty is a record without keys; a record without a checksum is taken as it is.
        name: what to call the record in a message.

    Raises:
        MetaDataSealIsBroken: the checksum is not that of the content.
        MetaDataValidationError: the content is not UTF-8.
    """
    try:
        lines = data.rstrip(b"\0").decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _invalid(f"not UTF-8 at byte {error.start}", name) from None
    unstripped = _pairs(lines)
    found = unstripped.pop(CHECKSUM, None)
    values = {key: value.strip() for key, value in unstripped.items()}
    if found is None and any(CHECKSUM in value for value in values.values()):
        # The end of the line before the seal is damaged: without the seal that record would be believed unchecked.
        raise errors.MetaDataSealIsBroken(object=name, found="no line of its own", computed=checksum(values))
    if found is not None:
        computed = checksum(values)
        # The second try is for writers that keep blanks at the end of a value and seal them in.
        if found.strip() not in (computed, checksum(unstripped)):
            raise errors.MetaDataSealIsBroken(object=name, found=repr(found.strip()[:80]), computed=computed)
    return DomainMetadata(values, name)


def inspect(data: bytes) -> tuple[dict[str, str], list[str]]:
    """Read what can be read of a record that may be damaged: the values, and what is wrong with them. Never raises."""
    problems: list[str] = []
    values = _pairs(data.rstrip(b"\0").decode("utf-8", "replace").split("\n"))
    values.pop(CHECKSUM, None)
    try:
        parse(data)
    except errors.StorageError as error:
        problems.append(str(error))
    return {key: value.strip() for key, value in values.items()}, problems


def encode(values: Mapping[str, str]) -> bytes:
    """Write a record, sealed.

    Args:
        values: keys and values; values are stripped; a checksum among them is replaced.

    Raises:
        MetaDataValidationError: a key or value holds a character that some reader takes for the end of a line, another
            control character, or text that UTF-8 cannot hold; or a key holds ``=`` or blanks at its ends.
    """
    clean: dict[str, str] = {}
    for key, value in values.items():
        if "=" in key or key != key.strip() or _REFUSED.search(key):
            raise _invalid(f"{key!r:.80} cannot be a key")
        check_text(key, value)
        if key != CHECKSUM:
            clean[key] = value.strip()
    lines = [f"{key}={value}\n" for key, value in _ordered(clean)]
    return "".join([*lines, f"{CHECKSUM}={checksum(clean)}\n"]).encode("utf-8")


def check_text(name: str, text: str) -> None:
    """Refuse text that a line-based record must not hold.

    Raises:
        MetaDataValidationError: it holds control characters, line separators or lone surrogates.
    """
    if found := _REFUSED.search(text):
        raise _invalid(f"{name} must not hold the character {found.group()!r}")


def checksum(values: Mapping[str, str]) -> str:
    """Seal of a record: SHA-1 of its sorted pairs, hexadecimal."""
    text = "".join(f"{key}={value}" for key, value in _ordered(values))
    return hashlib.sha1(text.encode("ascii", "xmlcharrefreplace"), usedforsecurity=False).hexdigest()


def decode_pool_domains(text: str, name: str = NAME) -> dict[ids.DomainId, str]:
    """Read ``<domain>:<status>,...``. Quotes are dropped, statuses capitalised, the legacy Inactive is Attached.

    Raises:
        MetaDataValidationError: an entry is not of that form.
    """
    domains: dict[ids.DomainId, str] = {}
    for entry in filter(None, (part.strip() for part in text.replace("'", "").split(","))):
        domain, separator, status = (part.strip() for part in entry.partition(":"))
        status = plain_status(status)
        if not separator or not ids.is_id(domain) or status not in STATUSES:
            raise _invalid(f"{POOL_DOMAINS} holds {entry!r:.80}, which is not <domain>:<status>", name)
        domains[ids.DomainId(domain)] = status
    return domains


def plain_status(text: str) -> str:
    """A status as it is recorded: capitalised, and Attached for the legacy Inactive. It may still be none."""
    return {"Inactive": "Attached"}.get(text.capitalize(), text.capitalize())


def encode_pool_domains(domains: Mapping[ids.DomainId, str]) -> str:
    """Write what `decode_pool_domains` reads, sorted by domain.

    Raises:
        MetaDataValidationError: a status is none of `STATUSES`.
    """
    for status in domains.values():
        if status not in STATUSES:
            raise _invalid(f"{status!r:.80} is no domain status")
    return ",".join(f"{domain}:{status}" for domain, status in sorted(domains.items()))


def _pairs(lines: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in lines:
        key, separator, value = line.partition("=")
        if separator:
            pairs[key.strip()] = value
    return pairs


def _ordered(values: Mapping[str, str]) -> list[tuple[str, str]]:
    # Python orders text by code point, which for UTF-8 is the order of the bytes.
    return sorted(values.items())


def _invalid(reason: str, name: str = NAME) -> errors.MetaDataValidationError:
    return errors.MetaDataValidationError(object=name, reason=reason)
