"""Use the daemon for long: many calls of all kinds by several clients, and see that nothing grows and nothing is lost.

    python -m tests.campaigns.soak --calls 100000 --seed 1

First all clients do each kind of thing at once, so that the most that each kind needs has been needed. When a fifth
of the calls are made, and at the end, they pause: in between memory may not grow, nor may there be more threads or
descriptors. Each task must be found, finished and gone; each call of a verb must have its audit line.
"""

import argparse
import collections
import dataclasses
import math
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rpc import catalogue
from tests.campaigns import figures, soakclient
from tests.support import daemon, processes

NAME = "soak"
CLIENTS = 8
WORKERS = 4
GROWTH = 0.05
FIRST = 0.2
"""After this share of the calls everything that is made once has been made."""
EACH = 25
"""How often every client does each kind of thing at the beginning."""
_PATIENCE = 20.0

AUDIT_LINE = re.compile(
    r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z client=127\.0\.0\.1:\d+ flow=(?P<flow>[\w-]+) via=(?P<via>[\w-]+)"
    r" verb=(?P<verb>\w+)(?: \w+ID=[0-9a-f-]{36})* code=(?P<code>\d+) ms=\d+\.\d"
)


@dataclasses.dataclass(frozen=True)
class Rest:
    """What a daemon has while nobody calls."""

    memory: int
    threads: int
    descriptors: int


def run(calls: int = 100_000, seed: int = 1, growth: float | None = GROWTH) -> figures.Figures:
    """The whole campaign.

    Args:
        calls: of all clients together, at least.
        growth: share by which memory may grow from the first pause to the second; None: it is only told, since a few
            calls say nothing of it.
    """
    found = figures.Figures(NAME)
    with tempfile.TemporaryDirectory(prefix="vl-soak-") as name:
        place = Path(name)
        (place / "storage").mkdir()
        audit = place / "audit"
        config = {"storage": {"workers": WORKERS}, "log": {"level": "WARNING", "audit_file": str(audit)}}
        with daemon.Daemon(place, config) as server:
            clients = _use(found, server, place / "storage", calls, seed, growth)
            if server.stop() != 0:
                found.failures.append("the daemon did not end as asked")
        found.failures += [f"the log has: {line}" for line in server.log.splitlines() if " ERROR " in line]
        seen: soakclient.Seen = collections.Counter()
        for client in clients:
            seen += client.seen
        check_audit(found, audit.read_text().splitlines(), seen)
    return found


def _use(
    found: figures.Figures, server: daemon.Daemon, storage: Path, calls: int, seed: int, growth: float | None
) -> list[soakclient.Client]:
    pool = daemon.make_pool(server, storage)
    schema = catalogue.load()
    images = [pool.make_image_chain(1 << 20, ("raw",)) for _ in range(CLIENTS)]
    clients = [soakclient.Client(number, seed, pool, image, schema) for number, image in enumerate(images)]
    started = time.monotonic()
    for kind in soakclient.KINDS:
        _all_at_once(found, clients, round(calls * FIRST), kind, EACH if growth is not None else 1)
    _all_at_once(found, clients, round(calls * FIRST))
    first = rest(server.process.pid)
    _all_at_once(found, clients, calls)
    found.add("calls a second", round(sum(client.calls for client in clients) / (time.monotonic() - started)))
    # The last transfers' threads may still be about to go.
    processes.settles(lambda: rest(server.process.pid).threads <= first.threads, _PATIENCE)
    compare(found, first, rest(server.process.pid), growth)
    left = server.call("getAllTasksStatuses")["allTasksStatus"]
    if left:
        found.failures.append(f"{len(left)} tasks are left: {left}")
    if set(server.call("getImagesList", pool.domain)["imageslist"]) != {image.id for image in images}:
        found.failures.append("other images are there than those of the beginning")
    for image in images:
        if pool.info(image, image.leaf)["voltype"] != "LEAF":
            found.failures.append(f"the volume of image {image.id} is no leaf any more")
    for client in clients:
        client.close()
    found.add("calls", sum(client.calls for client in clients))
    found.add("tasks", sum(client.tasks for client in clients))
    return clients


def _all_at_once(
    found: figures.Figures,
    clients: Sequence[soakclient.Client],
    calls: int,
    kind: str = "step",
    most: float = math.inf,
) -> None:
    """Let every client call until it has made its share of so many calls, or done one kind of thing often enough."""

    def work(client: soakclient.Client) -> None:
        done = 0
        try:
            while client.calls < calls // len(clients) and done < most:
                getattr(client, kind)()
                done += 1
        except Exception as error:  # whatever a client meets with is a finding, and the end of this client
            found.failures.append(f"client {clients.index(client)}, after {client.calls} calls: {error!r}")

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rest(pid: int) -> Rest:
    """What the daemon has now."""
    return Rest(processes.resident(pid), processes.threads(pid), processes.descriptors(pid))


def compare(found: figures.Figures, first: Rest, last: Rest, growth: float | None) -> None:
    """Tell what has become more, and whether that is too much."""
    found.add("MiB at first", first.memory >> 20)
    found.add("KiB more at the end", (last.memory - first.memory) >> 10)
    found.add("threads", last.threads)
    found.add("descriptors", last.descriptors)
    if growth is not None and last.memory > first.memory * (1 + growth):
        found.failures.append(f"memory has grown from {first.memory} to {last.memory} bytes")
    # Workers start when they are needed, and the first pause may come before the last of them was.
    if last.threads > first.threads + (WORKERS - 1 if growth is None else 0):
        found.failures.append(f"{last.threads} threads, there were {first.threads}")
    if last.descriptors > first.descriptors:
        found.failures.append(f"{last.descriptors} descriptors, there were {first.descriptors}")


def check_audit(found: figures.Figures, lines: Sequence[str], seen: soakclient.Seen) -> None:
    """Hold an audit log against what the clients were answered; lines without a flow id are not theirs."""
    logged: soakclient.Seen = collections.Counter()
    for line in lines:
        match = AUDIT_LINE.fullmatch(line)
        if match is None:
            found.failures.append(f"an odd audit line: {line!r:.300}")
        elif match["flow"] != "-":
            logged[match["flow"], match["via"], match["verb"], int(match["code"])] += 1
    found.add("audit lines", logged.total())
    found.failures += [f"no audit line for {key}" for key in (seen - logged)]
    found.failures += [f"an audit line too many: {key}" for key in (logged - seen)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="soak", description="use the daemon for long, and see that nothing grows")
    parser.add_argument("--calls", type=int, default=100_000, help="of all clients together (default 100000)")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (default 1)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    code = figures.tell(run(options.calls, options.seed))
    print(f"{options.calls} calls in {time.monotonic() - started:.0f} s, seed {options.seed}")
    return code


if __name__ == "__main__":
    sys.exit(main())
