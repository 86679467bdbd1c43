"""Recoveries: the named steps that undo a task, and the table that says what each name may do.

A recovery is stored as three names and some text parameters in a file on shared storage. The names are looked up in a
table; a name that the table lacks is never turned into code. Actions must be repeatable: after a crash the whole stack
runs again from its top, also the steps that were done already.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

Triple = tuple[str, str, str]
"""Module, object and function, as the record names them."""

Action = Callable[[Any, Any, tuple[str, ...]], None]
"""What undoes a step: called with the context of the table (the services), the task, and the parameters."""

SENTINEL_NAME = "rollback sentinel"
SENTINEL: Triple = ("volume", "Volume", "startCreateVolumeRollback")

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Recovery:
    """One step of a rollback.

    Attributes:
        name: title, unique within the task.
        module, object, function: names of the record's format; keys of the table, nothing else.
        params: text parameters of the action.

    Raises:
        ValueError: a name that no record can hold.
    """

    name: str
    module: str
    object: str
    function: str
    params: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a recovery needs a name")
        for word in self.triple:
            if not _WORD.fullmatch(word):
                raise ValueError(f"{word!r:.80} cannot name a part of a recovery")

    @property
    def triple(self) -> Triple:
        return (self.module, self.object, self.function)

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.name!r} ({'.'.join(self.triple)})"


def sentinel(*params: str) -> Recovery:
    """Marks where a scope of recoveries begins; does nothing when it is run."""
    return Recovery(SENTINEL_NAME, *SENTINEL, params)


class Table:
    """What may be run.

    Args:
        actions: triple to action; the sentinel's entry is added when it is missing.
        context: handed to every action as its first argument; may be set later, before the first recovery runs.
    """

    def __init__(self, actions: Mapping[Triple, Action], context: object = None) -> None:
        self._actions = {SENTINEL: _nothing, **actions}
        self.context = context

    def unknown(self, recoveries: tuple[Recovery, ...]) -> Recovery | None:
        """The first recovery without an entry, from the top of the stack; None when all can run."""
        return next((step for step in reversed(recoveries) if step.triple not in self._actions), None)

    def run(self, task: object, step: Recovery) -> None:
        """Run one known recovery. Raises what its action raises."""
        self._actions[step.triple](self.context, task, step.params)


def _nothing(_context: object, _task: object, _params: tuple[str, ...]) -> None:
    pass
