"""What a daemon makes of a killed merge, judged by the guest's bytes.

The truth is taken before the daemon has looked: what every possible leaf shows, against what the guest had flushed.
Then the daemon reconciles, exactly the volumes that it dropped are deleted, and the surviving leaf must show the
guest's bytes. A refusal is followed by the deep check, and only what is refused after that as well is left to a person.
In some runs the daemon is killed in the middle of each such call, comes back and is asked again. Where it was not, one
repair in three is undone and made again.
"""

import dataclasses
import random
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.campaigns import cutting, scenario
from tests.support import daemon, oracle, revival

REFUSED = 262
_UNPROVED = "not all compared"
_DEEP_CHECK = "proveVolumeChain"


@dataclasses.dataclass
class Result:
    """What became of one run.

    Attributes:
        switched: the header above the merged volume named the base already (internal merges).
        torn: it did, and bytes were missing there.
        mark_lies: the leaf was ILLEGAL, and its parent lacked what the guest had flushed.
        hasty: the daemon was told to compare no bytes in a call.
        referred: it refused for that reason, and said what to do.
        resolved: it refused, and did no more after the deep check.
        undone: its repair was undone, and made again.
        cuts: kills of the daemon in the middle of its reconciling.
        outcome: ``merged`` or ``undone`` (internal, header switched), ``kept`` (nothing dropped), ``dropped``
            (the leaf), ``refused`` (after the deep check, too), or ``failed``.
        problems: everything that must not be; empty for a good run.
    """

    number: int
    cell: scenario.Cell
    switched: bool = False
    torn: bool = False
    mark_lies: bool = False
    hasty: bool = False
    referred: bool = False
    resolved: bool = False
    undone: bool = False
    cuts: list[cutting.Cut] = dataclasses.field(default_factory=list)
    outcome: str = "failed"
    problems: list[str] = dataclasses.field(default_factory=list)
    wrong_leaf: bool = False
    different: bool = False
    bad_refusal: bool = False
    seconds: float = 0.0


def run(pool: scenario.Keeper, number: int, seed: int, cell: scenario.Cell | None = None) -> Result:
    """Do one run from the beginning to the end; never raises for what goes wrong in it, but notes it as a problem."""
    cell = cell or scenario.SCHEDULE[number % len(scenario.SCHEDULE)]
    result = Result(number, cell)
    started = time.monotonic()
    try:
        scene = scenario.interrupt(pool, cell, random.Random(f"{seed}:{number}"))
        judge(pool, scene, result)
        pool.delete_image(scene.image)
    except Exception as error:  # a campaign of hundreds of runs must go on, and report
        result.outcome = "failed"
        result.problems.append(f"{type(error).__name__}: {error}")
        if cell.killed != scenario.ALONE:  # the next run must find a daemon
            pool.kill()
            pool.revive()
    result.seconds = time.monotonic() - started
    return result


def judge(pool: scenario.Keeper, scene: scenario.Scene, result: Result) -> None:
    """Take the truth, let the daemon decide, carry it out, and compare."""
    image, leaf = scene.image, scene.leaf
    right = {leaf: scene.loss(leaf) is None}
    if scene.cell.commit == "active":
        right[scene.target] = scene.loss(scene.target) is None
        result.mark_lies = scene.marked and not right[scene.target]
    else:
        named = Path(oracle.backing_name(image.layers[leaf].path) or "").name
        result.switched = named == scene.target
        result.torn = result.switched and not right[leaf]
    result.hasty = pool.hasty
    if pool.hasty and scene.random.random() < 0.25:
        pool.prove(image, leaf)  # by somebody who knows that it will be needed
    before = cutting.stamps(image.directory)
    answer = _reconcile(pool, scene, result)
    if answer["status"]["code"] == REFUSED:
        answer = _refused(pool, scene, result, answer, before)
    if answer["status"]["code"] == REFUSED:
        answer = _chosen(pool, scene, result, right)
    if answer["status"]["code"]:
        result.problems.append(f"reconcileVolumeChain: {answer['status']}")
        return
    if answer["changed"] and not result.cuts and result.outcome != "refused" and scene.random.random() < 1 / 3:
        _undo(pool, scene, result, answer)
    _accepted(pool, scene, result, answer["volumes"], right)


def _undo(pool: scenario.Keeper, scene: scenario.Scene, result: Result, answer: Mapping[str, Any]) -> None:
    """Put everything back as it was; then the evidence must be what it was as well, and lead to the same repair."""
    image, leaf = scene.image, scene.leaf
    result.undone = True
    undone = pool.undo(image)
    _expect(result, undone["status"]["code"] == 0, f"undoReconcile: {undone['status']}")
    _expect(result, len(undone.get("changes", ())) == len(answer["changes"]), f"undone is {undone.get('changes')}")
    look = pool.look(image, leaf)
    _expect(result, look.get("changes") == answer["changes"], f"after the undoing: {look}")
    again = pool.reconcile(image, leaf)
    same = again.get("volumes") == answer["volumes"] and again.get("changes") == answer["changes"]
    _expect(result, same, f"repaired otherwise after the undoing: {again}")


def _reconcile(
    pool: scenario.Keeper, scene: scenario.Scene, result: Result, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Look, and reconcile; where the daemon is to be killed, once or twice to no end. Looking must change nothing."""
    image, leaf, chance = scene.image, scene.leaf, scene.random
    before = cutting.stamps(image.directory)
    started = time.monotonic()
    look = pool.look(image, leaf)
    seconds = time.monotonic() - started
    _expect(result, cutting.stamps(image.directory) == before, "getVolumeChain changed something")
    if scene.cell.killed == scenario.REPAIR and isinstance(pool, revival.Pool):
        call = cutting.Call(leaf, options, 1.5 * seconds + 0.02, look.get("changes", ()))
        result.cuts += [cutting.cut(pool, image, call, chance) for _ in range(chance.choice([1, 1, 2]))]
    answer = pool.reconcile(image, leaf, options)
    if answer["status"]["code"] == 0 and options is None:
        _expect(result, look.get("volumes") == answer["volumes"], f"getVolumeChain foretold {look}")
    return answer


def _refused(
    pool: scenario.Keeper, scene: scenario.Scene, result: Result, answer: dict[str, Any], before: cutting.Stamps
) -> dict[str, Any]:
    """A refusal changes nothing and names the deep check, after which only what nobody can know is refused."""
    image, leaf = scene.image, scene.leaf
    text = answer["status"]["message"]
    _expect(result, cutting.stamps(image.directory) == before, "a refusal changed something")
    again = pool.reconcile(image, leaf)["status"]
    _expect(result, again == answer["status"], f"the second call says {again}")
    _expect(result, _DEEP_CHECK in text, f"the refusal does not tell of the deep check: {text}")
    result.referred = _UNPROVED in text
    _expect(result, pool.hasty or not result.referred, f"there was time to compare: {text}")
    pool.prove(image, leaf)
    proved = _reconcile(pool, scene, result)
    result.resolved = proved["status"]["code"] == 0
    if result.resolved:
        _expect(result, result.referred, f"the deep check had nothing to add to {text}")
    elif proved["status"]["code"] == REFUSED:
        _expect(result, cutting.stamps(image.directory) == before, "a refusal after the deep check changed something")
        if reasons := _against_refusal(scene, proved["status"]["message"]):
            result.bad_refusal = True
            result.problems.append(f"refused although {'; '.join(reasons)}: {proved['status']['message']}")
    return proved


def _chosen(pool: scenario.Keeper, scene: scenario.Scene, result: Result, right: Mapping[str, bool]) -> dict[str, Any]:
    """Somebody has looked at both and names the right one."""
    choice = scene.leaf if right[scene.leaf] else scene.target
    answer = _reconcile(pool, scene, result, {"leaf": choice})
    if answer["status"]["code"] == 0:
        _expect(result, answer["volumes"][-1:] == [choice], "the choice was not followed")
    result.outcome = "refused"
    return answer


def _against_refusal(scene: scenario.Scene, text: str) -> list[str]:
    """Why a refusal with this text is not right; empty when it is."""
    if not scene.marked:
        return ["nothing was marked ILLEGAL"]
    if scene.leaf not in text or scene.target not in text:
        return ["it does not name both candidates"]
    reasons = ["not all bytes were compared"] if _UNPROVED in text else []
    apart = _apart(scene.image, scene.leaf, scene.target)
    if not -scenario.MARGIN <= apart <= scenario.window(scene):
        reasons.append(f"the last writes lie {apart:.3f} s apart")
    if _show_the_same(scene.image, scene.leaf, scene.target):
        reasons.append("both candidates show the same bytes")
    return reasons


def _accepted(
    pool: scenario.Keeper, scene: scenario.Scene, result: Result, volumes: Sequence[str], right: dict[str, bool]
) -> None:
    """Carry out the answer as an engine would, and compare the guest's bytes."""
    image, leaf = scene.image, scene.leaf
    dropped = [volume for volume in reversed(image.volumes) if volume not in volumes]
    if result.outcome != "refused":
        result.outcome = _outcome(scene, result, volumes, dropped)
    if not volumes or list(volumes) != [volume for volume in image.volumes if volume in volumes]:
        result.problems.append(f"{volumes} is no chain of {image.volumes}")
        return
    again = pool.reconcile(image, leaf)
    _expect(result, again.get("volumes") == list(volumes), f"the second call says {again}")
    _expect(result, not again.get("changed"), f"the second call changed something again: {again.get('changes')}")
    if dropped:
        pool.delete_volumes(image, dropped)
    remaining = sorted(path.name for path in image.directory.iterdir() if path.name in image.layers)
    _expect(result, remaining == sorted(volumes), f"{remaining} is left of {volumes}")
    loss = scene.loss(volumes[-1])
    if loss is not None:
        result.wrong_leaf = any(good for volume, good in right.items() if volume != volumes[-1])
        result.different = True
        kind = "wrong leaf" if result.wrong_leaf else "different bytes"
        result.problems.append(f"{kind}: {loss}; before it {right}; {_evidence(scene)}")
    _check_records(pool, scene, result, volumes)


def _outcome(scene: scenario.Scene, result: Result, volumes: Sequence[str], dropped: Sequence[str]) -> str:
    if scene.leaf in dropped:
        return "dropped"
    if dropped:
        return "merged"
    return "undone" if result.switched else "kept"


def _check_records(pool: scenario.Keeper, scene: scenario.Scene, result: Result, volumes: Sequence[str]) -> None:
    """Header, metadata and the daemon's readiness to start a guest must all agree with the answer."""
    image = scene.image
    parent = daemon.BLANK
    for volume in volumes:
        info = pool.info(image, volume)
        wanted = {"parent": parent, "legality": "LEGAL", "voltype": "LEAF" if volume == volumes[-1] else "INTERNAL"}
        found = {key: info[key] for key in wanted}
        _expect(result, found == wanted, f"{volume} has {found}, not {wanted}")
        if image.layers[volume].format == "qcow2":
            named = Path(oracle.backing_name(image.layers[volume].path) or daemon.BLANK).name
            _expect(result, named == parent, f"the header of {volume} names {named}, not {parent}")
        parent = volume
    pool.can_start(image, volumes[-1])
    last = pool.reconcile(image, volumes[-1])
    _expect(result, last.get("volumes") == list(volumes), f"after the deletion: {last}")


def _expect(result: Result, good: bool, problem: str) -> None:
    if not good:
        result.problems.append(problem)


def _apart(image: daemon.Image, leaf: str, parent: str) -> float:
    """Seconds by which the parent was written later than the leaf."""
    times = [image.layers[volume].path.stat().st_mtime_ns for volume in (parent, leaf)]
    return (times[0] - times[1]) / 1e9


def _show_the_same(image: daemon.Image, first: str, second: str) -> bool:
    """Whether two volumes read the same, through all that is beneath each."""
    formats = [word for key, v in (("-f", first), ("-F", second)) for word in (key, image.layers[v].format)]
    paths = [str(image.layers[volume].path) for volume in (first, second)]
    done = subprocess.run(["qemu-img", "compare", *formats, *paths], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    return done.returncode == 0


def _evidence(scene: scenario.Scene) -> str:
    """What is left of each volume: its format, and bytes on disk."""
    sizes = {
        volume: f"{layer.path.stat().st_blocks * 512} bytes" if layer.path.exists() else "deleted"
        for volume, layer in scene.image.layers.items()
    }
    return ", ".join(f"{volume} {scene.image.layers[volume].format} {size}" for volume, size in sizes.items())
