"""The pytest fixture ``vdsmlite``: a running daemon for tests of whatever drives one.

pytest loads this module in every run where vdsmlite is installed, so it imports nothing that costs anything; the daemon
itself knows nothing of pytest.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vdsmlite import testserver


@pytest.fixture(name="vdsmlite")
def _vdsmlite(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[testserver.TestServer]":
    """A daemon on a free port over a temporary directory; see `testserver.TestServer`."""
    from vdsmlite import testserver

    with testserver.TestServer(tmp_path_factory.mktemp("vdsmlite")) as server:
        yield server
