"""The classes that the engine reads answers into: casts, conversions, and what it does without.

Every function takes the struct of an answer whose status was good, and raises `Broken` where the engine's own code
would have thrown, or would have dropped what it did not understand.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

BLANK = "00000000-0000-0000-0000-000000000000"

TASK_STATES = frozenset(("unknown", "init", "running", "finished", "aborting", "cleaning"))
TASK_RESULTS = frozenset(("success", "failure", "cleanSuccess", "cleanFailure"))
TASK_VERBS = frozenset(
    (
        *("copyImage", "moveImage", "createVolume", "deleteVolume", "deleteImage", "mergeSnapshots"),
        *("cloneImageStructure", "syncImageData", "downloadImage", "uploadImageToStream", "downloadImageFromStream"),
    )
)
STORAGE_TYPES = frozenset(("NFS", "FCP", "ISCSI", "LOCALFS", "POSIXFS", "GLUSTERFS", "GLANCE"))
DOMAIN_STATES = {"active": "Active", "attached": "Inactive", "unknown": "Unknown", "locked": "Locked"}

_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WHOLE = re.compile(r"-?[0-9]{1,19}")

T = TypeVar("T")


class Broken(AssertionError):
    """The engine's code would throw here."""


@dataclasses.dataclass(frozen=True)
class Status:
    """Of every answer."""

    code: int
    message: str


@dataclasses.dataclass(frozen=True)
class Task:
    """Status of a task."""

    code: int
    message: str
    state: str
    result: str

    @property
    def succeeded(self) -> bool:
        """As the engine decides it: a rollback that went well is a failure."""
        return self.state == "finished" and self.code == 0 and self.result == "success"


@dataclasses.dataclass(frozen=True)
class Spm:
    """Who is the SPM."""

    state: str
    version: str
    host: int


@dataclasses.dataclass(frozen=True)
class Volume:
    """What the engine keeps of a volume; sizes in bytes."""

    id: str
    parent: str
    description: str
    state: str
    size: int
    actual: int
    format: str
    type: str


@dataclasses.dataclass(frozen=True)
class Space:
    """State of a domain in its pool, and its space in bytes: None where the engine would show none."""

    state: str
    free: int | None
    total: int | None


@dataclasses.dataclass(frozen=True)
class Pool:
    """A pool, as its SPM tells of it."""

    name: str
    master: str
    version: int
    domains: dict[str, Space]


def _member(found: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A member that is cast: its type must be exact."""
    if name not in found:
        raise Broken(f"{name} is missing in {sorted(found)}")
    value = found[name]
    if type(value) is not kind:
        raise Broken(f"{name} is {value!r}, wanted {kind.__name__}")
    return value


def _guid(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Broken(f"{value!r} is no id")
    return value


def _whole(value: Any) -> int:
    """A number, or its digits as text: it is turned into text and parsed."""
    if type(value) not in (int, str) or not _WHOLE.fullmatch(str(value)):
        raise Broken(f"{value!r} is no whole number")
    return int(value)


def _bytes(found: Mapping[str, Any], name: str) -> int:
    """A size, which must be a text: as an int it would be ignored."""
    return _whole(_member(found, name, str))


def _one_of(value: Any, names: frozenset[str]) -> str:
    if not isinstance(value, str) or value not in names:
        raise Broken(f"{value!r} is none of {sorted(names)}")
    return value


def status(answer: Mapping[str, Any]) -> Status:
    """The status, good or bad."""
    found = _member(answer, "status", dict)
    if "message" not in found:
        raise Broken("no message")
    return Status(_member(found, "code", int), str(found["message"]))


def one_id(answer: Mapping[str, Any]) -> str:
    """Id of a task."""
    return _guid(_member(answer, "uuid", str))


def id_list(answer: Mapping[str, Any], name: str) -> list[str]:
    """An array of ids: ``volumes``, ``uuidlist``, ``imageslist``, ``domlist``."""
    return [_guid(each) for each in _member(answer, name, list)]


def connections(answer: Mapping[str, Any]) -> dict[str, int]:
    """Code of each connection."""
    return {_member(each, "id", str): _whole(each["status"]) for each in _member(answer, "statuslist", list)}


def spm(answer: Mapping[str, Any]) -> Spm:
    """Status of the SPM."""
    found = _member(answer, "spm_st", dict)
    state = _member(found, "spmStatus", str)
    if state.lower() not in ("spm", "contend", "free"):
        raise Broken(f"{state} would be read as an error or an unknown pool")
    return Spm(state, str(_whole(found["spmLver"])), _whole(found["spmId"]))


def task(answer: Mapping[str, Any]) -> Task:
    """Status of one task."""
    return _task(_member(answer, "taskStatus", dict))


def tasks(answer: Mapping[str, Any]) -> dict[str, Task]:
    """Status of all tasks. One that cannot be read would count as not there at all."""
    return {_guid(name): _task(found) for name, found in _member(answer, "allTasksStatus", dict).items()}


def _task(found: Mapping[str, Any]) -> Task:
    state = _one_of(found["taskState"], TASK_STATES)
    result = _member(found, "taskResult", str)
    if state == "finished" or result:
        _one_of(result, TASK_RESULTS)
    return Task(_member(found, "code", int), _member(found, "message", str), state, result)


def task_verbs(answer: Mapping[str, Any]) -> dict[str, str]:
    """Verb of each task; those the engine has no name for are harmless."""
    found = _member(answer, "allTasksInfo", dict)
    return {_guid(name): _member(info, "verb", str) for name, info in found.items()}


def volume(answer: Mapping[str, Any]) -> Volume:
    """What getVolumeInfo says."""
    found = _member(answer, "info", dict)
    for name in ("truesize", "ctime", "mtime"):
        if name in found:
            _whole(found[name])
    for name in ("domain", "image"):
        if name in found:
            _guid(found[name])
    state = _member(found, "status", str)
    if state.lower() not in ("ok", "locked", "illegal", "unassigned"):
        raise Broken(f"status {state}")
    return Volume(
        id=_guid(found["uuid"]),
        parent=_guid(found["parent"]),
        description=_member(found, "description", str),
        state=state.upper(),
        size=_whole(found["capacity"]) if "capacity" in found else _whole(found["size"]) * 512,
        actual=_whole(found["truesize"]),
        format=_one_of(str(found["format"]).upper(), frozenset(("COW", "RAW"))),
        type=_one_of(str(found["type"]).upper(), frozenset(("PREALLOCATED", "SPARSE"))),
    )


def pool(answer: Mapping[str, Any]) -> Pool:
    """What getStoragePoolInfo says."""
    info = _member(answer, "info", dict)
    _one_of(info["type"], STORAGE_TYPES)
    _member(info, "isoprefix", str)
    domains = {}
    for name, found in _member(answer, "dominfo", dict).items():
        state = _member(found, "status", str).lower()
        if state not in DOMAIN_STATES:
            raise Broken(f"domain status {state}")
        for alert in _member(found, "alerts", list) if "alerts" in found else []:
            _member(alert, "code", int)
        domains[_guid(name)] = _space(found, DOMAIN_STATES[state])
    name, master = _member(info, "name", str), _guid(info["master_uuid"])
    return Pool(name, master, _whole(info["master_ver"]), domains)


def _space(found: Mapping[str, Any], state: str) -> Space:
    sizes = [_bytes(found, name) if name in found else None for name in ("diskfree", "disktotal")]
    return Space(state, *sizes)


def stats(answer: Mapping[str, Any]) -> Space:
    """What getStorageDomainStats says."""
    return _space(_member(answer, "stats", dict), "Active")


def domain(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What getStorageDomainInfo says: ``pool`` must be an array, and the words must be those of the engine."""
    found = _member(answer, "info", dict)
    _one_of(found["type"], STORAGE_TYPES)
    _one_of(found["class"], frozenset(("Data", "Iso", "Backup")))
    _one_of(found["version"], frozenset(("0", "2", "3")))
    for name in ("name", "remotePath"):
        _member(found, name, str)
    return {**found, "pool": [_guid(each) for each in _member(found, "pool", list)]}


def domain_problems(answer: Mapping[str, Any]) -> dict[str, str]:
    """What getVdsStats says of each domain: empty when the host sees it well."""
    reported = _member(_member(answer, "info", dict), "storageDomains", dict)
    problems = {}
    for name, found in reported.items():
        code = _member(found, "code", int)
        last, delay = (float(_member(found, key, str)) for key in ("lastCheck", "delay"))
        if type(found.get("actual", True)) is not bool:
            raise Broken(f"actual is {found['actual']!r}")
        if code in (200, 358):
            problems[_guid(name)] = "storage access"
        elif code or last > 30:
            problems[_guid(name)] = "problematic"
        else:
            problems[_guid(name)] = "slow" if delay > 5 else ""
    return problems


def capabilities(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What getVdsCapabilities says; the version of vdsm must be one that the engine supports."""
    found = _member(answer, "info", dict)
    _member(found, "HBAInventory", dict)
    for name in ("clusterLevels", "supportedENGINEs"):
        _member(found, name, list)
    version = _member(_member(_member(found, "packages2", dict), "vdsm", dict), "version", str)
    if not (4, 9) <= tuple(int(part) for part in version.split(".")[:2]) <= (4, 16):
        raise Broken(f"vdsm {version} is not supported")
    return found


def machines(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """An array of machines: ``vmList``, ``statsList``."""
    return [dict(each) for each in _member(answer, name, list)]


def texts(answer: Mapping[str, Any], name: str) -> dict[str, str]:
    """A struct of texts: ``vmlist``."""
    found = _member(answer, name, dict)
    return {key: _member(found, key, str) for key in found}
