"""What every error of the API is."""

import string
from typing import Any, ClassVar


class StorageError(Exception):
    """Base of all errors that are part of the API.

    Raises:
        TypeError: when the fields given are not the fields of the template.
    """

    code: ClassVar[int] = 200
    template: ClassVar[str] = "storage action failed: {reason}"

    def __init__(self, **fields: Any) -> None:
        wanted = template_fields(self.template)
        if set(fields) != wanted:
            raise TypeError(f"{type(self).__name__} takes {sorted(wanted)}, not {sorted(fields)}")
        self.fields = fields
        super().__init__(self.template.format(**fields))


def template_fields(template: str) -> set[str]:
    """Names of the fields in a message template."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


class GeneralException(StorageError):
    code = 100
    template = "unexpected failure: {reason}"


class StorageException(StorageError):
    code = 200
    template = "storage action failed: {reason}"
