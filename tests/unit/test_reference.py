"""References to connections: what their words mean, what is refused, and the record on disk."""

import json
from typing import Any

import pytest

from storage import errors
from storage.domains import reference


def parse(kind: str, **params: Any) -> reference.Reference:
    return reference.parse({"type": kind, "params": params})


def test_words_of_each_type_are_those_of_a_connection() -> None:
    assert parse("localfs", path="/a//b/").words == {"connection": "/a//b/"}
    made = parse("nfs", export="s:/x", retrans=3, timeout="100", version="4", extraOptions="ro")
    assert made.words == {
        "connection": "s:/x",
        "retrans": 3,
        "timeout": "100",
        "protocol_version": "4",
        "mnt_options": "ro",
    }
    for kind in ("posixfs", "glusterfs"):
        made = parse(kind, spec="s:/x", vfsType="ceph", options="ro")
        assert made.words == {"connection": "s:/x", "vfs_type": "ceph", "mnt_options": "ro"}
    assert parse("posixfs", spec="/dev/x", vfstype="ext4") == parse("posixfs", spec="/dev/x", vfsType="ext4")


def test_null_is_as_good_as_left_out_and_shown_as_default() -> None:
    made = parse("nfs", export="s:/x", retrans=None, version="3")
    assert made == parse("nfs", export="s:/x", version="3")
    assert made.shown() == {
        "type": "nfs",
        "params": {
            "export": "s:/x",
            "retrans": "default",
            "timeout": "default",
            "version": "3",
            "extraOptions": "default",
        },
    }


def test_two_spellings_are_one_target() -> None:
    assert parse("localfs", path="/a//b/").target == parse("localfs", path="/a/b").target == (4, "/a/b")
    assert parse("nfs", export="s://x/").target == parse("nfs", export="s:/x", version="4").target
    assert parse("posixfs", spec="s:/x", vfsType="nfs").target != parse("nfs", export="s:/x").target


@pytest.mark.parametrize(
    "entry",
    [
        "localfs",
        {},
        {"type": "localfs"},
        {"type": "localfs", "params": "x"},
        {"type": "localfs", "params": {}},
        {"type": "localfs", "params": {"path": "/x", "surprise": 1}},
        {"type": "localfs", "params": {"path": "relative"}},
        {"type": "localfs", "params": {"path": "/x\n"}},
        {"type": "localfs", "params": {"path": ["/x"]}},
        {"type": "localfs", "params": {"path": "/" + "x" * 5000}},
        {"type": "sharedfs", "params": {"path": "/x"}},
        {"type": "LOCALFS", "params": {"path": "/x"}},
        {"type": 4, "params": {"path": "/x"}},
        {"type": ["localfs"], "params": {"path": "/x"}},
        {"type": "nfs", "params": {"export": "/x"}},
        {"type": "nfs", "params": {"export": "s:/x", "retrans": "many"}},
        {"type": "nfs", "params": {"export": "s:/x", "retrans": 1.5}},
        {"type": "nfs", "params": {"export": "s:/x", "retrans": True}},
        {"type": "nfs", "params": {"export": "s:/x", "extraOptions": "bind"}},
        {"type": "posixfs", "params": {"spec": "/dev/x", "vfsType": "fuse.sshfs"}},
        {"type": "glusterfs", "params": {"spec": "vol"}},
    ],
)
def test_what_nothing_can_be_connected_by(entry: Any) -> None:
    with pytest.raises(errors.StorageServerValidationError) as caught:
        reference.parse(entry)
    assert caught.value.code == 453
    assert str(caught.value).isprintable() and len(str(caught.value)) < 6000


def test_iscsi_is_not_connected_here() -> None:
    with pytest.raises(errors.ISCSISetupError) as caught:
        parse("iscsi", portal={"host": "h"}, iqn="iqn.x")
    assert caught.value.code == 465


def test_the_record_is_read_as_it_was_written() -> None:
    held = {"b/\u00e9": parse("nfs", export="s:/x", retrans=3), "a": parse("localfs", path="/x")}
    assert reference.load(reference.dump(held)) == held
    assert list(json.loads(reference.dump(held))["references"]) == ["a", "b/\u00e9"]
    assert reference.load(reference.dump({})) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"version": 2, "references": {}}',
        b'{"version": 1}',
        b'{"version": 1, "references": []}',
        b'{"version": 1, "references": {"a": {"type": "x"}}}',
        b"\xff",
    ],
)
def test_damaged_records_are_found(data: bytes) -> None:
    with pytest.raises((ValueError, errors.StorageError)):
        reference.load(data)
