"""Two domains in plain directories, real tasks and real images: what tests of copies and merges need.

Guest bytes are written and read by the real qemu tools. Making images takes time, so a crash test makes its storage
once and copies it for every crash point (`Disks.copied`).
"""

import dataclasses
import hashlib
import os
import stat
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from storage import errors, ids, layout, locks, settings
from storage.jobs import recovery, taskformat, taskrun, tasks
from storage.qemu import qemuimg
from storage.volumes import creation, image, moving, rollback, volume, volume_metadata
from tests.support import bench, images

MIB = images.MIB
SIZE = 8 * MIB
LIMIT = 50

HERE = ids.DomainId("d0000000-0000-4000-8000-000000000001")
THERE = ids.DomainId("d0000000-0000-4000-8000-000000000002")
IMAGE, OTHER = bench.IMAGE, bench.OTHER
THIRD = ids.ImageId("cccccccc-0000-4000-8000-000000000003")
V1, V2, V3, V4, V5 = bench.new_ids(5)


_guests: dict[object, bytes] = {}


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """What of a file is no hole, by its place."""
    fd = os.open(path, os.O_RDONLY)
    try:
        end = 0
        while end < os.fstat(fd).st_size:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, os.pread(fd, end - start, start)
    finally:
        os.close(fd)


def _digest(path: Path) -> tuple[int, bytes]:
    found = hashlib.sha1(usedforsecurity=False)
    for start, data in _pieces(path):
        if stripped := data.strip(b"\0"):
            found.update(b"%d:" % (start + data.index(stripped[0])))
            found.update(stripped)
    return path.stat().st_size, found.digest()


class RememberingTool:
    """qemu-img that does each thing once and then remembers what came out: crash loops do the same hundreds of times.

    Images of the same name must always have the same content when it is asked.
    """

    def __init__(self) -> None:
        self._real = qemuimg.QemuImg()
        self._made: dict[object, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create(self, path: Path, fmt: str, size: int, *, stop: object = None, **options: Any) -> None:
        self._do((fmt, size, *sorted(options.items())), path, lambda: self._real.create(path, fmt, size, **options))

    def convert(self, source: Path, source_format: str, target: Path, target_format: str, **options: Any) -> None:
        beneath = options.get("beneath")
        key = (source.name, source_format, target.name, target_format, beneath and beneath.name)
        self._do(key, target, lambda: self._real.convert(source, source_format, target, target_format, **options))

    def rebase(self, path: Path, *names: str, **options: Any) -> None:
        self._do(("rebase", path.name, *names), path, lambda: self._real.rebase(path, *names, **options))

    def commit(self, top: Path, base: Path, **options: Any) -> None:
        self._do(("commit", top.name, base.name), base, lambda: self._real.commit(top, base, **options))

    def snapshot(self, path: Path, action: str, name: str) -> None:
        self._real.snapshot(path, action, name)

    def _do(self, key: object, path: Path, action: Callable[[], None]) -> None:
        if key not in self._made:
            action()
            self._made[key] = path.read_bytes()
            return
        with path.open("r+b") as stream:
            stream.truncate(0)
            stream.write(self._made[key])


class Disks:
    """Two domains under one root.

    Args:
        root: where; an existing one is taken over.
        versions: of the two domains.
        classes: of the two domains.
        program: what is run as qemu-img.
        tool: what is used instead, for jobs; rollbacks run the program.
    """

    def __init__(
        self,
        root: Path,
        versions: tuple[int, int] = (3, 3),
        classes: tuple[str, str] = ("Data", "Data"),
        *,
        has_leases: bool = True,
        program: str | Path = "qemu-img",
        tool: RememberingTool | None = None,
    ) -> None:
        self.root = root
        self.here, self.there = (
            bench.PlainDomain(name, root / "mnt" / f"_disk{n}" / name, version, domain_class, has_leases)
            for n, (name, version, domain_class) in enumerate(zip((HERE, THERE), versions, classes, strict=True))
        )
        for domain in (self.here, self.there):
            layout.images(domain.path).mkdir(parents=True, exist_ok=True)
        self.saved: dict[ids.TaskId, dict[str, bytes]] = {}
        services = types.SimpleNamespace(
            domains=self,
            repository=layout.Repository(root),
            settings=settings.Settings(root, qemu_img=str(program)),
        )
        self.table = recovery.Table(rollback.ACTIONS, context=services)
        self.tool: Any = tool or qemuimg.QemuImg(str(program))
        self.task: tasks.Task

    def find(self, domain_id: ids.DomainId) -> bench.PlainDomain:
        for domain in (self.here, self.there):
            if domain.id == domain_id:
                return domain
        raise errors.StorageDomainDoesNotExist(domain=domain_id)

    def copied(self, root: Path, tool: RememberingTool | None = None) -> "Disks":
        """The same storage under another root: holes and hard links kept, nothing at work."""
        copied_names: dict[tuple[int, int], Path] = {}
        for place, _, names in os.walk(self.root):
            target = root / Path(place).relative_to(self.root)
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                _copy_file(Path(place) / name, target / name, copied_names)
        versions, classes = zip(*((d.version, d.domain_class) for d in (self.here, self.there)), strict=True)
        return Disks(root, versions, classes, has_leases=self.here.has_leases, tool=tool)

    # ------------------------------------------------------------ tasks

    def run(self, job: Callable[[tasks.Task], object], verb: str = "aVerb") -> tasks.Task:
        """Run a job to its end, whatever that is. A `Crash` passes through."""
        record = tasks.Record(ids.TaskId.new(), verb, jobs=(verb,), locked=(locks.shared(HERE),))
        self.task = task = self._task(record)
        task.claim()
        for state in (tasks.State.PREPARING, tasks.State.ACQUIRING, tasks.State.QUEUED):
            task.enter(state)
        taskrun.run(self.table, job, task)
        return task

    def done(self, job: Callable[[tasks.Task], object]) -> tasks.Task:
        """Run a job that must succeed."""
        task = self.run(job)
        assert task.state is tasks.State.FINISHED, task.record.message
        return task

    def restart(self) -> list[tasks.Task]:
        """What the next process does: all that is not done is rolled back."""
        loaded = [self._task(taskformat.decode(task_id, text)) for task_id, text in self.saved.items()]
        for task in loaded:
            task.claim()
            if task.state not in tasks.DONE:
                task.restart()
                taskrun.resume(self.table, task)
                assert task.state is tasks.State.RECOVERED, task.record.message
        return loaded

    def _task(self, record: tasks.Record) -> tasks.Task:
        return tasks.Task(record, store=self.root, save=self._save, table=self.table)

    def _save(self, store: Path, record: tasks.Record) -> None:
        self.saved[record.id] = taskformat.encode(record, store)

    # ------------------------------------------------------------ images

    def route(self, *, force: bool = False, back: bool = False) -> moving.Route:
        """From the first domain to the second."""
        ends = (self.there, self.here) if back else (self.here, self.there)
        return moving.Route(*ends, LIMIT, force)

    def make(
        self, image_id: ids.ImageId, volume_id: ids.VolumeId, parent: ids.VolumeId | None = None, **changes: Any
    ) -> Any:
        """A volume in the first domain; returns the path of its data."""
        domain = changes.pop("domain", self.here)
        values: dict[str, Any] = {
            "image": image_id,
            "volume": volume_id,
            "size": SIZE,
            "format": volume_metadata.COW if parent else volume_metadata.RAW,
            "type": volume_metadata.SPARSE,
            "disktype": "2",
            "description": f"volume {volume_id[:8]}",
            "source_image": image_id,
            "parent": parent,
        }
        request = creation.Request(**values | changes)
        self.done(lambda task: creation.create(domain, request, task, self.tool, self.root))
        return self.data(volume_id, image_id, domain)

    def chain(
        self, *volume_ids: ids.VolumeId, image_id: ids.ImageId = IMAGE, base: str = "RAW", **changes: Any
    ) -> None:
        """A chain, base first: layer n holds n at 64 KiB * n, and at 1 MiB, which all hold; the base holds 3 MiB more
        of 200 at 4 MiB, and each leaves 5 MiB + 64 KiB * n for zeros over it."""
        parent = None
        for number, volume_id in enumerate(volume_ids, 1):
            made = {"format": base, **changes} if parent is None else {}
            path = self.make(image_id, volume_id, parent, **made)
            fmt = self.fmt(volume_id, image_id)
            writes = [f"write -q -P {number} {number * 65536} 64k", f"write -q -P {number} 1M 64k"]
            writes += ["write -q -P 200 4M 3M"] if parent is None else [f"write -q -z {5 * MIB + number * 65536} 64k"]
            images.qemu_io(path, *writes, "flush", fmt=fmt)
            parent = volume_id

    def data(self, volume_id: str, image_id: str = IMAGE, domain: bench.PlainDomain | None = None) -> Path:
        return layout.images((domain or self.here).path) / image_id / volume_id

    def meta(
        self, volume_id: ids.VolumeId, image_id: ids.ImageId = IMAGE, domain: Any = None
    ) -> volume_metadata.VolumeMetadata:
        return image.read_metadata(domain or self.here, image_id, volume_id)

    def fmt(self, volume_id: ids.VolumeId, image_id: ids.ImageId = IMAGE, domain: Any = None) -> str:
        return volume.QEMU_FORMATS[self.meta(volume_id, image_id, domain).format]

    def guest(self, volume_id: ids.VolumeId, image_id: ids.ImageId = IMAGE, domain: Any = None) -> bytes:
        """What a guest reads of this volume. The tools are asked once for each content of the image's files."""
        path, fmt = self.data(volume_id, image_id, domain), self.fmt(volume_id, image_id, domain)
        sums = [(each.name, _digest(each)) for each in sorted(path.parent.iterdir()) if ids.is_id(each.name)]
        key = (volume_id, fmt, *sums)
        if key not in _guests:
            _guests[key] = images.read_guest(path, fmt=fmt)
        return _guests[key]

    def guests(self, *volume_ids: ids.VolumeId, image_id: ids.ImageId = IMAGE, domain: Any = None) -> dict[str, bytes]:
        return {each: self.guest(each, image_id, domain) for each in volume_ids}

    def names(self, image_id: ids.ImageId | None = None, domain: Any = None) -> list[str]:
        """Names in an image's directory, or of all images."""
        place = layout.images((domain or self.here).path)
        return sorted(os.listdir(place / image_id if image_id else place))

    def state(self, *, sizes: bool = True) -> Mapping[str, object]:
        """Everything below both domains' images: records by their text, other files by their length."""
        found: dict[str, object] = {}
        for place, directories, names in os.walk(self.root / "mnt"):
            for name in (*directories, *names):
                path = Path(place) / name
                info = path.lstat()
                value: object = stat.S_IFMT(info.st_mode)
                if name.endswith(".meta"):
                    value = path.read_text()
                elif stat.S_ISREG(info.st_mode) and sizes:
                    value = info.st_size
                found[str(path.relative_to(self.root))] = value
        return found

    def rewrite(
        self, volume_id: ids.VolumeId, image_id: ids.ImageId = IMAGE, domain: Any = None, **changes: Any
    ) -> None:
        """Change a record behind everybody's back."""
        domain = domain or self.here
        changed = dataclasses.replace(self.meta(volume_id, image_id, domain), **changes)
        image.write_metadata(domain, image_id, volume_id, changed)


def _copy_file(path: Path, target: Path, known: dict[tuple[int, int], Path]) -> None:
    info = path.lstat()
    key = (info.st_dev, info.st_ino)
    if key in known:
        os.link(known[key], target)
        return
    known[key] = target
    with target.open("wb") as copy:
        for start, data in _pieces(path):
            copy.seek(start)
            copy.write(data)
        copy.truncate(info.st_size)
    target.chmod(stat.S_IMODE(info.st_mode))


def wrapper(path: Path, body: str) -> Path:
    """A program in front of qemu-img: a shell script that gets its arguments and may `exec qemu-img "$@"`."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def killed_at(path: Path, command: str, seconds: str = "0.05") -> Path:
    """A qemu-img that kills itself, like a crashing host, soon after it began to move data by a command.

    Only the long form of a command, the one that reports progress, moves data; what undoes it must be let through.
    """
    run_and_die = f'qemu-img "$@" & pid=$!\nsleep {seconds}; kill -9 $pid; kill -9 $$'
    body = f'[ "$1 $2" = "{command} -p" ] || exec qemu-img "$@"\n{run_and_die}'
    return wrapper(path, body)


def sleeping_at(path: Path, command: str, marker: Path) -> Path:
    """A qemu-img that hangs in a command, having written its process id to a marker."""
    return wrapper(path, f'[ "$1 $2" = "{command} -p" ] || exec qemu-img "$@"\necho $$ > {marker}\nexec sleep 60')


def stopped_when(marker: Path, job: Callable[[tasks.Task], object]) -> Callable[[tasks.Task], object]:
    """A job that is asked to stop once the marker is written."""

    def run(task: tasks.Task) -> object:
        def stop() -> None:
            while not (marker.exists() and marker.read_text().strip()):
                time.sleep(0.005)
            task.stopping.set()

        threading.Thread(target=stop).start()
        return job(task)

    return run
