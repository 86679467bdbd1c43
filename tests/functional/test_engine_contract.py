"""What an engine of 3.5 does with this host, flow by flow, in its order, with its own XML and its reading of answers.

Each test is a flow. The engine is in `tests.support.engine`; anything it could not read ends a test.
"""

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpc import catalogue
from tests.support import daemon, guest, httpserver, images
from tests.support.engine import centre, disk as disks, host as hosts, link, reactions, reading, streams, wirexml
from tests.support.engine.centre import BLANK
from tests.support.engine.reactions import Reaction
from vdsmlite import status

pytestmark = pytest.mark.qemu

MIB, RAW, COW, SPARSE, DATA_DISK = disks.MIB, disks.RAW, disks.COW, disks.SPARSE, disks.DATA_DISK
DESCRIPTION = disks.DESCRIPTION
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


# ---------------------------------------------------------------- 4.7: a live merge whose machine went down


def machine_is_down(dc: centre.Centre, disk: disks.Disk, base: str, top: str) -> None:
    """4.7, steps 1 and 2: the merge itself is another's; what is asked of this host shows that the machine is down."""
    host = dc.hosts[0]
    drive = {"poolID": dc.id, "domainID": disk.domain, "imageID": disk.id, "volumeID": disk.volumes[-1]}
    assert host.code("merge", NOBODY, drive, base, top, "0", str(uuid.uuid4())) == 1
    assert reading.machines(host.call("getAllVmStats"), "statsList") == []
    assert reading.machines(host.call("list", "true", [NOBODY]), "vmList") == []


def surviving(dc: centre.Centre, disk: disks.Disk, active: str, involved: set[str]) -> set[str]:
    """4.7, step 3: the set of which exactly one may be left; asked again, the answer is the same."""
    answers = []
    for _ in range(2):
        answer = dc.spm_call("reconcileVolumeChain", dc.id, disk.domain, disk.id, active)
        answers.append(set(reading.id_list(answer, "volumes")))
    assert answers[0] == answers[1]
    return answers[0] & involved


def destroy(dc: centre.Centre, disk: disks.Disk, volume: str) -> None:
    """4.7, steps 4 and 5."""
    dc.run("deleteVolume", disk.domain, dc.id, disk.id, [volume], "false", "false")
    disk.volumes.remove(volume)
    listed = reading.id_list(dc.spm_call("getVolumesList", disk.domain, dc.id, disk.id), "uuidlist")
    assert sorted(listed) == sorted(disk.volumes)


needs_machine = pytest.mark.skipif(bool(guest.missing()), reason=f"needs {', '.join(guest.missing())}")


@needs_machine
def test_delete_snapshot_of_a_machine_that_went_down_after_the_merge(dc: centre.Centre, disk: disks.Disk) -> None:
    """Commit of one snapshot into the one below it; the base survives, its size is known, the top is destroyed."""
    disk.chain()
    before = disk.content()
    base, top, active = disk.volumes
    with guest.Machine() as machine:
        machine.open_chain(disk.layers())
        machine.commit(1, 0, backing_text=f"../{disk.id}/{base}")
        machine.wait_completed()
        machine.kill()
    machine_is_down(dc, disk, base, top)
    assert surviving(dc, disk, active, {base, top}) == {base}
    destroy(dc, disk, top)
    assert disk.volume(base).size == 8 * MIB and disk.volume(active).parent == base
    assert disk.content() == before


@needs_machine
def test_delete_snapshot_of_a_machine_that_went_down_after_the_pivot(dc: centre.Centre, disk: disks.Disk) -> None:
    """Commit of the active layer: its host marks it ILLEGAL, pivots, and is gone; the base is the active image now."""
    disk.chain()
    before = disk.content()
    _, base, active = disk.volumes
    with guest.Machine() as machine:
        machine.open_chain(disk.layers())
        machine.commit(2, 1)
        machine.wait_ready()
        dc.spm_call("setVolumeLegality", disk.domain, dc.id, disk.id, active, "ILLEGAL")
        machine.pivot()
        machine.wait_completed()
        machine.quit()
    machine_is_down(dc, disk, base, active)
    assert surviving(dc, disk, active, {base, active}) == {base}
    destroy(dc, disk, active)
    assert disk.volume(base).state == "OK"
    assert disk.content() == before


@needs_machine
def test_delete_snapshot_of_a_machine_that_went_down_before_the_merge_was_through(
    dc: centre.Centre, disk: disks.Disk
) -> None:
    """Both are still there: the command fails, the disk works, and the user's second try is a cold merge."""
    disk.chain()
    before = disk.content()
    base, top, active = disk.volumes
    with guest.Machine() as machine:
        machine.open_chain(disk.layers())
        machine.commit(1, 0, backing_text=f"../{disk.id}/{base}", speed=1)
        machine.kill()
    machine_is_down(dc, disk, base, top)
    assert surviving(dc, disk, active, {base, top}) == {base, top}
    assert disk.content() == before
    dc.run("mergeSnapshots", disk.domain, dc.id, BLANK, disk.id, top, active, "false")
    disk.volumes.remove(top)
    assert disk.content() == before


# ---------------------------------------------------------------- 4.8: moves and copies


def test_cold_move(dc: centre.Centre, disk: disks.Disk) -> None:
    disk.chain()
    before = disk.content()
    [target] = set(dc.domains) - {disk.domain}
    dc.run("moveImage", dc.id, disk.domain, target, disk.id, BLANK, 1, "false", "false")
    disk.delete()
    disk.domain = target
    assert [disk.volume(each).parent for each in disk.volumes] == [BLANK, *disk.volumes[:-1]]
    assert disk.content() == before


def test_template_is_made_copied_and_used(dc: centre.Centre, disk: disks.Disk) -> None:
    disk.chain()
    before = disk.content()
    template, thin = disks.Disk(dc), disks.Disk(dc)
    template.volumes = [str(uuid.uuid4())]
    made = (template.id, template.volumes[0], DESCRIPTION)
    source = (disk.domain, dc.id, BLANK, disk.id, disk.volumes[-1])
    dc.run("copyImage", *source, *made, BLANK, 6, RAW, SPARSE, "false", "false")
    [target] = set(dc.domains) - {disk.domain}
    source = (template.domain, dc.id, BLANK, template.id, template.volumes[0])
    dc.run("copyImage", *source, *made, target, 6, RAW, SPARSE, "false", "false")
    thin.volumes = [str(uuid.uuid4())]
    how = (str(8 * MIB), COW, SPARSE, DATA_DISK, thin.volumes[0], DESCRIPTION)
    dc.run("createVolume", thin.domain, dc.id, thin.id, *how, template.id, template.volumes[0])
    assert thin.content() == before == template.content()
    for each in (thin, template):
        each.delete()
    template.domain = target
    template.delete()


def test_live_storage_migration(dc: centre.Centre, disk: disks.Disk) -> None:
    """The part on storage: structure, the inner volumes, a look at each, and the source goes."""
    disk.create()
    images.write_pattern(disk.path(), 0, MIB, 1, fmt="raw")
    disk.snapshot()
    before = disk.content()
    [target] = set(dc.domains) - {disk.domain}
    dc.run("cloneImageStructure", dc.id, disk.domain, disk.id, target)
    dc.run("syncImageData", dc.id, disk.domain, disk.id, target, "INTERNAL")
    source, disk.domain = disk.domain, target
    assert [disk.volume(each).state for each in disk.volumes] == ["OK", "OK"]
    dc.run("deleteImage", source, dc.id, disk.id, "false", "false")
    assert not disk.exists(source)
    assert disk.content() == before


# ---------------------------------------------------------------- 4.9: uploads and downloads


def test_images_from_and_to_a_server(dc: centre.Centre, disk: disks.Disk) -> None:
    disk.create(MIB)
    with httpserver.serving() as server:
        server.content = os.urandom(MIB)
        where = {"method": "http", "url": server.url("/ok"), "headers": {"X-Auth": "a"}}
        at = (dc.id, disk.domain, disk.id, disk.volumes[0])
        dc.run("downloadImage", where, *at)
        assert disk.path().read_bytes() == server.content
        expected, server.content = server.content, b""
        dc.run("uploadImage", where, *at)
        assert server.content == expected


def test_descriptions_of_machines_in_a_volume(dc: centre.Centre, disk: disks.Disk) -> None:
    """PUT and GET on the port of the verbs; their tasks are polled and cleared like all others."""
    disk.create(MIB)
    spm = dc.elect()
    names = ("Storage-Pool-Id", "Storage-Domain-Id", "Image-Id", "Volume-Id")
    where = dict(zip(names, (dc.id, disk.domain, disk.id, disk.volumes[0]), strict=True))
    data = os.urandom(300_001)
    task = streams.put(spm.link.address, where, data)
    dc.tasks[task] = "downloadImageFromStream"
    assert reading.task_verbs(spm.call("getAllTasksInfo"))[task] == dc.tasks[task]
    assert dc.wait(task).succeeded
    task, back = streams.get(spm.link.address, where, len(data))
    dc.tasks[task] = "uploadImageToStream"
    assert dc.wait(task).succeeded and back == data
    with pytest.raises(streams.Refused) as refused:
        streams.put(spm.link.address, where | {"Image-Id": NOBODY}, data)
    assert reactions.of(refused.value.code) is Reaction.FAIL


def test_descriptions_of_machines_in_the_master(dc: centre.Centre) -> None:
    """updateVM and removeVM, as an engine of older pools keeps them; neither ever moves the SPM."""
    machine = str(uuid.uuid4())
    entry = {"vm": machine, "ovf": "<ovf:Envelope>\u00e9</ovf:Envelope>", "imglist": f"{NOBODY},{machine}"}
    dc.spm_call("updateVM", dc.id, [entry], failover=False)
    answer = dc.spm_call("getVmsInfo", dc.id, BLANK, [machine])
    assert reading.texts(answer, "vmlist") == {machine: entry["ovf"]}
    dc.spm_call("removeVM", dc.id, machine, failover=False)


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
