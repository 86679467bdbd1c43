"""The only place that runs qemu-img.

Formats are always given, never probed: a guest can write a qcow2 header into its raw disk. Paths are absolute, so that
none can be read as an option, a protocol or ``json:``. JSON is believed on success only. Callers check a header with
`storage.qcow2` before a tool opens the image: a writer follows an external data file into a foreign file.

The tables of an image may be written as late as when it is closed. When that fails, the tool complains and ends with 0
all the same, so whatever a change complains of has failed.
"""

import dataclasses
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.qemu import child

_LOG = logging.getLogger(__name__)

_MEMORY = 1 << 30
_COPYING_MEMORY = 2 << 30  # up to 64 threads that read and write, with a stack of 8 MiB each
_CPU_SECONDS = 30
_MESSAGE_CHARACTERS = 2000
_FORMATS = ("raw", "qcow2")
_COMPATS = ("0.10", "1.1")
_PREALLOCATIONS = ("off", "metadata", "falloc", "full")
_LOCKED = re.compile(rb"Failed to (get|lock) .{0,40}lock|Is another process using the image")
_LATE = re.compile(rb"^qemu-img: (?!warning: ).+", re.MULTILINE)
_PROGRESS = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_NO_CHECK = 63


class QemuImgError(Exception):
    """Base of what can go wrong here."""


class Failed(QemuImgError):
    """qemu-img did not do it.

    Attributes:
        code: its exit code; minus the signal's number when it was killed; 127 when it could not be started.
        stderr: its messages, safe to print and cut to a readable length.
    """

    def __init__(self, code: int, stderr: str) -> None:
        super().__init__(f"qemu-img ended with {code}: {stderr}")
        self.code = code
        self.stderr = stderr


class InUse(QemuImgError):
    """Another process holds the image's lock: a running VM, or another tool."""


class Stopped(QemuImgError):
    """The caller's stop event ended the operation; what it was writing is incomplete."""


@dataclasses.dataclass(frozen=True, slots=True)
class Info:
    """What `qemu-img info` says; sizes in bytes, names not safe to print. `raw` is its whole answer.

    The tool replaces bytes that are not UTF-8 by U+FFFD, so such a backing name differs from the one in the header.
    """

    format: str
    virtual_size: int
    actual_size: int
    backing_name: str | None
    backing_format: str | None
    raw: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What `qemu-img check` says about one layer's own tables; it does not compare layers.

    Attributes:
        supported: False for formats without a check (raw).
        corruptions: entries that are wrong.
        leaks: clusters that are lost but harmless.
    """

    supported: bool
    corruptions: int
    leaks: int
    raw: dict[str, Any]

    @property
    def clean(self) -> bool:
        """No corruption; leaks do not count."""
        return self.corruptions == 0


class QemuImg:
    """Runs qemu-img with limits. Every method raises Failed, and InUse when a lock was in the way.

    Args:
        program: name or path.
        timeout: seconds for a look or a change of metadata; copying and preallocating take as long as they take.
    """

    def __init__(self, program: str = "qemu-img", timeout: float = 30.0) -> None:
        self._program = program
        self._quick = child.Limits(seconds=timeout, cpu_seconds=_CPU_SECONDS, memory=_MEMORY)
        self._long = child.Limits(memory=_COPYING_MEMORY)

    def info(self, path: Path, fmt: str, *, shared: bool = False) -> Info:
        """Ask for format, sizes and backing name; opens no other file than the image (and its external data file).

        Args:
            fmt: "raw" or "qcow2".
            shared: look although a writer has it open; the answer may be torn.
        """
        sharing = ["-U"] if shared else []
        answer = self._json("info", "-f", _format(fmt), *sharing, "--output=json", "--", _absolute(path))
        try:
            return Info(
                format=_typed(answer["format"], str),
                virtual_size=_typed(answer["virtual-size"], int),
                actual_size=_typed(answer.get("actual-size", 0), int),
                backing_name=_typed(answer.get("backing-filename"), str, type(None)),
                backing_format=_typed(answer.get("backing-filename-format"), str, type(None)),
                raw=answer,
            )
        except (KeyError, TypeError) as error:
            raise Failed(0, f"unexpected answer of info: {error!r:.200}") from error

    def create(
        self,
        path: Path,
        fmt: str,
        size: int,
        *,
        backing: str | None = None,
        backing_format: str | None = None,
        compat: str | None = None,
        preallocation: str | None = None,
        cluster_size: int | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Make an image; an existing file at the path is overwritten. The backing file is recorded, not opened.

        Args:
            size: virtual size in bytes.
            backing: name to record, relative to the image's directory.
            backing_format: format to record; required with `backing`.
            compat: "0.10" or "1.1", qcow2 only.
            preallocation: "off", "metadata", "falloc" or "full".
            cluster_size: bytes, qcow2 only; None: the tool's own.
            stop: ends a long preallocation; raises Stopped.
        """
        options = [f"compat={_one_of(compat, _COMPATS)}"] if compat else []
        options += [f"preallocation={_one_of(preallocation, _PREALLOCATIONS)}"] if preallocation else []
        options += [f"cluster_size={int(cluster_size)}"] if cluster_size else []
        arguments = ["create", "-q", "-f", _format(fmt), *(["-o", ",".join(options)] if options else [])]
        if backing is not None:
            arguments += ["-u", "-F", _format(backing_format), "-b", _backing(backing)]
        limits = self._long if preallocation in ("falloc", "full") else self._quick
        self._change(*arguments, "--", _absolute(path), str(size), limits=limits, stop=stop)

    def rebase_unsafe(self, path: Path, backing: str | None, backing_format: str | None) -> None:
        """Change only the backing name and format in a qcow2 header; no data moves, no backing file is opened.

        Args:
            backing: name to record; None removes it.
        """
        if backing is None:
            self._change("rebase", "-q", "-u", "-f", "qcow2", "-b", "", "--", _absolute(path))
            return
        names = ["-F", _format(backing_format), "-b", _backing(backing)]
        self._change("rebase", "-q", "-u", "-f", "qcow2", *names, "--", _absolute(path))

    def check(self, path: Path, fmt: str) -> Check:
        """Check the tables of one layer. It opens the backing chain too: check the names in it first."""
        arguments = ("check", "-f", _format(fmt), "--output=json", "--", _absolute(path))
        result = self._run(*arguments, accept=(0, 2, 3, _NO_CHECK))
        if result.code == _NO_CHECK:
            return Check(supported=False, corruptions=0, leaks=0, raw={})
        answer = _parse(result)
        try:
            if _typed(answer.get("check-errors", 0), int):
                raise Failed(result.code, "the check met errors and is not complete")
            # absent means none
            corruptions, leaks = _typed(answer.get("corruptions", 0), int), _typed(answer.get("leaks", 0), int)
        except TypeError as error:
            raise Failed(0, f"unexpected answer of check: {error!r:.200}") from error
        return Check(supported=True, corruptions=corruptions, leaks=leaks, raw=answer)

    def convert(
        self,
        source: Path,
        source_format: str,
        target: Path,
        target_format: str,
        *,
        compat: str | None = None,
        existing: bool = False,
        zeroed: bool = False,
        beneath: Path | None = None,
        beneath_format: str | None = None,
        stop: threading.Event | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Copy a guest's disk into one image. Nothing of it is flushed: do that afterwards (`files.synced`).

        Args:
            existing: write into the target as it is, instead of making it.
            zeroed: the existing target reads as zeros throughout, so zeros need not be written: a sparse target stays
                sparse, and one with blocks set aside keeps them.
            beneath: backing file of the existing target; then only what the source's own layer holds is copied, and
                what stands beneath the source must read the same. Without it the source is read through its chain.
            beneath_format: format of that backing file.
            stop: ends the copy within a fraction of a second; raises Stopped, and the caller removes the target.
            progress: called with percent done, 0..100.
        """
        arguments = ["convert", "-p", "-t", "unsafe", "-f", _format(source_format), "-O", _format(target_format)]
        arguments += ["-n"] if existing else []
        arguments += ["--target-is-zero"] if existing and zeroed else []
        arguments += ["-B", _absolute(beneath), "-F", _format(beneath_format)] if beneath else []
        arguments += ["-o", f"compat={_one_of(compat, _COMPATS)}"] if compat else []
        self._long_run(*arguments, "--", _absolute(source), _absolute(target), stop=stop, progress=progress)

    def rebase(
        self,
        path: Path,
        backing: str,
        backing_format: str,
        *,
        stop: threading.Event | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Let an image stand on another volume of its chain: it gets what those in between hold, then a new header.

        At every moment the image reads the same, also when it is cut off. Not durable: sync it afterwards.

        Args:
            backing: name of a file that its chain has further down, relative to the image's directory.
        """
        arguments = ("rebase", "-p", "-t", "writeback", "-f", "qcow2", "-F", _format(backing_format))
        names = ("-b", _backing(backing), "--", _absolute(path))
        self._long_run(*arguments, *names, stop=stop, progress=progress)

    def commit(
        self,
        top: Path,
        base: Path,
        *,
        stop: threading.Event | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Write what a qcow2 image and those beneath it hold into `base`, a file further down its chain.

        The image itself is not changed and reads the same at every moment; what `base` reads as by itself changes.
        Not durable: sync the base afterwards.
        """
        arguments = ("commit", "-p", "-t", "writeback", "-f", "qcow2", "-d", "-b", _absolute(base))
        self._long_run(*arguments, "--", _absolute(top), stop=stop, progress=progress)

    def resize(self, path: Path, fmt: str, size: int) -> None:
        """Make an image larger; qemu-img itself refuses to shrink one. Not durable: sync it afterwards.

        Args:
            size: virtual size in bytes.
        """
        self._change("resize", "-q", "-f", _format(fmt), "--", _absolute(path), str(size))

    def measure(self, path: Path, fmt: str, target_format: str, *, preallocated: bool = False) -> int:
        """Bytes of file that a copy of the disk, read through its chain, takes at most.

        Args:
            preallocated: for a target that has all its space set aside.
        """
        arguments = ("measure", "-f", _format(fmt), "-O", _format(target_format), "--output=json")
        answer = self._json(*arguments, "--", _absolute(path))
        try:
            return int(_typed(answer["fully-allocated" if preallocated else "required"], int))
        except (KeyError, TypeError) as error:
            raise Failed(0, f"unexpected answer of measure: {error!r:.200}") from error

    def snapshots(self, path: Path) -> list[str]:
        """Names of the internal snapshots of a qcow2 image."""
        found = self.info(path, "qcow2").raw.get("snapshots", [])
        try:
            return [_typed(_typed(each, dict)["name"], str) for each in _typed(found, list)]
        except (KeyError, TypeError) as error:
            raise Failed(0, f"unexpected answer of info: {error!r:.200}") from error

    def snapshot(self, path: Path, action: str, name: str) -> None:
        """Work on an internal snapshot of a qcow2 image; atomic, but not durable: sync it afterwards.

        What it stands on is not opened.

        Args:
            action: "create", "apply" (the image reads again as it did) or "delete".
            name: of the snapshot.
        """
        option = {"create": "-c", "apply": "-a", "delete": "-d"}[action]
        # Its cost follows the tables of the image, which may be large. This command has no -f, so the name says it.
        self._change("snapshot", "-q", option, name, _alone(path, "qcow2"), limits=self._long)

    def map_layer(self, path: Path, fmt: str) -> list[dict[str, Any]]:
        """What one layer holds as qemu sees it, without its backing file: rows of start, length, present, data."""
        rows = self._json("map", "--output=json", _alone(path, fmt), expect=list)
        return [row for row in rows if isinstance(row, dict)]

    def _long_run(
        self, *arguments: str, stop: threading.Event | None, progress: Callable[[float], None] | None
    ) -> child.Result:
        """Run what takes as long as it takes, telling how far it is."""

        def report(data: bytes) -> None:
            found = _PROGRESS.findall(data)
            if found and progress:
                progress(float(found[-1]))

        return self._change(*arguments, limits=self._long, stop=stop, on_output=report)

    def _change(
        self,
        *arguments: str,
        limits: child.Limits | None = None,
        stop: threading.Event | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> child.Result:
        """Run what writes to an image. Failed also when the tool ends with 0 and says that it could not write all."""
        result = self._run(*arguments, limits=limits, stop=stop, on_output=on_output)
        if late := _LATE.findall(result.stderr):
            raise Failed(result.code, _printable(b"\n".join(late)))
        return result

    def _json(self, *arguments: str, expect: type = dict) -> Any:
        return _parse(self._run(*arguments), expect)

    def _run(
        self,
        *arguments: str,
        accept: tuple[int, ...] = (0,),
        limits: child.Limits | None = None,
        stop: threading.Event | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> child.Result:
        try:
            result = child.run(
                [self._program, *arguments], limits or self._quick, stop=stop, on_output=on_output, tied=True
            )
        except OSError as error:
            raise Failed(127, f"{error.filename or self._program} cannot be started: {error.strerror}") from error
        _LOG.debug("qemu-img %a: %d", arguments, result.code)
        if result.killed:
            if stop is not None and stop.is_set():
                raise Stopped(f"qemu-img {arguments[0]} was stopped")
            raise Failed(result.code, f"killed: {result.killed}")
        if result.code < 0:
            raise Failed(result.code, f"ended by {_signal_name(-result.code)}, treated as a hostile image")
        if result.code not in accept:
            if _LOCKED.search(result.stderr):
                raise InUse(_printable(result.stderr))
            raise Failed(result.code, _printable(result.stderr))
        return result


def _parse(result: child.Result, expect: type = dict) -> Any:
    """JSON of a successful run. Names in it are the image's bytes: what is not UTF-8 becomes surrogates."""
    try:
        answer = json.loads(result.stdout.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise Failed(result.code, f"unreadable answer: {error}") from error
    if not isinstance(answer, expect):
        raise Failed(result.code, "unexpected answer")
    return answer


def _typed(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(value)
    return value


def _absolute(path: Path) -> str:
    """The path as an argument. Because it starts with a slash, no other reading of it is possible."""
    text = os.fspath(path)
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"not an absolute path: {text!a}")
    return text


def _alone(path: Path, fmt: str) -> str:
    """A name that says the format, and that nothing beneath the image is opened, for commands without such options."""
    node: dict[str, Any] = {"driver": _format(fmt), "file": {"driver": "file", "filename": _absolute(path)}}
    if fmt == "qcow2":
        node["backing"] = None
    return "json:" + json.dumps(node, ensure_ascii=False)


def _backing(name: str) -> str:
    """A plain relative file name; nothing that qemu could read as a protocol."""
    if not name or ":" in name or name.startswith("/") or len(os.fsencode(name)) > 1023 or not name.isprintable():
        raise ValueError(f"not a plain backing name: {name!a}")
    return name


def _format(fmt: str | None) -> str:
    return _one_of(fmt, _FORMATS)


def _one_of(value: str | None, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!a} is none of {', '.join(allowed)}")
    return value


def _printable(message: bytes) -> str:
    """Messages quote bytes of images; make them safe for a log line and a reply."""
    text = "; ".join(message.decode("utf-8", "backslashreplace").split("\n")).strip("; ")
    safe = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return safe[:_MESSAGE_CHARACTERS]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
