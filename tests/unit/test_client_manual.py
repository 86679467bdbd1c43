"""The manual page: complete, escaped, and without a complaint of the formatters."""

import re
import shutil
import subprocess

import pytest

from client import commands, main, manual, options
from rpc import catalogue

SCHEMA = catalogue.load()
COMMANDS = commands.table(SCHEMA)


@pytest.fixture(scope="module")
def page() -> str:
    outcome = main.run(["--man"])
    assert outcome.code == 0
    return "\n".join(outcome.lines) + "\n"


def test_sections_are_in_the_usual_order(page: str) -> None:
    wanted = "NAME SYNOPSIS DESCRIPTION OPTIONS COMMANDS EXIT_STATUS ENVIRONMENT FILES EXAMPLES SEE_ALSO"
    assert re.findall(r"(?m)^\.SH (.+)$", page) == [name.replace("_", " ") for name in wanted.split()]


def test_every_command_and_option_is_in_it(page: str) -> None:
    for name, command in COMMANDS.items():
        assert f"\\fB{name}\\fR" in page
        if command.verb is not None:
            words = " ".join(command.usage[0].split()) if command.verb.usage else ""
            assert f".TP\n\\fB{name}\\fR{' ' + manual.escape(words) if words else ''}\n" in page
    for option in options.TABLE:
        for name in option.names:
            assert f"\\fB{manual.escape(name)}\\fR" in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a-b", "a\\-b"),
        (".SH x", "\\&.SH x"),
        ("'br", "\\(aqbr"),
        ("a.b", "a.b"),
        ("\\fB", "\\efB"),
        ("`^~\"'", "\\(ga\\(ha\\(ti\\(dq\\(aq"),
        ("ä→", "\\[u00E4]\\[u2192]"),
        ("", ""),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert manual.escape(text) == shown


def test_no_line_is_taken_for_a_request(page: str) -> None:
    known = {"\\", "TH", "SH", "B", "BR", "PP", "TP", "RS", "RE", "nf", "fi", "nh", "ad"}
    assert {re.sub(r"^\.(\\|\w*).*", r"\1", line) for line in page.splitlines() if line.startswith((".", "'"))} == known
    assert page.isascii() and "\n\n" not in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff: the page is not formatted here")
def test_groff_has_no_complaint_and_prints_what_is_to_be_copied(page: str) -> None:
    formatter = ["groff", "-man", "-ww", "-Tascii", "-P-cbou", "-rLL=200n"]
    done = subprocess.run(formatter, input=page, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "vdsClient --completion bash > /etc/bash_completion.d/vdsClient" in done.stdout
    flat = " ".join(done.stdout.split())
    for command in COMMANDS.values():
        for line in command.usage:
            assert " ".join(line.split()) in flat
    assert "\\" not in done.stdout


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc: the page is not checked by it here")
def test_mandoc_has_no_complaint(page: str) -> None:
    done = subprocess.run(["mandoc", "-T", "lint"], input=page, capture_output=True, text=True, check=False)
    found = (done.stdout + done.stderr).splitlines()
    # A page that is made anew each time has no date of its own.
    assert [line for line in found if "missing date" not in line] == []
