"""Merging volumes of an image that nobody uses: everything from an ancestor up to a successor becomes one volume, which
keeps the successor's id, stands on what the ancestor stood on, and reads as the successor read.

Three ways, and the cheapest by the bytes that have to be written is taken. None of them costs what the disk measures.

======  ===========================================  ==============================================================
way     what is done                                 what makes it possible to undo it
======  ===========================================  ==============================================================
pull    the successor gets what those beneath it     nothing else changes, and the successor reads the same at every
        hold, then stands on the ancestor's parent   moment: its header is pointed back
push    what the successor holds is written into     the ancestor's own content is kept first: by an internal
        the ancestor, whose file becomes the         snapshot of a qcow2 file, by a copy of the places that are
        successor's                                  overwritten of a raw one
copy    the disk is copied into a new file of the    all old files stay as they are until the end
        ancestor's format; only of a base
======  ===========================================  ==============================================================

Steps, after everything was looked at and the space was found to suffice:

1. the recovery is pushed that undoes all of this (`unmerging`);
2. push: the ancestor's content is kept; then it is marked ILLEGAL, because what it reads as by itself is about to
   change, and its mark goes with it, or back to LEGAL once its content is restored. Then the data is written;
3. push and copy: the successor is marked ILLEGAL, its old file gets a second name (``<successor>.<task>.old``), the new
   file is put in its place, and the headers of volumes above learn its format where that has changed;
4. one write of the successor's record: its new parent, format and allocation, and ``LEGAL``;
5. in one write of the task, the recovery is replaced by one that goes on (`finish`): the point of no return;
6. the merged volumes are deleted, nearest first, and what was kept for undoing goes.

A crash before step 5 is undone as a whole, and the rollback may be cut off and repeated as well: each part of it asks
the disk (`unmerging`). A crash after it is finished. Until then the data of no volume is gone. While a pull has changed
the header and not yet the record, prepareImage refuses the chain, and reconcileVolumeChain would come to the same end.
"""

import dataclasses
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from storage import errors, files, ids
from storage.jobs import tasks
from storage.qemu import allocation, qcow2, qemuimg
from storage.volumes import copying, creation, deletion, image, source, steps, volume, volume_metadata

log = logging.getLogger(__name__)

_KEEPING_STEP = 64 * 1024 * 1024

PULL, PUSH, COPY = "pull", "push", "copy"

_SNAPSHOT = "vdsmlite-merge-"
"""Internal snapshots whose names begin so are ours, and those of no guest and no manager."""

_ILLEGAL, _LEGAL = volume_metadata.ILLEGAL, volume_metadata.LEGAL


@dataclasses.dataclass(frozen=True)
class Limits:
    """How far to look.

    Attributes:
        chain: most volumes of a chain.
        l2: most bytes of allocation tables of one volume.
    """

    chain: int
    l2: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is merged, checked.

    Attributes:
        span: the volumes, ancestor first, successor last.
        above: volumes that stand on the successor.
        costs: bytes that each possible way writes, about.
        space: bytes that each of them needs.
    """

    span: tuple[source.Layer, ...]
    above: tuple[ids.VolumeId, ...]
    costs: dict[str, int]
    space: dict[str, int]

    @property
    def ancestor(self) -> source.Layer:
        return self.span[0]

    @property
    def successor(self) -> source.Layer:
        return self.span[-1]

    @property
    def gone(self) -> tuple[ids.VolumeId, ...]:
        """Volumes that will not be there any more, ancestor first."""
        return tuple(layer.volume for layer in self.span[:-1])

    @property
    def way(self) -> str:
        """The cheapest way; of equals the one that touches least."""
        return min(self.costs, key=lambda way: (self.costs[way], (PULL, COPY, PUSH).index(way)))


@dataclasses.dataclass(frozen=True)
class Names:
    """Files that a merge makes beside those of the volumes; each name proves whose work it is.

    Attributes:
        new: of a copy, while it is written.
        old: second name of the successor's old data.
        keeping: what is overwritten of a raw ancestor, while it is written.
        kept: the same, once it is complete.
        snapshot: name of the internal snapshot of a qcow2 ancestor.
    """

    new: Path
    old: Path
    keeping: Path
    kept: Path
    snapshot: str


def names_of(
    domain: image.Domain, image_id: ids.ImageId, ancestor: ids.VolumeId, successor: ids.VolumeId, task_id: ids.TaskId
) -> Names:
    """Those of the merge that a task does."""
    place = domain.image_directory(image_id)
    return Names(
        new=place / f"{successor}.{task_id}{files.TEMPORARY_SUFFIX}",
        old=place / f"{successor}.{task_id}.old",
        keeping=place / f"{ancestor}.{task_id}{files.TEMPORARY_SUFFIX}",
        kept=place / f"{ancestor}.{task_id}.kept",
        snapshot=f"{_SNAPSHOT}{task_id}",
    )


def merge(
    domain: image.Domain,
    image_id: ids.ImageId,
    ancestor: ids.VolumeId,
    successor: ids.VolumeId,
    limits: Limits,
    task: tasks.Task,
    tool: qemuimg.QemuImg,
) -> ids.VolumeId:
    """Merge everything from `ancestor` up to `successor`; the caller holds the image's lock exclusively.

    Raises:
        ImageDoesNotExistInSD, ImageIsNotLegalChain, ...: see `plan`. Nothing was changed.
        NoSpaceLeftOnDomain: it does not fit; checked before the first byte.
        MergeSnapshotsError: qemu-img, or the storage, did not do it.
        TaskAborted: it was stopped.
    """

    def failed(reason: str) -> Exception:
        return errors.MergeSnapshotsError(reason=f"into volume {successor} of image {image_id}: {reason}")

    with copying.explained(domain, task, successor, failed):
        image.sweep(domain, image_id)
        drop_leftovers(domain, image_id, tool)
        found = plan(domain, image_id, ancestor, successor, limits)
        copying.check_space(domain, found.space[found.way])
        before = found.successor.metadata
        task.begin(domain.id, image_id, successor)
        task.push(steps.merge(domain.id, image_id, ancestor, successor, before.parent, before.format, before.type))
        work = _Work(domain, image_id, found, limits, task, tool)
        {PULL: work.pull, PUSH: work.push, COPY: work.copy}[found.way]()
        task.check()
        task.commit(steps.finish_merge(domain.id, image_id, successor, found.gone))
        finish(domain, image_id, successor, found.gone, task, tool)
        task.clear_recoveries()
    log.info("merged volumes %s into %s of image %s (%s)", ", ".join(found.gone), successor, image_id, found.way)
    return successor


def drop_leftovers(domain: image.Domain, image_id: ids.ImageId, tool: qemuimg.QemuImg) -> None:
    """Remove what kept an ancestor's content in merges that ended long ago, and could not be removed then.

    A guest that starts in the middle of a merge keeps its undoing from that, and internal snapshots stand in the way of
    every later merge and repair. Where all volumes are LEGAL, what each reads by itself is what it should be.

    Raises:
        qemuimg.QemuImgError: one could not be removed.
    """
    held = image.contents(domain, image_id)
    if held.damaged or any(record.legality != _LEGAL for record in held.records.values()):
        return
    for volume_id in held.own():
        path = image.paths(domain, image_id, volume_id).data
        if held.records[volume_id].format != volume_metadata.COW:
            continue
        try:
            header = volume.header(path)
        except (OSError, qcow2.HeaderError):
            continue  # whoever needs this volume says what is wrong with it
        if not header.snapshots or len(header.objections) > 1:
            continue
        for name in tool.snapshots(path):
            if name.startswith(_SNAPSHOT):
                tool.snapshot(path, "delete", name)
                files.sync(path)


# ---------------------------------------------------------------- looking


def plan(
    domain: image.Domain, image_id: ids.ImageId, ancestor: ids.VolumeId, successor: ids.VolumeId, limits: Limits
) -> Plan:
    """What a merge would do; changes nothing.

    Raises:
        ImageDoesNotExistInSD: there is no such image.
        ImageIsNotLegalChain: the ancestor is not beneath the successor, or the chain is broken.
        PrepareIllegalVolumeError, ImageValidationError, IncorrectFormat: see `source.chain`.
        VolumeNonWritable: one of the volumes is a template.
        VolumeImageHasChildren: another volume stands on one that would be gone.
        VolumeIsBusy: a live process has a volume open.
    """
    held = image.contents(domain, image_id)
    for volume_id in (ancestor, successor):
        if volume_id not in held:
            raise errors.ImageIsNotLegalChain(image=image_id, reason=f"there is no volume {volume_id} in it")
    layers = source.chain(domain, held, successor, limits.chain)
    places = [layer.volume for layer in layers]
    if ancestor not in places[:-1]:
        raise errors.ImageIsNotLegalChain(image=image_id, reason=f"volume {ancestor} is not beneath {successor}")
    span = tuple(layers[places.index(ancestor) :])
    for layer in span:
        if layer.is_shared or not layer.own:
            raise errors.VolumeNonWritable(volume=layer.volume, reason="it is a template")
    for beneath, here in itertools.pairwise(span):
        others = {*held.children(beneath.volume), *volume.stands_on(domain, held, beneath.volume)} - {here.volume}
        if others:
            raise errors.VolumeImageHasChildren(volume=beneath.volume, children=", ".join(sorted(others)))
    above = sorted({*held.children(successor), *volume.stands_on(domain, held, successor)})
    source.refuse_users(span)
    for child in above:
        if reason := volume.busy(image.paths(domain, image_id, child).data):
            raise errors.VolumeIsBusy(volume=child, reason=reason)
    costs, space = _costs(span, limits)
    return Plan(span, tuple(above), costs, space)


def _costs(span: Sequence[source.Layer], limits: Limits) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes that each possible way writes and needs.

    A pull needs something beneath the ancestor; a copy is made of bases only. A push never resizes: undoing that would
    mean cutting a file.

    Raises:
        ImageValidationError: the tables of a volume are damaged; whoever writes there would damage more.
    """
    ancestor, successor = span[0], span[-1]
    try:
        held = [_data(layer, limits.l2) for layer in span]
    except allocation.LimitExceeded:
        taken = sum(layer.allocated for layer in span)
        only = PULL if ancestor.parent else COPY
        return {only: taken}, {only: taken}
    pulled = sum(each.minus(held[-1]).bytes for each in held[:-1])
    pushed = sum(each.bytes for each in held[1:])
    costs, space = {}, {}
    if ancestor.parent:
        costs[PULL] = space[PULL] = pulled
    else:
        costs[COPY] = space[COPY] = held[0].bytes + pushed
        if ancestor.metadata.type == volume_metadata.PREALLOCATED:
            space[COPY] = ancestor.capacity
    if all(layer.capacity == successor.capacity for layer in span) and _is_whole(ancestor):
        kept = pushed if ancestor.data_format == "raw" else 0
        costs[PUSH], space[PUSH] = pushed + kept, pushed + kept
    return costs, space


def _is_whole(layer: source.Layer) -> bool:
    return layer.data_format != "raw" or os.lstat(layer.path).st_size == layer.capacity


def _data(layer: source.Layer, l2_limit: int) -> allocation.Allocation:
    """Where a volume holds data of its own, zeros that take no space left out."""
    try:
        held = held_by(layer.path, layer.data_format, l2_limit)
    except allocation.TableError as error:
        raise errors.ImageValidationError(object=f"data of volume {layer.volume}", reason=error.reason) from None
    return held.minus(held.zeros)


def held_by(path: Path, data_format: str, l2_limit: int) -> allocation.Allocation:
    """Where a data file holds anything of its own."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if data_format == "raw":
            return allocation.of_raw(fd, size)
        return allocation.of_qcow2(fd, qcow2.read_header(fd, size), size, l2_limit)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- doing


class _Work:
    """The data work and the switch of one merge."""

    def __init__(
        self,
        domain: image.Domain,
        image_id: ids.ImageId,
        found: Plan,
        limits: Limits,
        task: tasks.Task,
        tool: qemuimg.QemuImg,
    ) -> None:
        self._domain = domain
        self._image = image_id
        self._plan = found
        self._limits = limits
        self._task = task
        self._tool = tool
        self._names = names_of(domain, image_id, found.ancestor.volume, found.successor.volume, task.id)

    def pull(self) -> None:
        """The successor gets what is beneath it."""
        ancestor, successor = self._plan.ancestor, self._plan.successor
        assert ancestor.parent is not None
        parent_format = volume.header(ancestor.path).backing_format
        assert parent_format is not None
        self._tool.rebase(
            successor.path, ancestor.parent, parent_format, stop=self._task.stopping, progress=self._meter(PULL)
        )
        files.sync(successor.path)
        self._settle(format=successor.metadata.format, type=successor.metadata.type)

    def push(self) -> None:
        """The ancestor gets what is above it, and its file becomes the successor's."""
        ancestor, successor = self._plan.ancestor, self._plan.successor
        self._keep(ancestor)
        mark(self._domain, self._image, ancestor.volume, _ILLEGAL)
        try:
            self._tool.commit(successor.path, ancestor.path, stop=self._task.stopping, progress=self._meter(PUSH))
        except qemuimg.InUse:  # not begun: should the rest not be undone while it is in use, guests can start on it
            mark(self._domain, self._image, ancestor.volume, _LEGAL)
            raise
        files.sync(ancestor.path)
        self._switch(ancestor.path)

    def copy(self) -> None:
        """The disk is copied into a new file."""
        ancestor, successor = self._plan.ancestor.metadata, self._plan.successor
        metadata = dataclasses.replace(
            successor.metadata,
            parent=ids.VolumeId(ids.BLANK),
            capacity=successor.capacity,
            format=ancestor.format,
            type=ancestor.type,
        )
        wanted = copying.Wanted(
            volume=successor.volume,
            metadata=metadata,
            data_format=volume.QEMU_FORMATS[ancestor.format],
            origin=successor,
            collapsed=True,
            set_aside=ancestor.type == volume_metadata.PREALLOCATED,
        )
        compat = creation.compat(self._domain.version)
        copying.fill(self._names.new, wanted, compat, self._tool, self._task, progress=self._meter(COPY))
        self._switch(self._names.new)

    def _meter(self, way: str) -> Callable[[float], None]:
        return copying.Meter(self._task, "merging", [self._plan.costs[way]]).next()

    def _keep(self, ancestor: source.Layer) -> None:
        """Make it possible to have the ancestor's own content again; complete and on disk before its first change."""
        self._task.check()
        self._task.progress("keeping what is overwritten")
        if ancestor.data_format == "qcow2":
            self._tool.snapshot(ancestor.path, "create", self._names.snapshot)
            files.sync(ancestor.path)
            return
        kept = held_by(ancestor.path, "raw", self._limits.l2)
        files.create(self._names.keeping, size=ancestor.capacity, mode=creation.DATA_MODE)
        for layer in self._plan.span[1:]:
            overwritten = held_by(layer.path, "qcow2", self._limits.l2)
            places = overwritten.minus(overwritten.minus(kept)).ranges
            files.copy_ranges(ancestor.path, self._names.keeping, self._telling(places), self._task.check)
        files.sync(self._names.keeping)
        files.rename(self._names.keeping, self._names.kept)

    def _telling(self, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Places to be kept, one after the other and in pieces, telling of each what was kept before it."""
        done, total = 0, sum(end - start for start, end in places)
        for start, end in places:
            for piece in range(start, end, _KEEPING_STEP):
                self._task.progress("keeping what is overwritten", done=str(done), total=str(total))
                stop = min(piece + _KEEPING_STEP, end)
                yield piece, stop
                done += stop - piece

    def _switch(self, new: Path) -> None:
        """Step 3: put the file that has all data in the place of the successor's."""
        self._task.check()
        ancestor, successor = self._plan.ancestor.metadata, self._plan.successor
        with volume.reserved([successor.path]):
            mark(self._domain, self._image, successor.volume, _ILLEGAL)
            files.link(successor.path, self._names.old)
            files.put_over(new, successor.path)
        tell_format(self._domain, self._image, self._plan.above, successor.volume, ancestor.format, self._tool)
        self._settle(format=ancestor.format, type=ancestor.type)

    def _settle(self, **changes: str) -> None:
        """Step 4."""
        successor = self._plan.successor
        found = image.read_metadata(self._domain, self._image, successor.volume)
        changed = dataclasses.replace(
            found,
            parent=self._plan.ancestor.parent or ids.VolumeId(ids.BLANK),
            capacity=successor.capacity,
            legality=_LEGAL,
            format=changes["format"],
            type=changes["type"],
        )
        image.write_metadata(self._domain, self._image, successor.volume, changed)


def mark(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, legality: str) -> None:
    """Give a volume a legality; nothing is written where it has it already."""
    found = image.read_metadata(domain, image_id, volume_id)
    if found.legality != legality:
        image.write_metadata(domain, image_id, volume_id, dataclasses.replace(found, legality=legality))


def tell_format(
    domain: image.Domain,
    image_id: ids.ImageId,
    above: Sequence[ids.VolumeId],
    volume_id: ids.VolumeId,
    volume_format: str,
    tool: qemuimg.QemuImg,
) -> None:
    """Have the headers of volumes name the format that the volume beneath them has; that is no news from a guest, so
    the times of their last writes stay."""
    wanted = volume.QEMU_FORMATS[volume_format]
    for child in above:
        path = image.paths(domain, image_id, child).data
        if volume.header(path).backing_format == wanted:
            continue
        written = os.lstat(path).st_mtime_ns
        tool.rebase_unsafe(path, volume_id, wanted)
        files.sync(path)
        files.restore_mtime(path, written)


# ---------------------------------------------------------------- going on


def finish(
    domain: image.Domain,
    image_id: ids.ImageId,
    successor: ids.VolumeId,
    gone: Sequence[ids.VolumeId],
    task: tasks.Task,
    tool: qemuimg.QemuImg,
) -> None:
    """Step 6; repeatable.

    Raises:
        VolumeImageHasChildren: something stands on a merged volume after all; it stays.
        CannotDeleteVolume, QemuImgError: call again.
    """
    names = names_of(domain, image_id, gone[0], successor, task.id)
    data = image.paths(domain, image_id, successor).data
    is_cow = image.read_metadata(domain, image_id, successor).format == volume_metadata.COW and volume.is_qcow2(data)
    # Mostly there is none, and a guest that has come meanwhile is in nobody's way then.
    if is_cow and volume.header(data).snapshots and names.snapshot in tool.snapshots(data):
        tool.snapshot(data, "delete", names.snapshot)
        files.sync(data)
    for volume_id in reversed(gone):
        held = image.contents(domain, image_id)
        standing = {*held.children(volume_id), *volume.stands_on(domain, held, volume_id)}
        if standing:
            raise errors.VolumeImageHasChildren(volume=volume_id, children=", ".join(sorted(standing)))
        if volume_id in held:
            deletion.remove_volume(domain, image_id, volume_id)
    for name in (names.old, names.kept):
        files.unlink(name)
