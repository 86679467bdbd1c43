"""What a campaign counted, and how it is told."""

import dataclasses


@dataclasses.dataclass
class Figures:
    """The outcome of one campaign.

    Attributes:
        name: what it did, in a few words.
        counts: what was counted, in the order in which it is told, e.g. ``{"crash points": 812}``.
        failures: a sentence each, with what repeats it (a seed, a number); empty when every promise was kept.
    """

    name: str
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)

    def add(self, what: str, number: int = 1) -> None:
        """Count something."""
        self.counts[what] = self.counts.get(what, 0) + number

    def __str__(self) -> str:
        told = [*(f"{what} {number:,}" for what, number in self.counts.items()), f"failures {len(self.failures)}"]
        return f"{self.name}: {', '.join(told)}"


def tell(figures: Figures) -> int:
    """Print one campaign's outcome, failures first; the exit code."""
    for failure in figures.failures[:20]:
        print(f"FAILED: {failure}")
    print(figures, flush=True)
    return 1 if figures.failures else 0
