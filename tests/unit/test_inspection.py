"""Every named fault, made by real damage in a real directory; and what the look reads of volumes that are whole."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage import errors, ids
from storage.chains import inspection, record
from storage.volumes import volume_metadata
from tests.support import chains, images

pytestmark = pytest.mark.qemu

v = chains.volume_id
MOVES_THE_SPM = {200, 201, 205, 206, 207, 208, 209, 215, 254, 258, 358, 360, 369, 379, 450, 654}
INCOMPATIBLE, BACKING_OFFSET, BACKING_SIZE, CRYPT, SNAPSHOTS = 72, 8, 16, 32, 60


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where possible: much is made here, and flushed by qemu."""
    with chains.scratch() as directory:
        yield directory


@pytest.fixture
def image(tmp_path: Path) -> chains.Image:
    made = chains.Image(chains.make_domain(tmp_path / "mount", 4))
    for number in (1, 2, 3):
        made.add(number, number - 1 or None, size=chains.MIB)
    return made


def faults(image: chains.Image, number: int = 2) -> list[str]:
    return [fault.name for fault in image.look().records[v(number)].faults]


# ---------------------------------------------------------------- what is whole


def test_a_healthy_chain(image: chains.Image) -> None:
    records = image.look().records
    assert chains.numbers(records) == [1, 2, 3]
    for number, here in enumerate(records.values(), 1):
        info = image.data(number).stat()
        assert (here.faults, here.own, here.gone, here.marked_ns) == ((), True, False, 0)
        assert here.link == here.parent == (v(number - 1) if number > 1 else None)
        assert here.backing_format == ("qcow2" if number > 1 else None)
        assert (here.size, here.allocated, here.mtime_ns, here.inode) == (
            info.st_size, info.st_blocks * 512, info.st_mtime_ns, info.st_ino,
        )  # fmt: skip


def test_the_long_backing_names_of_old_versions_are_links(image: chains.Image) -> None:
    for repeats in (1, 2, 3):
        text = f"../{image.id}/" * repeats + v(1)
        images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", text, image.data(2))
        here = image.look().records[v(2)]
        assert (here.link, here.text, here.faults) == (v(1), text, ())


def test_a_raw_volume_has_no_header_whatever_a_guest_writes_at_its_start(tmp_path: Path) -> None:
    image = chains.Image(chains.make_domain(tmp_path / "mount"))
    image.add(1, fmt=volume_metadata.RAW)
    images.create(tmp_path / "hostile", chains.MIB, backing="/etc/passwd", backing_format="raw")
    images.patch(image.data(1), 0, (tmp_path / "hostile").read_bytes()[:4096])
    here = image.look().records[v(1)]
    assert (here.link, here.text, here.faults) == (None, None, ())


def test_an_illegal_volume_says_when_it_was_marked(image: chains.Image) -> None:
    image.mark(3)
    image.marked_at(7, 3)
    assert image.look().records[v(3)].marked_ns == chains.AFTER_START + 7 * chains.SECOND


def test_a_templates_link_is_not_own(tmp_path: Path) -> None:
    domain = chains.make_domain(tmp_path / "mount")
    template = chains.Image(domain, chains.OTHER_IMAGE)
    template.add(1, voltype=volume_metadata.SHARED)
    image = chains.Image(domain)
    image.template(1, template)
    image.add(2, 1)
    records = image.look().records
    assert [(here.own, here.settled, here.faults) for here in records.values()] == [
        (False, False, ()),
        (True, True, ()),
    ]
    assert template.look().records[v(1)].own


def test_other_names_are_passed_over(image: chains.Image) -> None:
    before = image.look().records
    for name in (f"{v(7)}.meta.12345678.new", f"{v(7)}.new", "lost+found", f"{v(7)}.lease", f"{v(7)}_MERGE", "x" * 36):
        (image.directory / name).write_text("rubbish")
    assert image.look().records == before


def test_a_look_changes_nothing_and_follows_nothing(image: chains.Image, tmp_path: Path) -> None:
    image.data(1).unlink()
    image.data(1).symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("secret")
    before = image.snapshot()
    image.look()
    assert image.snapshot() == before


# ---------------------------------------------------------------- the image itself


def test_no_such_image(image: chains.Image) -> None:
    with pytest.raises(errors.ImageDoesNotExistInSD):
        inspection.look(image.directory.with_name(ids.BLANK), image.id, image.domain.id)


@pytest.mark.parametrize("kind", ["link", "file", "fifo"])
def test_an_image_that_is_no_directory(image: chains.Image, tmp_path: Path, kind: str) -> None:
    image.directory.rename(tmp_path / "elsewhere")
    if kind == "link":
        image.directory.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        image.directory.write_text("")
    else:
        os.mkfifo(image.directory)
    with pytest.raises(errors.ImageValidationError):
        image.look()


# ---------------------------------------------------------------- damaged volumes

Damage = Callable[[chains.Image, Path], None]


def _text(text: str) -> Damage:
    return lambda image, _: image.meta(2).write_text(text) and None


def _record(**values: str) -> Damage:
    """A line of the record replaced, removed when the value is empty."""

    def damage(image: chains.Image, _: Path) -> None:
        lines = [line for line in image.meta(2).read_text().splitlines() if line.partition("=")[0] not in values]
        added = [f"{key}={value}" for key, value in values.items() if value]
        image.meta(2).write_text("\n".join([*added, *lines]) + "\n")

    return damage


def _link(number_of: str) -> Damage:
    def damage(image: chains.Image, elsewhere: Path) -> None:
        path = getattr(image, number_of)(2)
        path.rename(elsewhere / "moved")
        path.symlink_to(elsewhere / "moved")

    return damage


def _special(number_of: str, make: Callable[[Path], object]) -> Damage:
    def damage(image: chains.Image, _: Path) -> None:
        path = getattr(image, number_of)(2)
        path.unlink()
        make(path)

    return damage


def _bit(bit: int) -> Damage:
    return lambda image, _: _set_bit(image.data(2), bit)


def _set_bit(path: Path, bit: int) -> None:
    images.patch_number(path, INCOMPATIBLE, images.number(path, INCOMPATIBLE, 8) | 1 << bit, 8)


def _number(offset: int, value: int, width: int) -> Damage:
    return lambda image, _: images.patch_number(image.data(2), offset, value, width) and None


def _backing(text: str, backing_format: str = "qcow2") -> Damage:
    """A name that qemu-img records without opening it; everything it could name lies in the test's own directory."""

    def damage(image: chains.Image, elsewhere: Path) -> None:
        named = (
            text.replace("ELSEWHERE", str(elsewhere)).replace("IMAGE", image.id).replace("OTHER", chains.OTHER_IMAGE)
        )
        image.data(2).unlink()
        images.create(image.data(2), chains.MIB, backing=named.replace("VOLUME", v(1)), backing_format=backing_format)

    return damage


def _raw_name(name: bytes) -> Damage:
    """A name written straight into the header."""

    def damage(image: chains.Image, _: Path) -> None:
        path = image.data(2)
        images.patch(path, images.number(path, BACKING_OFFSET, 8), name)
        images.patch_number(path, BACKING_SIZE, len(name), 4)

    return damage


def _no_backing_format(image: chains.Image, _: Path) -> None:
    path = image.data(2)
    data = path.read_bytes()[:65536]
    images.patch_number(path, data.index(b"\xe2\x79\x2a\xca"), 0x12345678, 4)


def _foreign_format(image: chains.Image, _: Path) -> None:
    path = image.data(2)
    place = path.read_bytes()[:65536].index(b"\xe2\x79\x2a\xca")
    images.patch_number(path, place + 4, 4, 4)
    images.patch(path, place + 8, b"vmdk\0")


def _header(data: bytes) -> Damage:
    return lambda image, _: images.patch(image.data(2), 0, data) and None


DAMAGES: dict[str, tuple[str, int, Damage]] = {
    "metadata missing": ("metadata-unreadable", 255, lambda image, _: image.meta(2).unlink()),
    "metadata empty": ("metadata-unreadable", 255, _text("")),
    "metadata rubbish": ("metadata-unreadable", 255, _text("\0\1\2 rubbish\n")),
    "metadata cleared": ("metadata-unreadable", 255, _text("NONE=####\nEOF\n")),
    "metadata too large": ("metadata-unreadable", 255, _text("DESCRIPTION=" + "x" * 70_000)),
    "metadata without parent": ("metadata-unreadable", 255, _record(PUUID="")),
    "metadata with a path as parent": ("metadata-unreadable", 255, _record(PUUID="../../../etc/passwd")),
    "metadata with an unknown format": ("metadata-unreadable", 255, _record(FORMAT="VMDK")),
    "metadata behind a link": ("metadata-unreadable", 255, _link("meta")),
    "metadata a fifo": ("metadata-unreadable", 255, _special("meta", os.mkfifo)),
    "metadata a directory": ("metadata-unreadable", 255, _special("meta", Path.mkdir)),
    "data missing": ("data-missing", 262, lambda image, _: image.data(2).unlink()),
    "data behind a link": ("data-missing", 262, _link("data")),
    "data a fifo": ("data-missing", 262, _special("data", os.mkfifo)),
    "data a directory": ("data-missing", 262, _special("data", Path.mkdir)),
    "header rubbish": ("header-unreadable", 202, _header(b"\xff" * 4096)),
    "header zeros": ("header-unreadable", 202, _header(bytes(4096))),
    "file empty": ("header-unreadable", 202, lambda image, _: os.truncate(image.data(2), 0)),
    "file cut off": ("header-unreadable", 202, lambda image, _: os.truncate(image.data(2), 70_000)),
    "unknown version": ("header-unreadable", 202, _number(4, 4, 4)),
    "enormous disk": ("header-unreadable", 202, _number(24, 1 << 62, 8)),
    "newline in the name": ("header-unreadable", 202, _raw_name(v(1).encode() + b"\n")),
    "zero byte in the name": ("header-unreadable", 202, _raw_name(v(1).encode()[:-1] + b"\0")),
    "name longer than the cluster": ("header-unreadable", 202, _number(BACKING_SIZE, 1 << 20, 4)),
    "unknown feature": ("header-unsupported", 202, _bit(17)),
    "data file": ("data-file", 255, _bit(2)),
    "corrupt": ("corrupt-flag", 255, _bit(1)),
    "encrypted": ("encrypted", 255, _number(CRYPT, 1, 4)),
    "internal snapshots": ("internal-snapshots", 255, _number(SNAPSHOTS, 1, 4)),
    "absolute name": ("backing-outside", 255, _backing("ELSEWHERE/secret")),
    "json name": ("backing-outside", 255, _backing('json:{"driver":"raw","file.filename":"ELSEWHERE/secret"}')),
    "network name": ("backing-outside", 255, _backing("nbd:unix:ELSEWHERE/socket")),
    "name in another image": ("backing-outside", 255, _backing("../OTHER/VOLUME")),
    "name above the image": ("backing-outside", 255, _backing("../../VOLUME")),
    "name with a dot": ("backing-outside", 255, _backing("./VOLUME")),
    "absolute name inside the image": ("backing-outside", 255, _backing("ELSEWHERE/mount/images/IMAGE/VOLUME")),
    "name that is no UTF-8": ("backing-outside", 255, _raw_name(b"\xff\xfe" + v(1).encode()[2:])),
    "no backing format": ("backing-format-missing", 255, _no_backing_format),
    "foreign backing format": ("backing-format-missing", 255, _foreign_format),
    "other backing format": ("backing-format-differs", 202, _backing("VOLUME", "raw")),
    "raw with a parent": ("raw-with-parent", 202, _record(FORMAT="RAW")),
    "half a content": ("transfer-unfinished", 262, _record(LEGALITY="ILLEGAL", TRANSFER="UNFINISHED")),
    "volume of another image": ("volume-foreign", 255, _record(IMAGE=chains.OTHER_IMAGE)),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_has_a_name_and_a_code_that_keeps_the_spm(image: chains.Image, tmp_path: Path, name: str) -> None:
    expected, code, damage = DAMAGES[name]
    (tmp_path / "secret").write_text("secret")
    damage(image, tmp_path)
    before = image.snapshot()
    assert faults(image)[0] == expected
    assert set(faults(image)[1:]) | set(faults(image, 3)) <= {"backing-format-differs"}, "what follows from it"
    assert faults(image, 1) == []
    fault = image.look().records[v(2)].faults[0]
    raised = fault.raised(image.id)
    assert (raised.code, raised.code in MOVES_THE_SPM) == (code, False)
    assert v(2) in str(raised)
    assert fault.message.isprintable()
    assert "secret" not in fault.message or name in ("absolute name", "json name")
    assert image.snapshot() == before
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_with_its_code_and_changes_nothing(image: chains.Image, tmp_path: Path, name: str) -> None:
    """The chain is also in need of a repair, so that something would be written if nobody looked."""
    expected, code, damage = DAMAGES[name]
    image.change(3, parent=1)
    damage(image, tmp_path)
    before, above = image.snapshot(), chains.snapshot(image.domain.path)
    with pytest.raises(errors.StorageError) as raised:
        image.reconcile(3)
    assert raised.value.code == code, expected
    assert (image.snapshot(), chains.snapshot(image.domain.path)) == (before, above)


def test_damage_beside_the_chain_does_not_stand_in_the_way(image: chains.Image) -> None:
    image.add(9, size=chains.MIB)
    image.meta(9).write_text("rubbish")
    assert image.numbers(image.reconcile(3)) == [1, 2, 3]


def test_a_volume_without_metadata_still_stands_on_something(image: chains.Image) -> None:
    image.write(3, (1, 1, 1))
    image.meta(3).write_text("rubbish")
    here = image.look().records[v(3)]
    assert (here.link, here.metadata) == (v(2), None)
    assert [fault.name for fault in here.faults] == ["metadata-unreadable"]
    image.reconcile(2)
    assert image.metadata(2).voltype == volume_metadata.INTERNAL, "whoever runs on 2 destroys 3"


def test_a_volume_whose_making_was_interrupted_is_in_nobodys_way(image: chains.Image) -> None:
    """Its data file is there, with a header and nothing else; its parent is internal already, and has no leaf."""
    image.meta(3).unlink()
    assert [fault.name for fault in image.look().records[v(3)].faults] == ["metadata-unreadable"]
    image.reconcile(2)
    assert image.metadata(2).voltype == volume_metadata.LEAF


def test_a_volume_without_data_and_metadata_of_use_names_nothing(image: chains.Image) -> None:
    for text in (b"", b"QFI\xfb rubbish"):
        image.meta(3).unlink(missing_ok=True)
        image.data(3).write_bytes(text)
        here = image.look().records[v(3)]
        assert (here.link, [fault.name for fault in here.faults]) == (None, ["metadata-unreadable"])


# ---------------------------------------------------------------- names


def test_names_of_faults_are_stable_and_documented() -> None:
    """Scripts read them; see docs/reconcile.md."""
    documented = (Path(__file__).parents[2] / "docs" / "reconcile.md").read_text()
    names = {expected for expected, _, _ in DAMAGES.values()}
    names |= {record.missing(v(1), v(2)).name, record.loop(v(1), v(2)).name, record.too_deep(v(1), 3).name}
    assert len(names) == 17
    assert all(f"`{name}`" in documented for name in names)
