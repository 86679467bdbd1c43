"""Requests that move a volume over the daemon's own port, and their answers, on real sockets."""

import contextlib
import dataclasses
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support import daemon

PATIENCE = 60.0
PIECE_SECONDS = 4.0
CONFIG = {"storage": {"transfer_seconds": PIECE_SECONDS, "lock_timeout": 30.0, "workers": 4}}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon.Pool]:
    place = tmp_path_factory.mktemp("streams")
    (place / "storage").mkdir()
    with daemon.Daemon(place, CONFIG) as server:
        yield daemon.make_pool(server, place / "storage", version=4)


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> int:
        """Code of a refusal, whose shape is checked."""
        assert self.headers["content-type"] == "application/json"
        found = json.loads(self.body)
        assert set(found) == {"status"} and set(found["status"]) == {"code", "message"}
        assert isinstance(found["status"]["message"], str)
        return int(found["status"]["code"])

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["status"]["message"])


def head(method: str, pool: daemon.Pool, image: daemon.Image, volume: str | None = None, **more: object) -> bytes:
    """Head of a request, as the engine sends it."""
    named: dict[str, object] = {
        "Storage-Pool-Id": pool.id,
        "Storage-Domain-Id": pool.domain,
        "Image-Id": image.id,
        "Volume-Id": volume,
    }
    named |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = [f"{name}: {value}" for name, value in named.items() if value is not None]
    return "\r\n".join([f"{method} / HTTP/1.1", "Host: a", "connection: close", *lines, "", ""]).encode()


def connect(pool: daemon.Pool) -> socket.socket:
    host, port = pool.daemon.address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def answer(sock: socket.socket, method: str = "PUT") -> Answer:
    """The answer, read to the end by the standard library's parser; a body that is cut raises IncompleteRead."""
    found = http.client.HTTPResponse(sock, method=method)
    found.begin()
    return Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())


def put(pool: daemon.Pool, image: daemon.Image, data: bytes, volume: str | None = None, **more: object) -> Answer:
    with connect(pool) as sock:
        with contextlib.suppress(ConnectionError):  # a refusal may come, and the end, while we still send
            sock.sendall(head("PUT", pool, image, volume, Content_Length=len(data), **more) + data)
        return answer(sock)


def get(pool: daemon.Pool, image: daemon.Image, count: int, volume: str | None = None) -> Answer:
    with connect(pool) as sock:
        sock.sendall(head("GET", pool, image, volume, Range=f"bytes=0-{count - 1}"))
        return answer(sock, "GET")


def task_of(pool: daemon.Pool, found: Answer) -> dict[str, Any]:
    """Status of the task when it has ended: the last byte of an answer may be here before that is on record."""
    until(lambda: found.headers["task-id"] not in running(pool))
    status: dict[str, Any] = pool.daemon.call("getTaskStatus", found.headers["task-id"])["taskStatus"]
    return status


def legality(pool: daemon.Pool, image: daemon.Image) -> str:
    return str(pool.info(image, image.leaf)["legality"])


def new(pool: daemon.Pool, size: int, formats: Sequence[str] = ("raw",)) -> daemon.Image:
    return pool.make_image_chain(size, formats)


def running(pool: daemon.Pool) -> list[str]:
    statuses = pool.daemon.call("getAllTasksStatuses")["allTasksStatus"]
    return [task for task, status in statuses.items() if status["taskState"] != "finished"]


def until(condition: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def bytes_of(count: int) -> bytes:
    return os.urandom(count)
