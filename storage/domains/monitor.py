"""How the domains in use are: each is looked at over and over, by a thread of its own.

One look reads the domain's record and the space of its file system, and nothing else: no search through other storage
once the domain's place is known, no table of mounts. Storage that hangs holds up its own thread only; whoever asks is
told within a time limit, from what is known: a look that takes longer than the limit makes the domain invalid, and the
delay grows until it ends. No second look at a domain begins while one hangs, also not when the domain is taken out of
the watch and put back.

Watched are the domains that are in use (told by a function that may hang as well, so it has a thread, too), and those
that were asked for by name. Until `Monitor.start`, nothing runs in the background, and each look is made when somebody
asks.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable

from storage import errors, ids, periodic
from storage.domains import domain, domain_metadata, domainmaker

log = logging.getLogger(__name__)

MAX_WATCHED = 1000
"""Most domains that are watched at a time, those whose looks hang included: each has a thread."""

_END_TIMEOUT = 1.0  # seconds that the end of the process waits for looks under way

Wanted = Callable[[], Iterable[ids.DomainId]]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a look has found.

    Attributes:
        version: of the domain; -1 when it is not known.
        total, free: bytes of its file system; None when they are not known.
        code: 0, or that of the error.
        reason: text of the error.
        iso_directory: where the files of an ISO domain are; empty for any other.
    """

    version: int = -1
    total: int | None = None
    free: int | None = None
    code: int = 0
    reason: str = ""
    iso_directory: str = ""


@dataclasses.dataclass(frozen=True)
class Health:
    """How a domain is, as far as is known now.

    Attributes:
        found: of the last look; its code is that of a look which takes too long, while there is one.
        age: seconds since the last look ended, or since the watch began.
        delay: seconds that the last look took, or that one has been taking which takes too long.
        actual: whether there was a look at all.
    """

    found: Found
    age: float
    delay: float
    actual: bool

    @property
    def valid(self) -> bool:
        return self.found.code == 0


Look = Callable[[], Found]
LookAt = Callable[[ids.DomainId], Look]


class DomainLook:
    """Looks at one domain. Remembers where the domain is, so that other storage, which may hang, is not searched.

    Args:
        domains: finds it the first time, and when it is not where it was.
        domain_id: the domain.
    """

    def __init__(self, domains: domain.Finder, domain_id: ids.DomainId) -> None:
        self._domains = domains
        self._id = domain_id
        self._place: domain.Domain | None = None

    def __call__(self) -> Found:
        try:
            if self._place is None or not _exists(self._place):
                self._place = None
                self._place = self._domains.find(self._id)
            record = self._place.metadata()
            version, is_iso = record.version, record.domain_class == domain_metadata.ISO
            iso_directory = str(self._place.image_directory(domainmaker.ISO_IMAGE)) if is_iso else ""
            total, free = self._place.space()
        except errors.StorageError as error:
            return Found(code=error.code, reason=str(error))
        except Exception as error:  # whatever it was, it is news about the domain, and the next look must come
            log.exception("domain %s", self._id)
            return Found(code=errors.StorageException.code, reason=str(error))
        return Found(version, total, free, iso_directory=iso_directory)


def _exists(where: domain.Domain) -> bool:
    try:
        return where.exists()
    except OSError:
        return False  # finding it tells what is wrong


class Monitor:
    """The watch over domains.

    Args:
        look_at: makes what looks at one domain.
        in_use: the domains in use now.
        interval: seconds from one look at a domain to the next.
        limit: seconds that a look may take, and that anybody waits for one.
        clock: what looks are dated by.
    """

    def __init__(
        self,
        look_at: LookAt,
        in_use: Wanted,
        *,
        interval: float = 10.0,
        limit: float = 10.0,
        clock: periodic.Clock = time.monotonic,
    ) -> None:
        self._look_at = look_at
        self._in_use = in_use
        self._interval = interval
        self._limit = limit
        self._clock = clock
        self._guard = threading.Lock()
        self._named: set[ids.DomainId] = set()
        self._members: frozenset[ids.DomainId] = frozenset()
        self._watches: dict[ids.DomainId, _Watch] = {}
        self._leaving: dict[ids.DomainId, _Watch] = {}
        self._keeper: periodic.Periodic[frozenset[ids.DomainId]] | None = None
        self._closed = False

    def start(self) -> None:
        """Look in the background from now on."""
        with self._guard:
            if self._keeper is None and not self._closed:
                self._keeper = periodic.Periodic("monitor", self._follow, self._interval, self._clock)
                self._keeper.start()

    def close(self, seconds: float = _END_TIMEOUT) -> None:
        """End all looking. What hangs is left behind.

        Args:
            seconds: most time to wait.
        """
        with self._guard:
            self._closed = True
            keeper = self._keeper
            watches = [*self._watches.values(), *self._leaving.values()]
            self._watches.clear()
        jobs = [each.job for each in watches] + ([keeper] if keeper else [])
        for job in jobs:
            job.stop()
        deadline = time.monotonic() + seconds
        for job in jobs:
            if not job.join(deadline - time.monotonic()):
                log.warning("a look that hangs is left behind")

    # ------------------------------------------------------------ what is watched

    def watch(self, domain_id: ids.DomainId) -> None:
        """Watch a domain, whether or not it is in use, or exists; a second time changes nothing.

        Raises:
            GeneralException: too many are watched.
        """
        with self._guard:
            if domain_id not in self._named and len(self._watches) + len(self._leaving) >= MAX_WATCHED:
                raise errors.GeneralException(reason=f"{MAX_WATCHED} domains are watched already")
            self._named.add(domain_id)
            if self._keeper is not None:
                self._begin(domain_id)

    def unwatch(self, domain_id: ids.DomainId) -> None:
        """Take a `watch` back; success when there was none. A domain in use is watched on.

        Waits for the end of a look that is under way, within the limit.
        """
        with self._guard:
            self._named.discard(domain_id)
        self._drop({domain_id} - self._members)

    def refresh(self) -> None:
        """Bring the watch in line with what is in use now, before something else happens to those domains.

        Returns when that is done, or when it takes longer than the limit.
        """
        keeper = self._keeper
        if keeper is not None and not self._is_overdue(keeper) and not keeper.again(self._limit):
            log.warning("which domains are in use could not be found out within %g s", self._limit)

    def _follow(self) -> frozenset[ids.DomainId]:
        """The keeper's job."""
        members = frozenset(self._in_use())
        with self._guard:
            self._members = members
            for domain_id in members:
                self._begin(domain_id)
            gone = set(self._watches) - members - self._named
        self._drop(gone)
        return members

    def _begin(self, domain_id: ids.DomainId) -> None:
        if domain_id in self._watches or self._closed:
            return
        watch = self._leaving.pop(domain_id, None)
        if watch is None or not watch.job.revive():
            look = self._look_at(domain_id)
            job = periodic.Periodic(f"monitor-{domain_id[:8]}", look, self._interval, self._clock)
            watch = _Watch(domain_id, self._clock(), job)
            job.start()
        self._watches[domain_id] = watch

    def _drop(self, domain_ids: Iterable[ids.DomainId]) -> None:
        with self._guard:
            going = {each: watch for each in domain_ids if (watch := self._watches.pop(each, None))}
            self._leaving.update(going)
        for watch in going.values():
            watch.job.stop()
        deadline = time.monotonic() + self._limit
        for domain_id, watch in going.items():
            if not self._is_overdue(watch.job) and not watch.job.join(deadline - time.monotonic()):
                log.warning("domain %s: a look at it hangs", domain_id)
        with self._guard:
            self._leaving = {each: watch for each, watch in self._leaving.items() if watch.job.alive}

    # ------------------------------------------------------------ what is known

    def health(self, *, wait: bool = True) -> dict[ids.DomainId, Health]:
        """How all watched domains are. Takes no longer than twice the limit, whatever hangs.

        Args:
            wait: for a first look at those that nobody has looked at yet; without, they are not `Health.actual`.
        """
        if self._keeper is None:
            return {each: self._measure(each) for each in sorted(self._named.union(self._in_use()))}
        self.refresh()
        with self._guard:
            watches = dict(sorted(self._watches.items()))
        if wait:
            self._wait(watches.values())
        return {domain_id: self._health(watch) for domain_id, watch in watches.items()}

    def of(self, domain_id: ids.DomainId) -> Health:
        """How one domain is; it is measured when it is not watched."""
        with self._guard:
            watch = self._watches.get(domain_id)
        if watch is None:
            return self._measure(domain_id)
        self._wait([watch])
        return self._health(watch)

    def _wait(self, watches: "Iterable[_Watch]") -> None:
        deadline = time.monotonic() + self._limit
        for watch in watches:
            if not self._is_overdue(watch.job):
                watch.job.first(deadline - time.monotonic())

    def _health(self, watch: "_Watch") -> Health:
        now = self._clock()
        last, since = watch.job.last, watch.job.running_since
        found = last.result if last else Found()
        age = now - (last.ended if last else watch.began)
        if since is not None and now - since > self._limit:
            late = errors.StorageDomainAccessError(domain=watch.id, reason=f"no answer within {self._limit:g} s")
            return Health(Found(found.version, code=late.code, reason=str(late)), age, now - since, actual=True)
        return Health(found, age, last.ended - last.began if last else 0.0, actual=last is not None)

    def _measure(self, domain_id: ids.DomainId) -> Health:
        began = self._clock()
        found = self._look_at(domain_id)()
        return Health(found, 0.0, self._clock() - began, actual=True)

    def _is_overdue(self, job: "periodic.Periodic[Found] | periodic.Periodic[frozenset[ids.DomainId]]") -> bool:
        since = job.running_since
        return since is not None and self._clock() - since > self._limit


@dataclasses.dataclass(frozen=True)
class _Watch:
    """A domain that is watched, since when, and the job that looks at it."""

    id: ids.DomainId
    began: float
    job: "periodic.Periodic[Found]"
