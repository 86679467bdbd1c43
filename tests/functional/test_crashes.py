"""A sample of every round of the campaigns of crashes, and what they found."""

import random
from pathlib import Path

import pytest

from storage.hsm import connection, pool
from tests.campaigns import crashes, fulldisk, straced
from tests.support import faults, injected, scenarios, stage, trouble, world

pytestmark = pytest.mark.qemu

QUICK = ("setVolumeDescription", "moveImage", "reconcileVolumeChain torn")


@pytest.mark.timeout(300)
def test_ends_losses_of_power_and_errors(tmp_path: Path) -> None:
    sizes: dict[str, int | None] = {"kills": 5, "power": 5, "errors": 1}
    found = crashes.run(sizes, QUICK, seed=4, workers=1, directory=tmp_path)
    assert not found.failures
    assert found.counts["kills"] >= 12 and found.counts["losses of power"] == 15
    assert found.counts["errors injected"] >= 12


@pytest.mark.timeout(300)
def test_real_kills(tmp_path: Path) -> None:
    if why := injected.reason():
        pytest.skip(why)
    found = straced.run(1, ["setVolumeDescription"], seed=4, directory=tmp_path)
    assert not found.failures and found.counts["calls traced"] >= 5 and found.counts["kills"] >= 2


@pytest.mark.root
@pytest.mark.timeout(300)
def test_full_storage() -> None:
    found = fulldisk.run(["createVolume snapshot"])
    assert not found.failures and found.counts["deletions without space"] == 1


# ---------------------------------------------------------------- what the campaigns found


def test_a_domains_record_leaves_no_temporaries_behind(tmp_path: Path) -> None:
    here = world.World(tmp_path)
    domain = here.domain()
    for fault in trouble.ends():
        with stage.struck(fault):
            domain.update({"DESCRIPTION": f"name {fault.at}"})
        domain.update({"DESCRIPTION": f"the end of {fault.at}"})
        left = [path.name for path in (domain.path / "dom_md").iterdir() if path.name.endswith(".new")]
        assert left == []


@pytest.mark.timeout(300)
def test_a_machine_is_never_copied_in_part(tmp_path: Path) -> None:
    """The copy may come to light by a reconstruction, without any migration that finishes it."""
    play = stage.Stage(tmp_path)
    play.enter(play.named("deactivateStorageDomain master"))
    journal = play.record()
    copied = scenarios.place(play.root, "b") / scenarios.B / "master" / "vms" / scenarios.VM / f"{scenarios.VM}.ovf"
    texts = set()
    for at in journal.points:
        for cut in (None, random.Random(at)):
            journal.killed(at, cut)
            if copied.exists():
                texts.add(copied.read_text())
    assert texts == {"<old/>"}


def test_links_of_a_pool_that_is_gone_can_be_removed(tmp_path: Path) -> None:
    here = world.World(tmp_path)
    pool_id = here.pool(here.domain())
    here.die()
    after = world.World(tmp_path)
    assert after.services.repository.pool_directory(pool_id).exists()
    pool.disconnect(after.services, pool_id, 1)
    assert not after.services.repository.pool_directory(pool_id).exists()


def test_a_restart_removes_temporaries_of_the_repository(tmp_path: Path) -> None:
    here = world.World(tmp_path)
    (tmp_path / "data").mkdir()
    with stage.struck(trouble.Ends(2)):
        here.connect_storage(tmp_path / "data")
    with stage.struck(trouble.Ends(1)):
        connection.connect(here.services, 4, [{"id": "x", "connection": str(tmp_path / "data")}])
    after = world.World(tmp_path)
    assert [path.name for path in after.services.repository.mnt.iterdir() if path.name.endswith(".new")] == []


def test_a_connection_that_the_disk_refuses_has_its_own_code(tmp_path: Path) -> None:
    here = world.World(tmp_path)
    (tmp_path / "data").mkdir()
    with faults.Faults(0, OSError(5, "Input/output error")).strike():
        reply = connection.connect(here.services, 4, [{"id": "x", "connection": str(tmp_path / "data")}])
    assert reply["statuslist"][0]["status"] == 451
