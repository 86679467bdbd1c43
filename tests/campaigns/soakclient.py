"""A client of the soak: calls verbs over both bindings and streams, and remembers what it was answered."""

import collections
import http.client
import json
import random
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any
from xmlrpc import client as stdlib

from rpc import catalogue
from tests.support import daemon

PATIENCE = 60.0
STREAM_BYTES = 65536
_CAPACITY = str(1 << 20)
_REFUSED = -32602
_NO_VERB = (-32601, -32700, -32600)

Seen = collections.Counter[tuple[str, str, str, int]]


KINDS = ("read", "batch", "error", "write", "prepare", "volume", "stream", "snapshot")
"""What a client does, by the names of its methods."""


class Wrong(Exception):
    """An answer that should not have been."""


class Client:
    """Calls by choice of a seed.

    Attributes:
        calls: how many it has made, all in a batch counted.
        seen: (flow, transport, verb, code) -> how often: what the audit log must have.
        tasks: how many tasks it has started, found finished, and cleared.

    Args:
        number: of the client.
        image: of its own, with one raw volume.
    """

    def __init__(
        self, number: int, seed: int, pool: daemon.Pool, image: daemon.Image, schema: catalogue.Catalogue
    ) -> None:
        self.calls = 0
        self.seen: Seen = collections.Counter()
        self.tasks = 0
        self._name = f"c{number}"
        self._rng = random.Random(f"{seed}/{number}")
        self._pool = pool
        self._image = image
        self._verbs = schema.verbs
        host, port = pool.daemon.address.rsplit(":", 1)
        self._address = host, int(port)
        self._connection = http.client.HTTPConnection(*self._address, timeout=PATIENCE)
        self._requests = 0
        self._steps: tuple[tuple[Callable[[], None], int], ...] = (
            *((self.read, 700), (self.batch, 60), (self.error, 140), (self.write, 60), (self.prepare, 20)),
            *((self.volume, 25), (self.stream, 10), (self.snapshot, 2)),
        )

    def close(self) -> None:
        """End its connection."""
        self._connection.close()

    def step(self) -> None:
        """Do one thing, which may be several calls; raises Wrong."""
        steps, weights = zip(*self._steps, strict=True)
        self._rng.choices(steps, weights)[0]()

    # ---------------------------------------------------------------- what it does

    def read(self) -> None:
        """A verb that reads."""
        verb, values = self._reading()
        self.call(verb, *values)

    def batch(self) -> None:
        """Several that read, in one request of JSON-RPC."""
        calls = [self._reading() for _ in range(self._rng.randint(2, 6))]
        content = [self._json_call(number, *call) for number, call in enumerate(calls)]
        flow, answer = self._post("/jsonrpc", json.dumps(content).encode())
        for each, (verb, _) in zip(json.loads(answer), calls, strict=True):
            self._note(flow, "json-rpc", verb, 0)
            if "result" not in each:
                raise Wrong(f"{verb} in a batch: {each}")

    def error(self) -> None:
        """What must be refused."""
        where = [self._pool.domain, self._pool.id, self._image.id]
        unknown = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        choice = self._rng.randrange(6)
        if choice == 0:
            self._post_broken()
        elif choice == 1:
            self.call("getVolumeInfo", *where, unknown, code=201)
        elif choice == 2:
            self.call("getVolumeInfo", *where, "../../etc/passwd", code=1000)
        elif choice == 3:
            self.call("getTaskStatus", unknown, code=401)
        elif choice == 4:
            self.call("getVolumeInfo", where[0], code=16)
        else:
            self.call("createVolume", unknown, unknown, unknown, _CAPACITY, 5, 2, 2, unknown, "a", code=309)

    def write(self) -> None:
        """A change that needs no task."""
        where = self._pool.domain, self._pool.id, self._image.id, self._image.leaf
        text = f"{self._name} {self._rng.random()}"
        self.call("setVolumeDescription", *where, text)
        found = self.call("getVolumeInfo", *where)
        if found["description"] != text:
            raise Wrong(f"a description of {found['description']!r} in place of {text!r}")

    def prepare(self) -> None:
        """As for the start of a guest."""
        where = self._pool.id, self._pool.domain, self._image.id, self._image.leaf
        self.call("prepareImage", *where)
        self.call("getVolumeChain", *where)
        self.call("teardownImage", *where)

    def volume(self) -> None:
        """A new volume in an image of its own, and away with it: two tasks."""
        image, volume = (str(uuid.UUID(int=self._rng.getrandbits(128), version=4)) for _ in range(2))
        domain, pool = self._pool.domain, self._pool.id
        self.task("createVolume", domain, pool, image, _CAPACITY, daemon.RAW, daemon.SPARSE, 2, volume, "soak")
        if self.call("getVolumesList", domain, pool, image) != [volume]:
            raise Wrong("the new volume is not there")
        self.task("deleteImage", domain, pool, image)
        if self.call("getVolumesList", domain, pool, image):
            raise Wrong("the volume is still there")

    def snapshot(self) -> None:
        """A volume on top of its own, and away with it: two tasks, one of which runs qemu-img."""
        domain, pool, image, base = self._pool.domain, self._pool.id, self._image.id, self._image.leaf
        volume = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        where = (domain, pool, image)
        self.task("createVolume", *where, _CAPACITY, daemon.COW, daemon.SPARSE, 2, volume, "soak", image, base)
        self.call("reconcileVolumeChain", pool, domain, image, volume)
        self.task("deleteVolume", *where, [volume])

    def stream(self) -> None:
        """Content in and out again: two tasks."""
        data = self._rng.randbytes(STREAM_BYTES)
        self._stream("PUT", "downloadImageFromStream", data, {})
        wanted = {"Range": f"bytes=0-{STREAM_BYTES - 1}"}
        if self._stream("GET", "uploadImageToStream", None, wanted) != data:
            raise Wrong("other bytes came out than went in")

    # ---------------------------------------------------------------- how it does it

    def call(self, verb: str, *values: Any, code: int = 0) -> Any:
        """Call a verb over one binding or the other; gives the member of its result.

        Raises:
            Wrong: another code than this came back.
        """
        named = self._rng.random() < 0.5
        via = "json-rpc" if named else "xml-rpc"
        if named:
            flow, answer = self._post("/jsonrpc", json.dumps(self._json_call(1, verb, values)).encode())
            found, result = _json_outcome(json.loads(answer))
        else:
            flow, answer = self._post("/", stdlib.dumps(tuple(values), verb).encode())
            content: Any = stdlib.loads(answer)[0][0]
            member = self._verbs[verb].member
            found, result = content["status"]["code"], content.get(member, content)
        self._note(flow, via, verb, found)
        if found != code:
            raise Wrong(f"{verb} over {via}: {found}, not {code}: {answer[:300]!r}")
        return result

    def task(self, verb: str, *values: Any) -> None:
        """Call a verb that makes a task, and see that it is found, finishes, and is gone when it is cleared."""
        self._settle(verb, str(self.call(verb, *values)))

    def _settle(self, verb: str, task_id: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while (status := self.call("getTaskStatus", task_id))["taskState"] != "finished":
            if time.monotonic() > deadline:
                raise Wrong(f"{verb} does not finish: {status}")
            time.sleep(0.01)
        if status["taskResult"] != "success":
            raise Wrong(f"{verb} failed: {status}")
        self.call("clearTask", task_id)
        self.tasks += 1

    def _reading(self) -> tuple[str, Sequence[Any]]:
        pool, domain, image, volume = self._pool.id, self._pool.domain, self._image.id, self._image.leaf
        choices: tuple[tuple[str, Sequence[Any]], ...] = (
            *(("ping", ()), ("getVdsStats", ()), ("getStorageDomainsList", ()), ("getAllTasksStatuses", ())),
            *(("getAllTasksInfo", ()), ("repoStats", ()), ("getSpmStatus", (pool,)), ("getStoragePoolInfo", (pool,))),
            *(("getStorageDomainInfo", (domain,)), ("getStorageDomainStats", (domain,)), ("list", ())),
            *(("getImagesList", (domain,)), ("getVolumesList", (domain, pool, image))),
            *(("getVolumeInfo", (domain, pool, image, volume)), ("getVolumeSize", (domain, pool, image, volume))),
            *(("getVolumePath", (domain, pool, image, volume)), ("getVolumeChain", (pool, domain, image, volume))),
        )
        return self._rng.choice(choices)

    def _json_call(self, number: int, verb: str, values: Sequence[Any]) -> dict[str, Any]:
        places = self._verbs[verb].wire
        params = {place.name: value for place, value in zip(places, values, strict=False) if not place.ignored}
        return {"jsonrpc": "2.0", "id": number, "method": self._verbs[verb].method, "params": params}

    def _post_broken(self) -> None:
        """A body that reaches no verb, and of which the audit log knows nothing."""
        self.calls += 1
        if self._rng.random() < 0.5:
            _, answer = self._post(
                "/jsonrpc", self._rng.choice((b"{", b"[]", b'{"jsonrpc": "2.0", "method": "x", "id": 1}'))
            )
            if json.loads(answer)["error"]["code"] not in _NO_VERB:
                raise Wrong(f"no error: {answer[:300]!r}")
            return
        _, answer = self._post("/", self._rng.choice((b"<", b"<a/>", stdlib.dumps((), "nonsense").encode())))
        try:
            stdlib.loads(answer)
        except stdlib.Fault:
            return
        raise Wrong(f"no fault: {answer[:300]!r}")

    def _post(self, path: str, body: bytes) -> tuple[str, bytes]:
        """Send a body; gives the flow id that it went with, and the body that came back."""
        self._requests += 1
        flow = f"{self._name}-{self._requests}"
        self._connection.request("POST", path, body, {"FlowID": flow})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise Wrong(f"status {answer.status}")
        return flow, content

    def _stream(self, method: str, verb: str, body: bytes | None, more: dict[str, str]) -> bytes:
        self._requests += 1
        flow = f"{self._name}-{self._requests}"
        names = {"Storage-Pool-Id": self._pool.id, "Storage-Domain-Id": self._pool.domain, "Image-Id": self._image.id}
        names |= {"Volume-Id": self._image.leaf, "FlowID": flow, "connection": "close"} | more
        connection = http.client.HTTPConnection(*self._address, timeout=PATIENCE)
        try:
            connection.request(method, "/", body, names)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self._note(flow, "http", verb, 0)
        if answer.status not in (200, 206):
            raise Wrong(f"{method}: {answer.status} {content[:300]!r}")
        self._settle(verb, answer.headers["Task-Id"])
        return content

    def _note(self, flow: str, via: str, verb: str, code: int) -> None:
        self.calls += 1
        self.seen[flow, via, verb, code] += 1


def _json_outcome(answer: Any) -> tuple[int, Any]:
    error = answer.get("error")
    if error is None:
        return 0, answer["result"]
    return (error["data"]["status"]["code"] if error["code"] == _REFUSED else error["code"]), None
