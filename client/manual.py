"""``--man``: the manual page, from the schema, in the "man" macros of roff (man(7)), which every formatter knows."""

import re
import textwrap
from collections.abc import Iterable

from client import options
from client.commands import Command
from rpc import catalogue

# What roff would take for something else: escapes, requests at the start of a line, and typographic quotes and dashes
# in the place of characters that are to be copied into a shell.
_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}

# Columns of the source before escaping; nobody sees it.
_WIDTH = 72

_STATUS = (
    ("0", "Success. With --wait: the task has done its work."),
    ("1", "The server reports a failure, and its message is on standard output. With --wait also: the task failed."),
    ("130", "Ctrl-C. With --wait, the task goes on."),
    ("255", "The command could not be used, or the server could not be reached, or the answer not be understood."),
)
_HOST_STATUS = (
    "Commands about the host and its machines end with the server's status code itself, modulo 256, in the place of 1:"
    " {commands}."
)

_EXAMPLES = (
    ("Show what an image's chain really is:", ("vdsClient 0 chain $POOL $DOMAIN $IMAGE",)),
    (
        "Copy a disk into a template, watch it, and have an exit code that tells whether the copy is there:",
        ("vdsClient --wait 0 copyImage $DOMAIN $POOL $VM $IMAGE $LEAF $NEW_IMAGE $NEW_VOLUME text",),
    ),
    (
        "The same for a script that gives up waiting after ten minutes; the task goes on:",
        ("timeout -s INT 600 vdsClient --wait --json 0 copyImage ...",),
    ),
    (
        "Another host, with TLS:",
        ("vdsClient -s --truststore /etc/pki/vdsm host.example:54321 getStorageDomainsList",),
    ),
    (
        "Install completion and this page:",
        (
            "vdsClient --completion bash > /etc/bash_completion.d/vdsClient",
            "vdsClient --completion zsh > /usr/local/share/zsh/site-functions/_vdsClient",
            "vdsClient --man > /usr/local/share/man/man1/vdsClient.1",
        ),
    ),
)


def page(schema: catalogue.Catalogue, commands: Iterable[Command]) -> list[str]:
    """Lines of the page."""
    found = list(commands)
    info = schema.document["info"]
    lines = [
        '.\\" Made by: vdsClient --man',
        f'.TH VDSCLIENT 1 "" "{escape(info["title"])} {escape(info["version"])}" "User Commands"',
        ".nh",
        ".ad l",
        ".SH NAME",
        escape("vdsClient") + " \\- call the storage verbs of a host from the command line",
        ".SH SYNOPSIS",
        ".B vdsClient",
        "[\\fIOPTIONS\\fR] \\fISERVER COMMAND\\fR [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        *_paragraph(
            "Each command is one verb of the server. Its arguments are words in the order of the usage line: those in"
            " square brackets may be left out, from the right. Ids have 36 characters."
        ),
        ".PP",
        *_paragraph(
            "SERVER is host, host:port, [IPv6]:port, or 0 for this host. Options stand before it. Whatever a server"
            " sends is made safe for a terminal: what a terminal might obey is shown as an escape."
        ),
        ".PP",
        *_paragraph(
            "Most storage commands print what the verb answers, and an empty line when that is nothing. A command that"
            " starts a task prints the task's id at once; ask for it with getTaskStatus and clear it with clearTask,"
            " or use --wait."
        ),
    ]
    return [*lines, *_options(), *_commands(found), *_ends(found), *_environment(), *_examples(), *_see_also()]


def escape(text: str) -> str:
    """Text as roff prints it unchanged, wherever in a line it stands."""
    shown = "".join(_ESCAPES.get(char, char if char.isascii() else f"\\[u{ord(char):04X}]") for char in text)
    # "." and "'" make a request at the start of a line; "'" is escaped already.
    return f"\\&{shown}" if shown.startswith(".") else shown


def _paragraph(text: str) -> list[str]:
    """Running text. Each sentence begins on a line of its own, so that roff sets the space between them."""
    sentences = re.split(r"(?<=[.?]) ", text)
    return [escape(line) for sentence in sentences for line in textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False)]


def _options() -> list[str]:
    lines = [".SH OPTIONS"]
    for option in options.TABLE:
        names = ", ".join(f"\\fB{escape(name)}\\fR" for name in option.names)
        argument = f" \\fI{escape(option.argument)}\\fR" if option.argument else ""
        words = option.words[:1].upper() + option.words[1:] + "."
        lines += [".TP", names + argument, *_paragraph(words), *_paragraph(option.more)]
    return lines


def _commands(found: Iterable[Command]) -> list[str]:
    lines = [".SH COMMANDS"]
    for command in found:
        has_words = command.verb is None or bool(command.verb.usage)
        usage = f" {escape(command.usage[0])}" if has_words else ""
        lines += [".TP", f"\\fB{escape(command.name)}\\fR{usage}"]
        for text in command.usage[1:] if has_words else command.usage:
            lines += _paragraph(text)
        if command.verb is not None:
            lines += _paragraph(command.verb.description)
    return lines


def _ends(found: Iterable[Command]) -> list[str]:
    lines = [".SH EXIT STATUS"]
    for code, text in _STATUS:
        lines += [".TP", escape(code), *_paragraph(text)]
    hosts = [command.name for command in found if command.group == "host"]
    return [*lines, ".PP", *_paragraph(_HOST_STATUS.format(commands=", ".join(hosts)))]


def _environment() -> list[str]:
    variables = (
        (
            "VDSM_FLOW_ID",
            "Under which the server logs the calls of this command; a new one for each command if not set.",
        ),
        ("NO_COLOR", "No colours when it is set."),
        ("COLUMNS", "Width of a line, where the terminal does not tell it."),
    )
    lines = [".SH ENVIRONMENT"]
    for name, text in variables:
        lines += [".TP", f"\\fB{escape(name)}\\fR", *_paragraph(text)]
    return [*lines, ".SH FILES", ".TP", f"\\fI{escape('/etc/pki/vdsm')}\\fR", "Keys and certificates for \\fB\\-s\\fR."]


def _examples() -> list[str]:
    lines = [".SH EXAMPLES"]
    for number, (text, shown) in enumerate(_EXAMPLES):
        lines += [
            *([".PP"] if number else []),
            *_paragraph(text),
            ".PP",
            ".RS 4",
            ".nf",
            *(escape(line) for line in shown),
            ".fi",
            ".RE",
        ]
    return lines


def _see_also() -> list[str]:
    return [".SH SEE ALSO", ".BR qemu\\-img (1),", ".BR timeout (1),", ".BR jq (1)"]
