"""A real QEMU with a volume chain, and a guest that writes to it; made to be killed.

The chain is opened as libvirt opens it: a file node and a format node an image, the backing ones ``read-only`` (their
file nodes ``auto-read-only``), every backing link given by name. ``read-only`` is what makes QEMU flush a base when a
commit is over; `Machine(writable_backing=True)` leaves it out, to prove that the tests can see the damage.

Only processes started here are ever ended, each by its own handle.
"""

import contextlib
import dataclasses
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import nbd, oracle, qmp

STORAGE_DAEMON = "qemu-storage-daemon"
SYSTEM = "qemu-system-x86_64"
JOB = "merge"


def missing() -> list[str]:
    """Names of the programs needed here that this machine lacks."""
    return [name for name in (STORAGE_DAEMON, SYSTEM, "qemu-img") if not shutil.which(name)]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One image of a chain: its file and its format, ``qcow2`` or ``raw``."""

    path: Path
    format: str = "qcow2"


class Machine:
    """A QEMU process. Use as a context manager: whatever happens, the process is gone afterwards.

    Args:
        program: `STORAGE_DAEMON` or `SYSTEM`.
    """

    def __init__(self, program: str = STORAGE_DAEMON) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vl-qemu-"))
        self._monitor_path = self.directory / "m"
        self._nbd_path = self.directory / "n"
        self._clients: list[nbd.Client] = []
        self.chain: list[Layer] = []
        try:
            with qmp.listen(self._monitor_path) as listener:
                self.process = self._start(program)
                self.monitor = qmp.Monitor(listener, alive=lambda: self.process.poll() is None)
        except BaseException:
            self._end()
            raise

    def _start(self, program: str) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("wb") as log:
            return subprocess.Popen(
                self._command(program), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _command(self, program: str) -> list[str]:
        if program == STORAGE_DAEMON:
            chardev = f"socket,id=m,path={self._monitor_path},server=off"
            return [program, "--chardev", chardev, "--monitor", "chardev=m"]
        monitor = f"unix:{self._monitor_path},server=off"
        return [program, "-machine", "none", "-nodefaults", "-nographic", "-S", "-qmp", monitor]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if hasattr(self, "process"):
            self.kill()
        for client in self._clients:
            client.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def log(self) -> str:
        """What the process wrote to its standard streams."""
        return (self.directory / "log").read_text(errors="replace")

    def open_chain(self, layers: Sequence[Layer], *, writable_backing: bool = False) -> None:
        """Open images root first; the last one is the guest's."""
        for index, layer in enumerate(layers):
            below = format_node(index - 1) if index else None
            read_only = index < len(layers) - 1 and not writable_backing
            self._add(index, layer, below, read_only)
        self.chain = list(layers)

    def _add(self, index: int, layer: Layer, below: str | None, read_only: bool) -> None:
        file_node = f"layer-{index}-storage"
        storage = {"driver": "file", "node-name": file_node, "filename": str(layer.path), "discard": "unmap"}
        self.monitor.execute("blockdev-add", storage | {"auto-read-only": True})
        node = {"driver": layer.format, "node-name": format_node(index), "file": file_node, "read-only": read_only}
        if layer.format != "raw":
            node["backing"] = below
        self.monitor.execute("blockdev-add", node)

    def export(self, index: int = -1) -> nbd.Client:
        """Export one image's format node (default: the topmost) and connect to it as the guest's disk."""
        index %= len(self.chain)
        if not self._clients:
            address = {"type": "unix", "data": {"path": str(self._nbd_path)}}
            self.monitor.execute("nbd-server-start", {"addr": address})
        name = f"disk{index}"
        arguments = {"id": name, "type": "nbd", "node-name": format_node(index), "name": name, "writable": True}
        self.monitor.execute("block-export-add", arguments)
        client = nbd.Client(self._nbd_path, name)
        self._clients.append(client)
        return client

    def commit(
        self, top: int, base: int, *, backing_text: str | None = None, speed: int = 0, send: bool = False
    ) -> None:
        """Start a block-commit of one layer into another; both counted from the root.

        Args:
            backing_text: the name to write into the header above `top`; None for an active commit.
            speed: bytes a second, 0 for no limit.
            send: return before QEMU has answered; take the answer with ``monitor.reply("block-commit")``.
        """
        arguments: dict[str, Any] = {
            "job-id": JOB,
            "device": format_node(len(self.chain) - 1),
            "top-node": format_node(top),
            "base-node": format_node(base),
            "speed": speed,
            "auto-finalize": True,
            "auto-dismiss": False,
        }
        if backing_text is not None:
            arguments["backing-file"] = backing_text
        if send:
            self.monitor.send("block-commit", arguments)
        else:
            self.monitor.execute("block-commit", arguments)

    def set_speed(self, speed: int) -> None:
        """Limit the job; bytes a second, 0 for no limit."""
        self.monitor.execute("block-job-set-speed", {"device": JOB, "speed": speed})

    def pause(self) -> None:
        """Hold a ready active commit: from now on nothing is copied. (A speed limit only slows the mirror down.)"""
        self.monitor.execute("job-pause", {"id": JOB})
        self.monitor.wait("JOB_STATUS_CHANGE", id=JOB, status="standby")

    def wait_ready(self) -> None:
        """Wait until the mirror of an active commit has caught up once."""
        self.monitor.wait("BLOCK_JOB_READY", device=JOB)

    def pivot(self, *, send: bool = False) -> None:
        """Ask a ready active commit to make its base the guest's disk. `send` as in `commit`."""
        (self.monitor.send if send else self.monitor.execute)("job-complete", {"id": JOB})

    def wait_completed(self) -> None:
        """Wait for the end of the job.

        Raises:
            RuntimeError: it ended with an error.
        """
        event = self.monitor.wait("BLOCK_JOB_COMPLETED", device=JOB)
        if "error" in event["data"]:
            raise RuntimeError(event["data"]["error"])

    def dismiss(self) -> None:
        """Take the finished job away, as libvirt does."""
        self.monitor.wait("JOB_STATUS_CHANGE", id=JOB, status="concluded")
        self.monitor.execute("job-dismiss", {"id": JOB})

    def kill(self) -> None:
        """SIGKILL, and wait until the process and its locks are gone."""
        self.process.kill()
        self.process.wait()
        if hasattr(self, "monitor"):
            self.monitor.close()

    def quit(self) -> None:
        """End in an orderly way."""
        with contextlib.suppress(qmp.Gone):
            self.monitor.execute("quit")
        self.process.wait(timeout=30)
        self.monitor.close()


def format_node(index: int) -> str:
    """Name of the format node of a layer, counted from the root."""
    return f"layer-{index}-format"


class Guest:
    """Somebody who writes blocks to a disk and remembers which writes were flushed.

    Args:
        client: the disk.
        disk: the record; nobody else may touch it while a background run is on.
        random_: source of every choice.
    """

    def __init__(self, client: nbd.Client, disk: oracle.Disk, random_: random.Random) -> None:
        self._client = client
        self._disk = disk
        self._random = random_
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self.flushes = 0

    def write(self, blocks: Iterable[int], *, zeroes: Iterable[int] = (), flush: bool = True) -> None:
        """Write blocks of new content and blocks of zeroes (as a request for zeroes), and flush once at the end."""
        for block in blocks:
            self._client.write(block * oracle.BLOCK, self._disk.begin(block))
        for block in zeroes:
            self._client.write_zeroes(block * oracle.BLOCK, len(self._disk.begin(block, zeroes=True)))
        if flush:
            self._client.flush()
            self._disk.settle()
            self.flushes += 1

    def start(self, blocks: Sequence[int], pause: float = 0.0005) -> None:
        """Write in the background, up to three random blocks of these before each flush, until stopped or killed.

        One block in eight is made zeroes.

        Args:
            pause: seconds to wait after each flush.
        """
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(list(blocks), pause), daemon=True)
        self._thread.start()

    def _run(self, blocks: list[int], pause: float) -> None:
        try:
            while not self._stop.is_set():
                chosen = self._random.choices(blocks, k=self._random.randint(1, 3))
                zeroes = [block for block in chosen if self._random.random() < 0.125]
                self.write([block for block in chosen if block not in zeroes], zeroes=zeroes)
                self._stop.wait(pause)
        except ConnectionError:
            pass  # QEMU was killed: what was under way stays pending
        except Exception as error:  # kept for `finish`, which runs in the test's own thread
            self._failure = error

    def wait_flushes(self, count: int, timeout: float = 20.0) -> None:
        """Wait until the background run has flushed that many more times."""
        wanted = self.flushes + count
        deadline = time.monotonic() + timeout
        while self.flushes < wanted:
            if self._thread is None or not self._thread.is_alive():
                raise RuntimeError(f"the guest stopped writing: {self._failure}")
            if time.monotonic() > deadline:
                raise TimeoutError("the guest hangs")
            time.sleep(0.0005)

    def finish(self) -> None:
        """Stop a background run (or find it ended by a kill) and pass on what went wrong in it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            if self._thread.is_alive():
                raise RuntimeError("the guest hangs")
        if self._failure is not None:
            raise self._failure


def fill(
    layers: Sequence[Layer],
    contents: Sequence[Sequence[int]],
    disk: oracle.Disk,
    zeroes: Sequence[Sequence[int]] | None = None,
) -> None:
    """Put content into each layer itself, root first, flushed, as if the guest had written it in turn.

    Args:
        contents: for each layer, blocks that get new content.
        zeroes: for each layer, blocks that are made zeroes; none by default.
    """
    for index, blocks in enumerate(contents):
        with Machine() as machine:
            machine.open_chain(layers[: index + 1])
            user = Guest(machine.export(), disk, random.Random(0))
            user.write(blocks, zeroes=zeroes[index] if zeroes else ())
            machine.quit()


def wait_header(image: Path, condition: Callable[[str | None], bool], timeout: float = 20.0) -> None:
    """Watch an image's header, as fast as this machine can, until its backing name satisfies the condition.

    Raises:
        TimeoutError: it never did.
    """
    deadline = time.monotonic() + timeout
    with image.open("rb", buffering=0) as stream:
        previous = b""
        while True:
            for _ in range(64):
                head = os.pread(stream.fileno(), 1024, 0)
                if head != previous:
                    previous = head
                    if condition(oracle.backing_name(image)):
                        return
            if time.monotonic() > deadline:
                raise TimeoutError("the header never changed")
