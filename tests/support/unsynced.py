"""A journal of what the program asks of the file system, and every state that an end at any moment may leave of it.

`Recorder` stands in for the module ``os`` inside ``storage.files`` and ``storage.filewriter``, as `faults` does, and
notes each change; what a child process did to files counts as one more change of each, when the child has ended.
`Journal.build` then makes, from a copy of the storage as it was before, what is there

* when the process ends before the n-th change: all changes before it, and of a write that was under way a part;
* when the power goes: what was flushed; of everything else any part that a journaling file system may have kept.

What a file system may keep (`Rules`): names in the order in which they were changed, up to some moment, in each
directory for itself or in all of them together (ext4, xfs: a flush of anything writes the whole journal); data of files
in any order, each write kept, lost, kept in part, or replaced by zeroes or rubbish.
"""

import contextlib
import dataclasses
import itertools
import os
import random
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage import files, filewriter
from storage.qemu import child

_NAMES = ("mkdir", "rmdir", "unlink", "rename", "link", "symlink")
_SECTOR = 512
_RUBBISH = b"\xa5rubbish"


@dataclasses.dataclass(frozen=True)
class Change:
    """One change, or one flush.

    Attributes:
        kind: ``mkdir``, ``create``, ``unlink`` ...; ``write``, ``resize``; ``flush`` of a file or a directory.
        path: what is changed; of ``rename`` and ``link`` the old name.
        target: the new name of ``rename`` and ``link``, what a symbolic link holds.
        node: number of the file, for data and for ``create``.
        data, offset: of a write; ``offset`` of ``resize`` is the new length in bytes.
    """

    kind: str
    path: str
    target: str = ""
    node: int = 0
    data: bytes = b""
    offset: int = 0

    @property
    def of_names(self) -> bool:
        return self.kind in _NAMES or self.kind == "create"

    @property
    def directories(self) -> set[str]:
        """Directories whose names it changes."""
        both = [self.path, self.target] if self.kind in ("rename", "link") else [self.path]
        return {os.path.dirname(each) for each in both} if self.of_names else set()


class Recorder:
    """Looks like the module ``os``, does everything, and notes what changes.

    Args:
        root: what lies below is noted; everything else is nobody's business.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._guard = threading.RLock()
        self._nodes: dict[tuple[int, int], int] = {}
        self._numbers = itertools.count(1)
        self._paths: dict[int, str] = {}
        self.changes: list[Change] = []
        self._seen: dict[str, tuple[int, int, int]] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        noted = getattr(self, f"_do_{name}", None)
        if noted is None:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._guard:
                return noted(real, *args, **kwargs)

        return call

    @contextlib.contextmanager
    def strike(self) -> Iterator[None]:
        """Note what the block does."""
        modules: list[Any] = [files, filewriter]
        children: Any = child
        runner = children.run

        def run(*args: Any, **kwargs: Any) -> Any:
            self._look()
            try:
                return runner(*args, **kwargs)
            finally:
                self._compare()

        for module in modules:
            module.os = self
        children.run = run
        try:
            yield
        finally:
            children.run = runner
            for module in modules:
                module.os = os

    # ------------------------------------------------------------ what is noted

    def _note(self, kind: str, path: Any, **more: Any) -> None:
        self.changes.append(Change(kind, self._real(path), **more))

    def _real(self, path: Any) -> str:
        """One spelling for each name: links on the way are followed, the last part is not."""
        text = os.path.abspath(os.fspath(path))
        return f"{os.path.realpath(os.path.dirname(text))}/{os.path.basename(text)}"

    def _node(self, fd_or_path: Any) -> int:
        info = os.fstat(fd_or_path) if isinstance(fd_or_path, int) else os.lstat(fd_or_path)
        key = info.st_dev, info.st_ino
        if key not in self._nodes:
            self._nodes[key] = next(self._numbers)
        return self._nodes[key]

    def _do_open(self, real: Callable[..., int], path: Any, flags: int, *more: Any) -> int:
        new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        fd = real(path, flags, *more)
        self._paths[fd] = self._real(path) if flags & (os.O_CREAT | os.O_NOFOLLOW) else os.path.realpath(path)
        if new:
            info = os.fstat(fd)
            self._nodes.pop((info.st_dev, info.st_ino), None)  # the number of a file that is gone may come again
            self._note("create", path, node=self._node(fd))
        return fd

    def _do_close(self, real: Callable[..., None], fd: int) -> None:
        self._paths.pop(fd, None)
        real(fd)

    def _do_mkdir(self, real: Callable[..., None], path: Any, *more: Any) -> None:
        real(path, *more)
        self._note("mkdir", path)

    def _do_rmdir(self, real: Callable[..., None], path: Any) -> None:
        where = self._real(path)
        real(path)
        self._note("rmdir", where)

    def _do_unlink(self, real: Callable[..., None], path: Any) -> None:
        real(path)
        self._note("unlink", path)

    def _do_rename(self, real: Callable[..., None], source: Any, target: Any) -> None:
        here, there = self._real(source), self._real(target)
        real(source, target)
        self._note("rename", here, target=there)

    def _do_link(self, real: Callable[..., None], source: Any, target: Any, **more: Any) -> None:
        real(source, target, **more)
        self._note("link", source, target=self._real(target), node=self._node(source))

    def _do_symlink(self, real: Callable[..., None], source: Any, target: Any) -> None:
        real(source, target)
        self._note("symlink", target, target=os.fspath(source))

    def _do_write(self, real: Callable[..., int], fd: int, data: Any) -> int:
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        written = real(fd, data)
        self._note("write", self._paths[fd], node=self._node(fd), data=bytes(data)[:written], offset=offset)
        return written

    def _do_pwrite(self, real: Callable[..., int], fd: int, data: Any, offset: int) -> int:
        written = real(fd, data, offset)
        self._note("write", self._paths[fd], node=self._node(fd), data=bytes(data)[:written], offset=offset)
        return written

    def _do_ftruncate(self, real: Callable[..., None], fd: int, size: int) -> None:
        real(fd, size)
        self._note("resize", self._paths[fd], node=self._node(fd), offset=size)

    def _do_posix_fallocate(self, real: Callable[..., None], fd: int, offset: int, length: int) -> None:
        before = os.fstat(fd).st_size
        real(fd, offset, length)
        if offset + length > before:
            self._note("resize", self._paths[fd], node=self._node(fd), offset=offset + length)

    def _do_fsync(self, real: Callable[..., None], fd: int) -> None:
        kind = "flush names" if stat.S_ISDIR(os.fstat(fd).st_mode) else "flush"
        self._note(kind, self._paths[fd], node=0 if kind == "flush names" else self._node(fd))

    def _do_fdatasync(self, real: Callable[..., None], fd: int) -> None:
        self._note("flush", self._paths[fd], node=self._node(fd))

    # ------------------------------------------------------------ children

    def _each(self) -> Iterator[tuple[str, os.stat_result]]:
        for place, _, names in os.walk(os.path.join(self._root)):
            if os.path.basename(os.path.dirname(place)) == "images":
                for name in names:
                    path = os.path.join(place, name)
                    yield path, os.lstat(path)

    def _look(self) -> None:
        with self._guard:
            self._contents = {
                path: Path(path).read_bytes()
                for path, info in self._each()
                if stat.S_ISREG(info.st_mode) and not path.endswith((".meta", ".lease"))
            }

    def _compare(self) -> None:
        """Note, file by file, what a child has changed: as a write from the first to the last byte that differs."""
        with self._guard:
            known: set[int] = set()
            for path, before in self._contents.items():
                if not os.path.exists(path) or self._node(path) in known:
                    continue
                node, after = self._node(path), Path(path).read_bytes()
                known.add(node)
                if len(after) < len(before):
                    self._note("resize", path, node=node, offset=len(after))
                if (span := _changed(before, after)) is not None:
                    start, end = span
                    self._note("write", path, node=node, data=after[start:end], offset=start)


def _changed(before: bytes, after: bytes) -> tuple[int, int] | None:
    """First and last place where the new content is another one, the new length included."""
    if before == after or (len(after) < len(before) and after == before[: len(after)]):
        return None
    same = min(len(before), len(after))
    start = next((at for at in range(0, same, _SECTOR) if before[at : at + _SECTOR] != after[at : at + _SECTOR]), same)
    end = len(after)
    if len(after) <= len(before):
        while end > start + _SECTOR and before[end - _SECTOR : end] == after[end - _SECTOR : end]:
            end -= _SECTOR
    return start, end


# ---------------------------------------------------------------- what may be left


class Rules:
    """Decides what becomes of what was not flushed.

    Args:
        choices: where the decisions come from.
        together: a flush of anything makes all names durable, and names are lost from the end only.
        rubbish: whether unflushed data may also be zeroes or garbage, and not just old or new.
    """

    def __init__(self, choices: random.Random, *, together: bool, rubbish: bool = True) -> None:
        self.choices = choices
        self.together = together
        self.rubbish = rubbish


class Journal:
    """The changes of one run.

    Args:
        before: the storage as it was; `Recorder` saw it under `root`.
        root: where states are built.
        changes: what the recorder noted.
    """

    def __init__(self, before: Path, root: Path, changes: list[Change]) -> None:
        self._before = before
        self._root = os.path.realpath(root)
        self.changes = [each for each in changes if f"{each.path}/".startswith(f"{self._root}/")]

    @property
    def points(self) -> list[int]:
        """Ends of the process that leave different things: before each change, flushes apart, and after the last."""
        ends = [at for at, each in enumerate(self.changes) if not each.kind.startswith("flush")]
        return [*ends, len(self.changes)]

    @property
    def changed(self) -> set[str]:
        """Paths of all files and names that were changed."""
        changes = [each for each in self.changes if not each.kind.startswith("flush")]
        return {each.path for each in changes} | {each.target for each in changes if each.kind in ("rename", "link")}

    def killed(self, at: int, cut: random.Random | None = None) -> None:
        """Build what is there when the process ends before change `at`; with `cut` in the middle of it, if a write."""
        kept = self.changes[:at]
        if cut and at < len(self.changes) and self.changes[at].kind == "write":
            last = self.changes[at]
            kept = [*kept, dataclasses.replace(last, data=last.data[: cut.randrange(len(last.data) + 1)])]
        self._build(kept)

    def lost(self, at: int, rules: Rules) -> int:
        """Build what is there when the power goes before change `at`; how many changes were at stake."""
        done = self.changes[:at]
        names = self._kept_names(done, rules)
        kept, stake = [], 0
        for number, change in enumerate(done):
            if change.of_names:
                stake += change.kind != "flush names" and number not in names[1]
                if number in names[0]:
                    kept.append(change)
            elif not change.kind.startswith("flush"):
                if any(each.kind == "flush" and each.node == change.node for each in done[number:]):
                    kept.append(change)
                else:
                    stake += 1
                    kept += self._survived(change, rules)
        self._build(kept)
        return stake

    def _kept_names(self, done: list[Change], rules: Rules) -> tuple[set[int], set[int]]:
        """Numbers of the changes of names that stay, and of those that had to."""
        certain = {
            number for number, change in enumerate(done) if change.of_names and self._flushed(done, number, rules)
        }
        rest = [number for number, change in enumerate(done) if change.of_names and number not in certain]
        if rules.together:
            return certain | set(rest[: rules.choices.randrange(len(rest) + 1)]), certain
        # Each directory keeps its own changes up to some moment; a rename between two is one change of both.
        until: dict[str, int] = {}
        for directory in sorted({each for number in rest for each in done[number].directories}):
            mine = [number for number in rest if directory in done[number].directories]
            until[directory] = [-1, *mine][rules.choices.randrange(len(mine) + 1)]
        kept = set()
        for number in rest:
            if all(number <= until[each] for each in done[number].directories):
                kept.add(number)
            else:
                for each in done[number].directories:  # nothing after what is lost
                    until[each] = min(until[each], number - 1)
        return certain | kept, certain

    def _flushed(self, done: list[Change], number: int, rules: Rules) -> bool:
        later = [each for each in done[number + 1 :] if each.kind.startswith("flush")]
        if rules.together:
            return bool(later)
        flushed = {each.path for each in later if each.kind == "flush names"}
        return done[number].directories <= flushed

    def _survived(self, change: Change, rules: Rules) -> list[Change]:
        fate = rules.choices.choice(
            ("kept", "lost", "part", "zeroes", "rubbish") if rules.rubbish else ("kept", "lost")
        )
        if fate == "lost":
            return []
        if fate == "kept" or change.kind == "resize":
            return [change]
        size = len(change.data)
        if fate == "part":
            return [dataclasses.replace(change, data=change.data[: rules.choices.randrange(size + 1)])]
        return [dataclasses.replace(change, kind="torn", target=f"{fate} {rules.choices.random()}")]

    # ------------------------------------------------------------ building

    def _build(self, kept: list[Change]) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        shutil.copytree(self._before, self._root, symlinks=True, copy_function=_copy)
        builder = _Builder(self._root, self.changes)
        for change in kept:
            if not change.kind.startswith("flush"):
                builder.apply(change)
        builder.end()


def _copy(source: str, target: str) -> str:
    """As cp: holes stay holes, times stay."""
    with Path(source).open("rb") as reader, Path(target).open("wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        end = 0
        while end < size:
            try:
                start = os.lseek(reader.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            os.pwrite(writer.fileno(), os.pread(reader.fileno(), end - start, start), start)
        writer.truncate(size)
    shutil.copystat(source, target)
    return target


class _Builder:
    """Applies changes to real files; what became impossible, for something before it was lost, does not happen.

    Files are found by their numbers: data goes to a file wherever its name is now, and is lost where it has none.
    """

    def __init__(self, root: str, changes: list[Change]) -> None:
        self._aside = Path(f"{root}.nodes")
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir()
        self._nodes: dict[int, Path] = {}
        made = {change.node for change in changes if change.kind == "create"}
        for change in changes:
            # A file that was there before is found by its first name in the journal.
            new = change.node in made or change.node in self._nodes
            if change.node and not new and os.path.lexists(change.path):
                self._keep(change.node, change.path)

    def _keep(self, node: int, path: str) -> None:
        self._nodes[node] = self._aside / str(node)
        if not self._nodes[node].exists():
            os.link(path, self._nodes[node], follow_symlinks=False)

    def apply(self, change: Change) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, FileExistsError):
            getattr(self, f"_{change.kind}")(change)

    def end(self) -> None:
        shutil.rmtree(self._aside)

    def _create(self, change: Change) -> None:
        os.close(os.open(change.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o660))
        self._keep(change.node, change.path)

    def _mkdir(self, change: Change) -> None:
        os.mkdir(change.path, 0o775)

    def _rmdir(self, change: Change) -> None:
        shutil.rmtree(change.path)  # what it still holds lost its removal, which nobody can tell

    def _unlink(self, change: Change) -> None:
        os.unlink(change.path)

    def _rename(self, change: Change) -> None:
        if os.path.isdir(change.target) and not os.path.islink(change.target):
            shutil.rmtree(change.target)
        os.rename(change.path, change.target)

    def _link(self, change: Change) -> None:
        os.link(self._nodes.get(change.node, change.path), change.target, follow_symlinks=False)

    def _symlink(self, change: Change) -> None:
        os.symlink(change.target, change.path)

    def _write(self, change: Change) -> None:
        if (there := self._nodes.get(change.node)) is not None:
            with there.open("r+b") as stream:
                os.pwrite(stream.fileno(), change.data, change.offset)

    def _torn(self, change: Change) -> None:
        """Sectors that were there before are old or new; what was added to the file may be zeroes or rubbish, too."""
        there = self._nodes.get(change.node)
        if there is None:
            return
        choices, size = random.Random(change.target), there.stat().st_size
        rubbish = b"\0" * _SECTOR if change.target.startswith("zeroes") else (_RUBBISH * _SECTOR)[:_SECTOR]
        with there.open("r+b") as stream:
            for at in range(0, len(change.data), _SECTOR):
                piece, offset = change.data[at : at + _SECTOR], change.offset + at
                if choices.random() < 0.5:
                    os.pwrite(stream.fileno(), piece, offset)
                elif offset >= size:
                    os.pwrite(stream.fileno(), rubbish[: len(piece)], offset)

    def _resize(self, change: Change) -> None:
        if (there := self._nodes.get(change.node)) is not None:
            os.truncate(there, change.offset)
