"""Colour, width and line-drawing characters: what the place where we print can show."""

import dataclasses
import os
import textwrap
from collections.abc import Mapping
from typing import TextIO

# Where the width is not known (a pipe, a log), and the least that a line with an id needs.
_PLAIN_WIDTH = 100
_LEAST_WIDTH = 60

_SGR = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "magenta": "35",
    "cyan": "36",
    "alarm": "1;31",
}

_UNICODE = {
    "chain": "●",
    "template": "◆",
    "torn": "◐",
    "dropped": "✗",
    "candidate": "?",
    "detached": "○",
    "damaged": "!",
    "line": "│",
    "fork": "├─",
    "end": "╰─",
    "arrow": "→",
    "item": "·",
    "full": "█",
    "empty": "░",
}
_ASCII = {
    "chain": "o",
    "template": "#",
    "torn": "%",
    "dropped": "x",
    "candidate": "?",
    "detached": "@",
    "damaged": "!",
    "line": "|",
    "fork": "+-",
    "end": "`-",
    "arrow": "->",
    "item": "-",
    "full": "#",
    "empty": ".",
}


@dataclasses.dataclass(frozen=True)
class Style:
    """How to draw.

    Attributes:
        colour: whether escape sequences for colour may be written. Never the only carrier of a meaning.
        unicode: whether characters beyond ASCII may be written.
        width: columns of a line.
    """

    colour: bool = False
    unicode: bool = False
    width: int = _PLAIN_WIDTH

    def paint(self, text: str, *names: str) -> str:
        """The text in the named colours."""
        codes = ";".join(_SGR[name] for name in names if name)
        return f"\033[{codes}m{text}\033[0m" if self.colour and codes and text else text

    def glyph(self, name: str) -> str:
        return (_UNICODE if self.unicode else _ASCII)[name]

    def wrap(self, text: str, used: int) -> list[str]:
        """The text in lines that leave room for `used` columns before them. Words (ids, paths) are never cut."""
        room = max(self.width - used, 30)
        return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]


def detect(stream: TextIO, environment: Mapping[str, str]) -> Style:
    """Style for a stream: colour on a terminal unless NO_COLOR is set, and its width.

    Source of NO_COLOR: https://no-color.org.
    """
    terminal = stream.isatty()
    dumb = environment.get("TERM", "") in ("", "dumb")
    return Style(
        colour=terminal and not dumb and not environment.get("NO_COLOR"),
        unicode=(stream.encoding or "").lower().replace("-", "").startswith("utf"),
        width=max(_width(stream, environment, terminal), _LEAST_WIDTH),
    )


def _width(stream: TextIO, environment: Mapping[str, str], terminal: bool) -> int:
    given = environment.get("COLUMNS", "")
    if given.isascii() and given.isdecimal() and len(given) < 5:
        return int(given)
    if not terminal:
        return _PLAIN_WIDTH
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
