"""An evaluation, and two side by side, on data whose density is known."""

import json

import numpy as np
import pytest
import torch

from data_prep.columns import Dataset
from data_prep.stream import Stream, read_split
from hpo import scores
from models import evaluation, measure
from models.config import FlowConfig
from models.flow import build_flow
from models.mixture import Mixture
from models.preprocess import constants


def fresh(prepared, seed=0):
    """Close to two log-normals with the moments of the whole split."""
    dataset = Dataset.read(prepared)
    batches = Stream(prepared, "train", batch_size=1000, shuffle=False).epoch(0)
    config = FlowConfig(blocks=2, hidden=16)
    return build_flow(config, dataset, constants(dataset, batches), seed=seed).eval()


@pytest.fixture(scope="module")
def flow(prepared):
    return fresh(prepared)


@pytest.fixture(scope="module")
def other(prepared):
    """Not the same: its weights are moved a little."""
    flow = fresh(prepared, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in flow.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return flow


@pytest.fixture(scope="module")
def compared(flow, other, prepared):
    return json.loads(json.dumps(evaluation.compare(flow, other, prepared), allow_nan=False))


def test_an_evaluation_is_json_and_complete(compared, prepared):
    found = compared["emulator"]

    assert found["test_nll"]["rows"] == Dataset.read(prepared).rows["test"]
    assert found["unphysical_fraction"] == 0
    assert found["cells"][0]["conditions"].keys() == {"Z", "alpha"}
    assert found["cells"][0]["floor"].keys() == {"Mass_0", "Mass_1"}
    assert found["speed"]["samples_per_second"] > 0


def test_the_nll_is_that_of_the_split_and_of_its_cells(compared, flow, prepared):
    found, alone = compared["emulator"], measure.nll(flow, prepared, "test")
    cells = [{"Z": Z, "alpha": a} for Z in (0.0001, 0.001, 0.01) for a in (0.5, 1.0, 5.0)]
    each = measure.cell_nlls(flow, prepared, "test", cells)

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


def test_two_emulators_stand_beside_the_same_floors(compared):
    for ours, theirs in zip(
        compared["emulator"]["cells"], compared["against"]["cells"], strict=True
    ):
        for floor in ("floor", "wasserstein_floor", "jensen_shannon_floor"):
            assert ours[floor] == theirs[floor]


def test_an_emulator_beside_itself_differs_in_nothing(flow, prepared):
    difference = evaluation.compare(flow, flow, prepared)["difference"]

    assert difference["test_nll"]["mean"] == difference["test_nll"]["error"] == 0
    assert difference["two_sample"] == {"accuracy": 0}
    assert difference["calibration"]["coverage"] == {"50": {"fraction": 0}, "90": {"fraction": 0}}


@pytest.mark.parametrize("members", [1, 2], ids=["flow", "mixture"])
def test_its_own_draws_pass_every_test(flow, other, prepared, monkeypatch, members):
    density = flow if members == 1 else Mixture([flow, other]).eval()
    test = read_split(prepared, "test")
    own = measure.draw(density, test.conditions, np.random.default_rng(5)).astype(np.float32)
    monkeypatch.setattr(evaluation, "read_split", lambda *_: test._replace(events=own))

    found = evaluation.evaluate(density, prepared)

    accuracy = found["two_sample"]
    assert abs(accuracy["accuracy"] - 0.5) < 4 * accuracy["error"]
    for one in found["calibration"]["coverage"].values():
        assert abs(one["fraction"] - one["nominal"]) < 4 * one["error"]
    assert found["calibration"]["level_ks"] < 2.5 * found["calibration"]["level_ks_floor"]


def test_fewer_events_have_a_level_where_draws_are_short(flow, prepared, monkeypatch):
    monkeypatch.setattr(evaluation, "DRAWS", 2000)

    found = evaluation.evaluate(flow, prepared)

    assert found["calibration"]["rows"] < 300
    assert len(found["cells"]) == len(measure.cell_distances(flow, read_split(prepared, "test")))


def test_an_event_outside_the_support_leaves_valid_json(flow, prepared, monkeypatch):
    test = read_split(prepared, "test")
    events = test.events.copy()
    events[0] = -1.0
    monkeypatch.setattr(evaluation, "read_split", lambda *_: test._replace(events=events))

    found = evaluation.compare(flow, flow, prepared)

    json.dumps(found, allow_nan=False)
    assert found["emulator"]["test_nll"]["mean"] is None


def test_the_table_shows_as_many_digits_as_the_error_allows(compared):
    found = compared["emulator"] | {"test_nll": {"mean": 4.211607, "error": 0.014138}}

    rows = {row["measure"]: row for row in scores.scores(found, "test")}

    assert rows["test NLL"]["value"] == "4.212 +- 0.014"
    assert rows["C2ST accuracy"]["ideal"] == "0.5"
    assert rows["parameters"]["value"] == f"{found['cost']['parameters']:,}"


def test_the_cells_table_names_units_and_floors(compared):
    row = scores.cells(compared["emulator"], {"Mass_0": "Msun", "Mass_1": ""})[0]

    assert {"W1 Mass_0 [Msun]", "W1 Mass_1", "JS [nats]"} <= row.keys()
    assert row["KS Mass_0"].count("(") == 1


def test_the_difference_is_shown_with_its_own_error(compared):
    rows = scores.beside(compared, "test", "a", "b", "csv")

    paired = compared["difference"]["test_nll"]
    assert rows[0]["difference"] == paired["mean"]
    assert rows[0]["difference error"] == paired["error"]
    text = scores.beside(compared, "test", "a", "b", "table")[0]["difference"]
    assert text[0] in "+-"
    assert " +- " in text
