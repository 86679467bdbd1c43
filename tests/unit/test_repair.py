"""Repairs that end at any change of the disk: a second call finishes them, and the guest's bytes are never at risk."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from storage import errors, files, ids
from storage.chains import chain, journal, proof, reconcile, repair
from storage.qemu import qemuimg
from storage.volumes import volume_metadata
from tests.support import chains, faults, images, repairs

pytestmark = pytest.mark.qemu

v = chains.volume_id
patterns, times_are_honest = repairs.patterns, repairs.times_are_honest


def changed(before: chains.Image, after: chains.Image) -> set[tuple[str, str]]:
    """Volume and kind of everything that differs between an image and its copy."""
    found = set()
    for number in chains.numbers(before.look().records):
        if before.meta(number).read_bytes() != after.meta(number).read_bytes():
            found.add((v(number), "metadata"))
        if before.data(number).read_bytes() != after.data(number).read_bytes():
            found.add((v(number), chain.BACKING))
    return found


def recorded(image: chains.Image) -> set[tuple[str, str]]:
    """What the journal says was changed; what it says was there before must be true."""
    found = set()
    for entry in journal.entries(journal.path_of(image.domain.path, image.id)):
        for change in entry["changes"]:
            found.add((change["volume"], chain.BACKING if change["field"] == chain.BACKING else "metadata"))
    return found


def check(pattern: repairs.Pattern, image: chains.Image, found: reconcile.Finding, told: str) -> None:
    assert image.numbers(found) == pattern.chain, told
    last = pattern.chain[-1]
    assert repairs.followed(image, last) == [*reversed(pattern.chain)], told
    assert repairs.seen(image, repairs.followed(image, last)) == pattern.truth, told
    parent = ids.BLANK
    for number in pattern.chain:
        assert image.metadata(number).parent == parent, told
        assert image.metadata(number).legality == volume_metadata.LEGAL, told
        parent = v(number)
    assert image.metadata(last).voltype == volume_metadata.LEAF, told
    dropped = set(chains.numbers(image.look().records)) - set(pattern.chain)
    if pattern.leaf in dropped:
        assert image.metadata(pattern.leaf).legality == volume_metadata.ILLEGAL, told


# ---------------------------------------------------------------- every change of the disk


@pytest.mark.parametrize("name", repairs.STATES)
def test_after_a_crash_at_any_change_a_second_call_gives_the_same(patterns: repairs.Patterns, name: str) -> None:
    pattern = patterns(name)
    points = 0
    for strike in faults.crash_points():
        with pattern.copy() as image:
            with strike.strike():
                pattern.call(image, repairs.Tool(strike))
            told = f"crash at change {strike.at}"
            assert changed(pattern.image, image) <= recorded(image), told
            again = pattern.call(image, repairs.Tool())
            check(pattern, image, again, told)
            third = pattern.call(image, repairs.Tool())
            assert third.chain.changes == (), told
        points += 1
    assert points > 15


@pytest.mark.parametrize("name", ["torn", "dropped"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_after_a_failure_at_any_change_the_verb_says_so_and_a_second_call_finishes(
    patterns: repairs.Patterns, name: str, number: int
) -> None:
    pattern = patterns(name)
    for at in range(200):
        strike = faults.Faults(at, OSError(number, os.strerror(number)))
        with pattern.copy() as image:
            try:
                with strike.strike():
                    pattern.call(image, repairs.Tool(strike))
            except errors.StorageError as error:
                assert os.strerror(number) in str(error)
            check(pattern, image, pattern.call(image, repairs.Tool()), f"failure at change {at}")
            assert [name for name in os.listdir(image.directory) if name.endswith(".new")] == []
        if not strike.fired:
            break
    assert 10 < at < 199


def test_the_journal_tells_how_to_undo_a_repair(patterns: repairs.Patterns) -> None:
    pattern = patterns("torn")
    with pattern.copy() as image:
        pattern.call(image, repairs.Tool())
        path = journal.path_of(image.domain.path, image.id)
        (entry,) = journal.entries(path)
        assert entry["leaf"] == v(5)
        for write in (journal.newest(path) or pytest.fail()).writes:
            (number,) = chains.numbers([write.volume])
            if write.kind == journal.RECORD:
                assert write.before == pattern.image.meta(number).read_text()
                assert write.before_ns == pattern.image.meta(number).stat().st_mtime_ns
                assert write.after == image.meta(number).read_text()
            else:
                assert (number, write.old, write.new) == (3, (v(1), "qcow2"), (v(2), "qcow2"))
        backing = [change for change in entry["changes"] if change["field"] == "backing"]
        assert [(change["volume"], change["before"], change["after"]) for change in backing] == [(v(3), v(1), v(2))]


def test_a_journal_that_cannot_be_read_is_not_overwritten(patterns: repairs.Patterns) -> None:
    pattern = patterns("torn")
    for text in ("{", "[]", '{"entries": 5}', "[" * 100_000):
        with pattern.copy() as image:
            path = journal.path_of(image.domain.path, image.id)
            path.parent.mkdir()
            path.write_text(text)
            before = image.snapshot()
            with pytest.raises(errors.ImageValidationError):
                pattern.call(image, repairs.Tool())
            assert (image.snapshot(), path.read_text()) == (before, text)


def _entry(leaf: int, text: str = "") -> journal.Entry:
    steps = (journal.Write(v(leaf), journal.RECORD, text, ""),)
    return journal.Entry(journal.REPAIR, 0, "", v(leaf), (), steps, {})


def test_a_journal_keeps_the_latest_entries_within_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal" / "x.json"
    monkeypatch.setattr(journal, "ENTRIES", 5)
    for number in range(8):
        journal.write(path, _entry(number))
    assert [entry["leaf"] for entry in journal.entries(path)] == [v(number) for number in range(3, 8)]
    monkeypatch.setattr(journal, "READ_LIMIT", 4000)
    for number in range(8, 12):
        journal.write(path, _entry(number, "x" * 1200))
        assert journal.entries(path)[-1]["leaf"] == v(number)
    assert path.stat().st_size <= 4000


# ---------------------------------------------------------------- what is durable when


class Recorder:
    """Looks like the module ``os``; notes what is flushed and renamed, by name."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        self.events.append(("flush", Path(os.readlink(f"/proc/self/fd/{fd}")).name))

    def rename(self, source: Path, target: Path) -> None:
        self.events.append(("rename", Path(target).name))
        os.rename(source, target)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(files, "os", made)
    return made


def test_what_a_merge_left_in_memory_is_flushed_before_anything_says_that_it_is_merged(
    patterns: repairs.Patterns, recorder: Recorder
) -> None:
    """A killed qemu leaves its data in the host's memory, where we find it, and the power may fail right afterwards."""
    pattern = patterns("merged")
    with pattern.copy() as image:
        pattern.call(image, repairs.Tool())
    first = next(number for number, event in enumerate(recorder.events) if event[0] == "rename")
    assert {("flush", v(number)) for number in (1, 4, 6)} <= set(recorder.events[:first])
    for number, (kind, name) in enumerate(recorder.events):
        if kind == "rename":
            assert recorder.events[number - 1][0] == "flush" and recorder.events[number - 1][1].startswith(name)
            assert recorder.events[number + 1][0] == "flush", "the directory"


def test_a_dropped_leafs_parent_is_flushed_before(patterns: repairs.Patterns, recorder: Recorder) -> None:
    pattern = patterns("dropped")
    with pattern.copy() as image:
        pattern.call(image, repairs.Tool())
    names = [name for _, name in recorder.events]
    assert names.index(v(3)) < names.index(f"{image.id}.json")


def test_a_header_is_flushed_before_metadata_follows(patterns: repairs.Patterns, recorder: Recorder) -> None:
    pattern = patterns("torn")
    with pattern.copy() as image:
        pattern.call(image, repairs.Tool())
    names = [name for kind, name in recorder.events]
    assert names.index(f"{image.id}.json") < len(names) - 1 - names[::-1].index(v(3)) < names.index(f"{v(1)}.meta")


def test_what_was_proved_is_flushed_before_the_answer_is_kept(patterns: repairs.Patterns, recorder: Recorder) -> None:
    pattern = patterns("merged")
    with pattern.copy() as image:
        reconcile.prove(image.domain, image.id, v(6), image.rules(), proof.Effort())
        names = [name for _, name in recorder.events]
        assert max(names.index(v(number)) for number in (1, 4, 6)) < names.index(f"{image.id}.proof")
        # From now on the kept answer is relied on, also when there is no time to compare anything.
        found = image.reconcile(6, prove_seconds=-1)
        assert image.numbers(found) == [1, 4, 6]
        assert all(answer.remembered for answer in found.answers.values())


def test_a_merge_for_whose_proof_there_is_no_time_is_undone_without_harm(patterns: repairs.Patterns) -> None:
    pattern = patterns("merged")
    with pattern.copy() as image:
        found = image.reconcile(6, prove_seconds=-1)
        assert image.numbers(found) == [1, 2, 3, 4, 5, 6]
        assert repairs.seen(image, repairs.followed(image, 6)) == pattern.truth
        assert image.reconcile(6).chain.changes == ()


def test_storage_that_cannot_flush_is_not_believed(patterns: repairs.Patterns, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "sync", fail)
    pattern = patterns("merged")
    with pattern.copy() as image:
        before = image.snapshot()
        with pytest.raises(errors.VolumeAccessError):
            pattern.call(image, repairs.Tool())
        assert image.snapshot() == before


# ---------------------------------------------------------------- the arbiter


def test_qemu_img_has_the_last_word(patterns: repairs.Patterns, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = patterns("merged")
    with pattern.copy() as image:
        sight = image.look()
        real = qemuimg.QemuImg(timeout=30)
        repair.confirm(sight, sight.records, real)
        images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"../{image.id}/{v(4)}", image.data(6))
        with pytest.raises(errors.ImageValidationError, match="qemu-img reads"):
            repair.confirm(sight, sight.records, real)
        image.data(6).write_bytes(b"rubbish")
        with pytest.raises(errors.ImageValidationError, match="qemu-img"):
            repair.confirm(sight, sight.records, real)


def test_a_record_that_cannot_be_written_stops_everything_before_the_first_change(
    patterns: repairs.Patterns,
) -> None:
    pattern = patterns("merged")
    with pattern.copy() as image:
        image.meta(6).write_text(image.meta(6).read_text().replace("EOF\n", f"{'x' * 480}=1\nEOF\n"))
        before = image.snapshot()
        with pytest.raises(errors.MetadataOverflowError):
            pattern.call(image, repairs.Tool())
        assert image.snapshot() == before
        assert journal.entries(journal.path_of(image.domain.path, image.id)) == []
