"""The kernel's table of mounts, read."""

import os
from pathlib import Path

import pytest

from storage.domains import mounttable

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 7:0 / /r/mnt/_dev_loop0 rw,relatime - ext4 /dev/loop0 rw
41 22 0:50 / /r/mnt/a\\040b\\134c rw shared:2 master:3 - nfs server:/x\\040y rw,vers=3
42 40 7:1 / /r/mnt/_dev_loop0 rw - xfs /dev/loop1 rw
broken line
43 22 x - y
"""


def test_lines_are_taken_apart() -> None:
    found = mounttable.parse(TABLE)
    assert [each.place for each in found] == ["/", "/r/mnt/_dev_loop0", "/r/mnt/a b\\c", "/r/mnt/_dev_loop0"]
    assert found[2] == mounttable.Mounted("/r/mnt/a b\\c", "server:/x y", "nfs", os.makedev(0, 50))


def test_the_topmost_mount_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounttable, "read", lambda: mounttable.parse(TABLE))
    found = mounttable.at(Path("/r/mnt/_dev_loop0"))
    assert found is not None and (found.source, found.type) == ("/dev/loop1", "xfs")
    assert mounttable.at(Path("/r/mnt")) is None


def test_links_on_the_way_are_followed_and_the_last_name_is_not(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "x").symlink_to("/")
    assert mounttable.resolved(tmp_path / "link" / "x") == f"{os.path.realpath(tmp_path)}/real/x"


def test_this_host_has_a_root() -> None:
    assert "/" in {each.place for each in mounttable.read()}
