"""From the words of a connection to a mount: one spelling a source, explicit options, and nothing dangerous passes."""

import hypothesis
import pytest
from hypothesis import strategies

from storage import errors, layout
from storage.domains import mountspec

NFS, POSIXFS, GLUSTERFS = mountspec.NFS, mountspec.POSIXFS, mountspec.GLUSTERFS
LAST = ("nosuid", "nodev", "noexec")


def spec(server_type: int, source: str, **words: object) -> mountspec.Spec:
    return mountspec.of(server_type, {"id": "x", "connection": source, **words})


def test_an_nfs_mount_by_default() -> None:
    made = spec(NFS, "server:/export/data_1")
    assert made.options == ("soft", "nosharecache", "timeo=100", "retrans=3", "nolock", "nfsvers=3", *LAST)
    assert (made.type, made.source, str(made.place)) == ("nfs", "server:/export/data_1", "server:_export_data__1")
    assert made.network


@pytest.mark.parametrize("empty", ["", None])
def test_empty_words_are_as_good_as_none(empty: object) -> None:
    # The engine sends empty texts for what is not set.
    words = {key: empty for key in ("mnt_options", "vfs_type", "protocol_version", "timeout", "retrans", "port", "iqn")}
    assert spec(NFS, "server:/x", **words) == spec(NFS, "server:/x")


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("3", ("nolock", "nfsvers=3")),
        (3, ("nolock", "nfsvers=3")),
        ("4", ("nfsvers=4",)),
        ("4.1", ("nfsvers=4.1",)),
        ("auto", ("nolock",)),
    ],
)
def test_versions_of_nfs(version: object, options: tuple[str, ...]) -> None:
    made = spec(NFS, "s:/x", protocol_version=version, timeout="600", retrans=6)
    assert made.options == ("soft", "nosharecache", "timeo=600", "retrans=6", *options, *LAST)


@pytest.mark.parametrize("name", ["timeout", "retrans", "protocol_version"])
@pytest.mark.parametrize("value", ["x", "-1", "1,exec", "1.5.2", " 1", "1" * 10, "\uff11", "0x1"])
def test_what_is_no_number_refuses_the_whole_call(name: str, value: str) -> None:
    with pytest.raises(errors.InvalidParameterException, match=name) as caught:
        spec(NFS, "s:/x", **{name: value})
    assert caught.value.code == 1000


def test_a_posix_mount() -> None:
    made = spec(POSIXFS, "/dev/mapper/vg-lv/", vfs_type="xfs", mnt_options=" noatime ,,inode64")
    assert made.options == ("noatime", "inode64", *LAST)
    assert (made.source, made.type, str(made.place)) == ("/dev/mapper/vg-lv", "xfs", "_dev_mapper_vg-lv")
    assert not made.network
    assert spec(POSIXFS, "/dev/x").type == "", "mount finds out"


def test_a_gluster_mount_has_a_directory_of_its_own() -> None:
    made = spec(GLUSTERFS, "server:/vol", mnt_options="log-level=ERROR")
    assert (made.type, made.options, str(made.place)) == (
        "glusterfs",
        ("log-level=ERROR", *LAST),
        "glusterSD/server:_vol",
    )
    assert str(spec(GLUSTERFS, "server:vol").place) == "glusterSD/server:vol"


def test_a_share_keeps_its_two_slashes_where_its_type_wants_them() -> None:
    share = spec(POSIXFS, "//server/share/", vfs_type="cifs")
    assert (share.source, str(share.place), share.network) == ("//server/share", "_server_share", True)
    assert spec(POSIXFS, "//dev/x", vfs_type="ext4").source == "/dev/x"


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("server:/", "server:/"),
        ("server://", "server:/"),
        ("server:/a//b/./c/", "server:/a/b/c"),
        ("10.0.0.1:/p", "10.0.0.1:/p"),
        ("[2001:db8::1]://p/", "[2001:db8::1]:/p"),
        ("[fe80::1%eth0]:/p", "[fe80::1%eth0]:/p"),
        ("server:/a:b", "server:/a:b"),
    ],
)
def test_one_spelling_a_remote_directory(given: str, canonical: str) -> None:
    assert mountspec.canonical_remote(given) == canonical
    assert mountspec.canonical_remote(canonical) == canonical
    assert spec(NFS, given).place == spec(NFS, canonical).place


@pytest.mark.parametrize(
    "source",
    [
        *("", "server", "/export", ":/x", "server:", "server:x", "-o:/x", "[::1:/x", "[::1]/x", "[]:/x", "a b:/x"),
        *(
            "server:/a/../b",
            "server:/a\nb",
            "se\x00rver:/x",
            "server:/\u2028",
            "server:/\ud800",
            "server:/" + "a" * 250,
        ),
    ],
)
def test_what_is_no_remote_directory(source: str) -> None:
    with pytest.raises(errors.MountError):
        spec(NFS, source)
    with pytest.raises(errors.StorageDomainIllegalRemotePath) as caught:
        mountspec.named(NFS, source)
    assert caught.value.code == 390


@pytest.mark.parametrize(
    "source",
    ["", "/", "-oremount", "LABEL=x", "PARTUUID=x", "/a/../b", "a/../b", "..", ".", ".x", "blockSD", "/x\ny", "x\ny"],
)
def test_what_no_posix_file_system_is_mounted_from(source: str) -> None:
    with pytest.raises(errors.MountError):
        spec(POSIXFS, source)


@pytest.mark.parametrize(
    "options",
    [
        *("bind", "ro,bind", "rbind", "move", "remount,rw", "shared", "make-private=x,rprivate"),
        *("loop", "LOOP", "loop=/dev/loop7", "helper=x", "uhelper=udisks2", "x-mount.mkdir", "X-mount.idmap=b:0:1:2"),
        *("a\nb", 'context="x', "ro,\x00"),
    ],
)
def test_options_that_would_do_something_else(options: str) -> None:
    for server_type, source in ((NFS, "s:/x"), (POSIXFS, "/dev/x"), (GLUSTERFS, "s:/x")):
        with pytest.raises(errors.MountError):
            spec(server_type, source, mnt_options=options)


def test_a_quoted_option_is_one() -> None:
    context = 'context="system_u:object_r:x_t:s0:c1,c2"'
    assert mountspec.split_options("x", f"ro,{context},noatime") == ("ro", context, "noatime")


def test_nothing_that_a_caller_says_makes_programs_or_devices_of_what_is_stored() -> None:
    assert spec(POSIXFS, "/dev/x", mnt_options="suid,dev,exec").options[-3:] == LAST


@pytest.mark.parametrize(
    "kind", ["fuse", "fuse.sshfs", "fuseblk", "proc", "tmpfs", "overlay", "ext4,xfs", "-o", "../x", "Ext4", "noext4 "]
)
def test_types_that_are_refused(kind: str) -> None:
    with pytest.raises(errors.MountError):
        spec(POSIXFS, "/dev/x", vfs_type=kind)


@hypothesis.given(
    strategies.text(alphabet="/.:_-[]a1\n", max_size=30), strategies.sampled_from([NFS, POSIXFS, GLUSTERFS])
)
@hypothesis.settings(deadline=None)
def test_a_place_never_leaves_the_directory_of_mounts(source: str, server_type: int) -> None:
    try:
        made = spec(server_type, source)
    except errors.MountError:
        return
    parts = made.place.parts
    assert not made.place.is_absolute() and ".." not in parts
    assert len(parts) > (server_type == GLUSTERFS)
    assert parts[:-1] == ((layout.GLUSTER,) if server_type == GLUSTERFS else ())
    assert not made.source.startswith("-")
    assert mountspec.of(server_type, {"connection": made.source}) == made, "putting into one form is done once"
