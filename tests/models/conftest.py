"""Fixtures that the tests of the models share."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.preparation.prepare import prepare
from models import Emulator
from tests.conftest import SPREAD, centre, draw_table
from tests.random_flows import a_flow

WIDER = 2.0
"""How much wider than the truth the density is that weighted rows are drawn from."""


def weighted_table(rows: int, seed: int) -> pa.Table:
    """Mergers of the known density by importance sampling: `weight` makes up for the proposal."""
    plain, rng = draw_table(rows, seed), np.random.default_rng(seed + 1)
    z = WIDER * rng.normal(size=(rows, 2))
    masses = np.exp(centre(plain["Z"].to_numpy(), plain["alpha"].to_numpy()) + z * SPREAD)
    weight = 1e-3 * np.exp(-0.5 * (z**2).sum(axis=1) * (1 - 1 / WIDER**2))
    columns = {"Mass_0": masses[:, 0], "Mass_1": masses[:, 1], "weight": weight}
    return pa.table(columns | {name: plain[name] for name in ("Z", "alpha")})


@pytest.fixture(scope="session")
def weighted(tmp_path_factory):
    """Folder of 6,000 weighted rows of the known density. Do not write into it."""
    folder = tmp_path_factory.mktemp("weighted")
    pq.write_table(weighted_table(6_000, seed=3), folder / "mergers.parquet")
    prepare([folder / "mergers.parquet"], folder / "prepared", weights="weight")
    return folder / "prepared"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Folder of the saved emulator of `a_flow()`. Do not write into it."""
    return Emulator(a_flow()).save(tmp_path_factory.mktemp("bundle") / "emulator")
