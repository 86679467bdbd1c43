"""Writing large files: where bytes go, what is flushed when, and that no failure is lost."""

import errno
import os
import threading

import pytest

from storage import filewriter


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "file"
    made.write_bytes(b"old content")
    return made


class FakeOs:
    """The module ``os`` with another fdatasync and fsync."""

    def __init__(self, fdatasync=lambda fd: None, fsync=lambda fd: None):
        self.fdatasync, self.fsync = fdatasync, fsync

    def __getattr__(self, name):
        return getattr(os, name)


@pytest.fixture
def steps(monkeypatch):
    """Flushing begins after 10 bytes."""
    monkeypatch.setattr(filewriter, "_FLUSH_STEP", 10)


def write(writer, data, offset):
    writer.write(memoryview(data), offset)


def test_bytes_go_where_they_belong(path):
    with filewriter.Writer(path) as writer:
        write(writer, b"new", 4)
        assert path.read_bytes() == b"old newtent"
        writer.resize(0)
        write(writer, b"x", 3)
        writer.resize(5)
        writer.sync()
    assert path.read_bytes() == b"\0\0\0x\0"


def test_short_writes_are_finished(path, monkeypatch):
    fake = FakeOs()
    fake.pwrite = lambda fd, data, offset: os.pwrite(fd, data[:2], offset)
    monkeypatch.setattr(filewriter, "os", fake)
    with filewriter.Writer(path) as writer:
        write(writer, b"0123456789a", 0)
    assert path.read_bytes() == b"0123456789a"


@pytest.mark.parametrize("kind", ["link", "directory", "pipe", "nothing"])
def test_only_regular_files(tmp_path, path, kind):
    place = tmp_path / "place"
    if kind == "link":
        place.symlink_to(path)
    elif kind == "directory":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    with pytest.raises(OSError):
        filewriter.Writer(place)
    assert path.read_bytes() == b"old content"


def test_what_was_written_is_flushed_while_more_comes(path, monkeypatch, steps):
    flushing, go_on = threading.Event(), threading.Event()

    def flush(fd):
        flushing.set()
        assert go_on.wait(20)

    monkeypatch.setattr(filewriter, "os", FakeOs(flush))
    with filewriter.Writer(path) as writer:
        write(writer, b"012345678", 0)
        assert not flushing.is_set()
        write(writer, b"9", 9)
        assert flushing.wait(20)
        write(writer, b"a" * 100, 10)
        assert path.read_bytes() == b"0123456789" + b"a" * 100
        go_on.set()
        writer.sync()


def test_the_file_is_not_closed_under_a_flush(path, monkeypatch, steps):
    """Its number would soon be that of another file."""
    seen = []

    def flush(fd):
        threading.Event().wait(0.1)
        seen.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(filewriter, "os", FakeOs(flush))
    with filewriter.Writer(path) as writer:
        write(writer, b"0123456789", 0)
    assert seen == [path.stat().st_ino]


@pytest.mark.parametrize("then", ["write", "sync"])
def test_a_failed_flush_is_told_though_the_next_would_succeed(path, monkeypatch, steps, then):
    def flush(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(filewriter, "os", FakeOs(flush))
    with filewriter.Writer(path) as writer:
        write(writer, b"0123456789", 0)
        with pytest.raises(OSError) as failed:
            if then == "sync":
                writer.sync()
            while True:
                write(writer, b"0123456789", 0)
    assert failed.value.errno == errno.EIO


def test_the_last_flush_is_always_done(path, monkeypatch):
    flushed = []
    monkeypatch.setattr(filewriter, "os", FakeOs(fsync=flushed.append))
    with filewriter.Writer(path) as writer:
        write(writer, b"x", 0)
        writer.sync()
    assert len(flushed) == 1
