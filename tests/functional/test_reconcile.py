"""reconcileVolumeChain over the storage floor, on chains that real tools left half merged: the guest's bytes decide."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import errors, ids
from storage.chains import reconcile, repair
from storage.hsm import chain as hsm_chain, image as hsm_image, volume as hsm_volume
from storage.volumes import volume_metadata
from tests.support import chains, guest, images, world

pytestmark = pytest.mark.qemu

VERSIONS = (0, 3, 4, 5)
LEAF, INTERNAL, SHARED = volume_metadata.LEAF, volume_metadata.INTERNAL, volume_metadata.SHARED
LEGAL, ILLEGAL = volume_metadata.LEGAL, volume_metadata.ILLEGAL
RAW = volume_metadata.RAW
v = chains.volume_id


class Made(chains.Image):
    """An image whose volumes are made, looked at and deleted by verbs."""

    def __init__(self, host: "Host") -> None:
        super().__init__(host.domain, ids.ImageId.new())
        self.host = host

    def add(
        self, number: int, parent: int | None = None, *, fmt: str = volume_metadata.COW, **options: Any
    ) -> ids.VolumeId:
        if options:
            return super().add(number, parent, fmt=fmt, **options)
        self.host.create(self.id, v(number), fmt, None if parent is None else v(parent))
        return v(number)

    def verb(self, leaf: int, chosen: int | None = None) -> dict[str, Any]:
        options = None if chosen is None else {"leaf": v(chosen)}
        arguments = (self.host.services, world.POOL, self.domain.id, self.id)
        return hsm_chain.reconcile_volume_chain(*arguments, v(leaf), options)

    def dry_run(self, leaf: int) -> dict[str, Any]:
        return hsm_chain.get_volume_chain(self.host.services, world.POOL, self.domain.id, self.id, v(leaf))

    def prepare(self, leaf: int) -> None:
        hsm_image.prepare(self.host.services, world.POOL, self.domain.id, self.id, v(leaf))

    def delete(self, *numbers: int) -> None:
        """As an engine would: not by force, children first."""
        names = [v(number) for number in numbers]
        arguments = (self.host.services, world.POOL, self.domain.id, self.id)
        self.host.done(hsm_image.delete_volumes(*arguments, names, False, False))


class Host:
    """One host, the SPM of a pool on one domain."""

    def __init__(self, root: Path, version: int) -> None:
        self.world = world.World(root)
        self.services = self.world.services
        self.domain: Any = self.world.domain(version=version)
        self.world.pool(self.domain)
        self.world.start_spm()

    def image(self) -> Made:
        return Made(self)

    def create(self, image: ids.ImageId, volume: ids.VolumeId, fmt: str, parent: ids.VolumeId | None) -> None:
        blank = ids.VolumeId(ids.BLANK)
        code = {volume_metadata.COW: 4, RAW: 5}[fmt]
        made = hsm_volume.create(
            self.services, world.POOL, self.domain.id, image, volume, chains.SIZE, code, 2, "2", "a disk",
            ids.ImageId(ids.BLANK), parent or blank,
        )  # fmt: skip
        self.done(made)

    def done(self, reply: dict[str, Any]) -> None:
        status = self.world.wait(reply["uuid"])
        assert status["taskResult"] == "success", status


@pytest.fixture(scope="module")
def hosts() -> Iterator[Callable[[int], Host]]:
    """A host by the version of its domain, made when it is asked for."""
    made: dict[int, Host] = {}
    with chains.scratch() as root:

        def host(version: int) -> Host:
            if version not in made:
                made[version] = Host(root / str(version), version)
            return made[version]

        yield host
        for each in made.values():
            each.world.die()


@pytest.fixture(params=VERSIONS, ids=lambda version: f"version-{version}")
def image(request: pytest.FixtureRequest, hosts: Callable[[int], Host]) -> Made:
    return hosts(request.param).image()


@pytest.fixture
def newer(hosts: Callable[[int], Host]) -> Made:
    """An image in a domain of a version whose volumes are qcow2 of version 3."""
    return hosts(4).image()


@pytest.fixture
def older(hosts: Callable[[int], Host]) -> Made:
    return hosts(3).image()


def succeeds(image: Made, leaf: int, expected: list[int], before: bytes) -> dict[str, Any]:
    """All that a successful call promises: the chain, the guest's bytes, one truth, a second call without a change,
    and that whatever was dropped may be deleted."""
    stays = image.snapshot()
    foretold = image.dry_run(leaf)
    assert image.snapshot() == stays, "getVolumeChain changed something"
    reply = image.verb(leaf)
    assert chains.numbers(reply["volumes"]) == expected == chains.numbers(foretold["volumes"])
    assert foretold["changes"] == reply["changes"]
    after = image.snapshot()
    again = image.verb(leaf)
    assert (again["volumes"], again["changed"]) == (reply["volumes"], False)
    assert image.snapshot() == after
    agrees(image, expected)
    assert image.guest(expected[-1]) == before
    dropped = [n for n in sorted(chains.numbers(image.look().records), reverse=True) if n not in expected]
    if dropped:
        image.delete(*dropped)
    assert image.guest(expected[-1]) == before
    agrees(image, expected)
    return reply


def agrees(image: Made, expected: list[int]) -> None:
    """Headers, as qemu-img reads them, and records both say this chain, and a guest may run on it."""
    parent: int | None = None
    for number in expected:
        known = image.metadata(number)
        if known.format != RAW:
            named = images.info(image.data(number)).get("backing-filename")
            assert named is None if parent is None else str(named).rpartition("/")[2] == v(parent)
        if known.image == image.id and known.voltype != SHARED:
            assert known.parent == (ids.BLANK if parent is None else v(parent))
            assert (known.legality, known.voltype) == (LEGAL, LEAF if number == expected[-1] else INTERNAL)
        parent = number
    image.prepare(expected[-1])


def refused(image: Made, leaf: int, *named: int) -> errors.StorageError:
    """A refusal changes nothing at all."""
    before = image.snapshot()
    with pytest.raises(errors.StorageError) as raised:
        image.verb(leaf)
    assert image.snapshot() == before
    assert all(v(number) in str(raised.value) for number in named)
    return raised.value


# ---------------------------------------------------------------- what the reference gets wrong


def test_two_adjacent_volumes_merged_away(image: Made) -> None:
    image.chain(4)
    before = image.guest(4)
    image.commit(3, 1, 4)
    succeeds(image, 4, [1, 4], before)


def test_leaf_and_adjacent_volume_merged_away(image: Made) -> None:
    image.chain(3)
    before = image.guest(3)
    image.commit(2, 1, 3)
    image.copy_down(3, 1)
    image.mark(3)
    reply = image.verb(3)
    assert image.metadata(3).legality == ILLEGAL
    assert chains.numbers(reply["volumes"]) == [1]
    succeeds(image, 3, [1], before)


def test_two_separate_gaps(image: Made) -> None:
    image.chain(5)
    before = image.guest(5)
    image.commit(2, 1, 3)
    image.commit(4, 3, 5)
    succeeds(image, 5, [1, 3, 5], before)


def test_a_link_that_metadata_lacks(image: Made) -> None:
    image.chain(4)
    before = image.guest(4)
    image.change(4, parent=1)
    image.change(2, voltype=LEAF)
    succeeds(image, 4, [1, 2, 3, 4], before)


def test_a_lone_illegal_volume(image: Made) -> None:
    image.chain(1)
    before = image.guest(1)
    image.mark(1)
    succeeds(image, 1, [1], before)


def test_a_backing_loop(image: Made) -> None:
    image.chain(3)
    image.switch(1, 3)
    assert refused(image, 3).code == 262
    image.switch(1, 1)
    assert refused(image, 1).code == 262


def test_an_illegal_leaf_over_an_illegal_parent(image: Made) -> None:
    image.chain(3)
    before = image.guest(3)
    image.mark(2)
    image.mark(3)
    succeeds(image, 3, [1, 2, 3], before)


def test_an_illegal_leaf_merged_into_an_illegal_parent(image: Made) -> None:
    image.chain(3)
    before = image.guest(3)
    image.copy_down(3, 2)
    image.mark(2)
    image.mark(3)
    image.at(0, 1)
    image.marked_at(30, 2)
    image.at(60, 2, 3)
    succeeds(image, 3, [1, 2], before)


def test_a_broken_chain_of_metadata(image: Made) -> None:
    image.chain(4)
    before = image.guest(4)
    image.change(1, parent=4)
    image.change(3, parent=77)
    succeeds(image, 4, [1, 2, 3, 4], before)


def test_a_torn_merge_is_undone_by_the_real_qemu_img(image: Made) -> None:
    image.chain(4)
    image.write(3, (8, 4, 9))
    before = image.guest(4)
    image.commit(3, 2, 4)
    image.forget(2, 10)
    assert image.guest(4) != before, "the torn merge must be one"
    written = image.data(4).stat().st_mtime_ns
    reply = succeeds(image, 4, [1, 2, 3, 4], before)
    assert [(change["volumeID"], change["field"]) for change in reply["changes"]] == [(v(4), "backing")]
    assert images.info(image.data(4))["backing-filename-format"] == "qcow2"
    assert image.data(4).stat().st_mtime_ns == written, "the guest wrote nothing"


def test_a_torn_and_a_complete_merge_in_one_chain(newer: Made) -> None:
    newer.chain(5)
    before = newer.guest(5)
    newer.commit(2, 1, 3)
    newer.forget(1, 2)
    newer.commit(4, 3, 5)
    succeeds(newer, 5, [1, 2, 3, 5], before)


def test_a_second_merge_on_top_of_an_unfinished_one(newer: Made) -> None:
    """The first was killed in the middle of its copying, the second when it had switched the header."""
    newer.chain(4)
    before = newer.guest(4)
    newer.copy_down(2, 1)
    newer.forget(1, 2)
    newer.commit(3, 1, 4)
    succeeds(newer, 4, [1, 4], before)


def test_a_merge_beneath_a_torn_one(newer: Made) -> None:
    """3 reads the same on 1 as on 2; 4 would not on 1, whose copy of 3 is torn."""
    newer.chain(4)
    before = newer.guest(4)
    newer.commit(2, 1, 3)
    newer.switch(4, 1)
    succeeds(newer, 4, [1, 3, 4], before)


def test_backing_names_of_old_versions(older: Made) -> None:
    older.chain(3)
    for number in (2, 3):
        text = f"../{older.id}/" * number + v(number - 1)
        images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", text, older.data(number))
    before = older.guest(3)
    older.change(3, parent=1)
    succeeds(older, 3, [1, 2, 3], before)


def test_a_raw_base(older: Made) -> None:
    older.chain(4, fmt=RAW)
    before = older.guest(4)
    older.commit(2, 1, 3)
    older.switch(4, 1)
    succeeds(older, 4, [1, 3, 4], before)


@pytest.mark.parametrize("torn", [False, True])
def test_an_overlay_larger_than_its_base(newer: Made, torn: bool) -> None:
    for number, size in enumerate((2, 4, 4), 1):
        newer.add(number, number - 1 or None, size=size * chains.MIB)
        newer.write(number, (number, 1, number))
    newer.write(2, (60, 2, 7))
    before = newer.guest(3)
    newer.commit(2, 1, 3)
    if torn:
        newer.forget(1, 61)
    succeeds(newer, 3, [1, 2, 3] if torn else [1, 3], before)


# ---------------------------------------------------------------- a marked leaf


def test_marked_and_not_copied_yet(newer: Made) -> None:
    newer.chain(3, fmt=volume_metadata.COW)
    before = newer.guest(3)
    newer.mark(3)
    newer.at(0, 3)
    newer.at(3600, 1)
    succeeds(newer, 3, [1, 2, 3], before)


def test_marked_and_copied(image: Made) -> None:
    image.chain(3)
    before = image.guest(3)
    image.copy_down(3, 2)
    image.mark(3)
    image.at(0, 2, 3)
    succeeds(image, 3, [1, 2], before)


def pivoted(image: Made) -> bytes:
    """The guest went on with 2 and wrote to it after the mark; what it sees there."""
    image.copy_down(3, 2)
    image.mark(3)
    image.marked_at(1, 3)
    image.write(2, (3, 1, 77), (20, 1, 78))
    return image.guest(2)


def test_the_guest_went_on_with_the_parent(newer: Made) -> None:
    newer.chain(3)
    before = pivoted(newer)
    newer.at(0, 3)
    newer.at(60, 2)
    succeeds(newer, 3, [1, 2], before)


def test_the_guest_went_on_with_the_leaf(newer: Made) -> None:
    newer.chain(3)
    newer.copy_down(3, 2)
    newer.mark(3)
    newer.marked_at(1, 3)
    newer.write(3, (3, 1, 77))
    before = newer.guest(3)
    newer.at(0, 2)
    newer.at(60, 3)
    succeeds(newer, 3, [1, 2, 3], before)


@pytest.mark.parametrize("later", [-4.9, 0.0, 4.9])
def test_different_within_the_margin_is_refused_and_an_operator_may_choose(newer: Made, later: float) -> None:
    newer.chain(3)
    pivoted(newer)
    newer.at(10, 3)
    newer.at(10 + later, 2)
    error = refused(newer, 3, 2, 3)
    assert error.code == 262
    dry = newer.dry_run(3)
    assert (dry["state"], {entry["verdict"] for entry in dry["chain"]}) == ("undecided", {"candidate", "unreachable"})
    chosen = 2 if later else 3
    before = newer.guest(chosen)
    assert chains.numbers(newer.verb(3, chosen)["volumes"])[-1] == chosen
    succeeds(newer, 3, list(range(1, chosen + 1)), before)


def test_nobody_may_choose_against_the_evidence(newer: Made) -> None:
    newer.chain(3)
    newer.mark(3)
    before = newer.snapshot()
    for choice in (2, 1, 99):
        with pytest.raises(errors.ImageIsNotLegalChain):
            newer.verb(3, choice)
    assert newer.snapshot() == before


def test_times_from_before_a_restart_of_the_host_decide_only_long_after_the_mark(
    newer: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer.chain(3)
    before = pivoted(newer)
    newer.at(-3600, 3)
    newer.at(4, 2)
    monkeypatch.setattr(reconcile, "_started", lambda: chains.AFTER_START / chains.SECOND + 60)
    assert refused(newer, 3, 2, 3).code == 262
    newer.at(40, 2)
    succeeds(newer, 3, [1, 2], before)


def test_zeros_written_after_the_pivot_are_not_taken_for_an_unfinished_copy(older: Made) -> None:
    """A base of version 2 drops the cluster, and then seems never to have got what the leaf holds."""
    older.chain(2)
    older.copy_down(2, 1)
    older.mark(2)
    older.marked_at(1, 2)
    images.qemu_io(older.data(1), f"write -q -z {2 * chains.BLOCK} 64k", "flush")
    before = older.guest(1)
    older.at(0, 2)
    older.at(60, 1)
    succeeds(older, 2, [1], before)


def test_a_leaf_that_qemu_closed_late_is_not_taken_for_the_later_one(newer: Made) -> None:
    """A pivot flushes the target, not the leaf: the rest of the leaf's tables is written when the machine is shut down,
    here half a second, or an hour, after the guest's last write."""
    newer.chain(2)
    layers = [guest.Layer(newer.data(number)) for number in (1, 2)]
    with guest.Machine() as machine:
        machine.open_chain(layers)
        disk = machine.export()
        machine.commit(1, 0)
        machine.wait_ready()
        disk.write(20 * chains.BLOCK, b"a" * chains.BLOCK)
        newer.mark(2)
        machine.pivot()
        machine.wait_completed()
        disk.write(2 * chains.BLOCK, b"b" * chains.BLOCK)
        disk.flush()
        time.sleep(0.5)
        machine.quit()
    before = newer.guest(1)
    assert newer.guest(2) != before
    assert newer.data(2).stat().st_mtime > newer.data(1).stat().st_mtime + 0.3, "the premise of this test"
    untouched = newer.snapshot()
    with pytest.raises(errors.ImageIsNotLegalChain) as raised:
        newer.reconcile(2, time_margin=0.1)
    assert newer.snapshot() == untouched
    assert v(1) in str(raised.value) and v(2) in str(raised.value)
    assert newer.numbers(newer.reconcile(2, 1, time_margin=0.1)) == [1]
    assert newer.guest(1) == before


def test_a_raw_parent(newer: Made) -> None:
    newer.chain(2, fmt=RAW)
    newer.copy_down(2, 1)
    newer.mark(2)
    newer.marked_at(1, 2)
    newer.write(1, (2, 1, 77))
    newer.at(0, 1, 2)
    assert refused(newer, 2, 1, 2).code == 262
    before = newer.guest(1)
    newer.at(60, 1)
    succeeds(newer, 2, [1], before)


def test_a_parent_whose_disk_is_smaller_took_no_merge(newer: Made) -> None:
    newer.add(1, size=chains.SIZE)
    newer.add(2, 1, size=2 * chains.SIZE)
    before = newer.guest(2)
    newer.mark(2)
    succeeds(newer, 2, [1, 2], before)


def test_a_dropped_leaf_stays_dropped_while_the_guest_goes_on(newer: Made) -> None:
    newer.chain(3)
    pivoted(newer)
    newer.at(0, 3)
    newer.at(60, 2)
    newer.verb(3)
    newer.write(2, (3, 1, 99))
    newer.at(0, 2)
    assert newer.verb(3)["changed"] is False
    assert (newer.metadata(3).legality, newer.metadata(3).voltype) == (ILLEGAL, INTERNAL)


# ---------------------------------------------------------------- templates, other leaves, what records hold beside


def test_a_template_at_the_bottom_is_untouched(image: Made) -> None:
    template = image.host.image()
    template.chain(1)
    template.change(1, voltype=SHARED)
    image.template(1, template)
    chains.Image.add(image, 2, 1)
    image.write(2, (2, 1, 2))
    for number in (3, 4):
        image.add(number, number - 1)
        image.write(number, (number, 1, number), (0, 1, number))
    before, shared, links = image.guest(4), template.snapshot(), image.meta(1).stat()
    image.commit(3, 2, 4)
    succeeds(image, 4, [1, 2, 4], before)
    image.mark(2)
    image.change(2, parent=5)
    succeeds(image, 4, [1, 2, 4], before)
    assert template.snapshot() == shared
    for one, other in ((image.data(1), template.data(1)), (image.meta(1), template.meta(1))):
        assert os.path.samefile(one, other)
    assert image.meta(1).stat().st_nlink == links.st_nlink == 2


def test_a_marked_leaf_on_a_template(newer: Made) -> None:
    image, template = newer, newer.host.image()
    template.chain(1)
    template.change(1, voltype=SHARED)
    image.template(1, template)
    chains.Image.add(image, 2, 1)
    before, shared = image.guest(2), template.snapshot()
    image.mark(2)
    succeeds(image, 2, [1, 2], before)
    assert template.snapshot() == shared


def test_what_a_preview_stands_on_is_not_dropped(newer: Made) -> None:
    newer.chain(4)
    newer.add(9, 3)
    newer.write(9, (9, 1, 9))
    before, preview = newer.guest(4), newer.guest(9)
    newer.commit(3, 2, 4)
    reply = newer.verb(4)
    assert chains.numbers(reply["volumes"]) == [1, 2, 4]
    assert [entry["volumeID"] for entry in reply["evidence"] if entry["verdict"] == "merged"] == []
    assert (newer.guest(4), newer.guest(9)) == (before, preview)
    assert chains.numbers(newer.verb(9)["volumes"]) == [1, 2, 3, 9]
    assert newer.metadata(3).voltype == INTERNAL


def test_unknown_keys_and_everything_else_in_a_record_are_kept(image: Made) -> None:
    image.chain(3)
    image.change(3, parent=1, extra={"TEST": "kept = too"}, generation=7)
    before = chains.meta_values(image.meta(3))
    image.verb(3)
    assert chains.meta_values(image.meta(3)) == before | {"PUUID": v(2)}
    assert image.meta(3).stat().st_mode & 0o777 == 0o644


def test_a_long_description_of_vdsm_3_5_is_no_obstacle(older: Made) -> None:
    older.chain(3)
    older.change(3, parent=1)
    text = older.meta(3).read_text()
    older.meta(3).write_text(text.replace("DESCRIPTION=", "DESCRIPTION=" + "a long story " * 60))
    assert chains.numbers(older.verb(3)["volumes"]) == [1, 2, 3]
    assert older.metadata(3).parent == v(2)
    assert older.metadata(3).description.startswith("a long story")


# ---------------------------------------------------------------- interrupted deletions


def test_a_half_deleted_volume_is_in_nobodys_way(newer: Made) -> None:
    newer.chain(4)
    before = newer.guest(4)
    newer.commit(3, 2, 4)
    newer.mark(3)
    newer.data(3).unlink()
    succeeds(newer, 4, [1, 2, 4], before)


def test_a_half_deleted_leaf_leaves_its_parent_a_leaf(newer: Made) -> None:
    newer.chain(3)
    before = newer.guest(2)
    newer.mark(3)
    newer.change(2, voltype=LEAF)
    newer.data(3).unlink()
    assert refused(newer, 3, 3).code == 262
    succeeds(newer, 2, [1, 2], before)


# ---------------------------------------------------------------- live images


@pytest.mark.parametrize("writer", [True, False], ids=["guest", "backup"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_live_image_is_refused(newer: Made, writer: bool, number: int) -> None:
    newer.chain(3)
    newer.commit(2, 1, 3)
    with chains.held_open(newer.data(number), writer=writer):
        assert refused(newer, 3).code == 203
        assert newer.dry_run(3)["state"] == "undecided" and newer.dry_run(3)["inUse"]
    assert chains.numbers(newer.verb(3)["volumes"]) == [1, 3]


def test_a_running_machine_is_refused(newer: Made) -> None:
    newer.chain(3)
    newer.mark(3)
    with guest.Machine() as machine:
        machine.open_chain([guest.Layer(newer.data(number)) for number in (1, 2, 3)])
        assert refused(newer, 3).code == 203
        machine.quit()


Moment = Callable[[pytest.MonkeyPatch, Callable[[], None]], None]


def _preceded(strike: Callable[[], None], real: Callable[..., None]) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        strike()
        real(*arguments)

    return run


def _before_confirm(patch: pytest.MonkeyPatch, strike: Callable[[], None]) -> None:
    patch.setattr(repair, "confirm", _preceded(strike, repair.confirm))


def _after_confirm(patch: pytest.MonkeyPatch, strike: Callable[[], None]) -> None:
    patch.setattr(repair, "unchanged", _preceded(strike, repair.unchanged))


def _before_writing(patch: pytest.MonkeyPatch, strike: Callable[[], None]) -> None:
    patch.setattr(repair, "carry_out", _preceded(strike, repair.carry_out))


@pytest.mark.parametrize("writer", [True, False], ids=["guest", "backup"])
@pytest.mark.parametrize("moment", [_before_confirm, _after_confirm, _before_writing])
def test_a_holder_that_appears_after_the_look(
    newer: Made, monkeypatch: pytest.MonkeyPatch, moment: Moment, writer: bool
) -> None:
    image = newer
    image.chain(3)
    image.switch(3, 1)
    with contextlib.ExitStack() as stack:
        moment(monkeypatch, lambda: stack.enter_context(chains.held_open(image.data(3), writer=writer)))
        before = image.snapshot()
        with pytest.raises(errors.VolumeIsBusy):
            image.verb(3)
        # Opening for writing may touch the file, but no byte of it.
        assert [each[-1] for each in image.snapshot().values()] == [each[-1] for each in before.values()]
    monkeypatch.undo()
    assert chains.numbers(image.verb(3)["volumes"]) == [1, 2, 3]


def test_a_change_between_look_and_repair_is_noticed(newer: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    newer.chain(3)
    newer.change(3, parent=1)
    _after_confirm(monkeypatch, lambda: newer.change(2, parent=77))
    with pytest.raises(errors.OperationInProgress):
        newer.verb(3)
    assert newer.metadata(3).parent == v(1)


# ---------------------------------------------------------------- bad input


def _named(text: str) -> Callable[[Made], None]:
    def damage(image: Made) -> None:
        named = text.replace("HERE", str(image.directory)).replace("VOLUME", v(1))
        images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", named, image.data(2))

    return damage


def _lose(image: Made) -> None:
    image.data(1).unlink()
    image.meta(1).unlink()


BAD: dict[str, tuple[int, Callable[[Made], object]]] = {
    "a foreign backing name": (255, _named("HERE/../VOLUME")),
    "a json name": (255, _named('json:{"driver":"raw","file.filename":"HERE/VOLUME"}')),
    "a network name": (255, _named("nbd:unix:HERE/socket")),
    "a missing volume": (262, _lose),
    "a volume without data": (262, lambda image: image.data(1).unlink()),
    "a damaged record": (255, lambda image: image.meta(2).write_bytes(image.meta(2).read_bytes()[:40])),
    "a damaged header": (202, lambda image: images.patch(image.data(2), 0, b"rubbish!")),
    "a file cut off": (202, lambda image: os.truncate(image.data(2), 1000)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_changes_nothing(newer: Made, name: str) -> None:
    code, damage = BAD[name]
    newer.chain(3)
    newer.change(3, parent=1)
    damage(newer)
    everything = sorted(path for path in newer.domain.path.rglob("*"))
    assert refused(newer, 3).code == code
    assert sorted(path for path in newer.domain.path.rglob("*")) == everything
    dry = newer.dry_run(3)
    assert (dry["state"], dry["problems"][0]["code"]) == ("broken", code)


def test_a_leaf_or_an_image_that_is_not_there(newer: Made) -> None:
    newer.chain(1)
    assert refused(newer, 5).code == 255
    elsewhere = newer.host.image()
    elsewhere.directory.rmdir()
    with pytest.raises(errors.ImageDoesNotExistInSD):
        elsewhere.verb(1)
