"""A disk copied into one volume: the guest's bytes, what it takes, what is refused, and what a crash leaves."""

import os

import pytest

from storage import errors, ids
from storage.jobs import tasks
from storage.volumes import copying, image, source, volume
from tests.support import bench, disks, faults, images

pytestmark = pytest.mark.qemu

HERE_IMAGE, COPY = disks.IMAGE, disks.OTHER
V1, V2, V3, V4, V5 = disks.V1, disks.V2, disks.V3, disks.V4, disks.V5
MIB = disks.MIB
FINISHED, RECOVERED = tasks.State.FINISHED, tasks.State.RECOVERED


@pytest.fixture(autouse=True)
def unflushed(monkeypatch):
    """Flushing takes no time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def copy(disk, origin=V2, target=V5, image_id=COPY, domain=None, **changes):
    """The job of copyImage."""
    values = {"volume": target, "description": "a copy", "shared": False, "format": None, "type": None, "force": False}
    request = copying.Request(**values | changes)

    def job(task):
        layers = source.chain(disk.here, image.contents(disk.here, HERE_IMAGE), origin, disks.LIMIT)
        return copying.collapse(layers, domain or disk.there, image_id, request, task, disk.tool)

    return job


def taken(path):
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("versions", [(0, 5), (3, 3), (4, 0), (5, 4)])
@pytest.mark.parametrize("base", ["RAW", "COW"])
@pytest.mark.parametrize(
    ("fmt", "kind"), [("RAW", "SPARSE"), ("RAW", "PREALLOCATED"), ("COW", "SPARSE"), ("COW", "PREALLOCATED")]
)
def test_copy_of_a_chain(tmp_path, versions, base, fmt, kind):
    disk = disks.Disks(tmp_path, versions)
    disk.chain(V1, V2, V3, base=base)
    before = disk.state()
    disk.done(copy(disk, V2, format=fmt, type=kind))
    assert disk.guest(V5, COPY, disk.there) == disk.guest(V2)
    assert {name: text for name, text in disk.state().items() if "_disk0" in name} == {
        name: text for name, text in before.items() if "_disk0" in name
    }
    made = disk.meta(V5, COPY, disk.there)
    assert (made.format, made.type, made.voltype, made.legality) == (fmt, kind, "LEAF", "LEGAL")
    assert (made.capacity, made.parent, made.image, made.domain) == (disks.SIZE, ids.BLANK, COPY, disk.there.id)
    assert disk.names(COPY, disk.there) == [V5, f"{V5}.lease", f"{V5}.meta"]
    path = disk.data(V5, COPY, disk.there)
    if fmt == "COW":
        head = volume.header(path)
        assert (head.version, head.backing_name, head.objections) == (2 if versions[1] < 4 else 3, None, ())
    if kind == "PREALLOCATED":
        assert taken(path) >= disks.SIZE
    else:
        assert taken(path) < 4 * MIB


def test_raw_stays_sparse_and_holes_are_not_written(tmp_path):
    disk = disks.Disks(tmp_path)
    path = disk.make(HERE_IMAGE, V1, size=1 << 36)
    images.write_pattern(path, 1 << 35, 65536, 7, fmt="raw")
    disk.done(copy(disk, V1))
    made = disk.data(V5, COPY, disk.there)
    assert made.stat().st_size == 1 << 36 and taken(made) < MIB


def test_template_by_default_format_and_type_of_the_source(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.done(copy(disk, V1, shared=True, domain=disk.here))
    made = disk.meta(V5, COPY, disk.here)
    assert (made.voltype, made.format, made.type, made.description) == ("SHARED", "RAW", "SPARSE", "a copy")
    disk.make(disks.THIRD, V4, V5, source_image=COPY)
    assert disk.guest(V4, disks.THIRD) == disk.guest(V1)


def test_progress_is_told(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    told = []
    real = tasks.Task.progress

    class Watched(tasks.Task):
        def progress(self, message, **extra):
            told.append((message, extra))
            real(self, message, **extra)

    disk._task = lambda record: Watched(record, store=disk.root, save=disk._save, table=disk.table)
    disk.done(copy(disk, V1))
    assert told[0] == ("copying the disk, 0 %", {"percent": "0", "done": "0", "total": told[0][1]["total"]})
    assert told[-1][1]["percent"] == "100" and told[-1][1]["done"] == told[-1][1]["total"]


# ---------------------------------------------------------------- refusals


def refused(disk, error, job):
    before = disk.state()
    task = disk.run(job)
    assert (task.state, bench.code(task)) == (RECOVERED, error.code), task.record.message
    assert disk.state() == before


def test_destination_volume_exists(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.make(COPY, V5, domain=disk.there)
    refused(disk, errors.VolumeAlreadyExists, copy(disk, V1))
    refused(disk, errors.OverwriteImageError, copy(disk, V1, V4))


def test_damaged_destination_is_not_overwritten(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.make(COPY, V5, domain=disk.there)
    disk.data(f"{V5}.meta", COPY, disk.there).write_text("rubbish")
    refused(disk, errors.VolumeAlreadyExists, copy(disk, V1))


def test_destination_that_cannot_be_looked_at_is_not_overwritten(tmp_path, monkeypatch):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.make(COPY, V5, domain=disk.there)
    real = image.contents

    def contents(domain, image_id):
        if domain is disk.there:
            raise errors.VolumeMetadataReadError(volume=V5, reason="Input/output error")
        return real(domain, image_id)

    monkeypatch.setattr(image, "contents", contents)
    refused(disk, errors.VolumeMetadataReadError, copy(disk, V1, force=True))


@pytest.mark.parametrize("legality", ["ILLEGAL", "FAKE"])
def test_worthless_destination_is_overwritten(tmp_path, legality):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.make(COPY, V5, domain=disk.there)
    disk.rewrite(V5, COPY, disk.there, legality=legality)
    disk.done(copy(disk, V1))
    assert disk.guest(V5, COPY, disk.there) == disk.guest(V1)


def test_force_overwrites(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.make(COPY, V4, domain=disk.there)
    disk.done(copy(disk, V1, force=True))
    assert disk.names(COPY, disk.there) == [V5, f"{V5}.lease", f"{V5}.meta"]
    assert disk.names(domain=disk.there) == [COPY]


def test_force_does_not_overwrite_a_template_in_use(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.make(COPY, V5, domain=disk.there)
    disk.make(disks.THIRD, V4, V5, source_image=COPY, domain=disk.there)
    refused(disk, errors.OverwriteImageError, copy(disk, V1, force=True))


def test_force_does_not_overwrite_what_is_open(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    path = disk.make(COPY, V5, domain=disk.there)
    with bench.held(path, "raw"):
        refused(disk, errors.VolumeIsBusy, copy(disk, V1, force=True))


def test_source_in_use(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    with bench.held(disk.data(V2)):
        refused(disk, errors.VolumeIsBusy, copy(disk, V2))
    with bench.held(disk.data(V2), readonly=True):
        disk.done(copy(disk, V2))


def test_source_illegal(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    disk.rewrite(V1, legality="ILLEGAL")
    refused(disk, errors.PrepareIllegalVolumeError, copy(disk, V2))
    disk.rewrite(V1, legality="FAKE")
    refused(disk, errors.ImageIsNotLegalChain, copy(disk, V2))


def test_header_that_lies_about_the_format_of_its_parent(tmp_path):
    """Else a guest that wrote a qcow2 header into its raw disk would choose what is read."""
    disk = disks.Disks(tmp_path)
    disk.chain(V1, V2)
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", V1, disk.data(V2))
    refused(disk, errors.IncorrectFormat, copy(disk, V2))


def test_external_data_file_is_never_opened(tmp_path):
    disk = disks.Disks(tmp_path, (4, 4))
    disk.make(HERE_IMAGE, V1, format="COW")
    victim = tmp_path / "victim"
    victim.write_text("a secret")
    images.create(disk.data(V1), disks.SIZE, data_file=victim, data_file_raw="on")
    victim.write_text("a secret")
    task = disk.run(copy(disk, V1))
    assert bench.code(task) == errors.ImageValidationError.code
    assert victim.read_text() == "a secret" and disk.names(domain=disk.there) == []


def test_too_little_space_is_told_before_the_first_byte(tmp_path):
    disk = disks.Disks(tmp_path)
    disk.chain(V1)
    disk.there.free = 2 * MIB
    refused(disk, errors.NoSpaceLeftOnDomain, copy(disk, V1))
    disk.there.free = 7 * MIB
    refused(disk, errors.NoSpaceLeftOnDomain, copy(disk, V1, type="PREALLOCATED"))
    disk.done(copy(disk, V1, format="COW"))


# ---------------------------------------------------------------- cut off


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A chain, and an image where the copy would go."""
    disk = disks.Disks(tmp_path_factory.mktemp("sample"))
    disk.chain(V1, V2)
    disk.make(COPY, V4, domain=disk.there)
    images.write_pattern(disk.data(V4, COPY, disk.there), 0, 65536, 9, fmt="raw")
    return disk


@pytest.mark.timeout(300)
@pytest.mark.parametrize("force", [False, True], ids=["new", "over another"])
def test_crash_at_every_change(tmp_path, sample, force):
    expected, other = sample.guest(V2), sample.guest(V4, COPY, sample.there)
    tool = disks.RememberingTool()
    for number, fault in enumerate(faults.crash_points()):
        disk = sample.copied(tmp_path / str(number), tool)
        target = COPY if force else disks.THIRD
        before = disk.state()
        with fault.strike():
            disk.run(copy(disk, V2, image_id=target, force=force))
        # As long as nobody has rolled back: never half an image.
        if target in disk.names(domain=disk.there):
            own = image.contents(disk.there, target).own()
            assert disk.guest(own[0], target, disk.there) == (expected if own == [V5] else other)
        [task] = (each for each in disk.restart() if each.id == disk.task.id)
        if task.state is RECOVERED:
            left = {name: text for name, text in disk.state().items() if not name.endswith(".new")}
            if left != before:  # it was complete, and clearing the recoveries was the last that counted
                assert not task.record.recoveries and disk.guest(V5, target, disk.there) == expected
        else:
            assert disk.guest(V5, target, disk.there) == expected
        assert disk.guest(V2) == expected
        disk.done(copy(disk, V2, image_id=target, force=True))
        assert disk.guest(V5, target, disk.there) == expected
        assert disk.names(target, disk.there) == [V5, f"{V5}.lease", f"{V5}.meta"]


def test_killed_qemu_img(tmp_path, sample):
    disk = sample.copied(tmp_path / "storage")
    images.write_pattern(disk.data(V1), 0, 7 * MIB, 3, fmt="raw")
    program = disks.killed_at(tmp_path / "qemu-img", "convert", "0")
    disk = disks.Disks(disk.root, program=program)
    before = disk.state()
    task = disk.run(copy(disk, V1, image_id=disks.THIRD))
    assert (task.state, bench.code(task)) == (RECOVERED, errors.CopyImageError.code)
    assert disk.state() == before


def test_full_storage(tmp_path, sample):
    disk = sample.copied(tmp_path / "storage")
    body = 'if [ "$1" = convert ]; then echo "error while writing: No space left on device" >&2; exit 1; fi'
    disk = disks.Disks(disk.root, program=disks.wrapper(tmp_path / "qemu-img", f'{body}\nexec qemu-img "$@"'))
    refused(disk, errors.NoSpaceLeftOnDomain, copy(disk, V2, image_id=disks.THIRD))


def test_stop_kills_qemu_img_and_leaves_nothing(tmp_path, sample):
    disk = sample.copied(tmp_path / "storage")
    marker = tmp_path / "pid"
    program = disks.wrapper(
        tmp_path / "qemu-img", f'[ "$1" = convert ] || exec qemu-img "$@"\necho $$ > {marker}\nsleep 60'
    )
    disk = disks.Disks(disk.root, program=program)
    before = disk.state()
    task = disk.run(disks.stopped_when(marker, copy(disk, V2, image_id=disks.THIRD)))
    assert (task.state, bench.code(task)) == (RECOVERED, errors.TaskAborted.code)
    assert disk.state() == before
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)
