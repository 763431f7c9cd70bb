"""The sentence before the numbers, and the order of the cells."""

import pytest

from hpo.emulator.verdict import by_badness, marked, verdict, worst_first
from models.bundle.reliability import CELLS, Catalogs, Reliability


def cell(ratio, beyond=False):
    return {
        "conditions": {"Z": 0.001 * ratio},
        "ks": {"Mass_0": 0.01, "Mass_1": 0.02 * ratio},
        "floor": {"Mass_0": 0.02, "Mass_1": 0.02},
        "beyond_chance": beyond,
    }


def found(*cells):
    worst = {"conditions": {"Z": 0.003}, "column": "Mass_1", "over_floor": 3.14}
    return {"cells": list(cells), "worst_ks": worst if cells else None}


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ([], "No cell has the 200 rows"),
        ([cell(1)], "None of 1 cell is further"),
        ([cell(1), cell(3, True)], "1 of 2 cells is further from the data than chance explains; "),
        ([cell(4, True), cell(3, True)], "2 of 2 cells are further"),
    ],
)
def test_the_verdict_counts_the_cells_that_chance_does_not_explain(cells, told):
    said = verdict(found(*cells), None)

    assert said.startswith(told)
    assert said.endswith("no export measured.")
    assert ("Z = 0.003, where the KS distance of Mass_1 is 3.1 times" in said) == bool(cells)


def test_the_verdict_says_for_how_many_events_it_is_good():
    some = Catalogs(
        place=CELLS,
        events=50,
        catalogs=40,
        cells=8,
        cells_inside=12,
        covered=35,
        square=1.5,
        error=0.1,
        worst={"Z": 0.001},
    )

    known = Reliability(measured=(some,), missing={})

    said = verdict(found(cell(1)), known)

    assert said.endswith(f"It is good for {known.good_for} events of a catalogue.")


def test_the_worst_cell_comes_first_with_a_mark():
    evaluation = found(cell(1), cell(3, True), cell(2))
    rows = [{"Z": one["conditions"]["Z"], "rows": 500, "NLL": 4.0} for one in evaluation["cells"]]

    assert by_badness(evaluation) == [1, 2, 0]
    shown = list(worst_first(rows, evaluation, 2))
    assert [(row["Z"], row[""]) for row in shown] == [(0.003, "!"), (0.002, "")]
    assert list(shown[0]) == ["Z", "rows", "", "NLL"]


@pytest.mark.parametrize(
    ("measure", "value", "error", "ideal", "is_off"),
    [
        ("C2ST AUC", 0.51, 0.0025, 0.5, True),
        ("C2ST AUC", 0.507, 0.0025, 0.5, False),
        ("KS of levels to uniform", 0.02, None, 0.007, True),
        ("KS of levels to uniform", 0.014, None, 0.007, False),
        ("test NLL", 4.2, 0.01, None, False),
    ],
)
def test_a_number_is_marked_where_chance_does_not_reach(measure, value, error, ideal, is_off):
    assert marked(measure, value, error, ideal) == is_off
