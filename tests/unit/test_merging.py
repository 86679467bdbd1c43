"""Cold merges: the guest's bytes, records and headers, which way is taken, and crashes at every step and back."""

import os
import time

import pytest

from storage import errors, ids
from storage.jobs import tasks
from storage.qemu import qemuimg
from storage.volumes import image, merging, preparation, volume
from tests.support import bench, disks, faults, images

pytestmark = pytest.mark.qemu

IMAGE, OTHER = disks.IMAGE, disks.OTHER
V1, V2, V3, V4, V5 = disks.V1, disks.V2, disks.V3, disks.V4, disks.V5
MIB = disks.MIB
FINISHED, RECOVERED = tasks.State.FINISHED, tasks.State.RECOVERED
LIMITS = merging.Limits(disks.LIMIT, 1 << 28)
PULL, PUSH, COPY = merging.PULL, merging.PUSH, merging.COPY


@pytest.fixture(autouse=True)
def unflushed(monkeypatch):
    """Flushing takes no time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def by_way(monkeypatch):
    """Have merges go one way, whatever it costs."""

    def choose(way):
        monkeypatch.setattr(merging.Plan, "way", property(lambda plan: plan.costs.get(way) is not None and way))

    return choose


def merge(disk, ancestor, successor):
    return lambda task: merging.merge(disk.here, IMAGE, ancestor, successor, LIMITS, task, disk.tool)


def plan(disk, ancestor, successor):
    return merging.plan(disk.here, IMAGE, ancestor, successor, LIMITS)


def chain_of(disk, leaf):
    """What a guest would be given; headers and records must agree."""
    return preparation.chain(disk.here, image.contents(disk.here, IMAGE), leaf, disks.LIMIT)


def files_of(*volume_ids):
    return sorted(f"{each}{suffix}" for each in volume_ids for suffix in ("", ".lease", ".meta"))


def refused(disk, error, job):
    before = disk.state()
    task = disk.run(job)
    assert (task.state, bench.code(task)) == (RECOVERED, error.code), task.record.message
    assert disk.state() == before


# way, base format, ancestor, successor, and what is left from the top down
CASES = [
    (PULL, "RAW", V2, V3, [V4, V3, V1]),
    (PUSH, "RAW", V2, V3, [V4, V3, V1]),
    (PULL, "COW", V2, V4, [V4, V1]),
    (PUSH, "COW", V2, V4, [V4, V1]),
    (PUSH, "RAW", V1, V2, [V4, V3, V2]),
    (PUSH, "COW", V1, V2, [V4, V3, V2]),
    (PUSH, "RAW", V1, V4, [V4]),
    (PUSH, "COW", V1, V4, [V4]),
    (COPY, "RAW", V1, V2, [V4, V3, V2]),
    (COPY, "COW", V1, V2, [V4, V3, V2]),
    (COPY, "RAW", V1, V4, [V4]),
    (COPY, "COW", V1, V3, [V4, V3]),
]
every_case = pytest.mark.parametrize(
    ("way", "base", "ancestor", "successor", "left"), CASES, ids=lambda each: each if isinstance(each, str) else ""
)


@pytest.mark.parametrize("version", [0, 3, 4, 5])
@every_case
def test_guest_reads_the_same(tmp_path, by_way, version, way, base, ancestor, successor, left):
    disk = disks.Disks(tmp_path, (version, version))
    disk.chain(V1, V2, V3, V4, base=base)
    expected = disk.guests(*left)
    was = disk.meta(successor)
    by_way(way)
    disk.done(merge(disk, ancestor, successor))
    assert disk.guests(*left) == expected
    assert chain_of(disk, left[0]) == left
    assert disk.names(IMAGE) == files_of(*left)
    made = disk.meta(successor)
    assert (made.legality, made.description, made.capacity) == ("LEGAL", was.description, was.capacity)
    assert made.voltype == ("LEAF" if successor == left[0] else "INTERNAL")
    assert made.format == (base if way != PULL and ancestor == V1 else "COW")
    assert disk.meta(left[-1]).voltype == ("LEAF" if left == [V4] else "INTERNAL")
    for volume_id in left:
        if disk.meta(volume_id).format == "COW":
            head = volume.header(disk.data(volume_id))
            assert head.objections == () and head.version == (2 if version < 4 else 3)
            assert not images.qemu_img("check", "-f", "qcow2", disk.data(volume_id), check=False).stderr


def test_preallocated_base_stays_so(tmp_path, by_way):
    for way in (PUSH, COPY):
        disk = disks.Disks(tmp_path / way)
        disk.chain(V1, V2, type="PREALLOCATED")
        expected = disk.guest(V2)
        by_way(way)
        disk.done(merge(disk, V1, V2))
        assert disk.meta(V2).type == "PREALLOCATED" and disk.guest(V2) == expected
        assert volume.sizes(disk.here, IMAGE, V2).allocated >= disks.SIZE


def test_successor_larger_than_its_ancestor(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    images.qemu_img("resize", "-q", "-f", "qcow2", disk.data(V3), str(2 * disks.SIZE))
    images.write_pattern(disk.data(V3), disks.SIZE + MIB, 65536, 7)
    expected = disk.guest(V3)
    assert set(plan(disk, V2, V3).costs) == {PULL}
    disk.done(merge(disk, V2, V3))
    assert disk.guest(V3) == expected
    assert set(plan(disk, V1, V3).costs) == {COPY}
    disk.done(merge(disk, V1, V3))
    assert disk.guest(V3) == expected and disk.meta(V3).capacity == 2 * disks.SIZE
    assert disk.data(V3).stat().st_size == 2 * disks.SIZE


def test_image_over_a_template(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.make(OTHER, V5)
    images.write_pattern(disk.data(V5, OTHER), 0, MIB, 55, fmt="raw")
    disk.make(IMAGE, V1, V5, source_image=OTHER)
    disk.make(IMAGE, V2, V1)
    images.write_pattern(disk.data(V1), 65536, 65536, 1)
    images.write_pattern(disk.data(V2), 131072, 65536, 2)
    expected = disk.guest(V2)
    refused(disk, errors.VolumeNonWritable, merge(disk, V5, V2))
    disk.done(merge(disk, V1, V2))
    assert disk.guest(V2) == expected and chain_of(disk, V2) == [V2, V5]
    assert disk.names(IMAGE) == files_of(V2, V5) and disk.meta(V5).voltype == "SHARED"


# ---------------------------------------------------------------- which way


def fill(disk, volume_id, start, length, byte):
    images.write_pattern(disk.data(volume_id), start, length, byte, fmt=disk.fmt(volume_id))


@pytest.mark.parametrize(
    ("base", "ancestor", "beneath", "above", "way"),
    [
        ("RAW", V1, 4, 1, PUSH),
        ("RAW", V1, 1, 4, COPY),
        ("COW", V1, 4, 1, PUSH),
        ("RAW", V2, 4, 1, PUSH),
        ("RAW", V2, 1, 4, PULL),
    ],
)
def test_the_cheaper_way_is_taken(tmp_path, base, ancestor, beneath, above, way):
    """It follows the data, not the disk: this one has 64 GiB."""
    disk = disks.Disks(tmp_path)
    successor = V2 if ancestor == V1 else V3
    disk.make(IMAGE, V1, format=base, size=1 << 36)
    disk.make(IMAGE, V2, V1)
    disk.make(IMAGE, V3, V2)
    fill(disk, ancestor, 1 << 35, beneath * MIB, 1)
    fill(disk, successor, (1 << 35) + beneath * MIB, above * MIB, 2)
    found = plan(disk, ancestor, successor)
    assert found.way == way and found.costs[way] < 8 * MIB
    started = time.monotonic()
    disk.done(merge(disk, ancestor, successor))
    assert time.monotonic() - started < 30
    places = [(1 << 35, beneath * MIB, 1), ((1 << 35) + beneath * MIB, above * MIB, 2), (0, MIB, 0)]
    reads = [f"read -P {byte} {start} {length}" for start, length, byte in places]
    told = images.qemu_io(disk.data(successor), *reads, fmt=disk.fmt(successor)).stdout
    assert "failed" not in told
    assert volume.sizes(disk.here, IMAGE, successor).allocated < 16 * MIB


def test_space_is_checked_first(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.here.free = 65536
    refused(disk, errors.NoSpaceLeftOnDomain, merge(disk, V1, V2))


def test_tables_that_are_too_large_to_be_read(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    limits = merging.Limits(disks.LIMIT, 1)
    assert set(merging.plan(disk.here, IMAGE, V2, V3, limits).costs) == {PULL}
    assert set(merging.plan(disk.here, IMAGE, V1, V2, limits).costs) == {COPY}
    expected = disk.guest(V3)
    disk.done(lambda task: merging.merge(disk.here, IMAGE, V1, V2, limits, task, disk.tool))
    assert disk.guest(V3) == expected


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(("ancestor", "successor"), [(V2, V1), (V2, V2), (V5, V2), (V1, V5)])
def test_not_a_chain(tmp_path, ancestor, successor):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    refused(disk, errors.ImageIsNotLegalChain, merge(disk, ancestor, successor))


def test_no_image(tmp_path):
    refused(disks.Disks(tmp_path), errors.ImageDoesNotExistInSD, merge(disks.Disks(tmp_path), V1, V2))


def test_branch(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.make(IMAGE, V3, V1)
    refused(disk, errors.VolumeImageHasChildren, merge(disk, V1, V2))


def test_branch_that_only_a_header_knows_of(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    disk.make(IMAGE, V4, V3)
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", V1, disk.data(V4))
    refused(disk, errors.VolumeImageHasChildren, merge(disk, V1, V2))


def test_illegal(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.rewrite(V2, legality="ILLEGAL")
    refused(disk, errors.PrepareIllegalVolumeError, merge(disk, V1, V2))


def test_torn_live_merge_is_not_merged_over(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", V1, disk.data(V3))
    refused(disk, errors.ImageIsNotLegalChain, merge(disk, V2, V3))


@pytest.mark.parametrize("volume_id", [V2, V3])
@pytest.mark.parametrize("place", [512, 1 << 40])
def test_damaged_tables_are_not_written_to(tmp_path, volume_id, place):
    """qemu-img begins, marks the image as corrupt, and then fails."""
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    path = disk.data(volume_id)
    images.patch_number(path, images.number(path, 40, 8), 1 << 63 | place, 8)
    before = path.read_bytes()
    refused(disk, errors.ImageValidationError, merge(disk, V2, V3))
    assert path.read_bytes() == before


def test_wrong_format_of_the_parent(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", V1, disk.data(V2))
    refused(disk, errors.IncorrectFormat, merge(disk, V1, V2))


@pytest.mark.parametrize("volume_id", [V1, V2, V3])
def test_in_use(tmp_path, volume_id):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    with bench.held(disk.data(volume_id), disk.fmt(volume_id), readonly=True):
        refused(disk, errors.VolumeIsBusy, merge(disk, V1, V2))


def test_what_an_undone_merge_had_to_leave_is_in_nobodys_way(tmp_path, by_way):
    by_way(PUSH)
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    expected = disk.guest(V3)
    images.qemu_img("snapshot", "-c", f"vdsmlite-merge-{ids.TaskId.new()}", disk.data(V2))
    task = disk.run(merge(disk, V2, V3))
    assert (bench.code(task), disk.guest(V3)) == (0, expected), task.record.message
    assert not images.info(disk.data(V3)).get("snapshots")


@pytest.mark.parametrize("name", ["a user's", "11111111-0000-4000-8000-000000000001"])
def test_snapshots_of_others_stay(tmp_path, name):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    images.qemu_img("snapshot", "-c", name, disk.data(V2))
    refused(disk, errors.ImageValidationError, merge(disk, V2, V3))


# ---------------------------------------------------------------- cut off

CRASHES = [
    (PULL, "RAW", V2, V3, [V4, V3, V1]),
    (PUSH, "COW", V2, V3, [V4, V3, V1]),
    (PUSH, "RAW", V1, V2, [V4, V3, V2]),
    (COPY, "RAW", V1, V3, [V4, V3]),
]
every_crash = pytest.mark.parametrize(
    ("way", "base", "ancestor", "successor", "left"), CRASHES, ids=["pull", "push cow", "push raw", "copy"]
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    found = {}
    for base in ("RAW", "COW"):
        found[base] = disks.Disks(tmp_path_factory.mktemp(base))
        found[base].chain(V1, V2, V3, V4, base=base)
    return found


def check(disk, expected, left):
    """Whatever is left, every volume that is there and not marked reads as it did, and the leaf is one of them."""
    held = image.contents(disk.here, IMAGE)
    assert held.records[V4].legality == "LEGAL"
    assert all(found.legality == "LEGAL" for found in held.records.values())
    assert disk.guests(*held.own()) == {each: expected[each] for each in held.own()}
    chain = chain_of(disk, V4)
    assert chain in (left, [V4, V3, V2, V1])
    assert disk.names(IMAGE) == files_of(*chain)


@pytest.mark.timeout(300)
@every_crash
def test_crash_at_every_change(tmp_path, samples, by_way, way, base, ancestor, successor, left):
    by_way(way)
    sample = samples[base]
    expected = sample.guests(V1, V2, V3, V4)
    outcomes = set()
    for number, fault in enumerate(faults.crash_points()):
        disk = sample.copied(tmp_path / str(number))
        with fault.strike():
            disk.run(merge(disk, ancestor, successor))
        disk.restart()
        image.sweep(disk.here, IMAGE)
        check(disk, expected, left)
        done = successor in left and ancestor not in image.contents(disk.here, IMAGE)
        outcomes.add(done)
        if not done:
            disk.done(merge(disk, ancestor, successor))
            check(disk, expected, left)
    assert outcomes == {False, True} and number > 10


@pytest.mark.timeout(300)
@every_crash
def test_crash_on_the_way_back(tmp_path, samples, by_way, monkeypatch, way, base, ancestor, successor, left):
    """The merge is undone from its last step before the point of no return, and the undoing is cut off, too."""
    by_way(way)
    expected = samples[base].guests(V1, V2, V3, V4)

    def fail(task, step=None):
        raise faults.Crash

    for number, fault in enumerate(faults.crash_points()):
        disk = samples[base].copied(tmp_path / str(number))
        with monkeypatch.context() as patch, pytest.raises(faults.Crash):
            patch.setattr(tasks.Task, "commit", fail)
            disk.run(merge(disk, ancestor, successor))
        with fault.strike():
            disk.table.run(disk.task, disk.task.record.recoveries[-1])
        disk.restart()
        image.sweep(disk.here, IMAGE)
        check(disk, expected, [V4, V3, V2, V1])


@pytest.mark.parametrize("number", range(3))
@every_crash
def test_killed_qemu_img(tmp_path, samples, by_way, number, way, base, ancestor, successor, left):
    """It dies somewhere within its work, as with its host."""
    by_way(way)
    disk = samples[base].copied(tmp_path / "storage")
    expected = disk.guests(V1, V2, V3, V4)
    command = {PULL: "rebase", PUSH: "commit", COPY: "convert"}[way]
    program = disks.killed_at(tmp_path / "qemu-img", command, ("0", "0.01", "0.02")[number])
    disk = disks.Disks(disk.root, program=program)
    task = disk.run(merge(disk, ancestor, successor))
    assert (task.state, bench.code(task)) == (RECOVERED, errors.MergeSnapshotsError.code)
    image.sweep(disk.here, IMAGE)
    check(disks.Disks(disk.root), expected, [V4, V3, V2, V1])


@every_crash
def test_half_done_and_killed(tmp_path, samples, by_way, way, base, ancestor, successor, left):
    """The tool has done all of its work when it is killed: what the ancestor reads as by itself has changed."""
    by_way(way)
    disk = samples[base].copied(tmp_path / "storage")
    expected = disk.guests(V1, V2, V3, V4)
    command = {PULL: "rebase", PUSH: "commit", COPY: "convert"}[way]
    body = f'[ "$1 $2" = "{command} -p" ] || exec qemu-img "$@"\nqemu-img "$@"\nkill -9 $$'
    disk = disks.Disks(disk.root, program=disks.wrapper(tmp_path / "qemu-img", body))
    task = disk.run(merge(disk, ancestor, successor))
    assert (task.state, bench.code(task)) == (RECOVERED, errors.MergeSnapshotsError.code)
    image.sweep(disk.here, IMAGE)
    check(disks.Disks(disk.root), expected, [V4, V3, V2, V1])


@every_crash
def test_stop(tmp_path, samples, by_way, way, base, ancestor, successor, left):
    by_way(way)
    disk = samples[base].copied(tmp_path / "storage")
    expected = disk.guests(V1, V2, V3, V4)
    command = {PULL: "rebase", PUSH: "commit", COPY: "convert"}[way]
    marker = tmp_path / "pid"
    disk = disks.Disks(disk.root, program=disks.sleeping_at(tmp_path / "qemu-img", command, marker))
    task = disk.run(disks.stopped_when(marker, merge(disk, ancestor, successor)))
    assert (task.state, bench.code(task)) == (RECOVERED, errors.TaskAborted.code)
    image.sweep(disk.here, IMAGE)
    check(disks.Disks(disk.root), expected, [V4, V3, V2, V1])


def test_ancestor_is_marked_while_it_is_torn(tmp_path, samples, by_way):
    """Whoever runs a guest on the ancestor alone must not get what is half of each."""
    by_way(PUSH)
    disk = samples["RAW"].copied(tmp_path / "storage")
    seen = []
    real = disk.tool.commit

    class Tool(qemuimg.QemuImg):
        def commit(self, *paths, **options):
            seen.append(disk.meta(V1).legality)
            seen.append(disk.meta(V2).legality)
            real(*paths, **options)

    disk.tool = Tool()
    disk.done(merge(disk, V1, V2))
    assert seen == ["ILLEGAL", "LEGAL"]


def test_rollback_that_fails_says_so_and_can_be_repeated(tmp_path, samples, by_way):
    by_way(PUSH)
    disk = samples["COW"].copied(tmp_path / "storage")
    expected = disk.guests(V1, V2, V3, V4)
    body = '[ "$1" = commit ] && { qemu-img "$@"; exit 1; }\n[ "$1 $3" = "snapshot -a" ] && exit 1\nexec qemu-img "$@"'
    disk = disks.Disks(disk.root, program=disks.wrapper(tmp_path / "qemu-img", body))
    task = disk.run(merge(disk, V2, V3))
    assert task.state is tasks.State.FAILED and "could not be undone" in task.record.message
    assert disk.meta(V2).legality == "ILLEGAL" and disk.guest(V4) == expected[V4]
    healthy = disks.Disks(disk.root)
    healthy.table.run(task, task.record.recoveries[-1])
    image.sweep(healthy.here, IMAGE)
    check(healthy, expected, [V4, V3, V2, V1])


def test_ids_in_other_images_are_left_alone(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.chain(V3, V4, image_id=OTHER)
    expected = disk.guests(V3, V4, image_id=OTHER)
    disk.done(merge(disk, V1, V2))
    assert disk.guests(V3, V4, image_id=OTHER) == expected
    assert ids.is_id(V2) and disk.names(IMAGE) == files_of(V2)
