"""How many trials a worker trains at a time, where nobody says."""

import dataclasses
import functools
import types

import pytest
from click.testing import CliRunner

from data_prep.dataset import SAMPLE, Dataset
from hpo.cli import main
from hpo.execution import worker
from hpo.execution.plan import at_a_time, make_plan, of_one_shape
from hpo.storage.address import url_of
from hpo.study.spec import load

IMPOSSIBLE = ['space.conditioner=["masked", "separate"]', "space.residual=true"]
"""For a masked conditioner."""

auto = functools.partial(at_a_time, "auto", trials=900, workers=1, in_jobs=False)


def plan(tmp_path, *settings, study="bbh", **options):
    options = {"trials": 200, "workers": 2, "on": "local"} | options
    spec = load(study, settings=settings)
    return make_plan(spec, runs=tmp_path, url=url_of(None, tmp_path), **options)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Without a GPU, and with enough memory."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    memory = types.SimpleNamespace(available=1e12)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    return memory


@pytest.mark.parametrize(
    ("trials", "workers", "on_cpu", "on_gpu"),
    [(6, 8, 1, 1), (30, 2, 1, 3), (39, 1, 3, 9), (200, 2, 4, 25), (200, 8, 2, 6), (9999, 1, 4, 64)],
)
def test_a_search_keeps_ten_rounds_on_a_processor_and_four_on_a_gpu(
    tmp_path, monkeypatch, trials, workers, on_cpu, on_gpu
):
    made = plan(tmp_path, trials=trials, workers=workers)
    assert made.at_a_time == on_cpu
    assert (f"trials at a time: {on_cpu}" in made.describe()) == (on_cpu > 1)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert made.at_a_time == on_gpu
    assert (f"trials at a time: at most {on_gpu}" in made.describe()) == (on_gpu > 1)


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        ({"stack": 7}, [], 7),
        ({"stack": 7, "trials": 3}, [], 7),
        ({}, ["study.trials_per_worker=6"], 6),
        ({"stack": "auto"}, ["study.trials_per_worker=6"], 4),
        ({}, ["space.conditioner=masked", "space.blocks=1"], 1),
        ({}, ["training.max_minutes=5"], 1),
        ({"on": "slurm"}, [], 25),
        ({"on": "slurm"}, ["slurm.gpus=0"], 4),
        ({}, ["training.memory_mb=1"], 1),
        ({"on": "slurm"}, ["slurm.memory_gb=1"], 23),
        ({"on": "slurm"}, ["training.device=cpu"], 4),
    ],
)
def test_it_is_what_was_asked_for_and_one_where_nothing_is_trained_together(
    tmp_path, options, settings, expected
):
    assert plan(tmp_path, *settings, **options).at_a_time == expected


def test_without_a_number_there_is_a_worker_for_each_gpu(tmp_path, monkeypatch):
    on_cores = plan(tmp_path, workers=None).workers
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(11))))

    assert plan(tmp_path, workers=None).workers == 11
    assert plan(tmp_path, "training.device=cpu", workers=None).workers == on_cores
    assert plan(tmp_path, "study.workers=3", workers=None).workers == 3


@pytest.mark.parametrize("asked", ["0", "many", "-1"])
def test_what_is_no_number_of_trials_is_refused(asked):
    told = CliRunner().invoke(main, ["launch", "--stack", asked])

    assert told.exit_code == 2
    assert "must be auto or a number from 1 on, got" in told.output


@pytest.mark.parametrize(
    ("asked", "size", "trials", "expected"),
    [("auto", 4, 40, 4), ("auto", 50, 200, 14), ("auto", 64, 9999, 64), (64, 64, 200, 64)],
)
def test_of_itself_a_search_has_as_many_shapes_as_trials_of_each(asked, size, trials, expected):
    assert of_one_shape(asked, size, trials=trials) == expected


@pytest.mark.parametrize("change", ["scattered", "atoms"])
def test_data_that_no_stack_can_train_has_one_at_a_time(change):
    data = Dataset.read(SAMPLE)
    if change == "atoms":
        first = dataclasses.replace(data.event_columns[0], atoms=(1.0,))
        changed = {"event_columns": (first, *data.event_columns[1:])}
    else:
        changed = {"scattered": True}
    data = dataclasses.replace(data, **changed)

    assert auto(load("bbh"), data, room=None) == 1


def test_what_the_workers_hold_fits_into_half_of_the_memory(tmp_path, machine):
    machine.available = 2 * 2 * 3.5 * (20e6 + 78_713 * 24)  # two workers

    assert plan(tmp_path).at_a_time == 3


def test_on_a_gpu_there_are_as_many_as_its_free_memory_holds(monkeypatch):
    free = 2e9
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (int(free), int(80e9)))
    data = Dataset.read(SAMPLE)
    room, small = (
        worker._room(load("bbh", settings=settings), data)
        for settings in ([], ["space.batch_size=512", "space.components=8"])
    )

    # By a count of all arrays that live in a step: 32 KB a row of the largest flow.
    assert 5 <= room <= free / (4096 * 32_000)
    assert small > 10 * room
    assert (
        worker._room(load("bbh", settings=[*IMPOSSIBLE, 'space.conditioner=["masked"]']), data) == 1
    )
    assert 1 < worker._room(load("bbh", settings=IMPOSSIBLE), data) <= room
    assert auto(load("bbh"), data, room=room) == room
    assert auto(load("bbh"), data, room=small) == 64
