"""PUT and GET of volumes on the daemon's own port, over real sockets: whole, cut, slow, hostile, and with a kill."""

import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon, guest, images, wire

KIB, MIB = 1 << 10, 1 << 20
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


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("size", [0, 1, 511, 4096, 256 * KIB + 1, 64 * MIB])
def test_what_is_put_can_be_got_again(pool: daemon.Pool, size: int) -> None:
    image = new(pool, 64 * MIB)
    image.layers[image.leaf].path.write_bytes(b"\xff" * 8192)  # nothing of the old content may show
    data = bytes_of(size)
    found = put(pool, image, data, image.leaf)
    assert (found.status, found.body) == (200, b"")
    assert found.headers["connection"] == "close" and found.headers["content-length"] == "0"
    status = task_of(pool, found)
    assert (status["taskResult"], status["code"]) == ("success", 0)
    info = pool.daemon.call("getTaskInfo", found.headers["task-id"])["TaskInfo"]
    assert info["verb"] == "downloadImageFromStream"
    assert legality(pool, image) == "LEGAL"
    assert image.layers[image.leaf].path.read_bytes() == data.ljust(64 * MIB, b"\0")
    if size:
        back = get(pool, image, size)
        assert (back.status, back.body == data) == (206, True)
        assert back.headers["content-length"] == str(size)
        info = pool.daemon.call("getTaskInfo", back.headers["task-id"])["TaskInfo"]
        assert info["verb"] == "uploadImageToStream"
        assert task_of(pool, back)["taskResult"] == "success"
    pool.can_start(image, image.leaf)


def test_the_standard_librarys_client_is_served(pool: daemon.Pool) -> None:
    image, data = new(pool, MIB), bytes_of(MIB)
    names = {"Storage-Pool-Id": pool.id, "Storage-Domain-Id": pool.domain, "Image-Id": image.id}
    with contextlib.closing(http.client.HTTPConnection(pool.daemon.address, timeout=PATIENCE)) as client:
        client.request("PUT", "/", data, {**names, "Content-Type": "application/octet-stream"})
        assert client.getresponse().status == 200
    with contextlib.closing(http.client.HTTPConnection(pool.daemon.address, timeout=PATIENCE)) as client:
        client.request("GET", "/", headers={**names, "Range": "bytes=0-1048575"})
        found = client.getresponse()
        assert (found.status, found.read() == data) == (206, True)


@pytest.mark.skipif(not Path("/usr/bin/curl").exists(), reason="curl is not installed")
def test_curl_is_served_and_told_to_go_on(pool: daemon.Pool, tmp_path: Path) -> None:
    image, data = new(pool, 4 * MIB), bytes_of(4 * MIB)
    (tmp_path / "data").write_bytes(data)
    names = (("Storage-Pool-Id", pool.id), ("Storage-Domain-Id", pool.domain), ("Image-Id", image.id))
    common = ["curl", "-sS", "--fail", "--max-time", "60", "--request-target", "/"] + [
        w for n, v in names for w in ("-H", f"{n}: {v}")
    ]
    sent = ["-H", "Expect: 100-continue", "--expect100-timeout", "50", "-T", str(tmp_path / "data")]
    subprocess.run([*common, *sent, pool.daemon.url], check=True)
    subprocess.run([*common, "-r", "0-4194303", "-o", str(tmp_path / "back"), pool.daemon.url], check=True)
    assert (tmp_path / "back").read_bytes() == data


def test_zeroes_take_no_space(pool: daemon.Pool) -> None:
    image = new(pool, 64 * MIB)
    data = b"\0" * (16 * MIB) + b"x" * 65536 + b"\0" * (16 * MIB) + b"y"
    assert put(pool, image, data).status == 200
    path = image.layers[image.leaf].path
    assert path.read_bytes() == data.ljust(64 * MIB, b"\0")
    assert path.stat().st_blocks * 512 <= 3 * 65536


def test_a_preallocated_volume_keeps_its_space(pool: daemon.Pool) -> None:
    image, volume = str(uuid.uuid4()), str(uuid.uuid4())
    create = (pool.domain, pool.id, image, str(4 * MIB), daemon.RAW, 1, 2, volume, "x", daemon.BLANK, daemon.BLANK)
    pool.daemon.task("createVolume", *create)
    path = pool.storage / pool.domain / "images" / image / volume
    made = daemon.Image(image, path.parent, {volume: guest.Layer(path, "raw")})
    assert put(pool, made, b"abc").status == 200
    assert path.read_bytes() == b"abc".ljust(4 * MIB, b"\0")
    assert path.stat().st_blocks * 512 >= 4 * MIB


def test_less_than_all_can_be_got(pool: daemon.Pool) -> None:
    image, data = new(pool, MIB), bytes_of(MIB)
    assert put(pool, image, data).status == 200
    assert get(pool, image, 1).body == data[:1]
    assert get(pool, image, 512).body == data[:512]


def test_other_clients_are_served_meanwhile_and_the_image_is_not(pool: daemon.Pool) -> None:
    image, other = new(pool, MIB), new(pool, MIB)
    with (
        connect(pool) as sock,
        daemon.connect(pool.daemon.url) as impatient,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        sock.sendall(head("PUT", pool, image, Content_Length=1024) + b"a" * 512)
        until(lambda: legality(pool, image) == "ILLEGAL")
        assert put(pool, other, b"x").status == 200
        assert get(pool, other, 1).body == b"x"
        delete: Any = impatient.deleteImage
        deletion = threads.submit(delete, pool.domain, pool.id, image.id)
        with pytest.raises(TimeoutError):
            deletion.result(0.3)
        sock.sendall(b"b" * 512)
        assert answer(sock).status == 200
        assert deletion.result(PATIENCE)["status"]["code"] == 0


def test_eight_at_once(pool: daemon.Pool) -> None:
    chosen = [new(pool, MIB) for _ in range(8)]
    content = [bytes_of(MIB) for _ in chosen]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = threads.map(put, [pool] * 8, chosen, content)
        assert [each.status for each in answers] == [200] * 8
        answers = threads.map(get, [pool] * 8, chosen, [MIB] * 8)
        assert [each.body for each in answers] == content


# ---------------------------------------------------------------- qcow2


def qcow2(tmp_path: Path, size: int = MIB, name: str = "made", **options: Any) -> Path:
    path = images.create(tmp_path / name, size, **options)
    images.write_pattern(path, 0, 65536, 7)
    return path


def test_a_qcow2_image_becomes_a_usable_volume(pool: daemon.Pool, tmp_path: Path) -> None:
    image = new(pool, MIB, ["qcow2"])
    data = qcow2(tmp_path).read_bytes()
    assert put(pool, image, data).status == 200
    assert image.layers[image.leaf].path.read_bytes() == data
    pool.can_start(image, image.leaf)
    assert get(pool, image, len(data)).body == data


def test_a_layer_can_be_put_on_its_parent(pool: daemon.Pool, tmp_path: Path) -> None:
    image = new(pool, MIB, ["raw", "qcow2"])
    path = images.create(tmp_path / "layer", MIB, backing=image.volumes[0], backing_format="raw")
    found = put(pool, image, path.read_bytes(), image.leaf)
    assert found.status == 200, found.body
    pool.can_start(image, image.leaf)
    assert pool.look(image, image.leaf)["state"] == "consistent"


HOSTILE: dict[str, tuple[int, Any]] = {
    "not a qcow2 image": (202, lambda place, parent: b"no image at all" * 100),
    "nothing": (202, lambda place, parent: b""),
    "a backing file of the host": (255, lambda place, parent: made(place, backing=str(place / "secret"))),
    "a backing file by a driver": (255, lambda place, parent: made(place, backing='json:{"driver":"nbd"}')),
    "a parent that there is not": (255, lambda place, parent: made(place, backing=str(uuid.uuid4()))),
    "an external data file": (255, lambda place, parent: made(place, data_file=str(place / "data"))),
    "an unknown feature": (255, lambda place, parent: patched(place, 72, 1 << 40, 8)),
    "marked corrupt": (255, lambda place, parent: patched(place, 72, 2, 8)),
    "dirty": (255, lambda place, parent: patched(place, 72, 1, 8)),
    "encrypted": (255, lambda place, parent: patched(place, 32, 1, 4)),
    "internal snapshots": (255, lambda place, parent: snapshots(place)),
    "a larger disk": (255, lambda place, parent: made(place, size=2 * MIB)),
    "tables beyond its end": (202, lambda place, parent: patched(place, 40, 1 << 40, 8)),
    "version 9": (202, lambda place, parent: patched(place, 4, 9, 4)),
    "only a header": (202, lambda place, parent: made(place)[:512]),
}


def made(place: Path, size: int = MIB, **options: Any) -> bytes:
    return qcow2(place, size, **options).read_bytes() if "backing" not in options else layer(place, size, **options)


def layer(place: Path, size: int, **options: Any) -> bytes:
    return images.create(place / "made", size, **options).read_bytes()


def patched(place: Path, offset: int, value: int, width: int) -> bytes:
    return images.patch_number(qcow2(place), offset, value, width).read_bytes()


def snapshots(place: Path) -> bytes:
    path = qcow2(place)
    images.qemu_img("snapshot", "-c", "s", path)
    return path.read_bytes()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_stays_illegal_and_the_task_says_why(pool: daemon.Pool, tmp_path: Path, name: str) -> None:
    code, make = HOSTILE[name]
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    image = new(pool, MIB, ["qcow2"])
    found = put(pool, image, make(tmp_path, ""))
    assert (found.status, found.code) == (500, code), found.body
    status = task_of(pool, found)
    assert (status["code"], status["taskState"], status["taskResult"]) == (code, "finished", "cleanFailure")
    assert legality(pool, image) == "ILLEGAL"
    with pytest.raises(daemon.VerbFailed) as refused:
        pool.can_start(image, image.leaf)
    assert refused.value.code == 227
    assert pool.reconcile(image, image.leaf)["status"]["code"] == 262, "a repair must not make it LEGAL"
    assert legality(pool, image) == "ILLEGAL"
    assert get(pool, image, 1).code == 227
    assert put(pool, image, qcow2(tmp_path, name="good").read_bytes()).status == 200, "the way out is another one"
    pool.can_start(image, image.leaf)
    assert (tmp_path / "secret").read_bytes() == b"secret" * 1000


@pytest.mark.parametrize(
    ("backing", "backing_format"), [(None, None), ("other", "raw"), ("parent", "qcow2"), ("../image/parent", "raw")]
)
def test_a_layer_must_stand_on_its_parent(
    pool: daemon.Pool, tmp_path: Path, backing: str | None, backing_format: str | None
) -> None:
    image = new(pool, MIB, ["raw", "qcow2"])
    parent = image.volumes[0]
    name = {"other": image.leaf, "parent": parent, "../image/parent": f"../{image.id}/{parent}", None: None}[backing]
    data = layer(tmp_path, MIB, **({"backing": name, "backing_format": backing_format} if name else {}))
    assert put(pool, image, data, image.leaf).code == 255
    assert legality(pool, image) == "ILLEGAL"


def test_an_old_domain_takes_old_images_only(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    with daemon.Daemon(tmp_path, CONFIG) as server:
        old = daemon.make_pool(server, tmp_path / "storage", version=3)
        image = new(old, MIB, ["qcow2"])
        assert put(old, image, qcow2(tmp_path).read_bytes()).code == 202
        assert put(old, image, qcow2(tmp_path, name="old", compat="0.10").read_bytes()).status == 200


def test_raw_data_that_looks_like_qcow2_stays_raw(pool: daemon.Pool, tmp_path: Path) -> None:
    image = new(pool, MIB)
    (tmp_path / "secret").write_bytes(b"secret")
    data = layer(tmp_path, MIB, backing=str(tmp_path / "secret"), backing_format="raw")
    assert put(pool, image, data).status == 200
    assert pool.info(image, image.leaf)["format"] == "RAW"
    assert get(pool, image, len(data)).body == data
    assert image.layers[image.leaf].path.stat().st_size == MIB


# ---------------------------------------------------------------- refusals before anything happens


@pytest.mark.parametrize("missing", ["Storage-Pool-Id", "Storage-Domain-Id", "Image-Id"])
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_missing_header(pool: daemon.Pool, method: str, missing: str) -> None:
    image = new(pool, MIB)
    wanted: dict[str, dict[str, Any]] = {"PUT": {"Content-Length": 1}, "GET": {"Range": "bytes=0-0"}}
    more = wanted[method]
    for value in (None, "", "x", daemon.BLANK + "0", f"{daemon.BLANK}, {daemon.BLANK}"):
        with connect(pool) as sock:
            sock.sendall(head(method, pool, image, **{**more, missing: value}))
            found = answer(sock, method)
        assert (found.status, found.code) == (400, 1000)
        assert found.headers["connection"] == "close" and "task-id" not in found.headers
        assert missing.lower() in found.message


def test_a_missing_or_odd_length(pool: daemon.Pool) -> None:
    image = new(pool, MIB)
    cases: list[tuple[dict[str, object], int]] = [
        ({}, 411),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Transfer-Encoding": "chunked", "Content-Length": 1}, 400),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "1_0"}, 400),
        ({"Content-Length": "9" * 30}, 400),
        ({"Content-Length": 1, "Content-Encoding": "gzip"}, 415),
        ({"Content-Length": 1, "Expect": "more"}, 417),
    ]
    for more, status in cases:
        with connect(pool) as sock:
            sock.sendall(head("PUT", pool, image, **more))  # type: ignore[arg-type]
            found = answer(sock)
        assert (found.status, found.code) == (status, 1000), more
    assert legality(pool, image) == "LEGAL"


@pytest.mark.parametrize(
    "asked", [None, "", "bytes=", "bytes=0-", "bytes=5-9", "bytes=0-1,3-4", "bytes=-5", "items=0-1"]
)
def test_a_missing_or_odd_range(pool: daemon.Pool, asked: str | None) -> None:
    image = new(pool, MIB)
    with connect(pool) as sock:
        sock.sendall(head("GET", pool, image, Range=asked))
        found = answer(sock, "GET")
    assert (found.status, found.code) == (400, 1000)


def test_storage_refuses(pool: daemon.Pool) -> None:
    image, chain = new(pool, MIB), new(pool, MIB, ["raw", "qcow2"])
    nowhere = daemon.Image(str(uuid.uuid4()), image.directory, image.layers)
    assert put(pool, nowhere, b"x").code == 268
    assert get(pool, nowhere, 1).code == 268
    assert put(pool, image, b"x", str(uuid.uuid4())).code == 201
    assert put(pool, image, b"x", **{"Storage-Domain-Id": str(uuid.uuid4())}).code == 358
    assert put(pool, image, b"x", **{"Storage-Pool-Id": str(uuid.uuid4())}).code == 309
    assert put(pool, chain, b"x", chain.volumes[0]).code == 220
    assert put(pool, chain, b"x").code == get(pool, chain, 1).code == 1000
    assert get(pool, image, MIB + 1).code == 1000
    too_large = put(pool, image, bytes(MIB + 1))
    assert (too_large.status, too_large.code) == (500, 229)
    assert legality(pool, image) == "LEGAL"
    assert not running(pool)


def test_a_marked_volume_is_not_overwritten(pool: daemon.Pool) -> None:
    """The mark before a pivot means that this volume may be the only one with the guest's data."""
    image = new(pool, MIB)
    pool.mark(image, image.leaf, "ILLEGAL")
    assert put(pool, image, b"x").code == 227
    assert get(pool, image, 1).code == 227


@pytest.mark.qemu
def test_a_volume_in_use(pool: daemon.Pool) -> None:
    from tests.support import bench

    image = new(pool, MIB)
    path = image.layers[image.leaf].path
    with bench.held(path, "raw"):
        assert put(pool, image, b"x").code == 203
        assert get(pool, image, 1).code == 203
    with bench.held(path, "raw", readonly=True):
        assert put(pool, image, b"x").code == 203
        assert get(pool, image, 1).status == 206
    assert put(pool, image, b"x").status == 200


def test_a_template_is_not_overwritten(pool: daemon.Pool) -> None:
    image = new(pool, MIB)
    other, volume = str(uuid.uuid4()), str(uuid.uuid4())
    create = (pool.domain, pool.id, other, "0", daemon.COW, 2, 2, volume, "x", image.id, image.leaf)
    pool.daemon.task("createVolume", *create)
    assert put(pool, image, b"x", image.leaf).code == 219
    link = daemon.Image(other, image.directory, {})
    assert put(pool, link, b"x", image.leaf).code == 219


def test_web_pages_and_other_methods_are_refused(pool: daemon.Pool) -> None:
    image = new(pool, MIB)
    with connect(pool) as sock:
        sock.sendall(head("PUT", pool, image, Content_Length=1, Origin="http://evil"))
        assert answer(sock).status == 403
    with connect(pool) as sock:
        sock.sendall(head("DELETE", pool, image))
        found = answer(sock, "DELETE")
    assert found.status == 405 and "PUT" in found.headers["allow"] and "GET" in found.headers["allow"]


def test_a_refused_body_is_not_waited_for(pool: daemon.Pool) -> None:
    """Who asks before sending gets the refusal in place of the word to go on."""
    image = new(pool, MIB)
    with connect(pool) as sock:
        sock.sendall(head("PUT", pool, image, Content_Length=MIB + 1, Expect="100-continue"))
        assert answer(sock).code == 229


# ---------------------------------------------------------------- ends that break


def test_a_body_that_is_too_short(pool: daemon.Pool) -> None:
    image = new(pool, MIB)
    with connect(pool) as sock:
        sock.sendall(head("PUT", pool, image, Content_Length=1000) + b"a" * 999)
        sock.shutdown(socket.SHUT_WR)
        found = answer(sock)
    assert (found.status, found.code) == (500, 1000)
    assert "999 of 1000" in found.message or "0 of 1000" in found.message
    assert legality(pool, image) == "ILLEGAL"
    assert task_of(pool, found)["taskResult"] == "cleanFailure"
    assert put(pool, image, b"again").status == 200
    assert legality(pool, image) == "LEGAL"


def test_a_body_that_is_too_long(pool: daemon.Pool) -> None:
    """What follows is neither content nor another request."""
    image = new(pool, MIB)
    victim = new(pool, MIB)
    body = head("PUT", pool, victim, Content_Length=5) + b"wrong"
    with connect(pool) as sock:
        sock.sendall(head("PUT", pool, image, Content_Length=5) + b"right" + body)
        assert wire.read_all(sock).count(b"HTTP/1.1") == 1
    assert get(pool, image, 8).body == b"right\0\0\0"
    assert get(pool, victim, 5).body == b"\0" * 5


def test_a_slow_body_is_cut(pool: daemon.Pool) -> None:
    image = new(pool, MIB)
    with connect(pool) as sock:
        sock.sendall(head("PUT", pool, image, Content_Length=1000) + b"a")
        for _ in range(int(PIECE_SECONDS * 10) + 50):  # each byte is a sign of life, but a piece has its time
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"a")
            sock.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                if sock.recv(1, socket.MSG_PEEK):
                    break
        sock.settimeout(PATIENCE)
        found = answer(sock)
    assert (found.status, found.code) == (500, 1000)
    assert "took more than 4 s" in found.message
    assert legality(pool, image) == "ILLEGAL"


def test_a_client_that_does_not_take_its_answer(pool: daemon.Pool) -> None:
    image = new(pool, 64 * MIB)
    with connect(pool) as sock:
        sock.sendall(head("GET", pool, image, Range=f"bytes=0-{64 * MIB - 1}"))
        until(lambda: running(pool))
        until(lambda: not running(pool))
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer(sock, "GET")
    assert put(pool, image, b"x").status == 200, "its locks are free"


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_goes(pool: daemon.Pool, reset: bool) -> None:
    image = new(pool, 8 * MIB)
    for method, more in (("PUT", {"Content_Length": 8 * MIB}), ("GET", {"Range": f"bytes=0-{8 * MIB - 1}"})):
        with connect(pool) as sock:
            sock.sendall(head(method, pool, image, **more) + (b"a" * MIB if method == "PUT" else b""))
            if method == "PUT":
                until(lambda: legality(pool, image) == "ILLEGAL")
            else:
                sock.recv(1000)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: not running(pool))
        assert put(pool, image, bytes_of(8 * MIB)).status == 200


def test_stopping_the_task_ends_a_stream_that_waits(pool: daemon.Pool) -> None:
    image = new(pool, MIB)
    with connect(pool) as sock:
        sock.sendall(head("PUT", pool, image, Content_Length=1024) + b"a")
        until(lambda: legality(pool, image) == "ILLEGAL")
        [task] = running(pool)
        pool.daemon.call("stopTask", task)
        found = answer(sock)
    assert (found.status, found.code, found.headers["task-id"]) == (500, 411, task)
    assert legality(pool, image) == "ILLEGAL"


def test_progress_is_told(pool: daemon.Pool) -> None:
    image = new(pool, MIB)
    with connect(pool) as sock:
        sock.sendall(head("PUT", pool, image, Content_Length=MIB) + b"a" * (512 * KIB))

        def told() -> dict[str, Any]:
            statuses = pool.daemon.call("getAllTasksStatuses")["allTasksStatus"].values()
            return next((s for s in statuses if s["taskState"] == "running" and s.get("done") == str(512 * KIB)), {})

        until(told)
        assert told()["total"] == str(MIB) and told()["message"] == f"moved {512 * KIB} of {MIB} bytes"
        sock.sendall(b"a" * (512 * KIB))
        assert answer(sock).status == 200


def test_memory_stays_bounded_and_a_slow_end_holds_the_fast_one_up(pool: daemon.Pool) -> None:
    image = new(pool, 256 * MIB)
    block = bytes_of(MIB)
    before = _memory(pool.daemon.process.pid)
    with connect(pool) as sock:
        sock.sendall(head("PUT", pool, image, Content_Length=256 * MIB))
        for _ in range(256):
            sock.sendall(block)
        assert answer(sock).status == 200
    with connect(pool) as sock:
        sock.sendall(head("GET", pool, image, Range=f"bytes=0-{256 * MIB - 1}"))
        time.sleep(PIECE_SECONDS / 4)
        assert answer(sock, "GET").body.count(block) == 256
    assert _memory(pool.daemon.process.pid, "VmHWM") - before < 32


def _memory(pid: int, key: str = "VmRSS") -> int:
    """MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) // 1024


# ---------------------------------------------------------------- the daemon ends


def again(first: daemon.Pool, place: Path) -> daemon.Daemon:
    """Another daemon over the same repository."""
    server = daemon.Daemon.__new__(daemon.Daemon)
    server.directory, server.repository, server.command = place, first.daemon.repository, first.daemon.command
    with (place / "daemon.log").open("ab") as log:
        server.process = subprocess.Popen(
            server.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=place
        )
    server.address = server._wait_ready(time.monotonic() + 20)
    server.url = f"http://{server.address}/"
    server.proxy = daemon.connect(server.url)
    return server


def test_a_kill_in_the_middle_leaves_illegal_and_a_task_that_says_so(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    server = daemon.Daemon(tmp_path, CONFIG)
    try:
        pool = daemon.make_pool(server, storage)
        image = new(pool, MIB)
        with connect(pool) as sock:
            sock.sendall(head("PUT", pool, image, Content_Length=MIB) + b"a" * (512 * KIB))
            until(lambda: legality(pool, image) == "ILLEGAL")
            [task] = running(pool)
            server.proxy("close")()
            server.kill()
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                answer(sock)
    finally:
        server.kill()
    with again(pool, tmp_path) as server:
        pool = dataclasses.replace(pool, daemon=server)
        server.call("connectStorageServer", daemon.LOCALFS, daemon.BLANK, [{"id": "x", "connection": str(storage)}])
        server.call("connectStoragePool", pool.id, 1, "key", pool.domain, 1)
        server.task("spmStart", pool.id, -1, -1, -1, 0)
        until(lambda: not running(pool))
        status = server.call("getTaskStatus", task)["taskStatus"]
        assert (status["taskState"], status["taskResult"], status["code"]) == ("finished", "cleanFailure", 255)
        assert "stays ILLEGAL" in status["message"]
        assert legality(pool, image) == "ILLEGAL"
        assert pool.reconcile(image, image.leaf)["status"]["code"] == 262
        assert put(pool, image, b"again").status == 200
        assert get(pool, image, 5).body == b"again"
        server.call("clearTask", task)
        pool.delete_image(image)


def test_an_orderly_end_waits_for_streams(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    with daemon.Daemon(tmp_path, CONFIG) as server:
        pool = daemon.make_pool(server, storage)
        image = new(pool, MIB)
        with connect(pool) as sock:
            sock.sendall(head("PUT", pool, image, Content_Length=1024) + b"a" * 512)
            until(lambda: legality(pool, image) == "ILLEGAL")
            server.process.terminate()
            time.sleep(0.5)
            sock.sendall(b"b" * 512)
            assert answer(sock).status == 200
        assert server.process.wait(30) == 0


def test_every_stream_has_its_audit_line(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    with daemon.Daemon(tmp_path, {**CONFIG, "log": {"audit_file": str(tmp_path / "audit")}}) as server:
        pool = daemon.make_pool(server, storage)
        image = new(pool, MIB)
        assert put(pool, image, b"x", FlowID="flow-7").status == 200
        assert get(pool, image, 2 * MIB).code == 1000
        until(lambda: "uploadImageToStream" in (tmp_path / "audit").read_text())
        lines = [line for line in (tmp_path / "audit").read_text().splitlines() if "Stream" in line]
    assert "flow=flow-7" in lines[0] and "via=http verb=downloadImageFromStream" in lines[0]
    assert f"imageID={image.id}" in lines[0] and "code=0" in lines[0]
    assert "verb=uploadImageToStream" in lines[1] and "code=1000" in lines[1]
