"""vdsClient: parse options, find the command, run it, print what it leaves, exit with its code.

Exit codes: 0 success, 1 the server reports a failure (the status code itself, modulo 256, for most of the host's
verbs), 130 Ctrl-C, 255 the command could not be used or the server not be reached.
"""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import arguments, commands, errors, help, options, output, session
from rpc import catalogue

if TYPE_CHECKING:
    from client import transport

UNUSABLE = 255

# How long the server may take for what it answers at once; a host that is gone does not even refuse.
_POLL_SECONDS = 20.0


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
        given = options.parse(argv)
        if texts := _about(given, schema, found):
            return output.Outcome(texts)
        if len(given.words) < 2:
            raise errors.UsageError("a server and a command are needed")
        if given.words[1] not in found:
            raise errors.UsageError(f"unknown command {arguments.shown(given.words[1])}")
    except errors.UsageError as error:
        return output.Outcome([f"ERROR: {error}", "", *help.full(found.values())], UNUSABLE)
    with contextlib.closing(_Line(given)) as line:
        outcome = _run_command(found[given.words[1]], _session(schema, given, line), given.words[2:])
        # Without a usable reply the reason is told as ever.
        return _as_json(outcome, line.replies, given.oneliner) if given.json and outcome.usable else outcome


def _about(given: options.Options, schema: catalogue.Catalogue, found: Mapping[str, commands.Command]) -> Sequence[str]:
    """The texts about this program that were asked for, all of them made from the schema; empty: none was."""
    if given.help:
        return help.full(found.values())
    if given.methods:
        return help.short(found.values())
    if given.completion:
        from client import completion

        return completion.script(given.completion, schema, found.values())
    if given.man:
        from client import manual

        return manual.page(schema, found.values())
    return ()


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

    shown = outcome.document or (replies[0] if len(replies) == 1 else replies)
    text = json.dumps(shown, indent=None if oneliner else 2, default=str)
    # The one control character that JSON leaves as it is.
    return dataclasses.replace(outcome, lines=text.replace("\x7f", "\\u007f").splitlines())


def _session(schema: catalogue.Catalogue, given: options.Options, line: "_Line") -> session.Session:
    invocation = ["vdsClient"]
    if given.tls:
        invocation.append("-s")
    if given.truststore:
        invocation += ["--truststore", given.truststore]
    return session.Session(
        catalogue=schema,
        call=line.call,
        invocation=(*invocation, given.words[0]),
        oneliner=given.oneliner,
        wait=given.wait,
        poll=line.poll,
    )


class _Line:
    """The line to the server. It is opened by the first call: words that are wrong are found without a server."""

    def __init__(self, given: options.Options) -> None:
        self._options = given
        self._server: transport.Server | None = None
        self.replies: list[output.Reply] = []

    def call(self, verb: str, values: Sequence[Any]) -> dict[str, Any]:
        reply = self._opened().call(verb, values)
        self.replies.append(reply)
        return reply

    def poll(self, verb: str, values: Sequence[Any]) -> dict[str, Any]:
        return self._opened().call(verb, values, _POLL_SECONDS)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def _opened(self) -> "transport.Server":
        if self._server is None:
            self._server = self._open()
        return self._server

    def _open(self) -> "transport.Server":
        # Not at the top: help and wrong words need not wait for the import of HTTP, XML and TLS.
        from client import transport

        given = self._options
        address = transport.parse_address(given.words[0])
        store = Path(given.truststore) if given.truststore else transport.DEFAULT_TRUSTSTORE
        context = transport.tls_context(store) if given.tls else None
        return transport.Server(address, context, transport.flow_id())


def _print(lines: Iterable[str], write: Callable[[str], object]) -> None:
    for line in lines:
        write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
