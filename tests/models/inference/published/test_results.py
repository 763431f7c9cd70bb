"""Results as popsummary reads them."""

import importlib

import numpy as np
import pytest

from models.inference.mixture import PopulationError
from models.inference.published.results import Curves, write_popsummary

SAMPLES = {"Z": np.array([0.001, 0.002, 0.003, 0.004]), "alpha": np.array([1.0, 2.0, 3.0, 4.0])}
MASSES = np.linspace(3, 50, 6)
DENSITY = Curves(parameters=["mass_1"], positions=MASSES, values=np.outer(SAMPLES["Z"], MASSES))


def test_popsummary_reads_what_is_written(tmp_path):
    path = tmp_path / "results.h5"
    write_popsummary(
        path,
        SAMPLES,
        models=["emulator of SEVN"],
        events=["GW150914", "GW151226"],
        descriptions={"alpha": "efficiency of common envelopes"},
        curves={"primary_mass": DENSITY},
    )

    theirs = importlib.import_module("popsummary").PopulationResult(str(path))

    assert list(theirs.get_metadata("hyperparameters")) == ["Z", "alpha"]
    assert list(theirs.get_metadata("events")) == ["GW150914", "GW151226"]
    assert list(theirs.get_metadata("model_names")) == ["emulator of SEVN"]
    told = list(theirs.get_metadata("hyperparameter_descriptions"))
    assert told == ["", "efficiency of common envelopes"]
    found = theirs.get_hyperparameter_samples(hyperparameters=["alpha", "Z"])
    np.testing.assert_array_equal(found, np.stack([SAMPLES["alpha"], SAMPLES["Z"]], 1))
    positions, rates, names = theirs.get_rates_on_grids("primary_mass", return_params=True)
    np.testing.assert_array_equal(positions, MASSES[None])
    np.testing.assert_array_equal(rates, DENSITY.values)
    assert list(names) == ["mass_1"]
    # And goes on from it.
    theirs.set_fair_population_draws(np.ones((2, 4, 1)))
    assert theirs.get_fair_population_draws().shape == (2, 4, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"samples": {}}, "lists of one length.*got none", id="none"),
        pytest.param({"samples": {"Z": [1.0], "alpha": [1.0, 2.0]}}, "Z .1,., alpha .2", id="few"),
        pytest.param({"descriptions": {"beta": ""}}, "descriptions are of beta", id="name"),
        pytest.param(
            {"curves": {"p": Curves(parameters=["m"], positions=[1.0], values=[[1.0]])}},
            "4 samples need one row each",
            id="rows",
        ),
        pytest.param(
            {"curves": {"p": Curves(parameters=[], positions=[1.0], values=np.ones((4, 1)))}},
            "1 coordinates and 0 names",
            id="names",
        ),
    ],
)
def test_what_popsummary_could_not_read_is_refused(tmp_path, change, message):
    options = {"samples": SAMPLES, "models": ["emulator"], **change}

    with pytest.raises(PopulationError, match=message):
        write_popsummary(tmp_path / "results.h5", **options)

    assert not list(tmp_path.iterdir())
