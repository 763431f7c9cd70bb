"""The exact density over a plane, against a truth whose density is known."""

import numpy as np
import pytest
from matplotlib.path import Path

from hpo.pictures.exact import Mixture
from tests.hpo.pictures.test_contours import Truth

AT = ({"Z": 0.001, "alpha": 0.5}, {"Z": 0.0002, "alpha": 5.0})
WEIGHTS = np.array([0.25, 0.75])


def drawn(number):
    """Events of that mixture."""
    first = np.random.default_rng(0).random(number) < WEIGHTS[0]
    Z, alpha = (np.where(first, AT[0][name], AT[1][name]) for name in ("Z", "alpha"))
    return Truth().sample(number, seed=1, Z=Z, alpha=alpha)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["across and up", "turned"])
def test_contours_of_a_mixture_enclose_what_they_say(order):
    events = drawn(20_000)[:, order]
    edges = tuple(np.linspace(0.0, column.max(), 121) for column in events.T)

    plane = Mixture(Truth(), AT, WEIGHTS, order).on(edges, events, times=4)

    assert plane.whole == pytest.approx(1.0, abs=0.005)
    for fraction, line in plane.contours([0.5, 0.9]).items():
        pieces = np.split(line, np.flatnonzero(np.isnan(line[:, 0])))
        inside = [
            Path(each[np.isfinite(each[:, 0])]).contains_points(events) for each in pieces[:-1]
        ]
        assert np.any(inside, axis=0).mean() == pytest.approx(fraction, abs=0.015)


def test_what_lies_outside_the_pixels_counts_in_the_whole():
    events = drawn(20_000)
    middle = np.median(events[:, 0])

    plane = Mixture(Truth(), AT, WEIGHTS).on(
        (np.linspace(0.0, middle, 121), np.linspace(0.0, events[:, 1].max(), 121)), events
    )

    assert plane.held_XY.sum() / plane.whole == pytest.approx(0.5, abs=0.01)
    assert list(plane.contours([0.1, 0.9])) == [0.1]
    far = np.linspace(1e3, 2e3, 121)
    assert Mixture(Truth(), AT, WEIGHTS).on((far, far), events).contours([0.1]) == {}
