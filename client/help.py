"""Help: everything in it comes from the schema's usage lines. Its layout is what shell completion parses."""

from collections.abc import Iterable

from client import options
from client.commands import Command


def full(commands: Iterable[Command]) -> list[str]:
    """Usage, options, and every command with its lines after a tab."""
    lines = ["Usage: vdsClient [OPTIONS] SERVER COMMAND [ARGUMENTS]", "", "Options:"]
    lines += [f"  {_shown(option):<18} {option.words}" for option in options.TABLE]
    lines += ["", "SERVER is host, host:port, [IPv6]:port, or 0 for this host.", "", "Commands:"]
    for command in commands:
        lines += [command.name, *("\t" + line for line in command.usage)]
    return lines


def _shown(option: options.Option) -> str:
    return ", ".join(option.names) + (f" {option.argument}" if option.argument else "")


def short(commands: Iterable[Command]) -> list[str]:
    """A line a command: its name, a tab, its first usage line."""
    return [f"{command.name}\t{command.usage[0]}" for command in commands]


def wrong(command: Command, reason: str) -> list[str]:
    """What the person sees who gave a command the wrong words."""
    return [f"ERROR: {command.name}: {reason}", "", command.name, *("\t" + line for line in command.usage)]
