"""Raising domains from one version to the next: by verb, by spmStart, by activation; readable at every moment."""

import dataclasses
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import errors, files, ids, locks
from storage.domains import conversion
from storage.hsm import membership as hsm_membership, pool as hsm_pool, upgrade as hsm_upgrade
from storage.volumes import conversion as volume_conversion, image, volume_metadata
from tests.support import faults, world

POOL = world.POOL
IMAGE = ids.ImageId("47bd7538-c48b-4b94-ba94-def922151d48")
DERIVED = ids.ImageId("57bd7538-c48b-4b94-ba94-def922151d48")
VOLUME = ids.VolumeId("11bd7538-c48b-4b94-ba94-def922151d48")
CHILD = ids.VolumeId("22bd7538-c48b-4b94-ba94-def922151d48")
BLANK = ids.VolumeId(ids.BLANK)
MIB = 1024 * 1024


@pytest.fixture
def here(tmp_path: Path) -> Iterator[world.World]:
    made = world.World(tmp_path / "world")
    yield made
    made.services.close(1.0)


def record(domain, **values) -> volume_metadata.VolumeMetadata:
    plain = volume_metadata.VolumeMetadata(
        domain=domain.id,
        image=IMAGE,
        parent=BLANK,
        capacity=MIB,
        format="RAW",
        type="SPARSE",
        voltype="LEAF",
        disktype="2",
        description="a volume",
        legality="LEGAL",
        ctime=1234567890,
    )
    return dataclasses.replace(plain, **values)


def put(domain, image_id: ids.ImageId, volume_id: ids.VolumeId, data: bytes | volume_metadata.VolumeMetadata) -> Path:
    """A volume with this record, as the domain's version keeps it."""
    where = image.paths(domain, image_id, volume_id)
    where.data.parent.mkdir(exist_ok=True)
    where.data.write_bytes(b"x")
    where.meta.write_bytes(data if isinstance(data, bytes) else volume_metadata.encode(data, domain.version))
    return where.meta


def template(domain) -> None:
    """A template and an image made from it."""
    meta = put(domain, IMAGE, VOLUME, record(domain, voltype="SHARED"))
    put(domain, DERIVED, CHILD, record(domain, image=DERIVED, parent=VOLUME))
    os.link(meta, image.paths(domain, DERIVED, VOLUME).meta)
    os.link(meta.with_suffix(""), image.paths(domain, DERIVED, VOLUME).data)


def keys(meta: Path) -> set[str]:
    return set(volume_metadata.inspect(meta.read_bytes())[0])


def up(here: world.World, version: int, *others: int):
    """A pool whose master and other domains have these versions, SPM here; all domains, the others active."""
    master, members = here.domain(version=version), [here.domain(version=version) for _ in others]
    here.pool(master, *members)
    assert here.start_spm()["taskResult"] == "success"
    for member, wanted in zip(members, others, strict=True):
        hsm_membership.activate(here.services, member.id, POOL)
        member.update({"VERSION": str(wanted)})
    return [master, *members]


def upgraded(here: world.World, version: int) -> None:
    assert hsm_upgrade.upgrade(here.services, POOL, version) == {"upgradeStatus": "started"}
    world.until(lambda: not here.services.pools.get(POOL).upgrades.left)


def readable(domain) -> dict[tuple[str, str], volume_metadata.VolumeMetadata]:
    """Every record of a domain; raises when one cannot be read."""
    found = {}
    for image_id in domain.image_ids():
        held = image.contents(domain, image_id)
        assert not held.damaged
        found.update({(image_id, volume_id): each for volume_id, each in held.records.items()})
    return found


# ---------------------------------------------------------------- the way


@pytest.mark.parametrize(
    ("current", "wanted", "passed"), [(0, 5, [3, 4, 5]), (3, 4, [4]), (4, 5, [5]), (5, 5, []), (0, 0, []), (2, 2, [])]
)
def test_steps(current: int, wanted: int, passed: list[int]) -> None:
    assert conversion.steps(current, wanted) == passed


@pytest.mark.parametrize(("current", "wanted"), [(0, 2), (2, 3), (0, 1), (3, 6), (5, 7)])
def test_no_way(current: int, wanted: int) -> None:
    with pytest.raises(errors.UnsupportedDomainVersion):
        conversion.steps(current, wanted)


@pytest.mark.parametrize(("start", "end"), [(0, 3), (0, 5), (3, 4), (3, 5), (4, 5), (5, 5)])
def test_the_master_is_raised_when_the_call_returns(here: world.World, start: int, end: int) -> None:
    [master] = up(here, start)
    meta = put(master, IMAGE, VOLUME, record(master))
    special = master.path / "dom_md" / "ids"
    special.chmod(0o600)
    before = readable(master)
    upgraded(here, end)
    assert master.metadata().version == end and master.metadata().is_master
    assert readable(master) == before
    assert ("CAP" in keys(meta), "SIZE" in keys(meta), "MTIME" in keys(meta)) == ((end == 5), (end < 5), (end < 5))
    assert (master.metadata().raw.get("BLOCK_SIZE") == "512") == (end == 5)
    assert (master.metadata().raw.get("ALIGNMENT") == "1048576") == (end == 5)
    assert (stat.S_IMODE(special.stat().st_mode) == 0o660) == (start < end and (start < 3 or end == 5))
    # Of version 0 nothing is left that would be taken for leases.
    assert not master.has_leases


def test_keys_of_the_old_ways_go(here: world.World) -> None:
    [master] = up(here, 4)
    master.update({"LOGBLKSIZE": "512", "PHYBLKSIZE": "512", "FOREIGN": "stays"})
    upgraded(here, 5)
    raw = master.metadata().raw
    assert "LOGBLKSIZE" not in raw and "PHYBLKSIZE" not in raw and raw["FOREIGN"] == "stays"


def test_other_domains_in_use_follow(here: world.World) -> None:
    master, active, newer = up(here, 3, 3, 5)
    attached, iso = here.domain(version=3), here.domain(domain_class=2, version=0)
    hsm_membership.attach(here.services, attached.id, POOL)
    hsm_membership.attach(here.services, iso.id, POOL)
    hsm_membership.activate(here.services, iso.id, POOL)
    meta = put(active, IMAGE, VOLUME, record(active))
    upgraded(here, 5)
    assert [each.version for each in (master, active, newer, attached, iso)] == [5, 5, 5, 3, 0]
    assert "CAP" in keys(meta)
    hsm_membership.activate(here.services, attached.id, POOL)
    assert attached.version == 5
    # Nobody was told of the task in the background, so it leaves nothing to clear.
    world.until(lambda: not [task for task in here.services.tasks.all() if task.record.verb == "upgradeStoragePool"])


def test_a_second_call_raises_what_the_first_left(here: world.World) -> None:
    master, active = up(here, 3, 3)
    master.update({"VERSION": "4"})
    upgraded(here, 4)
    assert active.version == 4


def test_what_is_refused(here: world.World) -> None:
    master = here.domain(version=4)
    with pytest.raises(errors.StoragePoolUnknown):
        hsm_upgrade.upgrade(here.services, POOL, 5)
    here.pool(master)
    with pytest.raises(errors.SpmStatusError):
        hsm_upgrade.upgrade(here.services, POOL, 5)
    assert here.start_spm()["taskResult"] == "success"
    for version, error in (
        (1, errors.UnsupportedDomainVersion),
        (6, errors.UnsupportedDomainVersion),
        (-1, errors.UnsupportedDomainVersion),
        (3, errors.CurrentVersionTooAdvancedError),
        (2, errors.CurrentVersionTooAdvancedError),
    ):
        with pytest.raises(error):
            hsm_upgrade.upgrade(here.services, POOL, version)
    assert master.version == 4


def test_domains_that_would_need_another_file_for_leases_are_refused(here: world.World) -> None:
    [master] = up(here, 3)
    foreign = here.domain(version=3)
    foreign.update({"TYPE": "NFS"})
    work = volume_conversion.Conversion(lambda _: locks.LockTable().hold(title="x"), lambda: None)
    with pytest.raises(errors.NotImplementedException):
        conversion.convert(foreign, 4, work, lambda: None)
    assert foreign.version == 3 and master.version == 3


# ---------------------------------------------------------------- volumes that are not like others


def test_damaged_records_cost_only_themselves(here: world.World) -> None:
    [master] = up(here, 4)
    good = put(master, IMAGE, VOLUME, record(master))
    bad = put(master, IMAGE, CHILD, b"NONE=####\nEOF\n")
    link = put(master, DERIVED, VOLUME, b"")
    link.unlink()
    link.symlink_to("/etc/passwd")
    upgraded(here, 5)
    assert master.version == 5 and "CAP" in keys(good)
    assert bad.read_bytes() == b"NONE=####\nEOF\n" and link.is_symlink()


def test_what_fails_for_a_volume_is_told(here: world.World, caplog: pytest.LogCaptureFixture) -> None:
    [master] = up(here, 4)
    put(master, IMAGE, VOLUME, b"rubbish")
    upgraded(here, 5)
    assert f"volume {VOLUME} of image {IMAGE}" in caplog.text


def test_a_description_that_leaves_no_room_for_both_keys(here: world.World) -> None:
    [master] = up(here, 4)
    room = volume_metadata.RECORD_LIMIT - len(volume_metadata.encode(record(master, description=""), 5))
    wide = record(master, description="d" * room)
    meta = put(master, IMAGE, VOLUME, wide)
    with pytest.raises(errors.MetadataOverflowError):
        volume_metadata.encode_both(wide)
    upgraded(here, 5)
    assert image.read_metadata(master, IMAGE, VOLUME) == wide and "SIZE" not in keys(meta)


def test_a_record_longer_than_a_sector_stays_as_it_is(here: world.World) -> None:
    [master] = up(here, 4)
    long = volume_metadata.encode(record(master), 4).replace(b"a volume", b"v" * 600)
    meta = put(master, IMAGE, VOLUME, long)
    upgraded(here, 5)
    assert meta.read_bytes() == long and image.read_metadata(master, IMAGE, VOLUME).capacity == MIB


def test_foreign_keys_are_kept(here: world.World) -> None:
    [master] = up(here, 4)
    meta = put(master, IMAGE, VOLUME, record(master, extra={"FOREIGN": "stays"}))
    upgraded(here, 5)
    assert "FOREIGN=stays\n" in meta.read_text()


def test_links_of_templates_follow(here: world.World) -> None:
    [master] = up(here, 4)
    template(master)
    upgraded(here, 5)
    mine, link = (image.paths(master, each, VOLUME).meta for each in (IMAGE, DERIVED))
    assert mine.samefile(link) and "SIZE" not in keys(link)
    assert "SIZE" not in keys(image.paths(master, DERIVED, CHILD).meta)


def test_a_link_without_its_template_is_left_alone(here: world.World) -> None:
    [master] = up(here, 4)
    template(master)
    for path in image.paths(master, IMAGE, VOLUME).all[:2]:
        path.unlink()
    upgraded(here, 5)
    assert readable(master)[DERIVED, VOLUME].capacity == MIB


@pytest.mark.qemu
def test_version_3_opens_files_and_takes_the_capacity_of_the_image(here: world.World) -> None:
    [master] = up(here, 0)
    meta = put(master, IMAGE, VOLUME, record(master, format="COW", capacity=7 * MIB, voltype="SHARED"))
    data = meta.with_suffix("")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(data), "10M"], check=True)
    data.chmod(0o440)
    (DIR := master.image_directory(DERIVED)).mkdir()
    os.link(meta, DIR / meta.name)
    raw = put(master, IMAGE, CHILD, record(master, capacity=3 * MIB))
    raw.with_suffix("").chmod(0o440)
    upgraded(here, 3)
    assert image.read_metadata(master, IMAGE, VOLUME).capacity == 10 * MIB
    assert image.read_metadata(master, DERIVED, VOLUME).capacity == 10 * MIB
    # What a guest has written at the start of a raw disk is nobody's business.
    assert image.read_metadata(master, IMAGE, CHILD).capacity == 3 * MIB
    assert stat.S_IMODE(data.stat().st_mode) == stat.S_IMODE(raw.with_suffix("").stat().st_mode) == 0o660


# ---------------------------------------------------------------- others at work


def test_an_image_in_use_is_skipped_and_stays_readable(here: world.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hsm_upgrade, "_PATIENCE", 0.02)
    [master] = up(here, 4)
    busy, free = put(master, IMAGE, VOLUME, record(master)), put(master, DERIVED, CHILD, record(master, image=DERIVED))
    with here.services.locks.hold(locks.exclusive(locks.image_name(IMAGE, master.id)), title="a long copy"):
        upgraded(here, 5)
    assert master.version == 5 and "SIZE" in keys(busy) and "CAP" in keys(free)
    assert image.read_metadata(master, IMAGE, VOLUME).capacity == MIB


def blocked(here: world.World, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Make the conversion of volumes wait: an event that says it has begun, one that lets it go on."""
    begun, go = threading.Event(), threading.Event()
    real = volume_conversion.Conversion.prepare

    def prepare(self, member, version):
        begun.set()
        assert go.wait(world.SECONDS)
        return real(self, member, version)

    monkeypatch.setattr(volume_conversion.Conversion, "prepare", prepare)
    return begun, go


def test_one_upgrade_at_a_time(here: world.World, monkeypatch: pytest.MonkeyPatch) -> None:
    _master, active = up(here, 5, 4)
    begun, go = blocked(here, monkeypatch)
    hsm_upgrade.upgrade(here.services, POOL, 5)
    assert begun.wait(world.SECONDS)
    with pytest.raises(errors.PoolUpgradeInProgress, match=active.id):
        hsm_upgrade.upgrade(here.services, POOL, 5)
    go.set()
    world.until(lambda: not here.services.pools.get(POOL).upgrades.left)
    assert active.version == 5
    upgraded(here, 5)


def test_giving_up_the_role_stops_the_upgrade(here: world.World, monkeypatch: pytest.MonkeyPatch) -> None:
    _master, first, second = up(here, 5, 4, 4)
    for each in (first, second):
        put(each, IMAGE, VOLUME, record(each))
    begun, go = blocked(here, monkeypatch)
    hsm_upgrade.upgrade(here.services, POOL, 5)
    assert begun.wait(world.SECONDS)
    here.services.locks.timeout = world.SECONDS
    stopper = threading.Thread(target=hsm_pool.spm_stop, args=(here.services, POOL))
    stopper.start()
    world.until(lambda: here.services.pools.get(POOL).upgrades.stopping)
    go.set()
    stopper.join(world.SECONDS)
    assert here.spm_status()[0] == "Free" and not here.services.pools.get(POOL).upgrades.left
    assert (first.version, second.version) == (4, 4)
    monkeypatch.undo()
    assert here.start_spm(5)["taskResult"] == "success"
    world.until(lambda: (first.version, second.version) == (5, 5))


# ---------------------------------------------------------------- spmStart


def test_the_start_of_the_spm_raises_the_domains(here: world.World) -> None:
    master, active = up(here, 3, 3)
    hsm_pool.spm_stop(here.services, POOL)
    put(master, IMAGE, VOLUME, record(master))
    assert here.start_spm(5)["taskResult"] == "success"
    assert master.version == 5
    world.until(lambda: active.version == 5)


def test_a_start_that_cannot_raise_the_master_gives_everything_back(
    here: world.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    [master] = up(here, 3)
    hsm_pool.spm_stop(here.services, POOL)
    (master.path / "images").rename(master.path / "aside")
    assert (here.start_spm(5)["code"], here.spm_status()[0]) == (371, "Free")
    assert master.version == 4, "each step is complete in itself"
    (master.path / "aside").rename(master.path / "images")
    assert here.start_spm(5)["taskResult"] == "success"


# ---------------------------------------------------------------- crash windows


@pytest.mark.parametrize(("start", "end"), [(0, 3), (3, 4), (4, 5)])
def test_window_upgrade_every_record_is_readable_and_says_the_same(tmp_path: Path, start: int, end: int) -> None:
    versions = set()
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        [master] = up(here, start)
        template(master)
        put(master, IMAGE, CHILD, record(master, parent=VOLUME)).with_suffix("").chmod(0o440)
        before = readable(master)
        with fault.strike():
            hsm_upgrade.upgrade(here.services, POOL, end)
        here.die()
        versions.add(master.version)
        after = world.World(here.root)
        assert readable(master) == before
        for (image_id, volume_id), each in readable(master).items():
            # Who changes a record in between writes one that its version knows, and the upgrade goes on with that.
            if each.image == image_id and volume_id == CHILD:
                image.write_metadata(master, image_id, volume_id, each)
        after.connect(master)
        assert after.start_spm(end)["taskResult"] == "success"
        assert master.version == end and readable(master) == before
        assert {"dom_md", "images"} <= set(os.listdir(master.path))
        after.die()
    assert versions >= {start, end}


def test_window_upgrade_what_an_old_reader_needs_is_there_until_the_version_says_otherwise(tmp_path: Path) -> None:
    for number, fault in enumerate(faults.crash_points()):
        here = world.World(tmp_path / str(number))
        [master] = up(here, 4)
        meta = put(master, IMAGE, VOLUME, record(master))
        with fault.strike():
            hsm_upgrade.upgrade(here.services, POOL, 5)
        here.die()
        assert "SIZE" in keys(meta) or master.version == 5
        assert "CAP" in keys(meta) or master.version == 4
        assert master.version != 5 or "ALIGNMENT" in master.metadata().raw


def test_a_failed_write_of_one_record_is_skipped(tmp_path: Path) -> None:
    for number in range(100):
        here = world.World(tmp_path / str(number))
        [master] = up(here, 4)
        put(master, IMAGE, VOLUME, record(master))
        put(master, DERIVED, CHILD, record(master, image=DERIVED))
        before = readable(master)
        fault = faults.Faults(number, OSError(5, "Input/output error"))
        with fault.strike():
            try:
                hsm_upgrade.upgrade(here.services, POOL, 5)
            except errors.StorageDomainAccessError:
                assert number < 40  # the domain's own record
        assert readable(master) == before
        here.services.close(1.0)
        if not fault.fired:
            return
    raise AssertionError("no run survived")


def test_modes_of_what_is_no_file_are_not_changed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("x")
    target.chmod(0o600)
    (tmp_path / "link").symlink_to(target)
    for name in ("link", "."):
        with pytest.raises(OSError):
            files.set_mode(tmp_path / name, 0o666)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    files.set_mode(target, 0o640)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
