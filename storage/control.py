"""What verbs may ask of the process that serves them."""

import threading
from collections.abc import Callable

from storage import errors


class Control:
    """The process. Whoever runs it says how it is ended."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._asked = False
        self._end: Callable[[], None] | None = None

    def on_end(self, end: Callable[[], None]) -> None:
        """Say how the process is asked to end; `end` must return at once."""
        self._end = end

    def end(self) -> None:
        """Ask the process to end in good order; once: a second signal would end it at once.

        Raises:
            UnexpectedError: nobody has said how.
        """
        if self._end is None:
            raise errors.UnexpectedError(reason="no daemon runs this, so none can end")
        with self._guard:
            asked, self._asked = self._asked, True
        if not asked:
            self._end()
