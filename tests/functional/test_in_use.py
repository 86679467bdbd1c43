"""Disks that somebody has open: a sample of the campaign, and locks that nobody holds any more."""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.volumes import volume
from tests.campaigns import figures, inuse, inuse_cases
from tests.support import arrival, guest, oracle, site, visitor

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(bool(guest.missing()), reason=f"needs {', '.join(guest.missing())}"),
]

SIZE = inuse_cases.SIZE
CASES = {case.name: case for case in inuse_cases.CASES}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[site.Site]:
    with site.running(tmp_path) as made, arrival.flushless():
        yield made


def campaign(here: site.Site, name: str, stride: int, first: int = 0) -> figures.Figures:
    found = figures.Figures(name)
    inuse.appearing(CASES[name], here, found, stride, first)
    return found


# ---------------------------------------------------------------- a guest that comes


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("reconcile, torn", 5),
        ("merge, pull", 4),
        ("merge, copy", 13),
        ("delete the leaf", 5),
        ("delete the image", 8),
        ("move", 12),
        ("sync", 19),
        ("upload", 9),
        ("overwrite", 12),
        ("derive", 12),
    ],
)
def test_a_guest_that_starts_meanwhile_loses_nothing(here: site.Site, name: str, stride: int) -> None:
    found = campaign(here, name, stride)
    assert not found.failures
    assert found.counts["guests that appeared"] >= 1


@pytest.mark.parametrize("name", ["delete all volumes", "legality"])
def test_a_guest_that_was_there_loses_nothing(here: site.Site, name: str) -> None:
    found = figures.Figures(name)
    inuse.held(CASES[name], here, found)
    assert (found.failures, found.counts) == ([], {"held": 6})


@pytest.mark.parametrize(
    ("name", "step"),
    [("delete the leaf", 0), ("delete the image", 0), ("merge, copy", 6), ("sync", 20), ("upload", 0)],
)
def test_the_campaign_sees_what_a_mere_look_lets_happen(
    here: site.Site, monkeypatch: pytest.MonkeyPatch, name: str, step: int
) -> None:
    """A look before, and nothing that keeps guests away after it, is how it was."""

    @contextlib.contextmanager
    def only_looks(paths: object) -> Iterator[None]:
        assert not [path for path in paths if volume.busy(path)]  # type: ignore[attr-defined]
        yield

    monkeypatch.setattr(volume, "reserved", only_looks)
    assert campaign(here, name, 1000, step).failures


# ---------------------------------------------------------------- locks that nobody holds


@pytest.fixture
def disk(here: site.Site) -> site.Disk:
    return here.disk(("qcow2", "qcow2"), SIZE)


def delete_leaf(disk: site.Disk) -> int:
    volumes = [disk.volumes[-1]]
    return disk.site.outcome("deleteVolume", disk.domain, disk.site.pool, disk.id, volumes, "false", "false").code


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_machine_holds_nothing(disk: site.Disk, stopped: bool) -> None:
    with guest.Machine() as machine:
        machine.open_chain([guest.Layer(disk.path(0)), guest.Layer(disk.path(1))])
        machine.export().write(0, bytes(oracle.BLOCK))
        if stopped:
            machine.process.send_signal(signal.SIGSTOP)
        assert delete_leaf(disk) == inuse.BUSY
        machine.kill()
        assert delete_leaf(disk) == 0


def test_who_only_inherited_an_open_file_holds_it_until_its_end(disk: site.Disk) -> None:
    """Locks of qemu belong to the open file, not to the process: they last as long as anybody has that."""
    fd = os.open(disk.path(-1), os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100, 2, 0))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[fd]) as heir:
        os.close(fd)
        assert delete_leaf(disk) == inuse.BUSY
        heir.kill()
    assert delete_leaf(disk) == 0


def test_locks_of_other_kinds_and_left_over_files_block_nobody(disk: site.Disk) -> None:
    leaf = disk.path(-1)
    for name in (f"{leaf.name}.lock", f"{leaf.name}.lease", f".{leaf.name}.swp", "qemu.pid", "x.new"):
        (disk.directory / name).write_text("4242\n")
    with leaf.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        fcntl.lockf(stream, fcntl.LOCK_EX, 4, 0)
        assert delete_leaf(disk) == 0


def test_a_guest_that_is_refused_leaves_nothing_behind(here: site.Site) -> None:
    """Somebody who could not start is no obstacle for what is done next."""
    play = CASES["delete the leaf"].stage(here)
    with volume.reserved([play.disk.path(-1)]):
        somebody = visitor.Visitor(play.layers(), play.truth)
        somebody.arrive()
    assert not somebody.opened and "lock" in somebody.refusal
    assert delete_leaf(play.disk) == 0
