"""The journal of what the program asks of the file system, and the states that it builds from it."""

import os
import random
from pathlib import Path

import pytest

from storage import files
from tests.support import injected, unsynced


def recorded(root: Path, before: Path, action) -> unsynced.Journal:
    root.mkdir()
    (root / "old").write_bytes(b"old")
    unsynced._copy(str(root / "old"), str(before))
    saved = before.with_name("saved")
    saved.mkdir()
    before.rename(saved / "old")
    recorder = unsynced.Recorder(root)
    with recorder.strike():
        action(root)
    return unsynced.Journal(saved, root, recorder.changes)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_a_replaced_file_is_old_or_new_whatever_is_lost(tmp_path: Path) -> None:
    journal = recorded(tmp_path / "w", tmp_path / "b", lambda root: files.replace(root / "old", b"new content"))
    seen = set()
    for number in range(200):
        choices = random.Random(number)
        at = choices.randrange(len(journal.changes) + 1)
        journal.lost(at, unsynced.Rules(choices, together=number % 2 == 0))
        seen.add((tmp_path / "w" / "old").read_bytes())
    assert seen == {b"old", b"new content"}


def test_what_is_flushed_is_never_lost(tmp_path: Path) -> None:
    journal = recorded(tmp_path / "w", tmp_path / "b", lambda root: files.replace(root / "old", b"new content"))
    for number in range(40):
        assert journal.lost(len(journal.changes), unsynced.Rules(random.Random(number), together=False)) == 0
        assert contents(tmp_path / "w") == {"old": b"new content"}


def careless(root: Path) -> None:
    """As `files.replace`, without any flush."""
    fd = files.os.open(root / "next", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    files.os.write(fd, b"new content")
    files.os.close(fd)
    files.os.rename(root / "next", root / "old")


@pytest.mark.parametrize("together", [True, False])
def test_a_write_without_flush_is_found_torn(tmp_path: Path, together: bool) -> None:
    journal = recorded(tmp_path / "w", tmp_path / "b", careless)
    seen = set()
    for number in range(200):
        journal.lost(len(journal.changes), unsynced.Rules(random.Random(number), together=together))
        seen.add((tmp_path / "w" / "old").read_bytes())
    assert {b"old", b"new content", b""} < seen


def test_a_killed_process_leaves_all_that_it_did(tmp_path: Path) -> None:
    journal = recorded(tmp_path / "w", tmp_path / "b", lambda root: files.replace(root / "old", b"new content"))
    states = []
    for at in journal.points:
        journal.killed(at)
        states.append(sorted(contents(tmp_path / "w").values()))
    assert states == [[b"old"], [b"", b"old"], [b"new content", b"old"], [b"new content"]]


def test_what_lies_in_a_directory_that_is_lost_is_lost(tmp_path: Path) -> None:
    def action(root: Path) -> None:
        files.os.mkdir(root / "d")
        files.create(root / "d" / "file", b"x")

    journal = recorded(tmp_path / "w", tmp_path / "b", action)
    found = set()
    for number in range(30):
        journal.lost(len(journal.changes), unsynced.Rules(random.Random(number), together=False))
        found.add((tmp_path / "w" / "d" / "file").exists())
    assert found == {True, False}
    journal.lost(len(journal.changes), unsynced.Rules(random.Random(1), together=True))
    assert (tmp_path / "w" / "d" / "file").exists(), "one journal keeps all names"


def test_a_trace_without_flushes_is_told() -> None:
    """The reader of real traces must not be blind."""
    good = [
        injected.Call(1, "create", ("/d/x.new",)),
        injected.Call(1, "write", ("/d/x.new",)),
        injected.Call(1, "fsync", ("/d/x.new",)),
        injected.Call(1, "rename", ("/d/x.new", "/d/x")),
        injected.Call(1, "fsync", ("/d",)),
    ]
    assert injected.disorder(good) == []
    assert len(injected.disorder(good[:2] + good[3:])) == 2
    assert injected.disorder(good[:4]) == ["/d/x is a new name, and its directory is not flushed"]
