import dataclasses
import math

import matplotlib
import numpy as np
import pytest

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.stream import read_split
from hpo.pictures import contours
from hpo.records.record import Cost, DataUsed, Environment, EpochRow, RunRecord
from tests.conftest import SPREAD, centre

MAGIC = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


class Truth:
    """Stands in for an emulator: draws from the very density behind the prepared table."""

    event_columns: tuple = ("Mass_0", "Mass_1")
    condition_columns = (Column.named("Z"), Column.named("alpha"))

    def __init__(self):
        self.asked = None

    def sample(self, n, *, seed=None, Z, alpha):
        self.asked = np.stack([Z, alpha], axis=1)
        noise = np.random.default_rng(seed).normal(size=(n, 2)) * SPREAD
        return np.exp(centre(np.asarray(Z), np.asarray(alpha)) + noise)

    def log_prob(self, events, *, Z, alpha):
        z = (np.log(events) - centre(Z, alpha)) / SPREAD
        density = -0.5 * z**2 - np.log(SPREAD) - 0.5 * math.log(2 * math.pi) - np.log(events)
        return density.sum(axis=1)


@pytest.fixture
def seen(monkeypatch):
    """The figures that were written, to be looked into."""
    figures = []
    write = contours.write

    def keep(figure, out):
        figures.append(figure)
        write(figure, out)

    monkeypatch.setattr(contours, "write", keep)
    return figures


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(contours, "DRAWS", 20_000)


def run(trial=0, state="complete", val=(5.0, 4.6, 4.7), seconds=2.0):
    finite = [each for each in val if each is not None]
    return RunRecord(
        study="bbh",
        trial=trial,
        state=state,
        params={},
        flow={},
        training={},
        data=DataUsed(path="prepared", fingerprint="ab", rows={}),
        environment=Environment(versions={}, device="cpu", host="node07", threads=2),
        epochs=tuple(
            EpochRow(
                epoch=i + 1,
                train_nll=4.4,
                val_nll=each,
                learning_rate=1e-3,
                seconds=seconds,
                samples_per_second=1.0,
                loss_rate=None,
            )
            for i, each in enumerate(val)
        ),
        best_epoch=val.index(min(finite)) + 1 if finite else None,
        best_val_nll=min(finite, default=None),
        cost=Cost(parameters=None, flops_per_event=None, seconds=None),
        started=None,
        updated=None,
    )


def legend_of(figure):
    (legend,) = figure.legends
    return legend.get_title().get_text(), [each.get_text() for each in legend.get_texts()]


@pytest.mark.parametrize("suffix", sorted(MAGIC))
def test_the_suffix_decides_the_format_and_nothing_else_is_left(tmp_path, suffix):
    drawn = contours.losses([run()], tmp_path / "new" / f"losses{suffix}")

    assert [each.name for each in drawn.parent.iterdir()] == [drawn.name]
    assert drawn.read_bytes().startswith(MAGIC[suffix])


@pytest.mark.parametrize("name", ["masses.jpeg", "masses"])
def test_an_unknown_suffix_is_refused_before_anything_is_drawn(tmp_path, prepared, name):
    emulator = Truth()

    with pytest.raises(contours.PlotError, match=r"a picture is one of .png, .pdf, .svg"):
        contours.contours(emulator, prepared, out=tmp_path / name)
    with pytest.raises(contours.PlotError, match=r"a picture is one of .png, .pdf, .svg"):
        contours.losses([run()], tmp_path / name)

    assert emulator.asked is None
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    out = contours.losses([run()], tmp_path / "losses.png")
    before = out.read_bytes()

    def full(figure, draft, **_):
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="No space"):
        contours.losses([run(val=(9.0, 8.0))], out)

    assert out.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["losses.png"]


def test_no_setting_of_matplotlib_outlives_a_picture(tmp_path, prepared):
    with matplotlib.rc_context({"font.size": 23.0, "axes.spines.top": True}):
        before = dict(matplotlib.rcParams)

        contours.contours(Truth(), prepared, out=tmp_path / "masses.png")
        contours.losses([run()], tmp_path / "losses.png")

        assert dict(matplotlib.rcParams) == before


def test_the_emulator_draws_at_the_conditions_of_the_rows_it_is_shown_with(tmp_path, prepared):
    emulator = Truth()
    contours.contours(emulator, prepared, out=tmp_path / "masses.png")

    rows = read_split(prepared, "test").conditions
    asked, drawn = np.unique(emulator.asked, axis=0, return_counts=True)
    there, held = np.unique(rows, axis=0, return_counts=True)
    np.testing.assert_array_equal(asked, there)
    np.testing.assert_array_equal(drawn, held * (len(emulator.asked) // len(rows)))


def test_the_notes_tell_how_many_rows_and_the_nll_of_the_truth(tmp_path, prepared, known, seen):
    contours.contours(Truth(), prepared, out=tmp_path / "masses.png")

    rows = read_split(prepared, "test")
    title, entries = legend_of(seen[0])
    truth = known(rows.events.astype(float), rows.conditions.astype(float))
    assert f"test rows, all cells: NLL = {truth:.3f}" in title
    assert f"data, n = {len(rows.events):,}" in entries
    times = round(20_000 / len(rows.events))
    assert f"emulator, n = {times * len(rows.events):,}" in entries


def test_every_axis_has_a_unit(tmp_path, prepared, seen):
    contours.contours(Truth(), prepared, out=tmp_path / "masses.png")
    contours.losses([run()], tmp_path / "losses.png")

    main, above, right = seen[0].axes
    assert main.get_xlabel() == r"Mass_0 [$M_\odot$]"
    assert main.get_ylabel() == r"Mass_1 [$M_\odot$]"
    assert above.get_ylabel() == right.get_xlabel() == r"density [1/$M_\odot$]"
    by_epoch, by_time = seen[1].axes
    assert by_epoch.get_ylabel() == "NLL [nats per event]"
    assert by_time.get_xlabel() == "Wall-clock time [min]"


def test_one_cell_shows_that_cell_s_rows_alone(tmp_path, prepared, seen):
    emulator = Truth()

    contours.contours(
        emulator, prepared, conditions={"Z": 0.001, "alpha": 5.0}, out=tmp_path / "cell.png"
    )

    cell = next(each for each in Dataset.read(prepared).cells if each.conditions == (0.001, 5.0))
    title, entries = legend_of(seen[0])
    assert f"data, n = {cell.test:,}" in entries
    assert "Z = 0.001, alpha = 5" in title
    np.testing.assert_allclose(np.unique(emulator.asked, axis=0), [[0.001, 5.0]], rtol=1e-6)


def test_a_cell_of_a_few_rows_can_be_shown(tmp_path, prepared, seen):
    smallest = min(Dataset.read(prepared).cells, key=lambda each: each.test)
    Z, alpha = smallest.conditions

    contours.contours(
        Truth(), prepared, conditions={"Z": Z, "alpha": alpha}, out=tmp_path / "c.png"
    )

    assert f"data, n = {smallest.test}" in legend_of(seen[0])[1]
    assert "contours enclose nothing" in legend_of(seen[0])[1]


def test_event_columns_can_be_named_and_turned(tmp_path, prepared, seen):
    contours.contours(Truth(), prepared, columns=["Mass_1", "Mass_0"], out=tmp_path / "turned.png")

    assert seen[0].axes[0].get_xlabel().startswith("Mass_1")


def test_an_emulator_that_gives_a_row_no_density_is_still_shown(tmp_path, prepared, seen):
    class Blind(Truth):
        def log_prob(self, events, **conditions):
            return np.where(events[:, 0] > 20, -np.inf, super().log_prob(events, **conditions))

    contours.contours(Blind(), prepared, out=tmp_path / "masses.png")

    assert "NLL = inf nats" in legend_of(seen[0])[0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param({"conditions": {"z": 1}}, "no condition 'z'", id="condition"),
        pytest.param({"conditions": {"Z": 0.5}}, "Z is one of 0.0001, 0.001, 0.01", id="cell"),
        pytest.param({"columns": ["Mass_0", "Mas_1"]}, "did you mean 'Mass_1'", id="column"),
        pytest.param({"columns": ["Mass_0"]}, "two different event columns", id="one column"),
        pytest.param({"columns": ["Mass_0"] * 2}, "two different event columns", id="twice"),
    ],
)
def test_what_is_not_there_is_a_sentence(tmp_path, prepared, asked, message):
    with pytest.raises(contours.PlotError, match=message):
        contours.contours(Truth(), prepared, **asked, out=tmp_path / "masses.png")


def test_other_data_than_the_emulator_s_is_a_sentence(tmp_path, prepared):
    emulator = Truth()
    emulator.event_columns = ("Mass_0",)

    with pytest.raises(contours.PlotError, match="draws Mass_0, the data hold Mass_0, Mass_1"):
        contours.contours(emulator, prepared, out=tmp_path / "masses.png")


def test_one_event_column_is_no_plane(tmp_path, prepared, monkeypatch):
    emulator = Truth()
    emulator.event_columns = ("Mass_0",)
    one = dataclasses.replace(Dataset.read(prepared), event_columns=(Column.named("Mass_0"),))
    monkeypatch.setattr(Dataset, "read", lambda folder: one)

    with pytest.raises(contours.PlotError, match="the emulator has 1 .*no plane to show"):
        contours.contours(emulator, prepared, out=tmp_path / "masses.png")


def test_a_wild_emulator_does_not_push_the_data_into_a_corner(tmp_path, prepared, seen):
    class Wild(Truth):
        def sample(self, n, **asked):
            return super().sample(n, **asked) ** np.linspace(1, 9, n)[:, None]

    contours.contours(Wild(), prepared, out=tmp_path / "masses.png")

    masses = read_split(prepared, "test").events[:, 0]
    low, high = seen[0].axes[0].get_xlim()
    assert high - low < 2 * np.ptp(masses)
    # What the picture does not hold is not said to be enclosed.
    assert legend_of(seen[0])[1][3] == "contours enclose nothing"


def test_the_best_epoch_is_marked_on_its_curve(tmp_path, seen):
    contours.losses([run(val=(5.0, 4.6, 4.7), seconds=30.0)], tmp_path / "losses.png")

    dots = [
        [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "o"]
        for axes in seen[0].axes
    ]
    assert dots == [[[[2.0, 4.6]]], [[[1.0, 4.6]]]]


def test_pruned_runs_are_lighter_and_named_as_such(tmp_path, seen):
    contours.losses([run(0), run(1, "pruned", val=(4.0, 3.9))], tmp_path / "losses.png")

    whole, pruned = (seen[0].axes[0].lines[index].get_alpha() for index in (0, 3))
    assert pruned < whole == 1.0
    assert legend_of(seen[0])[1][:2] == ["bbh 0: 4.600", "bbh 1: 3.900 (pruned)"]


def test_of_many_runs_the_best_have_the_colours(tmp_path, seen):
    many = [run(trial, val=(5.0, 4.9 - 0.01 * trial)) for trial in range(20)]

    contours.losses(many, tmp_path / "losses.png")

    entries = legend_of(seen[0])[1]
    assert [entry.split(":")[0] for entry in entries[:7]] == [f"bbh {19 - i}" for i in range(7)]
    assert "13 more runs" in entries


def test_a_run_whose_loss_was_lost_is_drawn_as_far_as_it_goes(tmp_path, seen):
    contours.losses([run(state="failed", val=(5.0, 4.6, None, None))], tmp_path / "losses.png")

    assert all(len(line.get_xdata()) <= 2 for line in seen[0].axes[0].lines)


@pytest.mark.parametrize("records", [[], [run(val=())], [run(val=(None,))]])
def test_runs_without_a_curve_are_a_sentence(tmp_path, records):
    with pytest.raises(contours.PlotError, match="no curve to draw"):
        contours.losses(records, tmp_path / "losses.png")
