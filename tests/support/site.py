"""A host that is SPM of a pool of two domains, in this process: real verbs, locks, tasks and images, and hooks between.

Like an engine it calls verbs by their XML-RPC names and waits for tasks; unlike a daemon of its own process it can be
stopped at any change of a file, so that something else happens just there (`tests.support.arrival`).
"""

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rpc import bridge, catalogue
from storage import errors, ids, layout, services, settings
from storage.hsm import transfer
from storage.jobs import tasks
from storage.volumes import transfer as volume_transfer
from tests.support import daemon
from vdsmlite import api, status

BLANK = daemon.BLANK
VERBS = catalogue.load()
_CONTEXT = bridge.Context(client="127.0.0.1:1")
_CLASSES = {"Data": 1, "Iso": 2}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call, or its task, ended.

    Attributes:
        code: the status code.
        message: its text.
        clean: nothing is left to be undone.
    """

    code: int
    message: str = ""
    clean: bool = True


class Site:
    """The host.

    Args:
        root: an existing directory, empty or that of an earlier one, whose storage it takes over.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        wanted = settings.Settings(repository=root / "repository", lock_timeout=5.0, workers=4)
        self.services = services.build(wanted)
        self._bridge = bridge.Bridge(VERBS, api.API(self.services), status.translate)
        known = root / "known"
        fresh = [str(uuid.uuid4()) for _ in range(3)]
        self.pool, self.here, self.there = fresh if not known.exists() else known.read_text().split()
        for number, domain in enumerate((self.here, self.there)):
            self.connect(root / f"storage{number}", domain if not known.exists() else None)
        if not known.exists():
            self.call("createStoragePool", 0, self.pool, "a pool", self.here, [self.here, self.there], 1)
            known.write_text(f"{self.pool} {self.here} {self.there}")
        active = dict.fromkeys((self.here, self.there), "active")
        self.call("connectStoragePool", self.pool, 1, "key", self.here, 1, active)
        self.done("spmStart", self.pool, -1, -1, 0, "false")

    def connect(self, place: Path, new_domain: str | None, domain_class: str = "Data") -> None:
        """Connect a directory, and make a domain in it."""
        place.mkdir(exist_ok=True)
        self.call("connectStorageServer", 4, BLANK, [{"id": "x", "connection": str(place)}])
        if new_domain:
            self.call("createStorageDomain", 4, new_domain, "a domain", str(place), _CLASSES[domain_class], 3)

    def close(self) -> None:
        """End in an orderly way."""
        self.services.close(5)

    def reborn(self) -> "Site":
        """What the next process makes of the storage."""
        self.close()
        return Site(self.root)

    # ------------------------------------------------------------ calls

    def answer(self, verb: str, *values: Any) -> bridge.Reply:
        """The reply of a verb, whatever its code."""
        return self._bridge.call_positional(verb, values, _CONTEXT)

    def named(self, method: str, params: Mapping[str, Any]) -> bridge.Reply:
        """The same by JSON-RPC name and parameters by name."""
        return self._bridge.call_named(method, params, _CONTEXT)

    def call(self, verb: str, *values: Any) -> dict[str, Any]:
        """Call what must succeed at once."""
        reply = self.answer(verb, *values)
        assert reply.code == 0, f"{verb}: {reply.code} {reply.message}"
        return dict(reply.result)

    def outcome(self, verb: str, *values: Any) -> Outcome:
        """Call, and where a task is made wait for its end and clear it."""
        reply = self.answer(verb, *values)
        if reply.code or "uuid" not in reply.result:
            return Outcome(reply.code, reply.message)
        return self._settled(ids.TaskId(reply.result["uuid"]))

    def done(self, verb: str, *values: Any) -> None:
        """Call what must succeed, its task included."""
        found = self.outcome(verb, *values)
        assert found.code == 0 and found.clean, f"{verb}: {found}"

    def put(self, image: "Disk", volume: str, source: volume_transfer.Source, length: int) -> Outcome:
        """Replace a volume's content, as a stream does."""
        where = (ids.PoolId(self.pool), ids.DomainId(image.domain), ids.ImageId(image.id), ids.VolumeId(volume))
        try:
            task = transfer.download_from_stream(self.services, *where, length, source)
        except errors.StorageError as error:
            return Outcome(*status.translate(error, None))
        return self._settled(task.id)

    def _settled(self, task: ids.TaskId) -> Outcome:
        assert self.services.tasks.wait(task, 60.0), "the task hangs"
        found: Any = tasks.status(self.services.tasks.get(task))
        with contextlib.suppress(errors.StorageError):
            self.services.tasks.clear(task)
        return Outcome(found["code"], found["message"], found["taskResult"] in ("success", "cleanSuccess"))

    # ------------------------------------------------------------ images

    def disk(self, formats: Sequence[str], size: int, domain: str | None = None) -> "Disk":
        """An image with a volume a format, root first, each a snapshot of the one before."""
        made = Disk(self, str(uuid.uuid4()), domain or self.here, tuple(str(uuid.uuid4()) for _ in formats))
        parent = BLANK
        for volume, fmt in zip(made.volumes, formats, strict=True):
            self.volume(made, volume, size, fmt, made.id, parent)
            parent = volume
        return made

    def volume(self, image: "Disk", volume: str, size: int, fmt: str, source: str, parent: str) -> None:
        """Make one volume."""
        kind = (str(size), daemon.RAW if fmt == "raw" else daemon.COW, daemon.SPARSE, daemon.DATA_DISK)
        source = BLANK if parent == BLANK else source
        self.done("createVolume", image.domain, self.pool, image.id, *kind, volume, "a disk", source, parent)

    def forget(self, image: str) -> None:
        """Have an image gone from both domains, without a verb."""
        for domain in (self.here, self.there):
            shutil.rmtree(self.images(domain) / image, ignore_errors=True)

    def images(self, domain: str) -> Path:
        """Where a domain's images are."""
        return layout.images(self.services.domains.find(ids.DomainId(domain)).path)


@dataclasses.dataclass(frozen=True)
class Disk:
    """An image and its chain.

    Attributes:
        volumes: root first.
    """

    site: Site
    id: str
    domain: str
    volumes: tuple[str, ...]

    @property
    def directory(self) -> Path:
        return self.site.images(self.domain) / self.id

    def path(self, number: int) -> Path:
        """Data of a volume, counted from the root."""
        return self.directory / self.volumes[number]

    def records(self) -> dict[str, str]:
        """What is in the directory: records by their text, other files by their length; nothing where it is gone."""
        found: dict[str, str] = {}
        if not self.directory.exists():
            return found
        for path in sorted(self.directory.iterdir()):
            found[path.name] = path.read_text() if path.suffix == ".meta" else f"{path.stat().st_size} bytes"
        return found


@contextlib.contextmanager
def running(root: Path) -> Iterator[Site]:
    """A new site, closed afterwards."""
    made = Site(root)
    try:
        yield made
    finally:
        made.close()
