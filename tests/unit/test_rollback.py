"""The table of recoveries: names of both generations, text from shared storage, and steps that run twice."""

import os

import pytest

from storage import errors, ids
from storage.jobs import recovery, tasks
from storage.volumes import deletion, image, rollback, steps, template
from tests.support import bench

pytestmark = pytest.mark.qemu

IMAGE, OTHER = bench.IMAGE, bench.OTHER
V1, V2, V3 = bench.new_ids(3)
TOOL = bench.CachedTool()


@pytest.fixture(autouse=True)
def unflushed(monkeypatch):
    """Flushing takes no time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def disk(tmp_path):
    return bench.Bench(tmp_path, TOOL)


def data(disk, volume_id, image_id=IMAGE):
    return disk.images / image_id / volume_id


def foreign(disk, *stack):
    """A task that another program left: it records no locks and claims nothing."""
    record = tasks.Record(ids.TaskId.new(), "createVolume", recoveries=stack)
    return tasks.Task(record, table=disk.table)


def ours(disk, *stack):
    locked = (bench.locks.exclusive("image"),)
    return tasks.Task(tasks.Record(ids.TaskId.new(), "createVolume", recoveries=stack, locked=locked), table=disk.table)


def run(disk, task):
    for step in reversed(task.record.recoveries):
        disk.table.run(task, step)


# ---------------------------------------------------------------- names and parameters


@pytest.mark.parametrize(
    "triple",
    [
        ("image", "Image", "createImageRollback"),
        ("sd", "StorageDomain", "create_image_rollback"),
        ("fileVolume", "FileVolume", "shareVolumeRollback"),
        ("volume", "Volume", "startCreateVolumeRollback"),
        ("fileVolume", "FileVolume", "halfbakedVolumeRollback"),
        ("volume", "Volume", "halfbakedVolumeRollback"),
        ("volume", "Volume", "parentVolumeRollback"),
        ("fileVolume", "FileVolume", "createVolumeMetadataRollback"),
        ("volume", "Volume", "createVolumeRollback"),
        ("fileVolume", "FileVolume", "createVolumeRollback"),
        ("volume", "Volume", "extendSizeFinalize"),
    ],
    ids=".".join,
)
def test_names_of_both_generations_are_known(triple):
    assert recovery.Table(rollback.ACTIONS).unknown((recovery.Recovery("x", *triple),)) is None


@pytest.mark.parametrize("triple", [("os", "path", "remove"), ("image", "Image", "delete"), ("volume", "Volume", "x")])
def test_other_names_are_not(triple):
    step = recovery.Recovery("x", *triple)
    assert recovery.Table(rollback.ACTIONS).unknown((step,)) is step


def test_path_gives_nothing_but_ids():
    domain = "d0000000-0000-4000-8000-000000000000"
    for head in ("/rhev/data-center/mnt/_disk", "/rhev/data-center/" + ids.BLANK, "/a,b=c", "relative"):
        assert rollback.located(f"{head}/{domain}/images/{IMAGE}") == (domain, IMAGE, "")
        assert rollback.located(f"{head}/{domain}/images/{IMAGE}/{V1}") == (domain, IMAGE, V1)


@pytest.mark.parametrize(
    "path", ["", "/", "/etc/passwd", f"/x/images/{IMAGE}", f"/{V1}/images/../{V1}", f"/{V1}/pictures/{IMAGE}/{V1}"]
)
def test_path_that_leads_elsewhere_is_refused(path):
    with pytest.raises(errors.InvalidParameterException):
        rollback.located(path)


@pytest.mark.parametrize("name", ["../../../precious", "precious", "", f"{V1}/../../precious"])
def test_hostile_parameters_touch_nothing(disk, tmp_path, name):
    (tmp_path / "precious").write_text("")
    disk.create(IMAGE, V1)
    before = disk.state()
    path = f"{disk.images}/{IMAGE}/{name}"
    for triple, params in (
        (steps.SHARE, (path,)),
        (steps.RECORD, (path,)),
        (steps.HALF_MADE, (disk.domain.id, V1, path)),
        (steps.RENAME, (path, str(data(disk, V1)))),
        (steps.VOLUME, ("/", disk.domain.id, IMAGE, name, path)),
        (steps.PARENT, (disk.domain.id, IMAGE, name)),
    ):
        with pytest.raises(errors.StorageError):
            run(disk, foreign(disk, recovery.Recovery("x", *triple, params)))
    assert disk.state() == before and (tmp_path / "precious").exists()


def test_unknown_domain(disk):
    step = steps.parent(ids.DomainId(ids.BLANK), IMAGE, V1)
    with pytest.raises(errors.StorageDomainDoesNotExist):
        run(disk, foreign(disk, step))


def every_step(disk):
    place = data(disk, V1)
    domain_id = disk.domain.id
    return [
        steps.directory(place.parent, IMAGE),
        steps.set_shared(domain_id, IMAGE, V1),
        steps.share(place),
        steps.half_made(domain_id, V1, place),
        steps.parent(domain_id, IMAGE, V1),
        steps.record(place),
        steps.volume(disk.root, domain_id, IMAGE, place),
        steps.finish_delete(domain_id, IMAGE, V1),
        steps.finish_purge(domain_id, IMAGE),
    ]


def test_every_step_has_an_action_and_an_own_name(disk):
    stack = every_step(disk)
    assert disk.table.unknown(tuple(stack)) is None
    assert len({step.name for step in stack}) == len(stack)


def test_steps_on_an_image_that_is_gone_do_nothing(disk):
    for step in every_step(disk):
        run(disk, ours(disk, step))
        run(disk, foreign(disk, step))
    assert disk.state() == {".": None}


def test_steps_below_the_scope_leave_a_finished_volume_alone(disk):
    """They stay on the stack after success; run without the step above them they must not take a volume apart."""
    disk.create(OTHER, V2)
    disk.create(IMAGE, V1, V2, source_image=OTHER)
    before = disk.state()
    place = disk.images / IMAGE
    stack = (steps.set_shared(disk.domain.id, OTHER, V2), steps.directory(place, IMAGE), steps.share(place / V2))
    run(disk, ours(disk, *stack))
    assert disk.state() == before


# ---------------------------------------------------------------- data without a record


def test_own_half_made_data_goes(disk):
    place = disk.images / IMAGE
    place.mkdir()
    task = ours(disk, steps.half_made(disk.domain.id, V1, place / V1))
    claim = place / image.claim_name(V1, task.id)
    claim.write_text("")
    os.link(claim, place / V1)
    (place / f"{V1}.lease").write_text("")
    run(disk, task)
    assert os.listdir(place) == []
    run(disk, task)


@pytest.mark.parametrize("claimed", [False, True])
def test_data_of_somebody_else_stays(disk, claimed):
    """The task met a file that was there all along, and died before it could say so."""
    place = disk.images / IMAGE
    place.mkdir()
    (place / V1).write_text("somebody's")
    (place / f"{V1}.lease").write_text("somebody's")
    task = ours(disk, steps.half_made(disk.domain.id, V1, place / V1), steps.record(place / V1))
    if claimed:
        (place / image.claim_name(V1, task.id)).write_text("ours")
    run(disk, task)
    assert sorted(os.listdir(place)) == [V1, f"{V1}.lease"] and (place / V1).read_text() == "somebody's"


def test_claimed_data_with_a_record_stays(disk):
    disk.create(IMAGE, V1)
    task = ours(disk, steps.half_made(disk.domain.id, V1, data(disk, V1)))
    claim = disk.images / IMAGE / image.claim_name(V1, task.id)
    os.link(data(disk, V1), claim)
    before = disk.state()
    run(disk, task)
    assert disk.state() == before and not claim.exists()


def test_record_that_another_task_made_stays(disk):
    """The rollback ran to its end and runs again; the volume has been made anew in between."""
    disk.create(IMAGE, V1)
    before = disk.state()
    run(disk, ours(disk, steps.half_made(disk.domain.id, V1, data(disk, V1)), steps.record(data(disk, V1))))
    assert disk.state() == before


def test_foreign_task_that_did_not_go_on_keeps_its_hands_off(disk):
    """vdsm drops this step in memory only when it meets an existing file; a crash there leaves it on top."""
    place = disk.images / IMAGE
    place.mkdir()
    (place / V1).write_text("somebody's")
    run(disk, foreign(disk, steps.half_made(disk.domain.id, V1, place / V1)))
    assert (place / V1).read_text() == "somebody's"


def test_foreign_task_that_went_on_is_rolled_back(disk):
    disk.create(IMAGE, V1)
    disk.create(IMAGE, V2, V1)
    pool_path = f"/rhev/data-center/{ids.BLANK}/{disk.domain.id}/images/{IMAGE}/{V2}"
    stack = (
        recovery.sentinel(disk.domain.id, IMAGE, V2),
        recovery.Recovery("h", "volume", "Volume", "halfbakedVolumeRollback", (disk.domain.id, V2, pool_path)),
        recovery.Recovery("p", "volume", "Volume", "parentVolumeRollback", (disk.domain.id, IMAGE, V1)),
        recovery.Recovery("m", "fileVolume", "FileVolume", "createVolumeMetadataRollback", (pool_path,)),
    )
    run(disk, foreign(disk, *stack))
    assert sorted(os.listdir(disk.images / IMAGE)) == [V1, f"{V1}.lease", f"{V1}.meta"]
    assert disk.meta(IMAGE, V1).voltype == "LEAF"


# ---------------------------------------------------------------- finished volumes, templates, directories


def test_finished_volume_in_use_stays(disk):
    task = disk.create(IMAGE, V1, format="COW")
    before = disk.state()
    with bench.held(data(disk, V1)):
        disk.revert(task)
    assert (task.state, bench.code(task)) == (tasks.State.FAILED, 203) and disk.state() == before


def test_volume_that_only_a_header_names_stays(disk):
    task = disk.create(IMAGE, V1)
    disk.create(IMAGE, V2, V1)
    disk.write(IMAGE, V2, parent=ids.VolumeId(ids.BLANK))
    disk.revert(task)
    assert task.state is tasks.State.FAILED and V1 in image.volume_ids(disk.domain, IMAGE)


def test_created_volume_that_is_gone_already(disk):
    task = disk.create(IMAGE, V1)
    disk.delete(IMAGE, V1)
    disk.revert(task)
    assert task.state is tasks.State.RECOVERED and disk.state() == {".": None}


def test_link_of_a_foreign_sharing_that_got_no_record_goes(disk):
    """vdsm links the data first; cut off there, the link has no record, but the file has its other name."""
    disk.create(OTHER, V1)
    (disk.images / IMAGE).mkdir()
    os.link(data(disk, V1, OTHER), data(disk, V1))
    run(disk, foreign(disk, steps.share(data(disk, V1))))
    assert os.listdir(disk.images / IMAGE) == [] and data(disk, V1, OTHER).exists()


def test_sharing_rollback_never_removes_the_template_itself(disk):
    disk.create(IMAGE, V1)
    template.set_shared(disk.domain, IMAGE, V1)
    before = disk.state()
    run(disk, foreign(disk, steps.share(data(disk, V1))))
    assert disk.state() == before
    (disk.images / OTHER).mkdir()
    (disk.images / OTHER / V1).write_text("the only name")
    run(disk, foreign(disk, steps.share(data(disk, V1, OTHER))))
    assert (disk.images / OTHER / V1).exists()


def test_template_that_somebody_else_uses_by_now_stays_one(disk):
    first = disk.create(IMAGE, V1)
    assert first.state is tasks.State.FINISHED
    maker = disk.create(OTHER, V2, V1, source_image=IMAGE)
    third = ids.ImageId.new()
    disk.create(third, V3, V1, source_image=IMAGE)
    disk.revert(maker)
    assert maker.state is tasks.State.RECOVERED
    assert disk.meta(IMAGE, V1).voltype == "SHARED" and OTHER not in disk.domain.image_ids()


def test_directory_with_anything_in_it_stays(disk):
    place = disk.images / IMAGE
    place.mkdir()
    (place / "notes").write_text("")
    step = steps.directory(place, IMAGE)
    run(disk, ours(disk, step))
    assert place.exists()
    (place / "notes").unlink()
    (place / f"{V1}.meta.new").write_text("")
    run(disk, ours(disk, recovery.Recovery("x", *steps.DIRECTORY_450, step.params)))
    assert not place.exists()


# ---------------------------------------------------------------- deletion, renaming, growing


def test_deletion_that_was_not_begun_is_left_alone(disk):
    disk.create(IMAGE, V1)
    before = disk.state()
    run(disk, ours(disk, steps.finish_delete(disk.domain.id, IMAGE, V1)))
    assert disk.state() == before


def test_deletion_that_was_begun_is_finished_unless_in_use(disk):
    disk.create(IMAGE, V1, format="COW")
    disk.write(IMAGE, V1, legality="ILLEGAL")
    task = ours(disk, steps.finish_delete(disk.domain.id, IMAGE, V1))
    with bench.held(data(disk, V1)), pytest.raises(errors.VolumeIsBusy):
        run(disk, task)
    run(disk, task)
    run(disk, task)
    assert os.listdir(disk.images / IMAGE) == []


def test_purge_is_finished(disk):
    disk.create(IMAGE, V1)
    deletion.retire(disk.domain, IMAGE)
    run(disk, ours(disk, steps.finish_purge(disk.domain.id, IMAGE)))
    assert os.listdir(disk.images) == []


@pytest.mark.parametrize("new", [f"{V2}", f"{V1}_MERGE", f"_remove_me_abcd1234_{V1}", f"{V1}_MERGE.meta"])
def test_file_gets_its_old_name_back(disk, new):
    disk.create(IMAGE, V1)
    place = disk.images / IMAGE
    suffix = ".meta" if new.endswith(".meta") else ""
    (place / f"{V1}{suffix}").rename(place / new)
    step = recovery.Recovery("x", *steps.RENAME, (str(place / new), str(place / f"{V1}{suffix}")))
    run(disk, foreign(disk, step))
    run(disk, foreign(disk, step))
    assert (place / f"{V1}{suffix}").exists() and not (place / new).exists()
    (place / new).write_text("newer")
    run(disk, foreign(disk, step))
    assert (place / new).read_text() == "newer", "nothing is overwritten"


def test_rename_stays_within_one_image(disk):
    disk.create(IMAGE, V1)
    disk.create(OTHER, V2)
    params = (str(data(disk, V1)), str(data(disk, V3, OTHER)))
    with pytest.raises(errors.InvalidParameterException):
        run(disk, foreign(disk, recovery.Recovery("x", *steps.RENAME, params)))


@pytest.mark.parametrize("form", ["RAW", "COW"])
def test_capacity_is_settled_by_the_data(disk, form):
    disk.create(IMAGE, V1, format=form)
    disk.write(IMAGE, V1, capacity=0)
    run(disk, foreign(disk, recovery.Recovery("x", *steps.EXTEND, (disk.domain.id, IMAGE, V1))))
    assert disk.meta(IMAGE, V1).capacity == bench.MIB


def test_raw_capacity_is_not_what_a_guest_wrote(disk):
    disk.create(IMAGE, V1)
    with data(disk, V1).open("r+b") as stream:
        stream.write(b"QFI\xfb" + bytes(100))
    disk.write(IMAGE, V1, capacity=0)
    run(disk, foreign(disk, recovery.Recovery("x", *steps.EXTEND, (disk.domain.id, IMAGE, V1))))
    assert disk.meta(IMAGE, V1).capacity == bench.MIB
