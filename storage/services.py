"""The parts of the storage floor, put together once. Verbs get them as one object."""

import dataclasses
import functools
import logging
import stat

from storage import control, files, layout, locks, settings
from storage.domains import connections, domain, keeper, monitor, mounter
from storage.jobs import recovery, taskmanager
from storage.pools import inuse, pool, spm
from storage.volumes import rollback

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Services:
    """What verbs work with.

    Attributes:
        settings: as configured.
        repository: paths.
        locks: locks by name, of this process.
        connections: storage servers.
        domains: finds storage domains.
        pools: connected pools.
        tasks: background work.
        monitor: the watch over domains; looks when asked until its ``start``.
        keeper: keeps connections up; takes up those of an earlier process at its ``start``.
        control: of the process.
    """

    settings: settings.Settings
    repository: layout.Repository
    locks: locks.LockTable
    connections: connections.Connections
    domains: domain.Finder
    pools: pool.Registry
    tasks: taskmanager.Manager
    monitor: monitor.Monitor
    keeper: keeper.Keeper
    control: control.Control

    def close(self, seconds: float = 30.0) -> None:
        """Begin no more tasks, wait for those at work, and give up the role of SPM where nothing runs any more.

        Where a task does not come to its end in time the cluster lock is kept until the process is gone, and the task
        is rolled back by the next SPM.

        Args:
            seconds: most time to wait for tasks.
        """
        if left := self.tasks.shutdown(seconds):
            log.warning("tasks still at work at the end: %s", ", ".join(left))
        for each in self.pools.all():
            spm.abandon(each, self.tasks)
        self.monitor.close()
        self.keeper.close()


def _sweep(repository: layout.Repository) -> None:
    """Remove temporaries of an earlier process: the repository belongs to one process at a time."""
    places = [repository.root, repository.mnt, *(repository.mnt / name for name in layout.CONTAINERS)]
    if files.file_type(repository.run) == stat.S_IFDIR:
        places += [repository.run / name for name in files.names(repository.run)]
    for place in places:
        if files.file_type(place) == stat.S_IFDIR:
            files.sweep_temporaries(place)


def build(wanted: settings.Settings) -> Services:
    """Put the storage floor together.

    Raises:
        OSError: the repository cannot be made; its parent directory must exist.
    """
    repository = layout.Repository(wanted.repository)
    files.make_directory(repository.root)
    files.make_directory(repository.mnt)
    _sweep(repository)
    table = recovery.Table(rollback.ACTIONS)
    lock_table = locks.LockTable(wanted.lock_timeout)
    domains = domain.Finder(repository, local_posixfs=wanted.local_posixfs)
    pools = pool.Registry(repository, domains)
    connected = connections.Connections(repository, mounter.Mounter(wanted.mount_timeout))
    built = Services(
        settings=wanted,
        repository=repository,
        locks=lock_table,
        connections=connected,
        domains=domains,
        pools=pools,
        tasks=taskmanager.Manager(table, lock_table, workers=wanted.workers, limit=wanted.max_tasks),
        monitor=monitor.Monitor(
            functools.partial(monitor.DomainLook, domains),
            inuse.InUse(pools),
            interval=wanted.sd_health_check,
            limit=wanted.sd_health_timeout,
        ),
        keeper=keeper.Keeper(repository.references, connected, domains.forget, wanted.reconnect_interval),
        control=control.Control(),
    )
    table.context = built
    return built
