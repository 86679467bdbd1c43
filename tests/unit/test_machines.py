"""Descriptions of machines: what is kept where, what a crash leaves, and the rules of the verbs."""

import errno
import os
import stat

import pytest

from storage import errors, ids, locks
from storage.domains import machines
from storage.hsm import machines as hsm_machines
from tests.support import faults, world

VM = ids.VmId("aaaaaaaa-0000-4000-8000-000000000001")
OTHER = ids.VmId("bbbbbbbb-0000-4000-8000-000000000002")
TEXT = '<?xml version="1.0"?>\n<Envelope name="Größe \U0001f600">\r\n</Envelope>'


class Place:
    """As much of a domain as there is to it."""

    def __init__(self, path):
        self.id = ids.DomainId.new()
        self.path = path
        self.vms = path / "master" / "vms"

    def space(self):
        return 100, 7


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path / "domain")
    made.vms.mkdir(parents=True)
    return made


def test_a_text_is_kept_as_it_is(place):
    machines.write(place, VM, TEXT)
    path = place.vms / VM / f"{VM}.ovf"
    assert path.read_bytes() == TEXT.encode() and stat.S_IMODE(path.stat().st_mode) == 0o660
    assert machines.read(place, VM) == TEXT and machines.listed(place) == [VM]
    machines.write(place, VM, "")
    assert machines.read(place, VM) == ""
    assert os.listdir(place.vms / VM) == [f"{VM}.ovf"]


def test_unknown_machines(place):
    assert machines.read(place, VM) is None
    machines.remove(place, VM)
    assert machines.listed(place) == []


def test_removal(place):
    machines.write(place, VM, TEXT)
    machines.write(place, OTHER, TEXT)
    (place.vms / VM / "deep").mkdir()
    (place.vms / VM / "deep" / "more").write_text("x")
    machines.remove(place, VM)
    assert os.listdir(place.vms) == [OTHER]


def test_only_directories_with_the_name_of_an_id_are_machines(place):
    for name in ("notes", f"{VM}.ovf", f"{VM}.1234.new", ".hidden"):
        (place.vms / name).mkdir()
    (place.vms / OTHER).write_text("no directory")
    (place.vms / str(VM)).symlink_to("/")
    assert machines.listed(place) == []
    assert machines.read(place, VM) is None
    with pytest.raises(errors.MiscDirCleanupFailure):
        machines.write(place, VM, TEXT)
    assert (place.vms / VM).is_symlink()


def test_removal_follows_no_link(place, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (place.vms / VM).symlink_to(outside)
    machines.remove(place, VM)
    machines.write(place, OTHER, TEXT)
    (place.vms / OTHER / "link").symlink_to(outside)
    machines.remove(place, OTHER)
    assert os.listdir(outside) == ["precious"] and os.listdir(place.vms) == []


def test_no_link_is_read(place, tmp_path):
    (tmp_path / "secret").write_text("x")
    machines.write(place, VM, TEXT)
    path = place.vms / VM / f"{VM}.ovf"
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(errors.MissingOvfFileFromVM):
        machines.read(place, VM)
    machines.write(place, VM, "new")
    assert (tmp_path / "secret").read_text() == "x" and machines.read(place, VM) == "new"


@pytest.mark.parametrize("damage", [None, b"\xff\xfe", b"x" * 200])
def test_a_text_that_cannot_be_used(place, damage, monkeypatch):
    monkeypatch.setattr(machines, "OVF_LIMIT", 100)
    machines.write(place, VM, "old")
    path = place.vms / VM / f"{VM}.ovf"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(errors.MissingOvfFileFromVM):
        machines.read(place, VM)
    machines.write(place, VM, "new")
    assert machines.read(place, VM) == "new"


@pytest.mark.parametrize("call", [machines.directory, machines.listed, machines.sweep])
@pytest.mark.parametrize("kind", ["missing", "link", "file"])
def test_without_the_directory(place, tmp_path, call, kind):
    place.vms.rmdir()
    if kind == "link":
        place.vms.symlink_to(tmp_path)
    elif kind == "file":
        place.vms.write_text("x")
    with pytest.raises(errors.VMPathNotExists):
        call(place)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, errors.NoSpaceLeftOnDomain),
        (errno.EDQUOT, errors.NoSpaceLeftOnDomain),
        (errno.EIO, errors.StorageDomainAccessError),
    ],
)
def test_a_failure_keeps_the_old_text(place, number, expected):
    machines.write(place, VM, "old")
    for vm_id, limit in ((VM, 4), (OTHER, 5)):
        for at in range(limit):
            failing = faults.Faults(at, OSError(number, "no"))
            with failing.strike(), pytest.raises(expected):
                machines.write(place, vm_id, "new" * 50)
            assert failing.fired
            # A flush that fails after the rename says so; what is there is whole all the same.
            assert machines.read(place, VM) in ("old", "new" * 50)
            assert machines.read(place, OTHER) in (None, "new" * 50)


# ---------------------------------------------------------------- crash windows


def recovered(place):
    """What the next change sweeps and what is listed."""
    machines.sweep(place)
    assert not [name for name in os.listdir(place.vms) if name.endswith(".new")]
    return {vm_id: machines.read(place, vm_id) for vm_id in machines.listed(place)}


def fresh(tmp_path, number):
    made = Place(tmp_path / str(number))
    made.vms.mkdir(parents=True)
    return made


def test_window_a_new_machine_is_there_whole_or_not_at_all(tmp_path):
    for number, crash in enumerate(faults.crash_points()):
        place = fresh(tmp_path, number)
        with crash.strike():
            machines.write(place, VM, TEXT)
        assert recovered(place) in ({}, {VM: TEXT})
        machines.write(place, VM, "again")
        assert recovered(place) == {VM: "again"}


def test_window_a_known_machine_has_the_old_or_the_new_text(tmp_path):
    for number, crash in enumerate(faults.crash_points()):
        place = fresh(tmp_path, number)
        machines.write(place, VM, "old")
        with crash.strike():
            machines.write(place, VM, TEXT)
        assert recovered(place) in ({VM: "old"}, {VM: TEXT})
        machines.write(place, VM, "again")
        assert recovered(place) == {VM: "again"} and os.listdir(place.vms / VM) == [f"{VM}.ovf"]


def test_window_a_removed_machine_is_there_whole_or_gone(tmp_path):
    for number, crash in enumerate(faults.crash_points()):
        place = fresh(tmp_path, number)
        machines.write(place, VM, TEXT)
        with crash.strike():
            machines.remove(place, VM)
        assert recovered(place) in ({}, {VM: TEXT})
        machines.remove(place, VM)
        assert recovered(place) == {}


# ---------------------------------------------------------------- verbs


def entry(vm_id, text=TEXT, images=""):
    return {"vm": str(vm_id), "ovf": text, "imglist": images}


@pytest.fixture
def here(tmp_path):
    """A pool with an active master, an active backup domain, and one that is only attached."""
    made = world.World(tmp_path / "world")
    master, backup, attached = made.domain(), made.domain(domain_class=3), made.domain(domain_class=3)
    made.pool(master, connected=False)
    made.connect(master, domains={master.id: "Active", backup.id: "Active", attached.id: "Attached"})
    assert made.start_spm()["code"] == 0
    for each in (backup, attached):
        (each.path / "master" / "vms").mkdir(parents=True)
    made.master, made.backup, made.attached = master, backup, attached
    return made


def test_update_list_info_remove(here):
    where, services = (None, here.backup.id), here.services
    for domain_id in where:
        hsm_machines.update(services, world.POOL, [entry(VM), {}, entry(OTHER, "two", "a,b")], domain_id)
        assert hsm_machines.get_list(services, world.POOL, domain_id) == {"vmlist": [VM, OTHER]}
        both = {"vmlist": {VM: TEXT, OTHER: "two"}}
        assert hsm_machines.get_info(services, world.POOL, domain_id, None) == both
        assert hsm_machines.get_info(services, world.POOL, domain_id, []) == both
        named = [OTHER, ids.VmId.new()]
        assert hsm_machines.get_info(services, world.POOL, domain_id, named) == {"vmlist": {OTHER: "two"}}
        hsm_machines.remove(services, world.POOL, VM, domain_id)
        hsm_machines.remove(services, world.POOL, VM, domain_id)
        assert hsm_machines.get_list(services, world.POOL, domain_id) == {"vmlist": [OTHER]}
    assert (here.master.path / "master/vms" / OTHER).is_dir()


def test_one_failure_keeps_no_other_machine_from_being_updated(here):
    vms = here.master.path / "master/vms"
    (vms / VM).write_text("no directory")
    with pytest.raises(errors.MiscDirCleanupFailure):
        hsm_machines.update(here.services, world.POOL, [entry(VM), entry(OTHER)], None)
    assert hsm_machines.get_list(here.services, world.POOL, None) == {"vmlist": [OTHER]}


@pytest.mark.parametrize("missing", ["vm", "ovf", "imglist"])
def test_an_entry_that_lacks_a_member_changes_nothing(here, missing):
    bad = entry(OTHER)
    del bad[missing]
    with pytest.raises(errors.InvalidParameterException):
        hsm_machines.update(here.services, world.POOL, [entry(VM), bad], None)
    assert hsm_machines.get_list(here.services, world.POOL, None) == {"vmlist": []}


@pytest.mark.parametrize("name", ["../../images", "..", "", "a/b", f"{VM}/.."])
def test_only_ids_make_paths(here, name):
    with pytest.raises(errors.InvalidParameterException):
        hsm_machines.update(here.services, world.POOL, [entry(name)], None)


def test_a_broken_machine_hides_no_other(here):
    hsm_machines.update(here.services, world.POOL, [entry(VM)], None)
    (here.master.path / "master/vms" / OTHER).mkdir()
    assert hsm_machines.get_info(here.services, world.POOL, None, None) == {"vmlist": {VM: TEXT}}
    with pytest.raises(errors.MissingOvfFileFromVM):
        hsm_machines.get_info(here.services, world.POOL, None, [VM, OTHER])
    hsm_machines.remove(here.services, world.POOL, VM, None)
    with pytest.raises(errors.MissingOvfFileFromVM):
        hsm_machines.get_info(here.services, world.POOL, None, None)


def test_left_overs_are_swept_by_the_next_update(here):
    vms = here.master.path / "master/vms"
    (vms / f"{VM}.1234.new").mkdir()
    (vms / f"{VM}.1234.new" / "x").write_text("x")
    (vms / "y.new").write_text("y")
    hsm_machines.update(here.services, world.POOL, [], None)
    assert os.listdir(vms) == []


def calls(services, domain_id):
    return {
        "list": lambda: hsm_machines.get_list(services, world.POOL, domain_id),
        "info": lambda: hsm_machines.get_info(services, world.POOL, domain_id, None),
        "update": lambda: hsm_machines.update(services, world.POOL, [entry(VM)], domain_id),
        "remove": lambda: hsm_machines.remove(services, world.POOL, VM, domain_id),
    }


def codes(services, domain_id):
    found = {}
    for name, call in calls(services, domain_id).items():
        with pytest.raises(errors.StorageError) as caught:
            call()
        found[name] = caught.value.code
    return found


def test_codes(here):
    services = here.services
    outsider = here.domain(domain_class=3)
    assert set(codes(services, outsider.id).values()) == {375}
    assert set(codes(services, ids.DomainId.new()).values()) == {358}
    assert [hsm_machines.get_list(services, world.POOL, here.attached.id)] == [{"vmlist": []}]
    for name in ("update", "remove"):
        with pytest.raises(errors.StorageDomainNotActive):
            calls(services, here.attached.id)[name]()
    with pytest.raises(errors.StorageDomainTypeNotBackup):
        hsm_machines.get_info(services, world.POOL, here.master.id, None)
    hsm_machines.get_list(services, world.POOL, here.master.id)
    (here.backup.path / "master" / "vms").rmdir()
    assert set(codes(services, here.backup.id).values()) == {322}
    services.pools.get(world.POOL).master.cluster_lock.release()
    assert set(codes(services, None).values()) == {654}


def test_without_a_pool_or_the_role(tmp_path):
    made = world.World(tmp_path / "world")
    master = made.domain()
    made.pool(master, connected=False)
    assert set(codes(made.services, None).values()) == {309}
    made.connect(master)
    assert set(codes(made.services, None).values()) == {654}


def test_who_excludes_whom(here):
    def free(name, domain_id=here.backup.id):
        try:
            calls(here.services, domain_id)[name]()
        except errors.ResourceTimeout:
            return False
        return True

    domain_id = here.backup.id
    for lock, blocked in (
        (locks.exclusive(world.POOL), {"update", "remove"}),
        (locks.shared(world.POOL), set()),
        (locks.exclusive(f"vms_{domain_id}"), {"update", "remove"}),
        (locks.shared(f"vms_{domain_id}"), {"update"}),
        (locks.exclusive(f"vms_{VM}_{domain_id}"), {"remove"}),
        (locks.exclusive(f"vms_{OTHER}_{domain_id}"), set()),
        (locks.exclusive(domain_id), {"list", "info"}),
    ):
        with here.services.locks.hold(lock, title="a test"):
            assert {name for name in calls(here.services, domain_id) if not free(name)} == blocked, lock


def test_a_change_of_master_meanwhile_is_noticed(here, monkeypatch):
    taken = here.services.locks.take

    def migrates(*args, **kwargs):
        here.services.pools.get(world.POOL).master = here.backup
        return taken(*args, **kwargs)

    monkeypatch.setattr(here.services.locks, "take", migrates)
    monkeypatch.setattr(here.services.pools, "spm", here.services.pools.get)
    with pytest.raises(errors.OperationInProgress):
        hsm_machines.update(here.services, world.POOL, [entry(VM)], None)
    assert os.listdir(here.master.path / "master/vms") == []
