"""Verbs that give a domain or a pool another name for people."""

from storage import errors, ids, locks, services as storage_services
from storage.domains import domain_metadata
from storage.pools import poolmaker

Services = storage_services.Services

LIMIT = 50
"""Characters of a domain's name that can be changed to; a domain may have been made with more."""


def set_domain(services: Services, domain_id: ids.DomainId, text: str) -> None:
    """setStorageDomainDescription: name a domain that belongs to a pool of which this host is the SPM.

    Raises:
        StorageDomainDescriptionTooLongError: the name is too long.
        StorageDomainDoesNotExist: there is no such domain.
        StorageDomainActionError: it belongs to no pool.
        StoragePoolUnknown, SpmStatusError: this host must not write.
        StorageDomainNotMemberOfPool: its pool does not know of it.
        UnicodeArgumentException: its version takes ASCII names only.
        InvalidParameterException: the name holds characters that no record can.
        StorageError: its record cannot be read or written.
    """
    if len(text) > LIMIT:
        raise errors.StorageDomainDescriptionTooLongError(limit=LIMIT)
    member = services.domains.find(domain_id)
    with services.locks.hold(locks.shared(domain_id), title="setStorageDomainDescription"):
        record = member.metadata()
        if not record.pools:
            raise errors.StorageDomainActionError(reason=f"domain {domain_id} is attached to no pool")
        connected = {each.id for each in services.pools.all()}
        mine = [each for each in record.pools if each in connected] or record.pools
        services.pools.spm(mine[0]).member(domain_id)
        if not text.isascii() and record.version < poolmaker.UNICODE_VERSION:
            raise errors.UnicodeArgumentException(object="domain", version=record.version)
        _check_text(text)
        member.update({domain_metadata.DESCRIPTION: text})


def set_pool(services: Services, pool_id: ids.PoolId, text: str) -> None:
    """setStoragePoolDescription: name a pool, also one that was connected with a map of its domains.

    Raises:
        StoragePoolUnknown, SpmStatusError: this host must not write.
        StoragePoolDescriptionTooLongError: the name is too long.
        UnicodeArgumentException: the master's version takes ASCII names only.
        InvalidParameterException: the name holds characters that no record can.
        StorageError: the master's record cannot be read or written.
    """
    services.pools.spm(pool_id)
    with services.locks.hold(locks.exclusive(pool_id), title="setStoragePoolDescription"):
        master = services.pools.spm(pool_id).master
        poolmaker.check_name(text)
        poolmaker.check_ascii(text, master.version)
        master.update({domain_metadata.POOL_DESCRIPTION: text})


def _check_text(text: str) -> None:
    try:
        domain_metadata.check_text("description", text)
    except errors.MetaDataValidationError as error:
        raise errors.InvalidParameterException(name="description", reason=error.fields["reason"]) from None
