"""Pictures as files: one step, one suffix, nothing left behind."""

import matplotlib
import pytest

from hpo.pictures import likelihood
from hpo.pictures.contours import contours
from hpo.pictures.corner import corner
from hpo.pictures.losses import losses
from hpo.pictures.maps import divergence, errors
from hpo.pictures.style import PlotError
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
    "contours": lambda _, data, out: contours(Truth(), data, out=out),
    "corner": lambda _, data, out: corner(Truth(), data, out=out),
    "errors": lambda emulator, data, out: errors.errors(emulator, data, out=out),
    "divergence": lambda emulator, data, out: divergence.divergence(
        emulator, data, conditions=HERE, out=out
    ),
    "likelihood": lambda emulator, _, out: likelihood.likelihood(
        emulator, conditions=HERE, out=out
    ),
    "losses": lambda _, __, out: losses([run()], out),
}


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
        ("losses", ".svg"),
    ],
)
def test_the_suffix_decides_the_format_and_nothing_else_is_left(
    tmp_path, prepared, emulator, kind, suffix
):
    drawn = KINDS[kind](emulator, prepared, tmp_path / "new" / f"{kind}{suffix}")

    assert [each.name for each in drawn.parent.iterdir()] == [drawn.name]
    assert drawn.read_bytes().startswith(MAGIC[suffix.lower()])


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_suffix_is_refused_before_anything_is_drawn(
    tmp_path, prepared, emulator, monkeypatch, kind
):
    monkeypatch.setattr(Truth, "sample", None)
    monkeypatch.setattr(Emulator, "sample", None)

    for name in ("masses.jpeg", "masses", "masses.gif"):
        with pytest.raises(PlotError, match=r"a picture is one of .png, .pdf, .svg"):
            KINDS[kind](emulator, prepared, tmp_path / name)

    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    out = losses([run()], tmp_path / "losses.png")
    before = out.read_bytes()

    def full(figure, draft, **_):
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="No space"):
        losses([run(val=(9.0, 8.0))], out)

    assert out.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["losses.png"]


def test_no_setting_of_matplotlib_outlives_a_picture(tmp_path, prepared):
    with matplotlib.rc_context({"font.size": 23.0, "axes.spines.top": True}):
        before = dict(matplotlib.rcParams)

        contours(Truth(), prepared, out=tmp_path / "masses.png")
        losses([run()], tmp_path / "losses.png")

        assert dict(matplotlib.rcParams) == before
