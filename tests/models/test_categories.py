"""Texts as conditions: one input of a flow for each, and names wherever people see them."""

import importlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_prep import cells
from data_prep.columns import Column
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from models import ArrayFlow, Emulator, Table
from models.bundle.domain import ExtrapolationWarning
from models.bundle.ensemble import Ensemble, EnsembleError
from models.bundle.files import EmulatorError
from models.config import FlowConfig, TrainConfig
from models.evaluation.comparison import compare
from models.evaluation.report import evaluate
from models.evaluation.summary import summary
from models.training.train import train
from tests.models.bundle.test_onnx import run
from tests.random_flows import CHANNEL, GRID, MASSES, every_flow, flow, in_arrays

CONDITIONS = (GRID[0], CHANNEL)
TEXTS = ["SMT", "CE", "CE", "RLO"] * 5


def a_flow(**options):
    return flow(conditions=CONDITIONS, **{"blocks": 2, "shake": 0.3, **options})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a bundle."""
    made = a_flow(double=False, bins=8, shake=0.1)
    return Emulator(made).save(tmp_path_factory.mktemp("categories") / "emulator")


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    return rng.uniform(3, 20, (len(TEXTS), 2)), rng.uniform(0.5, 2, len(TEXTS))


@every_flow
def test_a_category_is_as_many_conditions_of_zero_and_one(layers):
    numbers = (GRID[0], *(Column(text, "") for text in CHANNEL.categories))
    by_text, by_numbers = a_flow(**layers), flow(conditions=numbers, **{"blocks": 2, **layers})
    by_numbers.load_state_dict(by_text.state_dict())
    x, z = torch.rand(2, 30, 2).double() * 9 + 1, torch.rand(30, 1).double() + 0.5
    place = torch.arange(30) % 3
    one_hot = torch.nn.functional.one_hot(place, 3).double()

    found = by_text.log_prob(x[0], torch.cat([z, place[:, None].double()], 1))

    expected = by_numbers.log_prob(x[0], torch.cat([z, one_hot], 1))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every_flow
def test_runs_of_one_text_are_computed_as_single_rows_are(layers):
    made = a_flow(**layers)
    x = torch.rand(12, 2).double() * 9 + 1
    c = torch.tensor([[1.0, 0.0], [1.0, 2.0]]).double()

    with torch.no_grad():
        found = made.log_prob(x, c, [5, 7])

    each = made.log_prob(x, c.repeat_interleave(torch.tensor([5, 7]), 0))
    torch.testing.assert_close(found, each.detach())
    assert not torch.allclose(each[:5], made.log_prob(x[:5], c[1:].expand(5, 2)))


def test_one_text_or_one_for_each_event(saved, rows):
    emulator, (events, z) = Emulator.load(saved), rows

    found = emulator.log_prob(events, Z=z, channel=TEXTS)

    for k, text in enumerate(TEXTS):
        alone = emulator.log_prob(events[k : k + 1], Z=z[k], channel=text)
        np.testing.assert_allclose(found[k], alone[0], rtol=1e-5)
    drawn = emulator.sample(20, Z=1.0, channel=np.array(TEXTS), seed=1)
    np.testing.assert_allclose(
        drawn[1], emulator.sample(20, Z=1.0, channel="CE", seed=1)[1], rtol=1e-5
    )


def test_a_bundle_says_one_thing_by_torch_onnx_arrays_and_table(saved, rows):
    (events, z), emulator, arrays = rows, Emulator.load(saved), ArrayFlow.load(saved)
    place = np.array([CHANNEL.categories.index(text) for text in TEXTS])
    conditions = np.stack([z, place], 1).astype("f4")

    expected = emulator.log_prob(events, Z=z, channel=TEXTS)

    np.testing.assert_allclose(arrays.log_prob(events, Z=z, channel=TEXTS), expected, rtol=1e-4)
    graph = run(saved / "log_prob.onnx", events=events.astype("f4"), conditions=conditions)
    np.testing.assert_allclose(graph, expected, rtol=1e-4)
    drawn = emulator.sample(20, Z=1.0, channel="RLO", seed=2)
    noise = torch.randn(20, 2, generator=torch.Generator().manual_seed(2)).numpy()
    at = np.tile(np.float32([1.0, 1.0]), (20, 1))
    np.testing.assert_allclose(
        run(saved / "sample.onnx", noise=noise, conditions=at), drawn, rtol=1e-4
    )
    np.testing.assert_allclose(arrays.from_noise(noise, at), drawn, rtol=1e-4)
    assert emulator.domain == arrays.domain == {"Z": (0.5, 2.0), "channel": ("CE", "RLO", "SMT")}
    assert emulator.card["domain"]["channel"] == ["CE", "RLO", "SMT"]


def test_jax_gives_the_same_numbers_and_no_gradient_by_a_text():
    jax = importlib.import_module("jax")
    arrays = in_arrays(a_flow())
    x, c = np.array([9.0, 7.0]), np.array([1.0, 2.0])

    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(arrays.log_density, argnums=1))(
            jax.numpy.asarray(x), jax.numpy.asarray(c)
        )

    assert float(value) == pytest.approx(arrays.log_prob(x[None], Z=1.0, channel="SMT")[0])
    by_z, by_text = np.asarray(gradient)
    assert np.isfinite(by_z)
    assert by_z != 0
    assert by_text == 0


@pytest.mark.parametrize(
    ("wrong", "found"),
    [("HG", "'HG'"), (1.0, "1.0"), (["CE"] * 19 + ["ce"], "'ce'"), (None, "None")],
    ids=["unknown", "number", "one of many", "none"],
)
def test_an_unknown_text_is_refused_with_the_known_ones(saved, rows, wrong, found):
    for each in (Emulator.load(saved), ArrayFlow.load(saved)):
        with pytest.raises(EmulatorError) as told:
            each.log_prob(rows[0], Z=1.0, channel=wrong)
        assert str(told.value) == f"channel must be one of CE, RLO, SMT, got {found}"


def test_beside_a_text_a_number_still_warns_outside_its_range(saved):
    with pytest.warns(ExtrapolationWarning, match=r"Z = 3 .* \[0.5, 2\]"):
        Emulator.load(saved).sample(3, Z=3.0, channel="CE")


def test_a_table_has_a_point_for_every_text(saved, rows, tmp_path):
    smooth = in_arrays(a_flow(kind="affine", activation="tanh", shake=0.05))
    table = Table.load(Table.of(smooth, points=24, condition_points=4).save(tmp_path / "t.npz"))
    noise = np.random.default_rng(0).standard_normal((500, 2))

    for place, text in enumerate(CHANNEL.categories):
        events = smooth.from_noise(noise, np.array([1.1, place]))
        error = table.log_prob(events, Z=1.1, channel=text)
        error -= smooth.log_prob(events, Z=1.1, channel=text)
        assert np.std(error[np.isfinite(error)]) < 0.03
    assert table.domain["channel"] == CHANNEL.categories
    assert table.lines[1].places.shape == (4, 3, 24, 24)
    with pytest.raises(EmulatorError, match="one of CE, RLO, SMT"):
        table.log_prob(rows[0], Z=1.0, channel="HG")


def test_flows_of_other_texts_make_no_ensemble():
    other = Column("channel", "", categories=("CE", "SMT"))

    with pytest.raises(EnsembleError, match=r"channel \(CE, RLO, SMT\) and Z, channel \(CE, SMT\)"):
        Ensemble([a_flow(), flow(conditions=(GRID[0], other))])


def test_a_single_text_is_a_condition_as_well():
    alone = flow(MASSES, (Column("channel", "", categories=("CE",)),))

    assert Emulator(alone).sample(3, channel="CE", seed=0).shape == (3, 2)


MEANS, SPREADS = {"CE": (2.2, -0.4), "SMT": (3.2, -0.1)}, {"CE": (0.3, 0.2), "SMT": (0.15, 0.05)}
"""Of ln Mass_0 and ln (Mass_1 / Mass_0): each of the channels is far from the other."""


def logs_of(events):
    first, second = np.log(events).T
    return np.stack([first, second - first], 1)


def true_nll(events, text):
    z = (logs_of(events) - MEANS[text]) / SPREADS[text]
    log_prob = -0.5 * z**2 - np.log(SPREADS[text]) - 0.5 * np.log(2 * np.pi)
    return -float((log_prob.sum(1) - np.log(events).sum(1)).mean())


@pytest.fixture(scope="module")
def channels(tmp_path_factory):
    """Folder of a prepared dataset: two channels, one of a fifth of the rows."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("channels")
    text = rng.choice(["SMT", "CE"], 6_000, p=[0.2, 0.8])
    means, spreads = (np.array([each[one] for one in text]) for each in (MEANS, SPREADS))
    first, ratio = (means + spreads * rng.normal(size=means.shape)).T
    table = {"Mass_0": np.exp(first), "Mass_1": np.exp(first + ratio)}
    table |= {"Z": rng.choice([0.001, 0.002], 6_000), "channel": text}
    pq.write_table(pa.table(table), folder / "table.parquet")
    options = {"condition_columns": ("Z", "channel")}
    prepare([folder / "table.parquet"], folder / "prepared", **options)
    return folder / "prepared"


@pytest.fixture(scope="module")
def trained(channels):
    config = FlowConfig(base="normal", kind="affine", blocks=2, hidden=16)
    options = {"epochs": 15, "batch_size": 256, "learning_rate": 0.01, "device": "cpu"}
    return train(channels, config, TrainConfig(**options))[0]


@pytest.mark.slow
def test_the_density_of_each_channel_is_recovered(channels, trained):
    emulator, rows = Emulator(trained), read_split(channels, "test")

    for place, text in enumerate(("CE", "SMT")):
        events = rows.events[rows.conditions[:, 1] == place].astype(float)
        nll = -emulator.log_prob(events, Z=0.001, channel=text).mean()
        assert nll - true_nll(events, text) < 0.03
        drawn = logs_of(emulator.sample(4_000, Z=0.002, channel=text, seed=0))
        np.testing.assert_allclose(drawn.mean(0), MEANS[text], atol=0.03)
        np.testing.assert_allclose(drawn.std(0), SPREADS[text], rtol=0.15)


@pytest.mark.slow
@pytest.mark.usefixtures("few_trees")
def test_cells_of_an_evaluation_are_named_by_texts(channels, trained):
    named = {"Z": 0.002, "channel": "SMT"}
    emulator = Emulator(trained, {"metrics": {"held_out_cells": [{"conditions": named}]}})

    compared = compare(emulator, emulator, channels)

    found = compared["emulator"]
    named = [cell["conditions"] for cell in found["cells"]]
    assert {"Z": 0.001, "channel": "CE"} in named
    assert {cell["channel"] for cell in named} <= {"CE", "SMT"}
    assert found["held_out_nll"]["cells"] == 1
    assert [cell["conditions"] for cell in compared["difference"]["cells"]] == named
    assert {"Z": 0.002, "channel": "SMT"} in [
        cell["conditions"] for cell in summary(trained, channels)["cells"]
    ]


def test_data_of_other_texts_are_refused(channels):
    other = flow(conditions=(GRID[0], CHANNEL), double=False)

    with pytest.raises(DataError, match=r"columns Z, channel \(CE, SMT\), the flow .*\(CE, RLO"):
        evaluate(other, channels)


def test_regions_of_the_first_text_are_found_while_training(tmp_path):
    """There, numbers next to 0 are 0."""
    rng = np.random.default_rng(0)
    table = {name: rng.uniform(5, 40, 3_000) for name in ("Mass_0", "Mass_1", "Z")}
    table["channel"] = rng.choice(["CE", "SMT"], 3_000)
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    options = {"condition_columns": ("Z", "channel"), "scattered": True}
    dataset = prepare([tmp_path / "table.parquet"], tmp_path / "prepared", **options)

    torch.set_flush_denormal(True)
    try:
        found = cells.find(dataset, [{"Z": 20.0, "channel": "CE"}], tmp_path)
    finally:
        torch.set_flush_denormal(False)

    assert [cells.name_of(dataset, cell)["channel"] for cell in found] == ["CE"]
