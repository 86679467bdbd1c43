"""Commands and presentations of the verbs on the host: machines, fencing, devices and volume groups."""

from collections.abc import Mapping, Sequence
from typing import Any

from client import arguments, errors, output
from client.session import Session

_RULER = "=" * 32
_ISCSI_PORT = 3260

# ---------------------------------------------------------------- presentations


def power(reply: output.Reply, _: Session) -> list[str]:
    """The power of a host, when that was the question, or else what was said."""
    if "operationStatus" in reply or "power" not in reply:
        return output.message(reply)
    return [output.escape(reply["power"])]


def machine_figures(reply: output.Reply, _: Session) -> list[str]:
    """Each machine: its id, its status, and the rest of it."""
    lines = []
    for figures in output.structs(reply, "statsList"):
        lines += [output.escape(figures.get("vmId", "")), f"\tStatus = {output.escape(figures.get('status', ''))}"]
        rest = {key: value for key, value in figures.items() if key not in ("vmId", "status")}
        lines += [*output.sorted_facts(rest, oneliner=True), ""]
    return lines


def groups(reply: output.Reply, _: Session) -> list[str]:
    """Volume groups, each under a ruler."""
    lines = []
    for group in output.structs(reply, "vglist"):
        lines += [_RULER, *(f"{output.escape(key)} = {output.escape(value)}" for key, value in group.items())]
    return [*lines, ""]


def group(reply: output.Reply, _: Session) -> list[str]:
    """A volume group, its devices on lines of their own."""
    lines = []
    for key, value in output.member(reply, "info", dict).items():
        lines.append(_RULER)
        if key == "pvlist" and isinstance(value, list):
            lines += [f"{output.escape(key)} =", *(f"\t{output.escape(each)}" for each in value)]
        else:
            lines.append(f"{output.escape(key)} = {output.escape(value)}")
    return [*lines, ""]


def devices(reply: output.Reply, _: Session) -> list[str]:
    return [*output.pretty(output.member(reply, "devList", list)), ""]


def targets(reply: output.Reply, _: Session) -> list[str]:
    """What an iSCSI portal offers."""
    full, names = output.member(reply, "fullTargets", list), output.member(reply, "targets", list)
    return [
        "---- fullTargets",
        *(output.escape(each) for each in full),
        "---- targets",
        *output.listed(names),
    ]


# ---------------------------------------------------------------- commands


def discover(session: Session, words: Sequence[str]) -> output.Outcome:
    """``discoverST``: the targets of a portal, ``address[:port]``; an IPv6 address with a port is in brackets."""
    if len(words) not in (1, 3):
        raise errors.BadArgument(f"takes 1 or 3 arguments, not {len(words)}")
    address, port = portal(words[0])
    user, password = (arguments.text(word) for word in (words[1:] or ("", "")))
    portal_struct = {"connection": address, "port": str(port), "user": user, "password": password}
    reply = session.call("discoverSendTargets", [portal_struct])
    return output.failed(reply, "storage") or output.Outcome(targets(reply, session))


def portal(word: str) -> tuple[str, int]:
    """Address and port of a word such as ``10.0.0.5:3260`` or ``[::1]:3260``.

    Raises:
        errors.BadArgument: it is none.
    """
    text = arguments.text(word)
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or colon not in ("", ":"):
            raise errors.BadArgument(f"{arguments.shown(word)} is not [address]:port")
    elif text.count(":") == 1:
        address, colon, port = text.partition(":")
    else:
        address, colon, port = text, "", ""  # a name, or an IPv6 address without a port
    if not address:
        raise errors.BadArgument(f"{arguments.shown(word)} has no address")
    return address, arguments.integer(port) if colon else _ISCSI_PORT


def snapshot(session: Session, words: Sequence[str]) -> output.Outcome:
    """``snapshot``: one disk of a machine, without its memory."""
    arguments.check_count(words, 5, 5)
    machine, *ids = (arguments.text(word) for word in words)
    drive = dict(zip(("domainID", "imageID", "baseVolumeID", "volumeID"), ids, strict=True))
    reply = session.call("snapshot", [machine, [drive]])
    return output.failed(reply, "storage") or output.Outcome(output.message(reply))


def machine_stats(session: Session, words: Sequence[str]) -> output.Outcome:
    """``getVmStats``: all figures of a machine, or one."""
    arguments.check_count(words, 1, 2)
    machine, *fields = (arguments.text(word) for word in words)
    reply = session.call("getVmStats", [machine])
    failure = output.failed(reply, "host")
    if failure is not None:
        return failure
    lines: list[str] = []
    for figures in output.structs(reply, "statsList"):
        lines += _figures(figures, fields)
    return output.Outcome(lines)


def _figures(figures: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    if fields:
        return [output.escape(figures.get(fields[0], ""))]
    return output.sorted_facts(figures, oneliner=True)
