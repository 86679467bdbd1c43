"""What a daemon makes of a killed merge, judged by the guest's bytes.

The truth is taken before the daemon has looked: what every possible leaf shows, against what the guest had flushed.
Then the daemon reconciles, exactly the volumes that it dropped are deleted, and the surviving leaf must show the
guest's bytes.
"""

import dataclasses
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.campaigns import scenario
from tests.support import daemon, oracle

REFUSED = 262


@dataclasses.dataclass
class Result:
    """What became of one run.

    Attributes:
        switched: the header above the merged volume named the base already (internal merges).
        torn: it did, and bytes were missing there.
        mark_lies: the leaf was ILLEGAL, and its parent lacked what the guest had flushed.
        outcome: ``merged`` or ``undone`` (internal, header switched), ``kept`` (nothing dropped), ``dropped``
            (the leaf), ``refused``, or ``failed``.
        problems: everything that must not be; empty for a good run.
    """

    number: int
    cell: scenario.Cell
    switched: bool = False
    torn: bool = False
    mark_lies: bool = False
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
    result.seconds = time.monotonic() - started
    return result


def judge(pool: scenario.Keeper, scene: scenario.Scene, result: Result) -> None:
    """Take the truth, let the daemon decide, carry it out, and compare."""
    image, leaf = scene.image, scene.leaf
    right = {leaf: scene.loss(leaf) is None}
    if scene.cell.commit == "active":
        right[scene.target] = scene.loss(scene.target) is None
        result.mark_lies = scene.cell.marked and not right[scene.target]
    else:
        named = Path(oracle.backing_name(image.layers[leaf].path) or "").name
        result.switched = named == scene.target
        result.torn = result.switched and not right[leaf]
    before = oracle.fingerprint(image.directory)
    look = pool.look(image, leaf)
    _expect(result, oracle.fingerprint(image.directory) == before, "getVolumeChain changed something")
    answer = pool.reconcile(image, leaf)
    if answer["status"]["code"] == REFUSED:
        _refused(pool, scene, result, answer, before, right)
    elif answer["status"]["code"]:
        result.problems.append(f"reconcileVolumeChain: {answer['status']}")
    else:
        _expect(result, look.get("volumes") == answer["volumes"], f"getVolumeChain foretold {look}")
        _accepted(pool, scene, result, answer["volumes"], right)


def _refused(
    pool: scenario.Keeper,
    scene: scenario.Scene,
    result: Result,
    answer: dict[str, Any],
    before: dict[str, tuple[int, int, str]],
    right: dict[str, bool],
) -> None:
    """A refusal is right only where nobody can know; it must name both candidates and change nothing."""
    result.outcome = "refused"
    image = scene.image
    _expect(result, oracle.fingerprint(image.directory) == before, "a refusal changed something")
    again = pool.reconcile(image, scene.leaf)["status"]
    _expect(result, again == answer["status"], f"the second call says {again}")
    if reasons := _against_refusal(scene, answer["status"]["message"]):
        result.bad_refusal = True
        result.problems.append(f"refused although {'; '.join(reasons)}: {answer['status']['message']}")
        return
    choice = scene.leaf if right[scene.leaf] else scene.target
    answer = pool.reconcile(image, scene.leaf, {"leaf": choice})
    if answer["status"]["code"]:
        result.problems.append(f"the choice of {choice} is refused: {answer['status']}")
        return
    _expect(result, answer["volumes"][-1:] == [choice], "the choice was not followed")
    _accepted(pool, scene, result, answer["volumes"], right)
    result.outcome = "refused"


def _against_refusal(scene: scenario.Scene, text: str) -> list[str]:
    """Why a refusal with this text is not right; empty when it is."""
    if not scene.cell.marked:
        return ["nothing was marked ILLEGAL"]
    if scene.leaf not in text or scene.target not in text:
        return ["it does not name both candidates"]
    reasons = []
    apart = _apart(scene.image, scene.leaf, scene.target)
    if not -scenario.MARGIN <= apart <= scenario.window(scene):
        reasons.append(f"the last writes lie {apart:.3f} s apart")
    if _shows(scene.image, scene.leaf) == _shows(scene.image, scene.target):
        reasons.append("both candidates show the same bytes")
    return reasons


def _accepted(
    pool: scenario.Keeper, scene: scenario.Scene, result: Result, volumes: Sequence[str], right: dict[str, bool]
) -> None:
    """Carry out the answer as an engine would, and compare the guest's bytes."""
    image, leaf = scene.image, scene.leaf
    dropped = [volume for volume in reversed(image.volumes) if volume not in volumes]
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


def _shows(image: daemon.Image, volume: str) -> str:
    return oracle.digest(image.layers[volume].path, image.layers[volume].format)


def _evidence(scene: scenario.Scene) -> str:
    """What is left of each volume: its format, and bytes on disk."""
    sizes = {
        volume: f"{layer.path.stat().st_blocks * 512} bytes" if layer.path.exists() else "deleted"
        for volume, layer in scene.image.layers.items()
    }
    return ", ".join(f"{volume} {scene.image.layers[volume].format} {size}" for volume, size in sizes.items())
