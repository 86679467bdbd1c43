"""Images that mean harm, in a real domain of a real daemon, and a qemu-img that tells what it was asked and opened.

Everything that an image names lies in the site's own directory (`canary`), or nowhere.
"""

import dataclasses
import os
import re
import shutil
import socket
import stat
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage import ids
from storage.volumes import volume_metadata
from tests.support import canary, daemon, disks, images

MIB = 1 << 20
SIZE = 4 * MIB
V1, V2, V3, V4, NEW = (ids.VolumeId(f"{n}1bd7538-c48b-4b94-ba94-def922151d48") for n in range(1, 6))
OTHER = "77bd7538-c48b-4b94-ba94-def922151d48"
TARGET = "87bd7538-c48b-4b94-ba94-def922151d48"
BLANK = ids.VolumeId(ids.BLANK)
DEEP = 1000

# The limits are set just after the start of a program, so it waits until it has them.
_WRAPPER = """
log={log}/$$
n=0; while [ -e $log.$n ]; do n=$((n + 1)); done
log=$log.$n
i=0; while grep -q 'Max address space *unlimited' /proc/$$/limits && [ $i -lt 100 ]; do i=$((i + 1)); sleep 0.02; done
for word; do printf '%s\\n' "$word"; done > $log
cat /proc/$$/limits > $log.limits
exec strace -f -qq -s 4096 -o $log.trace -e trace=open,openat,openat2,connect qemu-img "$@"
"""


@dataclasses.dataclass(frozen=True)
class Call:
    """One run of qemu-img.

    Attributes:
        words: its arguments.
        limits: name -> soft limit, as text.
        opened: files in the site's directory that it opened.
        connected: whether it tried to connect to anything.
    """

    words: list[str]
    limits: dict[str, str]
    opened: set[str]
    connected: bool


class Site:
    """A daemon with a pool of two domains, a canary, and one image at a time.

    Args:
        directory: an empty directory, short enough for a socket in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.canary = canary.Canary(directory / "canary")
        self._log = directory / "calls"
        self._log.mkdir()
        self._read: set[str] = set()
        program = disks.wrapper(directory / "qemu-img", _WRAPPER.format(log=self._log))
        (directory / "d").mkdir()
        config = {"storage": {"qemu_img": str(program), "lock_timeout": 5.0}, "log": {"level": "WARNING"}}
        self.daemon = daemon.Daemon(directory / "d", config)
        self.pool, self.here, self.there = (str(uuid.uuid4()) for _ in range(3))
        self._make_pool()
        self.image = ""
        self._templates = self._make_templates()

    def close(self) -> None:
        self.daemon.stop()
        self.canary.__exit__(None, None, None)

    def _make_pool(self) -> None:
        for domain, name in ((self.here, "s0"), (self.there, "s1")):
            place = self.directory / name
            place.mkdir()
            connection = [{"id": str(uuid.uuid4()), "connection": str(place)}]
            self.daemon.call("connectStorageServer", daemon.LOCALFS, daemon.BLANK, connection)
            self.daemon.call("createStorageDomain", daemon.LOCALFS, domain, "tests", str(place), 1, 4)
        self.daemon.call("createStoragePool", 0, self.pool, "tests", self.here, [self.here, self.there], 1)
        active = {self.here: "active", self.there: "active"}
        self.daemon.call("connectStoragePool", self.pool, 1, "key", self.here, 1, active)
        self.daemon.task("spmStart", self.pool, -1, -1, -1, 0)

    def _make_templates(self) -> Path:
        """A chain of three, raw at its root, and an empty image, made once and copied from then on."""
        place = self.directory / "templates"
        place.mkdir()
        images.make_chain(place, 3, size=SIZE, names=[V1, V2, V3], base_format="raw")
        images.create(place / V4, SIZE)
        return place

    # ------------------------------------------------------------ the image

    def images(self, domain: str = "") -> Path:
        storage = self.directory / ("s1" if domain == self.there else "s0")
        return storage / (domain or self.here) / "images"

    @property
    def place(self) -> Path:
        """Directory of the image."""
        return self.images() / self.image

    @property
    def outside(self) -> str:
        """The canary's directory as seen from the image's."""
        return os.path.relpath(self.canary.directory, self.place)

    def plant(self) -> None:
        """A new image of three sound volumes: raw, and two qcow2 above."""
        self.image = str(uuid.uuid4())
        self.place.mkdir()
        for volume, parent in ((V1, BLANK), (V2, V1), (V3, V2)):
            shutil.copy(self._templates / volume, self.place / volume)
            self.record(volume, parent)

    def plant_target(self) -> None:
        """An image of one empty volume, for what is sent to it."""
        place = self.images() / TARGET
        place.mkdir()
        shutil.copy(self._templates / V4, place / V4)
        record = dataclasses.replace(self.metadata(V4, BLANK), image=ids.ImageId(TARGET))
        (place / f"{V4}.meta").write_bytes(volume_metadata.encode(record, 4))

    def template(self, volume: str) -> bytes:
        """The data of a volume as it is planted."""
        return (self._templates / volume).read_bytes()

    def clear(self) -> None:
        """Remove every image of both domains."""
        for domain in (self.here, self.there):
            for path in self.images(domain).iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def metadata(self, volume: ids.VolumeId, parent: ids.VolumeId, **changes: Any) -> volume_metadata.VolumeMetadata:
        leaf = volume in (V3, V4, NEW)
        made = volume_metadata.VolumeMetadata(
            domain=ids.DomainId(self.here),
            image=ids.ImageId(self.image),
            parent=parent,
            capacity=SIZE,
            format=volume_metadata.RAW if volume == V1 else volume_metadata.COW,
            type=volume_metadata.SPARSE,
            voltype=volume_metadata.LEAF if leaf else volume_metadata.INTERNAL,
            disktype="2",
            description="a disk",
            legality=volume_metadata.LEGAL,
            ctime=1_700_000_000,
        )
        return dataclasses.replace(made, **changes)

    def record(self, volume: ids.VolumeId, parent: ids.VolumeId, **changes: Any) -> None:
        data = volume_metadata.encode(self.metadata(volume, parent, **changes), 4)
        (self.place / f"{volume}.meta").write_bytes(data)

    def state(self) -> dict[str, object]:
        """What is below both domains' images; links are not followed, and content is read where it is short."""
        found: dict[str, object] = {}
        for domain in (self.here, self.there):
            for place, directories, names in os.walk(self.images(domain)):
                for path in (Path(place, name) for name in (*directories, *names)):
                    info = path.lstat()
                    short = stat.S_ISREG(info.st_mode) and info.st_size < 16 * MIB
                    content = path.read_bytes() if short else b""
                    found[str(path)] = (stat.S_IFMT(info.st_mode), 0 if path.is_dir() else info.st_size, content)
        return found

    # ------------------------------------------------------------ the calls of qemu-img

    def calls(self) -> list[Call]:
        """Those since the last question."""
        new = {name for name in os.listdir(self._log) if name.count(".") == 1} - self._read
        self._read |= new
        return [self._call(self._log / name) for name in sorted(new)]

    def _call(self, path: Path) -> Call:
        limits = re.findall(r"^(Max [a-z ]+?)  +(\S+)", Path(f"{path}.limits").read_text(), re.MULTILINE)
        trace = Path(f"{path}.trace").read_text(errors="replace") if Path(f"{path}.trace").exists() else ""
        opened = set(re.findall(rf'"({re.escape(str(self.directory))}/[^"]*)"', trace))
        connected = "AF_INET" in trace
        return Call(path.read_text().splitlines(), dict(limits), opened, connected)


# ---------------------------------------------------------------- what can be wrong with an image

Change = Callable[[Site], object]


@dataclasses.dataclass(frozen=True)
class Case:
    """A hostile image.

    Attributes:
        change: makes it of a sound one.
        refused: whether everything that would let qemu, or a guest, open it must fail.
        fine: whether everything must succeed, because what is odd in it is a guest's own affair.
    """

    name: str
    change: Change
    refused: bool = False
    fine: bool = False


def _patched(volume: str, offset: int, value: int, width: int) -> Change:
    return lambda site: images.patch_number(site.place / volume, offset, value, width)


def _named(volume: str, name: Callable[[Site], str], fmt: str = "raw") -> Change:
    """Give a volume another backing name, as qemu itself writes it."""

    def change(site: Site) -> None:
        text = name(site)
        images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", fmt, "-b", text, site.place / volume)

    return change


def _name_bytes(data: bytes) -> Change:
    """Overwrite the leaf's backing name, behind the extensions where there is room."""

    def change(site: Site) -> None:
        path = site.place / V3
        images.patch_number(path, 8, 1024, 8)
        images.patch_number(path, 16, len(data), 4)
        images.patch(path, 1024, data)

    return change


def _extension(kind: int, length: int, data: bytes) -> Change:
    """Put an extension before all others of the leaf; those behind are lost, the name is not."""

    def change(site: Site) -> None:
        path = site.place / V3
        name = str(V2).encode()
        area = struct.pack(">II", kind, length) + data + bytes(-len(data) % 8)
        area += struct.pack(">II", 0xE2792ACA, 5) + b"qcow2\0\0\0" + bytes(8)
        images.patch(path, 112, area.ljust(512, b"\0"))
        images.patch_number(path, 8, 1024, 8)
        images.patch(path, 1024, name)

    return change


def _chain(*changes: Change) -> Change:
    def change(site: Site) -> None:
        for each in changes:
            each(site)

    return change


def _data_file(site: Site) -> None:
    name = f"{site.outside}/secret.raw".encode()
    _extension(0x44415441, len(name), name)(site)
    images.patch_number(site.place / V3, 72, 1 << 2, 8)


def _cut(volume: str, length: int) -> Change:
    return lambda site: os.truncate(site.place / volume, length)


def _replaced(name: str, make: Callable[[Site, Path], object]) -> Change:
    def change(site: Site) -> None:
        path = site.place / name
        path.unlink(missing_ok=True)
        make(site, path)

    return change


def _raw_link(site: Site, path: Path) -> None:
    path.symlink_to(site.canary.raw)


def _record_link(site: Site, path: Path) -> None:
    path.symlink_to(site.canary.record)


def _directory(site: Site, path: Path) -> None:
    path.mkdir()


def _device(site: Site, path: Path) -> None:
    """One that reads as zeros without end."""
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))


def _socket(site: Site, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        short = site.directory / "u"
        made.bind(str(short))
        short.rename(path)


def _sparse(site: Site, path: Path) -> None:
    """The longest file that the file system takes, up to 8 EiB."""
    path.touch()
    for shift in range(63, 40, -1):
        try:
            os.truncate(path, (1 << shift) - 4096)
            return
        except OSError:
            continue


def _long(size: int) -> Callable[[Site, Path], object]:
    def make(site: Site, path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


def _directory_link(site: Site) -> None:
    shutil.rmtree(site.place)
    site.place.symlink_to(site.canary.directory)


def _deep(site: Site) -> None:
    """A chain of a thousand volumes; the leaf is the one that everybody knows."""
    names = [*(ids.VolumeId(f"{number:08x}-c48b-4b94-ba94-def922151d48") for number in range(DEEP)), V3]
    leaf = (site.place / V3).read_bytes()
    at = leaf.index(V2.encode())
    below = V1
    for name in names:
        (site.place / name).write_bytes(leaf.replace(V2.encode(), below.encode(), 1))
        site.record(name, below)
        below = name
    images.patch(site.place / names[0], at, str(V1).encode())
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", V1, site.place / names[0])


def _guests_header(site: Site) -> None:
    """The guest wrote a qcow2 header that names the canary at the start of its raw disk."""
    made = images.create(site.directory / "forged", MIB, backing=str(site.canary.raw), backing_format="raw")
    images.patch(site.place / V1, 0, made.read_bytes()[:65536])


def _forged_below(site: Site) -> None:
    _guests_header(site)
    images.qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", V1, site.place / V2)


def _vast(site: Site) -> None:
    """A disk of 10^15 bytes, with a table for all of it."""
    path = site.place / V3
    size = 10**15 // 512 * 512
    end = -(-path.stat().st_size // 65536) * 65536
    os.truncate(path, end + 16 * MIB)
    for offset, value, width in ((24, size, 8), (36, -(-size // (512 * MIB)), 4), (40, end, 8)):
        images.patch_number(path, offset, value, width)


def _table(entry: int) -> Change:
    """Another first entry of the leaf's L1 table."""

    def change(site: Site) -> None:
        path = site.place / V3
        images.patch_number(path, images.number(path, 40, 8), entry, 8)

    return change


def _secret(site: Site) -> str:
    return str(site.canary.raw)


def _json(site: Site) -> str:
    return f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{site.canary.raw}"}}}}'


def cases() -> Iterator[Case]:
    """All of them."""
    for volume, who in ((V3, "leaf"), (V2, "middle")):
        yield Case(f"{who} names an absolute path", _named(volume, _secret), refused=True)
        yield Case(f"{who} names a path out", _named(volume, lambda site: f"{site.outside}/secret.raw"), refused=True)
        yield Case(f"{who} names json:", _named(volume, _json), refused=True)
        address = _named(volume, lambda site: f"nbd://127.0.0.1:{site.canary.port}/x")
        yield Case(f"{who} names nbd:", address, refused=True)
        yield Case(f"{who} names file:", _named(volume, lambda site: f"file:{site.canary.raw}"), refused=True)
        fat = _named(volume, lambda site: f"fat:rw:{site.canary.directory}")
        yield Case(f"{who} names a directory as a disk", fat, refused=True)
        yield Case(f"{who} has features of tomorrow", _patched(volume, 72, 1 << 9, 8))
        yield Case(f"{who} is marked corrupt", _patched(volume, 72, 1 << 1, 8))
        yield Case(f"{who} is called encrypted", _patched(volume, 32, 1, 4))
        yield Case(f"{who} has 2^32-1 entries", _patched(volume, 36, 2**32 - 1, 4), refused=True)
        yield Case(f"{who} has a disk of 2^64-512 bytes", _patched(volume, 24, 2**64 - 512, 8), refused=True)
        yield Case(f"{who} has clusters of 2^63 bytes", _patched(volume, 20, 63, 4), refused=True)
        yield Case(f"{who} is cut to its first sector", _cut(volume, 512), refused=True)
    yield from _more_headers()
    yield from _chains()
    yield from _other_kinds()


def _more_headers() -> Iterator[Case]:
    yield Case("an external data file", _data_file, refused=True)
    yield Case("a backing name of 1023 control bytes", _name_bytes(bytes(range(1, 32)) * 33), refused=True)
    yield Case("a backing name with a NUL", _name_bytes(str(V2).encode() + b"\0/../x"), refused=True)
    yield Case("an extension of 2^32-1 bytes", _extension(0x1234, 2**32 - 1, b""), refused=True)
    yield Case("a format twice", _extension(0xE2792ACA, 3, b"raw"), refused=True)
    yield Case("an unknown extension", _extension(0x1234, 9, b"something"), fine=True)
    snapshots = _chain(_patched(V3, 60, 1, 4), _patched(V3, 64, 1 << 40, 8))
    yield Case("a snapshot table behind the file", snapshots)
    yield Case("65,536 snapshots", _chain(_patched(V3, 60, 65536, 4), _patched(V3, 64, 65536, 8)))
    directory = _extension(0x23852875, 24, struct.pack(">IIQQ", 1, 0, 32, 1 << 40))
    yield Case("bitmaps behind the file", _chain(directory, _patched(V3, 88, 1, 8)), refused=True)
    yield Case("a reference count table behind the file", _patched(V3, 48, 1 << 40, 8), refused=True)
    yield Case("a mapping table behind the file", _patched(V3, 40, 1 << 40, 8), refused=True)
    yield Case("a second table behind the file", _table(1 << 63 | 1 << 40))
    yield Case("a second table that is the header", _table(1 << 63 | 512))
    yield Case("a disk of 10^15 bytes", _vast)
    yield Case("dirty", _patched(V3, 72, 1, 8))
    yield Case("qcow2 and VDI at once", _patched(V2, 64, 0x7F10DABE << 32, 8), fine=True)


def _chains() -> Iterator[Case]:
    yield Case("the leaf names itself", _named(V3, lambda site: V3, "qcow2"), refused=True)
    yield Case("a loop of headers", _named(V2, lambda site: V3, "qcow2"), refused=True)
    loop = _chain(_named(V2, lambda site: V3, "qcow2"), lambda site: site.record(V2, V3))
    yield Case("a loop of headers and records", loop, refused=True)
    yield Case("a chain of a thousand", _deep, refused=True)
    yield Case("a format that is none", _no_format, refused=True)
    yield Case("another format of the base than its record's", _forged_below, refused=True)
    yield Case("a guest's header on a raw disk", _guests_header, fine=True)
    yield Case("raw with a parent", lambda site: site.record(V3, V2, format="RAW"))
    yield Case("a raw disk called COW", lambda site: site.record(V1, BLANK, format="COW"))


def _no_format(site: Site) -> None:
    path = site.place / V3
    at = path.read_bytes()[:1024].index(0xE2792ACA.to_bytes(4, "big"))
    images.patch_number(path, at, 0x1234, 4)


def _other_kinds() -> Iterator[Case]:
    """Something else in the place of a file."""
    for volume, who in ((V3, "leaf"), (V1, "base")):
        yield Case(f"the {who} is a link", _replaced(volume, _raw_link), refused=True)
        yield Case(f"the {who} is a pipe", _replaced(volume, lambda site, path: os.mkfifo(path)), refused=True)
        yield Case(f"the {who} is a directory", _replaced(volume, _directory), refused=True)
        yield Case(f"the {who} is a socket", _replaced(volume, _socket), refused=True)
        if os.geteuid() == 0:
            yield Case(f"the {who} is a device", _replaced(volume, _device), refused=True)
    yield Case("the base is as long as files can be", _replaced(V1, _sparse))
    meta = f"{V3}.meta"
    yield Case("the record is a link", _replaced(meta, _record_link), refused=True)
    yield Case("the record is a pipe", _replaced(meta, lambda site, path: os.mkfifo(path)), refused=True)
    yield Case("the record is a directory", _replaced(meta, _directory), refused=True)
    yield Case("the record is a GiB", _replaced(meta, _long(1 << 30)), refused=True)
    yield Case("the record is bytes", _replaced(meta, lambda site, path: path.write_bytes(bytes(range(256)) * 4)))
    yield Case("the lease is a link", _replaced(f"{V3}.lease", _raw_link))
    yield Case("the image is a link", _directory_link, refused=True)
