"""What engines do to storage, as a table: how each state comes about, and the one call that changes it.

Two domains (A, the master, and B) in a pool, an image of three volumes with data, and a third directory (C). Each
scenario is one verb that writes. It is driven through a host (`hosts`), so it runs in this process and on a daemon.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from tests.support import daemon as support, hosts, images, tree

MIB = 1 << 20
SIZE = MIB
BLANK = support.BLANK
RAW, COW, SPARSE, PREALLOCATED = support.RAW, support.COW, support.SPARSE, 1
TEMPLATE, LEAF = 6, 8
NO_SUCH_POOL = 309

POOL = "6e4d6a96-1234-4234-8905-b5eec55c1535"
A = "aaaaaaaa-0000-4000-8000-00000000000a"
B = "bbbbbbbb-0000-4000-8000-00000000000b"
C = "cccccccc-0000-4000-8000-00000000000c"
IMAGE = "11111111-0000-4000-8000-000000000001"
OTHER = "22222222-0000-4000-8000-000000000002"
V1, V2, V3, V4 = (f"{n}{n}{n}{n}{n}{n}{n}{n}-0000-4000-8000-0000000000{n}{n}" for n in "6789")
VM = "33333333-0000-4000-8000-000000000003"
PLACES = ("a", "b", "c")

Host = hosts.Host
Act = Callable[[Host], int]
Prepare = Callable[[Host, Path], None]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One verb at work.

    Attributes:
        name: the verb, and which of its ways.
        act: the call; its code.
        prepare: what has to be there, besides the two domains, the pool and the image.
        ready: how far a host is when the call comes: ``storage`` connected, ``pool`` connected, or ``spm``.
        pooled: whether there is a pool with an image from the start.
        version: of the domains.
        settled: codes of a repeated call that say that it was done already.
        between: why there are states that are neither old nor new, and which the repeated call finishes; the facts of
            such a state are old or new, each for itself.
        forgiving: names of facts that stay old where a change fails that is not made by the pool's master but told to
            another domain; a regular expression.
        free: names of facts that may be neither, then; a regular expression.
        again: what finishes it, where that is not the same call.
    """

    name: str
    act: Act
    prepare: Prepare | None = None
    ready: str = "spm"
    pooled: bool = True
    version: int = 3
    settled: frozenset[int] = frozenset()
    between: str = ""
    forgiving: str = ""
    free: str = ""
    again: Act | None = None

    def __str__(self) -> str:
        return self.name


def place(root: Path, name: str) -> Path:
    """The directory of a connection."""
    return root / f"storage-{name}"


def make(host: Host, root: Path, scenario: Scenario) -> None:
    """Bring storage into the state that the scenario starts from."""
    place(root, "d").mkdir()
    for name in PLACES:
        place(root, name).mkdir(exist_ok=True)
        hosts.connect_storage(host, place(root, name))
    for domain, name in ((A, "a"), (B, "b")):
        create_domain(host, root, domain, name, version=scenario.version)
    if scenario.pooled:
        hosts.call(host, "createStoragePool", 0, POOL, "pool", A, [A, B], 1)
        connect_pool(host, root)
        start_spm(host)
        hosts.call(host, "activateStorageDomain", B, POOL)
        make_chain(host, root)
        update_machine(host, "<old/>")
    if scenario.prepare:
        scenario.prepare(host, root)


def up(host: Host, root: Path, level: str = "spm") -> None:
    """What an engine does with a host that was just started; as far as the storage has it."""
    for name in PLACES:
        hosts.connect_storage(host, place(root, name))
    there = level != "storage" and connect_pool(host, root)
    if there and level == "spm" and host.answer("getSpmStatus", POOL)["spm_st"]["spmStatus"] != "SPM":
        start_spm(host)


def connect_pool(host: Host, root: Path) -> bool:
    """Connect the pool, if there is one, to its newest master."""
    found = [each for each in tree.masters(root) if POOL in each[2]]
    if found:
        hosts.call(host, "connectStoragePool", POOL, 1, "key", found[-1][1], found[-1][0])
    return bool(found)


def start_spm(host: Host) -> None:
    hosts.call(host, "spmStart", POOL, -1, -1, 0, "false", 250)


def create_domain(host: Host, root: Path, domain: str, name: str, *, kind: int = 1, version: int = 3) -> None:
    path = str(place(root, name))
    hosts.call(host, "createStorageDomain", support.LOCALFS, domain, "a name", path, kind, version)


def create_volume(
    host: Host, image: str, volume: str, form: int = COW, parent: str = BLANK, *, domain: str = A, source: str = ""
) -> int:
    """createVolume of 1 MiB; its code."""
    beneath = BLANK if parent == BLANK else source or image
    arguments = (domain, POOL, image, str(SIZE), form, SPARSE, 2, volume, "text", beneath, parent)
    return hosts.code_of(host, "createVolume", *arguments)


def must(code: int) -> None:
    assert code == 0, f"code {code} while the scenario was prepared"


def image_directory(root: Path, domain: str = A, image: str = IMAGE) -> Path:
    name = {A: "a", B: "b", C: "c"}[domain]
    return place(root, name) / domain / "images" / image


def make_chain(host: Host, root: Path) -> None:
    """A raw base and two snapshots, each with data of its own."""
    directory = image_directory(root)
    for number, (volume, parent) in enumerate(((V1, BLANK), (V2, V1), (V3, V2))):
        must(create_volume(host, IMAGE, volume, COW if number else RAW, parent))
        patterns = [(65536 * number, 65536, number + 1), (65536 * 8, 65536, number + 1)]
        images.write_patterns(directory / volume, patterns, fmt="qcow2" if number else "raw")
    hosts.clear_all(host)


def update_machine(host: Host, text: str) -> None:
    hosts.call(host, "updateVM", POOL, [{"vm": VM, "ovf": text, "imglist": ""}], A)


# ---------------------------------------------------------------- states to start from


def _third_domain(host: Host, root: Path, *, kind: int = 1) -> None:
    create_domain(host, root, C, "c", kind=kind)


def _attached(host: Host, root: Path, *, kind: int = 1) -> None:
    _third_domain(host, root, kind=kind)
    hosts.call(host, "attachStorageDomain", C, POOL)


def _b_attached_only(host: Host, root: Path) -> None:
    hosts.call(host, "deactivateStorageDomain", B, POOL, BLANK, 1)


def _template(host: Host, root: Path) -> None:
    arguments = (A, POOL, BLANK, IMAGE, V3, OTHER, V4, "template", A, TEMPLATE, COW, SPARSE, "false", "false")
    hosts.call(host, "copyImage", *arguments)


def _cloned(host: Host, root: Path) -> None:
    hosts.call(host, "cloneImageStructure", POOL, A, IMAGE, B)


def _single(host: Host, root: Path) -> None:
    must(create_volume(host, OTHER, V4, RAW))
    images.write_patterns(image_directory(root, A, OTHER) / V4, [(0, 65536, 77)], fmt="raw")
    hosts.clear_all(host)


def _merged_below(host: Host, root: Path) -> None:
    """V2 was merged into V1 by qemu, and the header of V3 says so; the records do not."""
    directory = image_directory(root)
    images.qemu_img("commit", "-q", "-f", "qcow2", "-d", directory / V2)
    images.qemu_img("rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", V1, directory / V3)


def _torn_below(host: Host, root: Path) -> None:
    """The header of V3 says that V2 was merged into V1, and it was not."""
    images.qemu_img("rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", V1, image_directory(root) / V3)


def _marked(host: Host, root: Path) -> None:
    hosts.call(host, "setVolumeLegality", A, POOL, IMAGE, V3, "ILLEGAL")


def _prepared(host: Host, root: Path) -> None:
    hosts.call(host, "prepareImage", POOL, A, IMAGE, V3)


def _fourth(host: Host, root: Path) -> None:
    hosts.connect_storage(host, place(root, "d"))


def _acquired(host: Host, root: Path) -> None:
    hosts.call(host, "storageServer_ConnectionRefs_acquire", _references(root))


def _references(root: Path) -> dict[str, object]:
    path = str(place(root, "c"))
    return {C: {"type": "localfs", "params": {"path": path}}}


# ---------------------------------------------------------------- the table


def _does(verb: str, *arguments: object) -> Act:
    return functools.partial(_act, verb, arguments)


def _act(verb: str, arguments: tuple[object, ...], host: Host) -> int:
    return hosts.code_of(host, verb, *arguments)


def _first(verb: str, member: str, *arguments: object) -> Act:
    """A verb that answers a code for each of its entries, of which there is one."""

    def act(host: Host) -> int:
        reply = host.answer(verb, *arguments)
        if code := reply["status"]["code"]:
            return int(code)
        found = reply[member]
        return int(found[0]["status"]) if isinstance(found, list) else int(next(iter(found.values())))

    return act


def _volume(*arguments: str | int, source: str = "") -> Act:
    return lambda host: create_volume(host, *arguments, source=source)  # type: ignore[arg-type]


def _upgrade(host: Host) -> int:
    code = hosts.code_of(host, "upgradeStoragePool", POOL, 5)
    host.quiet()
    return code


def _destroy_rest(host: Host) -> int:
    """Once the pool is no more, its links are left to go."""
    code = hosts.code_of(host, "destroyStoragePool", POOL, 1, "key")
    return hosts.code_of(host, "disconnectStoragePool", POOL, 1, "key") if code == NO_SUCH_POOL else code


def _move_rest(host: Host) -> int:
    left = hosts.call(host, "getImagesList", A)["imageslist"]
    wanted = {each: "false" for each in (IMAGE, OTHER) if each in left}
    return hosts.code_of(host, "moveMultipleImages", POOL, A, B, wanted, BLANK, "false") if wanted else 0


def _delete_rest(host: Host) -> int:
    left = hosts.call(host, "getVolumesList", A, POOL, IMAGE)["uuidlist"]
    wanted = [each for each in (V3, V2, V1) if each in left]
    return hosts.code_of(host, "deleteVolume", A, POOL, IMAGE, wanted) if wanted else 0


def _stream(host: Host) -> int:
    return host.put(POOL, A, OTHER, V4, bytes(range(1, 256)) * 4112 + bytes(SIZE - 255 * 4112))


def _revert(host: Host) -> int:
    code = 0
    for task in host.answer("getAllTasksStatuses").get("allTasksStatus", {}):
        code = code or hosts.code_of(host, "revertTask", task)
    return code


def table(root: Path) -> list[Scenario]:
    """All scenarios. The root is where their storage is, since some calls name directories."""
    new = str(place(root, "c"))
    domain = ("createStorageDomain", support.LOCALFS, C, "a name", new)
    entry = [{"id": C, "connection": str(place(root, "d"))}]
    copy = (A, POOL, BLANK, IMAGE, V3, OTHER, V4, "copy")
    machine = [{"vm": VM, "ovf": "<new/>", "imglist": ""}]
    two = {A: "Active", B: "Active"}
    in_use, gone, exists = frozenset((380, 381, 382)), frozenset((358,)), frozenset((365,))
    return [
        Scenario("createStorageDomain", _does(*domain, 1, 3), ready="storage", settled=exists),
        Scenario("createStorageDomain 5", _does(*domain, 1, 5), ready="storage", settled=exists),
        Scenario("createStorageDomain iso", _does(*domain, 2, 0), ready="storage", settled=exists),
        Scenario("formatStorageDomain", _does("formatStorageDomain", C, "false"), _third_domain, settled=gone),
        Scenario(
            "createStoragePool",
            _does("createStoragePool", 0, POOL, "pool", A, [A, B], 1),
            ready="storage",
            pooled=False,
            settled=in_use,
            between="the members name the pool before the master does",
            free=".*(VDSMLITE_CREATING|POOL_DESCRIPTION|POOL_DOMAINS)",
        ),
        Scenario("connectStoragePool", lambda host: connect_again(host, root), ready="storage"),
        Scenario("disconnectStoragePool", _does("disconnectStoragePool", POOL, 1, "key"), ready="pool"),
        Scenario(
            "destroyStoragePool",
            _does("destroyStoragePool", POOL, 1, "key"),
            between="members are detached one by one; links of this host go last",
            again=_destroy_rest,
            forgiving="domain bbbbbbbb POOL_UUID",
            free="(link .*|.*POOL_DOMAINS)",
        ),
        Scenario("spmStart", _does("spmStart", POOL, -1, -1, 0, "false", 250), ready="pool"),
        Scenario("spmStop", _does("spmStop", POOL)),
        Scenario("fenceSpmStorage", _does("fenceSpmStorage", POOL, 1, 1), ready="pool"),
        Scenario(
            "attachStorageDomain",
            _does("attachStorageDomain", C, POOL),
            _third_domain,
            between="the domain names the pool before the map names the domain",
        ),
        Scenario("activateStorageDomain", _does("activateStorageDomain", C, POOL), _attached),
        Scenario(
            "activateStorageDomain backup",
            _does("activateStorageDomain", C, POOL),
            functools.partial(_attached, kind=3),
        ),
        Scenario("deactivateStorageDomain", _does("deactivateStorageDomain", B, POOL, BLANK, 1)),
        Scenario(
            "detachStorageDomain",
            _does("detachStorageDomain", B, POOL, BLANK, 1),
            _b_attached_only,
            between="the map forgets the domain before the domain forgets the pool",
        ),
        Scenario("forcedDetachStorageDomain", _does("forcedDetachStorageDomain", B, POOL), _b_attached_only),
        Scenario(
            "deactivateStorageDomain master",
            _does("deactivateStorageDomain", A, POOL, B, 2),
        ),
        Scenario(
            "reconstructMaster",
            _does("reconstructMaster", POOL, "pool", B, two, 7, "ON", 5, 60, 10, 3, 1),
            ready="storage",
        ),
        Scenario("upgradeStoragePool", _upgrade, between="phase by phase", free="(domain .* VERSION|volume .*)"),
        Scenario(
            "upgradeStoragePool 0", _upgrade, version=0, between="phase by phase", free="(domain .* VERSION|volume .*)"
        ),
        Scenario("setStoragePoolDescription", _does("setStoragePoolDescription", POOL, "another")),
        Scenario("setStorageDomainDescription", _does("setStorageDomainDescription", B, "another")),
        Scenario("updateVM", _does("updateVM", POOL, machine, A)),
        Scenario("removeVM", _does("removeVM", POOL, VM, A)),
        Scenario("createVolume raw", _volume(OTHER, V4, RAW)),
        Scenario("createVolume cow", _volume(OTHER, V4, COW), version=5),
        Scenario("createVolume snapshot", _volume(IMAGE, V4, COW, V3)),
        Scenario("createVolume clone", _volume(VM, V1, COW, V4, source=OTHER), _template),
        Scenario("deleteVolume", _does("deleteVolume", A, POOL, IMAGE, [V3])),
        Scenario(
            "deleteVolume all",
            _does("deleteVolume", A, POOL, IMAGE, [V3, V2, V1]),
            between="one volume after the other, each there or gone",
            free="volume .*",
            again=_delete_rest,
        ),
        Scenario("deleteImage", _does("deleteImage", A, POOL, IMAGE)),
        Scenario("copyImage", _does("copyImage", *copy, B, LEAF, RAW, SPARSE, "false", "false"), version=5),
        Scenario("copyImage template", _does("copyImage", *copy, A, TEMPLATE, COW, SPARSE, "false", "false")),
        Scenario("copyImage over", _does("copyImage", *copy, A, LEAF, RAW, PREALLOCATED, "false", "true"), _single),
        Scenario("moveImage copy", _does("moveImage", POOL, A, B, IMAGE, BLANK, 1, "false", "false")),
        Scenario("moveImage", _does("moveImage", POOL, A, B, IMAGE, BLANK, 2, "false", "false")),
        Scenario("moveImage over", _does("moveImage", POOL, A, B, IMAGE, BLANK, 2, "false", "true"), _cloned),
        Scenario(
            "moveMultipleImages",
            _does("moveMultipleImages", POOL, A, B, {IMAGE: "false", OTHER: "false"}, BLANK, "false"),
            _single,
            between="image after image, each in one of the two domains",
            again=_move_rest,
        ),
        Scenario("cloneImageStructure", _does("cloneImageStructure", POOL, A, IMAGE, B)),
        Scenario("syncImageData", _does("syncImageData", POOL, A, IMAGE, B, "ALL"), _cloned),
        Scenario("mergeSnapshots", _does("mergeSnapshots", A, POOL, BLANK, IMAGE, V2, V3, "false")),
        Scenario("mergeSnapshots base", _does("mergeSnapshots", A, POOL, BLANK, IMAGE, V1, V2, "false")),
        Scenario("extendVolumeSize", _does("extendVolumeSize", POOL, A, IMAGE, V3, str(2 * SIZE))),
        Scenario("extendVolumeSize raw", _does("extendVolumeSize", POOL, A, OTHER, V4, str(2 * SIZE)), _single),
        Scenario("volumeSetSize", _does("volumeSetSize", A, POOL, IMAGE, V3, str(2 * SIZE))),
        Scenario("setVolumeDescription", _does("setVolumeDescription", A, POOL, IMAGE, V3, "another")),
        Scenario("setVolumeLegality", _does("setVolumeLegality", A, POOL, IMAGE, V3, "ILLEGAL")),
        Scenario(
            "upload by stream",
            _stream,
            _single,
            between="what was there is gone before all of the new is there; ILLEGAL and TRANSFER until it is",
            free="volume aaaaaaaa 22222222 .*",
        ),
        Scenario("reconcileVolumeChain merged", _does("reconcileVolumeChain", POOL, A, IMAGE, V3), _merged_below),
        Scenario("reconcileVolumeChain torn", _does("reconcileVolumeChain", POOL, A, IMAGE, V3), _torn_below),
        Scenario("reconcileVolumeChain marked", _does("reconcileVolumeChain", POOL, A, IMAGE, V3), _marked),
        Scenario("proveVolumeChain", _does("proveVolumeChain", POOL, A, IMAGE, V3), _torn_below),
        Scenario("prepareImage", _does("prepareImage", POOL, A, IMAGE, V3)),
        Scenario("teardownImage", _does("teardownImage", POOL, A, IMAGE, V3), _prepared),
        Scenario("connectStorageServer", _first("connectStorageServer", "statuslist", support.LOCALFS, BLANK, entry)),
        Scenario(
            "disconnectStorageServer",
            _first("disconnectStorageServer", "statuslist", support.LOCALFS, BLANK, entry),
            _fourth,
        ),
        Scenario(
            "ConnectionRefs acquire", _first("storageServer_ConnectionRefs_acquire", "results", _references(root))
        ),
        Scenario("ConnectionRefs release", _first("storageServer_ConnectionRefs_release", "results", [C]), _acquired),
    ]


def connect_again(host: Host, root: Path) -> int:
    """connectStoragePool; its code."""
    found = tree.masters(root)[-1]
    return hosts.code_of(host, "connectStoragePool", POOL, 1, "key", found[1], found[0])
