"""A job over and over in a thread: runs, waits with a limit, and never a second run while one hangs."""

import threading

import pytest

from storage import periodic
from tests.support import world

LONG = 20.0


class Job:
    """Counts its runs; hangs while `gate` is closed."""

    def __init__(self) -> None:
        self.runs = 0
        self.under_way = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> int:
        self.under_way += 1
        assert self.under_way == 1, "two runs at a time"
        self.runs += 1
        self.gate.wait(LONG)
        self.under_way -= 1
        return self.runs


@pytest.fixture
def job():
    made = Job()
    yield made
    made.gate.set()


def started(job, interval=LONG):
    made = periodic.Periodic("test", job, interval)
    made.start()
    return made


def ended(made) -> None:
    made.stop()
    assert made.join(LONG)
    assert not made.alive


def test_the_first_run_comes_at_once_and_the_next_when_asked(job):
    made = started(job)
    assert made.first(LONG)
    assert made.last.result == 1 and made.running_since is None
    assert made.again(LONG)
    assert made.last.result == 2 and made.last.ended >= made.last.began
    ended(made)


def test_runs_repeat_by_themselves(job):
    made = started(job, interval=0.001)
    world.until(lambda: job.runs > 3)
    ended(made)
    runs = job.runs
    assert not made.alive and job.runs == runs


def test_who_asks_is_not_held_up_by_a_run_that_hangs(job):
    job.gate.clear()
    made = started(job)
    world.until(lambda: made.running_since is not None)
    assert not made.first(0.01) and not made.again(0.01) and not made.again(0.01)
    assert job.runs == 1, "nothing piles up"
    job.gate.set()
    assert made.again(LONG)
    assert job.runs <= 3
    ended(made)


def test_asking_means_a_run_that_begins_from_now_on(job):
    job.gate.clear()
    made = started(job)
    world.until(lambda: job.runs == 1)
    found = []
    asking = threading.Thread(target=lambda: found.append((made.again(LONG), job.runs)))
    asking.start()
    job.gate.set()
    asking.join()
    assert found == [(True, 2)], "the run under way may have looked before the question"
    ended(made)


def test_a_hanging_run_is_left_and_taken_up_again(job):
    job.gate.clear()
    made = started(job)
    world.until(lambda: job.runs == 1)
    made.stop()
    assert not made.join(0.01) and made.alive
    assert made.revive()
    job.gate.set()
    assert made.again(LONG)
    ended(made)
    assert not made.revive(), "it has ended, and nobody would notice"


def test_a_stopped_job_lets_nobody_wait(job):
    job.gate.clear()
    made = started(job)
    world.until(lambda: job.runs == 1)
    waiting = threading.Thread(target=made.again, args=(LONG,))
    waiting.start()
    made.stop()
    waiting.join(LONG / 2)
    assert not waiting.is_alive()


def test_a_job_that_fails_is_tried_again(caplog):
    runs = []

    def job():
        runs.append(1)
        if len(runs) == 1:
            raise ZeroDivisionError
        return len(runs)

    made = started(job)
    assert made.first(LONG) and made.last is None
    assert made.again(LONG) and made.last.result == 2
    assert "ZeroDivisionError" in caplog.text
    ended(made)
