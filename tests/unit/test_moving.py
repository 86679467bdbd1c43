"""Images in another domain: chains kept volume by volume, templates, what a move leaves, and crashes at every step."""

import dataclasses
import os

import pytest

from storage import errors, ids
from storage.jobs import tasks
from storage.volumes import copying, deletion, image, moving, preparation, source, syncing, volume
from tests.support import bench, disks, faults, images

pytestmark = pytest.mark.qemu

IMAGE, OTHER, THIRD = disks.IMAGE, disks.OTHER, disks.THIRD
V1, V2, V3, V4, V5 = disks.V1, disks.V2, disks.V3, disks.V4, disks.V5
MIB = disks.MIB
FINISHED, RECOVERED = tasks.State.FINISHED, tasks.State.RECOVERED


@pytest.fixture(autouse=True)
def unflushed(monkeypatch):
    """Flushing takes no time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def move(disk, *image_ids, remove=False, force=False, back=False):
    route = disk.route(force=force, back=back)
    return lambda task: moving.copy_images(route, image_ids or [IMAGE], task, disk.tool, remove=remove)


def clone(disk, image_id=IMAGE):
    return lambda task: moving.clone_structure(disk.route(), image_id, task, disk.tool)


def sync(disk, which="ALL", image_id=IMAGE):
    return lambda task: syncing.sync_data(disk.route(), image_id, which, task, disk.tool)


def legal_chain(disk, domain, leaf, image_id=IMAGE):
    """What a guest would be given; headers and records must agree."""
    return preparation.chain(domain, image.contents(domain, image_id), leaf, disks.LIMIT)


def refused(disk, error, job):
    before = disk.state()
    task = disk.run(job)
    assert (task.state, bench.code(task)) == (RECOVERED, error.code), task.record.message
    assert disk.state() == before


# ---------------------------------------------------------------- chains


@pytest.mark.parametrize("versions", [(0, 5), (3, 3), (4, 0), (5, 4)])
@pytest.mark.parametrize("base", ["RAW", "COW"])
def test_chain_is_kept(tmp_path, versions, base):
    disk = disks.Disks(tmp_path, versions)
    disk.chain(V1, V2, V3, base=base)
    expected = disk.guests(V1, V2, V3)
    disk.done(move(disk))
    assert disk.guests(V1, V2, V3) == expected == disk.guests(V1, V2, V3, domain=disk.there)
    assert legal_chain(disk, disk.there, V3) == [V3, V2, V1]
    for volume_id in (V1, V2, V3):
        here, there = disk.meta(volume_id), disk.meta(volume_id, domain=disk.there)
        same = dataclasses.replace(there, domain=here.domain, sequence=here.sequence)
        assert same == here and there.domain == disk.there.id
        if there.format == "COW":
            head = volume.header(disk.data(volume_id, domain=disk.there))
            assert head.version == (2 if versions[1] < 4 else 3)
            assert (head.backing_name or ids.BLANK) == there.parent
    assert len(disk.names(IMAGE, disk.there)) == 9 and disk.names(domain=disk.there) == [IMAGE]


def test_layers_stay_as_small_as_they_were(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, size=1 << 32)
    disk.done(move(disk))
    for volume_id in (V1, V2):
        here, there = (volume.sizes(each, IMAGE, volume_id) for each in (disk.here, disk.there))
        assert there.allocated <= here.allocated + 256 * 1024


def test_preallocated_base_takes_its_space(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, type="PREALLOCATED")
    disk.done(move(disk))
    assert volume.sizes(disk.there, IMAGE, V1).allocated >= disks.SIZE
    assert disk.meta(V1, domain=disk.there).type == "PREALLOCATED"
    assert disk.guest(V2, domain=disk.there) == disk.guest(V2)


def test_all_branches_are_brought(tmp_path):
    """A previewed snapshot has two leaves; what was left out would be lost with the original."""
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    disk.make(IMAGE, V4, V1)
    images.write_pattern(disk.data(V4), 0, 65536, 77)
    expected = disk.guests(V1, V2, V3, V4)
    disk.done(move(disk, remove=True))
    assert disk.guests(V1, V2, V3, V4, domain=disk.there) == expected
    assert disk.names() == []


def test_memory_of_a_machine_is_called_cow_and_is_not(tmp_path):
    disk = disks.Disks(tmp_path)
    path = disk.make(IMAGE, V1, format="COW")
    path.write_bytes(b"\x7fmemory" * 1000)
    disk.done(move(disk))
    copy = disk.data(V1, domain=disk.there).read_bytes()
    assert copy.rstrip(b"\0") == path.read_bytes() and disk.meta(V1, domain=disk.there).format == "COW"


def test_smaller_clusters_are_kept(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.make(IMAGE, V2, V1)
    images.create(disk.data(V2), disks.SIZE, backing=V1, backing_format="raw", cluster_size=4096, compat="0.10")
    images.write_pattern(disk.data(V2), 4096, 4096, 9)
    disk.done(move(disk))
    assert volume.header(disk.data(V2, domain=disk.there)).cluster_size == 4096
    assert disk.guest(V2, domain=disk.there) == disk.guest(V2)


@pytest.mark.parametrize("damage", [{"legality": "ILLEGAL"}, {"legality": "FAKE"}, {"parent": V5}])
def test_what_cannot_be_copied_is_not_left_out(tmp_path, damage):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.rewrite(V2, **damage)
    before = disk.state()
    task = disk.run(move(disk, remove=True))
    assert task.state is RECOVERED and disk.state() == before


def test_image_does_not_exist(tmp_path):
    refused(disks.Disks(tmp_path), errors.ImageDoesNotExistInSD, move(disks.Disks(tmp_path)))


def test_destination_exists(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.make(IMAGE, V1, domain=disk.there)
    refused(disk, errors.VolumeAlreadyExists, move(disk))
    disk.done(move(disk, force=True))
    assert disk.guest(V1, domain=disk.there) == disk.guest(V1)


def test_space(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.there.free = 3 * MIB
    refused(disk, errors.NoSpaceLeftOnDomain, move(disk))


# ---------------------------------------------------------------- moving


def test_move_removes_the_original(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    expected = disk.guests(V1, V2)
    disk.done(move(disk, remove=True))
    assert disk.names() == [] and disk.guests(V1, V2, domain=disk.there) == expected
    disk.done(move(disk, remove=True, back=True))
    assert disk.names(domain=disk.there) == [] and disk.guests(V1, V2) == expected


def test_several_at_once(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.chain(V3, V4, image_id=OTHER)
    expected = disk.guests(V1, V2), disk.guests(V3, V4, image_id=OTHER)
    disk.done(move(disk, IMAGE, OTHER, remove=True))
    assert disk.names() == []
    assert expected == (
        disk.guests(V1, V2, domain=disk.there),
        disk.guests(V3, V4, image_id=OTHER, domain=disk.there),
    )


def test_several_at_once_or_none(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.chain(V3, image_id=OTHER)
    disk.make(OTHER, V3, domain=disk.there)
    refused(disk, errors.VolumeAlreadyExists, move(disk, IMAGE, OTHER, remove=True))


def test_in_use(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    with bench.held(disk.data(V2)):
        refused(disk, errors.VolumeIsBusy, move(disk))
    with bench.held(disk.data(V2), readonly=True):
        refused(disk, errors.VolumeIsBusy, move(disk, remove=True))
        disk.done(move(disk))


# ---------------------------------------------------------------- templates


@pytest.fixture
def derived(tmp_path):
    """A template in both domains, and an image over it in the first."""
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.rewrite(V1, voltype="SHARED")
    disk.make(OTHER, V2, V1, source_image=IMAGE)
    images.write_pattern(disk.data(V2, OTHER), 0, 65536, 88)
    disk.make(OTHER, V3, V2)
    images.write_pattern(disk.data(V3, OTHER), 128 * 1024, 65536, 89)
    return disk


def test_template_must_be_there(derived):
    refused(derived, errors.ImageDoesNotExistInSD, move(derived, OTHER))


def test_image_over_a_template(derived):
    expected = derived.guests(V2, V3, image_id=OTHER)
    derived.done(
        lambda task: moving.copy_images(derived.route(), [IMAGE], task, derived.tool, remove=False) if 0 else None
    )
    copy_template(derived)
    derived.done(move(derived, OTHER, remove=True))
    assert derived.guests(V2, V3, image_id=OTHER, domain=derived.there) == expected
    assert legal_chain(derived, derived.there, V3, OTHER) == [V3, V2, V1]
    link, own = derived.data(V1, OTHER, derived.there), derived.data(V1, IMAGE, derived.there)
    assert link.samefile(own) and derived.names() == [IMAGE]


def copy_template(disk):
    """As copyImage brings it, which it does also while the template is in use here."""
    request = copying.Request(V1, "a template", shared=True, format=None, type=None, force=False)
    layers = source.chain(disk.here, image.contents(disk.here, IMAGE), V1, disks.LIMIT)
    disk.done(lambda task: copying.collapse(layers, disk.there, IMAGE, request, task, disk.tool))


def test_template_in_use_is_not_moved(derived):
    refused(derived, errors.MoveTemplateImageError, move(derived, IMAGE, remove=True))


def test_template_of_another_size(derived):
    derived.make(IMAGE, V1, domain=derived.there, size=4 * MIB)
    derived.rewrite(V1, IMAGE, derived.there, voltype="SHARED")
    refused(derived, errors.ImageIsNotLegalChain, move(derived, OTHER))


def test_no_template_there(derived):
    derived.make(IMAGE, V1, domain=derived.there)
    refused(derived, errors.VolumeNonShareable, move(derived, OTHER))


@pytest.fixture
def backup(tmp_path):
    disk = disks.Disks(tmp_path, classes=("Data", "Backup"))
    disk.chain(V1)
    disk.rewrite(V1, voltype="SHARED")
    disk.make(OTHER, V2, V1, source_image=IMAGE)
    images.write_pattern(disk.data(V2, OTHER), 0, 65536, 88)
    return disk


def test_backup_domain_gets_a_stand_in(backup):
    backup.done(move(backup, OTHER))
    fake = backup.meta(V1, IMAGE, backup.there)
    assert (fake.legality, fake.voltype, fake.format, fake.type) == ("FAKE", "SHARED", "COW", "SPARSE")
    assert fake.description == "Fake volume" and fake.capacity == disks.SIZE
    assert backup.names(OTHER, backup.there) == sorted(f"{v}{s}" for v in (V1, V2) for s in ("", ".lease", ".meta"))
    assert backup.data(V1, OTHER, backup.there).samefile(backup.data(V1, IMAGE, backup.there))


def test_the_real_template_takes_the_place_of_the_stand_in(backup):
    backup.done(move(backup, OTHER))
    expected = backup.guest(V2, OTHER)
    deletion.retire(backup.here, OTHER)
    backup.done(move(backup, IMAGE))
    assert backup.meta(V1, OTHER, backup.there).legality == "LEGAL"
    for suffix in ("", ".meta", ".lease"):
        mine, theirs = (backup.data(f"{V1}{suffix}", each, backup.there) for each in (IMAGE, OTHER))
        assert mine.samefile(theirs)
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", V1, backup.data(V2, OTHER, backup.there))
    assert backup.guest(V2, OTHER, backup.there) == expected


# ---------------------------------------------------------------- structure and data


@pytest.mark.parametrize("versions", [(0, 5), (3, 3), (5, 0)])
@pytest.mark.parametrize("base", ["RAW", "COW"])
def test_structure_then_data(tmp_path, versions, base):
    disk = disks.Disks(tmp_path, versions)
    disk.chain(V1, V2, V3, base=base)
    with bench.held(disk.data(V3)):
        disk.done(clone(disk))
        assert legal_chain(disk, disk.there, V3) == [V3, V2, V1]
        assert not any(disk.guest(V3, domain=disk.there))
        disk.done(sync(disk, "INTERNAL"))
        refused(disk, errors.VolumeIsBusy, sync(disk, "LEAF"))
    assert disk.guests(V1, V2, domain=disk.there) == disk.guests(V1, V2)
    assert disk.guest(V3, domain=disk.there) == disk.guest(V2)
    disk.done(sync(disk, "LEAF"))
    assert disk.guest(V3, domain=disk.there) == disk.guest(V3)
    assert legal_chain(disk, disk.there, V3) == [V3, V2, V1]
    assert len(disk.names(IMAGE, disk.there)) == 9 and disk.names(domain=disk.there) == [IMAGE]


def test_sync_of_all_again(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.done(clone(disk))
    disk.done(sync(disk))
    images.write_pattern(disk.data(V1), 0, 65536, 99, fmt="raw")
    disk.done(sync(disk))
    assert disk.guests(V1, V2, domain=disk.there) == disk.guests(V1, V2)


def test_only_the_leaf_of_a_structure_has_its_space_set_aside(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, type="PREALLOCATED")
    disk.make(OTHER, V3, type="PREALLOCATED")
    disk.done(clone(disk))
    disk.done(clone(disk, OTHER))
    assert volume.sizes(disk.there, IMAGE, V1).allocated == 0
    assert volume.sizes(disk.there, OTHER, V3).allocated >= disks.SIZE
    disk.done(sync(disk))
    assert volume.sizes(disk.there, IMAGE, V1).allocated >= disks.SIZE


def test_leaf_that_a_mirror_writes_to_stays_open(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.done(clone(disk))
    with bench.held(disk.data(V1, domain=disk.there), "raw", readonly=True):
        refused(disk, errors.VolumeIsBusy, sync(disk, "INTERNAL"))
    disk.done(sync(disk, "INTERNAL"))


def test_structures_differ(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.done(clone(disk))
    disk.make(IMAGE, V3, V2)
    refused(disk, errors.DestImageActionError, sync(disk))


def test_structure_exists(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.done(clone(disk))
    refused(disk, errors.VolumeAlreadyExists, clone(disk))


def test_template_in_use_gets_no_new_data(derived):
    derived.done(clone(derived, IMAGE))
    derived.make(OTHER, V4, V1, source_image=IMAGE, domain=derived.there)
    refused(derived, errors.VolumeNonWritable, sync(derived, "ALL", IMAGE))


# ---------------------------------------------------------------- cut off


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    disk = disks.Disks(tmp_path_factory.mktemp("sample"))
    disk.chain(V1, V2)
    disk.chain(V3, image_id=OTHER)
    disk.make(IMAGE, V1, domain=disk.there)
    return disk


def holders(disk, image_id):
    """Domains in which an image is seen."""
    return [domain for domain in (disk.here, disk.there) if image_id in disk.names(domain=domain)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("remove", [False, True], ids=["copy", "move"])
def test_crash_at_every_change(tmp_path, sample, remove):
    expected = {IMAGE: sample.guests(V1, V2), OTHER: sample.guests(V3, image_id=OTHER)}

    def check(disk, image_id, domain):
        assert disk.guests(*expected[image_id], image_id=image_id, domain=domain) == expected[image_id]

    tool = disks.RememberingTool()
    for number, fault in enumerate(faults.crash_points()):
        disk = sample.copied(tmp_path / str(number), tool)
        with fault.strike():
            disk.run(move(disk, IMAGE, OTHER, remove=remove, force=True))
        for each in disk.restart():
            finished = each.state is FINISHED or not each.record.recoveries
        for image_id in (IMAGE, OTHER):
            where = holders(disk, image_id)
            if disk.here in where:
                check(disk, image_id, disk.here)
            else:
                assert remove and where == [disk.there]
                check(disk, image_id, disk.there)
            if disk.there in where and V2 in image.contents(disk.there, IMAGE):
                assert finished or not remove or disk.here not in where
        rest = [image_id for image_id in (IMAGE, OTHER) if disk.here in holders(disk, image_id)]
        if rest:
            disk.done(move(disk, *rest, remove=remove, force=True))
        for image_id in (IMAGE, OTHER):
            check(disk, image_id, disk.there)
        leftovers = [name for name in disk.names(domain=disk.there) if not ids.is_id(name)]
        assert not leftovers or not rest
    assert number > 40


@pytest.mark.timeout(300)
def test_crash_at_every_change_of_a_sync(tmp_path, tmp_path_factory):
    first = disks.Disks(tmp_path_factory.mktemp("structure"))
    first.chain(V1, V2, V3)
    first.done(clone(first))
    empty, expected = first.guests(V1, V2, V3, domain=first.there), first.guests(V1, V2, V3)
    tool = disks.RememberingTool()
    for number, fault in enumerate(faults.crash_points()):
        disk = first.copied(tmp_path / str(number), tool)
        with fault.strike():
            disk.run(sync(disk))
        found = image.contents(disk.there, IMAGE)
        if all(found.records[each].legality == "LEGAL" for each in (V1, V2, V3)):
            assert disk.guest(V3, domain=disk.there) in (empty[V3], expected[V3])
        disk.restart()
        assert disk.guests(V1, V2, V3, domain=disk.there) in (empty, expected)
        assert legal_chain(disk, disk.there, V3) == [V3, V2, V1]
        disk.done(sync(disk))
        assert disk.guests(V1, V2, V3, domain=disk.there) == expected
        assert disk.names(domain=disk.there) == [IMAGE] and len(disk.names(IMAGE, disk.there)) == 9
    assert number > 20


@pytest.mark.parametrize("job", [move, clone, sync])
def test_killed_qemu_img(tmp_path, sample, job):
    disk = sample.copied(tmp_path / "storage")
    if job is sync:
        deletion.retire(disk.there, IMAGE)
        disk.done(clone(disk))
        deletion.purge(disk.there, IMAGE)
    command = "create" if job is clone else "convert"
    body = f'[ "$1" = {command} ] && case "$*" in *{V2}*) kill -9 $$;; esac\nexec qemu-img "$@"'
    disk = disks.Disks(disk.root, program=disks.wrapper(tmp_path / "qemu-img", body))
    if job is not sync:
        deletion.retire(disk.there, IMAGE)
        deletion.purge(disk.there, IMAGE)
    refused(disk, errors.CopyImageError, job(disk))


def test_stop(tmp_path, sample):
    disk = sample.copied(tmp_path / "storage")
    marker = tmp_path / "pid"
    disk = disks.Disks(disk.root, program=disks.sleeping_at(tmp_path / "qemu-img", "convert", marker))
    before = disk.state()
    task = disk.run(disks.stopped_when(marker, move(disk, force=True, remove=True)))
    assert (task.state, bench.code(task)) == (RECOVERED, errors.TaskAborted.code)
    assert disk.state() == before


def test_old_image_comes_back_although_its_rollback_never_ran(tmp_path, sample):
    """The crash falls between the two renames, and the task's record is lost."""
    disk = sample.copied(tmp_path / "storage")
    task_id = ids.TaskId.new()
    place = disk.data("", IMAGE, disk.there)
    place.rename(place.parent / f"{IMAGE}.{task_id}.old.new")
    (place.parent / f"{IMAGE}.{task_id}.new").mkdir()
    refused_task = disk.run(move(disk))
    assert bench.code(refused_task) in (errors.VolumeAlreadyExists.code, 0)
    assert V1 in image.contents(disk.there, IMAGE)
