"""Every verb with its success and each of its errors, from the table that the schema generates."""

from collections.abc import Iterator

import pytest

from tests.support import faulty
from tests.support.outcomes import judge, reasons, stage as outcome_stage, table

pytestmark = pytest.mark.qemu

ROWS = [row for row in table.rows() if not reasons.of(row)]


class Theatre:
    """Gives the stage to row after row, and a new one after a row that failed and left another world."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._stage: outcome_stage.Stage | None = None

    def play(self, row: table.Row) -> None:
        if self._stage is None:
            self._stage = outcome_stage.Stage(self._factory.mktemp("stage"))
        try:
            judge.play(self._stage, row)
        except BaseException:
            if not self._stage.is_sound():
                self.close()
            raise

    def close(self) -> None:
        if self._stage is not None:
            self._stage.close()
        self._stage = None


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    made = Theatre(tmp_path_factory)
    yield made
    made.close()


def test_every_outcome_is_produced_or_explained() -> None:
    assert table.faults(table.rows()) == []


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_outcome(theatre: Theatre, row: table.Row) -> None:
    if table.producer(row) in table.needs_root and not faulty.possible():
        pytest.skip("needs root and FUSE")
    theatre.play(row)
