"""The storage floor over a temporary directory, with domains in it: what tests of pools and tasks start from."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage import ids, services, settings
from storage.domains import domain as storage_domain
from storage.hsm import connection as hsm_connection, domain as hsm_domain, pool as hsm_pool, task as hsm_task

POOL = ids.PoolId("6e4d6a96-1234-1234-8905-b5eec55c1535")
SECONDS = 20.0


class World:
    """One daemon's storage floor.

    Args:
        root: an empty directory, or that of an earlier world, whose storage it then sees after a restart.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.services = services.build(settings.Settings(root / "repository", lock_timeout=0.2, workers=2))

    def domain(self, *, version: int = 3, domain_class: int = 1) -> storage_domain.Domain:
        """A new domain in a directory of its own, connected."""
        domain_id = ids.DomainId.new()
        place = self.root / f"storage-{domain_id[:8]}"
        place.mkdir()
        self.connect_storage(place)
        hsm_domain.create(self.services, domain_id, 4, str(place), "a name", domain_class, version)
        return self.services.domains.find(domain_id)

    def connect_storage(self, place: Path) -> None:
        reply: Any = hsm_connection.connect(self.services, 4, [{"id": "x", "connection": str(place)}])
        assert reply["statuslist"][0]["status"] == 0

    def pool(self, *members: storage_domain.Domain, connected: bool = True, version: int = 1) -> ids.PoolId:
        """A pool; the first domain is the master."""
        names = [each.id for each in members]
        hsm_pool.create(self.services, POOL, "a pool", names[0], names, version)
        if connected:
            self.connect(members[0], version=version)
        return POOL

    def connect(
        self,
        master: storage_domain.Domain,
        *,
        version: int = 1,
        host: int = 1,
        domains: Mapping[ids.DomainId, str] | None = None,
    ) -> None:
        hsm_pool.connect(self.services, POOL, host, master.id, version, domains)

    def start_spm(self, version: int | None = None) -> dict[str, object]:
        """Start the SPM and wait for its task; the status of the task."""
        return self.wait(hsm_pool.spm_start(self.services, POOL, -1, -1, 250, version)["uuid"])

    def wait(self, task: object) -> dict[str, object]:
        """Wait until a task rests; its status."""
        task_id = ids.TaskId(str(task))
        assert self.services.tasks.wait(task_id, SECONDS)
        status: Any = hsm_task.get_status(self.services, task_id)["taskStatus"]
        return dict(status)

    def spm_status(self) -> tuple[str, int, int]:
        """Role, lock version, host id."""
        status: Any = hsm_pool.get_spm_status(self.services, POOL)["spm_st"]
        return status["spmStatus"], status["spmLver"], status["spmId"]

    def die(self) -> None:
        """End like a killed process: locks go, nothing is written."""
        self.services.tasks.shutdown(SECONDS)
        for each in self.services.pools.all():
            each.master.cluster_lock.release()


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
