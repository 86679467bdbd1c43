"""Images whose chains tests of reconcileVolumeChain leave half merged, and what every repair and refusal promises."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import errors, ids
from storage.hsm import chain as hsm_chain, image as hsm_image, volume as hsm_volume
from storage.volumes import volume_metadata
from tests.support import chains, images, world

VERSIONS = (0, 3, 4, 5)
LEAF, INTERNAL, SHARED = volume_metadata.LEAF, volume_metadata.INTERNAL, volume_metadata.SHARED
LEGAL, RAW = volume_metadata.LEGAL, volume_metadata.RAW
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
