"""Flows of bounded columns: nothing outside, everything inside, in every form that a flow has."""

import importlib

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from data_prep.columns import Column
from data_prep.dataset import Total
from models import Emulator
from models.arrays.table import Table
from models.bounds import intervals
from models.bundle import onnx
from models.bundle.efficiency import Efficiency
from models.bundle.files import EmulatorError
from models.flow.coordinates import Constants, Moments
from models.flow.density import from_description
from models.inference.population import PopulationModel
from models.layout import Layout
from tests.random_flows import GRID, MASSES, MIXTURES, flow, in_arrays, noise_of

RATIO, SPIN = Column("q", "", low=0, high=1), Column("chi_eff", "", low=-1, high=1)
COLUMNS = (MASSES[0], RATIO, MASSES[1], SPIN, Column("n", "", low=1), Column("d", "", high=0.3))
INSIDE = np.array([8.0, 0.7, 9.0, 0.1, 3.0, -2.0])
BEYOND = [(1, -1e-6), (1, 1.000001), (3, -1.1), (3, 7.0), (4, 0.999), (5, 0.31)]
BEYOND += [(k, bad) for k in range(6) for bad in (np.nan, np.inf, -np.inf)]
AT = [(1, 0.0), (1, 1.0), (3, -1.0), (3, 1.0), (3, 0.0), (1, 0.5), (4, 1.0), (5, 0.3)]
C = np.array([0.7, 1.3])


FORMS = {"affine": {"kind": "affine"}, "spline": {"kind": "spline"}}
FORMS |= {"mixture": MIXTURES["mixture"], "mixture-affine": MIXTURES["mixture-affine-masked"]}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def bounded(columns=COLUMNS, conditions=GRID, **options):
    """A flow of random weights whose columns are spread over their supports."""
    features, means = len(columns), {"Mass_0": 2.0, "n": 0.5, "d": -0.5}
    constants = Constants(
        Moments(100, np.array([means.get(c.name, 0.0) for c in columns]), np.full(features, 50.0)),
        Moments(100, np.zeros(len(conditions)), np.full(len(conditions), 100.0)),
    )
    options = {"shake": 0.1, "blocks": 2, **options}
    return flow(columns, conditions, constants=constants, **options)


def events(changes):
    """Events inside but for one column each."""
    x_NF = np.tile(INSIDE, (len(changes), 1))
    for row, (column, value) in zip(x_NF, changes, strict=True):
        row[column] = value
    return x_NF


def noise(rows=20_000, features=6, spread=3.0, seed=0):
    return spread * np.random.default_rng(seed).standard_normal((rows, features))


def check_inside(x_NF, columns=COLUMNS):
    x_NF = np.array(x_NF.tolist())
    assert np.isfinite(x_NF).all()
    for column, x_N in zip(columns, x_NF.T, strict=True):
        low, high = column.limits
        assert (x_N > 0).all() if column.positive else (low <= x_N).all() and (x_N <= high).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_form
def test_outside_there_is_no_density_and_no_gradient(form, dtype):
    made = bounded(**form).to(dtype)
    x_NF = torch.tensor(events(BEYOND), dtype=dtype, requires_grad=True)
    c_NC = torch.tensor(np.tile(C, (len(BEYOND), 1)), dtype=dtype, requires_grad=True)

    log_prob_N = made.log_prob(x_NF, c_NC)
    gradients = torch.autograd.grad(log_prob_N.exp().sum(), (x_NF, c_NC))

    assert (log_prob_N == -torch.inf).all()
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_form
def test_at_the_bounds_and_half_way_everything_is_finite(form, dtype):
    made = bounded(**form).to(dtype)
    x_NF = torch.tensor(events(AT), dtype=dtype, requires_grad=True)
    c_NC = torch.tensor(np.tile(C, (len(AT), 1)), dtype=dtype, requires_grad=True)

    log_prob_N = made.log_prob(x_NF, c_NC)
    gradients = torch.autograd.grad(log_prob_N.sum(), (x_NF, c_NC))

    assert log_prob_N.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_form
def test_every_draw_is_inside_even_from_noise_far_out(form, dtype):
    made = bounded(**form).to(dtype)
    for spread in (1, 10, 1e6):
        noise_NF = noise_of(made, 20_000, spread=spread).to(dtype)
        with torch.no_grad():
            x_NF = made.from_noise(noise_NF, torch.tensor(C, dtype=dtype).expand(len(noise_NF), 2))

        check_inside(x_NF)
        assert made.events(x_NF)[2].all()


def test_draws_have_the_density_that_is_told_of_them():
    """By finite differences of the way from noise to events, and of its way back."""
    made, noise_NF = bounded(blocks=1), noise(rows=10, spread=0.5)
    c_NC = torch.tensor(np.tile(C, (10, 1)))

    jacobian_NFF = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda z, c=c: made.from_noise(z[None], c[None])[0], z
            )
            for z, c in zip(torch.from_numpy(noise_NF), c_NC, strict=True)
        ]
    )
    normal_N = -0.5 * (noise_NF**2).sum(1) - 0.5 * noise_NF.shape[1] * np.log(2 * np.pi)
    with torch.no_grad():
        x_NF = made.from_noise(torch.from_numpy(noise_NF), c_NC)
        log_prob_N = made.log_prob(x_NF, c_NC).numpy()

    expected_N = normal_N - jacobian_NFF.det().abs().log().numpy()
    np.testing.assert_allclose(log_prob_N, expected_N, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("column", [RATIO, SPIN, Column("f", "", low=0.1, high=0.7)])
@pytest.mark.parametrize(("mean", "spread"), [(0, 0.8), (1.5, 0.6), (-1.5, 0.6)])
@every_form
def test_the_density_of_one_column_integrates_to_one(column, mean, spread, form):
    """Also where most of its mass is piled up against a bound; beyond, it is drawn at the bound."""
    constants = Constants(Moments(1, np.array([mean]), np.array([spread**2])), Moments(1, C, C))
    made = flow((column,), GRID, constants=constants, **{"shake": 0.1, "blocks": 2, **form})
    low, high = intervals((column,))[0].drawn
    # The midpoint rule, with points that crowd at both bounds by a sine of a sine.
    t = 0.5 * np.pi * ((2 * np.arange(20_000) + 1) / 20_000 - 1)
    s = 0.5 * (1 + np.sin(0.5 * np.pi * np.sin(t)))
    ds = 0.25 * np.pi * np.cos(0.5 * np.pi * np.sin(t)) * np.cos(t)
    x_N1 = torch.from_numpy((low + (high - low) * s)[:, None])

    with torch.no_grad():
        density_N = made.log_prob(x_N1, torch.from_numpy(np.tile(C, (len(s), 1)))).exp().numpy()
        drawn_N = made.from_noise(noise_of(made, 50_000), torch.from_numpy(C[None]), [50_000])
    at_a_bound = ((drawn_N - low).minimum(high - drawn_N) < 1e-12 * (high - low)).double().mean()

    total = (density_N * ds).sum() * (high - low) * np.pi / len(t)
    error = float(at_a_bound / len(drawn_N)) ** 0.5
    assert total + at_a_bound == pytest.approx(1, abs=1e-3 + 4 * error)


@every_form
def test_the_density_of_two_columns_integrates_to_one(form):
    made = bounded((RATIO, SPIN), **form)
    t, weight = np.polynomial.legendre.leggauss(300)
    s, ds = 0.5 * (1 + np.sin(0.5 * np.pi * t)), 0.25 * np.pi * np.cos(0.5 * np.pi * t)
    q, chi = np.meshgrid(s, 2 * s - 1, indexing="ij")
    area = np.multiply.outer(weight * ds, 2 * weight * ds).ravel()
    x_NF = torch.from_numpy(np.stack([q.ravel(), chi.ravel()], 1))

    with torch.no_grad():
        log_prob_N = made.log_prob(x_NF, torch.from_numpy(C[None]), [len(x_NF)])

    assert (log_prob_N.exp().numpy() * area).sum() == pytest.approx(1, abs=1e-3)


@every_form
def test_plain_arrays_give_what_torch_gives(form):
    made = bounded(**form)
    noise_NF, c_NC = noise_of(made, 300, spread=0.8).numpy(), np.tile(C, (300, 1))
    with torch.no_grad():
        x_NF = made.from_noise(torch.from_numpy(noise_NF), torch.from_numpy(c_NC)).numpy()
        rows_NF = np.concatenate([x_NF, events(BEYOND + AT)]).astype("f4").astype("f8")
        c_NC = np.resize(c_NC, (len(rows_NF), 2))
        log_prob_N = made.log_prob(*map(torch.from_numpy, (rows_NF, c_NC))).numpy()

    for dtype, digits in (("float64", 1e-10), ("float32", 2e-3)):
        plain = in_arrays(made, dtype=dtype)
        found_N = plain.log_density(rows_NF, c_NC)
        np.testing.assert_allclose(found_N, log_prob_N, rtol=digits, atol=digits)
        drawn_NF = plain.from_noise(noise_NF, c_NC[:300])
        # Phi of noise far out is a difference of like numbers.
        np.testing.assert_allclose(drawn_NF, x_NF, rtol=max(digits, 1e-7), atol=max(digits, 1e-7))
        check_inside(drawn_NF)
    far_NF = noise_of(made, 20_000, spread=50).numpy().astype("f4")
    far_NF = in_arrays(made, dtype="float32").from_noise(far_NF, C)
    assert far_NF.dtype == np.float32
    check_inside(far_NF)


@pytest.mark.slow
@pytest.mark.parametrize("form", [FORMS["affine"], FORMS["mixture"]], ids=["affine", "mixture"])
def test_under_jax_no_gradient_is_nan_and_those_outside_are_zero(form):
    jax = importlib.import_module("jax")
    columns, places = (RATIO, SPIN, COLUMNS[5]), {1: 0, 3: 1, 5: 2}
    made = in_arrays(bounded(columns, **{"blocks": 1, **form}))
    outside, at = (
        np.array([x for x, (k, _) in zip(events(each), each, strict=True) if k in places])
        for each in (BEYOND, AT)
    )
    x_NF = jax.numpy.asarray(np.concatenate([outside, at])[:, list(places)])

    slope = jax.jit(jax.grad(lambda x: jax.numpy.exp(0.1 * made.log_density(x, C)).sum()))
    of_noise = jax.jit(jax.grad(lambda z: made.from_noise(z, C).sum()))
    far = jax.numpy.asarray([[z] * made.noise_columns for z in (0.0, 40.0, -40.0)])

    assert np.isfinite(slope(x_NF)).all()
    assert (np.asarray(slope(x_NF))[: len(outside)] == 0).all()
    assert np.isfinite(of_noise(far)).all()


@pytest.mark.parametrize("form", [FORMS["affine"], FORMS["mixture"]], ids=["affine", "mixture"])
def test_the_graphs_give_what_the_flow_gives(tmp_path, form):
    made = bounded(**{"shake": 0.05, "blocks": 1, **form}).float()
    onnx.write(made, tmp_path)
    noise_NF = noise_of(made, 50, spread=1.5).numpy().astype("f4")
    c_NC = np.tile(C, (50, 1)).astype("f4")
    with torch.no_grad():
        x_NF = made.from_noise(*map(torch.from_numpy, (noise_NF, c_NC))).numpy()
        rows_NF = np.concatenate([x_NF, events(AT + BEYOND).astype("f4")])
        rows_c_NC = np.resize(c_NC, (len(rows_NF), 2))
        log_prob_N = made.log_prob(*map(torch.from_numpy, (rows_NF, rows_c_NC))).numpy()

    density, draws = (
        ReferenceEvaluator(str(tmp_path / f"{name}.onnx")) for name in ("log_prob", "sample")
    )
    (found_N,) = density.run(None, {"events": rows_NF, "conditions": rows_c_NC})
    (drawn_NF,) = draws.run(None, {"noise": noise_NF, "conditions": c_NC})
    far = {"noise": 10 * noise_NF, "conditions": c_NC}

    assert (found_N[-len(BEYOND) :] == -np.inf).all()
    np.testing.assert_allclose(found_N, log_prob_N, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(drawn_NF, x_NF, rtol=2e-5, atol=1e-6)
    check_inside(drawn_NF)
    check_inside(draws.run(None, far)[0])


def test_a_table_of_bounded_columns_keeps_them_in_its_file(tmp_path):
    made = in_arrays(bounded((RATIO, SPIN), GRID[:1], kind="affine", shake=0.05))
    table = Table.of(made, points=32, condition_points=3)
    loaded = Table.load(table.save(tmp_path / "table.npz"))
    z = np.random.default_rng(0).standard_normal((2_000, 2))
    x_NF = made.from_noise(z, np.array([0.9]))

    error_N = loaded.log_prob(x_NF, Z=0.9) - made.log_prob(x_NF, Z=0.9, on_extrapolation="ignore")

    assert loaded.event_supports == (RATIO, SPIN)
    within_N = np.isfinite(error_N)
    assert within_N.mean() > 0.99
    assert np.std(error_N[within_N]) < 0.03
    assert (loaded.log_prob([[1.01, 0.0], [0.5, -1.01]], Z=0.9) == -np.inf).all()


def test_bounds_are_in_the_description_alone():
    made = bounded().float()
    description, state = made.describe(), made.state_dict()
    plain = flow((Column("a", ""),) * 1, GRID).float()

    again = from_description(description, state)

    assert again.event_columns == COLUMNS
    assert {name.partition(".")[2] for name in state if name.startswith("events.")} == {
        "positive_K",
        "mean_K",
        "spread_K",
    }
    assert "low" not in plain.describe()["event_columns"][0]
    Layout.of(description).check(state)
    x_NF, c_NC = (torch.tensor(v, dtype=torch.float32) for v in (events(AT), C[None].repeat(8, 0)))
    torch.testing.assert_close(again.log_prob(x_NF, c_NC), made.log_prob(x_NF, c_NC))


BIRTH_SPIN = Column("chi_b", "", low=0, high=1)


@pytest.fixture(scope="module")
def of_birth_spin():
    domain = {"chi_b": (0.0, 0.5), "alpha": (0.5, 2.0)}
    return bounded(MASSES, (BIRTH_SPIN, GRID[1]), kind="affine", blocks=1, domain=domain)


@pytest.mark.parametrize("kind", [Emulator, in_arrays])
def test_a_condition_beyond_its_bounds_is_refused_and_at_them_taken(of_birth_spin, kind):
    made = kind(of_birth_spin)

    at = made.log_prob([[8.0, 7.0]], chi_b=0.0, alpha=1.0)
    with pytest.raises(EmulatorError, match=r"chi_b must be in \[0, 1\], got 1.2"):
        made.log_prob([[8.0, 7.0]], chi_b=1.2, alpha=1.0, on_extrapolation="ignore")

    assert np.isfinite(at).all()


def test_a_population_is_nothing_where_a_condition_cannot_be(of_birth_spin):
    made = in_arrays(of_birth_spin)
    model = PopulationModel(made, extrapolate=True)
    data = {"mass_1": np.array([8.0]), "mass_2": np.array([7.0])}

    density = [model(data, chi_b=spin, alpha=1.0)[0] for spin in (-0.1, 0.0, 0.9, 1.1)]
    impossible = model(data, chi_b=0.1, alpha=-1.0)

    assert [value > 0 for value in density] == [False, True, True, False]
    assert impossible == 0


def test_a_rate_is_refused_outside_the_bounds_of_its_conditions():
    totals = [Total((spin,), 1e3, 10) for spin in (0.0, 0.5, 1.0)]
    rate = Efficiency((BIRTH_SPIN,), tuple(totals), "binaries")

    assert np.isfinite(rate(chi_b=0.0))
    with pytest.raises(EmulatorError, match=r"chi_b must be in \[0, 1\], got -0.1"):
        rate(chi_b=-0.1, on_extrapolation="ignore")
    with pytest.raises(EmulatorError, match=r"chi_b must be in \[0, 1\], got 1.5"):
        Efficiency((BIRTH_SPIN,), (*totals, Total((1.5,), 1e3, 10)), "binaries")


def test_a_description_whose_domain_is_beyond_its_bounds_is_none(of_birth_spin):
    description = of_birth_spin.describe()
    description["domain"]["chi_b"] = [0.0, 1.5]

    with pytest.raises(ValueError, match="the range of chi_b cannot be"):
        Layout.of(description)


def test_masses_between_bounds_are_no_pair_and_make_a_population():
    columns = tuple(Column(one.name, "Msun", low=2, high=100) for one in MASSES)
    made = in_arrays(bounded(columns, GRID[:1], kind="affine", blocks=1))
    data = {"mass_1": np.array([8.0, 101.0, 8.0]), "mass_2": np.array([7.0, 7.0, 1.9])}

    density = PopulationModel(made)(data, Z=0.7)

    assert made.pair is None
    assert density[0] > 0
    assert density[1] == density[2] == 0
