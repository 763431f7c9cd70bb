"""Several flows as one density, in memory, as a bundle and as graphs."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.columns import Column
from models import Emulator
from models.bundle.emulator import EmulatorError
from models.bundle.ensemble import Ensemble, EnsembleError, from_description
from models.flow.density import ConditionalFlow
from tests.models.bundle.test_onnx import run
from tests.random_flows import flow

DATA = Path(__file__).parents[2] / "data"

HERE = {"Z": 1.0, "alpha": 1.0}


@pytest.fixture(scope="module")
def members() -> list[ConditionalFlow]:
    """Three flows of other shapes and weights, in double precision."""
    shapes = [{"bins": 8, "blocks": 2}, {"kind": "affine", "blocks": 3}, {"coordinates": "log"}]
    made = []
    for seed, shape in enumerate(shapes):
        torch.manual_seed(seed)
        made.append(flow(shake=0.3, **shape).double().eval())
    return made


@pytest.fixture(scope="module")
def singles(members) -> list[ConditionalFlow]:
    """The members in single precision."""
    return [deepcopy(one).float() for one in members]


@pytest.fixture(scope="module")
def saved(singles, tmp_path_factory) -> Path:
    """Folder of the bundle. Do not write into it."""
    return Emulator(Ensemble(singles)).save(tmp_path_factory.mktemp("bundle") / "ensemble")


@pytest.fixture(scope="module")
def ensemble(members) -> Ensemble:
    return Ensemble(members).eval()


def events_and_conditions(rows: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return (torch.from_numpy(rng.uniform(0.5, 40, (rows, 2))) for _ in range(2))


def test_its_density_is_the_mean_of_its_members(ensemble, members):
    x_NF, c_NC = events_and_conditions(200)

    found = ensemble.log_prob(x_NF, c_NC).exp()

    mean = sum(one.log_prob(x_NF, c_NC).exp() for one in members) / len(members)
    torch.testing.assert_close(found, mean)


def test_where_nothing_can_be_it_says_so_without_spoiling_the_gradients(ensemble):
    x_NF, c_NC = events_and_conditions(4)
    x_NF = x_NF.clone()
    x_NF[1, 0] = -3.0
    x_NF.requires_grad_()

    log_prob = ensemble.log_prob(x_NF, c_NC)
    log_prob[log_prob.isfinite()].sum().backward()

    assert log_prob[1] == -torch.inf
    assert log_prob[[0, 2, 3]].isfinite().all()
    assert x_NF.grad.isfinite().all()


def test_an_event_is_that_of_the_member_which_the_noise_chooses(ensemble, members):
    _, c_NC = events_and_conditions(3000)
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((3000, 3)))

    drawn = ensemble.from_noise(noise, c_NC)

    each = torch.stack([one.from_noise(noise[:, :2], c_NC) for one in members])
    same = torch.isclose(drawn, each).all(-1)
    assert same.any(0).all()
    np.testing.assert_allclose(same.double().mean(1), 1 / 3, atol=0.03)


def test_runs_of_equal_conditions_draw_the_same_events(ensemble):
    counts = [5, 1, 0, 40]
    c_UC = next(iter(events_and_conditions(4)))
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((46, 3)))

    runs = ensemble.from_noise(noise, c_UC, counts)

    rows = ensemble.from_noise(noise, c_UC.repeat_interleave(torch.tensor(counts), 0))
    torch.testing.assert_close(runs, rows)


def test_its_description_and_weights_make_it_again(ensemble):
    x_NF, c_NC = events_and_conditions(50)
    state = {name: value.float() for name, value in ensemble.state_dict().items()}

    again = from_description(ensemble.describe(), state).double()

    torch.testing.assert_close(
        again.log_prob(x_NF, c_NC), ensemble.log_prob(x_NF, c_NC), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ValueError, match="other than 3 members"):
        from_description(ensemble.describe(), state | {"members.3.x": torch.zeros(1)})


def test_its_graphs_agree_with_it_for_any_number_of_rows(singles, saved):
    made = Ensemble(singles).eval()
    for rows in (1, 200):
        rng = np.random.default_rng(rows)
        events, conditions = (rng.uniform(0.5, 20, (rows, 2)).astype("f4") for _ in range(2))
        noise = rng.standard_normal((rows, 3)).astype("f4")
        with torch.no_grad():
            log_prob = made.log_prob(torch.from_numpy(events), torch.from_numpy(conditions))
            drawn = made.from_noise(torch.from_numpy(noise), torch.from_numpy(conditions))

        found = run(saved / "log_prob.onnx", events=events, conditions=conditions)
        np.testing.assert_allclose(found, log_prob.numpy(), rtol=1e-5, atol=1e-5)
        found = run(saved / "sample.onnx", noise=noise, conditions=conditions)
        np.testing.assert_allclose(found, drawn.numpy(), rtol=3e-5)


def test_a_saved_ensemble_is_the_same_when_it_is_loaded(singles, saved):
    emulator, again = Emulator(Ensemble(singles)), Emulator.load(saved)

    assert again.card["format"] == 2
    events = again.sample(500, seed=7, **HERE)
    np.testing.assert_array_equal(events, emulator.sample(500, seed=7, **HERE))
    np.testing.assert_array_equal(again.log_prob(events, **HERE), emulator.log_prob(events, **HERE))
    assert "ensemble of 3" in (saved / "README.md").read_text()


def test_the_spread_tells_where_the_members_differ(singles):
    emulator = Emulator(Ensemble(singles))
    events = np.array([[10.0, 8.0], [30.0, 25.0], [-1.0, 5.0]])

    log_prob, std = emulator.log_prob(events, return_std=True, **HERE)

    alone = np.stack([Emulator(one).log_prob(events, **HERE) for one in singles])
    np.testing.assert_allclose(log_prob, emulator.log_prob(events, **HERE), rtol=1e-5)
    np.testing.assert_allclose(std[:2], alone[:, :2].std(axis=0, ddof=1), rtol=1e-5)
    assert (log_prob[2], std[2]) == (-np.inf, 0.0)
    with pytest.raises(EmulatorError, match="--ensemble"):
        Emulator(singles[0]).log_prob(events, return_std=True, **HERE)


def test_flows_of_other_columns_make_no_ensemble(members):
    other = flow(events=(Column("q", "", True),))

    with pytest.raises(EnsembleError, match="one set of event columns"):
        Ensemble([members[0], other])
    with pytest.raises(EnsembleError, match="at least one"):
        Ensemble([])
