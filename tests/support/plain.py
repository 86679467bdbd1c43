"""Fixtures over a plain directory of images: a bench on which nothing waits for flushes, and where its files are."""

import os
from pathlib import Path

import pytest

from storage import ids
from storage.qemu import qemuimg
from tests.support import bench

TOOL = bench.CachedTool()


@pytest.fixture(autouse=True)
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing is still counted as a change, but takes no time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def disk(tmp_path: Path) -> bench.Bench:
    """A bench whose images are copies of those that were made before."""
    return bench.Bench(tmp_path, TOOL)


@pytest.fixture
def real_disk(tmp_path: Path) -> bench.Bench:
    """A bench with the real tool."""
    return bench.Bench(tmp_path, qemuimg.QemuImg())


def data(disk: bench.Bench, volume_id: ids.VolumeId, image_id: ids.ImageId = bench.IMAGE) -> Path:
    """Where a volume's data is."""
    return disk.images / image_id / volume_id


def meta(disk: bench.Bench, volume_id: ids.VolumeId, image_id: ids.ImageId = bench.IMAGE) -> Path:
    """Where a volume's record is."""
    return disk.images / image_id / f"{volume_id}.meta"


def place(tmp_path: Path, *numbers: object) -> Path:
    """A directory for one of many runs."""
    made = tmp_path / ".".join(map(str, numbers))
    made.mkdir()
    return made


def fresh(tmp_path: Path, *numbers: object) -> bench.Bench:
    """A bench for one of many runs."""
    return bench.Bench(place(tmp_path, *numbers), TOOL)
