"""What can happen to an image until somebody calls for help, played on the model: a guest, merges, crashes.

Each era ends with qemu killed or with the host losing power, somewhere in or after a merge, with metadata as old as it
may be. `Player.truth` is what the guest's disk must show: everything that the guest flushed. What was not flushed when
the power went, copies of a running merge above all, may be lost, and so may the times of the last writes. After a
repair life goes on: dropped volumes are deleted, or half deleted, or left; snapshots are taken, or gone back to.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from storage.volumes import volume_metadata
from tests.support import model

CLUSTERS = 8
COMMIT = 30.0
"""Seconds after which a file system has written the times of files for sure."""

MARGIN = 5.0
_LAG = 2.0


class Player:
    """Plays one history; every choice is drawn.

    Attributes:
        image: what storage shows.
        leaf: the volume that the caller calls the leaf.
        running: the volume that holds the guest's disk.
        truth: what a guest on it must see: cluster to value, zeros left out.
        others: the same for other leaves, on which no guest runs.
        started: when the host was started, for the bounds; 0 for long ago.
        told: what happened, for the message of a failed test.
    """

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw
        self.now = 1_000_000.0
        self.serial = 100
        self.told: list[str] = []
        self.log: dict[int, list[float]] = {}
        self.commits: list[float] = []
        self.unflushed: dict[int, dict[int, int | None]] = {}
        self.switched: dict[int, int] = {}
        self.stale: int | None = None
        self.image = self._chain()
        self.leaf = self.running = max(self.image.volumes)
        self.truth = self.image.view(self.leaf)
        self.others: dict[int, dict[int, int]] = {}
        self.started = 0.0

    def one_of(self, *values: object) -> object:
        return self.draw(st.sampled_from(values))

    def yes(self) -> bool:
        return bool(self.draw(st.booleans()))

    def tell(self, text: str) -> None:
        self.told.append(f"{self.now - 1_000_000:.3f}: {text}")

    def _chain(self) -> model.Image:
        depth = self.draw(st.integers(2, 5))
        base = self.one_of(volume_metadata.RAW, volume_metadata.COW)
        image = model.healthy(depth, base_format=str(base), template=depth > 2 and self.yes())
        for number, volume in image.volumes.items():
            volume.version = int(str(self.one_of(2, 3)))
            volume.holds = {}
            for cluster in self.draw(st.sets(st.integers(0, CLUSTERS - 1), max_size=5)):
                zero = volume.version == 3 and not volume.forgets and self.draw(st.integers(0, 4)) == 0
                volume.write(cluster, 0 if zero else 10 * number + cluster)
            volume.time = self.now + number * 100 * int(str(self.one_of(0, 1)))
        self.now += 1000
        return image

    def wait(self) -> None:
        self.now += float(str(self.one_of(0.01, 1.0, 20.0, 3600.0)))

    def write(self, number: int, cluster: int, value: int) -> None:
        """Put a cluster into a volume; an allocation makes the file system write all times."""
        volume = self.image.volumes[number]
        if cluster not in volume.holds:
            self.commits.append(self.now)
        volume.write(cluster, value)
        self.log.setdefault(number, []).append(self.now)

    def copy(self, number: int, cluster: int, value: int) -> None:
        """Write to the target of a merge, unflushed. Zeros need not be written where zeros are read."""
        if value == 0 and not self.image.view(number).get(cluster) and self.yes():
            return
        lost = self.unflushed.setdefault(number, {})
        lost.setdefault(cluster, self.image.volumes[number].holds.get(cluster))
        self.write(number, cluster, value)

    def guest(self, mirror: int | None = None, most: int = 4) -> set[int]:
        """The guest writes and flushes; with a mirror some of it reaches the target soon. The clusters that did not."""
        behind = set()
        self.switched.clear()
        for cluster in self.draw(st.lists(st.integers(0, CLUSTERS - 1), max_size=most)):
            self.now += float(str(self.one_of(0.0, 0.01, 1.0)))
            self.serial += 1
            value = int(str(self.one_of(0, self.serial, self.serial)))
            self.write(self.running, cluster, value)
            self.truth.pop(cluster, None)
            if value:
                self.truth[cluster] = value
            self.tell(f"guest writes {value} to cluster {cluster} of {self.running}")
            behind.add(cluster)
            if mirror is not None and self.yes():
                self.catch_up(mirror, behind)
                behind.clear()
        return behind

    def catch_up(self, target: int, clusters: set[int]) -> None:
        self.now += float(str(self.one_of(0.0, 0.004, _LAG)))
        for cluster in sorted(clusters & set(self.image.volumes[self.running].holds)):
            self.copy(target, cluster, self.image.volumes[self.running].holds[cluster])

    # ------------------------------------------------------------ merges beneath the leaf

    def chain(self) -> list[int]:
        """Volumes that a merge may write to or take away, from the leaf downwards: no other leaf stands on them."""
        shared = {n for leaf in self.others for n in self.image._headers(leaf)}
        return [n for n in self.image._headers(self.running) if self.image.volumes[n].own and n not in shared]

    def merge_below(self, last: bool) -> bool:
        """A merge of volumes beneath the leaf; True when it ends the history."""
        chain = self.chain()
        if len(chain) < 3:
            return False
        at = self.draw(st.integers(0, len(chain) - 3))
        child, top = chain[at], chain[at + 1]
        base = chain[self.draw(st.integers(at + 2, len(chain) - 1))]
        between = chain[at + 1 : chain.index(base)]
        end = self.one_of("killed", "complete", "synced", "deleted", *(["torn"] if last else []))
        self.tell(f"merge {between} into {base} beneath {child}: {end}")
        moved = {c: v for n in reversed(between) for c, v in self.image.volumes[n].holds.items()}
        for cluster, value in moved.items():
            self.now += 0.01
            if end not in ("killed", "torn") or self.yes():
                self.copy(base, cluster, value)
        if end == "killed":
            return False
        self.switched[child] = top
        self.image.volumes[child].link = base
        if end == "torn":
            return True
        self.unflushed.pop(base, None)
        if end in ("synced", "deleted"):
            self.image.volumes[child].parent = base
        if end == "deleted":
            self.switched.clear()
            for number in between:
                del self.image.volumes[number]
        return False

    # ------------------------------------------------------------ a merge of the leaf

    def merge_leaf(self) -> None:
        leaf, volume = self.running, self.image.volumes[self.running]
        target = volume.link
        if target not in self.chain():
            return
        end = str(self.one_of("copying", "ready", "marked", "pivoted", "pivoted", "failed", "only marked"))
        self.tell(f"merge leaf {leaf} into {target}: {end}")
        if end == "only marked":
            self.mark(leaf)
            self.wait()
            self.guest()
            return
        for cluster, value in list(volume.holds.items()):
            self.now += 0.01
            if end != "copying" or self.yes():
                self.copy(target, cluster, value)
        self.wait()
        behind = self.guest(target)
        if end in ("copying", "ready"):
            return
        if self.yes():
            self.catch_up(target, behind)
            behind = set()
        self.mark(leaf)
        self.now += 0.01
        behind |= self.guest(target, most=2)
        if end == "pivoted":
            self.pivot(leaf, target, behind)
        elif end == "failed":
            self.unflushed.pop(target, None)
            self.wait()
            self.guest()

    def pivot(self, leaf: int, target: int, behind: set[int]) -> None:
        self.catch_up(target, behind | set(self.image.volumes[leaf].holds))
        assert self.image.view(target) == self.truth
        self.unflushed.pop(target, None)
        self.running = target
        self.tell("pivot")
        if self.yes():
            self.stale = leaf
        for _ in range(self.draw(st.integers(0, 2))):
            self.wait()
            self.guest()

    def mark(self, number: int) -> None:
        self.now += 0.01
        volume = self.image.volumes[number]
        volume.legality, volume.marked = volume_metadata.ILLEGAL, self.now
        self.commits.append(self.now)
        self.tell(f"mark {number}")

    # ------------------------------------------------------------ the end

    def crash(self) -> None:
        self.now += float(str(self.one_of(0.0, 0.5, 3.0)))
        end = self.one_of("the host loses power", "qemu is killed", "qemu is killed", "qemu quits")
        power = end == "the host loses power"
        self.tell(str(end))
        if end == "qemu quits":
            self.close()
        horizon = self.now
        if power:
            self.lose()
            horizon = max([self.now - self.draw(st.floats(0, COMMIT)), *self.commits])
        for number, times in self.log.items():
            kept = [each for each in times if each <= horizon]
            if kept and number in self.image.volumes:
                self.image.volumes[number].time = kept[-1]
        self.log.clear()
        self.unflushed.clear()
        self.switched.clear()
        self.stale = None
        self.now += 60
        if power or self.draw(st.integers(0, 3)) == 0:
            self.started = self.now

    def close(self) -> None:
        """An orderly end flushes what qemu still keeps of tables, also of a leaf that it has left, if it is still open.

        A pivot flushes the target only; so a stale leaf may be written long after the guest's last write.
        """
        self.wait()
        for number in (self.stale, self.running):
            if number is not None and self.yes():
                self.log.setdefault(number, []).append(self.now)

    def lose(self) -> None:
        """Unflushed clusters of a target may be what they were, or rubbish; an unflushed header may be the old one."""
        for child, link in self.switched.items():
            if self.yes():
                self.image.volumes[child].link = link
        for number, clusters in self.unflushed.items():
            if number not in self.image.volumes:
                continue
            holds = self.image.volumes[number].holds
            for cluster, before in clusters.items():
                kind = self.one_of("kept", "back", "rubbish")
                if kind == "back" and before is None:
                    holds.pop(cluster, None)
                elif kind == "back" and before is not None:
                    holds[cluster] = before
                elif kind == "rubbish" and cluster in holds:
                    holds[cluster] = 9999

    # ------------------------------------------------------------ eras

    def era(self) -> None:
        """Some merges one after the other, the last of them maybe cut off, with a guest in between."""
        self.guest()
        merges = self.draw(st.integers(0, 3))
        for number in range(merges):
            self.wait()
            if self.merge_below(last=number == merges - 1):
                return self.crash()
            self.guest()
        if self.yes():
            self.merge_leaf()
        return self.crash()

    def go_on(self, chain: list[int], dropped: list[int]) -> None:
        """Use an image after its repair: the engine deletes what was dropped, or not yet, and takes a snapshot."""
        self.leaf = self.running = chain[-1]
        self.wait()
        for number in dropped:
            fate = self.one_of("deleted", "half deleted", "left")
            self.tell(f"dropped volume {number} is {fate}")
            if fate == "deleted":
                del self.image.volumes[number]
            elif fate == "half deleted":
                self.image.volumes[number].gone = True
                self.image.volumes[number].legality = volume_metadata.ILLEGAL
        if self.yes():
            self.snapshot(self.running if self.yes() else chain[self.draw(st.integers(0, len(chain) - 1))])

    def snapshot(self, parent: int) -> None:
        """A new leaf: on the running one, or in its stead on an older one (a preview)."""
        beneath = self.image.volumes[parent]
        if parent != self.running:
            self.others[self.running] = self.truth
        number = max(self.image.volumes) + 1
        version = int(str(self.one_of(2, 3)))
        self.image.volumes[number] = model.Volume(
            number, parent, parent, voltype=volume_metadata.LEAF, time=self.now, version=version
        )
        if beneath.own:
            beneath.voltype = volume_metadata.INTERNAL
        self.commits.append(self.now)
        self.leaf = self.running = number
        self.truth = self.image.view(number)
        self.tell(f"snapshot {number} on {parent}")
