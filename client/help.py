"""Help: everything in it comes from the schema's usage lines. Its layout is what shell completion parses."""

from collections.abc import Iterable

from client.commands import Command

OPTIONS = (
    ("-h, --help", "this help"),
    ("-m, --methods", "one line a command"),
    ("-s, --SSL", "use TLS"),
    ("--truststore DIR", "keys and certificates for -s (default /etc/pki/vdsm)"),
    ("-o, --oneliner", "no pretty-printing"),
    ("--json", "print the reply as JSON (a list of replies, where a command makes several calls)"),
)


def full(commands: Iterable[Command]) -> list[str]:
    """Usage, options, and every command with its lines after a tab."""
    lines = ["Usage: vdsClient [OPTIONS] SERVER COMMAND [ARGUMENTS]", "", "Options:"]
    lines += [f"  {option:<18} {words}" for option, words in OPTIONS]
    lines += ["", "SERVER is host, host:port, [IPv6]:port, or 0 for this host.", "", "Commands:"]
    for command in commands:
        lines += [command.name, *("\t" + line for line in command.usage)]
    return lines


def short(commands: Iterable[Command]) -> list[str]:
    """A line a command: its name, a tab, its first usage line."""
    return [f"{command.name}\t{command.usage[0]}" for command in commands]


def wrong(command: Command, reason: str) -> list[str]:
    """What the person sees who gave a command the wrong words."""
    return [f"ERROR: {command.name}: {reason}", "", command.name, *("\t" + line for line in command.usage)]
