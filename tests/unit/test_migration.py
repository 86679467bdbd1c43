"""Another master for a pool: handed over by the SPM, with a crash at every change; refresh, fence and names."""

import contextlib
import os
import threading
from pathlib import Path

import pytest

from storage import errors, ids
from storage.hsm import (
    description as hsm_description,
    master as hsm_master,
    membership as hsm_membership,
    pool as hsm_pool,
    task as hsm_task,
)
from storage.jobs import tasks
from tests.support import faults, pooled, world

POOL, OTHER_POOL = pooled.POOL, pooled.OTHER_POOL
VM = "c0ffee00-1234-1234-8905-b5eec55c1535"
here, done_task = pooled.here, pooled.done_task


def pair(here: world.World, *, in_memory: bool = False):
    """A pool of two active domains, of which this host is SPM on the first."""
    old, new = here.domain(), here.domain()
    here.pool(old, new, connected=False)
    here.connect(old, domains={old.id: "active", new.id: "active"} if in_memory else None)
    assert here.start_spm()["taskResult"] == "success"
    hsm_membership.activate(here.services, new.id, POOL)
    return old, new


def describe_machine(domain) -> Path:
    place = domain.path / "master" / "vms" / VM
    place.mkdir(parents=True)
    (place / f"{VM}.ovf").write_text("<Envelope/>")
    return place


def hand_over(here: world.World, old, new, version: int = 2) -> None:
    hsm_membership.deactivate(here.services, old.id, POOL, new.id, version)


# ---------------------------------------------------------------- migration


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_new_master_has_all_that_the_old_one_kept(here: world.World, in_memory: bool) -> None:
    old, new = pair(here, in_memory=in_memory)
    old.update({"LEASETIMESEC": "77"})
    describe_machine(old)
    task = done_task(here)
    (new.path / "master" / "vms" / "rubbish").mkdir(parents=True)
    before = here.spm_status()

    hand_over(here, old, new)

    record = new.metadata()
    assert record.is_master and record.master_version == 2 and record.pools == [POOL]
    assert record.pool_description == "a pool" and record.lease_parameters["LEASETIMESEC"] == 77
    assert (record.spm_id, record.spm_lver) == ((-1, -1) if in_memory else (1, 0))
    assert record.pool_domains == {old.id: "Attached", new.id: "Active"}
    assert not old.metadata().is_master and old.metadata().master_version == 0
    assert (new.path / "master" / "vms" / VM / f"{VM}.ovf").read_text() == "<Envelope/>"
    assert not (new.path / "master" / "vms" / "rubbish").exists()
    assert not (old.path / "master" / "vms").exists() and not (old.path / "master" / "tasks").exists()
    info = hsm_pool.get_info(here.services, POOL)["info"]
    assert (info["master_uuid"], info["master_ver"], info["name"]) == (new.id, 2, "a pool")
    assert here.spm_status() == before and here.spm_status()[0] == "SPM"
    # The task is where the next SPM looks for it, and so are new ones.
    assert os.listdir(new.path / "master" / "tasks") == [task]
    hsm_task.clear(here.services, ids.TaskId(task))
    assert os.listdir(new.path / "master" / "tasks") == []
    assert os.listdir(new.path / "master" / "tasks") == [] and done_task(here) in os.listdir(new.path / "master/tasks")
    assert here.services.pools.get(POOL).task_store.samefile(new.path / "master" / "tasks")
    with old.cluster_lock.hold(9):
        pass
    with pytest.raises(errors.AcquireLockFailure):
        new.cluster_lock.acquire(9)


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_role_goes_there_and_back_and_the_pool_lives_on(here: world.World, in_memory: bool) -> None:
    old, new = pair(here, in_memory=in_memory)
    hand_over(here, old, new)
    hsm_membership.activate(here.services, old.id, POOL)
    hand_over(here, new, old, 3)
    hsm_membership.detach(here.services, new.id, POOL)
    here.connect(old, version=3, domains={old.id: "active"} if in_memory else None)
    hsm_pool.spm_stop(here.services, POOL)
    assert here.start_spm()["taskResult"] == "success"
    assert here.services.pools.get(POOL).state().domains == {old.id: "Active"}
    hsm_pool.destroy(here.services, POOL, 1)
    assert old.metadata().pools == new.metadata().pools == []


def test_who_cannot_be_the_next_master(here: world.World) -> None:
    old, new = pair(here)
    iso, backup, attached, loose = (
        here.domain(domain_class=2),
        here.domain(domain_class=3),
        here.domain(),
        here.domain(),
    )
    for each in (iso, backup, attached):
        hsm_membership.attach(here.services, each.id, POOL)
    for each in (iso, backup):
        hsm_membership.activate(here.services, each.id, POOL)
    describe_machine(old)

    def code(next_id: ids.DomainId, version: int = 2) -> int:
        with pytest.raises(errors.StorageError) as caught:
            hsm_membership.deactivate(here.services, old.id, POOL, next_id, version)
        return caught.value.code

    assert code(new.id, 1) == 324 and code(new.id, 0) == 324
    assert code(old.id) == 1000
    assert code(loose.id) == 353 and code(ids.DomainId.new()) == 353
    assert code(attached.id) == 369
    assert code(iso.id) == 317
    assert code(backup.id) == 319
    with new.cluster_lock.hold(7):
        assert code(new.id) == 651
    new.clear_pool()
    assert code(new.id) == 353
    (new.path / "images").rename(new.path / "aside")
    assert code(new.id) == 371
    assert old.metadata().is_master and not new.metadata().is_master
    assert (old.path / "master" / "vms" / VM).is_dir() and here.spm_status()[0] == "SPM"
    done_task(here)


def test_no_master_changes_under_a_task(here: world.World) -> None:
    old, new = pair(here)
    go = threading.Event()
    store = here.services.pools.get(POOL).task_store
    task = here.services.tasks.schedule("createVolume", lambda task: go.wait(world.SECONDS), store=store)
    with pytest.raises(errors.TaskInProgress):
        hand_over(here, old, new)
    assert old.metadata().is_master and not new.metadata().is_master
    go.set()
    here.wait(task)
    hand_over(here, old, new)
    assert new.metadata().is_master


def test_what_cannot_be_copied_leaves_the_old_master(here: world.World) -> None:
    old, new = pair(here)
    describe_machine(old)
    (new.path / "master").write_text("in the way")
    with pytest.raises(errors.StorageDomainMasterCopyError):
        hand_over(here, old, new)
    assert old.metadata().is_master and not new.metadata().is_master
    done_task(here)
    with new.cluster_lock.hold(9):
        pass
    (new.path / "master").unlink()
    hand_over(here, old, new)


def test_a_master_of_a_lower_version_is_raised_first(here: world.World) -> None:
    old, new = pair(here)
    old.update({"VERSION": "4"})
    hand_over(here, old, new)
    assert new.metadata().version == 4 and new.metadata().is_master


def test_links_that_fail_after_the_switch_stop_the_tasks_until_the_next_start(here: world.World) -> None:
    old, new = pair(here)
    foreign = here.services.repository.pool_directory(POOL) / "mastersd"
    foreign.unlink()
    foreign.mkdir()
    with pytest.raises(errors.StoragePoolConnectionError):
        hand_over(here, old, new)
    assert new.metadata().is_master and not old.metadata().is_master
    with pytest.raises(errors.AddTaskError):
        done_task(here)
    foreign.rmdir()
    hsm_pool.spm_stop(here.services, POOL)
    here.connect(new, version=2)
    assert here.start_spm()["taskResult"] == "success"
    done_task(here)


def test_a_task_that_is_cleared_meanwhile_stays_away(here: world.World, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = pair(here)
    kept, cleared = done_task(here), done_task(here)
    from storage.pools import mastercopy

    real = mastercopy.copy

    def copy(old, new):
        left = real(old, new)
        hsm_task.clear(here.services, ids.TaskId(cleared))
        return left

    monkeypatch.setattr(mastercopy, "copy", copy)
    hand_over(here, old, new)
    assert os.listdir(new.path / "master" / "tasks") == [kept]


# ---------------------------------------------------------------- crash windows


@pytest.mark.parametrize("in_memory", [False, True])
def test_window_migrate_one_master_is_the_newer_and_the_pool_goes_on_with_it(tmp_path: Path, in_memory: bool) -> None:
    both = 0
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        old, new = pair(here, in_memory=in_memory)
        describe_machine(old)
        task = done_task(here)
        with fault.strike():
            hand_over(here, old, new)
        here.die()
        new.cluster_lock.release()
        old.cluster_lock.release()
        after = world.World(here.root)
        claims = {
            each.id: each.metadata().number("MASTER_VERSION", 0) for each in (old, new) if each.metadata().is_master
        }
        assert claims
        both += len(claims) == 2
        winner, loser = (new, old) if new.id in claims else (old, new)
        version = claims[winner.id]
        assert version == max(claims.values())
        maps = {old.id: "active", new.id: "active"} if in_memory else None
        if len(claims) == 2:
            with pytest.raises(errors.StoragePoolWrongMaster, match=f"{new.id}.*version 2"):
                after.connect(old, version=1, domains=maps)
        after.connect(winner, version=version, domains=maps)
        assert after.start_spm()["taskResult"] == "success"
        assert winner.metadata().is_master and not loser.metadata().is_master
        # Nothing that the pool kept is lost.
        assert (winner.path / "master" / "vms" / VM / f"{VM}.ovf").read_text() == "<Envelope/>"
        assert after.services.tasks.get(ids.TaskId(task)).state is tasks.State.FINISHED
        hsm_membership.activate(after.services, loser.id, POOL)
        hand_over(after, winner, loser, version + 1)
        assert (loser.path / "master" / "vms" / VM / f"{VM}.ovf").read_text() == "<Envelope/>"
        after.die()
        loser.cluster_lock.release()
    assert both, "no crash fell between the two records"


def test_a_failed_write_never_leaves_this_host_with_the_wrong_master(tmp_path: Path) -> None:
    for number in range(200):
        here = world.World(tmp_path / str(number))
        old, new = pair(here)
        describe_machine(old)
        fault = faults.Faults(number, OSError(5, "Input/output error"))
        with fault.strike(), contextlib.suppress(errors.StorageError):
            hand_over(here, old, new)
        which = here.services.pools.get(POOL)
        assert which.master.metadata().is_master and which.holds_lock()
        assert which.master.metadata().master_version == (2 if new.metadata().is_master else 1)
        assert (which.master.path / "master" / "vms" / VM).is_dir()
        here.services.close(1.0)
        for each in (old, new):
            each.cluster_lock.release()
        if not fault.fired:
            return
    raise AssertionError("no run survived")


# ---------------------------------------------------------------- refresh, fence, names


def test_a_refresh_takes_the_master_of_now(here: world.World) -> None:
    old, new = here.domain(), here.domain()
    here.pool(old, new)
    # Another host hands the role over.
    new.update({**old.metadata().raw, "SDUUID": new.id, "MASTER_VERSION": "2", "POOL_DOMAINS": f"{new.id}:Active"})
    old.update({"ROLE": "Regular"})
    hsm_master.refresh(here.services, POOL, new.id, 2)
    which = here.services.pools.get(POOL)
    assert which.master.id == new.id and which.state().domains == {new.id: "Active"}
    assert os.readlink(here.services.repository.master_link(POOL)) == str(new.path)


def test_a_refresh_keeps_the_map_in_memory(here: world.World) -> None:
    master, other = here.domain(), here.domain()
    here.pool(master, other, connected=False)
    here.connect(master, domains={master.id: "active", other.id: "active"})
    hsm_master.refresh(here.services, POOL, master.id, 1)
    assert here.services.pools.get(POOL).state().domains[other.id] == "Active"


def test_the_spm_needs_no_refresh(here: world.World) -> None:
    master = here.domain()
    here.pool(master)
    assert here.start_spm()["taskResult"] == "success"
    hsm_master.refresh(here.services, POOL, ids.DomainId.new(), 77)
    assert here.spm_status()[0] == "SPM"


def test_a_refresh_that_fails_disconnects(here: world.World) -> None:
    master, other = here.domain(), here.domain()
    here.pool(master, other, connected=False)
    with pytest.raises(errors.StoragePoolUnknown):
        hsm_master.refresh(here.services, POOL, master.id, 1)
    unknown = ids.DomainId.new()
    for domain_id, version, error in (
        (unknown, 1, errors.StoragePoolMasterNotFound),
        (master.id, 2, errors.StoragePoolWrongMaster),
        (other.id, 1, errors.StoragePoolWrongMaster),
    ):
        here.connect(master)
        with pytest.raises(error):
            hsm_master.refresh(here.services, POOL, domain_id, version)
        assert here.services.pools.all() == []
    here.connect(master)
    (master.path / "images").rename(master.path / "aside")
    with pytest.raises(errors.StorageDomainAccessError):
        hsm_master.refresh(here.services, POOL, master.id, 1)
    assert here.services.pools.all() == []


def test_fencing_a_dead_spm(here: world.World) -> None:
    master = here.domain()
    here.pool(master)
    master.update({"POOL_SPM_ID": "3", "POOL_SPM_LVER": "8"})
    with master.cluster_lock.hold(3), pytest.raises(errors.SpmFenceError):
        hsm_pool.fence(here.services, POOL)
    assert here.spm_status() == ("Free", 8, 3)
    assert hsm_pool.fence(here.services, POOL)["spm_st"] == {"spmStatus": "Free", "spmLver": -1, "spmId": -1}


def test_fencing_ends_the_role_of_this_host(here: world.World) -> None:
    master = here.domain()
    here.pool(master)
    with pytest.raises(errors.StoragePoolUnknown):
        hsm_pool.fence(here.services, OTHER_POOL)
    assert here.start_spm()["taskResult"] == "success"
    go = threading.Event()
    store = here.services.pools.get(POOL).task_store
    task = here.services.tasks.schedule("createVolume", lambda task: go.wait(world.SECONDS), store=store)
    with pytest.raises(errors.SpmFenceError):
        hsm_pool.fence(here.services, POOL)
    assert here.spm_status() == ("SPM", 0, 1)
    go.set()
    here.wait(task)
    hsm_pool.fence(here.services, POOL)
    assert here.spm_status() == ("Free", -1, -1)
    with master.cluster_lock.hold(9):
        pass


def test_with_a_map_fencing_only_tells_the_status(here: world.World) -> None:
    master = here.domain()
    here.pool(master, connected=False)
    here.connect(master, domains={master.id: "active"})
    assert here.start_spm()["taskResult"] == "success"
    assert hsm_pool.fence(here.services, POOL)["spm_st"]["spmStatus"] == "SPM"


def test_names(here: world.World) -> None:
    master, loose = here.domain(), here.domain()
    with pytest.raises(errors.StoragePoolUnknown):
        hsm_description.set_pool(here.services, POOL, "x")
    here.pool(master)
    with pytest.raises(errors.SpmStatusError):
        hsm_description.set_pool(here.services, POOL, "x" * 51)
    with pytest.raises(errors.SpmStatusError):
        hsm_description.set_domain(here.services, master.id, "x")
    assert here.start_spm()["taskResult"] == "success"
    hsm_description.set_pool(here.services, POOL, "é" * 50)
    assert hsm_pool.get_info(here.services, POOL)["info"]["name"] == "é" * 50
    hsm_description.set_domain(here.services, master.id, "ü" * 50)
    assert master.metadata().description == "ü" * 50
    for text, error in (
        ("x" * 51, errors.StoragePoolDescriptionTooLongError),
        ("a\nb", errors.InvalidParameterException),
    ):
        with pytest.raises(error):
            hsm_description.set_pool(here.services, POOL, text)
    for domain_id, text, error in (
        (ids.DomainId.new(), "x" * 51, errors.StorageDomainDescriptionTooLongError),
        (ids.DomainId.new(), "x", errors.StorageDomainDoesNotExist),
        (loose.id, "x", errors.StorageDomainActionError),
        (master.id, "a\u2028b", errors.InvalidParameterException),
    ):
        with pytest.raises(error):
            hsm_description.set_domain(here.services, domain_id, text)
    loose.set_pool(POOL)
    with pytest.raises(errors.StorageDomainNotMemberOfPool):
        hsm_description.set_domain(here.services, loose.id, "x")
    loose.update({"POOL_UUID": OTHER_POOL})
    with pytest.raises(errors.StoragePoolUnknown):
        hsm_description.set_domain(here.services, loose.id, "x")


def test_old_domains_take_ascii_names_only(here: world.World) -> None:
    master = here.domain(version=0)
    here.pool(master)
    assert here.start_spm()["taskResult"] == "success"
    for call in (
        lambda: hsm_description.set_pool(here.services, POOL, "é"),
        lambda: hsm_description.set_domain(here.services, master.id, "é"),
    ):
        with pytest.raises(errors.UnicodeArgumentException):
            call()
