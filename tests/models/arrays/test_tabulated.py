"""The density on a grid: its file, and how close it is to the flow."""

import importlib

import numpy as np
import pytest

from models.arrays.table import Table, TableError
from models.bundle.files import EmulatorError
from models.inference.population import PopulationModel
from tests.random_flows import a_flow, in_arrays

HERE = {"Z": 0.001, "alpha": 1.0}
SMOOTH = {"kind": "affine", "activation": "tanh", "blocks": 4}


@pytest.fixture(scope="module")
def flow():
    """Of random weights, smooth enough for a small grid."""
    return in_arrays(a_flow(options=SMOOTH, noise=0.05))


@pytest.fixture(scope="module")
def table(flow):
    return Table.of(flow, points=64, condition_points=5)


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


def test_more_points_are_closer_to_the_flow(flow):
    at_a_point = {"Z": 0.0001, "alpha": 5.0}
    events = drawn(flow, **at_a_point)
    errors = []
    for points in (16, 32, 64):
        error = Table.of(flow, points=points, condition_points=3).log_prob(events, **at_a_point)
        error -= flow.log_prob(events, **at_a_point)
        errors.append(np.std(error[np.isfinite(error)]))

    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_the_error_it_reports_is_what_draws_show():
    rough = in_arrays(a_flow(noise=0.05))
    table = Table.of(rough, points=32, condition_points=4)

    errors = []
    for here in ({"Z": 0.0003, "alpha": 0.7}, HERE, {"Z": 0.005, "alpha": 4.0}):
        events = drawn(rough, **here)
        errors.append(table.log_prob(events, **here) - rough.log_prob(events, **here))
    error = np.concatenate(errors)

    rms = np.sqrt(np.mean(error[np.isfinite(error)] ** 2))
    assert rms > 0.02
    assert table.rms_error == pytest.approx(rms, rel=0.5)


def test_it_integrates_to_one_and_says_how_much_it_captured(table):
    log_m, ratio = np.linspace(-2, 7, 500), np.linspace(-6, 6, 500)
    m, q = np.meshgrid(np.exp(log_m), np.exp(ratio), indexing="ij")
    x_MMF = np.stack([m, m * q], -1)

    density = np.exp(table.log_density(x_MMF, np.array([0.002, 2.0]))) * x_MMF.prod(-1)

    step = (log_m[1] - log_m[0]) * (ratio[1] - ratio[0])
    assert density.sum() * step == pytest.approx(1, abs=0.02)
    assert 0.99 < table.captured <= 1


def test_a_flow_at_its_nodes_is_reproduced_up_to_the_part_captured(flow, table):
    low, high = table.limits_A2[:2].T
    at = low + (high - low) * 20 / 63
    events = np.exp([[at[0], at[0] + at[1]]])

    found = table.log_prob(events, Z=0.0001, alpha=5.0)

    assert found - flow.log_prob(events, Z=0.0001, alpha=5.0) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("event", [[-1.0, 5.0], [5.0, 0.0], [np.nan, 5.0], [1e6, 1e6]], ids=str)
def test_outside_the_grid_the_density_is_zero(table, event):
    assert table.log_prob([event, [9.0, 8.0]], **HERE)[0] == -np.inf
    assert np.isfinite(table.log_prob([event, [9.0, 8.0]], **HERE)[1])


def test_a_saved_table_is_the_same_and_holds_no_pickle(table, tmp_path):
    path = table.save(tmp_path / "deep" / "table.npz")
    again = Table.load(path)
    events = [[9.0, 8.0], [20.0, 22.0]]

    np.testing.assert_array_equal(again.log_prob(events, **HERE), table.log_prob(events, **HERE))
    assert (again.event_columns, again.domain) == (table.event_columns, table.domain)
    assert again.captured == table.captured
    with np.load(path, allow_pickle=False) as stored:
        assert not any(stored[name].dtype.hasobject for name in stored.files)


def test_other_columns_and_no_conditions_fit_in_a_table(tmp_path):
    three = in_arrays(a_flow(features=3, options=SMOOTH, noise=0.03))
    alone = in_arrays(a_flow(conditions=0, options=SMOOTH, noise=0.03))

    for flow, given in ((three, HERE), (alone, {})):
        table = Table.load(
            Table.of(flow, points=32, condition_points=3).save(tmp_path / "table.npz")
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
        found = jax.jit(table.log_density)(x, c)
        gradient = jax.jit(
            jax.grad(lambda x, c: jax.numpy.exp(table.log_density(x, c)).sum(), (0, 1))
        )(x, c)

    np.testing.assert_allclose(found, table.log_density(x_NF, c_C), rtol=1e-10)
    single = jax.jit(table.log_density)(jax.numpy.asarray(x_NF), jax.numpy.asarray(c_C))
    np.testing.assert_allclose(single, found, rtol=1e-4)
    assert all(np.isfinite(part).all() for part in gradient)
    assert (np.asarray(gradient[0])[0] != 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda f: Table.of(f, points=1), "at least 2 points", id="points"),
        pytest.param(lambda f: Table.of(f, points=4096), "does not fit memory", id="memory"),
    ],
)
def test_a_table_that_cannot_be_made_is_refused(flow, call, message):
    with pytest.raises(TableError, match=message):
        call(flow)


def test_a_bad_call_is_refused_with_a_sentence(table):
    with pytest.raises(EmulatorError, match="conditions are Z, alpha: missing alpha"):
        table.log_prob([[9.0, 8.0]], Z=0.001)
    with pytest.raises(EmulatorError, match="must have shape"):
        table.log_prob([9.0, 8.0], **HERE)


def _text(path):
    path.write_text("m0,m1\n")


def _newer(path):
    with np.load(path) as stored:
        values = {name: stored[name] for name in stored.files}
    np.savez(path, **{**values, "schema": 3})


def _other(path):
    np.savez(path, numbers=np.ones(3))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda path: path.unlink(), "is not a table of an emulator", id="missing"),
        pytest.param(_text, "is not a table of an emulator", id="text"),
        pytest.param(_other, "is not a table of an emulator", id="other"),
        pytest.param(_newer, "has schema 3, this version reads up to 2", id="newer"),
    ],
)
def test_a_file_that_is_no_table_is_refused(table, tmp_path, damage, message):
    path = table.save(tmp_path / "table.npz")
    damage(path)

    with pytest.raises(TableError, match=message):
        Table.load(path)
