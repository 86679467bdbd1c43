"""Locks by name: who may hold together, who waits for whom, and that nothing is kept after a failure."""

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from storage import errors, ids, locks

SECONDS = 20.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Taker(threading.Thread):
    """Takes a lock in a thread of its own and keeps it until it is told to let go."""

    def __init__(self, table: locks.LockTable, title: str, *wanted: locks.Lock) -> None:
        super().__init__(daemon=True)
        self._table, self._title, self._wanted = table, title, wanted
        self.has = threading.Event()
        self.let_go = threading.Event()
        self.start()

    def run(self) -> None:
        with self._table.hold(*self._wanted, title=self._title):
            self.has.set()
            self.let_go.wait(SECONDS)


def queued(table: locks.LockTable, name: str) -> int:
    return len(table._queues.get(name, []))


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (locks.shared, locks.shared, True),
        (locks.shared, locks.exclusive, False),
        (locks.exclusive, locks.shared, False),
        (locks.exclusive, locks.exclusive, False),
    ],
)
def test_who_may_hold_together(
    first: Callable[[str], locks.Lock], second: Callable[[str], locks.Lock], together: bool
) -> None:
    table = locks.LockTable(timeout=0.02)
    with table.hold(first("a"), title="first"):
        if together:
            table.take([second("a")], "second").release()
        else:
            with pytest.raises(errors.ResourceTimeout, match="first"):
                table.take([second("a")], "second")
    table.take([locks.exclusive("a")], "third").release()
    assert table.owners() == {}


def test_other_names_do_not_matter() -> None:
    table = locks.LockTable(timeout=0.02)
    with table.hold(locks.exclusive("a"), title="first"), table.hold(locks.exclusive("b"), title="second"):
        assert set(table.owners()) == {"a", "b"}


def test_a_timeout_keeps_none_of_the_locks() -> None:
    table = locks.LockTable(timeout=0.02)
    with table.hold(locks.exclusive("b"), title="holder"):
        with pytest.raises(errors.ResourceTimeout) as caught:
            table.take([locks.exclusive("a"), locks.exclusive("b"), locks.exclusive("c")], "late")
        assert caught.value.fields["resource"] == "b"
        assert set(table.owners()) == {"b"}
        assert queued(table, "b") == 0


def test_release_twice_is_harmless() -> None:
    table = locks.LockTable(timeout=0.02)
    held = table.take([locks.exclusive("a")], "first")
    assert held.locks == (locks.exclusive("a"),)
    held.release()
    with table.hold(locks.exclusive("a"), title="second"):
        held.release()
        assert held.locks == ()
        with pytest.raises(errors.ResourceTimeout):
            table.take([locks.shared("a")], "third")


def test_the_block_releases_on_any_exception() -> None:
    table = locks.LockTable(timeout=0.02)
    with pytest.raises(KeyboardInterrupt), table.hold(locks.exclusive("a"), title="x"):
        raise KeyboardInterrupt
    assert table.owners() == {}


def test_another_thread_may_release() -> None:
    table = locks.LockTable(timeout=0.02)
    held = table.take([locks.exclusive("a")], "verb")
    thread = threading.Thread(target=held.release)
    thread.start()
    thread.join()
    table.take([locks.exclusive("a")], "next").release()


def test_first_come_first_served() -> None:
    """A writer that waits is not overtaken by readers that come later."""
    table = locks.LockTable(timeout=SECONDS)
    reader = Taker(table, "reader", locks.shared("a"))
    assert reader.has.wait(SECONDS)
    writer = Taker(table, "writer", locks.exclusive("a"))
    until(lambda: queued(table, "a") == 1)
    late = Taker(table, "late reader", locks.shared("a"))
    until(lambda: queued(table, "a") == 2)
    assert not late.has.is_set()
    reader.let_go.set()
    assert writer.has.wait(SECONDS) and not late.has.is_set()
    writer.let_go.set()
    assert late.has.wait(SECONDS)
    late.let_go.set()


def test_readers_pass_behind_a_writer_that_gave_up() -> None:
    table = locks.LockTable(timeout=0.05)
    with table.hold(locks.shared("a"), title="reader"):
        raised = threading.Event()

        def give_up() -> None:
            try:
                table.take([locks.exclusive("a")], "writer")
            except errors.ResourceTimeout:
                raised.set()

        threading.Thread(target=give_up, daemon=True).start()
        assert raised.wait(SECONDS)
        table.take([locks.shared("a")], "second reader").release()


@given(st.lists(st.builds(locks.Lock, st.sampled_from("abcd"), st.booleans())))
def test_the_set_is_merged_sorted_and_the_stronger_wins(wanted: list[locks.Lock]) -> None:
    merged = locks.merged(wanted)
    names = [lock.name for lock in merged]
    assert names == sorted({lock.name for lock in wanted})
    for lock in merged:
        assert lock.exclusive == any(other.exclusive for other in wanted if other.name == lock.name)


def test_the_same_name_shared_and_exclusive_is_no_deadlock() -> None:
    table = locks.LockTable(timeout=0.02)
    with table.hold(locks.shared("a"), locks.exclusive("a"), title="both"), pytest.raises(errors.ResourceTimeout):
        table.take([locks.shared("a")], "other")


def test_many_threads_with_overlapping_sets_come_through() -> None:
    table = locks.LockTable(timeout=SECONDS)
    inside: dict[str, int] = dict.fromkeys("abcd", 0)
    wrong: list[str] = []

    def work(seed: int) -> None:
        for turn in range(30):
            names = ["abcd"[(seed + turn) % 4], "abcd"[(seed * 3 + turn * 7) % 4]]
            with table.hold(*map(locks.exclusive, reversed(names)), title=str(seed)):
                for name in set(names):
                    inside[name] += 1
                    if inside[name] != 1:
                        wrong.append(name)
                time.sleep(0)
                for name in set(names):
                    inside[name] -= 1

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert not wrong and table.owners() == {}


def test_an_image_is_locked_by_its_domain_too() -> None:
    image = ids.ImageId.new()
    names = {locks.image_name(image, ids.DomainId.new()) for _ in range(2)}
    assert len(names) == 2
