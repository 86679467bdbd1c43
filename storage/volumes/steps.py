"""Names of the steps that undo work on volumes, as task records of the protocol spell them.

Source: vdsm 3.5 and 4.50, whose hosts may find our records and whose records we may find. A step is three names and
text parameters; paths in the parameters are those of the domain (``<repository>/mnt/<connection>/<domain>/images/``…).
What each does is in `rollback`; names marked "ours" mean nothing to other programs, which then leave the step alone.
"""

from collections.abc import Sequence
from pathlib import Path

from storage import ids
from storage.jobs import recovery

DIRECTORY: recovery.Triple = ("image", "Image", "createImageRollback")
DIRECTORY_450: recovery.Triple = ("sd", "StorageDomain", "create_image_rollback")
SHARE: recovery.Triple = ("fileVolume", "FileVolume", "shareVolumeRollback")
HALF_MADE: recovery.Triple = ("fileVolume", "FileVolume", "halfbakedVolumeRollback")
PARENT: recovery.Triple = ("volume", "Volume", "parentVolumeRollback")
RECORD: recovery.Triple = ("fileVolume", "FileVolume", "createVolumeMetadataRollback")
VOLUME: recovery.Triple = ("fileVolume", "FileVolume", "createVolumeRollback")
RENAME: recovery.Triple = ("fileVolume", "FileVolume", "renameVolumeRollback")
EXTEND: recovery.Triple = ("volume", "Volume", "extendSizeFinalize")

# Ours.
UNSHARE: recovery.Triple = ("volume", "Volume", "setSharedRollback")
FINISH_DELETE: recovery.Triple = ("volume", "Volume", "finishDelete")
FINISH_PURGE: recovery.Triple = ("image", "Image", "finishPurge")
STAGED: recovery.Triple = ("image", "Image", "stagedImageRollback")
FINISH_STAGED: recovery.Triple = ("image", "Image", "finishStaged")
FINISH_SYNC: recovery.Triple = ("image", "Image", "finishSync")
MERGE: recovery.Triple = ("image", "Image", "mergeRollback")
FINISH_MERGE: recovery.Triple = ("image", "Image", "finishMerge")
TRANSFER: recovery.Triple = ("volume", "Volume", "settleTransfer")


def directory(path: Path, image_id: ids.ImageId) -> recovery.Recovery:
    """Remove the image's directory again, if nothing is in it."""
    return recovery.Recovery(f"create image rollback: {image_id}", *DIRECTORY, (str(path),))


def set_shared(domain_id: ids.DomainId, image_id: ids.ImageId, volume_id: ids.VolumeId) -> recovery.Recovery:
    """Make a volume that became a template an ordinary one again, if no other image uses it."""
    return recovery.Recovery(f"set shared rollback: {volume_id}", *UNSHARE, (domain_id, image_id, volume_id))


def share(link: Path) -> recovery.Recovery:
    """Remove the links of a template; `link` is that of its data."""
    return recovery.Recovery(f"Share volume rollback: {link}", *SHARE, (str(link),))


def half_made(domain_id: ids.DomainId, volume_id: ids.VolumeId, data: Path) -> recovery.Recovery:
    """Remove data (and lease) of a volume that got no record."""
    return recovery.Recovery("Halfbaked volume rollback", *HALF_MADE, (domain_id, volume_id, str(data)))


def parent(domain_id: ids.DomainId, image_id: ids.ImageId, volume_id: ids.VolumeId) -> recovery.Recovery:
    """Make a volume leaf or internal, whatever its children say."""
    return recovery.Recovery(f"parent volume rollback: {volume_id}", *PARENT, (domain_id, image_id, volume_id))


def record(data: Path) -> recovery.Recovery:
    """Remove the record of a volume that was not finished."""
    return recovery.Recovery("Create volume metadata rollback", *RECORD, (str(data),))


def volume(repository: Path, domain_id: ids.DomainId, image_id: ids.ImageId, data: Path) -> recovery.Recovery:
    """Delete a finished volume."""
    params = (str(repository), domain_id, image_id, data.name, str(data.parent))
    return recovery.Recovery("Create volume rollback", *VOLUME, params)


def finish_delete(domain_id: ids.DomainId, image_id: ids.ImageId, volume_id: ids.VolumeId) -> recovery.Recovery:
    """Go on deleting a volume."""
    return recovery.Recovery(f"finish delete: {volume_id}", *FINISH_DELETE, (domain_id, image_id, volume_id))


def finish_purge(domain_id: ids.DomainId, image_id: ids.ImageId) -> recovery.Recovery:
    """Go on freeing the space of a deleted image."""
    return recovery.Recovery(f"finish purge: {image_id}", *FINISH_PURGE, (domain_id, image_id))


def transfer(
    domain_id: ids.DomainId, image_id: ids.ImageId, volume_id: ids.VolumeId, generation: int
) -> recovery.Recovery:
    """Say what has become of a volume whose content was being replaced; `generation` is that of before."""
    params = (domain_id, image_id, volume_id, str(generation))
    return recovery.Recovery(f"settle transfer: {volume_id}", *TRANSFER, params)


def extend(domain_id: ids.DomainId, image_id: ids.ImageId, volume_id: ids.VolumeId) -> recovery.Recovery:
    """Record the capacity that a volume really has."""
    return recovery.Recovery(f"Extend size for volume: {volume_id}", *EXTEND, (domain_id, image_id, volume_id))


def staged(domain_id: ids.DomainId, image_id: ids.ImageId, original: ids.DomainId | None) -> recovery.Recovery:
    """Remove an image that is being built, or that was built while its original is still there."""
    params = (domain_id, image_id, original or ids.BLANK)
    return recovery.Recovery(f"staged image rollback: {image_id}", *STAGED, params)


def finish_staged(domain_id: ids.DomainId, image_id: ids.ImageId) -> recovery.Recovery:
    """Remove what an image that is in its place needs no more: its marker, and the image that stepped aside for it."""
    return recovery.Recovery(f"finish staged image: {image_id}", *FINISH_STAGED, (domain_id, image_id))


def finish_sync(
    domain_id: ids.DomainId, image_id: ids.ImageId, volume_ids: Sequence[ids.VolumeId]
) -> recovery.Recovery:
    """Put the rest of the data that was built aside in its place."""
    return recovery.Recovery(f"finish sync: {image_id}", *FINISH_SYNC, (domain_id, image_id, *volume_ids))


def merge(
    domain_id: ids.DomainId, image_id: ids.ImageId, ancestor: ids.VolumeId, successor: ids.VolumeId, *before: str
) -> recovery.Recovery:
    """Undo a merge; `before` is what the successor was: parent, format, type."""
    params = (domain_id, image_id, ancestor, successor, *before)
    return recovery.Recovery(f"merge rollback: {successor}", *MERGE, params)


def finish_merge(
    domain_id: ids.DomainId, image_id: ids.ImageId, successor: ids.VolumeId, gone: Sequence[ids.VolumeId]
) -> recovery.Recovery:
    """Go on removing the volumes that were merged."""
    return recovery.Recovery(f"finish merge: {successor}", *FINISH_MERGE, (domain_id, image_id, successor, *gone))
