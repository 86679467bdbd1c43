"""Growing volumes: what may grow, the guest's bytes, records that agree, and crashes."""

import os

import pytest

from storage import errors
from storage.jobs import tasks
from storage.volumes import resizing, volume
from tests.support import bench, disks, faults, images

pytestmark = pytest.mark.qemu

IMAGE, OTHER = disks.IMAGE, disks.OTHER
V1, V2, V3 = disks.V1, disks.V2, disks.V3
MIB, SIZE = disks.MIB, disks.SIZE
RECOVERED = tasks.State.RECOVERED


@pytest.fixture(autouse=True)
def unflushed(monkeypatch):
    """Flushing takes no time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def extend(disk, volume_id, size, image_id=IMAGE):
    return lambda task: resizing.extend(disk.here, image_id, volume_id, size, disks.LIMIT, task, disk.tool)


def refused(disk, error, job):
    before = disk.state()
    task = disk.run(job)
    assert (task.state, bench.code(task)) == (RECOVERED, error.code), task.record.message
    assert disk.state() == before


@pytest.mark.parametrize("version", [0, 3, 4, 5])
@pytest.mark.parametrize("fmt", ["RAW", "COW"])
@pytest.mark.parametrize("kind", ["SPARSE", "PREALLOCATED"])
def test_base_grows(tmp_path, version, fmt, kind):
    disk = disks.Disks(tmp_path, (version, version))
    disk.chain(V1, base=fmt, type=kind)
    expected = disk.guest(V1)
    disk.done(extend(disk, V1, 2 * SIZE - 100))
    assert disk.guest(V1) == expected + b"\0" * SIZE
    assert disk.meta(V1).capacity == 2 * SIZE == volume.virtual_size(disk.here, IMAGE, V1, fmt)
    taken = volume.sizes(disk.here, IMAGE, V1).allocated
    if fmt == "RAW":
        assert taken >= 2 * SIZE if kind == "PREALLOCATED" else taken < 4 * MIB


def test_leaf_grows_over_its_base(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    expected = disk.guest(V2)
    disk.done(extend(disk, V2, 2 * SIZE))
    assert disk.guest(V2) == expected + b"\0" * SIZE
    assert (disk.meta(V1).capacity, disk.meta(V2).capacity) == (SIZE, 2 * SIZE)


def test_internal_raw_base_grows_even_under_a_machine(tmp_path):
    """A live merge needs the base as large as what is merged into it."""
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    with bench.held(disk.data(V2)):
        disk.done(extend(disk, V1, 2 * SIZE))
    assert disk.meta(V1).capacity == 2 * SIZE and disk.meta(V1).voltype == "INTERNAL"


def test_same_size(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    before = disk.state()
    disk.done(extend(disk, V1, SIZE))
    assert disk.state() == before


def test_record_that_says_less_than_the_data_has(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.rewrite(V1, capacity=MIB)
    disk.done(extend(disk, V1, SIZE))
    assert disk.meta(V1).capacity == SIZE


def test_what_must_not_grow(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    refused(disk, errors.VolumeNonWritable, extend(disk, V2, 2 * SIZE))
    refused(disk, errors.VolumeResizeValueError, extend(disk, V3, SIZE - 512))
    refused(disk, errors.VolumeResizeValueError, extend(disk, V1, 0))
    refused(disk, errors.VolumeResizeValueError, extend(disk, V1, 1 << 60))
    refused(disk, errors.VolumeDoesNotExist, extend(disk, disks.V5, SIZE))
    refused(disk, errors.ImageDoesNotExistInSD, extend(disk, V1, SIZE, OTHER))
    with bench.held(disk.data(V3)):
        refused(disk, errors.VolumeIsBusy, extend(disk, V3, 2 * SIZE))


def test_template(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.make(OTHER, V2, V1, source_image=IMAGE)
    refused(disk, errors.VolumeNonWritable, extend(disk, V1, 2 * SIZE))
    refused(disk, errors.VolumeNonWritable, extend(disk, V1, 2 * SIZE, OTHER))


def test_external_data_file_is_not_followed(tmp_path):
    disk = disks.Disks(tmp_path, (4, 4))
    disk.make(IMAGE, V1, format="COW")
    victim = tmp_path / "victim"
    images.create(disk.data(V1), SIZE, data_file=victim, data_file_raw="on")
    victim.write_text("a secret")
    task = disk.run(extend(disk, V1, 2 * SIZE))
    assert bench.code(task) == errors.ImageValidationError.code and victim.read_text() == "a secret"


@pytest.mark.parametrize("volume_id", [V2, V3])
@pytest.mark.parametrize("form", ["{}", 'json:{{"driver":"file","filename":"{}"}}', "file:{}"])
def test_what_headers_of_the_chain_name_is_not_opened(tmp_path, volume_id, form):
    """Whoever makes a qcow2 image larger has qemu-img open the whole chain."""
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2, V3)
    victim = tmp_path / "victim"
    victim.write_bytes(b"a secret")
    name = form.format(victim)
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", name, disk.data(volume_id))
    os.utime(victim, (1, 1))
    refused(disk, errors.ImageValidationError, extend(disk, V3, 2 * SIZE))
    assert victim.stat().st_atime == 1


def test_space(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, type="PREALLOCATED")
    disk.here.free = MIB
    refused(disk, errors.NoSpaceLeftOnDomain, extend(disk, V1, 2 * SIZE))


@pytest.mark.parametrize(("fmt", "kind"), [("RAW", "SPARSE"), ("RAW", "PREALLOCATED"), ("COW", "SPARSE")])
def test_crash_at_every_change(tmp_path, tmp_path_factory, fmt, kind):
    sample = disks.Disks(tmp_path_factory.mktemp("sample"))
    sample.chain(V1, base=fmt, type=kind)
    expected = sample.guest(V1)
    for number, fault in enumerate(faults.crash_points()):
        disk = sample.copied(tmp_path / str(number))
        with fault.strike():
            disk.run(extend(disk, V1, 2 * SIZE))
        disk.restart()
        assert disk.meta(V1).capacity == volume.virtual_size(disk.here, IMAGE, V1, fmt)
        assert disk.guest(V1)[:SIZE] == expected and not any(disk.guest(V1)[SIZE:])
        disk.done(extend(disk, V1, 2 * SIZE))
        assert disk.guest(V1) == expected + b"\0" * SIZE and disk.meta(V1).capacity == 2 * SIZE


def test_killed_qemu_img(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, base="COW")
    body = '[ "$1" = resize ] || exec qemu-img "$@"\nqemu-img "$@"\nkill -9 $$'
    broken = disks.Disks(tmp_path, program=disks.wrapper(tmp_path / "qemu-img", body))
    task = broken.run(extend(broken, V1, 2 * SIZE))
    assert (task.state, bench.code(task)) == (RECOVERED, errors.VolumeExtendingError.code)
    assert disk.meta(V1).capacity == volume.virtual_size(disk.here, IMAGE, V1, "COW") == 2 * SIZE


# ---------------------------------------------------------------- the record only


@pytest.mark.parametrize(
    ("version", "size", "recorded"),
    [(3, 1, 512), (3, 3 * MIB, 3 * MIB), (5, 513, 1024), (3, 0, 0), (5, 0, 0), (3, -7, -512), (5, -7, 0)],
)
def test_size_in_the_record(tmp_path, version, size, recorded):
    disk = disks.Disks(tmp_path, (version, version))
    path = disk.make(IMAGE, V1)
    resizing.set_size(disk.here, IMAGE, V1, size)
    assert disk.meta(V1).capacity == recorded and path.stat().st_size == SIZE
    wanted = f"CAP={recorded}" if version == 5 else f"SIZE={recorded // 512}"
    assert wanted in disk.data(f"{V1}.meta").read_text().splitlines()


def test_size_in_the_record_of_a_template_reaches_its_links(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.make(IMAGE, V1)
    disk.make(OTHER, V2, V1, source_image=IMAGE)
    resizing.set_size(disk.here, IMAGE, V1, 2 * SIZE)
    assert disk.meta(V1, OTHER).capacity == 2 * SIZE
    with pytest.raises(errors.InvalidParameterException):
        resizing.set_size(disk.here, OTHER, V1, SIZE)


def test_no_such_volume(tmp_path):
    disk = disks.Disks(tmp_path)
    with pytest.raises(errors.ImageDoesNotExistInSD):
        resizing.set_size(disk.here, IMAGE, V1, SIZE)
    disk.make(IMAGE, V1)
    with pytest.raises(errors.VolumeDoesNotExist):
        resizing.exists(disk.here, IMAGE, V2)
    with pytest.raises(errors.InvalidParameterException):
        resizing.set_size(disk.here, IMAGE, V1, 1 << 62)
    resizing.exists(disk.here, IMAGE, V1)
