"""A guest that tries to start on a chain, whatever is being done to it, and remembers what it was promised."""

import random
from collections.abc import Sequence
from pathlib import Path

from tests.support import guest, nbd, oracle, qmp

WRITER, READER = "writer", "reader"
_REFUSALS = (qmp.Refused, ConnectionError, FileNotFoundError, nbd.Failed)


class Visitor:
    """One guest's stay.

    Args:
        layers: the chain as it knew it before, root first.
        disk: what the guest's disk holds; its flushed writes are added.
        mode: `WRITER`, or `READER` for one that has the chain open read-only.
        idle: it neither writes nor reads.

    Attributes:
        opened: it got hold of the disk.
        refusal: why it did not.
        blocks: that it has written.
    """

    def __init__(
        self, layers: Sequence[guest.Layer], disk: oracle.Disk, mode: str = WRITER, *, idle: bool = False
    ) -> None:
        self._layers = layers
        self._disk = disk
        self._mode = mode
        self._idle = idle
        self._machine: guest.Machine | None = None
        self._client: nbd.Client | None = None
        self.opened = False
        self.refusal = ""
        self.blocks: set[int] = set()

    def arrive(self) -> None:
        """Start, and write the first blocks where it may."""
        self._machine = guest.Machine()
        try:
            self._client = self._open(self._machine)
        except _REFUSALS as error:
            self.refusal = str(error)
            self._end()
            return
        self.opened = True
        if self._mode == WRITER and not self._idle:
            self._write(1)

    def _open(self, machine: guest.Machine) -> nbd.Client:
        if self._mode == WRITER:
            machine.open_chain(self._layers)
            return machine.export()
        return guest_reader(machine, self._layers)

    def leave(self) -> list[str]:
        """Go on working after what was done meanwhile, and stop; sentences about what was wrong."""
        if self._machine is None or self._client is None or not self.opened:
            return []
        wrong = []
        try:
            if not self._idle and self._mode == WRITER:
                self._write(2)
            elif not self._idle:
                wrong = self._read()
        except (OSError, qmp.Refused) as error:
            wrong = [f"the guest that was there got {error}"]
        self._end()
        return wrong

    def _write(self, serial: int) -> None:
        blocks = random.Random(serial).sample(range(self._disk.size // oracle.BLOCK), 3)
        assert self._client is not None
        self.blocks.update(blocks)
        guest.Guest(self._client, self._disk, random.Random(serial)).write(blocks)

    def _read(self) -> list[str]:
        assert self._client is not None
        for block in range(self._disk.size // oracle.BLOCK):
            data = self._client.read(block * oracle.BLOCK, oracle.BLOCK)
            if data not in self._disk.allowed(block):
                return [f"a reader that was there sees other bytes at block {block}"]
        return []

    def _end(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._machine is not None:
            with self._machine:
                if self._machine.process.poll() is None:
                    self._machine.quit()
        self._machine = self._client = None


def guest_reader(machine: guest.Machine, layers: Sequence[guest.Layer]) -> nbd.Client:
    """Have a machine open a chain with nothing in it writable, as a backup does."""
    for index, layer in enumerate(layers):
        storage = {"driver": "file", "node-name": f"s{index}", "filename": str(layer.path), "read-only": True}
        machine.monitor.execute("blockdev-add", storage)
        node = {"driver": layer.format, "node-name": f"f{index}", "file": f"s{index}", "read-only": True}
        if layer.format != "raw":
            node["backing"] = f"f{index - 1}" if index else None
        machine.monitor.execute("blockdev-add", node)
    path = Path(machine.directory, "r")
    machine.monitor.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": str(path)}}})
    top = f"f{len(layers) - 1}"
    arguments = {"id": "r", "type": "nbd", "node-name": top, "name": "r", "writable": False}
    machine.monitor.execute("block-export-add", arguments)
    return nbd.Client(path, "r")
