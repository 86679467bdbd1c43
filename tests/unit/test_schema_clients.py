"""Walks every entry of the schema: each must fit its command, and the calls that the engine sends."""

import re
from collections.abc import Mapping
from typing import Any

import fastjsonschema
import pytest

from rpc import catalogue
from tests.support import entries

CATALOGUE, VERBS, every_verb = entries.CATALOGUE, entries.VERBS, entries.every_verb

# Positions of the XML-RPC call as the engine of 3.5 sends them: S text, I int, B boolean, L list, M struct, * anything.
ENGINE_CALLS = {
    "createVolume": "S S S S I I I S S S S",
    "reconcileVolumeChain": "S S S S",
    "deleteVolume": "S S S L S S",
    "deleteImage": "S S S S S",
    "getVolumeInfo": "S S S S",
    "setVolumeDescription": "S S S S S",
    "getImagesList": "S",
    "getVolumesList": "S S S",
    "getStoragePoolInfo": "S",
    "destroyStoragePool": "S I S",
    "connectStorageServer": "I S L",
    "disconnectStorageServer": "I S L",
    "createStorageDomain": "I S S S I S",
    "formatStorageDomain": "S",
    "getStorageDomainInfo": "S",
    "getStorageDomainStats": "S",
    "getStorageDomainsList": "S I S S",
    "createStoragePool": "I S S S L I S I I I I",
    "connectStoragePool": "S I S S I M",
    "disconnectStoragePool": "S I S",
    "spmStart": "S I S I S I S",
    "spmStop": "S",
    "getSpmStatus": "S",
    "getTaskStatus": "S",
    "stopTask": "S",
    "clearTask": "S",
    "revertTask": "S",
    "getAllTasksStatuses": "",
    "getAllTasksInfo": "",
    "list": "S L",
    "getVdsCapabilities": "",
    "getVdsStats": "",
    "getAllVmStats": "",
    "snapshot": "S L",
    "merge": "S M S S S S",
    "createVG": "S L B",
    "getVGList": "",
    "getVGInfo": "S",
    "getDeviceList": "I",
    "getDevicesVisibility": "L",
    "discoverSendTargets": "M",
    "extendStorageDomain": "S S L B",
    "attachStorageDomain": "S S",
    "activateStorageDomain": "S S",
    "deactivateStorageDomain": "S S S I",
    "detachStorageDomain": "S S S I",
    "forcedDetachStorageDomain": "S S",
    "setStorageDomainDescription": "S S",
    "setStoragePoolDescription": "S S",
    "refreshStoragePool": "S S I",
    "upgradeStoragePool": "S S",
    "reconstructMaster": "S S S M I S I I I I I",
    "getImageDomainsList": "S S",
    "uploadImage": "M S S S S",
    "copyImage": "S S S S S S S S S I I I S S",
    "moveImage": "S S S S S I S S",
    "cloneImageStructure": "S S S S",
    "syncImageData": "S S S S S",
    "mergeSnapshots": "S S S S S S S",
    "extendVolumeSize": "S S S S S",
    "refreshVolume": "S S S S",
    "downloadImage": "M S S S S",
    "getIsoList": "S",
    "getFloppyList": "S",
    "getFileStats": "S S B",
    "updateVM": "S L S",
    "removeVM": "S S S",
    "getVmsInfo": "S S L",
    "getVmsList": "S S",
}

# Commands whose words are not the positions of the call.
WORDS_OF_THEIR_OWN = ("discoverSendTargets", "snapshot")

# Verb -> its command, where the names differ.
RENAMED = {
    "getVolumeChain": "chain",
    "discoverSendTargets": "discoverST",
    "moveMultipleImages": "moveMultiImage",
}


# ---------------------------------------------------------------- clients


@every_verb
def test_client_usage(verb: catalogue.Verb) -> None:
    if verb.name in ("ping", "refreshVolume", "volumeSetSize") or verb.api_class == "ConnectionRefs":
        assert verb.command is None
        return
    assert verb.command == RENAMED.get(verb.name, verb.name)
    if verb.name in WORDS_OF_THEIR_OWN:
        return
    assert set(verb.document["x-client"]) <= {"command", "usage", "aliases"}
    words = [word for word in verb.usage[0].split() if not word.startswith("[--")] if verb.usage else []
    assert all(re.fullmatch(r"<[^<>\[\]]+>|\[[^<>\[\]]+\]", word) for word in words)
    optional = [word.startswith("[") for word in words]
    assert optional == sorted(optional)
    assert sum(position.required for position in verb.wire) <= len(words) <= len(verb.wire)
    for word, position in zip(words, verb.wire, strict=False):
        if not position.required and not word.startswith("["):
            pytest.fail(f"{word} may be left out")
        kind = catalogue.type_name(position.schema)
        takes_id = kind in (
            "UUID",
            "UUIDOrEmpty",
            "UUIDList",
            "DomainStatusMap",
            "DomainStatuses",
            "ImageFlags",
            "IdList",
            "VolumeGroupID",
        )
        if position.name not in ("taskID", "vmList", "vmID"):
            assert ("UUID" in word) == takes_id, word


def test_commands_are_unique() -> None:
    commands = [
        name for verb in VERBS if verb.command for name in (verb.command, *verb.document["x-client"].get("aliases", ()))
    ]
    assert len(commands) == len(set(commands))


@pytest.mark.parametrize("name", sorted(ENGINE_CALLS))
def test_the_engines_call_fits(name: str) -> None:
    verb = CATALOGUE.verbs[name]
    sent = ENGINE_CALLS[name].split()
    assert sum(position.required for position in verb.wire) <= len(sent) <= len(verb.wire)
    for kind, position in zip(sent, verb.wire, strict=False):
        assert takes(position.schema, kind), f"{position.name} does not take {kind}"


def takes(schema: Mapping[str, Any], kind: str) -> bool:
    """Whether some value of a kind, as the engine sends it, is accepted."""
    samples: dict[str, list[Any]] = {
        "S": ["00000000-0000-0000-0000-000000000000", "text", "true", "3", ""],
        "I": [1],
        "B": [True],
        "L": [["47bd7538-c48b-4b94-ba94-def922151d48"], [{"id": "", "connection": "/x", "port": ""}], []],
        "M": [
            {"method": "http", "url": "http://a/"},
            {"47bd7538-c48b-4b94-ba94-def922151d48": "active"},
            {"connection": "10.0.0.1", "port": "3260", "user": "", "password": ""},
            dict.fromkeys(("poolID", "domainID", "imageID", "volumeID"), "47bd7538-c48b-4b94-ba94-def922151d48"),
        ],
    }
    check = fastjsonschema.compile({**schema, "components": {"schemas": CATALOGUE.types}})
    for sample in samples[kind]:
        try:
            check(sample)
        except fastjsonschema.JsonSchemaValueException:
            continue
        return True
    return False
