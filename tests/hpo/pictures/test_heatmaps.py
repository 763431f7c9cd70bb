"""Heat maps over the cells: which field holds what, what they refuse, that they are pictures."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from hpo.cli import main
from hpo.pictures import divergence, heatmaps
from hpo.pictures.contours import PlotError
from models import Emulator
from models.evaluation import distances
from tests.conftest import GRID as CELLS
from tests.models.flow.test_density import GRID, flow

MAGIC = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
KICK = Column("kick", "km / s", True)
HERE = {"Z": 0.001, "alpha": 1.0}


def emulator_of(conditions, shake=0.3):
    return Emulator(flow(conditions=conditions, blocks=1, hidden=8, bins=4, shake=shake).float())


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return emulator_of(GRID)


@pytest.fixture(scope="module")
def emulator_of_three() -> Emulator:
    return emulator_of((*GRID, KICK))


@pytest.fixture(scope="module")
def prepared_of_three(tmp_path_factory):
    """Cells of three conditions; one combination of them is not there."""
    folder = tmp_path_factory.mktemp("three")
    cells = [(Z, a, k) for Z in (0.6, 1.2) for a in (0.7, 1.0, 1.4) for k in (1.0, 1.5)][1:]
    conditions = np.repeat(cells, 1200, axis=0)
    masses = np.random.default_rng(0).lognormal(2.0, 0.3, size=(len(conditions), 2))
    names = ("Mass_0", "Mass_1", "Z", "alpha", "kick")
    columns = zip(names, np.concatenate([masses, conditions], axis=1).T, strict=True)
    pq.write_table(pa.table(dict(columns)), folder / "table.parquet")
    prepare(
        [folder / "table.parquet"],
        folder / "prepared",
        condition_columns=("Z", "alpha", "kick"),
    )
    return folder / "prepared"


@pytest.fixture
def seen(monkeypatch):
    """The figures that were written, to be looked into."""
    figures = []
    write = heatmaps.write

    def keep(figure, out):
        figures.append(figure)
        write(figure, out)

    monkeypatch.setattr(heatmaps, "write", keep)
    return figures


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(divergence, "DRAWS", 200)
    monkeypatch.setattr(divergence, "ALL_DRAWS", 50)


def values_of(axes):
    return axes.collections[0].get_array()


def ticks_of(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


def test_the_map_around_a_reference_has_each_cell_s_divergence_in_its_field(
    emulator, prepared, tmp_path, seen
):
    out = heatmaps.divergence(emulator, prepared, conditions=HERE, out=tmp_path / "d.png")

    cells = [dict(zip(("Z", "alpha"), each, strict=True)) for each in CELLS]
    truth = divergence.from_one(emulator, HERE, cells).values.reshape(3, 3)
    axes, bar = seen[0].axes
    np.testing.assert_allclose(values_of(axes), truth.T)
    assert values_of(axes)[1, 1] == 0
    assert [ticks_of(axes.xaxis), ticks_of(axes.yaxis)] == [
        ["0.0001", "0.001", "0.01"],
        ["0.5", "1", "5"],
    ]
    assert axes.get_xlabel() == "Z [dimensionless]"
    assert axes.get_ylabel() == "alpha [dimensionless]"
    assert bar.get_ylabel() == "Jensen-Shannon divergence [nats]"
    assert {each.get_text() for each in axes.texts} == {f"{each:.2f}" for each in truth.ravel()}
    (frame,) = axes.patches
    assert frame.get_xy() == (1, 1)
    assert out.read_bytes().startswith(MAGIC[".png"])


def test_a_reference_between_the_cells_has_no_frame(emulator, prepared, tmp_path, seen):
    at = {"Z": 0.002, "alpha": 2.0}

    heatmaps.divergence(emulator, prepared, conditions=at, out=tmp_path / "d.png")

    assert not seen[0].axes[0].patches
    assert (values_of(seen[0].axes[0]) > 0).all()
    assert "from Z = 0.002, alpha = 2\n" in seen[0].get_suptitle()


def test_without_a_reference_all_cells_are_compared_in_order(emulator, prepared, tmp_path, seen):
    heatmaps.divergence(emulator, prepared, out=tmp_path / "d.png")

    axes = seen[0].axes[0]
    shown = values_of(axes)
    cells = [dict(zip(("Z", "alpha"), each, strict=True)) for each in sorted(CELLS)]
    np.testing.assert_allclose(shown, divergence.between_all(emulator, cells).values)
    np.testing.assert_array_equal(shown, shown.T)
    assert (np.diag(shown) == 0).all()
    assert ticks_of(axes.xaxis) == ["0.5", "1", "5"] * 3
    groups = [tick.get_text() for tick in axes.get_yticklabels(minor=True)]
    assert groups == ["0.0001", "0.001", "0.01"]
    assert axes.get_xlabel() == "alpha [dimensionless], in groups of Z [dimensionless]"


def test_a_condition_that_is_fixed_leaves_the_other_cells_out(emulator, prepared, tmp_path, seen):
    heatmaps.divergence(emulator, prepared, conditions={"Z": 0.001}, out=tmp_path / "d.png")

    assert values_of(seen[0].axes[0]).shape == (3, 3)
    assert ticks_of(seen[0].axes[0].yaxis) == ["0.5", "1", "5"]
    assert "at Z = 0.001" in seen[0].get_suptitle()


def test_without_data_the_cells_lie_evenly_over_the_domain(emulator, tmp_path, seen):
    at = {"Z": 1.0, "alpha": 1.0}

    heatmaps.divergence(emulator, None, conditions=at, out=tmp_path / "d.png")

    axes = seen[0].axes[0]
    assert values_of(axes).shape == (heatmaps.EVENLY, heatmaps.EVENLY)
    assert [ticks_of(axes.xaxis)[k] for k in (0, -1)] == ["0.5", "2"]


def test_of_three_conditions_two_make_the_plane_and_the_third_is_that_of_the_reference(
    emulator_of_three, prepared_of_three, tmp_path, seen
):
    at = {"Z": 0.6, "alpha": 1.0, "kick": 1.0}
    ask = {"conditions": at, "columns": ["kick", "alpha"], "out": tmp_path / "d.png"}

    heatmaps.divergence(emulator_of_three, prepared_of_three, **ask)

    axes = seen[0].axes[0]
    shown = values_of(axes)
    assert shown.shape == (3, 2)
    assert shown.mask.tolist() == [[True, False], [False, False], [False, False]]  # not there
    assert axes.get_xlabel() == "kick [km / s]"


def test_errors_are_those_of_the_cells_that_have_rows_and_the_others_are_hatched(
    emulator, prepared, tmp_path, seen
):
    heatmaps.errors(emulator, prepared, out=tmp_path / "e.png")

    test = read_split(prepared, "test")
    truth = distances.cell_distances(emulator.module, test)
    first, second, bar = seen[0].axes
    for axes, name in ((first, "Mass_0"), (second, "Mass_1")):
        assert axes.get_title(loc="left") == name
        shown = values_of(axes)
        assert shown.count() == len(truth) == 3
        for each in truth:
            x = [0.0001, 0.001, 0.01].index(each.conditions["Z"])
            y = [0.5, 1.0, 5.0].index(each.conditions["alpha"])
            assert shown[y, x] == pytest.approx(each.ks[name] / each.floor[name])
        assert len([each for each in axes.patches if each.get_hatch()]) == 9 - 3
        texts = [each.get_text() for each in axes.texts]
        rows = [cell.test for cell in Dataset.read(prepared).cells]
        assert sorted(each for each in texts if "row" in each) == sorted(
            f"{n:,} row{'' if n == 1 else 's'}" for n in rows
        )
    assert bar.get_ylabel() == "KS distance over its floor [dimensionless]"


def test_errors_of_three_conditions_need_one_fixed(
    emulator_of_three, prepared_of_three, tmp_path, seen
):
    with pytest.raises(PlotError, match="fixed by --NAME VALUE: Z, alpha, kick left open"):
        heatmaps.errors(emulator_of_three, prepared_of_three, out=tmp_path / "e.png")

    at = {"kick": 1.5}
    heatmaps.errors(emulator_of_three, prepared_of_three, conditions=at, out=tmp_path / "e.png")

    assert values_of(seen[0].axes[0]).shape == (3, 2)
    assert values_of(seen[0].axes[0]).count() == 6
    assert "test rows, kick = 1.5" in seen[0].get_suptitle()


def test_one_condition_that_is_left_makes_a_single_row(emulator, prepared, tmp_path, seen):
    heatmaps.errors(emulator, prepared, conditions={"Z": 0.01}, out=tmp_path / "e.png")

    assert values_of(seen[0].axes[0]).shape == (1, 3)


@pytest.mark.parametrize("suffix", sorted(MAGIC))
@pytest.mark.parametrize("kind", ["divergence", "errors"])
def test_the_suffix_decides_the_format_and_nothing_else_is_left(
    emulator, prepared, tmp_path, kind, suffix
):
    out = getattr(heatmaps, kind)(emulator, prepared, out=tmp_path / f"map{suffix}")

    assert out.read_bytes().startswith(MAGIC[suffix])
    assert [each.name for each in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        pytest.param("divergence", {"out": "d.gif"}, "a picture is one of", id="film"),
        pytest.param("errors", {"out": "e.jpeg"}, "a picture is one of", id="suffix"),
        pytest.param("divergence", {"conditions": {"z": 1}}, "did you mean 'Z'|there are", id="z"),
        pytest.param("errors", {"conditions": {"Z": 0.5}}, "Z is one of 0.0001", id="no cell"),
        pytest.param("errors", {"conditions": HERE}, "none left open", id="nothing open"),
        pytest.param("divergence", {"columns": ["Z", "alpha"]}, "one reference", id="no reference"),
        pytest.param(
            "divergence", {"conditions": HERE, "columns": ["Z", "Z"]}, "two different", id="twice"
        ),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(emulator, prepared, tmp_path, kind, asked, message):
    out = tmp_path / asked.pop("out", "map.png")

    with pytest.raises(PlotError, match=message):
        getattr(heatmaps, kind)(emulator, prepared, **asked, out=out)

    assert not list(tmp_path.iterdir())


def test_three_conditions_need_a_plane_by_name_and_few_enough_cells(emulator_of_three, tmp_path):
    at = {"Z": 1.0, "alpha": 1.0, "kick": 1.0}
    with pytest.raises(PlotError, match="name two by --columns"):
        heatmaps.divergence(emulator_of_three, None, conditions=at, out=tmp_path / "d.png")
    with pytest.raises(PlotError, match="there are 216: fix one by --NAME VALUE"):
        heatmaps.divergence(emulator_of_three, None, out=tmp_path / "d.png")


def test_an_emulator_without_conditions_has_no_cells(tmp_path):
    with pytest.raises(PlotError, match="no conditions"):
        heatmaps.divergence(emulator_of(()), None, out=tmp_path / "d.png")


def test_other_data_than_the_emulator_s_is_a_sentence(emulator, prepared_of_three, tmp_path):
    with pytest.raises(PlotError, match="is conditioned on Z, alpha, the data are conditioned on"):
        heatmaps.errors(emulator, prepared_of_three, out=tmp_path / "e.png")


def test_a_text_is_no_wider_than_its_picture(emulator, prepared, tmp_path, seen):
    heatmaps.errors(emulator, prepared, conditions={"Z": 0.01}, out=tmp_path / "e.png")
    heatmaps.divergence(emulator, prepared, conditions={"Z": 0.01}, out=tmp_path / "d.png")

    for figure in seen:
        FigureCanvasAgg(figure).draw()
        (head,) = (text for text in figure.texts if text.get_text() == figure.get_suptitle())
        assert head.get_window_extent().x1 <= figure.bbox.width


@pytest.mark.filterwarnings("ignore::models.bundle.domain.ExtrapolationWarning")
def test_the_command_draws_each_kind_from_a_bundle(emulator, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("hpo.pictures.contours.DRAWS", 5000)
    bundle = str(emulator.save(tmp_path / "emulator"))

    def run(*words):
        return CliRunner().invoke(main, ["plot", bundle, *map(str, words)])

    here = ("--Z", 0.001, "--alpha", 1.0)
    data = ("--data", prepared, "--out")
    assert run("divergence", *here, *data, tmp_path / "d.pdf").exit_code == 0
    assert run("errors", *data, tmp_path / "e.svg").exit_code == 0
    assert run("corner", *here, "--columns", "Mass_1", *data, tmp_path / "c.png").exit_code == 0
    for name in ("d.pdf", "e.svg", "c.png"):
        assert (tmp_path / name).read_bytes().startswith(MAGIC[name[1:]])

    alone = run("divergence", "--Z", 1.0, "--out", tmp_path / "alone.png")
    assert alone.exit_code == 0
    assert "evenly over the domain" in alone.stderr
    assert alone.stdout == f"{tmp_path / 'alone.png'}\n"
    assert "6 of 6 cells" in alone.stderr

    refused = run("errors", *here, *data, tmp_path / "no.png")
    assert refused.exit_code == 2
    assert "\nError: a map shows one or two conditions" in refused.stderr
    assert "says nothing to errors" in run("errors", "--columns", "Z", *data, "x.png").stderr
    lost = run("divergence", "--data", tmp_path / "nowhere", "--out", tmp_path / "no.png")
    assert lost.exit_code == 2
    assert not (tmp_path / "no.png").exists()
