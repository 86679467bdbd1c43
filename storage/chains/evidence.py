"""What a decision about a chain rests on: questions that pure code asks, and answers that reading the images gives.

The one question that matters about a volume: *would what stands on it read the same without it?* If yes, dropping it
loses nothing, whatever any header or mark says. If no, it must stay.
"""

import dataclasses

from storage import ids


@dataclasses.dataclass(frozen=True)
class Question:
    """Does `child` read the same on top of `below` as on top of `upper`?

    Attributes:
        upper: volumes that would be dropped, nearest the child first.
        child: the volume that stands on them; None when the first of `upper` is itself the leaf.
        below: the stack that would take their place, top first, as it really is (which its headers may not say yet);
            empty for no backing at all.
    """

    upper: tuple[ids.VolumeId, ...]
    child: ids.VolumeId | None
    below: tuple[ids.VolumeId, ...]

    @property
    def target(self) -> ids.VolumeId | None:
        """The volume that should have taken over what the dropped ones held."""
        return self.below[0] if self.below else None

    def __str__(self) -> str:
        names = " and ".join(self.upper)
        onto = f"volume {self.target}" if self.target else "nothing"
        return f"{names} against {onto}"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the images themselves say to a question.

    Attributes:
        covered: whether the target itself holds every cluster that counts, read from allocation tables, or reads the
            same where it does not; None when its tables cannot tell: it is raw, or forgets what it was given.
        same: whether all bytes that count are equal; None when they were not all compared.
        common: the same, looking only at what the target holds itself.
        held: bytes of guest disk that count.
        compared: bytes that were compared.
        note: for people: where the first difference lies, or why not all was compared.
    """

    covered: bool | None
    same: bool | None
    common: bool | None
    held: int = 0
    compared: int = 0
    note: str = ""
    remembered: bool = False

    def told(self) -> str:
        """The evidence in one sentence."""
        if self.held == 0:
            return "it holds nothing that counts"
        coverage = {
            True: "all of it held by the target",
            False: "not all of it held by the target",
            None: "of which the target keeps no account",
        }
        equal = {True: "all bytes equal", False: "bytes differ", None: "bytes not all compared"}
        parts = [f"{self.held} bytes held, {coverage[self.covered]}", f"{self.compared} compared, {equal[self.same]}"]
        return "; ".join([*parts, *([self.note] if self.note else [])])
