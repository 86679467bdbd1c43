"""One volume in the picture of a chain: its mark, and its lines from the id down to the evidence."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from client import output, tree
from client.style import Style


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a verdict of the server is shown: mark, colour, and words (short for what is normal)."""

    mark: str
    colour: str
    words: str


_VERDICTS = {
    "base": Verdict("chain", "green", "base"),
    "in chain": Verdict("chain", "green", "in the chain"),
    "template": Verdict("template", "cyan", "template"),
    "merged": Verdict("dropped", "yellow", "MERGED away, safe to delete"),
    "torn merge": Verdict("torn", "magenta", "TORN MERGE: must stay in the chain"),
    "stale leaf": Verdict("dropped", "yellow", "STALE LEAF: out of the chain"),
    "candidate": Verdict("candidate", "magenta", "CANDIDATE for the leaf, undecided"),
    "unreachable": Verdict("detached", "red", "UNREACHABLE from the chain"),
    "damaged": Verdict("damaged", "alarm", "DAMAGED"),
}
_UNKNOWN = Verdict("chain", "", "no verdict")

# Verdicts of volumes that the answer leaves out, so that whoever owns the image may delete them.
DROPPED = ("merged", "stale leaf")
LOST = ("unreachable", "damaged")


def verdict_name(node: tree.Node) -> str:
    """The server's verdict on a volume, "" without one."""
    return str(node.entry.get("verdict", ""))


def mark(node: tree.Node, style: Style) -> str:
    """The character that stands for the volume in the drawing."""
    verdict = _verdict(node)
    return style.paint(style.glyph(verdict.mark), verdict.colour, "bold")


def lines(node: tree.Node, *, leaf: bool, image: str, problems: Sequence[str], style: Style, used: int) -> list[str]:
    """Headline, what the records say, problems, evidence.

    Args:
        leaf: whether the volume is the leaf of the chain.
        image: the image that the picture is of; another one is named.
        problems: names of the problems that concern this volume.
        used: columns taken before each line.
    """
    return [_headline(node, leaf, style), *_records(node, image, style, used), *_grounds(node, problems, style, used)]


def _headline(node: tree.Node, leaf: bool, style: Style) -> str:
    verdict = _verdict(node)
    words = verdict.words if verdict_name(node) in _VERDICTS else output.escape(verdict_name(node) or verdict.words)
    text = style.paint(output.escape(node.volume), "bold")
    return f"{text}  {style.paint(words + (', leaf' if leaf else ''), verdict.colour)}"


def _records(node: tree.Node, image: str, style: Style, used: int) -> list[str]:
    entry = node.entry
    if not entry:
        return []
    legality = output.escape(entry.get("legality", "") or "legality unknown")
    words = [output.escape(entry.get("format", "") or "format unknown"), legality]
    words.append(output.escape(entry.get("voltype", "") or "type unknown"))
    sizes = f"capacity {output.size(entry.get('capacity'))}, file {output.size(entry.get('apparentsize'))}"
    words.append(f"{sizes}, on disk {output.size(entry.get('truesize'))}")
    rows = style.wrap("  ".join(words), used)
    if legality != "LEGAL":
        rows = [row.replace(legality, style.paint(legality, "red"), 1) for row in rows]
    if entry.get("imageID") not in (None, "", image):
        rows.append(f"of image {output.escape(entry['imageID'])}")
    return rows + _parents(node, style)


def _parents(node: tree.Node, style: Style) -> list[str]:
    metadata, header = (_id(node.entry.get(key)) for key in ("metadataParent", "headerParent"))
    written = _cut(output.escape(node.entry.get("headerText", "") or ""))
    headless = node.entry.get("format") == "RAW" and not written
    damaged = verdict_name(node) == "damaged"
    if metadata == header and not (written and not header) and not damaged:
        agreed = "metadata only: RAW has no header" if headless else "metadata and header agree"
        return [_parent_row("parent", metadata, f"  ({agreed})", node, style)]
    # What is damaged may name a parent that could not be read.
    metadata_words = header_words = "  (or unreadable)" if damaged else ""
    if headless:
        header_words = "  (RAW has no header)"
    elif written and not header:
        header_words = f'  (written: "{written}")'
    return [
        _parent_row("metadata parent", metadata, "" if metadata else metadata_words, node, style),
        _parent_row("header parent  ", header, "" if header else header_words, node, style, judged=not headless),
    ]


def _parent_row(label: str, value: str, words: str, node: tree.Node, style: Style, judged: bool = True) -> str:
    row = f"{label}  {output.or_none(output.escape(value))}{words}"
    # Outside the chain there is no parent that would be right.
    if judged and node.parent is not None and value != node.parent:
        return style.paint(f"{row}  <- wrong", "red")
    return row


def _grounds(node: tree.Node, problems: Sequence[str], style: Style, used: int) -> list[str]:
    rows = [style.paint(f"! {name}: see problems", "red") for name in problems]
    evidence: Any = node.entry.get("evidence")
    for text in evidence if isinstance(evidence, list) else ():
        first, *rest = style.wrap(output.escape(text), used + 2)
        rows += [f"{style.glyph('item')} {first}", *(f"  {line}" for line in rest)]
    return rows


def _verdict(node: tree.Node) -> Verdict:
    return _VERDICTS.get(verdict_name(node), _UNKNOWN)


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _id(value: object) -> str:
    return "" if value in (None, "", output.BLANK_ID) else str(value)
