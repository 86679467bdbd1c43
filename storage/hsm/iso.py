"""Verbs on files of ISO domains, and the search for an image in a pool."""

import logging
import stat

from storage import errors, files, ids, locks, services as storage_services
from storage.domains import domain as storage_domain, isofiles
from storage.pools import pool, poolbackend

log = logging.getLogger(__name__)

Services = storage_services.Services

FLOPPY = "vfd"


def get_file_stats(
    services: Services, domain_id: ids.DomainId, pattern: str, case_sensitive: bool
) -> dict[str, object]:
    """getFileStats: files of a domain's ISO directory; size in bytes and time of change in seconds, as text.

    Args:
        pattern: of a shell; matched against the relative path and against its last name. ``*`` is everything.
        case_sensitive: whether ``A`` and ``a`` differ.

    Raises:
        StorageDomainDoesNotExist: there is no such domain.
        GetFileStatsError: it has no such directory, or the directory cannot be read.
    """
    domain = services.domains.find(domain_id)
    with services.locks.hold(locks.shared(domain_id), title="getFileStats"):
        found = isofiles.find(domain, isofiles.matcher(pattern, case_sensitive))
    return {"fileStats": {each.name: _stats(each) for each in found}}


def _stats(each: isofiles.IsoFile) -> dict[str, object]:
    status = 0 if each.readable else errors.StorageServerAccessPermissionError.code
    return {"size": str(each.size), "ctime": str(each.ctime), "status": status}


def get_iso_list(services: Services, pool_id: ids.PoolId, extension: str) -> dict[str, list[str]]:
    """getIsoList: files of the pool's active ISO domain that end so, in any case, and that a machine may read.

    Args:
        extension: without dot.

    Raises:
        StoragePoolUnknown: the pool is not connected.
        GetIsoListError: it has no active ISO domain, or that cannot be read.
    """
    return _list(services, "getIsoList", pool_id, extension)


def get_floppy_list(services: Services, pool_id: ids.PoolId) -> dict[str, list[str]]:
    """getFloppyList: as `get_iso_list`, for floppy images; also its errors are those (protocol)."""
    return _list(services, "getFloppyList", pool_id, FLOPPY)


def _list(services: Services, verb: str, pool_id: ids.PoolId, extension: str) -> dict[str, list[str]]:
    which = services.pools.get(pool_id)
    suffix = f".{extension}".lower()
    with services.locks.hold(locks.shared(pool_id), title=verb):
        domains = _active(services, which, "Iso", skip=True)
        if not domains:
            raise errors.GetIsoListError(reason=f"pool {pool_id} has no active ISO domain")
        try:
            found = isofiles.find(domains[0], lambda path: path.lower().endswith(suffix))
        except errors.GetFileStatsError as error:
            raise errors.GetIsoListError(reason=error.fields["reason"]) from error
    return {"isolist": [each.name for each in found if each.readable]}


def get_image_domains_list(services: Services, pool_id: ids.PoolId, image_id: ids.ImageId) -> dict[str, list[str]]:
    """getImageDomainsList: the active data domains of a pool that hold an image.

    Raises:
        StoragePoolUnknown: the pool is not connected.
        StorageError: a domain cannot be looked at: then nobody knows whether it holds the image.
    """
    which = services.pools.get(pool_id)
    with services.locks.hold(locks.shared(pool_id), title="getImageDomainsList"):
        domains = _active(services, which, "Data", skip=False)
        return {"domainslist": [str(each.id) for each in domains if _holds(services, each, image_id)]}


def _holds(services: Services, domain: storage_domain.Domain, image_id: ids.ImageId) -> bool:
    with services.locks.hold(locks.shared(domain.id), title="getImageDomainsList"):
        try:
            return files.file_type(domain.image_directory(image_id)) == stat.S_IFDIR
        except OSError as error:
            reason = error.strerror or str(error)
            raise errors.StorageDomainAccessError(domain=domain.id, reason=reason) from error


def _active(services: Services, which: pool.Pool, domain_class: str, *, skip: bool) -> list[storage_domain.Domain]:
    """Active domains of a class, ordered by id.

    Args:
        skip: leave out what cannot be read, instead of raising.
    """
    names = sorted(name for name, status in which.state().domains.items() if status == poolbackend.ACTIVE)
    found = []
    for name in names:
        try:
            domain = services.domains.find(name)
            if domain.domain_class == domain_class:
                found.append(domain)
        except errors.StorageError as error:
            if not skip:
                raise
            log.warning("domain %s is left out: %s", name, error)
    return found
