"""The verbs on volumes and images over real services: one domain, one pool, this host its SPM."""

import os
import threading
import time

import pytest

from storage import errors, ids, locks, services, settings
from storage.hsm import connection, domain, image, pool, task, volume
from storage.jobs import tasks
from tests.support import bench

pytestmark = pytest.mark.qemu

IMAGE, OTHER = bench.IMAGE, bench.OTHER
V1, V2, V3, V4 = bench.new_ids(4)
BLANK_IMAGE, BLANK_VOLUME, BLANK_POOL = ids.ImageId(ids.BLANK), ids.VolumeId(ids.BLANK), ids.PoolId(ids.BLANK)
SP = ids.PoolId("6e4d6a96-1234-1234-8905-b5eec55c1535")
SD = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")
MIB = bench.MIB
COW, RAW = 4, 5


class Host:
    """Services with a pool on a directory."""

    def __init__(self, root, version=3):
        self.disk = root / "disk"
        self.disk.mkdir()
        self.services = services.build(settings.Settings(root / "repo", lock_timeout=0.2))
        connection.connect(self.services, 4, [{"id": "x", "connection": str(self.disk)}])
        domain.create(self.services, SD, 4, str(self.disk), "name", 1, version)
        pool.create(self.services, SP, "pool", SD, [SD], 1, None, None, None, None)
        pool.connect(self.services, SP, 1, SD, 1, None)

    def start(self):
        self.done(pool.spm_start(self.services, SP, -1, -1, None, None))

    def done(self, reply):
        """Wait for a task, and return its status."""
        task_id = ids.TaskId(reply["uuid"])
        assert self.services.tasks.wait(task_id, 30)
        return task.get_status(self.services, task_id)["taskStatus"]

    def create(self, image_id, volume_id, parent=BLANK_VOLUME, source=BLANK_IMAGE, **changes):
        values = {"size": MIB, "volume_format": RAW if parent == ids.BLANK else COW, "preallocate": 2}
        values |= {"disk_type": "2", "description": "d", **changes}
        return self.done(
            volume.create(
                self.services, SP, SD, image_id, volume_id, **values, source_image=source, source_volume=parent
            )
        )

    def chain(self, image_id, *volume_ids):
        parent = BLANK_VOLUME
        for volume_id in volume_ids:
            assert self.create(image_id, volume_id, parent)["taskResult"] == "success"
            parent = volume_id

    def info(self, image_id, volume_id):
        return volume.get_info(self.services, SP, SD, image_id, volume_id)["info"]

    def path(self, image_id, volume_id=""):
        return self.services.domains.find(SD).image_directory(image_id) / volume_id


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path)
    made.start()
    yield made
    made.services.close(5)


def test_life_of_a_chain(host):
    """The flow of flows.md: make three, look, prepare, delete from the leaf down, delete the image."""
    s = host.services
    assert host.create(IMAGE, V1, size=1024 * MIB)["taskResult"] == "success"
    for upper, lower, source in ((V2, V1, IMAGE), (V3, V2, BLANK_IMAGE)):
        assert host.create(IMAGE, upper, lower, source, size=512)["taskResult"] == "success"
    assert [host.info(IMAGE, v)["voltype"] for v in (V1, V2, V3)] == ["INTERNAL", "INTERNAL", "LEAF"]
    leaf = host.info(IMAGE, V3)
    assert (leaf["format"], leaf["type"], leaf["legality"], leaf["status"]) == ("COW", "SPARSE", "LEGAL", "OK")
    assert (leaf["capacity"], leaf["parent"], leaf["mtime"], leaf["pool"]) == (str(1024 * MIB), V2, "0", "")
    assert volume.get_path(s, SP, SD, IMAGE, V3) == {"path": str(host.path(IMAGE, V3))}
    assert volume.get_size(s, SP, SD, IMAGE, V1) == {"apparentsize": str(1024 * MIB), "truesize": "0"}
    assert sorted(domain.get_volumes(s, SD, IMAGE)["uuidlist"]) == [V1, V2, V3]

    status = host.done(image.delete_volumes(s, SP, SD, IMAGE, [V1], False, False))
    assert (status["taskState"], status["taskResult"], status["code"]) == ("finished", "cleanSuccess", 204)
    status = host.done(image.delete_volumes(s, SP, SD, IMAGE, [V3], False, False))
    assert status["taskResult"] == "success" and host.info(IMAGE, V2)["voltype"] == "LEAF"

    reply = image.delete(s, SP, SD, IMAGE, False, False)
    assert not host.path(IMAGE).exists(), "gone when the call returns"
    assert host.done(reply)["taskResult"] == "success"
    assert os.listdir(host.path(IMAGE).parent) == []
    with pytest.raises(errors.ImageDoesNotExistInSD):
        image.delete(s, SP, SD, IMAGE, False, False)


def test_result_and_revert_of_a_creation(host):
    reply = volume.create(host.services, SP, SD, IMAGE, V1, MIB, RAW, 2, "2", "d", BLANK_IMAGE, BLANK_VOLUME)
    host.done(reply)
    assert task.get_all(host.services)["tasks"][reply["uuid"]]["result"] == {"uuid": V1}
    task.revert(host.services, ids.TaskId(reply["uuid"]))
    assert not host.path(IMAGE).exists()


def test_template(host):
    host.create(IMAGE, V1)
    assert host.create(OTHER, V2, V1, IMAGE)["taskResult"] == "success"
    assert sorted(domain.get_volumes(host.services, SD, OTHER)["uuidlist"]) == [V1, V2]
    with pytest.raises(errors.CannotDeleteSharedVolume):
        image.delete(host.services, SP, SD, IMAGE, False, False)
    assert host.services.locks.owners() == {}
    volume.set_description(host.services, SP, SD, IMAGE, V1, "new")
    assert host.info(OTHER, V1)["description"] == "new"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"volume_format": 3}, 202),
        ({"volume_format": RAW, "parent": V1}, 202),
        ({"preallocate": 0}, 231),
        ({"size": 0}, 229),
        ({"description": "a\nb"}, 1000),
        ({"disk_type": "2\n"}, 1000),
        ({"volume_id": BLANK_VOLUME}, 1000),
        ({"image_id": BLANK_IMAGE}, 1000),
    ],
    ids=str,
)
def test_bad_arguments_of_a_creation_are_refused_at_once(host, changes, code):
    values = {"image_id": IMAGE, "volume_id": V2, **changes}
    with pytest.raises(errors.StorageError) as caught:
        host.create(values.pop("image_id"), values.pop("volume_id"), values.pop("parent", BLANK_VOLUME), **values)
    assert caught.value.code == code
    assert host.services.locks.owners() == {} and not host.path(IMAGE).exists()


def test_only_the_spm_writes(tmp_path):
    host = Host(tmp_path)
    for call in (
        lambda: host.create(IMAGE, V1),
        lambda: image.delete(host.services, SP, SD, IMAGE, False, False),
        lambda: image.delete_volumes(host.services, SP, SD, IMAGE, [V1], False, False),
        lambda: volume.set_legality(host.services, SP, SD, IMAGE, V1, "LEGAL"),
        lambda: volume.set_description(host.services, SP, SD, IMAGE, V1, ""),
    ):
        with pytest.raises(errors.SpmStatusError):
            call()
    host.services.close(5)


def test_iso_domain_holds_no_disks(host, monkeypatch):
    monkeypatch.setattr("storage.domains.filedomain.FileDomain.domain_class", "Iso")
    with pytest.raises(errors.ImagesNotSupportedError):
        host.create(IMAGE, V1)


def test_prepare_and_teardown(host):
    s = host.services
    host.chain(IMAGE, V1, V2)
    found = image.prepare(s, SP, SD, IMAGE, V2)
    assert found["path"] == str(s.repository.root / SP / SD / "images" / IMAGE / V2)
    assert os.path.samefile(found["path"], host.path(IMAGE, V2))
    assert found["info"] == {
        "domainID": SD,
        "imageID": IMAGE,
        "volumeID": V2,
        "path": str(host.path(IMAGE, V2)),
        "volType": "path",
    }
    assert {each["volumeID"] for each in found["imgVolumesInfo"]} == {V1, V2}
    found = image.prepare(s, BLANK_POOL, SD, IMAGE, V1)
    assert found["path"] == str(s.repository.run / SD / IMAGE / V1)
    assert os.path.samefile(found["path"], host.path(IMAGE, V1))
    for _ in range(2):
        image.teardown(s, SP, SD, IMAGE, V2)
        assert not os.path.lexists(s.repository.run_link(SD, IMAGE))


@pytest.mark.parametrize(("image_id", "volume_id"), [(IMAGE, V3), (OTHER, V1), (IMAGE, None)])
def test_prepare_without_such_a_leaf(host, image_id, volume_id):
    host.create(IMAGE, V1)
    with pytest.raises(errors.VolumeDoesNotExist):
        image.prepare(host.services, SP, SD, image_id, volume_id)
    assert not os.path.lexists(host.services.repository.run_link(SD, IMAGE))


def test_illegal_volume_is_not_prepared(host):
    host.chain(IMAGE, V1, V2)
    volume.set_legality(host.services, SP, SD, IMAGE, V1, "ILLEGAL")
    assert host.info(IMAGE, V1)["status"] == "ILLEGAL"
    with pytest.raises(errors.PrepareIllegalVolumeError, match="reconcileVolumeChain"):
        image.prepare(host.services, SP, SD, IMAGE, V2)
    with pytest.raises(errors.StorageDomainDoesNotExist):
        image.prepare(host.services, SP, ids.DomainId(ids.BLANK), IMAGE, V2)


def test_prepare_reads_one_directory_only(host, monkeypatch):
    host.chain(IMAGE, V1, V2)
    monkeypatch.setattr(
        "storage.domains.filedomain.FileDomain.image_ids", lambda self: pytest.fail("looked at the domain")
    )
    image.prepare(host.services, SP, SD, IMAGE, V2)


def test_image_that_somebody_works_on_is_waited_for(host):
    host.create(IMAGE, V1)
    with host.services.locks.hold(locks.exclusive(locks.image_name(IMAGE, SD)), title="somebody"):
        for call in (
            lambda: image.prepare(host.services, SP, SD, IMAGE, V1),
            lambda: image.delete(host.services, SP, SD, IMAGE, False, False),
            lambda: host.create(OTHER, V2, V1, IMAGE),
            lambda: volume.set_legality(host.services, SP, SD, IMAGE, V1, "LEGAL"),
        ):
            with pytest.raises(errors.ResourceTimeout, match="somebody"):
                call()
        assert host.info(IMAGE, V1)["status"] == "OK", "looking does not wait"
    assert host.services.locks.owners() == {}


def test_image_in_use_is_not_deleted(host):
    host.create(IMAGE, V1, volume_format=COW)
    with bench.held(host.path(IMAGE, V1)):
        with pytest.raises(errors.VolumeIsBusy):
            image.delete(host.services, SP, SD, IMAGE, False, False)
        status = host.done(image.delete_volumes(host.services, SP, SD, IMAGE, [V1], False, True))
    assert status["code"] == 203 and host.info(IMAGE, V1)["status"] == "OK"


def test_next_deletion_frees_what_an_earlier_one_left(host):
    host.create(IMAGE, V1)
    left = host.path(IMAGE).parent / f"_remove_me_{OTHER}"
    left.mkdir()
    (left / V2).write_text("")
    assert domain.get_images(host.services, SD) == {"imageslist": [IMAGE]}
    host.done(image.delete(host.services, SP, SD, IMAGE, False, False))
    assert os.listdir(host.path(IMAGE).parent) == []


def test_restart_rolls_back_what_was_cut_off(tmp_path, monkeypatch):
    """A creation that hangs when the process ends is undone by the next SPM, through the records on disk."""
    host = Host(tmp_path)
    host.start()
    host.create(IMAGE, V1)
    monkeypatch.setattr("storage.volumes.creation._verify", lambda *args: threading.Event().wait())
    reply = volume.create(host.services, SP, SD, IMAGE, V2, MIB, COW, 2, "2", "d", BLANK_IMAGE, V1)
    deadline = time.monotonic() + 30
    while not host.path(IMAGE, V2).exists() or not host.path(IMAGE, V2).stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    store = host.services.repository.task_store(SP)
    after = services.build(settings.Settings(tmp_path / "repo"))
    cut_off = after.tasks.load(store)
    assert ids.TaskId(reply["uuid"]) in cut_off
    after.tasks.recover(cut_off)
    assert after.tasks.wait(ids.TaskId(reply["uuid"]), 30)
    assert after.tasks.get(ids.TaskId(reply["uuid"])).state is tasks.State.RECOVERED
    assert sorted(os.listdir(host.path(IMAGE))) == [V1, f"{V1}.meta"]
    after.close(5)
