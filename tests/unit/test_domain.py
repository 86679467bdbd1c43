"""Finding domains: what is connected, what only looks like it, and that one bad domain hides no other."""

import os
import shutil
from pathlib import Path

import pytest

from storage import errors, ids, layout
from storage.domains import connections, domain, domainmaker

A = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")
B = ids.DomainId("9af9bd7f-6167-4ae8-aac6-95a5e5f36f60")
C = ids.DomainId("1af9bd7f-6167-4ae8-aac6-95a5e5f36f60")


@pytest.fixture
def repository(tmp_path: Path) -> layout.Repository:
    return layout.Repository(tmp_path / "repository")


@pytest.fixture
def finder(repository: layout.Repository) -> domain.Finder:
    return domain.Finder(repository)


def connect(repository: layout.Repository, path: Path) -> Path:
    path.mkdir(exist_ok=True)
    table = connections.Connections(repository)
    table.of(4, {"connection": str(path)}).connect()
    return table.local_mount(str(path))


def make(repository: layout.Repository, path: Path, domain_id: ids.DomainId) -> domain.Domain:
    mount = connect(repository, path)
    return domainmaker.create(mount, domain_id, version=3, name="n", domain_class="Data", remote_path=str(path))


def test_found_while_connected(repository: layout.Repository, finder: domain.Finder, tmp_path: Path) -> None:
    with pytest.raises(errors.StorageDomainDoesNotExist):
        finder.find(A)
    made = make(repository, tmp_path / "a", A)
    found = finder.find(A)
    assert found.path == made.path == repository.mnt / layout.encode(str(tmp_path / "a")) / A
    assert found.remote_path == str(tmp_path / "a")
    assert finder.find(A) is found and finder.all() == [found]
    connections.Connections(repository).of(4, {"connection": str(tmp_path / "a")}).disconnect()
    with pytest.raises(errors.StorageDomainDoesNotExist):
        finder.find(A)
    assert finder.all() == [] and found.remote_path == ""


def test_the_same_object_after_forgetting(repository: layout.Repository, finder: domain.Finder, tmp_path: Path) -> None:
    make(repository, tmp_path / "a", A)
    found = finder.find(A)
    with found.cluster_lock.hold(1):
        finder.forget()
        assert finder.find(A) is found and finder.find(A).cluster_lock.held()


def test_looking_for_what_is_not_there_is_not_remembered(repository: layout.Repository, finder: domain.Finder) -> None:
    connect(repository, repository.root.parent / "a")
    for _ in range(10):
        with pytest.raises(errors.StorageDomainDoesNotExist):
            finder.find(ids.DomainId.new())
    assert not finder._known and not finder._places


def test_one_bad_domain_hides_no_other(repository: layout.Repository, finder: domain.Finder, tmp_path: Path) -> None:
    for name, domain_id in (("a", A), ("b", B), ("c", C)):
        make(repository, tmp_path / name, domain_id)
    finder.find(A).path.joinpath("dom_md/metadata").write_bytes(b"VERSION=3\n_SHA_CKSUM=no\n")
    finder.find(B).path.joinpath("dom_md/metadata").unlink()
    assert [each.id for each in finder.all()] == [C]
    with pytest.raises(errors.MetaDataSealIsBroken):
        finder.find(A).metadata()
    with pytest.raises(errors.StorageDomainDoesNotExist):
        finder.find(B)


def test_a_connection_that_cannot_be_read_hides_no_other_and_is_not_an_empty_one(
    repository: layout.Repository, finder: domain.Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(repository, tmp_path / "a", A)
    make(repository, tmp_path / "b", B)
    real, bad = os.lstat, str(repository.connection(str(tmp_path / "a")))

    def lstat(path: Path) -> os.stat_result:
        if str(path).startswith(bad):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    assert [each.id for each in finder.all()] == [B]
    assert finder.find(B).id == B
    for domain_id in (A, C):
        with pytest.raises(errors.StorageDomainAccessError):
            finder.find(domain_id)


def test_an_unreadable_table_of_connections_is_not_an_empty_one(
    repository: layout.Repository, finder: domain.Finder
) -> None:
    repository.root.mkdir()
    repository.mnt.touch()
    with pytest.raises(errors.StorageDomainAccessError):
        finder.find(A)


def test_one_directory_connected_by_two_names_is_one_domain(
    repository: layout.Repository, finder: domain.Finder, tmp_path: Path
) -> None:
    make(repository, tmp_path / "a", A)
    (tmp_path / "alias").symlink_to(tmp_path / "a")
    connect(repository, tmp_path / "alias")
    assert len(connections.mounts(repository)) == 2
    assert finder.find(A).id == A and len(finder.all()) == 1


def test_two_directories_of_one_id_are_both_refused(
    repository: layout.Repository, finder: domain.Finder, tmp_path: Path
) -> None:
    make(repository, tmp_path / "a", A)
    make(repository, tmp_path / "b", B)
    shutil.copytree(tmp_path / "a" / A, tmp_path / "c" / A)
    connect(repository, tmp_path / "c")
    with pytest.raises(errors.StorageDomainLayoutError, match="disconnect"):
        finder.find(A)
    assert [each.id for each in finder.all()] == [B]
    connections.Connections(repository).of(4, {"connection": str(tmp_path / "c")}).disconnect()
    assert finder.find(A).remote_path == str(tmp_path / "a")


def test_links_and_names_that_are_no_ids_are_no_domains(
    repository: layout.Repository, finder: domain.Finder, tmp_path: Path
) -> None:
    made = make(repository, tmp_path / "a", A)
    mount = connect(repository, tmp_path / "b")
    (mount / B).symlink_to(made.path)
    shutil.copytree(made.path, mount / f"{C}x")
    (mount / C / "dom_md").mkdir(parents=True)
    (mount / C / "dom_md" / "metadata").symlink_to(made.path / "dom_md" / "metadata")
    assert [each.id for each in finder.all()] == [A]
    for domain_id in (B, C):
        with pytest.raises(errors.StorageDomainDoesNotExist):
            finder.find(domain_id)


def test_finding_does_not_touch_images(
    repository: layout.Repository, finder: domain.Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(repository, tmp_path / "a", A)
    shutil.rmtree(made.path / "images")
    assert [each.id for each in finder.all()] == [A]


def test_remains(repository: layout.Repository, finder: domain.Finder, tmp_path: Path) -> None:
    mount = connect(repository, tmp_path / "a")
    assert finder.remains(A) is None
    (mount / A / "dom_md").mkdir(parents=True)
    left = finder.remains(A)
    assert left is not None
    left.remove()
    assert finder.remains(A) is None and os.listdir(mount) == []


def test_a_link_out_of_the_storage_is_no_remains(
    repository: layout.Repository, finder: domain.Finder, tmp_path: Path
) -> None:
    """formatStorageDomain would open the cluster lock of whatever the link leads to."""
    mount = connect(repository, tmp_path / "a")
    (tmp_path / "outside" / "dom_md").mkdir(parents=True)
    (mount / A).symlink_to(tmp_path / "outside")
    assert finder.remains(A) is None
