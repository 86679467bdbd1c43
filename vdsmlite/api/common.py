"""What all API classes need."""

from typing import Any, TypeVar

from storage import ids, services as storage_services

Services = storage_services.Services
Result = dict[str, Any] | None
_Id = TypeVar("_Id", bound=ids.Id)


def or_none(kind: type[_Id], text: str | None) -> _Id | None:
    """The id, or None where the protocol says "none": left out or the blank id."""
    return None if text is None or text == ids.BLANK else kind(text)
