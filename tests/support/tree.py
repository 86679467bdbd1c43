"""What is on storage, read by a reader of its own: no module of the program under test is used.

`read` gives the state, which two equal trees share, and problems: whatever is torn, half there, or left over. Times,
ids of tasks, and who was SPM how often are no part of the state.
"""

import dataclasses
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

Facts = dict[str, object]

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BLANK = "00000000-0000-0000-0000-000000000000"
_SHIFTING = ("_SHA_CKSUM", "POOL_SPM_ID", "POOL_SPM_LVER")
_TIMES = ("CTIME", "MTIME")
_VOLUME_KEYS = {
    "CTIME": r"[0-9]+",
    "DESCRIPTION": r".*",
    "DISKTYPE": r".*",
    "DOMAIN": _ID.pattern,
    "FORMAT": "RAW|COW",
    "IMAGE": _ID.pattern,
    "LEGALITY": "LEGAL|ILLEGAL|FAKE",
    "PUUID": _ID.pattern,
    "TYPE": "SPARSE|PREALLOCATED",
    "VOLTYPE": "LEAF|INTERNAL|SHARED",
}
_CLUSTER_BITS = 16
_OFFSET = 0x00FFFFFFFFFFFE00


@dataclasses.dataclass
class Tree:
    """What was found.

    Attributes:
        state: facts by name.
        problems: what must never be there, crash or not: torn records, volumes without what they need.
        leftovers: what a crash may leave, until somebody cleans up: temporaries, tombstones, records of tasks.
    """

    state: Facts = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    leftovers: list[str] = dataclasses.field(default_factory=list)

    def differences(self, other: "Tree") -> list[str]:
        """What the other one has otherwise, in words."""
        return [
            f"{name}: {_told(self.state.get(name), other.state.get(name))}"
            for name in sorted({*self.state, *other.state})
            if self.state.get(name) != other.state.get(name)
        ]


def _told(one: object, other: object) -> str:
    """What differs between two facts; of two that have parts, just the parts."""
    if isinstance(one, dict) and isinstance(other, dict):
        parts = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return ", ".join(f"{key} {one.get(key)} -> {other.get(key)}" for key in parts)
    return f"{one} -> {other}"


def read(root: Path) -> Tree:
    """Read all storage below a directory (``storage-*``, each with domains) and the links of the repository."""
    tree = Tree()
    for storage in sorted(root.glob("storage-*")):
        for name in sorted(os.listdir(storage)):
            path = storage / name
            if _ID.fullmatch(name) and (path / "dom_md" / "metadata").is_file():
                _domain(tree, path)
            elif _ID.fullmatch(name):
                tree.leftovers.append(f"{path} without a record")
            elif name != "__DIRECT_IO_TEST__":
                tree.leftovers.append(str(path))
    repository = root / "repository"
    for path in sorted(repository.rglob("*")) if repository.is_dir() else []:
        if path.name.endswith(".new"):
            tree.leftovers.append(str(path))
        elif path.is_symlink():
            tree.state[f"link {path.relative_to(repository)}"] = os.readlink(path)
        elif path.name == "connections.json":
            tree.state["references"] = path.read_text()
    return tree


def masters(root: Path) -> list[tuple[int, str, str]]:
    """Every domain that calls itself a master: its version, its id and its pool; the newest last."""
    found = []
    for path in root.glob("storage-*/*/dom_md/metadata"):
        if _ID.fullmatch(path.parts[-3]):
            values = _record(Tree(), path)
            if values.get("ROLE") == "Master":
                version, pool = values.get("MASTER_VERSION", "0"), values.get("POOL_UUID", "")
                found.append((int(version), path.parts[-3], pool))
    return sorted(found)


# ---------------------------------------------------------------- domains


def _domain(tree: Tree, path: Path) -> None:
    name = f"domain {path.name[:8]}"
    values = _record(tree, path / "dom_md" / "metadata")
    lines = "".join(f"{key}={values[key]}" for key in sorted(values) if key != "_SHA_CKSUM")
    if hashlib.sha1(lines.encode("ascii", "xmlcharrefreplace")).hexdigest() != values.get("_SHA_CKSUM"):
        tree.problems.append(f"{path}: its record has a wrong checksum")
    for key, value in values.items():
        if key not in _SHIFTING:
            tree.state[f"{name} {key}"] = value
    for part, least in (("ids", 0), ("leases", 0), ("inbox", 1 << 20), ("outbox", 1 << 20)):
        file = path / "dom_md" / part
        if not file.is_file() or file.stat().st_size < least:
            tree.problems.append(f"{file} is missing or short")
    _dom_md(tree, path / "dom_md")
    for entry in sorted(os.listdir(path / "images")):
        if _ID.fullmatch(entry):
            _image(tree, path / "images" / entry, int(values.get("VERSION", "0")))
        else:
            tree.leftovers.append(str(path / "images" / entry))
    _master(tree, path, used=values.get("ROLE") == "Master" or values.get("CLASS") == "Backup")
    for entry in sorted(set(os.listdir(path)) - {"dom_md", "images", "master"}):
        tree.leftovers.append(str(path / entry))


def _dom_md(tree: Tree, path: Path) -> None:
    for entry in sorted(set(os.listdir(path)) - {"metadata", "ids", "leases", "inbox", "outbox", "journal"}):
        tree.leftovers.append(str(path / entry))
    for file in sorted((path / "journal").glob("*")):
        if file.suffix in (".json", ".proof"):
            try:
                json.loads(file.read_bytes())
            except ValueError as error:
                tree.problems.append(f"{file}: {error}")
        else:
            tree.leftovers.append(str(file))


def _master(tree: Tree, path: Path, *, used: bool) -> None:
    """What a master keeps. In a domain that is none, copies may be left that nobody reads; the next replace them."""
    if not used:
        return
    for entry in sorted((path / "master").glob("tasks/*")):
        tree.leftovers.append(str(entry))
        if _ID.fullmatch(entry.name):
            for file in entry.iterdir():
                if not file.read_bytes().endswith(b"\n"):
                    tree.problems.append(f"{file} is torn")
    for machine in sorted((path / "master").glob("vms/*")):
        if not _ID.fullmatch(machine.name):
            tree.leftovers.append(str(machine))
            continue
        for file in sorted(machine.iterdir()):
            if file.name == f"{machine.name}.ovf":
                tree.state[f"machine {path.name[:8]} {machine.name}"] = file.read_text()
            else:
                tree.leftovers.append(str(file))


def _record(tree: Tree, path: Path) -> dict[str, str]:
    data = path.read_bytes()
    if not data.endswith(b"\n") or b"\0" in data:
        tree.problems.append(f"{path} is torn: {data[-40:]!r}")
    text = data.decode("utf-8", "replace")
    return {key: value for key, _, value in (line.partition("=") for line in text.splitlines()) if _}


# ---------------------------------------------------------------- images


def _image(tree: Tree, path: Path, version: int) -> None:
    names = sorted(os.listdir(path))
    tree.state[f"image {path.parent.parent.name[:8]} {path.name[:8]}"] = "here"
    volumes = {name.removesuffix(".meta") for name in names if name.endswith(".meta")}
    for volume in sorted(volumes):
        tree.state[_volume_name(path, volume)] = _volume(tree, path, volume, version)
    for name in names:
        stem, _, kind = name.partition(".")
        if kind not in ("", "meta", "lease") or stem not in volumes:
            tree.leftovers.append(str(path / name))


def _volume_name(path: Path, volume: str) -> str:
    return f"volume {path.parent.parent.name[:8]} {path.name[:8]} {volume[:8]}"


def _volume(tree: Tree, path: Path, volume: str, version: int) -> Facts:
    meta = path / f"{volume}.meta"
    values = _record(tree, meta)
    if not meta.read_bytes().endswith(b"\nEOF\n"):
        tree.problems.append(f"{meta} has no end")
    for key, pattern in _VOLUME_KEYS.items():
        if re.fullmatch(pattern, values.get(key, "(none)")) is None:
            tree.problems.append(f"{meta}: {key} is {values.get(key)!r}")
    facts: Facts = {key: value for key, value in values.items() if key not in (*_TIMES, "SIZE", "CAP")}
    data = path / volume
    if not data.is_file():
        if values.get("LEGALITY") != "ILLEGAL":
            tree.problems.append(f"{data} is missing, and its record says {values.get('LEGALITY')}")
        tree.leftovers.append(f"{data} is half deleted")
        return facts
    size = int(values["CAP"]) if "CAP" in values else int(values.get("SIZE", "0")) * 512
    facts["capacity"] = size
    facts.setdefault("SEQ", "0")
    facts["content"] = content(tree, data, values.get("FORMAT", ""), legal=values.get("LEGALITY") == "LEGAL")
    if values.get("FORMAT") == "COW":
        facts["stands on"] = header(data).backing if facts["content"] != "unreadable" else "unreadable"
    elif size > 0 and data.stat().st_size != size and values.get("LEGALITY") == "LEGAL":
        tree.problems.append(f"{data} has {data.stat().st_size} bytes, and its record says {size}")
    return facts


# ---------------------------------------------------------------- qcow2


@dataclasses.dataclass(frozen=True)
class Header:
    """What a qcow2 header says; sizes in bytes."""

    version: int
    backing: str | None
    size: int
    cluster_bits: int
    table: int


def header(path: Path) -> Header:
    """Read a header.

    Raises:
        ValueError: it is none.
    """
    with path.open("rb") as stream:
        head = stream.read(72)
        if len(head) < 72 or head[:4] != b"QFI\xfb":
            raise ValueError(f"no qcow2 header: {head[:8]!r}")
        version, offset, length, bits, size = struct.unpack(">IQIIQ", head[4:32])
        table = struct.unpack(">Q", head[40:48])[0]
        stream.seek(offset)
        backing = stream.read(length).decode() if offset else None
    return Header(version, backing, size, bits, table)


def content(tree: Tree, path: Path, form: str, *, legal: bool = True) -> str:
    """A digest of what a guest sees through a volume and what it stands on; what is wrong with a damaged one."""
    try:
        found = hashlib.sha1(usedforsecurity=False)
        clusters = _clusters(path, form, 0)
        for number in sorted(clusters):
            if (data := clusters[number].rstrip(b"\0")) != b"":
                found.update(b"%d:%d:" % (number, len(data)) + data)
        size = path.stat().st_size if form == "RAW" else header(path).size
        return f"{size} bytes {found.hexdigest()[:12]}"
    except (ValueError, struct.error, OSError) as error:
        if legal:
            tree.problems.append(f"{path} cannot be read: {error}")
        return "unreadable"


def _clusters(path: Path, form: str, depth: int) -> dict[int, bytes]:
    """What a guest sees, in pieces of 64 KiB, zeroes left out."""
    if depth > 50:
        raise ValueError("it stands on itself")
    if form == "RAW":
        return dict(_raw(path))
    head = header(path)
    if head.cluster_bits != _CLUSTER_BITS:
        raise ValueError(f"clusters of 2^{head.cluster_bits} bytes")
    seen: dict[int, bytes] = {}
    if head.backing is not None:
        beneath = path.parent / head.backing
        seen = dict(_clusters(beneath, _form(beneath), depth + 1))
    for number, data in _own(path, head):
        seen[number] = data
    return {number: data for number, data in seen.items() if number << _CLUSTER_BITS < head.size}


def _form(path: Path) -> str:
    """The format that the record beside a volume says."""
    meta = path.with_name(f"{path.name}.meta")
    found = re.search(rb"^FORMAT=(\w+)$", meta.read_bytes(), re.MULTILINE) if meta.exists() else None
    return found[1].decode() if found else "COW"


def _raw(path: Path) -> Iterator[tuple[int, bytes]]:
    step = 1 << _CLUSTER_BITS
    with path.open("rb") as stream:
        for number in range(0, -(-os.fstat(stream.fileno()).st_size // step)):
            if (data := stream.read(step)).count(0) != len(data):
                yield number, data


def _own(path: Path, head: Header) -> Iterator[tuple[int, bytes]]:
    """Clusters that an image holds itself; those that read as zeroes without data as empty bytes."""
    step = 1 << _CLUSTER_BITS
    per_table, clusters = step // 8, -(-head.size // step)
    with path.open("rb") as stream:
        fd = stream.fileno()
        tables = struct.unpack(
            f">{-(-clusters // per_table)}Q", os.pread(fd, 8 * -(-clusters // per_table), head.table)
        )
        for first, table in enumerate(tables):
            if not table & _OFFSET:
                continue
            there = min(per_table, clusters - first * per_table)
            entries = struct.unpack(f">{there}Q", os.pread(fd, 8 * there, table & _OFFSET))
            for number, entry in enumerate(entries, first * per_table):
                if entry >> 62 & 1:
                    raise ValueError("compressed clusters")
                if entry & 1:
                    yield number, b""
                elif entry & _OFFSET:
                    yield number, os.pread(fd, step, entry & _OFFSET)
