"""A domain's files: made as the tables of the format say, read when made by others, whole after any crash."""

import errno
import os
import stat
from pathlib import Path

import pytest

from storage import errors, files, ids
from storage.domains import clusterlock, domain_metadata, domainmaker, filedomain
from tests.support import faults, filedomains

DOMAIN = filedomains.DOMAIN
OTHER = ids.DomainId("9af9bd7f-6167-4ae8-aac6-95a5e5f36f60")
POOL = ids.PoolId("6e4d6a96-1234-1234-8905-b5eec55c1535")
IMAGE = ids.ImageId("47bd7538-c48b-4b94-ba94-def922151d48")
umask, mount, domain, make = filedomains.umask, filedomains.mount, filedomains.domain, filedomains.make

MIB = 1024 * 1024

COMMON_KEYS = {
    "CLASS": "Data", "DESCRIPTION": "name", "IOOPTIMEOUTSEC": "10", "LEASERETRIES": "3", "LEASETIMESEC": "60",
    "LOCKPOLICY": "", "LOCKRENEWALINTERVALSEC": "5", "POOL_UUID": "", "REMOTE_PATH": "/data", "ROLE": "Regular",
    "SDUUID": DOMAIN, "TYPE": "LOCALFS",
}  # fmt: skip


def by_hand(mount: Path, record: bytes, domain_id: ids.DomainId = DOMAIN) -> filedomain.FileDomain:
    """A domain as another program leaves it."""
    path = mount / domain_id
    (path / "dom_md").mkdir(parents=True)
    (path / "images").mkdir()
    for name, size in {"ids": MIB, "leases": 2 * MIB, "inbox": 16 * MIB, "outbox": 16 * MIB}.items():
        with (path / "dom_md" / name).open("wb") as file:
            file.truncate(size)
    (path / "dom_md" / "metadata").write_bytes(record)
    return filedomain.FileDomain(domain_id, mount)


def tree(path: Path) -> dict[str, tuple[str, int, int]]:
    """Name to kind, permissions and size of everything below a directory, hidden names too."""
    found = {}
    for entry in sorted(path.rglob("*")):
        info = entry.lstat()
        directory = stat.S_ISDIR(info.st_mode)
        found[str(entry.relative_to(path))] = (
            "dir" if directory else "file", stat.S_IMODE(info.st_mode), 0 if directory else info.st_size,
        )  # fmt: skip
    return found


# ---------------------------------------------------------------- making


@pytest.mark.parametrize("version", [0, 3, 4, 5])
def test_layout_of_each_version(mount: Path, version: int) -> None:
    domain = make(mount, version)
    record = domain.metadata_path.read_bytes()
    assert tree(mount) == {
        str(DOMAIN): ("dir", 0o755, 0),
        f"{DOMAIN}/dom_md": ("dir", 0o755, 0),
        f"{DOMAIN}/dom_md/ids": ("file", 0o660, 0),
        f"{DOMAIN}/dom_md/leases": ("file", 0o660, 512 if version == 0 else 0),
        f"{DOMAIN}/dom_md/inbox": ("file", 0o660, 16 * MIB),
        f"{DOMAIN}/dom_md/outbox": ("file", 0o660, 16 * MIB),
        f"{DOMAIN}/dom_md/metadata": ("file", 0o644, len(record)),
        f"{DOMAIN}/images": ("dir", 0o755, 0),
    }
    assert sum(entry.lstat().st_blocks for entry in mount.rglob("*box")) == 0, "mailboxes are sparse"
    domain.validate()


@pytest.mark.parametrize("version", [0, 3, 4, 5])
def test_record_of_each_version(mount: Path, version: int) -> None:
    lines = make(mount, version).metadata_path.read_text().splitlines()
    keys = COMMON_KEYS | {"VERSION": str(version)}
    if version == 5:
        keys |= {"ALIGNMENT": "1048576", "BLOCK_SIZE": "512"}
    expected = [f"{key}={value}" for key, value in sorted(keys.items())]
    assert lines[:-1] == expected
    assert lines[-1] == f"_SHA_CKSUM={domain_metadata.checksum(keys)}"


def test_lease_of_version_0_is_free(mount: Path) -> None:
    sector = (make(mount, 0).path / "dom_md" / "leases").read_bytes()
    assert sector[:32] == b"------FREE------0000000000000000" and not sector[32:].strip(b"\0")


def test_an_iso_domain_has_its_one_image(mount: Path) -> None:
    assert make(mount, domain_class="Iso").image_ids() == ["11111111-1111-1111-1111-111111111111"]


@pytest.mark.parametrize(
    ("version", "name", "error"),
    [
        (1, "x", errors.UnsupportedDomainVersion),
        (2, "x", errors.UnsupportedDomainVersion),
        (6, "x", errors.UnsupportedDomainVersion),
        (-1, "x", errors.UnsupportedDomainVersion),
        (0, "é", errors.UnicodeArgumentException),
        (3, "a\nVERSION=9", errors.InvalidParameterException),
        (3, "a\u2028b", errors.InvalidParameterException),
        (3, "\ud800", errors.InvalidParameterException),
    ],
)
def test_impossible_domains_are_refused_before_anything_is_made(
    mount: Path, version: int, name: str, error: type[errors.StorageError]
) -> None:
    with pytest.raises(error):
        make(mount, version, name)
    assert tree(mount) == {}


def test_names_beyond_ascii_from_version_3_on(mount: Path) -> None:
    assert make(mount, 3, "Größe €").metadata().description == "Größe €"


def test_one_mount_holds_one_domain(mount: Path) -> None:
    make(mount)
    before = tree(mount)
    with pytest.raises(errors.StorageDomainNotEmpty, match=DOMAIN):
        domainmaker.create(mount, OTHER, version=3, name="", domain_class="Data", remote_path="/data")
    with pytest.raises(errors.StorageDomainNotEmpty):
        make(mount)
    assert tree(mount) == before


def test_remains_of_another_program_block_a_creation_and_say_what_helps(mount: Path) -> None:
    (mount / DOMAIN / "dom_md").mkdir(parents=True)
    with pytest.raises(errors.StorageDomainNotEmpty, match="formatStorageDomain"):
        make(mount)


def test_foreign_files_do_not_block_a_creation(mount: Path) -> None:
    (mount / "lost+found").mkdir(mode=0)
    (mount / "notes.txt").touch()
    (mount / OTHER).touch()
    make(mount)


def test_a_file_system_without_direct_io_is_refused(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "accepts_direct_io", lambda directory: False)
    monkeypatch.setattr(domainmaker, "_is_in_memory", lambda path: False)
    with pytest.raises(errors.StorageDomainTargetUnsupported):
        make(mount)
    assert tree(mount) == {}
    monkeypatch.setattr(domainmaker, "_is_in_memory", lambda path: True)
    make(mount)


def test_the_probe_for_direct_io_leaves_nothing(mount: Path) -> None:
    files.accepts_direct_io(mount)
    assert tree(mount) == {}


def test_what_a_dead_probe_left_is_swept_by_the_next_creation(mount: Path, domain: filedomain.FileDomain) -> None:
    domain.remove()
    (mount / ".probe.0123456789abcdef.new").write_bytes(b"\0" * 4096)
    (mount / ".probe").touch()
    make(mount)
    assert sorted(os.listdir(mount)) == [".probe", DOMAIN]


def test_memory_file_systems_are_told_apart() -> None:
    assert domainmaker._is_in_memory(Path("/dev/shm"))
    assert not domainmaker._is_in_memory(Path("/proc"))


@pytest.fixture
def without_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A direct write that is cut short may be refused for its alignment, which would look like the file system's no."""
    monkeypatch.setattr(files, "accepts_direct_io", lambda directory: True)


@pytest.mark.usefixtures("without_probe")
def test_crash_at_any_step_of_a_creation_leaves_no_domain_or_a_whole_one(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    make(whole)
    for fault in faults.crash_points():
        mount = tmp_path / str(fault.at)
        mount.mkdir()
        with fault.strike():
            make(mount)
        domain = filedomain.FileDomain(DOMAIN, mount)
        visible = [name for name in os.listdir(mount) if not name.startswith(".")]
        if domain.exists():
            assert tree(mount) == tree(whole)
            domain.validate()
        else:
            assert visible == [], "readers of the format must not see a half-made domain"
            make(mount)
            assert tree(mount) == tree(whole), "the next creation sweeps what the crash left"


@pytest.mark.usefixtures("without_probe")
def test_failure_at_any_step_of_a_creation_removes_what_was_made(tmp_path: Path) -> None:
    for at in range(1000):
        mount = tmp_path / str(at)
        mount.mkdir()
        fault = faults.Faults(at, OSError(errno.ENOSPC, "No space left on device"))
        with fault.strike():
            try:
                make(mount)
            except errors.StorageDomainMetadataCreationError as error:
                assert "No space" in str(error)
        if not fault.fired:
            break
        assert os.listdir(mount) == []
    assert at > 20


# ---------------------------------------------------------------- reading what others made


def record(values: dict[str, str]) -> bytes:
    return domain_metadata.encode(COMMON_KEYS | values)


@pytest.mark.parametrize("version", filedomain.VERSIONS)
def test_domains_made_by_hand_are_read(mount: Path, version: int) -> None:
    domain = by_hand(
        mount, record({"VERSION": str(version), "POOL_UUID": POOL, "ROLE": "Master", "LOGBLKSIZE": "512", "PV0": "x=y"})
    )
    domain.validate()
    assert (domain.version, domain.domain_class, domain.type, domain.pools) == (version, "Data", "LOCALFS", [POOL])
    assert domain.has_leases == (version >= 3)
    domain.update({"DESCRIPTION": "é"})
    assert domain.metadata().raw["PV0"] == "x=y"


def test_a_domain_of_ours_has_no_volume_leases(domain: filedomain.FileDomain) -> None:
    assert not domain.has_leases


def test_images_are_directories_with_an_id_as_name(domain: filedomain.FileDomain) -> None:
    images = domain.path / "images"
    for name in (IMAGE, f"_remove_me_{IMAGE}", "_remolaRfd2", f"{IMAGE}x", IMAGE.replace("-", "_")):
        (images / name).mkdir()
    (images / OTHER).touch()
    (images / POOL).symlink_to(images / IMAGE)
    assert domain.image_ids() == [IMAGE]
    assert domain.image_directory(IMAGE) == images / IMAGE


def test_images_that_cannot_be_listed_are_not_none(domain: filedomain.FileDomain) -> None:
    (domain.path / "images").rmdir()
    with pytest.raises(errors.StorageDomainLayoutError):
        domain.image_ids()
    (domain.path / "images").touch()
    with pytest.raises(errors.StorageDomainAccessError):
        domain.image_ids()


@pytest.mark.parametrize("name", ["dom_md/ids", "dom_md/leases", "images"])
def test_validate_names_what_is_missing(domain: filedomain.FileDomain, name: str) -> None:
    (domain.path / name).rename(domain.path / "elsewhere")
    with pytest.raises(errors.StorageDomainLayoutError, match=name):
        domain.validate()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", errors.StorageDomainAccessError),
        (b"\0" * 4096, errors.StorageDomainAccessError),
        (b"VERSION=3\n", errors.MetaDataKeyNotFoundError),
        (b"\xff\xfe=\n", errors.MetaDataValidationError),
        (b"x" * (filedomain.METADATA_LIMIT + 1), errors.StorageDomainAccessError),
        (record({"VERSION": "6"}), errors.UnsupportedDomainVersion),
        (record({"VERSION": "three"}), errors.MetaDataValidationError),
        (record({"VERSION": "3", "SDUUID": OTHER}), errors.StorageDomainLayoutError),
        (record({"VERSION": "3"}).replace(b"Data", b"Iso"), errors.MetaDataSealIsBroken),
    ],
)
def test_damaged_records_are_named_errors_and_never_written(
    mount: Path, data: bytes, error: type[errors.StorageError]
) -> None:
    domain = by_hand(mount, data)
    for action in (domain.metadata, domain.validate, lambda: domain.update({"DESCRIPTION": "x"})):
        with pytest.raises(error):
            action()
    assert domain.metadata_path.read_bytes() == data


def test_a_missing_record_is_told_from_an_unreadable_one(domain: filedomain.FileDomain) -> None:
    domain.metadata_path.unlink()
    with pytest.raises(errors.StorageDomainMetadataNotFound):
        domain.metadata()
    domain.metadata_path.symlink_to("/etc/passwd")
    with pytest.raises(errors.StorageDomainAccessError):
        domain.metadata()
    assert not domain.exists()


def test_a_stale_handle_has_its_own_error(domain: filedomain.FileDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*args: object) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(files, "read", stale)
    monkeypatch.setattr(os, "statvfs", stale)
    for action in (domain.metadata, domain.space):
        with pytest.raises(errors.FileStorageDomainStaleNFSHandle):
            action()


def test_space_is_the_file_systems(domain: filedomain.FileDomain) -> None:
    total, free = domain.space()
    assert 0 < free <= total and total == os.statvfs(domain.path).f_blocks * os.statvfs(domain.path).f_frsize


def test_the_lock_follows_the_type_in_the_record(mount: Path) -> None:
    domain = by_hand(mount, record({"VERSION": "3", "TYPE": "NFS"}))
    with pytest.raises(errors.AcquireLockFailure, match="sanlock"):
        domain.cluster_lock.acquire(1)
    domain.update({"TYPE": "LOCALFS"})
    local = filedomain.FileDomain(DOMAIN, mount)
    assert local.cluster_lock is local.cluster_lock
    with local.cluster_lock.hold(clusterlock.MAX_HOST_ID):
        assert local.cluster_lock.held()
    assert (domain.path / "dom_md" / "ids").stat().st_size == MIB


# ---------------------------------------------------------------- removing


def fill(domain: filedomain.FileDomain, elsewhere: Path) -> None:
    directory = domain.image_directory(IMAGE)
    directory.mkdir()
    (directory / OTHER).write_bytes(b"data")
    (directory / "link").symlink_to(elsewhere)
    (domain.path / "images" / "dirlink").symlink_to(elsewhere.parent)


def test_removing_leaves_nothing_and_follows_no_link(tmp_path: Path, domain: filedomain.FileDomain) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("kept")
    fill(domain, tmp_path / "outside" / "file")
    domain.remove()
    assert tree(domain.mount) == {}
    assert (tmp_path / "outside" / "file").read_text() == "kept"
    domain.remove()


def test_a_link_in_the_place_of_a_domain_is_neither_used_nor_emptied(tmp_path: Path, mount: Path) -> None:
    (tmp_path / "real").mkdir()
    by_hand(tmp_path / "real", record({"VERSION": "3"}))
    (mount / DOMAIN).symlink_to(tmp_path / "real" / DOMAIN)
    domain = filedomain.FileDomain(DOMAIN, mount)
    assert not domain.exists()
    before = tree(tmp_path / "real")
    with pytest.raises(errors.MiscDirCleanupFailure):
        domain.remove()
    assert tree(tmp_path / "real") == before


def test_crash_at_any_step_of_a_removal_leaves_the_domain_whole_or_gone(tmp_path: Path) -> None:
    for fault in faults.crash_points():
        mount = tmp_path / str(fault.at)
        mount.mkdir()
        domain = make(mount)
        fill(domain, tmp_path)
        before = tree(domain.path)
        with fault.strike():
            domain.remove()
        if domain.exists():
            assert tree(domain.path) == before
            domain.remove()
        else:
            assert [name for name in os.listdir(mount) if not name.startswith(".")] == []
            assert domain.remains() == bool(os.listdir(mount))
            if (fault.at or 0) % 2:
                domain.remove()
            else:
                make(mount).remove()
        assert tree(mount) == {}


def test_what_cannot_be_removed_is_told_and_the_domain_is_gone_all_the_same(domain: filedomain.FileDomain) -> None:
    with (
        faults.Faults(3, OSError(errno.EIO, "Input/output error")).strike(),
        pytest.raises(errors.MiscDirCleanupFailure),
    ):
        domain.remove()
    assert not domain.exists() and domain.remains()
    domain.remove()
    assert tree(domain.mount) == {}
