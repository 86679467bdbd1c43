"""Another master for a pool whose master is lost; with a crash at every change."""

from pathlib import Path

import pytest

from storage import errors, ids
from storage.hsm import master as hsm_master, pool as hsm_pool
from storage.jobs import tasks
from tests.support import faults, pooled, world

POOL, OTHER_POOL = pooled.POOL, pooled.OTHER_POOL
here, done_task = pooled.here, pooled.done_task


# ---------------------------------------------------------------- reconstruction


def reconstruct(here: world.World, master, *others, version: int = 10, host: int | None = 1, name: str = "n") -> None:
    domains = {master.id: "active", **{each.id: "Inactive" for each in others}}
    hsm_master.reconstruct(here.services, POOL, name, master.id, version, domains, host)


def test_a_pool_gets_a_new_master(here: world.World) -> None:
    lost, new, other = here.domain(), here.domain(), here.domain()
    here.pool(lost, new, other, connected=False)
    (lost.path / "dom_md" / "metadata").unlink()
    reconstruct(here, new, other, lost)
    here.connect(new, version=10)
    state = here.services.pools.get(POOL).state()
    assert (state.name, state.master_version, state.spm_id, state.lver) == ("n", 10, -1, -1)
    assert state.domains == {new.id: "Active", other.id: "Attached", lost.id: "Attached"}
    assert here.start_spm()["taskResult"] == "success"


def test_the_old_master_may_be_the_new_one(here: world.World) -> None:
    master, other = here.domain(), here.domain()
    here.pool(master, other)
    assert here.start_spm()["taskResult"] == "success"
    task = done_task(here)
    with pytest.raises(errors.StoragePoolConnected):
        reconstruct(here, master, other)
    hsm_pool.spm_stop(here.services, POOL)
    hsm_pool.disconnect(here.services, POOL, 1)
    reconstruct(here, master, other, host=None)
    here.connect(master, version=10)
    assert here.start_spm()["taskResult"] == "success"
    assert here.services.tasks.get(ids.TaskId(task)).state is tasks.State.FINISHED


def test_a_reachable_old_master_loses_the_role(here: world.World) -> None:
    old, new = here.domain(), here.domain()
    here.pool(old, new, connected=False)
    with old.cluster_lock.hold(7):
        reconstruct(here, new, old)
        assert old.metadata().is_master, "somebody is SPM on it: that is not ours to write"
    here.connect(new, version=10)
    assert here.start_spm()["taskResult"] == "success"
    assert not old.metadata().is_master
    hsm_pool.spm_stop(here.services, POOL)
    hsm_pool.disconnect(here.services, POOL, 1)
    reconstruct(here, old, new, version=11)
    assert old.metadata().is_master and not new.metadata().is_master


def test_lease_parameters_of_a_reconstruction(here: world.World) -> None:
    master = here.domain()
    hsm_master.reconstruct(here.services, POOL, "n", master.id, 1, {master.id: "Active"}, 1, 7, 70, 12, 4)
    assert list(master.metadata().lease_parameters.values()) == [7, 70, 12, 4]


def test_what_cannot_be_reconstructed(here: world.World) -> None:
    master, foreign, iso, backup, old = (
        here.domain(),
        here.domain(),
        here.domain(domain_class=2),
        here.domain(domain_class=3),
        here.domain(version=0),
    )
    foreign.set_pool(OTHER_POOL)
    records = {each.id: each.metadata() for each in (master, foreign, iso, backup, old)}

    def code(domain, domains=None, *, host: int | None = 1, name: str = "n", version: int = 2) -> int:
        with pytest.raises(errors.StorageError) as caught:
            hsm_master.reconstruct(
                here.services, POOL, name, domain.id, version, domains or {domain.id: "active"}, host
            )
        return caught.value.code

    assert code(foreign) == 380
    assert code(iso) == 317 and code(backup) == 319
    assert code(master, host=-1) == 1000 and code(master, version=-1) == 1000
    assert code(master, {foreign.id: "active"}) == 1000
    assert code(master, {master.id: "active", foreign.id: "sleepy"}) == 376
    assert code(master, name="x" * 51) == 327
    assert code(old, name="pôôl") == 4900
    assert code(master, host=251) == 661 and code(master, host=0) == 661
    with master.cluster_lock.hold(7):
        assert code(master) == 651
    assert {each.id: each.metadata() for each in (master, foreign, iso, backup, old)} == records
    unknown = ids.DomainId.new()
    with pytest.raises(errors.StorageDomainDoesNotExist):
        hsm_master.reconstruct(here.services, POOL, "n", unknown, 1, {unknown: "active"}, 1)
    (master.path / "images").rename(master.path / "aside")
    assert code(master) == 379


def test_window_reconstruct_there_is_a_master_or_none_and_the_call_can_be_repeated(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        old, new = here.domain(), here.domain()
        here.pool(old, new, connected=False)
        (new.path / "master" / "tasks" / "stale").mkdir(parents=True)
        with fault.strike():
            reconstruct(here, new, old)
        for each in (old, new):
            each.cluster_lock.release()
        after = world.World(here.root)
        if new.metadata().is_master:
            assert new.metadata().master_version == 10 and not (new.path / "master" / "tasks").exists()
        else:
            assert old.metadata().is_master
            after.connect(old)
            hsm_pool.disconnect(after.services, POOL, 1)
        reconstruct(after, new, old)
        after.connect(new, version=10)
        assert not old.metadata().is_master
        after.die()
