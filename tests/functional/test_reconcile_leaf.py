"""reconcileVolumeChain where the leaf is marked: whether the guest went on with it or with its parent."""

import time

import pytest

from storage import errors
from storage.chains import reconcile
from storage.volumes import volume_metadata
from tests.support import chains, guest, images, reconciling

pytestmark = pytest.mark.qemu

INTERNAL, ILLEGAL, RAW = volume_metadata.INTERNAL, volume_metadata.ILLEGAL, volume_metadata.RAW
v = chains.volume_id
Made = reconciling.Made
refused, succeeds = reconciling.refused, reconciling.succeeds
hosts, image, newer, older = reconciling.hosts, reconciling.image, reconciling.newer, reconciling.older


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
