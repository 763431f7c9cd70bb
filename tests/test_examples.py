"""The scripts in `examples/`, each run as a user runs it, with the library that it is about."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest

from data_prep.preparation.prepare import prepare
from models import Emulator
from tests.random_flows import a_flow

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Folder of a saved emulator of random weights."""
    flow = a_flow(options={"kind": "affine"}, seed=5, noise=0.05)
    return Emulator(flow).save(tmp_path_factory.mktemp("bundle") / "emulator")


CASES = [
    pytest.param("dynesty_catalog.py", ["20"], ["ln evidence", "alpha ="], id="dynesty"),
    pytest.param(
        "gwpopulation_model.py",
        ["30"],
        ["parameters: Z, alpha, lamb", "lamb = "],
        id="gwpop",
    ),
    pytest.param("jax_gradient.py", ["11"], ["step 10: ln L", "alpha ="], id="jax"),
    pytest.param("table_density.py", ["t.npz"], ["integral", "Table: 0."], id="table"),
]


OF_FILES = ("mock_files.py", "emcee_catalog.py")


def printed(folder, script, *arguments):
    """What an example prints, run as a user runs it."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", EXAMPLES / script, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("script", "arguments", "expected"), CASES)
def test_the_example_runs_and_prints_its_result(bundle, tmp_path, script, arguments, expected):
    told = printed(tmp_path, script, bundle, *arguments)

    for words in expected:
        assert words in told
    assert "nan" not in told


@pytest.mark.slow
def test_conditions_and_rate_of_a_catalogue_are_found_again_from_its_files(bundle, tmp_path):
    """Of events that the emulator drew, so that nothing but the analysis can be wrong."""
    emulator = Emulator.load(bundle)
    cells = [(z, alpha) for z in (0.0003, 0.001, 0.003) for alpha in (0.7, 1.5, 3.0)]
    rows = np.concatenate(
        [
            np.insert(emulator.sample(3000, Z=z, alpha=alpha, seed=k), [2, 2], (z, alpha), axis=1)
            for k, (z, alpha) in enumerate(cells)
        ]
    )
    columns = dict(zip(("Mass_0", "Mass_1", "Z", "alpha"), rows.T, strict=True))
    csv.write_csv(pa.table(columns), tmp_path / "mergers.csv")
    prepare([tmp_path / "mergers.csv"], tmp_path / "prepared", command="hpo prepare")
    few = ["--events", "20", "--samples", "60", "--injections", "10000"]

    printed(tmp_path, "mock_files.py", "prepared", "catalog", *few)
    told = printed(
        tmp_path, "emcee_catalog.py", bundle, "catalog", "--points", "7", "--steps", "400"
    )

    assert "alpha = " in told
    path = str(tmp_path / "catalog" / "result.h5")
    result = importlib.import_module("popsummary").PopulationResult(path)
    assert list(result.get_metadata("hyperparameters")) == ["Z", "alpha", "rate"]
    samples = result.get_hyperparameter_samples()
    truth = json.loads((tmp_path / "catalog" / "truth.json").read_text())
    ranks = (samples < list(truth.values())).mean(0)
    assert ((ranks > 0.01) & (ranks < 0.99)).all(), ranks
    positions, rates = result.get_rates_on_grids("primary_mass")
    per_mass = np.trapezoid(rates, positions[0], axis=1)
    np.testing.assert_allclose(per_mass, samples[:, 2], rtol=0.03)


def test_every_example_is_run_here():
    """But tables.py, with which guides begin, and what two of the others import."""
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - {"mock_catalog.py", "tables.py"}

    assert scripts == {*OF_FILES, *(case.values[0] for case in CASES)}
