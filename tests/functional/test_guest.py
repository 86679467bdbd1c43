"""The test bench itself: it must see lost bytes, or none of the merge tests is worth anything."""

import random
from pathlib import Path

import pytest

from tests.support import guest, images, oracle, qmp

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(bool(guest.missing()), reason=f"needs {', '.join(guest.missing())}"),
]

MIB = 1 << 20
SIZE = 64 * MIB
BLOCKS_8_MIB = 8 * MIB // oracle.BLOCK


def chain(directory: Path) -> list[guest.Layer]:
    """Three images a <- b <- c; data goes into a range of its own in each, so that no layer hides another's loss."""
    return [guest.Layer(path) for path in images.make_chain(directory, 3, size=SIZE, names="abc", write=False)]


def ranges(layer: int) -> range:
    return range(layer * 2 * BLOCKS_8_MIB, layer * 2 * BLOCKS_8_MIB + 32)


@pytest.fixture
def disk() -> oracle.Disk:
    return oracle.Disk(SIZE)


@pytest.fixture
def layers(tmp_path: Path, disk: oracle.Disk) -> list[guest.Layer]:
    made = chain(tmp_path)
    guest.fill(made, [ranges(0), ranges(1), ranges(2)], disk)
    return made


PROGRAMS = pytest.mark.parametrize("program", [guest.STORAGE_DAEMON, guest.SYSTEM])


@PROGRAMS
def test_monitor_sorts_replies_and_events(program: str, layers: list[guest.Layer]) -> None:
    with guest.Machine(program) as machine:
        machine.open_chain(layers)
        with pytest.raises(qmp.Refused, match="chain"):
            machine.commit(1, 2, backing_text="b")
        machine.commit(1, 0, backing_text="a")
        machine.wait_completed()
        machine.dismiss()
        names = [event["event"] for event in machine.monitor.events]
        assert "JOB_STATUS_CHANGE" in names and "BLOCK_JOB_COMPLETED" not in names
        machine.quit()
    assert machine.process.returncode == 0
    assert oracle.backing_name(layers[2].path) == "a"


def test_machine_that_cannot_start_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest.Machine, "_command", lambda self, program: [program, "--no-such-option"])
    with pytest.raises(qmp.Gone):
        guest.Machine()


def test_flushed_writes_survive_a_kill(layers: list[guest.Layer], disk: oracle.Disk) -> None:
    with guest.Machine() as machine:
        machine.open_chain(layers)
        user = guest.Guest(machine.export(), disk, random.Random(1))
        user.start([*ranges(1), *range(900, 930)])
        user.wait_flushes(30)
        machine.kill()
        user.finish()
    assert oracle.different(layers[2].path, "qcow2", disk) is None


def test_guest_reads_what_it_wrote(layers: list[guest.Layer], disk: oracle.Disk) -> None:
    with guest.Machine() as machine:
        machine.open_chain(layers)
        client = machine.export()
        assert client.size == SIZE
        guest.Guest(client, disk, random.Random(1)).write([5, 700], zeroes=[ranges(0)[1]])
        assert client.read(ranges(0)[1] * oracle.BLOCK, oracle.BLOCK) == bytes(oracle.BLOCK)
        for block in (5, 700, ranges(1)[3]):
            assert client.read(block * oracle.BLOCK, oracle.BLOCK) == disk.allowed(block)[0]
        client.close()


@PROGRAMS
def test_writable_backing_nodes_lose_bytes_although_the_job_completed(
    program: str, layers: list[guest.Layer], disk: oracle.Disk
) -> None:
    """The self-test: here the header says "merged", QEMU said "completed", every check is clean, and bytes are gone."""
    with guest.Machine(program) as machine:
        machine.open_chain(layers, writable_backing=True)
        machine.commit(1, 0, backing_text="a")
        machine.wait_completed()
        machine.kill()
    assert oracle.backing_name(layers[2].path) == "a"
    loss = oracle.different(layers[2].path, "qcow2", disk)
    assert loss is not None and loss.bytes == 32 * oracle.BLOCK and loss.offset == ranges(1)[0] * oracle.BLOCK
    images.qemu_img("check", "-q", "-f", "qcow2", layers[0].path)
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "b", layers[2].path)
    assert oracle.different(layers[2].path, "qcow2", disk) is None


def test_read_only_backing_nodes_are_flushed_at_completion(layers: list[guest.Layer], disk: oracle.Disk) -> None:
    with guest.Machine() as machine:
        machine.open_chain(layers)
        machine.commit(1, 0, backing_text="a")
        machine.wait_completed()
        machine.kill()
    assert oracle.backing_name(layers[2].path) == "a"
    assert oracle.different(layers[2].path, "qcow2", disk) is None


@PROGRAMS
def test_before_the_pivot_a_flush_reaches_the_leaf_only(
    program: str, layers: list[guest.Layer], disk: oracle.Disk
) -> None:
    with guest.Machine(program) as machine:
        machine.open_chain(layers)
        user = guest.Guest(machine.export(), disk, random.Random(1))
        machine.commit(2, 1)
        machine.wait_ready()
        machine.pause()
        user.write([900, 901])
        machine.kill()
    assert oracle.different(layers[2].path, "qcow2", disk) is None
    assert oracle.different(layers[1].path, "qcow2", disk) is not None


@PROGRAMS
def test_after_the_pivot_the_leaf_is_stale(program: str, layers: list[guest.Layer], disk: oracle.Disk) -> None:
    with guest.Machine(program) as machine:
        machine.open_chain(layers)
        user = guest.Guest(machine.export(), disk, random.Random(1))
        machine.commit(2, 1)
        machine.wait_ready()
        machine.pivot()
        machine.wait_completed()
        user.write([900, ranges(2)[4], ranges(2)[5]])
        machine.kill()
    assert oracle.backing_name(layers[2].path) == "b"
    assert oracle.different(layers[1].path, "qcow2", disk) is None
    stale = oracle.Difference(ranges(2)[4] * oracle.BLOCK, 2 * oracle.BLOCK)  # block 900 shows through from the parent
    assert oracle.different(layers[2].path, "qcow2", disk) == stale


def test_header_watcher_sees_the_switch_and_gives_up_otherwise(layers: list[guest.Layer]) -> None:
    with guest.Machine() as machine:
        machine.open_chain(layers)
        with pytest.raises(TimeoutError):
            guest.wait_header(layers[2].path, lambda name: name == "a", timeout=0.05)
        machine.commit(1, 0, backing_text="a", send=True)
        guest.wait_header(layers[2].path, lambda name: name == "a")


def test_oracle_accepts_old_or_new_of_a_write_under_way_and_nothing_else(tmp_path: Path) -> None:
    disk = oracle.Disk(4 * oracle.BLOCK)
    image = tmp_path / "raw"
    image.touch()
    with image.open("r+b") as stream:
        stream.truncate(disk.size)
        assert oracle.compare(image, disk) is None
        old = disk.begin(1)
        disk.settle()
        assert oracle.compare(image, disk) == oracle.Difference(oracle.BLOCK, oracle.BLOCK)
        new = disk.begin(1)
        for content in (old, new, old[:1024] + new[1024:]):
            stream.seek(oracle.BLOCK)
            stream.write(content)
            stream.flush()
            assert oracle.compare(image, disk) is None
        for offset, wrong in ((oracle.BLOCK + 513, 512), (2 * oracle.BLOCK, 2 * 512)):
            stream.seek(offset)
            stream.write(b"\xff")
            stream.flush()
            assert oracle.compare(image, disk) == oracle.Difference(oracle.BLOCK + 512, wrong)
        stream.truncate(disk.size - 512)
    assert oracle.compare(image, disk) == oracle.Difference(disk.size - 512, 512)


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    disk = oracle.Disk(4 * oracle.BLOCK)
    image = tmp_path / "raw"
    content = disk.begin(2)
    with pytest.raises(ValueError, match="not flushed"):
        disk.digest()
    disk.settle()
    image.write_bytes(bytes(2 * oracle.BLOCK) + content + bytes(oracle.BLOCK))
    assert disk.digest() == oracle.digest(image, "raw", tmp_path)
    assert disk.digest() != oracle.Disk(4 * oracle.BLOCK).digest()


def test_fingerprint_sees_a_changed_byte_mode_and_name(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes(70000) + b"1")
    before = oracle.fingerprint(tmp_path)
    assert oracle.fingerprint(tmp_path) == before
    file.write_bytes(bytes(70000) + b"2")
    assert oracle.fingerprint(tmp_path) != before
    file.write_bytes(bytes(70000) + b"1")
    file.chmod(0o600)
    assert oracle.fingerprint(tmp_path) != before
    file.chmod(before["x"][0] & 0o777)
    (tmp_path / "y").symlink_to("x")
    assert oracle.fingerprint(tmp_path) != before


def test_unreadable_chain_is_an_error_not_a_verdict(tmp_path: Path, disk: oracle.Disk) -> None:
    path = images.create(tmp_path / "q", SIZE, backing="absent")
    with pytest.raises(AssertionError, match="absent"):
        oracle.different(path, "qcow2", disk)
