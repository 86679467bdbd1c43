"""Fence agents: programs of this host that ask another host's power switch, or turn it.

They are called ``fence_<agent>`` and read ``key=value`` lines from their input, so that no password is ever part of a
command line. Their exit status means on, or done (0); failed (1); off (2, to the question for the status).
"""

import dataclasses
import os
import re
from pathlib import Path

from storage import errors
from storage.qemu import child

ACTIONS = ("status", "on", "off", "reboot")
DIRECTORIES = (Path("/usr/sbin"), Path("/sbin"), Path("/usr/bin"))

ON, OFF, UNKNOWN = "on", "off", "unknown"

# An engine hangs up after 180 s.
_LIMITS = child.Limits(seconds=150.0, stdout=1 << 16, stderr=1 << 12)
_AGENT = re.compile(r"[a-z0-9_]{1,64}")
_OPTION = re.compile(r"[a-z0-9_-]{1,64}")
_OURS = frozenset(("agent", "action", "ipaddr", "ip", "login", "username", "passwd", "password"))
_PROGRAM_OPTIONS = re.compile(r".*(script|_path|ssh_options)")  # options that name programs to run
_MESSAGE_LIMIT = 300


@dataclasses.dataclass(frozen=True)
class Request:
    """What an agent is asked to do.

    Attributes:
        agent: which, such as ``ipmilan``.
        address: of the power switch.
        port: its plug or port; empty for none.
        user, password: for the switch.
        action: one of `ACTIONS`.
        secure: over an encrypted connection.
        options: further ``key=value``, between commas or on lines.
    """

    agent: str
    address: str
    port: str
    user: str
    password: str = dataclasses.field(repr=False)
    action: str
    secure: bool
    options: str


def run(request: Request, directories: tuple[Path, ...] = DIRECTORIES) -> str:
    """Have it done; the power state: known after the question for it, else `UNKNOWN`.

    Raises:
        UnexpectedError: there is no such action.
        FenceAgentError: there is no such agent here.
        InvalidParameterException: an option is not acceptable.
        FenceError, FenceRefusedError: the agent failed.
    """
    if request.action not in ACTIONS:
        raise errors.UnexpectedError(reason=f"action {request.action!r:.40} is none of {', '.join(ACTIONS)}")
    program, text = find(request.agent, directories), words(request)
    try:
        result = child.run([str(program)], _LIMITS, text=text)
    except (OSError, ValueError) as error:
        raise errors.FenceError(agent=request.agent, reason=str(error)) from error
    reason = result.killed or _said(result.stderr or result.stdout, request.password) or f"exit code {result.code}"
    if result.killed or result.code not in (0, 1, 2):
        raise errors.FenceError(agent=request.agent, reason=reason)
    if request.action == "status":
        return {0: ON, 1: UNKNOWN, 2: OFF}[result.code]
    if result.code:
        failure = errors.FenceError if result.code == 1 else errors.FenceRefusedError
        raise failure(agent=request.agent, reason=reason)
    return UNKNOWN


def find(agent: str, directories: tuple[Path, ...] = DIRECTORIES) -> Path:
    """The program of an agent.

    Raises:
        FenceAgentError: there is none.
    """
    if _AGENT.fullmatch(agent):
        for directory in directories:
            program = directory / f"fence_{agent}"
            if program.is_file() and os.access(program, os.X_OK):
                return program
    raise errors.FenceAgentError(agent=repr(agent))


def words(request: Request) -> bytes:
    """What the agent reads; pure.

    Raises:
        InvalidParameterException: an option is not acceptable.
    """
    lines = [
        f"agent=fence_{request.agent}",
        f"ipaddr={request.address}",
        f"login={request.user}",
        f"action={request.action}",
        f"passwd={request.password}",
        *((f"port={request.port}",) if request.port else ()),
        *(("secure=yes",) if request.secure else ()),
        *_options(request.options),
    ]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def _options(text: str) -> list[str]:
    found = [each.strip() for each in re.split(r"[\n,]", text) if each.strip()]
    for option in found:
        name = option.partition("=")[0].strip()
        if not _OPTION.fullmatch(name) or name in _OURS or _PROGRAM_OPTIONS.fullmatch(name):
            raise errors.InvalidParameterException(name="options", reason=f"{name!r:.40} is not accepted")
    return found


def _said(output: bytes, password: str) -> str:
    text = " ".join(output.decode("utf-8", "replace").split())
    if password:
        text = text.replace(password, "***")
    return "".join(char if char.isprintable() else "?" for char in text)[:_MESSAGE_LIMIT]
