"""A file domain in a plain directory, and fixtures over it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import ids
from storage.domains import domainmaker, filedomain

DOMAIN = ids.DomainId("def32ac7-1234-1234-8a8c-1c887333fe65")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Permissions are the same wherever the tests run."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """An empty directory that stands in for mounted storage."""
    (tmp_path / "mount").mkdir()
    return tmp_path / "mount"


@pytest.fixture
def domain(mount: Path) -> filedomain.FileDomain:
    """A new data domain."""
    return make(mount)


def make(mount: Path, version: int = 3, name: str = "name", domain_class: str = "Data") -> filedomain.FileDomain:
    """Make the domain `DOMAIN`."""
    return domainmaker.create(mount, DOMAIN, version=version, name=name, domain_class=domain_class, remote_path="/data")
