"""The real daemon, killed by the kernel before its n-th call that changes a file, and started anew.

What `tests/campaigns/crashes.py` simulates is done for real on a sample of verbs: strace sends SIGKILL at the n-th
call of each name, n = 1, 2, 3 ... until a run survives. A second daemon then takes the storage over, and the same
reader judges it. Before that one clean trace says

* that whatever is renamed was flushed before, and its directory afterwards, and
* that the daemon changes the very same files as the simulation sees: nobody goes past the one module.
"""

import argparse
import collections
import contextlib
import http.client
import itertools
import logging
import os
import random
import re
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.campaigns import figures
from tests.support import daemon as support, hosts, injected, scenarios, stage

SAMPLE = (
    "setVolumeDescription",
    "spmStart",
    "reconcileVolumeChain torn",
    "setStoragePoolDescription",
    "deleteImage",
    "deleteVolume",
    "createVolume snapshot",
)
MOST = 4
"""Kills of each name of a call and each verb, when not all are wanted."""

_KNOWN = {getattr(scenarios, name) for name in ("POOL", "A", "B", "C", "IMAGE", "OTHER", "V1", "V2", "V3", "V4", "VM")}
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RANDOM = re.compile(r"\.[0-9a-f]{8}\.new\b")


class Played(stage.Stage):
    """A stage on which the hosts are daemons."""

    @contextlib.contextmanager
    def started(self) -> Iterator[hosts.DaemonHost]:
        with started(self.root) as host:
            yield host


@contextlib.contextmanager
def started(root: Path) -> Iterator[hosts.DaemonHost]:
    """A daemon on the storage, killed with the block."""
    daemon = support.Daemon(root)
    try:
        yield hosts.DaemonHost(daemon)
    finally:
        daemon.kill()
        with contextlib.suppress(OSError, AttributeError):
            daemon.proxy("close")()


class Trial:
    """One scenario."""

    def __init__(self, directory: Path, name: str, found: figures.Figures) -> None:
        self.play = Played(directory)
        self.scenario = self.play.named(name)
        self.log = directory / "trace"
        self.found = found
        self.calls: list[injected.Call] = []
        self.play.enter(self.scenario)

    def fail(self, text: str) -> None:
        self.found.failures.append(f"{self.scenario}: {text:.500}".replace(str(self.play.root), ""))

    def traced(self, inject: str = "") -> bool:
        """Call the verb under strace; whether the daemon, and the programs that it started, survived."""
        self.play.restore()
        with started(self.play.root) as host:
            scenarios.up(host, self.play.root, self.scenario.ready)
            with injected.attached(host.daemon.process.pid, self.log, inject):
                try:
                    code = self.scenario.act(host)
                    answered = True
                except (OSError, xmlrpc.client.Error, http.client.HTTPException):
                    code, answered = -1, False
            if answered and code and inject:
                self.found.add("kills of a child")
                return False
            if answered and code:
                self.fail(f"code {code} although nothing failed")
            if answered:
                with contextlib.suppress(OSError, xmlrpc.client.Error, http.client.HTTPException):
                    return bool(host.answer("getConnectedStoragePoolsList"))
            host.daemon.process.wait(20)
            return False

    def clean(self) -> None:
        """Nothing goes wrong: the order of flushes, and which files are changed."""
        assert self.traced(), "it died although nothing killed it"
        self.calls = [each for each in injected.calls(self.log, self.play.root) if "daemon.log" not in each.paths[0]]
        self.found.add("calls traced", len(self.calls))
        for wrong in injected.disorder(self.calls):
            self.fail(wrong)
        here = {_plain(path, self.play.root) for path in injected.changed(self.calls)}
        there = {_plain(path, self.play.root) for path in self.play.record().changed}
        if here != there:
            self.fail(
                f"changed by the daemon only: {sorted(here - there)}; in the simulation only: {sorted(there - here)}"
            )

    def kills(self, most: int | None, choices: random.Random) -> None:
        """Kill before each call, or before so many of each name."""
        for name in injected.NAMES:
            seen = max(collections.Counter(each.pid for each in self.calls if each.name == name).values(), default=0)
            turns: Iterable[int] = itertools.count(1)
            if most is not None:
                turns = sorted(choices.sample(range(1, seen + 1), min(most, seen)))
            for turn in turns:
                if self.traced(f"{name}:signal=KILL:when={turn}"):
                    self.found.add("runs that survived")
                    break
                self.found.add("kills")
                verdict = self.play.judge(thorough=turn % 4 == 0)
                self.found.add(f"state {verdict.kind}")
                if verdict.wrong:
                    self.fail(f"killed before {name} {turn}: {'; '.join(verdict.wrong)}")


def _plain(path: str, root: Path) -> str:
    """A path without what is another one in every run."""
    text = _RANDOM.sub(".x.new", path.removeprefix(os.path.realpath(root)))
    return _ID.sub(lambda match: match[0] if match[0] in _KNOWN else "<task>", text)


def run(
    most: int | None = MOST, names: Iterable[str] = SAMPLE, seed: int = 0, directory: Path | None = None
) -> figures.Figures:
    """Trace and kill.

    Args:
        most: kills of each name of a call and each verb; None: all.
        names: scenarios.
        seed: of what is drawn.
        directory: where the storage is; default: a temporary one.
    """
    names = list(names)
    found = figures.Figures("real kills under strace", {"scenarios": len(names)})
    for name in names:
        with tempfile.TemporaryDirectory(prefix="straced-", dir=directory) as place:
            trial = Trial(Path(place), name, found)
            trial.clean()
            trial.kills(most, random.Random(f"{seed} {name}"))
    return found


def main() -> int:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=MOST, help="kills of each name of a call and each verb; 0: all")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--only", nargs="*", default=SAMPLE, help="scenarios")
    options = parser.parse_args()
    if why := injected.reason():
        print(f"real kills under strace: not run here: {why}")
        return 0
    begun = time.monotonic()
    logging.disable(logging.CRITICAL)
    found = run(options.runs or None, options.only, options.seed)
    print(f"{time.monotonic() - begun:.0f} s, seed {options.seed}")
    return figures.tell(found)


if __name__ == "__main__":
    sys.exit(main())
