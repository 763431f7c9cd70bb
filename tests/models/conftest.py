"""Fixtures that the tests of the models share."""

import pytest

from models import Emulator
from models.evaluation import two_sample
from tests.random_flows import a_flow


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Folder of the saved emulator of `a_flow()`. Do not write into it."""
    return Emulator(a_flow()).save(tmp_path_factory.mktemp("bundle") / "emulator")


@pytest.fixture(scope="module")
def few_trees():
    """For evaluations of which the two-sample test is not looked at: `test_two_sample` tests it."""
    with pytest.MonkeyPatch.context() as patch:
        for trees in (two_sample.TREES, two_sample.OWN_TREES):
            patch.setitem(trees, "max_iter", 10)
        yield
