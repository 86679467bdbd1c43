"""Making, connecting and describing pools over real directories."""

import os
import stat
from pathlib import Path

import pytest

from storage import errors, ids
from storage.domains import domain_metadata
from storage.hsm import pool as hsm_pool, task as hsm_task
from storage.pools import pool, poollinks
from tests.support import faults, pooled, world

POOL, OTHER_POOL = pooled.POOL, pooled.OTHER_POOL
here, links, files_of = pooled.here, pooled.links, pooled.files_of


# ---------------------------------------------------------------- create


def test_create_writes_what_a_new_pool_has(here: world.World) -> None:
    master, other = here.domain(), here.domain()
    here.pool(master, other, connected=False)
    record = master.metadata()
    assert record.is_master and record.pools == [POOL]
    assert (record.pool_description, record.master_version) == ("a pool", 1)
    assert (record.spm_id, record.spm_lver) == (-1, -1)
    assert record.pool_domains == {master.id: "Active", other.id: "Attached"}
    assert record.lock_policy == "ON" and record.lease_parameters == dict(domain_metadata.LEASE_DEFAULTS)
    assert not any("CREATING" in key for key in record.raw)
    assert other.metadata().pools == [POOL] and not other.metadata().is_master
    with pytest.raises(errors.StoragePoolUnknown):
        hsm_pool.get_spm_status(here.services, POOL)


@pytest.mark.parametrize(
    ("given", "recorded", "policy"), [((7, 70, 12, 4), (7, 70, 12, 4), ""), ((7, 70, 0, 4), (5, 60, 10, 3), "ON")]
)
def test_lease_parameters_count_only_together(
    here: world.World, given: tuple[int, ...], recorded: tuple[int, ...], policy: str
) -> None:
    master = here.domain()
    hsm_pool.create(here.services, POOL, "p", master.id, [master.id], 1, *given)
    record = master.metadata()
    assert tuple(record.lease_parameters[key] for key in domain_metadata.LEASE_DEFAULTS) == recorded
    assert record.lock_policy == policy


@pytest.mark.parametrize("name", ["a\nb", "a\x85b", "a\u2028b", "a\x1cb", "\x00", "a\rb"])
def test_a_name_with_control_characters_or_line_separators_is_refused(here: world.World, name: str) -> None:
    master = here.domain()
    before = files_of(master)
    with pytest.raises(errors.InvalidParameterException, match="poolName"):
        hsm_pool.create(here.services, POOL, name, master.id, [master.id], 1)
    assert files_of(master) == before


def refused(here: world.World, error: type[errors.StorageError], master, *others, name: str = "p", version: int = 1):
    before = {each.id: files_of(each) for each in (master, *others)}
    names = [each.id for each in (master, *others)]
    with pytest.raises(error) as caught:
        hsm_pool.create(here.services, POOL, name, master.id, names, version)
    assert {each.id: files_of(each) for each in (master, *others)} == before
    return caught.value


def test_create_refusals_change_nothing(here: world.World) -> None:
    master, old, iso, backup = (
        here.domain(),
        here.domain(version=0),
        here.domain(domain_class=2),
        here.domain(domain_class=3),
    )
    assert refused(here, errors.MixedSDVersionError, old, master).code == 398
    assert refused(here, errors.StoragePoolDescriptionTooLongError, master, name="x" * 51).code == 327
    assert refused(here, errors.StoragePoolCreationError, master, master).code == 301
    assert refused(here, errors.IsoCannotBeMasterDomain, iso).code == 317
    assert refused(here, errors.BackupCannotBeMasterDomain, backup).code == 319
    assert refused(here, errors.UnicodeArgumentException, old, name="pôôl").code == 4900
    assert refused(here, errors.InvalidParameterException, master, version=-1).code == 1000
    with pytest.raises(errors.InvalidParameterException, match="domainList"):
        hsm_pool.create(here.services, POOL, "p", master.id, [iso.id], 1)
    unknown = ids.DomainId.new()
    with pytest.raises(errors.StorageDomainDoesNotExist):
        hsm_pool.create(here.services, POOL, "p", unknown, [unknown], 1)
    with pytest.raises(errors.StorageDomainAccessError, match=str(unknown)):
        hsm_pool.create(here.services, POOL, "p", master.id, [master.id, unknown], 1)
    with pytest.raises(errors.TooManyDomainsInStoragePoolError):
        many = [master.id, *(ids.DomainId.new() for _ in range(pool.MAX_DOMAINS))]
        hsm_pool.create(here.services, POOL, "p", master.id, many, 1)


def test_create_refuses_domains_of_a_pool(here: world.World) -> None:
    master, other, fresh = here.domain(), here.domain(), here.domain()
    here.pool(master, other, connected=False)
    assert refused(here, errors.StorageDomainAlreadyAttached, master).code == 380
    assert refused(here, errors.StorageDomainAlreadyAttached, fresh, other).code == 380


def test_create_refuses_a_master_whose_lock_is_held(here: world.World) -> None:
    master = here.domain()
    with master.cluster_lock.hold(7):
        assert refused(here, errors.AcquireLockFailure, master).code == 651


def test_a_damaged_domain_is_refused(here: world.World) -> None:
    master, other = here.domain(), here.domain()
    (other.path / "dom_md" / "metadata").write_bytes(b"VERSION=3\n_SHA_CKSUM=" + b"0" * 40 + b"\n")
    assert refused(here, errors.StorageDomainAccessError, master, other).code == 379


def test_an_iso_domain_may_belong_to_several_pools(here: world.World) -> None:
    first, second, iso = here.domain(), here.domain(), here.domain(domain_class=2)
    here.pool(first, iso, connected=False)
    hsm_pool.create(here.services, OTHER_POOL, "q", second.id, [second.id, iso.id], 1)
    assert set(iso.metadata().pools) == {POOL, OTHER_POOL}


def test_window_create_there_is_a_pool_or_none_and_the_call_can_be_repeated(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master, other = here.domain(), here.domain()
        with fault.strike():
            here.pool(master, other, connected=False)
        after = world.World(here.root)
        master, other = after.services.domains.find(master.id), after.services.domains.find(other.id)
        if master.metadata().is_master:
            assert other.metadata().pools == [POOL] and master.metadata().pools == [POOL]
        else:
            assert master.metadata().pools == []
            with pytest.raises(errors.StoragePoolWrongMaster):
                after.connect(master)
            after.pool(master, other, connected=False)
        after.connect(master)
        assert after.services.pools.get(POOL).state().domains == {master.id: "Active", other.id: "Attached"}


def test_window_create_leaves_nothing_that_another_pool_could_take_by_mistake(tmp_path: Path) -> None:
    """A domain that was reached before the crash belongs to the pool that was meant, and to no other."""
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master, other, third = here.domain(), here.domain(), here.domain()
        with fault.strike():
            here.pool(master, other, connected=False)
        if other.metadata().pools:
            with pytest.raises(errors.StorageDomainAlreadyAttached):
                hsm_pool.create(here.services, OTHER_POOL, "q", third.id, [third.id, other.id], 1)


# ---------------------------------------------------------------- connect


def test_connect_makes_links_to_domains_in_use(here: world.World) -> None:
    master, attached = here.domain(), here.domain()
    here.pool(master, attached)
    assert links(here) == {master.id: str(master.path), "mastersd": str(master.path)}
    assert hsm_pool.get_connected_list(here.services) == {"poollist": [POOL]}
    assert here.spm_status() == ("Free", -1, -1)


@pytest.mark.parametrize("spm", [False, True])
def test_connect_again_is_fine_and_changes_nothing(here: world.World, spm: bool) -> None:
    master = here.domain()
    here.pool(master)
    if spm:
        here.start_spm()
    before, status, linked = files_of(master), here.spm_status(), links(here)
    inode = os.lstat(here.services.repository.master_link(POOL)).st_ino
    for _ in range(3):
        here.connect(master)
    assert (files_of(master), here.spm_status(), links(here)) == (before, status, linked)
    assert os.lstat(here.services.repository.master_link(POOL)).st_ino == inode


@pytest.mark.parametrize("spm", [False, True])
def test_connect_with_a_map_takes_each_new_map(here: world.World, spm: bool) -> None:
    master, other = here.domain(), here.domain()
    here.pool(master, other)
    if spm:
        here.start_spm()
    before = files_of(master)
    for status, linked in (("active", True), ("attached", False), ("Active", True), ("inactive", False)):
        here.connect(master, domains={master.id: "active", other.id: status})
        assert (other.id in links(here)) == linked
        domains = here.services.pools.get(POOL).state().domains
        assert domains[other.id] == ("Active" if linked else "Attached")
        assert here.spm_status()[0] == ("SPM" if spm else "Free")
    assert files_of(master) == before
    # Without the map there would be two truths about one pool.
    with pytest.raises(errors.StoragePoolConnected):
        here.connect(master)


def test_with_a_map_the_lock_says_who_is_spm(here: world.World) -> None:
    master = here.domain()
    here.pool(master, connected=False)
    here.connect(master, domains={master.id: "active"})
    assert here.spm_status() == ("Free", -1, -1)
    before = master.metadata()
    here.start_spm()
    assert here.spm_status() == ("SPM", -1, 1)
    assert master.metadata() == before
    hsm_pool.spm_stop(here.services, POOL)
    assert here.spm_status() == ("Free", -1, -1)


def test_connect_refusals(here: world.World) -> None:
    master, other, loose = here.domain(), here.domain(), here.domain()
    here.pool(master, other, connected=False)

    def code(domain, version: int = 1, host: int = 1, domains=None) -> int:
        with pytest.raises(errors.StorageError) as caught:
            here.connect(domain, version=version, host=host, domains=domains)
        assert hsm_pool.get_connected_list(here.services) == {"poollist": []} and links(here) == {}
        return caught.value.code

    assert code(other) == 324
    assert code(loose) == 324
    assert code(master, version=2) == 324
    assert code(master, version=0) == 324
    assert code(master, version=0, domains={master.id: "Active"}) == 324
    assert code(master, domains={master.id: "Attached"}) == 324
    assert code(master, domains={other.id: "Active"}) == 324
    assert code(master, domains={master.id: "sleepy"}) == 1000
    assert code(master, host=0) == 1000
    assert code(master, host=251) == 1000
    with pytest.raises(errors.StoragePoolMasterNotFound):
        hsm_pool.connect(here.services, POOL, 1, ids.DomainId.new(), 1, None)
    with pytest.raises(errors.StoragePoolWrongMaster):
        hsm_pool.connect(here.services, OTHER_POOL, 1, master.id, 1, None)


def test_connect_refuses_another_host_id_and_another_pool(here: world.World) -> None:
    master, second = here.domain(), here.domain()
    here.pool(master)
    hsm_pool.create(here.services, OTHER_POOL, "q", second.id, [second.id], 1)
    with pytest.raises(errors.StoragePoolConnected):
        here.connect(master, host=2)
    with pytest.raises(errors.CannotConnectMultiplePools):
        hsm_pool.connect(here.services, OTHER_POOL, 1, second.id, 1, None)
    assert here.services.pools.get(POOL).host_id == 1


def test_a_failed_refresh_leaves_the_pool_as_it_was(here: world.World) -> None:
    master = here.domain()
    here.pool(master)
    here.start_spm()
    with pytest.raises(errors.StoragePoolWrongMaster):
        here.connect(master, version=9)
    assert here.spm_status() == ("SPM", 0, 1)
    assert here.services.pools.get(POOL).state().master_version == 1


def test_an_active_domain_that_is_gone_costs_only_its_own_link(here: world.World) -> None:
    master, gone = here.domain(), ids.DomainId.new()
    here.pool(master, connected=False)
    here.connect(master, domains={master.id: "active", gone: "active"})
    assert set(links(here)) == {master.id, "mastersd"}
    info = hsm_pool.get_info(here.services, POOL)["dominfo"]
    assert info[gone] == {"status": "Active", "alerts": [], "isoprefix": "", "version": -1}


def test_a_stale_pool_directory_is_brought_up_to_date(here: world.World) -> None:
    master = here.domain()
    here.pool(master, connected=False)
    directory = here.services.repository.pool_directory(POOL)
    directory.mkdir()
    (directory / ids.DomainId.new()).symlink_to("/nowhere")
    (directory / "mastersd").symlink_to("/nowhere")
    (directory / "mastersd.0123.new").symlink_to("/nowhere")
    here.connect(master)
    assert links(here) == {master.id: str(master.path), "mastersd": str(master.path)}


def test_what_is_no_link_is_never_removed(here: world.World) -> None:
    master = here.domain()
    here.pool(master)
    foreign = here.services.repository.pool_directory(POOL) / "notes"
    foreign.write_text("mine")
    with pytest.raises(errors.StoragePoolDisconnectionError):
        hsm_pool.disconnect(here.services, POOL, 1)
    assert foreign.read_text() == "mine"


def test_window_links_are_old_or_new(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master, kept, dropped = here.domain(), here.domain(), here.domain()
        old, new = {kept.id: kept.path, dropped.id: dropped.path}, {kept.id: master.path}
        poollinks.refresh(here.services.repository, POOL, dropped.path, old)
        with fault.strike():
            poollinks.refresh(here.services.repository, POOL, master.path, new)
        found = {name: target for name, target in links(here).items() if not name.endswith(".new")}
        assert found[kept.id] in (str(kept.path), str(master.path))
        assert found["mastersd"] in (str(dropped.path), str(master.path))
        poollinks.refresh(here.services.repository, POOL, master.path, new)
        assert links(here) == {kept.id: str(master.path), "mastersd": str(master.path)}


# ---------------------------------------------------------------- describe


def test_info_has_the_types_that_the_engine_casts_to(here: world.World) -> None:
    master, other = here.domain(), here.domain()
    here.pool(master, other)
    reply = hsm_pool.get_info(here.services, POOL)
    info = reply["info"]
    assert info == {
        "type": "LOCALFS",
        "name": "a pool",
        "domains": ",".join(sorted([f"{master.id}:Active", f"{other.id}:Attached"])),
        "master_uuid": master.id,
        "master_ver": 1,
        "lver": -1,
        "spm_id": -1,
        "pool_status": "connected",
        "version": "3",
        "isoprefix": "",
    }
    active, attached = reply["dominfo"][master.id], reply["dominfo"][other.id]
    assert attached == {"status": "Attached", "alerts": [], "isoprefix": ""}
    assert set(active) == {"status", "alerts", "isoprefix", "version", "disktotal", "diskfree"}
    assert active["version"] == 3 and int(active["disktotal"]) >= int(active["diskfree"]) > 0
    assert type(active["disktotal"]) is str and type(active["diskfree"]) is str
    assert all(type(key) is str for key in reply["dominfo"])


def test_info_of_a_broken_pool(here: world.World) -> None:
    master = here.domain()
    here.pool(master)
    record = master.path / "dom_md" / "metadata"
    good = record.read_bytes()
    record.write_bytes(good[:-2] + (b"1\n" if good.endswith(b"0\n") else b"0\n"))
    with pytest.raises(errors.StoragePoolActionError):
        hsm_pool.get_info(here.services, POOL)
    with pytest.raises(errors.StorageDomainMasterError):
        hsm_pool.get_spm_status(here.services, POOL)
    record.unlink()
    with pytest.raises(errors.StoragePoolMasterNotFound):
        hsm_pool.get_info(here.services, POOL)


def test_members(here: world.World) -> None:
    master, other, loose = here.domain(), here.domain(), here.domain()
    here.pool(master, other)
    which = here.services.pools.get(POOL)
    assert which.member(other.id).id == other.id
    with pytest.raises(errors.StorageDomainNotMemberOfPool):
        which.member(loose.id)
    with pytest.raises(errors.StorageDomainDoesNotExist):
        which.member(ids.DomainId.new())


# ---------------------------------------------------------------- tasks, as verbs


def test_task_verbs_over_a_real_store(here: world.World) -> None:
    master = here.domain()
    for verb in (hsm_task.get_all_info, hsm_task.get_all_statuses):
        with pytest.raises(errors.SpmStatusError):
            verb(here.services)
    here.pool(master)
    start = here.start_spm()
    store = here.services.pools.get(POOL).task_store
    task = here.services.tasks.schedule("createVolume", lambda task: {"uuid": "v"}, store=store)
    here.wait(task)
    assert hsm_task.get_info(here.services, task) == {"TaskInfo": {"id": task, "verb": "createVolume"}}
    # The start of the SPM is a task of the host, not of the pool.
    assert hsm_task.get_all_info(here.services) == {"allTasksInfo": {task: {"id": task, "verb": "createVolume"}}}
    [status] = hsm_task.get_all_statuses(here.services)["allTasksStatus"].values()
    assert set(status) == {"taskID", "taskState", "taskResult", "code", "message"} and status["taskID"] == task
    everything = hsm_task.get_all(here.services)["tasks"]
    assert set(everything) == {task, start["taskID"]}
    assert everything[task]["result"] == {"uuid": "v"} and everything[task]["state"] == "finished"
    assert everything[start["taskID"]]["tag"] == "hsm"
    record = stat.S_ISDIR(os.lstat(master.path / "master" / "tasks" / task).st_mode)
    assert record
    hsm_task.stop(here.services, task)
    hsm_task.revert(here.services, task)
    hsm_task.clear(here.services, task)
    assert os.listdir(master.path / "master" / "tasks") == []
    with pytest.raises(errors.UnknownTask):
        hsm_task.get_status(here.services, task)
