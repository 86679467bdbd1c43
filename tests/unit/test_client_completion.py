"""Completion: bash and zsh are run, and asked what they would complete."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from client import commands, completion, main, options, words
from rpc import catalogue

SCHEMA = catalogue.load()
COMMANDS = commands.table(SCHEMA)

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash: its completion is not run here")
needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh: its completion is not run here")

# Splits a line as bash does for completion, then calls what was registered and prints what it offers.
_ASK = r"""
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_TYPE=9
compopt() { :; }
[[ $(complete -p vdsClient) == *"-F _vdsClient "* ]] || exit 9
_vdsClient
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for shell in options.SHELLS:
        outcome = main.run(["--completion", shell])
        assert outcome.code == 0
        found[shell] = tmp_path_factory.mktemp("completion") / shell
        found[shell].write_text("\n".join(outcome.lines) + "\n")
    return found


def offered(script: Path, *typed: str) -> list[str]:
    command = ["bash", "--norc", "-u", "-c", _ASK, "bash", str(script), "vdsClient", *typed]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parent)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_unknown_shells_are_refused() -> None:
    outcome = main.run(["--completion", "tcsh"])
    assert (outcome.code, outcome.lines[0]) == (255, "ERROR: --completion takes bash or zsh")


def test_no_place_is_left_unfilled(scripts: dict[str, Path]) -> None:
    for script in scripts.values():
        text = script.read_text()
        assert not [line for line in text.splitlines() if line.strip().startswith("@") or line.strip().endswith("@")]
        assert all(name in text for name in COMMANDS)


# ---------------------------------------------------------------- what is known of words


def test_words_are_those_of_the_usage() -> None:
    found = words.of(COMMANDS["setVolumeLegality"], SCHEMA.types)
    assert [word.name for word in found] == ["sdUUID", "spUUID", "imgUUID", "volUUID", "legality"]
    assert found[-1].choices == ("LEGAL", "ILLEGAL", "FAKE")
    assert [word.choices for word in words.of(COMMANDS["deleteImage"], SCHEMA.types)[3:]] == [("true", "false")] * 2
    assert [word.optional for word in words.of(COMMANDS["deleteImage"], SCHEMA.types)] == [False] * 3 + [True] * 2
    assert words.of(COMMANDS["getVdsCaps"], SCHEMA.types) == []
    assert [word.name for word in words.of(COMMANDS["chain"], SCHEMA.types)][:2] == ["spUUID", "sdUUID"]
    assert (words.flags(COMMANDS["chain"]), words.flags(COMMANDS["list"])) == (["--json"], [])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_words(name: str) -> None:
    for word in words.of(COMMANDS[name], SCHEMA.types):
        assert word.name and not word.name.startswith(("<", "["))


@needs_bash
def test_a_quoted_word_is_that_word_again() -> None:
    for text in ("a b", "it's", '$(x) `y` \\ "', ""):
        done = subprocess.run(["bash", "-c", f"printf %s {completion.quoted(text)}"], capture_output=True, text=True)
        assert done.stdout == text


# ---------------------------------------------------------------- bash


@needs_bash
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["0", "getVolumeI"], ["getVolumeInfo"]),
        (["0", "spmS"], ["spmStart", "spmStop"]),
        (["0", ""], list(COMMANDS)),
        (["host", ":", "54321", "copyI"], ["copyImage"]),
        (["[", "::", "1]", ":", "5", "copyI"], ["copyImage"]),
        (["-s", "--truststore", "/x", "0", "copyI"], ["copyImage"]),
        (["--truststore", "=", "/x", "0", "copyI"], ["copyImage"]),
        (["--wait", "--json", "0", "copyI"], ["copyImage"]),
        (["--w"], ["--wait"]),
        (["--completion", ""], ["bash", "zsh"]),
        (["--completion", "=", "z"], []),
        (["0", "setVolumeLegality", "a", "b", "c", "d", ""], ["LEGAL", "ILLEGAL", "FAKE"]),
        (["0", "setVolumeLegality", "a", "b", "c", "d", "I"], ["ILLEGAL"]),
        (["0", "deleteImage", "a", "b", "c", "t"], ["true"]),
        (["0", "connectStorageServer", "4", "a", "id", "=", "1,connection", "=", "/x", ""], []),
        (["0", "list", "t"], ["table"]),
        (["0", "chain", "--j"], ["--json"]),
        (["0", "chain", ""], ["<spUUID>", " "]),
        (["0", "deleteImage", "a", ""], ["<spUUID>", " "]),
        (["0", "deleteImage", "a", "b"], []),
        (["0", "getVdsStats", ""], []),
        (["0", "nothing", ""], []),
        ([""], ["0", "localhost"]),
    ],
    ids=" ".join,
)
def test_bash_offers(typed: list[str], expected: list[str], scripts: dict[str, Path]) -> None:
    found = offered(scripts["bash"], *typed)
    assert found == expected


@needs_bash
def test_bash_offers_directories_and_all_options(scripts: dict[str, Path]) -> None:
    (scripts["bash"].parent / "a directory").mkdir()
    assert offered(scripts["bash"], "--truststore", "a") == ["a directory"]
    names = [name for option in options.TABLE for name in option.names]
    assert offered(scripts["bash"], "-") == names


# ---------------------------------------------------------------- shells with a terminal


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": "/nonexistent", "LC_ALL": "C"}
        self._controller, terminal = pty.openpty()
        self._process = subprocess.Popen(
            command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True
        )
        os.close(terminal)

    def type(self, text: str, until: str, seconds: float = 20.0) -> str:
        """Type, and read until something is seen; what was read."""
        os.write(self._controller, text.encode())
        seen, end = "", time.monotonic() + seconds
        while until not in seen:
            ready, _, _ = select.select([self._controller], [], [], end - time.monotonic())
            assert ready, f"{until!r} was not seen in {seen!r}"
            seen += os.read(self._controller, 4096).decode(errors="replace")
        return seen

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._controller)


@needs_bash
def test_bash_completes_at_a_prompt(scripts: dict[str, Path]) -> None:
    shell = Shell("bash", "--norc", "--noprofile", "-i")
    try:
        shell.type(f"source {scripts['bash']}; echo rea''dy\n", "ready")
        shell.type("vdsClient --wait host:1 copyIm\t", "copyImage ")
        shell.type("\t\t", "<sdUUID>")
    finally:
        shell.close()


@needs_zsh
def test_zsh_completes_at_a_prompt(scripts: dict[str, Path]) -> None:
    subprocess.run(["zsh", "-n", str(scripts["zsh"])], check=True)
    shell = Shell("zsh", "-f", "-i")
    try:
        shell.type(f"autoload -U compinit; compinit -u -D; source {scripts['zsh']}; echo rea''dy\n", "ready")
        shell.type("vdsClient --wait host:1 copyIm\t", "copyImage ")
        shell.type("a b c d e f g h i 6 \t", "[volFormat]: 4 COW (qcow2), 5 RAW")
        shell.type("4 2 t\t", "true ")
    finally:
        shell.close()


@needs_zsh
def test_zsh_finds_it_in_a_directory_of_functions(scripts: dict[str, Path]) -> None:
    (scripts["zsh"].parent / "_vdsClient").write_text(scripts["zsh"].read_text())
    shell = Shell("zsh", "-f", "-i")
    try:
        start = f"fpath=({scripts['zsh'].parent} $fpath); autoload -U compinit; compinit -u -D; echo rea''dy\n"
        shell.type(start, "ready")
        shell.type("vdsClient 0 spmSta\t", "spmStart ")
    finally:
        shell.close()
