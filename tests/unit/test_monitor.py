"""The watch over domains: what is known when all is well, and that storage which hangs holds up nobody else."""

import threading
import types

import pytest

from storage import errors, ids
from storage.domains import monitor
from storage.pools import inuse
from tests.support import world

LONG = 20.0
LIMIT = 3.0
A, B, C = (ids.DomainId(f"{n:08x}-0000-4000-8000-000000000000") for n in (10, 11, 12))


class Storage:
    """Domains that answer, fail or hang as a test wants.

    Attributes:
        used: domains in use.
        answers: what a look finds, by domain.
        looks: how many there were, by domain.
        now: the clock.
    """

    def __init__(self) -> None:
        self.used: set[ids.DomainId] = set()
        self.answers: dict[ids.DomainId, monitor.Found] = {}
        self.looks: dict[ids.DomainId, int] = {}
        self.now = 1000.0
        self.took = 0.0
        self._gates: dict[object, threading.Event] = {}

    def hang(self, what: object) -> None:
        self._gates[what] = threading.Event()

    def go_on(self, *what: object) -> None:
        for each in what or list(self._gates):
            self._gates.pop(each).set()

    def in_use(self) -> set[ids.DomainId]:
        self._pass("in use")
        return set(self.used)

    def look_at(self, domain_id: ids.DomainId) -> monitor.Look:
        def look() -> monitor.Found:
            self.looks[domain_id] = self.looks.get(domain_id, 0) + 1
            self.now += self.took
            self._pass(domain_id)
            return self.answers.get(domain_id, monitor.Found(3, 100, 50))

        return look

    def _pass(self, what: object) -> None:
        if gate := self._gates.get(what):
            gate.wait(LONG)


@pytest.fixture
def storage():
    made = Storage()
    yield made
    made.go_on()


@pytest.fixture
def watch(storage):
    made = monitor.Monitor(storage.look_at, storage.in_use, interval=LONG, limit=LIMIT, clock=lambda: storage.now)
    made.start()
    yield made
    storage.go_on()
    made.close(LONG)


def threads() -> int:
    """Threads of watches."""
    return sum(each.name.startswith("monitor") for each in threading.enumerate())


def hanging(storage, watch, domain_id) -> None:
    """Storage hangs, and a look at the domain with it, for longer than it may."""
    storage.hang(domain_id)
    storage.used.add(domain_id)
    watch.refresh()
    world.until(lambda: storage.looks.get(domain_id, 0) > 0)
    storage.now += LIMIT + 1


def test_what_is_in_use_is_watched(storage, watch):
    assert watch.health() == {}
    storage.used = {A, B}
    storage.answers[B] = monitor.Found(code=379, reason="gone")
    found = watch.health()
    assert list(found) == [A, B]
    assert found[A] == monitor.Health(monitor.Found(3, 100, 50), 0.0, 0.0, actual=True) and found[A].valid
    assert not found[B].valid and found[B].found.code == 379
    storage.used = {B}
    assert list(watch.health()) == [B]


def test_looks_are_remembered_and_dated(storage, watch):
    storage.used = {A}
    storage.took = 0.25
    watch.health()
    storage.now += 4
    for _ in range(5):
        found = watch.health()[A]
    assert storage.looks == {A: 1}
    assert (found.age, found.delay, found.actual) == (4, 0.25, True)
    assert watch.of(A) == found


def test_a_domain_that_was_not_looked_at_yet_is_not_actual(storage, watch):
    storage.hang(A)
    storage.used = {A}
    found = watch.health(wait=False)[A]
    assert (found.actual, found.valid, found.found.version) == (False, True, -1)
    storage.go_on(A)
    assert watch.health()[A].actual


def test_a_look_that_hangs_makes_the_domain_invalid_and_holds_up_no_other(storage, watch):
    storage.used = {A}
    assert watch.health()[A].valid
    hanging(storage, watch, B)
    found = watch.health()
    assert found[A].valid and not found[B].valid
    assert (found[B].found.code, found[B].delay, found[B].age) == (379, LIMIT + 1, LIMIT + 1)
    assert "no answer within 3 s" in found[B].found.reason
    storage.now += 30
    assert watch.of(B).delay == LIMIT + 31, "it grows"
    storage.used.add(C)
    assert watch.health()[C].valid, "another is taken into the watch meanwhile"
    assert storage.looks[B] == 1, "nothing piles up"
    storage.go_on(B)
    world.until(lambda: watch.of(B).valid)
    assert watch.of(B).delay == LIMIT + 31


def test_a_hanging_look_survives_being_unwatched_and_watched(storage, watch):
    hanging(storage, watch, A)
    before = threads()
    for _ in range(5):
        storage.used = set()
        assert watch.health() == {}
        storage.used = {A}
        assert not watch.health()[A].valid
    assert storage.looks == {A: 1} and threads() == before
    storage.go_on(A)
    world.until(lambda: watch.of(A).valid)


def test_a_watch_that_ends_while_its_look_hangs_leaves_nothing_behind(storage, watch):
    hanging(storage, watch, A)
    storage.used = set()
    assert watch.health() == {}
    before = threads()
    storage.go_on(A)
    world.until(lambda: threads() == before - 1)
    storage.used = {A}
    assert watch.health()[A].valid and storage.looks == {A: 2}


def test_a_map_that_cannot_be_read_keeps_the_watch_as_it_is(storage, watch):
    storage.used = {A}
    watch.health()
    storage.hang("in use")
    asked = threading.Thread(target=watch.refresh)
    asked.start()
    world.until(lambda: watch._keeper.running_since is not None)
    storage.now += LIMIT + 1
    assert list(watch.health()) == [A] and watch.health()[A].valid
    storage.go_on("in use")
    asked.join(LONG)
    assert not asked.is_alive()


def test_a_domain_is_watched_by_name(storage, watch):
    watch.watch(A)
    watch.watch(A)
    assert list(watch.health()) == [A] and storage.looks == {A: 1}
    watch.unwatch(A)
    watch.unwatch(A)
    assert watch.health() == {}
    storage.used = {A}
    watch.watch(A)
    watch.health()
    watch.unwatch(A)
    assert list(watch.health()) == [A], "it is in use"


def test_there_is_a_limit_to_what_is_watched_by_name(storage, watch, monkeypatch):
    monkeypatch.setattr(monitor, "MAX_WATCHED", 2)
    watch.watch(A)
    watch.watch(B)
    watch.watch(B)
    with pytest.raises(errors.GeneralException):
        watch.watch(C)
    storage.used = {C}
    assert list(watch.health()) == [A, B, C], "what is in use is always watched"


def test_without_a_start_each_question_is_a_look(storage):
    watch = monitor.Monitor(storage.look_at, storage.in_use, clock=lambda: storage.now)
    storage.used = {A}
    storage.took = 0.5
    watch.watch(B)
    watch.refresh()
    found = watch.health()
    assert list(found) == [A, B] and found[A].delay == 0.5 and found[A].age == 0
    watch.health()
    assert storage.looks == {A: 2, B: 2}
    watch.unwatch(B)
    assert list(watch.health()) == [A]
    watch.close()


def test_the_end_waits_for_looks_but_not_for_ever(storage):
    watch = monitor.Monitor(storage.look_at, storage.in_use, limit=LIMIT, clock=lambda: storage.now)
    watch.start()
    storage.used = {A}
    watch.health()
    hanging(storage, watch, B)
    before = threads()
    watch.close(0.01)
    world.until(lambda: threads() <= before - 2)
    watch.start()
    watch.watch(C)
    assert C not in storage.looks, "closed is closed"
    storage.go_on(B)
    world.until(lambda: threads() <= before - 3)


# ---------------------------------------------------------------- a look at a real domain


@pytest.fixture
def here(tmp_path):
    return world.World(tmp_path / "world")


def test_a_look_finds_version_and_space(here):
    made = here.domain(version=4)
    found = monitor.DomainLook(here.services.domains, made.id)()
    assert (found.code, found.version) == (0, 4)
    assert found.total >= found.free > 0


def test_a_look_searches_no_other_storage_once_it_knows_the_place(here, monkeypatch):
    made = here.domain()
    look = monitor.DomainLook(here.services.domains, made.id)
    assert look().code == 0

    def hangs(_):
        raise AssertionError("another mount is looked at")

    monkeypatch.setattr(here.services.domains, "find", hangs)
    here.services.domains.forget()
    assert look().code == 0


def test_a_look_finds_a_domain_that_has_moved(here):
    made = here.domain()
    look = monitor.DomainLook(here.services.domains, made.id)
    assert look().code == 0
    place = made.mount.resolve()
    other = here.root / "elsewhere"
    other.mkdir()
    (place / made.id).rename(other / made.id)
    assert look().code == 358
    here.connect_storage(other)
    assert look().code == 0


@pytest.mark.parametrize(("data", "code"), [(b"", 379), (b"VERSION=4\n_SHA_CKSUM=x\n", 752), (None, 358)])
def test_a_look_tells_what_is_wrong(here, data, code):
    made = here.domain()
    look = monitor.DomainLook(here.services.domains, made.id)
    assert look().code == 0
    made.metadata_path.unlink() if data is None else made.metadata_path.write_bytes(data)
    found = look()
    assert (found.code, found.version, found.total) == (code, -1, None) and found.reason


def test_a_bug_is_news_about_the_domain(caplog):
    def find(_):
        raise ZeroDivisionError("a bug")

    found = monitor.DomainLook(types.SimpleNamespace(find=find), A)()
    assert found.code == 200
    assert "ZeroDivisionError" in caplog.text


# ---------------------------------------------------------------- pools


def test_active_domains_of_connected_pools_are_in_use(here):
    master, other = here.domain(), here.domain()
    used = inuse.InUse(here.services.pools)
    here.pool(master, other, connected=False)
    assert set(used()) == set()
    here.connect(master)
    assert set(used()) == {master.id}, "the other is only Attached"
    here.connect(master, domains={master.id: "Active", other.id: "Active"})
    assert set(used()) == {master.id, other.id}
    record = master.metadata_path.read_bytes()
    master.metadata_path.write_bytes(b"")
    assert set(used()) == {master.id, other.id}, "what was known holds"
    master.metadata_path.write_bytes(record)
    here.services.pools.disconnect(here.services.pools.get(world.POOL))
    assert set(used()) == set()
