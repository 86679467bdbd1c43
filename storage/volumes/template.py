"""Templates: volumes that several images stand on, seen in each of those images as hard links.

A template is a volume whose record says ``VOLTYPE=SHARED``; it belongs to the image that its record names. An image
made from it holds links of its data, its record and its lease, so that nothing outside of an image's own directory
is needed to use it. Replacing a record breaks such a link; whoever changes a template's record relinks it.

Looking for users means looking at every image of the domain. That is done for templates only.
"""

import dataclasses
import os
import stat
from collections.abc import Callable
from pathlib import Path

from storage import errors, files, ids
from storage.volumes import image, volume_metadata


def users(domain: image.Domain, image_id: ids.ImageId, templates: list[ids.VolumeId]) -> list[ids.ImageId]:
    """Other images of the domain that need one of these volumes: they hold a link of it, or a volume that stands on it.

    Args:
        image_id: image of the templates; it is not looked at.
        templates: volumes in question; none: nobody is asked.

    Raises:
        ImagePathError, VolumeMetadataReadError: an image could not be looked at, so nobody can say that it is no user.
    """
    others = [other for other in domain.image_ids() if other != image_id] if templates else []
    return [other for other in others if any(_uses(domain, other, template) for template in templates)]


def _uses(domain: image.Domain, image_id: ids.ImageId, template: ids.VolumeId) -> bool:
    if not _is(stat.S_ISDIR, domain.image_directory(image_id)):
        return False
    try:
        held = image.contents(domain, image_id)
    except errors.ImageDoesNotExistInSD:
        return False
    data = image.paths(domain, image_id, template).data
    return os.path.lexists(data) or template in held or bool(held.children(template))


def share(domain: image.Domain, source: ids.ImageId, target: ids.ImageId, volume_id: ids.VolumeId) -> None:
    """Link a template's files into another image; repeatable, durable on return.

    Write order: record, data, lease. An interrupted sharing is seen as a template's link without data, never as a
    volume of the target; `unshare` takes it back.

    Raises:
        VolumeAlreadyExists: the target holds another volume of that id.
        VolumeDoesNotExist: the template has no data.
    """
    here, there = image.paths(domain, source, volume_id), image.paths(domain, target, volume_id)
    owner = image.read_metadata(domain, source, volume_id).image
    if not _is(stat.S_ISREG, here.data):
        raise errors.VolumeDoesNotExist(volume=volume_id, image=source)
    if _taken(there.data, here.data) or (
        _taken(there.meta, here.meta) and not _links(domain, target, volume_id, owner)
    ):
        raise errors.VolumeAlreadyExists(volume=volume_id, image=target)
    files.hard_link(here.meta, there.meta)
    files.hard_link(here.data, there.data)
    if _is(stat.S_ISREG, here.lease):
        files.hard_link(here.lease, there.lease)


def is_shared(domain: image.Domain, source: ids.ImageId, target: ids.ImageId, volume_id: ids.VolumeId) -> bool:
    """Whether an image holds the links of a template's data and record already."""
    here, there = image.paths(domain, source, volume_id), image.paths(domain, target, volume_id)
    names = (there.data, there.meta)
    return all(os.path.lexists(name) for name in names) and not (
        _taken(there.data, here.data) or _taken(there.meta, here.meta)
    )


def unshare(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> bool:
    """Remove a template's links from an image that has no volume standing on it; False when they have to stay.

    Never removes a volume: the record must say that it belongs to another image; without a record (other programs link
    the data first), only names of files that have another name go. Repeatable.
    """
    try:
        held = image.contents(domain, image_id)
    except errors.ImageDoesNotExistInSD:
        return True
    if (volume_id in held and held.is_own(volume_id)) or held.children(volume_id):
        return False
    links = image.paths(domain, image_id, volume_id)
    # The record goes last: without it nobody would know what the other two names are.
    for name in (links.data, links.lease, links.meta):
        if volume_id in held or _has_another_name(name):
            files.unlink(name)
    return not os.path.lexists(links.data)


def relink(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    """Make the links of a template's record in other images the record of now; repeatable.

    A crash in between leaves images with an older record, which a second call brings up to date.

    Raises:
        VolumeMetadataWriteError: the storage refused.
    """
    mine = image.paths(domain, image_id, volume_id).meta
    for other in domain.image_ids():
        if other == image_id or not _links(domain, other, volume_id, image_id):
            continue
        try:
            files.hard_link(mine, image.paths(domain, other, volume_id).meta)
        except FileNotFoundError:
            continue  # that image was deleted meanwhile
        except OSError as error:
            raise errors.VolumeMetadataWriteError(volume=volume_id, reason=error.strerror) from error


def _links(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId, owner: ids.ImageId) -> bool:
    """Whether an image holds a link of that template's record (and not a volume of its own that has the same id)."""
    if not os.path.lexists(image.paths(domain, image_id, volume_id).meta):
        return False
    try:
        image.directory(domain, image_id)
        return image.read_metadata(domain, image_id, volume_id).image == owner
    except errors.StorageError:
        return False


def set_shared(domain: image.Domain, image_id: ids.ImageId, volume_id: ids.VolumeId) -> None:
    """Make a volume a template; repeatable."""
    found = image.read_metadata(domain, image_id, volume_id)
    if found.voltype != volume_metadata.SHARED:
        changed = dataclasses.replace(found, voltype=volume_metadata.SHARED)
        image.write_metadata(domain, image_id, volume_id, changed)


def _taken(name: Path, wanted: Path) -> bool:
    """Whether a name exists and is no link of the wanted file."""
    return os.path.lexists(name) and not (
        os.path.lexists(wanted) and os.path.samestat(os.lstat(name), os.lstat(wanted))
    )


def _is(kind: Callable[[int], bool], path: Path) -> bool:
    try:
        return kind(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _has_another_name(path: Path) -> bool:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(info.st_mode) and info.st_nlink > 1
