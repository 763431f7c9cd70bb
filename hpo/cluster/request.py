"""What a worker's job asks of the cluster: the keys of `[slurm]`, and the options of `sbatch`."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated

from pydantic import AfterValidator, NonNegativeInt, PlainValidator, PositiveInt

from models.config import checked

_SUBMITS = frozenset(
    "array job_name output error open_mode signal wckey requeue clusters parsable quiet wait wrap "
    "test_only help usage version".split()
)
"""Options of `sbatch` that submitit sets, or that would hide from it what was submitted."""
MEMORY = frozenset({"mem_per_cpu", "mem_per_gpu"})
"""Options of `sbatch` that exclude `mem`."""
_OPTION = re.compile(r"-{0,2}[A-Za-z][A-Za-z0-9_-]*")
"""Long name of an option of `sbatch`."""
_TYPED_GPUS = re.compile(r"[A-Za-z0-9_.-]+:[1-9][0-9]{0,3}")
"""Type and number of GPUs, as sbatch writes them."""


def _one_line(text: str) -> str:
    # A line break would end the comment that sbatch reads, and what follows would be run.
    if not text.isprintable():
        raise ValueError(f"must be one line of printable text, got {text!r}")
    return text


def _option(key: str) -> str:
    if not _OPTION.fullmatch(key):
        raise ValueError("is no long name of an option of sbatch")
    if plain(key) in {*SlurmTable()._asked, *_SUBMITS}:
        raise ValueError("is decided by another key of [slurm], or by hpo")
    return key


def plain(option: str) -> str:
    """The long name of an option as `SlurmTable.options` has it."""
    return option.lstrip("-").replace("-", "_")


def _option_value(value: object) -> object:
    if not isinstance(value, str | int):
        raise ValueError(f"must be a text, a whole number or true, got {value!r}")
    return _one_line(value) if isinstance(value, str) else value


def _gpus(value: object) -> object:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not (number or (isinstance(value, str) and _TYPED_GPUS.fullmatch(value))):
        raise ValueError(f'must be a number, or a type and a number as "a100:1", got {value!r}')
    return value


Line = Annotated[str, AfterValidator(_one_line)]
Option = Annotated[str, AfterValidator(_option)]
OptionValue = Annotated[str | int | bool, PlainValidator(_option_value)]
Gpus = Annotated[int | str, PlainValidator(_gpus)]


@checked
class SlurmTable:
    """`[slurm]`: what each worker's job asks of the cluster."""

    partition: Line | None = None
    """As `sbatch --partition`; the cluster's own default where absent."""
    account: Line | None = None
    """As `sbatch --account`."""
    qos: Line | None = None
    """As `sbatch --qos`."""
    constraint: Line | None = None
    """As `sbatch --constraint`."""
    gpus: Gpus = 1
    """GPUs of each job: a number, or a type of the cluster's and a number, as `"a100:1"`."""
    cpus: PositiveInt = 4
    """CPU cores of each job."""
    memory_gb: NonNegativeInt = 16
    """Memory of each job. 0 leaves `--mem` out, for clusters that refuse it or have
    `extra = { mem-per-cpu = "4G" }` in its place."""
    timeout_min: PositiveInt = 240
    """Time limit of each job. Another job continues the trials that it cuts off."""
    setup: list[str] = field(default_factory=list)
    """Shell lines that run before the worker, such as `module load cuda`."""
    exclude: Line | None = None
    """Nodes not to be used, as `sbatch --exclude`."""
    extra: dict[Option, OptionValue] = field(default_factory=dict)
    """Any other option of `sbatch` by its long name, such as `reservation = "ligo"`. With
    `export = "NONE"` the workers have your login environment and still find their database."""
    workers_per_gpu: PositiveInt = 1
    """Workers that share each GPU of a job, and its cores and memory evenly: small flows do not
    fill one. Without GPUs, workers of a job."""

    @property
    def tasks(self) -> int:
        """Workers of each job."""
        return max(1, self.gpu_count) * self.workers_per_gpu

    @property
    def gpu_count(self) -> int:
        """GPUs of each job, of whatever type."""
        return int(str(self.gpus).rpartition(":")[2])

    @property
    def options(self) -> dict[str, str | int]:
        """The options of `sbatch` for a job, by their long names."""
        return {key: value for key, value in self._asked.items() if value is not None}

    @property
    def _asked(self) -> dict[str, str | int | None]:
        """All options of `sbatch` that keys of this table set; None for those left out."""
        return {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclude": self.exclude,
            "nodes": 1,
            "ntasks_per_node": self.tasks,
            "cpus_per_task": max(1, self.cpus // self.tasks),
            "gpus_per_node": self.gpus or None,
            "mem": f"{self.memory_gb}GB" if self.memory_gb else None,
            "time": self.timeout_min,
        }

    @property
    def extra_options(self) -> dict[str, str | int | bool]:
        """The options of `extra`, named as in `options`."""
        return {plain(key): value for key, value in self.extra.items()}
