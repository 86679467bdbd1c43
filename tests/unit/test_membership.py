"""Attaching, activating, deactivating and detaching domains, over real directories, with a crash at every change."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import errors, ids
from storage.domains import domainmaker
from storage.hsm import domain as hsm_domain, membership as hsm_membership, pool as hsm_pool
from storage.pools import pool
from tests.support import faults, world

POOL = world.POOL
OTHER_POOL = ids.PoolId("7e4d6a96-1234-1234-8905-b5eec55c1535")
VERBS = (
    hsm_membership.attach,
    hsm_membership.activate,
    lambda services, domain, pool_id: hsm_membership.deactivate(services, domain, pool_id, None, 0),
    hsm_membership.detach,
    hsm_membership.forced_detach,
)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[world.World]:
    made = world.World(tmp_path / "world")
    yield made
    made.services.close(1.0)


def ready(here: world.World):
    """A pool of one master, of which this host is SPM; the master."""
    master = here.domain()
    here.pool(master)
    assert here.start_spm()["taskResult"] == "success"
    return master


def statuses(here: world.World) -> dict[str, str]:
    return dict(here.services.pools.get(POOL).state().domains)


def links(here: world.World) -> set[str]:
    return set(os.listdir(here.services.repository.pool_directory(POOL)))


def again(here: world.World, master) -> world.World:
    """The world after the death of the daemon, SPM again."""
    here.die()
    after = world.World(here.root)
    after.connect(after.services.domains.find(master.id))
    assert after.start_spm()["taskResult"] == "success"
    return after


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_domains_way_through_a_pool(here: world.World, in_memory: bool) -> None:
    master = ready(here)
    if in_memory:
        here.connect(master, domains={master.id: "active"})
    member = here.domain()
    record = (master.path / "dom_md" / "metadata").read_bytes()

    hsm_membership.attach(here.services, member.id, POOL)
    assert statuses(here) == {master.id: "Active", member.id: "Attached"}
    assert member.metadata().pools == [POOL] and member.id not in links(here)
    hsm_membership.activate(here.services, member.id, POOL)
    assert statuses(here)[member.id] == "Active" and member.id in links(here)
    hsm_membership.deactivate(here.services, member.id, POOL, None, 0)
    assert statuses(here)[member.id] == "Attached" and member.id not in links(here)
    hsm_membership.detach(here.services, member.id, POOL)
    assert statuses(here) == {master.id: "Active"}
    assert member.metadata().pools == [] and not member.metadata().is_master
    assert (master.path / "dom_md" / "metadata").read_bytes() == record


@pytest.mark.parametrize("in_memory", [False, True])
def test_each_step_can_be_repeated(here: world.World, in_memory: bool) -> None:
    master, member = ready(here), here.domain()
    if in_memory:
        here.connect(master, domains={master.id: "active"})
    for verb in VERBS[:3]:
        verb(here.services, member.id, POOL)
        before = statuses(here)
        verb(here.services, member.id, POOL)
        assert statuses(here) == before
    # Attaching an active domain does not put it out of use.
    hsm_membership.activate(here.services, member.id, POOL)
    hsm_membership.attach(here.services, member.id, POOL)
    assert statuses(here)[member.id] == "Active"


def test_the_map_is_on_disk_only_with_the_disk_backend(here: world.World) -> None:
    master, first, second = ready(here), here.domain(), here.domain()
    hsm_membership.attach(here.services, first.id, POOL)
    assert master.metadata().pool_domains == {master.id: "Active", first.id: "Attached"}
    here.connect(master, domains={master.id: "active", first.id: "attached"})
    hsm_membership.attach(here.services, second.id, POOL)
    assert second.id not in master.metadata().pool_domains and second.id in statuses(here)


def test_without_the_role_nothing_is_written(here: world.World) -> None:
    master, member = here.domain(), here.domain()
    for verb in VERBS:
        with pytest.raises(errors.StoragePoolUnknown):
            verb(here.services, member.id, POOL)
    here.pool(master)
    for verb in VERBS:
        with pytest.raises(errors.SpmStatusError):
            verb(here.services, member.id, POOL)
    assert member.metadata().pools == [] and statuses(here) == {master.id: "Active"}


def test_attach_refusals(here: world.World) -> None:
    master, foreign, newer = ready(here), here.domain(), here.domain(version=5)
    with pytest.raises(errors.StorageDomainDoesNotExist):
        hsm_membership.attach(here.services, ids.DomainId.new(), POOL)
    foreign.set_pool(OTHER_POOL)
    with pytest.raises(errors.StorageDomainAlreadyAttached):
        hsm_membership.attach(here.services, foreign.id, POOL)
    with pytest.raises(errors.MixedSDVersionError):
        hsm_membership.attach(here.services, newer.id, POOL)
    member = here.domain()
    with member.cluster_lock.hold(7), pytest.raises(errors.AcquireLockFailure):
        hsm_membership.attach(here.services, member.id, POOL)
    assert statuses(here) == {master.id: "Active"}
    assert foreign.metadata().pools == [OTHER_POOL] and newer.metadata().pools == [] and member.metadata().pools == []


def test_a_full_pool(here: world.World, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(here)
    monkeypatch.setattr(pool, "MAX_DOMAINS", 2)
    first, second = here.domain(), here.domain()
    hsm_membership.attach(here.services, first.id, POOL)
    with pytest.raises(errors.TooManyDomainsInStoragePoolError):
        hsm_membership.attach(here.services, second.id, POOL)
    hsm_membership.attach(here.services, first.id, POOL)


def test_a_former_master_comes_in_without_its_role(here: world.World) -> None:
    master, former = ready(here), here.domain()
    former.update({"ROLE": "Master", "MASTER_VERSION": "9"})
    hsm_membership.attach(here.services, former.id, POOL)
    assert not former.metadata().is_master
    hsm_membership.activate(here.services, former.id, POOL)
    assert former.metadata().master_version == 0
    here.connect(master)


@pytest.mark.parametrize(("domain_class", "version"), [(2, 0), (2, 5), (3, 0), (3, 5)])
def test_domains_that_are_not_data_may_have_any_version(here: world.World, domain_class: int, version: int) -> None:
    ready(here)
    member = here.domain(domain_class=domain_class, version=version)
    hsm_membership.attach(here.services, member.id, POOL)
    hsm_membership.activate(here.services, member.id, POOL)
    assert statuses(here)[member.id] == "Active" and member.metadata().version == version


def test_an_iso_domain_belongs_to_several_pools(here: world.World) -> None:
    ready(here)
    iso = here.domain(domain_class=2)
    assert iso.image_directory(domainmaker.ISO_IMAGE).is_dir()
    iso.set_pool(OTHER_POOL)
    hsm_membership.attach(here.services, iso.id, POOL)
    assert iso.metadata().pools == [OTHER_POOL, POOL]
    with iso.cluster_lock.hold(7), pytest.raises(errors.AcquireLockFailure):
        hsm_membership.detach(here.services, iso.id, POOL)
    assert iso.id in statuses(here)
    hsm_membership.detach(here.services, iso.id, POOL)
    assert iso.metadata().pools == [OTHER_POOL]


def test_a_data_domain_is_detached_whoever_holds_its_lock(here: world.World) -> None:
    ready(here)
    member = here.domain()
    hsm_membership.attach(here.services, member.id, POOL)
    with member.cluster_lock.hold(7):
        hsm_membership.detach(here.services, member.id, POOL)
    assert member.metadata().pools == []


def test_a_backup_domain_gets_the_directories_of_a_master(here: world.World) -> None:
    ready(here)
    backup = here.domain(domain_class=3)
    hsm_membership.attach(here.services, backup.id, POOL)
    assert not (backup.path / "master").exists()
    hsm_membership.activate(here.services, backup.id, POOL)
    assert (backup.path / "master" / "vms").is_dir() and (backup.path / "master" / "tasks").is_dir()


def test_the_map_and_the_record_must_agree(here: world.World) -> None:
    master, member, loose = ready(here), here.domain(), here.domain()
    hsm_membership.attach(here.services, member.id, POOL)
    for verb in (hsm_membership.activate, hsm_membership.detach):
        with pytest.raises(errors.StorageDomainNotMemberOfPool):
            verb(here.services, loose.id, POOL)
        with pytest.raises(errors.StorageDomainDoesNotExist):
            verb(here.services, ids.DomainId.new(), POOL)
    with pytest.raises(errors.StorageDomainNotMemberOfPool):
        hsm_membership.deactivate(here.services, loose.id, POOL, None, 0)
    member.clear_pool()
    for verb in (hsm_membership.activate, hsm_membership.detach):
        with pytest.raises(errors.StorageDomainNotInPool):
            verb(here.services, member.id, POOL)
    hsm_membership.attach(here.services, member.id, POOL)
    hsm_membership.activate(here.services, member.id, POOL)
    with pytest.raises(errors.InvalidParameterException):
        hsm_membership.detach(here.services, master.id, None)


def test_the_master_stays(here: world.World) -> None:
    master = ready(here)
    before = (master.path / "dom_md" / "metadata").read_bytes()
    hsm_membership.deactivate(here.services, master.id, POOL, None, 7)
    for verb in (hsm_membership.detach, hsm_membership.forced_detach):
        with pytest.raises(errors.CannotDetachMasterStorageDomain):
            verb(here.services, master.id, POOL)
    with pytest.raises(errors.CannotDetachMasterStorageDomain):
        hsm_membership.forced_detach(here.services, master.id, None)
    assert (master.path / "dom_md" / "metadata").read_bytes() == before


def test_an_active_domain_is_detached_as_it_is(here: world.World) -> None:
    ready(here)
    member = here.domain()
    hsm_membership.attach(here.services, member.id, POOL)
    hsm_membership.activate(here.services, member.id, POOL)
    hsm_membership.detach(here.services, member.id, POOL)
    assert member.id not in links(here) and member.id not in statuses(here)


def test_what_cannot_be_reached_is_put_out_of_use_and_forgotten(here: world.World) -> None:
    ready(here)
    gone = here.domain()
    hsm_membership.attach(here.services, gone.id, POOL)
    hsm_membership.activate(here.services, gone.id, POOL)
    (gone.path / "dom_md").rename(gone.path / "aside")
    with pytest.raises(errors.StorageDomainAccessError):
        hsm_membership.deactivate(here.services, gone.id, POOL, ids.DomainId.new(), 2)
    hsm_membership.deactivate(here.services, gone.id, POOL, None, 0)
    assert statuses(here)[gone.id] == "Attached" and gone.id not in links(here)
    hsm_membership.forced_detach(here.services, gone.id, POOL)
    hsm_membership.forced_detach(here.services, gone.id, POOL)
    assert gone.id not in statuses(here)
    (gone.path / "aside").rename(gone.path / "dom_md")
    # Its own record was left alone: it can be made to say the same as the map, or come back.
    assert gone.metadata().pools == [POOL]
    hsm_membership.detach(here.services, gone.id, POOL)
    assert gone.metadata().pools == []


def test_a_domain_forgets_its_pools_on_any_host(here: world.World) -> None:
    lost = here.domain()
    with pytest.raises(errors.StoragePoolNotConnected):
        hsm_membership.forced_detach(here.services, lost.id, None)
    master = here.domain()
    here.pool(master)
    lost.update({"POOL_UUID": OTHER_POOL, "ROLE": "Master", "MASTER_VERSION": "4"})
    with lost.cluster_lock.hold(3), pytest.raises(errors.AcquireLockFailure):
        hsm_membership.forced_detach(here.services, lost.id, None)
    assert lost.metadata().is_master
    hsm_membership.detach(here.services, lost.id, None, force=True)
    assert lost.metadata().pools == [] and not lost.metadata().is_master
    with pytest.raises(errors.StorageDomainDoesNotExist):
        hsm_membership.forced_detach(here.services, ids.DomainId.new(), None)


def test_the_iso_directory_is_told(here: world.World) -> None:
    ready(here)
    iso = here.domain(domain_class=2)
    hsm_membership.attach(here.services, iso.id, POOL)
    assert hsm_pool.get_info(here.services, POOL)["info"]["isoprefix"] == ""
    hsm_membership.activate(here.services, iso.id, POOL)
    found = hsm_pool.get_info(here.services, POOL)
    place = str(iso.image_directory(domainmaker.ISO_IMAGE))
    assert found["info"]["isoprefix"] == place == found["dominfo"][iso.id]["isoprefix"]
    assert os.path.isdir(place)


# ---------------------------------------------------------------- crash windows


def test_window_attach_the_domain_is_nobody_elses_and_a_repeated_call_finishes(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master, member = ready(here), here.domain()
        with fault.strike():
            hsm_membership.attach(here.services, member.id, POOL)
        after = again(here, master)
        named = member.metadata().pools == [POOL]
        assert named or member.id not in statuses(after), "the map knows only of domains that name the pool"
        hsm_membership.attach(after.services, member.id, POOL)
        hsm_membership.activate(after.services, member.id, POOL)
        assert statuses(after) == {master.id: "Active", member.id: "Active"}
        after.die()


def test_window_attach_a_domain_that_was_reached_can_go_again(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master, member = ready(here), here.domain()
        with fault.strike():
            hsm_membership.attach(here.services, member.id, POOL)
        after = again(here, master)
        if member.metadata().pools:
            hsm_membership.detach(after.services, member.id, POOL)
        assert member.metadata().pools == [] and statuses(after) == {master.id: "Active"}
        hsm_domain.format(after.services, member.id, False)
        after.die()


@pytest.mark.parametrize("domain_class", [1, 3])
def test_window_activate_is_done_or_can_be_repeated(tmp_path: Path, domain_class: int) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master, member = ready(here), here.domain(domain_class=domain_class)
        hsm_membership.attach(here.services, member.id, POOL)
        with fault.strike():
            hsm_membership.activate(here.services, member.id, POOL)
        after = again(here, master)
        hsm_membership.activate(after.services, member.id, POOL)
        assert statuses(after)[member.id] == "Active" and member.id in links(after)
        assert domain_class == 1 or (member.path / "master" / "vms").is_dir()
        after.die()


def test_window_deactivate_is_done_or_can_be_repeated(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master, member = ready(here), here.domain()
        hsm_membership.attach(here.services, member.id, POOL)
        hsm_membership.activate(here.services, member.id, POOL)
        with fault.strike():
            hsm_membership.deactivate(here.services, member.id, POOL, None, 0)
        after = again(here, master)
        assert (member.id in links(after)) == (statuses(after)[member.id] == "Active")
        hsm_membership.deactivate(after.services, member.id, POOL, None, 0)
        assert statuses(after)[member.id] == "Attached" and member.id not in links(after)
        after.die()


@pytest.mark.parametrize("domain_class", [1, 2])
def test_window_detach_can_be_repeated_and_nobody_takes_it_in_between(tmp_path: Path, domain_class: int) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        master, member = ready(here), here.domain(domain_class=domain_class)
        hsm_membership.attach(here.services, member.id, POOL)
        hsm_membership.activate(here.services, member.id, POOL)
        with fault.strike():
            hsm_membership.detach(here.services, member.id, POOL)
        member.cluster_lock.release()
        after = again(here, master)
        if member.id in statuses(after):
            assert member.metadata().pools == [POOL]
        if member.metadata().pools:
            hsm_membership.detach(after.services, member.id, POOL)
        else:
            with pytest.raises(errors.StorageDomainNotMemberOfPool):
                hsm_membership.detach(after.services, member.id, POOL)
        assert member.metadata().pools == [] and statuses(after) == {master.id: "Active"}
        after.die()


def test_a_write_that_fails_leaves_the_old_map(tmp_path: Path) -> None:
    for number in range(40):
        here = world.World(tmp_path / str(number))
        ready(here)
        member = here.domain()
        fault = faults.Faults(number, OSError(28, "No space left on device"))
        with fault.strike(), contextlib.suppress(errors.StorageError):
            hsm_membership.attach(here.services, member.id, POOL)
        hsm_membership.attach(here.services, member.id, POOL)
        assert statuses(here)[member.id] == "Attached"
        here.services.close(1.0)
        if not fault.fired:
            return
    raise AssertionError("no run survived")
