"""No id, text or path of a caller leads out of the storage: every place of one in every verb, with hostile values.

    python -m tests.campaigns.paths --stride 1 --seed 1

The daemon is real and traced: each call must be refused, change nothing, and name no file to the kernel outside of its
storage and repository and of what it names when it is started and used as it should be.
"""

import argparse
import itertools
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.campaigns import figures, paths_values
from tests.support import surroundings, tracing

ROOT = Path(__file__).resolve().parents[2]
_LOOKS = ("stat", "lstat", "newfstatat", "readlink", "readlinkat", "access", "faccessat", "faccessat2", "statfs")
# Where Python and the programs of qemu keep what they consist of.
_PROGRAMS = (
    *(str(ROOT / name) for name in ("vdsmlite", "storage", "rpc", "schema", "client", "vdsmlite.egg-info", ".venv")),
    *(sys.prefix, sys.base_prefix, sysconfig.get_paths()["stdlib"], "/usr/lib", "/lib", "/lib64", "/usr/share"),
    *("/etc/ld.so", "/etc/localtime", "/proc/", "/sys/devices/system/", "/dev/null", "/dev/urandom"),
)

_OPTIONS = frozenset({"-h", "--help", "--bind", "-oremount,rw"})
"""What is sent as an id, a path or a type, and must not arrive at a program as an option."""

Place = surroundings.Place


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="paths", description="send hostile ids and paths to a traced daemon")
    parser.add_argument("--stride", type=int, default=1, help="make every n-th call only")
    parser.add_argument("--seed", type=int, default=1, help="first call, where not every one is made")
    options = parser.parse_args(arguments)
    if tracing.missing():
        print("this needs strace", file=sys.stderr)
        return 2
    return figures.tell(run(options.stride, options.seed))


def run(stride: int = 1, seed: int = 1) -> figures.Figures:
    """Do all of it.

    Args:
        stride: every n-th call is made.
        seed: which of the first n it is.
    """
    found = figures.Figures("ids and paths")
    with surroundings.opened() as (place, trace):
        watch = _Watch(place, trace, found)
        legal_texts(place, found)
        for part in (no_ids, bad_texts, streams, bad_paths, planted):
            place.plant()
            watch.begin()
            part(place, found, watch, stride, seed % stride)
    return found


class _Watch:
    """Judges the trace and the tree after each part."""

    def __init__(self, place: Place, trace: surroundings.Trace, found: figures.Figures) -> None:
        self._place = place
        self._trace = trace
        self._found = found
        # What a clean start and the making of a pool and images named.
        self._clean = {touch.path for touch in tracing.touches(trace.more())}
        self._before = self._outside = place.fingerprint()
        self._homes = tuple(str(each) for each in (place.domain.parent, place.server.directory))

    def begin(self) -> None:
        """What is now is as it should be."""
        self._trace.more()
        self._before = self._place.fingerprint()
        self._outside = self._place.fingerprint(outside_only=True)

    def end(self, what: str, *, changes: bool = False) -> None:
        """Judge what was done since.

        Args:
            changes: within the storage something may have changed.
        """
        lines = self._trace.more()
        for touch in {each for each in tracing.touches(lines) if not self._allowed(each)}:
            self._found.failures.append(f"{what}: {touch}")
        for command in tracing.programs(lines):
            if hostile := _OPTIONS.intersection(command):
                self._found.failures.append(f"{what}: {command[0]} was given {hostile}")
        self._found.add("paths in the trace", sum(1 for _ in tracing.touches(lines)))
        after = self._place.fingerprint(outside_only=changes)
        before = self._outside if changes else self._before
        for name in {*before, *after}:
            if before.get(name) != after.get(name):
                self._found.failures.append(f"{what}: {name} has changed")

    def _allowed(self, touch: tracing.Touch) -> bool:
        if any(_within(touch.path, each) for each in self._place.forbidden):
            return touch.call in _LOOKS and not touch.opened and touch.path in self._place.forbidden
        if touch.path.startswith(("pipe:[", "socket:[")):
            return True
        if touch.path in self._clean or any(_within(touch.path, each) for each in self._homes):
            return True
        if any(touch.path.startswith(each) for each in _PROGRAMS):
            return True
        return touch.call in _LOOKS and any(_within(each, touch.path) for each in self._homes)


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


# ---------------------------------------------------------------- what is refused as it stands


def no_ids(place: Place, found: figures.Figures, watch: _Watch, stride: int, first: int) -> None:
    """Everything that is no id, in every place of an id."""
    for verb, calls in itertools.groupby(_id_calls(place, stride, first), lambda each: each[0].verb.name):
        for call, value in calls:
            _refused(place, found, call, value)
        watch.end(verb)


def _id_calls(place: Place, stride: int, first: int) -> Iterator[tuple[paths_values.Call, str]]:
    every = (
        (call, value)
        for call, real in paths_values.calls(place.real)
        for value in paths_values.no_ids(real, str(place.outside / "canary"))
        if value or not paths_values.takes_empty(call)
    )
    return itertools.islice(every, first, None, stride)


def bad_texts(place: Place, found: figures.Figures, watch: _Watch, stride: int, first: int) -> None:
    """What would end a line of a record, in every text that a verb takes."""
    every = ((call, value) for call, _ in paths_values.texts(place.real) for value in paths_values.BAD_TEXTS)
    for call, value in itertools.islice(every, first, None, stride):
        _refused(place, found, call, value)
    watch.end("texts")


def _refused(place: Place, found: figures.Figures, call: paths_values.Call, value: str) -> None:
    answer = place.ask(call.verb.method, paths_values.put(call, value))
    found.add("hostile values")
    if answer.code == 0:
        found.failures.append(f"{call.verb.name} takes {call.where}={value[:80]!a}")


def streams(place: Place, found: figures.Figures, watch: _Watch, stride: int, first: int) -> None:
    """The same in the headers of streams, as far as a header can hold it."""
    names = {"Storage-Pool-Id": "pool", "Storage-Domain-Id": "domain", "Image-Id": "image", "Volume-Id": "volume"}
    right = {header: place.real[kind] for header, kind in names.items()}
    for header, method in itertools.product(names, ("PUT", "GET")):
        for value in paths_values.no_ids(right[header], str(place.outside / "canary"))[first::stride]:
            if not value.isascii() or not value.isprintable() or value != value.strip():
                continue
            found.add("hostile values")
            if (code := place.stream(method, right | {header: value})) < 400:
                found.failures.append(f"{method} takes {header}={value[:80]!a}: {code}")
    watch.end("streams")


# ---------------------------------------------------------------- paths


_PATHLIKE = ("", ".", "-", "/")
"""How a source of a mount begins that is a path; the rest may be names of servers, or words for its type."""

_SERVERS = ("-server:/x", "server:/a/../b", "server:/..", "a\nb:/x", "server:", ":/x", "a b:/x", "server:/x\0", "::")


def _places(place: Place) -> Iterable[str]:
    storage = place.domain.parent
    return (
        *("", ".", "..", "/", "//", "/..", "-f", "--bind", "-oremount,rw", "~", "$HOME", "relative/path", "*"),
        *(f"{storage}/../outside", f"{storage}/..", f"../../..{place.outside}", f"{storage}\n", f"{storage}\0"),
        *(f"file://{place.outside}", f"json:{{}}{place.outside}", f"nbd://localhost/{place.outside}"),
        *(f"/{'a' * 300}", f"{place.server.repository / 'mnt'}"),
    )


def bad_paths(place: Place, found: figures.Figures, watch: _Watch, stride: int, first: int) -> None:
    """Paths of storage servers, patterns, and addresses, where a schema cannot tell."""
    for value in list(_places(place))[first::stride]:
        for verb in ("connectStorageServer", "validateStorageServerConnection"):
            for kind in (1, 4, 6, 7):
                # A directory could be a device, as far as a path tells.
                if kind == 4 or (value[:1] in _PATHLIKE and not value.endswith("/mnt")):
                    _connection(place, found, verb, kind, {"connection": value})
        kinds = {"storagedomainID": place.planted["domain"][1], "domainType": 4, "domainClass": 1, "version": 3}
        _error(place, found, "StorageDomain.create", {**kinds, "typeArgs": value, "name": "x"})
        arguments = {"method": "http", "url": value, "headers": {}}
        _error(place, found, "Image.upload", {**_image(place), "methodArgs": arguments})
        _error(place, found, "Image.download", {**_image(place), "methodArgs": arguments})
        pattern: dict[str, object] = {"storagedomainID": place.real["domain"], "pattern": value, "caseSensitive": True}
        _error(place, found, "StorageDomain.getFileStats", pattern)
    for value, kind in itertools.product(_SERVERS, (1, 7)):
        _connection(place, found, "connectStorageServer", kind, {"connection": value})
    for options in ("bind", "remount,rw", "loop", "x-mount.mkdir", "a\nb", 'a"b', "move"):
        words = {"connection": "server:/export", "vfs_type": "nfs", "mnt_options": options}
        _connection(place, found, "validateStorageServerConnection", 6, words)
    for name in ("-h", "fuse", "fuse.sshfs", "../x", "proc", "a b"):
        _connection(place, found, "connectStorageServer", 6, {"connection": "server:/export", "vfs_type": name})
    watch.end("paths")


def _image(place: Place) -> dict[str, object]:
    real = place.real
    return {"storagepoolID": real["pool"], "storagedomainID": real["domain"], "imageID": real["image"]}


def _connection(place: Place, found: figures.Figures, verb: str, kind: int, words: dict[str, str]) -> None:
    found.add("hostile values")
    reply = place.ask(
        paths_values.VERBS.verbs[verb].method,
        {"storagepoolID": place.real["pool"], "domainType": kind, "connectionParams": [{"id": "x", **words}]},
    )
    listed = reply.result if isinstance(reply.result, list) else []
    if reply.code == 0 and not all(each["status"] for each in listed):
        found.failures.append(f"{verb} {kind} takes {words}")


def _error(place: Place, found: figures.Figures, method: str, params: dict[str, object]) -> None:
    found.add("hostile values")
    if (answer := place.ask(method, params)).code == 0:
        found.failures.append(f"{method} takes {params}: {answer.result}")


# ---------------------------------------------------------------- well-formed ids that lead elsewhere


def planted(place: Place, found: figures.Figures, watch: _Watch, stride: int, first: int) -> None:
    """Ids that are links out of the storage, or whose record or lease is one, and ids in other letters."""
    every = [
        (call, value)
        for call, real in paths_values.calls(place.real, frozenset(place.real))
        for value in (*place.planted[call.kind], real.upper())
    ]
    for call, value in every[first::stride]:
        place.plant()
        answer = place.ask(call.verb.method, paths_values.put(call, value))
        found.add("planted links")
        place.rest()
        watch.end(f"{call.verb.name} {call.where}={value} ({answer.code})", changes=True)
    place.pull_out()


# ---------------------------------------------------------------- texts that may be kept


LEGAL_TEXTS = (
    *("a=b", "PUUID=00000000-0000-0000-0000-000000000000", "EOF", "LEGALITY=ILLEGAL,VOLTYPE=SHARED", "# comment"),
    *("a,b;c:d", "\\nPUUID=x", "%0aPUUID=x", "{'a': 1}", "\u00e9\u4e2d\U0001f600", "'\"`$(id)", "a  b", "_eq_", "="),
)


def legal_texts(place: Place, found: figures.Figures) -> None:
    """What looks like a record's own lines is text, and stays it."""
    volume = (place.pool.domain, place.pool.id, place.image.id, place.image.leaf)
    record = place.image.directory / f"{place.image.leaf}.meta"
    metadata = place.domain / "dom_md" / "metadata"
    call = place.server.call
    for text in LEGAL_TEXTS:
        keys = _keys(record), _keys(metadata)
        call("setVolumeDescription", *volume, text)
        call("setStorageDomainDescription", place.pool.domain, text)
        call("setStoragePoolDescription", place.pool.id, text)
        read = {
            "volume": call("getVolumeInfo", *volume)["info"]["description"],
            "domain": call("getStorageDomainInfo", place.pool.domain)["info"]["name"],
            "pool": call("getStoragePoolInfo", place.pool.id)["info"]["name"],
        }
        found.add("texts kept", len(read))
        found.failures += [f"{what}: {text!a} became {back!a}" for what, back in read.items() if back != text]
        if keys != (_keys(record), _keys(metadata)):
            found.failures.append(f"{text!a} changed the keys of a record")


def _keys(record: Path) -> list[str]:
    return [line.partition("=")[0] for line in record.read_text().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
