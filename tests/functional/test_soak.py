"""A sample of the soak; and proof that it would notice what it is there for."""

import collections

import pytest

from tests.campaigns import figures, soak

LINE = "time=2026-11-24T10:00:00.000Z client=127.0.0.1:5 flow=c0-1 via=xml-rpc verb=ping code=0 ms=0.1"
PING = ("c0-1", "xml-rpc", "ping", 0)


def test_many_clients_and_nothing_grows_or_is_lost() -> None:
    found = soak.run(calls=900, seed=5, growth=None)
    assert found.failures == []
    assert found.counts["calls"] >= 900
    assert found.counts["tasks"] > 0
    assert found.counts["audit lines"] > 800


@pytest.mark.parametrize(
    ("lines", "failures"),
    [
        ([LINE], 0),
        ([LINE, LINE.replace("c0-1", "-")], 0),
        ([], 1),
        ([LINE, LINE], 1),
        ([LINE.replace("code=0", "code=100")], 2),
        ([LINE, "time=forged"], 1),
        ([LINE + "\x1b[2J"], 2),
    ],
)
def test_the_audit_log_is_held_against_the_answers(lines: list[str], failures: int) -> None:
    found = figures.Figures("a sample")
    soak.check_audit(found, lines, collections.Counter({PING: 1}))
    assert len(found.failures) == failures


@pytest.mark.parametrize(
    ("last", "failures"),
    [
        (soak.Rest(104, 9, 9), 0),
        (soak.Rest(90, 5, 5), 0),
        (soak.Rest(106, 9, 9), 1),
        (soak.Rest(100, 10, 9), 1),
        (soak.Rest(100, 9, 10), 1),
    ],
)
def test_growth_is_a_failure(last: soak.Rest, failures: int) -> None:
    found = figures.Figures("a sample")
    soak.compare(found, soak.Rest(100, 9, 9), last, soak.GROWTH)
    assert len(found.failures) == failures
