"""A run of COSMIC, made here by COSMIC itself, becomes an emulator that draws its mergers."""

import ast
import importlib.resources
import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from data_prep.dataset import SPLITS, Dataset
from data_prep.stream import read_split
from hpo.cli import main
from models import Emulator
from models.config import FlowConfig, TrainConfig
from models.training.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of COSMIC, on its own settings
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning"),
]

ALPHAS = (0.5, 3.0)
METALLICITIES = (0.0002, 0.001)
BINARIES = 250
"""Of each alpha."""


def defaults() -> dict[str, object]:
    """COSMIC's own defaults, from the file of settings that it ships."""
    text = importlib.resources.files("cosmic").joinpath("data/cosmic-settings.json").read_text()
    settings = next(each["settings"] for each in json.loads(text) if each["category"] == "bse")
    found = {
        one["name"]: next(each["name"] for each in one["options"] if each.get("default"))
        for one in settings
    }
    lists = {name for name, value in found.items() if isinstance(value, str)} - {"fprimc_array"}
    found |= {name: ast.literal_eval(str(found[name])) for name in lists}
    return found | {"fprimc_array": [2 / 21] * 16, "pts1": 0.05}  # longer steps


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Close pairs of massive stars, of which every sixth merges; a file for each alpha."""
    from cosmic.evolve import Evolve  # takes seconds
    from cosmic.output import COSMICOutput
    from cosmic.sample.initialbinarytable import InitialBinaryTable

    folder = tmp_path_factory.mktemp("cosmic")
    rng = np.random.default_rng(1)
    merged = []
    for alpha in ALPHAS:
        mass = rng.uniform(40, 90, BINARIES)
        binaries = InitialBinaryTable.InitialBinaries(
            m1=mass,
            m2=mass * rng.uniform(0.5, 1, BINARIES),
            porb=10 ** rng.uniform(0.5, 1.5, BINARIES),
            ecc=np.zeros(BINARIES),
            tphysf=np.full(BINARIES, 13_700.0),
            kstar1=np.ones(BINARIES),
            kstar2=np.ones(BINARIES),
            metallicity=rng.choice(METALLICITIES, BINARIES),
        )
        bpp, bcm, initial, kicks = Evolve.evolve(
            initialbinarytable=binaries,
            BSEDict=defaults() | {"alpha1": [alpha, alpha]},
            SSEDict={"stellar_engine": "sse"},
            randomseed=3,
        )
        output = COSMICOutput(bpp=bpp, bcm=bcm, initC=initial, kick_info=kicks)
        output.save(folder / f"alpha{alpha}.h5")
        numbers = bcm.loc[bcm["merger_type"] == "1414", "bin_num"].unique()
        pairs = bpp[(bpp["kstar_1"] == 14) & (bpp["kstar_2"] == 14) & bpp["bin_num"].isin(numbers)]
        first = pairs.drop_duplicates("bin_num")
        Z = initial.set_index("bin_num").loc[first["bin_num"], "metallicity"]
        merged.append(first[["mass_1", "mass_2"]].assign(Z=Z.to_numpy(), alpha=alpha))
    return folder, pd.concat(merged).to_numpy("f4")


@pytest.fixture(scope="module")
def prepared(run):
    folder, _ = run
    files = sorted(map(str, folder.glob("*.h5")))
    result = CliRunner().invoke(main, ["prepare", *files, "--out", str(folder / "prepared")])
    assert result.exit_code == 0, result.output
    return folder / "prepared"


def test_the_mergers_are_those_that_cosmic_saw(run, prepared):
    parts = [np.hstack(read_split(prepared, part).arrays) for part in SPLITS]

    assert len(run[1]) > 50
    assert {cell.conditions for cell in Dataset.read(prepared).cells} == {
        (Z, alpha) for Z in METALLICITIES for alpha in ALPHAS
    }
    np.testing.assert_array_equal(
        np.unique(np.concatenate(parts), axis=0), np.unique(run[1], axis=0)
    )


def test_an_emulator_of_it_draws_masses_like_its_own(run, prepared, tmp_path):
    config = TrainConfig(epochs=30, batch_size=64, learning_rate=5e-3, device="cpu")
    flow, _ = train(prepared, FlowConfig(blocks=2, hidden=16), config)
    emulator = Emulator.load(Emulator(flow).save(tmp_path / "emulator"))

    for Z in METALLICITIES:
        drawn = emulator.sample(4_000, Z=Z, alpha=1.0, seed=1)
        mine = run[1][run[1][:, 2] == np.float32(Z), :2]
        assert (drawn > 0).all()
        assert np.median(drawn, axis=0) == pytest.approx(np.median(mine, axis=0), rel=0.3)
