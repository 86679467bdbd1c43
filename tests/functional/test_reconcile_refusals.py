"""reconcileVolumeChain on images that are in use or damaged: it refuses, and changes nothing."""

import contextlib
import os
from collections.abc import Callable

import pytest

from storage import errors
from storage.chains import repair
from tests.support import chains, guest, images, reconciling

pytestmark = pytest.mark.qemu

v = chains.volume_id
Made = reconciling.Made
refused = reconciling.refused
hosts, newer = reconciling.hosts, reconciling.newer


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
