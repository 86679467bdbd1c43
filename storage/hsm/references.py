"""Verbs on references to connections, which this host keeps up."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storage import errors

if TYPE_CHECKING:
    from storage import services as storage_services

log = logging.getLogger(__name__)

Result = dict[str, Any]


def acquire(services: "storage_services.Services", wanted: Mapping[str, Any]) -> Result:
    """Hold references: their targets are connected soon, and again whenever they are found not to be.

    Args:
        wanted: id -> struct of ``type`` and ``params``.

    Returns:
        ``results``: for each id 0, or the code of its error.

    Raises:
        StorageServerActionError: the record of the references cannot be used.
    """
    return _results(services.keeper.acquire(wanted))


def release(services: "storage_services.Services", names: Sequence[str]) -> Result:
    """Let references go; answer and errors as `acquire`. The last one on a target has it disconnected, soon."""
    return _results(services.keeper.release(names))


def statuses(services: "storage_services.Services") -> Result:
    """Every reference, whether it is connected, and why not, as of the last look at it.

    Raises:
        StorageServerActionError: the record of the references cannot be used.
    """
    return {
        "connectionslist": {
            name: {
                "connected": state.connected,
                "lastError": [state.code, state.message],
                "connectionInfo": made_of.shown(),
            }
            for name, (made_of, state) in services.keeper.states().items()
        }
    }


def _results(found: Mapping[str, errors.StorageError | None]) -> Result:
    for name, error in found.items():
        if error is not None:
            log.warning("reference %s: %s", name, error)
    return {"results": {name: 0 if error is None else error.code for name, error in found.items()}}
