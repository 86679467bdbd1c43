"""A data centre: what the engine keeps in its database, and what it calls, in its order, on which host.

Only pauses are shorter than the engine's: it asks for a task's status every second, for all tasks every ten.
"""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.engine import host as hosts, link, reactions, reading
from tests.support.engine.reactions import Reaction

BLANK = reading.BLANK
LOCALFS, DATA_CLASS = 4, 1
FAILOVER_TRIES = 3
PATIENCE = 50.0
_PAUSE = 0.01


class Centre:
    """A data centre with one pool.

    Attributes:
        hosts: by number.
        id, master, version: of the pool.
        domains: their state, "active" or "attached".
        places: directory of each domain.
        spm: the host that is the SPM, as far as is known.
        tasks: tasks that are not over, by id: what ended them is in `ended`.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.hosts = [hosts.Host(number, link.Link(address)) for number, address in enumerate(addresses, 1)]
        self.id = str(uuid.uuid4())
        self.master, self.version, self.format = BLANK, 1, "3"
        self.domains: dict[str, str] = {}
        self.places: dict[str, Path] = {}
        self.spm: hosts.Host | None = None
        self.fenced: int | None = None
        self.tasks: dict[str, str] = {}
        self.ended: dict[str, reading.Task | None] = {}

    def close(self) -> None:
        for host in self.hosts:
            host.link.close()

    @property
    def up(self) -> list[hosts.Host]:
        """Hosts that may be used."""
        return [host for host in self.hosts if host.up]

    # ---------------------------------------------------------------- storage and hosts

    def connect_storage(self, host: hosts.Host, domain: str, pool: str | None = None) -> None:
        """connectStorageServer with one connection, all of whose values are texts."""
        empty = dict.fromkeys(("port", "iqn", "user", "password"), "")
        connection = {"id": str(uuid.uuid4()), "connection": str(self.places[domain]), **empty}
        answer = host.call("connectStorageServer", LOCALFS, self.id if pool is None else pool, [connection])
        assert reading.connections(answer) == {connection["id"]: 0}

    def make_domain(self, host: hosts.Host, place: Path, name: str) -> str:
        """A new domain that belongs to no pool yet; its id."""
        domain = str(uuid.uuid4())
        self.places[domain] = place
        self.connect_storage(host, domain, BLANK)
        host.call("createStorageDomain", LOCALFS, domain, name, str(place), DATA_CLASS, self.format)
        space = reading.stats(host.call("getStorageDomainStats", domain))
        assert space.free is not None and space.total is not None and 0 < space.free <= space.total
        return domain

    def make_pool(self, domain: str) -> None:
        """The pool, on the first host on which that works."""
        for host in self.up:
            self.connect_storage(host, domain)
            values = (0, self.id, "a pool", domain, [domain], 1, "ON", 5, 60, 10, 3)
            if not (code := host.code("createStoragePool", *values)):
                break
            assert code == 379, "only this code makes the engine try another host"
        # In the map a domain is attached only while it is in maintenance: one that is locked for a change is active.
        self.master, self.domains = domain, {domain: "active"}

    def connect_pool(self, host: hosts.Host) -> int:
        """connectStoragePool with the map, which is also how a host is told of a change; the code."""
        values = (self.id, host.number, self.id, self.master, self.version, dict(self.domains))
        return host.code("connectStoragePool", *values)

    def refresh(self) -> None:
        """Tell every host of the map."""
        for host in self.up:
            assert self.connect_pool(host) == 0

    def activate(self, domain: str) -> None:
        """A domain of the pool becomes active, and every host learns of it."""
        for host in self.up:
            self.connect_storage(host, domain)
        self.spm_call("activateStorageDomain", domain, self.id)
        self.domains[domain] = "active"
        self.refresh()

    def bring_up(self, host: hosts.Host) -> None:
        """A host comes up: its storage, the pool, and a look at what it sees."""
        for domain in self.domains:
            self.connect_storage(host, domain)
        assert self.connect_pool(host) == 0
        active = {domain for domain, state in self.domains.items() if state == "active"}
        end = time.monotonic() + PATIENCE
        while (seen := reading.domain_problems(host.call("getVdsStats"))) != dict.fromkeys(active, ""):
            assert time.monotonic() < end, f"domains have problems: {seen}"
            time.sleep(_PAUSE)
        host.up = True

    # ---------------------------------------------------------------- the SPM

    def elect(self, avoid: hosts.Host | None = None) -> hosts.Host:
        """Find the SPM, or make one.

        Args:
            avoid: a host to take last.
        """
        for host in sorted(self.up, key=lambda each: each is avoid):
            status = self._spm_status(host)
            if status is None:
                continue
            if status.state == "SPM":
                return self._found(host)
            other = next((each for each in self.up if each.number == status.host and each is not host), None)
            if other is not None and (there := self._spm_status(other)) is not None and there.state == "SPM":
                return self._found(other)
            return self._start(host, status)
        raise AssertionError("no host can be the SPM")

    def _spm_status(self, host: hosts.Host) -> reading.Spm | None:
        """None: the host does not know the pool, not even when it is told of it again."""
        for _ in range(2):
            code = self.connect_pool(host)
            if code in (304, 307, 324):
                self._reconstruct(host)
                code = self.connect_pool(host)
            answer = host.link.call("getSpmStatus", self.id)
            status = reading.status(answer)
            if status.code == 0 and code == 0:
                return reading.spm(answer)
            assert status.code in (0, 309), status
        return None

    def _reconstruct(self, host: hosts.Host) -> None:
        """The master cannot be what the database says: make it anew from what there is."""
        self.version += 1
        values = (self.id, "a pool", self.master, dict(self.domains), self.version, "ON", 5, 60, 10, 3, host.number)
        host.call("reconstructMaster", *values)

    def _start(self, host: hosts.Host, status: reading.Spm) -> hosts.Host:
        prev_id = status.host if self.fenced is None else self.fenced
        values = (self.id, prev_id, status.version, 0, "false", 250, self.format)
        task = reading.one_id(host.call("spmStart", *values))
        end = time.monotonic() + PATIENCE
        while (found := reading.task(host.call("getTaskStatus", task))).state not in ("finished", "unknown"):
            assert time.monotonic() < end, found
            time.sleep(_PAUSE)
        became = reading.spm(host.call("getSpmStatus", self.id))
        host.call("clearTask", task)
        assert found.succeeded and (became.state, became.host) == ("SPM", host.number), (found, became)
        self.fenced = None
        return self._found(host)

    def _found(self, host: hosts.Host) -> hosts.Host:
        """Take a host for the SPM, and the tasks it tells of for ours; ours that it does not tell of have failed."""
        self.spm = host
        told = reading.task_verbs(host.call("getAllTasksInfo"))
        self.tasks |= told
        for task in set(self.tasks) - set(told):
            del self.tasks[task]
            self.ended[task] = None
        return host

    def stop_spm(self) -> bool:
        """spmStop, unless a task is there; whether that worked."""
        assert self.spm is not None
        answer = self.spm.link.call("getAllTasksStatuses")
        if reading.status(answer).code == 654:
            self.spm = None
            return True
        if reading.tasks(answer):
            return False
        code = self.spm.code("spmStop", self.id)
        assert code in (0, 309, 654), code
        self.spm = None
        return True

    def spm_call(self, verb: str, *values: Any, failover: bool = True) -> dict[str, Any]:
        """A verb of the SPM, with what the engine does about a bad code.

        Args:
            failover: False for verbs whose failure never moves the SPM.

        Raises:
            CommandFailed: it has failed for good.
        """
        moved_from = None
        for number in range(FAILOVER_TRIES):
            host = self.spm or self.elect(moved_from)
            answer = host.link.call(verb, *values)
            status = reading.status(answer)
            reaction = reactions.of(status.code)
            if reaction is Reaction.DONE:
                return answer
            if reaction is Reaction.SPM_LOST:
                self.spm = None
                continue
            last = number + 1 == FAILOVER_TRIES or len(self.up) == 1
            if reaction is not Reaction.FAILOVER or not failover or last or not self.stop_spm():
                raise hosts.CommandFailed(verb, status, reaction)
            moved_from = host
        raise hosts.CommandFailed(verb, status, reaction)

    def keep_alive(self) -> reading.Pool:
        """What is asked of the SPM every ten seconds, and what would go wrong with a bad answer."""
        assert self.spm is not None
        status = reading.spm(self.spm.call("getSpmStatus", self.id))
        assert (status.state, status.host) == ("SPM", self.spm.number)
        found = reading.pool(self.spm.call("getStoragePoolInfo", self.id))
        assert (found.master, found.version) == (self.master, self.version), "the master would be made anew"
        assert set(found.domains) == set(self.domains), "a domain that is not told of is dropped"
        for domain, state in self.domains.items():
            space = found.domains[domain]
            assert space.state == {"active": "Active", "attached": "Inactive"}[state]
            assert state != "active" or (space.free is not None and space.total is not None)
        return found

    # ---------------------------------------------------------------- tasks

    def start_task(self, verb: str, *values: Any) -> str:
        """A verb that makes a task; its id, which is in the database from now on."""
        task = reading.one_id(self.spm_call(verb, *values))
        self.tasks[task] = verb
        return task

    def poll(self) -> None:
        """One look at all tasks: those that are over are cleared, those that the host does not know have failed."""
        assert self.spm is not None
        told = reading.tasks(self.spm.call("getAllTasksStatuses"))
        for task in list(self.tasks):
            found = told.get(task)
            if found is not None and found.state != "finished":
                continue
            del self.tasks[task]
            self.ended[task] = found
            if found is not None:
                assert self.spm.code("clearTask", task) in (0, 401)

    def wait(self, task: str) -> reading.Task:
        """Look until a task has ended, and give its end.

        Raises:
            AssertionError: it vanished before it was cleared.
        """
        end = time.monotonic() + PATIENCE
        while task not in self.ended:
            assert time.monotonic() < end, f"{task} does not end"
            self.poll()
            time.sleep(_PAUSE)
        found = self.ended[task]
        assert found is not None, f"task {task} is gone, so its command has failed"
        return found

    def run(self, verb: str, *values: Any) -> None:
        """A verb that makes a task, to its success."""
        found = self.wait(self.start_task(verb, *values))
        assert found.succeeded, f"{verb}: {found}"
