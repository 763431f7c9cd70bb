"""Fixtures shared by the tests: data of known density, forked commands, servers; who runs where.

`make test` runs two processes (pytest-xdist), each a file at a time, so that what its tests share
is made once.
"""

from __future__ import annotations

import atexit
import math
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from data_prep.preparation.prepare import prepare
from tests.cluster.mariadb import MariaDB, need_mariadb
from tests.cluster.postgres import Postgres, need_postgres
from tests.cluster.slurm import Slurm, need_slurm
from tests.forks import Forks

# Small tensors on a busy machine: two threads that wait for each other take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test finds the database that `hpo db start` runs for whoever runs the tests.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="hpo-config-")
atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)

# A shell starts what it puts in the background deaf to Ctrl-C, and nohup to the end of a terminal:
# tests send just that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


STORAGE = ("HPO_STORAGE", "HPO_STORAGE_FILE")
GIVEN = {name: os.environ[name] for name in STORAGE if name in os.environ}


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """No machine crashes here, and the many small files would wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def own_storage():
    """No test leaves to the next the database that a launch in this process told its workers.

    Nor does what tests share and was made before this one began.
    """
    yield
    for name in STORAGE:
        os.environ.pop(name, None)
    os.environ.update(GIVEN)


GRID = [(Z, alpha) for Z in (0.0001, 0.001, 0.01) for alpha in (0.5, 1.0, 5.0)]
"""Cells of the table, as (Z, alpha)."""
SPREAD = (0.3, 0.2)
"""Of ln Mass_0 and ln Mass_1 about their means."""
WIDER = 2.0
"""How much wider than the truth the density is that weighted rows are drawn from."""


def centre(Z: NDArray[np.float64], alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of ln Mass_0 and ln Mass_1 at these conditions, shape `(rows, 2)`."""
    return np.stack([2.5 - 0.15 * np.log10(Z / 0.001), 2.2 + 0.2 * np.log(alpha)], axis=-1)


def known_nll(masses: NDArray[np.float64], conditions: NDArray[np.float64]) -> float:
    """Mean NLL of the truth in nats per event, density in Msun^-2: no flow scores below it.

    Given Z and alpha the two masses are independent log-normals.
    """
    z = (np.log(masses) - centre(conditions[:, 0], conditions[:, 1])) / SPREAD
    log_prob = -0.5 * z**2 - np.log(SPREAD) - 0.5 * math.log(2 * math.pi) - np.log(masses)
    return -float(log_prob.sum(axis=1).mean())


def draw_table(rows: int, seed: int) -> pa.Table:
    """A merger table of that density: SEVN's names, some more columns, uneven cells."""
    rng = np.random.default_rng(seed)
    weight = np.arange(1, len(GRID) + 1) ** 2
    cells = np.array(GRID)[rng.choice(len(GRID), size=rows, p=weight / weight.sum())]
    Z, alpha = cells.T
    masses = np.exp(centre(Z, alpha) + rng.normal(size=(rows, 2)) * SPREAD)
    return pa.table(
        {
            "ID": np.arange(rows),
            "name": [f"binary-{number}" for number in range(rows)],
            "Mass_0": masses[:, 0],
            "Mass_1": masses[:, 1],
            "GWtime": rng.exponential(1000, rows),
            "Z": Z,
            "alpha": alpha,
        }
    )


@pytest.fixture(scope="session")
def table() -> pa.Table:
    """6,000 mergers on a grid of nine cells, of known density."""
    return draw_table(6_000, seed=1)


@pytest.fixture(scope="session")
def prepared(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the prepared form of `table`. Do not write into it."""
    folder = tmp_path_factory.mktemp("data")
    source = folder / "mergers.parquet"
    pq.write_table(table, source)
    prepare([source], folder / "prepared", command="hpo prepare mergers.parquet --out prepared")
    return folder / "prepared"


def weighted_table(rows: int, seed: int) -> pa.Table:
    """Mergers of the known density by importance sampling: `weight` makes up for the proposal."""
    plain, rng = draw_table(rows, seed), np.random.default_rng(seed + 1)
    z = WIDER * rng.normal(size=(rows, 2))
    masses = np.exp(centre(plain["Z"].to_numpy(), plain["alpha"].to_numpy()) + z * SPREAD)
    weight = 1e-3 * np.exp(-0.5 * (z**2).sum(axis=1) * (1 - 1 / WIDER**2))
    columns = {"Mass_0": masses[:, 0], "Mass_1": masses[:, 1], "weight": weight}
    return pa.table(columns | {name: plain[name] for name in ("Z", "alpha")})


@pytest.fixture(scope="session")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 6,000 weighted rows of the known density. Do not write into it."""
    folder = tmp_path_factory.mktemp("weighted")
    pq.write_table(weighted_table(6_000, seed=3), folder / "mergers.parquet")
    prepare([folder / "mergers.parquet"], folder / "prepared", weights="weight")
    return folder / "prepared"


@pytest.fixture(scope="session")
def known() -> Callable[[NDArray[np.float64], NDArray[np.float64]], float]:
    """`known_nll`: the score of the truth behind `prepared`, to compare a flow with."""
    return known_nll


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs commands in processes forked from one that has imported everything."""
    server = Forks()
    yield server
    server.stop()


class Server(Protocol):
    """A server that a test starts in a folder of its own."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A SLURM cluster of four nodes."""
    need_slurm()
    yield from running(Slurm, "hpo-slurm-")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server."""
    need_postgres()
    yield from running(Postgres, "hpo-postgres-")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB server."""
    need_mariadb()
    yield from running(MariaDB, "hpo-mariadb-")


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Postgres | MariaDB:
    """A server of each kind."""
    found: Postgres | MariaDB = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def database(server: Postgres | MariaDB) -> Iterator[str]:
    """URL of an empty database of the server."""
    from tests import claimers

    yield server.create(f"t{random.SystemRandom().randrange(10**12)}")
    claimers.close()


def running(kind: Callable[[Path], Server], prefix: str) -> Iterator[Server]:
    """The server while it runs, in a folder that other users may enter: pytest's are closed to
    them, and have names too long for sockets."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        server = kind(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


STRESS = Path(__file__).parent / "stress"
"""Takes minutes by nature: `make stress`, or `pytest tests/stress`."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the stress tests out unless they are named."""
    named = [Path(word.partition("::")[0]).resolve() for word in config.args]
    asked = any(STRESS in (path, *path.parents) for path in named)
    return True if collection_path == STRESS and not asked else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of many slow tests: the last ones to run decide when all is done."""
    slow: Counter[str] = Counter()
    for item in items:
        slow[str(item.path)] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: (-slow[str(item.path)], str(item.path)))
