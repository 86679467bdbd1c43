"""A volume chain with what hangs beside it, as lines of a drawing. Knows ids and parents, nothing of their meaning."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from client import output
from client.style import Style

Entry = Mapping[str, Any]


@dataclasses.dataclass
class Node:
    """A volume in the drawing.

    Attributes:
        volume: its id.
        entry: what the server says about it; empty when it says nothing.
        parent: the volume that it stands on in the chain; None outside the chain, "" for the root.
        sides: branches that leave the chain here, each a list of nodes that follow each other.
    """

    volume: str
    entry: Entry
    parent: str | None
    sides: "list[list[Node]]" = dataclasses.field(default_factory=list)


Describe = Callable[[Node, int], list[str]]


@dataclasses.dataclass(frozen=True)
class Tree:
    """The chain root first, and the branches that hang on nothing."""

    chain: list[Node]
    detached: list[list[Node]]

    def nodes(self) -> list[Node]:
        """Every node in the order of the drawing."""
        found: list[Node] = []
        for branch in (self.chain, *self.detached):
            _collect(branch, found)
        return found


def arrange(volumes: Sequence[str], entries: Sequence[Entry]) -> Tree:
    """Put each entry in its place: in the chain, beside the volume that it names as parent, or nowhere.

    Args:
        volumes: ids of the chain, root first.
        entries: one a volume, each with volumeID and perhaps metadataParent and headerParent. Loops are allowed.
    """
    known: dict[str, Entry] = {}
    for entry in entries:
        known.setdefault(str(entry.get("volumeID", "")), entry)
    chain = list(dict.fromkeys(volumes))
    parents = {volume: _parent(entry, {*known, *chain}) for volume, entry in known.items() if volume not in chain}
    children: dict[str, list[str]] = {}
    for volume, parent in parents.items():
        if parent is not None:
            children.setdefault(parent, []).append(volume)
    grown: set[str] = set()
    line = [
        Node(
            volume,
            known.get(volume, {}),
            chain[place - 1] if place else "",
            [_grow(child, known, children, grown) for child in children.get(volume, ())],
        )
        for place, volume in enumerate(chain)
    ]
    detached = []
    for volume in parents:
        if volume not in grown:
            detached.append(_grow(_top(volume, parents, grown), known, children, grown))
    return Tree(line, detached)


def draw(tree: Tree, style: Style, describe: Describe, paint: Callable[[Node], str]) -> list[str]:
    """Lines of the drawing.

    Args:
        describe: the lines for a node (its headline first), given how many columns are taken before them.
        paint: the node's mark, one column wide.
    """
    lines: list[str] = []
    pen = _Pen(lines, style, describe, paint)
    for branch in (tree.chain, *tree.detached):
        pen.branch(branch, "", "")
    return lines[:-1] if lines and not lines[-1] else lines


@dataclasses.dataclass(frozen=True)
class _Pen:
    lines: list[str]
    style: Style
    describe: Describe
    paint: Callable[[Node], str]

    def branch(self, nodes: list[Node], margin: str, joint: str) -> None:
        """Draw nodes under each other.

        Args:
            margin: what stands left of the branch on each line.
            joint: what stands left of its first line.
        """
        for place, node in enumerate(nodes):
            last = place == len(nodes) - 1
            headline, *rest = self.describe(node, len(margin) + 4)
            self._line(margin if place or not joint else joint, f"{self.paint(node)} {headline}")
            below = margin + ("  " if last and not node.sides else self.style.glyph("line") + " ")
            for text in rest:
                self._line(below, "  " + text)
            self._line(below, "")
            for number, side in enumerate(node.sides):
                end = last and number == len(node.sides) - 1
                fork = self.style.glyph("end" if end else "fork")
                self.branch(side, margin + ("  " if end else self.style.glyph("line") + " "), margin + fork)

    def _line(self, margin: str, text: str) -> None:
        self.lines.append(self.style.paint(margin if text else margin.rstrip(), "dim") + text)


def _parent(entry: Entry, known: set[str]) -> str | None:
    volume = entry.get("volumeID")
    for key in ("metadataParent", "headerParent"):
        parent = entry.get(key)
        if parent and parent != output.BLANK_ID and parent != volume and parent in known:
            return str(parent)
    return None


def _grow(first: str, known: Mapping[str, Entry], children: Mapping[str, list[str]], grown: set[str]) -> list[Node]:
    """The branch that starts with a volume: it goes on with the first child, further children leave it to the side."""
    branch: list[Node] = []
    current: str | None = first
    while current is not None:
        grown.add(current)
        following = [child for child in children.get(current, ()) if child not in grown]
        node = Node(current, known[current], None)
        branch.append(node)
        current = following[0] if following else None
        grown.update(following[:1])
        node.sides = [_grow(child, known, children, grown) for child in following[1:]]
    return branch


def _top(volume: str, parents: Mapping[str, str | None], grown: set[str]) -> str:
    """The uppermost ancestor that is not drawn yet; in a loop, the last one before the start comes round again."""
    seen = {volume}
    while True:
        parent = parents.get(volume)
        if parent is None or parent in seen or parent in grown or parent not in parents:
            return volume
        seen.add(parent)
        volume = parent


def _collect(branch: list[Node], found: list[Node]) -> None:
    for node in branch:
        found.append(node)
        for side in node.sides:
            _collect(side, found)
