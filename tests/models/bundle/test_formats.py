"""An emulator of every version of the format gives the numbers that it gave then."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models import Emulator
from models.arrays.flow import ArrayFlow
from models.bundle.files import FORMAT, FORMAT_OF_MIXTURES

DATA = Path(__file__).resolve().parents[2] / "data"
FOLDERS = sorted(folder for folder in DATA.glob("emulator-*") if folder.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_old_emulator_gives_the_numbers_that_it_gave(folder):
    then = json.loads(folder.with_suffix(".json").read_text())
    emulator, plain = Emulator.load(folder), ArrayFlow.load(folder)
    names = emulator.card["condition_columns"]
    given = {name: then[name] for name in names}
    conditions = then.get("conditions") or np.transpose(list(given.values())).tolist()
    log_prob = [-np.inf if each is None else each for each in then["log_prob"]]

    found = emulator.log_prob(then["events"], on_extrapolation="ignore", **given)
    drawn = emulator.module.from_noise(torch.tensor(then["noise"]), torch.tensor(conditions))

    assert emulator.reliability is plain.reliability is None  # no claim that nobody measured
    np.testing.assert_allclose(found, log_prob, rtol=2e-5)
    np.testing.assert_allclose(plain.log_prob(then["events"], **given), log_prob, rtol=2e-4)
    np.testing.assert_allclose(drawn.detach(), then["drawn"], rtol=2e-5, atol=1e-6)


def test_every_version_has_a_sample():
    versions = [json.loads((folder / "emulator.json").read_text())["format"] for folder in FOLDERS]

    assert versions == list(range(FORMAT, FORMAT_OF_MIXTURES + 1))
