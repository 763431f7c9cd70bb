"""Maps of a density: what they show, and what they refuse."""

import numpy as np
import pytest
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
    edges = likelihood._edges(emulator, [HERE])

    shade = likelihood._shade(emulator, edges, HERE)

    centres = (edges[:, 1:] + edges[:, :-1]) / 2
    top = emulator.log_prob([[x, y] for x in centres[0] for y in centres[1]], **HERE).max()
    for up, across in ((3, 30), (20, 20), (35, 10)):
        here = emulator.log_prob([[centres[0][across], centres[1][up]]], **HERE)[0]
        below = (here - top) / np.log(10)
        seen = shade[up, across]
        assert (seen is np.ma.masked) == (below < -likelihood.DECADES)
        assert seen is np.ma.masked or seen == pytest.approx(below, abs=1e-4)


def test_a_map_holds_nearly_all_events(emulator):
    edges = likelihood._edges(emulator, [HERE])

    drawn = emulator.sample(5000, seed=1, **HERE)

    inside = ((drawn > edges[:, 0]) & (drawn < edges[:, -1])).all(axis=1)
    assert inside.mean() > 0.99
    assert (edges > 0).all()  # masses have no room for what cannot be


def test_a_map_ends_at_the_bounds_of_its_columns():
    columns = (Column("q", "", low=0, high=1), Column("chi_eff", "", low=-1, high=1))
    made = Emulator(flow(columns, blocks=1, hidden=8, bins=4, shake=0.1).float())

    edges = likelihood._edges(made, [HERE])

    assert (edges.min(axis=1) >= [0, -1]).all()
    assert (edges.max(axis=1) == 1).all()


def test_a_map_of_a_column_with_an_atom_says_that_it_is_of_the_rest():
    mixed = a_mixed_flow((MASSES[0], SPIN), ((None, 0.0), (None, None)), blocks=1, bins=4)
    emulator, here = Emulator(mixed), {"Z": 0.001, "alpha": 1.0}

    with style.figure_of(6.6, 5.6) as figure:
        likelihood._draw(figure, emulator, likelihood._edges(emulator, [here]), here)

    assert figure.axes[1].get_ylabel() == (
        "log$_{10}$ of the density off chi_eff = 0, over its highest [dimensionless]"
    )


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
