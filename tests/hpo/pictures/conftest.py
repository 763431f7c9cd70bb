"""Pictures without the time it takes to write them."""

import pytest

from hpo.pictures import style


@pytest.fixture
def seen(monkeypatch):
    """The figures that would have been written, to be looked into."""
    figures = []
    monkeypatch.setattr(style, "write", lambda figure, out: figures.append(figure))
    return figures


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr("hpo.pictures.contours.DRAWS", 10_000)
    monkeypatch.setattr("hpo.pictures.maps.divergence.DRAWS", 200)
    monkeypatch.setattr("hpo.pictures.likelihood.DRAWS", 2_000)
    monkeypatch.setattr("hpo.pictures.likelihood.FRAMES", 3)
    monkeypatch.setattr("hpo.pictures.likelihood.PIXELS", 40)
