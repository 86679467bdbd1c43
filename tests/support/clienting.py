"""Run the command-line client inside the test's process."""

from typing import Any

import pytest

from client import main
from tests.support import fakeserver


def run(fake: fakeserver.Fake, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the client for a command on a fake server."""
    outcome = main.run([fake.address, *words])
    return outcome.code, "".join(f"{line}\n" for line in outcome.lines), "".join(f"{line}\n" for line in outcome.notes)


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: Any, *argv: str) -> tuple[int, str, str]:
    """The same through main(), with the whole command line given."""
    monkeypatch.setattr("sys.argv", ["vdsClient", *argv])
    code = main.main()
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def ids(count: int) -> list[str]:
    """Different ids that are easy to tell apart."""
    return [f"{number:08x}-0000-4000-8000-{number:012x}" for number in range(1, count + 1)]
