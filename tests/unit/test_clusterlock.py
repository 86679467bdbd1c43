"""The local cluster lock: between objects, between processes, and when the file is pulled from under it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage import errors, ids
from storage.domains import clusterlock

DOMAIN = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")

HOLDER = """
import sys
from pathlib import Path
from storage import ids
from storage.domains import clusterlock
lock = clusterlock.LocalLock(ids.DomainId(sys.argv[1]), Path(sys.argv[2]))
lock.acquire(7)
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ids"
    path.touch()
    return path


@pytest.fixture
def lock(path: Path) -> clusterlock.LocalLock:
    return clusterlock.LocalLock(DOMAIN, path)


def start_holder(path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, DOMAIN, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_free_then_held_then_free(path: Path, lock: clusterlock.LocalLock) -> None:
    other = clusterlock.LocalLock(DOMAIN, path)
    assert lock.inquire() is None and not lock.held()
    lock.acquire(3)
    assert lock.held() and not other.held()
    assert lock.inquire() == clusterlock.Holder(3, 0)
    assert other.inquire() == clusterlock.Holder(None, 0)
    with pytest.raises(errors.AcquireLockFailure):
        other.acquire(4)
    other.release()
    assert lock.held()
    lock.release()
    lock.release()
    assert lock.inquire() is None and not lock.held()
    assert path.stat().st_size == 0


def test_taking_twice_is_refused_and_keeps_the_first(lock: clusterlock.LocalLock) -> None:
    with lock.hold(1):
        with pytest.raises(errors.AcquireLockFailure), lock.hold(1):
            pytest.fail("taken twice")
        assert lock.held()
    assert not lock.held()


def test_hold_releases_when_the_block_fails(lock: clusterlock.LocalLock) -> None:
    with pytest.raises(KeyError), lock.hold(1):
        raise KeyError
    assert lock.inquire() is None


def test_another_process_excludes_us_until_it_releases(path: Path, lock: clusterlock.LocalLock) -> None:
    with start_holder(path) as holder:
        assert lock.inquire() == clusterlock.Holder(None, 0)
        with pytest.raises(errors.AcquireLockFailure, match="another process"):
            lock.acquire(1)
        assert not lock.held()
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "released\n"
        lock.acquire(1)
        assert lock.held()
        holder.kill()


def test_the_death_of_the_other_process_frees_the_lock(path: Path, lock: clusterlock.LocalLock) -> None:
    with start_holder(path) as holder:
        holder.kill()
        holder.wait()
        lock.acquire(1)
        assert lock.held()


def test_a_child_does_not_keep_the_lock(lock: clusterlock.LocalLock) -> None:
    lock.acquire(1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        assert lock.inquire() is None
        child.kill()


def test_a_look_from_elsewhere_does_not_make_an_acquire_fail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    looking = path.open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("time.sleep", lambda seconds: looking.close())
    lock = clusterlock.LocalLock(DOMAIN, path)
    lock.acquire(1)
    assert lock.held()
    lock.release()


def test_a_lock_on_a_file_that_is_gone_or_replaced_is_not_held(path: Path, lock: clusterlock.LocalLock) -> None:
    lock.acquire(1)
    path.rename(path.with_name("old"))
    assert not lock.held()
    path.touch()
    assert not lock.held()
    path.with_name("old").replace(path)
    assert lock.held()
    lock.release()


def test_without_the_file_or_through_a_link_there_is_no_lock(tmp_path: Path, path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    for name in ("missing", "link"):
        lock = clusterlock.LocalLock(DOMAIN, tmp_path / name)
        with pytest.raises(errors.AcquireLockFailure):
            lock.acquire(1)
        with pytest.raises(errors.AcquireLockFailure):
            lock.inquire()
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("host_id", [-1, 0, 251, 2**40])
def test_impossible_host_ids_are_refused(lock: clusterlock.LocalLock, host_id: int) -> None:
    with pytest.raises(errors.AcquireHostIdFailure):
        lock.acquire(host_id)
    assert lock.inquire() is None


@pytest.mark.parametrize(
    ("type_name", "file_system", "allowed", "local"),
    [
        ("POSIXFS", "xfs", True, True),
        ("POSIXFS", "ext4", True, True),
        ("POSIXFS", "ext4", False, False),
        ("POSIXFS", "gfs2", True, False),
        ("POSIXFS", "nfs", True, False),
        ("POSIXFS", None, True, False),
        ("NFS", "nfs", True, False),
        ("GLUSTERFS", "fuse.glusterfs", True, False),
        ("ISCSI", None, True, False),
    ],
)
def test_a_posix_file_system_gets_it_only_where_the_operator_says_so_and_it_can_be(
    path: Path, type_name: str, file_system: str | None, allowed: bool, local: bool
) -> None:
    lock = clusterlock.for_domain(DOMAIN, type_name, path, file_system, local_posixfs=allowed)
    assert isinstance(lock, clusterlock.LocalLock) == local
    if type_name == "POSIXFS" and not local:
        with pytest.raises(errors.AcquireLockFailure, match="local_posixfs") as caught:
            lock.acquire(1)
        assert caught.value.code == 651


def test_shared_storage_never_gets_the_local_lock(path: Path) -> None:
    assert isinstance(clusterlock.for_domain(DOMAIN, "LOCALFS", path), clusterlock.LocalLock)
    lock = clusterlock.for_domain(DOMAIN, "NFS", path)
    with pytest.raises(errors.AcquireLockFailure, match="sanlock"):
        lock.acquire(1)
    with pytest.raises(errors.AcquireLockFailure), lock.hold(1):
        pytest.fail("held")
    with pytest.raises(errors.AcquireLockFailure):
        lock.inquire()
    lock.release()
    assert not lock.held()
