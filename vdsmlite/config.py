"""The configuration: what there is to set, its defaults, and how a file and the command line are checked against them.

Each section is a dataclass; its fields are the keys, their types the types, their defaults the defaults. The limits of
the server and the settings of the storage floor are declared where they are used. An example with every key is
``etc/vdsmlite.yaml``.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rpc import connection
from storage import settings

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# Every other number must be above zero.
_MAY_BE_ZERO = frozenset({"stop_seconds", "linger_seconds", "prove_seconds", "time_margin"})


class Refused(ValueError):
    """The configuration cannot be used; the text names the key."""


@dataclasses.dataclass(frozen=True)
class Server(connection.Settings):
    """Where and how to listen; the limits of `connection.Settings` are keys too.

    Attributes:
        listen: host and port, ``HOST:PORT`` or ``[IPV6]:PORT``; port 0 takes any free one.
        insecure: listen on other addresses than loopback though clients show no certificate. Everyone who reaches
            the port can then destroy every volume.
        stop_seconds: at the end, time for running verbs and tasks.
    """

    listen: str = "127.0.0.1:54321"
    insecure: bool = False
    stop_seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class Tls:
    """Certificates, all in PEM; without `certificate` the server speaks plain HTTP.

    Attributes:
        certificate: the server's certificate, followed by the chain below the root if there is one.
        key: its private key, without passphrase.
        authorities: who signs the clients; then every client must show a certificate.
        revoked: revocation lists of those authorities.
        clients: names in certificates that may connect; empty: all that the authorities signed.
    """

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    revoked: Path | None = None
    clients: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Log:
    """What is written where.

    Attributes:
        level: least severity that is written.
        file: of the log; None is standard error, or ``vdsmlite.log`` in the repository for a process in the background.
        audit_file: of the audit lines; None puts them into the log.
        config: a YAML file for `logging.config.dictConfig`, which replaces the three above.
    """

    level: str = "INFO"
    file: Path | None = None
    audit_file: Path | None = None
    config: Path | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    """All of it."""

    server: Server
    tls: Tls
    storage: settings.Settings
    log: Log


Values = Mapping[str, Mapping[str, Any]]


def load(file: Path | None, overrides: Values) -> Config:
    """Defaults, then the file, then what the command line says.

    Args:
        file: YAML file, or None.
        overrides: section -> key -> value.

    Raises:
        Refused: something does not fit; the text names it.
    """
    values: Values = {}
    if file is not None:
        from vdsmlite import yamlfile  # costs 15 ms, and most starts have no use for it

        try:
            values = sections(yamlfile.load(file))
        except yamlfile.Refused as error:
            raise Refused(str(error)) from error
        except Refused as error:
            raise Refused(f"{file}: {error}") from error
    return build({name: {**values.get(name, {}), **overrides.get(name, {})} for name in _sections()})


def sections(content: Any) -> Values:
    """Check the outer shape of a document: known sections with keys in them.

    Raises:
        Refused: it has another shape.
    """
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Refused("sections with keys are expected at the top")
    known = _sections()
    for name, keys in content.items():
        if name not in known:
            raise Refused(f"unknown section {name}; there are {', '.join(known)}")
        if keys is not None and not isinstance(keys, dict):
            raise Refused(f"{name} must hold keys and values")
    return {name: keys or {} for name, keys in content.items()}


def build(values: Values) -> Config:
    """Make a configuration of values, defaults for the rest.

    Raises:
        Refused: an unknown key, a wrong type, or keys that do not go together.
    """
    made = {name: _section(name, kind, values.get(name, {})) for name, kind in _sections().items()}
    config = Config(**made)
    _check_together(config)
    return config


def plain(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration in plain types, for a YAML file that `load` reads back."""
    return {
        name: {field.name: _plain(getattr(getattr(config, name), field.name)) for field in dataclasses.fields(kind)}
        for name, kind in _sections().items()
    }


def _sections() -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(Config)}


def _section(name: str, kind: Any, given: Mapping[str, Any]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in given:
        if key not in fields:
            raise Refused(f"unknown key {name}.{key}")
    for key, field in fields.items():
        if key not in given and field.default is dataclasses.MISSING:
            raise Refused(f"{name}.{key} is not set" + (", see --repository" if key == "repository" else ""))
    return kind(**{key: _value(f"{name}.{key}", fields[key].type, value) for key, value in given.items()})


def _value(key: str, wanted: Any, value: Any) -> Any:
    """The value in the type that its field has."""
    if isinstance(wanted, types.UnionType):
        if value is None:
            return None
        wanted = next(kind for kind in typing.get_args(wanted) if kind is not types.NoneType)
    if wanted is Path:
        return _path(key, value)
    if typing.get_origin(wanted) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise Refused(f"{key} must be a list of texts")
        return tuple(value)
    if wanted in (int, float):
        return _number(key, wanted, value)
    if not isinstance(value, wanted):
        raise Refused(f"{key} must be {'true or false' if wanted is bool else 'a text'}, not {value!r}")
    return value


def _path(key: str, value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise Refused(f"{key} must be an absolute path, not {value!r}")
    return Path(value)


def _number(key: str, wanted: type, value: Any) -> int | float:
    fits = isinstance(value, int) if wanted is int else isinstance(value, int | float)
    if not fits or isinstance(value, bool):
        raise Refused(f"{key} must be a {'whole ' if wanted is int else ''}number, not {value!r}")
    zero_is_fine = key.rpartition(".")[2] in _MAY_BE_ZERO
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero_is_fine):
        raise Refused(f"{key} must be {'0 or more' if zero_is_fine else 'above 0'}, not {value!r}")
    return int(value) if wanted is int else float(value)


def _check_together(config: Config) -> None:
    tls, log = config.tls, config.log
    if tls.certificate is None:
        for name in ("key", "authorities", "revoked", "clients"):
            if getattr(tls, name):
                raise Refused(f"tls.{name} means nothing without tls.certificate")
    elif tls.key is None:
        raise Refused("tls.certificate needs tls.key")
    elif tls.authorities is None and (tls.revoked or tls.clients):
        raise Refused("tls.revoked and tls.clients need tls.authorities")
    if config.storage.chain_limit > settings.LONGEST_CHAIN:
        raise Refused(f"storage.chain_limit must be {settings.LONGEST_CHAIN} or less, not {config.storage.chain_limit}")
    if log.level not in LEVELS:
        raise Refused(f"log.level must be one of {', '.join(LEVELS)}, not {log.level!r}")
    if log.config is not None and (log.file or log.audit_file):
        raise Refused("log.config replaces log.file and log.audit_file: set one or the other")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
