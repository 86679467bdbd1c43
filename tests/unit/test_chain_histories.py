"""Whatever happened to an image, its repair shows the guest what it flushed, or refuses and names the right volume."""

import pytest
from hypothesis import event, given, settings, strategies as st

from storage import chain
from tests.support import history, model

LATER = 2_000_000_000.0


def survivors(image: model.Image, result: chain.Chain) -> model.Image:
    """The image after exactly the dropped volumes were deleted."""
    dropped = {volume for volume, _ in result.dropped}
    return model.Image(v for v in image.copy().volumes.values() if v.id not in dropped)


def crashed(image: model.Image, result: chain.Chain, count: int) -> model.Image:
    """The image after a crash behind `count` changes, in the moment in which the last one has moved a file's time."""
    left = image.copy()
    left.apply(result.changes[:count])
    if count and result.changes[count - 1].field == chain.BACKING:
        left.volumes[left.numbers_of([result.changes[count - 1].volume])[0]].time = LATER
    return left


@pytest.mark.timeout(300)
@settings(max_examples=1500, deadline=None)
@given(history.stories(), st.integers(0, 12))
def test_no_history_loses_what_the_guest_flushed(story: history.Story, crash: int) -> None:
    image = story.image
    result = image.plan(story.leaf, started=story.started)
    told = "\n".join(story.told)
    if result.fault is not None:
        event(f"refused: {result.fault.name}")
        assert result.fault.name == "leaf-undecided", told
        assert model.volume_id(story.running) in result.candidates, told
        assert result.changes == (), told
        return
    event("decided")
    left = crashed(image, result, min(crash, len(result.changes)))
    again = left.plan(story.leaf, started=story.started)
    assert again.fault is None, told
    assert again.volumes == result.volumes, told
    left.apply(again.changes)
    image.apply(result.changes)
    for each in (image, left, survivors(image, result), survivors(left, again)):
        assert each.view(each.numbers(result)[-1]) == story.truth, told
        assert model.consistent(each, result), told
        second = each.plan(each.numbers(result)[-1], started=story.started)
        assert (second.volumes, second.changes) == (result.volumes, ()), told
