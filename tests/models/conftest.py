"""Fixtures that the tests of the models share."""

import pytest

from models import Emulator
from tests.random_flows import a_flow


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Folder of the saved emulator of `a_flow()`. Do not write into it."""
    return Emulator(a_flow()).save(tmp_path_factory.mktemp("bundle") / "emulator")
