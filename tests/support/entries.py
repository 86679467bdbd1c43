"""Every entry of the schema in this checkout, and the mark of a test that looks at each of them."""

from pathlib import Path

import pytest

from rpc import catalogue

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = catalogue.load(ROOT / "schema")
VERBS = list(CATALOGUE.verbs.values())

every_verb = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
