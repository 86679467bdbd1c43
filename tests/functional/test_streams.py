"""PUT and GET of volumes on the daemon's own port, over real sockets: there and back, and refused before they start."""

import concurrent.futures
import contextlib
import http.client
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon, guest, streaming

KIB, MIB = 1 << 10, 1 << 20
PATIENCE = streaming.PATIENCE
pool = streaming.pool
answer, connect, get, head, put = streaming.answer, streaming.connect, streaming.get, streaming.head, streaming.put
bytes_of, legality, new = streaming.bytes_of, streaming.legality, streaming.new
running, task_of, until = streaming.running, streaming.task_of, streaming.until


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


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
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
