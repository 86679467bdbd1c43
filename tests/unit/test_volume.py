"""Making a volume: what it looks like, what is refused, and what a crash at any point leaves."""

import os
import stat
import time

import pytest

from storage import ids
from storage.jobs import tasks
from storage.qemu import qemuimg
from storage.volumes import creation, image, volume
from tests.support import bench, faults, images, plain

pytestmark = pytest.mark.qemu

IMAGE, OTHER = bench.IMAGE, bench.OTHER
V1, V2, V3, V4 = bench.new_ids(4)
MIB = bench.MIB
FINISHED, RECOVERED = tasks.State.FINISHED, tasks.State.RECOVERED
disk, unflushed = plain.real_disk, plain.unflushed
data, fresh = plain.data, plain.place


@pytest.fixture
def still(monkeypatch):
    """Records of two runs differ in nothing but what they should."""
    monkeypatch.setattr(time, "time", lambda: 1416787200.9)


# ---------------------------------------------------------------- what is made


def test_raw_base(disk):
    task = disk.create(IMAGE, V1, size=MIB + 512, description=" base ")
    assert (task.state, task.record.result) == (FINISHED, V1)
    assert sorted(os.listdir(disk.images / IMAGE)) == [V1, f"{V1}.lease", f"{V1}.meta"]
    found = disk.meta(IMAGE, V1)
    assert (found.voltype, found.format, found.type, found.legality) == ("LEAF", "RAW", "SPARSE", "LEGAL")
    assert (found.capacity, found.parent, found.description) == (MIB + 512, ids.BLANK, "base")
    size = volume.sizes(disk.domain, IMAGE, V1)
    assert size.apparent == MIB + 512 and size.allocated == 0
    assert stat.S_IMODE(data(disk, V1).stat().st_mode) == 0o660
    assert (disk.images / IMAGE / f"{V1}.lease").stat().st_size == MIB


@pytest.mark.parametrize(("asked", "made"), [(1, 512), (511, 512), (512, 512), (4095, 4096), (4097, 4608)])
def test_capacity_is_rounded_up_to_a_sector(disk, asked, made):
    disk.create(IMAGE, V1, size=asked)
    assert disk.meta(IMAGE, V1).capacity == made == volume.sizes(disk.domain, IMAGE, V1).apparent


@pytest.mark.parametrize("size", [1, 512, 4096, 4097, MIB])
def test_preallocated_raw_takes_its_space(disk, size):
    disk.create(IMAGE, V1, size=size, type="PREALLOCATED")
    found = volume.sizes(disk.domain, IMAGE, V1)
    assert found.allocated >= found.apparent == disk.meta(IMAGE, V1).capacity
    assert not any(data(disk, V1).read_bytes())
    assert disk.meta(IMAGE, V1).type == "PREALLOCATED"


def test_preallocated_cow_takes_its_space(disk):
    disk.create(IMAGE, V1, format="COW", type="PREALLOCATED", size=4 * MIB)
    assert volume.sizes(disk.domain, IMAGE, V1).allocated >= 4 * MIB


@pytest.mark.parametrize(("version", "header"), [(0, 2), (3, 2), (4, 3), (5, 3)])
def test_snapshot(tmp_path, version, header):
    disk = bench.Bench(tmp_path, qemuimg.QemuImg(), version=version)
    disk.create(IMAGE, V1, size=3 * MIB)
    assert disk.create(IMAGE, V2, V1, size=1).state is FINISHED
    base, leaf = disk.meta(IMAGE, V1), disk.meta(IMAGE, V2)
    assert (base.voltype, leaf.voltype, leaf.parent, leaf.capacity) == ("INTERNAL", "LEAF", V1, 3 * MIB)
    head = volume.header(data(disk, V2))
    assert (head.version, head.virtual_size, head.backing_name, head.backing_format) == (header, 3 * MIB, V1, "raw")
    assert disk.create(IMAGE, V3, V2).state is FINISHED
    head = volume.header(data(disk, V3))
    assert (head.backing_name, head.backing_format) == (V2, "qcow2")


def test_sequence_is_kept_where_the_version_has_one(tmp_path):
    disk = bench.Bench(tmp_path, version=5)
    disk.chain(IMAGE, V1, V2, V3)
    assert [disk.meta(IMAGE, v).sequence for v in (V1, V2, V3)] == [1, 2, 3]


def test_domain_without_leases_gets_none(tmp_path):
    disk = bench.Bench(tmp_path, has_leases=False)
    disk.create(IMAGE, V1)
    assert sorted(os.listdir(disk.images / IMAGE)) == [V1, f"{V1}.meta"]


def test_capacity_is_never_less_than_what_the_guest_has(disk):
    disk.create(IMAGE, V1, size=MIB)
    os.truncate(data(disk, V1), 2 * MIB)
    disk.create(IMAGE, V2, V1)
    assert disk.meta(IMAGE, V2).capacity == volume.header(data(disk, V2)).virtual_size == 2 * MIB


def test_snapshot_of_a_volume_in_use(disk):
    disk.create(IMAGE, V1, format="COW")
    with bench.held(data(disk, V1)):
        assert volume.busy(data(disk, V1)) == "a live process has it open for writing"
        assert disk.create(IMAGE, V2, V1).state is FINISHED


def test_long_description_is_cut_between_characters(disk):
    disk.create(IMAGE, V1, description="\u4e2d" * 100)
    assert disk.meta(IMAGE, V1).description == "\u4e2d" * 70


# ---------------------------------------------------------------- templates


def test_base_of_another_image_becomes_a_template(disk):
    disk.create(IMAGE, V1, size=2 * MIB)
    assert disk.create(OTHER, V2, V1, source_image=IMAGE).state is FINISHED
    assert disk.meta(IMAGE, V1).voltype == disk.meta(OTHER, V1).voltype == "SHARED"
    assert disk.meta(OTHER, V1).image == IMAGE and disk.meta(OTHER, V2).parent == V1
    for suffix in ("", ".meta", ".lease"):
        assert (disk.images / IMAGE / f"{V1}{suffix}").samefile(disk.images / OTHER / f"{V1}{suffix}")
    assert volume.header(data(disk, V2, OTHER)).backing_name == V1
    held = image.contents(disk.domain, OTHER)
    assert held.own() == [V2] and not held.is_own(V1)


def test_second_image_from_a_template_and_a_second_volume_over_its_link(disk):
    disk.create(IMAGE, V1)
    disk.create(OTHER, V2, V1, source_image=IMAGE)
    third = ids.ImageId.new()
    assert disk.create(third, V3, V1, source_image=IMAGE).state is FINISHED
    assert disk.create(OTHER, V4, V1).state is FINISHED
    assert disk.meta(OTHER, V1).voltype == "SHARED" and disk.meta(OTHER, V4).parent == V1


@pytest.mark.parametrize("case", ["stands on another", "stood on", "in use"])
def test_what_cannot_become_a_template(disk, case):
    disk.chain(IMAGE, V1, V2, format="COW")
    before = disk.state()
    if case == "stands on another":
        task = disk.create(OTHER, V3, V2, source_image=IMAGE)
    elif case == "stood on":
        task = disk.create(OTHER, V3, V1, source_image=IMAGE)
    else:
        disk.delete(IMAGE, V2)
        before = disk.state()
        with bench.held(data(disk, V1)):
            task = disk.create(OTHER, V3, V1, source_image=IMAGE)
    assert (task.state, bench.code(task)) == (RECOVERED, 203 if case == "in use" else 214)
    assert disk.state() == before


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"size": 2**50 + 1}, 229, id="too large"),
        pytest.param({"size": 0}, 229, id="nothing"),
        pytest.param({"volume": V1}, 212, id="exists"),
        pytest.param({"parent": V4}, 201, id="no such parent"),
        pytest.param({"parent": V1, "source_image": ids.ImageId.new()}, 268, id="no such source image"),
        pytest.param({"parent": V1, "format": "RAW"}, 202, id="raw over a parent"),
        pytest.param({"parent": V2}, 1000, id="itself"),
        pytest.param({"disktype": "x" * 300}, 756, id="no room in the record"),
        pytest.param({"type": "PREALLOCATED", "size": 2**45}, 397, id="no space"),
    ],
)
def test_refused_without_a_trace(disk, changes, code):
    disk.create(IMAGE, V1)
    before = disk.state(temporaries=True)
    values = {"volume": V2, "format": "COW", **changes}
    task = disk.create(IMAGE, values.pop("volume"), values.pop("parent", None), **values)
    assert (task.state, bench.code(task)) == (RECOVERED, code)
    assert disk.state(temporaries=True) == before


def test_illegal_parent(disk):
    disk.create(IMAGE, V1)
    disk.write(IMAGE, V1, legality="ILLEGAL")
    task = disk.create(IMAGE, V2, V1)
    assert bench.code(task) == 226 and "reconcileVolumeChain" in task.record.message
    disk.write(IMAGE, V1, legality="FAKE")
    assert bench.code(disk.create(IMAGE, V2, V1)) == 214


@pytest.mark.parametrize("suffix", ["", ".meta", ".lease"])
def test_stranger_of_that_name_is_never_touched(disk, suffix):
    place = disk.images / IMAGE
    place.mkdir()
    (place / f"{V1}{suffix}").write_text("somebody's")
    task = disk.create(IMAGE, V1)
    assert (task.state, bench.code(task)) == (RECOVERED, 212)
    assert (place / f"{V1}{suffix}").read_text() == "somebody's"


@pytest.mark.parametrize("dangling", [False, True])
def test_symbolic_link_of_that_name_is_never_followed(disk, tmp_path, dangling):
    target = tmp_path / "precious"
    if not dangling:
        target.write_text("precious")
    (disk.images / IMAGE).mkdir()
    data(disk, V1).symlink_to(target)
    assert bench.code(disk.create(IMAGE, V1)) == 212
    assert target.exists() is not dangling and data(disk, V1).is_symlink()


def test_parent_that_is_a_symbolic_link(disk, tmp_path):
    disk.create(IMAGE, V1)
    data(disk, V1).rename(tmp_path / "elsewhere")
    data(disk, V1).symlink_to(tmp_path / "elsewhere")
    assert bench.code(disk.create(IMAGE, V2, V1)) == 255


def test_image_directory_that_is_a_symbolic_link(disk, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (disk.images / IMAGE).symlink_to(tmp_path / "elsewhere")
    assert bench.code(disk.create(IMAGE, V1)) == 254
    assert not os.listdir(tmp_path / "elsewhere")


def test_parent_with_an_external_data_file(disk, tmp_path):
    disk.create(IMAGE, V1, format="COW")
    images.create(data(disk, V1), MIB, data_file=tmp_path / "outside")
    task = disk.create(IMAGE, V2, V1)
    assert bench.code(task) == 255 and "external" in task.record.message


def test_stranger_that_appears_while_we_look_is_never_touched(disk, monkeypatch):
    """Between the look and the claim somebody else made the volume: the rollback must not take it for its own."""
    real = creation._make_place

    def late(domain, request, plan, task):
        real(domain, request, plan, task)
        plan.paths.data.write_text("somebody's")

    monkeypatch.setattr(creation, "_make_place", late)
    (disk.images / IMAGE).mkdir()
    task = disk.create(IMAGE, V1)
    assert (task.state, bench.code(task)) == (RECOVERED, 212)
    assert data(disk, V1).read_text() == "somebody's" and os.listdir(disk.images / IMAGE) == [V1]


# ---------------------------------------------------------------- failures


class Broken(bench.CachedTool):
    """A qemu-img that goes wrong."""

    def __init__(self, failure):
        super().__init__()
        self.failure = failure

    def create(self, path, *args, **options):
        if isinstance(self.failure, Exception):
            raise self.failure
        super().create(path, *args, **{**options, **self.failure})


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        pytest.param(qemuimg.Failed(1, "cannot"), 217, id="fails"),
        pytest.param(qemuimg.Failed(1, "No space left on device"), 397, id="no space"),
        pytest.param(qemuimg.InUse("lock"), 217, id="locked"),
        pytest.param(qemuimg.Stopped("stopped"), 411, id="stopped"),
        pytest.param({"backing": V3}, 217, id="wrong backing name"),
        pytest.param({"backing_format": "raw"}, 217, id="wrong backing format"),
        pytest.param({"compat": "1.1"}, 217, id="wrong version"),
    ],
)
def test_failed_snapshot_is_undone(tmp_path, failure, code):
    disk = bench.Bench(tmp_path)
    disk.chain(IMAGE, V1, V2)
    before = disk.state(temporaries=True)
    disk.tool = Broken(failure)
    task = disk.create(IMAGE, V3, V2)
    assert (task.state, bench.code(task)) == (RECOVERED, code)
    assert disk.state(temporaries=True) == before


@pytest.mark.parametrize("name", ["allocate", "create", "link", "replace", "sync", "make_directory"])
def test_full_storage_is_undone(disk, monkeypatch, name):
    disk.create(OTHER, V1)
    before = disk.state(temporaries=True)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"storage.files.{name}", full)
    if name == "replace":
        task = disk.create(OTHER, V2, V1)
    else:
        task = disk.create(IMAGE, V2, type="PREALLOCATED")
    assert task.state is RECOVERED and bench.code(task) in (397, 208)
    monkeypatch.undo()
    assert disk.state(temporaries=True) == before


def test_stop_while_space_is_set_aside(disk, monkeypatch):
    monkeypatch.setattr(creation, "_ALLOCATION_STEP", 4096)
    real = creation.files.allocate

    def stopping(*args):
        real(*args)
        disk.task.stopping.set()

    monkeypatch.setattr("storage.files.allocate", stopping)
    task = disk.create(IMAGE, V1, type="PREALLOCATED")
    assert (task.state, bench.code(task)) == (RECOVERED, 411)
    assert disk.state() == {".": None}


# ---------------------------------------------------------------- crashes


def scenario(name, disk):
    """What is there before, and the call that is cut off."""
    if name == "base":
        return lambda: disk.create(IMAGE, V4)
    if name == "snapshot":
        disk.chain(IMAGE, V1, V2)
        return lambda: disk.create(IMAGE, V4, V2)
    if name == "from a base":
        disk.create(OTHER, V1)
        return lambda: disk.create(IMAGE, V4, V1, source_image=OTHER)
    disk.create(OTHER, V1)
    disk.create(ids.ImageId("cccccccc-0000-4000-8000-000000000003"), V2, V1, source_image=OTHER)
    return lambda: disk.create(IMAGE, V4, V1, source_image=OTHER)


SCENARIOS = ["base", "snapshot", "from a base", "from a template"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_crash_at_any_change_leaves_old_or_new(tmp_path, still, name):
    tool, outcomes = bench.CachedTool(), set()
    for number, fault in enumerate(faults.crash_points()):
        disk = bench.Bench(fresh(tmp_path, number), tool)
        call = scenario(name, disk)
        old = disk.state()
        with fault.strike():
            call()
        disk.restart()
        now = disk.state()
        if now == old:
            outcomes.add("old")
            assert call().state is FINISHED
        else:
            outcomes.add("new")
        new = disk.state()
        assert f"{IMAGE}/{V4}.meta" in new, f"crash at {fault.at}: {now}"
        assert (new[f"{IMAGE}/{V4}.meta"], new[f"{IMAGE}/{V4}"]) and now in (old, new), f"crash at {fault.at}"
        assert disk.state(temporaries=True) == new, f"crash at {fault.at}: left-overs"
        assert all(volume.derive_type(disk.domain, IMAGE, each) is None for each in (V1, V2)) and disk.state() == new
    assert outcomes == {"old", "new"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_crash_in_the_rollback_after_a_crash(tmp_path, still, name):
    """Recoveries run again from the top of the stack; what was done already must not disturb them."""
    tool, everything = bench.CachedTool(), faults.Faults(None)
    call = scenario(name, bench.Bench(fresh(tmp_path, "count"), tool))
    with everything.strike():
        call()
    for first in range(everything.done // 3, everything.done, 3):
        for number, second in enumerate(faults.crash_points()):
            disk = bench.Bench(fresh(tmp_path, first, number), tool)
            call = scenario(name, disk)
            old = disk.state()
            with faults.Faults(first).strike():
                call()
            with second.strike():
                disk.restart()
            disk.restart()
            assert disk.state() == old, f"crash at {first}, then at {second.at}"
            assert call().state is FINISHED


@pytest.mark.parametrize("name", SCENARIOS)
def test_finished_creation_can_be_reverted(tmp_path, still, name):
    disk = bench.Bench(tmp_path)
    call = scenario(name, disk)
    old = disk.state()
    task = call()
    assert disk.state() != old
    disk.revert(task)
    assert (task.state, disk.state(temporaries=True)) == (RECOVERED, old)


def test_revert_refuses_when_a_later_snapshot_stands_on_the_volume(tmp_path):
    disk = bench.Bench(tmp_path)
    task = disk.create(IMAGE, V1)
    disk.create(IMAGE, V2, V1)
    before = disk.state()
    disk.revert(task)
    assert task.state is tasks.State.FAILED and "204" not in task.record.message
    assert disk.state() == before
