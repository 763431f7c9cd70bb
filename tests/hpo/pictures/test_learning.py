"""The density as it was learned: which flows are shown, with which NLL, still and moving."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as any_of
from PIL import Image

from data_prep.dataset import Dataset
from data_prep.words import numbers
from hpo.cli import main
from hpo.pictures import learning, style
from hpo.pictures.style import PlotError
from hpo.records.record import NAME
from hpo.records.scores import used, with_history
from models.config import FlowConfig, TrainConfig
from models.training import checkpoint
from models.training.train import train
from tests import made_runs

LARGEST = {"Z": 0.01, "alpha": 5.0}
"""The cell of the known table with most rows."""


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    """A run that kept weights on the way, and its folder. Do not write into it."""
    folder = tmp_path_factory.mktemp("run")
    config = TrainConfig(epochs=6, batch_size=1024, snapshots=3)
    flow = FlowConfig(base="normal", blocks=1, hidden=8)
    _, fit = train(prepared, flow, config, checkpoint=folder)
    data = dataclasses.replace(
        made_runs.BASE.data, path=str(prepared), **used(Dataset.read(prepared))
    )
    weights = checkpoint.digest(checkpoint.load(folder))
    record = dataclasses.replace(made_runs.run(7, data=data), weights=weights)
    record = with_history(record, fit.history)
    record.write(folder)
    return record, folder


def told(record, *epochs):
    rows = {row.epoch: row.val_nll for row in record.epochs}
    return [f"epoch {epoch}: {numbers.nll(rows[epoch])}" for epoch in epochs]


def test_a_strip_has_a_panel_for_each_flow_with_its_epoch_and_the_nll_of_the_history(run, seen):
    record, folder = run
    words = [
        "plot",
        "learning",
        str(folder / NAME),
        "--Z",
        "0.01",
        "--alpha",
        "5",
        "--out",
        "a.pdf",
    ]

    said = CliRunner().invoke(main, words)

    assert said.exit_code == 0, said.output
    *panels, curve = seen[0].axes
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == told(record, 1, 2, 6)
    bold = [axes._left_title.get_fontweight() == "bold" for axes in panels]
    assert bold == [epoch == record.best_epoch for epoch in (1, 2, 6)]
    line, *dots = curve.lines
    np.testing.assert_array_equal(line.get_ydata(), [row.val_nll for row in record.epochs])
    assert {int(dot.get_xdata()[0]) for dot in dots} == {1, 2, 6}
    assert {dot.get_ydata()[0] for dot in dots} <= {*line.get_ydata()}
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert [axes.get_xlabel() for axes in panels] == [r"Mass_0 [$M_\odot$]"] * 3
    # The flows differ: their outermost lines are not the same.
    assert len({panel.lines[-1].get_xydata().tobytes() for panel in panels}) == 3


def test_a_film_moves_a_dot_along_the_curve_of_the_history(run, prepared, tmp_path, monkeypatch):
    record, folder = run
    frames, film = [], style.film

    def watched(figure, show, *words, **options):
        def showing(number):
            plane, dot = show(number)
            frames.append((plane.get_title(loc="left"), *dot.get_xydata().tolist()))
            return [plane, dot]

        film(figure, showing, *words, **options)

    monkeypatch.setattr(style, "film", watched)
    monkeypatch.setattr(learning, "LAST_S", 0.25)
    steps = []

    out = learning.learning(
        record,
        folder,
        prepared,
        conditions=LARGEST,
        step=lambda *each: steps.append(each),
        out=tmp_path / "a.gif",
    )

    assert steps == [(1, 3), (2, 3), (3, 3)]
    with Image.open(out) as image:
        assert image.n_frames == 3  # the last one stays
    rows = {row.epoch: row.val_nll for row in record.epochs}
    expected = [
        (title, [float(epoch), rows[epoch]])
        for title, epoch in zip(told(record, 1, 2, 6), (1, 2, 6), strict=True)
    ]
    assert [each for each in expected if each in frames] == expected
    assert frames[-1] == expected[-1]


def test_a_run_that_kept_nothing_says_how_to_train_one_that_does(run, prepared, tmp_path):
    record, folder = run
    for name in (checkpoint.FILE, NAME):
        (tmp_path / name).write_bytes((folder / name).read_bytes())

    with pytest.raises(PlotError, match="kept no weights on the way: .* training.snapshots=20"):
        learning.learning(record, tmp_path, prepared, out=tmp_path / "a.png")


def test_a_trial_is_of_a_study(run):
    said = CliRunner().invoke(main, ["plot", "learning", str(run[1] / NAME), "--trial", "2"])

    assert said.exit_code == 2
    assert "--trial chooses in a study" in said.output


@given(
    epochs=any_of.sets(any_of.integers(1, 200), min_size=1).map(sorted),
    most=any_of.integers(3, 20),
    data=any_of.data(),
)
def test_some_epochs_hold_both_ends_and_the_needed_one(epochs, most, data):
    needed = data.draw(any_of.sampled_from(epochs))

    found = learning.some(epochs, most, needed)

    assert found == sorted(set(found))
    assert {epochs[0], epochs[-1], needed} <= set(found) <= set(epochs)
    assert len(found) == min(most, len(epochs))
