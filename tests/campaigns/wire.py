"""Talk to the daemon in damaged requests, many thousands of them, and see that nothing breaks, hangs, leaks or runs.

    python -m tests.campaigns.wire --runs 100000 --seed 1

Four of five conversations are held with the rpc floor in this process, the others with a whole daemon and its storage.
A conversation is one to four requests on one connection, most of them damaged. Whatever is run must be legal for other
readers too, and mean the same to them; everything else must be refused, in an orderly way.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rpc import catalogue
from tests.campaigns import figures, mutation, wiredaemon, wireends, wirejudge, wiretalk

NAME = "the wire"


def run(runs: int = 100_000, seed: int = 1) -> figures.Figures:
    """The whole campaign; `runs` counts damaged requests."""
    found = figures.Figures(NAME)
    schema = catalogue.load()
    number = indoors(found, schema, runs * 4 // 5, seed)
    with tempfile.TemporaryDirectory(prefix="vl-wire-") as place:
        wiredaemon.outdoors(found, schema, Path(place), runs - runs * 4 // 5, seed, number)
    return found


def indoors(found: figures.Figures, schema: catalogue.Catalogue, runs: int, seed: int) -> int:
    """Conversations with the rpc floor; gives the number after the last."""
    judge = wirejudge.Judge(schema)
    makers = wiretalk.Makers(list(schema.verbs.values()), schema)
    number = done = 0
    with wireends.Indoors(schema) as home:
        while done < runs:
            said = wiretalk.converse(number, seed, makers)
            problems = [*heard(home, judge, said), *(f"logged: {each}" for each in home.complaints)]
            home.complaints.clear()
            found.failures += [f"in process, conversation {number}, seed {seed}: {each}" for each in problems]
            found.add("requests damaged", said.damaged)
            found.add("calls run in process", len(home.ran))
            found.add("rewritten harmlessly", reworded(found, home, said, seed, makers))
            done += said.damaged
            number += 1
    return number


def heard(home: wireends.Indoors, judge: wirejudge.Judge, said: wiretalk.Conversation) -> list[str]:
    """Hold a conversation in this process; what is wrong with it."""
    try:
        answers = wireends.answers(home.converse(said.data))
    except Exception as error:  # whatever came out of the server's code is a bug in it
        return [f"the connection's thread would have ended with {error!r}"]
    requests = wirejudge.requests(said.data)
    problems = wiretalk.orderly(judge, answers, requests)
    legal = [call.text for request in requests for call in judge.calls(request)] if home.ran else []
    ran = [call.text for call in home.ran]
    if not wireends.in_order(ran, legal):
        problems.append(f"ran {ran}, of which not all are in {legal}")
    return problems


def reworded(
    found: figures.Figures, home: wireends.Indoors, said: wiretalk.Conversation, seed: int, makers: wiretalk.Makers
) -> int:
    """For one conversation of eight: a legal request in other words must run the same calls. Gives how many it did."""
    if said.number % 8:
        return 0
    rng = random.Random(f"{seed}/{said.number}/harmless")
    maker = makers(rng)
    request = rng.choice((maker.xml, maker.json))()
    home.converse(request)
    meant = [call.text for call in home.ran]
    answer = home.converse(mutation.Mutator(rng).harmless(request))
    if meant != [call.text for call in home.ran]:
        found.failures.append(f"conversation {said.number}, seed {seed}: other words, other meaning: {answer[:300]!r}")
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="wire", description="talk to the daemon in damaged requests")
    parser.add_argument("--runs", type=int, default=100_000, help="damaged requests (default 100000)")
    parser.add_argument("--seed", type=int, default=1, help="of every random choice (default 1)")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    code = figures.tell(run(options.runs, options.seed))
    print(f"{options.runs} damaged requests in {time.monotonic() - started:.0f} s, seed {options.seed}")
    return code


if __name__ == "__main__":
    sys.exit(main())
