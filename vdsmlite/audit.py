"""The audit log: one line for every call of a verb.

A line is ``name=value`` words, in this order: ``time`` (start, UTC), ``client``, ``flow`` (the caller's FlowID; ``-``
without one), ``via`` (xml-rpc or json-rpc), ``verb``, the ids that the call named, ``code``, ``ms``. A value with
other characters than ids and addresses have is quoted, with escapes, so that no caller can forge a word or a line.
Arguments other than ids are never written: those of a connection hold passwords.
"""

import logging
import re

from rpc import bridge
from vdsmlite import logs

VALUE_LIMIT = 256
"""Most characters of a value; what is longer is cut and ends in ``...``."""

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+\[\]-]+")

_log = logging.getLogger(logs.AUDIT)


def write(record: bridge.Record) -> None:
    """Log one call."""
    _log.info("%s", line(record))


def line(record: bridge.Record) -> str:
    """The line of a call."""
    words = {
        "time": logs.timestamp(record.time),
        "client": record.client,
        "flow": record.flow_id or "-",
        "via": record.transport,
        "verb": record.verb,
        **record.ids,
        "code": str(record.code),
        "ms": f"{record.milliseconds:.1f}",
    }
    return " ".join(f"{name}={quote(value)}" for name, value in words.items())


def quote(value: str) -> str:
    """A value as one printable ASCII word."""
    if len(value) > VALUE_LIMIT:
        value = value[:VALUE_LIMIT] + "..."
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'
