"""A checked request for a launch: which study, how many trials, by which workers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from sqlalchemy.engine import URL

from data_prep import cells
from data_prep.dataset import SAMPLE, Dataset
from data_prep.errors import DataError
from data_prep.words.numbers import counted
from hpo.doctor.machine import cores, default_workers, gpus
from hpo.storage.address import masked
from hpo.study.place import WORKERS
from hpo.study.space import grid
from hpo.study.spec import DataTable, SpecError, StudySpec

MOST_ON_CPU, ROUNDS_ON_CPU = 4, 10
"""Most trials that a worker trains at a time of itself, and the fewest rounds of a study. Four gain
nearly all that more of them would (`benchmarks/stack.py`)."""
MOST_ON_GPU, ROUNDS_ON_GPU = 64, 4
"""Likewise on a GPU, where a step of 64 starts as many operations as one of four."""
BYTES_OF_TRAINING = 20e6
"""Memory of the machine that a training takes beside its rows, roughly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A study ready to run."""

    spec: StudySpec
    dataset: Dataset
    trials: int
    """The study's total, unless it was launched with more and `lowers` is not set."""

    workers: int
    on: str
    """Where the workers are: `local` or `slurm`."""

    runs: Path
    """Folder of all studies' runs, seen by the workers under the same path."""

    url: URL
    stack: int | Literal["auto"] = 1
    """Trials that each worker trains at a time, as was asked for."""

    lowers: bool = False
    """Whether the number of trials was asked for, so that it also makes them fewer."""

    force_sqlite: bool = False
    """Whether SQLite is used where its locks may not hold."""

    command: str = ""
    """The command as it was typed, without the storage; the study's note shows it."""

    @property
    def folder(self) -> Path:
        """The folder of the study's trials."""
        return self.runs / self.spec.study.name

    @property
    def worker_folder(self) -> Path:
        """Where submitit keeps the workers' pickles and output."""
        return self.folder / WORKERS

    @property
    def tasks(self) -> int:
        """Workers of each job."""
        return self.spec.slurm.tasks if self.on == "slurm" else 1

    @property
    def threads(self) -> int:
        """CPU threads of each worker: together they use the cores once."""
        if self.on == "slurm":
            return max(1, self.spec.slurm.cpus // self.tasks)
        return max(1, cores() // self.workers)

    @property
    def on_gpu(self) -> bool:
        """Whether the workers will find a GPU, as far as can be told from here."""
        there = self.spec.slurm.gpu_count if self.on == "slurm" else gpus()
        return bool(there) and self.spec.training.device != "cpu"

    @property
    def at_a_time(self) -> int:
        """Trials that each worker trains at a time, or at most where a GPU's memory decides."""
        return at_a_time(
            self.stack,
            self.spec,
            self.dataset,
            trials=self.trials,
            workers=self.workers,
            room=MOST_ON_GPU if self.on_gpu else None,
            in_jobs=self.on == "slurm",
        )

    @property
    def arguments(self) -> tuple[str, str, int, int, int | Literal["auto"]]:
        """Arguments of `hpo.execution.worker.work`."""
        name, runs = self.spec.study.name, str(self.runs)
        return name, runs, self.threads, self.workers, self.stack

    @property
    def data(self) -> str:
        """The size of the dataset, for people."""
        rows, data = sum(self.dataset.rows.values()), self.spec.data
        kind = "region" if self.dataset.scattered else "cell"
        text = f"{counted(rows, 'row')} in {counted(len(self.dataset.cells), kind)}"
        if self.dataset.weight_column:
            effective = self.dataset.effective("train")
            text += f", weighted: {effective:,.0f} effective ones to train on"
        if data.hold_out_cells:
            text += f", {len(data.hold_out_cells)} of them held out"
        return f"{text}, {len(data.report_cells)} to report by" if data.report_cells else text

    def describe(self) -> str:
        """The resolved study, for people."""
        spec = self.spec
        most = "at most " if self.stack == "auto" and self.on_gpu else ""
        return "\n".join(
            [
                f"study    {spec.study.name}: {counted(self.trials, 'trial')}, "
                f"{counted(self.workers, 'worker')} ({self.on}), threads of each: {self.threads}"
                + (f", trials at a time: {most}{self.at_a_time}" if self.at_a_time > 1 else ""),
                f"data     {spec.data.path}: {self.data}",
                f"search   {spec.sampler.kind}, pruner {spec.pruner.kind}, "
                f"at most {counted(spec.training.epochs, 'epoch')} a trial",
                f"storage  {masked(self.url)}",
                f"runs     {self.folder}",
            ]
        )


def make_plan(
    spec: StudySpec,
    *,
    trials: int | None,
    workers: int | None,
    stack: int | Literal["auto"] | None = None,
    on: str,
    runs: Path,
    url: URL,
    force_sqlite: bool = False,
    command: str = "",
) -> Plan:
    """Check everything that can be checked before anything is made.

    Raises:
        SpecError: If the trials do not fit a grid, or the cells to be held out not the data.
        DataError: If the data is not a prepared dataset.
    """
    folder = SAMPLE if spec.data.path == "sample" else Path(spec.data.path).absolute()
    dataset = Dataset.read(folder)
    data = _named(spec, dataset, folder)
    total = trials or spec.study.trials
    stack = stack or spec.study.trials_per_worker
    if spec.sampler.kind == "grid" and total > (points := len(grid(spec.space))):
        fault = f"its grid has {points} points, so --trials can be {points} at most, not {total}"
        raise SpecError(f"the study {spec.study.name!r}", [fault])
    return Plan(
        spec=dataclasses.replace(spec, data=data),
        dataset=dataset,
        trials=total,
        workers=min(
            workers or default_workers(spec), total if stack == "auto" else -(-total // stack)
        ),
        stack=stack,
        on=on,
        runs=runs.absolute(),
        url=url,
        lowers=trials is not None,
        force_sqlite=force_sqlite,
        command=command,
    )


def at_a_time(
    asked: int | Literal["auto"],
    spec: StudySpec,
    dataset: Dataset,
    *,
    trials: int,
    workers: int,
    room: int | None,
    in_jobs: bool,
) -> int:
    """How many trials each worker trains at a time.

    Of those that are trained at once none knows what came of the others: a search of few trials
    has too few rounds then, and has one at a time.

    Args:
        asked: A number, which it is, or auto.
        spec: The study.
        dataset: Its data.
        trials: Of the study, in all.
        workers: Likewise.
        room: How many fit into a GPU's memory; None on a processor.
        in_jobs: Whether the workers are jobs of SLURM, which have the memory of `[slurm]`.
    """
    if asked != "auto":
        return asked
    if not stackable(spec, dataset):
        return 1
    memory = spec.slurm.memory_gb * 1e9 / spec.slurm.tasks if in_jobs else 0
    memory = memory or psutil.virtual_memory().available / workers
    held = dataset.rows["train"] + dataset.rows["val"]  # by each training
    fit = memory / 2 / (BYTES_OF_TRAINING + held * _bytes_of_row(dataset))
    most, rounds = (MOST_ON_CPU, ROUNDS_ON_CPU)
    if room is not None:
        most, rounds = min(MOST_ON_GPU, room), ROUNDS_ON_GPU
    return max(1, min(most, int(fit), trials // (rounds * workers)))


def of_one_shape(asked: int | Literal["auto"], size: int, *, trials: int) -> int:
    """How many trials in a row get one shape in a worker that trains `size` at a time.

    All that were asked for; of itself no more than there are shapes in the study then. Else fifty
    on a GPU would leave a study of 200 trials four shapes.
    """
    return min(size, math.isqrt(trials)) if asked == "auto" else size


def _bytes_of_row(dataset: Dataset) -> int:
    """Of a decoded row, and where it is in an epoch."""
    columns = [*dataset.event_columns, *dataset.condition_columns, dataset.weight_column]
    return 4 * sum(column is not None for column in columns) + 8


def stackable(spec: StudySpec, dataset: Dataset) -> bool:
    """Whether any of the study's trials can be trained together (see `Member.shape`)."""
    options = dataclasses.asdict(spec.flow) | dataclasses.asdict(spec.training) | spec.space
    return not (
        dataset.scattered
        or any(column.atoms for column in dataset.event_columns)
        or options["conditioner"] == "masked"
        or options["normalise"] is True
        or options["max_minutes"]
        or dataset.rows["train"] * _bytes_of_row(dataset) > spec.training.memory_mb * 1e6
    )


def _named(spec: StudySpec, dataset: Dataset, folder: Path) -> DataTable:
    """`[data]` with the cells that are not trained on as the dataset writes them, in its order.

    Raises:
        SpecError: If they cannot be held out of it.
    """
    data = spec.data
    given = [key for key in ("hold_out", "hold_out_cells", "report_cells") if getattr(data, key)]
    sets = [data.hold_out_cells, data.report_cells]
    try:
        if data.hold_out:
            dealt = cells.folds(dataset, data.hold_out_folds)
            sets = [dealt[(data.hold_out_fold + k) % len(dealt)] for k in range(2)]
        faults = cells.faults(dataset, *sets)
    except DataError as error:
        faults = [str(error)]
    if faults:
        told = [f"[data] {', '.join(given)}: {fault}" for fault in faults]
        raise SpecError(f"the study {spec.study.name!r} on {folder}", told)
    hold_out_cells, report_cells = (
        [cells.name_of(dataset, cell) for cell in cells.find(dataset, some, folder)]
        for some in sets
    )
    return dataclasses.replace(
        data,
        path=str(folder),
        hold_out=None,
        hold_out_cells=hold_out_cells,
        report_cells=report_cells,
    )
