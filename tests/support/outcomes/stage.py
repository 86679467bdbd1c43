"""The world that the rows are played in: a pool on five directories, its SPM, another host, and a host of its own.

``main`` is the SPM. ``other`` is connected to the same pool and is not. ``spare`` has a pool of its own for verbs that
make and end pools; a row gets it as fresh as it wants. Everything is real: daemons, directories, images.
"""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support import daemon as daemons, disks, samples
from tests.support.outcomes import table

BLANK = daemons.BLANK
RAW, COW, SPARSE, PREALLOCATED = 5, 4, 2, 1
SIZE = 64 << 10  # bytes; of the disks
_SMALL = 64 << 10
_CONFIG = {"lock_timeout": 0.05, "workers": 1, "max_tasks": 1, "sd_health_check": 3600, "transfer_seconds": 1.0}


def new_id() -> str:
    return str(uuid.uuid4())


class Stage:
    """See the module; made once for many rows, which leave it as they found it.

    Attributes:
        pool, master, here, there, iso, backup, stray: ids. All but the last are domains of the pool and active.
        image, base, middle, leaf: a chain of three volumes in `here`.
    """

    pool: str
    master: str
    here: str
    there: str
    iso: str
    backup: str
    stray: str
    image: str
    base: str
    middle: str
    leaf: str

    def __init__(self, root: Path) -> None:
        self.root = root
        self._exits = contextlib.ExitStack()
        self._garbage: list[Path] = []
        self._extras: dict[str, daemons.Daemon] = {}
        self._hang = root / "hang"
        self._tool = disks.wrapper(root / "qemu-img", f'[ -e {self._hang} ] || exec qemu-img "$@"\n. {self._hang}')
        self.main = self.daemon("main")
        self.pool = new_id()
        self.domains = [new_id() for _ in range(6)]
        self.master, self.here, self.there, self.iso, self.backup, self.stray = self.domains
        classes = {self.iso: 2, self.backup: 3}
        for domain in self.domains:
            version = 0 if domain in classes else 3
            self.make_domain(self.main, domain, domain_class=classes.get(domain, 1), version=version)
        members = self.domains[:-1]
        self.main.call("createStoragePool", 0, self.pool, "a pool", self.master, members, 1)
        self.main.call("connectStoragePool", self.pool, 1, "key", self.master, 1)
        self.main.task("spmStart", self.pool, -1, -1, 0, "false")
        for domain in members[1:]:
            self.main.call("activateStorageDomain", domain, self.pool)
        self._make_chain()
        self._other: daemons.Daemon | None = None
        self._spare: daemons.Daemon | None = None

    def close(self) -> None:
        self._exits.close()

    def daemon(self, name: str, **settings: Any) -> daemons.Daemon:
        """Another daemon, with a repository of its own."""
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        storage = {**_CONFIG, "qemu_img": str(self._tool), **settings}
        config = {"storage": storage, "log": {"level": "ERROR"}}
        return self._exits.enter_context(daemons.Daemon(directory, config))

    def extra(self, name: str, make: Callable[[], daemons.Daemon]) -> daemons.Daemon:
        """A daemon that is made when it is first asked for."""
        if name not in self._extras:
            self._extras[name] = make()
        return self._extras[name]

    @property
    def other(self) -> daemons.Daemon:
        """A host of the same pool that is not its SPM."""
        if self._other is None:
            self._other = self.daemon("other")
            for domain in self.domains:
                self.connect_storage(self._other, self.storage(domain))
            self._other.call("connectStoragePool", self.pool, 2, "key", self.master, 1)
        return self._other

    @property
    def spare(self) -> daemons.Daemon:
        """A host that is connected to no pool between two rows."""
        if self._spare is None:
            self._spare = self.daemon("spare")
        return self._spare

    def tidy(self) -> None:
        """Remove images that a row made for itself."""
        for path in self._garbage:
            remove(path)
        self._garbage.clear()

    def is_sound(self) -> bool:
        """Whether it is as a row should find it; one that failed may have left something else."""
        try:
            status = self.main.call("getSpmStatus", self.pool)["spm_st"]["spmStatus"]
            found = self.main.call("getVolumesList", self.here, self.pool, self.image)["uuidlist"]
            states = [each["status"] for each in self.main.call("getStoragePoolInfo", self.pool)["dominfo"].values()]
            done = not self.main.call("getAllTasks")["tasks"]
        except (daemons.VerbFailed, OSError):
            return False
        return status == "SPM" and set(found) == set(self.volumes) and states == ["Active"] * 5 and done

    def made_by(self, image: str, domain: str = "") -> None:
        """Say that a row has an image made, which goes afterwards."""
        self._garbage.append(self.directory(image, domain))

    # ---------------------------------------------------------------- places

    def storage(self, domain: str) -> Path:
        """The directory that is connected for a domain."""
        return self.root / f"storage-{domain}"

    def place(self, domain: str) -> Path:
        return self.storage(domain) / domain

    def record(self, domain: str) -> Path:
        return self.place(domain) / "dom_md" / "metadata"

    def directory(self, image: str, domain: str = "") -> Path:
        return self.place(domain or self.here) / "images" / image

    # ---------------------------------------------------------------- making

    def connect_storage(self, host: daemons.Daemon, path: Path, verb: str = "connectStorageServer") -> None:
        [found] = host.call(verb, daemons.LOCALFS, BLANK, connection(path))["statuslist"]
        assert found["status"] == 0, (verb, path, found)

    def make_domain(self, host: daemons.Daemon, domain: str, *, domain_class: int = 1, version: int = 3) -> None:
        self.storage(domain).mkdir()
        self.connect_storage(host, self.storage(domain))
        host.call(
            "createStorageDomain", daemons.LOCALFS, domain, "a domain", str(self.storage(domain)), domain_class, version
        )

    def _make_chain(self) -> None:
        self.image, self.base, self.middle, self.leaf = (new_id() for _ in range(4))
        parent = BLANK
        for volume in (self.base, self.middle, self.leaf):
            form = RAW if parent == BLANK else COW
            source = BLANK if parent == BLANK else self.image
            where = (self.here, self.pool, self.image)
            self.main.task("createVolume", *where, str(SIZE), form, SPARSE, 2, volume, "x", source, parent)
            parent = volume
        self.volumes = (self.base, self.middle, self.leaf)

    def fresh_image(self, domain: str = "", image: str = "") -> str:
        """A copy of the chain under an id of its own, made behind the daemon's back; volume ids stay."""
        image = image or new_id()
        target = self.directory(image, domain)
        shutil.copytree(self.directory(self.image), target)
        self._garbage.append(target)
        for path in target.glob("*.meta"):
            text = path.read_text().replace(f"IMAGE={self.image}", f"IMAGE={image}")
            path.write_text(text.replace(f"DOMAIN={self.here}", f"DOMAIN={domain or self.here}"))
        return image

    @contextlib.contextmanager
    def rig(self, upto: str = "spm", **domains: tuple[int, int]) -> Iterator["Rig"]:
        """Domains and a pool of `spare`'s own, for the time of a block.

        Args:
            upto: how far it is: ``storage`` (directories are connected), ``domains``, ``pool``, ``connected``, ``spm``.
            domains: name -> class and version; the first is the master, and all belong to the pool. Without any there
                is one of version 3, ``master``.
        """
        rig = Rig(self, domains or {"master": (1, 3)})
        try:
            rig.raise_to(upto)
            yield rig
        finally:
            rig.clear()

    # ---------------------------------------------------------------- conditions

    @contextlib.contextmanager
    def instead(self, path: Path, content: bytes | None) -> Iterator[None]:
        """Another content at a place, or nothing there, while a block runs; then what was there, with its times."""
        aside = path.with_name(f".{path.name}.aside")
        os.rename(path, aside)
        try:
            if content is not None:
                path.write_bytes(content)
            yield
        finally:
            remove(path)
            os.rename(aside, path)

    @contextlib.contextmanager
    def looping(self, path: Path) -> Iterator[None]:
        """A link to itself at a place: whoever goes through it gets an error that is not "nothing there"."""
        with self.instead(path, None):
            path.symlink_to(path)
            yield

    @contextlib.contextmanager
    def changed(self, path: Path, **values: str | None) -> Iterator[None]:
        """Other values in a volume's record; None removes a key."""
        lines = []
        for line in path.read_text().splitlines(keepends=True):
            key = line.partition("=")[0]
            if key not in values:
                lines.append(line)
            elif values[key] is not None:
                lines.append(f"{key}={values[key]}\n")
        with self.instead(path, "".join(lines).encode()):
            yield

    @contextlib.contextmanager
    def hanging(self, script: str = "exec sleep 60") -> Iterator[None]:
        """What qemu-img does from now on, as a shell script that gets its arguments."""
        self._hang.write_text(script)
        try:
            yield
        finally:
            self._hang.unlink()

    @contextlib.contextmanager
    def background(self, host: daemons.Daemon, verb: str, *arguments: Any) -> Iterator[list[dict[str, Any]]]:
        """A call that is under way while the block runs; its answer is in the list after it."""
        found: list[dict[str, Any]] = []
        proxy = daemons.connect(host.url)

        def call() -> None:
            answer: Any = getattr(proxy, verb)(*arguments)
            found.append(answer)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            thread.join(30)
            proxy("close")()

    # ---------------------------------------------------------------- calls

    def arguments(self, verb: str, **values: Any) -> list[Any]:
        """Arguments of a call that would succeed, in the order of XML-RPC, with some of them replaced by name."""
        from tests.support.outcomes import calls

        known = {**calls.defaults(self, verb), **values}
        positions = table.CATALOGUE.verbs[verb].wire
        unknown = set(values) - {each.name for each in positions}
        assert not unknown, f"{verb} has no {unknown}"
        return [
            known[each.name] if each.name in known else samples.RIGHT[samples.type_of(each.schema)][0]
            for each in positions
        ]

    def json(self, host: daemons.Daemon, row: table.Row, arguments: list[Any]) -> dict[str, Any]:
        """The answer to the same call over JSON-RPC."""
        wire = [each.name for each in row.schema.wire if not each.ignored]
        given = [value for each, value in zip(row.schema.wire, arguments, strict=False) if not each.ignored]
        params = {name: value for name, value in zip(wire, given, strict=False) if value is not None}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": row.schema.method, "params": params})
        name, _, port = host.address.rpartition(":")
        with contextlib.closing(http.client.HTTPConnection(name, int(port), timeout=60)) as wire_connection:
            wire_connection.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
            found = json.loads(wire_connection.getresponse().read())
        assert isinstance(found, dict)
        return found

    def tree(self) -> dict[str, str]:
        """What is on all storage of the stage: every name with its kind, mode, size, times and, if small, content.

        Records of tasks come and go, and what is mounted over a part of it is not looked into.
        """
        found: dict[str, str] = {}
        for path in sorted(self.root.glob("storage-*")):
            _walk(path, os.lstat(self.root).st_dev, found)
        return found


class Rig:
    """See `Stage.rig`.

    Attributes:
        pool: id of the pool.
        domains: name -> id.
        host: the daemon.
    """

    def __init__(self, stage: Stage, kinds: dict[str, tuple[int, int]]) -> None:
        self.stage = stage
        self.host = stage.spare
        self.pool = new_id()
        self.kinds = kinds
        self.domains = {name: new_id() for name in kinds}

    def __getattr__(self, name: str) -> str:
        return self.domains[name]

    @property
    def first(self) -> str:
        return next(iter(self.domains.values()))

    def raise_to(self, upto: str) -> None:
        for name, domain in self.domains.items():
            self.stage.storage(domain).mkdir()
            self.stage.connect_storage(self.host, self.stage.storage(domain))
            if upto != "storage":
                domain_class, version = self.kinds[name]
                place = str(self.stage.storage(domain))
                self.host.call("createStorageDomain", daemons.LOCALFS, domain, "a name", place, domain_class, version)
        if upto in ("pool", "connected", "spm"):
            self.host.call("createStoragePool", 0, self.pool, "a pool", self.first, list(self.domains.values()), 1)
        if upto in ("connected", "spm"):
            self.connect()
        if upto == "spm":
            self.start()

    def connect(self, *more: Any) -> None:
        self.host.call("connectStoragePool", self.pool, 1, "key", self.first, 1, *more)

    def start(self) -> None:
        self.host.task("spmStart", self.pool, -1, -1, 0, "false")

    def clear(self) -> None:
        """End whatever there is, as far as it is still there."""
        self.host.answer("spmStop", self.pool)
        self.host.answer("disconnectStoragePool", self.pool, 1, "key")
        for domain in self.domains.values():
            place = self.stage.storage(domain)
            self.host.answer("disconnectStorageServer", daemons.LOCALFS, BLANK, connection(place))
            remove(place)


def connection(path: Path) -> list[dict[str, str]]:
    return [{"id": new_id(), "connection": str(path)}]


def remove(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _walk(path: Path, device: int, found: dict[str, str]) -> None:
    if path.match("master/tasks") or path.name.endswith(".aside"):
        return
    try:
        info = os.lstat(path)
    except OSError as error:
        found[str(path)] = str(error)
        return
    kind = stat.S_IFMT(info.st_mode)
    told = f"{info.st_mode:o}"
    if kind == stat.S_IFREG:
        told += f" {info.st_size} {info.st_mtime_ns} {info.st_nlink}"
        if info.st_size <= _SMALL and info.st_dev == device:
            told += " " + hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
    elif kind == stat.S_IFLNK:
        told += f" {os.readlink(path)}"
    found[str(path)] = told
    if kind == stat.S_IFDIR and info.st_dev == device:
        for entry in os.listdir(path):
            _walk(path / entry, device, found)
