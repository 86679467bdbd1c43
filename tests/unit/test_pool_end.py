"""Disconnecting from pools and destroying them, over real directories."""

import threading
from pathlib import Path

import pytest

from storage import errors
from storage.hsm import pool as hsm_pool
from tests.support import faults, pooled, world

POOL = pooled.POOL
here, links, files_of = pooled.here, pooled.links, pooled.files_of


# ---------------------------------------------------------------- disconnect, destroy


def test_disconnect_removes_the_links_only(here: world.World) -> None:
    master = here.domain()
    here.pool(master)
    before = files_of(master)
    hsm_pool.disconnect(here.services, POOL, 99)
    assert links(here) == {} and not here.services.repository.pool_directory(POOL).exists()
    assert files_of(master) == before
    hsm_pool.disconnect(here.services, POOL, 1)
    with pytest.raises(errors.InvalidParameterException):
        hsm_pool.disconnect(here.services, POOL, -1)
    here.connect(master)


def test_disconnect_of_the_spm_is_refused(here: world.World) -> None:
    master = here.domain()
    here.pool(master)
    here.start_spm()
    with pytest.raises(errors.IsSpm):
        hsm_pool.disconnect(here.services, POOL, 1)
    assert here.spm_status()[0] == "SPM"


def test_destroy_detaches_everything_and_disconnects(here: world.World) -> None:
    master, other = here.domain(), here.domain()
    here.pool(master, other)
    with pytest.raises(errors.SpmStatusError):
        hsm_pool.destroy(here.services, POOL, 1)
    here.start_spm()
    with pytest.raises(errors.HostIdMismatch):
        hsm_pool.destroy(here.services, POOL, 2)
    hsm_pool.destroy(here.services, POOL, 1)
    for each in (master, other):
        assert each.metadata().pools == [] and not each.metadata().is_master
    assert master.metadata().spm_id == -1
    assert hsm_pool.get_connected_list(here.services) == {"poollist": []} and links(here) == {}
    with pytest.raises(errors.StoragePoolUnknown):
        hsm_pool.destroy(here.services, POOL, 1)
    with master.cluster_lock.hold(1):
        pass
    here.pool(other, master)
    assert here.start_spm()["taskResult"] == "success"


def test_destroy_refuses_while_a_task_is_at_work(here: world.World) -> None:
    master = here.domain()
    here.pool(master)
    here.start_spm()
    go = threading.Event()
    store = here.services.pools.get(POOL).task_store
    task = here.services.tasks.schedule("createVolume", lambda task: go.wait(world.SECONDS), store=store)
    before = files_of(master)
    with pytest.raises(errors.TaskInProgress):
        hsm_pool.destroy(here.services, POOL, 1)
    assert {k: v for k, v in files_of(master).items() if "tasks" not in k} == {
        k: v for k, v in before.items() if "tasks" not in k
    }
    go.set()
    here.wait(task)
    hsm_pool.destroy(here.services, POOL, 1)


def test_destroy_goes_on_without_a_domain_that_is_gone(here: world.World) -> None:
    master, other = here.domain(), here.domain()
    here.pool(master, other)
    here.start_spm()
    (other.path / "dom_md" / "metadata").unlink()
    hsm_pool.destroy(here.services, POOL, 1)
    assert master.metadata().pools == []


def test_a_destroy_that_fails_keeps_the_role(here: world.World) -> None:
    master, other = here.domain(), here.domain()
    here.pool(master, other)
    here.start_spm()
    directory = master.path / "dom_md"
    (directory / "metadata").rename(directory / "aside")
    with pytest.raises(errors.StorageDomainMasterError):
        hsm_pool.destroy(here.services, POOL, 1)
    (directory / "aside").rename(directory / "metadata")
    assert here.spm_status()[0] == "SPM"
    here.wait(here.services.tasks.schedule("x", lambda task: None, store=here.services.pools.get(POOL).task_store))
    hsm_pool.destroy(here.services, POOL, 1)


def test_window_destroy_can_be_finished(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master, other = here.domain(), here.domain()
        here.pool(master, other)
        here.start_spm()
        with fault.strike():
            hsm_pool.destroy(here.services, POOL, 1)
        here.die()
        after = world.World(here.root)
        master, other = after.services.domains.find(master.id), after.services.domains.find(other.id)
        if master.metadata().is_master:
            after.connect(master)
            assert after.start_spm()["taskResult"] == "success"
            hsm_pool.destroy(after.services, POOL, 1)
        assert master.metadata().pools == [] and other.metadata().pools == []
