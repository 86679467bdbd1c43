"""A leaf that is marked: whether it or its parent is the truth, and what becomes of those that stand on them."""

import dataclasses

import pytest

from storage.chains import chain, record, walk
from storage.volumes import volume_metadata
from tests.support import model, settling

ILLEGAL, LEGAL = volume_metadata.ILLEGAL, volume_metadata.LEGAL
LEAF, INTERNAL = volume_metadata.LEAF, volume_metadata.INTERNAL
commit, settled, marked = settling.commit, settling.settled, settling.marked


# ---------------------------------------------------------------- a marked leaf


def test_marked_but_not_covered_is_the_leaf() -> None:
    image = marked()
    assert image.numbers(settled(image, 3)) == [1, 2, 3]
    assert image.volumes[3].legality == LEGAL


def test_marked_and_merged_is_dropped_and_stays_illegal() -> None:
    image = marked()
    commit(image, 3, 2, None)
    result = settled(image, 3)
    assert image.numbers(result) == [1, 2]
    assert image.volumes[3].legality == ILLEGAL
    assert (image.volumes[2].voltype, image.volumes[2].legality) == (LEAF, LEGAL)


def test_a_dropped_leaf_stays_dropped_whatever_the_guest_did_to_its_parent_since() -> None:
    image = marked()
    commit(image, 3, 2, None)
    settled(image, 3)
    image.volumes[2].holds = {5: 5}
    image.volumes[2].time = image.volumes[3].time
    assert image.numbers(image.plan(3)) == [1, 2]


def test_pivoted_with_later_writes_goes_to_the_parent() -> None:
    image = marked()
    commit(image, 3, 2, None)
    image.volumes[2].holds.update({3: 77, 8: 88})
    image.volumes[2].time = image.volumes[3].time + 60
    seen = image.view(2)
    assert image.numbers(settled(image, 3)) == [1, 2]
    assert image.view(2) == seen


def test_covered_but_the_leaf_written_last_stays_the_leaf() -> None:
    image = marked()
    commit(image, 3, 2, None)
    image.volumes[3].holds[3] = 99
    image.volumes[3].time = image.volumes[2].time + 60
    image.volumes[3].marked = image.volumes[2].time + 1
    assert image.numbers(settled(image, 3)) == [1, 2, 3]


@pytest.mark.parametrize("later", [-4.0, 0.0, 0.004, 4.0])
def test_different_within_the_margin_is_refused_and_both_are_named(later: float) -> None:
    image = marked()
    commit(image, 3, 2, None)
    image.volumes[3].holds[3] = 99
    image.volumes[2].time = image.volumes[3].time + later
    result = image.plan(3)
    assert result.fault is not None
    assert result.candidates == (model.volume_id(3), model.volume_id(2))
    assert all(volume in result.fault.message for volume in result.candidates)
    assert (result.volumes, result.changes, result.fault.error.code) == ((), (), 262)


@pytest.mark.parametrize(("chosen", "volumes"), [(3, [1, 2, 3]), (2, [1, 2])])
def test_the_operator_may_choose_between_the_two(chosen: int, volumes: list[int]) -> None:
    image = marked()
    commit(image, 3, 2, None)
    image.volumes[3].holds[3] = 99
    image.volumes[2].time = image.volumes[3].time
    result = image.plan(3, chosen=chosen)
    image.apply(result.changes)
    assert image.numbers(result) == volumes
    assert image.numbers(image.plan(3)) == volumes


def test_the_operator_may_not_choose_against_the_evidence() -> None:
    image = marked()
    result = image.plan(3, chosen=2)
    assert result.fault is not None
    assert result.volumes == ()


def test_a_long_copy_does_not_make_the_parent_the_winner() -> None:
    """The last of a merge may be copied long after the guest's last write: the margin grows with what is copied."""
    image = marked()
    clusters = range(100, 100 + 10_000)
    image.volumes[3].holds.update(dict.fromkeys(clusters, 1))
    image.volumes[2].holds.update(dict.fromkeys(clusters, 2))
    image.volumes[2].holds.update({3: 300})
    image.volumes[2].time = image.volumes[3].time + 30
    assert image.plan(3).candidates


def test_discards_after_a_pivot_do_not_bring_a_stale_leaf_back() -> None:
    """A base without backing forgets clusters that the guest discards: "not covered" proves nothing then."""
    image = marked(2)
    commit(image, 2, 1, None)
    image.volumes[1].holds.update({0: 55})
    del image.volumes[1].holds[2]
    image.volumes[1].time = image.volumes[2].time + 60
    assert image.plan(2).candidates == (model.volume_id(2), model.volume_id(1))


def test_a_merge_into_a_volume_below_the_parent_is_noticed() -> None:
    image = marked()
    commit(image, 3, 1, None)
    image.volumes[1].holds[3] = 44
    image.volumes[1].time = image.volumes[3].time + 1
    assert image.plan(3).candidates == tuple(model.volume_id(number) for number in (3, 2, 1))


def test_a_raw_parent_is_judged_by_bytes() -> None:
    image = model.healthy(2, base_format=volume_metadata.RAW)
    image.volumes[2].legality = ILLEGAL
    image.volumes[2].marked = image.volumes[1].time + 1
    assert image.numbers(image.plan(2)) == [1, 2], "the leaf is written 1000 s later"
    image.volumes[1].time = image.volumes[2].time
    assert image.plan(2).candidates
    image.volumes[1].holds.update(image.volumes[2].holds)
    assert image.numbers(settled(image, 2)) == [1]


# ---------------------------------------------------------------- times, and what becomes of them


def pivoted(depth: int = 2) -> model.Image:
    """The guest went on with the parent and wrote there, a minute after the leaf was marked."""
    image = marked(depth)
    commit(image, depth, depth - 1, None)
    image.volumes[depth].marked = image.volumes[depth].time + 1
    image.volumes[depth - 1].holds[0] = 77
    image.volumes[depth - 1].time = image.volumes[depth].time + 60
    return image


def test_zeros_that_a_version_2_base_forgets_are_no_sign_of_an_unfinished_copy() -> None:
    """A guest writes zeros after the pivot: an old image without backing has no way to say so but to drop clusters."""
    image = pivoted()
    image.volumes[1].version = 2
    image.volumes[1].write(2, 0)
    seen = image.view(1)
    assert image.numbers(settled(image, 2)) == [1]
    assert image.view(1) == seen
    image = pivoted()
    image.volumes[1] = dataclasses.replace(image.volumes[1], version=2, holds={0: 2}, time=image.volumes[2].time + 2)
    assert image.plan(2).candidates == (model.volume_id(2), model.volume_id(1))


def test_times_that_a_loss_of_power_took_back_decide_nothing() -> None:
    """Not pivoted: the guest's last writes are in the leaf, and lasted, but not their time."""
    image = marked()
    commit(image, 3, 2, None)
    image.volumes[3].holds[3] = 99
    image.volumes[3].marked = image.volumes[2].time + 1
    image.volumes[3].time = image.volumes[2].time - 1000
    image.volumes[2].time = image.volumes[3].marked + 2
    started = image.volumes[3].marked + 60
    assert image.plan(3, started=started).candidates == (model.volume_id(3), model.volume_id(2))
    assert image.numbers(image.plan(3)) == [1, 2], "which is what the times alone say"
    image.volumes[2].time = image.volumes[3].marked - 1
    image.volumes[3].time = image.volumes[2].time + 3600
    assert image.numbers(image.plan(3, started=started + 7200)) == [1, 2, 3], "long after the mark"


def test_after_a_loss_of_power_a_parent_written_long_after_the_mark_is_the_leaf() -> None:
    image = pivoted()
    started = image.volumes[1].time + 60
    assert image.numbers(image.plan(2, started=started)) == [1]
    image.volumes[1].time = image.volumes[2].marked + 4
    image.volumes[2].time -= 3600
    assert image.numbers(image.plan(2)) == [1], "without it, a few seconds are enough"
    assert image.plan(2, started=started).candidates == (model.volume_id(2), model.volume_id(1))


def test_a_leaf_that_qemu_closed_late_is_not_taken_for_the_later_one() -> None:
    """Pivoted; the guest wrote to the parent, then nothing; an hour later the machine was shut down."""
    image = pivoted(3)
    image.volumes[2].time = image.volumes[3].marked + 1
    image.volumes[3].time = image.volumes[2].time + 3600
    assert image.plan(3).candidates == (model.volume_id(3), model.volume_id(2))
    image.volumes[2].time = image.volumes[3].marked - 1
    assert image.numbers(settled(image, 3)) == [1, 2, 3], "the guest cannot have written to the parent"


def test_a_merge_into_the_parent_from_beneath_is_no_pivot() -> None:
    """The parent took a merge while no guest ran, and is later than the leaf; then the leaf was marked."""
    image = marked(4)
    image.volumes[2].holds[4] = 1
    commit(image, 3, 2, 4)
    image.volumes[2].time = image.volumes[4].time + 3600
    image.volumes[4].marked = image.volumes[2].time + 1
    assert image.plan(4).candidates == (model.volume_id(4), model.volume_id(2))


def test_pointing_a_header_back_is_not_taken_for_a_write_of_the_guest() -> None:
    """The leaf was written last; beneath its parent a merge is torn. A crash may leave the parent with a new time."""
    image = model.healthy(4)
    image.volumes[1].holds[4] = image.volumes[3].holds[4] = 1
    commit(image, 2, 1, 3, torn=True)
    image.volumes[4].legality = ILLEGAL
    image.volumes[4].marked = image.volumes[3].time + 1
    seen = image.view(4) | {2: 200}
    result = image.plan(4)
    assert image.numbers(result) == [1, 2, 3, 4]
    for count in range(len(result.changes) + 1):
        crashed = image.copy()
        crashed.apply(result.changes[:count])
        if count and result.changes[count - 1].field == chain.BACKING:
            crashed.volumes[3].time = 1e6
        again = crashed.plan(4)
        assert again.volumes == result.volumes, f"after a crash behind change {count}"
        crashed.apply(again.changes)
        assert crashed.view(4) == seen
    assert any(change.field == chain.BACKING for change in result.changes)


def test_a_dropped_leaf_is_marked_for_good_after_everything_else() -> None:
    """The time of its record is when it was marked, which is evidence until the parent is the leaf."""
    image = pivoted(4)
    image.volumes[3].parent = 1
    fields = [(change.volume, change.field) for change in image.plan(4).changes]
    assert fields[-1] == (model.volume_id(4), chain.VOLTYPE)
    assert len(fields) > 2


# ---------------------------------------------------------------- who stands on whom


def test_a_volume_with_unreadable_metadata_keeps_what_it_stands_on_internal() -> None:
    """Whoever ran on it would destroy what can still be read of the damaged one."""
    image = model.healthy(3)
    records = image.records()
    three = records[model.volume_id(3)]
    faults = (record.metadata_fault(three.volume, "torn"),)
    records[three.volume] = dataclasses.replace(three, metadata=None, faults=faults)
    assert chain.plan(records, model.volume_id(2), {}, walk.Bounds(5, 64)).changes == ()


def test_a_volume_that_a_merge_seems_to_skip_is_no_leaf_when_asked_about_alone() -> None:
    image = model.healthy(4)
    commit(image, 3, 2, 4, torn=True)
    assert image.plan(3).changes == (), "4 is still recorded to stand on it"


def test_what_another_leaf_stands_on_is_not_reported_as_dropped() -> None:
    image = model.healthy(4)
    commit(image, 3, 2, 4)
    image.volumes[9] = model.Volume(9, 3, 3, voltype=LEAF, holds={9: 9})
    result = image.plan(4)
    assert (image.numbers(result), result.dropped) == ([1, 2, 4], ())
    image.apply(result.changes)
    assert (image.numbers(image.plan(9)), image.plan(9).changes) == ([1, 2, 3, 9], ())


def test_a_dropped_leaf_stays_dropped_when_its_parent_gets_a_snapshot() -> None:
    image = pivoted()
    settled(image, 2)
    image.volumes[1].voltype = INTERNAL
    image.volumes[5] = model.Volume(5, 1, 1, voltype=LEAF, time=image.volumes[1].time)
    image.volumes[1].time = image.volumes[2].time
    result = image.plan(2)
    assert (image.numbers(result), result.changes) == ([1], ())
    assert image.numbers(image.plan(5)) == [1, 5]


def test_a_dropped_leaf_stays_dropped_when_its_parent_is_marked_in_turn() -> None:
    image = pivoted(3)
    settled(image, 3)
    image.volumes[2].legality = ILLEGAL
    image.volumes[2].time = image.volumes[3].time
    assert image.numbers(settled(image, 3)) == [1, 2]
    assert (image.volumes[3].legality, image.volumes[3].voltype) == (ILLEGAL, INTERNAL)


def half_deleted(image: model.Image, number: int) -> None:
    """A deletion ended between the data and the record."""
    image.volumes[number].gone = True
    image.volumes[number].legality = ILLEGAL


def test_a_half_deleted_leaf_does_not_make_its_parent_internal() -> None:
    image = model.healthy(3)
    half_deleted(image, 3)
    image.volumes[2].voltype = LEAF
    result = image.plan(2)
    assert (image.numbers(result), result.changes) == ([1, 2], ())


def test_a_half_deleted_volume_cannot_be_put_back_but_tells_what_it_stood_on() -> None:
    image = model.healthy(4)
    seen = image.view(4)
    commit(image, 3, 2, 4)
    half_deleted(image, 3)
    assert image.numbers(settled(image, 4)) == [1, 2, 4]
    assert image.view(4) == seen
    image = model.healthy(4)
    commit(image, 3, 2, 4)
    commit(image, 2, 1, 4, torn=True)
    half_deleted(image, 3)
    assert image.numbers(settled(image, 4)) == [1, 2, 4]
    assert image.view(4) == seen


def test_a_half_deleted_leaf_is_refused() -> None:
    image = marked()
    half_deleted(image, 3)
    fault = image.plan(3).fault
    assert fault is not None
    assert (fault.name, fault.error.code) == ("data-missing", 262)
