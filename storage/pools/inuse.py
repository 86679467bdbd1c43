"""Which domains are in use: those that are Active in a connected pool."""

from collections.abc import Iterable

from storage import errors, ids
from storage.pools import pool, poolbackend


class InUse:
    """Answers that. While a pool's map cannot be read, what was known of it before holds, and its master counts.

    Args:
        pools: the connected pools.
    """

    def __init__(self, pools: pool.Registry) -> None:
        self._pools = pools
        self._known: dict[ids.PoolId, frozenset[ids.DomainId]] = {}

    def __call__(self) -> Iterable[ids.DomainId]:
        """The domains. Reads the master's record, so it takes as long as the storage does."""
        known = {}
        for each in self._pools.all():
            try:
                domains = each.state().domains
                known[each.id] = frozenset(name for name, status in domains.items() if status == poolbackend.ACTIVE)
            except errors.StorageError:
                # The look at the master tells what is wrong.
                known[each.id] = self._known.get(each.id, frozenset()) | {each.master.id}
        self._known = known
        return frozenset[ids.DomainId]().union(*known.values())
