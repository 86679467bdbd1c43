"""The commands: most follow from their verb's schema entry alone, the others are functions in `special` and `chain`."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from client import arguments, chain, errors, host, output, special
from client.session import Session
from rpc import catalogue

Run = Callable[[Session, Sequence[str]], output.Outcome]
Present = Callable[[output.Reply, Session], list[str]]


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        usage: lines of its help; the first names the arguments, or says what it does when it has none.
        verb: the one that it calls, None where it calls another command's.
        positional: whether its words are the verb's positions on the wire.
        group: "host" where the exit code of a failure is the status code itself, "storage" where it is 1.
    """

    name: str
    usage: tuple[str, ...]
    run: Run
    verb: catalogue.Verb | None = None
    positional: bool = False
    group: str = "storage"


# Words whose type the schema does not tell, since the server takes more there than the client sends.
_WORDS: Mapping[tuple[str, str], Callable[[str], Any]] = {
    ("createStoragePool", "poolType"): arguments.integer,
    ("createVolume", "size"): arguments.gibibytes,
    ("createVolume", "diskType"): arguments.integer,
    ("getAllTasks", "options"): arguments.comma_list,
    ("spmStart", "recoveryMode"): arguments.integer,
    ("updateVM", "vmList"): arguments.machines,
}

# Words that the client takes beyond the schema's usage line.
_MORE_USAGE: Mapping[str, str] = {"getVmStats": " [field]", "reconcileVolumeChain": " [leaf=<volUUID>]"}

# What is sent for words left out. (A verb's own default serves otherwise, and a bool left out is "False".)
_DEFAULTS: Mapping[tuple[str, str], Any] = {
    ("connectStoragePool", "masterSdUUID"): output.BLANK_ID,
    ("connectStoragePool", "masterVersion"): -1,
    ("getStorageDomainsList", "storagepoolID"): output.BLANK_ID,
    ("getVmsInfo", "storagedomainID"): output.BLANK_ID,
    ("getVmsList", "storagedomainID"): output.BLANK_ID,
}

# How a reply is shown where its type alone does not tell.
_SHOWN: Mapping[str, Present] = {
    "clearTask": lambda reply, _: output.raw(reply),
    "connectStorageServer": lambda reply, _: [""],
    "disconnectStorageServer": lambda reply, _: [""],
    "fenceNode": host.power,
    "getAllTasks": lambda reply, _: output.tasks(output.member(reply, "tasks", dict)),
    "getAllTasksInfo": lambda reply, _: output.tasks(output.member(reply, "allTasksInfo", dict)),
    "getAllTasksStatuses": lambda reply, _: output.raw(reply),
    "getAllVmStats": host.machine_figures,
    "getDeviceList": host.devices,
    "getFileStats": lambda reply, _: output.entries(output.member(reply, "fileStats", dict)),
    "getIsoList": special.iso_list,
    "getStorageDomainStats": special.domain_space,
    "getStoragePoolInfo": special.pool_facts,
    "getTaskStatus": special.task_status,
    "getVGInfo": host.group,
    "getVGList": host.groups,
    "getVdsCapabilities": special.host_facts,
    "getVdsHardwareInfo": special.host_facts,
    "getVdsStats": special.host_facts,
    "getVmsInfo": special.machines,
    "getVmsList": special.machines,
    "getVolumeSize": special.volume_size,
    "merge": lambda reply, _: output.message(reply),
    "prepareImage": special.prepared,
    "repoStats": lambda reply, _: output.entries({key: reply[key] for key in reply if key != "status"}),
    "revertTask": lambda reply, _: output.raw(reply),
    "setVolumeLegality": lambda reply, _: output.message(reply),
    "startMonitoringDomain": lambda reply, _: output.message(reply),
    "stopMonitoringDomain": lambda reply, _: output.message(reply),
    "stopTask": lambda reply, _: output.raw(reply),
    "teardownImage": lambda reply, _: output.message(reply),
    "undoReconcile": lambda reply, _: output.message(reply),
    "validateStorageServerConnection": special.connection_states,
}

# Commands of the host that end with 1 on every failure, like those of the storage; the others end with its code.
_ENDING_WITH_ONE = ("fenceNode", "prepareForShutdown", "setLogLevel", "snapshot")

# What goes to stderr, where no script parses it.
_NOTES: Mapping[str, Callable[[output.Reply, Session, Sequence[str]], list[str]]] = {
    "connectStorageServer": lambda reply, *_: special.failed_connections(reply),
    "disconnectStorageServer": lambda reply, *_: special.failed_connections(reply),
    "reconcileVolumeChain": special.repaired,
    "undoReconcile": lambda reply, *_: special.changes(reply) or ["nothing was left to put back"],
}

# Commands that are more than one call with the words in order.
_SPECIAL: Mapping[str, Run] = {
    "chain": chain.run,
    "discoverST": host.discover,
    "getVmStats": host.machine_stats,
    "getVolumesList": special.volumes_list,
    "list": special.list_vms,
    "snapshot": host.snapshot,
}


def table(found: catalogue.Catalogue) -> dict[str, Command]:
    """All commands by name, sorted: those of the schema with their aliases, and those that only the client has."""
    commands: dict[str, Command] = {}
    for verb in found.verbs.values():
        command = verb.command
        if command is None:
            continue
        verb = _with_more_usage(verb)
        run = _SPECIAL.get(command) or _derived(verb)
        for name in (command, *verb.document["x-client"].get("aliases", ())):
            usage = (*verb.usage, verb.summary)
            commands[name] = Command(name, usage, run, verb, command not in _SPECIAL, _group(verb))
    commands["getParent"] = Command("getParent", special.PARENT_USAGE, special.parent)
    return dict(sorted(commands.items()))


def wire_values(verb: catalogue.Verb, words: Sequence[str], types: Mapping[str, Any]) -> list[Any]:
    """Arguments of a call for the words of a derived command: one word a position of the wire, in order.

    Raises:
        errors.BadArgument: wrong number or wrong type of words.
    """
    required, optional = _tokens(verb)
    arguments.check_count(words, required, required + optional)
    values = [_value(verb, param, word, types) for param, word in zip(verb.wire, words, strict=False)]
    for param in itertools.islice(verb.wire, len(words), required + optional):
        default = _DEFAULTS.get((verb.name, param.name))
        if default is None and arguments.is_boolean(arguments.resolve(param.schema, types)):
            default = "False"
        if default is None:
            break
        values.append(default)
    return values


def _group(verb: catalogue.Verb) -> str:
    return "storage" if verb.name in _ENDING_WITH_ONE else verb.group


def _with_more_usage(verb: catalogue.Verb) -> catalogue.Verb:
    more = _MORE_USAGE.get(verb.name)
    return dataclasses.replace(verb, usage=(verb.usage[0] + more, *verb.usage[1:])) if more else verb


def _tokens(verb: catalogue.Verb) -> tuple[int, int]:
    """How many words the usage line requires, and how many more it allows (those in square brackets)."""
    tokens = verb.usage[0].split() if verb.usage else []
    optional = sum(token.startswith("[") for token in tokens)
    return len(tokens) - optional, optional


def _value(verb: catalogue.Verb, param: catalogue.WireParam, word: str, types: Mapping[str, Any]) -> Any:
    convert = _WORDS.get((verb.name, param.name))
    try:
        return convert(word) if convert else arguments.convert(word, param, types)
    except errors.BadArgument as error:
        raise errors.BadArgument(f"{param.name}: {error}") from None


def _derived(verb: catalogue.Verb) -> Run:
    def run(session: Session, words: Sequence[str]) -> output.Outcome:
        reply = session.call(verb.name, wire_values(verb, words, session.catalogue.types))
        failure = output.failed(reply, _group(verb))
        if failure is not None:
            return failure
        if session.wait and verb.kind == "task":
            from client import waiting  # only those who wait need it

            return waiting.follow(session, _group(verb), output.member(reply, "uuid", str))
        show = _SHOWN.get(verb.name)
        notes = _NOTES.get(verb.name)
        return output.Outcome(
            show(reply, session) if show else _by_type(verb, reply),
            notes=notes(reply, session, words) if notes else (),
        )

    return run


def _by_type(verb: catalogue.Verb, reply: output.Reply) -> list[str]:
    if verb.member is None:
        return [""]
    value = output.member(reply, verb.member, object)
    if isinstance(value, dict):
        return output.facts(value)
    return output.listed(value) if isinstance(value, list) else [output.escape(value)]
