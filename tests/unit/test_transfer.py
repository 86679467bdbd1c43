"""Replacing a volume's content: what is written in which order, and what a crash or a failure at any change leaves."""

import errno
import os
from pathlib import Path

import pytest

from storage import errors, files, settings
from storage.chains import reconcile
from storage.jobs import tasks
from storage.volumes import image, incoming, transfer, volume, volume_metadata
from tests.support import bench, faults, images

IMAGE = bench.IMAGE
V1, V2, V3 = bench.new_ids(3)
MIB = bench.MIB
PIECE = transfer.PIECE
CHAIN_LIMIT = 10
OLD, NEW = b"old", b"new"
RAW_SIZE = 3 * PIECE


class Source:
    """Gives content, and does something before a piece is given."""

    def __init__(self, data, length=None, before=lambda done: None):
        self.data, self.length, self.before = data, len(data) if length is None else length, before
        self.done = 0

    def begin(self, task_id, pause):
        return self.length

    def fill(self, buffer, pause):
        self.before(self.done)
        pause()
        buffer[:] = self.data[self.done : self.done + len(buffer)]
        self.done += len(buffer)

    def close(self):
        pass


class Sink:
    def __init__(self, before=lambda done: None):
        self.data, self.length, self.ended, self.before = b"", None, False, before

    def begin(self, task_id, length, pause):
        self.length = length

    def send(self, fd, offset, count, pause):
        self.before(len(self.data))
        pause()
        data = os.pread(fd, count, offset)
        if len(data) < count:
            raise EOFError
        self.data += data

    def end(self, pause):
        self.ended = True

    def close(self):
        pass


@pytest.fixture
def disk(tmp_path):
    return made(tmp_path)


def made(place, **settings):
    disk = bench.Bench(place, TOOL, **settings)
    disk.chain(IMAGE, V1, size=RAW_SIZE)
    disk.saved.clear()
    data(disk).write_bytes(OLD.ljust(RAW_SIZE, b"-"))
    return disk


TOOL = bench.CachedTool()


def data(disk, volume_id=V1):
    return disk.images / IMAGE / volume_id


def target(disk, volume_id=V1):
    return incoming.target(disk.domain, image.contents(disk.domain, IMAGE), volume_id, CHAIN_LIMIT)


def receive(disk, source, volume_id=V1):
    chosen = target(disk, volume_id)
    return disk.run("downloadImage", lambda task: transfer.receive(disk.domain, IMAGE, chosen, source, task))


def state(disk, volume_id=V1):
    found = disk.meta(IMAGE, volume_id)
    return found.legality, transfer.is_unfinished(found)


UNTOUCHED, UNFINISHED = ("LEGAL", False), ("ILLEGAL", True)


# ---------------------------------------------------------------- in, undisturbed


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, RAW_SIZE])
def test_content_is_replaced_and_the_rest_is_zero(disk, size):
    content = os.urandom(size)
    before = disk.meta(IMAGE, V1)
    task = receive(disk, Source(content))
    assert task.state is tasks.State.FINISHED
    assert data(disk).read_bytes() == content.ljust(RAW_SIZE, b"\0")
    after = disk.meta(IMAGE, V1)
    assert (after.legality, after.generation, dict(after.extra)) == ("LEGAL", before.generation + 1, {})
    assert task.extra == {"done": str(size), "total": str(size)} if size else not task.extra


def test_generations_begin_again_after_999(disk):
    disk.write(IMAGE, V1, generation=999)
    receive(disk, Source(NEW))
    assert disk.meta(IMAGE, V1).generation == 0


def test_foreign_keys_of_a_record_stay(disk):
    disk.write(IMAGE, V1, extra={"OTHER": "x"})
    receive(disk, Source(NEW))
    assert disk.meta(IMAGE, V1).extra == {"OTHER": "x"}


def test_a_long_description_makes_room_for_the_mark(disk):
    disk.write(IMAGE, V1, description="x" * volume_metadata.DESCRIPTION_LIMIT)
    receive(disk, Source(NEW))
    assert disk.meta(IMAGE, V1).description == "x" * volume_metadata.DESCRIPTION_LIMIT


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * RAW_SIZE,
        b"\0" * 65536 + b"x" + b"\0" * 65535 + b"\0" * 65536 + b"y" * 65536,
        b"x" + b"\0" * (RAW_SIZE - 2) + b"y",
        b"\0" * 65535 + b"x" * 2 + b"\0" * 100,
        b"x" * 65536 + b"\0" * 65536 * 3 + b"x" * 65536,
    ],
    ids=len,
)
def test_zeroes_become_holes(disk, content):
    receive(disk, Source(content))
    assert data(disk).read_bytes() == content.ljust(RAW_SIZE, b"\0")
    blocks = {at // 65536 for at, byte in enumerate(content) if byte}
    assert data(disk).stat().st_blocks * 512 <= 65536 * len(blocks)


def test_order_of_the_writes(disk, monkeypatch):
    """ILLEGAL is durable before the first byte, the bytes before LEGAL."""
    calls = []
    meta = data(disk).with_name(f"{V1}.meta")

    class Spy(faults.Faults):
        def _counted(self, name, real):
            def call(*arguments, **named):
                calls.append((name, "LEGALITY=ILLEGAL" in meta.read_text()))
                return real(*arguments, **named)

            return call

    with Spy(None).strike():
        receive(disk, Source(os.urandom(RAW_SIZE)))
    names = [name for name, _ in calls]
    writes = [at for at, name in enumerate(names) if name in ("pwrite", "ftruncate")]
    renames = [at for at, name in enumerate(names) if name == "rename"]
    assert len(renames) == 2 and renames[0] < writes[0] and writes[-1] < renames[1]
    assert names[renames[0] + 1 : writes[0]].count("fsync") == 1, "the directory"
    assert "fsync" in names[writes[-1] : renames[1]]
    assert all(calls[at][1] for at in writes)


# ---------------------------------------------------------------- in, cut off


def test_a_crash_anywhere_leaves_the_old_content_or_illegal_or_the_new_content(tmp_path):
    seen = set()
    for number, fault in enumerate(faults.crash_points()):
        disk = made(tmp_path / str(number))
        content = NEW.ljust(2 * PIECE, b"+")
        with fault.strike():
            receive(disk, Source(content))
        left = data(disk).read_bytes()
        now = state(disk)
        if now == UNTOUCHED:
            assert left in (OLD.ljust(RAW_SIZE, b"-"), content.ljust(RAW_SIZE, b"\0"))
        else:
            assert now == UNFINISHED
        [task] = disk.restart() or [None]
        assert state(disk) == now, "a rollback changes nothing"
        if task is None or not fault.fired:
            continue
        if now == UNFINISHED:
            assert (task.state, bench.code(task)) == (tasks.State.FAILED, 255)
            assert "stays ILLEGAL" in task.record.message
            seen.add("unfinished")
        elif left.startswith(NEW):
            assert (task.state, bench.code(task)) == (tasks.State.FAILED, 2000)
            assert "whole and verified" in task.record.message
            seen.add("complete")
        else:
            assert task.state is tasks.State.RECOVERED
            seen.add("untouched")
        assert receive(disk, Source(b"again")).state is tasks.State.FINISHED, "the way out"
        assert state(disk) == UNTOUCHED
    assert seen >= {"unfinished", "complete", "untouched"}


def test_an_error_of_the_storage_anywhere_never_ends_as_legal_without_the_content(tmp_path):
    for code in (errno.ENOSPC, errno.EIO):
        for at in range(200):
            disk = made(tmp_path / f"{code}-{at}")
            fault = faults.Faults(at, OSError(code, os.strerror(code)))
            with fault.strike():
                task = receive(disk, Source(NEW.ljust(2 * PIECE, b"+")))
            if not fault.fired:
                break
            left = data(disk).read_bytes()
            if task.state is tasks.State.FINISHED or state(disk) == UNTOUCHED:
                assert left[:3] in (OLD, NEW) and len(left) == RAW_SIZE
                assert left in (OLD.ljust(RAW_SIZE, b"-"), NEW.ljust(2 * PIECE, b"+").ljust(RAW_SIZE, b"\0"))
            else:
                assert state(disk) == UNFINISHED and task.state is tasks.State.FAILED
                assert bench.code(task) in (
                    errors.NoSpaceLeftOnDomain.code,
                    errors.VolumeAccessError.code,
                    errors.VolumeMetadataWriteError.code,
                )
        else:
            raise AssertionError("it never succeeds")


def test_stopped_before_the_first_byte_and_in_the_middle(disk):
    def stop_at(done):
        return lambda now: disk.task.stopping.set() if now == done else None

    task = receive(disk, Source(NEW.ljust(RAW_SIZE), before=stop_at(PIECE)))
    assert (task.state, bench.code(task), state(disk)) == (tasks.State.FAILED, 411, UNFINISHED)
    assert receive(disk, Source(NEW)).state is tasks.State.FINISHED


def test_a_failing_other_end(disk):
    def fail(done):
        if done:
            raise errors.CopyImageError(image=IMAGE, reason="gone")

    task = receive(disk, Source(NEW.ljust(RAW_SIZE), before=fail))
    assert (task.state, bench.code(task), state(disk)) == (tasks.State.FAILED, 261, UNFINISHED)


def test_too_much_changes_nothing(disk):
    task = receive(disk, Source(bytes(RAW_SIZE + 1)))
    assert (task.state, bench.code(task), state(disk)) == (tasks.State.RECOVERED, 229, UNTOUCHED)
    assert data(disk).read_bytes() == OLD.ljust(RAW_SIZE, b"-")


def test_recoveries_need_nothing_where_the_image_or_the_volume_is_gone(disk):
    transfer.settle(disk.domain, IMAGE, V2, 0)
    transfer.settle(disk.domain, bench.OTHER, V1, 0)


def test_the_mark_of_a_hand_is_not_ours(disk):
    receive(disk, Source(NEW, before=lambda done: disk.task.stopping.set()))
    assert state(disk) == UNFINISHED
    volume.set_legality(disk.domain, IMAGE, V1, "ILLEGAL")
    assert state(disk) == UNFINISHED, "saying it again does not make it a mark before a pivot"
    volume.set_legality(disk.domain, IMAGE, V1, "LEGAL")
    volume.set_legality(disk.domain, IMAGE, V1, "ILLEGAL")
    assert state(disk) == ("ILLEGAL", False)
    with pytest.raises(errors.PrepareIllegalVolumeError):
        target(disk)


def test_a_repair_keeps_off(disk):
    receive(disk, Source(NEW, before=lambda done: disk.task.stopping.set()))
    rules = reconcile.Rules(settings.Settings(disk.root))
    with pytest.raises(errors.ImageIsNotLegalChain, match="did not end"):
        reconcile.reconcile(disk.domain, IMAGE, V1, rules, disk.tool)
    assert state(disk) == UNFINISHED
    receive(disk, Source(NEW))
    assert list(reconcile.reconcile(disk.domain, IMAGE, V1, rules, disk.tool).chain.volumes) == [V1]


# ---------------------------------------------------------------- which volumes


def test_only_leaves_in_a_place_that_is_as_it_should_be(disk):
    disk.create(IMAGE, V2, V1)
    disk.create(IMAGE, V3, V2)
    with pytest.raises(errors.InternalVolumeNonWritable):
        target(disk, V1)
    with pytest.raises(errors.InternalVolumeNonWritable):
        target(disk, V2)
    assert target(disk, V3).backing_format == "qcow2"
    disk.write(IMAGE, V1, legality="ILLEGAL")
    with pytest.raises(errors.PrepareIllegalVolumeError):
        target(disk, V3)
    disk.write(IMAGE, V1, legality="LEGAL")
    files.unlink(data(disk, V1))
    with pytest.raises(errors.ImageIsNotLegalChain):
        target(disk, V3)
    files.unlink(data(disk, V1).with_name(f"{V1}.meta"))
    with pytest.raises(errors.ImageIsNotLegalChain):
        target(disk, V3)
    disk.write(IMAGE, V3, format="RAW")
    with pytest.raises(errors.IncorrectFormat):
        target(disk, V3)


def test_a_leaf_that_only_a_header_stands_on_is_none(disk):
    disk.create(IMAGE, V2, V1)
    disk.write(IMAGE, V1, voltype="LEAF")
    disk.write(IMAGE, V2, parent=volume_metadata.ids.VolumeId(volume_metadata.ids.BLANK))
    with pytest.raises(errors.InternalVolumeNonWritable, match=V2):
        target(disk, V1)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"voltype": "INTERNAL"}, errors.InternalVolumeNonWritable),
        ({"voltype": "SHARED"}, errors.SharedVolumeNonWritable),
        ({"image": bench.OTHER}, errors.SharedVolumeNonWritable),
        ({"legality": "FAKE"}, errors.IncorrectFormat),
        ({"legality": "ILLEGAL"}, errors.PrepareIllegalVolumeError),
    ],
)
def test_other_volumes(disk, changes, error):
    disk.write(IMAGE, V1, **changes)
    with pytest.raises(error):
        target(disk)


def test_a_link_or_damage_in_place_of_files(disk, tmp_path):
    data(disk).unlink()
    data(disk).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.ImageValidationError):
        target(disk)
    data(disk).with_name(f"{V1}.meta").write_bytes(b"nonsense")
    with pytest.raises(errors.ImageValidationError):
        target(disk)


def test_a_link_that_comes_after_the_look_is_not_followed(disk, tmp_path):
    chosen = target(disk)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    data(disk).unlink()
    data(disk).symlink_to(victim)
    task = disk.run("x", lambda task: transfer.receive(disk.domain, IMAGE, chosen, Source(NEW), task))
    assert task.state is tasks.State.FAILED
    task = disk.run("x", lambda task: transfer.send(data(disk), 3, Sink(), task))
    assert bench.code(task) == 209
    assert victim.read_bytes() == b"precious"


@pytest.mark.qemu
def test_in_use(disk):
    chosen = target(disk)
    with bench.held(data(disk), "raw"):
        with pytest.raises(errors.VolumeIsBusy):
            target(disk)
        task = disk.run("x", lambda task: transfer.receive(disk.domain, IMAGE, chosen, Source(NEW), task))
        assert (bench.code(task), state(disk)) == (203, UNTOUCHED)


# ---------------------------------------------------------------- which content


@pytest.fixture
def cow(tmp_path):
    disk = bench.Bench(tmp_path, TOOL, version=4)
    disk.chain(IMAGE, V1, format="COW")
    return disk


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, None),
        ({"compat": "0.10"}, None),
        ({"cluster_size": 512}, None),
        ({"cluster_size": 2 * MIB}, None),
        ({"extended_l2": "on"}, None),
        ({"size": MIB - 512}, None),
        ({"size": MIB + 512}, errors.ImageValidationError),
        ({"backing": V2}, errors.ImageValidationError),
        ({"encrypt": True}, errors.ImageValidationError),
    ],
    ids=str,
)
def test_images(cow, tmp_path, options, error):
    options = dict(options)
    size = options.pop("size", MIB)
    path = images.create(tmp_path / "image", size, **{k: v for k, v in options.items() if k != "encrypt"})
    if "encrypt" in options:
        images.patch_number(path, 32, 1, 4)
    task = receive(cow, Source(path.read_bytes()))
    assert bench.code(task) == (error.code if error else 0)
    assert state(cow) == (UNFINISHED if error else UNTOUCHED)
    assert (data(cow).read_bytes() == path.read_bytes()) is True


@pytest.mark.qemu
def test_an_overlay_has_the_whole_size_of_its_parent(disk, tmp_path):
    disk.create(IMAGE, V2, V1)
    for size, code in ((RAW_SIZE, 0), (RAW_SIZE - 512, 255)):
        path = images.create(tmp_path / str(size), size, backing=V1, backing_format="raw", compat="0.10")
        assert bench.code(receive(disk, Source(path.read_bytes()), V2)) == code


def test_room_for_tables(cow):
    found = target(cow)
    found.check_length(MIB + MIB // 10 + 16 * MIB)
    with pytest.raises(errors.CreateVolumeSizeError):
        found.check_length(MIB + MIB // 10 + 16 * MIB + 1)


# ---------------------------------------------------------------- out


@pytest.mark.parametrize("length", [0, 1, PIECE, PIECE + 1, RAW_SIZE])
def test_sending(disk, length):
    sink = Sink()
    task = disk.run("uploadImage", lambda task: transfer.send(data(disk), length, sink, task))
    assert task.state is tasks.State.FINISHED
    assert (sink.length, sink.ended, sink.data) == (length, True, data(disk).read_bytes()[:length])


def test_sending_is_stopped_between_pieces(disk):
    sink = Sink(before=lambda done: disk.task.stopping.set() if done else None)
    task = disk.run("uploadImage", lambda task: transfer.send(data(disk), RAW_SIZE, sink, task))
    assert (bench.code(task), sink.ended, len(sink.data)) == (411, False, PIECE)


def test_a_file_that_shrinks_or_is_gone(disk):
    sink = Sink(before=lambda done: os.truncate(data(disk), 0))
    task = disk.run("uploadImage", lambda task: transfer.send(data(disk), RAW_SIZE, sink, task))
    assert (bench.code(task), sink.ended) == (209, False)
    Path(data(disk)).unlink()
    assert bench.code(disk.run("uploadImage", lambda task: transfer.send(data(disk), 1, Sink(), task))) == 209


def test_what_may_be_sent(disk):
    def readable(length=None):
        return incoming.readable(disk.domain, image.contents(disk.domain, IMAGE), V1, length)

    assert (readable(), readable(1), readable(RAW_SIZE)) == (RAW_SIZE, 1, RAW_SIZE)
    with pytest.raises(errors.InvalidParameterException):
        readable(RAW_SIZE + 1)
    disk.write(IMAGE, V1, legality="ILLEGAL")
    with pytest.raises(errors.PrepareIllegalVolumeError):
        readable()
    disk.write(IMAGE, V1, legality="FAKE")
    with pytest.raises(errors.IncorrectFormat):
        readable()
