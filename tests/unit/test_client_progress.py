"""How the progress of a task becomes a line."""

import itertools
from typing import Any

import pytest

from client import progress
from client.style import Style

MIB = 1 << 20
WIDE, NARROW, ASCII = Style(unicode=True, width=100), Style(unicode=True, width=60), Style(width=100)


def status(message: str = "copying", state: str = "running", **extra: Any) -> progress.Status:
    found = {"taskState": state, "taskResult": "", "code": 0, "message": message, **extra}
    return progress.read(found)


def at(percent: int, message: str = "copying") -> progress.Status:
    return status(message, percent=str(percent), done=str(percent * MIB), total=str(100 * MIB))


def tracked(*samples: tuple[float, progress.Status]) -> progress.Track:
    track = progress.Track()
    for now, found in samples:
        track = track.add(now, found.amount)
    return track


# ---------------------------------------------------------------- what a server tells


@pytest.mark.parametrize(
    ("extra", "amount"),
    [
        ({}, None),
        ({"percent": "42"}, progress.Amount(42, 100, in_bytes=False)),
        ({"percent": 42}, progress.Amount(42, 100, in_bytes=False)),
        ({"done": "3", "total": "8"}, progress.Amount(3, 8, in_bytes=True)),
        ({"percent": "37", "done": "3", "total": "8"}, progress.Amount(3, 8, in_bytes=True)),
        ({"percent": "101"}, None),
        ({"percent": "-1"}, None),
        ({"percent": "4.5"}, None),
        ({"percent": "\u0661"}, None),
        ({"done": "9", "total": "8"}, None),
        ({"done": "0", "total": "0"}, None),
        ({"done": "1"}, None),
        ({"total": "9" * 40, "done": "1"}, None),
        ({"percent": ["1"]}, None),
    ],
)
def test_only_sensible_numbers_are_an_amount(extra: dict[str, Any], amount: progress.Amount | None) -> None:
    assert status(**extra).amount == amount


def test_whatever_a_server_tells_is_safe_for_a_terminal() -> None:
    found = progress.read({"taskState": "\x1b[2J", "taskResult": "\r", "message": "a\nb\x9b", "code": "x"})
    assert all(text.isprintable() for text in (found.state, found.result, found.message, found.title))
    assert found.code == 100
    assert progress.read({}) == progress.Status("", "", 100, "", None)


@pytest.mark.parametrize(
    ("found", "title"),
    [
        (status("copying the disk, 42 %", percent="42"), "copying the disk"),
        (status("copying the disk, 41 %", percent="42"), "copying the disk, 41 %"),
        (status("copying volume 2 of 3, 42 %", percent="42", done="42", total="100"), "copying volume 2 of 3"),
        (status("compared 5 of 8 bytes", done="5", total="8"), "compared"),
        (status("compared 5 of 8 bytes"), "compared 5 of 8 bytes"),
        (status("copying", state="aborting"), "aborting: copying"),
    ],
)
def test_a_title_leaves_out_the_numbers_beside_it(found: progress.Status, title: str) -> None:
    assert found.title == title


# ---------------------------------------------------------------- rate and time left


def test_rate_and_time_left() -> None:
    track = tracked((10.0, at(10)), (12.0, at(20)))
    assert (track.rate, track.left) == (5 * MIB, 16.0)


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [(0.0, at(10))],
        [(0.0, at(10)), (0.9, at(20))],
        [(0.0, at(10)), (5.0, at(10))],
        [(0.0, at(10)), (5.0, at(90)), (6.0, at(20))],
        [(0.0, at(10)), (5.0, at(20)), (6.0, status())],
        [(0.0, at(10)), (5.0, status(percent="20"))],
    ],
    ids=["nothing", "one", "too soon", "no change", "began anew", "no more numbers", "other numbers"],
)
def test_no_rate_is_better_than_a_guess(samples: list[tuple[float, progress.Status]]) -> None:
    track = tracked(*samples)
    assert (track.rate, track.left) == (None, None)


def test_nothing_is_left_to_be_told_once_all_is_done() -> None:
    assert tracked((0.0, at(10)), (9.0, at(100))).left is None


def test_the_rate_is_that_of_the_last_seconds() -> None:
    fast = [(float(second), at(second)) for second in range(50)]
    slow = [(50.0 + 10 * step, at(50 + step)) for step in range(4)]
    track = tracked(*fast, *slow)
    assert track.rate == pytest.approx(MIB / 10)
    assert len(track.samples) < 6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "0:00"),
        (7, "0:07"),
        (750, "12:30"),
        (3723, "1:02:03"),
        (359999, "99:59:59"),
        (360000, "4 days"),
        (1e9, "11574 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


# ---------------------------------------------------------------- lines


def test_a_bar() -> None:
    track = tracked((0.0, at(25)), (5.0, at(50)))
    line = progress.drawn(at(50, "copying the disk, 50 %"), track, 5.0, 3, ASCII)
    assert line == f"copying the disk  {'#' * 14}{'.' * 15}   50 %  50 MiB of 100 MiB  5 MiB/s  0:10 left"
    assert "█" in progress.drawn(at(50), track, 5.0, 3, WIDE)


def test_a_bar_of_percents_only() -> None:
    track = tracked((0.0, status(percent="10")), (10.0, status(percent="20")))
    line = progress.drawn(status("a, 20 %", percent="20"), track, 10.0, 0, ASCII)
    assert line == f"a  {'#' * 8}{'.' * 32}   20 %  1:20 left"


def test_without_numbers_the_line_moves() -> None:
    lines = [progress.drawn(status("taking the lock"), progress.Track(), 61.0, tick, ASCII) for tick in range(5)]
    assert lines[0] == "| taking the lock  1:01"
    assert len(set(lines)) == 4 and lines[4] == lines[0]


@pytest.mark.parametrize("style", [WIDE, NARROW, ASCII, Style(width=20)])
def test_a_line_is_never_wider_than_the_terminal(style: Style) -> None:
    messages = ("", "m", "a message " * 20)
    for message, percent in itertools.product(messages, (0, 1, 50, 99, 100)):
        track = tracked((0.0, at(0)), (1000.0, at(percent)))
        for found in (at(percent, message), status(message), status(message, percent=str(percent))):
            line = progress.drawn(found, track, 1e6, percent, style)
            assert len(line) < style.width
            assert line.isprintable()


def test_a_full_bar_is_full_and_an_empty_one_empty() -> None:
    assert "." not in progress.drawn(at(100), progress.Track(), 0.0, 0, ASCII)
    assert "#" not in progress.drawn(at(0), progress.Track(), 0.0, 0, ASCII)


def test_lines_for_a_file() -> None:
    assert progress.told(status("taking the lock"), progress.Track()) == "taking the lock"
    track = tracked((0.0, at(10)), (10.0, at(20)))
    assert progress.told(at(20), track) == "copying, 20 % (20 MiB of 100 MiB, 1 MiB/s, 1:20 left)"
    assert progress.told(status("a", percent="5"), progress.Track()) == "a, 5 %"


@pytest.mark.parametrize(
    ("before", "now", "seconds", "due"),
    [
        (None, at(0), 0.0, True),
        (at(0), at(9), 1.0, False),
        (at(0), at(10), 1.0, True),
        (at(0), at(1), 60.0, True),
        (at(0), at(0), 3600.0, False),
        (at(50), at(0), 1.0, True),
        (at(0), at(0, "other"), 0.0, True),
        (at(0), status("copying"), 0.0, True),
        (status(), status(), 3600.0, False),
        (status(), status(state="aborting"), 0.0, True),
    ],
)
def test_a_line_for_a_file_is_due_when_there_is_news(
    before: progress.Status | None, now: progress.Status, seconds: float, due: bool
) -> None:
    assert progress.is_news(before, now, seconds) is due
