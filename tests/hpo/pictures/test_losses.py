"""Pictures of losses: which runs are shown how."""

import pytest

from hpo.pictures.losses import losses
from hpo.pictures.style import PlotError
from tests.hpo.pictures.test_contours import legend_of
from tests.made_runs import trained


def run(trial=0, state="complete", val=(5.0, 4.6, 4.7), seconds=2.0):
    return trained(*val, trial=trial, state=state, each={"seconds": seconds})


def test_every_axis_of_losses_has_a_unit(tmp_path, seen):
    losses([run(seconds=30.0)], tmp_path / "losses.png")

    by_epoch, by_time = seen[0].axes
    assert by_epoch.get_ylabel() == "NLL [nats per event]"
    assert by_epoch.get_xlabel() == "Epoch"
    assert by_time.get_xlabel() == "Wall-clock time [min]"


def test_runs_of_less_than_a_minute_are_drawn_in_seconds(tmp_path, seen):
    losses([run(seconds=2.0), run(1, seconds=0.5)], tmp_path / "losses.png")

    by_time = seen[0].axes[1]
    assert by_time.get_xlabel() == "Wall-clock time [s]"
    assert by_time.lines[0].get_xdata().tolist() == [2.0, 4.0, 6.0]


def test_the_best_epoch_is_marked_on_its_curve(tmp_path, seen):
    losses([run(val=(5.0, 4.6, 4.7), seconds=30.0)], tmp_path / "losses.png")

    dots = [
        [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"]
        for axes in seen[0].axes
    ]
    assert dots == [[[[2.0, 4.6]]], [[[1.0, 4.6]]]]


def test_pruned_runs_are_lighter_and_named_as_such(tmp_path, seen):
    losses([run(0), run(1, "pruned", val=(4.0, 3.9))], tmp_path / "losses.png")

    whole, pruned = (seen[0].axes[0].lines[index].get_alpha() for index in (0, 3))
    assert pruned < whole == 1.0
    assert legend_of(seen[0])[1][:2] == ["bbh 0: 4.6000", "bbh 1: 3.9000 (pruned)"]


def test_of_many_runs_the_best_have_the_colours(tmp_path, seen):
    many = [run(trial, val=(5.0, 4.9 - 0.01 * trial)) for trial in range(20)]

    losses(many, tmp_path / "losses.png")

    entries = legend_of(seen[0])[1]
    assert [entry.split(":")[0] for entry in entries[:7]] == [f"bbh {19 - i}" for i in range(7)]
    assert "13 more runs" in entries


@pytest.mark.parametrize(("best", "listed"), [(5.3, True), (40.0, False)])
def test_every_listed_curve_is_within_the_picture(tmp_path, seen, best, listed):
    runs = [run(0, val=(5.0, 4.6, 4.7)), run(1, "pruned", val=(best + 9, best))]

    losses(runs, tmp_path / "losses.png")

    entries, high = legend_of(seen[0])[1], seen[0].axes[0].get_ylim()[1]
    assert (f"bbh 1: {best:.4f} (pruned)" in entries, best < high) == (listed, listed)
    assert ("1 more run" in entries) == (not listed)
    assert high < 6  # a run far above does not make a line of the others


def test_a_run_whose_loss_was_lost_is_drawn_as_far_as_it_goes(tmp_path, seen):
    losses([run(state="failed", val=(5.0, 4.6, None, None))], tmp_path / "losses.png")

    assert all(len(line.get_xdata()) <= 2 for line in seen[0].axes[0].lines)


@pytest.mark.parametrize("records", [[], [run(val=())], [run(val=(None,))]])
def test_runs_without_a_curve_are_a_sentence(tmp_path, records):
    with pytest.raises(PlotError, match="no curve to draw"):
        losses(records, tmp_path / "losses.png")
