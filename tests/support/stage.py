"""Plays scenarios over and over on the same storage, and judges what is left by what an independent reader finds.

The storage is made once for a scenario and put back before each run, always at the same place, for links hold paths.
"""

import contextlib
import dataclasses
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storage.qemu import child
from tests.support import faults, hosts, scenarios, tree, unsynced

Scenario = scenarios.Scenario
FLUSHLESS = faults.Faults(None)


@dataclasses.dataclass
class Verdict:
    """What a run came to.

    Attributes:
        kind: ``old``, ``new`` or ``between``.
        wrong: sentences; none when every promise was kept.
    """

    kind: str
    wrong: list[str] = dataclasses.field(default_factory=list)


class Stage:
    """Where scenarios are played.

    Args:
        directory: an empty directory.
    """

    def __init__(self, directory: Path) -> None:
        self.root = directory / "world"
        self._saved = directory / "saved"
        self._saved.mkdir()
        self.old, self.new = tree.Tree(), tree.Tree()
        self.scenario: Scenario
        self._settled = self._saved / "scenario"
        self._ready = self._saved / "ready"

    @contextlib.contextmanager
    def started(self) -> Iterator[hosts.MortalHost]:
        """A host on this storage, which dies with the block."""
        with hosted(self.root) as host:
            yield host

    def table(self) -> list[Scenario]:
        return scenarios.table(self.root)

    def named(self, name: str) -> Scenario:
        return next(each for each in self.table() if each.name == name)

    # ------------------------------------------------------------ states

    def enter(self, scenario: Scenario) -> None:
        """Make the storage of a scenario, and find out what its old and its new state are."""
        self.scenario = scenario
        self._load(self._base(scenario))
        with flushless(), self.started() as host:
            if scenario.prepare:
                scenarios.up(host, self.root)
                scenario.prepare(host, self.root)
        self._save(self._settled)
        self.restore()
        self.old = self._recovered()
        self.restore()
        with flushless(), self.started() as host:
            scenarios.up(host, self.root, scenario.ready)
            code = scenario.act(host)
            assert code == 0, f"{scenario}: it ends with {code} although nothing fails"
        self.new = self._recovered()
        for which in (self.old, self.new):
            assert not which.problems and not which.leftovers, f"{scenario}: {which.problems + which.leftovers}"

    def _base(self, scenario: Scenario) -> Path:
        saved = self._saved / f"{scenario.version}-{scenario.pooled}"
        if not saved.exists():
            shutil.rmtree(self.root, ignore_errors=True)
            self.root.mkdir()
            with flushless(), self.started() as host:
                scenarios.make(host, self.root, dataclasses.replace(scenario, prepare=None))
            self._save(saved)
        return saved

    def _save(self, where: Path) -> None:
        shutil.rmtree(where, ignore_errors=True)
        subprocess.run(["cp", "-a", "--sparse=always", self.root, where], check=True, timeout=60)

    def _load(self, where: Path) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        subprocess.run(["cp", "-a", "--sparse=always", where, self.root], check=True, timeout=60)

    def restore(self) -> None:
        """Put the storage back as it was before the call."""
        self._load(self._settled)

    @property
    def before(self) -> Path:
        """A copy of the storage as it was before the call; for reading."""
        return self._settled

    def record(self) -> unsynced.Journal:
        """Play the scenario once, with nothing going wrong, and note what it does to files."""
        self.restore()
        with flushless(), hosted(self.root) as host:
            scenarios.up(host, self.root, self.scenario.ready)
            self._save(self._ready)
            recorder = unsynced.Recorder(self.root)
            with recorder.strike():
                code = self.scenario.act(host)
            assert code == 0, f"{self.scenario}: {code}"
        return unsynced.Journal(self._ready, self.root, recorder.changes)

    # ------------------------------------------------------------ afterwards

    def _recovered(self) -> tree.Tree:
        with flushless(), self.started() as host:
            scenarios.up(host, self.root)
            hosts.clear_all(host)
        return tree.read(self.root)

    def judge(self, *, thorough: bool = True, failed: bool = False) -> Verdict:
        """Start anew on what is left, as the next process does, and say whether all promises were kept.

        Old or new; nothing torn; the call can be repeated, and comes to the new state; nothing is left over then.

        Args:
            failed: something was refused, so what the scenario forgives may have stayed as it was.
            thorough: see, too, whether the domain takes a new image afterwards, and lets it go again.
        """
        self._forgiven = re.compile((self.scenario.forgiving if failed else "") or "(?!)")
        try:
            return self._judge(thorough)
        except AssertionError as error:
            return Verdict("broken", [f"recovery: {error}"])

    def _judge(self, thorough: bool) -> Verdict:
        with flushless(), self.started() as host:
            scenarios.up(host, self.root)
            told = hosts.clear_all(host)
            verdict = self.seen(told)
            if self.scenario.ready == "spm":
                self._repeat(host, verdict, thorough)
        if self.scenario.ready != "spm":
            with flushless(), self.started() as host:
                scenarios.up(host, self.root, self.scenario.ready)
                self._repeat(host, verdict, thorough)
        return verdict

    def seen(self, told: list[str]) -> Verdict:
        """What storage shows now; told is what became of the tasks, for the message."""
        after = tree.read(self.root)
        kind = "old"
        if not self.new.differences(after):
            kind = "new"
        elif self.old.differences(after):
            kind = "between"
        verdict = Verdict(kind, list(after.problems))
        if kind == "between":
            verdict.wrong += self._mixture(after, told)
        return verdict

    def _mixture(self, after: tree.Tree, told: list[str]) -> list[str]:
        """What is wrong with a state between old and new: where one is documented, each fact must be old or new, but
        for those that are named."""
        if not self.scenario.between:
            return [f"neither old nor new: {'; '.join(self.old.differences(after))}", *told]
        free = re.compile(self.scenario.free or "(?!)")
        return [
            f"neither old nor new: {name}: {after.state.get(name)}"
            for name in sorted({*self.old.state, *self.new.state, *after.state})
            if after.state.get(name) not in (self.old.state.get(name), self.new.state.get(name))
            and not free.fullmatch(name)
        ]

    def _repeat(self, host: hosts.MortalHost, verdict: Verdict, thorough: bool) -> None:
        """The next call works, whatever came before; what it came to is added to the verdict."""
        code = (self.scenario.again or self.scenario.act)(host)
        fine = code == 0 or (verdict.kind != "old" and code in self.scenario.settled)
        if not fine and not (verdict.kind == "new" and code > 0):
            verdict.wrong.append(f"{verdict.kind}, and the repeated call ends with {code}")
        hosts.clear_all(host)
        if self.scenario.ready == "spm":
            self._end(host, verdict, code, thorough)
            return
        host.die()
        with self.started() as again:
            scenarios.up(again, self.root)
            hosts.clear_all(again)
            self._end(again, verdict, code, thorough)

    def _end(self, host: hosts.MortalHost, verdict: Verdict, code: int, thorough: bool) -> None:
        end = tree.read(self.root)
        # A second time counts as a second time.
        found = [each for each in self.new.differences(end) if not re.search(r": GEN \d+ -> \d+$", each)]
        found = [each for each in found if not self._forgiven.match(each)]
        if found:
            verdict.wrong.append(f"{verdict.kind}, and the repeated call ({code}) leaves {'; '.join(found)}")
        if thorough and tree.masters(self.root):
            self._go_on(host, verdict)
        end = self._swept(host)
        verdict.wrong += [f"{verdict.kind}, at the end: {each}" for each in end.problems + end.leftovers]

    def _swept(self, host: hosts.MortalHost) -> tree.Tree:
        """What is there when each image and the machines were worked on once more: those calls sweep what they find."""
        found = tree.read(self.root)
        if not found.leftovers:
            return found
        scenarios.up(host, self.root)
        for left in map(Path, found.leftovers):
            if left.parent.parent.name == "images":
                domain, image = left.parts[-4], left.parent.name
                volumes = [each.stem for each in left.parent.glob("*.meta")]
                arguments = (scenarios.POOL, domain, image, (volumes or [scenarios.V1])[0], "512")
                hosts.code_of(host, "extendVolumeSize", *arguments)
            elif left.name.startswith("_remove_me_"):
                self._make_and_delete(host, left.parts[-3])
            elif left.parent.name == "vms":
                hosts.call(host, "updateVM", scenarios.POOL, [{}], left.parts[-4])
        hosts.clear_all(host)
        return tree.read(self.root)

    def _go_on(self, host: hosts.MortalHost, verdict: Verdict) -> None:
        """The master takes a new image, and lets it go again."""
        scenarios.up(host, self.root)
        if code := self._make_and_delete(host, tree.masters(self.root)[-1][1]):
            verdict.wrong.append(f"{verdict.kind}, and afterwards no image can be made and deleted: {code}")

    def _make_and_delete(self, host: hosts.MortalHost, domain: str) -> int:
        image, volume = "99999999-0000-4000-8000-000000000099", "98989898-0000-4000-8000-000000000098"
        code = scenarios.create_volume(host, image, volume, domain=domain)
        code = code or hosts.code_of(host, "deleteImage", domain, scenarios.POOL, image)
        hosts.clear_all(host)
        return code


@contextlib.contextmanager
def flushless() -> Iterator[None]:
    """No flush takes time while the block runs: what is simulated here is the loss of a process, or done elsewhere."""
    with FLUSHLESS.strike():
        yield


@contextlib.contextmanager
def hosted(root: Path) -> Iterator[hosts.LocalHost]:
    """A host in this process, which dies with the block."""
    host = hosts.LocalHost(root)
    try:
        yield host
    finally:
        host.die()


@contextlib.contextmanager
def struck(fault: faults.Faults) -> Iterator[None]:
    """Let faults strike; after a crash no program is started any more, and no thread complains of its end."""
    children: Any = child
    real = children.run
    complain = threading.excepthook

    def run(*arguments: Any, **options: Any) -> Any:
        if fault.fired and isinstance(fault.failure, faults.Crash):
            raise fault.failure
        return real(*arguments, **options)

    def hook(arguments: Any) -> None:
        if not issubclass(arguments.exc_type, faults.Crash):
            complain(arguments)

    children.run = run
    threading.excepthook = hook
    try:
        with fault.strike():
            yield
    finally:
        children.run = real
        threading.excepthook = complain
