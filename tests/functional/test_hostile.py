"""Samples of two campaigns: readers against qemu on random images, and every kind of verb on images that mean harm."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.campaigns import headers, hostile
from tests.support import canary, guest, hostile as images

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(guest.missing()), reason=f"needs {', '.join(guest.missing())}"),
]

# What was once believed, each pair in the words of the campaign.
_ONCE = "|".join(
    (
        "leaf names nbd:, extendVolumeSize",
        "middle names file:, extendVolumeSize",
        "another format of the base than its record's, prepareImage",
        "qcow2 and VDI at once, mergeSnapshots of the leaf",
        "a guest's header on a raw disk, copyImage to raw",
        "a chain of a thousand, getVolumeChain",
        "the leaf is a pipe, getVolumeSize",
        "the record is a GiB, reconcileVolumeChain",
    )
)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_nothing_leads_out(tmp_path: Path) -> None:
    found = hostile.run(1, tmp_path, only=_ONCE)
    assert found.failures == []
    assert found.counts["calls"] == _ONCE.count("|") + 1


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_any_verb_on_any_image(tmp_path: Path) -> None:
    found = hostile.run(20, tmp_path, count=40)
    assert found.failures == []
    assert found.counts["refused"] and found.counts["succeeded"] and found.counts["runs of qemu-img"]


def test_readers_agree_with_qemu_and_survive_nonsense(tmp_path: Path) -> None:
    found = headers.run(60, 1000, 7, tmp_path, bombs=False)
    assert found.failures == []
    assert found.counts["accepted by both"] > 40 and found.counts["of them refused"] > 400


def test_a_reader_that_errs_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = headers.read

    def wrong(fd: int, length: int) -> headers.Read:
        result = real(fd, length)
        if result.header is None or result.header.backing_name is None:
            return result
        return dataclasses.replace(result, header=dataclasses.replace(result.header, backing_name="another"))

    monkeypatch.setattr(headers, "read", wrong)
    assert headers.run(5, 0, 7, tmp_path, bombs=False).failures


def test_a_canary_sings(tmp_path: Path) -> None:
    with canary.Canary(tmp_path / "canary") as bird:
        assert bird.songs() == [] and bird.unchanged()
        bird.raw.read_bytes()
        assert bird.songs() == ["secret.raw opened"]
        bird.record.write_bytes(b"x")
        assert "secret.meta modified" in " ".join(bird.songs()) and not bird.unchanged()


@pytest.mark.parametrize(
    "words",
    [
        ["info", "--output=json", "--", "/x"],
        ["snapshot", "-q", "-c", "name", "/x"],
        ["create", "-q", "-f", "qcow2", "-u", "-b", "base", "--", "/x", "512"],
        ["map", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"/x"}}'],
    ],
)
def test_a_run_without_formats_is_found_out(words: list[str]) -> None:
    limits = {"Max address space": str(1 << 30), "Max cpu time": "30"}
    assert list(hostile.properly_run(images.Call(words, limits, set(), False)))
    good = ["info", "-f", "raw", "--output=json", "--", "/x"]
    assert not list(hostile.properly_run(images.Call(good, limits, set(), False)))
    assert list(hostile.properly_run(images.Call(good, limits | {"Max cpu time": "unlimited"}, set(), False)))
