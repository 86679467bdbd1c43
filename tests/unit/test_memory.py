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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has such pools")
def test_threads_share_a_pool() -> None:
    reserved = {
        how: int(
            subprocess.run([sys.executable, "-c", _PROGRAM, how], check=True, capture_output=True, text=True).stdout
        )
        for how in ("share", "do not")
    }
    assert reserved["do not"] - reserved["share"] > 64 * 1024, reserved
