"""A domain in a plain directory and real tasks on it: what volumes need, without a daemon.

`Bench.run` runs a job as the task machine does; `Bench.restart` is the next process: it reads the records of the tasks
and rolls back what was cut off. Records are kept as the bytes that would be on disk. That saving them is atomic is
tested with the task store; here a crash falls before or after.
"""

import contextlib
import dataclasses
import os
import subprocess
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage import errors, ids, layout, locks
from storage.jobs import recovery, taskformat, taskrun, tasks
from storage.qemu import imagelock, qemuimg
from storage.volumes import creation, deletion, image, rollback, volume_metadata

MIB = 1024 * 1024


@dataclasses.dataclass
class PlainDomain:
    """Stands in for a file domain: a directory of images, and settings that a test chooses."""

    id: ids.DomainId
    path: Path
    version: int = 3
    domain_class: str = "Data"
    has_leases: bool = True
    free: int = 1 << 40

    def image_ids(self) -> list[ids.ImageId]:
        return [ids.ImageId(name) for name in sorted(os.listdir(layout.images(self.path))) if ids.is_id(name)]

    def image_directory(self, image_id: ids.ImageId) -> Path:
        return layout.images(self.path) / image_id

    def space(self) -> tuple[int, int]:
        return 2 * self.free, self.free


class CachedTool:
    """Makes images with the real qemu-img the first time and copies them the next: crash loops make hundreds.

    Like qemu-img it writes into the file that is there, so the file stays the same one.
    """

    def __init__(self) -> None:
        self._real = qemuimg.QemuImg()
        self._made: dict[object, bytes] = {}

    def create(self, path: Path, fmt: str, size: int, *, stop: object = None, **options: Any) -> None:
        key = (fmt, size, *sorted(options.items()))
        if key not in self._made:
            self._real.create(path, fmt, size, **options)
            self._made[key] = path.read_bytes()
        with path.open("r+b") as stream:
            stream.truncate(0)
            stream.write(self._made[key])


class Bench:
    """A domain, a task store and what the storage floor needs to run tasks on them."""

    def __init__(self, root: Path, tool: CachedTool | qemuimg.QemuImg | None = None, **settings: Any) -> None:
        self.root = root
        domain_id = ids.DomainId("d0000000-0000-4000-8000-000000000000")
        self.domain = PlainDomain(domain_id, root / "mnt" / "_disk" / domain_id, **settings)
        self.images = layout.images(self.domain.path)
        self.images.mkdir(parents=True)
        self.saved: dict[ids.TaskId, dict[str, bytes]] = {}
        self.tool: Any = tool or CachedTool()
        services = types.SimpleNamespace(domains=self, repository=layout.Repository(root))
        self.table = recovery.Table(rollback.ACTIONS, context=services)
        self.task: tasks.Task

    def find(self, domain_id: ids.DomainId) -> PlainDomain:
        if domain_id != self.domain.id:
            raise errors.StorageDomainDoesNotExist(domain=domain_id)
        return self.domain

    # ------------------------------------------------------------ tasks

    def run(self, verb: str, job: Callable[[tasks.Task], object]) -> tasks.Task:
        """Run a job to its end, whatever that is; look at the task's state. A `Crash` passes through."""
        record = tasks.Record(ids.TaskId.new(), verb, jobs=(verb,), locked=(locks.shared(self.domain.id),))
        task = self._task(record)
        self.task = task
        task.claim()
        for state in (tasks.State.PREPARING, tasks.State.ACQUIRING, tasks.State.QUEUED):
            task.enter(state)
        taskrun.run(self.table, job, task)
        return task

    def restart(self) -> list[tasks.Task]:
        """What the next process does with the records of this one: all that is not done is rolled back."""
        loaded = [self._task(taskformat.decode(task_id, text)) for task_id, text in self.saved.items()]
        for task in loaded:
            task.claim()
            if task.state not in tasks.DONE:
                task.restart()
                taskrun.resume(self.table, task)
        return loaded

    def _task(self, record: tasks.Record) -> tasks.Task:
        return tasks.Task(record, store=self.root, save=self._save, table=self.table)

    def _save(self, store: Path, record: tasks.Record) -> None:
        self.saved[record.id] = taskformat.encode(record, store)

    def revert(self, task: tasks.Task) -> None:
        """What revertTask does with a finished task."""
        task.enter(tasks.State.RACQUIRING)
        taskrun.recover(self.table, task)

    # ------------------------------------------------------------ volumes

    def request(
        self, image_id: ids.ImageId, volume_id: ids.VolumeId, parent: ids.VolumeId | None = None, **changes: Any
    ) -> creation.Request:
        values: dict[str, Any] = {
            "image": image_id,
            "volume": volume_id,
            "size": MIB,
            "format": volume_metadata.COW if parent else volume_metadata.RAW,
            "type": volume_metadata.SPARSE,
            "disktype": "2",
            "description": "test",
            "source_image": image_id,
            "parent": parent,
        }
        return creation.Request(**values | changes)

    def create(
        self, image_id: ids.ImageId, volume_id: ids.VolumeId, parent: ids.VolumeId | None = None, **changes: Any
    ) -> tasks.Task:
        request = self.request(image_id, volume_id, parent, **changes)
        return self.run("createVolume", lambda t: creation.create(self.domain, request, t, self.tool, self.root))

    def delete(self, image_id: ids.ImageId, *volume_ids: ids.VolumeId, force: bool = False) -> tasks.Task:
        return self.run(
            "deleteVolume", lambda t: deletion.delete_volumes(self.domain, image_id, volume_ids, t, force=force)
        )

    def chain(self, image_id: ids.ImageId, *volume_ids: ids.VolumeId, **changes: Any) -> None:
        """Make a chain, base first."""
        parent = None
        for volume_id in volume_ids:
            task = self.create(image_id, volume_id, parent, **(changes if parent is None else {}))
            assert task.state is tasks.State.FINISHED, task.record.message
            parent = volume_id

    def meta(self, image_id: ids.ImageId, volume_id: ids.VolumeId) -> volume_metadata.VolumeMetadata:
        return image.read_metadata(self.domain, image_id, volume_id)

    def write(self, image_id: ids.ImageId, volume_id: ids.VolumeId, **changes: Any) -> None:
        """Change a volume's record behind everybody's back."""
        changed = dataclasses.replace(self.meta(image_id, volume_id), **changes)
        image.write_metadata(self.domain, image_id, volume_id, changed)

    # ------------------------------------------------------------ looking

    def state(self, temporaries: bool = False) -> dict[str, object]:
        """Everything below ``images``: directories, records with their text, other files with their size."""
        found: dict[str, object] = {}
        for place, _, names in os.walk(self.images):
            where = Path(place)
            found[str(where.relative_to(self.images))] = None
            for name in names:
                path = where / name
                if temporaries or not name.endswith(".new"):
                    text = path.read_text() if name.endswith(".meta") else path.lstat().st_size
                    found[str(path.relative_to(self.images))] = text
        return found


@contextlib.contextmanager
def held(path: Path, fmt: str = "qcow2", *, readonly: bool = False) -> Iterator[None]:
    """A live process has the image open while the block runs."""
    mode = ["-r"] if readonly else []
    command = ["qemu-io", "-f", fmt, *mode, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while not imagelock.holders(path):
                assert process.poll() is None, "qemu-io could not open it"
                assert time.monotonic() < deadline, "nobody has it open"
                time.sleep(0.01)
            yield
        finally:
            process.kill()


def code(task: tasks.Task) -> int:
    """The code that a task ended with."""
    return task.record.code


def new_ids(count: int) -> list[ids.VolumeId]:
    """Volume ids that are easy to tell apart in a failure."""
    return [ids.VolumeId(f"{n:08x}-0000-4000-8000-0000000000{n:02x}") for n in range(1, count + 1)]


IMAGE = ids.ImageId("aaaaaaaa-0000-4000-8000-000000000001")
OTHER = ids.ImageId("bbbbbbbb-0000-4000-8000-000000000002")
