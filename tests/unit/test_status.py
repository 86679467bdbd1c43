"""Exceptions become codes and texts; what is not part of the API stays inside."""

import pytest

from storage import errors
from vdsmlite import status


def test_a_storage_error_speaks_for_itself() -> None:
    error = errors.VolumeDoesNotExist(volume="v", image="i")
    assert status.translate(error, "CannotDeleteVolume") == (201, "volume v does not exist in image i")


@pytest.mark.parametrize(
    "error", [OSError(2, "No such file", "/secret/path"), KeyError("/secret"), Exception("secret")]
)
@pytest.mark.parametrize(("default", "code"), [(None, 100), ("StorageException", 200), ("SpmStartError", 650)])
def test_anything_else_becomes_the_default_and_leaks_nothing(error: Exception, default: str | None, code: int) -> None:
    found, message = status.translate(error, default)
    assert found == code
    assert "secret" not in message and "such" not in message and type(error).__name__ not in message
    assert message == status.translate(Exception(), default)[1]


def test_the_table_has_every_class_once_and_codes_are_unique() -> None:
    table = status.errors_table()
    assert table["VolumeDoesNotExist"] == (201, errors.VolumeDoesNotExist.template)
    # Host verbs have a table of their own, in which fencing and a missing machine share a number.
    codes = [code for name, (code, _) in table.items() if not errors.by_name(name).__module__.endswith(".host")]
    assert len(codes) == len(set(codes))
    assert set(table) == {
        cls.__name__ for cls in errors.StorageError.__subclasses__() if cls.__module__.startswith(errors.__name__)
    }
