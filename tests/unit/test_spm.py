"""The role of SPM over real directories: who gets it, what it writes, and what a crash leaves."""

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import errors, ids, locks, services, settings
from storage.hsm import pool as hsm_pool, task as hsm_task
from storage.jobs import recovery, tasks, taskstore
from storage.pools import pool, spm
from tests.support import faults, world

POOL = world.POOL
S = tasks.State


@pytest.fixture
def here(tmp_path: Path) -> Iterator[world.World]:
    made = world.World(tmp_path / "world")
    yield made
    made.services.close(1.0)


@pytest.fixture
def master(here: world.World):
    made = here.domain()
    here.pool(made)
    return made


def left_task(master, state: tasks.State = S.RUNNING, *steps: recovery.Recovery) -> ids.TaskId:
    """A task as an earlier SPM left it."""
    store = master.path / "master" / "tasks"
    store.mkdir(parents=True, exist_ok=True)
    record = tasks.Record(ids.TaskId.new(), "createVolume", state=state, recoveries=steps, message="as it was")
    taskstore.save(store, record)
    return record.id


def is_locked(master) -> bool:
    """Whether another process would be refused the cluster lock."""
    fd = os.open(master.path / "dom_md" / "ids", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# ---------------------------------------------------------------- start and stop


def test_start(here: world.World, master) -> None:
    status = here.start_spm()
    assert (status["taskState"], status["taskResult"], status["code"]) == ("finished", "success", 0)
    assert here.spm_status() == ("SPM", 0, 1)
    assert (master.metadata().spm_id, master.metadata().spm_lver) == (1, 0)
    assert is_locked(master)
    assert (master.path / "master" / "tasks").is_dir() and (master.path / "master" / "vms").is_dir()
    assert here.services.pools.spm(POOL).task_store.samefile(master.path / "master" / "tasks")


def test_stop(here: world.World, master) -> None:
    here.start_spm()
    hsm_pool.spm_stop(here.services, POOL)
    assert here.spm_status() == ("Free", 0, -1)
    assert not is_locked(master)
    with pytest.raises(errors.SpmStatusError):
        hsm_pool.spm_stop(here.services, POOL)
    with pytest.raises(errors.SpmStatusError):
        here.services.pools.spm(POOL)


def test_the_lock_version_counts_starts(here: world.World, master) -> None:
    for lver in range(3):
        here.start_spm()
        assert here.spm_status() == ("SPM", lver, 1)
        hsm_pool.spm_stop(here.services, POOL)


def test_a_second_start_is_refused(here: world.World, master) -> None:
    here.start_spm()
    with pytest.raises(errors.IsSpm):
        hsm_pool.spm_start(here.services, POOL, -1, -1, None, None)
    assert here.spm_status() == ("SPM", 0, 1)


def test_an_unknown_pool(here: world.World) -> None:
    for verb in (hsm_pool.spm_stop, hsm_pool.get_spm_status, hsm_pool.get_info):
        with pytest.raises(errors.StoragePoolUnknown):
            verb(here.services, POOL)
    with pytest.raises(errors.StoragePoolUnknown):
        hsm_pool.spm_start(here.services, POOL, -1, -1, None, None)


def test_a_start_waits_for_nobody_but_says_who_is_in_the_way(here: world.World, master) -> None:
    fd = os.open(master.path / "dom_md" / "ids", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        status = here.start_spm()
    finally:
        os.close(fd)
    assert (status["taskState"], status["taskResult"], status["code"]) == ("finished", "cleanSuccess", 651)
    assert here.spm_status() == ("Free", -1, -1)
    assert here.start_spm()["taskResult"] == "success"


def test_the_versions(here: world.World, master) -> None:
    with pytest.raises(errors.UnsupportedDomainVersion):
        hsm_pool.spm_start(here.services, POOL, -1, -1, 250, 17)
    before = master.metadata().version
    for number, version in enumerate([0, 2]):
        status = here.start_spm(version)
        assert (status["code"], status["taskResult"]) == (395, "cleanSuccess")
        # The version of the lock counts attempts, too; the role and the lock are given back.
        assert here.spm_status() == ("Free", number, -1)
        assert not is_locked(master)
    assert master.metadata().version == before
    assert here.start_spm(3)["code"] == 0


def test_the_highest_host_id(here: world.World) -> None:
    made = here.domain()
    here.pool(made, connected=False)
    here.connect(made, host=9)
    task = hsm_pool.spm_start(here.services, POOL, -1, -1, 8, None)["uuid"]
    assert here.wait(task)["code"] == 661
    task = hsm_pool.spm_start(here.services, POOL, -1, -1, None, None)["uuid"]
    assert here.wait(task)["code"] == 0
    assert here.spm_status() == ("SPM", 0, 9)


def test_a_master_that_was_demoted_meanwhile_is_not_started(here: world.World, master) -> None:
    master.update({"ROLE": "Regular"})
    assert here.start_spm()["code"] == 324
    assert here.spm_status()[0] == "Free" and not is_locked(master)


def test_a_start_that_is_stopped_leaves_no_role(here: world.World, master) -> None:
    which = here.services.pools.get(POOL)

    def check() -> None:
        assert which.role is pool.Role.CONTEND
        raise errors.TaskAborted(task="t")

    with pytest.raises(errors.TaskAborted):
        spm.start(which, here.services.tasks, domain_version=None, check=check)
    assert here.spm_status() == ("Free", 0, -1) and not is_locked(master)


def test_stop_is_refused_while_a_task_is_at_work(here: world.World, master) -> None:
    here.start_spm()
    go = threading.Event()
    store = here.services.pools.get(POOL).task_store
    held = here.services.locks.take([locks.shared(master.id)], "createVolume")
    task = here.services.tasks.schedule("createVolume", lambda task: go.wait(world.SECONDS), held=held, store=store)
    with pytest.raises(errors.TaskInProgress) as caught:
        hsm_pool.spm_stop(here.services, POOL)
    assert caught.value.code == 406 and task in str(caught.value)
    assert here.spm_status() == ("SPM", 0, 1)
    go.set()
    here.wait(task)
    hsm_pool.spm_stop(here.services, POOL)
    with pytest.raises(errors.AddTaskError):
        here.services.tasks.schedule("createVolume", lambda task: None, store=store)


def test_stop_waits_for_verbs_that_work_on_a_domain(here: world.World, master) -> None:
    here.start_spm()
    with here.services.locks.hold(locks.shared(master.id), title="reconcileVolumeChain"):
        with pytest.raises(errors.ResourceTimeout):
            hsm_pool.spm_stop(here.services, POOL)
        assert here.spm_status() == ("SPM", 0, 1)


def test_a_role_that_cannot_be_recorded_is_given_up_all_the_same(here: world.World, master) -> None:
    here.start_spm()
    full = faults.Faults(0, OSError(28, "No space left on device"))
    with full.strike(), pytest.raises(errors.SpmStopError):
        hsm_pool.spm_stop(here.services, POOL)
    assert here.spm_status() == ("Free", 0, 1) and not is_locked(master)
    here.start_spm()
    assert here.spm_status() == ("SPM", 1, 1)


def test_storage_that_is_gone_does_not_keep_the_role(here: world.World, master) -> None:
    here.start_spm()
    os.rename(master.path / "dom_md" / "metadata", master.path / "dom_md" / "aside")
    with pytest.raises(errors.SpmStopError):
        hsm_pool.spm_stop(here.services, POOL)
    assert here.services.pools.get(POOL).role is pool.Role.FREE and not is_locked(master)


def test_a_lost_lock_ends_all_changes_and_the_role_can_be_given_up(here: world.World, master) -> None:
    here.start_spm()
    ids_file = master.path / "dom_md" / "ids"
    ids_file.rename(ids_file.with_name("aside"))
    ids_file.touch()
    with pytest.raises(errors.SpmStatusError):
        here.services.pools.spm(POOL)
    with pytest.raises(errors.SpmStatusError):
        hsm_pool.destroy(here.services, POOL, 1)
    assert master.metadata().is_master
    hsm_pool.spm_stop(here.services, POOL)
    assert here.start_spm()["taskResult"] == "success"
    here.services.pools.spm(POOL)


# ---------------------------------------------------------------- tasks of an earlier SPM


def test_tasks_of_an_earlier_spm_are_rolled_back_or_shown(here: world.World, master) -> None:
    finished = left_task(master, S.FINISHED)
    cut_off = left_task(master, S.RUNNING, recovery.sentinel("sd", "img", "vol"))
    parked = left_task(master, S.RUNNING, recovery.Recovery("odd", "os", "path", "system", ("rm -rf /",)))
    assert here.start_spm()["taskResult"] == "success"
    assert here.wait(finished)["taskResult"] == "success"
    assert here.wait(cut_off)["taskResult"] == "cleanSuccess"
    status = here.wait(parked)
    assert (status["taskState"], status["code"]) == ("cleaning", 430)
    assert set(hsm_task.get_all_statuses(here.services)["allTasksStatus"]) == {finished, cut_off, parked}
    # A task that waits for somebody's decision is no reason to stay SPM.
    hsm_pool.spm_stop(here.services, POOL)


def test_the_spm_starts_again_with_its_finished_tasks(here: world.World, master) -> None:
    here.start_spm()
    store = here.services.pools.get(POOL).task_store
    task = here.services.tasks.schedule("createVolume", lambda task: "done", store=store)
    here.wait(task)
    for _ in range(2):
        hsm_pool.spm_stop(here.services, POOL)
        assert here.start_spm()["taskResult"] == "success"
        assert here.wait(task)["taskResult"] == "success"
    hsm_task.clear(here.services, task)
    assert os.listdir(master.path / "master" / "tasks") == []


def test_a_store_that_cannot_be_read_is_no_empty_store(here: world.World, master) -> None:
    (master.path / "master").write_text("in the way")
    status = here.start_spm()
    assert status["code"] == 650
    assert here.spm_status() == ("Free", 0, -1) and not is_locked(master)


# ---------------------------------------------------------------- restart and crash


def test_close_gives_the_role_up_and_the_next_daemon_takes_it(tmp_path: Path) -> None:
    first = world.World(tmp_path / "world")
    master = first.domain()
    first.pool(master)
    first.start_spm()
    first.services.close(world.SECONDS)
    assert (master.metadata().spm_id, master.metadata().spm_lver) == (-1, 0)
    second = world.World(first.root)
    second.connect(master)
    assert second.start_spm()["taskResult"] == "success"
    assert second.spm_status() == ("SPM", 1, 1)
    second.services.close(world.SECONDS)


def test_a_second_daemon_is_kept_out_by_the_lock(tmp_path: Path) -> None:
    first = world.World(tmp_path / "world")
    master = first.domain()
    first.pool(master)
    first.start_spm()
    # Its own repository, the same storage.
    other = services.build(settings.Settings(tmp_path / "other", lock_timeout=0.2))
    (tmp_path / "other" / "mnt" / master.mount.name).symlink_to(os.readlink(master.mount))
    hsm_pool.connect(other, POOL, 2, master.id, 1, None)
    task = ids.TaskId(hsm_pool.spm_start(other, POOL, -1, -1, 250, None)["uuid"])
    assert other.tasks.wait(task, world.SECONDS)
    assert other.tasks.get(task).record.code == 651
    assert first.spm_status() == ("SPM", 0, 1)
    first.services.close(1.0)
    task = ids.TaskId(hsm_pool.spm_start(other, POOL, 1, 0, 250, None)["uuid"])
    assert other.tasks.wait(task, world.SECONDS)
    assert other.tasks.get(task).record.code == 0
    assert hsm_pool.get_spm_status(other, POOL)["spm_st"] == {"spmStatus": "SPM", "spmLver": 1, "spmId": 2}
    other.close(1.0)


def crashed_start(here: world.World, fault: faults.Faults) -> None:
    with fault.strike():
        spm.start(here.services.pools.get(POOL), here.services.tasks, domain_version=None, check=lambda: None)
    here.die()


def test_window_start_can_be_repeated_and_loses_no_task(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master = here.domain()
        here.pool(master)
        finished = left_task(master, S.FINISHED)
        cut_off = left_task(master, S.RUNNING, recovery.sentinel("sd", "img", "vol"))
        crashed_start(here, fault)
        after = world.World(here.root)
        after.connect(after.services.domains.find(master.id))
        lver = after.spm_status()[1]
        assert lver in (-1, 0)
        assert after.start_spm()["taskResult"] == "success"
        assert after.spm_status() == ("SPM", lver + 1, 1)
        assert after.wait(finished)["taskResult"] == "success"
        assert after.wait(cut_off)["taskResult"] == "cleanSuccess"
        after.services.close(world.SECONDS)


def test_window_stop_leaves_a_pool_that_can_be_started(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master = here.domain()
        here.pool(master)
        here.start_spm()
        with fault.strike():
            hsm_pool.spm_stop(here.services, POOL)
        here.die()
        assert master.metadata().spm_id in (1, -1) and master.metadata().spm_lver == 0
        after = world.World(here.root)
        after.connect(after.services.domains.find(master.id))
        after.start_spm()
        assert after.spm_status() == ("SPM", 1, 1)
        after.services.close(world.SECONDS)


def test_a_foreign_record_of_a_created_volume_is_undone_by_its_table_entry(here: world.World, master) -> None:
    """What the reference leaves when it dies between making data and record: the half-made volume goes."""
    image, volume = ids.ImageId.new(), ids.VolumeId.new()
    directory = master.path / "images" / image
    directory.mkdir()
    data = directory / volume
    data.write_bytes(b"half")
    path = f"/rhev/data-center/{POOL}/{master.id}/images/{image}"
    steps = (
        recovery.Recovery("create image rollback", "image", "Image", "createImageRollback", (path,)),
        recovery.sentinel(master.id, image, volume),
        recovery.Recovery(
            "Halfbaked volume rollback",
            "volume",
            "Volume",
            "halfbakedVolumeRollback",
            (master.id, volume, f"{path}/{volume}"),
        ),
        recovery.Recovery(
            "Create volume metadata rollback", "volume", "Volume", "createVolumeMetadataRollback", (f"{path}/{volume}",)
        ),
    )
    task = left_task(master, S.RUNNING, *steps)
    here.start_spm()
    status = here.wait(task)
    assert status["taskResult"] == "cleanSuccess", status
    assert not data.exists() and not directory.exists()
    assert here.services.tasks.get(task).record.recoveries == ()
