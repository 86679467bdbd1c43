"""Something happens just before the n-th step that a verb takes: a guest that starts while its disk is being changed.

A step is a change of a name within images or journals, a piece written to a volume, or the start of a program of qemu.
What happens once happens in the thread that is about to take the step, so the verb stands still meanwhile.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from storage import files, filewriter
from storage.qemu import child

_NAMES = ("mkdir", "rename", "unlink", "link", "rmdir", "symlink", "open", "ftruncate", "pwrite")
_FLUSHES = ("fsync", "fdatasync")
_PLACES = ("/images/", "/journal/")


class Arrival:
    """Counts steps, and acts at one of them.

    Args:
        at: the step, counted from 0.
        act: what happens there.

    Attributes:
        steps: how many were counted.
        came: whether it happened.
        where: the step that it happened before.
    """

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self._at = at
        self._act = act
        self.steps = 0
        self.came = False
        self.where = ""

    def step(self, what: str) -> None:
        """Take note of a step that is about to be taken."""
        if self.steps == self._at and not self.came:
            self.came = True
            self.where = what
            self._act()
        self.steps += 1

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name in _FLUSHES:
            return lambda fd: None  # the process is lost at the worst, never the machine
        return self._noted(name, real) if name in _NAMES else real

    def _noted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._counts(name, args):
                self.step(f"{name} {str(args[0]).rpartition('/')[2]}")
            return real(*args, **kwargs)

        return call

    def _counts(self, name: str, args: tuple[Any, ...]) -> bool:
        if name == "open" and not args[1] & (os.O_CREAT | os.O_WRONLY):
            return False
        return isinstance(args[0], int) or any(place in f"{args[0]}" for place in _PLACES)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count what is done during the block."""
        run = child.run

        def noted(command: Any, *args: Any, **kwargs: Any) -> Any:
            self.step(f"{command[0]} {command[1]}")
            return run(command, *args, **kwargs)

        modules: list[Any] = [files, filewriter]
        before = [module.os for module in modules]
        for module in modules:
            module.os = self
        child.run = noted
        try:
            yield
        finally:
            child.run = run
            for module, was in zip(modules, before, strict=True):
                module.os = was


def flushless() -> contextlib.AbstractContextManager[None]:
    """Leave flushes out during a block: they take most of the time, and matter to a machine that is lost."""
    return Arrival(-1, lambda: None).watching()
