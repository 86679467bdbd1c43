"""Every case in which the repair of vdsm is known to be wrong, each by itself, each pair, and thousands generated."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings, strategies as st

from storage import errors, ids, settings as storage_settings
from storage.chains import chain, record, walk
from storage.volumes import volume_metadata
from tests.support import model

ILLEGAL, LEGAL = volume_metadata.ILLEGAL, volume_metadata.LEGAL
LEAF, INTERNAL = volume_metadata.LEAF, volume_metadata.INTERNAL


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


# ---------------------------------------------------------------- one case a test


@pytest.mark.parametrize("depth", [1, 2, 3, 50])
def test_a_healthy_chain_is_left_alone(depth: int) -> None:
    image = model.healthy(depth)
    assert image.plan(depth) == chain.Chain(volumes=tuple(model.volume_id(n) for n in range(1, depth + 1)))


def test_a_healthy_chain_asks_nothing() -> None:
    result = chain.plan(model.healthy(3).records(), model.volume_id(3), {}, walk.Bounds(5, 64))
    assert result.question is None


def test_a_volume_inside_the_chain_gives_the_part_beneath_it_and_changes_nothing() -> None:
    image = model.healthy(4)
    result = image.plan(2)
    assert (image.numbers(result), result.changes) == ([1, 2], ())


def test_two_adjacent_volumes_merged_away() -> None:
    image = model.healthy(4)
    seen = image.view(4)
    commit(image, 3, 1, 4)
    assert image.numbers(settled(image, 4)) == [1, 4]
    assert image.volumes[4].parent == 1
    assert image.view(4) == seen


def test_two_separate_gaps() -> None:
    image = model.healthy(5)
    seen = image.view(5)
    commit(image, 2, 1, 3)
    commit(image, 4, 3, 5)
    assert image.numbers(settled(image, 5)) == [1, 3, 5]
    assert image.view(5) == seen


def test_a_torn_merge_is_undone() -> None:
    image = model.healthy(3)
    seen = image.view(3)
    commit(image, 2, 1, 3, torn=True)
    assert image.view(3) != seen, "the torn merge must be one"
    result = settled(image, 3)
    assert image.numbers(result) == [1, 2, 3]
    assert image.view(3) == seen
    assert [volume for volume, _ in result.kept] == [model.volume_id(2)]


def test_a_merge_that_looks_torn_only_where_the_child_hides_it_is_complete() -> None:
    image = model.healthy(3)
    image.volumes[3].holds[2] = 7
    seen = image.view(3)
    commit(image, 2, 1, 3, torn=True)
    assert image.view(3) == seen
    assert image.numbers(settled(image, 3)) == [1, 3]


def test_leaf_and_internal_volume_dropped_together() -> None:
    image = model.healthy(3)
    commit(image, 2, 1, 3)
    commit(image, 3, 1, None)
    image.volumes[3].legality = ILLEGAL
    seen = image.view(3)
    result = settled(image, 3)
    assert image.numbers(result) == [1]
    assert image.view(1) == seen
    assert image.volumes[3].legality == ILLEGAL
    assert image.volumes[1].voltype == LEAF


def test_a_link_that_metadata_lacks_is_added() -> None:
    image = model.healthy(4)
    image.volumes[4].parent = 1
    assert image.numbers(settled(image, 4)) == [1, 2, 3, 4]
    assert image.volumes[4].parent == 3


def test_a_link_that_metadata_lacks_is_added_above_a_torn_merge() -> None:
    """The header adds 3 between 4 and 2; that headers pass 2 by beneath is only because the merge of 2 is torn."""
    image = model.healthy(4)
    seen = image.view(4)
    commit(image, 2, 1, 3, torn=True)
    image.volumes[4].parent = 2
    assert image.numbers(settled(image, 4)) == [1, 2, 3, 4]
    assert image.view(4) == seen


def test_a_lone_illegal_volume_is_the_leaf_and_legal_again() -> None:
    image = model.healthy(1)
    image.volumes[1].legality = ILLEGAL
    assert image.numbers(settled(image, 1)) == [1]


def test_an_illegal_leaf_above_a_template_is_the_leaf() -> None:
    image = model.healthy(2, template=True)
    image.volumes[2].legality = ILLEGAL
    result = settled(image, 2)
    assert image.numbers(result) == [1, 2]
    assert {change.volume for change in result.changes} == {model.volume_id(2)}


def test_a_template_at_the_bottom_is_in_the_chain_and_never_written() -> None:
    image = model.healthy(4, template=True)
    commit(image, 3, 2, 4)
    image.volumes[2].parent = None
    result = settled(image, 4)
    assert image.numbers(result) == [1, 2, 4]
    assert all(change.volume != model.volume_id(1) for change in result.changes)


def test_an_illegal_leaf_over_an_illegal_parent_goes_by_evidence_twice() -> None:
    image = model.healthy(3)
    for number in (2, 3):
        image.volumes[number].legality = ILLEGAL
    commit(image, 3, 2, None)
    result = settled(image, 3)
    assert image.numbers(result) == [1, 2], "3 was merged into 2, and 2 holds what 1 lacks"
    assert (image.volumes[2].legality, image.volumes[3].legality) == (LEGAL, ILLEGAL)


def test_an_illegal_leaf_over_an_illegal_parent_when_neither_was_merged() -> None:
    image = model.healthy(3)
    for number in (2, 3):
        image.volumes[number].legality = ILLEGAL
    assert image.numbers(settled(image, 3)) == [1, 2, 3]


def test_an_illegal_volume_that_the_chain_needs_becomes_legal() -> None:
    image = model.healthy(3)
    image.volumes[2].legality = ILLEGAL
    assert image.numbers(settled(image, 3)) == [1, 2, 3]


def test_a_backing_loop_is_refused() -> None:
    image = model.healthy(3)
    image.volumes[1].link = 3
    result = image.plan(3)
    assert result.fault is not None
    assert result.fault.name == "backing-loop"
    assert isinstance(result.fault.raised(model.IMAGE), errors.ImageIsNotLegalChain)


def test_a_volume_that_names_itself_is_refused() -> None:
    image = model.healthy(2)
    image.volumes[2].link = image.volumes[2].parent = 2
    fault = image.plan(2).fault
    assert fault is not None
    assert fault.name == "backing-loop"


def test_a_metadata_loop_is_repaired_by_the_headers() -> None:
    image = model.healthy(3)
    image.volumes[1].parent = 3
    assert image.numbers(settled(image, 3)) == [1, 2, 3]


def test_a_missing_backing_volume_is_refused() -> None:
    image = model.healthy(3)
    del image.volumes[2]
    fault = image.plan(3).fault
    assert fault is not None
    assert (fault.name, fault.error.code) == ("backing-missing", 262)


def test_a_merged_volume_that_is_deleted_already_needs_no_proof() -> None:
    image = model.healthy(3)
    seen = image.view(3)
    commit(image, 2, 1, 3)
    del image.volumes[2]
    assert image.numbers(settled(image, 3)) == [1, 3]
    assert image.view(3) == seen


def test_a_stream_to_the_top_is_complete_only_if_the_leaf_holds_everything() -> None:
    image = model.healthy(3)
    seen = image.view(3)
    image.volumes[3].holds = {**seen}
    image.volumes[3].link = None
    assert image.numbers(settled(image, 3)) == [3]
    assert image.view(3) == seen


def test_a_torn_stream_is_undone() -> None:
    image = model.healthy(3)
    seen = image.view(3)
    image.volumes[3].link = None
    assert image.numbers(settled(image, 3)) == [1, 2, 3]
    assert image.view(3) == seen


def test_another_leaf_of_the_same_image_is_left_alone() -> None:
    image = model.healthy(3)
    image.volumes[9] = model.Volume(9, 2, 2, voltype=LEAF, holds={9: 9}, time=1)
    result = image.plan(3)
    assert (image.numbers(result), result.changes) == ([1, 2, 3], ())


# ---------------------------------------------------------------- a marked leaf


def marked(depth: int = 3) -> model.Image:
    image = model.healthy(depth)
    image.volumes[depth].legality = ILLEGAL
    return image


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


# ---------------------------------------------------------------- faults


def test_a_damaged_volume_blocks_only_where_the_chain_needs_it() -> None:
    image = model.healthy(3)
    records = image.records()
    stray = record.Record(model.volume_id(7), faults=(record.metadata_fault(model.volume_id(7), "torn"),))
    records[stray.volume] = stray
    assert chain.plan(records, model.volume_id(3), {}, walk.Bounds(5, 64)).fault is None
    records[model.volume_id(1)] = record.Record(model.volume_id(1), faults=stray.faults)
    fault = chain.plan(records, model.volume_id(3), {}, walk.Bounds(5, 64)).fault
    assert fault is not None
    assert fault.error.code == 255


def test_a_chain_beyond_the_limit_is_refused() -> None:
    result = chain.plan(model.healthy(9).records(), model.volume_id(9), {}, walk.Bounds(5, 8))
    assert result.fault is not None
    assert result.fault.name == "chain-too-deep"


def test_the_longest_chain_that_can_be_configured_is_followed() -> None:
    longest = storage_settings.LONGEST_CHAIN
    result = chain.plan(model.healthy(longest).records(), model.volume_id(longest), {}, walk.Bounds(5, longest))
    assert (result.fault, len(result.volumes)) == (None, longest)


MOVES_THE_SPM = {200, 201, 205, 206, 207, 208, 209, 254, 258, 259, 260, 261, 358, 360, 369, 379, 407, 409, 654}


def test_no_fault_has_a_code_that_moves_the_spm() -> None:
    one, two = model.volume_id(1), model.volume_id(2)
    faults = [
        record.metadata_fault(one, "x"),
        record.data_fault(one, "x"),
        record.header_fault(one, "x"),
        record.backing_format_fault(one, two, "raw", "qcow2"),
        record.missing(one, two),
        record.loop(one, two),
        record.too_deep(one, 3),
        record.foreign(one, model.OTHER_IMAGE),
        record.raw_with_parent(one, two),
    ]
    for fault in faults:
        raised = fault.raised(model.IMAGE)
        assert raised.code not in MOVES_THE_SPM
        assert fault.message in str(raised)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (model.volume_id(2), model.volume_id(2)),
        (f"../{model.IMAGE}/{model.volume_id(2)}", model.volume_id(2)),
        (f"../{model.IMAGE}/../{model.IMAGE}/{model.volume_id(2)}", model.volume_id(2)),
        (f"../{model.OTHER_IMAGE}/{model.volume_id(2)}", None),
        (f"/images/{model.volume_id(2)}", None),
        (f"./{model.volume_id(2)}", None),
        (f"{model.volume_id(2)}\n", None),
        (f'json:{{"file.filename":"{model.volume_id(2)}"}}', None),
        ("nbd://127.0.0.1/x", None),
        ("", None),
    ],
)
def test_only_names_inside_the_image_are_links(text: str, expected: str | None) -> None:
    assert record.link_of(text, model.IMAGE) == expected


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


# ---------------------------------------------------------------- the routine for those who watched the merge


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_sync_writes_every_link_whatever_was_dropped(depth: int) -> None:
    everything = list(range(1, depth + 1))
    for size in everything:
        for actual in itertools.combinations(everything, size):
            image = model.healthy(depth)
            names = [model.volume_id(number) for number in actual]
            image.apply(chain.sync(image.records(), model.volume_id(depth), names))
            for parent, number in zip([None, *actual], actual, strict=False):
                assert image.volumes[number].parent == parent
            assert image.volumes[depth].legality == (LEGAL if depth in actual else ILLEGAL)
            assert chain.sync(image.records(), model.volume_id(depth), names) == ()


def test_sync_with_the_whole_chain_undoes_the_mark_of_a_failed_pivot() -> None:
    image = marked()
    changes = chain.sync(image.records(), model.volume_id(3), [model.volume_id(n) for n in (1, 2, 3)])
    assert [(change.volume, change.field, change.after) for change in changes] == [
        (model.volume_id(3), chain.LEGALITY, LEGAL)
    ]


def test_sync_never_makes_another_volume_legal() -> None:
    image = model.healthy(2)
    for volume in image.volumes.values():
        volume.legality = ILLEGAL
    changes = chain.sync(image.records(), model.volume_id(2), [model.volume_id(1)])
    assert changes == ()


def test_ids_in_the_model_are_ids() -> None:
    assert ids.is_id(model.volume_id(50))
