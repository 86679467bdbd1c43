"""Verbs on connections and domains: shapes of the answers, order of the checks, and what they refuse to destroy."""

import os
import shutil
import types
from pathlib import Path
from typing import Any

import pytest

from storage import errors, ids, layout, locks, services as storage_services, settings
from storage.domains import clusterlock, connections, domain
from storage.hsm import connection as hsm_connection, domain as hsm_domain, host as hsm_host, pool as hsm_pool

A = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")
B = ids.DomainId("9af9bd7f-6167-4ae8-aac6-95a5e5f36f60")
MASTER = ids.DomainId("1af9bd7f-6167-4ae8-aac6-95a5e5f36f60")
POOL = ids.PoolId("6e4d6a96-1234-1234-8905-b5eec55c1535")
IMAGE = ids.ImageId("47bd7538-c48b-4b94-ba94-def922151d48")
OTHER_IMAGE = ids.ImageId("bace8f68-4c5a-43f2-acb4-fa8daf58c0f9")
VOLUMES = sorted(["11bd7538-c48b-4b94-ba94-def922151d48", "bb3cbda6-a711-45a6-a6f2-c32661939e93"])


class Pools:
    """Which pools are connected, and their maps."""

    def __init__(self) -> None:
        self.maps: dict[ids.PoolId, dict[ids.DomainId, str]] = {}

    def get(self, pool_id: ids.PoolId) -> object:
        if pool_id not in self.maps:
            raise errors.StoragePoolUnknown(pool=pool_id)
        return self.all()[0]

    def all(self) -> list[Any]:
        return [connected(pool_id, domains) for pool_id, domains in self.maps.items()]


def connected(pool_id: ids.PoolId, domains: dict[ids.DomainId, str]) -> Any:
    master = types.SimpleNamespace(id=MASTER)
    return types.SimpleNamespace(id=pool_id, master=master, state=lambda: types.SimpleNamespace(domains=domains))


@pytest.fixture
def services(tmp_path: Path) -> Any:
    repository = layout.Repository(tmp_path / "repository")
    repository.root.mkdir()
    return types.SimpleNamespace(
        repository=repository,
        locks=locks.LockTable(timeout=0.2),
        connections=connections.Connections(repository),
        domains=domain.Finder(repository),
        pools=Pools(),
    )


@pytest.fixture
def data(services: Any, tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    connect(services, path)
    return path


def connect(services: Any, path: object) -> int:
    result = hsm_connection.connect(services, 4, [{"id": "x", "connection": str(path)}])
    assert list(result) == ["statuslist"] and [each["id"] for each in result["statuslist"]] == ["x"]
    status = result["statuslist"][0]["status"]
    assert isinstance(status, int)
    return status


def make(services: Any, path: Path, domain_id: ids.DomainId = A, version: int = 3, domain_class: int = 1) -> None:
    hsm_domain.create(services, domain_id, 4, str(path), "name", domain_class, version)


# ---------------------------------------------------------------- connections


def test_each_entry_has_its_own_status(services: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    entries = [{"id": name, "connection": f"{tmp_path}/{name}"} for name in ("a", "missing", "file", "b")]
    assert hsm_connection.validate(services, 4, entries) == {
        "statuslist": [
            {"id": "a", "status": 0}, {"id": "missing", "status": 469}, {"id": "file", "status": 469},
            {"id": "b", "status": 0},
        ]
    }  # fmt: skip
    assert not services.repository.mnt.exists()
    assert [each["status"] for each in hsm_connection.connect(services, 4, entries)["statuslist"]] == [0, 469, 469, 0]
    assert len(connections.mounts(services.repository)) == 2
    assert [each["status"] for each in hsm_connection.disconnect(services, 4, entries)["statuslist"]] == [0] * 4
    assert connections.mounts(services.repository) == []


def test_what_nobody_foresaw_is_a_status_too(services: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(server_type: int, entry: dict[str, str]) -> connections.Connection:
        found = real(server_type, entry)
        if entry["id"] == "bad":
            monkeypatch.setattr(found, "connect", lambda: 1 // 0)
        return found

    real = services.connections.of
    services.connections = types.SimpleNamespace(of=of)
    entries = [{"id": "bad", "connection": "/"}, {"id": "good", "connection": str(tmp_path)}]
    statuses = hsm_connection.connect(services, 4, entries)["statuslist"]
    assert [each["status"] for each in statuses] == [100, 0]


def test_calls_that_make_no_sense_connect_nothing(services: Any, tmp_path: Path) -> None:
    good = {"id": "x", "connection": str(tmp_path)}
    for domain_type, entries in ((9, [good]), (4, [good, {"connection": str(tmp_path)}])):
        with pytest.raises(errors.StorageServerConnectionError):
            hsm_connection.connect(services, domain_type, entries)
        with pytest.raises(errors.StorageServerDisconnectionError):
            hsm_connection.disconnect(services, domain_type, entries)
    assert not services.repository.mnt.exists()


# ---------------------------------------------------------------- creating


def test_created_domain_has_the_catalogues_answers(services: Any, data: Path) -> None:
    make(services, data)
    assert hsm_domain.get_info(services, A) == {
        "info": {
            "uuid": A, "type": "LOCALFS", "class": "Data", "name": "name", "role": "Regular", "pool": [],
            "version": "3", "remotePath": str(data),
        }
    }  # fmt: skip
    stats = hsm_domain.get_stats(services, A)["stats"]
    assert stats.pop("disktotal").isdecimal() and stats.pop("diskfree").isdecimal()
    assert stats == {"mdavalid": True, "mdathreshold": True, "mdasize": 0, "mdafree": 0}
    hsm_domain.validate(services, A)
    assert hsm_domain.get_images(services, A) == {"imageslist": []}
    services.domains.find(A).set_pool(POOL)
    assert hsm_domain.get_info(services, A)["info"]["pool"] == [POOL]


def test_another_spelling_of_the_connected_path_will_do(services: Any, data: Path) -> None:
    hsm_domain.create(services, A, 4, f"{data}//", "name", 1, 5)
    assert services.domains.find(A).metadata().remote_path == str(data)


def test_checks_come_in_the_order_of_the_catalogue(services: Any, data: Path) -> None:
    make(services, data)
    fresh = ids.DomainId.new()

    def attempt(
        domain_id: ids.DomainId, domain_type: int, path: str, domain_class: int, version: int
    ) -> type[errors.StorageError]:
        with pytest.raises(errors.StorageError) as caught:
            hsm_domain.create(services, domain_id, domain_type, path, "é\n", domain_class, version)
        return type(caught.value)

    assert attempt(A, 9, "x", 9, 9) is errors.StorageDomainAlreadyExists
    assert attempt(fresh, 9, "x", 9, 9) is errors.StorageDomainClassError
    assert attempt(fresh, 9, "x", 1, 2) is errors.UnsupportedDomainVersion
    for domain_type in (0, 2, 3, 5, 9):
        assert attempt(fresh, domain_type, "x", 1, 3) is errors.StorageDomainTypeError
    for domain_type, path in ((1, "server"), (1, "server:x"), (7, "/vol"), (6, "")):
        assert attempt(fresh, domain_type, path, 1, 3) is errors.StorageDomainIllegalRemotePath
    for domain_type, path in ((1, "server:/x"), (7, "server:vol"), (6, "/dev/x")):
        assert attempt(fresh, domain_type, path, 1, 3) is errors.StorageDomainFSNotMounted
    assert attempt(fresh, 4, "x", 1, 3) is errors.StorageDomainIllegalRemotePath
    assert attempt(fresh, 4, f"{data}/../data", 1, 3) is errors.StorageDomainIllegalRemotePath
    assert attempt(fresh, 4, str(data.parent), 1, 3) is errors.StorageServerAccessPermissionError
    assert attempt(fresh, 4, str(data), 1, 3) is errors.InvalidParameterException


def test_one_mount_holds_one_domain(services: Any, data: Path) -> None:
    make(services, data)
    with pytest.raises(errors.StorageDomainNotEmpty):
        make(services, data, B)


def test_a_creation_waits_for_the_mount(services: Any, data: Path) -> None:
    mount = services.connections.local_mount(str(data))
    with services.locks.hold(locks.exclusive(mount.name), title="other"), pytest.raises(errors.ResourceTimeout):
        make(services, data)
    make(services, data)


# ---------------------------------------------------------------- formatting


def test_formatting_leaves_nothing(services: Any, data: Path) -> None:
    make(services, data)
    hsm_domain.format(services, A, False)
    assert os.listdir(data) == []
    with pytest.raises(errors.StorageDomainDoesNotExist):
        hsm_domain.format(services, A, False)
    make(services, data)


def test_an_attached_domain_needs_the_callers_word(services: Any, data: Path) -> None:
    make(services, data)
    services.domains.find(A).set_pool(POOL)
    with pytest.raises(errors.CannotFormatAttachedStorageDomain):
        hsm_domain.format(services, A, False)
    hsm_domain.validate(services, A)
    hsm_domain.format(services, A, True)
    assert os.listdir(data) == []


@pytest.mark.parametrize("known_by", ["record", "map"])
def test_a_domain_of_a_connected_pool_is_never_formatted(services: Any, data: Path, known_by: str) -> None:
    make(services, data)
    if known_by == "record":
        services.domains.find(A).set_pool(POOL)
    services.pools.maps[POOL] = {A: "Attached"} if known_by == "map" else {}
    with pytest.raises(errors.CannotFormatStorageDomainInConnectedPool):
        hsm_domain.format(services, A, True)
    hsm_domain.validate(services, A)
    services.pools.maps.clear()
    hsm_domain.format(services, A, True)


def test_an_unreadable_map_of_a_connected_pool_is_no_permission(services: Any, data: Path) -> None:
    def state() -> object:
        raise errors.StorageDomainMasterError(reason="unreadable")

    make(services, data)
    services.pools.all = lambda: [types.SimpleNamespace(id=POOL, master=types.SimpleNamespace(id=MASTER), state=state)]
    with pytest.raises(errors.StorageDomainMasterError):
        hsm_domain.format(services, A, True)
    hsm_domain.validate(services, A)


def test_a_domain_that_another_process_is_spm_of_is_not_formatted(services: Any, data: Path) -> None:
    make(services, data)
    other = clusterlock.LocalLock(A, services.domains.find(A).path / "dom_md" / "ids")
    with other.hold(1), pytest.raises(errors.StorageDomainActionError, match="cluster lock"):
        hsm_domain.format(services, A, True)
    hsm_domain.validate(services, A)


def test_a_damaged_record_is_read_past_its_damage(services: Any, data: Path) -> None:
    make(services, data)
    found = services.domains.find(A)
    found.set_pool(POOL)
    found.metadata_path.write_bytes(found.metadata_path.read_bytes().replace(b"CLASS=Data", b"CLASS=Date"))
    with pytest.raises(errors.MetaDataSealIsBroken):
        hsm_domain.get_info(services, A)
    with pytest.raises(errors.CannotFormatAttachedStorageDomain):
        hsm_domain.format(services, A, False)
    hsm_domain.format(services, A, True)
    assert os.listdir(data) == []


def test_a_damaged_record_of_a_free_domain_is_no_obstacle(services: Any, data: Path) -> None:
    make(services, data)
    services.domains.find(A).metadata_path.write_bytes(b"")
    with pytest.raises(errors.StorageDomainAccessError):
        hsm_domain.validate(services, A)
    hsm_domain.format(services, A, False)
    assert os.listdir(data) == []


def test_a_record_that_cannot_be_read_is_no_permission(services: Any, data: Path, monkeypatch: Any) -> None:
    make(services, data)

    def fail(*args: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("storage.files.read", fail)
    with pytest.raises(errors.StorageDomainAccessError):
        hsm_domain.format(services, A, True)
    monkeypatch.undo()
    hsm_domain.validate(services, A)


def test_remains_are_formatted(services: Any, data: Path) -> None:
    (data / A / "dom_md").mkdir(parents=True)
    (data / A / "dom_md" / "ids").touch()
    with pytest.raises(errors.StorageDomainNotEmpty):
        make(services, data)
    hsm_domain.format(services, A, False)
    make(services, data)


def test_an_interrupted_format_is_finished_by_the_next(services: Any, data: Path) -> None:
    make(services, data)
    (data / A).rename(data / f".remove_me_{A}")
    with pytest.raises(errors.StorageDomainDoesNotExist):
        hsm_domain.get_info(services, A)
    hsm_domain.format(services, A, False)
    assert os.listdir(data) == []


def test_with_the_real_pools(tmp_path: Path) -> None:
    built = storage_services.build(settings.Settings(tmp_path / "repository"))
    try:
        for name, domain_id in (("a", A), ("b", B)):
            (tmp_path / name).mkdir()
            connect(built, tmp_path / name)
            make(built, tmp_path / name, domain_id)
        hsm_pool.create(built, POOL, "pool", A, [A], 1)
        hsm_pool.connect(built, POOL, 1, A, 1, None)
        assert hsm_domain.get_list(built, POOL, None, None, None) == {"domlist": [A]}
        assert list(hsm_host.get_stats(built)["info"]["storageDomains"]) == [A]
        info = hsm_domain.get_info(built, A)["info"]
        assert (info["role"], info["pool"]) == ("Master", [POOL])
        with pytest.raises(errors.CannotFormatStorageDomainInConnectedPool):
            hsm_domain.format(built, A, True)
        hsm_domain.format(built, B, False)
        hsm_pool.disconnect(built, POOL, 1)
        with pytest.raises(errors.CannotFormatAttachedStorageDomain):
            hsm_domain.format(built, A, False)
        hsm_domain.format(built, A, True)
        assert hsm_domain.get_list(built, None, None, None, None) == {"domlist": []}
    finally:
        built.close()


# ---------------------------------------------------------------- lists


def test_list_filters(services: Any, tmp_path: Path) -> None:
    for name, domain_id, domain_class in (("a", A, 1), ("b", B, 2)):
        (tmp_path / name).mkdir()
        connect(services, tmp_path / name)
        make(services, tmp_path / name, domain_id, domain_class=domain_class)

    def listed(*filters: Any) -> list[str]:
        found = hsm_domain.get_list(services, *filters)
        assert list(found) == ["domlist"]
        return found["domlist"]

    both = sorted([A, B])
    assert listed(None, None, None, None) == both
    assert listed(None, 1, None, None) == [A] and listed(None, 2, 4, None) == [B] and listed(None, 3, None, None) == []
    assert listed(None, None, 4, None) == both and listed(None, None, 1, None) == []
    assert listed(None, None, None, f"{tmp_path}/b/") == [B] and listed(None, None, None, "nowhere") == []
    with pytest.raises(errors.StoragePoolUnknown):
        listed(POOL, None, None, None)
    services.pools.maps[POOL] = {}
    assert listed(POOL, None, None, None) == []
    services.domains.find(B).set_pool(POOL)
    assert listed(POOL, None, None, None) == [B]
    services.domains.find(A).metadata_path.write_bytes(b"\xff=")
    assert listed(None, None, None, None) == [B]


def test_volumes_come_from_names_alone(services: Any, data: Path) -> None:
    make(services, data)
    found = services.domains.find(A)
    for image_id in (IMAGE, OTHER_IMAGE):
        directory = found.image_directory(image_id)
        directory.mkdir()
        (directory / f"{VOLUMES[0]}.meta").write_bytes(b"unreadable")
        (directory / f"{VOLUMES[0]}.meta.new").touch()
        (directory / "foreign.meta").touch()
    (found.image_directory(OTHER_IMAGE) / f"{VOLUMES[1]}.meta").touch()
    shutil.copytree(found.image_directory(IMAGE), found.path / "images" / f"_remove_me_{IMAGE}")
    assert hsm_domain.get_images(services, A) == {"imageslist": sorted([IMAGE, OTHER_IMAGE])}
    assert hsm_domain.get_volumes(services, A, IMAGE) == {"uuidlist": VOLUMES[:1]}
    assert hsm_domain.get_volumes(services, A, None) == {"uuidlist": VOLUMES}
    assert hsm_domain.get_volumes(services, A, ids.ImageId.new()) == {"uuidlist": []}
    (found.path / "images" / ids.ImageId.new()).symlink_to(found.image_directory(IMAGE))
    assert hsm_domain.get_images(services, A) == {"imageslist": sorted([IMAGE, OTHER_IMAGE])}


def test_an_image_that_goes_while_volumes_are_listed_has_none(
    services: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(services, data)
    found = services.domains.find(A)
    found.image_directory(IMAGE).mkdir()
    (found.image_directory(IMAGE) / f"{VOLUMES[0]}.meta").touch()
    gone = ids.ImageId.new()
    monkeypatch.setattr(type(found), "image_ids", lambda self: [gone, IMAGE])
    assert hsm_domain.get_volumes(services, A, None) == {"uuidlist": VOLUMES[:1]}
    # A link that took the place of a directory is not followed, and never taken for an image without volumes.
    found.image_directory(gone).symlink_to(found.image_directory(IMAGE))
    with pytest.raises(errors.ImagePathError):
        hsm_domain.get_volumes(services, A, None)


def test_unknown_domains_are_told_before_a_lock_is_waited_for(services: Any) -> None:
    with services.locks.hold(locks.exclusive(A), title="other"):
        for call in (
            lambda: hsm_domain.get_info(services, A),
            lambda: hsm_domain.get_stats(services, A),
            lambda: hsm_domain.get_images(services, A),
            lambda: hsm_domain.get_volumes(services, A, None),
            lambda: hsm_domain.validate(services, A),
            lambda: hsm_domain.format(services, A, True),
        ):
            with pytest.raises(errors.StorageDomainDoesNotExist):
                call()
