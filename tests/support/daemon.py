"""The real daemon in a process of its own, and a pool with volume chains in it, over XML-RPC as an engine would."""

import contextlib
import dataclasses
import http.client
import json
import os
import select
import subprocess
import sys
import time
import uuid
import xmlrpc.client
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import guest

BLANK = "00000000-0000-0000-0000-000000000000"
LOCALFS = 4
RAW, COW = 5, 4
SPARSE = 2
DATA_DISK = 2
PROGRAM = (sys.executable, "-I", "-m", "vdsmlite")
_READY = "vdsmlite ready on "


class VerbFailed(Exception):
    """A verb, or its task, answered with a status that is not 0.

    Attributes:
        code: the status code.
        message: its text.
    """

    def __init__(self, verb: str, code: int, message: str) -> None:
        super().__init__(f"{verb}: {code} {message}")
        self.code = code
        self.message = message


class Daemon:
    """A running daemon, isolated from the caller's environment and path. Use as a context manager.

    Attributes:
        address: host and port that it listens on.
        ready_seconds: how long it took to be ready.

    Args:
        directory: an existing directory for its repository, configuration and log: empty, or that of an earlier one,
            whose repository it then takes over.
        config: content of its configuration file.
        timeout: seconds until it must be ready.

    Raises:
        RuntimeError: it did not become ready; the text holds its log.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any] | None = None, timeout: float = 20.0) -> None:
        self.directory = directory
        self.repository = directory / "repository"
        self.repository.mkdir(exist_ok=True)
        configuration = directory / "vdsmlite.yaml"
        configuration.write_text(json.dumps(dict(config or {})))  # JSON is YAML
        self.command = [*PROGRAM, "serve", "--repository", str(self.repository)]
        self.command += ["--listen", "127.0.0.1:0", "--config", str(configuration)]
        started = time.monotonic()
        with (directory / "daemon.log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=directory
            )
        try:
            self.address = self._wait_ready(started + timeout)
        except BaseException:
            self.kill()
            raise
        self.ready_seconds = time.monotonic() - started
        self.url = f"http://{self.address}/"
        self.proxy = connect(self.url)

    def _wait_ready(self, deadline: float) -> str:
        assert self.process.stdout is not None
        text = b""
        while not text.endswith(b"\n"):
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self.process.stdout], [], [], remaining)[0]:
                raise RuntimeError(f"the daemon is not ready in time\n{self.log}")
            data = os.read(self.process.stdout.fileno(), 4096)
            if not data:
                raise RuntimeError(f"the daemon ended before it was ready\n{self.log}")
            text += data
        line = text.decode().strip()
        if not line.startswith(_READY):
            raise RuntimeError(f"the daemon said {line!r}\n{self.log}")
        return line.removeprefix(_READY)

    @property
    def log(self) -> str:
        """What it wrote to its standard error."""
        return (self.directory / "daemon.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, and wait for the exit code; SIGKILL when it does not end."""
        with contextlib.suppress(OSError, AttributeError):
            self.proxy("close")()
        self.process.terminate()
        try:
            self.process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL and wait."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def answer(self, verb: str, *arguments: Any) -> dict[str, Any]:
        """Call a verb and give its whole answer, ``status`` included, whatever the code."""
        found = getattr(self.proxy, verb)(*arguments)
        assert isinstance(found, dict)
        return found

    def call(self, verb: str, *arguments: Any) -> dict[str, Any]:
        """Call a verb that must succeed.

        Raises:
            VerbFailed: its code is not 0.
        """
        found = self.answer(verb, *arguments)
        status = found["status"]
        if status["code"]:
            raise VerbFailed(verb, status["code"], status["message"])
        return found

    def task(self, verb: str, *arguments: Any, timeout: float = 60.0) -> str:
        """Call a verb that makes a task, wait for its success, clear it, and give its id.

        Raises:
            VerbFailed: the verb or its task failed.
            TimeoutError: the task is not over in time.
        """
        task_id = str(self.call(verb, *arguments)["uuid"])
        self.wait_task(verb, task_id, timeout)
        return task_id

    def wait_task(self, verb: str, task_id: str, timeout: float = 60.0) -> None:
        """Wait for the success of a task and clear it; `verb` is for messages. Raises what `task` raises."""
        deadline = time.monotonic() + timeout
        pause = 0.002
        while (status := self.call("getTaskStatus", task_id)["taskStatus"])["taskState"] != "finished":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{verb} is still {status}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        if status["code"] or status["taskResult"] != "success":
            raise VerbFailed(verb, status["code"], status["message"])
        self.call("clearTask", task_id)


class _Transport(xmlrpc.client.Transport):
    """The standard transport (keep-alive) with a limit on every answer."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = 120
        return connection


def connect(url: str) -> xmlrpc.client.ServerProxy:
    """A proxy with a time limit. Close it with ``proxy("close")()``."""
    return xmlrpc.client.ServerProxy(url, transport=_Transport(), allow_none=True)


@dataclasses.dataclass(frozen=True)
class Image:
    """A volume chain.

    Attributes:
        id: the image's id.
        directory: where its files are.
        layers: volume id -> its file and format, root first.
    """

    id: str
    directory: Path
    layers: dict[str, guest.Layer]

    @property
    def volumes(self) -> list[str]:
        """Volume ids, root first."""
        return list(self.layers)

    @property
    def leaf(self) -> str:
        """The volume the chain was made for."""
        return self.volumes[-1]


@dataclasses.dataclass(frozen=True)
class Pool:
    """A connected pool with one localfs domain, of which the daemon is SPM; ids as they go over the wire."""

    daemon: Daemon
    id: str
    domain: str
    storage: Path

    def make_image_chain(
        self,
        size: int,
        formats: Sequence[str] = ("qcow2", "qcow2", "qcow2"),
        volumes: Sequence[str] | None = None,
    ) -> Image:
        """Create an image with one volume a format, each a snapshot of the one before.

        Args:
            size: of the guest's disk, in bytes.
            formats: root first, ``raw`` or ``qcow2``.
            volumes: ids, root first; default random ones.
        """
        image_id = str(uuid.uuid4())
        directory = self.storage / self.domain / "images" / image_id
        layers: dict[str, guest.Layer] = {}
        parent = BLANK
        for volume, image_format in zip(volumes or [str(uuid.uuid4()) for _ in formats], formats, strict=True):
            code = RAW if image_format == "raw" else COW
            arguments = (self.domain, self.id, image_id, str(size), code, SPARSE, DATA_DISK, volume, "a test volume")
            self.daemon.task("createVolume", *arguments, image_id if layers else BLANK, parent)
            layers[volume] = guest.Layer(directory / volume, image_format)
            parent = volume
        return Image(image_id, directory, layers)

    def mark(self, image: Image, volume: str, legality: str) -> None:
        """Set the legality of a volume, as a live merge does before the pivot."""
        self.daemon.call("setVolumeLegality", self.domain, self.id, image.id, volume, legality)

    def reconcile(self, image: Image, leaf: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Answer of reconcileVolumeChain, whatever its code."""
        extra = () if options is None else (dict(options),)
        return self.daemon.answer("reconcileVolumeChain", self.id, self.domain, image.id, leaf, *extra)

    def look(self, image: Image, leaf: str) -> dict[str, Any]:
        """Answer of getVolumeChain, whatever its code."""
        return self.daemon.answer("getVolumeChain", self.id, self.domain, image.id, leaf)

    def undo(self, image: Image) -> dict[str, Any]:
        """Answer of undoReconcile, whatever its code."""
        return self.daemon.answer("undoReconcile", self.id, self.domain, image.id)

    def info(self, image: Image, volume: str) -> dict[str, Any]:
        """What getVolumeInfo says of a volume."""
        found = self.daemon.call("getVolumeInfo", self.domain, self.id, image.id, volume)["info"]
        assert isinstance(found, dict)
        return found

    def delete_volumes(self, image: Image, volumes: Sequence[str]) -> None:
        """Delete volumes, in this order."""
        self.daemon.task("deleteVolume", self.domain, self.id, image.id, list(volumes))

    def delete_image(self, image: Image) -> None:
        """Delete the whole image."""
        self.daemon.task("deleteImage", self.domain, self.id, image.id)

    def can_start(self, image: Image, leaf: str) -> None:
        """Prepare the image as for the start of a guest, and release it again; raises `VerbFailed` when refused."""
        arguments = (self.id, self.domain, image.id, leaf)
        self.daemon.call("prepareImage", *arguments)
        self.daemon.call("teardownImage", *arguments)


def make_pool(daemon: Daemon, storage: Path, version: int = 3) -> Pool:
    """Make a localfs domain and a pool of it, connect, and become SPM.

    Args:
        storage: an existing empty directory.
        version: of the domain.
    """
    pool_id, domain_id = str(uuid.uuid4()), str(uuid.uuid4())
    path = str(storage)
    connection = [{"id": str(uuid.uuid4()), "connection": path}]
    for status in daemon.call("connectStorageServer", LOCALFS, BLANK, connection)["statuslist"]:
        if status["status"]:
            raise VerbFailed("connectStorageServer", status["status"], f"of {path}")
    daemon.call("createStorageDomain", LOCALFS, domain_id, "tests", path, 1, version)
    daemon.call("createStoragePool", 0, pool_id, "tests", domain_id, [domain_id], 1)
    daemon.call("connectStoragePool", pool_id, 1, "key", domain_id, 1)
    daemon.task("spmStart", pool_id, -1, -1, -1, 0)
    return Pool(daemon, pool_id, domain_id, storage)
