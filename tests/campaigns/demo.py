"""What ``make demo`` shows: real live merges of a real QEMU, cut off, and what the daemon makes of the remains.

    python -m tests.campaigns.demo

Every command is shown before it is run. Everything lives in one temporary directory and is removed at the end.
"""

import contextlib
import os
import random
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support import believer, daemon, guest, oracle

MIB = 1 << 20
SIZE = 64 * MIB
TRIES = 25
_PER_LAYER = 48  # blocks of 64 KiB, 3 MiB
_STEP = 8 * MIB // oracle.BLOCK
_LIVE = range(6 * _STEP, 6 * _STEP + 64)  # blocks that only the running guest writes to
_WIDTH = 96


def main() -> int:
    """Entry point; returns the exit code."""
    if guest.missing():
        print(f"The demo drives a real QEMU and needs {', '.join(guest.missing())}.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="vdsmlite-demo-") as directory:
        show = Show(Path(directory))
        with show.daemon() as server:
            storage = Path(directory, "storage")
            storage.mkdir()
            pool = daemon.make_pool(server, storage)
            return 0 if Story(show, pool).tell() else 1


class Show:
    """Prints: headings, plain words, and commands with what they answer."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bold = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
        self._server: daemon.Daemon | None = None
        self._names: dict[str, str] = {}

    @contextlib.contextmanager
    def daemon(self) -> Iterator[daemon.Daemon]:
        """A running daemon; its command is shown."""
        self.heading("A daemon on an empty directory")
        with daemon.Daemon(self._directory) as server:
            self._server = server
            self.command(["vdsmlite", *server.command[server.command.index("serve") :]])
            print(f"ready on {server.address} after {server.ready_seconds:.2f} s\n")
            yield server

    def heading(self, text: str) -> None:
        print(f"\n{self._bold[0]}== {text}{self._bold[1]}\n", flush=True)

    def say(self, text: str) -> None:
        print(textwrap.fill(" ".join(text.split()), _WIDTH), flush=True)

    def name(self, **values: str) -> None:
        """Give long values the names under which commands are shown from now on."""
        print()
        for name, value in values.items():
            self.command([f"{name}={value}"])
            self._names[value] = name
        print()

    def command(self, words: Sequence[str]) -> None:
        """Show a command as one could type it."""
        shown = " ".join(f"${self._names[word]}" if word in self._names else shlex.quote(word) for word in words)
        print(f"{self._bold[0]}$ {shown}{self._bold[1]}", flush=True)

    def client(self, *words: str) -> None:
        """Run vdsClient, for the reader; its answer goes straight to the reader's terminal."""
        assert self._server is not None
        address = self._server.address
        self.command(["vdsClient", address, *words])
        program = Path(sys.executable).with_name("vdsClient")
        done = subprocess.run(
            [str(program), address, *words], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(f"vdsClient ended with {done.returncode}")

    def bytes_of(self, name: str, digest: str) -> None:
        print(f"  sha256 {digest[:32]}…  {name}", flush=True)


class Story:
    """The acts, in order, on one chain: base, middle, leaf."""

    def __init__(self, show: Show, pool: daemon.Pool) -> None:
        self._show = show
        self._pool = pool
        self._random = random.Random()
        self._disk = oracle.Disk(SIZE)
        self._image = self._make_image(1)

    def tell(self) -> bool:
        """All acts; whether every byte was there in the end."""
        show = self._show
        show.say("""
            A pool with one domain, and a disk of three volumes as snapshots make it: base (ba5e…), middle (5afe…),
            leaf (1eaf…), with 3 MiB of guest data in each. The volumes were made over XML-RPC, as an engine does.""")
        show.name(HOST=self._pool.daemon.address, POOL=self._pool.id, DOMAIN=self._pool.domain)
        good = self._torn_merge()
        good = self._marked_leaf() and good
        good = self._finished_merge() and good
        show.heading("The end")
        show.say("Every byte that the guest had flushed is there." if good else "BYTES WERE LOST. This is a bug.")
        return good

    def _make_image(self, attempt: int) -> daemon.Image:
        names = [f"{word}0000-0000-4000-8000-{attempt:012d}" for word in ("ba5e", "5afe", "1eaf")]
        image = self._pool.make_image_chain(SIZE, volumes=names)
        self._disk = oracle.Disk(SIZE)
        contents = [range(2 * layer * _STEP, 2 * layer * _STEP + _PER_LAYER) for layer in range(3)]
        guest.fill(list(image.layers.values()), contents, self._disk)
        return image

    @contextlib.contextmanager
    def _running(self) -> Iterator[tuple[guest.Machine, guest.Guest]]:
        """The chain in a QEMU, opened as libvirt opens it, with a guest; killed at the end at the latest."""
        with guest.Machine() as machine:
            machine.open_chain(list(self._image.layers.values()))
            yield machine, guest.Guest(machine.export(), self._disk, self._random)

    def _torn_merge(self) -> bool:
        show = self._show
        show.heading("A live merge that looks finished, and is not")
        show.say("""
            QEMU runs, the guest writes, and the middle volume is merged into the base (block-commit). While data is
            copied the guest writes 64 more blocks, each flushed. Then QEMU gets SIGKILL at the moment at which the
            leaf's header changes from "my parent is the middle" to "my parent is the base".""")
        for attempt in range(1, TRIES + 1):
            self._merge_and_kill()
            loss = self._loss(self._claimed(illegal=False)[-1])
            if loss is not None:
                break
            show.say(f"Attempt {attempt}: the kill came too late, this merge really was complete. Once more.")
            self._pool.delete_image(self._image)
            self._image = self._make_image(attempt + 1)
        else:
            show.say(
                f"None of {TRIES} kills fell into the window, so there is nothing to show. That is luck, not proof."
            )
            return True
        show.say(f"Attempt {attempt} fell into the window.")
        show.name(IMAGE=self._image.id, MIDDLE=self._image.volumes[1], LEAF=self._image.leaf)
        return self._recover(illegal=False)

    def _merge_and_kill(self) -> None:
        middle, leaf = list(self._image.layers.values())[1:]
        text = oracle.backing_name(middle.path)
        with self._running() as (machine, user):
            machine.commit(1, 0, backing_text=text, speed=MIB)
            for block in _LIVE:
                user.write([block])
            machine.set_speed(0)
            guest.wait_header(leaf.path, lambda name: name == text)
            machine.kill()

    def _marked_leaf(self) -> bool:
        show, image = self._show, self._image
        show.heading("A leaf that is marked ILLEGAL, and holds the only copy")
        show.say("""
            The guest is started again on the repaired chain, and now the leaf itself is merged into the middle. QEMU
            reports the mirror as ready; the engine's host marks the leaf ILLEGAL, as it does just before it asks for
            the pivot. The guest writes and flushes 32 blocks, and QEMU gets SIGKILL before the pivot. (The mirror is
            held for these writes, so that they are surely not copied; without that it was behind in most kills too.)
            """)
        with self._running() as (machine, user):
            machine.commit(2, 1)
            machine.wait_ready()
            machine.pause()
            show.client("setVolumeLegality", self._pool.domain, self._pool.id, image.id, image.leaf, "ILLEGAL")
            user.write([block + 64 for block in _LIVE[:32]])
            machine.kill()
        return self._recover(illegal=True)

    def _recover(self, *, illegal: bool) -> bool:
        """Show what is there, what would have been concluded, what the daemon does, and the bytes."""
        show, image = self._show, self._image
        show.client("chain", self._pool.id, self._pool.domain, image.id, image.leaf)
        claimed = self._claimed(illegal)
        loss = self._loss(claimed[-1])
        belief = "the mark on the leaf" if illegal else "the leaf's header"
        names = ", ".join(volume[:4] for volume in claimed)
        lost = "nothing" if loss is None else f"{loss.bytes} flushed bytes, the first at {loss.offset}"
        dropped = ", ".join(volume[:4] for volume in image.volumes if volume not in claimed)
        print()
        show.say(f"""
            Whoever believes {belief} concludes: the chain is {names}. The next step is to delete {dropped}.
            Measured on these very files: that chain lacks {lost}. `qemu-img check` calls
            {self._corrupt()} of the files corrupt.""")
        print()
        show.client("reconcileVolumeChain", self._pool.id, self._pool.domain, image.id, image.leaf)
        show.client("chain", self._pool.id, self._pool.domain, image.id, image.leaf)
        print()
        return self._same_bytes()

    def _finished_merge(self) -> bool:
        show, image, pool = self._show, self._image, self._pool
        show.heading("The merge again, to its end")
        show.say("""
            The middle volume is merged into the base once more; this time QEMU says that it is done and quits in
            order. Nobody has told the daemon.""")
        with self._running() as (machine, user):
            machine.commit(1, 0, backing_text=oracle.backing_name(image.layers[image.volumes[1]].path))
            machine.wait_completed()
            machine.dismiss()
            user.write(_LIVE[:8])
            machine.quit()
        show.client("reconcileVolumeChain", pool.id, pool.domain, image.id, image.leaf)
        show.client("deleteVolume", pool.domain, pool.id, image.id, image.volumes[1])
        self._wait_deleted()
        show.client("chain", pool.id, pool.domain, image.id, image.leaf)
        print()
        return self._same_bytes()

    def _wait_deleted(self) -> None:
        for task in self._pool.daemon.call("getAllTasksStatuses")["allTasksStatus"]:
            self._pool.daemon.wait_task("deleteVolume", task)

    def _claimed(self, illegal: bool) -> list[str]:
        return believer.chain(self._image, self._image.leaf, illegal)

    def _loss(self, volume: str) -> oracle.Difference | None:
        layer = self._image.layers[volume]
        return oracle.different(layer.path, layer.format, self._disk)

    def _corrupt(self) -> int:
        command = ["qemu-img", "check", "-f", "qcow2", "--output=json"]
        found = 0
        for layer in self._image.layers.values():
            done = subprocess.run([*command, str(layer.path)], capture_output=True, check=False, timeout=60)
            found += done.returncode == 2
        return found

    def _same_bytes(self) -> bool:
        """Compare what the guest flushed with what it would find now."""
        leaf = self._image.layers[self._image.leaf]
        wanted, found = self._disk.digest(), oracle.digest(leaf.path, leaf.format)
        self._show.bytes_of("what the guest had flushed", wanted)
        self._show.bytes_of("what it would find now", found)
        return wanted == found


if __name__ == "__main__":
    sys.exit(main())
