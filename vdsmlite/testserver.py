"""A daemon for tests: a process of its own on a free loopback port, over a directory that the caller throws away.

The `pytest_plugin` gives it to tests as a fixture; without pytest it is a context manager.
"""

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
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BLANK = "00000000-0000-0000-0000-000000000000"
GIB = 1 << 30

_LOCALFS, _DATA_CLASS, _RAW, _COW, _SPARSE, _DATA_DISK = 4, 1, 5, 4, 2, 2
_READY = "vdsmlite ready on "
_START_SECONDS, _STOP_SECONDS, _REPLY_SECONDS = 20.0, 10.0, 120.0


class Failed(Exception):
    """A verb, or the task that it made, failed.

    Attributes:
        code: the status code.
        message: its text.
    """

    def __init__(self, verb: str, code: int, message: str) -> None:
        super().__init__(f"{verb}: {code} {message}")
        self.code = code
        self.message = message


@dataclasses.dataclass(frozen=True)
class Pool:
    """A connected pool of one local domain, with the daemon as its SPM. Ids as they go over the wire.

    Attributes:
        path: the domain's storage directory.
    """

    id: str
    domain_id: str
    path: Path


@dataclasses.dataclass(frozen=True)
class Image:
    """An image and its chain.

    Attributes:
        volumes: ids, root first, leaf last.
        directory: where its files are.
    """

    id: str
    pool_id: str
    domain_id: str
    volumes: tuple[str, ...]
    directory: Path

    @property
    def leaf(self) -> str:
        return self.volumes[-1]


class TestServer:
    """The daemon's process and what tests ask of it. Use as a context manager.

    Args:
        directory: existing and empty; everything that the daemon writes goes into it.

    Attributes:
        address: host:port.
        xmlrpc: a proxy for all verbs; its replies are as sent, status included.
        directory: as given.

    Raises:
        RuntimeError: the daemon did not become ready; the text holds its log.
    """

    __test__ = False  # not a class of tests, whatever its name

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._pool: Pool | None = None
        command = [sys.executable, "-I", "-m", "vdsmlite", "serve"]
        command += ["--repository", str(directory / "repository"), "--listen", "127.0.0.1:0"]
        # Whoever watches the tests as a service must not take the daemon's words for theirs.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("NOTIFY_", "WATCHDOG_"))
        }
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=directory,
                env=environment,
            )
        try:
            self.address = self._ready(time.monotonic() + _START_SECONDS)
        except BaseException:
            self._end()
            raise
        self.xmlrpc = xmlrpc.client.ServerProxy(f"http://{self.address}/", transport=_Transport(), allow_none=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What the daemon has logged so far."""
        return self._log_path.read_text(errors="replace")

    def stop(self) -> None:
        """End the daemon, with force if it does not heed."""
        with contextlib.suppress(OSError, AttributeError):
            self.xmlrpc("close")()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_STOP_SECONDS)
        self._end()

    def call(self, verb: str, *arguments: Any) -> dict[str, Any]:
        """Call a verb by its XML-RPC name and give its reply.

        Raises:
            Failed: its code is not 0.
        """
        reply: Any = getattr(self.xmlrpc, verb)(*arguments)
        status = reply["status"]
        if status["code"]:
            raise Failed(verb, status["code"], status["message"])
        return dict(reply)

    def jsonrpc(self, method: str, **params: Any) -> Any:
        """Call a method ("Class.method") by its JSON-RPC name and give its result.

        Raises:
            Failed: the reply is an error.
        """
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        host, _, port = self.address.rpartition(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=_REPLY_SECONDS)) as connection:
            connection.request("POST", "/jsonrpc", body, {"Content-Type": "application/json"})
            reply = json.loads(connection.getresponse().read())
        if "error" in reply:
            raise Failed(method, reply["error"]["code"], reply["error"]["message"])
        return reply["result"]

    def wait(self, task_id: str, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until a task is over and give its status. It is not cleared.

        Args:
            timeout: in seconds.

        Raises:
            Failed: the task ended with anything but success, or there is none.
            TimeoutError: it is not over in time.
        """
        deadline, pause = time.monotonic() + timeout, 0.002
        while (status := self.call("getTaskStatus", task_id)["taskStatus"])["taskState"] != "finished":
            if time.monotonic() > deadline:
                raise TimeoutError(f"task {task_id} is still {status}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        if status["taskResult"] != "success":
            raise Failed(f"task {task_id}", status["code"], status["message"])
        return dict(status)

    def make_pool(self, domain_version: int = 3) -> Pool:
        """A new pool of one new local domain, connected, with this host as SPM.

        Args:
            domain_version: format of the domain: 0, 2 or 3.

        Raises:
            Failed: a verb refused.
        """
        pool_id, domain_id = _new_id(), _new_id()
        path = self.directory / f"storage-{domain_id}"
        os.mkdir(path)
        connection = {"id": _new_id(), "connection": str(path)}
        for status in self.call("connectStorageServer", _LOCALFS, BLANK, [connection])["statuslist"]:
            if status["status"]:
                raise Failed("connectStorageServer", status["status"], f"of {path}")
        self.call("createStorageDomain", _LOCALFS, domain_id, "tests", str(path), _DATA_CLASS, domain_version)
        self.call("createStoragePool", 0, pool_id, "tests", domain_id, [domain_id], 1)
        self.call("connectStoragePool", pool_id, 1, pool_id, domain_id, 1)
        self._finish("spmStart", pool_id, -1, "-1", 0, "false")
        made = Pool(pool_id, domain_id, path)
        self._pool = self._pool or made
        return made

    def make_image(self, capacity: int = GIB, pool: Pool | None = None) -> Image:
        """A new image with one sparse qcow2 volume.

        Args:
            capacity: of the disk, in bytes.
            pool: where; by default the first pool, made when there is none.

        Raises:
            Failed: a verb refused.
        """
        return self.make_chain(1, capacity, pool)

    def make_chain(self, n: int, capacity: int = GIB, pool: Pool | None = None) -> Image:
        """As `make_image`, with `n` volumes, each a snapshot of the one before."""
        pool = pool or self._pool or self.make_pool()
        image_id, volumes = _new_id(), [_new_id() for _ in range(n)]
        for parent, volume in zip([BLANK, *volumes], volumes, strict=False):
            source: Sequence[str] = (image_id if parent != BLANK else BLANK, parent)
            kind = (str(capacity), _COW, _SPARSE, _DATA_DISK)
            self._finish("createVolume", pool.domain_id, pool.id, image_id, *kind, volume, "a test volume", *source)
        directory = pool.path / pool.domain_id / "images" / image_id
        return Image(image_id, pool.id, pool.domain_id, tuple(volumes), directory)

    def _finish(self, verb: str, *arguments: Any) -> None:
        """Call a verb that makes a task, wait for its success, and clear it."""
        task_id = self.call(verb, *arguments)["uuid"]
        self.wait(task_id)
        self.call("clearTask", task_id)

    @property
    def _log_path(self) -> Path:
        return self.directory / "daemon.log"

    def _ready(self, deadline: float) -> str:
        """Wait for the line that says where the daemon listens."""
        assert self._process.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self._process.stdout], [], [], remaining)[0]:
                raise RuntimeError(f"the daemon is not ready in time\n{self.log}")
            chunk = os.read(self._process.stdout.fileno(), 4096)
            if not chunk:
                raise RuntimeError(f"the daemon ended before it was ready\n{self.log}")
            said += chunk
        return said.decode().strip().removeprefix(_READY)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class _Transport(xmlrpc.client.Transport):
    """The standard transport with a limit on every reply."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = _REPLY_SECONDS
        return connection


def _new_id() -> str:
    return str(uuid.uuid4())
