"""Errors of the verbs that find out what a chain is, prove it, repair it and take that back; and of templates."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.support import faulty
from tests.support.outcomes import general, images, stage as outcome_stage, successes, table, transfers

Stage = outcome_stage.Stage
Row = table.Row
Attempt = table.Attempt
produces, at, new_id = table.produces, general.at, outcome_stage.new_id
volume_file = general.volume_file
Attempts = Iterator[Attempt]
TASK = table.TASK


@produces("ImagePathError", "getVolumeChain", "reconcileVolumeChain", root=True)
def of_an_image_that_cannot_be_listed(stage: Stage, row: Row) -> Attempts:
    with faulty.over(stage.directory(stage.image), errno.EIO):
        yield at(stage, row)


produces("ImagePathError", "proveVolumeChain", where=TASK, root=True)(of_an_image_that_cannot_be_listed)


@produces("ImageValidationError", "getVolumeChain", "reconcileVolumeChain")
def of_another_leaf(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, leafVolID=new_id())


produces("ImageValidationError", "proveVolumeChain", where=TASK)(of_another_leaf)


@produces("ImageIsNotLegalChain", "reconcileVolumeChain")
def of_a_chain_without_its_base(stage: Stage, row: Row) -> Attempts:
    base = volume_file(stage, "", stage.base)
    with stage.instead(base, None), stage.instead(base.with_name(f"{base.name}.meta"), None):
        yield at(stage, row)


@produces("ImagePathError", "undoReconcile", root=True)
@produces("VolumeMetadataWriteError", "undoReconcile", root=True)
def after_a_repair_on_storage_that_fails(stage: Stage, row: Row) -> Attempts:
    image = successes.repaired(stage)
    place = stage.directory(image)
    is_write = row.outcome == "VolumeMetadataWriteError"
    with faulty.pinned(place / f"{stage.middle}.meta") if is_write else faulty.over(place, errno.EIO):
        attempt = at(stage, row, imageID=image)
        attempt.changes = is_write  # the record of what has been repaired says what is begun
        yield attempt


@produces("ImageValidationError", "undoReconcile")
def after_a_repair_whose_record_is_damaged(stage: Stage, row: Row) -> Attempts:
    image = successes.repaired(stage)
    (stage.place(stage.here) / "dom_md" / "journal" / f"{image}.json").write_bytes(b"{")
    yield at(stage, row, imageID=image)


@produces("VolumeIsBusy", "undoReconcile")
def after_a_repair_in_use(stage: Stage, row: Row) -> Attempts:
    image = successes.repaired(stage)
    with images.in_use(stage.directory(image) / stage.leaf):
        yield at(stage, row, imageID=image)


@produces("IncorrectFormat", "reconcileVolumeChain", "prepareImage")
def of_a_header_against_a_record(stage: Stage, row: Row) -> Attempts:
    with stage.changed(volume_file(stage, ".meta", stage.middle), FORMAT="RAW"):
        yield at(stage, row)


@produces("VolumeMetadataWriteError", "reconcileVolumeChain", root=True)
def of_a_record_that_stays(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    meta = stage.directory(image) / f"{stage.middle}.meta"
    meta.write_text(meta.read_text().replace("LEGALITY=LEGAL", "LEGALITY=ILLEGAL"))
    with faulty.pinned(meta):
        attempt = at(stage, row, imageID=image)
        attempt.changes = True
        yield attempt


@produces("MetadataOverflowError", "reconcileVolumeChain")
def of_a_full_record(stage: Stage, row: Row) -> Attempts:
    """What would be right is longer than what is there."""
    image = stage.fresh_image()
    meta = stage.directory(image) / f"{stage.middle}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=INTERNAL", "VOLTYPE=LEAF"))
    transfers.padded(stage, image, stage.middle)
    yield at(stage, row, imageID=image)


@produces("MetaDataValidationError", "refreshVolume")
def of_a_senseless_record(stage: Stage, row: Row) -> Attempts:
    with stage.changed(volume_file(stage, ".meta"), FORMAT="VHD"):
        yield at(stage, row)


# ---------------------------------------------------------------- templates that went wrong in the other domain


def to_the_other_domain(stage: Stage, image: str) -> list[Path]:
    """Copy an image as it is; the records of the copy."""
    place = stage.directory(image, stage.there)
    stage.made_by(image, stage.there)
    shutil.copytree(stage.directory(image), place)
    for meta in place.glob("*.meta"):
        meta.write_text(meta.read_text().replace(f"DOMAIN={stage.here}", f"DOMAIN={stage.there}"))
    return list(place.glob("*.meta"))


@produces("VolumeNonWritable", "syncImageData", where=TASK)
def into_a_template_in_use(stage: Stage, row: Row) -> Attempts:
    template, image = images.template_of(stage)
    for each in (template, image):
        to_the_other_domain(stage, each)
    yield at(stage, row, imageID=template)


MOVES = ("moveImage", "moveMultipleImages")


@produces("MetaDataValidationError", *MOVES, "cloneImageStructure", where=TASK)
@produces("VolumeNonShareable", *MOVES, "cloneImageStructure", where=TASK)
def on_a_template_that_is_spoilt(stage: Stage, row: Row) -> Attempts:
    """A move looks at it before it answers, so there it is spoilt while the task waits."""
    template, image = images.template_of(stage)
    stage.made_by(image, stage.there)
    [meta] = to_the_other_domain(stage, template)
    old, new = ("FORMAT=RAW", "FORMAT=VHD") if row.outcome.startswith("Meta") else ("VOLTYPE=SHARED", "VOLTYPE=LEAF")
    with contextlib.ExitStack() as stack:
        attempt = images.of(stage, row, image)
        if row.verb in MOVES:
            stack.enter_context(general.occupied(stage))

        def spoil(_: str = "") -> None:
            meta.write_text(meta.read_text().replace(old, new))
            stack.close()

        if row.verb in MOVES:
            attempt.during, attempt.changes = spoil, True
        else:
            spoil()
        yield attempt
