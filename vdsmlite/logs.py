"""The log: where it goes, how a line looks, and how to open its files anew.

A record is one line, and the lines of a traceback are indented, so that text from a client or from storage can never
look like a record of its own.
"""

import logging
import sys
import time
from pathlib import Path

from vdsmlite import config

AUDIT = "vdsmlite.audit"
"""Name of the logger that gets the audit lines."""

_FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"

# C0, DEL, C1 and Unicode's line separators: all that could end a line or drive a terminal.
ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029)
}


class Formatter(logging.Formatter):
    """Formats records; usable in a ``logging.yaml`` as ``(): vdsmlite.logs.Formatter``.

    Args:
        fmt: as for `logging.Formatter`.
    """

    def __init__(self, fmt: str = _FORMAT) -> None:
        super().__init__(fmt)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Time of the record, in UTC."""
        return timestamp(record.created)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with control characters escaped."""
        return super().formatMessage(record).translate(ESCAPES)

    def formatException(self, ei: object) -> str:
        """The traceback, indented."""
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]  # its type is private to logging
        return "\n".join("    " + line.translate(ESCAPES) for line in lines)


def timestamp(seconds: float) -> str:
    """A time since the epoch as text with milliseconds, in UTC."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def start(wanted: config.Log) -> None:
    """Send records where the configuration says.

    Raises:
        Refused: `log.config` is not usable.
        OSError: a file cannot be opened.
    """
    if wanted.config is not None:
        _start_from_file(wanted.config)
        return
    logging.basicConfig(handlers=[_handler(wanted.file, Formatter())], level=wanted.level, force=True)
    audit = logging.getLogger(AUDIT)
    audit.setLevel(logging.INFO)  # whatever the level of the log
    if wanted.audit_file is not None:
        audit.addHandler(_handler(wanted.audit_file, Formatter("%(message)s")))
        audit.propagate = False


def reopen() -> None:
    """Open the files of all handlers anew, after somebody renamed them. What cannot be opened stays as it is."""
    for handler in _handlers():
        if not isinstance(handler, logging.FileHandler):
            continue
        try:
            # The mode is to append even where the configuration says to begin anew: that was for the first start.
            new = Path(handler.baseFilename).open("a", encoding=handler.encoding, errors=handler.errors)  # noqa: SIM115
        except OSError as error:
            logging.getLogger(__name__).error("cannot reopen %s: %s", handler.baseFilename, error.strerror)
            continue
        if (old := handler.setStream(new)) is not None:
            old.close()


def _handler(file: Path | None, formatter: logging.Formatter) -> logging.Handler:
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(formatter)
    return handler


def _start_from_file(path: Path) -> None:
    import logging.config as logging_config  # costs time, and few need it

    from vdsmlite import yamlfile

    try:
        content = yamlfile.load(path)
        if not isinstance(content, dict):
            raise ValueError("keys and values are expected")
        content.setdefault("disable_existing_loggers", False)  # or every module that is loaded already falls silent
        logging_config.dictConfig(content)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        cause = f": {error.__cause__}" if error.__cause__ and not isinstance(error, yamlfile.Refused) else ""
        raise config.Refused(f"log.config {path}: {error}{cause}") from error


def _handlers() -> set[logging.Handler]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    return {handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers}
