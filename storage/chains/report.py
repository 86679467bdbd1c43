"""A finding in the words of the API: what every volume is, on what evidence, and what was or would be changed."""

from collections.abc import Iterable, Mapping
from typing import Any

from storage import ids
from storage.chains import chain, reconcile, record, undo, walk
from storage.volumes import volume_metadata

BASE, MEMBER, TEMPLATE = "base", "in chain", "template"
MERGED, TORN, STALE = "merged", "torn merge", "stale leaf"
CANDIDATE, OTHER, UNREACHABLE, DAMAGED = "candidate", "other leaf", "unreachable", "damaged"


def whole(found: reconcile.Finding) -> dict[str, Any]:
    """Everything, as `getVolumeChain` answers it."""
    return {
        "volumes": list(found.chain.volumes),
        "chain": _entries(found),
        "changes": changes(found.chain.changes),
        "problems": _problems(found),
        "state": _state(found),
        "inUse": bool(found.in_use),
    }


def repaired(found: reconcile.Finding) -> dict[str, Any]:
    """What `reconcileVolumeChain` answers: the chain, and about whatever was not plain the verdict and its evidence.

    Volumes whose records agreed all along are left out: a healthy chain of fifty answers its fifty ids.
    """
    outcome = found.chain
    noted = {change.volume for change in outcome.changes} | {v for v, _ in (*outcome.dropped, *outcome.kept)}
    verdicts = _verdicts(found) if noted else {}
    return {
        "volumes": list(outcome.volumes),
        "changed": bool(outcome.changes),
        "changes": changes(outcome.changes),
        "evidence": [
            {"volumeID": volume, "verdict": verdicts[volume][0], "evidence": verdicts[volume][1]}
            for volume in found.sight.records
            if volume in noted
        ],
    }


def undone(outcome: undo.Undone) -> dict[str, Any]:
    """What `undoReconcile` answers."""
    return {
        "repairTime": str(outcome.time),
        "changed": bool(outcome.changes),
        "changes": changes(outcome.changes),
    }


def changes(made: Iterable[chain.Change]) -> list[dict[str, str]]:
    """Changes, in the order of writing."""
    return [{"volumeID": c.volume, "field": c.field, "before": c.before, "after": c.after, "why": c.why} for c in made]


def _state(found: reconcile.Finding) -> str:
    outcome = found.chain
    if outcome.candidates or (outcome.fault and outcome.fault.name == "in-use"):
        return "undecided"
    if outcome.fault:
        return "broken"
    return "repairable" if outcome.changes else "consistent"


def _entries(found: reconcile.Finding) -> list[dict[str, Any]]:
    way = found.chain.volumes or tuple(reversed(walk.headers(found.sight.records, found.leaf)))
    ordered = dict.fromkeys((*way, *found.sight.records))
    verdicts = _verdicts(found)
    return [_entry(found.sight.records[volume], *verdicts[volume]) for volume in ordered]


def _entry(here: record.Record, verdict: str, evidence: list[str]) -> dict[str, Any]:
    metadata = here.metadata
    return {
        "volumeID": here.volume,
        "imageID": metadata.image if metadata else "",
        "metadataParent": (here.parent or ids.BLANK) if metadata else "",
        "headerParent": here.link or ids.BLANK,
        "headerText": record.printable(here.text or ""),
        "legality": metadata.legality if metadata else "",
        "voltype": metadata.voltype if metadata else "",
        "format": metadata.format if metadata else "",
        "capacity": str(metadata.capacity if metadata else 0),
        "apparentsize": str(here.size),
        "truesize": str(here.allocated),
        "verdict": verdict,
        "evidence": evidence,
    }


def _verdicts(found: reconcile.Finding) -> Mapping[ids.VolumeId, tuple[str, list[str]]]:
    outcome = found.chain
    dropped, kept = dict(outcome.dropped), dict(outcome.kept)
    leaf_side = {change.volume for change in outcome.changes if change.after == volume_metadata.INTERNAL}
    verdicts = {}
    for volume, here in found.sight.records.items():
        faults = [fault.message for fault in here.faults]
        if volume in kept:
            verdicts[volume] = TORN, [f"kept: {kept[volume]}"]
        elif volume in dropped:
            stale = volume == found.leaf or volume in leaf_side or here.illegal
            verdicts[volume] = STALE if stale else MERGED, [f"dropped: {dropped[volume]}"]
        elif volume in outcome.volumes:
            verdicts[volume] = _member(found, here)
        elif faults:
            verdicts[volume] = DAMAGED, faults
        elif volume in outcome.candidates:
            verdicts[volume] = CANDIDATE, _written(here)
        elif here.metadata is not None and here.metadata.voltype == volume_metadata.LEAF:
            verdicts[volume] = OTHER, []
        else:
            verdicts[volume] = UNREACHABLE, ["no volume of this chain stands on it"]
    return verdicts


def _member(found: reconcile.Finding, here: record.Record) -> tuple[str, list[str]]:
    outcome = found.chain
    if not here.own or (here.metadata is not None and here.metadata.voltype == volume_metadata.SHARED):
        return TEMPLATE, []
    verdict = BASE if here.volume == outcome.volumes[0] else MEMBER
    if outcome.reason and here.volume == outcome.volumes[-1]:
        return verdict, [f"leaf: {outcome.reason}"]
    mine = [c for c in outcome.changes if c.volume == here.volume and c.field in (chain.PARENT, chain.BACKING)]
    if mine:
        return verdict, [f"{c.field} {c.before} -> {c.after}: {c.why}" for c in mine]
    if here.metadata is not None and here.metadata.format == volume_metadata.RAW:
        return verdict, ["raw, so it stands on nothing"]
    return verdict, ["header and metadata agree"]


def _written(here: record.Record) -> list[str]:
    seconds, nanoseconds = divmod(here.mtime_ns, 1_000_000_000)
    return [f"file last written at {seconds}.{nanoseconds // 1_000_000:03d} s since the epoch"]


def _problems(found: reconcile.Finding) -> list[dict[str, Any]]:
    faults = [fault for here in found.sight.records.values() for fault in here.faults]
    if found.chain.fault is not None and found.chain.fault not in faults:
        faults.insert(0, found.chain.fault)
    return [
        {"name": fault.name, "volumeID": fault.volume, "code": fault.error.code, "message": fault.message}
        for fault in faults
    ]
