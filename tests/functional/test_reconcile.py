"""reconcileVolumeChain over the storage floor, on chains that real tools left half merged: the guest's bytes decide."""

import os

import pytest

from storage.volumes import volume_metadata
from tests.support import chains, images, reconciling

pytestmark = pytest.mark.qemu

LEAF, INTERNAL, SHARED = volume_metadata.LEAF, volume_metadata.INTERNAL, volume_metadata.SHARED
ILLEGAL, RAW = volume_metadata.ILLEGAL, volume_metadata.RAW
v = chains.volume_id
Made = reconciling.Made
refused, succeeds = reconciling.refused, reconciling.succeeds
hosts, image, newer, older = reconciling.hosts, reconciling.image, reconciling.newer, reconciling.older


# ---------------------------------------------------------------- what the reference gets wrong


def test_two_adjacent_volumes_merged_away(image: Made) -> None:
    image.chain(4)
    before = image.guest(4)
    image.commit(3, 1, 4)
    succeeds(image, 4, [1, 4], before)


def test_leaf_and_adjacent_volume_merged_away(image: Made) -> None:
    image.chain(3)
    before = image.guest(3)
    image.commit(2, 1, 3)
    image.copy_down(3, 1)
    image.mark(3)
    reply = image.verb(3)
    assert image.metadata(3).legality == ILLEGAL
    assert chains.numbers(reply["volumes"]) == [1]
    succeeds(image, 3, [1], before)


def test_two_separate_gaps(image: Made) -> None:
    image.chain(5)
    before = image.guest(5)
    image.commit(2, 1, 3)
    image.commit(4, 3, 5)
    succeeds(image, 5, [1, 3, 5], before)


def test_a_link_that_metadata_lacks(image: Made) -> None:
    image.chain(4)
    before = image.guest(4)
    image.change(4, parent=1)
    image.change(2, voltype=LEAF)
    succeeds(image, 4, [1, 2, 3, 4], before)


def test_a_lone_illegal_volume(image: Made) -> None:
    image.chain(1)
    before = image.guest(1)
    image.mark(1)
    succeeds(image, 1, [1], before)


def test_a_backing_loop(image: Made) -> None:
    image.chain(3)
    image.switch(1, 3)
    assert refused(image, 3).code == 262
    image.switch(1, 1)
    assert refused(image, 1).code == 262


def test_an_illegal_leaf_over_an_illegal_parent(image: Made) -> None:
    image.chain(3)
    before = image.guest(3)
    image.mark(2)
    image.mark(3)
    succeeds(image, 3, [1, 2, 3], before)


def test_an_illegal_leaf_merged_into_an_illegal_parent(image: Made) -> None:
    image.chain(3)
    before = image.guest(3)
    image.copy_down(3, 2)
    image.mark(2)
    image.mark(3)
    image.at(0, 1)
    image.marked_at(30, 2)
    image.at(60, 2, 3)
    succeeds(image, 3, [1, 2], before)


def test_a_broken_chain_of_metadata(image: Made) -> None:
    image.chain(4)
    before = image.guest(4)
    image.change(1, parent=4)
    image.change(3, parent=77)
    succeeds(image, 4, [1, 2, 3, 4], before)


def test_a_torn_merge_is_undone_by_the_real_qemu_img(image: Made) -> None:
    image.chain(4)
    image.write(3, (8, 4, 9))
    before = image.guest(4)
    image.commit(3, 2, 4)
    image.forget(2, 10)
    assert image.guest(4) != before, "the torn merge must be one"
    written = image.data(4).stat().st_mtime_ns
    reply = succeeds(image, 4, [1, 2, 3, 4], before)
    assert [(change["volumeID"], change["field"]) for change in reply["changes"]] == [(v(4), "backing")]
    assert images.info(image.data(4))["backing-filename-format"] == "qcow2"
    assert image.data(4).stat().st_mtime_ns == written, "the guest wrote nothing"


def test_a_torn_and_a_complete_merge_in_one_chain(newer: Made) -> None:
    newer.chain(5)
    before = newer.guest(5)
    newer.commit(2, 1, 3)
    newer.forget(1, 2)
    newer.commit(4, 3, 5)
    succeeds(newer, 5, [1, 2, 3, 5], before)


def test_a_second_merge_on_top_of_an_unfinished_one(newer: Made) -> None:
    """The first was killed in the middle of its copying, the second when it had switched the header."""
    newer.chain(4)
    before = newer.guest(4)
    newer.copy_down(2, 1)
    newer.forget(1, 2)
    newer.commit(3, 1, 4)
    succeeds(newer, 4, [1, 4], before)


def test_a_merge_beneath_a_torn_one(newer: Made) -> None:
    """3 reads the same on 1 as on 2; 4 would not on 1, whose copy of 3 is torn."""
    newer.chain(4)
    before = newer.guest(4)
    newer.commit(2, 1, 3)
    newer.switch(4, 1)
    succeeds(newer, 4, [1, 3, 4], before)


def test_backing_names_of_old_versions(older: Made) -> None:
    older.chain(3)
    for number in (2, 3):
        text = f"../{older.id}/" * number + v(number - 1)
        images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", text, older.data(number))
    before = older.guest(3)
    older.change(3, parent=1)
    succeeds(older, 3, [1, 2, 3], before)


def test_a_raw_base(older: Made) -> None:
    older.chain(4, fmt=RAW)
    before = older.guest(4)
    older.commit(2, 1, 3)
    older.switch(4, 1)
    succeeds(older, 4, [1, 3, 4], before)


@pytest.mark.parametrize("torn", [False, True])
def test_an_overlay_larger_than_its_base(newer: Made, torn: bool) -> None:
    for number, size in enumerate((2, 4, 4), 1):
        newer.add(number, number - 1 or None, size=size * chains.MIB)
        newer.write(number, (number, 1, number))
    newer.write(2, (60, 2, 7))
    before = newer.guest(3)
    newer.commit(2, 1, 3)
    if torn:
        newer.forget(1, 61)
    succeeds(newer, 3, [1, 2, 3] if torn else [1, 3], before)


# ---------------------------------------------------------------- templates, other leaves, what records hold beside


def test_a_template_at_the_bottom_is_untouched(image: Made) -> None:
    template = image.host.image()
    template.chain(1)
    template.change(1, voltype=SHARED)
    image.template(1, template)
    chains.Image.add(image, 2, 1)
    image.write(2, (2, 1, 2))
    for number in (3, 4):
        image.add(number, number - 1)
        image.write(number, (number, 1, number), (0, 1, number))
    before, shared, links = image.guest(4), template.snapshot(), image.meta(1).stat()
    image.commit(3, 2, 4)
    succeeds(image, 4, [1, 2, 4], before)
    image.mark(2)
    image.change(2, parent=5)
    succeeds(image, 4, [1, 2, 4], before)
    assert template.snapshot() == shared
    for one, other in ((image.data(1), template.data(1)), (image.meta(1), template.meta(1))):
        assert os.path.samefile(one, other)
    assert image.meta(1).stat().st_nlink == links.st_nlink == 2


def test_a_marked_leaf_on_a_template(newer: Made) -> None:
    image, template = newer, newer.host.image()
    template.chain(1)
    template.change(1, voltype=SHARED)
    image.template(1, template)
    chains.Image.add(image, 2, 1)
    before, shared = image.guest(2), template.snapshot()
    image.mark(2)
    succeeds(image, 2, [1, 2], before)
    assert template.snapshot() == shared


def test_what_a_preview_stands_on_is_not_dropped(newer: Made) -> None:
    newer.chain(4)
    newer.add(9, 3)
    newer.write(9, (9, 1, 9))
    before, preview = newer.guest(4), newer.guest(9)
    newer.commit(3, 2, 4)
    reply = newer.verb(4)
    assert chains.numbers(reply["volumes"]) == [1, 2, 4]
    assert [entry["volumeID"] for entry in reply["evidence"] if entry["verdict"] == "merged"] == []
    assert (newer.guest(4), newer.guest(9)) == (before, preview)
    assert chains.numbers(newer.verb(9)["volumes"]) == [1, 2, 3, 9]
    assert newer.metadata(3).voltype == INTERNAL


def test_unknown_keys_and_everything_else_in_a_record_are_kept(image: Made) -> None:
    image.chain(3)
    image.change(3, parent=1, extra={"TEST": "kept = too"}, generation=7)
    before = chains.meta_values(image.meta(3))
    image.verb(3)
    assert chains.meta_values(image.meta(3)) == before | {"PUUID": v(2)}
    assert image.meta(3).stat().st_mode & 0o777 == 0o644


def test_a_long_description_of_vdsm_3_5_is_no_obstacle(older: Made) -> None:
    older.chain(3)
    older.change(3, parent=1)
    text = older.meta(3).read_text()
    older.meta(3).write_text(text.replace("DESCRIPTION=", "DESCRIPTION=" + "a long story " * 60))
    assert chains.numbers(older.verb(3)["volumes"]) == [1, 2, 3]
    assert older.metadata(3).parent == v(2)
    assert older.metadata(3).description.startswith("a long story")


# ---------------------------------------------------------------- interrupted deletions


def test_a_half_deleted_volume_is_in_nobodys_way(newer: Made) -> None:
    newer.chain(4)
    before = newer.guest(4)
    newer.commit(3, 2, 4)
    newer.mark(3)
    newer.data(3).unlink()
    succeeds(newer, 4, [1, 2, 4], before)


def test_a_half_deleted_leaf_leaves_its_parent_a_leaf(newer: Made) -> None:
    newer.chain(3)
    before = newer.guest(2)
    newer.mark(3)
    newer.change(2, voltype=LEAF)
    newer.data(3).unlink()
    assert refused(newer, 3, 3).code == 262
    succeeds(newer, 2, [1, 2], before)
