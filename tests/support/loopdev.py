"""Block devices over files, for tests as root. The devices are loop devices that the tests made themselves."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_SIZE = {"ext4": 128 << 20, "xfs": 320 << 20}  # bytes; the least that the programs accept, and the files are sparse


def file_system(kind: str, directory: Path) -> Path:
    """A file with an empty file system in it; skips the test where it cannot be made here.

    Args:
        kind: "ext4" or "xfs".
    """
    program = f"mkfs.{kind}"
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    image = directory / f"{kind}.img"
    with image.open("wb") as file:
        file.truncate(_SIZE[kind])
    subprocess.run([program, "-q", str(image)], check=True, stdin=subprocess.DEVNULL, timeout=60)
    return image


@contextlib.contextmanager
def attached(image: Path) -> Iterator[str]:
    """Path of a block device with the content of a file, for the time of a block."""
    found = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, timeout=60)
    if found.returncode:
        pytest.skip(f"needs loop devices: {found.stderr.strip()}")
    device = found.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=60)


def unmount_below(directory: Path) -> None:
    """Unmount whatever a failed test left below a directory."""
    places = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in reversed(places):
        if place.startswith(f"{os.path.realpath(directory)}/"):
            subprocess.run(["umount", "-l", place], check=False, timeout=60)
