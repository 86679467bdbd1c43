"""Memory of a process with many threads, each of which does little."""

import contextlib
import ctypes

# Of glibc's malloc.h.
_M_ARENA_MAX = -8


def share() -> None:
    """Let all threads take memory from one pool; called before there are any others.

    By itself glibc gives each new thread a pool of its own, up to eight for each processor, so that threads need not
    wait for each other. Python's threads wait for each other anyway, and every pool keeps what its threads needed at
    their worst: that is most of a daemon's memory. Other C libraries have no such pools, and nothing is done there.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
