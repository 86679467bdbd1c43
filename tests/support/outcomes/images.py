"""Errors of the verbs on images and volumes, in the reply and in the task."""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.support import faulty, images as qemu
from tests.support.outcomes import general, stage as outcome_stage, table

Stage = outcome_stage.Stage
Row = table.Row
Attempt = table.Attempt
produces, at, new_id = table.produces, general.at, outcome_stage.new_id
volume_file = general.volume_file
Attempts = Iterator[Attempt]
BLANK, COW, TASK = outcome_stage.BLANK, outcome_stage.COW, table.TASK

COPIES = ("moveImage", "cloneImageStructure", "syncImageData", "moveMultipleImages")
_OFD_SETLK = 37  # F_OFD_SETLK of <fcntl.h>
_WRITES = 101  # the byte on which qemu says that it writes


@contextlib.contextmanager
def in_use(path: Path) -> Iterator[None]:
    """A process has an image open for writing, as qemu says it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, _OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, _WRITES, 1, 0))
        yield
    finally:
        os.close(fd)


def of(stage: Stage, row: Row, image: str, **values: object) -> Attempt:
    """The verb on an image, whatever its parameter is called."""
    names = {each.name for each in row.schema.wire}
    return at(stage, row, **({"imageID": image} if "imageID" in names else {"imgDict": {image: "false"}}), **values)


# ---------------------------------------------------------------- in the reply


@produces("ImageDoesNotExistInSD", *("moveImage", "cloneImageStructure", "moveMultipleImages"), where=TASK)
@produces("ImageDoesNotExistInSD", "syncImageData", where=TASK)
def of_an_unknown_image(stage: Stage, row: Row) -> Attempts:
    yield of(stage, row, new_id())


def template_of(stage: Stage) -> tuple[str, str]:
    """An image that is a template, and one that stands on it."""
    template, volume, image = new_id(), new_id(), new_id()
    for each in (template, image):
        stage.made_by(each)
    where = (stage.here, stage.pool)
    kind = (str(outcome_stage.SIZE), outcome_stage.RAW, outcome_stage.SPARSE, 2)
    stage.main.task("createVolume", *where, template, *kind, volume, "x", BLANK, BLANK)
    more = (str(outcome_stage.SIZE), COW, outcome_stage.SPARSE, 2)
    stage.main.task("createVolume", *where, image, *more, new_id(), "x", template, volume)
    return template, image


@produces("ImageDoesNotExistInSD", "moveImage", "moveMultipleImages")
def of_an_image_without_its_template(stage: Stage, row: Row) -> Attempts:
    yield of(stage, row, template_of(stage)[1])


@produces("MoveTemplateImageError", "moveImage", "moveMultipleImages")
def of_a_template(stage: Stage, row: Row) -> Attempts:
    yield of(stage, row, template_of(stage)[0])


@produces("CannotDeleteSharedVolume", "deleteImage")
def of_a_template_in_use(stage: Stage, row: Row) -> Attempts:
    yield of(stage, row, template_of(stage)[0])


@produces("CannotDeleteSharedVolume", "deleteVolume", where=TASK)
def of_a_templates_volume(stage: Stage, row: Row) -> Attempts:
    template = template_of(stage)[0]
    [volume] = [path.stem for path in stage.directory(template).glob("*.meta")]
    yield of(stage, row, template, volumeList=[volume])


@produces("ImagePathError", "moveImage", "moveMultipleImages")
def with_a_file_in_its_place(stage: Stage, row: Row) -> Attempts:
    with stage.instead(stage.directory(stage.image), b""):
        yield at(stage, row)


@produces("VolumeIsBusy", "deleteImage", "reconcileVolumeChain")
def of_an_image_in_use(stage: Stage, row: Row) -> Attempts:
    with in_use(volume_file(stage)):
        yield at(stage, row)


@produces("VolumeAccessError", "getVolumeInfo", "getVolumePath", "getVolumeSize", root=True)
@produces("VolumeAccessError", "refreshVolume", "prepareImage", root=True)
def of_data_that_cannot_be_looked_at(stage: Stage, row: Row) -> Attempts:
    with faulty.over(volume_file(stage), errno.EIO, blind=True):
        yield at(stage, row)


@produces("ImageValidationError", "getVolumePath", "getVolumeSize")
def of_data_that_is_a_link(stage: Stage, row: Row) -> Attempts:
    with stage.looping(volume_file(stage)):
        yield at(stage, row)


@produces("IncorrectFormat", "createVolume", "copyImage")
def in_no_format(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, volFormat=3)


@produces("IncorrectType", "createVolume", "copyImage")
def in_no_allocation(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, preallocate=7)


@produces("CreateVolumeSizeError", "createVolume")
def of_no_size(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, size="0")


@produces("MetadataOverflowError", "setVolumeDescription")
def with_a_text_too_long(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, description="x" * 400)


@produces("ImageDeleteError", "deleteImage", where=TASK, root=True)
def whose_space_is_not_freed(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    data = stage.directory(image) / stage.leaf
    gone = stage.directory(f"_remove_me_{image}")
    with faulty.pinned(data, moved_to=gone / stage.leaf):
        attempt = at(stage, row, imageID=image)
        attempt.changes, attempt.result = True, None
        yield attempt
    outcome_stage.remove(gone)


@produces("AddTaskError", "deleteImage")
@produces("TaskMetaDataSaveError", "deleteImage")
def that_goes_all_the_same(stage: Stage, row: Row) -> Attempts:
    """What is answered is that its space is not freed; the image is gone, which was the point."""
    image = stage.fresh_image()
    with table.general(row)(stage, row):
        attempt = at(stage, row, imageID=image)
        attempt.once = attempt.changes = True
        yield attempt
    outcome_stage.remove(stage.directory(f"_remove_me_{image}"))


# ---------------------------------------------------------------- in the task: the volumes


@produces("VolumeDoesNotExist", "deleteVolume", where=TASK)
def of_an_unknown_volume(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, volumeList=[new_id()])


@produces("VolumeImageHasChildren", "deleteVolume", where=TASK)
def of_a_parent(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, volumeList=[stage.middle])


@produces("CannotDeleteVolume", "deleteVolume", where=TASK)
def of_a_damaged_volume(stage: Stage, row: Row) -> Attempts:
    with stage.changed(volume_file(stage, ".meta"), FORMAT="VHD"):
        yield at(stage, row)


@produces("VolumeIsBusy", where=TASK)
def of_a_volume_in_use(stage: Stage, row: Row) -> Attempts:
    with in_use(volume_file(stage)):
        yield at(stage, row)


@produces("IncorrectFormat", "syncImageData", where=TASK)
def of_a_header_against_a_record(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    stage.fresh_image(stage.there, image)
    for domain in (stage.here, stage.there):
        meta = stage.directory(image, domain) / f"{stage.middle}.meta"
        meta.write_text(meta.read_text().replace("FORMAT=COW", "FORMAT=RAW"))
    yield at(stage, row, imageID=image)


@produces("VolumeMetadataWriteError", "setVolumeLegality", root=True)
def to_illegal_in_a_record_that_stays(stage: Stage, row: Row) -> Attempts:
    with faulty.pinned(volume_file(stage, ".meta")):
        yield at(stage, row, legality="ILLEGAL")


@produces("ImagePathError", "teardownImage", root=True)
def with_a_link_that_stays(stage: Stage, row: Row) -> Attempts:
    arguments = stage.arguments("prepareImage")
    stage.main.call("prepareImage", *arguments)
    with faulty.pinned(stage.main.repository / "run" / stage.here, readonly=True):
        yield at(stage, row)


@produces("CopyImageError", *COPIES, "copyImage", where=TASK)
def with_a_tool_that_fails(stage: Stage, row: Row) -> Attempts:
    with stage.hanging("echo no luck >&2; exit 1"):
        if row.verb == "syncImageData":
            image = stage.fresh_image()
            stage.fresh_image(stage.there, image)
            yield at(stage, row, imageID=image)
        else:
            yield at(stage, row)


@produces("MergeSnapshotsError", "mergeSnapshots", where=TASK)
@produces("VolumeExtendingError", "extendVolumeSize", where=TASK)
def with_a_tool_that_does_nothing(stage: Stage, row: Row) -> Attempts:
    with stage.hanging('case "$1" in commit|resize|rebase) echo no luck >&2; exit 1;; esac\nexec qemu-img "$@"'):
        attempt = of(stage, row, stage.fresh_image())
        yield attempt


@produces("VolumeCreationError", "createVolume", where=TASK)
def a_base_by_a_tool_that_fails(stage: Stage, row: Row) -> Attempts:
    with stage.hanging("echo no luck >&2; exit 1"):
        yield at(stage, row, volFormat=COW)


@produces("CannotCloneVolume", "createVolume", where=TASK)
def a_snapshot_by_a_tool_that_fails(stage: Stage, row: Row) -> Attempts:
    with stage.hanging("echo no luck >&2; exit 1"):
        yield snapshot(stage, row)


def snapshot(stage: Stage, row: Row, **values: object) -> Attempt:
    """A new volume on top of the leaf."""
    known = {"imageID": stage.image, "volFormat": COW, "srcImgUUID": stage.image, "srcVolUUID": stage.leaf}
    return at(stage, row, **{**known, **values})


@produces("VolumeAlreadyExists", "createVolume", where=TASK)
def that_is_there(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, imageID=stage.image, volumeID=stage.leaf)


@produces("VolumeAlreadyExists", "moveImage", "cloneImageStructure", "moveMultipleImages", where=TASK)
def of_an_image_that_is_there_too(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    stage.fresh_image(stage.there, image)
    yield of(stage, row, image)


@produces("VolumeAlreadyExists", "copyImage", where=TASK)
@produces("OverwriteImageError", "copyImage", where=TASK)
def over_an_image_that_is_there(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image(stage.there)
    volume = stage.leaf if row.outcome == "VolumeAlreadyExists" else new_id()
    yield at(stage, row, dstImgUUID=image, dstVolUUID=volume)


@produces("OverwriteImageError", "moveImage", "cloneImageStructure", "moveMultipleImages", where=TASK)
def over_another_image_of_that_id(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    stage.fresh_image(stage.there, image)
    for path in stage.directory(image, stage.there).iterdir():
        if not path.name.startswith(stage.base):
            path.unlink()
    for path in stage.directory(image, stage.there).iterdir():
        path.rename(path.with_name(path.name.replace(stage.base, new_id_like(stage.base))))
    yield of(stage, row, image)


def new_id_like(volume: str) -> str:
    """Always the same other id."""
    return f"{'0' if volume[0] != '0' else '1'}{volume[1:]}"


PARENT_ERRORS = ("VolumeMetadataReadError", "ImageValidationError", "MetaDataValidationError", "VolumeAccessError")


def on_a_broken_parent(stage: Stage, row: Row) -> Attempts:
    with table.general(row)(stage, row):
        yield snapshot(stage, row)


for _error in PARENT_ERRORS:
    produces(_error, "createVolume", where=TASK, root=_error.startswith("Volume"))(on_a_broken_parent)


@produces("VolumeDoesNotExist", "createVolume", where=TASK)
@produces("ImageDoesNotExistInSD", "createVolume", where=TASK)
@produces("CreateVolumeSizeError", "createVolume", where=TASK)
@produces("NoSpaceLeftOnDomain", "createVolume", where=TASK)
def with_a_wrong_argument(stage: Stage, row: Row) -> Attempts:
    if row.outcome == "VolumeDoesNotExist":
        yield snapshot(stage, row, srcVolUUID=new_id())
    elif row.outcome == "ImageDoesNotExistInSD":
        yield snapshot(stage, row, imageID=new_id(), srcImgUUID=new_id())
    elif row.outcome == "CreateVolumeSizeError":
        yield at(stage, row, size=str(2**51))
    else:
        yield at(stage, row, size=str(2**50), preallocate=outcome_stage.PREALLOCATED)


@produces("ImagePathError", "createVolume", where=TASK)
def in_a_file(stage: Stage, row: Row) -> Attempts:
    with stage.instead(stage.directory(stage.image), b""):
        yield at(stage, row, imageID=stage.image)


@produces("CreateIllegalVolumeSnapshotError", "createVolume", where=TASK)
@produces("VolumeNonShareable", "createVolume", where=TASK)
def on_a_parent_that_may_not_be_one(stage: Stage, row: Row) -> Attempts:
    legality = "FAKE" if row.outcome == "VolumeNonShareable" else "ILLEGAL"
    with stage.changed(volume_file(stage, ".meta"), LEGALITY=legality):
        yield snapshot(stage, row)


@produces("VolumeIsBusy", "createVolume", where=TASK)
def on_a_base_that_is_in_use(stage: Stage, row: Row) -> Attempts:
    """A volume of another image that a machine writes to cannot become a template."""
    image = stage.fresh_image()
    for path in stage.directory(image).iterdir():
        if not path.name.startswith(stage.base):
            path.unlink()
    with in_use(stage.directory(image) / stage.base):
        yield snapshot(stage, row, imageID=new_id(), srcImgUUID=image, srcVolUUID=stage.base)


@produces("VolumeMetadataWriteError", "createVolume", where=TASK, root=True)
def on_a_parent_whose_record_stays(stage: Stage, row: Row) -> Attempts:
    with faulty.pinned(volume_file(stage, ".meta")):
        yield snapshot(stage, row)


@produces("VolumeNonWritable", "extendVolumeSize", where=TASK)
def between_others(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, volumeID=stage.middle)


@produces("VolumeResizeValueError", "extendVolumeSize", where=TASK)
def to_less(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, newSize="512")


@produces("MoveImageError", "moveImage", where=TASK)
def by_no_operation(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, operation=3)


@produces("NotImplementedException", "syncImageData", where=TASK)
def of_no_type(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, syncType="NONE")


def with_its_structure_there(stage: Stage, row: Row) -> Attempts:
    """The other domain has the same volumes; what is wrong is here."""
    stage.fresh_image(stage.there, stage.image)
    with table.general(row)(stage, row) as attempt:
        yield attempt


UNREADABLE = ("VolumeAccessError", "VolumeMetadataReadError")
WRONG = ("ImagePathError", "ImageIsNotLegalChain", "PrepareIllegalVolumeError", "ImageValidationError", "VolumeIsBusy")
for _error in (*WRONG, *UNREADABLE):
    produces(_error, "syncImageData", where=TASK, root=_error in UNREADABLE)(with_its_structure_there)


@produces("DestImageActionError", "syncImageData", where=TASK)
def to_another_structure(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    stage.fresh_image(stage.there, image)
    for path in stage.directory(image, stage.there).glob(f"{stage.leaf}*"):
        path.unlink()
    yield at(stage, row, imageID=image)


@produces("VolumeDoesNotExist", "copyImage", where=TASK)
def of_no_volume(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, volumeID=new_id())


STOPPED = ("createVolume", "copyImage", "moveImage", "moveMultipleImages", "cloneImageStructure", "mergeSnapshots")


@produces("TaskAborted", *STOPPED, where=TASK)
def stopped_while_a_tool_runs(stage: Stage, row: Row) -> Attempts:
    marker = stage.root / "running"
    script = 'case "$1" in info|check|map) exec qemu-img "$@";; esac'
    with stage.hanging(f"{script}\necho > {marker}\nexec sleep 60"):
        image = stage.fresh_image()
        qemu.write_pattern(stage.directory(image) / stage.leaf, 0, outcome_stage.SIZE, 7)
        attempt = snapshot(stage, row) if row.verb == "createVolume" else of(stage, row, image)

        def stop(task: str) -> None:
            general.wait_for(marker.exists)
            stage.main.call("stopTask", task)

        attempt.during = stop
        yield attempt
        marker.unlink()
