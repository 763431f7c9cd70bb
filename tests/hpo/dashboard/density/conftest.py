"""A trained run, and what the dashboard draws of it."""

import shutil

import pytest

from data_prep.dataset import Dataset
from hpo.dashboard.density import contours
from hpo.dashboard.density.draws import Densities
from hpo.records.scores import with_history
from models.config import TrainConfig
from models.training.train import train
from tests.hpo.dashboard.density.made import KEY, SMALL, catalog_of, put, record_of


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A folder of runs with one in it. Do not write into it."""
    folder = tmp_path_factory.mktemp("runs")
    config = TrainConfig(epochs=3, batch_size=256, snapshots=2)
    _, fit = train(prepared, SMALL, config, checkpoint=folder / KEY)
    put(with_history(record_of(Dataset.read(prepared), prepared), fit.history), folder / KEY)
    return folder


@pytest.fixture(scope="module")
def shown(trained, prepared):
    """Of that folder, with its data named: shared, since what it worked out is kept."""
    return Densities(catalog_of(trained), [prepared])


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of that folder, to be changed."""
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(contours, "DRAWS", 40_000)
