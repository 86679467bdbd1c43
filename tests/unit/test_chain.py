"""Cases in which the repair of vdsm is known to be wrong, each by itself, and what is refused."""

import itertools

import pytest

from storage import errors, ids, settings as storage_settings
from storage.chains import chain, record, walk
from storage.volumes import volume_metadata
from tests.support import model, settling

ILLEGAL, LEGAL = volume_metadata.ILLEGAL, volume_metadata.LEGAL
LEAF = volume_metadata.LEAF
commit, settled, marked = settling.commit, settling.settled, settling.marked


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
