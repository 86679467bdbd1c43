"""The rule of the field, as a stand-in for a pool: it believes headers and marks, as the daemon must not.

Reconcile in the reference: from the leaf, follow the backing names in the headers; a leaf marked ILLEGAL is dropped.
Used to show what that would have lost, and to prove that the judgement of a campaign notices it.
"""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import daemon, guest, images, oracle


def chain(image: daemon.Image, leaf: str, illegal: bool) -> list[str]:
    """The chain that headers and mark claim, root first.

    Args:
        illegal: whether the leaf is marked ILLEGAL.
    """
    claimed = []
    volume: str | None = leaf
    while volume is not None:
        claimed.append(volume)
        layer = image.layers[volume]
        name = oracle.backing_name(layer.path) if layer.format == "qcow2" else None
        volume = Path(name).name if name else None
    return claimed[:0:-1] if illegal else claimed[::-1]


class Believer:
    """A pool without a daemon: images in a directory, metadata in memory, no proof of anything."""

    hasty = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._illegal: set[str] = set()
        self._parents: dict[str, str] = {}

    def make_image_chain(self, size: int, formats: Sequence[str] = ("qcow2", "qcow2", "qcow2")) -> daemon.Image:
        image_id = str(uuid.uuid4())
        directory = self._directory / image_id
        directory.mkdir()
        names = [str(uuid.uuid4()) for _ in formats]
        made = images.make_chain(directory, len(names), size=size, names=names, base_format=formats[0], write=False)
        layers = {name: guest.Layer(path, kind) for name, path, kind in zip(names, made, formats, strict=True)}
        self._parents |= dict(zip(names, [daemon.BLANK, *names], strict=False))
        return daemon.Image(image_id, directory, layers)

    def mark(self, image: daemon.Image, volume: str, legality: str) -> None:
        (self._illegal.add if legality == "ILLEGAL" else self._illegal.discard)(volume)

    def send_mark(self, image: daemon.Image, volume: str, legality: str) -> None:
        self.mark(image, volume, legality)

    def is_marked(self, image: daemon.Image, volume: str) -> bool:
        return volume in self._illegal

    def prove(self, image: daemon.Image, leaf: str) -> None:
        """A believer asks for no proof."""

    def kill(self) -> None:
        """There is no process."""

    def revive(self) -> None:
        """There is no process."""

    def look(self, image: daemon.Image, leaf: str) -> dict[str, Any]:
        return {"status": {"code": 0, "message": "OK"}, "volumes": chain(image, leaf, leaf in self._illegal)}

    def reconcile(self, image: daemon.Image, leaf: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self.look(image, leaf)
        self._parents |= dict(zip(answer["volumes"], [daemon.BLANK, *answer["volumes"]], strict=False))
        return answer | {"changed": False, "changes": []}

    def undo(self, image: daemon.Image) -> dict[str, Any]:
        """Believers keep no journal."""
        return {"status": {"code": 0, "message": "OK"}, "changed": False, "changes": []}

    def delete_volumes(self, image: daemon.Image, volumes: Sequence[str]) -> None:
        for volume in volumes:
            image.layers[volume].path.unlink()

    def info(self, image: daemon.Image, volume: str) -> dict[str, Any]:
        below = [name for name in image.volumes if image.layers[name].path.exists()]
        legality = "ILLEGAL" if volume in self._illegal else "LEGAL"
        voltype = "LEAF" if volume == below[-1] else "INTERNAL"
        return {"parent": self._parents[volume], "legality": legality, "voltype": voltype}

    def can_start(self, image: daemon.Image, leaf: str) -> None:
        """A believer has no doubt."""

    def delete_image(self, image: daemon.Image) -> None:
        for path in image.directory.iterdir():
            path.unlink()
        image.directory.rmdir()
