"""The options before the server: one table, which parser, help, manual page and completion are made from."""

import dataclasses
import getopt
from collections.abc import Sequence

from client import errors

SHELLS = ("bash", "zsh")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        long: its name without dashes.
        words: what it does, in half a line.
        short: its letter, "" without one.
        argument: name of its argument, "" without one.
        choices: what the argument may be; empty: anything.
        more: what the manual page says beyond `words`.
    """

    long: str
    words: str
    short: str = ""
    argument: str = ""
    choices: tuple[str, ...] = ()
    more: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """As typed, the short one first."""
        return (*([f"-{self.short}"] if self.short else []), f"--{self.long}")


TABLE = (
    Option("help", "this help", "h"),
    Option("methods", "one line a command", "m"),
    Option("SSL", "use TLS", "s"),
    Option(
        "truststore",
        "keys and certificates for -s (default /etc/pki/vdsm)",
        argument="DIR",
        more="The directory has keys/vdsmkey.pem, certs/vdsmcert.pem and certs/cacert.pem.",
    ),
    Option("oneliner", "no pretty-printing", "o"),
    Option("json", "print the reply as JSON (a list of replies, where a command makes several calls)"),
    Option(
        "wait",
        "when the command starts a task: wait for its end, show how far it is, print its result, clear it",
        more="A command that starts no task just runs. Progress goes to standard error: a bar on a terminal, elsewhere"
        " a line whenever there is something new. The task's own outcome decides about the exit code. The task is"
        " cleared once its result has been read; one that failed and could not be undone is kept. Ctrl-C ends the"
        " waiting, not the task, and says how to stop that. When the server stops answering it is asked again for a"
        " minute. With --json, standard output has one document: the outcome as status, the last taskStatus, the"
        " task's result, and its id as uuid.",
    ),
    Option(
        "completion",
        "print the completion for a shell, bash or zsh",
        argument="SHELL",
        choices=SHELLS,
    ),
    Option("man", "print this program's manual page"),
)

# "--m" was unique before there was --man, and options may be abbreviated.
_ABBREVIATED = {"--m": "--methods"}


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line before it is looked at closely. `words`: server, command, arguments."""

    words: tuple[str, ...]
    help: bool = False
    methods: bool = False
    tls: bool = False
    truststore: str | None = None
    oneliner: bool = False
    json: bool = False
    wait: bool = False
    completion: str | None = None
    man: bool = False


def parse(argv: Sequence[str]) -> Options:
    """Take the options off the command line. They end at the first word that is none.

    Raises:
        errors.UsageError: an unknown option, or one without its argument, or with one that it does not know.
    """
    shorts = "".join(option.short for option in TABLE)
    longs = [option.long + ("=" if option.argument else "") for option in TABLE]
    try:
        given, words = getopt.getopt(list(argv), shorts, [*longs, *(name.lstrip("-") for name in _ABBREVIATED)])
    except getopt.GetoptError as error:
        raise errors.UsageError(str(error)) from error
    full = {name: f"--{option.long}" for option in TABLE for name in option.names} | _ABBREVIATED
    found = {full[name].removeprefix("--"): value for name, value in given}
    for option in TABLE:
        if option.choices and found.get(option.long, option.choices[0]) not in option.choices:
            raise errors.UsageError(f"--{option.long} takes {' or '.join(option.choices)}")
    return Options(
        words=tuple(words),
        help="help" in found,
        methods="methods" in found,
        tls="SSL" in found,
        truststore=found.get("truststore"),
        oneliner="oneliner" in found,
        json="json" in found,
        wait="wait" in found,
        completion=found.get("completion"),
        man="man" in found,
    )
