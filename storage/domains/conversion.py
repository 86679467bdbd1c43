"""Raising a data domain to a higher version, 0 → 3 → 4 → 5; the record's ``VERSION`` is the commit point of each step.

A step has three phases: prepare the volumes so that both versions can read them; one write of the domain's record;
tidy the volumes up. What fails for a single volume is told and skipped: no volume is worth keeping a domain, and with
it a pool, on an old version, and every reader takes the old forms, too.

* to 3: permissions of the domain's and the volumes' files; capacities as the images have them; then the record.
* to 4: the record.
* to 5: every volume's record gets the capacity in bytes beside that in sectors; the domain's record, with the sizes of
  lease slots and sectors; the volumes' records lose the old keys.

A crash anywhere leaves a domain of the old or the new version whose volumes are readable in either, and a repeated call
goes on. After a crash in the last phase the old keys stay in some records until these are next changed. Leases stay as
they are, and so do the images: their qcow2 version is not changed. The way is the protocol's (vdsm 4.30 and later).
"""

import logging
import os
import stat
from collections.abc import Callable, Mapping
from typing import Protocol

from storage import errors, files
from storage.domains import clusterlock, domain, domain_metadata

log = logging.getLogger(__name__)

_NEXT: Mapping[int, int] = {0: 3, 3: 4, 4: 5}
_SPECIAL = ("ids", "leases", "inbox", "outbox")
_SPECIAL_MODE = 0o660
_ALIGNMENT = 1024 * 1024  # bytes between leases, for up to 250 hosts
_BLOCK_SIZE = 512  # bytes

_RECORD: Mapping[int, Mapping[str, str | None]] = {
    3: {},
    4: {},
    5: {
        domain_metadata.ALIGNMENT: str(_ALIGNMENT),
        domain_metadata.BLOCK_SIZE: str(_BLOCK_SIZE),
        "LOGBLKSIZE": None,
        "PHYBLKSIZE": None,
    },
}


class Volumes(Protocol):
    """The volumes' part of a step."""

    def prepare(self, member: domain.Domain, version: int) -> list[str]:
        """What comes before the record says `version`; what was skipped, in words."""

    def finish(self, member: domain.Domain, version: int) -> list[str]:
        """What comes after it."""


def steps(current: int, wanted: int) -> list[int]:
    """Versions that a domain passes through; pure.

    Raises:
        UnsupportedDomainVersion: there is no way to that version.
    """
    passed = []
    while current < wanted and current in _NEXT:
        current = _NEXT[current]
        passed.append(current)
    if current != wanted:
        raise errors.UnsupportedDomainVersion(version=wanted)
    return passed


def convert(member: domain.Domain, wanted: int, volumes: Volumes, check: Callable[[], None]) -> None:
    """Raise a domain to a version; nothing is done to one that has it. The caller is SPM of its pool.

    Args:
        volumes: does the volumes' part, and keeps others from their records meanwhile.
        check: called before each record of the domain is written; what it raises ends the conversion.

    Raises:
        UnsupportedDomainVersion: there is no way to that version.
        CurrentVersionTooAdvancedError: the domain has a higher one.
        NotImplementedException: the domain would need a file for leases that is not made here.
        StorageError: the domain's images cannot be listed, or its record cannot be read or written.
    """
    metadata = member.metadata()
    if metadata.version > wanted:
        raise errors.CurrentVersionTooAdvancedError(domain=member.id, current=metadata.version, wanted=wanted)
    passed = steps(metadata.version, wanted)
    if 4 in passed and metadata.type != clusterlock.LOCAL_TYPE:
        raise errors.NotImplementedException(what=f"raising domain {member.id} of type {metadata.type} to version 4")
    for version in passed:
        problems = [*_open_special_files(member), *volumes.prepare(member, version)] if version != 4 else []
        check()
        member.update({domain_metadata.VERSION: str(version), **_RECORD[version]})
        if version == 5:
            problems += volumes.finish(member, version)
        for problem in problems:
            log.warning("domain %s, version %s: %s", member.id, version, problem)
        log.info("domain %s has version %s now; skipped: %s", member.id, version, len(problems))


def _open_special_files(member: domain.Domain) -> list[str]:
    """Let the group use the special files, as from version 3 on."""
    problems = []
    for name in _SPECIAL:
        path = member.path / "dom_md" / name
        try:
            if files.file_type(path) is not None and stat.S_IMODE(os.lstat(path).st_mode) != _SPECIAL_MODE:
                files.set_mode(path, _SPECIAL_MODE)
        except OSError as error:
            problems.append(f"permissions of {path.name}: {error.strerror}")
    return problems
