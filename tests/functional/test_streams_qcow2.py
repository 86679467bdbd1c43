"""PUT and GET of qcow2 volumes: what becomes a usable layer, and what a hostile image does not get."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support import daemon, images, streaming

MIB = 1 << 20
CONFIG = streaming.CONFIG
pool = streaming.pool
get, legality, new = streaming.get, streaming.legality, streaming.new
put, task_of = streaming.put, streaming.task_of


# ---------------------------------------------------------------- qcow2


def qcow2(tmp_path: Path, size: int = MIB, name: str = "made", **options: Any) -> Path:
    path = images.create(tmp_path / name, size, **options)
    images.write_pattern(path, 0, 65536, 7)
    return path


def test_a_qcow2_image_becomes_a_usable_volume(pool: daemon.Pool, tmp_path: Path) -> None:
    image = new(pool, MIB, ["qcow2"])
    data = qcow2(tmp_path).read_bytes()
    assert put(pool, image, data).status == 200
    assert image.layers[image.leaf].path.read_bytes() == data
    pool.can_start(image, image.leaf)
    assert get(pool, image, len(data)).body == data


def test_a_layer_can_be_put_on_its_parent(pool: daemon.Pool, tmp_path: Path) -> None:
    image = new(pool, MIB, ["raw", "qcow2"])
    path = images.create(tmp_path / "layer", MIB, backing=image.volumes[0], backing_format="raw")
    found = put(pool, image, path.read_bytes(), image.leaf)
    assert found.status == 200, found.body
    pool.can_start(image, image.leaf)
    assert pool.look(image, image.leaf)["state"] == "consistent"


HOSTILE: dict[str, tuple[int, Any]] = {
    "not a qcow2 image": (202, lambda place, parent: b"no image at all" * 100),
    "nothing": (202, lambda place, parent: b""),
    "a backing file of the host": (255, lambda place, parent: made(place, backing=str(place / "secret"))),
    "a backing file by a driver": (255, lambda place, parent: made(place, backing='json:{"driver":"nbd"}')),
    "a parent that there is not": (255, lambda place, parent: made(place, backing=str(uuid.uuid4()))),
    "an external data file": (255, lambda place, parent: made(place, data_file=str(place / "data"))),
    "an unknown feature": (255, lambda place, parent: patched(place, 72, 1 << 40, 8)),
    "marked corrupt": (255, lambda place, parent: patched(place, 72, 2, 8)),
    "dirty": (255, lambda place, parent: patched(place, 72, 1, 8)),
    "encrypted": (255, lambda place, parent: patched(place, 32, 1, 4)),
    "internal snapshots": (255, lambda place, parent: snapshots(place)),
    "a larger disk": (255, lambda place, parent: made(place, size=2 * MIB)),
    "tables beyond its end": (202, lambda place, parent: patched(place, 40, 1 << 40, 8)),
    "version 9": (202, lambda place, parent: patched(place, 4, 9, 4)),
    "only a header": (202, lambda place, parent: made(place)[:512]),
}


def made(place: Path, size: int = MIB, **options: Any) -> bytes:
    return qcow2(place, size, **options).read_bytes() if "backing" not in options else layer(place, size, **options)


def layer(place: Path, size: int, **options: Any) -> bytes:
    return images.create(place / "made", size, **options).read_bytes()


def patched(place: Path, offset: int, value: int, width: int) -> bytes:
    return images.patch_number(qcow2(place), offset, value, width).read_bytes()


def snapshots(place: Path) -> bytes:
    path = qcow2(place)
    images.qemu_img("snapshot", "-c", "s", path)
    return path.read_bytes()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_stays_illegal_and_the_task_says_why(pool: daemon.Pool, tmp_path: Path, name: str) -> None:
    code, make = HOSTILE[name]
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    image = new(pool, MIB, ["qcow2"])
    found = put(pool, image, make(tmp_path, ""))
    assert (found.status, found.code) == (500, code), found.body
    status = task_of(pool, found)
    assert (status["code"], status["taskState"], status["taskResult"]) == (code, "finished", "cleanFailure")
    assert legality(pool, image) == "ILLEGAL"
    with pytest.raises(daemon.VerbFailed) as refused:
        pool.can_start(image, image.leaf)
    assert refused.value.code == 227
    assert pool.reconcile(image, image.leaf)["status"]["code"] == 262, "a repair must not make it LEGAL"
    assert legality(pool, image) == "ILLEGAL"
    assert get(pool, image, 1).code == 227
    assert put(pool, image, qcow2(tmp_path, name="good").read_bytes()).status == 200, "the way out is another one"
    pool.can_start(image, image.leaf)
    assert (tmp_path / "secret").read_bytes() == b"secret" * 1000


@pytest.mark.parametrize(
    ("backing", "backing_format"), [(None, None), ("other", "raw"), ("parent", "qcow2"), ("../image/parent", "raw")]
)
def test_a_layer_must_stand_on_its_parent(
    pool: daemon.Pool, tmp_path: Path, backing: str | None, backing_format: str | None
) -> None:
    image = new(pool, MIB, ["raw", "qcow2"])
    parent = image.volumes[0]
    name = {"other": image.leaf, "parent": parent, "../image/parent": f"../{image.id}/{parent}", None: None}[backing]
    data = layer(tmp_path, MIB, **({"backing": name, "backing_format": backing_format} if name else {}))
    assert put(pool, image, data, image.leaf).code == 255
    assert legality(pool, image) == "ILLEGAL"


def test_an_old_domain_takes_old_images_only(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    with daemon.Daemon(tmp_path, CONFIG) as server:
        old = daemon.make_pool(server, tmp_path / "storage", version=3)
        image = new(old, MIB, ["qcow2"])
        assert put(old, image, qcow2(tmp_path).read_bytes()).code == 202
        assert put(old, image, qcow2(tmp_path, name="old", compat="0.10").read_bytes()).status == 200


def test_raw_data_that_looks_like_qcow2_stays_raw(pool: daemon.Pool, tmp_path: Path) -> None:
    image = new(pool, MIB)
    (tmp_path / "secret").write_bytes(b"secret")
    data = layer(tmp_path, MIB, backing=str(tmp_path / "secret"), backing_format="raw")
    assert put(pool, image, data).status == 200
    assert pool.info(image, image.leaf)["format"] == "RAW"
    assert get(pool, image, len(data)).body == data
    assert image.layers[image.leaf].path.stat().st_size == MIB
