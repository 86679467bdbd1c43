"""Every pair of the cases in which the repair of vdsm is wrong, and thousands of generated chains."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from storage.volumes import volume_metadata
from tests.support import model, settling

ILLEGAL, LEGAL = volume_metadata.ILLEGAL, volume_metadata.LEGAL
LEAF, INTERNAL = volume_metadata.LEAF, volume_metadata.INTERNAL
commit, settled = settling.commit, settling.settled


# ---------------------------------------------------------------- all pairs of cases


def _adjacent(image: model.Image) -> None:
    commit(image, 3, 1, 4)


def _torn(image: model.Image) -> None:
    commit(image, 6, 5, 7, torn=True)


def _gap(image: model.Image) -> None:
    commit(image, 9, 8, 10)


def _link_to_add(image: model.Image) -> None:
    if image.volumes[12].link == 11:
        image.volumes[12].parent = 10


def _metadata_loop(image: model.Image) -> None:
    image.volumes[1].parent = 12


def _illegal_inside(image: model.Image) -> None:
    image.volumes[8].legality = ILLEGAL


def _marked_not_merged(image: model.Image) -> None:
    image.volumes[12].legality = ILLEGAL


def _marked_and_merged(image: model.Image) -> None:
    commit(image, 12, 11, None)
    image.volumes[12].legality = ILLEGAL


def _wrong_voltypes(image: model.Image) -> None:
    image.volumes[5].voltype = LEAF
    image.volumes[12].voltype = INTERNAL


CASES = [
    _adjacent, _torn, _gap, _link_to_add, _metadata_loop, _illegal_inside, _marked_not_merged, _marked_and_merged,
    _wrong_voltypes,
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(CASES, 2)))
def test_every_pair_of_cases(first: Callable[[model.Image], None], second: Callable[[model.Image], None]) -> None:
    image = model.healthy(12)
    seen = image.view(12)
    first(image)
    second(image)
    result = settled(image, 12)
    assert image.view(image.numbers(result)[-1]) == seen


# ---------------------------------------------------------------- generated chains


@st.composite
def broken_images(draw: st.DrawFn) -> tuple[model.Image, int, dict[int, int]]:
    """A chain in which several merges ended anywhere, with metadata as old as it may be; and what the guest sees."""
    depth = draw(st.integers(1, 50))
    image = model.healthy(
        depth,
        base_format=draw(st.sampled_from([volume_metadata.RAW, volume_metadata.COW])),
        template=depth > 1 and draw(st.booleans()),
    )
    for volume in image.volumes.values():
        volume.holds.update(draw(st.dictionaries(st.integers(60, 70), st.integers(1, 9), max_size=3)))
    seen = image.view(depth)
    lowest = 1 if image.volumes[1].own else 2
    child = depth
    while child - 2 >= lowest and draw(st.integers(0, 9)):
        top = child - 1
        base = draw(st.integers(max(lowest, top - 3), top - 1))
        lacks = [c for c in image.volumes[top].holds if c not in image.volumes[base].holds]
        commit(image, top, base, child, torn=bool(lacks) and draw(st.booleans()))
        child = base
    for number in draw(st.lists(st.integers(lowest, depth), max_size=3)):
        volume = image.volumes[number]
        if number != depth:
            volume.legality = draw(st.sampled_from([LEGAL, ILLEGAL]))
        volume.voltype = draw(st.sampled_from([volume.voltype, INTERNAL if number != depth else LEAF]))
    return image, depth, seen


@pytest.mark.timeout(300)
@settings(max_examples=2000, deadline=None)
@given(broken_images(), st.integers(0, 100))
def test_whatever_merges_left_the_guest_sees_what_it_wrote(
    case: tuple[model.Image, int, dict[int, int]], crash: int
) -> None:
    image, leaf, seen = case
    result = settled(image, leaf, crashes=[crash])
    assert image.view(image.numbers(result)[-1]) == seen
    dropped = {volume for volume, _ in result.dropped}
    survivors = model.Image(v for v in image.volumes.values() if v.id not in dropped)
    assert survivors.view(survivors.numbers(result)[-1]) == seen, "deleting what was dropped must lose nothing"
