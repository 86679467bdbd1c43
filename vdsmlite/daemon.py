"""The daemon: its life, from top to bottom."""

import contextlib
import dataclasses
import gc
import logging
import os
import signal
import time
from pathlib import Path

from rpc import bridge, catalogue, server, tls
from storage import files, layout, services as storage_services
from vdsmlite import (
    __version__,
    api,
    audit,
    background,
    config,
    listen,
    logs,
    memory,
    notify,
    pidfile,
    signals,
    status,
    streams,
)

log = logging.getLogger(__name__)

PID_FILE = "vdsmlite.pid"
LOG_FILE = "vdsmlite.log"

OK, FAILED, REFUSED = 0, 1, 2
"""Exit codes: ended as asked; could not start, or could not end in time; the configuration was refused."""

_QUIET_SECONDS = 5.0  # from one look after the process itself to the next


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        config_file: YAML file, or None.
        overrides: section -> key -> value, stronger than the file.
        daemon: go into the background.
        pid_file: pid file of the process in the background.
    """

    config_file: Path | None = None
    overrides: config.Values = dataclasses.field(default_factory=dict)
    daemon: bool = False
    pid_file: Path | None = None


def serve(options: Options) -> int:
    """Run until a signal ends it, and give the exit code."""
    report: background.Report = background.Terminal()
    # Failures are told only after the stack is undone: whoever hears of one must find no pid file any more.
    try:
        with contextlib.ExitStack() as stack:
            wanted = config.load(options.config_file, options.overrides)
            address = listen.resolve(wanted.server.listen)
            listen.check_safe(address, wanted)
            security = _security(wanted.tls)
            wanted = _make_repository(wanted, options.daemon)
            if options.daemon:
                report = background.enter(stack, options.pid_file)
            logs.start(wanted.log)
            stack.enter_context(pidfile.held(wanted.storage.repository / PID_FILE))
            return _run(wanted, address, security, report)
    except config.Refused as error:
        return report.failed(f"vdsmlite: {error}", REFUSED)
    except (OSError, pidfile.Taken) as error:
        log.error("the end: %s", error)
        return report.failed(f"vdsmlite: {error}", FAILED)


def _run(
    wanted: config.Config, address: listen.Address, security: tls.Settings | None, report: background.Report
) -> int:
    memory.share()
    came = signals.Signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    notifier = notify.Notifier()

    services = storage_services.build(wanted.storage)
    services.monitor.start()
    services.keeper.start()
    # By way of the signal, so that there is one way to end.
    services.control.on_end(lambda: os.kill(os.getpid(), signal.SIGTERM))
    verbs = bridge.Bridge(catalogue.load(), api.API(services), status.translate, audit.write)
    listener = server.Server(
        (address.host, address.port),
        server.rpc_routes(verbs, status.errors_table(), streams.handlers(services, audit.write)),
        wanted.server,
        tls.server_context(security) if security else None,
        may_connect=tls.name_check(security) if security else None,
    )
    listener.start()
    # What is here now stays: the collector need not look through it again with every reply that is built.
    gc.freeze()

    where = listen.show(*listener.address)
    log.info("vdsmlite %s, process %d, serves %s on %s", __version__, os.getpid(), wanted.storage.repository, where)
    report.ready(f"vdsmlite ready on {where}")
    notifier.ready(f"serving {where}")

    _watch(came, notifier, f"serving {where}")

    notifier.stopping("waiting for running verbs and tasks")
    came.release((signal.SIGTERM, signal.SIGINT))  # a second one ends the process at once
    return _stop(listener, services, wanted.server.stop_seconds)


def _watch(came: signals.Signals, notifier: notify.Notifier, state: str) -> None:
    """Return when a signal says that it is time to end."""
    while True:
        for number in came.wait(min(notifier.interval or _QUIET_SECONDS, _QUIET_SECONDS)):
            if number != signal.SIGHUP:
                log.info("ending, for %s", number.name)
                return
            notifier.reloading()
            logs.reopen()
            log.info("log files opened anew")
            notifier.ready(state)
        notifier.alive()
        memory.give_back()


def _stop(listener: server.Server, services: storage_services.Services, seconds: float) -> int:
    """Let running verbs be answered, then tasks come to their end, within one time limit."""
    deadline = time.monotonic() + seconds
    answered = listener.stop(seconds)
    if not answered:
        log.warning("verbs still at work after %g s are left behind", seconds)
    services.close(max(1.0, deadline - time.monotonic()))
    log.info("ended")
    return OK if answered else FAILED


def _security(wanted: config.Tls) -> tls.Settings | None:
    """Settings of the secure server, tried out while there is a terminal to complain to.

    Raises:
        Refused: the files are not usable.
    """
    if wanted.certificate is None or wanted.key is None:
        return None
    made = tls.Settings(wanted.certificate, wanted.key, wanted.authorities, wanted.revoked, frozenset(wanted.clients))
    try:
        tls.server_context(made)
    except OSError as error:  # ssl.SSLError is one
        raise config.Refused(f"tls: {error}") from error
    return made


def _make_repository(wanted: config.Config, in_background: bool) -> config.Config:
    """Make what is missing of the repository, and settle paths: the process in the background has another directory.

    Raises:
        OSError: it cannot be made; its parent directory must exist.
    """
    root = wanted.storage.repository.resolve()
    tree = layout.Repository(root)
    for directory in (tree.root, tree.mnt, tree.host_tasks):
        files.make_directory(directory, 0o755)
    in_log = wanted.log
    if in_background and in_log.file is None and in_log.config is None:
        in_log = dataclasses.replace(in_log, file=root / LOG_FILE)
    return dataclasses.replace(wanted, storage=dataclasses.replace(wanted.storage, repository=root), log=in_log)
