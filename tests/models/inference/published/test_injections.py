"""Found injections, in the layouts of O3 and O4a."""

import h5py
import numpy as np
import pytest

from models.inference.mixture import PopulationError
from models.inference.published.injections import read_injections
from models.inference.published.universe import PLANCK15_LAL, Cosmology, Universe
from tests.published_files import draws, write_injections

OPEN = Universe(cosmology=PLANCK15_LAL, max_spin=0.9, evolution=None)
OTHER = Universe(cosmology=Cosmology(hubble=73, matter=0.25), max_spin=0.9, evolution=None)
MERGERS = Universe(cosmology=PLANCK15_LAL, max_spin=0.9, evolution=1.5, max_redshift=0.8)
SAID = {"cosmology": PLANCK15_LAL, "far": 1.0}
LAYOUTS = ["o3", "mixture", "o4a", "angles", "factors"]
MADE = draws(40_000)


def population(table):
    """A normalised density of masses: m1 even from 10 to 40, m2 even up to m1 from 5."""
    first, second = table["mass_1"], table["mass_2"]
    within = (first > 10) & (first < 40) & (second > 5) & (second < first)
    return np.where(within, 1 / (30 * (first - 5)), 0.0)


def detected(found, density):
    weights = density(found.found) / found.found["prior"]
    return weights.sum() / found.drawn, np.sqrt((weights**2).sum()) / found.drawn


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("universe", [MERGERS, OPEN, OTHER], ids=["taken", "open", "other"])
def test_where_all_are_found_all_of_a_population_is_detected(tmp_path, layout, universe):
    """Drawn with redshifts, spins and weights of their own: the true fraction is 1."""
    path = write_injections(tmp_path / "all.hdf5", layout, MADE, drawn=40_000)

    def density(table):
        z = table["redshift"]
        even = (z > 0.2) & (z < 0.9)
        return population(table) * (1 if universe is MERGERS else even / 0.7)

    fraction, error = detected(read_injections(path, universe, **SAID), density)

    assert fraction == pytest.approx(1, abs=3.5 * error)
    assert error < 0.06


def test_every_layout_tells_the_same(tmp_path):
    made = draws(200)
    first, *others = (
        read_injections(write_injections(tmp_path / name, name, made, drawn=500), OPEN, **SAID)
        for name in LAYOUTS
    )

    assert first.drawn == 500
    assert first.years == pytest.approx(0.5)
    for other in others:
        assert (other.drawn, other.years) == (first.drawn, first.years)
        for name, values in first.found.items():
            np.testing.assert_allclose(other.found[name], values, rtol=1e-9)


def test_another_cosmology_leaves_the_density_of_what_is_seen(tmp_path):
    path = write_injections(tmp_path / "o3", "o3", draws(200), drawn=500)
    seen = []
    for universe in (OPEN, OTHER):
        found = read_injections(path, universe, **SAID).found
        z, slope = found["redshift"], universe.cosmology.luminosity_distance_slope
        seen.append(
            [found["mass_1"] * (1 + z), found["prior"] / ((1 + z) ** 2 * slope(z))]
            + [universe.cosmology.luminosity_distance(z)]
        )

    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-7)


def test_spins_beyond_the_largest_weigh_nothing_and_the_others_more(tmp_path):
    columns, _ = MADE
    path = write_injections(tmp_path / "o4a.hdf", "o4a", MADE, drawn=40_000)
    slow = Universe(cosmology=PLANCK15_LAL, max_spin=0.5, evolution=1.5, max_redshift=0.8)

    found = read_injections(path, slow, **SAID)

    largest = np.maximum(columns["spin1_magnitude"], columns["spin2_magnitude"])
    assert len(found.found["prior"]) == ((largest <= 0.5) & (columns["redshift"] <= 0.8)).sum()
    fraction, error = detected(found, population)
    assert fraction == pytest.approx(1, abs=3.5 * error)
    assert error < 0.06


def test_weights_stand_for_draws(tmp_path):
    """A third is kept of what is light, at three times the weight: the same population."""
    columns, _ = MADE
    light = columns["mass1_source"] < 20
    kept = ~light | (np.arange(len(light)) % 3 == 0)
    weights = np.where(light, 3.0, 1.0)
    path = write_injections(
        tmp_path / "o4a.hdf", "o4a", MADE, drawn=40_000, extra={"weights": weights}, keep=kept
    )

    fraction, error = detected(read_injections(path, MERGERS, **SAID), population)

    assert fraction == pytest.approx(1, abs=3.5 * error)


def test_found_is_what_any_search_finds_or_what_is_loud(tmp_path):
    made = draws(6)
    far = np.array([0.1, 0.9, 1.1, 5.0, np.nan, np.inf])
    loud = np.array([np.nan, np.nan, np.nan, 12.0, 9.0, 11.0])
    extra = {"semianalytic_observed_phase_maximized_snr_net": loud}
    plain, mixed = (
        write_injections(tmp_path / f"{len(more)}.hdf", "o4a", made, drawn=9, far=far, extra=more)
        for more in ({}, extra)
    )
    inverse = write_injections(
        tmp_path / "o3.hdf5", "o3", made, drawn=9, far=far + 100, extra={"ifar_pycbc": 1 / far}
    )
    runs = {"name": np.array([b"o3", b"o3", b"o3", b"o1", b"o2", b"o3"]), "optimal_snr_net": loud}
    early = write_injections(tmp_path / "123.hdf5", "mixture", made, drawn=9, far=far, extra=runs)
    wide = Universe(cosmology=PLANCK15_LAL, max_spin=1.0, evolution=None)

    def rows(path, **options):
        mass = read_injections(path, wide, **{**SAID, **options}).found["mass_1"]
        return [int(np.abs(made[0]["mass1_source"] - each).argmin()) for each in mass]

    assert rows(plain) == [0, 1]
    assert rows(plain, far=2.0) == [0, 1, 2]
    assert rows(inverse) == [0, 1]
    assert rows(mixed, snr=10.0) == [0, 1, 3, 5]
    assert rows(early, snr=10.0) == [0, 1, 3]
    for path in (mixed, early):
        with pytest.raises(PopulationError, match="no search looked for.*give the threshold snr"):
            read_injections(path, wide, **SAID)


def test_two_runs_together_detect_what_they_do_by_their_time(tmp_path):
    """Of three quarters of a year with a sensitivity and a quarter with another."""
    columns, _ = MADE
    heavy = np.where(columns["mass1_source"] > 25, 0.1, 9.0)
    near = np.where(columns["redshift"] < 0.5, 0.1, 9.0)
    one = write_injections(tmp_path / "o3", "o3", MADE, drawn=40_000, far=heavy, years=0.75)
    two = write_injections(tmp_path / "o4", "o4a", MADE, drawn=60_000, far=near, years=0.25)
    o3, o4 = (read_injections(path, MERGERS, **SAID) for path in (one, two))

    both = o3 + o4

    parts = [detected(run, population)[0] for run in (o3, o4)]
    assert detected(both, population)[0] == pytest.approx(0.75 * parts[0] + 0.25 * parts[1])
    assert (both.drawn, both.years) == (100_000, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"layout": "factors", "drop": "z"}, "in a way that is not known", id="none"),
        pytest.param({"far": np.full(60, 2.0)}, "none of 60 injections has a false", id="found"),
        pytest.param(
            {"extra": {"luminosity_distance": np.full(60, 500.0)}}, "another cosmology", id="cosmo"
        ),
        pytest.param({"extra": {"mass2_source": np.full(60, 500.0)}}, "order them", id="order"),
        pytest.param({"drop": "total_generated"}, "none of the attributes total_gen", id="total"),
        pytest.param({"drop": "mass1_source"}, "has no injections", id="masses"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, change, message):
    path = tmp_path / "o4a.hdf"
    drop = change.pop("drop", None)
    write_injections(path, change.pop("layout", "o4a"), draws(60), drawn=100, **change)
    with h5py.File(path, "r+") as file:
        if drop == "total_generated":
            del file.attrs[drop]
        elif drop:
            table = file["events"][:]
            del file["events"]
            file["events"] = table[[name for name in table.dtype.names if name != drop]]

    with pytest.raises(PopulationError, match=message):
        read_injections(path, OPEN, **SAID)
