"""What an engine of 3.5 does with this host, flow by flow, in its order, with its own XML and its reading of answers.

Each test is a flow. The engine is in `tests.support.engine`; anything it could not read ends a test. What flows do with
the data of disks is in `test_engine_contract_data`.
"""

import contextlib
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from rpc import catalogue
from tests.support import daemon
from tests.support.engine import centre, disk as disks, flows, host as hosts, link, reactions, reading, wirexml
from tests.support.engine.centre import BLANK
from tests.support.engine.reactions import Reaction
from vdsmlite import status

pytestmark = pytest.mark.qemu

MIB, RAW, COW, SPARSE, DATA_DISK = disks.MIB, disks.RAW, disks.COW, disks.SPARSE, disks.DATA_DISK
DESCRIPTION, NOBODY = disks.DESCRIPTION, flows.NOBODY
directory, new_centre = flows.directory, flows.new_centre
first_domain, second_domain = flows.first_domain, flows.second_domain
dc, disk, in_order = flows.dc, flows.disk, flows.in_order


# ---------------------------------------------------------------- 4.1 and 4.2: storage comes up


def test_first_data_domain_and_pool(tmp_path: Path) -> None:
    with new_centre(tmp_path) as (made, _):
        domain = first_domain(made, tmp_path)
        host = made.hosts[0]
        calls = [verb for verb in host.link.calls if not verb.startswith("getTask")]
        assert calls == [
            *("connectStorageServer", "createStorageDomain", "getStorageDomainStats"),
            *("connectStorageServer", "createStoragePool", "connectStorageServer"),
            *("connectStoragePool", "getSpmStatus", "spmStart", "getSpmStatus", "clearTask", "getAllTasksInfo"),
            *("activateStorageDomain", "connectStoragePool"),
        ]
        assert set(made.keep_alive().domains) == {domain}
        assert reading.domain(host.call("getStorageDomainInfo", domain))["pool"] == [made.id]


def test_second_data_domain(tmp_path: Path) -> None:
    with new_centre(tmp_path) as (made, _):
        first = first_domain(made, tmp_path)
        second = second_domain(made, tmp_path)
        assert set(made.keep_alive().domains) == {first, second}
        listed = made.hosts[0].call("getStorageDomainsList", made.id, 1, "", "")
        assert set(reading.id_list(listed, "domlist")) == {first, second}


def test_domain_that_names_another_pool_is_taken_from_it(tmp_path: Path) -> None:
    with new_centre(tmp_path) as (lost, _):
        domain = first_domain(lost, tmp_path)
        assert lost.stop_spm()
    (tmp_path / "new").mkdir()
    with new_centre(tmp_path / "new") as (made, _):
        first_domain(made, tmp_path / "new")
        made.places[domain] = lost.places[domain]
        made.connect_storage(made.hosts[0], domain, BLANK)
        assert reading.domain(made.hosts[0].call("getStorageDomainInfo", domain))["pool"] == [lost.id]
        made.spm_call("forcedDetachStorageDomain", domain, BLANK)
        made.spm_call("attachStorageDomain", domain, made.id)
        made.domains[domain] = "attached"
        made.activate(domain)
        made.keep_alive()


def test_domain_goes_to_maintenance_and_leaves(tmp_path: Path) -> None:
    with new_centre(tmp_path) as (made, _):
        first_domain(made, tmp_path)
        second = second_domain(made, tmp_path)
        made.spm_call("deactivateStorageDomain", second, made.id, BLANK, made.version)
        made.domains[second] = "attached"
        made.refresh()
        made.keep_alive()
        made.spm_call("detachStorageDomain", second, made.id, BLANK, made.version)
        del made.domains[second]
        made.refresh()
        made.keep_alive()
        made.hosts[0].call("formatStorageDomain", second)


def test_host_comes_up(dc: centre.Centre) -> None:
    for host in dc.hosts:
        reading.capabilities(host.call("getVdsCapabilities"))
        dc.bring_up(host)


def test_map_is_told_again_and_again(dc: centre.Centre) -> None:
    """connectStoragePool on connected hosts, the SPM included, with the same map and with another one."""
    [other] = set(dc.domains) - {dc.master}
    for state in ("attached", "active", "active"):
        dc.domains[other] = state
        dc.refresh()
        dc.refresh()
        dc.keep_alive()


def test_host_of_an_older_pool_is_refreshed(tmp_path: Path) -> None:
    """Of 3.4 and before: the map is in the master; a change is told by another verb, whose 309 means to connect."""
    with new_centre(tmp_path) as (made, _):
        host = made.hosts[0]
        domain = made.make_domain(host, directory(tmp_path, "first"), "first")
        made.make_pool(domain)
        told = (made.id, domain, made.version)
        assert host.code("refreshStoragePool", *told) == 309
        for _ in range(2):
            assert host.code("connectStoragePool", made.id, host.number, made.id, domain, made.version) == 0
        assert host.code("refreshStoragePool", *told) == 0
        found = reading.pool(host.call("getStoragePoolInfo", made.id))
        assert (found.master, found.version, found.domains[domain].state) == (domain, 1, "Active")
        assert host.code("refreshStoragePool", made.id, domain, made.version + 1) == 324


# ---------------------------------------------------------------- 4.3: the SPM


def test_spm_election_and_keep_alive(dc: centre.Centre) -> None:
    before = dc.elect()
    for _ in range(3):
        dc.keep_alive()
        assert dc.elect() is before
    assert dc.stop_spm()
    after = dc.elect(avoid=before)
    assert after is not before
    assert before.code("attachStorageDomain", NOBODY, dc.id) == 654


def test_spm_is_not_stopped_while_a_task_is_there(dc: centre.Centre, disk: disks.Disk) -> None:
    task = dc.start_task(
        *("createVolume", disk.domain, dc.id, disk.id, str(MIB), RAW, SPARSE, DATA_DISK),
        *(str(uuid.uuid4()), DESCRIPTION, BLANK, BLANK),
    )
    assert not dc.stop_spm()
    assert dc.spm is not None and dc.wait(task).succeeded
    disk.volumes = reading.id_list(dc.spm_call("getVolumesList", disk.domain, dc.id, disk.id), "uuidlist")
    assert dc.stop_spm()
    dc.elect()


def test_spm_that_is_none_any_more_is_elected_anew(dc: centre.Centre) -> None:
    """654 for a verb: another engine, or a person, has stopped it."""
    spm = dc.elect()
    assert spm.code("spmStop", dc.id) == 0
    [other] = set(dc.domains) - {dc.master}
    assert reading.id_list(dc.spm_call("getVolumesList", other, dc.id, BLANK), "uuidlist") == []
    dc.spm_call("setStoragePoolDescription", dc.id, "another name")
    assert dc.keep_alive().name == "another name"


def test_master_that_is_none_is_made_anew(tmp_path: Path) -> None:
    """324: the database names a master that the storage does not; it is made one before the SPM is."""
    with new_centre(tmp_path) as (made, _):
        first = first_domain(made, tmp_path)
        made.master = second_domain(made, tmp_path)
        assert made.stop_spm()
        host = made.hosts[0]
        assert host.code("disconnectStoragePool", made.id, 1, made.id) == 0
        assert made.connect_pool(host) == 324
        made.elect()
        assert made.version == 2
        made.keep_alive()
        assert reading.domain(host.call("getStorageDomainInfo", first))["role"] == "Regular"


def test_failure_that_another_host_may_not_have_moves_the_spm(dc: centre.Centre, disk: disks.Disk) -> None:
    """201: three tries, each on another host than the one before; then the command has failed, and the pool has not."""
    disk.create()
    spm = dc.elect()
    calls = {host.number: len(host.link.calls) for host in dc.hosts}
    with pytest.raises(hosts.CommandFailed) as caught:
        dc.spm_call("setVolumeLegality", disk.domain, dc.id, disk.id, NOBODY, "LEGAL")
    assert (caught.value.code, caught.value.reaction) == (201, Reaction.FAILOVER)
    tried = [host.link.calls[calls[host.number] :].count("setVolumeLegality") for host in dc.hosts]
    assert sorted(tried) == [1, 2] and tried[spm.number - 1] == 2
    assert dc.elect() is spm


def test_failure_of_one_command_leaves_the_spm(dc: centre.Centre, disk: disks.Disk) -> None:
    disk.chain()
    spm = dc.elect()
    where = (disk.domain, dc.id)
    for verb, values, code in (
        ("deleteImage", (*where, NOBODY, "false", "false"), 268),
        ("reconcileVolumeChain", (dc.id, disk.domain, NOBODY, disk.volumes[-1]), 268),
        ("detachStorageDomain", (*where, BLANK, dc.version), 383),
    ):
        with pytest.raises(hosts.CommandFailed) as caught:
            dc.spm_call(verb, *values)
        assert (caught.value.code, caught.value.reaction) == (code, Reaction.FAIL), verb
    assert dc.spm is spm
    with pytest.raises(hosts.CommandFailed):
        dc.spm_call("setVolumeDescription", *where, disk.id, NOBODY, "x", failover=False)
    assert dc.spm is spm


@pytest.mark.parametrize("verb", ["reconcileVolumeChain", "getVolumeChain", "proveVolumeChain"])
def test_what_is_wrong_with_a_chain_never_moves_the_spm(verb: str) -> None:
    """Codes that say what another host would say as well."""
    table = status.errors_table()
    found = catalogue.load().verbs[verb]
    declared = {*found.errors, *(each["$ref"].rpartition("/")[2] for each in found.document.get("x-task-errors", ()))}
    logical = {"ImageIsNotLegalChain", "ImageDoesNotExistInSD", "VolumeIsBusy", "ImageValidationError"} & declared
    assert "ImageDoesNotExistInSD" in logical
    assert {reactions.of(table[name][0]) for name in logical} == {Reaction.FAIL}


def test_unknown_verb_is_a_fault(dc: centre.Centre) -> None:
    with pytest.raises(wirexml.Fault) as caught:
        dc.hosts[0].link.call("diskReplicateStart", NOBODY, {}, {})
    assert caught.value.code == 1


# ---------------------------------------------------------------- 4.4 to 4.6: disks and snapshots


def test_create_disk(dc: centre.Centre, disk: disks.Disk) -> None:
    disk.create(3 << 40)
    assert reading.id_list(dc.spm_call("getImagesList", disk.domain), "imageslist") == [disk.id]
    dc.spm_call("setVolumeDescription", disk.domain, dc.id, disk.id, disk.volumes[0], "another", failover=False)
    assert disk.volume(disk.volumes[0]).description == "another"


def test_create_snapshot(dc: centre.Centre, disk: disks.Disk) -> None:
    disk.create()
    disk.snapshot()
    listed = reading.id_list(dc.spm_call("getVolumesList", disk.domain, dc.id, disk.id), "uuidlist")
    assert sorted(listed) == sorted(disk.volumes)
    drive = dict(zip(("baseVolumeID", "volumeID"), disk.volumes, strict=True))
    drives = [{"domainID": disk.domain, "imageID": disk.id, **drive}]
    assert dc.hosts[0].code("snapshot", NOBODY, drives) == 1, "no machine of this host can be asked"


def test_delete_snapshot_of_a_machine_that_is_down(dc: centre.Centre, disk: disks.Disk) -> None:
    """The successor's id stays; the ancestor's goes."""
    disk.chain()
    before = disk.content()
    base, ancestor, successor = disk.volumes
    dc.run("mergeSnapshots", disk.domain, dc.id, BLANK, disk.id, ancestor, successor, "false")
    disk.volumes = [base, successor]
    assert (disk.volume(successor).parent, disk.volume(successor).state) == (base, "OK")
    listed = reading.id_list(dc.spm_call("getVolumesList", disk.domain, dc.id, disk.id), "uuidlist")
    assert sorted(listed) == sorted(disk.volumes)
    assert disk.content() == before


# ---------------------------------------------------------------- 4.10 and 4.11: hosts die, tasks stay


def test_host_death(tmp_path: Path) -> None:
    """The SPM's host is cut off: the next election names it, does not wait for it, and learns of its tasks."""
    with new_centre(tmp_path, 2) as (made, servers):
        first_domain(made, tmp_path)
        dead, alive = made.elect(), made.hosts[1]
        assert dead is made.hosts[0]
        disk = disks.Disk(made)
        disk.create()
        task = made.start_task("deleteImage", disk.domain, made.id, disk.id, "false", "false")
        servers[0].kill()
        dead.up, made.spm, made.fenced = False, None, dead.number
        assert made.elect() is alive
        found = made.wait(task)
        gone = not disk.exists(disk.domain)
        assert gone or not found.succeeded, "a success that is none"
        made.keep_alive()


def settle(host: hosts.Host, task: str) -> None:
    """Wait for the end of a task without clearing it."""
    end = time.monotonic() + centre.PATIENCE
    while (found := reading.task(host.call("getTaskStatus", task))).state != "finished":
        assert time.monotonic() < end, found
        time.sleep(0.01)


def test_tasks_outlive_the_daemon_until_they_are_cleared(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        made, servers = stack.enter_context(new_centre(tmp_path))
        first_domain(made, tmp_path)
        disk = disks.Disk(made)
        disk.create()
        copy = (str(uuid.uuid4()), DESCRIPTION, disk.id, disk.volumes[0])
        how = (str(8 * MIB), COW, SPARSE, DATA_DISK)
        task = made.start_task("createVolume", disk.domain, made.id, disk.id, *how, *copy)
        spm = made.elect()
        settle(spm, task)
        unknown = made.start_task("mergeSnapshots", disk.domain, made.id, BLANK, disk.id, NOBODY, copy[0], "false")
        settle(spm, unknown)
        before = reading.tasks(spm.call("getAllTasksStatuses"))
        servers[0].kill()
        made.close()
        again = stack.enter_context(daemon.Daemon(servers[0].directory))
        host = made.hosts[0] = hosts.Host(1, link.Link(again.address), up=False)
        stack.callback(host.link.close)
        made.bring_up(host)
        made.spm = None
        assert made.elect() is host
        assert reading.tasks(host.call("getAllTasksStatuses")) == before
        assert made.wait(task).succeeded and not made.wait(unknown).succeeded
        assert reading.tasks(host.call("getAllTasksStatuses")) == {}
        assert reading.task_verbs(host.call("getAllTasksInfo")) == {}


def test_task_polling(dc: centre.Centre, disk: disks.Disk) -> None:
    """A failure keeps its code until it is cleared; what is cleared, or never was, is unknown and no more than that."""
    disk.create()
    spm = dc.elect()
    values = (disk.domain, dc.id, disk.id, str(MIB), COW, SPARSE, DATA_DISK, disk.volumes[0], DESCRIPTION)
    task = dc.start_task("createVolume", *values, BLANK, BLANK)
    found = dc.wait(task)
    assert (found.state, found.result, reactions.of(found.code)) == ("finished", "cleanSuccess", Reaction.FAIL)
    assert not found.succeeded and found.message
    for verb in ("getTaskStatus", "clearTask", "revertTask", "stopTask"):
        assert spm.code(verb, task) == 401


def test_zombie_is_stopped(tmp_path: Path) -> None:
    """stopTask of what takes too long: it ends as a failure whose traces are gone."""
    program = tmp_path / "qemu-img"
    program.write_text('#!/bin/sh\n[ "$1" = convert ] && exec sleep 60\nexec qemu-img "$@"\n')
    program.chmod(0o755)
    (tmp_path / "host").mkdir()
    config = {"storage": {"qemu_img": str(program)}}
    with (
        daemon.Daemon(tmp_path / "host", config) as server,
        contextlib.closing(centre.Centre([server.address])) as made,
    ):
        first_domain(made, tmp_path)
        disk = disks.Disk(made)
        disk.chain()
        target = second_domain(made, tmp_path)
        task = made.start_task("moveImage", made.id, disk.domain, target, disk.id, BLANK, 1, "false", "false")
        made.poll()
        assert task in made.tasks
        made.hosts[0].call("stopTask", task)
        found = made.wait(task)
        assert (found.code, found.result) == (411, "cleanSuccess")
        assert not disk.exists(target) and disk.exists(disk.domain)
        assert subprocess.run(["qemu-img", "check", "-q", str(disk.path())], check=False).returncode == 0
