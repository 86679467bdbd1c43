"""Verbs on connections to storage servers. An entry that fails never keeps the others from being tried."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storage import errors
from storage.domains import connections

if TYPE_CHECKING:
    from storage import services as storage_services

log = logging.getLogger(__name__)

Entries = Sequence[Mapping[str, Any]]
Result = dict[str, Any]
Action = Callable[[connections.Connection], None]


def connect(services: "storage_services.Services", domain_type: int, entries: Entries) -> Result:
    """Connect each entry.

    Args:
        domain_type: server type number of the protocol.
        entries: each with ``id``, which is echoed, and what its type needs.

    Returns:
        ``statuslist``: id and status of each entry in their order; 0, or the code of its error.

    Raises:
        StorageServerConnectionError: the type does not exist, or an entry has no id. Nothing is connected then.
        InvalidParameterException: a number among the words of an entry is none. Nothing is connected then.
    """
    return _each(services, domain_type, entries, lambda each: each.connect(), errors.StorageServerConnectionError)


def disconnect(services: "storage_services.Services", domain_type: int, entries: Entries) -> Result:
    """Disconnect each entry; arguments and answer as `connect`.

    Raises:
        StorageServerDisconnectionError: the type does not exist, or an entry has no id. Nothing is disconnected then.
    """
    return _each(services, domain_type, entries, lambda each: each.disconnect(), errors.StorageServerDisconnectionError)


def validate(services: "storage_services.Services", domain_type: int, entries: Entries) -> Result:
    """Say for each entry whether connecting it would work; arguments and answer as `connect`.

    Raises:
        StorageServerConnectionError: the type does not exist, or an entry has no id.
    """
    return _each(services, domain_type, entries, lambda each: each.validate(), errors.StorageServerConnectionError)


def _each(
    services: "storage_services.Services",
    domain_type: int,
    entries: Entries,
    action: Action,
    refusal: type[errors.StorageServerConnectionError] | type[errors.StorageServerDisconnectionError],
) -> Result:
    if domain_type not in connections.KINDS:
        raise refusal(reason=f"server type {domain_type} does not exist")
    if any("id" not in entry for entry in entries):
        raise refusal(reason="an entry has no id")
    # All are made before the first is connected, so that a wrong number in one leaves nothing half done.
    wanted = [(entry, services.connections.of(domain_type, entry)) for entry in entries]
    try:
        statuses = [{"id": str(entry["id"]), "status": _status(each, action, entry, refusal)} for entry, each in wanted]
    finally:
        services.domains.forget()
    return {"statuslist": statuses}


def _status(
    connection: connections.Connection, action: Action, entry: Mapping[str, Any], refusal: type[errors.StorageError]
) -> int:
    try:
        action(connection)
    except errors.StorageError as error:
        log.warning("connection %s: %s", entry["id"], error)
        return error.code
    except OSError as error:
        log.warning("connection %s: %s", entry["id"], error)
        return refusal.code
    except Exception:  # the protocol answers a status for each entry, and the next entry deserves its try
        log.exception("connection %s", entry["id"])
        return errors.GeneralException.code
    return 0
