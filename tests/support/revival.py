"""A daemon that is killed and comes back, and a pool of its own that is in use again afterwards."""

import contextlib
import dataclasses
import http.client
import os
import select
import threading
import time
import uuid
import xmlrpc.client
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support import daemon as daemons, images

_GATE = """#!/bin/sh
if [ "$1" = rebase ] && [ -p '{place}/arrived' ]; then
    echo $$ > '{place}/arrived'
    read -r _ < '{place}/go'
fi
exec qemu-img "$@"
"""


class Revivable(daemons.Daemon):
    """A daemon that can be started again on what it left: same repository, same configuration, another port."""

    def __init__(self, directory: Path, config: Mapping[str, Any] | None = None, timeout: float = 20.0) -> None:
        super().__init__(directory, config, timeout)
        self._config = config

    def revive(self) -> None:
        """Start it again after `kill`."""
        with contextlib.suppress(OSError):
            self.proxy("close")()
        super().__init__(self.directory, self._config)

    def wait_task(self, verb: str, task_id: str, timeout: float = 60.0) -> None:
        """As its parent does, and ask less often: a task waits for the disk, and asking costs as much as working."""
        deadline = time.monotonic() + timeout
        while (status := self.call("getTaskStatus", task_id)["taskStatus"])["taskState"] != "finished":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{verb} is still {status}")
            time.sleep(0.02)
        super().wait_task(verb, task_id, timeout)


class Gate:
    """A qemu-img that stops before it changes a header while the gate is shut, so that it can be killed just there.

    Args:
        directory: an existing one for the program.
    """

    def __init__(self, directory: Path) -> None:
        self._place = directory
        self.program = directory / "gated-qemu-img"
        self.program.write_text(_GATE.format(place=directory))
        self.program.chmod(0o755)

    @contextlib.contextmanager
    def shut(self) -> Iterator["Arrivals"]:
        """Stop whoever comes for the time of the block; at its end nobody may be waiting."""
        names = [self._place / "arrived", self._place / "go"]
        with contextlib.ExitStack() as stack:
            ends = []
            for name in names:
                os.mkfifo(name)
                stack.callback(name.unlink)
                ends.append(os.open(name, os.O_RDWR | os.O_CLOEXEC))
                stack.callback(os.close, ends[-1])
            yield Arrivals(*ends)


class Arrivals:
    """Those who stand before a gate."""

    def __init__(self, arrived: int, go: int) -> None:
        self._arrived = arrived
        self._go = go

    def wait(self, timeout: float = 20.0) -> int | None:
        """A handle (pidfd) of the process that has come, to be closed by the caller; None when nobody comes."""
        if not select.select([self._arrived], [], [], timeout)[0]:
            return None
        return os.pidfd_open(int(os.read(self._arrived, 64)))

    def let_go(self) -> None:
        """Let the one who waits go on."""
        os.write(self._go, b"\n")


@dataclasses.dataclass(frozen=True)
class Pool(daemons.Pool):
    """A pool whose daemon may be killed at any time.

    Attributes:
        gate: what the daemon uses as qemu-img.
        hasty: the daemon compares no bytes in a call.
    """

    daemon: Revivable
    gate: Gate
    hasty: bool
    _calls: list[threading.Thread] = dataclasses.field(default_factory=list)

    def send(self, verb: str, *arguments: Any) -> threading.Thread:
        """Call a verb and do not wait; the thread ends with the call, however it ends."""
        thread = threading.Thread(target=_call, args=(self.daemon.url, verb, *arguments), daemon=True)
        thread.start()
        self._calls.append(thread)
        return thread

    def send_mark(self, image: daemons.Image, volume: str, legality: str) -> None:
        """As `mark`, and do not wait."""
        self.send("setVolumeLegality", self.domain, self.id, image.id, volume, legality)

    def send_reconcile(
        self, image: daemons.Image, leaf: str, options: Mapping[str, Any] | None = None
    ) -> threading.Thread:
        """As `reconcile`, and do not wait."""
        extra = () if options is None else (dict(options),)
        return self.send("reconcileVolumeChain", self.id, self.domain, image.id, leaf, *extra)

    def kill(self) -> None:
        """SIGKILL the daemon; calls under way end."""
        self.daemon.kill()
        while self._calls:
            self._calls.pop().join()

    def revive(self) -> None:
        """Start the daemon again, connect the pool and become SPM, as an engine does."""
        self.daemon.revive()
        connection = [{"id": str(uuid.uuid4()), "connection": str(self.storage)}]
        self.daemon.call("connectStorageServer", daemons.LOCALFS, daemons.BLANK, connection)
        self.daemon.call("connectStoragePool", self.id, 1, "key", self.domain, 1)
        self.daemon.task("spmStart", self.id, -1, -1, -1, 0)

    def prove(self, image: daemons.Image, leaf: str) -> None:
        """Have all bytes compared, however long that takes."""
        self.daemon.task("proveVolumeChain", self.id, self.domain, image.id, leaf)

    def is_marked(self, image: daemons.Image, volume: str) -> bool:
        """Whether a volume's record, read on our own, says ILLEGAL."""
        return "LEGALITY=ILLEGAL" in (image.directory / f"{volume}.meta").read_text().splitlines()


def _call(url: str, verb: str, *arguments: Any) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error), daemons.connect(url) as proxy:
        getattr(proxy, verb)(*arguments)


@contextlib.contextmanager
def pool(place: Path, version: int, settings: Mapping[str, Any], *, hasty: bool = False) -> Iterator[Pool]:
    """A daemon, a domain and a pool in an empty directory.

    Args:
        version: of the domain.
        settings: of the storage floor.
        hasty: compare no bytes in a call, so that everything is left to `Pool.prove`.
    """
    images.qemu_img("--version")  # must be there, for the gate ends in it
    gate = Gate(place)
    storage = place / "storage"
    storage.mkdir()
    config = {"storage": {**settings, "qemu_img": str(gate.program), **({"prove_seconds": 0} if hasty else {})}}
    with Revivable(place, config) as server:
        made = daemons.make_pool(server, storage, version)
        yield Pool(server, made.id, made.domain, made.storage, gate, hasty)
