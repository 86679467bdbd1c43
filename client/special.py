"""Commands and presentations that do not follow from a verb's schema entry."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from client import arguments, errors, output
from client.session import Session

PARENT_USAGE = (
    "<sdUUID> <spUUID> <imgUUID> <volUUID>",
    "Print the parent of a volume; exit code 1 when it has none.",
)

RULER = "=" * 32

# ---------------------------------------------------------------- presentations


def domain_space(reply: output.Reply, _: Session) -> list[str]:
    """Total and free space of a domain, exactly and readably."""
    stats = output.member(reply, "stats", dict)
    lines = []
    for key in ("disktotal", "diskfree"):
        value = stats.get(key, "")
        lines.append(f"\t{key} = {output.escape(value)} ({output.size(value)})")
    return [*lines, ""]


def pool_facts(reply: output.Reply, _: Session) -> list[str]:
    return output.facts(output.member(reply, "info", dict), output.member(reply, "dominfo", dict))


def task_status(reply: output.Reply, _: Session) -> list[str]:
    found = output.member(reply, "taskStatus", dict)
    task, state, result, message = (
        output.escape(found.get(key, "")) for key in ("taskID", "taskState", "taskResult", "message")
    )
    return [f"TASK: {task} STATUS: {state} RESULT: {result} MESSAGE: '{message}'", *output.raw(reply)]


def host_facts(reply: output.Reply, session: Session) -> list[str]:
    return output.sorted_facts(output.member(reply, "info", dict), session.oneliner)


def volume_size(reply: output.Reply, session: Session) -> list[str]:
    sizes = {key: value for key, value in reply.items() if key != "status"}
    return [*output.sorted_facts(sizes, session.oneliner), ""]


def prepared(reply: output.Reply, _: Session) -> list[str]:
    return [*output.pretty(output.member(reply, "info", dict)), ""]


def iso_list(reply: output.Reply, _: Session) -> list[str]:
    return ["ISO files that machines can read:", *output.listed(output.member(reply, "isolist", list))]


def machines(reply: output.Reply, _: Session) -> list[str]:
    """Machines, each under a ruler: with their descriptions where the reply has them."""
    found = output.member(reply, "vmlist", object)
    entries = [f"{key}={text}" for key, text in found.items()] if isinstance(found, dict) else found
    if not isinstance(entries, list):
        raise errors.BadReply("the server's reply has no usable vmlist")
    if not entries:
        return ["No machines are kept there.", ""]
    return [*(line for entry in entries for line in (RULER, output.escape(entry))), ""]


def connection_states(reply: output.Reply, _: Session) -> list[str]:
    lines = [f"Connection id: {name}, status: {status}" for name, status in _connections(reply)]
    return [*lines, ""]


# ---------------------------------------------------------------- notes on stderr


def failed_connections(reply: output.Reply) -> list[str]:
    """The connections that failed. (The verb itself succeeds then, and so does its command: the protocol has it so.)"""
    return [f"connection {name} failed: status {status}" for name, status in _connections(reply) if status != "0"]


def changes(reply: output.Reply) -> list[str]:
    """What reconcileVolumeChain or undoReconcile has changed: a line each."""
    return [f"changed: {_change(change)}" for change in output.structs(reply, "changes")]


def repaired(reply: output.Reply, session: Session, words: Sequence[str]) -> list[str]:
    """What reconcileVolumeChain has changed, and the command that puts it back."""
    made = changes(reply)
    undo = shlex.join(output.escape(word) for word in (*session.invocation, "undoReconcile", *words[:3]))
    return [*made, f"to put that back: {undo}"] if made else []


def _change(change: Mapping[str, Any]) -> str:
    """A change of a volume's record in one line."""
    volume, field, before, after, why = (
        output.escape(change.get(key, "")) for key in ("volumeID", "field", "before", "after", "why")
    )
    return f"volume {volume} {field} {output.or_none(before)} -> {output.or_none(after)} ({why})"


# ---------------------------------------------------------------- commands


def volumes_list(session: Session, words: Sequence[str]) -> output.Outcome:
    """``getVolumesList``: volumes of an image, or of every image of the domain, with description and parent."""
    arguments.check_count(words, 2, 3)
    domain, pool, *images = (arguments.text(word) for word in words)
    if not images:
        reply = session.call("getImagesList", [domain])
        failure = output.failed(reply, "storage")
        if failure is not None:
            return failure
        images = [str(image) for image in output.member(reply, "imageslist", list)]
    lines: list[str] = []
    notes: list[str] = []
    for image in images:
        reply = session.call("getVolumesList", [domain, pool, image])
        failure = output.failed(reply, "storage")
        if failure is not None:
            return output.Outcome([*lines, *failure.lines], failure.code, notes)
        for volume in output.member(reply, "uuidlist", list):
            lines.append(_volume_line(session, [domain, pool, image, str(volume)], notes))
    return output.Outcome([*lines, ""], notes=notes)


def _volume_line(session: Session, ids: list[str], notes: list[str]) -> str:
    reply = session.call("getVolumeInfo", ids)
    line = f"{output.escape(ids[-1])} : "
    code, message = output.status(reply)
    if code:
        # One volume that cannot be read must not hide the others.
        notes.append(f"volume {output.escape(ids[-1])}: {output.escape(message)}")
        return line
    info = output.member(reply, "info", dict)
    if info.get("description"):
        line += output.escape(info["description"]) + ". "
    if info.get("parent", output.BLANK_ID) not in ("", output.BLANK_ID):
        line += "Parent is " + output.escape(info["parent"])
    return line


def parent(session: Session, words: Sequence[str]) -> output.Outcome:
    """``getParent``: the parent that a volume's metadata names."""
    arguments.check_count(words, 4, 4)
    reply = session.call("getVolumeInfo", [arguments.text(word) for word in words])
    failure = output.failed(reply, "storage")
    if failure is not None:
        return failure
    found = output.member(reply, "info", dict).get("parent", "")
    if found in ("", output.BLANK_ID):
        return output.Outcome(["No parent available"], 1)
    return output.Outcome([output.escape(found)])


def list_vms(session: Session, words: Sequence[str]) -> output.Outcome:
    """``list``: virtual machines in one of three views."""
    view, machines = "long", list[str]()
    for word in words:
        if word in ("long", "table", "ids"):
            view = word
        elif word.startswith("vms:"):
            machines += arguments.comma_list(word.removeprefix("vms:"))
        else:
            raise errors.BadArgument(f"{arguments.shown(word)} is neither a view (long, table, ids) nor vms:id,id,...")
    reply = session.call("list", [view != "ids", machines])
    failure = output.failed(reply, "host")
    if failure is not None:
        return failure
    lines: list[str] = []
    for machine in output.member(reply, "vmList", list):
        lines += _machine(machine if isinstance(machine, Mapping) else {"vmId": machine}, view)
    return output.Outcome(lines)


def _machine(machine: Mapping[str, Any], view: str) -> Iterable[str]:
    if view == "ids":
        return [output.escape(machine.get("vmId", ""))]
    if view == "table":
        columns = (output.escape(machine.get(key, "")) for key in ("vmId", "pid", "vmName", "status", "guestIPs"))
        return ["  ".join(columns).rstrip()]
    return [output.escape(machine.get("vmId", "")), *output.sorted_facts(machine, oneliner=True), ""]


def _connections(reply: output.Reply) -> list[tuple[str, str]]:
    entries = output.structs(reply, "statuslist")
    return [(output.escape(entry.get("id", "")), output.escape(entry.get("status", ""))) for entry in entries]
