"""Tells the service manager how the daemon is: the datagrams of sd_notify(3), nothing without one."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)


class Notifier:
    """Sends states to the socket that the service manager named, if it named one.

    Args:
        environment: where it says so; the variables are taken out, since they are not meant for our children.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        micros, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        self.interval = int(micros) / 2_000_000 if meant and micros.isdecimal() and int(micros) else None
        """Seconds between signs of life, half of what the service manager allows; None when it waits for none."""

    def ready(self, status: str) -> None:
        """Started, or done with a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Begins to reload; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Begins to end."""
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """A sign of life."""
        if self.interval is not None:
            self._send("WATCHDOG=1")

    def _send(self, *states: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the zero byte of Linux's abstract addresses.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as sock:
                sock.settimeout(1.0)
                sock.sendto("\n".join(states).encode(), address)
        except OSError as error:
            log.warning("the service manager cannot be told %s: %s", states[0], error)
