"""The members of an emulator that is trained to its end: whole, apart, resumed, in time."""

import dataclasses
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from data_prep.dataset import Dataset
from data_prep.errors import InputError
from data_prep.preparation.prepare import prepare
from data_prep.words.numbers import with_error
from hpo.cli import main
from hpo.emulator import members, outcome
from hpo.emulator.choice import Run
from hpo.emulator.export import write
from hpo.emulator.members import MembersError, place_of, train_on
from hpo.records import weights
from hpo.records.folder import read
from hpo.records.record import HeldOutNll
from hpo.records.scores import used
from models.bundle.emulator import Emulator
from models.config import FlowConfig, TrainConfig
from models.evaluation.nll import nll
from models.training.checkpoint import best_flow, load
from models.training.train import train
from tests import made_runs

HELD_OUT = ({"Z": 0.01, "alpha": 0.5}, {"Z": 0.01, "alpha": 1.0}, {"Z": 0.01, "alpha": 5.0})
"""All that there is at one end of the grid."""


class BrokenOff(BaseException):
    """Stands for whatever ends a training from outside."""


def chosen(prepared, folder, trial=3, hold_out=HELD_OUT, **training):
    """A trial of a study that held cells out and was judged by them."""
    config = TrainConfig(
        **{"epochs": 3, "batch_size": 512, "device": "cpu", "seed": 11 + trial, **training}
    )
    data = made_runs.BASE.data
    record = made_runs.trained(
        5.1,
        5.0,
        trial=trial,
        flow=dataclasses.asdict(FlowConfig(blocks=1, hidden=8, depth=1, bins=8)),
        training=dataclasses.asdict(config) | {"objective": "held_out_nll"},
        best_held_out_nll=6.25,
        held_out=HeldOutNll(nll=6.25, error=0.5, rows=9, cells=()),
        data=dataclasses.replace(
            data, path=str(prepared), hold_out_cells=hold_out, **used(Dataset.read(prepared))
        ),
    )
    record.write(folder)
    return Run(record, folder)


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """A run, and its two members, trained without a break. Do not write into their folders."""
    folder = tmp_path_factory.mktemp("members")
    run = chosen(prepared, folder)
    return run, train_on(run, folder / "e.members")[0]


def state(folder):
    return best_flow(folder).state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_members_have_all_cells_all_epochs_and_rows_and_weights_of_their_own(prepared, whole):
    run, trained = whole

    for member in trained:
        record = member.record
        assert record.state == "complete"
        assert len(record.epochs) == 3
        assert record.data.hold_out_cells == ()
        assert record.held_out is record.best_held_out_nll is None
        flow = weights.flow_of(record, member.folder)
        assert flow.domain["Z"] == Dataset.read(prepared).ranges["Z"]  # the held-out end, too
        assert record.test.rows == Dataset.read(prepared).rows["test"]
        assert read(member.folder / "run.json") == record
        given = {**record.training, "objective": "held_out_nll", "seed": 14}
        assert given == run.record.training
    assert (
        len({run.record.training["seed"], *(one.record.training["seed"] for one in trained)}) == 3
    )
    first, second = (state(one.folder) for one in trained)
    assert not same(first, second)


def test_interrupted_and_resumed_members_are_the_unbroken_ones(prepared, whole, tmp_path):
    run, unbroken = whole
    seen = []

    def break_off(step):
        seen.append((step.number, step.epoch, step.ended is not None))
        if seen[-1] in {(0, 2, False), (1, 1, False)}:
            raise BrokenOff

    for _ in range(2):
        with pytest.raises(BrokenOff):
            train_on(run, tmp_path, tell=break_off)
    before = os.stat(tmp_path / "member-0/checkpoint.safetensors").st_mtime_ns
    resumed, _ = train_on(run, tmp_path, tell=break_off)

    assert seen == [
        *[(0, 1, False), (0, 2, False), (0, 3, False), (0, 3, True)],
        *[(1, 1, False), (1, 2, False), (1, 3, False), (1, 3, True)],
    ]
    assert os.stat(tmp_path / "member-0/checkpoint.safetensors").st_mtime_ns == before
    for one, other in zip(unbroken, resumed, strict=True):
        assert same(state(one.folder), state(other.folder))
        assert one.record.best_val_nll == other.record.best_val_nll
        assert one.record.test == other.record.test


def test_members_on_a_thread_each_are_those_one_after_another(prepared, whole, tmp_path):
    """And what breaks one off breaks off the other, which goes on from there."""
    run, unbroken = whole
    first, then, threads = [], [], torch.get_num_threads()

    def break_off(step):
        first.append(step)
        if len(first) == 3:
            raise BrokenOff

    try:
        torch.set_num_threads(2)
        with pytest.raises(BrokenOff):
            train_on(run, tmp_path, tell=break_off)
        resumed, _ = train_on(run, tmp_path, tell=then.append)
    finally:
        torch.set_num_threads(threads)

    assert {step.name for step in first} == {"member 0", "member 1"}
    assert [step.reached for step in then] == sorted(step.reached for step in then)
    assert [step.number for step in then if step.ended] == [0, 1]
    for one, other in zip(unbroken, resumed, strict=True):
        assert same(state(one.folder), state(other.folder))
        assert one.record.test == other.record.test


def test_more_members_are_trained_beside_those_that_are_there(prepared, whole, tmp_path):
    run, two = whole
    for member in two:
        (tmp_path / member.folder.name).symlink_to(member.folder)

    three, _ = train_on(run, tmp_path, members=3, epochs=3)

    assert [one.record for one in three[:2]] == [one.record for one in two]
    assert three[2].record.training["seed"] not in {one.record.training["seed"] for one in two}


@pytest.mark.parametrize(
    ("trial", "training", "message"),
    [
        pytest.param(4, {}, "a training by trial 3 of bbh, with seed = ", id="trial"),
        pytest.param(3, {"learning_rate": 0.5}, "learning_rate = 0.02 where", id="option"),
        pytest.param(3, {"epochs": 4}, "epochs = 3 where trial 3 of bbh has 4", id="epochs"),
    ],
)
def test_the_members_of_another_trial_are_not_gone_on_with(
    prepared, whole, tmp_path, trial, training, message
):
    _, trained = whole
    (tmp_path / "members").symlink_to(trained[0].folder.parent)
    other = chosen(prepared, tmp_path / "other", trial, **training)

    with pytest.raises(MembersError, match=f"{message}.*remove .*members, or choose another --out"):
        train_on(other, tmp_path / "members")


def test_members_of_other_data_are_refused(prepared, weighted, whole, tmp_path):
    run, _ = whole
    for path, message in ((weighted, "the fingerprints differ"), (tmp_path, "needed to train on")):
        data = dataclasses.replace(run.record.data, path=str(path))
        moved = Run(dataclasses.replace(run.record, data=data), run.folder)
        with pytest.raises(MembersError, match=message):
            train_on(moved, tmp_path / "members")


def test_all_members_together_keep_to_their_time(prepared, tmp_path):
    run = chosen(prepared, tmp_path, epochs=100_000)
    budget_s = 1.5

    trained, _ = train_on(run, tmp_path / "m", max_minutes=budget_s / 60)

    spent = [load(one.folder).state["elapsed_s"] for one in trained]
    assert all(one.record.state == "stopped_early" for one in trained)
    assert all("time budget" in one.record.reason for one in trained)
    assert sum(spent) < budget_s + 1  # an epoch takes a fraction of a second
    assert min(spent) > 0.2 * budget_s
    # And its learning rate has fallen to its end.
    assert all(one.record.epochs[-1].learning_rate < 2e-3 for one in trained)
    with pytest.raises(MembersError, match="are spent after 2 of 3 trainings in .*--max-minutes"):
        train_on(run, tmp_path / "m", members=3, max_minutes=budget_s / 60 / 2)


def test_the_emulator_of_members_says_how_each_was_trained_and_how_good_they_are(
    prepared, whole, tmp_path
):
    run, trained = whole

    write(trained, tmp_path / "emulator", chosen=run.record)

    emulator = Emulator.load(tmp_path / "emulator")
    metrics, origin = emulator.card["metrics"], emulator.card["provenance"]
    assert metrics["test_nll"] == pytest.approx(nll(emulator.module, prepared, "test").mean)
    assert [one["test_nll"] for one in metrics["members"]] == [
        one.record.test.nll for one in trained
    ]
    assert metrics["trial"]["held_out_nll"] == 6.25  # that of the trial, by its name
    assert "held_out_nll" not in metrics
    assert origin["trial"] == 3
    assert [one["training"]["seed"] for one in origin["members"]] == [
        one.record.training["seed"] for one in trained
    ]
    text = (tmp_path / "emulator" / "README.md").read_text()
    assert "by hyperparameter search: study bbh, trial 3" in text
    assert "on all cells, from a seed of its own\n" in text
    unseen = "of trial 3, in cells that it was not trained on, and that chose it"
    assert f"| NLL, test, {unseen} | 6.25 ± 0.50 |" in text


def test_a_command_that_is_interrupted_goes_on_and_then_mixes(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = chosen(prepared, tmp_path / "trial", epochs=2)
    words = ["export", str(run.folder / "run.json"), "--out", "e", "--train-on"]
    options = ("flow.hidden=4", "training.learning_rate=0.01", "training.snapshots=2")
    words += [word for option in options for word in ("--set", option)]
    train = members.train

    def interrupted(*args, on_epoch, **options):
        def then_break_off(epoch):
            on_epoch(epoch)
            raise KeyboardInterrupt

        return train(*args, on_epoch=then_break_off, **options)

    monkeypatch.setattr(members, "train", interrupted)
    first = CliRunner().invoke(main, words)
    there = (tmp_path / "e").exists()
    monkeypatch.setattr(members, "train", train)
    second = CliRunner().invoke(main, words)

    assert first.exit_code == 130
    assert "Interrupted: the same command goes on with e.members." in first.output
    assert not there
    assert second.exit_code == 0, second.output
    assert "member 1, complete, val NLL" in second.output
    assert "e: members by the configuration of trial 3 of bbh, on all cells, mixed" in second.output
    emulator = Emulator.load(tmp_path / "e")
    assert [flow.config.hidden for flow in emulator.module.flows] == [4, 4]
    assert emulator.card["provenance"]["changed"] == ["hidden", "learning_rate"]
    text = (tmp_path / "e" / "README.md").read_text()
    assert "each trained anew by that configuration but for hidden and learning_rate on all" in text
    assert len([*(tmp_path / "e.members/member-1/snapshots").iterdir()]) == 2
    assert place_of(tmp_path / "e").is_dir()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        pytest.param("flow.bins", "must read TABLE.KEY=VALUE", id="no value"),
        pytest.param("space.bins=4", "flow.KEY and training.KEY, no 'space'", id="table"),
        pytest.param("flow.bin=4", "has no key 'bin': did you mean 'bins'", id="typo"),
        pytest.param("training.epochs=0", "epochs must be", id="range"),
        pytest.param("training.bag=true", "give --bag", id="of the members"),
    ],
)
def test_a_setting_that_cannot_be_is_said(whole, setting, message):
    with pytest.raises(InputError, match=message):
        members.changed(whole[0], [setting])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["s", "--set", "flow.bins=4"], "--set of what? give --train-on", id="set"),
        pytest.param(["s", "--members", "2"], "--members of what? give --train-on", id="members"),
        pytest.param(["s", "--max-minutes", "2"], "--max-minutes of what?", id="minutes"),
        pytest.param(["s", "--train-on", "--ensemble", "2"], "takes --members", id="ensemble"),
        pytest.param(["run.json", "--trial", "2"], "choose in a study", id="run"),
        pytest.param(["run.json"], "run.json cannot be read", id="no run"),
        pytest.param(["s", "--catalogs", "3"], "3 tell nothing: give 10 or more, or 0", id="few"),
    ],
)
def test_what_does_not_go_together_is_said(words, message):
    said = CliRunner().invoke(main, ["export", *words, "--out", "e"])

    assert said.exit_code == 2
    assert message in said.output


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A prepared grid of 5 x 4 cells, six of them interior. Do not write into it."""
    folder = tmp_path_factory.mktemp("wide")
    rng = np.random.default_rng(5)
    c_NC = np.array([(z, a) for z in (1, 2, 3, 4, 5) for a in (1, 2, 3, 4)])[
        rng.integers(20, size=2000)
    ]
    x_N = np.exp(0.1 * c_NC.sum(1) + rng.normal(size=len(c_NC)))
    table = {"Mass_0": x_N, "Z": c_NC[:, 0] / 1000, "alpha": c_NC[:, 1].astype(float)}
    pq.write_table(pa.table(table), folder / "mergers.parquet")
    prepare([folder / "mergers.parquet"], folder / "prepared", event_columns=("Mass_0",))
    return folder / "prepared"


def test_interior_cells_are_scored_by_flows_that_never_saw_them(wide, tmp_path):
    run = chosen(wide, tmp_path / "trial", hold_out=())

    trained, unseen = train_on(run, tmp_path / "m", folds=3, epochs=2, bag=True)
    write(trained, tmp_path / "e", chosen=run.record, folds=unseen)

    assert all(one.record.training["bag"] for one in trained)
    interior = {(z / 1000, float(a)) for z in (2, 3, 4) for a in (2, 3)}
    seen = [tuple(cell.values()) for one, _ in unseen for cell in one.record.data.report_cells]
    assert sorted(seen) == sorted(interior)
    total, rows = 0.0, 0
    for number, one in ((number, one) for fold in unseen for number, one in enumerate(fold)):
        assert one.record.training["bag"]
        assert len(one.record.epochs) == 2
        assert one.record.training["seed"] == trained[number].record.training["seed"]
        out = one.record.data.report_cells
        flow = weights.flow_of(one.record, one.folder)
        again, _ = train(
            wide,
            FlowConfig.from_dict(one.record.flow),
            TrainConfig.from_dict(one.record.training),
            report=out,
        )
        assert same(flow.state_dict(), again.state_dict())
        found = nll(flow, wide, "test", only=out)
        total, rows = total + found.mean * found.rows, rows + found.rows
    told = Emulator.load(tmp_path / "e").card["metrics"]["interpolation"]
    assert told["nll"] == pytest.approx(total / rows)
    assert len(told["cells"]) == 6
    assert told["worst"]["nll"] == max(cell["nll"] for cell in told["cells"])
    number = with_error(told["nll"], told["error"])
    said = f"in 6 interior cells flows without them have an NLL of {number}"
    assert said in outcome.told([run.record], tmp_path / "e", anew=True)
    text = (tmp_path / "e" / "README.md").read_text()
    assert "on all cells, from a seed of its own and on a bootstrap of the training rows" in text
    assert "in the 6 interior cells, each by flows of this configuration that were trained" in text
    assert f"| NLL, the worst of these: Z = {told['worst']['conditions']['Z']}" in text
