"""Mounting and unmounting, with programs and a kernel that are played: order, collisions, what failures leave."""

import dataclasses
import os
from pathlib import Path

import pytest

from storage import errors, layout
from storage.domains import connections, mounter, mountspec, mounttable

DEVICE = "/dev/null"  # no block device, but a path that is always there


@dataclasses.dataclass
class Kernel:
    """Plays mount(8), umount(8) and the table of mounts.

    Attributes:
        refuse: what mount answers, empty: it works.
        busy: umount finds the mount in use.
        late: mount fails, and the mount comes about all the same.
        dead: the server does not answer, so that only force unmounts.
        calls: what was run.
    """

    refuse: str = ""
    busy: bool = False
    late: bool = False
    dead: bool = False
    table: list[mounttable.Mounted] = dataclasses.field(default_factory=list)
    calls: list[str] = dataclasses.field(default_factory=list)

    def mount(self, source: str, place: Path, kind: str, options: object) -> None:
        assert place.is_dir() and not place.is_symlink()
        self.calls.append("mount")
        if not self.refuse or self.late:
            self.table.append(mounttable.Mounted(mounttable.resolved(place), source, kind, 0))
        if self.refuse:
            raise errors.MountError(path=source, reason=self.refuse)

    def unmount(self, source: str, place: Path, *, force: bool = False) -> None:
        self.calls.append("umount -f" if force else "umount")
        if self.busy and not force:
            raise mounter.Busy(path=source, reason="target is busy.")
        if self.dead and not force:
            raise errors.MountError(path=source, reason="not finished within 60 s")
        last = max(i for i, each in enumerate(self.table) if each.place == mounttable.resolved(place))
        del self.table[last]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(mounttable, "read", lambda: list(made.table))
    return made


@pytest.fixture
def repository(tmp_path: Path) -> layout.Repository:
    return layout.Repository(tmp_path / "repository")


@pytest.fixture
def table(repository: layout.Repository, kernel: Kernel) -> connections.Connections:
    return connections.Connections(repository, kernel)  # type: ignore[arg-type]


def nfs(table: connections.Connections, source: str = "server:/x") -> connections.Connection:
    return table.of(mountspec.NFS, {"id": "x", "connection": source})


def entries(repository: layout.Repository) -> list[str]:
    return sorted(os.listdir(repository.mnt))


def test_connecting_and_disconnecting(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel
) -> None:
    assert not nfs(table).is_connected()
    nfs(table).connect()
    nfs(table, "server://x/").connect()
    assert kernel.calls == ["mount"], "connected already"
    assert nfs(table).is_connected()
    assert connections.mounts(repository) == [repository.mnt / "server:_x"]
    assert table.place(mountspec.NFS, "server:/x//") == ("server:/x", repository.mnt / "server:_x")
    nfs(table).disconnect()
    nfs(table).disconnect()
    assert kernel.calls == ["mount", "umount"]
    assert entries(repository) == [] and connections.mounts(repository) == []


def test_gluster_is_found_below_its_own_directory(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel
) -> None:
    connection = table.of(mountspec.GLUSTERFS, {"connection": "server:vol"})
    connection.connect()
    place = repository.mnt / "glusterSD" / "server:vol"
    assert connections.mounts(repository) == [place]
    assert table.place(mountspec.GLUSTERFS, "server:vol")[1] == place
    # The kernel may show the volume in its other spelling.
    [shown] = kernel.table
    kernel.table[:] = [dataclasses.replace(shown, source="server:/vol")]
    assert connection.is_connected()


def test_of_no_connection_there_is_no_place(table: connections.Connections) -> None:
    with pytest.raises(errors.StorageDomainFSNotMounted) as caught:
        table.place(mountspec.NFS, "server:/x")
    assert caught.value.code == 360


@pytest.mark.parametrize("late", [False, True])
def test_a_mount_that_fails_leaves_nothing(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel, late: bool
) -> None:
    kernel.refuse, kernel.late = "access denied by server", late
    with pytest.raises(errors.MountError, match="access denied by server") as caught:
        nfs(table).connect()
    assert caught.value.code == 477
    assert entries(repository) == [] and kernel.table == []


def test_a_root_that_is_not_for_us_is_unmounted_again(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode, **kw: False)
    with pytest.raises(errors.StorageServerAccessPermissionError) as caught:
        nfs(table).connect()
    assert caught.value.code == 469
    assert entries(repository) == [] and kernel.table == []


def test_two_sources_with_one_name_are_refused(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel
) -> None:
    first, second = "server:/a/_b", "server:/a_/b"
    nfs(table, first).connect()
    other = nfs(table, second)
    for action in (other.connect, other.disconnect, other.validate, other.is_connected):
        with pytest.raises(errors.MountError, match="taken by 'server:/a/_b'"):
            action()
    assert len(kernel.table) == 1 and nfs(table, first).is_connected()


def test_files_are_never_hidden_by_a_mount(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel
) -> None:
    place = repository.mnt / "server:_x"
    place.mkdir(parents=True)
    (place / "precious").touch()
    with pytest.raises(errors.MountError, match="holds files"):
        nfs(table).connect()
    nfs(table).disconnect()
    assert (place / "precious").exists() and kernel.calls == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_is_not_mounted_on(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel, tmp_path: Path, kind: str
) -> None:
    repository.mnt.mkdir(parents=True)
    place = repository.mnt / "server:_x"
    if kind == "file":
        place.touch()
    else:
        place.symlink_to(tmp_path)
    for action in (nfs(table).connect, nfs(table).disconnect):
        with pytest.raises(errors.MountError, match="not a directory"):
            action()
    assert os.path.lexists(place) and kernel.calls == []


def test_a_mount_in_use_stays(table: connections.Connections, repository: layout.Repository, kernel: Kernel) -> None:
    nfs(table).connect()
    kernel.busy = True
    with pytest.raises(errors.MountError, match="busy") as caught:
        nfs(table).disconnect()
    assert caught.value.code == 477
    assert nfs(table).is_connected() and "umount -f" not in kernel.calls


def test_a_dead_server_is_left_by_force_and_a_device_is_not(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel
) -> None:
    kernel.dead = True
    nfs(table).connect()
    nfs(table).disconnect()
    assert kernel.calls == ["mount", "umount", "umount -f"] and entries(repository) == []
    device = table.of(mountspec.POSIXFS, {"connection": DEVICE, "vfs_type": "ext4"})
    device.connect()
    with pytest.raises(errors.MountError):
        device.disconnect()
    assert kernel.calls[3:] == ["mount", "umount"]


def test_stacked_mounts_all_go(table: connections.Connections, repository: layout.Repository, kernel: Kernel) -> None:
    nfs(table).connect()
    kernel.table *= 3
    nfs(table).disconnect()
    assert kernel.table == [] and entries(repository) == []


def test_a_crash_between_directory_and_mount_is_taken_up_or_cleared_away(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel
) -> None:
    place = repository.mnt / "server:_x"
    place.mkdir(parents=True)
    assert connections.mounts(repository) == []
    nfs(table).disconnect()
    assert not place.exists()
    place.mkdir()
    nfs(table).connect()
    assert connections.mounts(repository) == [place]


def test_a_crash_between_unmounting_and_removing_is_repeated(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel
) -> None:
    nfs(table).connect()
    kernel.table.clear()
    nfs(table).disconnect()
    assert entries(repository) == [] and kernel.calls == ["mount"]


def test_validating_changes_nothing(
    table: connections.Connections, repository: layout.Repository, kernel: Kernel, tmp_path: Path
) -> None:
    missing = table.of(mountspec.POSIXFS, {"connection": f"{tmp_path}/no-device", "vfs_type": "xfs"})
    with pytest.raises(errors.MountError, match="No such file"):
        missing.validate()
    with pytest.raises(errors.MountError, match="not a block device"):
        table.of(mountspec.POSIXFS, {"connection": DEVICE, "vfs_type": "xfs"}).validate()
    assert kernel.calls == [] and not repository.root.exists()


def test_a_host_without_a_client_is_told(table: connections.Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: not self.name.startswith("mount."))
    for connection in (nfs(table), table.of(mountspec.GLUSTERFS, {"connection": "s:/v"})):
        with pytest.raises(errors.MountError, match="has no client"):
            connection.validate()
    monkeypatch.undo()


def test_words_that_nothing_can_be_mounted_of_are_the_entrys_own_failure(
    table: connections.Connections, kernel: Kernel
) -> None:
    wrong = table.of(mountspec.POSIXFS, {"connection": "/dev/x", "vfs_type": "fuse.sshfs"})
    for action in (wrong.connect, wrong.validate, wrong.is_connected):
        with pytest.raises(errors.MountError, match="fuse"):
            action()
    wrong.disconnect()
    with pytest.raises(errors.InvalidParameterException):
        table.of(mountspec.NFS, {"connection": "s:/x", "retrans": "many"})
    assert kernel.calls == []
