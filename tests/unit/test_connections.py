"""Connecting local directories: one name a directory, no collisions, nothing changed but our own link."""

import os
from pathlib import Path

import pytest

from storage import errors, layout
from storage.domains import connections


@pytest.fixture
def repository(tmp_path: Path) -> layout.Repository:
    return layout.Repository(tmp_path / "repository")


@pytest.fixture
def table(repository: layout.Repository) -> connections.Connections:
    return connections.Connections(repository)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data_1"
    path.mkdir(mode=0o700)
    return path


def local(table: connections.Connections, path: object) -> connections.Connection:
    return table.of(4, {"id": "x", "connection": str(path)})


def links(repository: layout.Repository) -> dict[str, str]:
    return {entry.name: os.readlink(entry) for entry in sorted(repository.mnt.iterdir())}


def test_connect_makes_one_link_and_leaves_the_directory_alone(
    table: connections.Connections, repository: layout.Repository, data: Path
) -> None:
    before = data.stat()
    local(table, data).connect()
    assert links(repository) == {layout.encode(str(data)): str(data)}
    assert data.stat() == before
    assert table.local_mount(str(data)) == repository.connection(str(data))
    assert connections.mounts(repository) == [repository.connection(str(data))]


def test_all_spellings_are_one_connection(
    table: connections.Connections, repository: layout.Repository, data: Path
) -> None:
    for spelling in (data, f"{data}/", f"/{data}", f"{data.parent}//./{data.name}/."):
        local(table, spelling).connect()
        assert table.local_mount(str(spelling)) == repository.connection(str(data))
    assert len(links(repository)) == 1
    inode = os.lstat(repository.connection(str(data))).st_ino
    local(table, data).connect()
    assert os.lstat(repository.connection(str(data))).st_ino == inode, "connecting again must not move the link"
    local(table, f"{data}//").disconnect()
    assert links(repository) == {}


def test_disconnect_of_what_is_not_connected_succeeds(
    table: connections.Connections, repository: layout.Repository, data: Path
) -> None:
    local(table, data).disconnect()
    assert not repository.mnt.exists()
    local(table, data).connect()
    data.rmdir()
    local(table, data).disconnect()
    local(table, data).disconnect()
    assert links(repository) == {}


def test_two_paths_with_one_name_are_refused(
    table: connections.Connections, repository: layout.Repository, tmp_path: Path
) -> None:
    first, second = tmp_path / "a" / "_b", tmp_path / "a_" / "b"
    first.mkdir(parents=True)
    second.mkdir(parents=True)
    local(table, first).connect()
    before = links(repository)
    for action in (local(table, second).connect, local(table, second).disconnect, local(table, second).validate):
        with pytest.raises(errors.StorageServerAccessPermissionError, match="taken by"):
            action()
    with pytest.raises(errors.StorageServerAccessPermissionError):
        table.local_mount(str(second))
    assert links(repository) == before


@pytest.mark.parametrize("kind", ["missing", "file", "relative", "empty", "dotdot", "newline", "loop", "inside"])
def test_unusable_paths_are_refused_and_change_nothing(
    table: connections.Connections, repository: layout.Repository, tmp_path: Path, data: Path, kind: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    local(table, data).connect()
    path = {
        "missing": f"{tmp_path}/missing",
        "file": f"{tmp_path}/file",
        "relative": "data_1",
        "empty": "",
        "dotdot": f"{tmp_path}/data_1/../data_1",
        "newline": f"{tmp_path}/data_1\n",
        "loop": f"{tmp_path}/loop",
        "inside": f"{repository.mnt}",
    }[kind]
    before = links(repository)
    for action in (local(table, path).connect, local(table, path).validate):
        with pytest.raises(errors.StorageServerAccessPermissionError) as caught:
            action()
        assert caught.value.code == 469
    assert links(repository) == before


def test_a_directory_without_permissions_is_refused(
    table: connections.Connections, repository: layout.Repository, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.chmod(0o500)
    if os.geteuid() == 0:  # root may do everything, so the answer of the system is played
        monkeypatch.setattr(os, "access", lambda path, mode, **kw: mode & ~(data.stat().st_mode >> 6) & 7 == 0)
    with pytest.raises(errors.StorageServerAccessPermissionError, match="permission"):
        local(table, data).connect()
    assert not repository.mnt.exists()
    assert data.stat().st_mode & 0o777 == 0o500
    data.chmod(0o700)
    local(table, data).connect()


def test_an_entry_that_is_no_link_of_ours_is_neither_replaced_nor_removed(
    table: connections.Connections, repository: layout.Repository, data: Path
) -> None:
    entry = repository.connection(str(data))
    entry.mkdir(parents=True)
    for action in (local(table, data).connect, local(table, data).disconnect):
        with pytest.raises(errors.StorageServerAccessPermissionError):
            action()
    assert entry.is_dir() and not entry.is_symlink()


def test_links_of_other_shape_are_not_followed(
    table: connections.Connections, repository: layout.Repository, data: Path, tmp_path: Path
) -> None:
    local(table, data).connect()
    (repository.mnt / "_etc_x").symlink_to("/etc")
    (repository.mnt / "relative").symlink_to("..")
    (repository.mnt / "blockSD").mkdir()
    (repository.mnt / "file").touch()
    (repository.mnt / "server:_export").mkdir()
    older = repository.mnt / layout.encode(f"{data}/")
    older.symlink_to(f"{data}/")
    # A directory without a mount is what an interrupted connect left.
    assert connections.mounts(repository) == sorted([repository.connection(str(data)), older])


@pytest.mark.parametrize("server_type", [2, 3])
def test_block_storage_is_not_supported(
    table: connections.Connections, repository: layout.Repository, server_type: int
) -> None:
    connection = table.of(server_type, {"id": "x", "connection": "server:/x"})
    for action in (connection.connect, connection.validate, connection.is_connected):
        with pytest.raises(errors.StorageError) as caught:
            action()
        assert caught.value.code == 372
    connection.disconnect()
    assert not repository.mnt.exists()


def test_connected_is_told_without_a_change(
    table: connections.Connections, repository: layout.Repository, data: Path
) -> None:
    assert not local(table, data).is_connected()
    local(table, data).connect()
    assert local(table, data).is_connected()
    data.rmdir()
    with pytest.raises(errors.StorageServerAccessPermissionError):
        local(table, data).is_connected()
    assert len(links(repository)) == 1


def test_an_entry_has_the_name_of_any_spelling_of_its_path() -> None:
    names = {
        "/a_b//c/": "_a__b_c",
        "server:/x_y/": "server:_x__y",
        "[2001:db8::1]:/p//q": "[2001:db8::1]:_p_q",
        "a\nb/../c": "a\nb_.._c",
    }
    assert {path: connections.name_of(path) for path in names} == names


@pytest.mark.parametrize("server_type", [0, 5, 8, -1])
def test_unknown_server_types_are_no_connection(table: connections.Connections, server_type: int) -> None:
    with pytest.raises(KeyError):
        table.of(server_type, {"id": "x", "connection": "/x"})


def test_validate_changes_nothing(table: connections.Connections, repository: layout.Repository, data: Path) -> None:
    local(table, data).validate()
    assert not repository.root.exists()
