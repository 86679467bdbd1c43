"""What long jobs tell about how far they are."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.jobs import tasks
from storage.volumes import copying, image, merging, moving, source
from tests.support import disks

Told = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """All that tasks tell, in order."""
    found: Told = []
    real = tasks.Task.progress

    def progress(task: tasks.Task, message: str, **extra: Any) -> None:
        found.append((message, extra))
        real(task, message, **extra)

    monkeypatch.setattr(tasks.Task, "progress", progress)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    yield found


def check(told: Told, title: str, total: int) -> None:
    """Amounts of a piece of work in bytes never go back, and begin with nothing."""
    mine = [extra for message, extra in told if message.startswith(title)]
    done = [int(extra["done"]) for extra in mine]
    assert done[0] == 0 and done == sorted(done) and done[-1] < total
    assert {int(extra["total"]) for extra in mine} == {total}


@pytest.mark.qemu
def test_setting_space_aside(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_ALLOCATION_STEP", disks.MIB)
    disk = disks.Disks(tmp_path)
    disk.chain(disks.V1)
    held = image.contents(disk.here, disks.IMAGE)
    layers = source.chain(disk.here, held, disks.V1, disks.LIMIT)
    request = copying.Request(disks.V5, "", shared=False, format="RAW", type="PREALLOCATED", force=False)
    disk.done(lambda task: copying.collapse(layers, disk.there, disks.OTHER, request, task, disk.tool))
    check(told, "setting space aside", disks.SIZE)
    assert len(told) > 4


@pytest.mark.qemu
def test_what_a_merge_keeps(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_KEEPING_STEP", 65536)
    monkeypatch.setattr(merging.Plan, "way", property(lambda plan: merging.PUSH))
    disk = disks.Disks(tmp_path)
    disk.chain(disks.V1, disks.V2, base="RAW")
    limits = merging.Limits(disks.LIMIT, 1 << 28)
    disk.done(lambda task: merging.merge(disk.here, disks.IMAGE, disks.V1, disks.V2, limits, task, disk.tool))
    kept = [item for item in told if item[0] == "keeping what is overwritten" and item[1]]
    assert len(kept) > 1
    check(kept, "keeping", 65536 * len(kept))


@pytest.mark.qemu
def test_making_empty_volumes_is_no_matter_of_bytes(tmp_path: Path, told: Told) -> None:
    disk = disks.Disks(tmp_path)
    disk.chain(disks.V1, disks.V2)
    route = moving.Route(disk.here, disk.there, disks.LIMIT)
    disk.done(lambda task: moving.clone_structure(route, disks.IMAGE, task, disk.tool))
    assert [(message, extra) for message, extra in told] == [
        ("making volume 1 of 2, 0 %", {"percent": "0"}),
        ("making volume 2 of 2, 50 %", {"percent": "50"}),
    ]
