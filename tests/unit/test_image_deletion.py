"""Deleting volumes and whole images: what is refused, what goes, and what a crash at any change leaves."""

import os

import pytest

from storage import errors
from storage.jobs import tasks
from storage.volumes import deletion, image, preparation, template
from tests.support import bench, faults, images, plain

pytestmark = pytest.mark.qemu

IMAGE, OTHER = bench.IMAGE, bench.OTHER
V1, V2, V3, V4 = bench.new_ids(4)
FINISHED, RECOVERED = tasks.State.FINISHED, tasks.State.RECOVERED
disk, unflushed = plain.disk, plain.unflushed
data, meta, fresh = plain.data, plain.meta, plain.fresh


# ---------------------------------------------------------------- deleting volumes


def test_leaf_goes_and_its_parent_becomes_the_leaf(disk):
    disk.chain(IMAGE, V1, V2, V3)
    task = disk.delete(IMAGE, V3)
    assert (task.state, task.record.recoveries) == (FINISHED, ())
    assert image.volume_ids(disk.domain, IMAGE) == [V1, V2] and disk.meta(IMAGE, V2).voltype == "LEAF"
    assert len(os.listdir(disk.images / IMAGE)) == 6


def test_whole_chain_leaf_first_leaves_an_empty_directory(disk):
    disk.chain(IMAGE, V1, V2, V3)
    assert disk.delete(IMAGE, V3, V2, V1).state is FINISHED
    assert os.listdir(disk.images / IMAGE) == []


def test_merged_volume_within_a_chain(disk):
    """What reconcile leaves after an internal merge: nobody's record or header names the dropped volume."""
    disk.chain(IMAGE, V1, V2, V3)
    bench.qemuimg.QemuImg().rebase_unsafe(data(disk, V3), V1, "raw")
    disk.write(IMAGE, V3, parent=V1)
    assert disk.delete(IMAGE, V2).state is FINISHED
    assert disk.meta(IMAGE, V1).voltype == "INTERNAL" and disk.meta(IMAGE, V3).parent == V1


@pytest.mark.parametrize(
    ("volumes", "code", "said"),
    [
        pytest.param([V1], 204, V2, id="child"),
        pytest.param([V2, V3], 204, V3, id="order"),
        pytest.param([V3, V4], 201, V4, id="unknown"),
        pytest.param([V3, V3], 201, V3, id="twice"),
    ],
)
def test_refused_before_anything_is_touched(disk, volumes, code, said):
    disk.chain(IMAGE, V1, V2, V3)
    before = disk.state()
    task = disk.delete(IMAGE, *volumes)
    assert (task.state, bench.code(task)) == (RECOVERED, code)
    assert said in task.record.message and disk.state() == before


def test_unknown_image(disk):
    assert bench.code(disk.delete(IMAGE, V1)) == 268


def test_header_that_still_names_the_volume_keeps_it(disk):
    """Metadata says merged, the header says not: deleting would cut the chain."""
    disk.chain(IMAGE, V1, V2, V3)
    disk.write(IMAGE, V3, parent=V1)
    before = disk.state()
    task = disk.delete(IMAGE, V2)
    assert bench.code(task) == 204 and V3 in task.record.message and disk.state() == before
    assert disk.delete(IMAGE, V2, force=True).state is FINISHED


@pytest.mark.parametrize("name", [f"../{IMAGE}/{V2}", f"../{IMAGE}/../{IMAGE}/{V2}", f"/somewhere/images/{IMAGE}/{V2}"])
def test_header_names_it_in_any_spelling(disk, name):
    disk.chain(IMAGE, V1, V2)
    disk.create(IMAGE, V3, V2)
    images.create(data(disk, V3), backing=name)
    disk.write(IMAGE, V3, parent=V1)
    assert bench.code(disk.delete(IMAGE, V2)) == 204


def test_guest_cannot_keep_a_volume_by_a_header_on_its_raw_disk(disk):
    disk.create(IMAGE, V1)
    disk.create(IMAGE, V2)
    images.create(data(disk, V2), backing=str(V1))
    assert disk.delete(IMAGE, V1).state is FINISHED


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_volume_in_use_stays(disk, readonly, force):
    disk.chain(IMAGE, V1, V2, format="COW")
    before = disk.state()
    with bench.held(data(disk, V2), readonly=readonly):
        task = disk.delete(IMAGE, V2, force=force)
    assert bench.code(task) == 203 and disk.state() == before


def test_template_and_its_link(disk):
    disk.create(IMAGE, V1)
    disk.create(OTHER, V2, V1, source_image=IMAGE)
    before = disk.state()
    for place in (IMAGE, OTHER):
        task = disk.delete(place, V1)
        assert bench.code(task) == 223 and OTHER in task.record.message and disk.state() == before
    assert disk.delete(OTHER, V2).state is FINISHED
    assert disk.meta(OTHER, V1).voltype == "SHARED", "the template is nobody's leaf"
    assert disk.delete(OTHER, V1, force=True).state is FINISHED
    assert disk.meta(IMAGE, V1).legality == "LEGAL", "only the link went"


def test_half_deleted_volume_can_be_deleted_again(disk):
    disk.chain(IMAGE, V1, V2)
    disk.write(IMAGE, V2, legality="ILLEGAL")
    data(disk, V2).unlink()
    assert disk.delete(IMAGE, V2).state is FINISHED
    assert image.volume_ids(disk.domain, IMAGE) == [V1] and disk.meta(IMAGE, V1).voltype == "LEAF"


def test_damaged_record_needs_force(disk):
    disk.chain(IMAGE, V1, V2)
    meta(disk, V2).write_text("nonsense")
    task = disk.delete(IMAGE, V2)
    assert bench.code(task) == 222 and "force" in task.record.message
    assert disk.delete(IMAGE, V2, force=True).state is FINISHED
    assert image.volume_ids(disk.domain, IMAGE) == [V1]


def test_file_that_cannot_be_removed_leaves_a_tombstone(disk, monkeypatch):
    disk.chain(IMAGE, V1, V2)
    real = deletion.files.unlink

    def stubborn(path):
        if path.name == V2:
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr("storage.files.unlink", stubborn)
    task = disk.delete(IMAGE, V2)
    assert task.state is tasks.State.FAILED and bench.code(task) == 222
    monkeypatch.undo()
    assert disk.meta(IMAGE, V2).legality == "ILLEGAL" and disk.meta(IMAGE, V1).voltype == "LEAF"
    with pytest.raises(errors.PrepareIllegalVolumeError):
        preparation.chain(disk.domain, image.contents(disk.domain, IMAGE), V2, 256)
    assert disk.delete(IMAGE, V2).state is FINISHED


def test_stop_between_two_volumes(disk, monkeypatch):
    disk.chain(IMAGE, V1, V2, V3)
    real = deletion.remove_volume

    def stopping(*args):
        real(*args)
        disk.task.stopping.set()

    monkeypatch.setattr("storage.volumes.deletion.remove_volume", stopping)
    task = disk.delete(IMAGE, V3, V2)
    assert bench.code(task) == 411 and image.volume_ids(disk.domain, IMAGE) == [V1, V2]


@pytest.mark.parametrize("volumes", [[V3], [V3, V2]])
def test_crash_at_any_change_of_a_deletion(tmp_path, volumes):
    """Old, or finished by the recovery; of two volumes maybe only the first. Then the rest can be deleted."""
    seen = set()
    for number, fault in enumerate(faults.crash_points()):
        disk = fresh(tmp_path, number)
        disk.chain(IMAGE, V1, V2, V3)
        with fault.strike():
            disk.delete(IMAGE, *volumes)
        for volume_id in image.volume_ids(disk.domain, IMAGE):
            assert disk.meta(IMAGE, volume_id), "every record is whole, whatever else is gone"
        disk.restart()
        left = image.volume_ids(disk.domain, IMAGE)
        seen.add(len(left))
        assert left == [V1, V2, V3][: len(left)], f"crash at {fault.at}"
        assert [disk.meta(IMAGE, v).voltype for v in left] == [*["INTERNAL"] * (len(left) - 1), "LEAF"]
        assert [disk.meta(IMAGE, v).legality for v in left] == ["LEGAL"] * len(left)
        rest = [v for v in volumes if v in left]
        assert not rest or disk.delete(IMAGE, *rest).state is FINISHED
        names = {name for v in [V1, V2, V3][: 3 - len(volumes)] for name in (v, f"{v}.meta", f"{v}.lease")}
        assert set(os.listdir(disk.images / IMAGE)) == names, f"crash at {fault.at}"
    assert seen == {3, 2, 1} if len(volumes) == 2 else seen == {3, 2}


def test_crash_in_the_recovery_of_a_deletion(tmp_path):
    for first in range(3, 17, 2):
        for number, second in enumerate(faults.crash_points()):
            disk = fresh(tmp_path, first, number)
            disk.chain(IMAGE, V1, V2)
            with faults.Faults(first).strike():
                disk.delete(IMAGE, V2)
            with second.strike():
                disk.restart()
            disk.restart()
            left = image.volume_ids(disk.domain, IMAGE)
            assert left in ([V1], [V1, V2]) and disk.meta(IMAGE, left[-1]).voltype == "LEAF"
            assert disk.meta(IMAGE, left[-1]).legality == "LEGAL"
            if not second.done:
                break


def test_deletion_without_a_task_record_can_be_taken_up_by_hand(tmp_path):
    """The SPM moved to a host that lost the record: the half-deleted volume is there and can be deleted again."""
    for number, fault in enumerate(faults.crash_points()):
        disk = fresh(tmp_path, number)
        disk.chain(IMAGE, V1, V2)
        with fault.strike():
            disk.delete(IMAGE, V2)
        if V2 in image.volume_ids(disk.domain, IMAGE):
            assert disk.delete(IMAGE, V2).state is FINISHED
        assert image.volume_ids(disk.domain, IMAGE) == [V1] and disk.meta(IMAGE, V1).voltype == "LEAF"
        image.sweep(disk.domain, IMAGE)
        assert len(os.listdir(disk.images / IMAGE)) == 3, f"crash at {fault.at}"


# ---------------------------------------------------------------- deleting images


def test_image_is_gone_at_once_and_its_space_later(disk):
    disk.chain(IMAGE, V1, V2)
    deletion.retire(disk.domain, IMAGE)
    assert disk.domain.image_ids() == [] and deletion.leftovers(disk.domain) == [IMAGE]
    assert sorted(os.listdir(disk.images)) == [f"_remove_me_{IMAGE}"]
    with pytest.raises(errors.ImageDoesNotExistInSD):
        deletion.retire(disk.domain, IMAGE)
    deletion.purge(disk.domain, IMAGE)
    deletion.purge(disk.domain, IMAGE)
    assert os.listdir(disk.images) == []


def test_broken_image_can_be_deleted(disk):
    disk.chain(IMAGE, V1, V2)
    data(disk, V1).unlink()
    data(disk, V2).unlink()
    data(disk, V2).symlink_to("/nowhere")
    meta(disk, V2).write_text("VOLTYPE=LEAF\n")
    deletion.retire(disk.domain, IMAGE)
    assert disk.domain.image_ids() == []


def test_template_in_use(disk):
    disk.create(IMAGE, V1)
    disk.create(OTHER, V2, V1, source_image=IMAGE)
    before = disk.state()
    with pytest.raises(errors.CannotDeleteSharedVolume, match=OTHER):
        deletion.retire(disk.domain, IMAGE)
    meta(disk, V1, OTHER).unlink()
    data(disk, V1, OTHER).unlink()
    with pytest.raises(errors.CannotDeleteSharedVolume, match=OTHER):
        deletion.retire(disk.domain, IMAGE)  # the image that lost its links needs them all the more
    template.share(disk.domain, IMAGE, OTHER, V1)
    assert {key: value for key, value in disk.state().items() if "lease" not in key} == {
        key: value for key, value in before.items() if "lease" not in key
    }
    deletion.retire(disk.domain, OTHER)
    assert disk.meta(IMAGE, V1).legality == "LEGAL", "the template outlives its link"
    deletion.retire(disk.domain, IMAGE)
    assert len(deletion.leftovers(disk.domain)) == 2


def test_template_with_a_damaged_record_is_believed_to_be_one(disk):
    disk.create(IMAGE, V1)
    disk.create(OTHER, V2, V1, source_image=IMAGE)
    meta(disk, V1).write_text("nonsense")
    with pytest.raises(errors.CannotDeleteSharedVolume):
        deletion.retire(disk.domain, IMAGE)


def test_other_images_are_looked_at_for_templates_only(disk, monkeypatch):
    disk.create(IMAGE, V1)
    monkeypatch.setattr(type(disk.domain), "image_ids", lambda self: pytest.fail("looked at the domain"))
    deletion.retire(disk.domain, IMAGE)


def test_user_that_cannot_be_looked_at_keeps_the_template(disk, monkeypatch):
    disk.create(IMAGE, V1)
    template.set_shared(disk.domain, IMAGE, V1)
    disk.create(OTHER, V2)
    real = image.files.read

    def broken(path, limit):
        if path.parent.name == OTHER:
            raise OSError(5, "Input/output error")
        return real(path, limit)

    monkeypatch.setattr("storage.files.read", broken)
    with pytest.raises(errors.VolumeMetadataReadError):
        deletion.retire(disk.domain, IMAGE)
    assert IMAGE in disk.domain.image_ids()


def test_image_in_use(disk):
    disk.chain(IMAGE, V1, V2, format="COW")
    with bench.held(data(disk, V1), readonly=True), pytest.raises(errors.VolumeIsBusy, match=V1):
        deletion.retire(disk.domain, IMAGE)
    assert IMAGE in disk.domain.image_ids()


def test_template_in_use_by_others_does_not_keep_an_image_made_from_it(disk):
    disk.create(IMAGE, V1, format="COW")
    disk.create(OTHER, V2, V1, source_image=IMAGE)
    with bench.held(data(disk, V1), readonly=True):
        deletion.retire(disk.domain, OTHER)
    assert disk.domain.image_ids() == [IMAGE]


def test_earlier_image_of_the_same_id_is_purged_first(disk):
    disk.create(IMAGE, V1)
    deletion.retire(disk.domain, IMAGE)
    disk.create(IMAGE, V2)
    deletion.retire(disk.domain, IMAGE)
    assert sorted(os.listdir(deletion.tombstone_of(disk.domain, IMAGE)))[0] == V2


def test_purge_follows_no_link_and_takes_only_our_tombstones(disk, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    disk.create(IMAGE, V1)
    (disk.images / IMAGE / "link").symlink_to(tmp_path / "precious")
    deletion.retire(disk.domain, IMAGE)
    (disk.images / f"_remove_me_{OTHER}").symlink_to(tmp_path / "precious")
    for name in ("_remove_me_notes", "_remolaRfd2", "_remove_me_ZERO_" + IMAGE):
        (disk.images / name).mkdir()
    deletion.purge_leftovers(disk.domain)
    assert (tmp_path / "precious" / "file").exists()
    assert not deletion.tombstone_of(disk.domain, IMAGE).exists()
    assert {"_remove_me_notes", "_remolaRfd2", "_remove_me_ZERO_" + IMAGE} <= set(os.listdir(disk.images))


def test_crash_while_an_image_is_deleted_leaves_all_or_nothing(tmp_path):
    states = set()
    for number, fault in enumerate(faults.crash_points()):
        disk = fresh(tmp_path, number)
        disk.chain(IMAGE, V1, V2)
        whole = disk.state()
        with fault.strike():
            deletion.retire(disk.domain, IMAGE)
            deletion.purge(disk.domain, IMAGE)
        if IMAGE in disk.domain.image_ids():
            states.add("whole")
            assert disk.state() == whole
            deletion.retire(disk.domain, IMAGE)
        else:
            states.add("gone")
        deletion.purge_leftovers(disk.domain)
        assert os.listdir(disk.images) == []
    assert states == {"whole", "gone"}
