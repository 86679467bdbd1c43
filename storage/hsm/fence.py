"""The verb that has another host fenced."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from storage import errors, fencing, ids

if TYPE_CHECKING:
    from storage import services as storage_services

log = logging.getLogger(__name__)

Result = dict[str, Any]

INITIATED, SKIPPED = "initiated", "skipped"


def fence(
    services: "storage_services.Services", request: fencing.Request, host_ids: Mapping[ids.DomainId, int]
) -> Result:
    """Ask for, or change, the power of another host.

    Args:
        request: what its fence agent is asked.
        host_ids: id of that host in domains. While it holds the lock of one of them it is alive, and is not fenced. A
            domain that does not tell does not protect it.

    Returns:
        ``power``: on, off or unknown; ``operationStatus``: initiated or skipped. What is not known is left out.

    Raises:
        StorageError: as `fencing.run`.
    """
    asks = request.action == "status"
    if not asks and request.action in fencing.ACTIONS and any(_is_alive(services, *each) for each in host_ids.items()):
        log.warning("%s of %s is skipped: the host is alive", request.action, request.address)
        return {"operationStatus": SKIPPED}
    power = fencing.run(request)
    log.info("fence agent %s: %s of %s: %s", request.agent, request.action, request.address, power)
    return {"power": power} if asks else {"power": power, "operationStatus": INITIATED}


def _is_alive(services: "storage_services.Services", domain_id: ids.DomainId, host_id: int) -> bool:
    try:
        holder = services.domains.find(domain_id).cluster_lock.inquire()
    except errors.StorageError as error:
        log.warning("whether host %d is alive cannot be told from domain %s: %s", host_id, domain_id, error)
        return False
    return holder is not None and holder.host_id == host_id
