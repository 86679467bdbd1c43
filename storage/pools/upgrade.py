"""Which domains of a pool still wait for a higher version. Raising them is `conversion`'s; here is only the list."""

import threading
from collections.abc import Iterable

from storage import errors, ids


class Queue:
    """Domains that wait for their conversion, in the background, while this host is the SPM. For several threads.

    Args:
        pool_id: for messages.
    """

    def __init__(self, pool_id: ids.PoolId) -> None:
        self._pool = pool_id
        self._guard = threading.Lock()
        self._left: list[ids.DomainId] = []
        self._stopping = threading.Event()

    @property
    def left(self) -> list[ids.DomainId]:
        """Domains that wait, the one that is being converted among them."""
        with self._guard:
            return list(self._left)

    @property
    def stopping(self) -> bool:
        """Whether to stop at the next image: every state in between can be read, and the next upgrade goes on."""
        return self._stopping.is_set()

    def refuse_second(self) -> None:
        """Refuse a second upgrade before the first one is through.

        Raises:
            PoolUpgradeInProgress: domains wait.
        """
        if left := self.left:
            raise errors.PoolUpgradeInProgress(pool=self._pool, domains=", ".join(left))

    def begin(self, domain_ids: Iterable[ids.DomainId]) -> None:
        """Put domains on the list.

        Raises:
            PoolUpgradeInProgress: others are on it.
        """
        self.refuse_second()
        with self._guard:
            self._left = list(domain_ids)
            self._stopping.clear()

    def done(self, domain_id: ids.DomainId) -> None:
        """Take a domain off the list, whatever became of it."""
        with self._guard:
            self._left = [each for each in self._left if each != domain_id]

    def cancel(self) -> None:
        """Have the conversion stop soon and convert no further domain; the role is about to be given up."""
        self._stopping.set()
