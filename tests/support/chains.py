"""Images of a real domain, with real volumes in them, in every state that a merge can leave.

Volumes are known by small numbers; `volume_id(3)` is a readable id. Everything is made by qemu's own tools and then,
where no tool makes such a thing, changed on disk.
"""

import contextlib
import dataclasses
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from storage import ids, settings
from storage.chains import inspection, reconcile as reconciling
from storage.domains import domain_metadata, domainmaker, filedomain
from storage.qemu import imagelock, qemuimg
from storage.volumes import volume_metadata
from tests.support import images, model

DOMAIN = model.DOMAIN
IMAGE = model.IMAGE
OTHER_IMAGE = model.OTHER_IMAGE
MIB = images.MIB
SIZE = 4 * MIB
BLOCK = 65536
SECOND = 1_000_000_000

volume_id = model.volume_id


def make_domain(mount: Path, version: int = 3) -> filedomain.FileDomain:
    """A local domain with as much in it as images need; made without flushing, which takes most of the time."""
    place = mount / DOMAIN
    for name in ("dom_md", "images"):
        (place / name).mkdir(parents=True)
    values = domainmaker.initial_record(
        DOMAIN, version=version, name="a name", domain_class="Data", remote_path=str(mount)
    )
    (place / "dom_md" / "metadata").write_bytes(domain_metadata.encode(values))
    return filedomain.FileDomain(DOMAIN, mount)


class Image:
    """One image of a domain.

    Args:
        domain: where; its version decides how records and qcow2 headers look.
    """

    def __init__(self, domain: filedomain.FileDomain, image: ids.ImageId = IMAGE) -> None:
        self.domain = domain
        self.id = image
        self.directory = domain.image_directory(image)
        self.directory.mkdir(exist_ok=True)
        self.settings = settings.Settings(domain.path.parent, prove_seconds=30)

    # ------------------------------------------------------------ making

    def data(self, number: int) -> Path:
        return self.directory / volume_id(number)

    def meta(self, number: int) -> Path:
        return self.directory / f"{volume_id(number)}.meta"

    def add(
        self,
        number: int,
        parent: int | None = None,
        *,
        size: int = SIZE,
        fmt: str = volume_metadata.COW,
        voltype: str = volume_metadata.LEAF,
        backing: str | None = None,
        **options: Any,
    ) -> ids.VolumeId:
        """Make a volume. A parent becomes internal.

        Args:
            backing: text of the backing name; default the parent's bare id.
            options: options of qcow2; ``compat`` defaults to what the domain's version asks for.
        """
        name = volume_id(number)
        if fmt == volume_metadata.COW:
            options = {"compat": "1.1" if self.domain.version >= 4 else "0.10"} | options
            below = None if parent is None else backing or volume_id(parent)
            form = "qcow2" if parent is None else FORMATS[self.metadata(parent).format]
            images.create(self.data(number), size, backing=below, backing_format=form, **options)
        else:
            images.create(self.data(number), size, fmt="raw")
        self.data(number).chmod(0o660)
        self.write_metadata(
            number,
            volume_metadata.VolumeMetadata(
                domain=self.domain.id,
                image=self.id,
                parent=ids.VolumeId(ids.BLANK) if parent is None else volume_id(parent),
                capacity=-(-size // 512) * 512,
                format=fmt,
                type=volume_metadata.SPARSE,
                voltype=voltype,
                disktype="2",
                description=f'{{"DiskAlias":"disk {number}"}}',
                legality=volume_metadata.LEGAL,
                ctime=1_700_000_000,
            ),
        )
        if parent is not None and self.metadata(parent).voltype == volume_metadata.LEAF:
            self.change(parent, voltype=volume_metadata.INTERNAL)
        return name

    def chain(self, depth: int, **options: Any) -> "Image":
        """Volumes 1 <- 2 <- ...: each with a block of its own and one that all of them hold."""
        base = {key: options.pop(key) for key in ("fmt", "voltype") if key in options}
        for number in range(1, depth + 1):
            self.add(number, number - 1 or None, **(base if number == 1 else {}), **options)
            self.write(number, (number, 1, number), (0, 1, number))
        return self

    def metadata(self, number: int) -> volume_metadata.VolumeMetadata:
        return volume_metadata.parse(self.meta(number).read_bytes())

    def write_metadata(self, number: int, metadata: volume_metadata.VolumeMetadata) -> None:
        self.meta(number).write_bytes(volume_metadata.encode(metadata, self.domain.version))

    def change(self, number: int, **values: Any) -> None:
        """Change fields of a record, as whoever keeps them would."""
        if isinstance(values.get("parent"), int):
            values["parent"] = volume_id(values["parent"])
        self.write_metadata(number, dataclasses.replace(self.metadata(number), **values))

    def mark(self, number: int) -> None:
        self.change(number, legality=volume_metadata.ILLEGAL)

    def write(self, number: int, *blocks: tuple[int, int, int]) -> None:
        """Write (first block, number of blocks, byte) through this volume; blocks have 64 KiB."""
        patterns = [(first * BLOCK, count * BLOCK, byte) for first, count, byte in blocks]
        images.write_patterns(self.data(number), patterns, fmt=FORMATS[self.metadata(number).format])

    def template(self, number: int, other: "Image") -> None:
        """Share a template of another image: hard links of its files."""
        for name in (other.data(number), other.meta(number)):
            os.link(name, self.directory / name.name)

    # ------------------------------------------------------------ merging, as qemu leaves it

    def switch(self, child: int, base: int | None) -> None:
        """Change the backing name in a header, and nothing else."""
        below = "" if base is None else volume_id(base)
        form = [] if base is None else ["-F", FORMATS[self.metadata(base).format]]
        images.qemu_img("rebase", "-q", "-u", "-f", "qcow2", *form, "-b", below, self.data(child))

    def copy_down(self, top: int, base: int) -> None:
        """Commit everything from `top` down to above `base` into `base`; no header changes."""
        images.qemu_img("commit", "-q", "-d", "-f", "qcow2", "-b", self.data(base), self.data(top))

    def commit(self, top: int, base: int, child: int) -> None:
        """A complete merge beneath `child`."""
        self.copy_down(top, base)
        self.switch(child, base)

    def forget(self, number: int, block: int) -> None:
        """Take a block out of a volume's tables, as if they had never reached the disk."""
        forget(self.data(number), block * BLOCK)

    # ------------------------------------------------------------ times

    def at(self, seconds: float, *numbers: int) -> None:
        """Set when data files were last written; seconds are added to a fixed time after this host's start."""
        for number in numbers:
            moment = AFTER_START + int(seconds * SECOND)
            os.utime(self.data(number), ns=(moment, moment))

    def marked_at(self, seconds: float, number: int) -> None:
        """Set when a record was last written."""
        moment = AFTER_START + int(seconds * SECOND)
        os.utime(self.meta(number), ns=(moment, moment))

    # ------------------------------------------------------------ looking

    def look(self) -> inspection.Sight:
        return inspection.look(self.directory, self.id, self.domain.id)

    def guest(self, number: int) -> bytes:
        """What a guest on this volume sees."""
        form = FORMATS[self.metadata(number).format]
        names = os.listdir(self.directory)
        try:
            return images.read_guest(self.data(number), fmt=form)
        finally:
            assert sorted(os.listdir(self.directory)) == sorted(names)

    def snapshot(self) -> dict[str, tuple[int, int, int, int, str]]:
        """Everything about every file: two are equal only if nothing at all was touched."""
        return snapshot(self.directory)

    def rules(self, chosen: int | None = None, **changes: Any) -> reconciling.Rules:
        chosen_id = None if chosen is None else volume_id(chosen)
        return reconciling.Rules(dataclasses.replace(self.settings, **changes), chosen_id)

    def reconcile(self, leaf: int, chosen: int | None = None, **changes: Any) -> reconciling.Finding:
        """The real thing, without verbs and locks around it."""
        tool = qemuimg.QemuImg(timeout=30)
        return reconciling.reconcile(self.domain, self.id, volume_id(leaf), self.rules(chosen, **changes), tool)

    def numbers(self, found: reconciling.Finding) -> list[int]:
        """The chain that was answered, root first."""
        return numbers(found.chain.volumes)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for images; in memory where there is such a place, for qemu flushes often and disks are slow."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(prefix="vl-", dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


@contextlib.contextmanager
def held_open(path: Path, fmt: str = "qcow2", *, writer: bool = False) -> Iterator[None]:
    """A real qemu-io that has an image (and what it stands on) open, as a guest or as a backup has."""
    access = [] if writer else ["-r"]
    command = ["qemu-io", *access, "-f", fmt, str(path)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as process:
        try:
            end = time.monotonic() + 20
            while not imagelock.holders(path):
                assert process.poll() is None and time.monotonic() < end, "qemu-io does not open it"
                time.sleep(0.002)
            yield
        finally:
            process.kill()


FORMATS = {volume_metadata.COW: "qcow2", volume_metadata.RAW: "raw"}

AFTER_START = 2_000_000_000 * SECOND
"""Nanoseconds since the epoch; in the future, so that no restart of the host lies behind it."""


def numbers(volumes: Iterable[ids.VolumeId]) -> list[int]:
    """Volumes by number."""
    return [int(volume[:8], 16) for volume in volumes]


def entry_place(path: Path, offset: int) -> int:
    """Where in the file the L2 entry of a guest offset lies; plain qcow2 only."""
    cluster = 1 << images.number(path, 20, 4)
    entries = cluster // 8
    l1 = images.number(path, 40, 8)
    table = images.number(path, l1 + 8 * (offset // cluster // entries), 8) & 0x00FF_FFFF_FFFF_FE00
    assert table, "no table there"
    return table + 8 * (offset // cluster % entries)


def forget(path: Path, offset: int) -> None:
    """Drop the L2 entry of a guest offset; the file's times stay."""
    info = path.stat()
    place = entry_place(path, offset)
    assert images.number(path, place, 8), "nothing was held there"
    images.patch_number(path, place, 0, 8)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, int, str]]:
    """Mode, size, time, identity and content of every entry of a directory."""
    found = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        # A directory's own time moves when a test reads a guest's disk beside it.
        size, time = (0, 0) if path.is_dir() else (info.st_size, info.st_mtime_ns)
        found[str(path.relative_to(directory))] = (info.st_mode, size, time, info.st_ino, content)
    return found


def meta_values(path: Path) -> dict[str, str]:
    """A record's keys on disk."""
    lines = [line.partition("=") for line in path.read_text().splitlines() if "=" in line]
    return {key: value for key, _, value in lines}
