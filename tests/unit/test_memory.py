"""One pool of memory for all threads."""

import platform
import subprocess
import sys

import pytest

# Eight threads that each hold something too large for Python's own small pools; then what the process has reserved.
_PROGRAM = """
import sys, threading
from vdsmlite import memory
if sys.argv[1] == "share":
    memory.share()
here = threading.Barrier(9)
def hold():
    held = bytearray(5000)
    here.wait(20)
    here.wait(20)
for _ in range(8):
    threading.Thread(target=hold, daemon=True).start()
here.wait(20)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize")))
here.wait(20)
"""


# Much that is small and goes again, under something that stays at the end; then what of it the process still has.
_HOLES = """
import ctypes, sys
from vdsmlite import memory
memory.share()
gone = [bytearray(5000) for _ in range(10000)]
stays = bytearray(5000)
del gone
if sys.argv[1] == "give back":
    memory.give_back()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""

only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has such pools")


@only_glibc
def test_what_is_free_goes_back() -> None:
    kept = {how: _printed(_HOLES, how) for how in ("give back", "do not")}
    assert kept["do not"] - kept["give back"] > 20 * 1024, kept


def _printed(program: str, how: str) -> int:
    done = subprocess.run([sys.executable, "-c", program, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@only_glibc
def test_threads_share_a_pool() -> None:
    reserved = {how: _printed(_PROGRAM, how) for how in ("share", "do not")}
    assert reserved["do not"] - reserved["share"] > 64 * 1024, reserved
