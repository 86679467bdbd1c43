"""Becoming the SPM of a pool, and ceasing to be.

Start, in this order: cluster lock; look again at the master; record host id and lock version; take the role of master
from other domains; raise the master to the wanted version; directories of the master; load the tasks that an earlier
SPM left; role; roll those tasks back. Crash windows:

* before the record: nothing has changed; the lock ends with the process;
* after it: the pool names an SPM that is gone. The next start only counts the version up; nobody trusts the number
  without the lock;
* a master that is half-way to another version can be read as it is, and the next start goes on with it;
* tasks are rolled back from their records, which stay until they are cleared.

Stop, in this order: take no more tasks, record that nobody is SPM, release the lock. The lock goes last: until then no
other host can act on what this one has not finished.
"""

import logging
from collections.abc import Callable

from storage import errors, files, ids, layout
from storage.domains import domain, domain_metadata
from storage.jobs import taskmanager
from storage.pools import membership, pool, poolmaker

log = logging.getLogger(__name__)

Role = pool.Role


def start(
    which: pool.Pool,
    manager: taskmanager.Manager,
    *,
    domain_version: int | None,
    check: Callable[[], None],
    convert: membership.Convert | None = None,
) -> None:
    """Make this host the SPM. The caller holds the pool's lock exclusively.

    Args:
        domain_version: version that the master should have; None: as it is.
        convert: raises the master to it.
        check: called before the point of no return; what it raises ends the start.

    Raises:
        IsSpm: it is already, or is about to be.
        AcquireLockFailure, AcquireHostIdFailure: the cluster lock is not to be had.
        StoragePoolWrongMaster, StorageDomainMasterError: the master is not what it was.
        CurrentVersionTooAdvancedError: the master has a higher version than wanted.
        UnsupportedDomainVersion: it cannot be raised to that one.
        SpmStartError: the master's directories or the stored tasks cannot be used.
        AddTaskError, ResourceTimeout: a task left by an earlier SPM cannot be taken over.
    """
    if which.role is not Role.FREE:
        raise errors.IsSpm(pool=which.id, role=which.role)
    lock = which.master.cluster_lock
    lock.acquire(which.host_id)
    which.role = Role.CONTEND
    try:
        loaded = _take_over(which, manager, domain_version, check, convert)
    except BaseException:
        which.role = Role.FREE
        lock.release()
        raise
    which.role = Role.SPM
    manager.recover(loaded)


def _take_over(
    which: pool.Pool,
    manager: taskmanager.Manager,
    domain_version: int | None,
    check: Callable[[], None],
    convert: membership.Convert | None,
) -> list[ids.TaskId]:
    which.check_master()
    which.backend.set_spm(which.host_id, which.state().lver + 1)
    loaded: list[ids.TaskId] = []
    try:
        which.demote_others()
        _raise_version(which.master, domain_version, convert)
        loaded = _load(which, manager)
        check()
    except BaseException:
        manager.unload(loaded)
        manager.close(which.task_store)
        _record_nobody(which)
        raise
    return loaded


def _raise_version(master: domain.Domain, wanted: int | None, convert: membership.Convert | None) -> None:
    current = master.version
    if wanted is None or wanted == current:
        return
    if wanted < current:
        raise errors.CurrentVersionTooAdvancedError(domain=master.id, current=current, wanted=wanted)
    if convert is None:
        raise errors.UnsupportedDomainVersion(version=wanted)
    convert(master, wanted)


def _load(which: pool.Pool, manager: taskmanager.Manager) -> list[ids.TaskId]:
    tasks = layout.master_tasks(which.master.path)
    try:
        for directory in (tasks.parent, tasks, layout.master_vms(which.master.path)):
            files.make_directory(directory, 0o755)
        return manager.load(which.task_store)
    except OSError as error:
        raise errors.SpmStartError(reason=f"the master's own directories: {error}") from error


def stop(which: pool.Pool, manager: taskmanager.Manager) -> None:
    """Cease to be the SPM. The caller holds the pool's lock exclusively.

    Raises:
        SpmStatusError: this host is not the SPM.
        TaskInProgress: a task is at work; nothing has changed.
        SpmStopError: the role is given up, but the pool's record still names this host.
    """
    _begin_stop(which, manager)
    recorded = _record_nobody(which)
    _end_stop(which)
    if not recorded:
        raise errors.SpmStopError(reason=f"the role is given up, but pool {which.id} still names this host as its SPM")


def fence(which: pool.Pool, manager: taskmanager.Manager) -> None:
    """Make the record say that nobody is SPM and nobody ever was. The caller holds the pool's lock exclusively, and
    those of its domains where this host is the SPM, which it is not afterwards.

    Written under the cluster lock: an SPM that is alive, in this process or another, keeps it and is not written over.
    With a map in memory nothing is recorded that could be taken back.

    Raises:
        SpmFenceError: a live process is the SPM, a task is at work here, or the record cannot be written.
    """
    if which.in_memory:
        return
    try:
        if which.role is Role.SPM:
            stop(which, manager)
        with which.master.cluster_lock.hold(which.host_id):
            which.backend.set_spm(domain_metadata.NOBODY, domain_metadata.NOBODY)
    except errors.StorageError as error:
        raise errors.SpmFenceError(reason=str(error)) from error


def destroy(which: pool.Pool, manager: taskmanager.Manager, domains: domain.Finder) -> None:
    """Take the pool apart, and cease to be its SPM. The caller holds the locks on the pool and all domains exclusively.

    Raises:
        SpmStatusError, TaskInProgress: as in `stop`; nothing has changed.
        StorageError: the master could not be changed. This host still is the SPM, and the call can be repeated.
    """
    _begin_stop(which, manager)
    try:
        poolmaker.dissolve(which, domains)
    except BaseException:
        manager.open(which.task_store)
        which.role = Role.SPM
        raise
    _end_stop(which)


def _begin_stop(which: pool.Pool, manager: taskmanager.Manager) -> None:
    """Take no more verbs and tasks; the cluster lock is still held."""
    if which.role is not Role.SPM:
        raise errors.SpmStatusError(pool=which.id)
    which.upgrades.cancel()
    which.role = Role.CONTEND
    if busy := manager.close(which.task_store):
        which.role = Role.SPM
        raise errors.TaskInProgress(pool=which.id, task=busy)


def _end_stop(which: pool.Pool) -> None:
    """Release the cluster lock: from here on another host may be the SPM."""
    which.master.cluster_lock.release()
    which.role = Role.FREE


def abandon(which: pool.Pool, manager: taskmanager.Manager) -> None:
    """`stop` at the end of the process: no verb runs any more, and what goes wrong is only logged."""
    if which.role is Role.SPM:
        try:
            stop(which, manager)
        except errors.StorageError as error:
            log.warning("pool %s: %s", which.id, error)


def _record_nobody(which: pool.Pool) -> bool:
    try:
        which.backend.set_spm(domain_metadata.NOBODY)
    except errors.StorageError as error:
        log.error("pool %s: that nobody is SPM is not recorded: %s", which.id, error)
        return False
    return True
