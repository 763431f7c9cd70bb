import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpo.dashboard.runs import history
from hpo.dashboard.runs.tables import TablesError
from hpo.records.folder import read
from hpo.records.record import DataUsed
from tests.made_runs import epoch, run, trained

THESIS = Path(__file__).parents[5] / "shared" / "data" / "thesis_runs"


def test_a_curve_adds_up_time_and_rows():
    curve = history.curve(trained(5.0, 4.0, 4.5))

    np.testing.assert_allclose(curve.minutes, [0.5, 1.0, 1.5])
    np.testing.assert_allclose(curve.rows_seen, [60, 120, 180])
    assert (len(curve.epoch), curve.best) == (3, 1)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        pytest.param({}, [60, 120], id="the-split"),
        pytest.param({"training": {"eval_every": 4, "batch_size": 10}}, [40, 80], id="batches"),
        pytest.param(
            {"data": DataUsed(path="p", fingerprint=None, rows={})}, [120, 240], id="speed"
        ),
        pytest.param(
            {
                "data": DataUsed(path="p", fingerprint=None, rows={}),
                "epochs": (epoch(1, samples_per_second=None), epoch(2)),
            },
            [math.nan, math.nan],
            id="unknown",
        ),
    ],
)
def test_rows_seen_come_from_what_the_record_tells(changes, rows):
    record = dataclasses.replace(trained(5.0, 4.0), **changes)

    np.testing.assert_array_equal(history.curve(record).rows_seen, rows)


def test_what_is_not_finite_is_a_gap():
    rows = (epoch(1, val=math.inf), epoch(2, val=None), epoch(3, val=4.0))

    curve = history.curve(run(epochs=rows))

    np.testing.assert_array_equal(curve.val_nll, [math.nan, math.nan, 4.0])


@pytest.mark.parametrize(
    ("rate", "threshold"), [pytest.param(0.0, None, id="never"), pytest.param(0.01, 0.01, id="set")]
)
def test_a_threshold_of_zero_is_none(rate, threshold):
    assert history.curve(run(training={"min_rate": rate})).threshold == threshold


def test_a_run_without_epochs_has_an_empty_curve():
    curve = history.curve(run(best_epoch=None))

    assert (len(curve.epoch), curve.best, curve.minutes.shape) == (0, None, (0,))


values = arrays(np.float64, st.integers(0, 30), elements=st.floats(-1e6, 1e6))
weights = st.floats(0, 0.999)


@given(values_E=values, weight=weights)
def test_a_smoothed_curve_stays_between_its_lowest_and_highest_value(values_E, weight):
    result = history.smoothed(values_E, weight)

    air = 1e-9 * (1 + np.abs(values_E).max(initial=0.0))
    for index, each in enumerate(result):
        assert values_E[: index + 1].min() - air <= each <= values_E[: index + 1].max() + air


@given(value=st.floats(-1e6, 1e6), weight=weights, length=st.integers(1, 30))
def test_smoothing_a_constant_changes_nothing(value, weight, length):
    result = history.smoothed(np.full(length, value), weight)

    np.testing.assert_allclose(result, value, rtol=1e-9, atol=1e-9)


@given(values_E=values)
def test_a_weight_of_zero_changes_nothing(values_E):
    np.testing.assert_array_equal(history.smoothed(values_E, 0.0), values_E)


@given(values_E=values, weight=weights, gap=st.integers(0, 30))
def test_a_gap_stays_and_the_rest_is_as_if_it_were_not_there(values_E, weight, gap):
    at = min(gap, len(values_E))

    result = history.smoothed(np.insert(values_E, at, math.nan), weight)

    assert math.isnan(result[at])
    np.testing.assert_array_equal(np.delete(result, at), history.smoothed(values_E, weight))


@pytest.mark.parametrize("weight", [-0.1, 1.0, math.nan])
def test_a_weight_outside_its_range_is_refused(weight):
    with pytest.raises(TablesError, match=r"in \[0, 1\)"):
        history.smoothed(np.ones(3), weight)


@pytest.mark.skipif(not THESIS.is_dir(), reason="the thesis's runs are not here")
def test_runs_of_the_thesis_have_curves_of_the_lengths_that_they_trained():
    for path in sorted(THESIS.glob("*.json")):
        record = read(path)

        curve = history.curve(record)

        assert len(curve.epoch) == len(record.epochs)
        assert np.nanmin(curve.val_nll) == curve.val_nll[curve.best] == record.best_val_nll
