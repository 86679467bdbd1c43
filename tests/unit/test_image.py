"""An image's directory: what it says, deleting volumes and whole images, preparing; with crashes at every change."""

import os

import pytest

from storage import errors, ids, layout
from storage.jobs import tasks
from storage.volumes import deletion, image, preparation, template, volume
from tests.support import bench, faults, images

pytestmark = pytest.mark.qemu

IMAGE, OTHER = bench.IMAGE, bench.OTHER
V1, V2, V3, V4 = bench.new_ids(4)
FINISHED, RECOVERED = tasks.State.FINISHED, tasks.State.RECOVERED
TOOL = bench.CachedTool()


@pytest.fixture(autouse=True)
def unflushed(monkeypatch):
    """Flushing is still counted as a change, but takes no time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def disk(tmp_path):
    return bench.Bench(tmp_path, TOOL)


def data(disk, volume_id, image_id=IMAGE):
    return disk.images / image_id / volume_id


def meta(disk, volume_id, image_id=IMAGE):
    return disk.images / image_id / f"{volume_id}.meta"


def fresh(tmp_path, *numbers):
    place = tmp_path / ".".join(map(str, numbers))
    place.mkdir()
    return bench.Bench(place, TOOL)


# ---------------------------------------------------------------- reading a directory


def test_volumes_are_listed_by_their_records(disk):
    disk.chain(IMAGE, V1, V2)
    place = disk.images / IMAGE
    temporaries = (f"{V3}.meta.new", f"{V3}.meta.1a2b3c4d.new")
    for name in (*temporaries, V4, "notes.meta", f"{V4[:-1]}.meta", ".meta", f"{V4}x.meta"):
        (place / name).write_text("")
    assert image.volume_ids(disk.domain, IMAGE) == [V1, V2]


def test_image_that_cannot_be_listed_is_not_empty(disk, tmp_path):
    with pytest.raises(errors.ImageDoesNotExistInSD):
        image.volume_ids(disk.domain, IMAGE)
    (disk.images / IMAGE).write_text("")
    with pytest.raises(errors.ImagePathError):
        image.volume_ids(disk.domain, IMAGE)
    (disk.images / OTHER).symlink_to(tmp_path)
    with pytest.raises(errors.ImagePathError):
        image.contents(disk.domain, OTHER)


def test_storage_that_does_not_answer_is_not_a_damaged_record(disk, monkeypatch):
    disk.chain(IMAGE, V1, V2)

    def broken(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("storage.files.read", broken)
    with pytest.raises(errors.VolumeMetadataReadError):
        image.contents(disk.domain, IMAGE)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path, _: path.unlink(), errors.VolumeDoesNotExist),
        (lambda path, _: path.write_bytes(b""), errors.MetaDataValidationError),
        (lambda path, _: path.write_bytes(b"x" * 100_000), errors.ImageValidationError),
        (lambda path, there: (path.unlink(), path.symlink_to(there)), errors.ImageValidationError),
        (lambda path, _: (path.unlink(), path.mkdir()), errors.ImageValidationError),
        (lambda path, _: (path.unlink(), os.mkfifo(path)), errors.ImageValidationError),
    ],
    ids=["gone", "empty", "endless", "link", "directory", "pipe"],
)
def test_records_that_cannot_be_used(disk, tmp_path, spoil, error):
    disk.chain(IMAGE, V1, V2)
    (tmp_path / "there").write_bytes(meta(disk, V1).read_bytes())
    spoil(meta(disk, V1), tmp_path / "there")
    with pytest.raises(error) as caught:
        image.read_metadata(disk.domain, IMAGE, V1)
    assert V1 in str(caught.value)
    held = image.contents(disk.domain, IMAGE)
    assert set(held.records) == {V2} and (V1 in held.damaged) is (error is not errors.VolumeDoesNotExist)


def test_children_by_parsed_parent_only(disk):
    disk.chain(IMAGE, V1, V2)
    disk.write(IMAGE, V1, description=f"PUUID={V2} is only a text")
    assert image.children(disk.domain, IMAGE, V1) == [V2]
    assert image.children(disk.domain, IMAGE, V2) == []
    disk.write(IMAGE, V1, parent=V1)
    assert image.children(disk.domain, IMAGE, V1) == [V2], "nobody is its own child"


def test_child_with_a_damaged_record_is_still_a_child(disk):
    disk.chain(IMAGE, V1, V2)
    meta(disk, V2).write_text(meta(disk, V2).read_text().replace("CTIME=", "CTIME=x"))
    assert image.children(disk.domain, IMAGE, V1) == [V2]


def test_half_made_directory_with_a_link_only_is_not_taken_for_the_templates(disk):
    disk.create(IMAGE, V1)
    (disk.images / OTHER).mkdir()
    template.set_shared(disk.domain, IMAGE, V1)
    template.share(disk.domain, IMAGE, OTHER, V1)
    held = image.contents(disk.domain, OTHER)
    assert held.own() == [] and not held.is_own(V1) and V1 in held


def test_sweep_keeps_claims_of_unfinished_volumes(disk):
    disk.create(IMAGE, V1)
    place = disk.images / IMAGE
    task_id = ids.TaskId.new()
    unfinished, finished = image.claim_name(V2, task_id), image.claim_name(V1, task_id)
    for name in (unfinished, finished, f"{V1}.meta.0a0b0c0d.new", f"{V2}.meta.new"):
        (place / name).write_text("")
    assert image.sweep(disk.domain, IMAGE) == 3
    assert unfinished in os.listdir(place)


def test_old_record_without_a_limit_can_be_marked(disk):
    disk.create(IMAGE, V1)
    text = meta(disk, V1).read_text().replace("DESCRIPTION=test", f"DESCRIPTION={'long ' * 200}")
    meta(disk, V1).write_text(text)
    volume.set_legality(disk.domain, IMAGE, V1, "ILLEGAL")
    found = disk.meta(IMAGE, V1)
    assert found.legality == "ILLEGAL" and found.description.startswith("long long")
    assert meta(disk, V1).stat().st_size <= 512


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


# ---------------------------------------------------------------- templates


def test_crash_while_a_template_is_shared(tmp_path):
    for number, fault in enumerate(faults.crash_points()):
        disk = fresh(tmp_path, number)
        disk.create(IMAGE, V1)
        template.set_shared(disk.domain, IMAGE, V1)
        (disk.images / OTHER).mkdir()
        with fault.strike():
            template.share(disk.domain, IMAGE, OTHER, V1)
        held = image.contents(disk.domain, OTHER)
        assert held.own() == [] and not held.damaged
        assert V1 in held or not data(disk, V1, OTHER).exists(), "a link is never without its record"
        template.share(disk.domain, IMAGE, OTHER, V1)
        assert template.is_shared(disk.domain, IMAGE, OTHER, V1)
        assert template.unshare(disk.domain, OTHER, V1)
        image.sweep(disk.domain, OTHER)
        assert os.listdir(disk.images / OTHER) == [] and len(os.listdir(disk.images / IMAGE)) == 3


def test_share_does_not_replace_another_volume(disk):
    disk.create(IMAGE, V1)
    template.set_shared(disk.domain, IMAGE, V1)
    disk.create(OTHER, V1)
    before = disk.state()
    with pytest.raises(errors.VolumeAlreadyExists):
        template.share(disk.domain, IMAGE, OTHER, V1)
    assert disk.state() == before
    assert template.unshare(disk.domain, OTHER, V1) is False and disk.state() == before


# ---------------------------------------------------------------- preparing


def chain_of(disk, leaf, image_id=IMAGE, limit=256):
    return preparation.chain(disk.domain, image.contents(disk.domain, image_id), leaf, limit)


def test_chain_with_a_template_beneath(disk):
    disk.create(OTHER, V1)
    disk.create(IMAGE, V2, V1, source_image=OTHER)
    disk.create(IMAGE, V3, V2)
    assert chain_of(disk, V3) == [V3, V2, V1]
    assert chain_of(disk, V2) == [V2, V1]


@pytest.mark.parametrize("which", [V1, V2, V3])
def test_illegal_volume_anywhere_in_the_chain(disk, which):
    disk.chain(IMAGE, V1, V2, V3)
    disk.write(IMAGE, which, legality="ILLEGAL")
    with pytest.raises(errors.PrepareIllegalVolumeError, match=f"{which}.*reconcileVolumeChain"):
        chain_of(disk, V3)


def test_illegal_volume_beside_the_chain_does_not_matter(disk):
    disk.chain(IMAGE, V1, V2)
    disk.write(IMAGE, V2, legality="ILLEGAL", voltype="INTERNAL")
    assert chain_of(disk, V1) == [V1]


def move_away(path, there):
    path.rename(there)
    path.symlink_to(there)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda disk, _: disk.write(IMAGE, V1, parent=V3), errors.ImageIsNotLegalChain),
        (lambda disk, _: disk.write(IMAGE, V2, parent=V2), errors.ImageIsNotLegalChain),
        (lambda disk, _: disk.write(IMAGE, V2, parent=V4), errors.ImageIsNotLegalChain),
        (lambda disk, _: data(disk, V1).unlink(), errors.ImageIsNotLegalChain),
        (lambda disk, _: meta(disk, V1).unlink(), errors.ImageIsNotLegalChain),
        (lambda disk, _: meta(disk, V1).write_text("x"), errors.ImageValidationError),
        (lambda disk, there: move_away(data(disk, V1), there), errors.ImageValidationError),
    ],
    ids=["loop", "itself", "missing parent", "no data", "no record", "damaged", "link"],
)
def test_chain_that_does_not_hold_together(disk, tmp_path, spoil, error):
    disk.chain(IMAGE, V1, V2, V3)
    spoil(disk, tmp_path / "there")
    with pytest.raises(error):
        chain_of(disk, V3)


@pytest.mark.parametrize("name", ["/etc/passwd", f"../{OTHER}/{V1}", "json:{}", "nbd:127.0.0.1:1", f"{V1} "])
def test_header_that_leads_out_of_the_image(disk, name):
    disk.chain(IMAGE, V1, V2)
    images.create(data(disk, V2), bench.MIB, backing=name, backing_format="raw")
    with pytest.raises(errors.ImageValidationError, match="leads out"):
        chain_of(disk, V2)


def test_header_with_an_external_data_file(disk, tmp_path):
    disk.chain(IMAGE, V1, format="COW")
    images.create(data(disk, V1), bench.MIB, data_file=tmp_path / "outside")
    with pytest.raises(errors.ImageValidationError, match="external"):
        chain_of(disk, V1)


def test_header_that_contradicts_the_record(disk):
    """After an interrupted merge the header may name a base that has not got the data yet."""
    disk.chain(IMAGE, V1, V2, V3)
    bench.qemuimg.QemuImg().rebase_unsafe(data(disk, V3), V1, "raw")
    with pytest.raises(errors.ImageIsNotLegalChain, match=f"{V3} stands on {V1}.*reconcileVolumeChain"):
        chain_of(disk, V3)


def test_header_that_calls_a_raw_parent_qcow2(disk):
    """A guest could have written a qcow2 header, which names any file, at the start of its disk."""
    disk.chain(IMAGE, V1, V2)
    bench.qemuimg.QemuImg().rebase_unsafe(data(disk, V2), V1, "qcow2")
    with pytest.raises(errors.IncorrectFormat, match="calls its parent qcow2, which is raw"):
        chain_of(disk, V2)


def test_backing_name_of_3_5_is_the_same_chain(disk):
    disk.chain(IMAGE, V1, V2)
    images.create(data(disk, V2), bench.MIB, backing=f"../{IMAGE}/../{IMAGE}/{V1}", backing_format="raw")
    assert chain_of(disk, V2) == [V2, V1]


def test_memory_dump_that_is_called_cow(disk):
    disk.chain(IMAGE, V1, format="COW")
    data(disk, V1).write_bytes(b"memory" * 100)
    assert chain_of(disk, V1) == [V1]


def test_chain_of_more_volumes_than_allowed(disk):
    disk.chain(IMAGE, V1, V2, V3)
    assert len(chain_of(disk, V3, limit=3)) == 3
    with pytest.raises(errors.ImageIsNotLegalChain, match="more than 2"):
        chain_of(disk, V3, limit=2)


def test_unknown_leaf(disk):
    disk.create(IMAGE, V1)
    with pytest.raises(errors.VolumeDoesNotExist):
        chain_of(disk, V2)


def test_location(tmp_path):
    disk = bench.Bench(tmp_path, TOOL)
    disk.create(IMAGE, V1)
    found = preparation.location(disk.domain, IMAGE, V1)
    place = disk.images / IMAGE
    assert found == {
        "domainID": disk.domain.id,
        "imageID": IMAGE,
        "volumeID": V1,
        "path": str(place / V1),
        "volType": "path",
        "leasePath": str(place / f"{V1}.lease"),
        "leaseOffset": 0,
    }
    (place / f"{V1}.lease").unlink()
    assert set(preparation.location(disk.domain, IMAGE, V1)) == set(found) - {"leasePath", "leaseOffset"}


def test_run_link_is_made_corrected_and_removed(disk, tmp_path):
    repository = layout.Repository(tmp_path)
    disk.create(IMAGE, V1)
    link = preparation.link(repository, disk.domain, IMAGE)
    assert link == tmp_path / "run" / disk.domain.id / IMAGE and (link / V1).exists()
    link.unlink()
    link.symlink_to("/somewhere/else")
    assert os.readlink(preparation.link(repository, disk.domain, IMAGE)) == str(disk.images / IMAGE)
    preparation.unlink(repository, disk.domain.id, IMAGE)
    preparation.unlink(repository, disk.domain.id, IMAGE)
    assert not os.path.lexists(link)
    link.mkdir()
    preparation.unlink(repository, disk.domain.id, IMAGE)
    assert link.is_dir()
    with pytest.raises(errors.ImagePathError):
        preparation.link(repository, disk.domain, IMAGE)
