"""An image's directory: what it says, templates, preparing; with crashes at every change."""

import os

import pytest

from storage import errors, ids, layout
from storage.volumes import image, preparation, template, volume
from tests.support import bench, faults, images, plain

pytestmark = pytest.mark.qemu

IMAGE, OTHER = bench.IMAGE, bench.OTHER
V1, V2, V3, V4 = bench.new_ids(4)
TOOL = plain.TOOL
disk, unflushed = plain.disk, plain.unflushed
data, meta, fresh = plain.data, plain.meta, plain.fresh


# ---------------------------------------------------------------- reading a directory


def test_volumes_are_listed_by_their_records(disk):
    disk.chain(IMAGE, V1, V2)
    place = disk.images / IMAGE
    temporaries = (f"{V3}.meta.new", f"{V3}.meta.1a2b3c4d.new")
    for name in (*temporaries, V4, "notes.meta", f"{V4[:-1]}.meta", ".meta", f"{V4}x.meta"):
        (place / name).write_text("")
    assert image.volume_ids(disk.domain, IMAGE) == [V1, V2]


def test_image_that_cannot_be_listed_is_not_empty(disk, tmp_path):
    with pytest.raises(errors.ImageDoesNotExistInSD):
        image.volume_ids(disk.domain, IMAGE)
    (disk.images / IMAGE).write_text("")
    with pytest.raises(errors.ImagePathError):
        image.volume_ids(disk.domain, IMAGE)
    (disk.images / OTHER).symlink_to(tmp_path)
    with pytest.raises(errors.ImagePathError):
        image.contents(disk.domain, OTHER)


def test_storage_that_does_not_answer_is_not_a_damaged_record(disk, monkeypatch):
    disk.chain(IMAGE, V1, V2)

    def broken(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("storage.files.read", broken)
    with pytest.raises(errors.VolumeMetadataReadError):
        image.contents(disk.domain, IMAGE)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path, _: path.unlink(), errors.VolumeDoesNotExist),
        (lambda path, _: path.write_bytes(b""), errors.MetaDataValidationError),
        (lambda path, _: path.write_bytes(b"x" * 100_000), errors.ImageValidationError),
        (lambda path, there: (path.unlink(), path.symlink_to(there)), errors.ImageValidationError),
        (lambda path, _: (path.unlink(), path.mkdir()), errors.ImageValidationError),
        (lambda path, _: (path.unlink(), os.mkfifo(path)), errors.ImageValidationError),
    ],
    ids=["gone", "empty", "endless", "link", "directory", "pipe"],
)
def test_records_that_cannot_be_used(disk, tmp_path, spoil, error):
    disk.chain(IMAGE, V1, V2)
    (tmp_path / "there").write_bytes(meta(disk, V1).read_bytes())
    spoil(meta(disk, V1), tmp_path / "there")
    with pytest.raises(error) as caught:
        image.read_metadata(disk.domain, IMAGE, V1)
    assert V1 in str(caught.value)
    held = image.contents(disk.domain, IMAGE)
    assert set(held.records) == {V2} and (V1 in held.damaged) is (error is not errors.VolumeDoesNotExist)


def test_children_by_parsed_parent_only(disk):
    disk.chain(IMAGE, V1, V2)
    disk.write(IMAGE, V1, description=f"PUUID={V2} is only a text")
    assert image.children(disk.domain, IMAGE, V1) == [V2]
    assert image.children(disk.domain, IMAGE, V2) == []
    disk.write(IMAGE, V1, parent=V1)
    assert image.children(disk.domain, IMAGE, V1) == [V2], "nobody is its own child"


def test_child_with_a_damaged_record_is_still_a_child(disk):
    disk.chain(IMAGE, V1, V2)
    meta(disk, V2).write_text(meta(disk, V2).read_text().replace("CTIME=", "CTIME=x"))
    assert image.children(disk.domain, IMAGE, V1) == [V2]


def test_half_made_directory_with_a_link_only_is_not_taken_for_the_templates(disk):
    disk.create(IMAGE, V1)
    (disk.images / OTHER).mkdir()
    template.set_shared(disk.domain, IMAGE, V1)
    template.share(disk.domain, IMAGE, OTHER, V1)
    held = image.contents(disk.domain, OTHER)
    assert held.own() == [] and not held.is_own(V1) and V1 in held


def test_sweep_keeps_claims_of_unfinished_volumes(disk):
    disk.create(IMAGE, V1)
    place = disk.images / IMAGE
    task_id = ids.TaskId.new()
    unfinished, finished = image.claim_name(V2, task_id), image.claim_name(V1, task_id)
    for name in (unfinished, finished, f"{V1}.meta.0a0b0c0d.new", f"{V2}.meta.new"):
        (place / name).write_text("")
    assert image.sweep(disk.domain, IMAGE) == 3
    assert unfinished in os.listdir(place)


def test_old_record_without_a_limit_can_be_marked(disk):
    disk.create(IMAGE, V1)
    text = meta(disk, V1).read_text().replace("DESCRIPTION=test", f"DESCRIPTION={'long ' * 200}")
    meta(disk, V1).write_text(text)
    volume.set_legality(disk.domain, IMAGE, V1, "ILLEGAL")
    found = disk.meta(IMAGE, V1)
    assert found.legality == "ILLEGAL" and found.description.startswith("long long")
    assert meta(disk, V1).stat().st_size <= 512


# ---------------------------------------------------------------- templates


def test_crash_while_a_template_is_shared(tmp_path):
    for number, fault in enumerate(faults.crash_points()):
        disk = fresh(tmp_path, number)
        disk.create(IMAGE, V1)
        template.set_shared(disk.domain, IMAGE, V1)
        (disk.images / OTHER).mkdir()
        with fault.strike():
            template.share(disk.domain, IMAGE, OTHER, V1)
        held = image.contents(disk.domain, OTHER)
        assert held.own() == [] and not held.damaged
        assert V1 in held or not data(disk, V1, OTHER).exists(), "a link is never without its record"
        template.share(disk.domain, IMAGE, OTHER, V1)
        assert template.is_shared(disk.domain, IMAGE, OTHER, V1)
        assert template.unshare(disk.domain, OTHER, V1)
        image.sweep(disk.domain, OTHER)
        assert os.listdir(disk.images / OTHER) == [] and len(os.listdir(disk.images / IMAGE)) == 3


def test_share_does_not_replace_another_volume(disk):
    disk.create(IMAGE, V1)
    template.set_shared(disk.domain, IMAGE, V1)
    disk.create(OTHER, V1)
    before = disk.state()
    with pytest.raises(errors.VolumeAlreadyExists):
        template.share(disk.domain, IMAGE, OTHER, V1)
    assert disk.state() == before
    assert template.unshare(disk.domain, OTHER, V1) is False and disk.state() == before


# ---------------------------------------------------------------- preparing


def chain_of(disk, leaf, image_id=IMAGE, limit=256):
    return preparation.chain(disk.domain, image.contents(disk.domain, image_id), leaf, limit)


def test_chain_with_a_template_beneath(disk):
    disk.create(OTHER, V1)
    disk.create(IMAGE, V2, V1, source_image=OTHER)
    disk.create(IMAGE, V3, V2)
    assert chain_of(disk, V3) == [V3, V2, V1]
    assert chain_of(disk, V2) == [V2, V1]


@pytest.mark.parametrize("which", [V1, V2, V3])
def test_illegal_volume_anywhere_in_the_chain(disk, which):
    disk.chain(IMAGE, V1, V2, V3)
    disk.write(IMAGE, which, legality="ILLEGAL")
    with pytest.raises(errors.PrepareIllegalVolumeError, match=f"{which}.*reconcileVolumeChain"):
        chain_of(disk, V3)


def test_illegal_volume_beside_the_chain_does_not_matter(disk):
    disk.chain(IMAGE, V1, V2)
    disk.write(IMAGE, V2, legality="ILLEGAL", voltype="INTERNAL")
    assert chain_of(disk, V1) == [V1]


def move_away(path, there):
    path.rename(there)
    path.symlink_to(there)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda disk, _: disk.write(IMAGE, V1, parent=V3), errors.ImageIsNotLegalChain),
        (lambda disk, _: disk.write(IMAGE, V2, parent=V2), errors.ImageIsNotLegalChain),
        (lambda disk, _: disk.write(IMAGE, V2, parent=V4), errors.ImageIsNotLegalChain),
        (lambda disk, _: data(disk, V1).unlink(), errors.ImageIsNotLegalChain),
        (lambda disk, _: meta(disk, V1).unlink(), errors.ImageIsNotLegalChain),
        (lambda disk, _: meta(disk, V1).write_text("x"), errors.ImageValidationError),
        (lambda disk, there: move_away(data(disk, V1), there), errors.ImageValidationError),
    ],
    ids=["loop", "itself", "missing parent", "no data", "no record", "damaged", "link"],
)
def test_chain_that_does_not_hold_together(disk, tmp_path, spoil, error):
    disk.chain(IMAGE, V1, V2, V3)
    spoil(disk, tmp_path / "there")
    with pytest.raises(error):
        chain_of(disk, V3)


@pytest.mark.parametrize("name", ["/etc/passwd", f"../{OTHER}/{V1}", "json:{}", "nbd:127.0.0.1:1", f"{V1} "])
def test_header_that_leads_out_of_the_image(disk, name):
    disk.chain(IMAGE, V1, V2)
    images.create(data(disk, V2), bench.MIB, backing=name, backing_format="raw")
    with pytest.raises(errors.ImageValidationError, match="leads out"):
        chain_of(disk, V2)


def test_header_with_an_external_data_file(disk, tmp_path):
    disk.chain(IMAGE, V1, format="COW")
    images.create(data(disk, V1), bench.MIB, data_file=tmp_path / "outside")
    with pytest.raises(errors.ImageValidationError, match="external"):
        chain_of(disk, V1)


def test_header_that_contradicts_the_record(disk):
    """After an interrupted merge the header may name a base that has not got the data yet."""
    disk.chain(IMAGE, V1, V2, V3)
    bench.qemuimg.QemuImg().rebase_unsafe(data(disk, V3), V1, "raw")
    with pytest.raises(errors.ImageIsNotLegalChain, match=f"{V3} stands on {V1}.*reconcileVolumeChain"):
        chain_of(disk, V3)


def test_header_that_calls_a_raw_parent_qcow2(disk):
    """A guest could have written a qcow2 header, which names any file, at the start of its disk."""
    disk.chain(IMAGE, V1, V2)
    bench.qemuimg.QemuImg().rebase_unsafe(data(disk, V2), V1, "qcow2")
    with pytest.raises(errors.IncorrectFormat, match="calls its parent qcow2, which is raw"):
        chain_of(disk, V2)


def test_backing_name_of_3_5_is_the_same_chain(disk):
    disk.chain(IMAGE, V1, V2)
    images.create(data(disk, V2), bench.MIB, backing=f"../{IMAGE}/../{IMAGE}/{V1}", backing_format="raw")
    assert chain_of(disk, V2) == [V2, V1]


def test_memory_dump_that_is_called_cow(disk):
    disk.chain(IMAGE, V1, format="COW")
    data(disk, V1).write_bytes(b"memory" * 100)
    assert chain_of(disk, V1) == [V1]


def test_chain_of_more_volumes_than_allowed(disk):
    disk.chain(IMAGE, V1, V2, V3)
    assert len(chain_of(disk, V3, limit=3)) == 3
    with pytest.raises(errors.ImageIsNotLegalChain, match="more than 2"):
        chain_of(disk, V3, limit=2)


def test_unknown_leaf(disk):
    disk.create(IMAGE, V1)
    with pytest.raises(errors.VolumeDoesNotExist):
        chain_of(disk, V2)


def test_location(tmp_path):
    disk = bench.Bench(tmp_path, TOOL)
    disk.create(IMAGE, V1)
    found = preparation.location(disk.domain, IMAGE, V1)
    place = disk.images / IMAGE
    assert found == {
        "domainID": disk.domain.id,
        "imageID": IMAGE,
        "volumeID": V1,
        "path": str(place / V1),
        "volType": "path",
        "leasePath": str(place / f"{V1}.lease"),
        "leaseOffset": 0,
    }
    (place / f"{V1}.lease").unlink()
    assert set(preparation.location(disk.domain, IMAGE, V1)) == set(found) - {"leasePath", "leaseOffset"}


def test_run_link_is_made_corrected_and_removed(disk, tmp_path):
    repository = layout.Repository(tmp_path)
    disk.create(IMAGE, V1)
    link = preparation.link(repository, disk.domain, IMAGE)
    assert link == tmp_path / "run" / disk.domain.id / IMAGE and (link / V1).exists()
    link.unlink()
    link.symlink_to("/somewhere/else")
    assert os.readlink(preparation.link(repository, disk.domain, IMAGE)) == str(disk.images / IMAGE)
    preparation.unlink(repository, disk.domain.id, IMAGE)
    preparation.unlink(repository, disk.domain.id, IMAGE)
    assert not os.path.lexists(link)
    link.mkdir()
    preparation.unlink(repository, disk.domain.id, IMAGE)
    assert link.is_dir()
    with pytest.raises(errors.ImagePathError):
        preparation.link(repository, disk.domain, IMAGE)
