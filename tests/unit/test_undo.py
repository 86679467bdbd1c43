"""Undoing a repair: everything as it was, at any crash; and refused, changing nothing, once anything is different."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import errors, hostinfo
from storage.chains import journal, undo
from tests.support import chains, faults, repairs

pytestmark = pytest.mark.qemu

v = chains.volume_id


patterns, times_are_honest = repairs.patterns, repairs.times_are_honest


State = dict[str, tuple[bytes, int]]


def state(image: chains.Image) -> State:
    """Each record and each header's backing with the time of its file's last write: all that a repair may touch."""
    found = {}
    for volume, here in image.look().records.items():
        record = image.directory / f"{volume}.meta"
        # A repair gives a new time to the records that it writes, and only a mark's time means anything.
        found[volume] = f"{here.text} {here.backing_format} {here.size}".encode(), here.mtime_ns
        found[record.name] = record.read_bytes(), here.marked_ns
    return found


def put_back(image: chains.Image, tool: repairs.Tool | None = None, *, rested: bool = False) -> undo.Undone:
    return undo.undo(image.domain, image.id, tool or repairs.Tool(), rested=rested)


@pytest.mark.parametrize("name", repairs.STATES)
def test_everything_is_as_it_was_and_is_repaired_alike(patterns: repairs.Patterns, name: str) -> None:
    pattern = patterns(name)
    with pattern.copy() as image:
        before = state(image)
        first = pattern.call(image, repairs.Tool())
        undone = put_back(image)
        assert state(image) == before
        told = [(c.volume, c.field, c.before, c.after) for c in reversed(undone.changes)]
        assert told == [(c.volume, c.field, c.after, c.before) for c in first.chain.changes]
        assert put_back(image).changes == ()
        second = pattern.call(image, repairs.Tool())
        assert (second.chain.volumes, second.chain.changes) == (first.chain.volumes, first.chain.changes)
        assert put_back(image).changes and state(image) == before


@pytest.mark.parametrize("name", ["torn", "dropped", "kept"])
def test_a_crash_at_any_change_is_finished_either_way(patterns: repairs.Patterns, name: str) -> None:
    pattern = patterns(name)
    points = 0
    for strike in faults.crash_points():
        with pattern.copy() as image:
            before = state(image)
            pattern.call(image, repairs.Tool())
            with strike.strike():
                put_back(image, repairs.Tool(strike))
            told = f"crash at change {strike.at}"
            if points % 2:
                again = pattern.call(image, repairs.Tool())
                assert image.numbers(again) == pattern.chain, told
                assert repairs.seen(image, repairs.followed(image, pattern.chain[-1])) == pattern.truth, told
            elif _header_time_lost(image, before):
                with pytest.raises(errors.ImageIsNotLegalChain, match="was written since"):
                    put_back(image)
            else:
                put_back(image)
                assert state(image) == before, told
        points += 1
    assert points > 8


def _header_time_lost(image: chains.Image, before: State) -> bool:
    """Whether it was between a header and the time of its file, the one window that asks for reconcileVolumeChain."""
    present = state(image)
    return any(present[name][1] != before[name][1] for name in before if not name.endswith(".meta"))


@pytest.mark.parametrize("name", ["torn", "kept"])
def test_a_repair_that_was_cut_short_is_undone_too(patterns: repairs.Patterns, name: str) -> None:
    pattern = patterns(name)
    for strike in faults.crash_points():
        with pattern.copy() as image:
            before = state(image)
            with strike.strike():
                pattern.call(image, repairs.Tool(strike))
            if journal.newest(journal.path_of(image.domain.path, image.id)) is None:
                with pytest.raises(errors.ImageIsNotLegalChain, match="no repair of the image is recorded"):
                    put_back(image)
            elif _header_time_lost(image, before):
                with pytest.raises(errors.ImageIsNotLegalChain, match="was written since"):
                    put_back(image)
                continue
            else:
                put_back(image)
            assert state(image) == before, f"crash at change {strike.at}"


# ---------------------------------------------------------------- refusals


def _guest_writes(image: chains.Image) -> None:
    with image.data(5).open("r+b") as stream:
        stream.seek(300 * 1024)
        stream.write(b"x")


def _snapshot(image: chains.Image) -> None:
    image.add(9, 5)


def _deletion(image: chains.Image) -> None:
    image.data(4).unlink()
    image.meta(4).unlink()


def _description(image: chains.Image) -> None:
    image.change(1, description="something else")


def _lost_record(image: chains.Image) -> None:
    image.meta(1).unlink()


def _pointed(image: chains.Image) -> None:
    times = image.data(3).stat()
    image.switch(3, None)
    os.utime(image.data(3), ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change, named",
    [
        (_guest_writes, f"volume {v(5)} was written since"),
        (_snapshot, f"volume {v(9)} was made since"),
        (_deletion, f"volume {v(4)} is gone"),
        (_description, f"the record of volume {v(1)} was changed since"),
        (_lost_record, f"the record of volume {v(1)} was changed since"),
        (_pointed, f"the header of volume {v(3)} was changed since"),
    ],
)
def test_what_changed_since_is_named_and_nothing_is_written(
    patterns: repairs.Patterns, change: Callable[[chains.Image], None], named: str
) -> None:
    pattern = patterns("torn")
    with pattern.copy() as image:
        pattern.call(image, repairs.Tool())
        change(image)
        before = image.snapshot()
        for rested in (False, True):
            with pytest.raises(errors.ImageIsNotLegalChain, match=named):
                put_back(image, rested=rested)
        assert image.snapshot() == before


def test_after_another_start_of_the_host_somebody_has_to_say_that_no_machine_ran(
    patterns: repairs.Patterns, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = patterns("dropped")
    with pattern.copy() as image:
        before = state(image)
        pattern.call(image, repairs.Tool())
        for boot in ("another", ""):
            monkeypatch.setattr(hostinfo, "boot_id", lambda boot=boot: boot)
            with pytest.raises(errors.ImageIsNotLegalChain, match="say so with 'rested'"):
                put_back(image)
        put_back(image, rested=True)
        assert state(image) == before


def test_an_image_in_use_is_left_alone(patterns: repairs.Patterns) -> None:
    pattern = patterns("torn")
    with pattern.copy() as image:
        pattern.call(image, repairs.Tool())
        before = image.snapshot()
        with chains.held_open(image.data(5)), pytest.raises(errors.VolumeIsBusy):
            put_back(image)
        assert image.snapshot() == before


def test_a_machine_that_runs_is_told_of_before_what_it_wrote(patterns: repairs.Patterns) -> None:
    pattern = patterns("torn")
    with pattern.copy() as image:
        pattern.call(image, repairs.Tool())
        _guest_writes(image)
        with chains.held_open(image.data(5)), pytest.raises(errors.VolumeIsBusy):
            put_back(image)


@pytest.mark.parametrize(
    "old, new, error, told",
    [
        ("dom_md", "dom_md", None, ""),
        (f'"before": "{v(1)}"', '"before": "/etc/passwd"', errors.ImageIsNotLegalChain, "no volume of the image"),
        (f'"before": "{v(1)}"', '"before": "json:{}"', errors.ImageIsNotLegalChain, "no volume of the image"),
        (f"IMAGE={chains.IMAGE}", f"IMAGE={chains.OTHER_IMAGE}", errors.ImageIsNotLegalChain, "another image"),
        ('"kind": "repair"', '"kind": "else"', errors.ImageValidationError, "move it away"),
        ('"before_format": "qcow2"', '"before_format": "vmdk"', errors.ImageIsNotLegalChain, "no volume of the image"),
        ('"kind": "header"', '"kind": 5', errors.ImageValidationError, "move it away"),
        ('"after_format": "qcow2"', '"after_format": 7', errors.ImageValidationError, "move it away"),
        ('"writes"', '"written"', errors.ImageValidationError, "move it away"),
    ],
)
def test_a_journal_is_looked_at_before_it_is_believed(
    patterns: repairs.Patterns, old: str, new: str, error: type[errors.StorageError] | None, told: str
) -> None:
    pattern = patterns("torn")
    with pattern.copy() as image:
        pattern.call(image, repairs.Tool())
        path = journal.path_of(image.domain.path, image.id)
        text = path.read_text()
        path.write_text(text.replace(old, new))
        before = image.snapshot()
        if error is None:
            assert put_back(image).changes
            return
        assert old in text
        with pytest.raises(error, match=told):
            put_back(image)
        assert image.snapshot() == before


def test_a_record_that_is_no_text_comes_back_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "x.json"
    data = b"DESCRIPTION=\xff\xfe\xed\xa0\x80\n"
    step = journal.Write(v(1), journal.RECORD, journal.text_of(data), "", before_ns=5)
    journal.write(path, journal.Entry(journal.REPAIR, 7, "boot", v(1), (), (step,), {v(1): (3, 4)}))
    kept = journal.newest(path)
    assert kept == journal.Entry(journal.REPAIR, 7, "boot", v(1), (), (step,), {v(1): (3, 4)})
    assert journal.data_of(kept.writes[0].before) == data
