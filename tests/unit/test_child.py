"""The runner of foreign programs: limits, caps, and that a killed program is really gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage.qemu import child


def shell(script: str, limits: child.Limits | None = None, stop: threading.Event | None = None) -> child.Result:
    return child.run(["sh", "-c", script], limits or child.Limits(seconds=30), stop=stop)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that died but was not collected by its parent yet does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_gone(pid: int) -> None:
    while is_alive(pid):
        time.sleep(0.01)


def test_a_tied_program_dies_with_a_process_that_is_killed() -> None:
    script = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from storage.qemu import child
work = lambda: child.run(["sh", "-c", "echo $$; exec sleep 60"], child.Limits(), on_output=told, tied=True)
told = lambda data: print(data.decode(), end="", flush=True)
threading.Thread(target=work).start()
"""
    root = str(Path(child.__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", script, root], stdout=subprocess.PIPE) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
        process.wait()
        wait_gone(pid)


def test_a_tied_program_is_what_was_asked_for(tmp_path: Path) -> None:
    done = child.run(["sh", "-c", "echo $0 $1; exit 3", "a b", "-c"], child.Limits(), tied=True)
    assert (done.stdout, done.code) == (b"a b -c\n", 3)
    for program in ("no-such-program", str(tmp_path / "neither")):
        with pytest.raises(FileNotFoundError):
            child.run([program], child.Limits(), tied=True)


def test_output_and_code() -> None:
    done = shell("echo out; echo err >&2; exit 3")
    assert done == child.Result(code=3, stdout=b"out\n", stderr=b"err\n")


def test_surroundings() -> None:
    done = shell("cat; echo $LANG $LC_ALL; ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat; echo $$")
    lines = done.stdout.decode().split()
    assert lines[:2] == ["C", "C"], "nothing on stdin, C locale"
    assert lines[2] == lines[3], "a process group of its own"


def test_limits_reach_the_program() -> None:
    """After a moment: they are set just after the start."""
    script = "import resource as r, time; time.sleep(0.3)\n"
    script += "print([r.getrlimit(kind) for kind in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_CORE)])"
    done = child.run([sys.executable, "-c", script], child.Limits(seconds=30, cpu_seconds=7, memory=1 << 30))
    assert done.stdout.decode().strip() == str([(1 << 30, 1 << 30), (7, 7), (0, 0)])


def test_a_lower_limit_of_ours_is_kept() -> None:
    script = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from storage.qemu import child
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
print(child.run(["sh", "-c", "sleep 0.2; ulimit -t"], child.Limits(cpu_seconds=9)).stdout)
"""
    root = str(Path(child.__file__).parent.parent)
    done = child.run([sys.executable, "-c", script, root], child.Limits(seconds=30))
    assert done.stdout == b"b'5\\n'\n", done.stderr


def test_too_much_memory_ends_the_program() -> None:
    done = child.run(
        [sys.executable, "-c", "import time; time.sleep(0.2); bytearray(1 << 30)"],
        child.Limits(seconds=30, memory=256 << 20),
    )
    assert done.code == 1 and b"MemoryError" in done.stderr


def test_too_much_processor_time_ends_the_program() -> None:
    done = shell("while :; do :; done", child.Limits(seconds=30, cpu_seconds=1))
    assert done.code in (-signal.SIGXCPU, -signal.SIGKILL)
    assert not done.killed


def test_too_much_output_ends_the_program() -> None:
    done = shell("while :; do echo 0123456789; done", child.Limits(seconds=30, stdout=100_000))
    assert done.code == -signal.SIGKILL
    assert done.killed == "more than 100000 bytes of output"
    assert len(done.stdout) <= 100_000 + 65536


def test_too_many_messages_are_dropped() -> None:
    done = shell(
        "for i in 1 2 3 4 5 6 7 8 9; do echo 0123456789 >&2; done; echo done", child.Limits(seconds=30, stderr=25)
    )
    assert (done.code, done.stdout, done.stderr) == (0, b"done\n", b"0123456789\n0123456789\n012")


@pytest.mark.parametrize("script", ["sleep 60", "exec >&- 2>&-; sleep 60"])
def test_time_limit(script: str) -> None:
    done = shell(script, child.Limits(seconds=0.2))
    assert (done.code, done.killed) == (-signal.SIGKILL, "not finished within 0.2 s")


@pytest.mark.parametrize("script", ["", "exec >&- 2>&-;"])
def test_stopping_kills_the_whole_group(tmp_path: Path, script: str) -> None:
    stop = threading.Event()
    pids = tmp_path / "pids"
    results: list[child.Result] = []
    command = f"{script} sleep 60 & echo $$ $! > {pids}.part; mv {pids}.part {pids}; wait"
    thread = threading.Thread(target=lambda: results.append(shell(command, child.Limits(), stop)))
    thread.start()
    while not pids.exists():
        time.sleep(0.01)
    parent, grandchild = map(int, pids.read_text().split())
    assert is_alive(parent) and is_alive(grandchild)
    stop.set()
    thread.join()
    assert results[0].killed == "stopped"
    assert not is_alive(parent)
    wait_gone(grandchild)


def test_a_failing_listener_ends_the_program(tmp_path: Path) -> None:
    pids: list[int] = []

    def listen(data: bytes) -> None:
        pids.append(int(data))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        child.run(["sh", "-c", "echo $$; sleep 60"], child.Limits(), on_output=listen)
    assert not is_alive(pids[0])


def test_a_missing_program_and_leaks() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        child.run(["/nonexistent/program"], child.Limits())
    shell("exit 0")
    assert len(os.listdir("/proc/self/fd")) == before
