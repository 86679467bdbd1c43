"""The verbs that must leave an image alone that a live machine has open, each as a case of `tests.campaigns.inuse`."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from unittest import mock

from storage import ids
from storage.volumes import merging, transfer
from tests.support import guest, images, oracle, site

SIZE = 4 << 20
_CONTENTS = [[0, 1, 2, 3, 20], [2, 3, 4, 5], [5, 6, 7]]

Image = site.Disk
Act = Callable[["Play"], site.Outcome]

SAME, GONE, REPLACED = "same", "gone", "replaced"
LEAF, INTERNAL, BASE = "leaf", "internal", "base"


@dataclasses.dataclass
class Play:
    """One image with a known content.

    Attributes:
        site: the host.
        disk: the image.
        formats: of its volumes, root first.
        truth: what a guest reads of its leaf.
        fresh: what it reads after a verb that replaced the content.
        step: called where a verb waits for the other end of a stream.
        other: a second image that the verb is about.
    """

    site: site.Site
    disk: Image
    formats: tuple[str, ...]
    truth: oracle.Disk
    fresh: oracle.Disk
    step: Callable[[str], None] = lambda what: None
    other: Image | None = None

    @property
    def where(self) -> tuple[str, str, str]:
        """Domain, pool and image, the order of most verbs."""
        return self.disk.domain, self.site.pool, self.disk.id

    def layers(self, count: int | None = None) -> list[guest.Layer]:
        """The lowest volumes of the chain, all by default."""
        found = [guest.Layer(self.disk.path(number), fmt) for number, fmt in enumerate(self.formats)]
        return found[:count]


@dataclasses.dataclass(frozen=True)
class Case:
    """What one verb promises.

    Attributes:
        name: for messages.
        act: calls the verb.
        formats: of the volumes, root first.
        prepare: brings the image into the state that the verb is for; gives the image that guests start on.
        after: what is there once the verb has succeeded.
        writers: places that, held by somebody who writes, make it refuse.
        readers: the same by somebody who reads; None: the same places.
        way: how a merge is done.
        record: it writes records only, and may while the machine runs.
        repairs: the disk reads right only once it has been done.
        leaves: a guest that comes in the middle keeps a part of it from being undone; nothing of its disk is touched.
        shares: it makes the volume a template, which nobody may write to from then on.
    """

    name: str
    act: Act
    formats: tuple[str, ...] = ("qcow2", "qcow2", "qcow2")
    prepare: Callable[[Play], Play] = lambda play: play
    after: str = SAME
    writers: frozenset[str] = frozenset({LEAF})
    readers: frozenset[str] | None = None
    way: str = ""
    record: bool = False
    repairs: bool = False
    leaves: bool = False
    shares: bool = False

    @contextlib.contextmanager
    def directed(self) -> Iterator[None]:
        """Have a merge go the way of this case."""
        if not self.way:
            yield
            return
        with mock.patch.object(merging.Plan, "way", property(lambda plan: self.way)):
            yield

    def stage(self, where: site.Site) -> Play:
        """A new image in the state that the verb is for."""
        disk = where.disk(self.formats, SIZE)
        play = Play(where, disk, self.formats, oracle.Disk(SIZE), oracle.Disk(SIZE))
        guest.fill(play.layers(), _CONTENTS[: len(self.formats)], play.truth)
        return self.prepare(play)


class Body:
    """The content that a stream brings: every block new."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._data = b"".join(play.fresh.begin(block) for block in range(SIZE // oracle.BLOCK))
        play.fresh.settle()
        self._at = 0

    def begin(self, task_id: ids.TaskId, pause: transfer.Pause) -> int:
        return SIZE

    def fill(self, buffer: memoryview, pause: transfer.Pause) -> None:
        self._play.step(f"piece at {self._at}")
        buffer[:] = self._data[self._at : self._at + len(buffer)]
        self._at += len(buffer)

    def close(self) -> None:
        pass


# ---------------------------------------------------------------- what is called


def _verb(name: str, *more: object) -> Act:
    return lambda play: play.site.outcome(name, *play.where, *more)


def _reconcile(play: Play) -> site.Outcome:
    where = (play.site.pool, play.disk.domain, play.disk.id, play.disk.volumes[-1])
    return play.site.outcome("reconcileVolumeChain", *where)


def _merge(ancestor: int, successor: int) -> Act:
    def act(play: Play) -> site.Outcome:
        ends = play.disk.volumes[ancestor], play.disk.volumes[successor]
        where = play.disk.domain, play.site.pool, "", play.disk.id
        return play.site.outcome("mergeSnapshots", *where, *ends, "false")

    return act


def _delete_leaf(play: Play) -> site.Outcome:
    return play.site.outcome("deleteVolume", *play.where, [play.disk.volumes[-1]], "false", "false")


def _delete_all(play: Play) -> site.Outcome:
    return play.site.outcome("deleteVolume", *play.where, list(reversed(play.disk.volumes)), "false", "false")


def _move(operation: int) -> Act:
    def act(play: Play) -> site.Outcome:
        ends = play.site.pool, play.site.here, play.site.there
        return play.site.outcome("moveImage", *ends, play.disk.id, "", operation, "false", "false")

    return act


def _move_two(play: Play) -> site.Outcome:
    assert play.other is not None
    ends = play.site.pool, play.site.here, play.site.there
    both = {play.other.id: "false", play.disk.id: "false"}
    return play.site.outcome("moveMultipleImages", *ends, both, "", "false")


def _extend(play: Play) -> site.Outcome:
    leaf = play.disk.volumes[-1]
    found = play.site.outcome("extendVolumeSize", play.site.pool, play.disk.domain, play.disk.id, leaf, str(2 * SIZE))
    if found.code == 0:
        play.truth.size = 2 * SIZE
    return found


def _sync(play: Play) -> site.Outcome:
    return play.site.outcome("syncImageData", play.site.pool, play.site.here, play.disk.id, play.site.there, "ALL")


def _put(play: Play) -> site.Outcome:
    return play.site.put(play.disk, play.disk.volumes[-1], Body(play), SIZE)


def _overwrite(play: Play) -> site.Outcome:
    """copyImage of an empty disk over the image."""
    assert play.other is not None
    origin = play.site.here, play.site.pool, "", play.other.id, play.other.volumes[0]
    target = play.disk.id, play.disk.volumes[0], "a copy", play.site.there, 8, 4, 2
    return play.site.outcome("copyImage", *origin, *target, "false", "true")


def _derive(play: Play) -> site.Outcome:
    play.other = new = Image(play.site, ids.ImageId.new(), play.disk.domain, (ids.VolumeId.new(),))
    where = new.domain, play.site.pool, new.id, str(SIZE), 4, 2, 2, new.volumes[0], "derived"
    return play.site.outcome("createVolume", *where, play.disk.id, play.disk.volumes[-1])


def _on_leaf(name: str, *more: object) -> Act:
    return lambda play: play.site.outcome(name, *play.where, play.disk.volumes[-1], *more)


# ---------------------------------------------------------------- what it is called on


def _torn(play: Play) -> Play:
    """A merge of the middle volume that its header calls finished, and that copied nothing."""
    _switch(play, "-u")
    return play


def _merged(play: Play) -> Play:
    """The same, finished."""
    _switch(play)
    return play


def _switch(play: Play, *options: str) -> None:
    formats = "-f", play.formats[2], "-F", play.formats[0]
    images.qemu_img("rebase", *options, *formats, "-b", str(play.disk.path(0)), play.disk.path(2))
    images.qemu_img("rebase", "-u", *formats, "-b", play.disk.volumes[0], play.disk.path(2))


def _copied(play: Play) -> Play:
    """The image is there as well, and that is where guests start."""
    found = _move(1)(play)
    assert found.code == 0, found
    there = dataclasses.replace(play.disk, domain=play.site.there)
    return dataclasses.replace(play, disk=there)


def _beside(play: Play) -> Play:
    """A second image, empty."""
    return dataclasses.replace(play, other=play.site.disk(ONE, SIZE))


CHAIN = frozenset({LEAF, INTERNAL, BASE})
UPPER = frozenset({LEAF, INTERNAL})
RAW = ("raw", "qcow2", "qcow2")
ONE = ("qcow2",)

CASES = (
    Case("reconcile, torn", _reconcile, prepare=_torn, writers=CHAIN, repairs=True),
    Case("reconcile, merged", _reconcile, RAW, prepare=_merged, writers=CHAIN),
    Case("merge, pull", _merge(1, 2), RAW, writers=UPPER, way=merging.PULL),
    Case("merge, push", _merge(1, 2), writers=CHAIN, readers=UPPER, way=merging.PUSH, leaves=True),
    Case("merge into the base, push", _merge(0, 1), RAW, writers=CHAIN, way=merging.PUSH),
    Case("merge, copy", _merge(0, 2), RAW, writers=CHAIN, way=merging.COPY),
    Case("delete the leaf", _delete_leaf, after=GONE),
    Case("delete all volumes", _delete_all, after=GONE, writers=CHAIN),
    Case("delete the image", _verb("deleteImage", "false", "false"), after=GONE, writers=CHAIN),
    Case("move", _move(2), RAW, writers=CHAIN),
    Case("move two", _move_two, ONE, prepare=_beside),
    Case("copy", _move(1), writers=CHAIN, readers=frozenset()),
    Case("extend", _extend, writers=CHAIN, readers=frozenset({LEAF})),
    Case("sync", _sync, prepare=_copied, writers=CHAIN),
    Case("upload", _put, ("raw",), after=REPLACED),
    Case("overwrite", _overwrite, ONE, prepare=lambda play: _beside(_copied(play)), after=REPLACED),
    Case("derive", _derive, ONE, shares=True),
    Case("legality", _on_leaf("setVolumeLegality", "LEGAL"), writers=frozenset(), record=True),
    Case("description", _on_leaf("setVolumeDescription", "another"), writers=frozenset(), record=True),
    Case("size", _on_leaf("volumeSetSize", str(SIZE)), writers=frozenset(), record=True),
)
