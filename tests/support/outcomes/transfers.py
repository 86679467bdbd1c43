"""Errors of uploads, downloads and of tasks that are met while they wait, run, or cannot be recorded."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from tests.support import daemon as daemons, faulty, httpserver, images as qemu
from tests.support.outcomes import general, images, stage as outcome_stage, successes, table

Stage = outcome_stage.Stage
Row = table.Row
Attempt = table.Attempt
produces, at, new_id = table.produces, general.at, outcome_stage.new_id
Attempts = Iterator[Attempt]
TASK = table.TASK
BOTH = ("uploadImage", "downloadImage")
FAILED = "cleanFailure"


@contextlib.contextmanager
def single(stage: Stage, row: Row, path: str = "/ok", content: bytes = b"new") -> Iterator[tuple[str, Attempt]]:
    """An image of one volume, the base, and a transfer between it and a server that behaves as the path says."""
    image = stage.fresh_image()
    successes.one_volume(stage, image)
    with httpserver.serving() as server:
        server.content = content
        place = {"method": "http", "url": server.url(path), "headers": {}}
        yield image, asking(server, at(stage, row, methodArgs=place, imageID=image, volumeID=stage.base))


def record(stage: Stage, image: str) -> Path:
    """The record of an image's base."""
    return stage.directory(image) / f"{stage.base}.meta"


def asking(server: httpserver.Server, attempt: Attempt) -> Attempt:
    """The attempt, whose task is stopped, if it comes to that, once the other end was asked."""
    attempt.ready = lambda: bool(server.asked)
    return attempt


@produces("VolumeDoesNotExist", *BOTH, where=TASK)
def of_no_volume(stage: Stage, row: Row) -> Attempts:
    with single(stage, row) as (image, _):
        yield at(stage, row, imageID=image, volumeID=new_id())


@produces("VolumeAccessError", *BOTH, where=TASK, root=True)
def of_data_that_cannot_be_read(stage: Stage, row: Row) -> Attempts:
    with single(stage, row) as (image, attempt), faulty.over(stage.directory(image) / stage.base, errno.EIO):
        yield attempt


@produces("VolumeIsBusy", *BOTH, where=TASK)
def of_a_volume_in_use(stage: Stage, row: Row) -> Attempts:
    with single(stage, row) as (image, attempt), images.in_use(stage.directory(image) / stage.base):
        yield attempt


@produces("PrepareIllegalVolumeError", *BOTH, where=TASK)
@produces("IncorrectFormat", *BOTH, where=TASK)
@produces("ImageValidationError", *BOTH, where=TASK)
@produces("InternalVolumeNonWritable", "downloadImage", where=TASK)
@produces("SharedVolumeNonWritable", "downloadImage", where=TASK)
def of_a_volume_that_is_not_fit(stage: Stage, row: Row) -> Attempts:
    values = {
        "PrepareIllegalVolumeError": {"LEGALITY": "ILLEGAL"},
        "IncorrectFormat": {"LEGALITY": "FAKE"},
        "ImageValidationError": {"FORMAT": "VHD"},
        "InternalVolumeNonWritable": {"VOLTYPE": "INTERNAL"},
        "SharedVolumeNonWritable": {"VOLTYPE": "SHARED"},
    }
    changes = values[row.outcome]
    with single(stage, row) as (image, attempt), stage.changed(record(stage, image), **changes):
        yield attempt


@produces("CopyImageError", *BOTH, where=TASK)
@produces("GeneralException", "downloadImage", where=TASK)
def with_another_end_that_fails(stage: Stage, row: Row) -> Attempts:
    ways = {
        ("uploadImage", "CopyImageError"): "/ok",
        ("downloadImage", "CopyImageError"): "/ok",
        ("downloadImage", "GeneralException"): "/unsized",
    }
    with single(stage, row, ways[row.verb, row.outcome]) as (_, attempt):
        if row.outcome == "CopyImageError":
            names = [each.name for each in row.schema.wire]
            attempt.arguments[names.index("imageID")] = stage.image
            attempt.arguments[names.index("volumeID")] = stage.leaf
        yield attempt


@produces("CreateVolumeSizeError", "downloadImage", where=TASK)
def of_more_than_there_is_room_for(stage: Stage, row: Row) -> Attempts:
    with single(stage, row, content=bytes(2 * outcome_stage.SIZE)) as (_, attempt):
        yield attempt


@produces("NoSpaceLeftOnDomain", "downloadImage", where=TASK, root=True)
def of_more_than_the_storage_takes(stage: Stage, row: Row) -> Attempts:
    """What was there is gone by then, and the volume says so."""
    with single(stage, row, content=b"x" * (512 << 10)) as (image, attempt):
        roomy = stage.changed(record(stage, image), SIZE="2048")
        with roomy, faulty.small(stage.directory(image), 100 << 10):
            attempt.changes, attempt.result = True, FAILED
            yield attempt


@produces("VolumeMetadataWriteError", "downloadImage", where=TASK, root=True)
def of_a_volume_whose_record_stays(stage: Stage, row: Row) -> Attempts:
    with single(stage, row) as (image, attempt), faulty.pinned(stage.directory(image) / f"{stage.base}.meta"):
        yield attempt


@produces("TaskAborted", *BOTH, where=TASK)
def stopped_in_the_middle(stage: Stage, row: Row) -> Attempts:
    ways = {"uploadImage": "/silent", "downloadImage": "/stuck"}
    with single(stage, row, ways[row.verb], b"x" * 1000) as (_, attempt):

        def stop(task: str) -> None:
            general.wait_for(attempt.ready)
            stage.main.call("stopTask", task)

        attempt.during, attempt.changes, attempt.result = stop, True, None
        yield attempt


@produces("NotImplementedException", "downloadImage", where=TASK)
def that_is_to_be_undone(stage: Stage, row: Row) -> Attempts:
    """The old content is nowhere any more."""
    with single(stage, row) as (_, attempt):

        def revert(task: str) -> None:
            general.wait_for(lambda: general.state_of(stage.main, task) == "finished")
            stage.main.call("revertTask", task)

        attempt.during, attempt.changes, attempt.result = revert, True, FAILED
        yield attempt


# ---------------------------------------------------------------- no room


def padded(stage: Stage, image: str, volume: str, size: int = 512) -> None:
    """Fill a volume's record with a key of somebody else, up to what fits, or beyond."""
    path = stage.directory(image) / f"{volume}.meta"
    body = path.read_bytes().replace(b"DESCRIPTION=x\n", b"DESCRIPTION=\n").removesuffix(b"EOF\n")
    path.write_bytes(body + b"PAD=" + b"x" * (size - len(body) - 9) + b"\nEOF\n")


@produces("MetadataOverflowError", "extendVolumeSize", where=TASK)
@produces("MetadataOverflowError", "downloadImage", where=TASK)
@produces("MetadataOverflowError", "volumeSetSize")
def into_a_full_record(stage: Stage, row: Row) -> Attempts:
    if row.verb == "downloadImage":
        with single(stage, row) as (image, attempt):
            padded(stage, image, stage.base)
            yield attempt
        return
    image = stage.fresh_image()
    padded(stage, image, stage.leaf)
    attempt = at(stage, row, imageID=image, newSize=str(2**44))
    attempt.changes = True
    attempt.result = None
    yield attempt


@produces("MetadataOverflowError", "moveImage", "moveMultipleImages", "cloneImageStructure", where=TASK)
def of_a_record_that_is_too_long_already(stage: Stage, row: Row) -> Attempts:
    """As another program may have written it."""
    image = stage.fresh_image()
    padded(stage, image, stage.leaf, 600)
    yield images.of(stage, row, image)


@produces("NoSpaceLeftOnDomain", "copyImage", "moveImage", "moveMultipleImages", where=TASK, root=True)
@produces("NoSpaceLeftOnDomain", "cloneImageStructure", where=TASK, root=True)
def onto_a_small_file_system(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    qemu.write_pattern(stage.directory(image) / stage.leaf, 0, outcome_stage.SIZE, 7)
    with faulty.small(stage.place(stage.there) / "images", 8 << 10, empty=True):
        yield images.of(stage, row, image, **({"preallocate": 1} if row.verb == "copyImage" else {}))


@produces("NoSpaceLeftOnDomain", "syncImageData", "mergeSnapshots", where=TASK, root=True)
@produces("NoSpaceLeftOnDomain", "extendVolumeSize", where=TASK, root=True)
def in_a_small_file_system(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    values: dict[str, object] = {}
    place = stage.directory(image)
    if row.verb == "extendVolumeSize":
        meta = place / f"{stage.base}.meta"
        meta.write_text(meta.read_text().replace("TYPE=SPARSE", "TYPE=PREALLOCATED"))
        values = {"volumeID": stage.base, "newSize": str(16 << 20)}
    elif row.verb == "syncImageData":
        stage.fresh_image(stage.there, image)
    else:
        values = {"ancestor": stage.base, "successor": stage.middle}
    qemu.write_pattern(place / (stage.leaf if row.verb == "syncImageData" else stage.middle), 0, outcome_stage.SIZE, 7)
    if row.verb == "syncImageData":
        place = stage.place(stage.there) / "images"
    with faulty.small(place, 12 << 10):
        attempt = at(stage, row, imageID=image, **values)
        attempt.changes = True
        yield attempt


# ---------------------------------------------------------------- other volumes in the way


@produces("VolumeImageHasChildren", "mergeSnapshots", where=TASK)
def of_a_volume_with_another_child(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    other = new_id()
    for suffix in ("", ".meta"):
        data = (stage.directory(image) / f"{stage.leaf}{suffix}").read_bytes()
        (stage.directory(image) / f"{other}{suffix}").write_bytes(data)
    yield at(stage, row, imageID=image)


@produces("VolumeNonWritable", "mergeSnapshots", where=TASK)
def of_a_template(stage: Stage, row: Row) -> Attempts:
    template, image = images.template_of(stage)
    [volume] = [path.stem for path in stage.directory(template).glob("*.meta")]
    [own] = [path.stem for path in stage.directory(image).glob("*.meta") if path.stem != volume]
    yield at(stage, row, imageID=image, ancestor=volume, successor=own)


@produces("VolumeMetadataWriteError", "mergeSnapshots", "syncImageData", "deleteVolume", where=TASK, root=True)
@produces("VolumeMetadataWriteError", "extendVolumeSize", where=TASK, root=True)
def with_a_record_that_stays(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    where = stage.here
    if row.verb == "syncImageData":
        where = stage.there
        stage.fresh_image(where, image)
    with faulty.pinned(stage.directory(image, where) / f"{stage.leaf}.meta"):
        attempt = at(stage, row, imageID=image)
        attempt.changes, attempt.result = True, None
        yield attempt


@produces("CannotDeleteVolume", "mergeSnapshots", where=TASK)
def of_a_volume_that_stays(stage: Stage, row: Row) -> Attempts:
    """A directory has the name of its lease."""
    image = stage.fresh_image()
    (stage.directory(image) / f"{stage.middle}.lease").mkdir()
    attempt = at(stage, row, imageID=image)
    attempt.changes, attempt.result = True, None
    yield attempt


@produces("ImageDeleteError", "deleteImage", root=True)
@produces("ImageDeleteError", "moveImage", "moveMultipleImages", where=TASK, root=True)
def of_an_image_that_stays(stage: Stage, row: Row) -> Attempts:
    image = stage.fresh_image()
    stage.made_by(image, stage.there)
    with faulty.pinned(stage.directory(image)):
        attempt = images.of(stage, row, image, **({"operation": 2} if row.verb == "moveImage" else {}))
        attempt.changes, attempt.result = row.where == TASK, None
        yield attempt


# ---------------------------------------------------------------- met while they wait


IN_THE_REPLY = (
    *("ImageDoesNotExistInSD", "ImagePathError", "ImageIsNotLegalChain", "PrepareIllegalVolumeError"),
    *("ImageValidationError", "IncorrectFormat", "VolumeAccessError", "VolumeMetadataReadError"),
)


def broken_while_it_waits(stage: Stage, row: Row) -> Attempts:
    """The call finds everything in order; when its task comes to run, it is not."""
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(contextlib.ExitStack())
        waiting.enter_context(general.occupied(stage))
        attempt = at(stage, row)

        def break_it(_: str) -> None:
            if row.outcome == "ImageDoesNotExistInSD":
                stack.enter_context(stage.instead(stage.directory(stage.image), None))
            else:
                stack.enter_context(table.general(row)(stage, row))
            waiting.close()

        attempt.during, attempt.changes = break_it, True
        yield attempt


for _error in IN_THE_REPLY:
    produces(_error, "copyImage", where=TASK, root=_error.startswith("Volume"))(broken_while_it_waits)
for _error in ("ImagePathError", "VolumeMetadataReadError"):
    for _verb in ("moveImage", "moveMultipleImages"):
        produces(_error, _verb, where=TASK, root=_error.startswith("Volume"))(broken_while_it_waits)


# ---------------------------------------------------------------- what cannot be recorded


RECORDED = ("createVolume", "copyImage", "moveImage", "moveMultipleImages", "cloneImageStructure", "mergeSnapshots")


@produces("TaskMetaDataSaveError", *RECORDED, "extendVolumeSize", "syncImageData", where=TASK)
def without_a_place_for_its_record(stage: Stage, row: Row) -> Attempts:
    """The directory of tasks goes while a tool is at work."""
    marker, going_on = stage.root / "running", stage.root / "go-on"
    script = f'echo > {marker}\nwhile [ ! -e {going_on} ]; do sleep 0.01; done\nexec qemu-img "$@"'
    image = stage.fresh_image()
    with stage.hanging(f'case "$1" in info|check|map) exec qemu-img "$@";; esac\n{script}'):
        if row.verb == "createVolume":
            attempt = images.snapshot(stage, row, imageID=image, srcImgUUID=image)
        else:
            if row.verb == "syncImageData":
                stage.fresh_image(stage.there, image)
            attempt = images.of(stage, row, image)

        def lose(task: str) -> None:
            general.wait_for(marker.exists)
            with stage.instead(stage.place(stage.master) / "master" / "tasks", b""):
                going_on.touch()
                general.wait_for(lambda: general.state_of(stage.main, task) in ("finished", "recovering", "unknown"))

        attempt.during, attempt.changes, attempt.result = lose, True, None
        yield attempt
        marker.unlink()
        going_on.unlink()


@produces("TaskAborted", "syncImageData", where=TASK)
def stopped_while_it_copies(stage: Stage, row: Row) -> Attempts:
    marker = stage.root / "running"
    image = stage.fresh_image()
    stage.fresh_image(stage.there, image)
    with stage.hanging(f'[ "$1" = convert ] || exec qemu-img "$@"\necho > {marker}\nexec sleep 60'):
        attempt = at(stage, row, imageID=image)
        attempt.during = lambda task: _stop(stage.main, marker.exists, task)
        yield attempt
        marker.unlink()


def _stop(host: daemons.Daemon, ready: general.Condition, task: str) -> None:
    general.wait_for(ready)
    host.call("stopTask", task)
