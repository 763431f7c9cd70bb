"""Maps of a density: what they show, and what they refuse."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from data_prep.columns import Column
from hpo.pictures import likelihood, style
from hpo.pictures.style import PlotError
from models import Emulator
from models.bundle.emulator import EmulatorError
from tests.random_flows import MASSES, SPIN, a_mixed_flow, flow

HERE = {"Z": 1.0, "alpha": 1.5}


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    """Of a flow with random weights, a density over two masses."""
    return Emulator(flow(blocks=1, hidden=8, bins=4, shake=0.1).float())


def test_a_map_shows_the_density_of_every_pixel(emulator):
    axes = Figure().add_subplot()

    mesh = likelihood.draw(axes, emulator, conditions=HERE)

    across, up = likelihood._edges(emulator, [HERE])
    x, y = (across[1:] + across[:-1]) / 2, (up[1:] + up[:-1]) / 2
    below = emulator.log_prob(np.dstack(np.meshgrid(x, y)).reshape(-1, 2), **HERE) / np.log(10)
    below = (below - below.max()).clip(-likelihood.DECADES).reshape(len(y), len(x))
    assert not np.ma.is_masked(mesh.get_array())  # a mask would have a ragged edge
    np.testing.assert_allclose(mesh.get_array(), below, atol=1e-4)


@pytest.mark.parametrize("xlim", [None, (0.0, 8.0)], ids=["whole", "part"])
def test_the_lines_of_a_map_enclose_what_they_say(emulator, monkeypatch, xlim):
    monkeypatch.setattr(likelihood, "PIXELS", 200)
    axes = Figure().add_subplot()

    look = style.Look(levels=(0.5, 0.9), xlim=xlim)
    likelihood.draw(axes, emulator, conditions=HERE, look=look)

    drawn = emulator.sample(20_000, seed=3, **HERE)
    log_N = emulator.log_prob(drawn, **HERE)
    for line, fraction in zip(axes.lines, look.levels, strict=True):
        height = np.quantile(log_N, 1 - fraction)  # by the definition of the densest region
        points = line.get_xydata()[np.isfinite(line.get_xdata())]
        points = points[points[:, 0] < (xlim or axes.get_xlim())[1]]
        on_it = emulator.log_prob(points, **HERE)
        assert np.median(on_it) == pytest.approx(height, abs=0.1)


def test_a_map_of_where_nothing_is_is_white(emulator):
    axes = Figure().add_subplot()

    image = likelihood.draw(
        axes, emulator, conditions=HERE, look=style.Look(xlim=(1e4, 2e4), ylim=(1e4, 2e4))
    )

    assert (image.get_array() == -likelihood.DECADES).all()


def test_a_map_holds_nearly_all_events(emulator):
    edges = likelihood._edges(emulator, [HERE])

    drawn = emulator.sample(5000, seed=1, **HERE)

    inside = [(x > each[0]) & (x < each[-1]) for x, each in zip(drawn.T, edges, strict=True)]
    assert np.all(inside, axis=0).mean() > 0.99
    assert min(map(np.min, edges)) > 0  # masses have no room for what cannot be


def test_a_map_ends_at_the_bounds_of_its_columns():
    columns = (Column("q", "", low=0, high=1), Column("chi_eff", "", low=-1, high=1))
    made = Emulator(flow(columns, blocks=1, hidden=8, bins=4, shake=0.1).float())

    edges = likelihood._edges(made, [HERE])

    assert [each[0] >= least for each, least in zip(edges, (0, -1), strict=True)] == [True] * 2
    assert [each[-1] for each in edges] == [1, 1]


def test_a_map_of_a_column_with_an_atom_says_that_it_is_of_the_rest(tmp_path, seen):
    mixed = a_mixed_flow((MASSES[0], SPIN), ((None, 0.0), (None, None)), blocks=1, bins=4)
    emulator, here = Emulator(mixed), {"Z": 0.001, "alpha": 1.0}

    likelihood.likelihood(emulator, conditions=here, out=tmp_path / "map.png")

    label = seen[0].axes[1].get_ylabel()
    assert label == "log$_{10}$ of the density off chi_eff = 0 over its highest"


def test_an_animation_moves_the_condition_that_is_left_open(emulator, tmp_path):
    steps = []
    out = likelihood.animation(
        emulator,
        conditions={"Z": 1.0},
        step=lambda *each: steps.append(each),
        out=tmp_path / "alpha.gif",
    )

    assert steps == [(1, 3), (2, 3), (3, 3)]
    with Image.open(out) as film:
        assert film.n_frames == 3
        film.seek(0)
        first = np.asarray(film.convert("L"), dtype=float)
        film.seek(2)
        assert np.abs(np.asarray(film.convert("L"), dtype=float) - first).max() > 50
    assert [path.name for path in tmp_path.iterdir()] == ["alpha.gif"]


def test_an_animation_as_a_page_needs_no_other_file(emulator, tmp_path):
    out = likelihood.animation(emulator, conditions={"alpha": 1.0}, out=tmp_path / "Z.html")

    assert out.read_text().count("data:image/png;base64") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["Z.html"]


@pytest.mark.parametrize(
    ("draw", "given", "name", "message"),
    [
        pytest.param("animation", {}, "a.gif", "moves one condition", id="two left open"),
        pytest.param("animation", HERE, "a.gif", "moves one condition", id="none left open"),
        pytest.param("animation", {"Z": 1.0}, "a.png", "an animation is one of", id="still"),
        pytest.param("likelihood", HERE, "a.gif", "a picture is one of", id="moving"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(emulator, tmp_path, draw, given, name, message):
    with pytest.raises(PlotError, match=message):
        getattr(likelihood, draw)(emulator, conditions=given, out=tmp_path / name)

    assert not list(tmp_path.iterdir())


def test_a_film_without_ffmpeg_says_what_to_write_instead(emulator, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PlotError, match="needs ffmpeg"):
        likelihood.animation(emulator, conditions={"Z": 1.0}, out=tmp_path / "a.mp4")


def test_a_map_is_of_two_columns_and_known_conditions(emulator, tmp_path):
    single = Emulator(flow(events=(Column("q", "", True),)).float())
    with pytest.raises(PlotError, match="two event columns"):
        likelihood.likelihood(single, conditions=HERE, out=tmp_path / "a.png")
    with pytest.raises(EmulatorError, match="conditions are Z, alpha"):
        likelihood.likelihood(emulator, conditions={"Z": 1.0}, out=tmp_path / "a.png")
