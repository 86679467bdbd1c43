"""Memory of a process with many threads, each of which does little."""

import contextlib
import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_LARGE = 128 * 1024  # bytes; where glibc begins, too


def share() -> None:
    """Let all threads take memory from one pool, and large pieces from none; called before there are any others.

    By itself glibc gives each new thread a pool of its own, up to eight for each processor, so that threads need not
    wait for each other. Python's threads wait for each other anyway, and every pool keeps what its threads needed at
    their worst: that is most of a daemon's memory. And after the first large piece was given back it takes such pieces
    from the pool, where whatever small comes to lie behind them keeps them. Other C libraries have no such pools, and
    nothing is done there.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return to the system what is free in the pool, also between what is not. Takes about a millisecond.

    By itself glibc returns only what lies at the end, and one small thing that stays there keeps all the rest.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
