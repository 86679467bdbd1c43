"""Files of an ISO domain: which are listed, by what pattern, and for whom they are readable."""

import os
import stat
import types

import pytest

from storage import errors, ids
from storage.domains import domainmaker, isofiles
from storage.hsm import iso
from tests.support import world

IMAGE = ids.ImageId("aaaaaaaa-0000-4000-8000-000000000001")


class Place:
    """As much of a domain as there is to it."""

    def __init__(self, path):
        self.id = ids.DomainId.new()
        self.path = path
        self.isos = self.image_directory(domainmaker.ISO_IMAGE)

    def image_directory(self, image_id):
        return self.path / "images" / image_id


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path / "domain")
    made.isos.mkdir(parents=True)
    return made


def put(place, *names, mode=0o644):
    for name in names:
        path = place.isos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
        path.chmod(mode)


def names(place, pattern="*", case_sensitive=False):
    return [each.name for each in isofiles.find(place, isofiles.matcher(pattern, case_sensitive))]


def test_files_and_what_is_known_of_them(place):
    put(place, "b.iso", "a.iso", "tools/deep/c.iso", ".hidden", "Größe \u3000.iso")
    found = isofiles.find(place, isofiles.matcher("*", False))
    assert [each.name for each in found] == [".hidden", "Größe \u3000.iso", "a.iso", "b.iso", "tools/deep/c.iso"]
    info = (place.isos / "a.iso").stat()
    assert found[2] == isofiles.IsoFile("a.iso", 5, info.st_ctime, True)


@pytest.mark.parametrize(
    ("pattern", "case_sensitive", "expected"),
    [
        ("*", True, ["A.ISO", "b.iso", "tools/[1].iso", "tools/c.vfd"]),
        ("*.iso", False, ["A.ISO", "b.iso", "tools/[1].iso"]),
        ("*.iso", True, ["b.iso", "tools/[1].iso"]),
        ("?.iso", False, ["A.ISO", "b.iso"]),
        ("[ab].*", False, ["A.ISO", "b.iso"]),
        ("tools/*", False, ["tools/[1].iso", "tools/c.vfd"]),
        ("c.vfd", True, ["tools/c.vfd"]),
        ("[[]1].iso", True, ["tools/[1].iso"]),
        ("", False, []),
        ("iso", False, []),
        ("(a+)+$", False, []),
        ("../*", False, []),
    ],
)
def test_patterns(place, pattern, case_sensitive, expected):
    put(place, "A.ISO", "b.iso", "tools/[1].iso", "tools/c.vfd")
    assert names(place, pattern, case_sensitive) == expected


def test_a_pattern_never_takes_long(place):
    put(place, "a" * 200)
    assert names(place, "*a" * 40 + "b") == []


def test_links_never_lead_out(place, tmp_path):
    (tmp_path / "secret.iso").write_text("x")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "more.iso").write_text("x")
    put(place, "real/file.iso")
    for name, target in {
        "out.iso": tmp_path / "secret.iso",
        "out": tmp_path / "secrets",
        "up.iso": "../../dom_md/metadata",
        "in.iso": "real/file.iso",
        "within": "real",
        "around.iso": f"../{domainmaker.ISO_IMAGE}/real/file.iso",
        "dangling.iso": "nothing",
        "loop.iso": "loop.iso",
        "circle": ".",
    }.items():
        (place.isos / name).symlink_to(target)
    assert names(place) == ["around.iso", "in.iso", "real/file.iso"]


def test_only_regular_files_are_listed(place):
    put(place, "a.iso")
    os.mkfifo(place.isos / "pipe.iso")
    (place.isos / "directory.iso").mkdir()
    assert names(place) == ["a.iso"]


def test_names_that_no_reply_can_carry_are_left_out(place, caplog):
    put(place, "a.iso")
    for name in ("new\nline.iso", "\udcff.iso", "esc\x1b.iso"):
        (place.isos / name).touch()
    assert names(place) == ["a.iso"]
    assert caplog.text.count("no reply can carry") == 3


@pytest.mark.parametrize("kind", ["missing", "link", "file"])
def test_without_the_directory(place, tmp_path, kind):
    place.isos.rmdir()
    if kind == "link":
        place.isos.symlink_to(tmp_path)
    elif kind == "file":
        place.isos.write_text("x")
    with pytest.raises(errors.GetFileStatsError):
        names(place)


def info(mode, uid, gid):
    return types.SimpleNamespace(st_mode=stat.S_IFREG | mode, st_uid=uid, st_gid=gid)


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "expected"),
    [
        (0o400, 107, 1, True),
        (0o040, 1, 36, True),
        (0o004, 1, 1, True),
        (0o044, 107, 36, False),  # the owner's bits count for the owner
        (0o404, 1, 36, False),
        (0o440, 1, 1, False),
        (0o333, 107, 36, False),
    ],
)
def test_permission_bits(mode, uid, gid, expected):
    assert isofiles.Account(107, frozenset({107, 36})).may(info(mode, uid, gid), os.R_OK) is expected
    assert isofiles.Account(0, frozenset({0})).may(info(mode, uid, gid), os.R_OK), "root may everything"


def test_a_file_is_readable_when_the_way_to_it_is_open(place, monkeypatch):
    monkeypatch.setattr(isofiles, "machine_account", lambda: isofiles.Account(65533, frozenset({65533})))
    put(place, "a.iso", "open/b.iso", "closed/c.iso")
    put(place, "private.iso", mode=0o600)
    (place.isos / "closed").chmod(0o750)
    (place.isos).chmod(0o755)
    found = {each.name: each.readable for each in isofiles.find(place, lambda _: True)}
    assert found == {"a.iso": True, "open/b.iso": True, "closed/c.iso": False, "private.iso": False}


def test_machines_run_as_somebody():
    found = isofiles.machine_account()
    assert found.user >= 0 and found.groups


# ---------------------------------------------------------------- verbs


@pytest.fixture
def here(tmp_path):
    """A pool with a master, another data domain and an ISO domain, all active."""
    made = world.World(tmp_path / "world")
    made.master, made.data, made.isos = made.domain(), made.domain(), made.domain(domain_class=2)
    made.pool(made.master, connected=False)
    connect(made, "Active")
    return made


def connect(here, status):
    here.connect(here.master, domains={here.master.id: "Active", here.data.id: "Active", here.isos.id: status})


def test_verbs(here):
    put(Place(here.isos.path), "A.Iso", "b.iso", "c.vfd", "sub/d.iso", "e.iso.txt", "iso")
    services = here.services
    assert iso.get_iso_list(services, world.POOL, "iso") == {"isolist": ["A.Iso", "b.iso", "sub/d.iso"]}
    assert iso.get_iso_list(services, world.POOL, "*") == {"isolist": []}
    assert iso.get_floppy_list(services, world.POOL) == {"isolist": ["c.vfd"]}
    found = iso.get_file_stats(services, here.isos.id, "b*", True)["fileStats"]
    assert list(found) == ["b.iso"]
    assert found["b.iso"]["size"] == "5" and found["b.iso"]["status"] == 0 and float(found["b.iso"]["ctime"]) > 0


def test_files_that_machines_cannot_read(here, monkeypatch):
    monkeypatch.setattr(isofiles, "machine_account", lambda: isofiles.Account(65533, frozenset()))
    put(Place(here.isos.path), "a.iso", mode=0o600)
    assert iso.get_file_stats(here.services, here.isos.id, "*", False)["fileStats"]["a.iso"]["status"] == 469
    assert iso.get_iso_list(here.services, world.POOL, "iso") == {"isolist": []}


def test_errors(here):
    services = here.services
    with pytest.raises(errors.GetFileStatsError):
        iso.get_file_stats(services, here.data.id, "*", False)
    with pytest.raises(errors.StorageDomainDoesNotExist):
        iso.get_file_stats(services, ids.DomainId.new(), "*", False)
    for call in (
        lambda: iso.get_iso_list(services, world.POOL, "iso"),
        lambda: iso.get_floppy_list(services, world.POOL),
    ):
        connect(here, "Active")
        call()
        connect(here, "Attached")
        with pytest.raises(errors.GetIsoListError):
            call()
    connect(here, "Active")
    here.isos.image_directory(domainmaker.ISO_IMAGE).rmdir()
    with pytest.raises(errors.GetIsoListError):
        iso.get_iso_list(services, world.POOL, "iso")
    services.pools.disconnect(services.pools.get(world.POOL))
    with pytest.raises(errors.StoragePoolUnknown):
        iso.get_iso_list(services, world.POOL, "iso")


def test_a_domain_that_cannot_be_read_keeps_no_iso_from_being_listed(here):
    put(Place(here.isos.path), "a.iso")
    here.data.metadata_path.write_bytes(b"")
    assert iso.get_iso_list(here.services, world.POOL, "iso") == {"isolist": ["a.iso"]}


def test_domains_of_an_image(here):
    services = here.services

    def found():
        return iso.get_image_domains_list(services, world.POOL, IMAGE)["domainslist"]

    assert found() == []
    here.data.image_directory(IMAGE).mkdir()
    here.isos.image_directory(IMAGE).mkdir()
    (here.master.path / "images" / f"_remove_me_{IMAGE}").mkdir()
    assert found() == [here.data.id]
    here.master.image_directory(IMAGE).mkdir()
    assert found() == sorted([here.data.id, here.master.id])
    here.data.metadata_path.write_bytes(b"")
    with pytest.raises(errors.StorageDomainAccessError):
        found()
    here.data.metadata_path.unlink()
    with pytest.raises(errors.StorageDomainDoesNotExist):
        found()
