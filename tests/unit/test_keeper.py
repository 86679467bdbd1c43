"""References: connected, reconnected, let go; they outlive a crash at any point; hung storage stays alone."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import errors, layout
from storage.domains import connections, keeper
from tests.support import faults, world

INTERVAL = 0.02


class Changes:
    """Counts what the keeper reports."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def repository(tmp_path: Path) -> layout.Repository:
    made = layout.Repository(tmp_path / "repository")
    made.root.mkdir()
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


class Started:
    """Makes keepers and closes them at the end."""

    def __init__(self, repository: layout.Repository) -> None:
        self.repository = repository
        self.changes = Changes()
        self.made: list[keeper.Keeper] = []

    def __call__(self, table: Any = None) -> keeper.Keeper:
        table = table or connections.Connections(self.repository)
        made = keeper.Keeper(self.repository.references, table, self.changes, INTERVAL)
        self.made.append(made)
        made.start()
        return made


@pytest.fixture
def start(repository: layout.Repository) -> Iterator[Started]:
    started = Started(repository)
    yield started
    for each in started.made:
        each.close()


def local(path: object) -> dict[str, Any]:
    return {"type": "localfs", "params": {"path": str(path)}}


def codes(found: dict[str, errors.StorageError | None]) -> dict[str, int]:
    return {name: 0 if error is None else error.code for name, error in found.items()}


def connected(kept: keeper.Keeper, name: str) -> bool:
    return kept.states()[name][1].connected


def entries(repository: layout.Repository) -> list[str]:
    return sorted(os.listdir(repository.mnt)) if repository.mnt.exists() else []


def test_acquired_connected_released_disconnected(start: Started, repository: layout.Repository, data: Path) -> None:
    kept = start()
    assert codes(kept.acquire({"a": local(data)})) == {"a": 0}
    world.until(lambda: connected(kept, "a"))
    assert entries(repository) == [layout.encode(str(data))]
    assert kept.states()["a"][1] == keeper.State(True, 0, "")
    assert codes(kept.release(["a", "a"])) == {"a": 0}
    assert kept.states() == {}
    world.until(lambda: entries(repository) == [])
    world.until(lambda: start.changes.count >= 2)


def test_each_reference_has_its_own_result(start: Started, data: Path) -> None:
    kept = start()
    kept.acquire({"a": local(data)})
    found = kept.acquire({"a": local(data), "b": local("x"), "c": {"type": "iscsi", "params": {}}, "d": local(data)})
    assert codes(found) == {"a": 478, "b": 453, "c": 465, "d": 0}
    assert codes(kept.release(["b", "d", "e"])) == {"b": 479, "d": 0, "e": 479}
    assert set(kept.states()) == {"a"}


def test_the_last_reference_on_a_target_disconnects_it(
    start: Started, repository: layout.Repository, data: Path
) -> None:
    kept = start()
    kept.acquire({"a": local(data), "b": local(f"{data}/")})
    world.until(lambda: connected(kept, "a") and connected(kept, "b"))
    kept.release(["a"])
    looked = start.changes.count
    kept.release(["b"])
    kept.acquire({"c": local(data)})  # perhaps while it is being left
    world.until(lambda: connected(kept, "c"))
    kept.release(["c"])
    world.until(lambda: entries(repository) == [])
    world.until(lambda: start.changes.count > looked)


def test_what_is_lost_is_reconnected_and_the_error_shown_until_then(
    start: Started, repository: layout.Repository, data: Path
) -> None:
    kept = start()
    missing = data / "later"
    kept.acquire({"a": local(missing)})
    world.until(lambda: kept.states()["a"][1].code == 469)
    assert not connected(kept, "a")
    missing.mkdir()
    world.until(lambda: connected(kept, "a"))
    repository.connection(str(missing)).unlink()
    world.until(lambda: entries(repository) != [])
    missing.rmdir()
    world.until(lambda: not connected(kept, "a"))
    assert kept.states()["a"][1].code == 469


def test_references_outlive_a_restart(start: Started, repository: layout.Repository, data: Path) -> None:
    first = start()
    first.acquire({"a": local(data), "b": {"type": "nfs", "params": {"export": "s:/x", "retrans": 2}}})
    first.close()
    repository.connection(str(data)).unlink(missing_ok=True)
    assert repository.references.stat().st_mode & 0o777 == 0o600
    second = start()
    assert second.states()["b"][0].params == {"export": "s:/x", "retrans": 2}
    world.until(lambda: connected(second, "a"))
    assert codes(second.acquire({"a": local(data)})) == {"a": 478}


def test_closing_leaves_connected_what_is_connected(start: Started, repository: layout.Repository, data: Path) -> None:
    kept = start()
    kept.acquire({"a": local(data)})
    world.until(lambda: connected(kept, "a"))
    kept.close()
    assert entries(repository) == [layout.encode(str(data))]


def test_a_crash_while_acquiring_leaves_all_references_or_those_before(tmp_path: Path, data: Path) -> None:
    for cut in faults.crash_points():
        root = tmp_path / f"at{cut.at}"
        root.mkdir()
        start = Started(layout.Repository(root))
        start().acquire({"before": local(data)})
        world.until(lambda start=start: connected(start.made[0], "before"))
        start.made[0].close()
        with cut.strike():
            start.made[0].acquire({"a": local(data), "b": local(data)})
        start.made[0].close()
        again = start()
        assert set(again.states()) in ({"before"}, {"before", "a", "b"})
        assert cut.fired or set(again.states()) == {"before", "a", "b"}
        again.close()


def test_a_crash_while_releasing_leaves_the_reference_or_not(tmp_path: Path, data: Path) -> None:
    for cut in faults.crash_points():
        root = tmp_path / f"at{cut.at}"
        root.mkdir()
        start = Started(layout.Repository(root))
        start().acquire({"a": local(data)})
        start.made[0].close()
        with cut.strike():
            start.made[0].release(["a"])
        again = start()
        assert set(again.states()) <= {"a"}
        assert cut.fired or again.states() == {}
        again.close()


def test_a_record_that_cannot_be_written_holds_nothing(start: Started, data: Path) -> None:
    kept = start()
    with (
        faults.Faults(0, OSError(28, "No space left on device")).strike(),
        pytest.raises(errors.StorageServerActionError),
    ):
        kept.acquire({"a": local(data)})
    assert kept.states() == {}
    assert codes(kept.acquire({"a": local(data)})) == {"a": 0}


def test_a_damaged_record_is_neither_believed_nor_replaced(
    start: Started, repository: layout.Repository, data: Path
) -> None:
    repository.references.write_bytes(b'{"version": 1, "refer')
    kept = start()
    for action in (kept.states, lambda: kept.acquire({"a": local(data)}), lambda: kept.release(["a"])):
        with pytest.raises(errors.StorageServerActionError) as caught:
            action()
        assert caught.value.code == 450
    assert repository.references.read_bytes() == b'{"version": 1, "refer'


class Hung:
    """A table of connections of which one target hangs in the kernel until it is let go."""

    def __init__(self, real: connections.Connections, name: str) -> None:
        self.real = real
        self.name = name
        self.let_go = threading.Event()

    def of(self, server_type: int, words: Any) -> connections.Connection:
        if words["connection"].endswith(self.name):
            self.let_go.wait(60)
        return self.real.of(server_type, words)


def test_storage_that_hangs_holds_up_nobody_else(
    start: Started, repository: layout.Repository, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_HANGING", 0.05)
    table = Hung(connections.Connections(repository), "hung")
    (data / "hung").mkdir()
    kept = start(table)
    kept.acquire({"hung": local(data / "hung"), "fine": local(data)})
    world.until(lambda: connected(kept, "fine"))
    world.until(lambda: kept.states()["hung"][1].code == 477)
    assert "no answer" in kept.states()["hung"][1].message
    assert codes(kept.release(["hung"])) == {"hung": 0}
    table.let_go.set()
    world.until(lambda: entries(repository) == [layout.encode(str(data))])


def test_there_is_an_end_to_how_many(start: Started, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_LIMIT", 2)
    found = start().acquire({name: local(data) for name in "abc"})
    assert codes(found) == {"a": 0, "b": 0, "c": 453}
