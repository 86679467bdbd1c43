"""``vdsClient --wait`` against the real daemon: real tasks, their results, and a restart in between."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import main
from tests.support import daemon, images

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon.Pool]:
    root = tmp_path_factory.mktemp("waiting")
    (root / "storage").mkdir()
    with daemon.Daemon(root) as running:
        yield daemon.make_pool(running, root / "storage")


def wait(pool: daemon.Pool, *words: str) -> tuple[int, dict[str, object]]:
    """Exit code and JSON document of a command that is waited for."""
    with contextlib.redirect_stderr(io.StringIO()):
        outcome = main.run(["--wait", "--json", pool.daemon.address, *words])
    found = json.loads("\n".join(outcome.lines))
    assert isinstance(found, dict)
    return outcome.code, found


def test_a_copy_is_waited_for_and_its_task_cleared(pool: daemon.Pool) -> None:
    made = pool.make_image_chain(8 * images.MIB)
    copy, volume = str(uuid.uuid4()), str(uuid.uuid4())
    words = ["copyImage", pool.domain, pool.id, daemon.BLANK, made.id, made.leaf, copy, volume, "a copy"]
    code, found = wait(pool, *words)
    assert (code, found["status"]) == (0, {"code": 0, "message": "1 of 1 jobs done"})
    assert found["result"] == {"uuid": volume}
    assert (pool.storage / pool.domain / "images" / copy / volume).exists()
    assert pool.daemon.call("getAllTasks")["tasks"] == {}
    code, found = wait(pool, *words)
    status = found["taskStatus"]
    assert isinstance(status, dict) and status["taskResult"] == "cleanSuccess"
    assert (code, found["status"]) == (1, {"code": status["code"], "message": status["message"]})
    assert status["code"] and pool.daemon.call("getAllTasks")["tasks"] == {}


def test_a_daemon_that_is_killed_meanwhile(tmp_path: Path) -> None:
    """The client says so and goes on asking, until Ctrl-C."""
    (tmp_path / "storage").mkdir()
    slow = tmp_path / "qemu-img"
    begun = tmp_path / "pid"
    slow.write_text(f'#!/bin/sh\n[ "$1" = convert ] || exec qemu-img "$@"\necho $$ > {begun}\nexec sleep 60\n')
    slow.chmod(0o755)
    with daemon.Daemon(tmp_path, {"storage": {"qemu_img": str(slow)}}) as first:
        pool = daemon.make_pool(first, tmp_path / "storage")
        made = pool.make_image_chain(images.MIB)
        copied = [str(uuid.uuid4()), str(uuid.uuid4())]
        words = ["copyImage", pool.domain, pool.id, daemon.BLANK, made.id, made.leaf, *copied, "a copy"]
        command = [sys.executable, "-m", "client.main", "--wait", first.address, *words]
        root = Path(main.__file__).parents[1]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as client:
            assert client.stderr is not None and client.stdout is not None
            task = client.stderr.readline().split()[-1]
            while "copying the disk" not in client.stderr.readline():
                pass
            while not (begun.exists() and begun.read_text().strip()):
                time.sleep(0.01)
            first.kill()
            os.kill(int(begun.read_text()), signal.SIGKILL)
            assert "asking again" in client.stderr.readline()
            client.send_signal(2)
            assert client.wait() == 130
            assert client.stdout.read() == ""
            assert f"stopTask {task}" in client.stderr.read()
