"""Pictures as files: one step, one suffix, nothing left behind."""

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hpo.pictures import contours, likelihood, losses
from hpo.pictures.corner import corner
from hpo.pictures.maps import divergence, errors
from hpo.pictures.style import Look, PlotError
from models import Emulator
from tests.hpo.pictures.test_contours import Truth
from tests.hpo.pictures.test_losses import run
from tests.random_flows import flow

MAGIC = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
HERE = {"Z": 0.001, "alpha": 1.0}


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator(flow(blocks=1, hidden=8, bins=4, shake=0.3).float())


KINDS = {
    "contours": lambda _, data, **more: contours.contours(Truth(), data, **more),
    "corner": lambda _, data, **more: corner(Truth(), data, **more),
    "errors": lambda emulator, data, **more: errors.errors(emulator, data, **more),
    "divergence": lambda emulator, data, **more: divergence.divergence(
        emulator, data, conditions=HERE, **more
    ),
    "likelihood": lambda emulator, _, **more: likelihood.likelihood(
        emulator, conditions=HERE, **more
    ),
    "losses": lambda _, __, **more: losses.losses([run()], **more),
}
IN_AXES = {
    "contours": lambda axes, _, data, **more: contours.draw(axes, Truth(), data, **more),
    "errors": lambda axes, emulator, data, **more: errors.draw(
        axes, emulator, data, column="Mass_1", **more
    ),
    "divergence": lambda axes, emulator, data, **more: divergence.draw(
        axes, emulator, data, conditions=HERE, **more
    ),
    "likelihood": lambda axes, emulator, _, **more: likelihood.draw(
        axes, emulator, conditions=HERE, **more
    ),
    "losses": lambda axes, _, __, **more: losses.draw(axes, [run()], **more),
}
"""Those that have one pair of axes."""
CHOSEN = Look(width=3.4, title=False, labels={"Mass_0": "$m_1$", "alpha": "$a$", "nll": "loss"})


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("contours", ".png"),
        ("contours", ".pdf"),
        ("corner", ".svg"),
        ("errors", ".pdf"),
        ("divergence", ".svg"),
        ("likelihood", ".png"),
        ("losses", ".PNG"),
    ],
)
def test_the_suffix_decides_the_format_and_nothing_else_is_left(
    tmp_path, prepared, emulator, kind, suffix
):
    drawn = KINDS[kind](emulator, prepared, out=tmp_path / "new" / f"{kind}{suffix}")

    assert [each.name for each in drawn.parent.iterdir()] == [drawn.name]
    assert drawn.read_bytes().startswith(MAGIC[suffix.lower()])
    if suffix == ".png":
        with Image.open(drawn) as picture:
            assert min(picture.info["dpi"]) > 299


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_the_width_the_names_and_no_title_as_chosen(
    tmp_path, prepared, emulator, seen, kind
):
    KINDS[kind](emulator, prepared, look=CHOSEN, out=tmp_path / "picture.pdf")

    assert seen[0].get_size_inches()[0] == pytest.approx(3.4)
    assert seen[0].get_suptitle() == ""
    assert not any(legend.get_title().get_text() for legend in seen[0].legends)
    labels = {text for axes in seen[0].axes for text in (axes.get_xlabel(), axes.get_ylabel())}
    labels |= {seen[0].get_supylabel()}
    name = {"losses": "loss", "errors": "$a$", "divergence": "$a$"}.get(kind, "$m_1$")
    assert any(label.startswith(f"{name} [") for label in labels), labels


@pytest.mark.parametrize("kind", IN_AXES)
def test_a_picture_can_be_drawn_in_axes_of_one_s_own(prepared, emulator, kind):
    figure = Figure()
    mine, other = figure.subplots(1, 2)

    IN_AXES[kind](mine, emulator, prepared, look=CHOSEN)

    assert figure.axes == [mine, other]
    assert mine.has_data()
    assert not other.has_data()
    assert "[" in mine.get_xlabel() or kind == "losses"


@pytest.mark.parametrize("kind", ["contours", "likelihood"])
def test_axes_end_where_they_are_told_to(tmp_path, prepared, emulator, seen, kind):
    look = Look(xlim=(6.0, 20.0), ylim=(5.0, 21.0), levels=(0.4,))

    KINDS[kind](emulator, prepared, look=look, out=tmp_path / "picture.pdf")

    assert (seen[0].axes[0].get_xlim(), seen[0].axes[0].get_ylim()) == ((6, 20), (5, 21))


def test_two_maps_of_errors_have_the_same_colours(tmp_path, prepared, emulator, seen):
    worse = Emulator(flow(blocks=1, hidden=8, bins=4, shake=3.0).float())

    for each in (emulator, worse):
        errors.errors(each, prepared, out=tmp_path / "errors.pdf")

    assert len({figure.axes[0].collections[0].get_clim() for figure in seen}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_suffix_is_refused_before_anything_is_drawn(
    tmp_path, prepared, emulator, monkeypatch, kind
):
    monkeypatch.setattr(Truth, "sample", None)
    monkeypatch.setattr(Emulator, "sample", None)

    for name in ("masses.jpeg", "masses", "masses.gif"):
        with pytest.raises(PlotError, match=r"a picture is one of .png, .pdf, .svg"):
            KINDS[kind](emulator, prepared, out=tmp_path / name)

    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    out = losses.losses([run()], tmp_path / "losses.png")
    before = out.read_bytes()

    def full(figure, draft, **_):
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="No space"):
        losses.losses([run(val=(9.0, 8.0))], out)

    assert out.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["losses.png"]


def test_no_setting_of_matplotlib_outlives_a_picture(tmp_path):
    with matplotlib.rc_context({"font.size": 23.0, "axes.spines.top": True}):
        before = dict(matplotlib.rcParams)

        losses.losses([run()], tmp_path / "losses.svg")

        assert dict(matplotlib.rcParams) == before
