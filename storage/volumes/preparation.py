"""What has to be true of an image before a guest may run on it, and where its files are then found.

Only the image's own directory is read, so the cost grows with the chain and not with the domain.
"""

import os
import stat
from pathlib import Path

from storage import errors, files, ids, layout
from storage.chains import record
from storage.qemu import qcow2
from storage.volumes import image, volume, volume_metadata


def chain(domain: image.Domain, held: image.Contents, leaf: ids.VolumeId, limit: int) -> list[ids.VolumeId]:
    """The volumes that a guest on this leaf reads, leaf first, a template at the end.

    Args:
        limit: most volumes of a chain.

    Raises:
        VolumeDoesNotExist: there is no such leaf.
        PrepareIllegalVolumeError: a volume of the chain is ILLEGAL: nobody knows yet whether its data is good.
        ImageIsNotLegalChain: a volume is missing or comes twice, there are too many, or a header contradicts a record.
        ImageValidationError: a record cannot be read, data is a symbolic link, or a header leads out of the image.
        IncorrectFormat: a header calls its parent a format that the parent's record does not: a guest could have
            written a header into its raw disk.
    """
    if leaf not in held:
        raise errors.VolumeDoesNotExist(volume=leaf, image=held.image)
    found: list[ids.VolumeId] = []
    volume_id = leaf
    while not volume_id.is_blank:
        if volume_id in found:
            raise _broken(held, f"volume {volume_id} stands on itself")
        if len(found) == limit:
            raise _broken(held, f"it has more than {limit} volumes")
        known = _usable(held, volume_id)
        _check_data(domain, held, volume_id)
        if known.format == volume_metadata.COW:
            _check_header(domain, held, volume_id, known.parent)
        found.append(volume_id)
        if known.voltype == volume_metadata.SHARED:
            break
        volume_id = known.parent
    return found


def _usable(held: image.Contents, volume_id: ids.VolumeId) -> volume_metadata.VolumeMetadata:
    if volume_id in held.damaged:
        reason = held.damaged[volume_id].reason
        raise errors.ImageValidationError(object=f"record of volume {volume_id}", reason=reason)
    known = held.records.get(volume_id)
    if known is None:
        raise _broken(held, f"volume {volume_id} is missing")
    if known.legality == volume_metadata.ILLEGAL:
        raise errors.PrepareIllegalVolumeError(volume=volume_id, image=held.image)
    return known


def _check_data(domain: image.Domain, held: image.Contents, volume_id: ids.VolumeId) -> None:
    try:
        mode = os.lstat(image.paths(domain, held.image, volume_id).data).st_mode
    except FileNotFoundError:
        raise _broken(held, f"volume {volume_id} has no data") from None
    except OSError as error:
        raise errors.VolumeAccessError(volume=volume_id, reason=error.strerror) from error
    if not stat.S_ISREG(mode):
        raise errors.ImageValidationError(object=f"data of volume {volume_id}", reason="it is not a regular file")


def _check_header(domain: image.Domain, held: image.Contents, volume_id: ids.VolumeId, parent: ids.VolumeId) -> None:
    """A guest reads what the header names, so it has to be what the record says: where they differ, a merge may be
    torn, or somebody else wrote the header. Data that is no qcow2 (vdsm 3.5 calls memory dumps COW) names nothing."""
    name = f"data of volume {volume_id}"
    try:
        head = volume.header(image.paths(domain, held.image, volume_id).data)
    except qcow2.HeaderError as error:
        if parent.is_blank:
            return
        raise errors.ImageValidationError(object=name, reason=error.reason) from None
    except OSError as error:
        raise errors.VolumeAccessError(volume=volume_id, reason=error.strerror) from error
    if head.data_file:
        raise errors.ImageValidationError(object=name, reason="its header names an external data file")
    backing = None if head.backing_name is None else record.link_of(head.backing_name, held.image)
    if head.backing_name is not None and backing is None:
        shown = record.printable(head.backing_name)
        raise errors.ImageValidationError(object=name, reason=f"its backing name '{shown}' leads out of the image")
    if backing is not None and head.backing_format not in volume.QEMU_FORMATS.values():
        raise errors.ImageValidationError(object=name, reason="its header does not say the format of its backing file")
    if (backing or ids.BLANK) != parent:
        raise _broken(held, f"volume {volume_id} stands on {backing or 'nothing'}, its record says {parent}")
    below = held.records.get(parent)
    if below is not None and head.backing_format != volume.QEMU_FORMATS[below.format]:
        reason = f"its header calls its parent {head.backing_format}, which is {volume.QEMU_FORMATS[below.format]}"
        raise errors.IncorrectFormat(object=name, reason=reason)


def _broken(held: image.Contents, reason: str) -> errors.ImageIsNotLegalChain:
    return errors.ImageIsNotLegalChain(image=held.image, reason=f"{reason}; reconcileVolumeChain finds out more")


def location(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> dict[str, object]:
    """Wire form of where a volume's files are. The lease is told where there is one."""
    paths = image.paths(domain, image_id, volume_id)
    found: dict[str, object] = {
        "domainID": str(domain.id),
        "imageID": str(image_id),
        "volumeID": str(volume_id),
        "path": str(paths.data),
        "volType": "path",
    }
    if os.path.lexists(paths.lease):
        found |= {"leasePath": str(paths.lease), "leaseOffset": 0}
    return found


def link(repository: layout.Repository, domain: image.Domain, image_id: ids.ImageId) -> Path:
    """Make, or correct, the link by which consumers of the run directory find a prepared image; repeatable.

    Raises:
        ImagePathError: it could not be made.
    """
    wanted = repository.run_link(domain.id, image_id)
    try:
        for directory in (repository.run, wanted.parent):
            files.make_directory(directory)
        files.point(wanted, domain.image_directory(image_id))
    except OSError as error:
        raise errors.ImagePathError(image=image_id, reason=f"run link: {error.strerror}") from error
    return wanted


def unlink(repository: layout.Repository, domain_id: ids.DomainId, image_id: ids.ImageId) -> None:
    """Remove the link again; anything else of that name stays.

    Raises:
        ImagePathError: it could not be removed.
    """
    wanted = repository.run_link(domain_id, image_id)
    try:
        if wanted.is_symlink():
            files.unlink(wanted)
    except OSError as error:
        raise errors.ImagePathError(image=image_id, reason=f"run link: {error.strerror}") from error
