"""For how many events an emulator is good, of emulators that are wrong by a known amount."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.columns import Column
from data_prep.dataset import Dataset, key
from data_prep.preparation.prepare import prepare
from models.bundle.files import EmulatorError
from models.bundle.reliability import CELLS, HELD_OUT, Catalogs, Reliability
from models.evaluation.catalogs import coverage
from models.evaluation.catalogs.coverage import measure

SPREAD = 0.8
"""Of the logarithm of either mass, whose mean is half of the logarithm of a condition."""
CELLS_OF = [(Z, alpha) for Z in np.geomspace(1e-4, 1e-2, 6) for alpha in np.geomspace(0.5, 5, 4)]
"""Eight of them are inside."""
ROWS = 1_000
"""Of each cell; three fifths are in the training part."""
WRONG = 0.08
"""Error of the mean of the logarithm of either mass."""
NUMBER = SPREAD**2 / WRONG**2
"""Events at which that error equals the posterior's width: both fall on one condition alone."""


class Normal(torch.nn.Module):
    """The truth, or a density whose means are wrong: at all conditions, or below some Z."""

    def __init__(self, wrong=0.0, below=np.inf, positive=True):
        super().__init__()
        self.wrong, self.below = wrong, below
        self.conditions = SimpleNamespace(mean_K=torch.zeros(2, dtype=torch.float64))
        self.condition_columns = (Column("Z", "", positive), Column("alpha", "", positive))
        values = np.array(CELLS_OF).T
        self.domain = {
            name: (min(each), max(each)) for name, each in zip(("Z", "alpha"), values, strict=True)
        }

    def log_prob(self, x_NF, c_UC, counts):
        wrong_U = self.wrong * (c_UC[:, :1] < self.below)
        z_NF = x_NF.log() - (0.5 * c_UC.log() + wrong_U).repeat_interleave(counts[0], 0)
        return -0.5 * ((z_NF / SPREAD) ** 2).sum(1)


def table(wider=1.0):
    """Mergers of that density; wider ones with the weights that make up for it."""
    rng = np.random.default_rng(7)
    Z, alpha = np.repeat(CELLS_OF, ROWS, axis=0).T
    z = wider * rng.standard_normal((len(Z), 2))
    masses = np.exp(0.5 * np.log(np.stack([Z, alpha], 1)) + SPREAD * z)
    columns = {"Mass_0": masses[:, 0], "Mass_1": masses[:, 1], "Z": Z, "alpha": alpha}
    if wider > 1:
        columns["weight"] = np.exp(-0.5 * (z**2).sum(1) * (1 - 1 / wider**2))
    return pa.table(columns)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogs")
    pq.write_table(table(), folder / "mergers.parquet")
    prepare([folder / "mergers.parquet"], folder / "prepared")
    return folder / "prepared"


def of(density, data, **options):
    return measure(density, data, catalogs=40, split="train", **options)


def test_an_exact_emulator_is_good_for_more_than_can_be_told(data):
    found = of(Normal(), data)

    large, small = found.measured
    assert (large.events, large.catalogs, large.cells, large.cells_inside) == (200, 24, 8, 8)
    assert (small.events, small.catalogs) == (100, 40)
    for one in found.measured:
        assert abs(one.square - 1) < 2 * one.error < 0.6
        assert one.error >= np.sqrt(1 / one.catalogs)  # that of a mean of squares of two normals
        assert abs(one.covered / one.catalogs - 0.9) < 0.11
        assert str(one.good_for).startswith("more than ")
    assert str(found).endswith(", by 24 catalogues of 200 in cells")
    assert found.missing == {HELD_OUT: "no cell was held out of training"}


def test_an_emulator_that_is_wrong_is_good_for_a_known_number(data):
    found = of(Normal(WRONG), data)

    for one in found.measured:
        assert one.good_for.events == pytest.approx(NUMBER, rel=0.3)
        assert one.good_for.low < NUMBER < one.good_for.high
    assert found.warning(90) is None
    assert "has 150 events, and this emulator is good for" in found.warning(150)


def test_members_that_are_wrong_by_chance_are_good_for_more_than_each_of_them(data):
    """Their mean likelihood is as wide as they disagree."""
    two = Normal()
    two.flows = [Normal(WRONG), Normal(-WRONG)]

    together, alone = (of(each, data).at(CELLS) for each in (two, two.flows[0]))

    assert together.good_for.most > 3 * alone.good_for.most
    assert together.covered > alone.covered


def test_held_out_cells_are_told_apart_and_count_for_an_eighth(data):
    dataset = Dataset.read(data)
    low = sorted({cell.conditions[0] for cell in dataset.cells})[:3]
    out = frozenset(key(cell.conditions) for cell in dataset.cells if cell.conditions[0] in low[1:])

    density = Normal(2 * WRONG, below=low[-1] * 1.1)
    found = of(density, data, held_out=[(density, out)])

    assert found.at(HELD_OUT).cells == found.at(CELLS).cells == 4
    assert found.at(CELLS).good_for.most > 3 * found.at(HELD_OUT).good_for.most
    assert found.at(CELLS).good_for.most > found.good_for.events > found.at(HELD_OUT).good_for.most
    assert found.at(HELD_OUT).worst["Z"] in low


def test_held_out_cells_are_those_of_the_flows_that_lack_them(data):
    """Two halves of the cells, without each of which another flow is trained."""
    dataset, density = Dataset.read(data), Normal()
    inside = [key(cell.conditions) for cell in dataset.cells]
    halves = [
        (Normal(WRONG), frozenset(inside[::2])),
        (Normal(-WRONG), frozenset(inside[1::2])),
    ]

    found = of(density, data, held_out=halves)

    assert found.at(HELD_OUT).cells == found.at(CELLS).cells == 8
    assert found.at(HELD_OUT).good_for.events == pytest.approx(NUMBER, rel=0.3)
    assert found.at(CELLS) == of(density, data).at(CELLS)
    # The middle between cells is as wrong as they are, or by an eighth of what is more beyond.
    assert 4 * NUMBER < found.worth < np.inf


def test_what_an_emulator_is_worth_makes_its_posteriors_as_wide_as_they_are_wrong(data):
    found = of(Normal(WRONG), data, worth=NUMBER)

    assert of(Normal(WRONG), data).worth == pytest.approx(NUMBER, rel=0.25)
    for one in found.measured:
        # An error that is the same everywhere lies on one side: its square is right, no more.
        assert one.square == pytest.approx(1, abs=2.5 * one.error)


def test_weighted_rows_make_catalogues_of_mergers_of_equal_weight(tmp_path):
    """Rows as they stand are twice as wide as mergers are, and their squares four times."""
    pq.write_table(table(wider=2.0), tmp_path / "mergers.parquet")
    prepare([tmp_path / "mergers.parquet"], tmp_path / "prepared", weights="weight")

    found = of(Normal(), tmp_path / "prepared").measured

    assert [one.events for one in found] == [50, 25]
    for one in found:
        assert abs(one.square - 1) < 2 * one.error < 0.6


def test_no_number_is_told_of_rows_that_make_too_few_catalogues(data, prepared):
    assert not measure(Normal(), data, catalogs=9).measured
    found = measure(Normal(), prepared, catalogs=40)
    assert found.good_for is found.warning(10**6) is None
    assert found.worth == np.inf
    assert "the val rows of 1 cell inside" in found.missing[CELLS]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        pytest.param((), "no conditions", id="none"),
        pytest.param((Column("c", "", categories=("CE", "SMT")),), "c is a category", id="texts"),
        pytest.param((Column("a", ""),) * 4, "it has 4 conditions", id="many"),
    ],
)
def test_what_cannot_be_measured_is_said(columns, why, data):
    assert why in coverage._refusal(replace(Dataset.read(data), condition_columns=columns))


def test_a_posterior_without_a_grid_is_no_measurement(data):
    found = of(Normal(np.nan), data)

    assert not found.measured
    assert "no grid fits the posterior of 200 events" in found.missing[CELLS]


def test_an_evaluation_counts_the_regions_that_hold_the_truth(data):
    """With the interval of a binomial fraction: that of Wilson, by its formula."""
    wrong = SimpleNamespace(module=Normal(WRONG), card={})
    dataset = Dataset.read(data)

    found = coverage.of_catalogs(wrong, dataset, data, "train", 40)
    assert coverage.of_catalogs(wrong, dataset, data, "train", 0) == {}

    one, z = found["catalogs"]["trained_cells"], 1.6449
    assert found["catalogs"]["held_out_cells"] is None
    assert (one["events"], one["catalogs"], one["fraction"]) == (100, 40, one["covered"] / 40)
    half = z / (1 + z**2 / 40) * np.sqrt(one["fraction"] * (1 - one["fraction"]) / 40 + z**2 / 6400)
    assert np.diff(one["interval"])[0] == pytest.approx(2 * half, rel=1e-3)
    assert one["interval"][0] < one["fraction"] < one["interval"][1] < 0.9
    assert json.loads(json.dumps(found)) == found


def catalogs(**other):
    given = {"events": 200, "catalogs": 30, "cells": 10, "cells_inside": 12, "covered": 26}
    given |= {"square": 1.5, "error": 0.1, "worst": {"Z": 0.001}, "place": CELLS}
    return Catalogs(**(given | other))


@pytest.mark.parametrize(
    ("square", "told"),
    [
        pytest.param(1.5, "400 (330 to 500)", id="wrong"),
        pytest.param(1.05, "more than 1,300", id="within the error"),
        pytest.param(0.7, "more than 2,000", id="by chance below one"),
    ],
)
def test_the_number_of_events_follows_from_the_square(square, told):
    assert str(catalogs(square=square).good_for) == told


@pytest.mark.parametrize(
    ("places", "worth"),
    [
        pytest.param([(CELLS, 1.5)], 400, id="cells alone"),
        pytest.param([(CELLS, 1.5), (HELD_OUT, 5.5)], 200, id="an eighth of what is more"),
        pytest.param([(CELLS, 1.5), (HELD_OUT, 1.2)], 400, id="held-out cells that are no worse"),
        pytest.param([(HELD_OUT, 1.5)], 400, id="held-out cells alone"),
        pytest.param([(CELLS, 0.9)], np.inf, id="no error"),
        pytest.param([], np.inf, id="nothing"),
    ],
)
def test_what_an_emulator_is_worth_follows_from_the_squares(places, worth):
    measured = [catalogs(place=place, square=square) for place, square in places]
    # Of two sizes with equal errors the larger one counts four times.
    half = [catalogs(place=p, square=1 + (s - 1) / 2, events=100) for p, s in places]
    for some in (measured, measured + half):
        found = Reliability(measured=tuple(some), missing={})
        assert found.worth == pytest.approx(worth)
        if found.good_for and found.good_for.events:
            assert found.good_for.low < found.worth < (found.good_for.high or np.inf)


def test_a_card_keeps_it_and_an_older_one_has_none():
    found = Reliability(measured=(catalogs(), catalogs(square=1.0)), missing={HELD_OUT: "none"})
    stored = json.loads(json.dumps(found.to_card()))

    assert Reliability.from_card({"reliability": stored}) == found
    assert stored["measured"][0]["good_for"]["events"] == pytest.approx(400)
    assert Reliability.from_card({}) is None
    for harm in ({"error": 0.0}, {"square": "1"}, {"place": "elsewhere"}, {"worst": None}):
        harmed = {**stored, "measured": [stored["measured"][0] | harm]}
        with pytest.raises(EmulatorError, match="reliability .* cannot be read .* export it again"):
            Reliability.from_card({"reliability": harmed})
