"""Where the flows of an engine are played: a data centre as its storage comes up, and one that each flow leaves as it
was.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import daemon
from tests.support.engine import centre, disk as disks, reading

NOBODY = "99999999-9999-4999-8999-999999999999"


@contextlib.contextmanager
def new_centre(root: Path, hosts: int = 1) -> Iterator[tuple[centre.Centre, list[daemon.Daemon]]]:
    """Hosts without storage, and a data centre that knows them."""
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(hosts):
            place = root / f"host{number}"
            place.mkdir()
            servers.append(stack.enter_context(daemon.Daemon(place)))
        made = centre.Centre([server.address for server in servers])
        stack.callback(made.close)
        yield made, servers


def directory(root: Path, name: str) -> Path:
    place = root / name
    place.mkdir(mode=0o775)
    return place


def first_domain(made: centre.Centre, root: Path) -> str:
    """4.1, steps 1 to 4."""
    domain = made.make_domain(made.hosts[0], directory(root, "first"), "first")
    made.make_pool(domain)
    made.activate(domain)
    return domain


def second_domain(made: centre.Centre, root: Path) -> str:
    """4.1, step 5."""
    domain = made.make_domain(made.hosts[0], directory(root, "second"), "second")
    assert reading.domain(made.hosts[0].call("getStorageDomainInfo", domain))["pool"] == []
    made.spm_call("attachStorageDomain", domain, made.id)
    made.domains[domain] = "attached"
    assert reading.id_list(made.spm_call("getImagesList", domain), "imageslist") == []
    made.activate(domain)
    return domain


@pytest.fixture(scope="module")
def dc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[centre.Centre]:
    """A data centre of two hosts and two domains, for the flows that leave it as it was."""
    root = tmp_path_factory.mktemp("centre")
    with new_centre(root, 2) as (made, _):
        first_domain(made, root)
        second_domain(made, root)
        yield made


@pytest.fixture(autouse=True)
def in_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each flow: no task is left, and the pool is as the database has it."""
    yield
    if "dc" in request.fixturenames:
        made = request.getfixturevalue("dc")
        assert not made.tasks
        made.keep_alive()


@pytest.fixture
def disk(dc: centre.Centre) -> Iterator[disks.Disk]:
    made = disks.Disk(dc)
    yield made
    made.delete()
