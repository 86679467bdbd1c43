"""The wire campaign's daemon: hostile requests and damaged ones over real sockets, and what is left afterwards."""

import hashlib
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rpc import catalogue
from tests.campaigns import figures, wireends, wirejudge, wiretalk
from tests.support import daemon, hostilewire, processes, wire

SECONDS = 2.0
"""What the campaign's daemon gives a request, and the pause between two."""
PATIENCE = 20.0
OPEN_AT_ONCE = 100
OPEN_SHARE = 33
MEMORY_LIMIT = 2 << 20

COUNTED: Mapping[str, Callable[[int], int]] = {
    "threads": processes.threads,
    "descriptors": processes.descriptors,
}

# Verbs that do something even with ids that do not exist.
_NOT_SENT = frozenset(
    [
        *("startMonitoringDomain", "stopMonitoringDomain", "connectStorageServer", "disconnectStorageServer"),
        *("validateStorageServerConnection", "createStorageDomain"),
    ]
)


def outdoors(
    found: figures.Figures, schema: catalogue.Catalogue, place: Path, runs: int, seed: int, first: int
) -> None:
    """Hostile requests, then conversations, with a daemon that has a pool and an image."""
    (place / "storage").mkdir()
    limits = {"request_seconds": SECONDS, "idle_seconds": SECONDS}
    config = {"server": limits, "log": {"level": "WARNING", "audit_file": str(place / "audit")}}
    with daemon.Daemon(place, config) as server:
        pool = daemon.make_pool(server, place / "storage")
        image = pool.make_image_chain(1 << 20, ("raw", "qcow2"))
        known = {"storagepoolID": [pool.id], "storagedomainID": [pool.domain], "imageID": [image.id]}
        known["volumeID"] = image.volumes
        before = fingerprint(place / "storage")
        bombs(found, server)
        pid = server.process.pid
        before_talk = {each: count(pid) for each, count in COUNTED.items()}
        talk(found, server, makers_for(schema, known), runs, seed, first)
        found.failures += left_over(pid, before_talk)
        if fingerprint(place / "storage") != before:
            found.failures.append(f"storage has changed, seed {seed}")
        server.call("getVolumeInfo", pool.domain, pool.id, image.id, image.leaf)
        if server.stop() != 0:
            found.failures.append("the daemon did not end as asked")
        found.failures += [f"the log has: {line}" for line in server.log.splitlines() if " ERROR " in line]
        found.failures += ["a traceback in the log"] * server.log.count("Traceback")


def left_over(pid: int, wanted: Mapping[str, int]) -> list[str]:
    """What a process has more of than it had, after the time in which it should have let go of everything."""
    done = processes.settles(
        lambda: all(count(pid) <= wanted[what] for what, count in COUNTED.items()), 4 * SECONDS + PATIENCE
    )
    now = {what: count(pid) for what, count in COUNTED.items()}
    return [] if done else [f"{now} are left, before there were {dict(wanted)}"]


def makers_for(
    schema: catalogue.Catalogue, known: Mapping[str, Sequence[str]]
) -> tuple[wiretalk.Makers, wiretalk.Makers]:
    """Verbs that read, with ids that exist; and those that need ids to change anything, with ids that do not exist."""
    readers = [verb for verb in schema.verbs.values() if verb.name.startswith("get") or verb.name in ("ping", "list")]
    needy = [
        verb
        for verb in schema.verbs.values()
        if verb.name not in _NOT_SENT
        and any(each.required and each.name in ("storagedomainID", "storagepoolID", "taskID") for each in verb.params)
    ]
    return wiretalk.Makers(readers, schema, known), wiretalk.Makers(needy, schema, {})


def talk(
    found: figures.Figures, server: daemon.Daemon, makers: Sequence[wiretalk.Makers], runs: int, seed: int, first: int
) -> None:
    """Conversations with a daemon. Some are not ended by the client: those are held a hundred at a time."""
    judge = wirejudge.Judge(makers[0].schema)
    number, done = first, 0
    open_ends: list[tuple[wiretalk.Conversation, socket.socket]] = []
    while done < runs:
        said = wiretalk.converse(number, seed, makers[number % 2])
        done += said.damaged
        number += 1
        to_end = number % OPEN_SHARE != 0
        sock = wireends.talk(server.address, said.data, end=to_end, patience=PATIENCE)
        if not to_end:
            open_ends.append((said, sock))
        else:
            hear(found, judge, said, sock, seed)
        if len(open_ends) == OPEN_AT_ONCE or done >= runs:
            for each in open_ends:
                hear(found, judge, *each, seed)
            found.add("left open", len(open_ends))
            open_ends.clear()
    found.add("requests damaged", done)
    found.add("connections to a daemon", number - first)


def hear(
    found: figures.Figures, judge: wirejudge.Judge, said: wiretalk.Conversation, sock: socket.socket, seed: int
) -> None:
    """Take the answers of a daemon until it ends the connection."""
    with sock:
        try:
            answers = wireends.answers(wire.read_all(sock))
        except TimeoutError:
            problems = [f"no end within {PATIENCE:g} s"]
        else:
            problems = wiretalk.orderly(judge, answers, wirejudge.requests(said.data))
    found.failures += [f"daemon, conversation {said.number}, seed {seed}: {each}" for each in problems]


def bombs(found: figures.Figures, server: daemon.Daemon, rounds: int = 2) -> None:
    """Send each hostile request several times; the first round warms up, the last is measured."""
    pid = server.process.pid
    for _ in range(rounds):
        memory, spent = processes.resident(pid), processes.cpu_seconds(pid)
        for name, request in hostile_requests():
            with wireends.talk(server.address, request, end=True, patience=PATIENCE) as sock:
                try:
                    answers = wireends.answers(wire.read_all(sock))
                except TimeoutError:
                    found.failures.append(f"{name}: no end within {PATIENCE:g} s")
                    continue
            if len(answers) != 1 or answers[0].successes():
                found.failures.append(f"{name}: {answers}"[:300])
    number = len(list(hostile_requests()))
    grown = processes.resident(pid) - memory
    found.add("hostile requests", number)
    found.add("ms of CPU for each", round(1000 * (processes.cpu_seconds(pid) - spent) / number))
    found.add("KiB grown by all", max(0, grown >> 10))
    if grown > MEMORY_LIMIT:
        found.failures.append(f"{number} hostile requests, sent once more, cost {grown >> 10} KiB")


def hostile_requests() -> Iterator[tuple[str, bytes]]:
    """By name: bombs in XML and in JSON, and heads that are none."""
    xml = (
        hostilewire.XML_DOCUMENT_TYPES,
        hostilewire.XML_TOO_MUCH,
        hostilewire.XML_NO_CALLS,
        hostilewire.XML_NOT_WELL_FORMED,
    )
    for bodies in xml:
        yield from ((f"XML, {name}", wire.post(body, Connection="close")) for name, body in bodies.items())
    for name, body in hostilewire.JSON_NOT_ACCEPTED.items():
        yield f"JSON, {name}", wire.post(body, "/jsonrpc", Connection="close")
    yield from ((f"HTTP, {name}", request) for name, request in hostilewire.HTTP_BROKEN.items())


def fingerprint(tree: Path) -> str:
    """Names, kinds, modes and bytes of everything below a directory, as one number."""
    digest = hashlib.sha256()
    for directory, names, files in os.walk(tree):
        names.sort()
        for name in sorted([*names, *files]):
            path = Path(directory, name)
            about = path.lstat()
            digest.update(f"{path.relative_to(tree)} {about.st_mode} {about.st_ino}\n".encode(errors="surrogateescape"))
            if stat.S_ISREG(about.st_mode):
                digest.update(path.read_bytes())
    return digest.hexdigest()
