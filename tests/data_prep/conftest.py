"""What tests of this folder share."""

from __future__ import annotations

import pytest

from data_prep.preparation.prepare import prepare
from tests.data_prep.forms import CSV


@pytest.fixture(scope="session")
def fingerprint(tmp_path_factory):
    """Of the table, as plain CSV."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "a.csv").write_bytes(CSV)
    return prepare([folder / "a.csv"], folder / "out").fingerprint
