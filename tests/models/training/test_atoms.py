"""Training on columns with atoms: it reaches the probabilities and the density, and resumes."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.dataset import Dataset
from data_prep.preparation.prepare import prepare
from data_prep.stream import Batch, read_split
from models import Emulator
from models.bundle import batched
from models.config import FlowConfig, TrainConfig
from models.evaluation import report
from models.flow.atoms import build
from models.flow.density import normalise
from models.training.train import train

FLOW = FlowConfig(base="normal", blocks=2, hidden=16)
CONFIG = TrainConfig(epochs=20, batch_size=256, decay_rows=0.0, device="cpu")
ALPHAS = np.array([0.5, 1.0, 5.0])
AT_ZERO = np.array([0.2, 0.5, 0.8])
"""Probability of chi_eff = 0 in the rows of each alpha."""
LIGHTER = 0.25
"""Weight of rows with a spin, where rows are weighted; that of the others is 1."""


def table(rows, seed):
    """Of a mass, which tells of the spin, and a spin that is 0 or uniform in [-1, 1]."""
    rng = np.random.default_rng(seed)
    kind_N = rng.integers(0, 3, rows)
    spin_N = np.where(rng.random(rows) < AT_ZERO[kind_N], 0.0, rng.uniform(-1, 1, rows))
    mass_N = np.exp(_centre(spin_N, ALPHAS[kind_N]) + 0.2 * rng.normal(size=rows))
    weight_N = np.where(spin_N == 0, 1.0, LIGHTER)
    return {"Mass": mass_N, "chi_eff": spin_N, "alpha": ALPHAS[kind_N], "w": weight_N}


def at_zero(alpha_N, weighted):
    """Probability of a spin of 0."""
    share_N = AT_ZERO[np.searchsorted(ALPHAS, alpha_N - 1e-3)]
    return share_N / (share_N + (1 - share_N) * LIGHTER) if weighted else share_N


def truth(events_NF, alpha_N, weighted):
    """Log density of the mixed measure: per Msun at the atom, per Msun and spin elsewhere."""
    mass_N, spin_N = np.asarray(events_NF, float).T
    z_N = (np.log(mass_N) - _centre(spin_N, alpha_N)) / 0.2
    ln_mass_N = -0.5 * z_N**2 - np.log(0.2 * np.sqrt(2 * np.pi)) - np.log(mass_N)
    share_N = at_zero(alpha_N, weighted)
    return ln_mass_N + np.log(np.where(spin_N == 0, share_N, (1 - share_N) / 2))


def _centre(spin_N, alpha_N):
    return 2.5 + 0.3 * np.log(alpha_N) + np.where(spin_N == 0, 0.5, spin_N)


@pytest.fixture(scope="module", params=[False, True], ids=["rows", "weighted-rows"])
def prepared(request, tmp_path_factory):
    folder, weighted = tmp_path_factory.mktemp("atoms"), request.param
    pq.write_table(pa.table(table(6_000, seed=2)), folder / "mergers.parquet")
    prepare(
        [folder / "mergers.parquet"],
        folder / "prepared",
        event_columns=["Mass", "chi_eff"],
        condition_columns=["alpha"],
        atoms={"chi_eff": [0.0]},
        weights="w" if weighted else None,
    )
    return folder / "prepared", weighted


@pytest.fixture(scope="module")
def trained(prepared):
    return train(prepared[0], FLOW, CONFIG)[0]


def test_it_reaches_the_density_of_the_mixed_measure(prepared, trained):
    fresh = table(20_000, seed=9)
    events = np.stack([fresh["Mass"], fresh["chi_eff"]], 1)

    log_prob = batched.log_prob(trained, events, fresh["alpha"][:, None])

    excess = truth(events, fresh["alpha"], prepared[1]) - log_prob
    weights = fresh["w"] if prepared[1] else np.ones(len(excess))
    assert 0 < np.average(excess, weights=weights) < 0.04


@pytest.mark.parametrize("alpha", ALPHAS)
def test_it_draws_exactly_the_atom_with_its_probability(prepared, trained, alpha):
    drawn = Emulator(trained).sample(20_000, seed=1, alpha=alpha)

    at_atom = drawn[:, 1] == 0
    expected = at_zero(np.array([alpha]), prepared[1])[0]
    rows = 1_200 / (1 + 1 * prepared[1])  # of the training, of each alpha
    assert at_atom.mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / rows))
    assert (np.abs(drawn[:, 1]) <= 1).all()
    assert np.log(drawn[at_atom, 0]).mean() == pytest.approx(3 + 0.3 * np.log(alpha), abs=0.05)


def test_each_pattern_is_standardised_by_its_own_rows(prepared, trained):
    rows = read_split(prepared[0], "train")

    for k, some in (("0", rows.events[:, 1] == 0), ("1", rows.events[:, 1] != 0)):
        log_mass = np.log(rows.events[some, 0])
        mean, spread = (
            getattr(trained.parts[k].events, name)[0] for name in ("mean_K", "spread_K")
        )
        assert mean == pytest.approx(log_mass.mean(), abs=1e-4)
        assert spread == pytest.approx(log_mass.std(), abs=1e-4)


@pytest.mark.slow
def test_nothing_tells_its_draws_from_the_data(prepared, trained):
    folder, _ = prepared
    found = report.evaluate(trained, folder)

    assert found["two_sample"]["auc"] < 0.5 + 4 * found["two_sample"]["error"]
    for each in found["calibration"]["pit"].values():
        assert each["ks"] < 3 * each["ks_floor"]
    assert found["not_finite"] == 0


class Stop(Exception):
    """Ends a training from outside."""


@pytest.mark.parametrize("layers", [False, True], ids=["plain", "normalised"])
def test_a_resumed_training_goes_on_as_the_unbroken_one(prepared, tmp_path, layers):
    shape, config = replace(FLOW, normalise=layers), replace(CONFIG, epochs=3)
    whole, _ = train(prepared[0], shape, config)

    def stop(epoch):
        if epoch.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train(prepared[0], shape, config, checkpoint=tmp_path, on_epoch=stop)
    resumed, _ = train(prepared[0], shape, config, checkpoint=tmp_path)

    for (name, one), other in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_layers_with_few_rows_in_the_first_batch_keep_their_scale(prepared):
    rows, dataset = read_split(prepared[0], "train"), Dataset.read(prepared[0])
    flow = build(replace(FLOW, normalise=True), dataset, [rows])
    none = np.flatnonzero(rows.events[:, 1] == 0)[:100]
    first = rows.take(np.concatenate([none, np.flatnonzero(rows.events[:, 1])[:2]]))

    normalise(flow, *map(torch.from_numpy, first.arrays[:2]))

    of_spins = {k: v for k, v in flow.parts["1"].state_dict().items() if k.endswith("log_scale")}
    assert len(of_spins) == 2
    assert all((scale == 0).all() for scale in of_spins.values())
    assert all(v for k, v in flow.state_dict().items() if k.endswith("initialized"))
    flow(*map(torch.from_numpy, rows.arrays[:2]))
    assert all((scale == 0).all() for scale in of_spins.values())


def test_all_columns_can_lie_at_atoms(prepared):
    """A pattern that leaves no column has a probability and no flow."""
    dataset = Dataset.read(prepared[0])
    spin = dataset.event_columns[1]
    ratio = replace(spin, name="q", atoms=(1.0,))
    rng = np.random.default_rng(0)
    events = np.where(rng.random((500, 2)) < 0.5, [0.0, 1.0], rng.uniform(-1, 1, (500, 2)))
    batch = Batch(events.astype("f4"), np.ones((500, 1), "f4"))

    flow = build(FLOW, replace(dataset, event_columns=(spin, ratio)), [batch])

    assert set(flow.patterns) == {(0.0, 1.0), (0.0, None), (None, 1.0), (None, None)}
    assert set(flow.parts) == {"1", "2", "3"}
    flow.log_prob(*map(torch.from_numpy, batch.arrays[:2])).sum().backward()
    assert all(p.grad.isfinite().all() for p in flow.parameters())
