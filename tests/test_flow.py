"""The flow's density and draws: one integrates to one, the other follows it."""

import numpy as np
import pytest
import torch

from data_prep.columns import Column, Dataset
from models.config import FlowConfig
from models.flow import build_flow, distinct, from_description
from models.preprocess import Constants, Moments

MASSES = (Column("Mass_0", "Msun", True), Column("Mass_1", "Msun", True))
GRID = (Column("Z", "", True), Column("alpha", "", True))


def dataset(events, conditions):
    return Dataset(
        event_columns=tuple(events),
        condition_columns=tuple(conditions),
        rows={"train": 1, "val": 1, "test": 1},
        cells=(),
        ranges={column.name: (0.5, 2.0) for column in (*events, *conditions)},
        fingerprint="",
    )


def flow(events=MASSES, conditions=GRID, *, seed=0, shake=0.2, blocks=3, hidden=16, **options):
    """A flow with random weights, as bent as a trained one, in double precision."""
    moments = Constants(
        Moments(100, np.full(len(events), 2.0), np.full(len(events), 25.0)),
        Moments(100, np.zeros(len(conditions)), np.full(len(conditions), 100.0)),
    )
    made = build_flow(
        FlowConfig(blocks=blocks, hidden=hidden, **options),
        dataset(events, conditions),
        moments,
        seed=seed,
    ).double()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.add_(shake * noise)
    return made.eval()


def conditions(Z, alpha, rows):
    return torch.tensor([[Z, alpha]], dtype=torch.float64).expand(rows, 2)


def grid(points=400):
    """Mass pairs evenly spaced in the logs, and the area of each, in Msun^2."""
    log_m = torch.linspace(-6, 10, points, dtype=torch.float64)
    x_NF = torch.cartesian_prod(log_m, log_m).exp()
    return x_NF, x_NF.prod(1) * (log_m[1] - log_m[0]) ** 2


@pytest.mark.parametrize(("Z", "alpha"), [(0.5, 0.5), (1.0, 1.0), (2.0, 0.7)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_density_integrates_to_one(Z, alpha, activation):
    x_NF, area_N = grid()

    with torch.no_grad():
        log_prob_N = flow(activation=activation).log_prob(x_NF, conditions(Z, alpha, len(x_NF)))

    assert float((log_prob_N.exp() * area_N).sum()) == pytest.approx(1, abs=2e-3)


def test_draws_follow_the_density():
    made, rows = flow(), 200_000
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


def test_the_noise_of_an_event_gives_the_event_back():
    made = flow()
    x_NF, c_NC = torch.rand(50, 2, dtype=torch.float64) * 30 + 1, conditions(1, 2, 50)

    noise_NF = made.net.transform_to_noise(made.events(x_NF)[0], made.conditions(c_NC)[0])

    torch.testing.assert_close(made.from_noise(noise_NF, c_NC), x_NF, rtol=1e-8, atol=0)


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


def test_nothing_is_possible_at_masses_that_cannot_be():
    x_NF = torch.tensor([[0.0, 5.0], [-1.0, 5.0], [5.0, float("nan")], [9.0, 5.0]]).double()
    x_NF.requires_grad_()
    c_NC = conditions(1, 1, 4).clone().requires_grad_()

    log_prob_N = flow().log_prob(x_NF, c_NC)
    log_prob_N[3].backward()

    assert log_prob_N[:3].tolist() == [-np.inf] * 3
    assert log_prob_N[3].isfinite()
    assert x_NF.grad.isfinite().all()
    assert c_NC.grad.isfinite().all()


def test_draws_are_never_at_or_below_zero():
    drawn = flow(shake=1.0).float().sample(conditions(2.0, 0.5, 20_000).float())

    assert (drawn > 0).all()
    assert drawn.isfinite().all()


@pytest.mark.parametrize("features", [1, 2, 3, 5])
@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_number_of_columns_works(features, given):
    events = [Column(f"x{n}", "", n % 2 == 0) for n in range(features)]
    made = flow(events, [Column(f"c{n}", "", True) for n in range(given)])
    c_NC = torch.rand(20, given, dtype=torch.float64) + 0.5

    drawn_NF = made.sample(c_NC, torch.Generator().manual_seed(0))
    log_prob_N = made.log_prob(drawn_NF, c_NC)

    assert drawn_NF.shape == (20, features)
    assert log_prob_N.isfinite().all()
    log_prob_N.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


def test_the_same_rows_get_the_same_density_however_they_are_split():
    made = flow()
    x_NF, c_NC = torch.rand(300, 2, dtype=torch.float64) * 30 + 1, conditions(1, 2, 300)

    parts = [made.log_prob(x, c) for x, c in zip(x_NF.split(70), c_NC.split(70), strict=True)]

    torch.testing.assert_close(torch.cat(parts), made.log_prob(x_NF, c_NC))


@pytest.mark.parametrize("features", [1, 2, 3])
def test_equal_conditions_worked_out_once_give_the_same_density_and_draws(features):
    made = flow([Column(f"x{n}", "", False) for n in range(features)])
    c_UC = torch.tensor([[0.5, 1.0], [2.0, 1.0], [2.0, 0.7]], dtype=torch.float64)
    counts = [1, 3, 2]
    c_NC = c_UC.repeat_interleave(torch.tensor(counts), dim=0)
    x_NF = torch.randn(6, features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    for method in (made.log_prob, made.from_noise):
        torch.testing.assert_close(method(x_NF, c_UC, counts), method(x_NF, c_NC))


@pytest.mark.parametrize("columns", [0, 1, 2, 3])
def test_distinct_conditions_are_found(columns):
    rng = torch.Generator().manual_seed(0)
    c_NC = torch.randint(0, 3, (200, columns), generator=rng) * 0.1

    c_UC, index_N = distinct(c_NC)

    assert torch.equal(c_UC[index_N], c_NC)
    assert len(c_UC) == 3**columns


def test_distinct_conditions_are_found_even_where_their_keys_collide():
    c_NC = torch.tensor([[2.0**0.5, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)

    c_UC, index_N = distinct(c_NC)

    assert torch.equal(c_UC[index_N], c_NC)
    assert len(c_UC) == 2


def test_a_described_flow_is_the_same_flow():
    made = flow().float()
    again = from_description(made.describe(), made.state_dict())
    x_NF = torch.rand(10, 2) * 30 + 1

    assert torch.equal(
        again.log_prob(x_NF, conditions(1, 2, 10).float()),
        made.log_prob(x_NF, conditions(1, 2, 10).float()),
    )
    assert again.domain == {"Z": (0.5, 2.0), "alpha": (0.5, 2.0)}


def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (flow(seed=seed).state_dict() for seed in (4, 4, 5))

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
