"""A flow whose base is a mixture, in training: the truth, the last bit, and repeated events."""

import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from models import boxes
from models.config import FlowConfig, TrainConfig
from models.evaluation.nll import nll
from models.training.train import train
from tests.random_flows import BASE, every_mixture

QUICK = TrainConfig(epochs=3, batch_size=256, learning_rate=1e-2, decay_rows=0.0, device="cpu")


class Killed(Exception):
    """Stands for whatever ends a training from outside."""


@pytest.mark.slow
def test_it_reaches_the_score_of_the_truth(prepared, known):
    config = replace(QUICK, epochs=40, learning_rate=2e-2)

    flow, _ = train(prepared, FlowConfig(**{**BASE, "components": 8, "blocks": 0}), config)

    test = read_split(prepared, "test")
    truth = known(test.events.astype(float), test.conditions.astype(float))
    found = nll(flow, prepared, "test").mean
    assert truth - 0.02 < found < truth + 0.03


@every_mixture
def test_an_interrupted_training_ends_as_the_unbroken_one(prepared, tmp_path, layers):
    config = FlowConfig(**layers, hidden=8)
    whole, _ = train(prepared, config, QUICK)

    def kill(epoch):
        if epoch.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(prepared, config, QUICK, checkpoint=tmp_path, on_epoch=kill)
    resumed, _ = train(prepared, config, QUICK, checkpoint=tmp_path)

    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


@pytest.mark.slow
def test_repeated_events_make_no_component_collapse(table, tmp_path, known):
    """With 30 % repeats of one event the density there is finite, and elsewhere what it was."""
    least = 3e-4
    masses = {name: table[name].to_numpy().copy() for name in ("Mass_0", "Mass_1")}
    repeated = np.random.default_rng(0).random(len(table)) < 0.3
    for name, value in (("Mass_0", 11.0), ("Mass_1", 9.0)):
        masses[name][repeated] = value
        table = table.set_column(table.column_names.index(name), name, [masses[name]])
    pq.write_table(table, tmp_path / "table.parquet")
    prepare([tmp_path / "table.parquet"], tmp_path / "prepared")
    base = {**BASE, "components": 16, "smallest_width": least, "blocks": 0}

    flow, _ = train(
        tmp_path / "prepared", FlowConfig(**base), replace(QUICK, epochs=20, learning_rate=2e-2)
    )

    rows = [read_split(tmp_path / "prepared", split) for split in ("train", "val")]
    with torch.no_grad():
        log_p, its_own = (
            flow.log_prob(*map(torch.from_numpy, (each.events, each.conditions))) for each in rows
        )
    here_N, there_N = (each.events[:, 0] == 11.0 for each in rows)
    rest = known(*(each[~there_N].astype(float) for each in rows[1][:2]))
    # The tallest box, in nats for each Msun of both masses.
    highest = 2 * (boxes.TILT - math.log(least)) - math.log(flow.events.spread_K.prod() * 11 * 9)
    assert here_N.mean() == pytest.approx(0.3, abs=0.05)
    assert log_p.isfinite().all()
    assert 3 < log_p[here_N].mean() < log_p[here_N].max() <= highest
    assert -its_own[~there_N].mean() == pytest.approx(rest - math.log(0.7), abs=0.06)
