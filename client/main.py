"""vdsClient: parse options, find the command, run it, print what it leaves, exit with its code.

Exit codes: 0 success, 1 the server reports a failure (the status code itself, modulo 256, for the host's verbs),
255 the command could not be used or the server not be reached.
"""

import contextlib
import dataclasses
import getopt
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import arguments, commands, errors, help, output, session
from rpc import catalogue

if TYPE_CHECKING:
    from client import transport

UNUSABLE = 255


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


def main() -> int:
    """Run the client on this process's command line; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Whatever the locale: a name that cannot be written is shown escaped, and is no reason to die.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        outcome = run(sys.argv[1:])
        _print(outcome.notes, sys.stderr.write)
        _print(outcome.lines, sys.stdout.write)
        sys.stdout.flush()
        return outcome.code
    except BrokenPipeError:
        # Whoever reads us has seen enough. What is left in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    except KeyboardInterrupt:
        return 130


def run(argv: Sequence[str]) -> output.Outcome:
    """Everything but printing.

    Args:
        argv: the command line without the program's name.
    """
    schema = catalogue.load()
    found = commands.table(schema)
    try:
        options = parse(argv)
        if options.help:
            return output.Outcome(help.full(found.values()))
        if options.methods:
            return output.Outcome(help.short(found.values()))
        if len(options.words) < 2:
            raise errors.UsageError("a server and a command are needed")
        if options.words[1] not in found:
            raise errors.UsageError(f"unknown command {arguments.shown(options.words[1])}")
    except errors.UsageError as error:
        return output.Outcome([f"ERROR: {error}", "", *help.full(found.values())], UNUSABLE)
    with contextlib.closing(_Line(options)) as line:
        outcome = _run_command(found[options.words[1]], _session(schema, options, line), options.words[2:])
        # Without a usable reply the reason is told as ever.
        return _as_json(outcome, line.replies, options.oneliner) if options.json and outcome.usable else outcome


def parse(argv: Sequence[str]) -> Options:
    """Take the options off the command line. They end at the first word that is none.

    Raises:
        errors.UsageError: an unknown option, or one without its argument.
    """
    try:
        given, words = getopt.getopt(list(argv), "hmso", ["help", "methods", "SSL", "truststore=", "oneliner", "json"])
    except getopt.GetoptError as error:
        raise errors.UsageError(str(error)) from error
    names = {name for name, _ in given}
    stores = [value for name, value in given if name == "--truststore"]
    return Options(
        words=tuple(words),
        help=bool(names & {"-h", "--help"}),
        methods=bool(names & {"-m", "--methods"}),
        tls=bool(names & {"-s", "--SSL"}),
        truststore=stores[-1] if stores else None,
        oneliner=bool(names & {"-o", "--oneliner"}),
        json="--json" in names,
    )


def _run_command(command: commands.Command, opened: session.Session, words: Sequence[str]) -> output.Outcome:
    try:
        return command.run(opened, words)
    except errors.BadArgument as error:
        return output.Outcome(help.wrong(command, output.escape(str(error))), UNUSABLE, usable=False)
    except errors.Refused as error:
        return output.Outcome([output.escape(str(error))], UNUSABLE, usable=False)
    except errors.ClientError as error:
        return output.Outcome([], UNUSABLE, [f"ERROR: {output.escape(str(error))}"], usable=False)


def _as_json(outcome: output.Outcome, replies: Sequence[output.Reply], oneliner: bool) -> output.Outcome:
    """The outcome with the reply in place of lines, or the list of replies where the command made several calls."""
    import json

    text = json.dumps(replies[0] if len(replies) == 1 else replies, indent=None if oneliner else 2, default=str)
    # The one control character that JSON leaves as it is.
    return dataclasses.replace(outcome, lines=text.replace("\x7f", "\\u007f").splitlines())


def _session(schema: catalogue.Catalogue, options: Options, line: "_Line") -> session.Session:
    invocation = ["vdsClient"]
    if options.tls:
        invocation.append("-s")
    if options.truststore:
        invocation += ["--truststore", options.truststore]
    return session.Session(
        catalogue=schema,
        call=line.call,
        invocation=(*invocation, options.words[0]),
        oneliner=options.oneliner,
    )


class _Line:
    """The line to the server. It is opened by the first call: words that are wrong are found without a server."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._server: transport.Server | None = None
        self.replies: list[output.Reply] = []

    def call(self, verb: str, values: Sequence[Any]) -> dict[str, Any]:
        if self._server is None:
            self._server = self._open()
        reply = self._server.call(verb, values)
        self.replies.append(reply)
        return reply

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def _open(self) -> "transport.Server":
        # Not at the top: help and wrong words need not wait for the import of HTTP, XML and TLS.
        from client import transport

        options = self._options
        address = transport.parse_address(options.words[0])
        store = Path(options.truststore) if options.truststore else transport.DEFAULT_TRUSTSTORE
        context = transport.tls_context(store) if options.tls else None
        return transport.Server(address, context, transport.flow_id())


def _print(lines: Iterable[str], write: Callable[[str], object]) -> None:
    for line in lines:
        write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
