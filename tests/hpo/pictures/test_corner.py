"""The corner plot: a panel for each column and pair, with data and emulator in it."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from hpo.pictures import style
from hpo.pictures.corner import corner
from hpo.pictures.style import PlotError
from tests.conftest import GRID

NAMES = ("Mass_0", "Mass_1", "GWtime", "chi")


def draw(number, rng):
    """Four columns: two masses that go together, a time over decades, a number of either sign."""
    masses = rng.lognormal(2.5, 0.3, size=(number, 1)) * rng.uniform(0.5, 1.0, size=(number, 2))
    time = rng.lognormal(6.0, 2.0, size=(number, 1))
    return np.concatenate([masses, time, rng.normal(size=(number, 1))], axis=1)


class Truth:
    """Stands in for an emulator of the first so many columns."""

    condition_columns = ("Z", "alpha")

    def __init__(self, columns):
        self.event_columns = NAMES[:columns]

    @property
    def module(self):
        return SimpleNamespace(
            event_columns=[Column.named(name) for name in self.event_columns],
            condition_columns=[Column.named(name) for name in self.condition_columns],
        )

    def sample(self, n, *, seed=None, **_):
        return draw(n, np.random.default_rng(seed))[:, : len(self.event_columns)]

    def log_prob(self, events, **_):
        return np.zeros(len(events))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Prepared datasets of one to four event columns, by their number."""
    folder = tmp_path_factory.mktemp("corner")
    events = draw(6000, np.random.default_rng(1))
    Z, alpha = np.array(GRID)[np.arange(6000) % len(GRID)].T
    table = pa.table({**dict(zip(NAMES, events.T, strict=True)), "Z": Z, "alpha": alpha})
    pq.write_table(table, folder / "table.parquet")
    for number in range(1, 5):
        prepare([folder / "table.parquet"], folder / str(number), event_columns=NAMES[:number])
    return folder


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_corner_has_a_panel_for_each_column_and_each_pair(folders, tmp_path, seen, columns):
    corner(Truth(columns), folders / str(columns), out=tmp_path / "corner.png")

    assert len(seen[0].axes) == columns * (columns + 1) // 2
    places = {
        (each.get_subplotspec().rowspan.start, each.get_subplotspec().colspan.start)
        for each in seen[0].axes
    }
    assert places == {(y, x) for y in range(columns) for x in range(y + 1)}


def test_the_outer_panels_are_named_with_units(folders, tmp_path, seen):
    corner(Truth(4), folders / "4", out=tmp_path / "corner.png")

    below = [axes.get_xlabel() for axes in seen[0].axes if axes.get_xlabel()]
    left = [axes.get_ylabel() for axes in seen[0].axes if axes.get_ylabel()]
    names = [
        r"Mass_0 [$M_\odot$]",
        r"Mass_1 [$M_\odot$]",
        "log$_{10}$ GWtime [Myr]",
        "chi [dimensionless]",
    ]
    assert below == names
    assert left == names[1:]


def test_each_panel_shows_its_own_columns(folders, tmp_path, seen):
    corner(Truth(4), folders / "4", columns=["chi", "GWtime"], out=tmp_path / "c.png")

    chi, plane, time = seen[0].axes
    assert chi.get_xlim() == plane.get_xlim()
    assert plane.get_ylim() == time.get_xlim()
    assert chi.get_xlim()[0] < -2 < 2 < chi.get_xlim()[1]
    assert time.get_xlim()[1] == pytest.approx((6 + 3 * 2) / np.log(10), abs=0.7)  # as a logarithm


def test_a_plane_holds_data_and_both_contours(folders, tmp_path, seen):
    corner(Truth(2), folders / "2", out=tmp_path / "c.png")

    plane = seen[0].axes[1]
    points = plane.lines[0]
    assert len(points.get_xdata()) == Dataset.read(folders / "2").rows["test"]
    colours = [line.get_color() for line in plane.lines if np.isnan(line.get_xdata()).any()]
    assert colours == [style.DATA] * 2 + [style.EMULATOR] * 2  # 50 and 90 %
    (legend,) = seen[0].legends
    assert "lines enclose 50 and 90 % of the events" in legend.get_title().get_text()
    assert [text.get_text() for text in legend.get_texts()][1:] == ["emulator, n = 10,000"]


def test_a_cell_shows_that_cell_s_rows(folders, tmp_path, seen):
    at = {"Z": 0.001, "alpha": 5.0}

    corner(Truth(3), folders / "3", conditions=at, out=tmp_path / "c.png")

    assert "Z = 0.001, alpha = 5" in seen[0].legends[0].get_title().get_text()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param({"columns": ["Mass_9"]}, "did you mean 'Mass_", id="column"),
        pytest.param({"columns": ["chi", "chi"]}, "each event column once", id="twice"),
        pytest.param({"conditions": {"Z": 0.5}}, "Z is one of", id="cell"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(folders, tmp_path, asked, message):
    with pytest.raises(PlotError, match=message):
        corner(Truth(4), folders / "4", **asked, out=tmp_path / "c.png")
    with pytest.raises(DataError, match="prepare the data with those columns"):
        corner(Truth(3), folders / "4", out=tmp_path / "c.png")

    assert not list(tmp_path.iterdir())


def test_a_single_column_has_a_density_with_a_unit(folders, tmp_path, seen):
    corner(Truth(1), folders / "1", out=tmp_path / "c.png")

    assert seen[0].axes[0].get_ylabel() == r"density [1/$M_\odot$]"
    assert len(seen[0].axes[0].get_yticks())
