"""How far a task is, in a line: pure functions of what the server tells, and of the time.

A task tells a message, and perhaps how much is done: bytes (``done`` and ``total``) or only a ``percent``. Rate and
time left follow from what was done in the last seconds, since jobs change their speed with what they come across.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from client import output
from client.style import Style

# Seconds: what the rate is the mean of, and from when on it is worth telling.
_WINDOW = 15.0
_LEAST = 1.0

# Without a terminal: percents, and seconds, after which a line says how far it is.
_STEP = 10
_PATIENCE = 60.0

# Columns: of a bar, and of the facts beside it, kept free for them so that the bar does not jump.
_BAR = range(8, 41)
_FACTS = 50

_FRAMES = {True: "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", False: "|/-\\"}


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much is done: bytes, or percents where a task tells no more."""

    done: int
    total: int
    in_bytes: bool

    @property
    def percent(self) -> int:
        return 100 * self.done // self.total


@dataclasses.dataclass(frozen=True)
class Status:
    """A task as it was at one moment.

    Attributes:
        state, result, code: as getTaskStatus has them.
        message: safe for a terminal.
        amount: how far it is, None where it does not tell.
    """

    state: str
    result: str
    code: int
    message: str
    amount: Amount | None

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def title(self) -> str:
        """What is done, without the numbers that are told beside it."""
        text = self.message
        if self.amount is not None:
            text = re.sub(rf",? {self.amount.percent} ?%$", "", text)
            text = text.removesuffix(f" {self.amount.done} of {self.amount.total} bytes")
        return text if self.state in ("running", "finished", "") else f"{self.state}: {text}"


def read(found: Mapping[str, Any]) -> Status:
    """The status that a server told, whatever it told."""
    code = found.get("code")
    return Status(
        state=output.escape(found.get("taskState", "")),
        result=output.escape(found.get("taskResult", "")),
        code=code if isinstance(code, int) else 100,
        message=output.escape(found.get("message", "")),
        amount=_amount(found),
    )


def _amount(found: Mapping[str, Any]) -> Amount | None:
    done, total, percent = (_number(found.get(key)) for key in ("done", "total", "percent"))
    if done is not None and total and done <= total:
        return Amount(done, total, in_bytes=True)
    return Amount(percent, 100, in_bytes=False) if percent is not None and percent <= 100 else None


def _number(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


@dataclasses.dataclass(frozen=True)
class Track:
    """What was done when, lately.

    Attributes:
        samples: (seconds, amount), oldest first.
        total: what the amounts are of; another total is another piece of work.
    """

    samples: tuple[tuple[float, int], ...] = ()
    total: int = 0

    def add(self, now: float, amount: Amount | None) -> "Track":
        """The track with one more sample.

        Args:
            now: seconds, of a clock that never goes back.
        """
        if amount is None:
            return Track()
        samples = self.samples
        if amount.total != self.total or (samples and amount.done < samples[-1][1]):
            samples = ()
        # One sample from before the window stays, or slow jobs would never have two.
        while len(samples) > 1 and samples[1][0] < now - _WINDOW:
            samples = samples[1:]
        return Track((*samples, (now, amount.done)), amount.total)

    @property
    def rate(self) -> float | None:
        """What is done in a second, None while nobody can know."""
        if not self.samples:
            return None
        (start, before), (now, done) = self.samples[0], self.samples[-1]
        return (done - before) / (now - start) if now - start >= _LEAST and done > before else None

    @property
    def left(self) -> float | None:
        """Seconds until all is done; what comes after that (flushing, renaming) is not known."""
        if not self.samples or self.samples[-1][1] == self.total:
            return None
        return (self.total - self.samples[-1][1]) / self.rate if self.rate else None


def duration(seconds: float) -> str:
    """A time for people: "0:07", "12:30", "1:02:03"; days where hours say too little."""
    whole = int(seconds)
    if whole >= 100 * 3600:
        return f"{whole // 86400} days"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def facts(amount: Amount, track: Track) -> list[str]:
    """Amount, rate and time left, as far as they are known."""
    found = []
    if amount.in_bytes:
        found.append(f"{output.size(amount.done)} of {output.size(amount.total)}")
        if track.rate:
            found.append(f"{output.size(int(track.rate))}/s")
    if track.left is not None:
        found.append(f"{duration(track.left)} left")
    return found


def drawn(status: Status, track: Track, elapsed: float, tick: int, style: Style) -> str:
    """The line for a terminal, never wider than that.

    Args:
        elapsed: seconds since the waiting began.
        tick: how often it was drawn before.
    """
    room = style.width - 1
    if status.amount is None:
        frames = _FRAMES[style.unicode]
        return _cut(f"{frames[tick % len(frames)]} {status.title}  {duration(elapsed)}", room)
    percent = f"{status.amount.percent:3} %"
    text = "  ".join([percent, *facts(status.amount, track)])
    title = _cut(status.title, max(room - _FACTS - _BAR.start - 4, 12))
    beside = len(title) + 4
    width = min(room - beside - (max(len(text), _FACTS) if status.amount.in_bytes else len(text)), _BAR.stop - 1)
    if width < _BAR.start:
        width = room - beside - len(text)
    if width < _BAR.start:
        return _cut(f"{title}  {text}", room)
    full = width * status.amount.done // status.amount.total
    bar = style.glyph("full") * full + style.glyph("empty") * (width - full)
    return f"{title}  {bar}  {text}"


def told(status: Status, track: Track) -> str:
    """The line for a file."""
    if status.amount is None:
        return status.title
    more = facts(status.amount, track)
    return f"{status.title}, {status.amount.percent} %" + (f" ({', '.join(more)})" if more else "")


def is_news(before: Status | None, now: Status, seconds: float) -> bool:
    """Whether a line in a file is due.

    Args:
        before: what the last line told.
        seconds: how long ago that was.
    """
    if before is None or before.title != now.title:
        return True
    if before.amount is None or now.amount is None:
        return before.amount != now.amount
    gone = now.amount.percent - before.amount.percent
    return gone < 0 or gone >= _STEP or (seconds >= _PATIENCE and now.amount != before.amount)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(room - 3, 0)] + "..."
