"""From the bridge through the API classes to storage: each verb is one call, its arguments typed and unambiguous."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from rpc import bridge, catalogue
from storage import ids
from tests.support import samples
from vdsmlite import api, status

CATALOGUE = catalogue.load(Path(__file__).resolve().parents[2] / "schema")
VERBS = list(CATALOGUE.verbs.values())
MODULES = (
    "block",
    "chain",
    "connection",
    "copy",
    "description",
    "domain",
    "fence",
    "host",
    "image",
    "iso",
    "machines",
    "master",
    "membership",
    "merge",
    "monitoring",
    "pool",
    "references",
    "task",
    "transfer",
    "upgrade",
    "vm",
    "volume",
)
CONTEXT = bridge.Context(client="127.0.0.1:1")
SERVICES = object()
ID = samples.ID


class Storage:
    """The verb functions of the storage floor, replaced by doubles that insist on the signatures of the real ones."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        for name in MODULES:
            real = importlib.import_module(f"storage.hsm.{name}")
            for function, found in inspect.getmembers(real, inspect.isfunction):
                if found.__module__ == real.__name__ and not function.startswith("_"):
                    patch.setattr(real, function, self._function(f"{name}.{function}", found))

    def _function(self, name: str, real: Any) -> Any:
        def run(*values: Any, **named: Any) -> dict[str, Any]:
            bound = inspect.signature(real).bind(*values, **named)
            self.calls.append((name, tuple(bound.arguments.values())))
            return {}

        return run


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    return Storage(monkeypatch)


def call(name: str, *values: Any) -> bridge.Reply:
    reply = bridge.Bridge(CATALOGUE, api.API(SERVICES), status.translate).call_positional(name, values, CONTEXT)  # type: ignore[arg-type]
    assert reply.code == 0, reply.message
    return reply


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_each_verb_is_one_call(verb: catalogue.Verb, storage: Storage) -> None:
    call(verb.name, *samples.positional(verb))
    [(_, arguments)] = storage.calls
    assert arguments[0] is SERVICES
    for argument in arguments[1:]:
        if isinstance(argument, str) and ids.is_id(argument):
            assert type(argument) is not str, "ids go down typed"


def test_no_two_verbs_share_a_function(storage: Storage) -> None:
    for verb in VERBS:
        call(verb.name, *samples.positional(verb))
    names = [name for name, _ in storage.calls]
    assert len(names) == len(set(names))


def only(storage: Storage) -> tuple[Any, ...]:
    [(_, arguments)] = storage.calls
    return arguments[1:]


@pytest.mark.parametrize(
    ("size", "expected"), [(20971520, 10 * 2**30), ("20971520", 20971520), (0, 0), ("0", 0), ("1025", 1025)]
)
def test_size_of_a_volume(storage: Storage, size: int | str, expected: int) -> None:
    call("createVolume", ID, ID, ID, size, 4, 2, 2, ID, "d")
    assert only(storage)[4] == expected


def test_a_volume_from_scratch_has_blank_sources(storage: Storage) -> None:
    call("createVolume", ID, ID, ID, "1", "5", "1", 8, ID, "d")
    assert only(storage)[5:] == (5, 1, "8", "d", ids.BLANK, ids.BLANK)


def test_statuses_of_the_engine_are_capitalised(storage: Storage) -> None:
    call("connectStoragePool", ID, 1, ID, ID, 1, {ID: "active", ID[:-1] + "9": "ATTACHED"})
    domains = only(storage)[-1]
    assert domains == {ID: "Active", ID[:-1] + "9": "Attached"}
    assert all(type(domain) is ids.DomainId for domain in domains)


def test_a_pool_without_a_map_is_told_apart_from_an_empty_map(storage: Storage) -> None:
    call("connectStoragePool", ID, 1, ID, ID, 1)
    call("connectStoragePool", ID, 1, ID, ID, 1, {})
    assert [arguments[-1] for _, arguments in storage.calls] == [None, {}]


@pytest.mark.parametrize("words", [(), (ids.BLANK,), (ids.BLANK, 0, "", ""), (None, None, None, None, None)])
def test_no_filter(storage: Storage, words: tuple[Any, ...]) -> None:
    call("getStorageDomainsList", *words)
    assert only(storage) == (None, None, None, None)


def test_filters(storage: Storage) -> None:
    call("getStorageDomainsList", ID, 1, "4", "/data")
    assert only(storage) == (ID, 1, 4, "/data")


@pytest.mark.parametrize(
    ("name", "words"),
    [("getVolumesList", (ID, ID)), ("prepareImage", (ID, ID, ID)), ("getVolumeChain", (ID, ID, ID))],
)
def test_a_blank_id_means_none(storage: Storage, name: str, words: tuple[str, ...]) -> None:
    call(name, *words)
    call(name, *words, ids.BLANK)
    assert [arguments[-1] for _, arguments in storage.calls] == [None, None]


@pytest.mark.parametrize(("sent", "expected"), [(True, True), ("true", True), ("False", False), ("TRUE", True)])
def test_truth_as_text(storage: Storage, sent: bool | str, expected: bool) -> None:
    call("deleteImage", ID, ID, ID, "false", sent)
    assert only(storage)[-2:] == (False, expected)


def test_the_dry_run_and_the_repair_get_the_same_leaf(storage: Storage) -> None:
    call("reconcileVolumeChain", ID, ID, ID, ID, {"leaf": ID})
    call("getVolumeChain", ID, ID, ID, ID)
    call("proveVolumeChain", ID, ID, ID, ID)
    assert {arguments[1:5] for _, arguments in storage.calls} == {(ID, ID, ID, ID)}
    assert storage.calls[0][1][5] == {"leaf": ID}


@pytest.mark.parametrize("said, meant", [((), False), (("true",), True)])
def test_undoing_takes_the_word_of_the_caller(storage: Storage, said: tuple[str, ...], meant: bool) -> None:
    call("undoReconcile", ID, ID, ID, *said)
    assert only(storage) == (ID, ID, ID, meant)
