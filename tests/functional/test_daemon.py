"""The daemon as a process: how it starts, what it refuses, what signals do, what it writes down."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import uuid
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support import daemon, images

SECRET = "hunter2-is-no-secret"


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What the condition gives once that is something; fails when it stays nothing."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found


def serve(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run ``vdsmlite serve`` to its end."""
    command = [*daemon.PROGRAM, "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=40, **options)


def host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def listens(address: str) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(ConnectionError), socket.create_connection(host_and_port(address), timeout=5):
        return True
    return False


# ---------------------------------------------------------------- start


def test_ready_line_then_answers(tmp_path: Path) -> None:
    with daemon.Daemon(tmp_path) as server:
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", server.address)
        assert server.call("ping")["status"] == {"code": 0, "message": "Done"}
        for name in ("", "mnt", "hsm-tasks"):
            assert stat.S_ISDIR((server.repository / name).lstat().st_mode)
        assert (server.repository / "vdsmlite.pid").read_text() == f"{server.process.pid}\n"
        assert server.stop() == 0
        assert not (server.repository / "vdsmlite.pid").exists()
        assert "Traceback" not in server.log


def test_repository_is_made(tmp_path: Path) -> None:
    command = [*daemon.PROGRAM, "serve", "--repository", "made", "--listen", "127.0.0.1:0"]
    umask = os.umask(0o022)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path, text=True)
    finally:
        os.umask(umask)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("vdsmlite ready on 127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stdout.read() == "", "one line and no more"
    modes = {name: stat.S_IMODE((tmp_path / "made" / name).stat().st_mode) for name in ("", "mnt", "hsm-tasks")}
    assert set(modes.values()) == {0o755}


def test_repository_may_be_named_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "repository").symlink_to("real")
    done = serve("--repository", tmp_path / "repository", "--listen", "127.0.0.1:0", "--daemon")
    try:
        assert done.returncode == 0, done.stderr
    finally:
        end(tmp_path / "real" / "vdsmlite.pid")


def test_show_config(tmp_path: Path) -> None:
    done = serve("--repository", tmp_path / "r", "--listen", "127.0.0.1:7", "--insecure", "--show-config")
    assert done.returncode == 0
    assert f"  repository: {tmp_path}/r\n" in done.stdout
    assert "  listen: 127.0.0.1:7\n  insecure: true\n" in done.stdout
    assert not (tmp_path / "r").exists(), "it only shows"
    again = tmp_path / "again.yaml"
    again.write_text(done.stdout)
    assert serve("--config", again, "--show-config").stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "config", "code", "said"),
    [
        (["--listen", "0.0.0.0:0"], None, 2, "refusing to listen on 0.0.0.0:0"),
        (["--listen", "[::]:0"], None, 2, "refusing to listen on [::]:0"),
        (["--listen", "0.0.0.0:0", "--show-config"], {"server": {"colour": 1}}, 2, "unknown key server.colour"),
        ([], {"colours": {}}, 2, "unknown section colours"),
        ([], {"storage": {"workers": "many"}}, 2, "storage.workers must be a whole number"),
        ([], {"tls": {"certificate": "/missing.pem", "key": "/missing.pem"}}, 2, "tls: "),
        ([], {"log": {"config": "/missing.yaml"}}, 2, "/missing.yaml: No such file"),
        ([], {"log": {"file": "/missing/log"}}, 1, "/missing/log"),
        # An address for documentation, which no machine has: being insecure is accepted, and then there is none such.
        (["--listen", "192.0.2.1:0", "--insecure"], None, 1, "assign requested address"),
        (["--listen", "192.0.2.1:0"], {"server": {"insecure": True}}, 1, "assign requested address"),
    ],
)
def test_refused_at_start(
    tmp_path: Path, arguments: list[str], config: dict[str, Any] | None, code: int, said: str
) -> None:
    words = ["--repository", tmp_path / "r", *(arguments if "--listen" in arguments else ["--listen", "127.0.0.1:0"])]
    if config is not None:
        (tmp_path / "c.yaml").write_text(json.dumps(config))
        words += ["--config", tmp_path / "c.yaml"]
    done = serve(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r" / "vdsmlite.pid").exists()


def test_no_repository_without_its_parent(tmp_path: Path) -> None:
    done = serve("--repository", tmp_path / "a" / "b", "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert "No such file" in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    with daemon.Daemon(tmp_path) as server:
        for more in ([], ["--daemon"]):
            done = serve("--repository", server.repository, "--listen", "127.0.0.1:0", *more)
            assert (done.returncode, done.stdout) == (1, "")
            assert f"process {server.process.pid} has" in done.stderr
        assert server.call("ping")
        server.process.kill()
        server.process.wait()
        done = serve("--repository", server.repository, "--listen", "127.0.0.1:0", "--daemon")
        try:
            assert done.returncode == 0, "what a killed daemon left is no hindrance: " + done.stderr
        finally:
            end(server.repository / "vdsmlite.pid")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = serve("--repository", tmp_path / "r", "--listen", address)
        assert (done.returncode, done.stdout) == (1, "")
        assert "Address already in use" in done.stderr


# ---------------------------------------------------------------- in the background


def end(pid_file: Path) -> None:
    """End a daemon that is no child of ours, by the pid file that it holds."""
    with contextlib.suppress(FileNotFoundError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not pid_file.exists())
        wait_for(lambda: gone(pid))


def gone(pid: int) -> bool:
    """Whether a process is gone, or nothing but its entry in the table is left."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_in_the_background(tmp_path: Path) -> None:
    pid_file, repository = tmp_path / "pid", tmp_path / "r"
    arguments = ["--listen", "127.0.0.1:0", "--daemon", "--pidfile", "pid", "--repository", "r"]
    done = serve(*arguments, cwd=tmp_path)
    try:
        assert (done.returncode, done.stderr) == (0, "")
        ready = re.fullmatch(r"vdsmlite ready on (127\.0\.0\.1:\d+)\n", done.stdout)
        assert ready
        with daemon.connect(f"http://{ready[1]}/") as proxy:
            assert proxy.ping()["status"]["code"] == 0  # type: ignore[call-overload, index]
        pid = int(pid_file.read_text())
        assert (repository / "vdsmlite.pid").read_text() == f"{pid}\n"
        assert os.getsid(pid) not in (pid, os.getsid(0)), "a session of its own, and no way to get a terminal"
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        for fd in ("0", "1", "2"):
            assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
        again = serve("--repository", tmp_path / "r2", "--listen", "127.0.0.1:0", "--daemon", "--pidfile", pid_file)
        assert (again.returncode, again.stdout) == (1, "")
        assert f"process {pid} has {pid_file}" in again.stderr
    finally:
        end(pid_file)
    log = (repository / "vdsmlite.log").read_text()
    assert "verb=ping" in log and "ending, for SIGTERM" in log
    assert not (repository / "vdsmlite.pid").exists()
    assert "Traceback" not in log


def test_failures_in_the_background_are_told(tmp_path: Path) -> None:
    arguments = ["--repository", tmp_path / "r", "--daemon"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = serve(*arguments, "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--pidfile", tmp_path / "pid")
        assert (done.returncode, done.stdout) == (1, "")
        assert "Address already in use" in done.stderr
        assert not (tmp_path / "pid").exists()
    (tmp_path / "precious").write_text("not a number")
    done = serve(*arguments, "--listen", "127.0.0.1:0", "--pidfile", tmp_path / "precious")
    assert (done.returncode, done.stdout) == (1, "")
    assert "something else" in done.stderr
    assert (tmp_path / "precious").read_text() == "not a number"


# ---------------------------------------------------------------- signals


class SlowTool:
    """A qemu-img that waits for leave before it does its work."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "slow-qemu-img"
        self.go, self.waits, self.begun = directory / "go", directory / "waits", directory / "begun"
        self.path.write_text(
            f'#!/bin/sh\n[ -e "{self.waits}" ] || exec qemu-img "$@"\n: > "{self.begun}"\n'
            f'n=0; while [ ! -e "{self.go}" ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done\nexec qemu-img "$@"\n'
        )
        self.path.chmod(0o755)


@contextlib.contextmanager
def busy(directory: Path) -> Iterator[tuple[daemon.Daemon, SlowTool, http.client.HTTPConnection, str]]:
    """A daemon with a task at work, and a verb that waits for the image that the task has; with the task's id."""
    tool = SlowTool(directory)
    with daemon.Daemon(directory, {"storage": {"qemu_img": str(tool.path)}}) as server:
        (directory / "storage").mkdir()
        pool = daemon.make_pool(server, directory / "storage")
        image = pool.make_image_chain(images.MIB)
        connection = http.client.HTTPConnection(*host_and_port(server.address), timeout=60)
        try:
            tool.waits.touch()
            top = (image.id, str(images.MIB), daemon.COW, daemon.SPARSE, daemon.DATA_DISK, str(uuid.uuid4()), "top")
            task = server.call("createVolume", pool.domain, pool.id, *top, image.id, image.leaf)["uuid"]
            wait_for(tool.begun.exists)
            # Answered once, the connection is accepted: what is sent on it now is a request that the daemon has.
            connection.request("POST", "/RPC2", xmlrpc.client.dumps((), "ping"), {"Content-Type": "text/xml"})
            connection.getresponse().read()
            request = xmlrpc.client.dumps((pool.id, pool.domain, image.id, image.leaf), "prepareImage")
            connection.request("POST", "/RPC2", request, {"Content-Type": "text/xml"})
            yield server, tool, connection, task
        finally:
            tool.go.touch()
            connection.close()


@pytest.mark.qemu
def test_sigterm_lets_verbs_and_tasks_finish(tmp_path: Path) -> None:
    with busy(tmp_path) as (server, tool, connection, task):
        server.process.terminate()
        wait_for(lambda: not listens(server.address))
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        tool.go.touch()
        ((answer,), _) = xmlrpc.client.loads(connection.getresponse().read())
        assert answer["status"] == {"code": 0, "message": "OK"}  # type: ignore[index, call-overload]
        assert server.process.wait(30) == 0
        assert "verb=prepareImage" in server.log
        assert task not in server.log.partition("ending, for SIGTERM")[2], "no task is left behind"


@pytest.mark.qemu
def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    with busy(tmp_path) as (server, _, _, _):
        server.process.terminate()
        wait_for(lambda: not listens(server.address))
        server.process.terminate()
        assert server.process.wait(30) == -signal.SIGTERM


@pytest.mark.qemu
def test_verbs_get_only_so_much_time(tmp_path: Path) -> None:
    """The daemon ends when its time is up, though the task never would."""
    config = {"server": {"stop_seconds": 0.2}}
    tool = SlowTool(tmp_path)
    with daemon.Daemon(tmp_path, {**config, "storage": {"qemu_img": str(tool.path)}}) as server:
        (tmp_path / "storage").mkdir()
        pool = daemon.make_pool(server, tmp_path / "storage")
        tool.waits.touch()
        arguments = (str(uuid.uuid4()), str(images.MIB), daemon.COW, daemon.SPARSE, daemon.DATA_DISK)
        names = (str(uuid.uuid4()), "volume", daemon.BLANK, daemon.BLANK)
        try:
            server.call("createVolume", pool.domain, pool.id, *arguments, *names)
            wait_for(tool.begun.exists)
            server.process.terminate()
            assert server.process.wait(30) == 0
        finally:
            tool.go.touch()
        assert "Traceback" not in server.log


def test_sighup_opens_logs_anew(tmp_path: Path) -> None:
    log, audit = tmp_path / "log", tmp_path / "audit"
    with daemon.Daemon(tmp_path, {"log": {"file": str(log), "audit_file": str(audit)}}) as server:
        server.call("ping")
        log.rename(tmp_path / "log.1")
        audit.rename(tmp_path / "audit.1")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: log.exists() and "opened anew" in log.read_text())
        server.call("getAllTasks")
        assert "verb=getAllTasks" in audit.read_text()
        assert "verb=ping" not in audit.read_text()
        assert "verb=ping" in (tmp_path / "audit.1").read_text()
        assert "verb=getAllTasks" not in (tmp_path / "audit.1").read_text()
        assert server.stop() == 0
        assert server.log == "", "all of it is in the files"


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        with daemon.Daemon(tmp_path) as server:
            assert manager.recv(1000).decode() == f"READY=1\nSTATUS=serving {server.address}"
            for _ in range(3):
                assert manager.recv(1000) == b"WATCHDOG=1"
            server.process.send_signal(signal.SIGHUP)
            seen = [manager.recv(1000).decode().partition("\n")[0] for _ in range(2)]
            while seen[-1] == "WATCHDOG=1":
                seen.append(manager.recv(1000).decode().partition("\n")[0])
            while seen[-1] != "READY=1":
                seen.append(manager.recv(1000).decode().partition("\n")[0])
            assert [state for state in seen if state != "WATCHDOG=1"] == ["RELOADING=1", "READY=1"]
            assert server.stop() == 0
            while (state := manager.recv(1000)) == b"WATCHDOG=1":
                pass
            assert state.startswith(b"STOPPING=1\n")


def test_idle_connections_do_not_delay_the_end(tmp_path: Path) -> None:
    with daemon.Daemon(tmp_path) as server, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(host_and_port(server.address)))
        server.call("ping")  # and its connection stays open
        server.process.terminate()
        assert server.process.wait(10) == 0  # far below the 60 seconds of stop_seconds


# ---------------------------------------------------------------- audit

LINE = re.compile(
    r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z client=127\.0\.0\.1:\d+ flow=(?P<flow>\S+|\".*\") via=(?P<via>\S+)"
    r" verb=(?P<verb>\w+)(?P<ids>(?: \w+=[0-9a-fA-F-]{36})*) code=(?P<code>\d+) ms=\d+\.\d"
)


def test_audit_lines(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    with daemon.Daemon(tmp_path, {"log": {"level": "DEBUG", "audit_file": str(audit)}}) as server:
        some = str(uuid.uuid4())
        connection = {"id": some, "connection": str(tmp_path / "missing"), "user": "me", "password": SECRET}
        server.answer("connectStorageServer", 4, daemon.BLANK, [connection])
        server.answer("connectStorageServer", 4, daemon.BLANK, [{**connection, "id": f"x\n{SECRET}"}])
        server.answer("getVolumeInfo", some, some, some, some)
        server.answer("getVolumeInfo", some, some, some, "../../etc/passwd\ntime=forged")
        server.answer("getVolumeInfo", some)
        http_client = http.client.HTTPConnection(*host_and_port(server.address), timeout=30)
        with contextlib.closing(http_client):
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "Host.ping"})
            headers = {"FlowID": 'a "b" \\ code=7', "Content-Type": "application/json"}
            http_client.request("POST", "/jsonrpc", body, headers)
            assert http_client.getresponse().status == 200
        assert server.stop() == 0
        lines = audit.read_text().splitlines()
        found = [LINE.fullmatch(line) for line in lines]
        assert all(found), lines
        table = [(each["verb"], each["via"], each["code"]) for each in found if each]
        assert [verb for verb, _, _ in table] == ["connectStorageServer"] * 2 + ["getVolumeInfo"] * 3 + ["ping"]
        assert table[-1] == ("ping", "json-rpc", "0")
        assert lines[2].count(some) == 4
        assert "passwd" not in audit.read_text()
        assert lines[-1].split(" via=")[0].split("flow=")[1] == r'"a \"b\" \\ code=7"'
        assert SECRET not in audit.read_text() + server.log


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trust_store(directory: Path, authority: trustme.CA, name: str, signer: trustme.CA | None = None) -> Path:
    """A client's trust store, laid out as vdsm's: who it is, and whom it trusts."""
    certificate = (signer or authority).issue_cert(common_name=name)
    for part in ("keys", "certs"):
        (directory / part).mkdir(parents=True)
    certificate.private_key_pem.write_to_path(directory / "keys" / "vdsmkey.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "certs" / "vdsmcert.pem")
    authority.cert_pem.write_to_path(directory / "certs" / "cacert.pem")
    return directory


@contextlib.contextmanager
def secure_daemon(directory: Path, authority: trustme.CA, **more: Any) -> Iterator[daemon.Daemon]:
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    files = {name: directory / f"{name}.pem" for name in ("certificate", "key", "authorities")}
    certificate.cert_chain_pems[0].write_to_path(files["certificate"])
    certificate.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["authorities"])
    with daemon.Daemon(directory, {"tls": {**{name: str(path) for name, path in files.items()}, **more}}) as server:
        yield server


def vds_client(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the client as people do."""
    command = [str(Path(sys.executable).with_name("vdsClient")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=40)


def test_client_over_tls(tmp_path: Path, authority: trustme.CA) -> None:
    store = trust_store(tmp_path / "store", authority, "engine")
    with secure_daemon(tmp_path, authority, clients=["engine"]) as server:
        done = vds_client("-s", "--truststore", store, server.address, "getStorageDomainsList")
        assert (done.returncode, done.stderr) == (0, "")
        assert "verb=getStorageDomainsList" in server.log
        assert server.stop() == 0


@pytest.mark.parametrize("who", ["plain", "nobody", "stranger", "not on the list"])
def test_who_is_not_let_in(tmp_path: Path, authority: trustme.CA, who: str) -> None:
    signer = trustme.CA() if who == "stranger" else authority
    store = trust_store(tmp_path / "store", authority, "guest" if who == "not on the list" else "engine", signer)
    with secure_daemon(tmp_path, authority, clients=["engine"]) as server:
        if who == "nobody":
            context = ssl.create_default_context(cafile=str(store / "certs" / "cacert.pem"))
            with pytest.raises(OSError):  # it may learn so in the handshake or, in TLS 1.3, with the first answer
                nobody = http.client.HTTPSConnection(*host_and_port(server.address), context=context, timeout=20)
                with contextlib.closing(nobody):
                    nobody.request("POST", "/RPC2", xmlrpc.client.dumps((), "ping"))
                    nobody.getresponse()
        else:
            security = () if who == "plain" else ("-s", "--truststore", store)
            done = vds_client(*security, server.address, "getStorageDomainsList")
            assert done.returncode != 0
            assert "Traceback" not in done.stderr
        assert server.stop() == 0
        assert "verb=" not in server.log
        assert "Traceback" not in server.log
