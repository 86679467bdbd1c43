"""Verbs on one storage domain, and the list of them."""

import logging
import os
from typing import TYPE_CHECKING, Any

from storage import errors, ids, locks
from storage.domains import clusterlock, connections, domain as storage_domain, domain_metadata, domainmaker
from storage.volumes import image

if TYPE_CHECKING:
    from storage import services as storage_services

log = logging.getLogger(__name__)

Result = dict[str, Any]

TYPES = {1: "NFS", 2: "FCP", 3: "ISCSI", 4: "LOCALFS", 5: "CIFS", 6: "POSIXFS", 7: "GLUSTERFS"}
"""Domain type number of the protocol to the name in the record."""


def create(
    services: "storage_services.Services",
    domain_id: ids.DomainId,
    domain_type: int,
    type_args: str,
    name: str,
    domain_class: int,
    version: int,
) -> None:
    """Make a domain on connected storage.

    Args:
        domain_type: number of the protocol: 1 NFS, 4 a local directory, 6 a POSIX file system, 7 GlusterFS.
        type_args: the directory or the source, as it was connected.
        domain_class: 1 Data, 2 Iso, 3 Backup.
        version: 0, 3, 4 or 5.

    Raises:
        StorageDomainAlreadyExists, StorageDomainClassError, UnsupportedDomainVersion, StorageDomainTypeError,
        StorageDomainIllegalRemotePath, StorageServerAccessPermissionError, StorageDomainFSNotMounted: checked in this
            order.
        StorageError: as `domainmaker.create`.
    """
    if _exists(services, domain_id):
        raise errors.StorageDomainAlreadyExists(domain=domain_id)
    if domain_class not in domainmaker.CLASSES:
        raise errors.StorageDomainClassError(domain_class=domain_class)
    if version not in domainmaker.CREATABLE_VERSIONS:
        raise errors.UnsupportedDomainVersion(version=version)
    if domain_type not in connections.FILE_TYPES:
        raise errors.StorageDomainTypeError(type=TYPES.get(domain_type, domain_type))
    path, mount = services.connections.place(domain_type, type_args)
    # One mount holds one domain, so creations on a mount exclude each other.
    with services.locks.hold(locks.exclusive(domain_id), locks.exclusive(mount.name), title="createStorageDomain"):
        if _exists(services, domain_id):
            raise errors.StorageDomainAlreadyExists(domain=domain_id)
        domainmaker.create(
            mount,
            domain_id,
            version=version,
            name=name,
            domain_class=domainmaker.CLASSES[domain_class],
            remote_path=path,
            type_name=TYPES[domain_type],
        )


def _exists(services: "storage_services.Services", domain_id: ids.DomainId) -> bool:
    try:
        services.domains.find(domain_id)
    except errors.StorageDomainDoesNotExist:
        return False
    return True


def format(services: "storage_services.Services", domain_id: ids.DomainId, auto_detach: bool) -> None:
    """Remove a domain with everything in it, also one whose record is damaged, and the remains of one.

    Args:
        auto_detach: also when the record names a pool.

    Raises:
        StorageDomainDoesNotExist: there is no such domain and no remains of one.
        CannotFormatStorageDomainInConnectedPool: it belongs to a pool that is connected here.
        CannotFormatAttachedStorageDomain: its record names a pool and `auto_detach` is false.
        StorageDomainActionError: somebody holds its cluster lock.
        StorageDomainAccessError: its record cannot be read, so nobody knows whose it is.
        StorageDomainMasterError: the map of a connected pool cannot be read, so nobody knows whether it is in it.
        MiscDirCleanupFailure: something could not be removed; the call can be repeated.
    """
    place = _find_or_remains(services, domain_id)
    names = locks.exclusive(domain_id), locks.exclusive(place.mount.name)
    with services.locks.hold(*names, title="formatStorageDomain"):
        domain = _find_or_remains(services, domain_id)
        pools = _recorded_pools(domain) if domain.exists() else []
        if (pool_id := _connected_pool(services, domain_id, pools)) is not None:
            raise errors.CannotFormatStorageDomainInConnectedPool(domain=domain_id, pool=pool_id)
        if pools and not auto_detach:
            raise errors.CannotFormatAttachedStorageDomain(domain=domain_id, pool=", ".join(pools))
        _remove_unused(domain)


def _find_or_remains(services: "storage_services.Services", domain_id: ids.DomainId) -> storage_domain.Domain:
    try:
        return services.domains.find(domain_id)
    except errors.StorageDomainDoesNotExist:
        if (left := services.domains.remains(domain_id)) is None:
            raise
        return left


def _recorded_pools(domain: storage_domain.Domain) -> list[str]:
    """What the record says about pools, if need be read past its damage: not knowing must not mean "none"."""
    values, problems = domain_metadata.inspect(domain.read_record())
    if problems:
        log.warning("domain %s is formatted although its record is damaged: %s", domain.id, "; ".join(problems))
    entries = (entry.strip() for entry in values.get(domain_metadata.POOLS, "").split(","))
    return [entry for entry in entries if entry and entry != ids.BLANK]


def _remove_unused(domain: storage_domain.Domain) -> None:
    """Remove under the cluster lock: a process that holds it is SPM on this domain, and the domain stays."""
    path = domain.path / "dom_md" / "ids"
    lock = clusterlock.LocalLock(domain.id, path)
    try:
        lock.acquire(clusterlock.RESERVED_HOST_ID)
    except errors.AcquireLockFailure as error:
        if os.path.lexists(path):
            raise errors.StorageDomainActionError(reason=str(error)) from error
        # Without the file nobody can hold the lock.
    try:
        domain.remove()
    finally:
        lock.release()


def _connected_pool(
    services: "storage_services.Services", domain_id: ids.DomainId, recorded: list[str]
) -> ids.PoolId | None:
    for pool in services.pools.all():
        # The map comes first: when it cannot be read, nobody knows, and that is no permission.
        if domain_id in pool.state().domains or domain_id == pool.master.id or pool.id in recorded:
            return pool.id
    return None


def get_info(services: "storage_services.Services", domain_id: ids.DomainId) -> Result:
    """What the domain's record says; ``version`` as text, ``pool`` a list, ``remotePath`` where the connection leads.

    Raises:
        StorageError: the domain does not exist or its record cannot be used.
    """
    domain = services.domains.find(domain_id)
    with services.locks.hold(locks.shared(domain_id), title="getStorageDomainInfo"):
        metadata = domain.metadata()
    return {
        "info": {
            "uuid": str(domain_id),
            "type": metadata.type,
            "class": metadata.domain_class,
            "name": metadata.description,
            "role": metadata.role,
            "pool": [str(pool_id) for pool_id in metadata.pools],
            "version": str(metadata.version),
            "remotePath": domain.remote_path,
        }
    }


def get_stats(services: "storage_services.Services", domain_id: ids.DomainId) -> Result:
    """Size and free space in bytes, as text. The members about a metadata area mean something on block storage only."""
    domain = services.domains.find(domain_id)
    with services.locks.hold(locks.shared(domain_id), title="getStorageDomainStats"):
        total, free = domain.space()
    return {
        "stats": {
            "disktotal": str(total),
            "diskfree": str(free),
            "mdavalid": True,
            "mdathreshold": True,
            "mdasize": 0,
            "mdafree": 0,
        }
    }


def validate(services: "storage_services.Services", domain_id: ids.DomainId) -> None:
    """Check that the domain is usable; raises what is wrong with it."""
    services.domains.find(domain_id).validate()


def get_list(
    services: "storage_services.Services",
    pool_id: ids.PoolId | None,
    domain_class: int | None,
    storage_type: int | None,
    remote_path: str | None,
) -> Result:
    """Ids of the domains that can be read, ordered.

    Args:
        pool_id: only those of this pool.
        domain_class: only this class, a number.
        storage_type: only this type, a number.
        remote_path: only those on this connection.

    Raises:
        StoragePoolUnknown: the pool is not connected.
    """
    if pool_id is not None:
        services.pools.get(pool_id)
    services.domains.forget()
    mount_name = None if remote_path is None else connections.name_of(remote_path)
    found = []
    for domain in services.domains.all():
        try:
            metadata = domain.metadata()
            if pool_id is not None and pool_id not in metadata.pools:
                continue
            if domain_class is not None and metadata.domain_class != domainmaker.CLASSES.get(domain_class):
                continue
            if storage_type is not None and metadata.type != TYPES.get(storage_type):
                continue
            if mount_name is None or domain.mount.name == mount_name:
                found.append(str(domain.id))
        except errors.StorageError as error:
            log.warning("domain %s is left out: %s", domain.id, error)
    return {"domlist": found}


def get_images(services: "storage_services.Services", domain_id: ids.DomainId) -> Result:
    """Ids of all images of the domain, from one directory listing."""
    domain = services.domains.find(domain_id)
    with services.locks.hold(locks.shared(domain_id), title="getImagesList"):
        return {"imageslist": [str(image_id) for image_id in domain.image_ids()]}


def get_volumes(services: "storage_services.Services", domain_id: ids.DomainId, image_id: ids.ImageId | None) -> Result:
    """Ids of the volumes of an image, or of the whole domain, each once; from directory listings only.

    Args:
        image_id: the image; an unknown one has no volumes. None: every image.
    """
    domain = services.domains.find(domain_id)
    with services.locks.hold(locks.shared(domain_id), title="getVolumesList"):
        if image_id is None:
            return {"uuidlist": sorted(image.every_volume(domain))}
        try:
            return {"uuidlist": [str(volume) for volume in image.volume_ids(domain, image_id)]}
        except errors.ImageDoesNotExistInSD:
            return {"uuidlist": []}
