"""The page from a table to a posterior runs as it is printed."""

import pytest

from tests import test_docs
from tests.test_docs import desk

__all__ = ["desk"]


@pytest.mark.slow
def test_the_page_of_inference_runs(desk, tmp_path, monkeypatch):
    test_docs.test_what_a_page_shows_runs(test_docs.INFERENCE, desk, tmp_path, monkeypatch)
