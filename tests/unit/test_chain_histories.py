"""Whatever happened to an image, its repair shows the guest what it flushed, or refuses and names the right volume."""

import pytest
from hypothesis import event, given, settings, strategies as st

from storage.chains import chain
from tests.support import history, model

LATER = 9_000_000_000.0


def without(image: model.Image, dropped: list[int]) -> model.Image:
    """The image after these volumes were deleted."""
    return model.Image(v for v in image.copy().volumes.values() if v.number not in dropped)


def crashed(image: model.Image, result: chain.Chain, count: int) -> model.Image:
    """The image after a crash behind `count` changes, in the moment in which the last one has moved a file's time."""
    left = image.copy()
    left.apply(result.changes[:count])
    if count and result.changes[count - 1].field == chain.BACKING:
        left.volumes[left.numbers_of([result.changes[count - 1].volume])[0]].time = LATER
    return left


def decided(player: history.Player, told: str) -> tuple[chain.Chain, int | None]:
    """The plan; where it refuses, the one after the operator has named the right volume, and that volume."""
    result = player.image.plan(player.leaf, started=player.started)
    if result.fault is None:
        return result, None
    event(f"refused: {result.fault.name}")
    assert result.fault.name == "leaf-undecided", f"{result.fault}\n{told}"
    assert model.volume_id(player.running) in result.candidates, told
    assert result.changes == (), told
    result = player.image.plan(player.leaf, started=player.started, chosen=player.running)
    assert result.fault is None, f"{result.fault}\n{told}"
    return result, player.running


def check(player: history.Player, image: model.Image, result: chain.Chain, told: str) -> None:
    """The chain shows the guest's disk, other leaves show theirs, and a second call finds nothing to do."""
    last = image.numbers(result)[-1]
    assert image.view(last) == player.truth, told
    for leaf, truth in player.others.items():
        assert image.view(leaf) == truth, told
    assert model.consistent(image, result), told
    second = image.plan(last, started=player.started)
    assert (second.volumes, second.changes) == (result.volumes, ()), told


@pytest.mark.timeout(300)
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_history_loses_what_the_guest_flushed(data: st.DataObject) -> None:
    player = history.Player(data.draw)
    for _ in range(data.draw(st.integers(1, 3))):
        player.era()
        told = "\n".join(player.told)
        result, chosen = decided(player, told)
        image, dropped = player.image, player.image.numbers_of([volume for volume, _ in result.dropped])
        left = crashed(image, result, min(data.draw(st.integers(0, 12)), len(result.changes)))
        again = left.plan(player.leaf, started=player.started, chosen=chosen)
        assert again.fault is None, f"after a crash: {again.fault}\n{told}"
        assert again.volumes == result.volumes, told
        left.apply(again.changes)
        image.apply(result.changes)
        for each in (image, left, without(image, dropped)):
            check(player, each, result, told)
        player.tell(f"repaired: {image.numbers(result)}, dropped {dropped}")
        player.go_on(image.numbers(result), dropped)
