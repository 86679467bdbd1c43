"""Images in need of repair, made once and copied for each try; and the repair, looking without a process."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.chains import layer, reconcile
from storage.domains import filedomain
from storage.qemu import qcow2, qemuimg
from storage.volumes import volume_metadata
from tests.support import chains, faults

v = chains.volume_id
LONG_AGO = 1_000_000_000


class Tool(qemuimg.QemuImg):
    """The real qemu-img where it writes, counted as one change of the disk; looks without a process."""

    def __init__(self, strike: faults.Faults | None = None) -> None:
        super().__init__(timeout=30)
        self._pointed = super().rebase_unsafe if strike is None else strike._counted("rebase", super().rebase_unsafe)

    def rebase_unsafe(self, path: Path, backing: str | None, backing_format: str | None) -> None:
        self._pointed(path, backing, backing_format)

    def info(self, path: Path, fmt: str, *, shared: bool = False) -> qemuimg.Info:
        if fmt == "raw":
            return qemuimg.Info("raw", path.stat().st_size, 0, None, None, {})
        with path.open("rb") as stream:
            head = qcow2.read_header(stream.fileno(), path.stat().st_size)
        return qemuimg.Info("qcow2", head.virtual_size, 0, head.backing_name, head.backing_format, {})


def _merged(image: chains.Image) -> None:
    """Two gaps, several records to write."""
    image.chain(6)
    image.commit(3, 1, 4)
    image.commit(5, 4, 6)
    image.change(4, voltype=volume_metadata.LEAF)


def _torn(image: chains.Image) -> None:
    """A torn merge beneath a complete one, and one above."""
    image.chain(5)
    image.commit(2, 1, 3)
    image.forget(1, 2)
    image.commit(4, 3, 5)
    image.change(1, voltype=volume_metadata.LEAF)


def _torn_twice(image: chains.Image) -> None:
    image.chain(5)
    image.switch(3, 1)
    image.switch(5, 3)


def _dropped(image: chains.Image) -> None:
    """The guest went on with the parent of a marked leaf, beneath which another merge is complete."""
    image.chain(4)
    image.commit(2, 1, 3)
    image.copy_down(4, 3)
    image.mark(4)
    image.write(3, (4, 1, 99))
    _times(image, 4, leaf=0, parent=600)


def _kept(image: chains.Image) -> None:
    """The guest went on with a marked leaf; beneath its parent a merge is torn, so the parent's header is written."""
    image.chain(4)
    image.copy_down(4, 3)
    image.commit(2, 1, 3)
    image.forget(1, 2)
    image.mark(4)
    image.write(4, (4, 1, 99))
    image.change(4, parent=2)
    _times(image, 4, leaf=600, parent=0)


def _times(image: chains.Image, marked: int, *, leaf: int, parent: int) -> None:
    times = {image.data(number): -100 for number in range(1, marked - 1)}
    times |= {image.data(marked): leaf, image.data(marked - 1): parent, image.meta(marked): 1}
    for path, seconds in times.items():
        os.utime(path, (LONG_AGO + seconds, LONG_AGO + seconds))


STATES: dict[str, tuple[int, list[int], int, Callable[[chains.Image], None]]] = {
    "merged": (6, [1, 4, 6], 6, _merged),
    "torn": (5, [1, 2, 3, 5], 5, _torn),
    "torn twice": (5, [1, 2, 3, 4, 5], 5, _torn_twice),
    "dropped": (4, [1, 3], 3, _dropped),
    "kept": (4, [1, 2, 3, 4], 4, _kept),
}
"""Name: the caller's leaf, the chain, the right leaf, how to get there."""


class Pattern:
    """A state, made once; copies of it are broken."""

    def __init__(self, name: str, place: Path) -> None:
        self.leaf, self.chain, last, make = STATES[name]
        self.place = place
        self.image = chains.Image(chains.make_domain(place / "pattern"))
        make(self.image)
        # What the guest must see is read from the images through the chain that is right, whatever headers say.
        self.truth = seen(self.image, [*reversed(self.chain)])
        assert last == self.chain[-1]
        self.copies = 0

    @contextlib.contextmanager
    def copy(self) -> Iterator[chains.Image]:
        self.copies += 1
        mount = self.place / f"copy{self.copies}"
        shutil.copytree(self.place / "pattern", mount, copy_function=shutil.copy2)
        try:
            yield chains.Image(filedomain.FileDomain(chains.DOMAIN, mount))
        finally:
            shutil.rmtree(mount)

    def call(self, image: chains.Image, tool: Tool) -> reconcile.Finding:
        return reconcile.reconcile(image.domain, image.id, v(self.leaf), image.rules(), tool)


def seen(image: chains.Image, numbers: list[int]) -> bytes:
    """What a guest sees through these volumes, top first."""
    with contextlib.ExitStack() as stack:
        layers = [stack.enter_context(layer.Layer(image.data(number), True, 1 << 20)) for number in numbers]
        return layer.read(layers, 0, layers[0].size)


def followed(image: chains.Image, number: int) -> list[int]:
    """The chain that headers name, top first."""
    records, found = image.look().records, [number]
    while (link := records[v(found[-1])].link) is not None:
        found += chains.numbers([link])
    return found


class Patterns:
    """All states in one place, each made when it is asked for."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._made: dict[str, Pattern] = {}

    def __call__(self, name: str) -> Pattern:
        if name not in self._made:
            self._made[name] = Pattern(name, self._place / name.replace(" ", "-"))
        return self._made[name]


@pytest.fixture(autouse=True)
def times_are_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No loss of power lies behind the times that these tests set; and setting a time is a change of the disk."""
    monkeypatch.setattr(reconcile, "_started", lambda: 0.0)
    monkeypatch.setattr(faults, "MUTATING", (*faults.MUTATING, "utime"))


@pytest.fixture(scope="module")
def patterns() -> Iterator[Patterns]:
    with chains.scratch() as place:
        yield Patterns(place)
