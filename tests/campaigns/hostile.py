"""Hostile images against a real daemon: every verb that touches volumes, on every image of `tests.support.hostile`.

    python -m tests.campaigns.hostile --seed 1

For each pair of an image and a verb, on a fresh image:

* the answer is an error that the verb declares and that names what it is about, or success;
* what would let qemu or a guest open the image fails where the image leads elsewhere, changes nothing, and lets
  qemu-img open at most the one file it looks at; where what is odd is a guest's own affair, everything succeeds;
* no file of the canary is opened by anybody (the kernel tells), nobody connects, nothing of it changes;
* each run of qemu-img was told the formats and had limits;
* the daemon lives, and has nothing to say that it did not expect.

Exit code 0: no failure.
"""

import argparse
import contextlib
import dataclasses
import functools
import http.client
import json
import random
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rpc import catalogue
from tests.campaigns import figures
from tests.support import daemon, hostile
from vdsmlite import status

MIB = 1 << 20
_LOOK, _COPY = (1 << 30, 30), 2 << 30
_CATALOGUE = catalogue.load()
_PATIENCE, _LONG = 60.0, 15.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a verb ended, or its task."""

    code: int
    message: str
    declared: bool = True


@dataclasses.dataclass(frozen=True)
class Verb:
    """One way to touch an image.

    Attributes:
        uses: whether it lets qemu or a guest open the volume, or takes it over: refused on a hostile image.
        brings: whether it brings another content, which is refused or not whatever the image is.
    """

    name: str
    ask: Callable[[hostile.Site], Answer]
    uses: bool = False
    brings: bool = False


def run(seed: int, directory: Path, *, count: int | None = None, only: str = "") -> figures.Figures:
    """The campaign.

    Args:
        seed: of the order, and of the choice when not all are run.
        directory: where to work, empty.
        count: pairs to run; None: all of them.
        only: a regular expression; those alone in whose name ("image, verb") it is found.
    """
    found = figures.Figures("hostile images")
    pairs = [
        (case, verb) for case in hostile.cases() for verb in verbs() if re.search(only, f"{case.name}, {verb.name}")
    ]
    random.Random(seed).shuffle(pairs)
    site = hostile.Site(directory)
    with contextlib.closing(site):
        for case, verb in pairs[:count]:
            for problem in _try(site, case, verb, found):
                found.failures.append(f"{case.name}, {verb.name}: {problem}")
        if not site.canary.unchanged():
            found.failures.append("the canary is not what it was")
        if "Traceback" in site.daemon.log:
            found.failures.append(f"the daemon's log has a traceback: {site.daemon.log[-2000:]}")
    return found


def _try(site: hostile.Site, case: hostile.Case, verb: Verb, found: figures.Figures) -> Iterator[str]:
    site.clear()
    site.plant()
    site.plant_target()
    case.change(site)
    before = site.state()
    site.canary.songs(), site.calls()
    answer = verb.ask(site)
    found.add("calls")
    found.add("refused" if answer.code else "succeeded")
    yield from _told(site, answer)
    calls = site.calls()
    found.add("runs of qemu-img", len(calls))
    if case.fine and answer.code and not verb.brings:
        yield f"{answer.code} {answer.message}"
    if case.refused and verb.uses:
        found.add("of them before a second file was opened")
        if not answer.code:
            yield "it succeeded"
        if before != site.state():
            yield f"something changed: {_names(_difference(before, site.state()))}"
        for call in calls:
            if len(call.opened) > 1:
                yield f"qemu-img opened {len(call.opened)} files: {_names(call.opened)}"
    yield from (f"canary: {song}" for song in site.canary.songs())
    for call in calls:
        yield from properly_run(call)
    if site.daemon.process.poll() is not None:
        raise RuntimeError(f"the daemon died of {case.name}, {verb.name}\n{site.daemon.log}")


def _difference(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [name for name in {*before, *after} if before.get(name) != after.get(name)]


def _names(paths: Iterable[str]) -> str:
    return ", ".join("/".join(Path(path).parts[-2:]) for path in sorted(paths)[:5])


def _told(site: hostile.Site, answer: Answer) -> Iterator[str]:
    """Whether an answer is one of those that are promised."""
    if not answer.code:
        return
    if not answer.declared or answer.code == 100:
        yield f"undeclared {answer.code} {answer.message}"
    names = [site.image, site.here, site.there, hostile.TARGET, hostile.OTHER]
    names += [hostile.V1, hostile.V2, hostile.V3, hostile.V4, hostile.NEW]
    if not any(name in answer.message for name in names):
        yield f"no name in {answer.message!a}"
    if not answer.message.isprintable() or len(answer.message) > 4000:
        yield f"no text for people: {answer.message!a:.400}"


# ---------------------------------------------------------------- how qemu-img was run


def properly_run(call: hostile.Call) -> Iterator[str]:
    """What is wrong with a run of qemu-img: formats left to guessing, or no limits."""
    command, words = call.words[0], call.words
    shown = " ".join(words)
    options = words[: words.index("--")] if "--" in words else words
    if not ("-f" in options or json_format(words[-1]) or command == "--version"):
        yield f"no format: qemu-img {shown}"
    backed = any(word in options for word in ("-b", "-B")) and command != "commit"
    if backed and "-F" not in options and options[options.index("-b") + 1 :][:1] != [""]:
        yield f"no format of the backing file: qemu-img {shown}"
    memory, processor = call.limits["Max address space"], call.limits["Max cpu time"]
    moves = command in ("convert", "commit", "snapshot") or (command == "rebase" and "-u" not in options)
    moves = moves or "preallocation=falloc" in shown
    if memory == "unlimited" or int(memory) > (_COPY if moves else _LOOK[0]):
        yield f"{memory} bytes of memory: qemu-img {shown}"
    if not moves and (processor == "unlimited" or int(processor) > _LOOK[1]):
        yield f"{processor} s of processor: qemu-img {shown}"
    if call.connected:
        yield f"it connects: qemu-img {shown}"


def json_format(word: str) -> bool:
    """Whether a name of an image says its format, and that nothing beneath it is opened."""
    if not word.startswith("json:"):
        return False
    node = json.loads(word.removeprefix("json:"))
    return node["driver"] == "raw" or (node["driver"] == "qcow2" and node.get("backing", "") is None)


# ---------------------------------------------------------------- verbs


def verbs() -> list[Verb]:
    """Every verb that touches volumes, on the leaf or the whole image."""
    copy = ("copyImage", ("here", "pool", "blank", "image", "V3", "other", "new", "a copy"))
    return [
        *(Verb(f"{name}", functools.partial(_ask, name, words)) for name, words in _LOOKS.items()),
        *(Verb(name, functools.partial(_ask, *words), uses=True) for name, words in _USES.items()),
        Verb(
            "copyImage to raw", functools.partial(_ask, copy[0], (*copy[1], "there", 8, 5, 2, "false", "false")), True
        ),
        Verb(
            "copyImage to qcow2", functools.partial(_ask, copy[0], (*copy[1], "there", 6, 4, 2, "false", "false")), True
        ),
        *(Verb(f"reading volume {n} as a stream", functools.partial(_get, v)) for n, v in ((1, "V1"), (3, "V3"))),
        Verb("writing a volume as a stream", _put_over, brings=True),
        Verb("sending the leaf's file", _put_leaf, uses=True, brings=True),
        # A snapshot names the leaf and opens nothing: who starts a machine on it (prepareImage) is told.
        Verb("createVolume on the leaf", functools.partial(_ask, "createVolume", _SNAPSHOT)),
        Verb(
            "deleteVolume", functools.partial(_ask, "deleteVolume", ("here", "pool", "image", ["V3"], "false", "true"))
        ),
        Verb("deleteImage", functools.partial(_ask, "deleteImage", ("here", "pool", "image", "false", "true"))),
    ]


_WHERE = ("pool", "here", "image", "V3")
_VOLUME = ("here", "pool", "image", "V3")
_LOOKS: dict[str, tuple[Any, ...]] = {
    "getVolumeChain": _WHERE,
    "proveVolumeChain": _WHERE,
    "reconcileVolumeChain": _WHERE,
    "getVolumeInfo": _VOLUME,
    "getVolumeSize": _VOLUME,
    "getVolumePath": _VOLUME,
    "refreshVolume": _VOLUME,
    "volumeSetSize": (*_VOLUME, str(8 * MIB)),
    "setVolumeDescription": (*_VOLUME, "another"),
    "setVolumeLegality": (*_VOLUME, "ILLEGAL"),
    "getImagesList": ("here",),
    "getVolumesList": ("here", "pool", "image"),
    "getImageDomainsList": ("pool", "image"),
    "getStorageDomainStats": ("here",),
    "getStorageDomainInfo": ("here",),
    "validateStorageDomain": ("here",),
    "teardownImage": _WHERE,
}
_SNAPSHOT = ("here", "pool", "image", str(4 * MIB), 4, 2, 2, "new", "a snapshot", "image", "V3")
_USES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "prepareImage": ("prepareImage", _WHERE),
    "moveImage": ("moveImage", ("pool", "here", "there", "image", "blank", 2, "false", "false")),
    "moveImage as a copy": ("moveImage", ("pool", "here", "there", "image", "blank", 1, "false", "false")),
    "moveMultipleImages": ("moveMultipleImages", ("pool", "here", "there", {"image": "false"}, "blank")),
    "cloneImageStructure": ("cloneImageStructure", ("pool", "here", "image", "there")),
    "mergeSnapshots of all": ("mergeSnapshots", ("here", "pool", "blank", "image", "V1", "V3", "false")),
    "mergeSnapshots of the leaf": ("mergeSnapshots", ("here", "pool", "blank", "image", "V2", "V3", "false")),
    "extendVolumeSize": ("extendVolumeSize", ("pool", "here", "image", "V3", str(8 * MIB))),
}


def _words(site: hostile.Site, value: Any) -> Any:
    """An argument with its names replaced by ids."""
    if isinstance(value, list):
        return [_words(site, each) for each in value]
    if isinstance(value, dict):
        return {_words(site, name): each for name, each in value.items()}
    known = {"here": site.here, "there": site.there, "pool": site.pool, "image": site.image, "blank": daemon.BLANK}
    known |= {"V1": hostile.V1, "V2": hostile.V2, "V3": hostile.V3, "new": hostile.NEW, "other": hostile.OTHER}
    return str(known.get(value, value)) if isinstance(value, str) else value


def _ask(name: str, words: Sequence[Any], site: hostile.Site) -> Answer:
    verb = _CATALOGUE.verbs[name]
    reply = site.daemon.answer(name, *(_words(site, word) for word in words))
    code, message = reply["status"]["code"], reply["status"]["message"]
    if code or verb.kind != "task":
        return _answer(code, message, verb.errors)
    return _end(site, reply["uuid"], [each["$ref"].rpartition("/")[2] for each in verb.document["x-task-errors"]])


def _answer(code: int, message: str, declared: Sequence[str]) -> Answer:
    table = status.errors_table()
    return Answer(code, message, not code or code in {table[name][0] for name in declared})


def _end(site: hostile.Site, task: str, declared: Sequence[str] | None = None) -> Answer:
    """Wait for a task and clear it. What takes long, as a vast disk does, must end when it is told to."""
    started, stopped = time.monotonic(), False
    while (found := site.daemon.call("getTaskStatus", task)["taskStatus"])["taskState"] != "finished":
        waited = time.monotonic() - started
        if waited > _LONG and not stopped:
            site.daemon.answer("stopTask", task)  # it may just have ended
            stopped = True
        if waited > _LONG + _PATIENCE:
            raise TimeoutError(f"a task does not end: {found}")
        time.sleep(0.005)
    site.daemon.call("clearTask", task)
    if declared is None or stopped:
        return Answer(found["code"], f"{found['message']}, {site.image}" if stopped else found["message"])
    return _answer(found["code"], found["message"], declared)


# ---------------------------------------------------------------- streams


def _stream(
    site: hostile.Site, method: str, image: str, volume: str, body: bytes = b"", **more: str
) -> tuple[Answer, str]:
    """A request for a volume's content: how it was answered, and its task."""
    host, port = site.daemon.address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=_PATIENCE)
    headers = {"Storage-Pool-Id": site.pool, "Storage-Domain-Id": site.here, "Image-Id": image, "Volume-Id": volume}
    with contextlib.closing(connection):
        connection.request(method, "/", body or None, headers | more)
        reply = connection.getresponse()
        data = reply.read()
        if reply.status >= 300:
            told = json.loads(data)["status"]
            return Answer(told["code"], told["message"]), ""
        return Answer(0, ""), reply.headers["task-id"]


def _get(name: str, site: hostile.Site) -> Answer:
    answer, task = _stream(site, "GET", site.image, _words(site, name), Range="bytes=0-65535")
    return _end(site, task) if task else answer


def _put_over(site: hostile.Site) -> Answer:
    answer, task = _stream(site, "PUT", site.image, hostile.V3, b"x" * 65536)
    return _end(site, task) if task else answer


def _put_leaf(site: hostile.Site) -> Answer:
    """Somebody sends the image to a volume that stands on nothing."""
    path = site.place / hostile.V3
    if site.place.is_symlink() or not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > 4 * MIB:
        return Answer(1, f"{site.image} cannot be sent")
    before = (site.images() / hostile.TARGET / f"{hostile.V4}.meta").read_bytes()
    answer, task = _stream(site, "PUT", hostile.TARGET, hostile.V4, path.read_bytes())
    answer = _end(site, task) if task else answer
    # what is refused stays where it is, ILLEGAL: as if nothing had been there
    for name in (hostile.V4, f"{hostile.V4}.meta"):
        (site.images() / hostile.TARGET / name).write_bytes(site.template(hostile.V4) if name == hostile.V4 else before)
    return answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="hostile", description="every verb on images that mean harm")
    parser.add_argument("--runs", type=int, help="how many calls (default: all)")
    parser.add_argument("--only", default="", help="those alone in whose name this is found (a regular expression)")
    parser.add_argument("--seed", type=int, default=1, help="of their order (default 1)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vl-hostile-") as directory:
        code = figures.tell(run(options.seed, Path(directory), count=options.runs, only=options.only))
    print(f"{time.monotonic() - started:.0f} s, seed {options.seed}")
    return code


if __name__ == "__main__":
    sys.exit(main())
