"""Keeps connections up that somebody holds a reference to: connects them, looks at them again and again, reconnects.

The references are one record on disk (`reference`), replaced as a whole before anything is done about them, so that
they are held again after a restart. Each target has a thread of its own, because storage that is gone may hang:
acquiring and releasing never wait for it, and neither do the others.

Crash windows. Acquire: the record is written, and then it is connected; a crash in between leaves a reference that the
next start connects. Release: the record is written, and then it is disconnected; a crash in between leaves what
connectStorageServer would have made, for disconnectStorageServer or a further acquire and release.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from storage import errors, files, periodic
from storage.domains import connections, reference

log = logging.getLogger(__name__)

_HANGING = 10.0  # seconds after which a look counts as unanswered
_LIMIT = 1000  # most references
_MODE = 0o600

Target = tuple[int, str]


@dataclasses.dataclass(frozen=True)
class State:
    """What a look has found.

    Attributes:
        connected: the storage can be used.
        code, message: of the error; 0 and empty without one.
    """

    connected: bool
    code: int = 0
    message: str = ""


_UNKNOWN = State(False)


class _Kept:
    """One target that is kept up, for as long as it has holders."""

    def __init__(self, made_of: reference.Reference, watch: periodic.Periodic[State]) -> None:
        self.made_of = made_of
        self.watch = watch
        self.holders: set[str] = set()
        self.leaving = False

    def state(self) -> State:
        if self.leaving:
            return _UNKNOWN
        since, last = self.watch.running_since, self.watch.last
        if since is not None and (hanging := time.monotonic() - since) > _HANGING:
            return State(False, errors.MountError.code, f"no answer for {hanging:.0f} s")
        return _UNKNOWN if last is None else last.result


class Keeper:
    """All references of this host.

    Args:
        record: file of the references.
        table: makes connections.
        changed: called when something was connected or disconnected.
        interval: seconds from one look to the next.
    """

    def __init__(
        self, record: Path, table: connections.Connections, changed: Callable[[], None], interval: float
    ) -> None:
        self._record = record
        self._table = table
        self._changed = changed
        self._interval = interval
        self._guard = threading.Lock()
        self._kept: dict[Target, _Kept] = {}
        self._damage = ""
        self._references: dict[str, reference.Reference] = {}
        self._read()

    def start(self) -> None:
        """Take up the references of the record."""
        with self._guard:
            for name, made_of in self._references.items():
                self._hold(name, made_of)

    def close(self, seconds: float = 5.0) -> None:
        """Look at nothing any more. What is connected stays so.

        Args:
            seconds: most time to wait for looks under way; what hangs is left behind.
        """
        with self._guard:
            watches = [each.watch for each in self._kept.values()]
            self._kept.clear()
        for watch in watches:
            watch.stop()
        deadline = time.monotonic() + seconds
        for watch in watches:
            watch.join(deadline - time.monotonic())

    def acquire(self, wanted: Mapping[str, Any]) -> dict[str, errors.StorageError | None]:
        """Hold references from now on, each by itself: what is wrong with one keeps no other from being held.

        Args:
            wanted: id -> struct of ``type`` and ``params``.

        Returns:
            What is wrong with each, or None: it is held, and will be connected as soon as that can be.

        Raises:
            StorageServerActionError: the record cannot be used, or not be written.
            OSError: the record cannot be written; nothing is held then.
        """
        found: dict[str, errors.StorageError | None] = {}
        with self._guard:
            self._check_record()
            held = dict(self._references)
            for name, entry in wanted.items():
                try:
                    held[name] = self._acquired(name, entry, len(held))
                    found[name] = None
                except errors.StorageError as error:
                    found[name] = error
            new = [name for name, error in found.items() if error is None]
            if new:
                self._write(held)
            for name in new:
                self._hold(name, held[name])
        return found

    def release(self, names: Iterable[str]) -> dict[str, errors.StorageError | None]:
        """Hold references no more; who was the last on a target has it disconnected.

        Returns, Raises: as `acquire`.
        """
        found: dict[str, errors.StorageError | None] = {}
        with self._guard:
            self._check_record()
            held = dict(self._references)
            gone = {name: held.pop(name) for name in dict.fromkeys(names) if self._is_held(name, found)}
            if gone:
                self._write(held)
            for name, made_of in gone.items():
                self._let_go(name, made_of)
        return found

    def states(self) -> dict[str, tuple[reference.Reference, State]]:
        """Every reference, and what the last look at its target has found. Does not wait for one.

        Raises:
            StorageServerActionError: the record cannot be used, or not be written.
        """
        with self._guard:
            self._check_record()
            found = {}
            for name, made_of in self._references.items():
                kept = self._kept.get(made_of.target)
                found[name] = (made_of, _UNKNOWN if kept is None else kept.state())
            return found

    def _acquired(self, name: str, entry: Any, count: int) -> reference.Reference:
        if name in self._references:
            raise errors.StorageServerConnectionRefIdAlreadyInUse(reference=repr(name))
        if count >= _LIMIT:
            raise errors.StorageServerValidationError(reason=f"there are {_LIMIT} references already")
        return reference.parse(entry)

    def _is_held(self, name: str, found: dict[str, errors.StorageError | None]) -> bool:
        held = name in self._references
        found[name] = None if held else errors.StorageServerConnectionRefIdDoesNotExist(reference=repr(name))
        return held

    def _hold(self, name: str, made_of: reference.Reference) -> None:
        kept = self._kept.get(made_of.target)
        if kept is None:
            kept = self._kept[made_of.target] = _Kept(made_of, self._watch(made_of))
            kept.watch.start()
        # One that is being left is taken up again when that is over.
        kept.holders.add(name)

    def _let_go(self, name: str, made_of: reference.Reference) -> None:
        kept = self._kept.get(made_of.target)
        if kept is None:
            return
        kept.holders.discard(name)
        if not kept.holders and not kept.leaving:
            kept.leaving = True
            title = f"leave {made_of.type}"
            threading.Thread(target=self._leave, args=(kept,), name=title, daemon=True).start()

    def _leave(self, kept: _Kept) -> None:
        """Disconnect, unless somebody has come meanwhile; in a thread of its own."""
        kept.watch.stop()
        kept.watch.join(_HANGING)  # when it hangs, unmounting may be what ends that
        with self._guard:
            wanted = bool(kept.holders)
        if not wanted:
            self._disconnect(kept.made_of)
        with self._guard:
            kept.leaving = False
            if self._kept.get(kept.made_of.target) is not kept:  # closed meanwhile
                return
            if kept.holders:
                kept.watch = self._watch(kept.made_of)
                kept.watch.start()
            else:
                del self._kept[kept.made_of.target]

    def _watch(self, made_of: reference.Reference) -> periodic.Periodic[State]:
        return periodic.Periodic(f"keep {made_of.type}", lambda: self._look(made_of), self._interval)

    def _look(self, made_of: reference.Reference) -> State:
        try:
            connection = self._table.of(made_of.server_type, made_of.words)
            if not connection.is_connected():
                connection.connect()
                log.info("connected: %s", made_of.words["connection"])
                self._changed()
        except errors.StorageError as error:
            return State(False, error.code, str(error))
        except OSError as error:
            return State(False, errors.GeneralException.code, error.strerror or str(error))
        return State(True)

    def _disconnect(self, made_of: reference.Reference) -> None:
        try:
            self._table.of(made_of.server_type, made_of.words).disconnect()
            log.info("disconnected: %s", made_of.words["connection"])
        except (errors.StorageError, OSError) as error:
            log.warning("not disconnected: %s", error)
        finally:
            self._changed()

    def _read(self) -> None:
        try:
            self._references = reference.load(files.read(self._record, reference.RECORD_LIMIT))
        except FileNotFoundError:
            return
        except (OSError, ValueError, errors.StorageError) as error:
            self._damage = f"{self._record} cannot be used, and must be repaired or removed: {error}"
            log.error("%s", self._damage)

    def _write(self, held: dict[str, reference.Reference]) -> None:
        try:
            files.replace(self._record, reference.dump(held), _MODE)
        except OSError as error:
            reason = f"{self._record} cannot be written: {error.strerror or error}"
            raise errors.StorageServerActionError(reason=reason) from error
        self._references = held

    def _check_record(self) -> None:
        if self._damage:
            raise errors.StorageServerActionError(reason=self._damage)
