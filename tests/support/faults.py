"""Cut a process short, in effect, at its n-th change of the disk, and see what the next one makes of what is left.

`Faults` stands in for the module ``os`` inside ``storage.files`` and ``storage.filewriter``, the only modules that
change files. The n-th call that changes something raises `Crash`, and so does every later one: a dead process changes
nothing more, whatever its ``finally`` blocks try. A write that is cut short has written the half of its data.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from storage import files, filewriter

MUTATING = (
    *("mkdir", "rename", "unlink", "rmdir", "link", "symlink"),
    *("ftruncate", "fchmod", "write", "pwrite", "fsync", "posix_fallocate"),
)


class Crash(BaseException):
    """The process ends here. Not an Exception, so that no handler of the code under test takes it for an error."""


class Faults:
    """Looks like the module ``os``; raises at the `at`-th change.

    Args:
        at: number of changes that still happen, counted from 0; None for all.
        failure: what is raised; an OSError raises once, and the process lives on.
    """

    def __init__(self, at: int | None, failure: BaseException | None = None) -> None:
        self.at = at
        self.failure = failure or Crash()
        self.done = 0
        self.fired = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counted(name, real) if name in MUTATING or name == "open" else real

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            if self.fired and isinstance(self.failure, Crash):
                raise self.failure
            if self.done == self.at and not self.fired:
                self.fired = True
                if name in ("write", "pwrite"):
                    real(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
                raise self.failure
            self.done += 1
            # The process is lost here, never the machine, so the flush can be left out: it takes most of the time.
            return None if name == "fsync" else real(*args, **kwargs)

        return call

    @contextlib.contextmanager
    def strike(self) -> Iterator[None]:
        """Run the block with these faults; a crash ends the block, not the test."""
        modules: list[Any] = [files, filewriter]
        for module in modules:
            module.os = self
        try:
            with contextlib.suppress(Crash):
                yield
        finally:
            for module in modules:
                module.os = os


def crash_points(limit: int = 2000) -> Iterator[Faults]:
    """Faults at the changes 0, 1, 2 ... until a run survives, that one included. Use each in a fresh place."""
    for at in range(limit):
        faults = Faults(at)
        yield faults
        if not faults.fired:
            assert at, "the code under test changes nothing"
            return
    raise AssertionError(f"no run survived within {limit} crash points")
