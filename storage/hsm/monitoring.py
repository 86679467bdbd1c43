"""Verbs about the watch over domains, and how the health of a domain looks on the wire."""

from typing import TYPE_CHECKING, Any

from storage import ids
from storage.domains import monitor

if TYPE_CHECKING:
    from storage import services as storage_services

Result = dict[str, Any]


def repo_stats(services: "storage_services.Services") -> Result:
    """getStorageRepoStats: the health of every watched domain; one that nobody has looked at yet is not ``actual``."""
    return {str(each): wire(found) for each, found in services.monitor.health(wait=False).items()}


def start(services: "storage_services.Services", domain_id: ids.DomainId, host_id: int) -> None:
    """startMonitoringDomain: watch a domain that need not exist; a second time changes nothing.

    Args:
        host_id: not used: a domain on files needs none to be read.

    Raises:
        GeneralException: too many domains are watched.
    """
    services.monitor.watch(domain_id)


def stop(services: "storage_services.Services", domain_id: ids.DomainId) -> None:
    """stopMonitoringDomain: take that back. A domain that is Active in a connected pool is watched on."""
    services.monitor.unwatch(domain_id)


def wire(found: monitor.Health) -> Result:
    """A domain's health by the names of the protocol; ``lastCheck`` and ``delay`` are seconds, sizes bytes, as text.

    The members about a metadata area mean something on block storage only.
    """
    answer: Result = {
        "code": found.found.code,
        "lastCheck": f"{max(0.0, found.age):.1f}",
        "delay": f"{max(0.0, found.delay):.9f}",
        "valid": found.valid,
        "version": found.found.version,
        # A domain on files needs no host id of its own: whoever can read it may take its lock.
        "acquired": found.actual and found.valid,
        "actual": found.actual,
    }
    if found.found.total is not None and found.found.free is not None:
        answer |= {
            "disktotal": str(found.found.total),
            "diskfree": str(found.found.free),
            "mdavalid": True,
            "mdathreshold": True,
            "mdasize": 0,
            "mdafree": 0,
        }
    return answer
