"""Locks by name, shared or exclusive, taken for one operation in one sorted step.

Names are ids (``<pool>``, ``<domain>``, ``<image>_<domain>``), never something read from a chain: a broken image can
still be locked and repaired. Requests queue first come, first served, so a writer is not starved by readers.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterable, Iterator

from storage import errors, ids


@dataclasses.dataclass(frozen=True, order=True)
class Lock:
    """A wish for one named lock."""

    name: str
    exclusive: bool = False


def shared(name: str) -> Lock:
    return Lock(name)


def exclusive(name: str) -> Lock:
    return Lock(name, exclusive=True)


def image_name(image: ids.ImageId, domain: ids.DomainId) -> str:
    """Lock name of an image; contains the domain because the same image id may live on two domains."""
    return f"{image}_{domain}"


@dataclasses.dataclass(eq=False)
class Owner:
    """Who holds or waits: shown to people who ask why they wait."""

    title: str
    since: float = dataclasses.field(default_factory=time.time)


class Held:
    """A set of granted locks; release exactly once (a task may release in another thread than the one that took)."""

    def __init__(self, table: "LockTable", locks: list[Lock], owner: Owner) -> None:
        self._table = table
        self._locks = locks
        self._owner = owner

    @property
    def locks(self) -> tuple[Lock, ...]:
        """What is held now; a task records it, so that its rollback after a restart takes the same locks."""
        return tuple(self._locks)

    def release(self) -> None:
        """Give all locks back; a second call does nothing."""
        locks, self._locks = self._locks, []
        for lock in reversed(locks):
            self._table._leave(lock, self._owner)


class LockTable:
    """All locks of the process.

    Args:
        timeout: seconds that `take` waits for one lock before it raises.
    """

    def __init__(self, timeout: float = 120.0) -> None:
        self.timeout = timeout
        self._condition = threading.Condition()
        self._holders: dict[str, list[tuple[Lock, Owner]]] = {}
        self._queues: dict[str, list[Owner]] = {}

    def take(self, locks: Iterable[Lock], title: str, timeout: float | None = None) -> Held:
        """Take all locks, sorted by name, the stronger mode winning where a name comes twice.

        Args:
            timeout: seconds to wait for each; None: those of the table.

        Raises:
            ResourceTimeout: one lock was not granted in time; none is kept.
        """
        owner = Owner(title)
        held = Held(self, taken := [], owner)
        try:
            for lock in merged(locks):
                self._enter(lock, owner, self.timeout if timeout is None else timeout)
                taken.append(lock)
        except BaseException:
            held.release()
            raise
        return held

    @contextlib.contextmanager
    def hold(self, *locks: Lock, title: str, timeout: float | None = None) -> Iterator[None]:
        """`take` and release around a block."""
        held = self.take(locks, title, timeout)
        try:
            yield
        finally:
            held.release()

    def owners(self) -> dict[str, list[Owner]]:
        """Lock name to the owners that hold it now."""
        with self._condition:
            return {name: [owner for _, owner in pairs] for name, pairs in self._holders.items()}

    def _enter(self, lock: Lock, owner: Owner, timeout: float) -> None:
        with self._condition:
            queue = self._queues.setdefault(lock.name, [])
            queue.append(owner)
            try:
                granted = self._condition.wait_for(lambda: self._may_enter(lock, owner), timeout)
                if not granted:
                    holder = ", ".join(f"held by {o.title}" for _, o in self._holders.get(lock.name, []))
                    raise errors.ResourceTimeout(resource=lock.name, seconds=timeout, holder=holder or "queued")
                self._holders.setdefault(lock.name, []).append((lock, owner))
            finally:
                queue.remove(owner)
                if not queue:
                    del self._queues[lock.name]
                self._condition.notify_all()

    def _may_enter(self, lock: Lock, owner: Owner) -> bool:
        if self._queues[lock.name][0] is not owner:
            return False
        holders = self._holders.get(lock.name, [])
        return not holders or not (lock.exclusive or any(other.exclusive for other, _ in holders))

    def _leave(self, lock: Lock, owner: Owner) -> None:
        with self._condition:
            holders = self._holders[lock.name]
            holders.remove((lock, owner))
            if not holders:
                del self._holders[lock.name]
            self._condition.notify_all()


def merged(locks: Iterable[Lock]) -> list[Lock]:
    """One lock a name, exclusive where any wish was, sorted by name: the order that makes deadlock impossible."""
    modes: dict[str, bool] = {}
    for lock in locks:
        modes[lock.name] = modes.get(lock.name, False) or lock.exclusive
    return [Lock(name, mode) for name, mode in sorted(modes.items())]
