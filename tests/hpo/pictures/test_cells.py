"""Heat maps over the cells: which field holds what, what they refuse, that they are pictures."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from data_prep.columns import Column
from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.stream import read_split
from hpo.cli import main
from hpo.pictures import cells
from hpo.pictures.maps import grid
from hpo.pictures.maps.divergence import divergence, from_reference
from hpo.pictures.maps.errors import errors
from hpo.pictures.style import PLAIN, PlotError
from models import Emulator
from models.evaluation import distances
from tests.conftest import GRID as CELLS
from tests.random_flows import GRID, flow

MAGIC = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
KICK = Column("kick", "km / s", True)
HERE = {"Z": 0.001, "alpha": 1.0}
KINDS = {"divergence": divergence, "errors": errors}


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


def values_of(axes):
    return axes.collections[0].get_array()


def ticks_of(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


def test_the_map_around_a_reference_has_each_cell_s_divergence_in_its_field(
    emulator, prepared, tmp_path, seen
):
    divergence(emulator, prepared, conditions=HERE, out=tmp_path / "d.png")

    all_cells = [dict(zip(("Z", "alpha"), each, strict=True)) for each in CELLS]
    truth = from_reference(emulator, HERE, all_cells)[0].reshape(3, 3)
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


def test_a_reference_between_the_cells_has_no_frame(emulator, prepared, tmp_path, seen):
    at = {"Z": 0.002, "alpha": 2.0}

    divergence(emulator, prepared, conditions=at, out=tmp_path / "d.png")

    assert not seen[0].axes[0].patches
    assert (values_of(seen[0].axes[0]) > 0).all()
    assert "from Z = 0.002, alpha = 2\n" in seen[0].get_suptitle()


def test_without_data_the_cells_lie_evenly_over_the_domain(emulator, tmp_path, seen):
    at = {"Z": 1.0, "alpha": 1.0}

    divergence(emulator, None, conditions=at, out=tmp_path / "d.png")

    axes = seen[0].axes[0]
    assert values_of(axes).shape == (cells.EVENLY, cells.EVENLY)
    assert [ticks_of(axes.xaxis)[k] for k in (0, -1)] == ["0.5", "2"]


def test_of_three_conditions_two_make_the_plane_and_the_third_is_that_of_the_reference(
    emulator_of_three, prepared_of_three, tmp_path, seen
):
    at = {"Z": 0.6, "alpha": 1.0, "kick": 1.0}
    ask = {"conditions": at, "columns": ["kick", "alpha"], "out": tmp_path / "d.png"}

    divergence(emulator_of_three, prepared_of_three, **ask)

    axes = seen[0].axes[0]
    shown = values_of(axes)
    assert shown.shape == (3, 2)
    assert shown.mask.tolist() == [[True, False], [False, False], [False, False]]  # not there
    assert axes.get_xlabel() == "kick [km / s]"


def test_errors_are_those_of_the_cells_that_have_rows_and_the_others_are_hatched(
    emulator, prepared, tmp_path, seen
):
    errors(emulator, prepared, out=tmp_path / "e.png")

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
        assert axes.patch.get_hatch()  # seen where the fields are masked
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
        errors(emulator_of_three, prepared_of_three, out=tmp_path / "e.png")

    at = {"kick": 1.5}
    errors(emulator_of_three, prepared_of_three, conditions=at, out=tmp_path / "e.png")

    assert values_of(seen[0].axes[0]).shape == (3, 2)
    assert values_of(seen[0].axes[0]).count() == 6
    assert "test rows, kick = 1.5" in seen[0].get_suptitle()


def test_one_condition_that_is_left_makes_a_single_row(emulator, prepared, tmp_path, seen):
    errors(emulator, prepared, conditions={"Z": 0.01}, out=tmp_path / "e.png")

    assert values_of(seen[0].axes[0]).shape == (1, 3)


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        pytest.param("divergence", {"conditions": {"z": 1}}, "did you mean 'Z'|there are", id="z"),
        pytest.param("errors", {"conditions": {"Z": 0.5}}, "Z is one of 0.0001", id="no cell"),
        pytest.param("errors", {"conditions": HERE}, "none left open", id="nothing open"),
        pytest.param(
            "divergence", {"conditions": HERE, "columns": ["Z", "Z"]}, "two different", id="twice"
        ),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(emulator, prepared, tmp_path, kind, asked, message):
    with pytest.raises(PlotError, match=message):
        KINDS[kind](emulator, prepared, **asked, out=tmp_path / "map.png")

    assert not list(tmp_path.iterdir())


def test_three_conditions_need_a_plane_by_name(emulator_of_three, tmp_path):
    at = {"Z": 1.0, "alpha": 1.0, "kick": 1.0}
    with pytest.raises(PlotError, match="name two by --columns"):
        divergence(emulator_of_three, None, conditions=at, out=tmp_path / "d.png")


def test_an_emulator_without_conditions_has_no_cells(tmp_path):
    with pytest.raises(PlotError, match="no conditions"):
        divergence(emulator_of(()), None, conditions={}, out=tmp_path / "d.png")


def test_other_data_than_the_emulator_s_is_a_sentence(emulator, prepared_of_three, tmp_path):
    with pytest.raises(DataError, match="condition columns Z, alpha, kick.*, the flow Z, alpha: "):
        errors(emulator, prepared_of_three, out=tmp_path / "e.png")


def test_a_text_is_no_wider_than_its_picture(emulator, prepared, tmp_path, seen):
    errors(emulator, prepared, conditions={"Z": 0.01}, out=tmp_path / "e.png")
    divergence(emulator, prepared, conditions=HERE, out=tmp_path / "d.png")

    for figure in seen:
        FigureCanvasAgg(figure).draw()
        (head,) = (text for text in figure.texts if text.get_text() == figure.get_suptitle())
        assert head.get_window_extent().x1 <= figure.bbox.width


@pytest.mark.filterwarnings("ignore::models.bundle.domain.ExtrapolationWarning")
def test_the_command_draws_each_kind_from_a_bundle(emulator, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "EVENLY", 2)
    bundle = str(emulator.save(tmp_path / "emulator"))

    def run(kind, *words):
        return CliRunner().invoke(main, ["plot", kind, bundle, *map(str, words)])

    here = ("--Z", 0.001, "--alpha", 1.0)
    data = ("--data", prepared, "--out")
    assert run("divergence", *here, *data, tmp_path / "d.pdf").exit_code == 0
    assert run("errors", *data, tmp_path / "e.svg").exit_code == 0
    assert run("corner", *here, "--columns", "Mass_1", *data, tmp_path / "c.png").exit_code == 0
    for name in ("d.pdf", "e.svg", "c.png"):
        assert (tmp_path / name).read_bytes().startswith(MAGIC[name[1:]])

    alone = run("divergence", "--Z", 1.0, "--alpha", 1.0, "--out", tmp_path / "alone.png")
    assert alone.exit_code == 0
    assert "evenly over the domain" in alone.stderr
    assert alone.stdout == f"{tmp_path / 'alone.png'}\n"
    assert "4 of 4 cells" in alone.stderr

    styled = ("--width", "one", "--no-title", "--label", "Mass_0=$m$", "--levels", "40,80")
    done = run("likelihood", *here, *styled, "--xlim", "5,20", "--out", tmp_path / "l.png")
    with Image.open(tmp_path / "l.png") as picture:
        assert (done.exit_code, picture.width) == (0, 1020)
    for wrong, message in (
        (("--width", "wide"), "must be one, two, or a number of inches"),
        (("--label", "M0=m"), "--label: there is no 'M0': there are Mass_0, Mass_1, Z, alpha"),
        (("--label", "Mass_0=$m_$"), "'$m_$' for Mass_0 is no formula that matplotlib reads"),
        (("--levels", "0,50"), "must be percents between 0 and 100"),
        (("--xlim", "5"), "must be two numbers"),
        (("--ylim", "9,5"), "must rise from one number to a larger one"),
    ):
        told = run("likelihood", *here, *wrong)
        assert (told.exit_code, message in told.stderr) == (2, True), told.stderr

    refused = run("errors", *here, *data, tmp_path / "no.png")
    assert refused.exit_code == 2
    assert "\nError: a map shows one or two conditions" in refused.stderr
    assert "no such option '--columns'" in run("errors", "--columns", "Z", *data, "x.png").stderr
    unanchored = run("divergence", "--Z", 1.0, "--out", tmp_path / "no.png")
    assert unanchored.exit_code == 2
    assert "give --alpha: the emulator is conditioned on it" in unanchored.stderr
    lost = run("divergence", *here, "--data", tmp_path / "nowhere", "--out", tmp_path / "no.png")
    assert lost.exit_code == 2
    assert not (tmp_path / "no.png").exists()


# ---- regions


@pytest.fixture(scope="module")
def scattered(tmp_path_factory):
    """Z in every row, alpha of two values; rows that a flow of random weights has nothing of."""
    folder, rng = tmp_path_factory.mktemp("scattered"), np.random.default_rng(0)
    masses = rng.lognormal(2.0, 0.3, size=(12_000, 2))
    columns = {
        "Mass_0": masses[:, 0],
        "Mass_1": masses[:, 1],
        "Z": rng.uniform(0.6, 1.9, 12_000),
        "alpha": rng.choice([0.7, 1.5], 12_000),
    }
    pq.write_table(pa.table(columns), folder / "table.parquet")
    prepare([folder / "table.parquet"], folder / "prepared")
    return folder / "prepared"


@pytest.mark.parametrize("open_", [{}, {"alpha": 0.7}], ids=["both", "one"])
def test_a_map_of_scattered_conditions_has_a_box_for_each_region(
    emulator, scattered, tmp_path, monkeypatch, open_
):
    drawn, dataset = [], Dataset.read(scattered)
    draw = grid.draw
    monkeypatch.setattr(grid, "draw", lambda *a, **k: drawn.append(a) or draw(*a, **k))

    errors(emulator, scattered, conditions=open_, out=tmp_path / "errors.png")
    divergence(
        emulator, scattered, conditions={"Z": 1.0, "alpha": 0.7}, out=tmp_path / "divergence.png"
    )

    kept = [cell for cell in dataset.cells if not open_ or cell.box[1] == (0.7, 0.7)]
    truth = distances.cell_distances(emulator.module, read_split(scattered, "test"), dataset)
    ratio = {
        tuple(each.conditions.values()): each.ks["Mass_0"] / each.floor["Mass_0"] for each in truth
    }
    _, boxes, values_1K, *_ = drawn[0]
    assert list(boxes.cells) == kept
    if not open_:
        expected = [ratio[cell.conditions] for cell in kept]
        np.testing.assert_allclose(values_1K[0], expected, rtol=1e-6)
    assert not np.isnan(drawn[-1][2]).any()
    for name in ("errors", "divergence"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(MAGIC[".png"])


def test_a_contour_of_a_point_shows_its_region_at_the_rows_own_conditions(emulator, scattered):
    from hpo.pictures.contours import compare

    dataset = Dataset.read(scattered)
    cell = dataset.cells[0]
    asked, draw = [], emulator.sample
    emulator.sample = lambda n, **given: asked.append(given) or draw(n, **given)
    try:
        both = compare(
            emulator, scattered, {"Z": cell.box[0][1], "alpha": cell.conditions[1]}, [0, 1]
        )
    finally:
        del emulator.sample

    assert len(both.data_NF) == cell.test
    assert "the region of Z" in both.title_of(PLAIN)
    assert len(both.drawn_NF) > len(both.data_NF)
    assert len(np.unique(asked[0]["Z"])) == cell.test
    with pytest.raises(PlotError, match=r"no region holds them, the nearest is Z = "):
        compare(emulator, scattered, {"Z": 7.0}, [0, 1])
