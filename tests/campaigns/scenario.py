"""One live merge that is killed: what there is to merge, when it is killed, and how that is done.

A volume chain is made through the daemon and opened in a real QEMU; a guest writes and flushes while a block-commit is
under way, and QEMU is killed at some moment, alone or together with the daemon. `judgement` looks at what is left.

Each layer has its data in ranges of its own (steps of 8 MiB), so that no layer hides the loss of another.
"""

import dataclasses
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tests.support import daemon, guest, oracle

MARGIN = 1.0
"""Seconds: `time_margin` of the daemons that campaigns start.

Short enough that runs on both sides of it stay short, and longer than any stall of this machine's disk: a margin is
worth something only if copying does not stand still for so long.
"""

SLOWEST_COPY = 10 * 1024 * 1024
"""Bytes a second. A parent counts as the later one only beyond the margin plus the time to copy the leaf at this."""

_REGION = 512 * 1024 * 1024 // oracle.BLOCK  # blocks that one L2 table of a qcow2 image describes
_STEP = 8 * 1024 * 1024 // oracle.BLOCK
_LIVE = 7  # the step that nobody but the running guest writes to
_INTERNAL = ("running", "switching", "completed")
_ACTIVE = ("running", "ready", "marked", "lagging", "pivoting", "pivoted")
ALONE, TOGETHER, REPAIR = KILLS = ("alone", "together", "repair")


class Keeper(Protocol):
    """Who keeps volumes and says what a chain is: `revival.Pool`, or a stand-in."""

    @property
    def hasty(self) -> bool: ...
    def make_image_chain(self, size: int, formats: Sequence[str]) -> daemon.Image: ...
    def mark(self, image: daemon.Image, volume: str, legality: str) -> None: ...
    def look(self, image: daemon.Image, leaf: str) -> dict[str, Any]: ...
    def reconcile(self, image: daemon.Image, leaf: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]: ...
    def undo(self, image: daemon.Image) -> dict[str, Any]: ...
    def delete_volumes(self, image: daemon.Image, volumes: Sequence[str]) -> None: ...
    def info(self, image: daemon.Image, volume: str) -> dict[str, Any]: ...
    def can_start(self, image: daemon.Image, leaf: str) -> None: ...
    def delete_image(self, image: daemon.Image) -> None: ...
    def send_mark(self, image: daemon.Image, volume: str, legality: str) -> None: ...
    def is_marked(self, image: daemon.Image, volume: str) -> bool: ...
    def prove(self, image: daemon.Image, leaf: str) -> None: ...
    def kill(self) -> None: ...
    def revive(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is merged and when it is killed.

    Attributes:
        commit: ``internal`` (the middle volume into the base) or ``active`` (the leaf into its parent, with pivot).
        moment: of the kill. ``running``: data is being copied. ``switching``: around the end of an internal merge.
            ``completed``: QEMU has said so. ``ready``: the mirror has caught up once. ``marked``: the leaf is ILLEGAL,
            no pivot was asked for. ``lagging``: the same, and the mirror is held. ``pivoting``: within 20 ms of
            the request. ``pivoted``: QEMU has said so, and the guest went on writing.
        base: format of the volume that takes the data.
        killed: ``alone``: QEMU. ``together``: QEMU and the daemon, at the same moment, and where the mark is being set,
            in the middle of that. ``repair``: QEMU, and then the daemon in the middle of its reconciling.
    """

    commit: str
    moment: str
    base: str
    killed: str = ALONE

    @property
    def merge(self) -> str:
        """What was merged and how far, without who was killed."""
        return f"{self.commit} {self.moment} ({self.base})"

    def __str__(self) -> str:
        return self.merge if self.killed == ALONE else f"{self.merge} {self.killed}"


_MERGES = [
    (commit, moment, base)
    for commit, moments in (("internal", _INTERNAL), ("active", _ACTIVE))
    for moment in moments
    for base in ("qcow2", "raw")
]

CELLS = [
    Cell(*merge, KILLS[(index + turn) % len(KILLS)])
    for turn in range(len(KILLS))
    for index, merge in enumerate(_MERGES)
]
"""All of them; each third has every merge once."""

_SUDDEN = [
    *[Cell("internal", "switching", "qcow2", killed) for killed in (*KILLS, *KILLS, *KILLS, REPAIR, REPAIR, REPAIR)],
    *[Cell("active", "pivoting", "qcow2", killed) for killed in (*KILLS, *KILLS)],
]

SCHEDULE = [*CELLS, *_SUDDEN]
"""One turn of a campaign: every cell, and more of those where the truth changes within a millisecond."""

VERSIONS = (3, 5)
"""Domain versions; volumes of the first are qcow2 version 2, which has no zero clusters, of the second version 3."""


@dataclasses.dataclass
class Scene:
    """What is left after the kill: the image, and the truth."""

    cell: Cell
    image: daemon.Image
    disk: oracle.Disk
    random: random.Random
    marked: bool = False  # whether the leaf was ILLEGAL when QEMU was killed

    @property
    def leaf(self) -> str:
        return self.image.leaf

    @property
    def target(self) -> str:
        """The volume that the data was merged into."""
        return self.image.volumes[-3 if self.cell.commit == "internal" else -2]

    def loss(self, volume: str) -> oracle.Difference | None:
        """What a guest would miss if it were started on this volume now."""
        layer = self.image.layers[volume]
        return oracle.different(layer.path, layer.format, self.disk)


def place(number: int, seed: int) -> tuple[int, bool]:
    """Version of the domain that a run of a campaign wants, and whether its daemon shall compare no bytes in a call."""
    chance = random.Random(f"{seed}:{number}:place")
    return chance.choice(VERSIONS), chance.random() < 0.25


def interrupt(pool: Keeper, cell: Cell, chance: random.Random) -> Scene:
    """Make a chain, merge and kill."""
    wide = chance.random() < 0.25
    size = (3 * _REGION if wide else 8 * _STEP) * oracle.BLOCK
    image = pool.make_image_chain(size, _formats(cell, chance))
    scene = Scene(cell, image, oracle.Disk(size), chance)
    layers = list(image.layers.values())
    contents = [_own_blocks(index, wide, chance) for index in range(len(layers))]
    zeroes = [_zeroes(contents[:index], chance) for index in range(len(layers))]
    guest.fill(layers, contents, scene.disk, zeroes)
    live = [block for region in range(3 if wide else 1) for block in _range(region, _LIVE)][:: chance.randint(1, 3)]
    program = guest.SYSTEM if chance.random() < 0.15 else guest.STORAGE_DAEMON
    with guest.Machine(program) as machine:
        machine.open_chain(layers)
        user = guest.Guest(machine.export(), scene.disk, random.Random(chance.random()))
        held = contents[-1]
        user.start(held if cell.moment == "lagging" and chance.random() < 0.5 else [*held, *live])
        try:
            _merge(pool, scene, machine, user)
        finally:
            machine.process.kill()
            if cell.killed == TOGETHER:
                pool.kill()
            machine.kill()
            user.finish()
    scene.marked = pool.is_marked(image, scene.leaf)
    if cell.killed == TOGETHER:
        pool.revive()
    return scene


def _formats(cell: Cell, chance: random.Random) -> list[str]:
    """Formats of the chain, root first; sometimes a volume is beneath the target, where that is no raw one."""
    beneath = ["qcow2"] if cell.base == "qcow2" and chance.random() < 0.5 else []
    return [*beneath, cell.base, "qcow2", *(["qcow2"] if cell.commit == "internal" else [])]


def _range(region: int, step: int) -> range:
    start = region * _REGION + step * _STEP
    return range(start, start + _STEP)


def _own_blocks(index: int, wide: bool, chance: random.Random) -> list[int]:
    """Blocks of one layer: some in its own range of every region, next to each other or apart."""
    count, stride = chance.randint(8, 40), chance.randint(1, 3)
    return [block for region in range(3 if wide else 1) for block in _range(region, 2 * index)[::stride][:count]]


def _zeroes(beneath: Sequence[Sequence[int]], chance: random.Random) -> list[int]:
    """Blocks with data further down that a layer turns into zeroes: losing those brings old data back."""
    return [block for blocks in beneath for block in blocks if chance.random() < 0.1]


def _merge(pool: Keeper, scene: Scene, machine: guest.Machine, user: guest.Guest) -> None:
    """Start the merge, bring it to the moment of the kill, and return just then."""
    if scene.cell.commit == "internal":
        _merge_internal(scene, machine, user)
    else:
        _merge_active(pool, scene, machine, user)


def _merge_internal(scene: Scene, machine: guest.Machine, user: guest.Guest) -> None:
    middle, leaf = list(scene.image.layers.values())[-2:]
    top = len(scene.image.layers) - 2
    text = oracle.backing_name(middle.path)
    chance = scene.random
    user.wait_flushes(chance.randint(1, 5))
    if scene.cell.moment == "running":
        machine.commit(top, top - 1, backing_text=text, speed=chance.choice([1, 2, 8]) << 20)
        time.sleep(chance.uniform(0, 0.15))
    elif scene.cell.moment == "completed":
        machine.commit(top, top - 1, backing_text=text)
        machine.wait_completed()
        if chance.random() < 0.5:
            machine.dismiss()
        user.wait_flushes(chance.randint(0, 10))
    elif chance.random() < 0.7:
        machine.commit(top, top - 1, backing_text=text, send=True)
        guest.wait_header(leaf.path, lambda name: name == text)
        _spin(chance.choice([0, chance.uniform(0, 0.002)]))
    else:
        machine.commit(top, top - 1, backing_text=text, send=True)
        _spin(chance.uniform(0, 0.04))


def _merge_active(pool: Keeper, scene: Scene, machine: guest.Machine, user: guest.Guest) -> None:
    chance, moment = scene.random, scene.cell.moment
    top = len(scene.image.layers) - 1
    user.wait_flushes(chance.randint(1, 5))
    if moment == "running":
        machine.commit(top, top - 1, speed=1 << 20)
        time.sleep(chance.uniform(0, 0.15))
        return
    machine.commit(top, top - 1)
    machine.wait_ready()
    if moment == "lagging":
        machine.pause()
    user.wait_flushes(chance.randint(0, 10))
    if moment == "ready":
        return
    if moment == "marked" and scene.cell.killed == TOGETHER and chance.random() < 0.5:
        pool.send_mark(scene.image, scene.leaf, "ILLEGAL")
        _spin(chance.uniform(0, 0.01))
        return
    pool.mark(scene.image, scene.leaf, "ILLEGAL")
    if moment == "marked":
        user.wait_flushes(chance.randint(1, 20))
    elif moment == "lagging":
        user.wait_flushes(5)
        time.sleep(chance.choice([0, MARGIN + 0.1]))
    elif moment == "pivoting":
        machine.pivot(send=True)
        _spin(chance.uniform(0, chance.choice([0.004, 0.02])))
    else:
        machine.pivot()
        machine.wait_completed()
        user.wait_flushes(chance.randint(0, 20))
        if chance.random() < 0.5:
            time.sleep(window(scene) + 0.1)
            user.wait_flushes(2)


def _spin(seconds: float) -> None:
    """Wait exactly; a sleep is too coarse for kills that must fall into a millisecond."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def window(scene: Scene) -> float:
    """Seconds by which the parent's last write must lie behind the leaf's to count as evidence."""
    return MARGIN + scene.image.layers[scene.leaf].path.stat().st_blocks * 512 / SLOWEST_COPY
