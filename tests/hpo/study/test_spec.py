import json
from pathlib import Path

import pytest

from hpo.cluster.request import SlurmTable
from hpo.study.spec import SpecError, StudySpec, StudyTable, load, shipped
from models.config import ConfigError, FlowConfig

STORED = Path(__file__).parents[2] / "data" / "stored-study-0.1.json"
"""What the last version stored of a study with ranges, held-out cells and options of sbatch."""
MINIMAL = '[study]\nname = "s"\n'


def write(folder, text):
    path = folder / "wide.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[training", "it is not TOML", id="syntax"),
        pytest.param("", r"\[study\] name is missing", id="no-name"),
        pytest.param('[study]\nname = "../x"', "name must be letters, digits", id="path-name"),
        pytest.param(
            MINIMAL + "trials_per_worker = 0",
            r"\[study\] trials_per_worker must be auto or a number from 1 on, got 0",
            id="at-a-time",
        ),
        pytest.param(
            MINIMAL + "[traning]", "no table 'traning': did you mean 'training'", id="table"
        ),
        pytest.param(
            MINIMAL + "[training]\nepoch = 3",
            r"\[training\] has no key 'epoch': did you mean 'epochs'",
            id="typo",
        ),
        pytest.param(
            MINIMAL + "[training]\nlearning_rate = 2.0",
            r"\[training\] learning_rate must be less than 1, got 2.0",
            id="range",
        ),
        pytest.param(
            MINIMAL + '[training]\nepochs = "50"', r"\[training\].*'50'", id="text-number"
        ),
        pytest.param(MINIMAL + "[space]\nhiden = [3]", "did you mean 'hidden'", id="space-typo"),
        pytest.param(MINIMAL + "[space]\nhidden = []", "hidden lists no choice", id="no-choice"),
        pytest.param(
            MINIMAL + '[space]\nactivation = ["tanh", "rleu"]',
            "activation.*'rleu'",
            id="space-value",
        ),
        pytest.param(
            MINIMAL + "[space]\nblocks = { low = 9, high = 3 }",
            "low must be below high",
            id="upside",
        ),
        pytest.param(
            MINIMAL + "[space]\nblocks = { low = 1, hihg = 3 }", "blocks.*hihg", id="range-typo"
        ),
        pytest.param(
            MINIMAL + "[space]\nlearning_rate = { low = 0.0, high = 0.1, log = true }",
            "logarithmic range must lie above 0",
            id="log-zero",
        ),
        pytest.param(MINIMAL + "[space]\nepochs = [3, 4]", "has no key 'epochs'", id="epochs"),
        pytest.param(
            MINIMAL + '[space]\nhidden = { low = 8, high = 9 }\n[sampler]\nkind = "grid"',
            "a grid needs a list",
            id="grid-range",
        ),
        pytest.param(
            MINIMAL + "[space]\nbatch_size = [64]\n[training]\nbatch_size = 32",
            r"batch_size stands in both \[space\] and \[training\]",
            id="twice",
        ),
        pytest.param(
            MINIMAL + "[training]\nepochs = 3\n[pruner]\nmin_epochs = 4",
            r"min_epochs \(4\) is above \[training\] epochs \(3\)",
            id="rung",
        ),
        pytest.param(MINIMAL + '[pruner]\nkind = "best"', r"\[pruner\] kind", id="pruner"),
        pytest.param(
            MINIMAL + "[data]\nhold_out_cells = [{ Z = [1] }]",
            r"\[data\].*Z.*\[1\]",
            id="cell-list",
        ),
        pytest.param(
            MINIMAL + "[data]\nhold_out_cells = 3", r"\[data\] hold_out_cells.*3", id="no-cells"
        ),
        pytest.param(
            MINIMAL + "[data]\nhold_out_cells = [{ Z = nan }]",
            r"\[data\] hold_out_cells.0.Z must be a finite number, got nan",
            id="cell-nan",
        ),
        pytest.param(
            MINIMAL + '[data]\nhold_out = "interior"\nhold_out_cells = [{ Z = 0.1 }]',
            r"\[data\] hold_out = 'interior' chooses the cells itself: leave out either it, or",
            id="hold-out-twice",
        ),
        pytest.param(
            MINIMAL + '[data]\nhold_out = "interior"\nreport_cells = [{ Z = 0.1 }]',
            "chooses the cells itself",
            id="report-twice",
        ),
        pytest.param(
            MINIMAL + '[data]\nhold_out = "interior"\nhold_out_fold = 4',
            r"\[data\] hold_out_fold must be below hold_out_folds = 4, got 4",
            id="no-fold",
        ),
        pytest.param(
            MINIMAL + "[data]\nhold_out_folds = 2",
            r"\[data\] hold_out_folds must be at least 3, got 2",
            id="folds",
        ),
        pytest.param(
            MINIMAL + '[data]\nhold_out = "edge"', r"hold_out must be 'interior'", id="hold-out"
        ),
        pytest.param(
            MINIMAL + '[training]\nobjective = "held_out_nll"',
            r"objective = 'held_out_nll' needs .* \[data\] hold_out_cells, .* or choose 'val_nll'",
            id="objective",
        ),
        pytest.param(
            MINIMAL + '[space]\nobjective = ["val_nll"]', "no key 'objective'", id="objectives"
        ),
        pytest.param("study = 3", "study must be a table", id="no-table"),
        pytest.param(MINIMAL + "[flow]\nblocks = 3", "no table 'flow'", id="stored-only"),
        pytest.param(MINIMAL + "[space]\nhidden = [2, 2]", "lists a choice twice", id="doubled"),
        pytest.param(
            MINIMAL + "[space]\nblocks = { low = 2, high = 4, step = 0.5 }", "whole step", id="step"
        ),
        pytest.param(
            MINIMAL + "[training]\neval_every = 5",
            "eval_every must be 0 in a study",
            id="eval-every",
        ),
        pytest.param(
            MINIMAL + '[slurm]\ngpus = "a100"',
            r'gpus must be a number, or a type and a number as "a100:1", got \'a100\'',
            id="gpus",
        ),
        pytest.param(
            MINIMAL + '[slurm.extra]\nmem-per-cpu = "4G"',
            "memory_gb and extra mem-per-cpu exclude each other: memory_gb = 0 leaves",
            id="memory",
        ),
        pytest.param(
            MINIMAL + '[slurm.extra]\n"--cpus-per-task" = 4',
            r"\[slurm\] extra.--cpus-per-task is decided by another key",
            id="own-option",
        ),
    ],
)
def test_a_bad_study_names_the_file_and_the_fault(tmp_path, text, message):
    path = write(tmp_path, text)

    with pytest.raises(SpecError, match=message) as caught:
        load(path)

    assert str(caught.value).startswith(f"{path} cannot be run:")


def test_every_fault_is_listed_at_once(tmp_path):
    path = write(tmp_path, '[study]\nname = "s"\nseed = -1\n[training]\nepoch = 1\n[space]\nx = 1')

    with pytest.raises(SpecError) as caught:
        load(path)

    assert len(str(caught.value).splitlines()) == 4


def test_a_file_that_is_not_there_names_the_shipped_studies(tmp_path):
    with pytest.raises(
        SpecError, match="no such file, nor .*; the shipped studies are bbh, quick, thesis"
    ):
        load(str(tmp_path / "none.toml"))


def test_a_file_is_found_without_its_ending_and_before_a_shipped_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "quick"):
        (tmp_path / f"{name}.toml").write_text(f'[study]\nname = "{name}"\nseed = 77\n')

        assert load(name).study.seed == 77


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, []) for name in shipped()),
        (
            "bbh",
            ["data.hold_out_cells=[{Z = 0.001, alpha = 1.0}]", "slurm.extra={reservation = 'a b'}"],
        ),
        ("bbh", ["data.hold_out=interior", "data.hold_out_fold=2", "space.hidden=48"]),
        ("quick", ["space.learning_rate={low = 1e-4, high = 0.5, log = true}"]),
    ],
)
def test_the_file_of_a_study_is_the_study(tmp_path, name, settings):
    spec = load(name, settings=settings)
    (tmp_path / "again.toml").write_text(spec.to_toml())

    assert load(str(tmp_path / "again.toml")) == spec


def test_the_file_of_a_study_with_older_defaults_names_them(tmp_path):
    stored = json.loads(load("quick").to_json())
    stored["flow"]["activation"] = "relu" if FlowConfig().activation != "relu" else "tanh"
    spec = StudySpec.from_json(json.dumps(stored))
    (tmp_path / "again.toml").write_text(spec.to_toml())

    assert load(str(tmp_path / "again.toml")).space["activation"] == spec.flow.activation


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_study_loads_and_survives_being_stored(name):
    spec = load(name)

    assert spec.study.name == name
    assert StudySpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("setting", "value"),
    [("training.epochs=50", 50), ("training.schedule=constant", "constant")],
)
def test_a_setting_lies_over_the_file(setting, value):
    spec = load("bbh", settings=[setting])

    assert getattr(spec.training, setting.split(".")[1].split("=")[0]) == value


def test_a_setting_can_make_a_dimension():
    spec = load("bbh", settings=["space.hidden=[8, 16]", "space.blocks={low=1, high=2}"])

    assert spec.space["hidden"] == [8, 16]
    assert (spec.space["blocks"].low, spec.space["blocks"].high) == (1, 2)


def test_a_setting_can_name_cells_to_be_held_out():
    cells = "data.hold_out_cells=[{Z=0.0004,alpha=1}, {alpha=3.0, Z=0.002}]"

    spec = load("bbh", settings=[cells, "training.objective=held_out_nll"])

    assert spec.data.hold_out_cells == [{"Z": 0.0004, "alpha": 1.0}, {"Z": 0.002, "alpha": 3.0}]
    assert StudySpec.from_json(spec.to_json()) == spec
    assert load("bbh").data.hold_out_cells == []


def test_what_is_set_last_holds_whichever_table_named_it():
    searched = load("quick", settings=["space.batch_size=[64, 128]"])
    fixed = load("quick", settings=["training.learning_rate=0.001"])

    assert searched.space["batch_size"] == [64, 128]
    assert "learning_rate" not in fixed.space


def test_a_study_stored_by_version_0_1_means_what_it_meant():
    stored = json.loads(STORED.read_text())

    spec = StudySpec.from_json(json.dumps(stored))

    again = json.loads(spec.to_json())
    assert {table: again[table] | values for table, values in stored.items()} == again
    assert spec.study.trials_per_worker == 1
    assert again["space"] == stored["space"]
    assert (spec.flow.base, spec.training.blend, spec.training.bag) == ("normal", "rows", False)
    assert spec.space["clip_norm"].step == 1
    assert spec.slurm.extra_options == {"reservation": "x", "exclusive": True, "cpu_freq": 3}


def test_a_stored_study_whose_jobs_ask_for_memory_by_the_core_goes_on():
    stored = json.loads(load("quick").to_json())
    stored["slurm"] |= {"memory_gb": 16, "extra": {"--mem-per-cpu": "4G"}}

    assert "mem" not in StudySpec.from_json(json.dumps(stored)).slurm.options


@pytest.mark.parametrize(("gpus", "tasks"), [(0, 2), (3, 6), ("a100:3", 6), ("1g.5gb:1", 2)])
def test_gpus_may_have_a_type(gpus, tasks):
    table = SlurmTable(gpus=gpus, workers_per_gpu=2)

    assert (table.tasks, table.options.get("gpus_per_node")) == (tasks, gpus or None)


def test_a_stored_study_keeps_the_defaults_that_it_was_made_with():
    stored = json.loads(load("quick").to_json())
    stored["flow"]["depth"] = 3

    assert StudySpec.from_json(json.dumps(stored)).flow.depth == 3


@pytest.mark.parametrize("setting", ["epochs=5", "training.epochs", ".x=1"])
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(SpecError, match=r"TABLE\.KEY=VALUE"):
        load("bbh", settings=[setting])


def test_a_name_takes_the_place_of_the_files():
    assert load("bbh", name="mine").study.name == "mine"


@pytest.mark.parametrize("text", ["a/b", "..", "", "-x", "a b", "a;rm", "é", "x" * 81])
def test_what_could_harm_a_path_or_a_shell_is_no_name(text):
    with pytest.raises(ConfigError, match="name must be letters"):
        StudyTable(name=text)


def test_what_is_stored_is_plain_json():
    stored = json.loads(load("thesis").to_json())

    assert stored["space"]["blocks"] == [10, 20, 30]
    assert StudySpec.from_json(json.dumps(stored)).sampler.kind == "grid"
