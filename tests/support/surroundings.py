"""A daemon that is traced, and around its storage everything that a hostile id or path could lead to."""

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support import daemon, tracing

_SIZE = 1 << 20
_VOLATILE = (".probe.", "daemon.log", "trace", "/ids", "/leases")
"""Parts of names that the daemon changes by itself."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back: `code` is 0 for a result."""

    code: int
    message: str
    result: Any = None


class Place:
    """The daemon and its surroundings.

    Attributes:
        real: ids that exist, by what they are of.
        planted: ids that are links leading out, or half so, by what they are of.
        outside: a directory that nobody may look into.
    """

    def __init__(self, root: Path, server: daemon.Daemon) -> None:
        self.root = root
        self.server = server
        storage = root / "storage"
        storage.mkdir()
        self.pool = daemon.make_pool(server, storage)
        self.image = self.pool.make_image_chain(_SIZE, ("qcow2", "qcow2"))
        self.domain = storage / self.pool.domain
        self.outside = root / "outside"
        self._host, _, port = server.address.rpartition(":")
        self._port = int(port)
        self._connection: http.client.HTTPConnection | None = None
        task = str(server.call("deleteImage", self.pool.domain, self.pool.id, self._doomed())["uuid"])
        while server.call("getTaskStatus", task)["taskStatus"]["taskState"] != "finished":
            time.sleep(0.01)
        self.real = {
            "pool": self.pool.id,
            "domain": self.pool.domain,
            "image": self.image.id,
            "volume": self.image.leaf,
            "base": self.image.volumes[0],
            "task": task,
        }
        self.planted = {kind: [str(uuid.uuid4()) for _ in range(3)] for kind in self.real}

    def _doomed(self) -> str:
        return self.pool.make_image_chain(_SIZE, ("raw",)).id

    # ------------------------------------------------------------ what must not be touched

    def plant(self) -> None:
        """Put everything in its place, again where somebody took it away."""
        if not self.outside.exists():
            self._furnish()
        domain, pool, image = (self.planted[kind][0] for kind in ("domain", "pool", "image"))
        _link(self.domain.parent / domain, self.outside / "domain")
        _link(self.server.repository / pool, self.outside / "pool")
        _link(self.domain / "images" / image, self.outside / "image")
        _link(self.server.repository / "hsm-tasks" / self.planted["task"][0], self.outside / "pool")
        for kind in ("volume", "base"):
            link, record, lease = self.planted[kind]
            own = (self.image.directory / f"{self.image.volumes[0]}.meta").read_bytes()
            for name in (link, lease):
                (self.image.directory / f"{name}.meta").unlink(missing_ok=True)
                (self.image.directory / f"{name}.meta").write_bytes(own)
            _link(self.image.directory / link, self.outside / "canary")
            _link(self.image.directory / f"{record}.meta", self.outside / "canary.meta")
            shutil.copy(self.image.directory / self.image.volumes[0], self.image.directory / record)
            shutil.copy(self.image.directory / self.image.volumes[0], self.image.directory / lease)
            _link(self.image.directory / f"{lease}.lease", self.outside / "canary")

    def pull_out(self) -> None:
        """Take all links away again."""
        for kind, names in self.planted.items():
            for name in names:
                for path in self.root.rglob(f"{name}*"):
                    if kind in ("volume", "base") or path.is_symlink():
                        path.unlink(missing_ok=True)

    def _furnish(self) -> None:
        """Copies of real things, so that who follows a link finds what it looks for."""
        self.outside.mkdir()
        shutil.copytree(self.domain, self.outside / "domain", symlinks=True)
        shutil.copytree(self.image.directory, self.outside / "image")
        metadata = self.outside / "domain" / "dom_md" / "metadata"
        metadata.write_text(metadata.read_text().replace(self.pool.domain, self.planted["domain"][0]))
        shutil.copytree(self.domain / "master", self.outside / "pool" / "mastersd" / "master")
        shutil.copy(self.image.directory / self.image.volumes[0], self.outside / "canary")
        shutil.copy(self.image.directory / f"{self.image.volumes[0]}.meta", self.outside / "canary.meta")
        for path in (self.domain, self.image.directory):
            shutil.copytree(path, path.with_name(f"{path.name}x"), symlinks=True)  # the siblings

    @property
    def forbidden(self) -> tuple[str, ...]:
        """What no call may name or open."""
        return (str(self.outside), f"{self.domain}x", f"{self.image.directory}x")

    def fingerprint(self, *, outside_only: bool = False) -> Mapping[str, object]:
        """All of storage, repository and surroundings, without what the daemon changes by itself."""
        places = self.forbidden if outside_only else (str(self.root),)
        return {str(path): what for place in places for path, what in _files(Path(place))}

    # ------------------------------------------------------------ calls

    def ask(self, method: str, params: Mapping[str, Any]) -> Answer:
        """One call over JSON-RPC, which carries everything, as far as UTF-8 goes."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        for attempt in (0, 1):  # the daemon hangs up after so many requests
            connection = self._connection or http.client.HTTPConnection(self._host, self._port, timeout=60)
            self._connection = connection
            try:
                connection.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
                reply = json.loads(connection.getresponse().read())
                break
            except (ConnectionError, http.client.HTTPException):
                self.hang_up()
                if attempt:
                    raise
        error = reply.get("error")
        return Answer(error["code"], error["message"]) if error else Answer(0, "", reply.get("result"))

    def hang_up(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def stream(self, method: str, headers: Mapping[str, str]) -> int:
        """The status of a stream's answer."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=60)
        with contextlib.closing(connection):
            body = b"" if method == "PUT" else None
            connection.request(method, "/", body, {"Range": "bytes=0-511", **headers})
            return connection.getresponse().status

    def rest(self) -> None:
        """Wait until no task is at work, and clear all but the known one."""
        for task in self.server.call("getAllTasksStatuses")["allTasksStatus"]:
            if task != self.real["task"]:
                with contextlib.suppress(daemon.VerbFailed):
                    self.server.wait_task("a task", task)
                with contextlib.suppress(daemon.VerbFailed):
                    self.server.call("clearTask", task)


def _files(place: Path) -> Iterator[tuple[Path, object]]:
    """Every name below, and what would show that it was changed: a write changes the time, a replacement the number."""
    for path in place.rglob("*"):
        if any(part in str(path) for part in _VOLATILE):
            continue
        info = path.lstat()
        is_directory = stat.S_ISDIR(info.st_mode)
        link = os.readlink(path) if path.is_symlink() else ""
        yield path, (info.st_mode, info.st_ino, link, *(() if is_directory else (info.st_size, info.st_mtime_ns)))


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    os.symlink(target, path)


class Trace:
    """The trace of a daemon so far."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0

    def more(self) -> list[str]:
        """Lines since the last time."""
        with self._log.open(errors="surrogateescape", newline="\n") as stream:
            stream.seek(self._read)
            lines = stream.readlines()
            self._read = stream.tell()
        return lines


@contextlib.contextmanager
def opened() -> Iterator[tuple[Place, Trace]]:
    """A place with a traced daemon in it, in a new directory."""
    with tempfile.TemporaryDirectory(prefix="vl-paths-") as directory:
        root = Path(directory)
        home, log = root / "daemon", root / "trace"
        home.mkdir()
        program = (*tracing.command(log), *daemon.PROGRAM)
        with mock.patch.object(daemon, "PROGRAM", program), daemon.Daemon(home) as server:
            place = Place(root, server)
            try:
                yield place, Trace(log)
            finally:
                place.hang_up()
