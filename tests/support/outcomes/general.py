"""What provokes an error that many verbs share: an id of nothing, a wrong role, a record that is damaged or hidden."""

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage.domains import domain_metadata
from tests.support import daemon as daemons, faulty
from tests.support.outcomes import stage as outcome_stage, table

Stage = outcome_stage.Stage
Row = table.Row
Attempt = table.Attempt
produces = table.produces
Attempts = Iterator[Attempt]

Condition = Callable[[], bool]
DOMAIN_PARAMETERS = ("storagedomainID", "srcSdUUID")


def domain_parameter(row: Row) -> str:
    """Name of the parameter that says which domain."""
    names = {each.name for each in row.schema.wire}
    return next(name for name in DOMAIN_PARAMETERS if name in names)


def at(stage: Stage, row: Row, **values: Any) -> Attempt:
    """The verb with arguments that would succeed, but for these."""
    return Attempt(stage.arguments(row.verb, **values))


@produces("InvalidParameterException")
def wrong_type(stage: Stage, row: Row) -> Attempts:
    position = next(each for each in row.schema.wire if not each.ignored)
    yield at(stage, row, **{position.name: [[4.5]]})


@produces("StoragePoolUnknown")
def unknown_pool(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, storagepoolID=outcome_stage.new_id())


@produces("SpmStatusError")
def not_the_spm(stage: Stage, row: Row) -> Attempts:
    yield Attempt(stage.arguments(row.verb), host=stage.other)


@produces("StorageDomainDoesNotExist")
def unknown_domain(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, **{domain_parameter(row): outcome_stage.new_id()})


@produces("StorageDomainNotMemberOfPool")
def domain_of_nobody(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, **{domain_parameter(row): stage.stray})


@produces("ImagesNotSupportedError")
def iso_domain(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, **{domain_parameter(row): stage.iso})


def _target(stage: Stage, row: Row) -> str:
    """The domain that a call is about: the one that it names, or else the master of the pool."""
    names = {each.name for each in row.schema.wire}
    if not names & set(DOMAIN_PARAMETERS):
        return stage.master
    values = dict(zip([each.name for each in row.schema.wire], stage.arguments(row.verb), strict=False))
    return str(values[domain_parameter(row)])


@produces("StorageDomainLayoutError")
@produces("StorageDomainAccessError")
def unusable_domain(stage: Stage, row: Row) -> Attempts:
    with condition(row.outcome, stage, _target(stage, row)):
        yield at(stage, row)


@contextlib.contextmanager
def condition(error: str, stage: Stage, domain: str) -> Iterator[None]:
    """What is wrong with a domain, by the class name of the error that a look at it then has."""
    with contextlib.ExitStack() as stack:
        if error == "StorageDomainLayoutError":
            stack.enter_context(doubled(stage, domain))
        elif error == "StorageDomainAccessError":
            stack.enter_context(stage.looping(stage.storage(domain)))
        elif error in HIDDEN:
            stack.enter_context(faulty.over(stage.record(domain), HIDDEN[error]))
        else:
            path = stage.record(domain)
            stack.enter_context(stage.instead(path, DAMAGE[error](path)))
        yield


@contextlib.contextmanager
def doubled(stage: Stage, domain: str) -> Iterator[None]:
    """Another connected directory holds a domain of the same id."""
    copy = stage.root / "double"
    (copy / domain / "dom_md").mkdir(parents=True)
    shutil.copy(stage.record(domain), copy / domain / "dom_md")
    stage.connect_storage(stage.main, copy)
    try:
        yield
    finally:
        stage.connect_storage(stage.main, copy, "disconnectStorageServer")
        shutil.rmtree(copy)


@contextlib.contextmanager
def locked(stage: Stage, domain: str) -> Iterator[None]:
    """Another process, this one, holds the cluster lock of a domain."""
    fd = os.open(stage.place(domain) / "dom_md" / "ids", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


# ---------------------------------------------------------------- records


def resealed(path: Path, **values: str | None) -> bytes:
    """A domain's record with other values; None removes a key."""
    found = {**domain_metadata.inspect(path.read_bytes())[0], **values}
    return domain_metadata.encode({key: value for key, value in found.items() if value is not None})


DAMAGE: dict[str, Callable[[Path], bytes]] = {
    "MetaDataSealIsBroken": lambda path: path.read_bytes().replace(b"DESCRIPTION=", b"DESCRIPTION=x"),
    "MetaDataKeyNotFoundError": lambda path: resealed(path, VERSION=None),
    "MetaDataValidationError": lambda path: resealed(path, VERSION="three"),
    "UnsupportedDomainVersion": lambda path: resealed(path, VERSION="9"),
}


HIDDEN = {
    # It is there when the domain is looked for, and not to be had when it is read.
    "FileStorageDomainStaleNFSHandle": errno.ESTALE,
    "StorageDomainMetadataNotFound": errno.ENOENT,
}

for _name in DAMAGE:
    produces(_name)(unusable_domain)
for _name in HIDDEN:
    produces(_name, root=True)(unusable_domain)


@produces("StorageDomainMasterError")
def damaged_master(stage: Stage, row: Row) -> Attempts:
    path = stage.record(stage.master)
    with stage.instead(path, DAMAGE["MetaDataSealIsBroken"](path)):
        yield at(stage, row)


# ---------------------------------------------------------------- locks and tasks


@produces("ResourceTimeout", root=True)
def verb_that_hangs(stage: Stage, row: Row) -> Attempts:
    """Storage does not answer to another verb, which holds the pool and the domain meanwhile."""
    with hung_verb(stage, stage.here):
        yield at(stage, row, **({domain_parameter(row): stage.here} if _names_domain(row) else {}))


def _names_domain(row: Row) -> bool:
    return any(each.name in DOMAIN_PARAMETERS for each in row.schema.wire)


@contextlib.contextmanager
def hung_verb(stage: Stage, domain: str) -> Iterator[None]:
    """A verb holds the pool and a domain, exclusively, and waits for the domain's record."""
    attach = (stage.main, "attachStorageDomain", domain, stage.pool)
    with faulty.over(stage.record(domain), 0) as server, stage.background(*attach):
        wait_for(lambda: server.waited_for)
        try:
            yield
        finally:
            server.end()


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


@produces("UnknownTask")
def unknown_task(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, taskID=outcome_stage.new_id())


@produces("AddTaskError")
def full_queue(stage: Stage, row: Row) -> Attempts:
    with occupied(stage, waiting=1):
        yield at(stage, row)


@contextlib.contextmanager
def occupied(stage: Stage, waiting: int = 0) -> Iterator[list[str]]:
    """The only worker is at work for long, and so many tasks wait for it; they are about images of their own.
    Their ids, the running one first."""
    marker = stage.root / "at-work"
    with stage.hanging(f"echo > {marker}\nexec sleep 60"):
        values = {"volFormat": outcome_stage.COW}
        tasks = []
        for _ in range(waiting + 1):
            tasks.append(stage.main.call("createVolume", *stage.arguments("createVolume", **values))["uuid"])
            wait_for(marker.exists)
        try:
            yield tasks
        finally:
            for task in reversed(tasks):
                stage.main.call("stopTask", task)
            for task in tasks:
                wait_for(lambda task=task: state_of(stage.main, task) == "finished")  # type: ignore[misc]
                stage.main.call("clearTask", task)
            marker.unlink()


def state_of(host: daemons.Daemon, task: str) -> str:
    return str(host.call("getTaskStatus", task)["taskStatus"]["taskState"])


@produces("TaskMetaDataSaveError")
def no_place_for_records(stage: Stage, row: Row) -> Attempts:
    with stage.instead(stage.place(stage.master) / "master" / "tasks", b""):
        yield at(stage, row)


# ---------------------------------------------------------------- images


@produces("ImageDoesNotExistInSD")
def unknown_image(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, imageID=outcome_stage.new_id())


produces("ImageDoesNotExistInSD", where=table.TASK)(unknown_image)


@produces("ImagePathError")
def file_in_place_of_an_image(stage: Stage, row: Row) -> Attempts:
    with stage.instead(stage.directory(stage.image), b""):
        yield at(stage, row)


produces("ImagePathError", where=table.TASK)(file_in_place_of_an_image)


@produces("VolumeDoesNotExist")
def unknown_volume(stage: Stage, row: Row) -> Attempts:
    yield at(stage, row, volumeID=outcome_stage.new_id())


produces("VolumeDoesNotExist", where=table.TASK)(unknown_volume)


def volume_file(stage: Stage, suffix: str = "", volume: str = "") -> Path:
    """A file of the leaf, or of another volume of the chain."""
    return stage.directory(stage.image) / f"{volume or stage.leaf}{suffix}"


@produces("ImageValidationError")
def link_in_place_of_a_record(stage: Stage, row: Row) -> Attempts:
    with stage.looping(volume_file(stage, ".meta")):
        yield at(stage, row)


produces("ImageValidationError", where=table.TASK)(link_in_place_of_a_record)


@produces("VolumeMetadataReadError", root=True)
def unreadable_volume_record(stage: Stage, row: Row) -> Attempts:
    with faulty.over(volume_file(stage, ".meta"), errno.EIO):
        yield at(stage, row)


produces("VolumeMetadataReadError", where=table.TASK, root=True)(unreadable_volume_record)


@produces("VolumeAccessError", root=True)
def unreadable_data(stage: Stage, row: Row) -> Attempts:
    with faulty.over(volume_file(stage), errno.EIO):
        yield at(stage, row)


produces("VolumeAccessError", where=table.TASK, root=True)(unreadable_data)


@produces("VolumeMetadataWriteError", root=True)
def volume_record_that_stays(stage: Stage, row: Row) -> Attempts:
    with faulty.pinned(volume_file(stage, ".meta")):
        yield at(stage, row)


produces("VolumeMetadataWriteError", where=table.TASK, root=True)(volume_record_that_stays)


@produces("PrepareIllegalVolumeError")
def illegal_volume(stage: Stage, row: Row) -> Attempts:
    with stage.changed(volume_file(stage, ".meta"), LEGALITY="ILLEGAL"):
        yield at(stage, row)


produces("PrepareIllegalVolumeError", where=table.TASK)(illegal_volume)


@produces("ImageIsNotLegalChain")
def missing_parent(stage: Stage, row: Row) -> Attempts:
    with stage.changed(volume_file(stage, ".meta"), PUUID=outcome_stage.new_id()):
        yield at(stage, row)


produces("ImageIsNotLegalChain", where=table.TASK)(missing_parent)


@produces("IncorrectFormat", where=table.TASK)
def header_against_record(stage: Stage, row: Row) -> Attempts:
    """The leaf's header calls its parent what the parent's record does not."""
    with stage.changed(volume_file(stage, ".meta", stage.middle), FORMAT="RAW"):
        yield at(stage, row)


@produces("MetaDataValidationError", where=table.TASK)
def senseless_volume_record(stage: Stage, row: Row) -> Attempts:
    with stage.changed(volume_file(stage, ".meta"), FORMAT="VHD"):
        yield at(stage, row)
