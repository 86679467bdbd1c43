"""Conversations of the wire campaign: how they are made, and what is wrong with the answers."""

import dataclasses
import random
from collections.abc import Mapping, Sequence

from rpc import catalogue
from tests.campaigns import legalcalls, mutation, wireends, wirejudge


@dataclasses.dataclass(frozen=True)
class Conversation:
    """What is said on one connection.

    Attributes:
        number: with the seed, it makes all choices.
        parts: requests.
        damaged: how many of them.
    """

    number: int
    parts: tuple[bytes, ...]
    damaged: int

    @property
    def data(self) -> bytes:
        return b"".join(self.parts)


@dataclasses.dataclass(frozen=True)
class Makers:
    """Makes makers of requests."""

    verbs: Sequence[catalogue.Verb]
    schema: catalogue.Catalogue
    known: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __call__(self, rng: random.Random) -> legalcalls.Maker:
        return legalcalls.Maker(rng, self.verbs, self.schema.types, self.known)


def converse(number: int, seed: int, makers: Makers) -> Conversation:
    """Make a conversation."""
    rng = random.Random(f"{seed}/{number}")
    maker, mutator = makers(rng), mutation.Mutator(rng)
    parts, damaged = [], 0
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        part = maker.any()
        if rng.random() < 0.8:
            part = mutator.mutate(part, maker.any())
            damaged += 1
        parts.append(part)
    return Conversation(number, tuple(parts), damaged)


def orderly(
    judge: wirejudge.Judge, answers: Sequence[wireends.Answer], requests: Sequence[wirejudge.Request]
) -> list[str]:
    """What is wrong with answers: their form, successes of what was not legal, and where refusals stand."""
    problems = []
    for place, answer in enumerate(answers):
        try:
            successes = answer.successes()
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"an odd answer: {error!r:.200}, {answer.body[:200]!r}")
            continue
        if b"Traceback" in answer.body:
            problems.append("a traceback in an answer")
        if successes and (place >= len(requests) or successes > len(judge.calls(requests[place]))):
            problems.append(f"answer {place} is a success of what is not legal: {requests[place:]!r:.500}")
        if answer.status >= 400 and place != len(answers) - 1:
            problems.append(f"status {answer.status}, and the connection lives on")
    return problems
