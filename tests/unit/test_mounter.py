"""Running mount and umount: the command line, the message, the time limit. The programs are small scripts."""

from pathlib import Path

import pytest

from storage import errors
from storage.domains import mounter


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def tool(tmp_path: Path, body: str, seconds: float = 20.0) -> mounter.Mounter:
    said = f'printf "%s\\n" "$@" > {tmp_path}/arguments\n{body}'
    program = script(tmp_path / "program", said)
    return mounter.Mounter(seconds, mount=program, umount=program)


def arguments(tmp_path: Path) -> list[str]:
    return (tmp_path / "arguments").read_text().splitlines()


def test_command_lines(tmp_path: Path) -> None:
    runner = tool(tmp_path, "exit 0")
    runner.mount("server:/x; rm -rf /", tmp_path / "a b", "nfs", ["soft", "timeo=100"])
    assert arguments(tmp_path) == ["-t", "nfs", "-o", "soft,timeo=100", "--", "server:/x; rm -rf /", f"{tmp_path}/a b"]
    runner.mount("/dev/x", tmp_path, "", ["nosuid"])
    assert arguments(tmp_path) == ["-o", "nosuid", "--", "/dev/x", str(tmp_path)]
    runner.unmount("x", tmp_path)
    assert arguments(tmp_path) == ["--", str(tmp_path)]
    runner.unmount("x", tmp_path, force=True)
    assert arguments(tmp_path) == ["-f", "-l", "--", str(tmp_path)]


def test_what_the_program_said_is_the_reason(tmp_path: Path) -> None:
    runner = tool(tmp_path, 'echo "mount: /x: unknown type." >&2; echo "   dmesg(1) may have more" >&2; exit 32')
    with pytest.raises(errors.MountError) as caught:
        runner.mount("s:/x", tmp_path, "nfs", ["soft"])
    assert (caught.value.code, caught.value.fields["reason"]) == (477, "mount: /x: unknown type.")


@pytest.mark.parametrize("body", ["exit 1", "kill -9 $$"])
def test_silent_failures_have_a_reason_too(tmp_path: Path, body: str) -> None:
    with pytest.raises(errors.MountError, match="ended with"):
        tool(tmp_path, body).mount("s:/x", tmp_path, "nfs", ["soft"])


def test_messages_are_short_and_printable(tmp_path: Path) -> None:
    runner = tool(tmp_path, 'printf "\\033[31m%01000d" 0 >&2; exit 1')
    with pytest.raises(errors.MountError) as caught:
        runner.mount("s:/x", tmp_path, "nfs", ["soft"])
    reason = caught.value.fields["reason"]
    assert reason.isprintable() and len(reason) <= 300


def test_busy_is_told_apart(tmp_path: Path) -> None:
    runner = tool(tmp_path, 'echo "umount: /x: target is busy." >&2; exit 32')
    with pytest.raises(mounter.Busy):
        runner.unmount("s:/x", tmp_path)


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(errors.MountError, match="not finished within"):
        tool(tmp_path, "exec sleep 600", seconds=0.2).mount("s:/x", tmp_path, "nfs", ["soft"])


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(errors.MountError, match="No such file"):
        mounter.Mounter(1.0, mount=str(tmp_path / "none")).mount("s:/x", tmp_path, "nfs", ["soft"])
