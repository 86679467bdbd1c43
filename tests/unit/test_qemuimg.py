"""The qemu-img wrapper: what it asks, what it makes of the answers, and what cannot fool or hang it."""

import json
import logging
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.qemu import allocation, qcow2, qemuimg
from tests.support import images

TOOL = qemuimg.QemuImg()
MIB = 1 << 20


def fake(directory: Path, script: str) -> qemuimg.QemuImg:
    """A qemu-img that is a shell script; its arguments land in the file `arguments`."""
    program = directory / "fake-qemu-img"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {shlex.quote(str(directory))}/arguments\n{script}\n')
    program.chmod(0o755)
    return qemuimg.QemuImg(str(program), timeout=30)


def answering(directory: Path, answer: str, code: int = 0) -> qemuimg.QemuImg:
    return fake(directory, f"cat <<'END'\n{answer}\nEND\nexit {code}")


# ---------------------------------------------------------------- real images


@pytest.mark.qemu
def test_info(tmp_path: Path) -> None:
    base, leaf = images.make_chain(tmp_path, 2, size=8 * MIB, base_format="raw")
    found = TOOL.info(leaf, "qcow2")
    assert (found.format, found.virtual_size, found.backing_name, found.backing_format) == (
        "qcow2",
        8 * MIB,
        base.name,
        "raw",
    )
    assert found.actual_size == images.info(leaf)["actual-size"]
    assert found.raw["cluster-size"] == 65536
    found = TOOL.info(base, "raw")
    assert (found.format, found.virtual_size, found.backing_name, found.backing_format) == ("raw", 8 * MIB, None, None)


@pytest.mark.qemu
def test_a_raw_disk_with_a_qcow2_header_stays_raw(tmp_path: Path) -> None:
    """A guest can write such a header: only the format that the caller gives counts."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 512)
    path = images.create(tmp_path / "image", MIB, backing=secret.name, backing_format="raw")
    found = TOOL.info(path, "raw")
    assert (found.format, found.backing_name) == ("raw", None)
    assert found.virtual_size == -(-path.stat().st_size // 512) * 512
    TOOL.convert(path, "raw", tmp_path / "copy", "raw")
    assert (tmp_path / "copy").read_bytes().rstrip(b"\0") == path.read_bytes().rstrip(b"\0")


@pytest.mark.qemu
def test_names_of_any_bytes(tmp_path: Path) -> None:
    path = images.create(tmp_path / "image", MIB, backing="base")
    at = images.number(path, 8, 8)
    images.patch(path, at, b"\xff\xfe\n\x1b")
    assert TOOL.info(path, "qcow2").backing_name == "\ufffd\ufffd\n\x1b", "the tool itself replaces what is not UTF-8"


@pytest.mark.qemu
@pytest.mark.parametrize("name", ["a:b", "json:{}", "nbd:x", "file:x", "-f", "--help", "a,b=c", "a b\n'\"", "\udcff"])
def test_paths_cannot_be_read_as_anything_else(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "json:d,x"
    directory.mkdir()
    path, copy = directory / name, directory / f"{name}.copy"
    TOOL.create(path, "qcow2", MIB)
    images.write_pattern(path, 0, 65536, 5)
    assert TOOL.info(path, "qcow2").virtual_size == MIB
    assert TOOL.check(path, "qcow2").clean
    TOOL.rebase_unsafe(path, "other", "raw")
    assert TOOL.info(path, "qcow2").backing_name == "other"
    TOOL.rebase_unsafe(path, None, None)
    TOOL.convert(path, "qcow2", copy, "raw")
    assert copy.read_bytes() == bytes([5]) * 65536 + bytes(MIB - 65536)
    if name != "\udcff":  # JSON for qemu is UTF-8
        assert TOOL.map_layer(path, "qcow2")[0]["length"] == 65536
    assert {entry.name for entry in directory.iterdir()} == {path.name, copy.name}


@pytest.mark.qemu
def test_create(tmp_path: Path) -> None:
    path = tmp_path / "image"
    TOOL.create(path, "qcow2", 8 * MIB, backing="../other/absent", backing_format="raw", compat="0.10")
    found = TOOL.info(path, "qcow2")
    assert (found.virtual_size, found.backing_name, found.backing_format) == (8 * MIB, "../other/absent", "raw")
    assert found.raw["format-specific"]["data"]["compat"] == "0.10"
    TOOL.create(path, "qcow2", 8 * MIB, compat="1.1", preallocation="metadata")
    assert TOOL.info(path, "qcow2").raw["format-specific"]["data"]["compat"] == "1.1"
    TOOL.create(path, "raw", 8 * MIB)
    assert path.stat().st_blocks * 512 < MIB
    TOOL.create(path, "raw", 8 * MIB, preallocation="falloc", stop=threading.Event())
    assert path.stat().st_blocks * 512 >= 8 * MIB
    with pytest.raises(qemuimg.Failed, match=r"size|large"):
        TOOL.create(path, "qcow2", 1 << 62)


@pytest.mark.qemu
def test_rebase_changes_the_header_only(tmp_path: Path) -> None:
    base, middle, leaf = images.make_chain(tmp_path, 3)
    before = leaf.read_bytes()
    TOOL.rebase_unsafe(leaf, base.name, "qcow2")
    after = leaf.read_bytes()
    assert before[65536:] == after[65536:]
    assert TOOL.info(leaf, "qcow2").backing_name == base.name
    TOOL.rebase_unsafe(leaf, middle.name, "qcow2")
    assert leaf.read_bytes() == before
    TOOL.rebase_unsafe(leaf, "absent", "raw")
    assert (TOOL.info(leaf, "qcow2").backing_name, TOOL.info(leaf, "qcow2").backing_format) == ("absent", "raw")
    TOOL.rebase_unsafe(leaf, None, None)
    assert TOOL.info(leaf, "qcow2").backing_name is None


@pytest.mark.qemu
def test_check_tells_its_codes_apart(tmp_path: Path) -> None:
    path = images.create(tmp_path / "image", MIB)
    images.write_pattern(path, 0, 65536, 1)
    found = TOOL.check(path, "qcow2")
    assert (found.supported, found.clean, found.corruptions, found.leaks) == (True, True, 0, 0)
    assert found.raw["total-clusters"] == 16
    entry = images.number(path, 40, 8)
    table = images.number(path, entry, 8) & 0x00FFFFFFFFFFFE00
    images.patch_number(path, table, 0, 8)
    found = TOOL.check(path, "qcow2")
    assert (found.clean, found.corruptions, found.leaks) == (True, 0, 1)
    images.patch_number(path, table, 1 << 40, 8)
    found = TOOL.check(path, "qcow2")
    assert not found.clean and found.corruptions
    assert TOOL.check(images.create(tmp_path / "raw", MIB, fmt="raw"), "raw") == qemuimg.Check(False, 0, 0, {})
    with pytest.raises(qemuimg.Failed) as caught:
        TOOL.check(tmp_path / "absent", "qcow2")
    assert caught.value.code == 1 and "No such file" in caught.value.stderr


@pytest.mark.qemu
def test_convert_flattens_the_chain_and_reports(tmp_path: Path) -> None:
    chain = images.make_chain(tmp_path, 3, size=8 * MIB, base_format="raw")
    expected = images.read_guest(chain[-1])
    percents: list[float] = []
    target = tmp_path / "target"
    TOOL.convert(chain[-1], "qcow2", target, "qcow2", compat="0.10", stop=threading.Event(), progress=percents.append)
    assert images.read_guest(target) == expected
    assert TOOL.info(target, "qcow2").raw["format-specific"]["data"]["compat"] == "0.10"
    assert percents == sorted(percents) and percents[-1] == 100
    existing = images.create(tmp_path / "existing", 9 * MIB, fmt="raw")
    TOOL.convert(chain[-1], "qcow2", existing, "raw", existing=True)
    assert existing.read_bytes() == expected + bytes(MIB), "written into as it is, not made anew"


@pytest.mark.qemu
def test_map_layer_shows_one_layer(tmp_path: Path) -> None:
    chain = images.make_chain(tmp_path, 3)
    chain[1].unlink()
    rows = TOOL.map_layer(chain[2], "qcow2")
    with chain[2].open("rb") as stream:
        size = chain[2].stat().st_size
        held = allocation.of_qcow2(stream.fileno(), qcow2.read_header(stream.fileno(), size), size, 1 << 20)
    assert allocation.Allocation((row["start"], row["start"] + row["length"]) for row in rows if row["present"]) == held
    raw = images.create(tmp_path / "raw", MIB, fmt="raw")
    assert sum(row["length"] for row in TOOL.map_layer(raw, "raw")) == MIB


@pytest.mark.qemu
def test_snapshots_of_a_file_that_is_qcow2_and_vdi_at_once(tmp_path: Path) -> None:
    """The command has no -f and would guess: VDI's signature lies in a field that means nothing without snapshots."""
    path = images.create(tmp_path / "image", MIB, backing="absent")
    images.patch_number(path, 64, 0x7F10DABE << 32, 8)
    assert '"vdi"' not in images.qemu_img("info", "-f", "qcow2", "--output=json", path).stdout
    assert "VDI" in images.qemu_img("snapshot", "-l", path, check=False).stderr, "qemu-img guesses otherwise now"
    TOOL.snapshot(path, "create", "one")
    assert TOOL.snapshots(path) == ["one"]
    TOOL.snapshot(path, "apply", "one")
    TOOL.snapshot(path, "delete", "one")
    assert TOOL.snapshots(path) == []


@pytest.mark.qemu
def test_an_image_in_use(tmp_path: Path) -> None:
    path = images.create(tmp_path / "image", MIB)
    process = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin and process.stdout
    try:
        process.stdin.write("length\n")
        process.stdout.readline()
        before = path.read_bytes()
        calls: list[Callable[[], object]] = [
            lambda: TOOL.info(path, "qcow2"),
            lambda: TOOL.check(path, "qcow2"),
            lambda: TOOL.map_layer(path, "qcow2"),
            lambda: TOOL.rebase_unsafe(path, "other", "qcow2"),
            lambda: TOOL.create(path, "qcow2", MIB),
            lambda: TOOL.convert(path, "qcow2", tmp_path / "copy", "raw"),
        ]
        for call in calls:
            with pytest.raises(qemuimg.InUse, match="lock"):
                call()
        assert TOOL.info(path, "qcow2", shared=True).virtual_size == MIB
        assert path.read_bytes() == before
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


# ---------------------------------------------------------------- hostile images


@pytest.mark.qemu
def test_an_image_on_top_of_itself_does_not_hang_us(tmp_path: Path) -> None:
    path = images.create(tmp_path / "image", MIB, backing="image")
    with pytest.raises(qemuimg.QemuImgError):
        qemuimg.QemuImg(timeout=1).check(path, "qcow2")
    assert qemuimg.QemuImg(timeout=30).info(path, "qcow2").backing_name == "image"


@pytest.mark.qemu
def test_an_image_that_crashes_or_refuses_the_tool(tmp_path: Path) -> None:
    path = images.patch_number(images.create(tmp_path / "image", MIB), 32, 2, 4)
    with pytest.raises(qemuimg.Failed):
        TOOL.info(path, "qcow2")


@pytest.mark.qemu
def test_feature_names_of_an_image_are_escaped(tmp_path: Path) -> None:
    path = images.create(tmp_path / "image", MIB)
    at = path.read_bytes()[:4096].index(b"dirty bit") - 2
    images.patch(path, at, bytes([0, 5]) + b"evil\x1b[31m\nrow")
    images.patch_number(path, 72, 1 << 5, 8)
    with pytest.raises(qemuimg.Failed, match="evil") as caught:
        TOOL.info(path, "qcow2")
    assert caught.value.stderr.isprintable()


@pytest.mark.qemu
def test_an_external_data_file_is_not_touched_by_a_look(tmp_path: Path) -> None:
    """And only looks may meet such an image: a writer would overwrite the named file."""
    victim = tmp_path / "victim"
    path = images.create(tmp_path / "image", MIB, data_file=victim)
    victim.write_bytes(b"secret")
    TOOL.info(path, "qcow2")
    TOOL.map_layer(path, "qcow2")
    assert victim.read_bytes() == b"secret"


# ---------------------------------------------------------------- answers


def test_a_signal_is_blamed_on_the_image(tmp_path: Path) -> None:
    with pytest.raises(qemuimg.Failed, match=r"SIGSEGV.*hostile") as caught:
        fake(tmp_path, "kill -SEGV $$").info(tmp_path / "x", "raw")
    assert caught.value.code == -signal.SIGSEGV


def test_a_table_that_could_not_be_written_at_the_end_is_a_failure(tmp_path: Path) -> None:
    """qemu-img rebase ends with 0 when the tables of what it copied cannot be written as it closes the image."""
    complaint = "qemu-img: Failed to flush the L2 table cache: No space left on device"
    tool = fake(tmp_path, f"echo '{complaint}' >&2; exit 0")
    with pytest.raises(qemuimg.Failed, match="L2 table cache: No space left") as caught:
        tool.rebase(tmp_path / "x", "base", "qcow2")
    assert caught.value.code == 0
    with pytest.raises(qemuimg.Failed):
        tool.snapshot(tmp_path / "x", "create", "name")
    fake(tmp_path, "echo 'qemu-img: warning: all is well' >&2").rebase(tmp_path / "x", "base", "qcow2")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[",
        "[]",
        "3",
        "{}",
        '{"format": "raw"}',
        '{"format": "raw", "virtual-size": "3"}',
        '{"format": "raw", "virtual-size": true}',
        '{"format": "raw", "virtual-size": 3, "backing-filename": 5}',
        '{"format": null, "virtual-size": 3}',
        "[" * 100_000,
        '{"format": "raw", "virtual-size": 1' + "0" * 5000 + "}",
    ],
)
def test_a_strange_answer_is_a_failure(answer: str, tmp_path: Path) -> None:
    with pytest.raises(qemuimg.Failed):
        answering(tmp_path, answer).info(tmp_path / "x", "raw")


def test_an_answer_counts_on_success_only(tmp_path: Path) -> None:
    answer = json.dumps({"format": "raw", "virtual-size": 512})
    assert answering(tmp_path, answer).info(tmp_path / "x", "raw").virtual_size == 512
    with pytest.raises(qemuimg.Failed):
        answering(tmp_path, answer, code=1).info(tmp_path / "x", "raw")
    with pytest.raises(qemuimg.Failed):
        answering(tmp_path, answer, code=2).info(tmp_path / "x", "raw")


@pytest.mark.parametrize("answer", ['{"corruptions": "none"}', '{"check-errors": 1}', '{"leaks": null}', "[]"])
def test_a_strange_check_is_a_failure(answer: str, tmp_path: Path) -> None:
    with pytest.raises(qemuimg.Failed):
        answering(tmp_path, answer).check(tmp_path / "x", "qcow2")


def test_a_missing_tool_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(qemuimg.Failed, match="cannot be started") as caught:
        qemuimg.QemuImg(str(tmp_path / "absent")).info(tmp_path / "x", "raw")
    assert caught.value.code == 127


def test_a_slow_tool_is_killed(tmp_path: Path) -> None:
    fake(tmp_path, "sleep 60")
    with pytest.raises(qemuimg.Failed, match=r"not finished within 0\.3 s"):
        qemuimg.QemuImg(str(tmp_path / "fake-qemu-img"), timeout=0.3).info(tmp_path / "x", "raw")


def test_a_long_message_is_cut(tmp_path: Path) -> None:
    script = f"{shlex.quote(sys.executable)} -c 'import sys; sys.stderr.write(\"no\\n\" * 100000)'; exit 1"
    with pytest.raises(qemuimg.Failed) as caught:
        fake(tmp_path, script).info(tmp_path / "x", "raw")
    assert 10 < len(caught.value.stderr) <= 2000


def test_a_copy_is_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    percents: list[float] = []

    def progress(percent: float) -> None:
        percents.append(percent)
        stop.set()

    tool = fake(tmp_path, f"echo $$ > {tmp_path}/pid; printf '    (12.50/100%%)\\r'; sleep 60")
    with pytest.raises(qemuimg.Stopped):
        tool.convert(tmp_path / "a", "raw", tmp_path / "b", "raw", stop=stop, progress=progress)
    assert percents == [12.5]
    pid = int((tmp_path / "pid").read_text())
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.01)


def test_looks_are_limited_and_copies_only_in_memory(tmp_path: Path) -> None:
    script = "sleep 0.3; ulimit -v >&2; ulimit -t >&2; ulimit -c >&2; exit 1"
    with pytest.raises(qemuimg.Failed) as caught:
        fake(tmp_path, script).info(tmp_path / "x", "raw")
    assert caught.value.stderr == f"{1 << 20}; 30; 0"
    with pytest.raises(qemuimg.Failed) as caught:
        fake(tmp_path, script).convert(tmp_path / "x", "raw", tmp_path / "y", "raw")
    assert caught.value.stderr == f"{1 << 21}; unlimited; 0"


# ---------------------------------------------------------------- arguments


def arguments(directory: Path, call: Callable[[qemuimg.QemuImg], object]) -> list[str]:
    call(answering(directory, "{}"))
    return (directory / "arguments").read_text().split("\n")[:-1]


def test_formats_are_always_given(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert arguments(tmp_path, lambda tool: tool.check(path, "qcow2")) == shlex.split(
        f"check -f qcow2 --output=json -- {path}"
    )
    made = arguments(tmp_path, lambda tool: tool.create(path, "qcow2", 512, backing="b", backing_format="raw"))
    assert made == shlex.split(f"create -q -f qcow2 -u -F raw -b b -- {path} 512")
    made = arguments(tmp_path, lambda tool: tool.rebase_unsafe(path, "b", "raw"))
    assert made == shlex.split(f"rebase -q -u -f qcow2 -F raw -b b -- {path}")


BAD: list[Callable[[Any, Path], object]] = [
    lambda tool, path: tool.info(Path("relative"), "raw"),
    lambda tool, path: tool.info(Path("json:{}"), "raw"),
    lambda tool, path: tool.info(path.with_name("a\0b"), "raw"),
    lambda tool, path: tool.info(path, ""),
    lambda tool, path: tool.info(path, "vmdk"),
    lambda tool, path: tool.create(path, "qcow2", 512, backing="b"),
    lambda tool, path: tool.create(path, "qcow2", 512, compat="1.1,data_file=x"),
    lambda tool, path: tool.create(path, "qcow2", 512, preallocation="off,x=y"),
    lambda tool, path: tool.convert(path, "qcow2", Path("relative"), "raw"),
    lambda tool, path: tool.convert(path, "qcow2", path, None),
    lambda tool, path: tool.rebase_unsafe(path, "b", None),
    *[
        lambda tool, path, name=name: tool.rebase_unsafe(path, name, "raw")
        for name in ("", "/absolute", "nbd:x", "json:{}", "a\nb", "a\0b", "x" * 1024, "\udcff")
    ],
]


@pytest.mark.parametrize("call", BAD)
def test_what_is_never_asked(call: Callable[[Any, Path], object], tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        call(fake(tmp_path, "exit 0"), tmp_path / "x")
    assert not (tmp_path / "arguments").exists()


def test_commands_are_logged_escaped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "storage.qemu.qemuimg")
    arguments(tmp_path, lambda tool: tool.check(tmp_path / "a\nb", "qcow2"))
    assert "a\\nb" in caplog.text and "a\nb" not in caplog.text
