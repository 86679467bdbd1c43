"""uploadImage and downloadImage between a real daemon and a real server of HTTP."""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon, httpserver, images

KIB, MIB = 1 << 10, 1 << 20
PATIENCE = 60.0
PIECE_SECONDS = 2.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon.Pool]:
    place = tmp_path_factory.mktemp("transfers")
    (place / "storage").mkdir()
    with daemon.Daemon(place, {"storage": {"transfer_seconds": PIECE_SECONDS}}) as server:
        yield daemon.make_pool(server, place / "storage", version=4)


@pytest.fixture
def server() -> Iterator[httpserver.Server]:
    with httpserver.serving() as found:
        yield found


def arguments(
    pool: daemon.Pool, image: daemon.Image, url: str, volume: str | None = None, **headers: str
) -> tuple[Any, ...]:
    given = {"method": "http", "url": url, "headers": headers}
    return (given, pool.id, pool.domain, image.id, *([volume] if volume else []))


def start(pool: daemon.Pool, verb: str, *call: Any) -> str:
    return str(pool.daemon.call(verb, *call)["uuid"])


def status(pool: daemon.Pool, task: str) -> dict[str, Any]:
    found: dict[str, Any] = pool.daemon.call("getTaskStatus", task)["taskStatus"]
    return found


def end(pool: daemon.Pool, task: str) -> dict[str, Any]:
    """The task's status when it has ended."""
    deadline = time.monotonic() + PATIENCE
    while (found := status(pool, task))["taskState"] != "finished":
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def run(pool: daemon.Pool, verb: str, *call: Any) -> dict[str, Any]:
    return end(pool, start(pool, verb, *call))


def legality(pool: daemon.Pool, image: daemon.Image) -> str:
    return str(pool.info(image, image.leaf)["legality"])


def path_of(image: daemon.Image) -> Path:
    return image.layers[image.leaf].path


@pytest.mark.parametrize("size", [0, 1, 511, 4096, 256 * KIB + 1, 8 * MIB])
def test_there_and_back(pool: daemon.Pool, server: httpserver.Server, size: int) -> None:
    image = pool.make_image_chain(8 * MIB, ["raw"])
    server.content = data = os.urandom(size)
    call = arguments(pool, image, server.url("/ok?a=b"), **{"X-Auth-Token": "secret"})
    found = run(pool, "downloadImage", *call)
    assert (found["taskResult"], found["code"]) == ("success", 0), found
    assert path_of(image).read_bytes() == data.ljust(8 * MIB, b"\0")
    assert legality(pool, image) == "LEGAL"
    server.content = b""
    assert run(pool, "uploadImage", *call)["taskResult"] == "success"
    assert server.content == data.ljust(8 * MIB, b"\0")
    for method, (used, path, headers) in zip(("GET", "PUT"), server.asked, strict=True):
        assert (used, path, headers["x-auth-token"]) == (method, "/ok?a=b", "secret")
        assert headers["host"] == server.url("").removeprefix("http://")
    assert "secret" not in pool.daemon.log
    pool.can_start(image, image.leaf)


@pytest.mark.qemu
def test_qcow2_images_are_verified(pool: daemon.Pool, server: httpserver.Server, tmp_path: Path) -> None:
    image = pool.make_image_chain(MIB, ["qcow2"])
    (tmp_path / "secret").touch()
    hostile = images.create(tmp_path / "hostile", MIB, backing=str(tmp_path / "secret"), backing_format="raw")
    server.content = hostile.read_bytes()
    found = run(pool, "downloadImage", *arguments(pool, image, server.url("/ok")))
    assert (found["code"], found["taskResult"]) == (255, "cleanFailure")
    assert legality(pool, image) == "ILLEGAL"
    server.content = images.create(tmp_path / "good", MIB).read_bytes()
    assert run(pool, "downloadImage", *arguments(pool, image, server.url("/ok")))["code"] == 0
    pool.can_start(image, image.leaf)


@pytest.mark.parametrize(("how", "code"), [("redirect", 261), ("missing", 261), ("unsized", 100), ("packed", 261)])
def test_a_server_that_does_not_have_it_changes_nothing(
    pool: daemon.Pool, server: httpserver.Server, how: str, code: int
) -> None:
    image = pool.make_image_chain(MIB, ["raw"])
    path_of(image).write_bytes(b"old".ljust(MIB))
    server.content = b"new"
    found = run(pool, "downloadImage", *arguments(pool, image, server.url(f"/{how}")))
    assert (found["code"], found["taskResult"]) == (code, "cleanSuccess"), found
    assert len(server.asked) == 1, "redirects are not followed"
    assert (legality(pool, image), path_of(image).read_bytes()[:3]) == ("LEGAL", b"old")


def test_nobody_there(pool: daemon.Pool) -> None:
    image = pool.make_image_chain(MIB, ["raw"])
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        for verb in ("uploadImage", "downloadImage"):
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
            assert run(pool, verb, *arguments(pool, image, url))["code"] == 261
    assert run(pool, "downloadImage", *arguments(pool, image, "http://no.such.host.invalid/"))["code"] == 261
    assert legality(pool, image) == "LEGAL"


def test_secure_servers_must_show_a_certificate(pool: daemon.Pool, server: httpserver.Server) -> None:
    image = pool.make_image_chain(MIB, ["raw"])
    url = server.url("/ok").replace("http:", "https:")
    assert run(pool, "downloadImage", *arguments(pool, image, url))["code"] == 261
    assert server.asked == []


@pytest.mark.parametrize("how", ["short", "stuck", "drip"])
def test_a_server_that_breaks_off_leaves_illegal(pool: daemon.Pool, server: httpserver.Server, how: str) -> None:
    image = pool.make_image_chain(MIB, ["raw"])
    server.content = bytes(512 * KIB)
    found = run(pool, "downloadImage", *arguments(pool, image, server.url(f"/{how}")))
    assert (found["code"], found["taskResult"]) == (261, "cleanFailure"), found
    assert ("early" if how == "short" else "took more than 2 s") in found["message"]
    assert legality(pool, image) == "ILLEGAL"
    assert run(pool, "downloadImage", *arguments(pool, image, server.url("/ok")))["code"] == 0
    assert legality(pool, image) == "LEGAL"


@pytest.mark.parametrize("how", ["deaf", "silent", "refuse", "redirect"])
def test_a_server_that_does_not_take_it(pool: daemon.Pool, server: httpserver.Server, how: str) -> None:
    image = pool.make_image_chain(64 * MIB if how == "deaf" else MIB, ["raw"])
    found = run(pool, "uploadImage", *arguments(pool, image, server.url(f"/{how}")))
    assert found["code"] == 261, found
    assert len(server.asked) == 1
    assert legality(pool, image) == "LEGAL"


def test_more_than_fits_is_refused_before_anything_changes(pool: daemon.Pool, server: httpserver.Server) -> None:
    image = pool.make_image_chain(MIB, ["raw"])
    server.content = bytes(MIB + 1)
    found = run(pool, "downloadImage", *arguments(pool, image, server.url("/ok")))
    assert (found["code"], found["taskResult"]) == (229, "cleanSuccess")
    assert legality(pool, image) == "LEGAL"


@pytest.mark.parametrize(
    ("verb", "how"), [("downloadImage", "stuck"), ("downloadImage", "silent"), ("uploadImage", "silent")]
)
def test_stopping(pool: daemon.Pool, server: httpserver.Server, verb: str, how: str) -> None:
    image = pool.make_image_chain(MIB, ["raw"])
    server.content = bytes(MIB)
    task = start(pool, verb, *arguments(pool, image, server.url(f"/{how}")))
    deadline = time.monotonic() + PATIENCE
    while not server.asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if how == "stuck":
        while status(pool, task).get("done") != str(MIB // 2):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert status(pool, task)["total"] == str(MIB)
    pool.daemon.call("stopTask", task)
    found = end(pool, task)
    assert found["code"] == 411
    assert legality(pool, image) == ("ILLEGAL" if how == "stuck" else "LEGAL")


def test_only_whole_disks(pool: daemon.Pool, server: httpserver.Server) -> None:
    chain = pool.make_image_chain(MIB, ["raw", "qcow2"])
    for verb in ("uploadImage", "downloadImage"):
        assert run(pool, verb, *arguments(pool, chain, server.url("/ok")))["code"] == 261
        assert run(pool, verb, *arguments(pool, chain, server.url("/ok"), chain.leaf))["code"] == 261
        nowhere = daemon.Image(str(uuid.uuid4()), chain.directory, chain.layers)
        assert run(pool, verb, *arguments(pool, nowhere, server.url("/ok")))["code"] == 268
        assert run(pool, verb, *arguments(pool, nowhere, server.url("/ok"), chain.leaf))["code"] == 268
        assert run(pool, verb, *arguments(pool, chain, server.url("/ok"), str(uuid.uuid4())))["code"] == 201
    assert run(pool, "downloadImage", *arguments(pool, chain, server.url("/ok"), chain.volumes[0]))["code"] == 220
    assert server.asked == []
    assert run(pool, "uploadImage", *arguments(pool, chain, server.url("/ok"), chain.volumes[0]))["code"] == 0


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("ftp://a/", {}),
        ("file:///etc/passwd", {}),
        ("http:///a", {}),
        ("//a/b", {}),
        ("", {}),
        ("http://a b/", {}),
        ("http://a:x/", {}),
        ("http://a:99999/", {}),
        ("http://[::1/", {}),
        ("http://user:word@a/", {}),
        ("http://\u00e9/", {}),
        ("http://a/", {"X": "a\r\nEvil: b"}),
        ("http://a/", {"X\r\nEvil": "b"}),
        ("http://a/", {"X:": "b"}),
        ("http://a/", {"": "b"}),
        ("http://a/", {"Content-Length": "7"}),
        ("http://a/", {"transfer-encoding": "chunked"}),
        ("http://a/", {"Host": "b"}),
        ("http://a/", {"X": "\u4e2d"}),
    ],
)
def test_odd_places_are_refused_at_once(pool: daemon.Pool, url: str, headers: dict[str, str]) -> None:
    image = pool.make_image_chain(MIB, ["raw"])
    for verb in ("uploadImage", "downloadImage"):
        found = pool.daemon.answer(verb, *arguments(pool, image, url, **headers))
        assert found["status"]["code"] == 1000, found
        assert "word" not in found["status"]["message"]


def test_a_finished_download_cannot_be_reverted(pool: daemon.Pool, server: httpserver.Server) -> None:
    image = pool.make_image_chain(MIB, ["raw"])
    server.content = b"new"
    task = start(pool, "downloadImage", *arguments(pool, image, server.url("/ok")))
    assert end(pool, task)["taskResult"] == "success"
    pool.daemon.answer("revertTask", task)
    found = end(pool, task)
    assert (found["taskResult"], found["code"]) == ("cleanFailure", 2000)
    assert "whole and verified" in found["message"]
    assert (legality(pool, image), path_of(image).read_bytes()[:3]) == ("LEGAL", b"new")
