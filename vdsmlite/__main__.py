"""The command ``vdsmlite``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vdsmlite


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit code."""
    arguments = _parser().parse_args(argv)
    # Imported here: neither the help nor the version should wait for it.
    from vdsmlite import daemon

    options = daemon.Options(arguments.config, _overrides(arguments), arguments.daemon, arguments.pidfile)
    if arguments.show_config:
        return _show_config(options)
    return daemon.serve(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vdsmlite", description="A small daemon with the storage verbs of vdsm 3.5.")
    parser.add_argument("--version", action="version", version=f"vdsmlite {vdsmlite.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    serve = commands.add_parser("serve", help="run the daemon", description=_SERVE)
    serve.add_argument("--repository", type=_path, metavar="DIR", help="root of links and task records (made)")
    serve.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:54321; port 0 takes any free one")
    serve.add_argument("--config", type=_path, metavar="FILE", help="YAML file; options given here are stronger")
    serve.add_argument("--insecure", action="store_true", help="serve other machines without client certificates")
    serve.add_argument("--daemon", action="store_true", help="go into the background, and return when it is ready")
    serve.add_argument("--pidfile", type=_path, metavar="FILE", help="with --daemon: file for the process id")
    serve.add_argument("--show-config", action="store_true", help="print the configuration in force, and end")
    return parser


_SERVE = """Run the daemon in the foreground; with --daemon in the background, where it logs to vdsmlite.log in the
repository unless the configuration names another file. It says "vdsmlite ready on HOST:PORT" when it listens."""


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a path is empty")
    return Path(text).absolute()


def _overrides(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    server = {"listen": arguments.listen, "insecure": arguments.insecure or None}
    given = {"server": server, "storage": {"repository": arguments.repository}}
    return {
        section: {key: value for key, value in keys.items() if value is not None} for section, keys in given.items()
    }


def _show_config(options: Any) -> int:
    from vdsmlite import config, yamlfile

    try:
        print(yamlfile.dump(config.plain(config.load(options.config_file, options.overrides))), end="")
    except config.Refused as error:
        print(f"vdsmlite: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
