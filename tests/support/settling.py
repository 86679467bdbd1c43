"""Merges in the model of an image, and a repair of what they left that is held to all its promises."""

from collections.abc import Iterable

from storage.chains import chain
from storage.volumes import volume_metadata
from tests.support import model


def commit(image: model.Image, top: int, base: int, child: int | None, *, torn: bool = False) -> None:
    """Merge everything from `top` down to above `base` into `base`; the child's header is switched."""
    above, number = [], top
    while number != base:
        above.append(number)
        number = image.volumes[number].link or 0
    moved = {c: v for n in reversed(above) for c, v in image.volumes[n].holds.items()}
    if torn:
        moved.pop(max(c for c in moved if c not in image.volumes[base].holds))
    image.volumes[base].holds.update(moved)
    image.volumes[base].time += 500.0
    if child is not None:
        image.volumes[child].link = base


def settled(image: model.Image, leaf: int, crashes: Iterable[int] | None = None) -> chain.Chain:
    """Plan, write, and check that all the promises about a repair hold: at the crash points (all), and twice."""
    before = image.copy()
    result = image.plan(leaf)
    assert result.fault is None, result.fault
    for count in range(len(result.changes) + 1) if crashes is None else crashes:
        crashed = before.copy()
        crashed.apply(result.changes[:count])
        again = crashed.plan(leaf)
        assert again.fault is None, again.fault
        assert again.volumes == result.volumes, f"after a crash behind change {count}"
        crashed.apply(again.changes)
        assert model.consistent(crashed, again)
    image.apply(result.changes)
    assert model.consistent(image, result)
    second = image.plan(leaf)
    assert (second.volumes, second.changes) == (result.volumes, ())
    for number in image.numbers(result):
        assert not image.records()[model.volume_id(number)].illegal
    return result


def marked(depth: int = 3) -> model.Image:
    """A healthy chain whose leaf is marked as a pivot marks it."""
    image = model.healthy(depth)
    image.volumes[depth].legality = volume_metadata.ILLEGAL
    return image
