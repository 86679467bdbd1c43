"""What an engine of 3.5 does with the data of disks on this host: live merges cut off, moves, copies and streams."""

import os
import uuid

import pytest

from tests.support import guest, httpserver, images
from tests.support.engine import centre, disk as disks, flows, reactions, reading, streams
from tests.support.engine.centre import BLANK
from tests.support.engine.reactions import Reaction

pytestmark = pytest.mark.qemu

MIB, RAW, COW, SPARSE, DATA_DISK = disks.MIB, disks.RAW, disks.COW, disks.SPARSE, disks.DATA_DISK
DESCRIPTION, NOBODY = disks.DESCRIPTION, flows.NOBODY
dc, disk, in_order = flows.dc, flows.disk, flows.in_order


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
