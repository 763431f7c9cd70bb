"""The built wheel, without the checkout, does what the README promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process that finds our packages in the installed wheel alone."""
    folder = tmp_path_factory.mktemp("wheel")
    run = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*run, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    [wheel] = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*run, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "HPO_STORAGE"}
    return environment | {"PYTHONPATH": str(site)}


def run(installed, folder, *command):
    done = subprocess.run(command, cwd=folder, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_packages_the_studies_and_the_sample(installed, tmp_path):
    probe = "import data_prep, hpo, models, studies; print(data_prep.__file__, studies.__file__)"
    for path in run(installed, tmp_path, sys.executable, "-c", probe).split():
        assert path.startswith(installed["PYTHONPATH"])


@pytest.mark.slow
def test_the_wheel_launches_the_shipped_study_from_any_folder(installed, tmp_path):
    hpo = (sys.executable, "-m", "hpo.cli")
    short = ("--set", "training.epochs=2", "--set", "pruner.min_epochs=1")
    run(installed, tmp_path, *hpo, "launch", "--trials", "2", *short)

    told = json.loads(run(installed, tmp_path, *hpo, "status", "bbh", "--format", "json"))
    assert told["complete"] + told["pruned"] == 2
    record = json.loads((tmp_path / "runs/bbh/trial-00000/run.json").read_text())
    assert record["data"]["path"].startswith(installed["PYTHONPATH"])
    assert sum(record["data"]["rows"].values()) == 78_713
