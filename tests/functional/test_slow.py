"""A sample of the campaign of slow clients."""

from tests.campaigns import figures, slow


def test_slow_clients_are_cut_and_those_beyond_the_limit_are_told() -> None:
    found = slow.run(runs=1, clients=30, p99_limit=None)
    assert found.failures == []
    assert found.counts["slow clients"] == found.counts["told 503"] == 30
    assert found.counts["legal calls meanwhile"] > 0


def test_the_99th_of_100() -> None:
    assert slow.p99([float(number) for number in range(1000)]) == 990
    assert slow.p99([1.0]) == 1.0


def test_slow_legal_calls_are_a_failure() -> None:
    assert slow.P99_LIMIT == 0.1
    found = figures.Figures("a sample")
    slow.judge(found, [0.01] * 97 + [0.2] * 3, slow.P99_LIMIT, 1)
    assert found.failures and found.counts["the longest in ms"] == 200
    slow.judge(found, [0.2] * 100, None, 1)
    slow.judge(found, [0.01] * 99 + [0.1], slow.P99_LIMIT, 1)
    assert len(found.failures) == 1
