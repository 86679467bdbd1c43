"""POSIX file systems on real block devices, mounted by a real daemon. As root, over loop devices."""

import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon as daemons, loopdev

pytestmark = pytest.mark.root

POSIXFS = 6
BLANK = daemons.BLANK


@pytest.fixture(params=["ext4", "xfs"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def device(tmp_path: Path, kind: str) -> Iterator[str]:
    with loopdev.attached(loopdev.file_system(kind, tmp_path)) as device:
        yield device
        loopdev.unmount_below(tmp_path)


def start(directory: Path, storage: Mapping[str, Any] | None = None) -> daemons.Daemon:
    directory.mkdir(exist_ok=True)
    return daemons.Daemon(directory, {"storage": dict(storage or {})})


def entry(source: str, kind: str, options: str = "") -> list[dict[str, str]]:
    """A connection as the engine sends it."""
    words = {"id": str(uuid.uuid4()), "connection": source, "vfs_type": kind, "mnt_options": options}
    return [words | {"port": "", "iqn": "", "user": "", "password": ""}]


def status(daemon: daemons.Daemon, verb: str, source: str, kind: str, options: str = "") -> int:
    [found] = daemon.call(verb, POSIXFS, BLANK, entry(source, kind, options))["statuslist"]
    return int(found["status"])


def make_domain(daemon: daemons.Daemon, device: str) -> str:
    domain = str(uuid.uuid4())
    daemon.call("createStorageDomain", POSIXFS, domain, "posix", device, 1, 3)
    return domain


def mounts(daemon: daemons.Daemon) -> list[list[str]]:
    """Place, options, type and source of what is mounted in the repository."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4].startswith(f"{os.path.realpath(daemon.repository)}/"):
            found.append([before.split()[4], before.split()[5], *after.split()[:2]])
    return found


def connect_pool(daemon: daemons.Daemon, domain: str) -> str:
    pool = str(uuid.uuid4())
    daemon.call("createStoragePool", 0, pool, "posix", domain, [domain], 1)
    daemon.call("connectStoragePool", pool, 1, "key", domain, 1)
    return pool


def test_from_a_device_to_a_domain_and_back(tmp_path: Path, device: str, kind: str) -> None:
    with start(tmp_path / "daemon") as daemon:
        assert status(daemon, "validateStorageServerConnection", device, kind) == 0
        assert mounts(daemon) == []
        assert status(daemon, "connectStorageServer", device, kind, "noatime") == 0
        assert status(daemon, "connectStorageServer", f"/{device}/", kind) == 0, "the same, spelled otherwise"
        [[place, options, shown, source]] = mounts(daemon)
        assert (Path(place).name, shown, source) == (device.replace("/", "_"), kind, device)
        assert {"nosuid", "nodev", "noexec", "noatime"} <= set(options.split(","))

        domain = make_domain(daemon, device)
        info = daemon.call("getStorageDomainInfo", domain)["info"]
        assert (info["type"], info["remotePath"], info["class"]) == ("POSIXFS", device, "Data")
        assert f"REMOTE_PATH={device}\n" in (Path(place) / domain / "dom_md" / "metadata").read_text()
        for filters in ((POSIXFS, ""), (0, device), (0, f"{device}//")):
            assert daemon.call("getStorageDomainsList", BLANK, 0, *filters)["domlist"] == [domain]
        assert daemon.call("getStorageDomainsList", BLANK, 0, 1, "")["domlist"] == []
        assert 0 < int(daemon.call("getStorageDomainStats", domain)["stats"]["disktotal"]) <= 320 << 20

        assert status(daemon, "disconnectStorageServer", device, kind) == 0
        assert status(daemon, "disconnectStorageServer", device, kind) == 0
        assert mounts(daemon) == [] and not os.path.lexists(place)
        assert daemon.answer("getStorageDomainInfo", domain)["status"]["code"] == 358
        assert status(daemon, "connectStorageServer", device, kind) == 0
        daemon.call("formatStorageDomain", domain)
        assert status(daemon, "disconnectStorageServer", device, kind) == 0


def test_mounts_outlive_the_daemon(tmp_path: Path, device: str, kind: str) -> None:
    with start(tmp_path / "daemon") as first:
        assert status(first, "connectStorageServer", device, kind) == 0
        domain = make_domain(first, device)
        first.kill()
    with start(tmp_path / "daemon") as second:
        assert second.call("getStorageDomainInfo", domain)["info"]["type"] == "POSIXFS"
        assert status(second, "disconnectStorageServer", device, kind) == 0
        assert mounts(second) == []


def test_a_mount_in_use_is_not_taken_away(tmp_path: Path, device: str, kind: str) -> None:
    with start(tmp_path / "daemon") as daemon:
        assert status(daemon, "connectStorageServer", device, kind) == 0
        [[place, *_]] = mounts(daemon)
        with (Path(place) / "used").open("w"):
            assert status(daemon, "disconnectStorageServer", device, kind) == 477
            assert len(mounts(daemon)) == 1
        assert status(daemon, "disconnectStorageServer", device, kind) == 0


def test_what_cannot_be_used_is_not_left_mounted(tmp_path: Path, device: str, kind: str) -> None:
    with start(tmp_path / "daemon") as daemon:
        assert status(daemon, "connectStorageServer", device, kind, "ro") == 469
        assert status(daemon, "connectStorageServer", device, "btrfs") == 477
        assert status(daemon, "connectStorageServer", f"{device}-none", kind) == 477
        assert status(daemon, "connectStorageServer", "/dev/null", kind) == 477
        assert mounts(daemon) == [] and os.listdir(daemon.repository / "mnt") == []


def test_a_device_by_another_name_is_the_same_one(tmp_path: Path, device: str, kind: str) -> None:
    """The kernel shows the path that was mounted; an alias with the same name of its place must not be a collision."""
    alias = tmp_path / "alias"
    alias.symlink_to(device)
    with start(tmp_path / "daemon") as daemon:
        place = daemon.repository / "mnt" / str(alias).replace("_", "__").replace("/", "_")
        place.mkdir()
        subprocess.run(["mount", "-t", kind, device, str(place)], check=True, timeout=60)
        assert status(daemon, "connectStorageServer", str(alias), kind) == 0
        assert len(mounts(daemon)) == 1
        assert status(daemon, "disconnectStorageServer", str(alias), kind) == 0
        assert mounts(daemon) == []


def test_one_domain_on_two_names_of_a_device_is_one_domain(tmp_path: Path, device: str, kind: str) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(device)
    with start(tmp_path / "daemon") as daemon:
        for source in (device, str(alias)):
            assert status(daemon, "connectStorageServer", source, kind) == 0
        domain = make_domain(daemon, device)
        assert daemon.call("getStorageDomainsList")["domlist"] == [domain]
        assert daemon.call("getStorageDomainInfo", domain)["info"]["uuid"] == domain


def test_nobody_becomes_spm_where_other_hosts_may_be(tmp_path: Path, device: str, kind: str) -> None:
    with start(tmp_path / "daemon") as daemon:
        assert status(daemon, "connectStorageServer", device, kind) == 0
        domain = make_domain(daemon, device)
        answer = daemon.answer("createStoragePool", 0, str(uuid.uuid4()), "p", domain, [domain], 1)
        assert answer["status"]["code"] == 651
        assert "local_posixfs" in answer["status"]["message"]


@pytest.mark.qemu
def test_the_operator_may_say_that_there_is_no_other_host(tmp_path: Path, device: str, kind: str) -> None:
    with start(tmp_path / "daemon", {"local_posixfs": True}) as daemon:
        assert status(daemon, "connectStorageServer", device, kind) == 0
        domain = make_domain(daemon, device)
        pool = connect_pool(daemon, domain)
        daemon.task("spmStart", pool, -1, -1, -1, 0)
        [[place, *_]] = mounts(daemon)
        made = daemons.Pool(daemon, pool, domain, Path(place))
        image = made.make_image_chain(1 << 20)
        assert made.look(image, image.leaf)["volumes"] == image.volumes
        made.can_start(image, image.leaf)
        assert status(daemon, "disconnectStorageServer", device, kind) == 477, "the SPM holds the cluster lock there"
        made.delete_image(image)
        daemon.call("destroyStoragePool", pool, 1, "key")
        daemon.call("formatStorageDomain", domain)
        assert status(daemon, "disconnectStorageServer", device, kind) == 0
