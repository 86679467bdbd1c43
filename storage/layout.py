"""Where things live: the repository's tree and the names of connections. Pure, no I/O.

The tree (format: the protocol's repository, so that a repository can be handed over in both directions)::

    <repository>/mnt/<encoded path>            one connection: a mount, or for a local directory a symbolic link to it
    <repository>/mnt/glusterSD/<encoded path>  the same for GlusterFS
    <repository>/mnt/<encoded path>/<domain>   a file domain
    <repository>/<pool>/<domain>               link to the domain, while the pool is connected
    <repository>/<pool>/mastersd               link to the master domain
    <repository>/hsm-tasks                     tasks of this host
    <repository>/run/<domain>/<image>          link to a prepared image
    <repository>/connections.json              connections that this host keeps up (references)
"""

import dataclasses
import re
from pathlib import Path

from storage import errors, ids

METADATA = "dom_md/metadata"
MASTER_LINK = "mastersd"

GLUSTER = "glusterSD"
CONTAINERS = ("blockSD", GLUSTER)
"""Entries of ``<repository>/mnt`` that are no connections but hold entries of other kinds."""

NAME_LIMIT = 255
"""Most bytes of one name in a directory."""

# What a path in a line-based record and in a message must never hold: C0, DEL, C1, Unicode's line separators, and lone
# surrogates, which JSON can carry and no file system name can.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Repository:
    """Paths below the repository root.

    Attributes:
        root: absolute path of the repository.
    """

    root: Path

    @property
    def mnt(self) -> Path:
        """Directory of all connections."""
        return self.root / "mnt"

    @property
    def host_tasks(self) -> Path:
        """Task store of this host, for tasks that no pool owns."""
        return self.root / "hsm-tasks"

    @property
    def run(self) -> Path:
        """Root of the links to prepared images."""
        return self.root / "run"

    @property
    def references(self) -> Path:
        """Record of the references to connections, which are kept up."""
        return self.root / "connections.json"

    def connection(self, path: str) -> Path:
        """Mount point (or link) of the connection to a canonical `path`."""
        return self.mnt / encode(path)

    def pool_directory(self, pool_id: ids.PoolId) -> Path:
        """Directory of a connected pool; holds links only."""
        return self.root / pool_id

    def domain_link(self, pool_id: ids.PoolId, domain_id: ids.DomainId) -> Path:
        """Link of a domain inside its pool's directory."""
        return self.pool_directory(pool_id) / domain_id

    def master_link(self, pool_id: ids.PoolId) -> Path:
        """Link of the master domain inside the pool's directory."""
        return self.pool_directory(pool_id) / MASTER_LINK

    def task_store(self, pool_id: ids.PoolId) -> Path:
        """Task store of a pool, reached through the link to its master."""
        return self.master_link(pool_id) / "master" / "tasks"

    def run_link(self, domain_id: ids.DomainId, image_id: ids.ImageId) -> Path:
        """Link of one prepared image."""
        return self.run / domain_id / image_id


def encode(path: str) -> str:
    """Directory name of a connection: ``_`` becomes ``__``, then ``/`` becomes ``_``; nothing else is escaped.

    Not injective (``/a/_b`` and ``/a_/b`` are one name), so a name is never decoded: whoever makes the entry compares
    what it points at. Give it canonical paths only.
    """
    return path.replace("_", "__").replace("/", "_")


def is_unprintable(text: str) -> bool:
    """Whether a text holds what a path in a line-based record and in a message must never hold."""
    return _UNPRINTABLE.search(text) is not None


def canonical_local(path: str) -> str:
    """The one spelling of an absolute local path: no doubled and no trailing slash, no ``.``. Symbolic links stay.

    Args:
        path: what the caller gave.

    Raises:
        StorageDomainIllegalRemotePath: not absolute, the root itself, with a ``..`` component (what it means depends
            on links, so it has no canonical text), with control characters, or too long for a name.
    """
    if is_unprintable(path):
        raise errors.StorageDomainIllegalRemotePath(path=repr(path), reason="it holds control characters")
    if not path.startswith("/"):
        raise errors.StorageDomainIllegalRemotePath(path=repr(path), reason="it is not absolute")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise errors.StorageDomainIllegalRemotePath(path=repr(path), reason="it has a component '..'")
    if not parts:
        raise errors.StorageDomainIllegalRemotePath(path=repr(path), reason="the root directory is no storage")
    canonical = "/" + "/".join(parts)
    if len(encode(canonical).encode()) > NAME_LIMIT:
        raise errors.StorageDomainIllegalRemotePath(path=repr(path), reason=f"its name exceeds {NAME_LIMIT} bytes")
    return canonical


def images(domain: Path) -> Path:
    """Directory of all images of a domain."""
    return domain / "images"


def master_tasks(domain: Path) -> Path:
    """Task store inside a master domain."""
    return domain / "master" / "tasks"


def master_vms(domain: Path) -> Path:
    """Directory of machine descriptions inside a master domain."""
    return domain / "master" / "vms"
