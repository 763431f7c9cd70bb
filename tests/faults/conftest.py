"""What the tests here share: a small table, and studies of it."""

import dataclasses

import pyarrow.parquet as pq
import pytest

from data_prep.preparation.prepare import prepare
from hpo.queue.slots import Slots
from hpo.storage.address import url_of
from hpo.storage.open import open_storage
from hpo.study.spec import parse
from hpo.study.study import create_study
from tests.conftest import draw_table

from .mounts import Disk, need_mounts


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A table of 600 mergers."""
    path = tmp_path_factory.mktemp("source") / "mergers.parquet"
    pq.write_table(draw_table(600, seed=1), path)
    return path


@pytest.fixture(scope="session")
def data(source):
    """It, prepared. Do not write into it."""
    prepare([source], source.parent / "prepared")
    return source.parent / "prepared"


@dataclasses.dataclass(frozen=True)
class Made:
    """A study that waits for workers."""

    folder: object
    """Of its trials."""
    slots: Slots
    study: object


@pytest.fixture(scope="session")
def make(data):
    """Makes the study `s` of small flows, with so many trials that wait."""
    storages = []

    def made(
        runs, *, trials, epochs=2, url=None, max_restarts=3, space=None, pruner=None, **training
    ):
        tables = {
            "study": {"name": "s", "trials": trials, "max_restarts": max_restarts},
            "data": {"path": str(data)},
            "space": {"batch_size": 128, **(space or {"hidden": [4], "blocks": 2})},
            "training": {"epochs": epochs, **training},
            "pruner": pruner or {"kind": "none"},
        }
        storage = open_storage(url_of(url, runs))
        storages.append(storage)
        spec = parse(tables, source="test")
        study = create_study(storage, spec, runs=runs, fingerprint="f")
        slots = Slots(study, max_restarts=max_restarts)
        slots.set_total(trials)
        return Made(runs / "s", slots, study)

    yield made
    for storage in storages:
        storage.engine.dispose()


@pytest.fixture(scope="session")
def ran(forks, make, tmp_path_factory):
    """Folder `runs` with a study whose two trials were run. Do not write into it."""
    place = tmp_path_factory.mktemp("ran")
    made = make(place / "runs", trials=2)
    assert forks.work("s", place / "runs", cwd=place).code == 0
    assert not made.slots.leases()
    return place / "runs"


@pytest.fixture(scope="session")
def emulator(forks, ran, tmp_path_factory):
    """The bundle of its best trial. Do not write into it."""
    place = tmp_path_factory.mktemp("exported")
    done = forks.hpo("export", "s", "--runs", ran, "--out", "emulator", cwd=place)
    assert done.code == 0, done.said
    return place / "emulator"


@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MB."""
    need_mounts()
    mounted = Disk(tmp_path / "disk")
    yield mounted
    if mounted.folder.is_mount():
        mounted.take_away()
