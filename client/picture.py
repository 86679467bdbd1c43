"""The picture of an image's chain: state, problems, the tree with all records and verdicts, changes, next steps.

Read at night by people in a hurry: the answer first, then the evidence; ids in full, to be copied; every meaning in
words, colour only on top.
"""

import dataclasses
import shlex
from collections.abc import Sequence

from client import card, output, tree
from client.style import Style

_STATES = {
    "consistent": ("green", "all records agree; there is nothing to repair"),
    "repairable": ("yellow", "reconcileVolumeChain would make {changes}; nothing has been changed yet"),
    "undecided": ("magenta", "the records do not tell which candidate is the leaf; reconcileVolumeChain refuses (262)"),
    "broken": ("alarm", "reconcileVolumeChain refuses and changes nothing; see the problems"),
}

# A change's field in the words of the drawing.
_FIELDS = {"parent": "metadata parent", "backing": "header parent"}


@dataclasses.dataclass(frozen=True)
class Subject:
    """What was asked for, as typed.

    Attributes:
        leaf: the volume that the caller takes for the leaf, "" when not said.
        invocation: words of the client's command line up to and including the server.
    """

    pool: str
    domain: str
    image: str
    leaf: str
    invocation: tuple[str, ...]


def lines(reply: output.Reply, subject: Subject, style: Style) -> list[str]:
    """The picture of a reply to getVolumeChain."""
    volumes = [str(volume) for volume in output.member(reply, "volumes", list)]
    arranged = tree.arrange(volumes, output.structs(reply, "chain"))
    blocks = [
        _head(reply, subject, style),
        _problems(reply, style),
        _drawing(arranged, reply, subject, style),
        _changes(reply, style),
        _next_steps(arranged, reply, subject, style),
    ]
    joined: list[str] = []
    for block in blocks:
        if block:
            joined += ["", *block] if joined else block
    return joined


# ---------------------------------------------------------------- the parts


def _head(reply: output.Reply, subject: Subject, style: Style) -> list[str]:
    state = output.escape(reply.get("state", "unknown"))
    colour, words = _STATES.get(state, ("alarm", "a state that this client does not know"))
    rows = [("image", [output.escape(subject.image)]), ("domain", [output.escape(subject.domain)])]
    first, *rest = style.wrap(f"{state.upper()}: {words.format(changes=_count(reply, 'change'))}", 8)
    rows.append(("state", [style.paint(first, colour, "bold"), *(style.paint(line, colour) for line in rest)]))
    if reply.get("inUse"):
        use = "yes: a process has the image open; reconcileVolumeChain refuses (203) until it is closed"
        rows.append(("in use", [style.paint(line, "yellow") for line in style.wrap(use, 8)]))
    else:
        rows.append(("in use", ["no"]))
    return [f"{label if not place else '':<8}{text}" for label, texts in rows for place, text in enumerate(texts)]


def _problems(reply: output.Reply, style: Style) -> list[str]:
    shown: list[str] = []
    for problem in output.structs(reply, "problems"):
        name, volume, code, message = (
            output.escape(problem.get(key, "")) for key in ("name", "volumeID", "code", "message")
        )
        where = f", volume {volume}" if volume else ""
        shown += [style.paint(line, "red") for line in _item(style, "!", f"{name} ({code}){where}: {message}")]
    return [style.paint("problems", "bold"), *shown] if shown else []


def _drawing(arranged: tree.Tree, reply: output.Reply, subject: Subject, style: Style) -> list[str]:
    problems: dict[str, list[str]] = {}
    for problem in output.structs(reply, "problems"):
        problems.setdefault(str(problem.get("volumeID", "")), []).append(output.escape(problem.get("name", "")))
    leaf = arranged.chain[-1] if arranged.chain else None

    def describe(node: tree.Node, used: int) -> list[str]:
        found = problems.get(node.volume, ())
        return card.lines(node, leaf=node is leaf, image=subject.image, problems=found, style=style, used=used)

    drawn = tree.draw(arranged, style, describe, lambda node: card.mark(node, style))
    return drawn or [style.paint("no volumes", "dim")]


def _changes(reply: output.Reply, style: Style) -> list[str]:
    shown: list[str] = []
    for number, change in enumerate(output.structs(reply, "changes"), 1):
        volume, field, before, after, why = (
            output.escape(change.get(key, "")) for key in ("volumeID", "field", "before", "after", "why")
        )
        shown.append(f"  {number}. volume {style.paint(volume, 'bold')}")
        arrow = style.glyph("arrow")
        what = f"{_FIELDS.get(field, field)}: {output.or_none(before)} {arrow} {output.or_none(after)}"
        for text in (what, why):
            shown += ["     " + line for line in style.wrap(text, 5)]
    return [style.paint("reconcileVolumeChain would change", "bold"), *shown] if shown else []


def _next_steps(arranged: tree.Tree, reply: output.Reply, subject: Subject, style: Style) -> list[str]:
    """Commands to copy. Each stands on a line of its own that is never wrapped."""
    shown: list[str] = []
    for words, command in _steps(arranged.nodes(), reply, subject):
        shown += ["  " + line for line in style.wrap(words, 2)]
        shown.append("    " + shlex.join(output.escape(word) for word in (*subject.invocation, *command)))
    return [style.paint("next", "bold"), *shown] if shown else []


def _steps(nodes: Sequence[tree.Node], reply: output.Reply, subject: Subject) -> list[tuple[str, list[str]]]:
    """What to do next: words, and the command with its arguments."""
    state = reply.get("state")
    ids = [subject.pool, subject.domain, subject.image, subject.leaf or _metadata_leaf(nodes, subject)]
    if reply.get("inUse"):
        return [("Stop whatever has the image open, then look again:", ["chain", *ids[:3]])]
    steps: list[tuple[str, list[str]]] = []
    if state == "undecided":
        steps.append(("Compare the bytes (a task; look again when it has finished):", ["proveVolumeChain", *ids]))
        for node in nodes:
            if card.verdict_name(node) == "candidate":
                words = f"Or decide that {output.escape(node.volume)} is the leaf:"
                steps.append((words, ["reconcileVolumeChain", *ids, f"leaf={node.volume}"]))
    if state == "repairable":
        steps.append(("Repair the records as listed:", ["reconcileVolumeChain", *ids]))
    dropped = [node.volume for node in nodes if card.verdict_name(node) in card.DROPPED]
    if dropped and state in ("consistent", "repairable"):
        words = f"{'After that, delete' if steps else 'Delete'} what is out of the chain, if the engine does not:"
        # Leaf first, so that no volume is deleted under another.
        volumes = ",".join(reversed(dropped))
        steps.append((words, ["deleteVolume", subject.domain, subject.pool, subject.image, volumes]))
    return steps


# ---------------------------------------------------------------- small things


def _metadata_leaf(nodes: Sequence[tree.Node], subject: Subject) -> str:
    """The leaf as the metadata has it (the engine's view too): the image's only volume that is nobody's parent."""
    parents = {node.entry.get("metadataParent") for node in nodes}
    own = [node for node in nodes if node.entry.get("imageID", subject.image) == subject.image]
    leaves = [node.volume for node in own if node.volume not in parents and card.verdict_name(node) not in card.LOST]
    in_chain = [node.volume for node in nodes if node.parent is not None]
    return leaves[0] if len(leaves) == 1 else in_chain[-1] if in_chain else "LEAF"


def _item(style: Style, mark: str, text: str) -> list[str]:
    first, *rest = style.wrap(text, 4)
    return [f"  {mark} {first}", *(f"    {line}" for line in rest)]


def _count(reply: output.Reply, noun: str) -> str:
    number = len(output.structs(reply, noun + "s"))
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
