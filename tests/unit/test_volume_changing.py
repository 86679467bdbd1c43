"""Looking at a volume and changing it: legality, description, size, and whether it is a leaf."""

import pytest

from storage import errors
from storage.volumes import volume, volume_metadata
from tests.support import bench, faults, plain

pytestmark = pytest.mark.qemu

IMAGE, OTHER = bench.IMAGE, bench.OTHER
V1, V2, V3, V4 = bench.new_ids(4)
MIB = bench.MIB
disk, unflushed = plain.real_disk, plain.unflushed
data, fresh = plain.data, plain.place


# ---------------------------------------------------------------- looking at and changing one


def test_info(disk):
    disk.chain(IMAGE, V1, V2)
    found = volume.info(disk.domain, IMAGE, V2)
    assert found == {
        "uuid": V2,
        "type": "SPARSE",
        "format": "COW",
        "disktype": "2",
        "voltype": "LEAF",
        "capacity": str(MIB),
        "parent": V1,
        "description": "test",
        "pool": "",
        "domain": disk.domain.id,
        "image": IMAGE,
        "ctime": str(disk.meta(IMAGE, V2).ctime),
        "mtime": "0",
        "legality": "LEGAL",
        "apparentsize": str(data(disk, V2).stat().st_size),
        "truesize": str(data(disk, V2).stat().st_blocks * 512),
        "status": "OK",
        "children": [],
    }
    assert all(isinstance(value, str) or value == [] for value in found.values())


def test_info_of_illegal_half_deleted_and_damaged_volumes(disk):
    disk.chain(IMAGE, V1, V2)
    disk.write(IMAGE, V2, legality="ILLEGAL")
    assert volume.info(disk.domain, IMAGE, V2)["status"] == "ILLEGAL"
    data(disk, V2).unlink()
    found = volume.info(disk.domain, IMAGE, V2)
    assert (found["status"], found["apparentsize"], found["parent"]) == ("ILLEGAL", "0", V1)
    data(disk, V1).unlink()
    assert volume.info(disk.domain, IMAGE, V1)["status"] == "INVALID"
    (disk.images / IMAGE / f"{V1}.meta").write_text("nonsense")
    found = volume.info(disk.domain, IMAGE, V1)
    assert found == {"apparentsize": "0", "truesize": "0", "status": "INVALID", "children": []}
    with pytest.raises(errors.VolumeDoesNotExist):
        volume.info(disk.domain, IMAGE, V3)
    with pytest.raises(errors.ImageDoesNotExistInSD):
        volume.info(disk.domain, OTHER, V3)


def test_data_that_is_a_symbolic_link_has_no_size(disk, tmp_path):
    disk.create(IMAGE, V1)
    data(disk, V1).unlink()
    data(disk, V1).symlink_to(tmp_path)
    with pytest.raises(errors.ImageValidationError):
        volume.sizes(disk.domain, IMAGE, V1)
    assert volume.info(disk.domain, IMAGE, V1)["status"] == "INVALID"


def test_set_legality_and_description(disk):
    disk.create(IMAGE, V1)
    volume.set_legality(disk.domain, IMAGE, V1, "ILLEGAL")
    volume.set_description(disk.domain, IMAGE, V1, ' {"DiskAlias":"a=b"} ')
    found = disk.meta(IMAGE, V1)
    assert (found.legality, found.description) == ("ILLEGAL", '{"DiskAlias":"a=b"}')


@pytest.mark.parametrize("legality", ["legal", "", "ILLEGAL ", "BROKEN"])
def test_only_known_legalities(disk, legality):
    disk.create(IMAGE, V1)
    before = disk.state()
    with pytest.raises(errors.InvalidParameterException, match="LEGAL, ILLEGAL, FAKE"):
        volume.set_legality(disk.domain, IMAGE, V1, legality)
    assert disk.state() == before


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x\nCAP=1", errors.InvalidParameterException),
        ("x\u2028y", errors.InvalidParameterException),
        ("x\ud800", errors.InvalidParameterException),
        ("d" * 211, errors.MetadataOverflowError),
        ("\u00e9" * 106, errors.MetadataOverflowError),
    ],
    ids=ascii,
)
def test_bad_description_changes_nothing(disk, text, error):
    disk.create(IMAGE, V1)
    before = disk.state()
    with pytest.raises(error):
        volume.set_description(disk.domain, IMAGE, V1, text)
    assert disk.state() == before


def test_description_of_210_bytes_fits(disk):
    disk.create(IMAGE, V1)
    volume.set_description(disk.domain, IMAGE, V1, "\u00e9" * 105)
    assert disk.meta(IMAGE, V1).description == "\u00e9" * 105


def test_template_keeps_one_record_in_all_images(disk):
    disk.create(IMAGE, V1)
    disk.create(OTHER, V2, V1, source_image=IMAGE)
    volume.set_description(disk.domain, IMAGE, V1, "new")
    assert disk.meta(OTHER, V1).description == "new"
    assert (disk.images / IMAGE / f"{V1}.meta").samefile(disk.images / OTHER / f"{V1}.meta")
    with pytest.raises(errors.InvalidParameterException, match=IMAGE):
        volume.set_description(disk.domain, OTHER, V1, "not here")


def test_crash_while_a_template_is_relinked_is_mended_by_the_second_call(tmp_path):
    for number, fault in enumerate(faults.crash_points()):
        disk = bench.Bench(fresh(tmp_path, number))
        disk.create(IMAGE, V1)
        disk.create(OTHER, V2, V1, source_image=IMAGE)
        with fault.strike():
            volume.set_description(disk.domain, IMAGE, V1, "new")
        assert {disk.meta(IMAGE, V1).description, disk.meta(OTHER, V1).description} <= {"test", "new"}
        volume.set_description(disk.domain, IMAGE, V1, "new")
        assert (disk.images / IMAGE / f"{V1}.meta").samefile(disk.images / OTHER / f"{V1}.meta")
        assert disk.meta(OTHER, V1).description == "new"


# ---------------------------------------------------------------- leaf or internal


def test_type_follows_the_children(disk):
    disk.chain(IMAGE, V1, V2, V3)
    for volume_id, wanted in ((V1, "INTERNAL"), (V2, "INTERNAL"), (V3, "LEAF")):
        for wrong in ("LEAF", "INTERNAL"):
            disk.write(IMAGE, volume_id, voltype=wrong)
            volume.derive_type(disk.domain, IMAGE, volume_id)
            assert disk.meta(IMAGE, volume_id).voltype == wanted


def test_type_of_a_template_and_of_what_is_gone_is_left_alone(disk):
    disk.create(IMAGE, V1)
    disk.create(OTHER, V2, V1, source_image=IMAGE)
    before = disk.state()
    volume.derive_type(disk.domain, IMAGE, V1)
    volume.derive_type(disk.domain, OTHER, V1)
    volume.derive_type(disk.domain, IMAGE, V4)
    assert disk.state() == before


def test_dropped_and_half_deleted_children_do_not_count(disk):
    disk.chain(IMAGE, V1, V2)
    disk.write(IMAGE, V2, legality="ILLEGAL")
    volume.derive_type(disk.domain, IMAGE, V1)
    assert disk.meta(IMAGE, V1).voltype == "INTERNAL", "a marked leaf may be the truth"
    disk.write(IMAGE, V2, voltype="INTERNAL")
    volume.derive_type(disk.domain, IMAGE, V1)
    assert disk.meta(IMAGE, V1).voltype == "LEAF", "it was dropped"
    disk.write(IMAGE, V2, voltype="LEAF", legality="LEGAL")
    data(disk, V2).unlink()
    disk.write(IMAGE, V1, voltype="INTERNAL")
    volume.derive_type(disk.domain, IMAGE, V1)
    assert disk.meta(IMAGE, V1).voltype == "LEAF", "it is half deleted"


def test_illegal_volume_within_a_chain_keeps_its_parent_internal(disk):
    disk.chain(IMAGE, V1, V2, V3)
    disk.write(IMAGE, V2, legality="ILLEGAL")
    volume.derive_type(disk.domain, IMAGE, V1)
    assert disk.meta(IMAGE, V1).voltype == "INTERNAL"


def test_record_of_the_new_volume_is_the_format_of_the_domain(tmp_path):
    disk = bench.Bench(tmp_path, version=5)
    disk.create(IMAGE, V1)
    text = (disk.images / IMAGE / f"{V1}.meta").read_text()
    assert "CAP=1048576\n" in text and "SIZE=" not in text and text.endswith("EOF\n")
    assert volume_metadata.parse(text.encode()) == disk.meta(IMAGE, V1)
