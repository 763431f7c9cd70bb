"""The members of an emulator that is trained to its end.

A search asks which configuration is the best: its trials are short, and cells are kept from them to
judge them by. Here the configuration of one is trained anew on all cells, for all its epochs, once
for each member of an ensemble. Members differ by seed, which orders the rows and draws the first
weights (Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474), and if asked by the
bootstrap of the rows (bagging: Breiman 1996, Machine Learning 24, 123).

How well such flows interpolate, no member can tell, since each has seen all cells. So that can be
measured beside them: the interior cells are dealt into folds, and as many flows as there are
members are trained once more without each fold. Neither their stopping nor their weights depend on
the cells that they lack.

Each training has a folder with its checkpoint and its `run.json`. What was trained there already is
not trained again, and what was interrupted goes on from its last epoch.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from data_prep import cells
from data_prep.cells import Named
from data_prep.dataset import Dataset
from data_prep.errors import DataError, InputError
from hpo.emulator.choice import Run
from hpo.records import environment
from hpo.records.folder import read
from hpo.records.record import FINISHED, NAME, Cost, DataUsed, RunRecord, now
from hpo.records.scores import scored, used, with_cost, with_history
from hpo.study.space import seed_of
from hpo.study.spec import lay_over
from models.config import FREE_TO_CHANGE, FlowConfig, TrainConfig
from models.training import checkpoint
from models.training.arithmetic import device_of
from models.training.history import Epoch
from models.training.stack.meeting import Meeting
from models.training.train import train

DECIDED = {
    "objective": "members have all cells, and their validation NLL decides",
    "bag": "give --bag",
    "max_minutes": "give --max-minutes, for all trainings together",
}
"""Options of a training that are not those of the trial, and why."""


class MembersError(InputError):
    """Members that cannot be trained. The message says what is in the way, and the way out."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where the trainings are."""

    name: str
    """Of the one under way: `member 0`."""
    number: int
    """Of those that have ended."""
    count: int
    """Of all."""
    epoch: int
    """The last whole one."""
    epochs: int
    """At most, of each training."""
    reached: int = 0
    """Epochs of all trainings."""
    ended: RunRecord | None = None
    """The record of the training, when it has just ended."""


def place_of(out: Path) -> Path:
    """The folder of the members of the bundle `out`, beside it."""
    return out.with_name(f"{out.name}.members")


def changed(run: Run, settings: Sequence[str]) -> Run:
    """The run with other options of its flow and its training, `TABLE.KEY=VALUE` each.

    Raises:
        SpecError: If a setting cannot be read.
        ConfigError: If there is no such option, or the value is out of its range.
        MembersError: If it is of neither table, or of what all members share.
    """
    tables = {"flow": {**run.record.flow}, "training": {**run.record.training}}
    for setting in settings:
        table, _, key = setting.partition("=")[0].strip().partition(".")
        if table not in tables:
            raise MembersError(
                f"--set {setting}: a training has options flow.KEY and training.KEY, no {table!r}"
            )
        if key in DECIDED:
            raise MembersError(f"--set {setting}: {DECIDED[key]}")
        lay_over(tables, setting)
    flow = dataclasses.asdict(FlowConfig.from_dict(tables["flow"]))
    training = dataclasses.asdict(TrainConfig.from_dict(tables["training"]))
    return Run(dataclasses.replace(run.record, flow=flow, training=training), run.folder)


def differing(then: RunRecord, member: RunRecord) -> list[str]:
    """Options in which a member was not trained as the trial was, but for those of each member."""
    before, after = (
        dataclasses.asdict(FlowConfig.from_dict(one.flow))
        | dataclasses.asdict(TrainConfig.from_dict(one.training))
        for one in (then, member)
    )
    own = {*DECIDED, *FREE_TO_CHANGE, "seed", "snapshots"}
    return sorted(name for name in after if name not in own and before[name] != after[name])


def train_on(
    run: Run,
    place: Path,
    *,
    members: int = 2,
    bag: bool = False,
    folds: int = 0,
    epochs: int | None = None,
    max_minutes: float | None = None,
    tell: Callable[[Step], None] = lambda step: None,
) -> tuple[list[Run], list[list[Run]]]:
    """Train the members, and the flows without a fold, or go on with them.

    Args:
        run: Gives the configuration, the seed from which all others follow, and the data.
        place: Folder of the trainings' folders.
        members: How many.
        bag: Whether each has a bootstrap of the rows, too; else they differ by seed alone.
        folds: Into how many the interior cells are dealt; 0 trains no flow without any. There is
            the same number of members for each.
        epochs: Of each training at most; None has those of the configuration.
        max_minutes: Time of all trainings together, over all restarts. Each plans for an equal
            share of what those before it left, so that its learning rate falls in time.
        tell: Called after each epoch, and when a training has ended; its exceptions pass through.

    Returns:
        The members, and of each fold those without it.

    Raises:
        MembersError: If the data are not there any more, a folder holds another training, or no
            time is left for one.
        DataError: If fewer cells are interior than there are folds.
        CheckpointError: If a checkpoint is damaged or of another training.
        NonFiniteLoss: If a loss or a gradient is not finite.
    """
    plans = _plans(run, members, bag, folds, epochs)
    done: list[Run] = []
    reached: dict[str, int] = {}
    lock = threading.Lock()

    def told(step: Step) -> None:
        with lock:  # several may be under way
            reached[step.name] = step.epoch
            tell(dataclasses.replace(step, number=len(done), reached=sum(reached.values())))

    def trained(name: str, planned: RunRecord, meeting: Meeting | None = None) -> Run:
        folder = place / name.replace(" ", "-")
        ended = _ended(planned, folder)
        if ended is None:
            left = _left(max_minutes, done, len(plans), place)
            planned = dataclasses.replace(planned, training=planned.training | left)
            step = Step(name, 0, len(plans), 0, planned.training["epochs"])
            ended = _trained(planned, folder, step, told, meeting)
        with lock:
            reached[name] = planned.training["epochs"]
            done.append(one := Run(ended, folder))
        return one

    meeting = None if max_minutes else _meeting(run, len(plans))
    if meeting is None:
        each = [trained(*plan) for plan in plans.items()]
    else:
        each = meeting.run([partial(trained, *plan, meeting) for plan in plans.items()])
    members_of = [each[at : at + members] for at in range(0, len(each), members)]
    return members_of[0], members_of[1:]


def _meeting(run: Run, trainings: int) -> Meeting | None:
    """Where so many are trained at a time: on a GPU as stacks, else one on each CPU thread."""
    threads = torch.get_num_threads()
    if device_of(TrainConfig.from_dict(run.record.training)).type != "cpu":
        return Meeting(size=trainings, threads=threads)
    return Meeting(size=min(threads, trainings), apart=True) if threads > 1 else None


def _plans(
    run: Run, members: int, bag: bool, folds: int, epochs: int | None
) -> dict[str, RunRecord]:
    """The record of each training before it begins, by the training's name."""
    dataset, chosen = _dataset(run), TrainConfig.from_dict(run.record.training)
    chosen = dataclasses.replace(
        chosen, epochs=epochs or chosen.epochs, objective="val_nll", max_minutes=None
    )
    plans = {}
    unseen = {"": (), **_folds(dataset, folds)}
    for where, fold in unseen.items():
        for number in range(members):
            config = dataclasses.replace(chosen, seed=seed_of(chosen.seed, number), bag=bag)
            plans[f"member {number}{where}"] = _planned(run.record, dataset, config, fold)
    return plans


def _folds(dataset: Dataset, count: int) -> dict[str, Named]:
    """The cells of each fold, by the words that say it lacks them."""
    each = cells.folds(dataset, count) if count else []
    return {f" without fold {number} of {count}": fold for number, fold in enumerate(each)}


def _left(
    max_minutes: float | None, done: Sequence[Run], count: int, place: Path
) -> dict[str, float | None]:
    """The option that says how long the next training takes, after those that are done."""
    if max_minutes is None:
        return {}
    left = max_minutes - sum(_seconds(one.folder) for one in done) / 60
    if left <= 0:
        raise MembersError(
            f"the {max_minutes:g} minutes are spent after {len(done)} of {count} trainings in "
            f"{place}: give more by --max-minutes, or ask for fewer --members or --folds"
        )
    return {"max_minutes": left / (count - len(done))}


def _seconds(folder: Path) -> float:
    """The time of a training that has ended, what was saved between its epochs included."""
    stored = checkpoint.load(folder)
    return float(stored.state["elapsed_s"]) if stored else 0.0


def _dataset(run: Run) -> Dataset:
    """That of the run's training."""
    used_then = run.record.data
    try:
        dataset = Dataset.read(Path(used_then.path))
    except DataError as error:
        raise MembersError(
            f"the data of {run.folder / NAME} are needed to train on: {error}"
        ) from error
    if dataset.fingerprint != used_then.fingerprint:
        raise MembersError(
            f"{used_then.path} does not hold the data that {run.folder / NAME} was trained on (the "
            "fingerprints differ): bring them back, or export without --train-on"
        )
    return dataset


def _planned(
    then: RunRecord, dataset: Dataset, config: TrainConfig, unseen: Named = ()
) -> RunRecord:
    """The record of a training before it begins; cells that it does not see only report."""
    return RunRecord(
        study=then.study,
        trial=then.trial,
        state="running",
        params=then.params,
        flow=dataclasses.asdict(FlowConfig.from_dict(then.flow)),
        training=dataclasses.asdict(config),
        data=DataUsed(
            path=then.data.path,
            report_cells=tuple({**cell} for cell in unseen),
            **used(dataset),
        ),
        seeds={**then.seeds, "training": config.seed},
        environment=environment.describe(config.device, None),
        cost=Cost(parameters=None, flops_per_event=None, seconds=None),
        started=now(),
        updated=now(),
    )


def _ended(planned: RunRecord, folder: Path) -> RunRecord | None:
    """The record of the training, if it came to its end before."""
    if not (folder / NAME).exists():
        return None
    there = read(folder / NAME)
    _refuse_another(there, planned, folder)
    if there.state not in FINISHED:
        return None
    return dataclasses.replace(there, study=planned.study, trial=planned.trial, data=planned.data)


def _trained(
    record: RunRecord,
    folder: Path,
    step: Step,
    tell: Callable[[Step], None],
    meeting: Meeting | None,
) -> RunRecord:
    """The record of a training at its end, which is written into its folder beside the weights."""
    if (folder / NAME).exists():
        record = dataclasses.replace(record, started=read(folder / NAME).started)
    record.write(folder)
    data = Path(record.data.path)

    def on_epoch(epoch: Epoch) -> None:
        tell(dataclasses.replace(step, epoch=min(epoch.epoch, step.epochs)))

    flow, fit = train(
        data,
        FlowConfig.from_dict(record.flow),
        TrainConfig.from_dict(record.training),
        report=record.data.report_cells,
        checkpoint=folder,
        on_epoch=on_epoch,
        meeting=meeting,
    )
    stored = checkpoint.load(folder)
    assert stored is not None  # it has just been saved
    ended = dataclasses.replace(
        scored(with_cost(with_history(record, fit.history), flow), flow, data),
        state="stopped_early" if fit.stopped else "complete",
        reason=fit.stopped,
        weights=checkpoint.digest(stored),
        updated=now(),
    )
    ended.write(folder)
    checkpoint.trim(folder)
    tell(dataclasses.replace(step, epoch=step.epochs, ended=ended))
    return ended


def _refuse_another(there: RunRecord, wanted: RunRecord, folder: Path) -> None:
    """Go on with nothing but the same training."""
    found, expected = (
        {
            "data": one.data.fingerprint,
            "report_cells": one.data.report_cells,
            **dataclasses.asdict(FlowConfig.from_dict(one.flow)),
            **dataclasses.asdict(TrainConfig.from_dict(one.training)),
        }
        for one in (there, wanted)
    )
    for name in expected:
        if name not in FREE_TO_CHANGE and found[name] != expected[name]:
            raise MembersError(
                f"{folder} holds a training by trial {there.trial} of {there.study}, with "
                f"{name} = {found[name]!r} where trial {wanted.trial} of {wanted.study} has "
                f"{expected[name]!r}: remove {folder.parent}, or choose another --out"
            )
