"""An exported emulator where little is installed: onnxruntime alone, or torch without the search.

Each test has an environment of its own. One is filled from the package index, so it needs the
network; the other by links to what is installed here, since torch is large.
"""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from models import Emulator
from models.bundle.ensemble import Ensemble
from tests.random_flows import a_flow

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SIZES = (1, 7, 1000)
SEARCH = ("click", "dash", "optuna", "optuna_dashboard", "plotly", "sqlalchemy", "submitit")
"""Modules that only the search and the dashboard need."""
NEEDED = ("nflows", "numpy", "pyarrow", "pydantic", "safetensors", "torch")
"""Distributions that an emulator is loaded and used with."""

BY_ONNXRUNTIME = """
import importlib.util
import sys

import numpy as np
import onnxruntime

assert importlib.util.find_spec("torch") is None

folder, rows = sys.argv[1:]
given = np.load(rows)
found = {}
for graph, first in (("log_prob", "events"), ("sample", "noise")):
    session = onnxruntime.InferenceSession(
        f"{folder}/{graph}.onnx", providers=["CPUExecutionProvider"]
    )
    for n in map(int, given["sizes"]):
        inputs = {"conditions": given["conditions"][:n], first: given[first][:n]}
        [found[f"{graph}_{n}"]] = session.run(None, inputs)
np.savez(f"{folder}/found.npz", **found)
"""
BY_TORCH = """
import importlib.util
import json
import sys

import numpy as np

from models import Emulator
from models.bundle.readme.card import text

folder, rows, *absent = sys.argv[1:]
assert not [name for name in absent if importlib.util.find_spec(name)]

emulator = Emulator.load(folder)
events = emulator.sample(1000, seed=3, Z=0.001, alpha=1.0)
given = np.load(rows)
Z, alpha = given["conditions"].T
log_prob = emulator.log_prob(given["events"], Z=Z, alpha=alpha)
assert text(emulator.card).startswith("---")
np.savez(f"{folder}/found.npz", events=events, log_prob=log_prob)
import models
print(json.dumps(models.__file__))
"""


def single():
    return a_flow(noise=0.03)


def ensemble():
    return Ensemble([a_flow(noise=0.03, seed=seed) for seed in range(3)]).eval()


FLOWS = pytest.mark.parametrize(
    "make", [pytest.param(single, id="single"), pytest.param(ensemble, id="ensemble")]
)


@pytest.fixture(scope="module")
def with_onnxruntime(tmp_path_factory):
    """Python of an environment with onnxruntime and numpy."""
    python = environment(tmp_path_factory.mktemp("onnxruntime") / "env")
    quiet = ("--quiet", "--disable-pip-version-check")
    succeed(python, "-m", "pip", "install", *quiet, "onnxruntime", "numpy")
    return python


@pytest.fixture(scope="module")
def with_torch(tmp_path_factory):
    """Python of an environment with our wheel and what an emulator needs, linked from here."""
    folder = tmp_path_factory.mktemp("torch")
    python = environment(folder / "env", "--without-pip")
    [site] = (folder / "env").glob("lib/python*/site-packages")
    for name in required(NEEDED):
        link(metadata.distribution(name), site)

    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    succeed(*pip, "wheel", "--no-deps", "-w", folder, ROOT)
    [wheel] = folder.glob("*.whl")
    succeed(*pip, "install", "--no-deps", "--target", site, wheel)
    return python


@FLOWS
def test_onnxruntime_and_numpy_are_enough_for_the_graphs(with_onnxruntime, tmp_path, make):
    flow = make()
    folder = Emulator(flow).save(tmp_path / "emulator")
    given = some_rows(flow.noise_columns)
    np.savez(tmp_path / "rows.npz", sizes=SIZES, **given)

    succeed(with_onnxruntime, "-c", BY_ONNXRUNTIME, folder, tmp_path / "rows.npz")

    events, conditions, noise = map(torch.from_numpy, given.values())
    with np.load(folder / "found.npz") as found:
        assert len(found) == 2 * len(SIZES)
        for n in SIZES:
            log_prob = flow.log_prob(events[:n], conditions[:n]).numpy()
            drawn = flow.from_noise(noise[:n], conditions[:n]).numpy()
            assert furthest(found[f"log_prob_{n}"], log_prob) < 1e-5
            assert furthest(found[f"sample_{n}"], drawn) < 1e-5


@FLOWS
def test_the_wheel_uses_an_emulator_without_what_a_search_needs(with_torch, tmp_path, make):
    emulator = Emulator(make())
    folder = emulator.save(tmp_path / "emulator")
    given = some_rows(emulator.module.noise_columns)
    np.savez(tmp_path / "rows.npz", **given)

    told = succeed(with_torch, "-c", BY_TORCH, folder, tmp_path / "rows.npz", *SEARCH)

    assert Path(json.loads(told)).is_relative_to(with_torch.parents[1])
    Z, alpha = given["conditions"].T
    log_prob = emulator.log_prob(given["events"], Z=Z, alpha=alpha)
    with np.load(folder / "found.npz") as found:
        assert furthest(found["log_prob"], log_prob) < 1e-5
        assert furthest(found["events"], emulator.sample(1000, seed=3, Z=0.001, alpha=1.0)) < 1e-5


def some_rows(noise_columns):
    """The most rows of events, of conditions and of noise, in this order."""
    rng, rows = np.random.default_rng(1), max(SIZES)
    values = {
        "events": np.exp(rng.normal(2.0, 0.6, (rows, 2))),
        "conditions": np.stack([10 ** rng.uniform(-4, -2, rows), rng.uniform(0.5, 5, rows)], 1),
        "noise": rng.standard_normal((rows, noise_columns)),
    }
    return {name: value.astype("f4") for name, value in values.items()}


def furthest(found, expected):
    """Largest difference: absolute below 1, else relative."""
    assert found.shape == expected.shape
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())


def environment(folder, *options):
    """Python of a new virtual environment."""
    succeed(sys.executable, "-m", "venv", *options, folder)
    return folder / "bin" / "python"


def required(names):
    """Canonical names of distributions and, over all steps, of what they need here."""
    found, waiting = set(), [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        needs = map(Requirement, metadata.requires(name) or ())
        waiting += [
            canonicalize_name(need.name)
            for need in needs
            if need.marker is None or need.marker.evaluate({"extra": ""})
        ]
    return found


def link(distribution, site):
    """Link each top-level file or folder of a distribution into `site`."""
    for top in {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}:
        target = Path(distribution.locate_file(top)).resolve()
        if not (site / top).exists():
            (site / top).symlink_to(target)


def succeed(*command):
    """Output of a command that sees nothing of this checkout."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=Path(str(command[0])).parent,
        env=kept,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
