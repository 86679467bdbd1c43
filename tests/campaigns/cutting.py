"""Killing the daemon in the middle of a call of reconcileVolumeChain, alone or with the qemu-img that it started."""

import contextlib
import dataclasses
import os
import random
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import daemon, revival

_WRITE_SECONDS = 0.01  # about as long as it takes to flush one change
_LAST_SECONDS = 0.1  # a change of a header is over after that

Stamps = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Cut:
    """What a kill met.

    Attributes:
        answered: the call was over before.
        changed: something had been changed.
        child: a qemu-img was about to change a header, or just doing it.
    """

    answered: bool
    changed: bool
    child: bool


@dataclasses.dataclass(frozen=True)
class Call:
    """A call to be cut off.

    Attributes:
        leaf: what to reconcile from.
        options: of the call.
        seconds: that it may take, about.
        changes: that it is going to make.
    """

    leaf: str
    options: Mapping[str, Any] | None
    seconds: float
    changes: Sequence[Mapping[str, str]]

    @property
    def points_back(self) -> bool:
        """Whether it is going to change a header."""
        return any(change["field"] == "backing" for change in self.changes)


def cut(pool: revival.Pool, image: daemon.Image, call: Call, chance: random.Random) -> Cut:
    """Call, kill the daemon at some moment of that, and have it running again."""
    before = stamps(image.directory)
    with contextlib.ExitStack() as stack:
        at_gate = call.points_back and chance.random() < 0.75
        arrivals = stack.enter_context(pool.gate.shut()) if at_gate else None
        thread = pool.send_reconcile(image, call.leaf, call.options)
        handle = arrivals.wait() if arrivals else None
        if arrivals and handle is not None:
            stack.callback(os.close, handle)
            _come_in_between(image.directory, arrivals, thread, chance)
            answered = not thread.is_alive()
            _kill_both(pool, handle, chance)
        else:
            if call.changes and chance.random() < 0.75:
                _wait_change(image.directory, before, thread)
                time.sleep(chance.choice([0, chance.uniform(0, _WRITE_SECONDS)]))
            else:
                time.sleep(chance.uniform(0, call.seconds))
            answered = not thread.is_alive()
            pool.kill()
    changed = stamps(image.directory) != before
    pool.revive()
    return Cut(answered, changed, handle is not None)


def _come_in_between(
    directory: Path, arrivals: revival.Arrivals, thread: threading.Thread, chance: random.Random
) -> None:
    """Stay before the change of a header, or let it begin and wait until some moment in it or shortly after it."""
    if chance.random() < 0.25:
        return
    before = stamps(directory)
    arrivals.let_go()
    if chance.random() < 0.5:
        _wait_change(directory, before, thread)
    time.sleep(chance.choice([0, chance.uniform(0, _WRITE_SECONDS)]))


def _wait_change(directory: Path, before: Stamps, thread: threading.Thread) -> None:
    """Watch an image's directory, as fast as this machine can, until something is changed or a call is over."""
    while thread.is_alive() and stamps(directory) == before:
        pass


def _kill_both(pool: revival.Pool, handle: int, chance: random.Random) -> None:
    """Kill the daemon and its qemu-img; one in four times that may live on, if it can without the daemon."""
    survives = chance.random() < 0.25
    if survives or chance.random() < 0.5:
        pool.daemon.process.kill()
    if survives:
        select.select([handle], [], [], _LAST_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    pool.kill()
    select.select([handle], [], [], 20)


def stamps(directory: Path) -> Stamps:
    """Who every file is, its size, and when it was last changed in any way, which nobody can take back."""
    found = {}
    for entry in os.scandir(directory):
        with contextlib.suppress(FileNotFoundError):  # a temporary that has got its name meanwhile
            found[entry.name] = entry.stat(follow_symlinks=False)
    return {name: (info.st_ino, info.st_mode, info.st_size, info.st_ctime_ns) for name, info in sorted(found.items())}
