"""A sample of the cold merges and copies by a qemu-img whose disk fails; all are in `tests.campaigns.blkdebug`."""

import pytest

from tests.campaigns import blkdebug
from tests.support import faultytool

pytestmark = pytest.mark.qemu

SAMPLE = [
    ("merge upwards", faultytool.Fault("l2_update", "ENOSPC", once=False)),
    ("merge upwards", faultytool.Fault("read_aio", "EIO", once=True)),
    ("merge downwards", faultytool.Fault("refblock_alloc", "EIO", once=False)),
    ("copy", faultytool.Fault("write_aio", "EIO", once=True)),
    ("move", faultytool.Fault("cluster_alloc", "ENOSPC", once=True)),
]


def test_a_failing_disk_leaves_everything_as_it_was() -> None:
    """Most of all: a merge upwards whose last tables cannot be written, of which qemu-img complains and ends with 0."""
    results = blkdebug.play(SAMPLE)
    assert [problem for result in results for problem in result.problems] == []
    assert [result.fired for result in results] == [True] * len(SAMPLE)


def test_figures_say_what_failed() -> None:
    way, fault = blkdebug.WAYS[0], faultytool.FAULTS[0]
    bad = blkdebug.Result(way, fault, fired=True, survived=True, problems=["bytes are wrong"])
    told = blkdebug.counted([blkdebug.Result(way, fault, code=252), bad])
    assert told.counts == {"cases": 2, "fired": 1, "undone": 1, "never fired": 1}
    assert told.failures == [f"{way}, {fault}: bytes are wrong"]
    row = blkdebug.table([bad]).splitlines()[1]
    assert row.split()[-1] == "+"
