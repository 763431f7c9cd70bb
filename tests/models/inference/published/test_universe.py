"""What detectors see, as sources."""

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM

from models.inference.mixture import PopulationError
from models.inference.published.universe import PLANCK15, PLANCK15_LAL, Cosmology, Universe

Z = np.array([1e-4, 0.01, 0.3, 1.0, 3.0, 20.0])


@pytest.mark.parametrize("cosmology", [PLANCK15_LAL, PLANCK15, Cosmology(hubble=80, matter=0.9)])
def test_distances_and_volumes_are_astropys(cosmology):
    theirs = FlatLambdaCDM(cosmology.hubble, cosmology.matter, Tcmb0=0)
    step = 1e-5 * Z
    slope = theirs.luminosity_distance(Z + step) - theirs.luminosity_distance(Z - step)
    volume = 4e-9 * np.pi * theirs.differential_comoving_volume(Z).value

    distance = cosmology.luminosity_distance(Z)

    np.testing.assert_allclose(distance, theirs.luminosity_distance(Z).value, rtol=1e-9)
    np.testing.assert_allclose(cosmology.volume_slope(Z), volume, rtol=1e-9)
    found = cosmology.luminosity_distance_slope(Z)
    np.testing.assert_allclose(found, slope.value / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(cosmology.redshift(distance), Z, rtol=1e-9, atol=1e-12)


def test_the_density_in_the_source_frame_is_that_of_the_detectors_volume_element():
    """By differences: what a small box of sources becomes in masses and distances seen."""
    universe = Universe(cosmology=PLANCK15_LAL, max_spin=0.99, evolution=None)

    def seen(mass_1, mass_2, z):
        return np.array(
            [mass_1 * (1 + z), mass_2 * (1 + z), PLANCK15_LAL.luminosity_distance(z)], float
        )

    at = np.array([30.0, 20.0, 0.4])
    steps = 1e-5 * np.eye(3)
    element = np.linalg.det([(seen(*(at + d)) - seen(*(at - d))) / 2e-5 for d in steps])
    first, second, distance = seen(*at)[:, None]

    plain, ratio = (
        universe.sources((first, second), distance, np.zeros(1), second=which)
        for which in ("mass_2", "mass_ratio")
    )

    assert [plain[name][0] for name in ("mass_1", "mass_2", "redshift")] == pytest.approx(at)
    assert plain["prior"][0] == pytest.approx(element, rel=1e-7)
    assert ratio["prior"][0] == pytest.approx(30 * element, rel=1e-7)
    assert ratio["mass_ratio"][0] == pytest.approx(2 / 3)


def test_the_redshifts_taken_for_granted_have_a_density_of_one():
    universe = Universe(cosmology=PLANCK15_LAL, max_spin=0.99, evolution=2.7, max_redshift=1.5)
    z = np.linspace(1e-4, 1.6, 40_001)
    distance = PLANCK15_LAL.luminosity_distance(z)
    masses = np.full_like(z, 30.0), np.full_like(z, 20.0)

    assumed = universe.sources(masses, distance, np.zeros(len(z)), second="mass_2")["prior"]
    given = Universe(cosmology=PLANCK15_LAL, max_spin=0.99, evolution=None).sources(
        masses, distance, np.zeros(len(z)), second="mass_2"
    )["prior"]
    density = given / assumed

    assert np.trapezoid(density, z) == pytest.approx(1, rel=1e-4)
    assert (density[z > 1.5] == 0).all()
    # Of mergers at a constant rate in R Gpc^-3 yr^-1, R times these many in so many years.
    flat = Universe(cosmology=PLANCK15_LAL, max_spin=0.99, evolution=1.0, max_redshift=1.5)
    volume = 4 / 3 * np.pi * (PLANCK15_LAL.comoving_distance(1.5) / 1e3) ** 3
    assert flat.hypervolume(2.0) == pytest.approx(2 * volume, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: Cosmology(hubble=0.7, matter=1.3), "matter between 0 and 1", id="om"),
        pytest.param(
            lambda: Universe(cosmology=PLANCK15, max_spin=0.99, evolution=2.7),
            "evolution and max_redshift belong together",
            id="half",
        ),
        pytest.param(
            lambda: Universe(cosmology=PLANCK15, max_spin=2, evolution=None), "max_spin", id="spin"
        ),
        pytest.param(
            lambda: PLANCK15.redshift([100.0, -1.0]), "luminosity distances must be", id="distance"
        ),
        pytest.param(
            lambda: Universe(cosmology=PLANCK15, max_spin=1, evolution=None).hypervolume(1.0),
            "knows no evolution of mergers",
            id="volume",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(PopulationError, match=message):
        make()
