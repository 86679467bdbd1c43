"""A real file system without a byte left, under the real daemon.

A small tmpfs is a domain's storage. It is filled to the last block, then a verb is called: it must answer with an error
that says so, change nothing, and leave a daemon that works. An image can be deleted while nothing fits any more. When
space is there again the same call succeeds.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from storage import errors
from tests.campaigns import figures
from tests.support import daemon as support, hosts, images, scenarios, tree

SIZE = 24 << 20
"""Bytes of the file system."""

SAMPLE = (
    "createVolume raw",
    "createVolume snapshot",
    "copyImage template",
    "copyImage over",
    "mergeSnapshots",
    "mergeSnapshots base",
    "upload by stream",
    "extendVolumeSize",
    "setVolumeDescription",
    "updateVM",
)
SPARE = "44444444-0000-4000-8000-000000000004"


def reason() -> str:
    """Why this cannot run here; empty when it can."""
    return "" if os.geteuid() == 0 else "only root can mount"


@contextlib.contextmanager
def mounted(place: Path) -> Iterator[None]:
    """A tmpfs of `SIZE` for the time of a block."""
    images.run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0775", "tmpfs", place)
    try:
        yield
    finally:
        images.run("umount", "-l", place)


def fill(place: Path) -> Path:
    """Take all space that is left; the file that holds it."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 65536)
    with filler.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    return filler


def play(root: Path, name: str, found: figures.Figures) -> None:
    """One verb on full storage, and again on storage that is not full any more."""
    scenario = next(each for each in scenarios.table(root) if each.name == name)

    def check(fine: bool, text: str) -> None:
        if not fine:
            found.failures.append(f"{name}: {text:.500}")

    with support.Daemon(root) as daemon:
        host = hosts.DaemonHost(daemon)
        scenarios.make(host, root, scenario)
        scenarios.must(
            scenarios.create_volume(host, SPARE, scenarios.V4 if name != "upload by stream" else scenarios.V1)
        )
        hosts.clear_all(host)
        before = tree.read(root)
        filler = fill(scenarios.place(root, "a"))
        code = scenario.act(host)
        found.add("verbs without space")
        check(code not in (0, errors.GeneralException.code), f"code {code} on full storage")
        after = _settled(tree.read(root), filler)
        check(not before.differences(after), f"{code}, and {'; '.join(before.differences(after))}")
        check(not after.problems, "; ".join(after.problems))
        check(hosts.code_of(host, "getStoragePoolInfo", scenarios.POOL) == 0, "the daemon does not answer")
        gone = hosts.code_of(host, "deleteImage", scenarios.A, scenarios.POOL, SPARE)
        found.add("deletions without space")
        check(gone == 0, f"deleteImage ends with {gone} on full storage")
        filler.unlink()
        hosts.clear_all(host)
        code = scenario.act(host)
        check(code == 0, f"code {code} when there is space again")
        hosts.clear_all(host)
        check(not tree.read(root).problems, "; ".join(tree.read(root).problems))


def _settled(found: tree.Tree, filler: Path) -> tree.Tree:
    found.leftovers = [each for each in found.leftovers if each != str(filler)]
    return found


def run(names: Iterable[str] = SAMPLE, seed: int = 0) -> figures.Figures:
    """Play scenarios; nothing is drawn, so the seed has no effect."""
    found = figures.Figures("full storage")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="full-") as directory:
            root = Path(directory)
            scenarios.place(root, "a").mkdir()
            with mounted(scenarios.place(root, "a")):
                play(root, name, found)
    return found


def main() -> int:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=SAMPLE, help="scenarios")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if why := reason():
        print(f"full storage: not run here: {why}")
        return 0
    begun = time.monotonic()
    found = run(options.only, options.seed)
    print(f"{time.monotonic() - begun:.0f} s")
    return figures.tell(found)


if __name__ == "__main__":
    sys.exit(main())
