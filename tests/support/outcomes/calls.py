"""Arguments of every verb, by the names of its parameters, of a call that would succeed in the stage's world."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.outcomes import stage as outcome_stage

BLANK = "00000000-0000-0000-0000-000000000000"


def defaults(stage: "outcome_stage.Stage", verb: str) -> dict[str, Any]:
    """Values by parameter; what is missing has a sample of its type."""
    from tests.support.outcomes import stage as module

    common = {
        "storagepoolID": stage.pool,
        "storagedomainID": stage.here,
        "SdUUID": stage.here,
        "srcSdUUID": stage.here,
        "dstSdUUID": stage.there,
        "imageID": stage.image,
        "volumeID": stage.leaf,
        "leafVolID": stage.leaf,
        "vmUUID": module.new_id(),
        "vmID": module.new_id(),
        "dstImgUUID": module.new_id(),
        "dstVolUUID": module.new_id(),
        "desc": "a description",
        "description": "a description",
        "name": "a name",
        "volType": 8,
        "volFormat": module.RAW,
        "preallocate": module.SPARSE,
        "postZero": "false",
        "force": "false",
        "size": str(module.SIZE),
        "newSize": str(2 * module.SIZE),
        "diskType": 2,
        "srcImgUUID": BLANK,
        "srcVolUUID": BLANK,
        "volumeList": [stage.leaf],
        "ancestor": stage.middle,
        "successor": stage.leaf,
        "operation": 1,
        "imgDict": {stage.image: "false"},
        "syncType": "ALL",
        "legality": "LEGAL",
        "methodArgs": {"method": "http", "url": "http://127.0.0.1:9/nothing", "headers": {}},
        "masterSdUUID": stage.master,
        "masterVersion": 1,
        "hostID": 1,
        "prevID": -1,
        "prevLver": -1,
        "enableScsiFencing": "false",
        "maxHostID": 250,
        "domainType": 4,
        "domainClass": 1,
        "version": 3,
        "domVersion": None,
        "targetDomVersion": 3,
        "domainDict": None,
        "devlist": [],
        "taskID": module.new_id(),
        "pattern": "*",
        "caseSensitive": False,
        "vmList": [],
        "options": {},
        "filenameExtension": "iso",
        "storageType": None,
        "level": 40,
    }
    own = _OWN.get(verb)
    return common if own is None else {**common, **own(stage)}


_OWN: dict[str, Callable[["outcome_stage.Stage"], dict[str, Any]]] = {
    "createVolume": lambda stage: {"imageID": _new(), "volumeID": _new()},
    "deactivateStorageDomain": lambda stage: {"masterSdUUID": BLANK},
    "detachStorageDomain": lambda stage: {"masterSdUUID": BLANK},
    "getStorageDomainsList": lambda stage: {"domainClass": None, "remotePath": None},
    "updateVM": lambda stage: {"vmList": [{}], "storagedomainID": stage.master},
    "removeVM": lambda stage: {"storagedomainID": stage.master},
    "getVmsList": lambda stage: {"storagedomainID": stage.master},
    "getVmsInfo": lambda stage: {"storagedomainID": stage.backup},
    "setVolumeDescription": lambda stage: {"description": "another"},
    "setVolumeLegality": lambda stage: {"legality": "LEGAL"},
    "reconstructMaster": lambda stage: {"domainDict": {stage.master: "active"}, "hostId": 1},
    "getDeviceList": lambda stage: {"storageType": ""},
    "getVGList": lambda stage: {"storageType": None},
    "createVG": lambda stage: {"name": _new(), "devlist": ["3600a0b80"]},
    "fenceNode": lambda stage: {"options": "", "policy": None},
    "attachStorageDomain": lambda stage: {"storagedomainID": stage.stray},
}


def _new() -> str:
    from tests.support.outcomes import stage as module

    return module.new_id()
