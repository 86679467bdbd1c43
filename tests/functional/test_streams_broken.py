"""PUT and GET of volumes whose client, task or daemon ends early or stalls: cut, slow, stopped, and with a kill."""

import contextlib
import dataclasses
import http.client
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon, streaming, wire

KIB, MIB = 1 << 10, 1 << 20
CONFIG, PATIENCE, PIECE_SECONDS = streaming.CONFIG, streaming.PATIENCE, streaming.PIECE_SECONDS
pool = streaming.pool
answer, connect, get, head, put = streaming.answer, streaming.connect, streaming.get, streaming.head, streaming.put
bytes_of, legality, new = streaming.bytes_of, streaming.legality, streaming.new
running, task_of, until = streaming.running, streaming.task_of, streaming.until


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
