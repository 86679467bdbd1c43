"""A job that a thread of its own does over and over, because the job may hang: a system call on storage that is gone.

Nobody ever waits for the job longer than they say. While one run hangs no other is begun, so all that it costs is the
one thread, however often it is asked for. A thread cannot be ended from outside: a job that is stopped while it hangs
keeps its thread until the call returns, and can be taken up again with it (`revive`).
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Run(Generic[T]):
    """A run that has come to its end.

    Attributes:
        began, ended: by the clock, in seconds.
        result: what the job returned.
    """

    began: float
    ended: float
    result: T


class Periodic(Generic[T]):
    """One such job.

    Args:
        name: of the thread.
        job: what is done. It must not raise; what it raises all the same is logged, and the run counts as none.
        interval: seconds from the end of a run to the next.
        clock: what runs are dated by. Waiting goes by real time.
    """

    def __init__(self, name: str, job: Callable[[], T], interval: float, clock: Clock = time.monotonic) -> None:
        self._name = name
        self._job = job
        self._interval = interval
        self._clock = clock
        self._condition = threading.Condition()
        self._begun = self._done = 0
        self._asked = False
        self._stopped = False
        self._running_since: float | None = None
        self._last: Run[T] | None = None
        self._thread: threading.Thread | None = None

    @property
    def last(self) -> Run[T] | None:
        """The last run that has ended."""
        return self._last

    @property
    def running_since(self) -> float | None:
        """When the run under way began, by the clock; None between runs."""
        return self._running_since

    @property
    def alive(self) -> bool:
        """Whether the thread is there, stopped or not."""
        return self._thread is not None

    def start(self) -> None:
        """Begin with the first run, once."""
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()

    def first(self, seconds: float) -> bool:
        """Wait for the end of the first run; whether there is one."""
        with self._condition:
            return self._condition.wait_for(lambda: self._done > 0 or self._stopped, max(0.0, seconds))

    def again(self, seconds: float) -> bool:
        """Have a run that begins from now on, and wait for its end; whether it has come."""
        with self._condition:
            wanted = self._begun + 1
            self._asked = True
            self._condition.notify_all()
            return self._condition.wait_for(lambda: self._done >= wanted or self._stopped, max(0.0, seconds))

    def stop(self) -> None:
        """Begin no more runs. Does not wait: see `join`."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def join(self, seconds: float) -> bool:
        """Wait until a stopped thread has ended; whether it has. Does not wait for one that was taken up again."""
        with self._condition:
            self._condition.wait_for(lambda: self._thread is None or not self._stopped, max(0.0, seconds))
            return self._thread is None

    def revive(self) -> bool:
        """Take back a `stop`, if the thread is still there to go on; whether it is."""
        with self._condition:
            if self._thread is None:
                return False
            self._stopped = False
            return True

    def _work(self) -> None:
        while self._begin():
            try:
                result = self._job()
            except Exception:  # a bug of the job must not end the watch for good: the next run may fare better
                log.exception("%s", self._name)
                self._end(None)
            else:
                self._end(result)

    def _begin(self) -> bool:
        with self._condition:
            if self._stopped:
                self._thread = None  # from here on nobody can revive it
                self._condition.notify_all()
                return False
            self._begun += 1
            self._asked = False
            self._running_since = self._clock()
            return True

    def _end(self, result: T | None) -> None:
        with self._condition:
            began, self._running_since = self._running_since, None
            if result is not None and began is not None:
                self._last = Run(began, self._clock(), result)
            self._done = self._begun
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._asked or self._stopped, self._interval)
