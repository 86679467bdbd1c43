"""``--wait``: follow a task to its end, tell what came of it, and clear it.

The task does not depend on who watches it. So whatever happens here (Ctrl-C, a connection that breaks, a server that is
started anew) only ends the watching, and the last words say where the task is to be found.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

from client import errors, output, progress, style
from client.session import Session

INTERRUPTED = 130

# Seconds without an answer after which the server is given up, and between two questions then.
PATIENCE = 60.0
_AGAIN = 1.0

# Seconds between two looks: a tenth of the time that the task has taken, within these limits.
_FASTEST, _SLOWEST = 0.05, 1.0

# A task that is done within this time has no progress that anybody would want to read.
_QUIET = 1.0

# The server is there, and its storage not yet.
_STARTING = 99


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the waiting takes place: a clock, a way to pass time, and a stream to tell of progress.

    Attributes:
        clock: seconds; never goes back.
        sleep: lets seconds pass.
        stream: where progress goes.
        style: what can be drawn there.
        terminal: whether a line there can be drawn over.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], object]
    stream: TextIO
    style: style.Style
    terminal: bool


def here() -> Place:
    """This process: progress goes to stderr, so that stdout stays what a script expects."""
    return Place(
        clock=time.monotonic,
        sleep=time.sleep,
        stream=sys.stderr,
        style=style.detect(sys.stderr, os.environ),
        terminal=sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb"),
    )


def follow(session: Session, group: str, task: str, place: Place | None = None) -> output.Outcome:
    """Wait for the end of a task and tell what came of it.

    Args:
        group: of the verb that made it; says which exit code a failure has.
        task: its id.
        place: where; this process if None.

    Raises:
        BadReply: the server's answers cannot be used.
    """
    watch = _Watch(session, task, place or here())
    try:
        found = watch.until_finished()
    except KeyboardInterrupt:
        return _unfinished(
            session, task, INTERRUPTED, [f"task {task} goes on; to stop it:", _hint(session, "stopTask", task)]
        )
    except _Lost as loss:
        return _unfinished(
            session,
            task,
            255,
            [f"ERROR: {loss}", "what has become of the task:", _hint(session, "getTaskStatus", task)],
        )
    finally:
        watch.screen.wipe()
    if isinstance(found, output.Outcome):
        return found
    return _ended(session, group, task, found)


class _Lost(Exception):
    """Nobody could be asked for too long."""


def _unfinished(session: Session, task: str, code: int, notes: list[str]) -> output.Outcome:
    return output.Outcome([], code, notes, usable=False)


def _hint(session: Session, verb: str, task: str) -> str:
    return f"    {output.escape(' '.join(session.invocation))} {verb} {task}"


# ---------------------------------------------------------------- waiting


class _Watch:
    """One wait."""

    def __init__(self, session: Session, task: str, place: Place) -> None:
        self._session = session
        self._task = task
        self._place = place
        self._started = place.clock()
        self._trouble: float | None = None
        self._reason = ""
        self._broken = False
        self.screen: _Screen = _Terminal(place) if place.terminal else _Lines(place)

    def until_finished(self) -> Mapping[str, Any] | output.Outcome:
        """The final status; or the outcome, when the server is there and will not tell any.

        Raises:
            _Lost: no answer for too long.
        """
        self.screen.say(f"task {self._task}")
        while True:
            reply = self._ask()
            if reply is None:
                self._place.sleep(_AGAIN)
                continue
            if failure := output.failed(reply, "storage"):
                return dataclasses.replace(failure, notes=[f"task {self._task} cannot be followed any further"])
            found = output.member(reply, "taskStatus", dict)
            status = progress.read(found)
            if status.finished:
                return found
            elapsed = self._place.clock() - self._started
            if elapsed >= _QUIET:
                self.screen.show(status, elapsed)
            self._place.sleep(min(max(elapsed / 10, _FASTEST), _SLOWEST))

    def _ask(self) -> output.Reply | None:
        """The server's answer; None: ask again.

        A server that was started anew does not know the tasks of a pool until its host becomes the SPM again, so once
        the connection was broken an unknown task counts as no answer.
        """
        try:
            reply = self._session.poll("getTaskStatus", [self._task])
        except errors.CallFailed as error:
            self._bear(str(error))
            return None
        code, message = output.status(reply)
        if code == _STARTING or (code and self._broken):
            self._bear(message)
            return None
        if self._trouble is not None:
            self.screen.say("the server answers again")
            self._trouble, self._reason = None, ""
        return reply

    def _bear(self, reason: str) -> None:
        now = self._place.clock()
        self._broken = True
        if self._trouble is None:
            self._trouble = now
        left = self._trouble + PATIENCE - now
        if left <= 0:
            raise _Lost(f"nothing was heard of task {self._task} for {PATIENCE:.0f} seconds: {output.escape(reason)}")
        if reason != self._reason:
            self._reason = reason
            self.screen.say(f"{output.escape(reason)}; asking again for {left:.0f} seconds")


# ---------------------------------------------------------------- showing


class _Screen(Protocol):
    """Shows progress."""

    def show(self, status: progress.Status, elapsed: float) -> None:
        """The task as it is now."""

    def say(self, text: str) -> None:
        """Something that stays to be read."""

    def wipe(self) -> None:
        """Leave nothing half-drawn."""


class _Terminal:
    """One line that is drawn over."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._track = progress.Track()
        self._tick = 0
        self._drawn = False

    def show(self, status: progress.Status, elapsed: float) -> None:
        self._track = self._track.add(self._place.clock(), status.amount)
        line = progress.drawn(status, self._track, elapsed, self._tick, self._place.style)
        self._tick += 1
        self._drawn = True
        self._write(f"\r{line}\033[K")

    def say(self, text: str) -> None:
        self.wipe()
        self._write(f"{text}\n")

    def wipe(self) -> None:
        if self._drawn:
            self._drawn = False
            self._write("\r\033[K")

    def _write(self, text: str) -> None:
        self._place.stream.write(text)
        self._place.stream.flush()


class _Lines:
    """A line whenever there is news."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._track = progress.Track()
        self._last: progress.Status | None = None
        self._when = 0.0

    def show(self, status: progress.Status, elapsed: float) -> None:
        now = self._place.clock()
        self._track = self._track.add(now, status.amount)
        if progress.is_news(self._last, status, now - self._when):
            self._last, self._when = status, now
            self.say(progress.told(status, self._track))

    def say(self, text: str) -> None:
        self._place.stream.write(f"{text}\n")
        self._place.stream.flush()

    def wipe(self) -> None:
        pass


# ---------------------------------------------------------------- the end


def _ended(session: Session, group: str, task: str, found: Mapping[str, Any]) -> output.Outcome:
    """What came of a finished task. It is cleared when all about it has been read."""
    status = progress.read(found)
    notes: list[str] = []
    if status.result == "success":
        code, result = 0, _result(session, task, notes)
    else:
        # A task that was stopped may have no code of its own, and is no success for that.
        code, result = status.code or 100, None
    if status.result == "cleanFailure":
        notes.append(f"task {task} failed, could not be undone, and is kept")
    elif not notes:
        _clear(session, task, notes)
    if status.result == "cleanSuccess":
        notes.append("the task did not come to its end; what it had done was undone")
    final = {"code": code, "message": str(found.get("message", ""))}
    document = {"status": final, "uuid": task, "taskStatus": dict(found), "result": result}
    outcome = output.failed(document, group) or output.Outcome(_shown(result))
    return dataclasses.replace(outcome, notes=notes, document=document)


def _result(session: Session, task: str, notes: list[str]) -> Any:
    """What the job returned; only the list of all tasks has it."""
    try:
        reply = session.poll("getAllTasks", [])
        code, message = output.status(reply)
        entry = output.member(reply, "tasks", dict).get(task) if not code else None
    except errors.ClientError as error:
        entry, message = None, str(error)
    if isinstance(entry, Mapping):
        return entry.get("result")
    notes.append(f"task {task} is done; its result could not be read, so it is kept: {output.escape(message)}")
    return None


def _clear(session: Session, task: str, notes: list[str]) -> None:
    try:
        code, message = output.status(session.poll("clearTask", [task]))
    except errors.CallFailed as error:
        code, message = 100, str(error)
    if code:
        notes.append(f"task {task} was not cleared: {output.escape(message)}")


def _shown(result: Any) -> list[str]:
    """A job that has nothing to tell returns nothing, or that it is true."""
    if result in (None, "", True, "True"):
        return [""]
    if isinstance(result, dict):
        return output.facts(result)
    return output.listed(result) if isinstance(result, list) else [output.escape(result)]
