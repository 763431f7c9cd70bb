"""Training on scattered conditions: it resumes exactly, and the flow knows where rows were."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_prep import cells as naming
from data_prep.dataset import Dataset
from data_prep.preparation.prepare import prepare
from models import ArrayFlow, Emulator, PopulationModel, Table
from models.bundle.domain import ExtrapolationWarning
from models.bundle.files import EmulatorError
from models.config import FlowConfig, TrainConfig
from models.training.train import train
from tests.conftest import SPREAD, centre

FLOW = FlowConfig(blocks=1, hidden=8, bins=4)
HOLE = {"Z": 1e-3, "alpha": 1.0}
"""Far from all rows: there are none from Z = 0.0004 to 0.0025."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    z = 10 ** np.where(
        rng.random(6000) < 0.5, rng.uniform(-4, -3.4, 6000), rng.uniform(-2.6, -2, 6000)
    )
    alpha = rng.choice([0.5, 1.0, 5.0], 6000)
    masses = np.exp(centre(z, alpha) + rng.normal(size=(6000, 2)) * SPREAD)
    path = tmp_path_factory.mktemp("scattered")
    table = {"Mass_0": masses[:, 0], "Mass_1": masses[:, 1], "Z": z, "alpha": alpha}
    pq.write_table(pa.table(table), path / "a.parquet")
    assert prepare([path / "a.parquet"], path / "out").scattered
    return path / "out"


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_a_resumed_training_continues_as_the_unbroken_one(folder, tmp_path):
    config = TrainConfig(epochs=3, batch_size=512, seed=5)
    held = [naming.name_of(Dataset.read(folder), Dataset.read(folder).cells[0])]
    whole, _ = train(folder, FLOW, config, hold_out=held)

    class Stop(Exception):
        pass

    def stop(epoch):
        if epoch.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train(folder, FLOW, config, hold_out=held, checkpoint=tmp_path, on_epoch=stop)
    resumed, fit = train(folder, FLOW, config, hold_out=held, checkpoint=tmp_path)

    assert same(whole, resumed)
    assert fit.best.held_out_nll is not None


@pytest.fixture(scope="module")
def bundle(folder, tmp_path_factory):
    flow, _ = train(folder, FLOW, TrainConfig(epochs=2, batch_size=512))
    return Emulator(flow).save(tmp_path_factory.mktemp("emulator") / "bundle")


def test_the_emulator_tells_of_holes_in_its_range(bundle):
    emulator, arrays = Emulator.load(bundle), ArrayFlow.load(bundle)
    event = [[10.0, 9.0]]

    for one in (emulator, arrays):
        with pytest.warns(ExtrapolationWarning, match=r"Z = 0.001, alpha = 1 is far from all rows"):
            one.log_prob(event, **HOLE)
        with pytest.raises(EmulatorError, match="far from all rows"):
            one.log_prob(event, on_extrapolation="raise", **HOLE)
        one.log_prob(event, on_extrapolation="raise", Z=2e-4, alpha=2.0)
    with pytest.warns(ExtrapolationWarning, match="far from all rows"):
        emulator.sample(3, **HOLE)


def test_a_population_has_no_density_in_a_hole_unless_it_may_extrapolate(bundle, tmp_path):
    arrays, masses = ArrayFlow.load(bundle), {"mass_1": [10.0], "mass_2": [9.0]}
    table = Table.of(arrays, points=8, condition_points=3, largest_error=9.0)
    Table.load(table.save(tmp_path / "table.npz"))

    for density in (arrays, Emulator.load(bundle), Table.load(tmp_path / "table.npz")):
        model = PopulationModel(density)
        masses = {name: np.array(value) for name, value in masses.items()}
        assert model(masses, **HOLE) == 0
        assert model(masses, Z=2e-4, alpha=1.0) > 0
        assert PopulationModel(density, extrapolate=True)(masses, **HOLE) > 0


def test_a_held_out_region_is_no_part_of_what_a_flow_knows(folder):
    dataset = Dataset.read(folder)
    held = dataset.cells[1]

    flow, _ = train(
        folder,
        FLOW,
        TrainConfig(epochs=1, batch_size=512),
        hold_out=[naming.name_of(dataset, held)],
    )

    assert flow.regions == tuple(cell.box for cell in dataset.cells if cell != held)
    assert flow.describe()["regions"] == [list(map(list, box)) for box in flow.regions]
