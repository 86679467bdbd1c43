"""Names and paths of the repository, against the tables of the format."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from storage import errors, ids, layout

POOL = ids.PoolId("6e4d6a96-1234-1234-8905-b5eec55c1535")
DOMAIN = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")
IMAGE = ids.ImageId("47bd7538-c48b-4b94-ba94-def922151d48")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data_1/x", "_data__1_x"),
        ("server:/export/data_1", "server:_export_data__1"),
        ("[2001:db8::1]:/p", "[2001:db8::1]:_p"),
        ("/dev/mapper/vg-lv", "_dev_mapper_vg-lv"),
        ("/a/_b", "_a___b"),
        ("/a_/b", "_a___b"),
    ],
)
def test_encoding_is_the_protocols(path: str, name: str) -> None:
    assert layout.encode(path) == name


@pytest.mark.parametrize(
    ("given_path", "canonical"),
    [("/foo", "/foo"), ("/foo/", "/foo"), ("//foo///bar/", "/foo/bar"), ("/foo/./bar/.", "/foo/bar"), ("/é x", "/é x")],
)
def test_spellings_of_one_directory_become_one(given_path: str, canonical: str) -> None:
    assert layout.canonical_local(given_path) == canonical


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//",
        "/.",
        "relative",
        "./x",
        "server:/x",
        "/a/../b",
        "/..",
        "/a\nb",
        "/a\0",
        "/a\u2028b",
        "/a\x85",
        "/\ud800",
        "/" + "x" * 255,
        "/" + "_" * 128,
    ],
)
def test_unusable_paths_are_refused(path: str) -> None:
    with pytest.raises(errors.StorageDomainIllegalRemotePath):
        layout.canonical_local(path)


@settings(deadline=None)
@given(st.text())
def test_canonical_path_is_stable_and_its_name_is_one_component(text: str) -> None:
    try:
        canonical = layout.canonical_local(text)
    except errors.StorageDomainIllegalRemotePath:
        return
    assert layout.canonical_local(canonical) == canonical
    name = layout.encode(canonical)
    assert "/" not in name and name.startswith("_") and len(name.encode()) <= 255


def test_tree() -> None:
    repository = layout.Repository(Path("/r"))
    assert str(repository.connection("/data_1/x")) == "/r/mnt/_data__1_x"
    assert str(repository.domain_link(POOL, DOMAIN)) == f"/r/{POOL}/{DOMAIN}"
    assert str(repository.task_store(POOL)) == f"/r/{POOL}/mastersd/master/tasks"
    assert str(repository.run_link(DOMAIN, IMAGE)) == f"/r/run/{DOMAIN}/{IMAGE}"
    assert str(repository.host_tasks) == "/r/hsm-tasks"
