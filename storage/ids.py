"""Typed ids. Parsed once at the boundary; only these types build paths and lock names.

The syntax is strict on purpose: 36 characters, hex digits of either case and dashes at the fixed places. Python's own
``uuid.UUID`` would also take braces, ``urn:uuid:`` and full-width digits, and a regular expression ending in ``$`` a
trailing newline.
"""

import re
import uuid
from typing import Self

from storage import errors

BLANK = "00000000-0000-0000-0000-000000000000"

_SYNTAX = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def is_id(text: str) -> bool:
    """Whether the text is a well-formed id."""
    return _SYNTAX.fullmatch(text) is not None


class Id(str):
    """A checked id.

    Raises:
        InvalidParameterException: on anything that is not a well-formed id.
    """

    __slots__ = ()
    kind = "id"

    def __new__(cls, text: str) -> Self:
        if not isinstance(text, str) or not is_id(text):
            raise errors.InvalidParameterException(name=cls.kind, reason=f"{text!r:.80} is not an id")
        return super().__new__(cls, text)

    @classmethod
    def known(cls, text: str) -> Self:
        """The id of a text for which `is_id` has just answered yes; nothing is checked a second time."""
        return super().__new__(cls, text)

    @classmethod
    def new(cls) -> Self:
        """A fresh random id."""
        return cls(str(uuid.uuid4()))

    @property
    def is_blank(self) -> bool:
        """Whether this is the id that means "none"."""
        return self == BLANK


class PoolId(Id):
    __slots__ = ()
    kind = "pool id"


class DomainId(Id):
    __slots__ = ()
    kind = "domain id"


class ImageId(Id):
    __slots__ = ()
    kind = "image id"


class VolumeId(Id):
    __slots__ = ()
    kind = "volume id"


class TaskId(Id):
    __slots__ = ()
    kind = "task id"


class VmId(Id):
    __slots__ = ()
    kind = "machine id"
