"""The scripts in `examples/`, each run as a user runs it, with the library that it is about."""

import subprocess
import sys
from pathlib import Path

import pytest

from models import Emulator
from tests.random_flows import a_flow

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Folder of a saved emulator of random weights."""
    flow = a_flow(options={"kind": "affine"}, seed=5, noise=0.05)
    return Emulator(flow).save(tmp_path_factory.mktemp("bundle") / "emulator")


CASES = [
    pytest.param(
        "emcee_catalog.py",
        ["--steps", "20", "--picture", "p.png"],
        ["effective injections", "alpha ="],
        id="emcee",
    ),
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


@pytest.mark.slow
@pytest.mark.parametrize(("script", "arguments", "expected"), CASES)
def test_the_example_runs_and_prints_its_result(bundle, tmp_path, script, arguments, expected):
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", EXAMPLES / script, bundle, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    for words in expected:
        assert words in done.stdout
    assert "nan" not in done.stdout


def test_every_example_is_run_here():
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - {"mock_catalog.py"}

    assert scripts == {case.values[0] for case in CASES}
