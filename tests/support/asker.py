"""What qemu says of thousands of images: one long-lived qemu-storage-daemon instead of a process for each.

It opens an image read-only, without locks and without its backing file, as `qemu-img info` does; an external data file
it does open, so such a name must lie where the test lives. `by_tool` asks `qemu-img info` itself.
"""

import contextlib
import dataclasses
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import images, qmp


@dataclasses.dataclass(frozen=True)
class Told:
    """What of an image qemu told; names with U+FFFD for what is not UTF-8."""

    size: int
    cluster: int
    name: str | None
    backing_format: str | None
    version: int
    dirty: bool
    corrupt: bool
    extended: bool
    compression: str


class Refused(Exception):
    """qemu does not open the image; its words."""


class Asker:
    """A running qemu-storage-daemon. Use as a context manager.

    Args:
        directory: where it runs, so that relative names lead there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self.restarts = -1
        self._start()

    def _start(self) -> None:
        self.restarts += 1
        self._stack.close()
        place = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vl-asker-")))
        listener = self._stack.enter_context(qmp.listen(place / "s"))
        monitor = f"socket,id=m,server=off,path={place}/s"
        command = ["qemu-storage-daemon", "--chardev", monitor, "--monitor", "chardev=m"]
        self._process = subprocess.Popen(
            command, cwd=self._directory, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._stack.callback(self._process.wait)
        self._stack.callback(self._process.kill)
        self._monitor = qmp.Monitor(listener, lambda: self._process.poll() is None)
        self._stack.callback(self._monitor.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def ask(self, path: Path) -> Told:
        """What it says of an image.

        Raises:
            Refused: it does not open it.
            qmp.Gone: it died of it; the next question goes to a new one.
        """
        file = {"driver": "file", "filename": str(path), "locking": "off"}
        node = {"driver": "qcow2", "node-name": "n", "read-only": True, "backing": None, "file": file}
        try:
            try:
                self._monitor.execute("blockdev-add", node)
            except qmp.Refused as error:
                raise Refused(error.description) from None
            nodes = self._monitor.execute("query-named-block-nodes", {"flat": True})
            self._monitor.execute("blockdev-del", {"node-name": "n"})
        except qmp.Gone:
            self._start()
            raise
        return told(next(each["image"] for each in nodes if each["node-name"] == "n"))


def by_tool(path: Path) -> Told:
    """What `qemu-img info` says of an image; raises `Refused`."""
    done = images.qemu_img("info", "-U", "-f", "qcow2", "--output=json", path, check=False)
    if done.returncode:
        raise Refused(done.stderr.strip())
    return told(json.loads(done.stdout))


def told(info: Mapping[str, Any]) -> Told:
    """An answer of qemu's in our words."""
    specific = info["format-specific"]["data"]
    return Told(
        size=info["virtual-size"],
        cluster=info["cluster-size"],
        name=info.get("backing-filename"),
        backing_format=info.get("backing-filename-format"),
        version=2 if specific["compat"] == "0.10" else 3,
        dirty=info["dirty-flag"],
        corrupt=specific.get("corrupt", False),
        extended=specific.get("extended-l2", False),
        compression=specific.get("compression-type", "zlib"),
    )


def shown(name: str | None) -> str | None:
    """A name as qemu shows it: what is not UTF-8 is replaced. How many marks it takes differs, so runs become one."""
    if name is None:
        return None
    return re.sub("\ufffd+", "\ufffd", re.sub("[\udc80-\udcff]", "\ufffd", name))
