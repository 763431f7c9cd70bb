"""An evaluation, and two side by side, on data whose density is known."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from data_prep.dataset import Dataset
from data_prep.stream import read_split
from hpo.emulator import evaluation_table as tables
from models import Emulator
from models.bundle import batched
from models.bundle.emulator import EmulatorError
from models.bundle.ensemble import Ensemble
from models.evaluation import cells, comparison, distances, nll, report, summary, two_sample
from tests.random_flows import fresh

pytestmark = pytest.mark.usefixtures("few_trees")


@pytest.fixture(scope="module")
def flow(prepared):
    return fresh(prepared, base="normal")


@pytest.fixture(scope="module")
def other(prepared):
    """Not the same: its weights are moved a little."""
    flow = fresh(prepared, base="normal", seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in flow.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return flow


@pytest.fixture(scope="module")
def compared(flow, other, prepared):
    return json.loads(json.dumps(comparison.compare(flow, other, prepared), allow_nan=False))


def test_an_evaluation_is_json_and_complete(compared, prepared):
    found = compared["emulator"]

    assert found["test_nll"]["rows"] == Dataset.read(prepared).rows["test"]
    assert found["not_finite"] == 0
    assert found["outside_range"].keys() == {"Mass_0", "Mass_1"}
    assert found["cells"][0]["conditions"].keys() == {"Z", "alpha"}
    assert found["cells"][0]["floor"].keys() == {"Mass_0", "Mass_1"}
    assert found["speed"]["samples_per_second"] > 0


def test_the_nll_is_that_of_the_split_and_of_its_cells(compared, flow, prepared):
    found, alone = compared["emulator"], nll.nll(flow, prepared, "test")
    named = [{"Z": Z, "alpha": a} for Z in (0.0001, 0.001, 0.01) for a in (0.5, 1.0, 5.0)]
    each = nll.cell_nlls(flow, prepared, "test", named)

    assert found["test_nll"]["mean"] == pytest.approx(alone.mean, abs=1e-6)
    assert found["test_nll"]["error"] == pytest.approx(alone.error, rel=1e-6)
    assert found["cell_averaged_nll"]["cells"] == 9
    mean = np.mean([cell.nll.mean for cell in each])
    assert found["cell_averaged_nll"]["mean"] == pytest.approx(mean, abs=1e-6)
    for cell in found["cells"]:
        (match,) = (one for one in each if one.conditions == cell["conditions"])
        assert cell["nll"]["mean"] == pytest.approx(match.nll.mean, abs=1e-6)


def test_the_paired_difference_is_that_of_the_nlls_with_a_smaller_error(compared):
    first, second, difference = (compared[key] for key in ("emulator", "against", "difference"))

    for what in ("test_nll", "cell_averaged_nll"):
        gap = first[what]["mean"] - second[what]["mean"]
        assert gap != 0
        assert difference[what]["mean"] == pytest.approx(gap, abs=1e-9)
        assert 0 < difference[what]["error"] < 0.7 * first[what]["error"]
    for ours, theirs, both in zip(*(each["cells"] for each in compared.values()), strict=True):
        assert ours["conditions"] == theirs["conditions"] == both["conditions"]
        gap = ours["nll"]["mean"] - theirs["nll"]["mean"]
        assert both["nll"]["mean"] == pytest.approx(gap, abs=1e-9)


def test_small_cells_are_told_of_together(compared, prepared):
    """Rows, coverage and the test's answers of the cells that are too small for the list."""
    test, found = read_split(prepared, "test"), compared["emulator"]
    sizes = np.unique(test.conditions, axis=0, return_counts=True)[1]
    few = sizes[sizes < distances.CELL_ROWS]

    small = found["small_cells"]

    assert 0 < len(few) < len(sizes)
    assert (small["cells"], small["rows"]) == (len(few), few.sum())
    assert small["two_sample"]["rows"] == (1 + two_sample.DRAWS) * few.sum()
    assert small["calibration"]["rows"] == few.sum()
    gap = small["two_sample"]["auc"] - compared["against"]["small_cells"]["two_sample"]["auc"]
    paired = compared["difference"]["small_cells"]["two_sample"]
    assert paired["auc"] == pytest.approx(gap, abs=1e-12)
    rows = {row["measure"]: row for row in tables.whole(tables.scores(found, "test", {}))}
    assert rows["small cells, rows"]["value"] == f"{few.sum()}"
    assert rows["small cells, C2ST AUC"]["ideal"] == "0.5"


def test_a_cell_that_is_wrong_is_not_hidden_by_the_others(flow, prepared):
    part = own_draws(flow)(prepared, "test")
    true = [asdict(cell) for cell in distances.cell_distances(flow, part)]
    part.events[(part.conditions == np.array([0.01, 5.0], np.float32)).all(axis=1), 0] *= 3
    found = [asdict(cell) for cell in distances.cell_distances(flow, part)]

    assert distances.median_ratio(found, "ks", "floor") < 1.5
    ideal = distances.worst(true)["ideal"]
    assert distances.worst(true)["over_floor"] < 1.7 * ideal
    worst = distances.worst(found)
    assert worst.pop("over_floor") > 2 * ideal
    assert worst == {"ideal": ideal, "column": "Mass_0", "conditions": {"Z": 0.01, "alpha": 5.0}}


def test_two_emulators_stand_beside_the_same_floors(compared):
    for ours, theirs in zip(
        compared["emulator"]["cells"], compared["against"]["cells"], strict=True
    ):
        for floor in ("floor", "wasserstein_floor", "jensen_shannon_floor"):
            assert ours[floor] == theirs[floor]
    real, other = (compared[name]["real_against_real"] for name in ("emulator", "against"))
    assert real == other
    assert abs(real["auc"] - 0.5) < 4 * real["error"]


def test_an_emulator_beside_itself_differs_in_nothing(flow, prepared):
    difference = comparison.compare(flow, flow, prepared)["difference"]

    assert difference["test_nll"]["mean"] == difference["test_nll"]["error"] == 0
    assert difference["two_sample"] == {"auc": 0, "error": 0}
    assert [one["fraction"] for one in difference["calibration"]["coverage"].values()] == [0, 0]
    assert difference["calibration"]["pit"]["Mass_0"] == {"ks": 0, "mean": 0, "spread": 0}


def own_draws(density, times=1):
    """In the place of the reading of a part: its events are those of the density."""

    def read(folder, split):
        part, rng = read_split(folder, split), np.random.default_rng(len(split))
        own = batched.draw(density, part.conditions, rng).astype(np.float32)
        return part._replace(events=own * times)

    return read


@pytest.mark.parametrize("members", [1, 2], ids=["flow", "ensemble"])
def test_its_own_draws_pass_every_test(flow, other, prepared, monkeypatch, members):
    density = flow if members == 1 else Ensemble([flow, other]).eval()
    monkeypatch.setattr(report, "read_split", own_draws(density))

    found = report.evaluate(density, prepared)

    for test in (found["two_sample"], found["small_cells"]["two_sample"]):
        assert abs(test["auc"] - 0.5) < 4 * test["error"]
    for one in found["calibration"]["coverage"].values():
        assert abs(one["fraction"] - one["nominal"]) < 4 * one["error"]
    assert found["calibration"]["level_ks"] < 2.5 * found["calibration"]["level_ks_floor"]
    for one in found["calibration"]["pit"].values():
        assert one["ks"] < 2.5 * one["ks_floor"]


def test_a_column_that_is_moved_shows_in_its_own_transform(flow, prepared, monkeypatch):
    monkeypatch.setattr(report, "read_split", own_draws(flow, np.array([1, 1.2], np.float32)))

    pit = report.evaluate(flow, prepared)["calibration"]["pit"]

    assert pit["Mass_0"]["ks"] < 2.5 * pit["Mass_0"]["ks_floor"]
    assert pit["Mass_1"]["ks"] > 4 * pit["Mass_1"]["ks_floor"]
    assert pit["Mass_1"]["mean"] > 0.55


def test_a_flow_and_an_ensemble_are_asked_about_the_same_events(flow, other, prepared, monkeypatch):
    """Though the one draws more random numbers for an event than the other."""
    monkeypatch.setattr(report, "DRAWS", 2000)
    dataset, test = Dataset.read(prepared), read_split(prepared, "test")

    first, second = (
        report.evaluation(each, dataset, test, "test", seed=0)
        for each in (flow, Ensemble([flow, other]).eval())
    )

    assert [len(each) for each in first.levels.cells] == [len(each) for each in second.levels.cells]
    assert first.found["calibration"]["rows"] < 300
    for ours, theirs in zip(first.found["cells"], second.found["cells"], strict=True):
        assert ours["floor"] == theirs["floor"]


def test_differences_have_the_errors_of_paired_events(flow, other, prepared, monkeypatch):
    ensemble = Ensemble([flow, other]).eval()
    monkeypatch.setattr(report, "read_split", own_draws(flow))

    found = comparison.compare(flow, ensemble, prepared)

    first, second, difference = (found[key] for key in ("emulator", "against", "difference"))

    gap = first["two_sample"]["auc"] - second["two_sample"]["auc"]
    assert difference["two_sample"]["auc"] == pytest.approx(gap, abs=1e-12)
    assert 0 < difference["two_sample"]["error"] < 2 * first["two_sample"]["error"]
    for percent, one in difference["calibration"]["coverage"].items():
        both = [each["calibration"]["coverage"][percent] for each in (first, second)]
        assert one["fraction"] == pytest.approx(both[0]["fraction"] - both[1]["fraction"])
        assert 0 < one["error"] < np.hypot(both[0]["error"], both[1]["error"])


HELD_OUT = [{"Z": 0.01, "alpha": 5.0}, {"Z": 0.001, "alpha": 0.5}]


def emulator_of(flow, *named):
    held_out = [{"conditions": cell, "nll": None, "error": None, "rows": 0} for cell in named]
    return Emulator(flow, {"metrics": {"held_out_cells": held_out} if held_out else {}})


def test_held_out_cells_are_told_from_the_others(flow, prepared):
    found = report.evaluate(emulator_of(flow, *HELD_OUT), prepared)

    for key, told in (
        ("test_nll", {}),
        ("trained_cells_nll", {"without": HELD_OUT}),
        ("held_out_nll", {"only": HELD_OUT}),
    ):
        alone = nll.nll(flow, prepared, "test", **told)
        assert found[key]["mean"] == pytest.approx(alone.mean, abs=1e-6)
        assert found[key]["error"] == pytest.approx(alone.error, rel=1e-6)
        assert found[key]["rows"] == alone.rows
    assert found["trained_cells_nll"]["cells"] + found["held_out_nll"]["cells"] == 9
    marked = [cell["conditions"] for cell in found["cells"] if cell["held_out"]]
    assert marked == [{"Z": 0.01, "alpha": 5.0}]  # the other has too few rows to be listed
    told = tables.scores(found, "test", {})
    rows = {row["measure"]: row["value"] for row in tables.whole(told)}
    assert rows["test NLL, held-out cells"].startswith(f"{found['held_out_nll']['mean']:.2f}"[:3])
    assert [row["held out"] for row in tables.cells(told)].count(True) == 1


def test_without_held_out_cells_nothing_is_said_of_them(compared):
    assert compared["emulator"]["held_out_nll"] is None
    trained = dict(compared["emulator"]["trained_cells_nll"])
    assert trained.pop("cells") == 9
    assert trained == compared["emulator"]["test_nll"]
    told = tables.scores(compared["emulator"], "test", {})
    assert not any("held" in row["measure"] for row in tables.whole(told))
    assert "held out" not in tables.cells(told)[0]


def test_a_cell_that_is_not_here_was_not_held_out_here(flow, prepared):
    elsewhere = [{"Z": 0.5, "alpha": 1.0}, {"v_kick": 3.0}]

    found = report.evaluate(emulator_of(flow, *elsewhere), prepared)
    assert found["held_out_nll"] is None


@pytest.mark.parametrize("told", [7, [7], [{"conditions": {"Z": [0.1]}}], {"Z": 1}, [{}]])
def test_held_out_cells_that_are_none_are_refused(flow, prepared, told):
    emulator = Emulator(flow, {"metrics": {"held_out_cells": told}})

    with pytest.raises(EmulatorError, match="names held-out cells that are none"):
        report.evaluate(emulator, prepared)


def test_an_older_ensemble_names_them_in_its_members(flow):
    member = {"held_out_cells": [{"conditions": HELD_OUT[0]}]}

    assert cells.held_out_of({"metrics": {"members": [member]}}) == HELD_OUT[:1]
    assert cells.held_out_of({}) == []


def test_the_cells_to_report_by_were_held_out_too():
    listed = {
        f"{what}_cells": [{"conditions": cell}]
        for what, cell in zip(("report", "held_out"), HELD_OUT, strict=True)
    }

    assert cells.held_out_of({"metrics": listed}) == HELD_OUT[::-1]
    assert cells.held_out_of({"metrics": listed}, (cells.REPORT,)) == HELD_OUT[:1]
    del listed["held_out_cells"]
    assert cells.held_out_of({"metrics": listed}) == HELD_OUT[:1]


def test_the_nll_of_cells_that_chose_nothing_is_told_and_subtracted(flow, other, prepared):
    chose, told = ([{"conditions": cell}] for cell in HELD_OUT)
    card = {"metrics": {"held_out_cells": chose, "report_cells": told}}

    found = comparison.compare(Emulator(flow, card), Emulator(other, card), prepared, catalogs=40)

    assert {*found["against"]["catalogs"]["missing"]} == {"cells", "held-out cells"}
    alone = [nll.nll(each, prepared, "test", only=HELD_OUT[1:]) for each in (flow, other)]
    for key, expected in zip(("emulator", "against"), alone, strict=True):
        assert found[key]["report_nll"]["mean"] == pytest.approx(expected.mean, abs=1e-6)
        assert found[key]["report_nll"]["rows"] == expected.rows
        assert found[key]["held_out_nll"]["cells"] == 2
    gap = alone[0].mean - alone[1].mean
    assert found["difference"]["report_nll"]["mean"] == pytest.approx(gap, abs=1e-6)
    rows = [row["measure"] for row in tables.whole(tables.scores(found, "test", {}, ("a", "b")))]
    assert "test NLL, held-out cells that chose nothing" in rows


def test_two_that_held_out_other_cells_are_not_compared_on_those(flow, other, prepared):
    ours, theirs = emulator_of(flow, HELD_OUT[0]), emulator_of(other, HELD_OUT[1])

    same = comparison.compare(ours, emulator_of(other, HELD_OUT[0]), prepared)
    found = comparison.compare(ours, theirs, prepared)

    gap = same["emulator"]["held_out_nll"]["mean"] - same["against"]["held_out_nll"]["mean"]
    assert same["difference"]["held_out_nll"]["mean"] == pytest.approx(gap, abs=1e-9)
    assert found["difference"]["held_out_nll"] is None
    assert found["difference"]["trained_cells_nll"] is None
    told, told_of_same = (tables.scores(each, "test", {}, ("a", "b")) for each in (found, same))
    assert {row["held out by"] for row in tables.cells(told)} == {"a", "none"}
    assert any(row["held out by"] == "both" for row in tables.cells(told_of_same))
    rows = {row["measure"]: row for row in tables.whole(told)}
    assert rows["test NLL, held-out cells"]["difference"] is None


def test_a_card_s_cells_are_those_of_an_evaluation(compared, flow, prepared):
    told = json.loads(json.dumps(summary.summary(flow, prepared, held_out=HELD_OUT)))

    dataset = Dataset.read(prepared)
    assert [tuple(each["conditions"].values()) for each in told["cells"]] == [
        cell.conditions for cell in dataset.cells
    ]
    assert sum(each["rows"]["test"] for each in told["cells"]) == told["cells_rows"]
    assert [each["conditions"] for each in told["cells"] if each["held_out"]] == HELD_OUT[::-1]
    assert told["not_finite"] == 0
    by_conditions = {tuple(each["conditions"].values()): each for each in told["cells"]}
    for cell in compared["emulator"]["cells"]:
        ours = by_conditions[tuple(cell["conditions"].values())]
        assert (ours["ks"], ours["ks_floor"]) == (cell["ks"], cell["floor"])
        assert ours["nll"] == pytest.approx(cell["nll"]["mean"], abs=1e-9)
    assert sum("ks" in each for each in told["cells"]) == len(compared["emulator"]["cells"])


def test_a_card_of_very_many_rows_cells_and_draws_is_made_from_some(flow, prepared, monkeypatch):
    monkeypatch.setattr(summary, "ROWS", 500)
    monkeypatch.setattr(summary, "CELLS", 4)
    monkeypatch.setattr(summary, "DRAWS", 3000)
    drawn = []
    draw = batched.draw

    def counted(flow, conditions_NC, rng):
        drawn.append(len(conditions_NC))
        return draw(flow, conditions_NC, rng)

    monkeypatch.setattr(batched, "draw", counted)

    told = summary.summary(flow, prepared)

    assert told["cells_rows"] == 500
    assert len(told["cells"]) == 4
    assert min(each["rows"]["train"] for each in told["cells"]) > 400
    assert sum(drawn) <= 3500


def test_fewer_events_have_a_level_where_draws_are_short(flow, prepared, monkeypatch):
    monkeypatch.setattr(report, "DRAWS", 2000)

    found = report.evaluate(flow, prepared)

    assert found["calibration"]["rows"] < 300
    assert len(found["cells"]) == len(distances.cell_distances(flow, read_split(prepared, "test")))


def test_an_event_outside_the_support_leaves_valid_json(flow, prepared, monkeypatch):
    test = read_split(prepared, "test")
    events = test.events.copy()
    events[0] = -1.0
    monkeypatch.setattr(report, "read_split", lambda *_: test._replace(events=events))

    found = comparison.compare(flow, flow, prepared)

    json.dumps(found, allow_nan=False)
    assert found["emulator"]["test_nll"]["mean"] is None


def test_the_table_shows_as_many_digits_as_the_error_allows(compared):
    found = compared["emulator"] | {"test_nll": {"mean": 4.211607, "error": 0.014138}}

    rows = {row["measure"]: row for row in tables.whole(tables.scores(found, "test", {}))}

    assert rows["test NLL"]["value"] == "4.212 +- 0.014"
    assert rows["C2ST AUC"]["ideal"] == "0.5"
    assert rows["parameters"]["value"] == f"{found['cost']['parameters']:,}"


def test_the_table_names_the_worst_cell_and_counts_catalogues(compared):
    """Beside the name of the measure, by which a program knows it."""
    one = {"events": 100, "catalogs": 40, "covered": 30, "fraction": 0.75, "error": 0.068}
    one |= {"nominal": 0.9, "square": {"mean": 1.79, "error": 0.5}}
    found = compared["emulator"] | {"catalogs": {"trained_cells": one, "held_out_cells": None}}
    told = tables.scores(found, "test", {})

    rows = {row["measure"]: row for row in tables.whole(told)}
    names = {row["measure"] for row in tables.numbers(told)}

    row = rows["catalogues, coverage of 90 % (30 of 40)"]
    assert (row["value"], row["ideal"]) == ("0.750 +- 0.068", "0.9")
    assert rows["catalogues, squared distance (100 events each)"]["value"] == "1.79 +- 0.50"
    worst = found["worst_ks"]
    place = ", ".join(f"{name} = {value:g}" for name, value in worst["conditions"].items())
    assert f"KS / floor, worst cell ({worst['column']}, {place})" in rows
    assert {"KS / floor, worst cell", "catalogues, coverage of 90 %"} <= names
    assert not any("held-out" in name for name in rows)


def test_the_cells_table_names_units_and_floors(compared):
    told = tables.scores(compared["emulator"], "test", {"Mass_0": "Msun", "Mass_1": ""})
    row = tables.cells(told)[0]

    assert {"W1 Mass_0 [Msun]", "W1 Mass_1", "JS [nats]"} <= row.keys()
    assert row["KS Mass_0"].count("(") == 1


def test_the_difference_is_shown_with_its_own_error(compared):
    paired = compared["difference"]["test_nll"]

    told = tables.scores(compared, "test", {}, ("a", "b"))
    row = tables.numbers(told)[0]
    assert (row["difference"], row["difference error"]) == (paired["mean"], paired["error"])
    text = tables.whole(told)[0]["difference"]
    assert text[0] in "+-"
    assert " +- " in text


def test_csv_holds_every_number_of_the_tables(compared):
    found, units = compared["emulator"], {"Mass_0": "Msun"}

    told = tables.scores(found, "test", units)
    rows = tables.numbers(told)

    whole = {row["measure"]: row for row in rows if row["Z"] is None}
    # In the table for people some have a note.
    assert [*whole] == [row["measure"].partition(" (")[0] for row in tables.whole(told)]
    assert whole["C2ST AUC"]["ideal"] == 0.5
    pit = found["calibration"]["pit"]["Mass_1"]
    assert whole["KS of PIT Mass_1 to uniform"]["ideal"] == pit["ks_floor"]
    cell = found["cells"][1]
    of_cell = {
        row["measure"]: row
        for row in rows
        if {"Z": row["Z"], "alpha": row["alpha"]} == cell["conditions"]
    }
    assert of_cell["NLL"]["error"] == cell["nll"]["error"]
    assert of_cell["KS Mass_0"]["value"] == cell["ks"]["Mass_0"]
    assert of_cell["KS Mass_0"]["ideal"] == cell["floor"]["Mass_0"]
    assert of_cell["W1 Mass_0"]["unit"] == "Msun"
    assert len({tuple(row) for row in rows}) == 1
    assert len(rows) == len(whole) + len(found["cells"]) * len(of_cell)

    both = tables.numbers(tables.scores(compared, "test", units, ("a", "b")))
    assert [row["measure"] for row in both] == [row["measure"] for row in rows]
    last = compared["difference"]["cells"][-1]
    (row,) = [
        row
        for row in both
        if row["measure"] == "NLL"
        and row["Z"] == last["conditions"]["Z"]
        and row["alpha"] == last["conditions"]["alpha"]
    ]
    assert (row["difference"], row["difference error"]) == (
        last["nll"]["mean"],
        last["nll"]["error"],
    )


def test_an_evaluation_of_weighted_rows_is_of_what_their_weights_make(weighted):
    """Of the training rows, since only of those some cells have enough effective ones."""
    dataset, flow, rows = Dataset.read(weighted), fresh(weighted), read_split(weighted, "train")
    nll_N = -batched.log_prob(flow, rows.events, rows.conditions)

    found = report.evaluate(flow, weighted, "train")
    summed = summary.summary(flow, weighted)

    assert found["weights"] == "weight"
    whole = dataset.effective("train")
    assert found["train_nll"]["effective_rows"] == pytest.approx(whole, rel=1e-5)
    effective = {cell.conditions: cell.effective("train") for cell in dataset.cells}
    enough = {at for at, n in effective.items() if n >= distances.CELL_ROWS}
    assert 1 < len(enough) < sum(cell.train >= distances.CELL_ROWS for cell in dataset.cells)
    assert {tuple(cell["conditions"].values()) for cell in found["cells"]} == enough
    for cell in found["cells"]:
        at = tuple(cell["conditions"].values())
        here = (rows.conditions == np.array(at, np.float32)).all(axis=1)
        own = np.average(nll_N[here], weights=rows.weights[here])
        assert cell["effective_rows"] == pytest.approx(effective[at], rel=1e-5)
        assert cell["nll"]["mean"] == pytest.approx(own, abs=1e-9)
    assert found["calibration"]["effective_rows"] < found["calibration"]["rows"]
    assert found["two_sample"]["effective_rows"] < found["two_sample"]["rows"]
    for cell, stored in zip(summed["cells"], dataset.cells, strict=True):
        assert cell["effective_rows"]["test"] == pytest.approx(stored.effective("test"))
    table = tables.scores(found, "train", {})
    assert tables.whole(table)[0]["measure"] == "effective rows"
    assert all(row["effective rows"] for row in tables.cells(table))


def test_a_difference_of_weighted_evaluations_is_weighted(weighted):
    first, second = fresh(weighted), fresh(weighted, seed=1)

    found = comparison.compare(first, second, weighted)

    test = read_split(weighted, "test")
    gap = [batched.log_prob(each, test.events, test.conditions) for each in (second, first)]
    mean = np.average(gap[0] - gap[1], weights=test.weights)
    assert found["difference"]["test_nll"]["mean"] == pytest.approx(mean, abs=1e-9)
    ours, theirs = (found[name]["test_nll"]["mean"] for name in ("emulator", "against"))
    assert ours - theirs == pytest.approx(mean, abs=1e-9)
    for percent, one in found["difference"]["calibration"]["coverage"].items():
        a, b = (found[n]["calibration"]["coverage"][percent] for n in ("emulator", "against"))
        assert one["fraction"] == pytest.approx(a["fraction"] - b["fraction"])
        assert 0 <= one["error"] < a["error"] + b["error"]
