"""The density as a table: its integral, how close it is to the flow, and its file."""

import importlib

import numpy as np
import pytest

from models.arrays.table import Table, TableError
from models.bundle.files import EmulatorError
from models.inference.catalog import CatalogLikelihood
from models.inference.population import PopulationModel
from tests.random_flows import MIXTURES, a_flow, in_arrays

HERE = {"Z": 0.001, "alpha": 1.0}
SMOOTH = {"kind": "affine", "activation": "tanh", "blocks": 4}


@pytest.fixture(scope="module")
def flow():
    """Of random weights, smooth enough for a small table."""
    return in_arrays(a_flow(options=SMOOTH, noise=0.05))


@pytest.fixture(scope="module")
def table(flow):
    return Table.of(flow, points=24, condition_points=4)


@pytest.fixture(scope="module")
def boxes():
    """Whose edges move with the conditions, in the form of the default flow."""
    return in_arrays(a_flow(options=MIXTURES["mixture"], seed=3, noise=0.2))


@pytest.fixture(scope="module")
def of_boxes(boxes):
    return Table.of(boxes, points=24, condition_points=12)


def drawn(flow, rows=2_000, **conditions):
    noise = np.random.default_rng(1).standard_normal((rows, flow.noise_columns))
    return flow.from_noise(noise, np.array([conditions[n] for n in flow.condition_columns]))


@pytest.mark.parametrize("here", [HERE, {"Z": 0.0037, "alpha": 3.3}], ids=["one", "other"])
def test_it_gives_the_flows_density_between_its_points(flow, table, here):
    events = drawn(flow, **here)

    error = table.log_prob(events, **here) - flow.log_prob(events, **here)

    within = np.isfinite(error)
    assert within.mean() > 0.995
    assert np.abs(np.mean(error[within])) < 0.01
    assert np.std(error[within]) < 0.03


def integral(density, here, log_m=(-2, 7), log_q=(-6, 6), points=700):
    """Of a density of two masses, by sums over a grid of its own."""
    lines = np.linspace(*log_m, points), np.linspace(*log_q, points)
    m, q = np.meshgrid(*map(np.exp, lines), indexing="ij")
    x_NF = np.stack([m, m * q], -1).reshape(-1, 2)
    cell = np.prod([line[1] - line[0] for line in lines])
    return (np.exp(density.log_prob(x_NF, **here)) * x_NF.prod(1)).sum() * cell


@pytest.mark.parametrize("here", [HERE, {"Z": 0.0037, "alpha": 3.3}, {"Z": 0.0001, "alpha": 5.0}])
@pytest.mark.parametrize("which", ["table", "of_boxes"])
def test_it_integrates_to_one_under_every_condition(request, which, here):
    """Between the points of the conditions and at them, whatever the error of ln p is."""
    assert integral(request.getfixturevalue(which), here) == pytest.approx(1, abs=3e-3)


def test_a_poor_table_integrates_to_one_as_well(boxes):
    poor = Table.of(boxes, points=8, condition_points=2, largest_error=10)

    assert poor.rms_error > 0.1
    assert integral(poor, HERE) == pytest.approx(1, abs=3e-3)


def test_an_edge_moves_with_the_conditions_between_its_points():
    """A box of one column, whose edges no mean of densities would follow."""
    made = in_arrays(a_flow(1, 1, {**MIXTURES["mixture"], "components": 1}, noise=0.3))
    table = Table.of(made, points=32, condition_points=12)
    x = np.exp(np.linspace(-3, 6, 10_000))[:, None]

    for Z in (0.00013, 0.0021, 0.0087):
        flow, found = (np.exp(each.log_prob(x, Z=Z)) * x[:, 0] for each in (made, table))
        assert found.sum() * 9 / 10_000 == pytest.approx(1, abs=1e-3)
        assert np.abs(found - flow).sum() * 9 / 10_000 < 0.02


def test_what_is_detected_of_a_population_is_what_its_draws_show(boxes, of_boxes):
    side = np.exp(np.linspace(0, 5, 300))
    pair = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    injections = {"mass_1": pair.max(1), "mass_2": pair.min(1), "prior": 2 / pair.prod(1) / 25}
    seen = pair.sum(1) > 15
    injections = {name: values[seen] for name, values in injections.items()}
    event = {"mass_1": [9.0], "mass_2": [8.0], "prior": [1.0]}

    fractions = [
        CatalogLikelihood(PopulationModel(density), [event], injections, drawn=len(pair))
        .estimate(**HERE)
        .detected_fraction
        for density in (boxes, of_boxes)
    ]

    assert fractions[1] == pytest.approx(fractions[0], rel=0.01)
    truth = (drawn(boxes, 40_000, **HERE).sum(1) > 15).mean()
    assert fractions[1] == pytest.approx(truth, rel=0.03)


def test_the_posterior_of_a_catalogue_is_the_flows(boxes, of_boxes):
    """Of ln Z, of 100 events: to a tenth of its width in the mean over catalogues."""
    ln_Z = np.linspace(*np.log(boxes.domain["Z"]), 60)
    shifts = []
    for alpha in (0.8, 2.2, 4.0):
        events = drawn(boxes, 100, Z=0.0012, alpha=alpha)
        c_KC = np.stack([np.exp(ln_Z), np.full(60, alpha)], 1)[:, None]
        means, widths = [], []
        for density in (boxes, of_boxes):
            ln_K = density.log_density(events[None], c_KC).sum(1)
            weight_K = np.exp(ln_K - ln_K.max())
            weight_K /= weight_K.sum()
            means.append(weight_K @ ln_Z)
            widths.append(np.sqrt(weight_K @ (ln_Z - means[-1]) ** 2))
        shifts.append((means[1] - means[0]) / widths[0])

    assert np.sqrt(np.mean(np.square(shifts))) < 0.1


def test_more_points_are_closer_to_the_flow(flow):
    errors = [
        Table.of(flow, points=n, condition_points=n // 3, largest_error=9).rms_error
        for n in (9, 18)
    ]

    assert errors[0] > 2.5 * errors[1]


def test_the_error_it_reports_is_what_draws_show(boxes, of_boxes):
    ends, errors = np.log(list(boxes.domain.values())), []
    for ln_c in np.random.default_rng(7).uniform(*ends.T, (24, 2)):
        here = dict(zip(boxes.condition_columns, np.exp(ln_c), strict=True))
        events = drawn(boxes, 500, **here)
        errors.append(of_boxes.log_prob(events, **here) - boxes.log_prob(events, **here))
    error = np.concatenate(errors)

    rms = np.sqrt(np.mean(error[np.isfinite(error)] ** 2))
    assert of_boxes.rms_error == pytest.approx(rms, rel=0.5)
    assert 0.99 < of_boxes.integral < 1.01
    assert 0.99 < of_boxes.captured < 1.01


@pytest.mark.parametrize("event", [[-1.0, 5.0], [5.0, 0.0], [1e6, 1e6]], ids=str)
def test_outside_the_grid_the_density_is_zero(table, event):
    assert table.log_prob([event, [9.0, 8.0]], **HERE)[0] == -np.inf
    assert np.isfinite(table.log_prob([event, [9.0, 8.0]], **HERE)[1])


def test_a_saved_table_is_the_same_and_holds_no_pickle(table, tmp_path):
    path = table.save(tmp_path / "deep" / "table.npz")
    again = Table.load(path)
    events = [[9.0, 8.0], [20.0, 22.0]]

    np.testing.assert_array_equal(again.log_prob(events, **HERE), table.log_prob(events, **HERE))
    for name in ("event_supports", "condition_supports", "domain", "pair", "rms_error", "captured"):
        assert getattr(again, name) == getattr(table, name)
    with np.load(path, allow_pickle=False) as stored:
        assert not any(stored[name].dtype.hasobject for name in stored.files)


def test_other_columns_and_no_conditions_fit_in_a_table(tmp_path):
    three = in_arrays(a_flow(features=3, options=SMOOTH, noise=0.03))
    alone = in_arrays(a_flow(conditions=0, options=SMOOTH, noise=0.03))

    for flow, given in ((three, HERE), (alone, {})):
        table = Table.load(
            Table.of(flow, points=16, condition_points=2, largest_error=0.3).save(tmp_path / "t")
        )
        events = drawn(flow, 500, **given)
        error = table.log_prob(events, **given) - flow.log_prob(events, **given)
        assert np.std(error[np.isfinite(error)]) < 0.3


def test_a_population_model_takes_a_table_in_place_of_the_flow(flow, table):
    events = drawn(flow, 300, **HERE)
    data = {"mass_1": events.max(1), "mass_2": events.min(1)}
    alpha = np.linspace(0.5, 5, 300)
    over = {"Z": ([0.001, 0.005], [1.0, 1.0])}

    by_table = PopulationModel(table, over=over).ln_prob(data, alpha=alpha)

    error = by_table - PopulationModel(flow, over=over).ln_prob(data, alpha=alpha)
    assert np.std(error[np.isfinite(error)]) < 0.1
    assert np.isfinite(error).mean() > 0.98


@pytest.mark.slow
def test_jax_compiles_it_and_has_finite_gradients(table):
    jax = importlib.import_module("jax")
    x_NF, c_C = np.array([[9.0, 8.0], [-1.0, 5.0], [1e6, 1.0]]), np.array([0.001, 1.0])

    with jax.enable_x64(True):
        x, c = jax.numpy.asarray(x_NF), jax.numpy.asarray(c_C)

        def summed(x, c):
            log_density = table.log_density(x, c)
            return jax.numpy.exp(log_density).sum(), log_density

        both = jax.jit(jax.value_and_grad(summed, (0, 1), has_aux=True))
        (_, found), gradient = both(x, c)

    np.testing.assert_allclose(found, table.log_density(x_NF, c_C), rtol=1e-10)
    single = jax.jit(table.log_density)(jax.numpy.asarray(x_NF), jax.numpy.asarray(c_C))
    np.testing.assert_allclose(single, found, rtol=1e-4)
    assert all(np.isfinite(part).all() for part in gradient)
    assert (np.asarray(gradient[0])[0] != 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda f: Table.of(f, points=2), "at least 3 points", id="points"),
        pytest.param(lambda f: Table.of(f, points=4096), "does not fit memory", id="memory"),
        pytest.param(
            lambda f: Table.of(f, points=4, condition_points=2), "nats from the flow", id="error"
        ),
    ],
)
def test_a_table_that_cannot_be_made_is_refused(flow, call, message):
    with pytest.raises(TableError, match=message):
        call(flow)


def test_conditions_that_cannot_be_have_no_density(table):
    c_NC = np.array([[0.001, 1.0], [np.nan, 1.0], [0.001, np.inf], [0.0, 1.0], [0.001, -1.0]])

    found = table.log_density(np.array([9.0, 8.0]), c_NC)

    np.testing.assert_array_equal(np.isnan(found), [False, True, True, True, True])


def test_a_bad_call_is_refused_with_a_sentence(table):
    with pytest.raises(EmulatorError, match="conditions are Z, alpha: missing alpha"):
        table.log_prob([[9.0, 8.0]], Z=0.001)
    with pytest.raises(EmulatorError, match="must have shape"):
        table.log_prob([9.0, 8.0], **HERE)
    with pytest.raises(EmulatorError, match="events must be finite, got nan"):
        table.log_prob([[np.nan, 8.0]], **HERE)


def _text(path):
    path.write_text("m0,m1\n")


def _newer(path):
    with np.load(path) as stored:
        values = {name: stored[name] for name in stored.files}
    np.savez(path, **{**values, "schema": 4})


def _older(path):
    np.savez(path, schema=2, log_density=np.zeros((4, 4)))


def _other(path):
    np.savez(path, numbers=np.ones(3))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda path: path.unlink(), "is not a table of an emulator", id="missing"),
        pytest.param(_text, "is not a table of an emulator", id="text"),
        pytest.param(_other, "is not a table of an emulator", id="other"),
        pytest.param(_newer, "has schema 4, this version reads 3: upgrade", id="newer"),
        pytest.param(_older, "do not integrate to one: make it anew", id="older"),
    ],
)
def test_a_file_that_is_no_table_is_refused(table, tmp_path, damage, message):
    path = table.save(tmp_path / "table.npz")
    damage(path)

    with pytest.raises(TableError, match=message):
        Table.load(path)
