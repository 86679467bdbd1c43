"""What a daemon is as a process: its word to the service manager, signals, pid files, the command line."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import vdsmlite
from storage import files
from vdsmlite import __main__, background, config, notify, pidfile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket, and how the environment names it."""
    abstract = f"vdsmlite-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        if request.param == "path":
            sock.bind(str(tmp_path / "n"))
            yield sock, str(tmp_path / "n")
        else:
            sock.bind("\0" + abstract)
            yield sock, "@" + abstract


def test_states_reach_the_service_manager(manager):
    sock, address = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    notifier = notify.Notifier(environment)
    assert environment == {"A": "b"}, "not for our children"
    assert notifier.interval == 1.5
    notifier.ready("serving")
    notifier.alive()
    notifier.reloading()
    notifier.stopping("bye")
    assert sock.recv(1000) == b"READY=1\nSTATUS=serving"
    assert sock.recv(1000) == b"WATCHDOG=1"
    reloading = dict(line.split("=") for line in sock.recv(1000).decode().split("\n"))
    assert reloading["RELOADING"] == "1"
    assert abs(int(reloading["MONOTONIC_USEC"]) - time.monotonic_ns() // 1000) < 60_000_000
    assert sock.recv(1000) == b"STOPPING=1\nSTATUS=bye"


def test_without_a_service_manager_nothing_is_said():
    notifier = notify.Notifier({})
    notifier.ready("serving")
    notifier.alive()
    assert notifier.interval is None


def test_a_service_manager_that_is_gone_is_no_harm(tmp_path, caplog):
    notify.Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("serving")
    assert "READY=1" in caplog.text


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},  # meant for another process
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
    ],
)
def test_no_watchdog(environment):
    assert notify.Notifier(environment).interval is None


def test_signals_are_waited_for():
    script = """
import os, signal, sys
from vdsmlite import signals
came = signals.Signals((signal.SIGTERM, signal.SIGHUP))
assert came.wait(0.01) == []
os.kill(os.getpid(), signal.SIGHUP)
assert came.wait(10) == [signal.SIGHUP]
print("waiting", flush=True)
assert came.wait(10) == [signal.SIGTERM]
came.release([signal.SIGTERM])
print("released", flush=True)
came.wait(10)
"""
    command = [sys.executable, "-I", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "released\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_signals_reach_the_waiting_thread_wherever_they_arrive():
    """The kernel may choose any thread; here it has no other choice than the one that does not wait."""
    script = """
import os, signal, sys, threading, time
from vdsmlite import signals
came = signals.Signals((signal.SIGTERM,))
free = threading.Event()
threading.Thread(target=free.wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
assert came.wait(20) == [signal.SIGTERM]
"""
    # Only the thread that was started before the mask takes the signal; the timer's thread inherits the mask.
    assert subprocess.run([sys.executable, "-I", "-c", script], timeout=30).returncode == 0


def test_a_pid_file_is_held_and_removed(tmp_path):
    path = tmp_path / "pid"
    with pidfile.held(path):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(pidfile.Taken, match=f"process {os.getpid()} has"), pidfile.held(path):
            pass
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_what_a_dead_process_left_is_taken_over(tmp_path):
    path = tmp_path / "pid"
    path.write_text("123456789012345\n")
    with pidfile.held(path):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["root:x:0:0\n", "12 34\n", "-1\n", "\0"])
def test_no_other_file_is_overwritten(tmp_path, content):
    path = tmp_path / "passwd"
    path.write_text(content)
    with pytest.raises(FileExistsError), pidfile.held(path):
        pass
    assert path.read_text() == content


def test_no_link_is_followed(tmp_path):
    (tmp_path / "target").write_text("1\n")
    (tmp_path / "pid").symlink_to("target")
    with pytest.raises(OSError, match="symbolic links"), pidfile.held(tmp_path / "pid"):
        pass
    assert (tmp_path / "target").read_text() == "1\n"


def test_a_fifo_or_a_directory_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("fifo", "directory"):
        with pytest.raises(OSError), pidfile.held(tmp_path / name):
            pass


def test_a_name_that_moved_is_not_removed(tmp_path):
    path = tmp_path / "pid"
    with pidfile.held(path):
        path.rename(tmp_path / "elsewhere")
        path.write_text("7\n")
    assert path.read_text() == "7\n"


def test_one_of_many_gets_the_file(tmp_path):
    """Takers and removers at the same time: never two holders."""
    path = tmp_path / "pid"
    inside, most, refused = [], [], []

    def work():
        for _ in range(200):
            try:
                fd = files.claim(path, b"1\n")
            except BlockingIOError:
                refused.append(1)
                continue
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            files.unclaim(path, fd)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


def test_reports_reach_the_pipe_once():
    reader, writer = os.pipe()
    report = background.Pipe(writer)
    report.ready("ready")
    assert report.failed("later", 3) == 3
    with os.fdopen(reader, "rb") as stream:
        assert stream.read() == b"\0ready"


def test_a_report_to_nobody_is_no_harm():
    reader, writer = os.pipe()
    os.close(reader)
    background.Pipe(writer).ready("ready")


def run(*arguments, **options):
    command = [sys.executable, "-I", "-m", "vdsmlite", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, **options)


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        __main__.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"vdsmlite {vdsmlite.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["server"], ["serve", "--repository", ""], ["serve", "more"], ["serve", "--rep"]]
)
def test_wrong_command_lines(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        __main__.main(arguments)
    assert end.value.code == 2
    assert "usage: vdsmlite" in capsys.readouterr().err


def test_help_and_version_are_quick_and_isolated(tmp_path):
    """Neither loads the floors, and a foreign module in the working directory is none of ours."""
    for name in ("storage.py", "rpc.py", "vdsmlite.py", "argparse.py"):
        (tmp_path / name).write_text("raise SystemExit('foreign')")
    done = run("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"vdsmlite {vdsmlite.__version__}\n")
    script = "import sys\nfrom vdsmlite import __main__\ntry: __main__.main(['--help'])\nexcept SystemExit: pass\n"
    script += "assert not {'storage', 'rpc', 'logging', 'yaml'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-I", "-c", script], stdout=subprocess.DEVNULL).returncode == 0


def test_the_daemon_starts_without_heavy_modules():
    script = "import sys\nfrom vdsmlite import daemon\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    heavy = {"yaml", "jsonschema", "asyncio", "daemon", "lockfile", "logging.config", "cryptography", "client"}
    assert not heavy & set(done.stdout.split())


def test_the_unit_waits_longer_than_the_daemon():
    keys = {}
    for line in (ROOT / "etc" / "vdsmlite.service").read_text().splitlines():
        name, is_key, value = line.partition("=")
        if is_key and not line.startswith("#"):
            keys.setdefault(name, []).append(value)
    assert keys["Type"] == ["notify"]
    assert int(keys["TimeoutStopSec"][0]) > config.Server().stop_seconds
    assert keys["User"] != ["root"]
