"""A model of an image: volumes with headers, metadata, contents and times, without any file.

Contents are dictionaries from cluster number to value. The model answers the questions of a plan from its contents, as
the real proof answers them from the images, and it knows what the guest must see: it is the oracle.
"""

import dataclasses
import uuid
from collections.abc import Iterable

from storage import ids
from storage.chains import chain, evidence, record, walk
from storage.volumes import volume_metadata

DOMAIN = ids.DomainId("d0000000-0000-0000-0000-000000000001")
IMAGE = ids.ImageId("1a000000-0000-0000-0000-000000000001")
OTHER_IMAGE = ids.ImageId("1a000000-0000-0000-0000-000000000002")
BLANK = ids.VolumeId(ids.BLANK)
SECOND = 1_000_000_000
CLUSTER = 65536


def volume_id(number: int) -> ids.VolumeId:
    """A readable id: the number is in it."""
    return ids.VolumeId(f"{number:08x}-0000-4000-8000-000000000000")


@dataclasses.dataclass
class Volume:
    """One volume of the model.

    Attributes:
        holds: what its own tables map; value 0 is a cluster of zeros.
        time: when it was last written, as the file system says; seconds.
        marked: when its metadata was last written, seconds.
        version: of a qcow2 image; version 2 has no clusters of zeros, so without backing it drops them.
        gone: its data is deleted, its record is not yet.
    """

    number: int
    link: int | None = None
    parent: int | None = None
    legality: str = volume_metadata.LEGAL
    voltype: str = volume_metadata.INTERNAL
    format: str = volume_metadata.COW
    own: bool = True
    holds: dict[int, int] = dataclasses.field(default_factory=dict)
    time: float = 0.0
    marked: float = 0.0
    version: int = 3
    gone: bool = False

    @property
    def forgets(self) -> bool:
        """Whether a cluster of zeros, or a discarded one, is not held any more."""
        return self.format == volume_metadata.RAW or (self.version == 2 and self.link is None)

    def write(self, cluster: int, value: int) -> None:
        """What a guest's write of one cluster leaves."""
        if value == 0 and self.forgets:
            self.holds.pop(cluster, None)
        else:
            self.holds[cluster] = value

    @property
    def id(self) -> ids.VolumeId:
        return volume_id(self.number)

    def metadata(self) -> volume_metadata.VolumeMetadata:
        parent = BLANK if self.parent is None else volume_id(self.parent)
        return volume_metadata.VolumeMetadata(
            domain=DOMAIN,
            image=IMAGE if self.own else OTHER_IMAGE,
            parent=parent,
            capacity=1 << 30,
            format=self.format,
            type=volume_metadata.SPARSE,
            voltype=self.voltype,
            disktype="2",
            description="",
            legality=self.legality,
            ctime=1,
        )


class Image:
    """All volumes of an image."""

    def __init__(self, volumes: Iterable[Volume]) -> None:
        self.volumes = {each.number: each for each in volumes}

    def copy(self) -> "Image":
        return Image(dataclasses.replace(v, holds=dict(v.holds)) for v in self.volumes.values())

    def view(self, leaf: int | None, without: Iterable[int] = ()) -> dict[int, int]:
        """What a guest reads from `leaf`, following headers; zeros are left out."""
        seen: dict[int, int] = {}
        while leaf is not None:
            for cluster, value in self.volumes[leaf].holds.items():
                seen.setdefault(cluster, value)
            leaf = self.volumes[leaf].link
        return {cluster: value for cluster, value in seen.items() if value}

    def records(self) -> dict[ids.VolumeId, record.Record]:
        """What the look would give."""
        return {v.id: self._record(v) for v in self.volumes.values()}

    def _record(self, v: Volume) -> record.Record:
        link = None if v.link is None else volume_id(v.link)
        marked = int(v.marked * SECOND) if v.legality == volume_metadata.ILLEGAL else 0
        if v.gone:
            fault = record.data_fault(v.id, "No such file or directory")
            return record.Record(v.id, v.own, v.metadata(), faults=(fault,), gone=True, marked_ns=marked)
        return record.Record(v.id, v.own, v.metadata(), link, link, mtime_ns=int(v.time * SECOND), marked_ns=marked)

    def answer(self, question: evidence.Question) -> evidence.Answer:
        """What the real proof would find."""
        upper = [self._number(v) for v in question.upper]
        new = [self._number(v) for v in question.below]
        under = self._headers(self.volumes[upper[-1]].link)
        old = [*upper, *(new[new.index(under[0]) :] if under and under[0] in new else under)]
        shared = set(old) & set(new)
        counts = {c for n in {*old, *new} - shared for c in self.volumes[n].holds}
        if question.child is not None:
            counts -= set(self.volumes[self._number(question.child)].holds)
        target = self.volumes[new[0]] if new else None
        held = counts & set(target.holds if target else ())
        before, after = self._stack(old), self._stack(new)
        equal = {c for c in counts if before.get(c, 0) == after.get(c, 0)}
        return evidence.Answer(
            covered=None if target is not None and target.forgets else counts - held <= equal,
            same=equal == counts,
            common=held <= equal,
            held=len(counts) * CLUSTER,
            compared=len(counts) * CLUSTER,
        )

    def _stack(self, numbers: list[int]) -> dict[int, int]:
        seen: dict[int, int] = {}
        for number in numbers:
            for cluster, value in self.volumes[number].holds.items():
                seen.setdefault(cluster, value)
        return seen

    def _headers(self, number: int | None) -> list[int]:
        found: list[int] = []
        while number is not None and number not in found:
            found.append(number)
            number = self.volumes[number].link
        return found

    @staticmethod
    def _number(volume: ids.VolumeId) -> int:
        return uuid.UUID(volume).fields[0]

    def plan(self, leaf: int, *, chosen: int | None = None, margin: float = 5.0, started: float = 0.0) -> chain.Chain:
        """Plan, answering every question from the contents."""
        answers: dict[evidence.Question, evidence.Answer] = {}
        records = self.records()
        while True:
            result = chain.plan(
                records,
                volume_id(leaf),
                answers,
                walk.Bounds(margin, 64, started),
                None if chosen is None else volume_id(chosen),
            )
            if result.question is None:
                return result
            assert result.question not in answers, "the plan asks twice"
            answers[result.question] = self.answer(result.question)

    def apply(self, changes: Iterable[chain.Change]) -> None:
        """Write changes as the repair would."""
        for change in changes:
            volume = self.volumes[self._number(change.volume)]
            if change.field == chain.BACKING:
                volume.link = self._number(ids.VolumeId(change.after))
            elif change.field == chain.PARENT:
                volume.parent = None if change.after == ids.BLANK else self._number(ids.VolumeId(change.after))
            else:
                setattr(volume, change.field, change.after)

    def numbers(self, result: chain.Chain) -> list[int]:
        """The chain, root first, by number."""
        return [self._number(volume) for volume in result.volumes]

    def numbers_of(self, volumes: Iterable[ids.VolumeId]) -> list[int]:
        """Volumes by number."""
        return [self._number(volume) for volume in volumes]


def healthy(depth: int, *, base_format: str = volume_metadata.COW, template: bool = False) -> Image:
    """A chain 1 <- 2 <- ... <- depth; each volume holds a cluster of its own and one that all hold."""
    volumes = []
    for number in range(1, depth + 1):
        below = number - 1 or None
        volumes.append(Volume(number, below, below, holds={number: number * 100, 0: number}, time=1000.0 * number))
    volumes[0].format = base_format
    volumes[-1].voltype = volume_metadata.LEAF
    if template:
        volumes[0].own, volumes[0].voltype = False, volume_metadata.SHARED
    return Image(volumes)


def consistent(image: Image, result: chain.Chain) -> bool:
    """Whether headers and metadata both are the chain that was answered."""
    numbers = image.numbers(result)
    links = walk.headers(image.records(), volume_id(numbers[-1]))
    if links != list(reversed(result.volumes)):
        return False
    wanted = dict(zip(numbers, [None, *numbers[:-1]], strict=True))
    return all(image.volumes[n].parent == p for n, p in wanted.items() if image.volumes[n].own)
