"""Posterior samples as PESummary, GWOSC and GWTC-1 have them."""

import numpy as np
import pytest

from examples.mock_files import TOLD, analysis, write_pesummary
from models.inference.mixture import PopulationError
from models.inference.published.posteriors import SamplingPrior, read_posterior
from models.inference.published.universe import PLANCK15, PLANCK15_LAL, Cosmology, Universe
from tests.published_files import write_gwtc1

OPEN = Universe(cosmology=PLANCK15_LAL, max_spin=0.99, evolution=None)
SOURCE_FRAME = SamplingPrior(masses="detector", distance="source_frame", cosmology=PLANCK15_LAL)
EUCLIDEAN = SamplingPrior(masses="detector", distance="euclidean")
PAIR = np.array([40.0, 50.0, 45.0]), np.array([30.0, 20.0, 45.0])
DISTANCE = np.array([900.0, 2500.0, 5200.0])


def event(path, told=None, description="", name="C00:Mixed"):
    return write_pesummary(path, {name: analysis(*PAIR, DISTANCE)}, told, description)


@pytest.mark.parametrize("distance", ["euclidean", "comoving_volume", "source_frame"])
def test_samples_of_the_prior_weigh_the_volume_that_they_fill(tmp_path, distance):
    """Drawn under the prior itself, then 1 / prior makes them even in source masses and z."""
    rng = np.random.default_rng(1)
    pair = rng.uniform(20, 120, (2, 60_000))
    z = np.linspace(1e-3, 1.0, 4_000)
    if distance == "euclidean":
        most = PLANCK15_LAL.luminosity_distance(1.0)
        drawn = most * rng.random(pair.shape[1]) ** (1 / 3)
    else:
        density = PLANCK15_LAL.volume_slope(z) / (1 + z if distance == "source_frame" else 1)
        drawn = rng.choice(z, pair.shape[1], p=density / density.sum())
        drawn = PLANCK15_LAL.luminosity_distance(drawn + rng.uniform(0, z[1] - z[0], len(drawn)))
    columns = analysis(pair.max(0), pair.min(0), drawn)
    path = write_pesummary(tmp_path / "event.h5", {"C01:Mixed": columns})
    prior = SamplingPrior(masses="detector", distance=distance, cosmology=PLANCK15_LAL)

    found = read_posterior(path, OPEN, prior=prior, masses="source")

    def weight(low, high):
        within = (found["mass_1"] > 35) & (found["mass_1"] < 60) & (found["mass_2"] > 20)
        within &= (found["mass_2"] < 35) & (found["redshift"] > low) & (found["redshift"] < high)
        return (within / found["prior"]).sum()

    assert weight(0.3, 0.6) / weight(0.6, 0.9) == pytest.approx(1, abs=0.1)


def test_both_frames_and_gwtc_1_give_the_same_samples(tmp_path):
    """In whatever cosmology the file has its redshifts: masses and distances are what was seen."""
    columns = analysis(*PAIR, DISTANCE, cosmology=Cosmology(hubble=60, matter=0.2))
    new = write_pesummary(tmp_path / "new.h5", {"C01:Mixed": columns})
    old = write_gwtc1(tmp_path / "old.hdf5", *PAIR, DISTANCE)

    one = read_posterior(new, OPEN, prior=EUCLIDEAN, masses="detector")
    two = read_posterior(new, OPEN, prior=EUCLIDEAN, masses="source")
    three = read_posterior(
        old, OPEN, prior=EUCLIDEAN, masses="detector", analysis="Overall_posterior"
    )

    z = PLANCK15_LAL.redshift(DISTANCE)
    np.testing.assert_allclose(one["mass_1"], PAIR[0] / (1 + z), rtol=1e-12)
    np.testing.assert_allclose(one["redshift"], z, rtol=1e-12)
    for other in (two, three):
        assert set(other) == {"mass_1", "mass_2", "redshift", "prior"}
        for name in one:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-9)


def test_samples_where_nothing_merges_count_in_the_mean_and_weigh_nothing(tmp_path):
    path = event(tmp_path / "event.h5")
    near, far = (
        Universe(cosmology=PLANCK15_LAL, max_spin=0.99, evolution=0.0, max_redshift=most)
        for most in (0.6, 5.0)
    )

    few = read_posterior(path, near, prior=SOURCE_FRAME, masses="detector")
    every = read_posterior(path, far, prior=SOURCE_FRAME, masses="detector")

    assert len(few["prior"]) == 2
    assert len(every["prior"]) == 3
    # p(z) of the nearer universe is higher by the ratio of volumes, and all three samples count.
    volumes = far.hypervolume(1) / near.hypervolume(1)
    total, part = ((1 / each["prior"]) for each in (every, few))
    assert part.mean() == pytest.approx(volumes * total[:2].sum() / 3, rel=1e-9)


def test_what_the_file_tells_of_its_prior_agrees_with_what_is_said(tmp_path):
    path = event(tmp_path / "event.h5", TOLD)
    found = read_posterior(path, OPEN, prior=SOURCE_FRAME, masses="source", analysis="C00:Mixed")
    assert found["mass_1"].shape == (3,)

    # After a reweighting the file still tells the prior of the run before.
    before = {**TOLD, "luminosity_distance": "PowerLaw(alpha=2, minimum=10, maximum=9000)"}
    cosmo = event(tmp_path / "cosmo.h5", before, "These are reweighted posterior samples")
    read_posterior(cosmo, OPEN, prior=SOURCE_FRAME, masses="source")
    read_posterior(event(tmp_path / "no.h5", before), OPEN, prior=EUCLIDEAN, masses="source")


@pytest.mark.parametrize(
    ("told", "said", "message"),
    [
        pytest.param({}, EUCLIDEAN, "UniformSourceFrame.*not euclidean", id="distance"),
        pytest.param(
            {"luminosity_distance": "PowerLaw(alpha=2.5, minimum=1)"},
            EUCLIDEAN,
            "alpha=2.5.*not euclidean",
            id="slope",
        ),
        pytest.param(
            {},
            SamplingPrior(masses="detector", distance="source_frame", cosmology=PLANCK15),
            "the file's cosmology is Planck15_LAL",
            id="cosmology",
        ),
        pytest.param(
            {},
            SamplingPrior(masses="source", distance="source_frame", cosmology=PLANCK15_LAL),
            "chirp_mass is bilby.*not flat in masses of the source",
            id="frame",
        ),
        pytest.param(
            {"chirp_mass": "Uniform(minimum=5, maximum=100)"}, SOURCE_FRAME, "not flat", id="chirp"
        ),
        pytest.param(
            {"a_1": "Uniform(minimum=0, maximum=0.8)"}, SOURCE_FRAME, "max_spin of 0.99", id="spin"
        ),
    ],
)
def test_another_prior_than_is_said_is_refused(tmp_path, told, said, message):
    path = event(tmp_path / "event.h5", {**TOLD, **told})

    with pytest.raises(PopulationError, match=message):
        read_posterior(path, OPEN, prior=said, masses="source")


def test_aligned_spins_are_refused(tmp_path):
    told = {"chi_1": "bilby.gw.prior.AlignedSpin(a_prior=Uniform(minimum=0, maximum=0.99))"}
    path = event(tmp_path / "event.h5", told)

    with pytest.raises(PopulationError, match="the file's spins are aligned"):
        read_posterior(path, OPEN, prior=SOURCE_FRAME, masses="source")


def test_nothing_is_guessed(tmp_path):
    columns = analysis(*PAIR, DISTANCE)
    two = write_pesummary(tmp_path / "two.h5", {"C01:Mixed": columns, "C01:SEOBNRv4PHM": columns})
    options = {"prior": SOURCE_FRAME, "masses": "source"}
    with pytest.raises(PopulationError, match="2 analyses: choose one of C01:Mixed, C01:SEOBNRv4"):
        read_posterior(two, OPEN, **options)
    with pytest.raises(PopulationError, match="did you mean 'C01:Mixed'"):
        read_posterior(two, OPEN, analysis="C01:mixed", **options)
    with pytest.raises(PopulationError, match="needs the cosmology"):
        SamplingPrior(masses="detector", distance="source_frame")
    old = write_gwtc1(tmp_path / "old.hdf5", *PAIR, DISTANCE)
    with pytest.raises(PopulationError, match="have no mass_1_source, mass_2_source, redshift"):
        read_posterior(old, OPEN, analysis="Overall_posterior", **options)
    del columns["mass_1"]
    none = write_pesummary(tmp_path / "none.h5", {"C01:Mixed": columns | {"mass_1": -PAIR[0]}})
    with pytest.raises(PopulationError, match="row 1 of .* has mass_1 = -40"):
        read_posterior(none, OPEN, prior=SOURCE_FRAME, masses="detector")
    near = Universe(cosmology=PLANCK15_LAL, max_spin=0.99, evolution=0, max_redshift=0.01)
    with pytest.raises(PopulationError, match="no posterior sample .* below the redshift 0.01"):
        read_posterior(event(tmp_path / "far.h5"), near, **options)
