"""One host that answers verbs, in this process or in a process of its own, driven in the same words.

A scenario is written once, as calls of an engine, and runs on both: in this process, where each change of a file can be
made to fail, and on a real daemon, which can be killed.
"""

import dataclasses
import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rpc import bridge, catalogue
from storage import errors, ids, services as storage_services, settings
from storage.hsm import transfer
from tests.support import daemon as support, faults
from vdsmlite import api, status

Reply = dict[str, Any]
BLANK = support.BLANK
DONE = ("finished", "aborted", "failed")
_SECONDS = 30.0


class Host(Protocol):
    """What answers verbs."""

    def answer(self, verb: str, *arguments: Any) -> Reply:
        """The whole answer, ``status`` included, whatever the code."""

    def put(self, pool: str, domain: str, image: str, volume: str, data: bytes) -> int:
        """Send a volume's content; the code of the outcome."""

    def rest(self, task: str) -> None:
        """Wait until a task rests."""

    def quiet(self) -> None:
        """Wait until all tasks rest, also those of which nobody was told the id."""


class MortalHost(Host, Protocol):
    """A host that can be ended."""

    def die(self) -> None:
        """End like a killed process."""


class LocalHost:
    """The storage floor with the API on top, in this process.

    Args:
        root: directory of the repository; an existing repository is taken over, as after a restart.

    Attributes:
        fault: what strikes it; after a crash nobody waits for its tasks.
    """

    def __init__(self, root: Path) -> None:
        wanted = settings.Settings(root / "repository", lock_timeout=5.0, workers=2, prove_seconds=30.0)
        self.services = storage_services.build(wanted)
        self._bridge = _Bridge(_verbs(), api.API(self.services), status.translate)
        self.fault: faults.Faults | None = None

    def answer(self, verb: str, *arguments: Any) -> Reply:
        reply = self._bridge.call_positional(verb, arguments, bridge.Context("test"))
        assert not reply.refused, f"{verb}: {reply.message}"
        return {"status": reply.status, **reply.result}

    def put(self, pool: str, domain: str, image: str, volume: str, data: bytes) -> int:
        where = ids.PoolId(pool), ids.DomainId(domain), ids.ImageId(image), ids.VolumeId(volume)
        try:
            task = transfer.download_from_stream(self.services, *where, len(data), _Bytes(data))
        except errors.StorageError as error:
            return error.code
        found = transfer.wait(self.services, task)
        return 0 if found["taskResult"] == "success" else int(str(found["code"])) or errors.TaskAborted.code

    def rest(self, task: str) -> None:
        try:
            found = self.services.tasks.get(ids.TaskId(task))
        except errors.UnknownTask:
            return
        deadline = time.monotonic() + _SECONDS
        while not found.resting and not (self._dead and not found.owned):
            assert time.monotonic() < deadline, f"task {task} does not end"
            time.sleep(0.0005)

    @property
    def _dead(self) -> bool:
        return self.fault is not None and self.fault.fired and isinstance(self.fault.failure, faults.Crash)

    def quiet(self) -> None:
        for task in self.services.tasks.all():
            self.rest(task.id)

    def die(self) -> None:
        """End like a killed process: locks go, nothing more is written."""
        self.services.tasks.shutdown(_SECONDS)
        for each in {*self.services.domains.all(), *(pool.master for pool in self.services.pools.all())}:
            try:
                each.cluster_lock.release()
            except errors.StorageError:
                continue  # it has no record any more, so nobody can have taken its lock
        self.services.monitor.close()
        self.services.keeper.close()


_known: list[catalogue.Catalogue] = []


def _verbs() -> catalogue.Catalogue:
    if not _known:
        _known.append(catalogue.load())
    return _known[0]


class _Bridge(bridge.Bridge):
    """Compiles the check of each verb once for all hosts of this process, since that takes longer than the verb."""

    def _plan(self, verb: catalogue.Verb) -> Any:
        if (known := _plans.get(verb.name)) is None:
            known = _plans[verb.name] = super()._plan(verb)
        self._plans[verb.name] = dataclasses.replace(known, factory=getattr(self._api, verb.api_class))
        return self._plans[verb.name]


_plans: dict[str, Any] = {}


class _Bytes:
    """Content that is here already."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def begin(self, task_id: ids.TaskId, pause: Callable[[], None]) -> int:
        return len(self._data)

    def fill(self, buffer: memoryview, pause: Callable[[], None]) -> None:
        buffer[:] = self._data[: len(buffer)]
        self._data = self._data[len(buffer) :]

    def close(self) -> None:
        pass


class DaemonHost:
    """A daemon in a process of its own."""

    def __init__(self, daemon: support.Daemon) -> None:
        self.daemon = daemon

    def answer(self, verb: str, *arguments: Any) -> Reply:
        return self.daemon.answer(verb, *arguments)

    def put(self, pool: str, domain: str, image: str, volume: str, data: bytes) -> int:
        headers = {"Storage-Pool-Id": pool, "Storage-Domain-Id": domain, "Image-Id": image, "Volume-Id": volume}
        request = urllib.request.Request(self.daemon.url, data, headers, method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=60):
                return 0
        except urllib.error.HTTPError as error:
            with error:
                return int(json.loads(error.read())["status"]["code"])

    def die(self) -> None:
        self.daemon.kill()

    def quiet(self) -> None:
        for task in self.answer("getAllTasksStatuses").get("allTasksStatus", {}):
            self.rest(task)

    def rest(self, task: str) -> None:
        deadline = time.monotonic() + _SECONDS
        for turn in itertools.count():
            status = self.answer("getTaskStatus", task)
            if status["status"]["code"] or status["taskStatus"]["taskState"] in DONE:
                return
            assert time.monotonic() < deadline, f"task {task}: {status}"
            time.sleep(min(0.001 * 1.3**turn, 0.05))


# ---------------------------------------------------------------- what an engine does


def call(host: Host, verb: str, *arguments: Any) -> Reply:
    """A verb that must succeed; a task it makes must succeed, too, and is cleared.

    Raises:
        AssertionError: it did not.
    """
    reply = host.answer(verb, *arguments)
    assert reply["status"]["code"] == 0, f"{verb}: {reply['status']}"
    if "uuid" in reply:
        code = finished(host, str(reply["uuid"]))
        assert code == 0, f"{verb}: its task ended with {code}"
        clear(host, str(reply["uuid"]))
    return reply


def code_of(host: Host, verb: str, *arguments: Any) -> int:
    """The code that a verb, or the task it makes, ends with; the task is left where it is."""
    reply = host.answer(verb, *arguments)
    code = int(reply["status"]["code"])
    return finished(host, str(reply["uuid"])) if code == 0 and "uuid" in reply else code


def finished(host: Host, task: str) -> int:
    """Wait for the end of a task; its code, 0 only for success, -1 when it was cut off."""
    host.rest(task)
    found: Mapping[str, Any] = host.answer("getTaskStatus", task).get("taskStatus", {})
    if found.get("taskState") not in DONE:
        return -1
    done = found["taskState"] == "finished" and found["taskResult"] == "success"
    return 0 if done else int(found["code"]) or errors.TaskAborted.code


def clear(host: Host, task: str) -> None:
    """Forget a task that is done."""
    deadline = time.monotonic() + _SECONDS
    while code := host.answer("clearTask", task)["status"]["code"]:
        assert time.monotonic() < deadline, f"task {task} cannot be cleared: {code}"
        time.sleep(0.002)


def clear_all(host: Host) -> list[str]:
    """Wait until all tasks are done and forget them; what became of each, in words."""
    told = []
    for task in host.answer("getAllTasksStatuses").get("allTasksStatus", {}):
        code = finished(host, task)
        found = host.answer("getTaskStatus", task).get("taskStatus", {})
        told.append(f"{found.get('taskState')} {found.get('taskResult')} {code}: {found.get('message')}")
        if host.answer("getTaskStatus", task)["status"]["code"] == 0:
            clear(host, task)
    return told


def connect_storage(host: Host, place: Path) -> None:
    """Connect a directory."""
    entry = [{"id": "00000000-0000-4000-8000-000000000077", "connection": str(place)}]
    reply = call(host, "connectStorageServer", support.LOCALFS, BLANK, entry)
    assert reply["statuslist"][0]["status"] == 0, reply
