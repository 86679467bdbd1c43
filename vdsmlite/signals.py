"""Signals as something to wait for, instead of code that runs in the middle of other code."""

import os
import select
import signal
from collections.abc import Iterable


class Signals:
    """Catches signals from now on. To be made in the main thread.

    Args:
        numbers: which.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._numbers = frozenset(numbers)
        self._reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # The number is written to the pipe whichever thread the kernel interrupts, so a wait never misses it.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, _nothing)

    def wait(self, seconds: float | None) -> list[signal.Signals]:
        """Signals that came, in order; empty when none came in time.

        Args:
            seconds: how long to wait; None: until one comes.
        """
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if not poll.poll(None if seconds is None else seconds * 1000):
            return []
        came = [signal.Signals(number) for number in os.read(self._reader, 1024)]
        return [number for number in came if number in self._numbers]

    def release(self, numbers: Iterable[signal.Signals]) -> None:
        """Give signals their own effect back."""
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _nothing(_number: int, _frame: object) -> None:
    """Exists so that the interpreter takes the signal and writes it to the pipe."""
