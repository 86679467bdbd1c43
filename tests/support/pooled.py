"""What tests of pools ask of a world: the world as a fixture, the links of its pool, the files of its domains."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import ids
from storage.domains import domain as storage_domain
from tests.support import world

POOL = world.POOL
OTHER_POOL = ids.PoolId("7e4d6a96-1234-1234-8905-b5eec55c1535")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[world.World]:
    """A world, closed at the end."""
    made = world.World(tmp_path / "world")
    yield made
    made.services.close(1.0)


def done_task(here: world.World) -> ids.TaskId:
    """A task of the pool that has ended."""
    task = here.services.tasks.schedule(
        "createVolume", lambda task: None, store=here.services.pools.get(POOL).task_store
    )
    here.wait(task)
    return task


def links(here: world.World) -> dict[str, str]:
    """Name to target of the links to a pool's domains; none without the directory."""
    directory = here.services.repository.pool_directory(POOL)
    return {name: os.readlink(directory / name) for name in os.listdir(directory)} if directory.exists() else {}


def files_of(domain: storage_domain.Domain) -> dict[str, bytes]:
    """Path to content of every file of a domain."""
    return {str(path): path.read_bytes() for path in sorted(domain.path.rglob("*")) if path.is_file()}
