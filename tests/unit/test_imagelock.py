"""Who has an image open: against real programs of qemu, and against locks of our own."""

import contextlib
import errno
import fcntl
import json
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.qemu import imagelock
from tests.support import images

NOBODY = imagelock.Holders(readers=False, writer=False)
READER = imagelock.Holders(readers=True, writer=False)
WRITER = imagelock.Holders(readers=True, writer=True)


@contextlib.contextmanager
def locked(path: Path, start: int, length: int = 1, kind: int = fcntl.F_RDLCK) -> Iterator[None]:
    """Hold an OFD lock, as qemu does."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))
        yield
    finally:
        os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(4096))
    return path


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, 1, NOBODY),
        (99, 1, NOBODY),
        (100, 1, READER),
        (101, 1, WRITER),
        (102, 1, READER),
        (103, 1, READER),
        (104, 1, NOBODY),
        (201, 1, NOBODY),
        (200, 4, NOBODY),
        (100, 4, WRITER),
        (0, 0, WRITER),
    ],
)
def test_each_byte(path: Path, start: int, length: int, expected: imagelock.Holders) -> None:
    with locked(path, start, length):
        assert imagelock.holders(path) == expected
        assert bool(imagelock.holders(path)) == (expected != NOBODY)
    assert imagelock.holders(path) == NOBODY


def test_looking_takes_no_lock_and_drops_none(path: Path) -> None:
    with locked(path, 101):
        for _ in range(3):
            assert imagelock.holders(path).writer
    with locked(path, 100, 4, fcntl.F_WRLCK):
        assert imagelock.holders(path) == WRITER
        assert imagelock.holders(path) == WRITER


def test_what_cannot_be_asked_is_an_error(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    os.mkfifo(tmp_path / "fifo")
    before = os.listdir("/proc/self/fd")
    for name, number in [("link", errno.ELOOP), ("fifo", errno.EINVAL), (".", errno.EINVAL), ("absent", errno.ENOENT)]:
        with pytest.raises(OSError) as caught:
            imagelock.holders(tmp_path / name)
        assert caught.value.errno == number
    assert os.listdir("/proc/self/fd") == before


# ---------------------------------------------------------------- real programs


@contextlib.contextmanager
def opened(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A qemu-io that has the image open, until the block ends."""
    command = ["qemu-io", "-f", "qcow2", *options, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    try:
        process.stdin.write("length\n")
        process.stdin.flush()
        assert process.stdout.readline(), "qemu-io did not open the image"
        yield process
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    return images.make_chain(tmp_path, 3)


@pytest.mark.qemu
def test_qemu_io(chain: list[Path]) -> None:
    assert [imagelock.holders(path) for path in chain] == [NOBODY] * 3
    with opened(chain[-1]):
        assert [imagelock.holders(path) for path in chain] == [READER, READER, WRITER]
    with opened(chain[-1], "-r"):
        assert [imagelock.holders(path) for path in chain] == [READER] * 3
    with opened(chain[-1], "-r", "-U"):
        assert [imagelock.holders(path) for path in chain] == [READER] * 3
    assert [imagelock.holders(path) for path in chain] == [NOBODY] * 3


@pytest.mark.qemu
def test_a_killed_writer_is_gone_at_once(chain: list[Path]) -> None:
    with opened(chain[-1]) as process:
        assert imagelock.holders(chain[-1]) == WRITER
        process.kill()
        process.wait()
        assert imagelock.holders(chain[-1]) == NOBODY


@pytest.mark.qemu
def test_storage_daemon_with_a_chain_as_libvirt_opens_it(chain: list[Path], tmp_path: Path) -> None:
    """Backing nodes are read-only, the leaf is not; a daemon that is not asked for anything still holds its images."""
    pidfile = tmp_path / "pid"
    command = ["qemu-storage-daemon", "--pidfile", str(pidfile)]
    for i, path in enumerate(chain):
        storage = {"driver": "file", "filename": str(path), "node-name": f"s{i}", "auto-read-only": True}
        node = {"driver": "qcow2", "file": f"s{i}", "node-name": f"f{i}", "read-only": i < 2}
        command += ["--blockdev", json.dumps(storage)]
        command += ["--blockdev", json.dumps(node | {"backing": f"f{i - 1}" if i else None})]
    command += ["--export", json.dumps({"type": "nbd", "id": "e", "node-name": "f2", "writable": True})]
    command[1:1] = ["--nbd-server", f"addr.type=unix,addr.path={tmp_path}/nbd.sock"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while not pidfile.exists():
            assert process.poll() is None, "qemu-storage-daemon ended"
            time.sleep(0.01)
        assert [imagelock.holders(path) for path in chain] == [READER, READER, WRITER]
        images.qemu_img("info", "-f", "qcow2", chain[0])
        assert images.qemu_img("info", "-f", "qcow2", chain[2], check=False).returncode == 1
    finally:
        process.kill()
        process.wait()
    assert [imagelock.holders(path) for path in chain] == [NOBODY] * 3


# ---------------------------------------------------------------- keeping others away


@pytest.mark.qemu
def test_nobody_opens_what_is_reserved(chain: list[Path]) -> None:
    with imagelock.reserved(chain[-1]) as found:
        assert not found
        for mode in ("-r", "-n"):
            done = images.run("qemu-io", "-f", "qcow2", mode, "-c", "length", chain[-1], check=False)
            assert (done.returncode, "lock" in done.stderr) == (1, True), done
        assert imagelock.holders(chain[-1]) == NOBODY, "who reserves does not use"
    images.qemu_io(chain[-1], "length")


@pytest.mark.qemu
def test_what_is_open_cannot_be_reserved_and_stays_open(chain: list[Path]) -> None:
    for options, expected in (((), WRITER), (("-r",), READER)):
        with opened(chain[-1], *options):
            with imagelock.reserved(chain[-1]) as found:
                assert found == expected
            assert imagelock.holders(chain[-1]) == expected


def test_a_reservation_ends_although_a_child_has_its_descriptor(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with imagelock.reserved(path):
            kept = [os.dup(int(fd)) for fd in os.listdir("/proc/self/fd") if _names(int(fd), path)]
            assert kept
            stack.callback(lambda: [os.close(fd) for fd in kept])
        with locked(path, 200, 4, fcntl.F_WRLCK):
            pass


def test_somebody_elses_lock_counts_as_use(path: Path) -> None:
    with locked(path, 200, 1, fcntl.F_WRLCK), imagelock.reserved(path) as found:
        assert found == READER


def _names(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False
