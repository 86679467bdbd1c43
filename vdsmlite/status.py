"""Turns exceptions into the status of a reply, in one place.

Inside the process every failure is an exception; a client sees a code and a message. A storage error is part of the
API and speaks for itself. Anything else becomes the verb's default error with a fixed text: what went wrong inside is
for the log, not for a client.
"""

from storage import errors

_FIXED_REASON = "internal error; the log of the daemon has the details"


def translate(error: BaseException, default_error: str | None) -> tuple[int, str]:
    """Code and message that a client gets for an exception.

    Args:
        error: what a verb raised.
        default_error: class name of the verb's default error; None for the general one (100).
    """
    if isinstance(error, errors.StorageError):
        return error.code, str(error)
    default = _default(default_error)
    return default.code, str(default)


def errors_table() -> dict[str, tuple[int, str]]:
    """Every error of the API: class name -> (code, message template)."""
    return {
        name: (found.code, found.template)
        for name, found in sorted(vars(errors).items())
        if isinstance(found, type) and issubclass(found, errors.StorageError) and found is not errors.StorageError
    }


def _default(name: str | None) -> errors.StorageError:
    found: type[errors.StorageError] = errors.GeneralException
    if name is not None:
        found = errors.by_name(name)
    return found(reason=_FIXED_REASON)
