import dataclasses
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.stream import read_split
from hpo.pictures.contours import contours
from hpo.pictures.style import PlotError
from tests.conftest import SPREAD, centre


class Truth:
    """Stands in for an emulator: draws from the very density behind the prepared table."""

    event_columns: tuple = ("Mass_0", "Mass_1")
    condition_columns = ("Z", "alpha")

    @property
    def module(self):
        return SimpleNamespace(
            event_columns=[Column.named(name) for name in self.event_columns],
            condition_columns=[Column.named(name) for name in self.condition_columns],
        )

    def __init__(self):
        self.asked = None

    def sample(self, n, *, seed=None, Z, alpha):
        self.asked = np.stack([Z, alpha], axis=1)
        noise = np.random.default_rng(seed).normal(size=(n, 2)) * SPREAD
        return np.exp(centre(np.asarray(Z), np.asarray(alpha)) + noise)

    def log_prob(self, events, *, Z, alpha, **_):
        z = (np.log(events) - centre(Z, alpha)) / SPREAD
        density = -0.5 * z**2 - np.log(SPREAD) - 0.5 * math.log(2 * math.pi) - np.log(events)
        return density.sum(axis=1)


def legend_of(figure):
    (legend,) = figure.legends
    return legend.get_title().get_text(), [each.get_text() for each in legend.get_texts()]


def test_the_emulator_draws_at_the_conditions_of_the_rows_it_is_shown_with(tmp_path, prepared):
    emulator = Truth()
    contours(emulator, prepared, out=tmp_path / "masses.png")

    rows = read_split(prepared, "test").conditions
    asked, drawn = np.unique(emulator.asked, axis=0, return_counts=True)
    there, held = np.unique(rows, axis=0, return_counts=True)
    np.testing.assert_array_equal(asked, there)
    assert len(emulator.asked) == 10_000
    np.testing.assert_allclose(drawn / 10_000, held / len(rows), atol=2 / len(rows))


def test_the_notes_tell_how_many_rows_and_the_nll_of_the_truth(tmp_path, prepared, known, seen):
    contours(Truth(), prepared, out=tmp_path / "masses.png")

    rows = read_split(prepared, "test")
    title, entries = legend_of(seen[0])
    truth = known(rows.events.astype(float), rows.conditions.astype(float))
    assert f"test rows, all cells: NLL = {truth:.3f}" in title
    assert "lines enclose 50, 90 and 99 % of the events" in title
    assert entries == [f"data, n = {len(rows.events):,}", "emulator"]


def test_every_axis_has_a_unit(tmp_path, prepared, seen):
    contours(Truth(), prepared, out=tmp_path / "masses.png")

    main, above, right = seen[0].axes
    assert main.get_xlabel() == r"Mass_0 [$M_\odot$]"
    assert main.get_ylabel() == r"Mass_1 [$M_\odot$]"
    assert above.get_ylabel() == right.get_xlabel() == r"density [1/$M_\odot$]"


def test_one_cell_shows_that_cell_s_rows_alone(tmp_path, prepared, seen):
    emulator = Truth()

    contours(emulator, prepared, conditions={"Z": 0.001, "alpha": 5.0}, out=tmp_path / "cell.png")

    cell = next(each for each in Dataset.read(prepared).cells if each.conditions == (0.001, 5.0))
    title, entries = legend_of(seen[0])
    assert f"data, n = {cell.test:,}" in entries
    assert "Z = 0.001, alpha = 5" in title
    np.testing.assert_allclose(np.unique(emulator.asked, axis=0), [[0.001, 5.0]], rtol=1e-6)


def test_a_cell_of_a_few_rows_can_be_shown(tmp_path, prepared, seen):
    smallest = min(Dataset.read(prepared).cells, key=lambda each: each.test)
    Z, alpha = smallest.conditions

    contours(Truth(), prepared, conditions={"Z": Z, "alpha": alpha}, out=tmp_path / "c.png")

    title, entries = legend_of(seen[0])
    assert f"data, n = {smallest.test}" in entries
    assert "those of the data nothing" in title


def test_event_columns_can_be_named_and_turned(tmp_path, prepared, seen):
    contours(Truth(), prepared, columns=["Mass_1", "Mass_0"], out=tmp_path / "turned.png")

    assert seen[0].axes[0].get_xlabel().startswith("Mass_1")


def test_an_emulator_that_gives_a_row_no_density_is_still_shown(tmp_path, prepared, seen):
    class Blind(Truth):
        def log_prob(self, events, **conditions):
            return np.where(events[:, 0] > 20, -np.inf, super().log_prob(events, **conditions))

    contours(Blind(), prepared, out=tmp_path / "masses.png")

    assert "NLL = inf nats" in legend_of(seen[0])[0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param({"conditions": {"z": 1}}, "no condition 'z'", id="condition"),
        pytest.param({"conditions": {"Z": 0.5}}, "Z is one of 0.0001, 0.001, 0.01", id="cell"),
        pytest.param({"columns": ["Mass_0", "Mas_1"]}, "did you mean 'Mass_1'", id="column"),
        pytest.param({"columns": ["Mass_0"]}, "not 1: name two by --columns", id="one column"),
        pytest.param({"columns": ["Mass_0"] * 2}, "each event column once", id="twice"),
    ],
)
def test_what_is_not_there_is_a_sentence(tmp_path, prepared, asked, message):
    with pytest.raises(PlotError, match=message):
        contours(Truth(), prepared, **asked, out=tmp_path / "masses.png")


def test_other_data_than_the_emulator_s_is_a_sentence(tmp_path, prepared):
    emulator = Truth()
    emulator.event_columns = ("Mass_0",)

    with pytest.raises(DataError, match="event columns Mass_0, Mass_1, the flow Mass_0: "):
        contours(emulator, prepared, out=tmp_path / "masses.png")


def test_one_event_column_is_no_plane(tmp_path, prepared, monkeypatch):
    emulator = Truth()
    emulator.event_columns = ("Mass_0",)
    one = dataclasses.replace(Dataset.read(prepared), event_columns=(Column.named("Mass_0"),))
    monkeypatch.setattr(Dataset, "read", lambda folder: one)

    with pytest.raises(PlotError, match="two event columns, not 1: draw a corner"):
        contours(emulator, prepared, out=tmp_path / "masses.png")


def test_a_wild_emulator_does_not_push_the_data_into_a_corner(tmp_path, prepared, seen):
    class Wild(Truth):
        def sample(self, n, **asked):
            return super().sample(n, **asked) ** np.linspace(1, 9, n)[:, None]

    contours(Wild(), prepared, out=tmp_path / "masses.png")

    masses = read_split(prepared, "test").events[:, 0]
    low, high = seen[0].axes[0].get_xlim()
    assert high - low < 2 * np.ptp(masses)
    # What the picture does not hold is not said to be enclosed.
    assert "lines enclose nothing of the events" in legend_of(seen[0])[0]


def test_weighted_rows_are_shown_by_their_weights(tmp_path, weighted, seen):
    """The truth's marginals lie on theirs, though the rows themselves are twice as wide."""
    emulator = Truth()
    contours(emulator, weighted, out=tmp_path / "masses.png")

    rows = read_split(weighted, "test")
    effective = rows.weights.sum() ** 2 / (rows.weights**2).sum()
    title, entries = legend_of(seen[0])
    assert f"data, n = {len(rows.events):,} (effective: {effective:,.0f})" in entries
    assert effective < 0.6 * len(rows.events)
    data, drawn = (patch.get_data() for patch in seen[0].axes[1].patches)
    width = np.diff(data.edges)
    means = [
        (each.values * width * (data.edges[1:] + data.edges[:-1]) / 2).sum()
        for each in (data, drawn)
    ]
    spreads = [
        (each.values * width * ((data.edges[1:] + data.edges[:-1]) / 2 - mean) ** 2).sum()
        for each, mean in zip((data, drawn), means, strict=True)
    ]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.15)
    told = float(re.search(r"NLL = ([\d.]+)", title)[1])
    direct = -emulator.log_prob(rows.events, Z=rows.conditions[:, 0], alpha=rows.conditions[:, 1])
    assert told == pytest.approx(np.average(direct, weights=rows.weights), abs=1e-3)
    # The conditions are those of the weighted rows.
    asked = np.mean(emulator.asked[:, 1])
    assert asked == pytest.approx(np.average(rows.conditions[:, 1], weights=rows.weights), rel=1e-3)


def test_weighted_rows_are_never_shown_as_points(tmp_path, weighted, seen):
    contours(Truth(), weighted, out=tmp_path / "masses.png")

    assert not [line for line in seen[0].axes[0].lines if line.get_linestyle() == "None"]
    assert seen[0].axes[0].collections
