"""A disk of a data centre: how it is made and looked at, each step as the engine does it."""

import json
import uuid
from pathlib import Path

from tests.support import guest, images
from tests.support.engine import centre, reading

MIB = 1 << 20
RAW, COW = 5, 4
SPARSE, DATA_DISK = 2, 2
# A description as the engine writes it, with what people put into names.
DESCRIPTION = json.dumps({"DiskAlias": "Gro\u00dfe=Platte \u4e2d\U0001f600", "DiskDescription": "<a> & b"})


class Disk:
    """A disk in the database: its volumes, root first."""

    def __init__(self, made: centre.Centre) -> None:
        self.centre = made
        self.domain = made.master
        self.id = str(uuid.uuid4())
        self.volumes: list[str] = []

    def create(self, size: int = 8 * MIB, form: int = RAW) -> str:
        """4.4."""
        return self._add(size, form, centre.BLANK, centre.BLANK)

    def snapshot(self) -> str:
        """4.5, the part on storage."""
        size = self.volume(self.volumes[-1]).size
        return self._add(size, COW, self.id, self.volumes[-1])

    def _add(self, size: int, form: int, source: str, parent: str) -> str:
        volume = str(uuid.uuid4())
        where = (self.domain, self.centre.id, self.id)
        how = (str(size), form, SPARSE, DATA_DISK, volume, DESCRIPTION, source, parent)
        self.centre.run("createVolume", *where, *how)
        self.volumes.append(volume)
        found = self.volume(volume)
        assert (found.id, found.parent, found.size, found.state) == (volume, parent, size, "OK")
        assert (found.format, found.description) == ({RAW: "RAW", COW: "COW"}[form], DESCRIPTION)
        return volume

    def chain(self) -> None:
        """A disk with two snapshots, something written in each layer."""
        self.create()
        for number in range(3):
            if number:
                self.snapshot()
            images.write_pattern(self.path(), number * MIB, MIB, number + 1, fmt="qcow2" if number else "raw")

    def volume(self, volume: str) -> reading.Volume:
        where = (self.domain, self.centre.id, self.id, volume)
        return reading.volume(self.centre.spm_call("getVolumeInfo", *where))

    def exists(self, domain: str) -> bool:
        """Any error is read as no."""
        assert self.centre.spm is not None
        return self.centre.spm.code("getVolumeInfo", domain, self.centre.id, self.id, self.volumes[-1]) == 0

    def path(self, volume: str | None = None) -> Path:
        place = self.centre.places[self.domain] / self.domain / "images" / self.id
        return place / (volume or self.volumes[-1])

    def layers(self) -> list[guest.Layer]:
        formats = {"RAW": "raw", "COW": "qcow2"}
        return [guest.Layer(self.path(each), formats[self.volume(each).format]) for each in self.volumes]

    def content(self) -> bytes:
        return images.read_guest(self.path(), fmt=self.layers()[-1].format)

    def delete(self) -> None:
        self.centre.run("deleteImage", self.domain, self.centre.id, self.id, "false", "false")
        assert not self.exists(self.domain)
