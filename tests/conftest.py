"""What all tests share: a header that says what this machine cannot run, and why, so that no gap stays unseen."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support import frontier

# What is skipped without which program.
_PROGRAMS = {
    "qemu-img": "all tests with real images",
    "qemu-storage-daemon": "tests with a real guest and killed merges",
    "qemu-system-x86_64": "tests with a real guest and killed merges",
    "losetup": "tests of mounted storage",
    "mkfs.ext4": "tests of storage mounted from ext4",
    "mkfs.xfs": "tests of storage mounted from xfs",
    "strace": "tests that watch the system calls of a daemon",
    "bash": "tests of the client's completion in bash",
    "zsh": "tests of the client's completion in zsh",
    "groff": "formatting of the manual page",
    "mandoc": "the check of the manual page by mandoc",
    "curl": "streams driven by curl",
}


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Lines at the top of a run."""
    lines = [f"not run here: {what}, for {program} is missing" for program, what in _missing().items()]
    if frontier.missing():
        lines.append("not run here: tests with a client in Perl, for its module Frontier::Client is missing")
    if not os.path.exists("/dev/fuse"):
        lines.append("not run here: tests with storage that hangs or fails, for /dev/fuse is missing")
    if os.geteuid() != 0:
        lines.append("not run here: tests marked root, for this is not root")
    return lines or ["everything can run here"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much of the table of outcomes there is, after a run in which it was played."""
    reports = (report for found in terminalreporter.stats.values() for report in found)
    if any("test_outcomes.py" in getattr(report, "nodeid", "") for report in reports):
        from tests.support.outcomes import table  # reads the whole schema

        terminalreporter.write_line(table.summary())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs more than this machine has."""
    no_images = pytest.mark.skip(reason="needs qemu-img")
    no_root = pytest.mark.skip(reason="needs root")
    for item in items:
        if item.get_closest_marker("qemu") and "qemu-img" in _missing():
            item.add_marker(no_images)
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(no_root)


@pytest.fixture(autouse=True)
def _no_service_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test may talk to the service manager that runs the tests."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    yield


def _missing() -> dict[str, str]:
    return {program: what for program, what in _PROGRAMS.items() if shutil.which(program) is None}
