"""A flow of columns with atoms: a probability at the atoms, a density of the rest."""

import copy

import numpy as np
import pytest
import torch

from data_prep.columns import Column
from models.flow.atoms import from_description
from models.patterns import is_of, of_events
from tests.random_flows import GRID, MASSES, MIXTURES, PATTERNS, RATIO, SPIN, a_mixed_flow, noise_of

ROWS = 2_000


@pytest.fixture(scope="module", params=[{}, MIXTURES["mixture"]], ids=["normal", "mixture"])
def flow(request):
    return a_mixed_flow(**request.param)


@pytest.fixture(scope="module")
def conditions():
    cells = torch.tensor([[1e-3, 1.0], [1e-2, 1.0], [2e-4, 5.0]])
    return cells[torch.arange(ROWS) % 3]


@pytest.fixture(scope="module")
def noise(flow):
    return torch.randn(ROWS, flow.noise_columns, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def drawn(flow, noise, conditions):
    with torch.no_grad():
        return flow.from_noise(noise, conditions)


def numbers(drawn):
    """Rows of each pattern of the flow."""
    return {k: len(rows) for k, rows in of_events((SPIN, MASSES[0], RATIO), drawn.numpy()).items()}


def test_draws_lie_exactly_at_atoms_and_are_of_known_patterns_alone(drawn, flow):
    found = numbers(drawn)

    assert set(found) == set(PATTERNS)
    assert min(found.values()) > 20
    assert set(drawn[:, 2][drawn[:, 2] == np.float32(0.3)].tolist()) == {float(np.float32(0.3))}


def test_an_event_of_no_known_pattern_has_no_density_and_no_gradient(flow):
    x_NF = torch.tensor([[0.0, 9.0, 0.3], [0.2, 9.0, 1.0], [torch.nan, 9.0, 0.5], [0.1, 9.0, 0.5]])
    c_NC = torch.tensor([[1e-3, 1.0]]).repeat(4, 1)
    x_NF.requires_grad_()

    log_prob_N = flow.log_prob(x_NF, c_NC)

    assert log_prob_N.isneginf().tolist() == [True, True, True, False]
    log_prob_N[:3].sum().backward()
    assert (x_NF.grad == 0).all()


@pytest.mark.parametrize("options", [{}, MIXTURES["mixture"]], ids=["normal", "mixture"])
def test_probabilities_at_a_condition_and_densities_of_the_rest_make_one(options):
    spin, other = SPIN, Column("x", "", False, atoms=(1.0,))
    every = ((0.0, 1.0), (0.0, None), (None, 1.0), (None, None))
    flow = a_mixed_flow((spin, other), every, **options)
    axis, c_1C = torch.linspace(-6, 6, 701), torch.tensor([[1e-3, 1.0]])
    axis = axis + 1e-4  # no point at an atom
    step = float(axis[1] - axis[0])
    both = torch.cartesian_prod(axis, axis)
    lines = [torch.stack([torch.zeros_like(axis), axis], 1), torch.stack([axis, axis * 0 + 1], 1)]

    with torch.no_grad():
        total = [
            flow.log_prob(x_NF, c_1C, [len(x_NF)]).double().exp().sum().item() * size
            for x_NF, size in (
                (torch.tensor([[0.0, 1.0]]), 1),
                *((line, step) for line in lines),
                (both, step**2),
            )
        ]

    assert min(total) > 0.02
    assert sum(total) == pytest.approx(1, abs=2e-3)


def test_the_share_of_draws_at_an_atom_is_its_probability(flow):
    c_1C = torch.tensor([[1e-3, 1.0]])
    noise = noise_of(flow, 60_000, seed=3).float()

    with torch.no_grad():
        drawn = flow.from_noise(noise, c_1C, [len(noise)])
        expected = flow._log_probabilities(c_1C, [1]).exp()[:, 0].numpy()

    found = [numbers(drawn)[pattern] / len(noise) for pattern in PATTERNS]
    error = np.sqrt(expected * (1 - expected) / len(noise))
    assert (np.abs(np.array(found) - expected) < 4 * error).all()


def test_the_density_of_draws_is_that_of_their_patterns_flow(flow, drawn, conditions):
    with torch.no_grad():
        log_prob = flow.log_prob(drawn, conditions)
        ln_KN = flow._log_probabilities(conditions, None)
        for k, pattern in enumerate(PATTERNS):
            rows = is_of(pattern, flow.event_columns, drawn.unbind(1))
            rest = [f for f, atom in enumerate(pattern) if atom is None]
            its_own = flow.parts[str(k)].log_prob(drawn[rows][:, rest], conditions[rows])

            assert torch.allclose(log_prob[rows], its_own + ln_KN[k, rows], atol=1e-5)


def test_runs_of_equal_conditions_have_the_same_numbers(flow, drawn, noise, conditions):
    flow, noise, drawn = copy.deepcopy(flow).double(), noise.double(), drawn.double()
    conditions = conditions.double()
    order = torch.argsort(conditions[:, 0], stable=True)
    c_UC, counts = torch.unique_consecutive(conditions[order], dim=0, return_counts=True)

    with torch.no_grad():
        log_prob = flow.log_prob(drawn[order], c_UC, counts.tolist())
        again = flow.from_noise(noise[order], c_UC, counts.tolist())

        torch.testing.assert_close(log_prob, flow.log_prob(drawn, conditions)[order])
        torch.testing.assert_close(again, flow.from_noise(noise, conditions)[order])


def test_the_gradient_of_a_step_is_that_of_the_mean(flow, drawn, conditions):
    one, fused = copy.deepcopy(flow).double(), copy.deepcopy(flow).double().train()
    order = torch.argsort(conditions[:, 0], stable=True)
    x_NF, c_NC = drawn[order].double(), conditions[order].double()
    c_UC, counts = torch.unique_consecutive(c_NC, dim=0, return_counts=True)

    one.log_prob(x_NF, c_NC).mean().backward()
    fused.log_prob(x_NF, c_UC, counts.tolist()).mean().backward()

    for a, b in zip(one.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-6)
        assert a.grad.isfinite().all()


def test_columns_that_all_lie_at_atoms_leave_a_pure_probability():
    flow = a_mixed_flow((SPIN,), ((0.0,), (None,)))
    x_NF, c_NC = torch.tensor([[0.0], [0.5]]), torch.tensor([[1e-3, 1.0]] * 2)

    with torch.no_grad():
        log_prob = flow.log_prob(x_NF, c_NC)
        ln_KN = flow._log_probabilities(c_NC, None)

    assert log_prob[0] == ln_KN[0, 0]
    assert set(flow.parts) == {"1"}


@pytest.mark.parametrize("conditions", [GRID, ()], ids=["conditions", "no-conditions"])
def test_a_described_flow_is_the_same_again(conditions):
    flow = a_mixed_flow(conditions=conditions)
    c_NC = torch.tensor([[1e-3, 1.0]] * 500)[:, : len(conditions)]
    noise = torch.randn(500, 4, generator=torch.Generator().manual_seed(1))

    again = from_description(flow.describe(), flow.state_dict())

    with torch.no_grad():
        x_NF = flow.from_noise(noise, c_NC)
        assert torch.equal(again.from_noise(noise, c_NC), x_NF)
        assert torch.equal(again.log_prob(x_NF, c_NC), flow.log_prob(x_NF, c_NC))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param({"patterns": []}, "has patterns where", id="none"),
        pytest.param({"patterns": [[None] * 3, [None] * 3]}, "no pattern twice", id="twice"),
        pytest.param({"patterns": [[0.5, None, None]]}, "no atom of its column", id="other-value"),
        pytest.param({"patterns": [[0.0, None, None]]}, "is of shape", id="too-few"),
        pytest.param({"patterns": [[0.0, None]]}, "zip", id="short"),
    ],
)
def test_a_description_that_is_not_of_the_weights_is_refused(change, fault):
    flow = a_mixed_flow()

    with pytest.raises(ValueError, match=fault):
        from_description({**flow.describe(), **change}, flow.state_dict())
