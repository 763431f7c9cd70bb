"""The flow's density and draws: one integrates to one, the other follows it."""

import json
import warnings
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from data_prep.columns import Column
from data_prep.dataset import Dataset
from models.bundle.emulator import Emulator
from models.config import Coordinates, FlowConfig
from models.flow.conditions import distinct
from models.flow.coordinates import Constants, Moments
from models.flow.density import build_flow, from_description
from tests.pairwise import every_pair
from tests.random_flows import (
    FLOWS,
    GRID,
    MASSES,
    MIXTURES,
    every_flow,
    every_layer,
    flow,
    noise_of,
)

DATA = Path(__file__).parents[2] / "data"
BASES = {"normal": {}, "mixture": MIXTURES["mixture"], "mixture-spline": MIXTURES["mixture-spline"]}
every_base = pytest.mark.parametrize("layers", BASES.values(), ids=BASES)
TWO = {"normal": {"blocks": 2}, "mixture": MIXTURES["mixture"]}
every_coordinates = pytest.mark.parametrize("coordinates", get_args(Coordinates))


def conditions(Z, alpha, rows):
    return torch.tensor([[Z, alpha]], dtype=torch.float64).expand(rows, 2)


def grid(points=400):
    """Mass pairs evenly spaced in the logs, and the area of each, in Msun^2."""
    log_m = torch.linspace(-6, 10, points, dtype=torch.float64)
    x_NF = torch.cartesian_prod(log_m, log_m).exp()
    return x_NF, x_NF.prod(1) * (log_m[1] - log_m[0]) ** 2


@every_pair(
    layers=FLOWS,
    coordinates=get_args(Coordinates),
    activation=["relu", "tanh"],
    where={"low": (0.5, 0.5), "middle": (1.0, 1.0), "high": (2.0, 0.7)},
)
def test_the_density_integrates_to_one(layers, coordinates, activation, where):
    x_NF, area_N = grid(500)
    made = flow(seed=1, bins=6, shake=0.1, coordinates=coordinates, activation=activation, **layers)

    with torch.no_grad():
        log_prob_N = made.log_prob(x_NF, conditions(*where, 1), [len(x_NF)])

    assert float((log_prob_N.exp() * area_N).sum()) == pytest.approx(1, abs=3e-3)


@every_flow
@pytest.mark.parametrize("positive", [True, False])
def test_the_density_of_a_single_column_integrates_to_one(layers, positive):
    made = flow([Column("x", "", positive)], bins=6, shake=0.1, **layers)
    y_N = torch.linspace(-8, 12, 20_001, dtype=torch.float64)
    x_N = y_N.exp() if positive else y_N

    with torch.no_grad():
        p_N = made.log_prob(x_N[:, None], conditions(2.0, 0.7, 1), [len(x_N)]).exp()

    assert float(torch.trapezoid(p_N, x_N)) == pytest.approx(1, abs=1e-4)


@every_base
def test_draws_follow_the_density(layers):
    made, rows = flow(bins=6, shake=0.1, **layers), 200_000
    drawn = made.sample(conditions(1.5, 0.8, rows), torch.Generator().manual_seed(3)).log()
    x_NF, area_N = grid()
    step = 16 / 399
    # Bins of 8 x 8 grid points, with edges half-way between two points.
    edges = np.arange(-6 - step / 2, 10 + step, 8 * step)

    seen = np.histogram2d(*drawn.numpy().T, bins=(edges, edges))[0]
    with torch.no_grad():
        mass = (made.log_prob(x_NF, conditions(1.5, 0.8, len(x_NF))).exp() * area_N).numpy()
    expected = rows * mass.reshape(50, 8, 50, 8).sum(axis=(1, 3))

    assert expected.sum() == pytest.approx(rows, rel=2e-3)
    # Poisson, and what the grid of points misses of the bins where the density is steep.
    assert (np.abs(seen - expected) < 6 * np.sqrt(expected + 1) + 0.02 * expected).all()


def test_one_block_moves_the_first_mass_with_the_conditions():
    """What nflows' own layers cannot do: the marginal of Mass_0 depends on Z and on alpha."""
    made = flow(seed=2, blocks=1, shake=0.5)
    x_NF, area_N = grid(100)
    marginals = []
    for Z, alpha in [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0)]:
        with torch.no_grad():
            p_N = made.log_prob(x_NF, conditions(Z, alpha, len(x_NF))).exp() * area_N
        marginals.append(p_N.reshape(100, 100).sum(1))

    assert (marginals[1] - marginals[0]).abs().sum() > 0.01
    assert (marginals[2] - marginals[0]).abs().sum() > 0.01


@every_base
def test_nothing_is_possible_at_masses_that_cannot_be(layers):
    x_NF = torch.tensor([[0.0, 5.0], [-1.0, 5.0], [5.0, float("nan")], [9.0, 5.0]]).double()
    x_NF.requires_grad_()
    c_NC = conditions(1, 1, 4).clone().requires_grad_()

    log_prob_N = flow(**layers).log_prob(x_NF, c_NC)
    log_prob_N[3].backward()

    assert log_prob_N[:3].tolist() == [-np.inf] * 3
    assert log_prob_N[3].isfinite()
    assert x_NF.grad.isfinite().all()
    assert c_NC.grad.isfinite().all()


@every_base
def test_draws_are_never_at_or_below_zero(layers):
    drawn = flow(shake=1.0, **layers).float().sample(conditions(2.0, 0.5, 20_000).float())

    assert (drawn > 0).all()
    assert drawn.isfinite().all()


@every_pair(layers=BASES, features=[1, 2, 3, 5, 10], known=[0, 1, 2, 5])
def test_any_number_of_columns_works(layers, features, known):
    events = [Column(f"x{n}", "", n % 2 == 0) for n in range(features)]
    made = flow(events, [Column(f"c{n}", "", True) for n in range(known)], **layers)
    c_NC = torch.rand(20, known, dtype=torch.float64) + 0.5

    drawn_NF = made.sample(c_NC, torch.Generator().manual_seed(0))
    log_prob_N = made.log_prob(drawn_NF, c_NC)

    assert drawn_NF.shape == (20, features)
    assert log_prob_N.isfinite().all()
    log_prob_N.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


@every_pair(layers=BASES, features=[1, 2, 3])
def test_equal_conditions_worked_out_once_give_the_same_density_and_draws(layers, features):
    made = flow([Column(f"x{n}", "", False) for n in range(features)], **layers)
    c_UC = torch.tensor([[0.5, 1.0], [2.0, 1.0], [2.0, 0.7]], dtype=torch.float64)
    counts = [1, 3, 2]
    c_NC = c_UC.repeat_interleave(torch.tensor(counts), dim=0)
    x_NF = torch.randn(6, features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    for method, given in ((made.log_prob, x_NF), (made.from_noise, noise_of(made, 6))):
        torch.testing.assert_close(method(given, c_UC, counts), method(given, c_NC))


@pytest.mark.parametrize("columns", [0, 1, 2, 3])
def test_distinct_conditions_are_found(columns):
    rng = torch.Generator().manual_seed(0)
    c_NC = torch.randint(0, 3, (200, columns), generator=rng) * 0.1

    c_UC, index_N = distinct(c_NC)

    assert torch.equal(c_UC[index_N], c_NC)
    assert len(c_UC) == 3**columns


def test_distinct_conditions_are_found_even_where_their_keys_collide():
    one, other = torch.arange(1, 3, dtype=torch.float64).sqrt()
    c_NC = torch.tensor([[other, 0.0], [0.0, one], [0.0, one]], dtype=torch.float64)
    assert (c_NC @ torch.stack([one, other])).unique().numel() == 1

    c_UC, index_N = distinct(c_NC)

    assert torch.equal(c_UC[index_N], c_NC)
    assert len(c_UC) == 2


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    moments = Constants(*(Moments(100, np.zeros(2), np.full(2, 100.0)) for _ in range(2)))
    data = Dataset(
        event_columns=MASSES,
        condition_columns=GRID,
        rows={"train": 1, "val": 1, "test": 1},
        cells=(),
        ranges={column.name: (0.5, 2.0) for column in (*MASSES, *GRID)},
        fingerprint="",
    )
    one, same, other = (
        build_flow(FlowConfig(hidden=8), data, moments, seed=seed).state_dict()
        for seed in (4, 4, 5)
    )

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def drawn(made, rows=12, *, seed=0):
    """Events of a flow and their conditions."""
    rng = torch.Generator().manual_seed(seed)
    c_NC = torch.rand(rows, 2, dtype=torch.float64, generator=rng) + 0.5
    return made.sample(c_NC, rng), c_NC


@every_coordinates
@every_layer
def test_the_noise_of_an_event_gives_the_event_back(layers, coordinates):
    made = flow(coordinates=coordinates, **layers)
    x_NF, c_NC = drawn(made)

    noise_NF = made.net.transform_to_noise(made.events(x_NF)[0], made.conditions(c_NC)[0])

    torch.testing.assert_close(made.from_noise(noise_NF, c_NC), x_NF, rtol=1e-8, atol=0)


@every_flow
def test_training_and_evaluation_by_hand_are_the_plain_density(layers):
    made = flow(**layers)
    for module in made.modules():
        if hasattr(module, "initialized"):
            module.initialized.fill_(True)
    c_UC = conditions(0.5, 1.0, 3) * torch.tensor([[1.0], [2.0], [3.0]])
    counts = [150, 1, 100]
    c_NC = c_UC.repeat_interleave(torch.tensor(counts), dim=0)
    x_NF, weights = drawn(made, 251)[0], list(made.parameters())
    ones = [1] * 251

    plain_N = made.log_prob(x_NF, c_NC)
    plain = [plain_N, *torch.autograd.grad(plain_N.mean(), weights)]

    made.train()
    for arguments in ((c_UC, counts), (c_NC, ones)):
        found_N = made.log_prob(x_NF, *arguments)
        found = [found_N, *torch.autograd.grad(found_N.mean(), weights)]
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    made.eval()
    with torch.no_grad():
        noise_NF = noise_of(made, 251)
        expected_NF = made.from_noise(noise_NF, c_NC)
        for arguments in ((c_UC, counts), (c_NC, ones)):
            torch.testing.assert_close(made.log_prob(x_NF, *arguments), plain_N)
            torch.testing.assert_close(made.from_noise(noise_NF, *arguments), expected_NF)


@every_pair(layers=FLOWS, fused=[False, True], dtype=[torch.float32, torch.float64])
def test_how_rows_are_split_is_not_seen_in_their_density_or_draws(layers, fused, dtype):
    made = flow(bins=8, shake=0.05, **layers)
    x_NF, c_NC, noise_NF = (v.to(dtype) for v in (*drawn(made, 31), noise_of(made, 31)))
    made.to(dtype)

    with torch.no_grad():
        for method, given in ((made.log_prob, x_NF), (made.from_noise, noise_NF)):
            whole = method(given, c_NC, [1] * 31 if fused else None)
            for size in (1, 12):
                pairs = zip(given.split(size), c_NC.split(size), strict=True)
                parts = [method(x, c, [1] * len(x) if fused else None) for x, c in pairs]
                tolerance = 1e-12 if dtype == torch.float64 else 2e-5
                torch.testing.assert_close(torch.cat(parts), whole, rtol=tolerance, atol=tolerance)


@every_base
def test_vmap_of_grad_is_a_loop_over_events(layers):
    made = flow(hidden=64, **layers)
    x_NF, c_NC = drawn(made)

    def log_prob(x_F, c_C):
        return made.log_prob(x_F[None], c_C[None])[0]

    by_vmap = torch.func.vmap(torch.func.grad(log_prob, argnums=(0, 1)))(x_NF, c_NC)

    x_NF, c_NC = x_NF.requires_grad_(), c_NC.requires_grad_()
    one_by_one = [
        torch.autograd.grad(log_prob(x, c), (x, c)) for x, c in zip(x_NF, c_NC, strict=True)
    ]
    for found, expected in zip(by_vmap, zip(*one_by_one, strict=True), strict=True):
        assert found.abs().min() > 0
        torch.testing.assert_close(found.detach(), torch.stack(expected))


@every_pair(coordinates=get_args(Coordinates), layers=TWO)
def test_the_gradients_of_the_density_are_those_of_finite_differences(coordinates, layers):
    made = flow(hidden=6, bins=4, coordinates=coordinates, **layers)
    x_NF, c_NC = (v.requires_grad_() for v in drawn(made, 3))

    assert torch.autograd.gradcheck(made.log_prob, (x_NF, c_NC))
    assert torch.autograd.gradgradcheck(made.log_prob, (x_NF, c_NC))


@every_base
def test_second_derivatives_are_those_of_torch_func(layers):
    made = flow(hidden=8, bins=4, **layers)
    x_NF, c_NC = drawn(made, 1)

    with warnings.catch_warnings():
        # torch's forward mode compiles its formulas by torch.jit.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = torch.func.hessian(lambda x: made.log_prob(x, c_NC)[0])(x_NF)
    expected = torch.autograd.functional.hessian(lambda x: made.log_prob(x, c_NC)[0], x_NF)

    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("layers", TWO.values(), ids=TWO)
@pytest.mark.parametrize("method", ["log_prob", "from_noise"])
def test_an_exported_flow_is_the_flow_for_any_number_of_rows(method, layers):
    class Method(torch.nn.Module):
        def __init__(self, made):
            super().__init__()
            self.made = made

        def forward(self, x_NF, c_NC):
            return getattr(self.made, method)(x_NF, c_NC)

    def given(rows):
        x_NF, c_NC = drawn(made, rows)
        return x_NF if method == "log_prob" else noise_of(made, rows), c_NC

    made = flow(hidden=8, bins=8, **layers)
    rows = torch.export.Dim("rows", min=2, max=1_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            Method(made), given(5), dynamic_shapes=({0: rows}, {0: rows})
        ).module()

    for count in (2, 3, 250):
        each = given(count)
        torch.testing.assert_close(
            program(*each), getattr(made, method)(*each), rtol=1e-12, atol=1e-12
        )


def test_the_first_training_batch_sets_the_scales_between_layers_and_no_other_does():
    made = flow(normalise=True, seed=3).train()
    scales = [m for m in made.modules() if hasattr(m, "initialized")]
    x_NF, c_NC = drawn(made, 400)
    before = made.log_prob(2 * x_NF, c_NC, [1] * 400)
    kept = [(m.log_scale.clone(), m.shift.clone()) for m in scales]

    assert len(scales) == 3
    assert all(m.initialized for m in scales)
    # What the first of them gives for the batch that set it has mean 0 and spread 1.
    first_NF = scales[0](made.events(2 * x_NF)[0])[0]
    torch.testing.assert_close(first_NF.mean(0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(first_NF.std(0, unbiased=False), torch.ones(2).double())
    torch.testing.assert_close(made.log_prob(2 * x_NF, c_NC, [1] * 400), before)

    made.log_prob(x_NF[:50], c_NC[:50], [1] * 50)
    for module, (log_scale, shift) in zip(scales, kept, strict=True):
        assert torch.equal(module.log_scale, log_scale)
        assert torch.equal(module.shift, shift)
    made.eval()
    torch.testing.assert_close(made.log_prob(x_NF[:7], c_NC[:7]), made.log_prob(x_NF, c_NC)[:7])


def test_the_scales_between_layers_are_set_where_they_lie():
    """Replicas of a flow and its optimiser share the memory of its parameters."""
    made = flow(normalise=True, shake=0).train()
    views = {name: p.detach() for name, p in made.named_parameters()}

    made.log_prob(*drawn(made, 50))

    for name, parameter in made.named_parameters():
        assert torch.equal(views[name], parameter)
    assert views["net._transform._transforms.0.log_scale"].abs().max() > 0


def test_a_column_that_is_the_same_in_the_first_batch_spoils_nothing():
    x_NF, c_NC = drawn(flow(), 50)
    x_NF[:, 1] = 7.0
    for counts, rows in (([1] * 50, 50), ([1], 1)):
        fresh = flow(normalise=True).train()
        log_prob_N = fresh.log_prob(x_NF[:rows], c_NC[:rows], counts)
        log_prob_N.sum().backward()

        assert log_prob_N.isfinite().all()
        assert all(p.grad.isfinite().all() for p in fresh.parameters())


@every_flow
def test_a_described_flow_is_the_same_flow(layers):
    made = flow(coordinates="log_total", **layers).float()
    again = from_description(json.loads(json.dumps(made.describe())), made.state_dict())
    x_NF, c_NC = (v.float() for v in drawn(flow(coordinates="log_total", **layers)))

    assert torch.equal(again.log_prob(x_NF, c_NC), made.log_prob(x_NF, c_NC))
    noise_NF = noise_of(made, len(c_NC)).float()
    assert torch.equal(again.from_noise(noise_NF, c_NC), made.from_noise(noise_NF, c_NC))
    assert again.domain == {"Z": (0.5, 2.0), "alpha": (0.5, 2.0)}


@every_flow
def test_events_as_far_away_as_numbers_go_have_no_nan(layers):
    made = flow([Column("x", "", False), Column("y", "", True)], **layers).float()
    x_NF = torch.tensor([[1e30, 1.0], [-1e30, 1e-30], [1e12, 1e38], [1e5, 1e-30]])
    x_NF, c_NC = x_NF.requires_grad_(), conditions(1, 1, 4).float().clone().requires_grad_()

    log_prob_N = made.log_prob(x_NF, c_NC)
    log_prob_N[2:].sum().backward()

    assert not log_prob_N.isnan().any()
    assert (log_prob_N < -10).all()
    # Gradients as far as the squared distance is a float32.
    assert not x_NF.grad[2:].isnan().any()
    assert not c_NC.grad[2:].isnan().any()


def test_an_emulator_of_the_first_version_is_the_flow_that_it_was():
    assert Emulator.load(DATA / "emulator-1-affine").module.config == FlowConfig(
        base="normal",
        kind="affine",
        coordinates="log",
        blocks=2,
        bins=32,
        hidden=8,
        depth=2,
        activation="relu",
        conditioner="masked",
    )
