"""All checks before workers start: this machine, the data, the database, the cluster.

`hpo launch` refuses a study with a failed check, `hpo doctor` prints every line. No check makes a
database, a table or a folder, or submits a job. A check that cannot be made is a warning.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement  # comes with Optuna
from sqlalchemy.engine import URL

from data_prep.dataset import SAMPLE, SPLITS, Dataset
from data_prep.errors import DataError, InputError
from hpo.doctor.check import Check, guarded
from hpo.doctor.cluster import cluster_checks
from hpo.doctor.database import answer_checks, lock_checks
from hpo.storage import filesystem
from hpo.study.spec import StudySpec

SPACE_GB = 1
"""Free space below which there is a warning: a trial's checkpoints and log take a few MB."""


class PreflightError(InputError):
    """A study that would not run here. The message lists every failed check."""


def refuse(checks: Iterable[Check]) -> None:
    """Let the study go on only if no check failed.

    Raises:
        PreflightError: With every one that did.
    """
    failed = [one for one in checks if one.verdict == "failed"]
    lines = (": ".join(filter(None, (one.what, one.found, one.remedy))) for one in failed)
    if failed:
        raise PreflightError("\n  - ".join(["the study cannot run here:", *lines]))


def check(
    spec: StudySpec | None,
    *,
    on: str,
    runs: Path,
    url: URL,
    workers: int,
    force_sqlite: bool = False,
    script: str | None = None,
) -> list[Check]:
    """Everything that can be checked before workers start, `on` this machine or `slurm`.

    Args:
        spec: The study; None checks what every study needs, on the shipped data.
        runs: Folder of all runs. Neither it nor the database need be there yet.
        url: Of the study's database.
        force_sqlite: SQLite where its locks may not hold is a warning, and no failure.
        script: What a launch of the study would give to sbatch.
    """
    looks: list[tuple[str, Callable[[], list[Check]]]] = [
        ("versions", _versions),
        ("device", lambda: _device(spec, on)),
        ("data", lambda: _data(spec)),
        ("runs folder", lambda: _runs_folder(runs, on)),
        ("free space", lambda: _free_space(runs)),
        ("storage locks", lambda: lock_checks(url, on, force_sqlite)),
        ("storage", lambda: answer_checks(url, workers)),
    ]
    if on == "slurm":
        looks.append(("slurm", lambda: cluster_checks(spec.slurm if spec else None, script)))
    return [one for what, look in looks for one in guarded(what, look, url)]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """GPUs that this process may use, or parts of them, as `CUDA_VISIBLE_DEVICES` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    found = re.findall(r"^\s*(GPU|MIG) .*\(UUID: (\S+)\)", done.stdout, flags=re.MULTILINE)
    # The parts of a GPU follow it; one that has parts cannot be used whole.
    each = itertools.pairwise([*found, ("", "")])
    return [name for (kind, name), (after, _) in each if (kind, after) != ("GPU", "MIG")]


def default_workers(spec: StudySpec | None) -> int:
    """Workers where no number is given: the study's, else one for each GPU, or core, at most 8."""
    if spec and spec.study.workers:
        return spec.study.workers
    on_gpus = spec is None or spec.training.device != "cpu"
    return (len(gpus()) if on_gpus else 0) or min(8, cores())


def _versions() -> list[Check]:
    """The installed packages against what ours requires of them."""
    wanted = [Requirement(line) for line in metadata.requires("hpo-flows") or ()]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    has = [(one, _installed(one.name)) for one in needed]
    unmet = [one for one, version in has if not (version and one.specifier.contains(version, True))]
    if unmet:
        found = ", ".join(f"{one.name} is {_installed(one.name) or 'missing'}" for one in unmet)
        remedy = "pip install " + " ".join(f"'{one.name}{one.specifier}'" for one in unmet)
        return [Check("versions", "failed", found, remedy)]
    shown = ("hpo-flows", "torch", "optuna", "submitit", "sqlalchemy", "nflows")
    versions = [f"{name} {_installed(name)}" for name in shown]
    return [Check("versions", "ok", ", ".join([f"python {platform.python_version()}", *versions]))]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device(spec: StudySpec | None, on: str) -> list[Check]:
    import torch  # seconds, and only this line needs it

    cuda = torch.cuda.is_available()
    device = f"cuda ({torch.cuda.get_device_name()})" if cuda else "cpu"
    found = f"{device}, {cores()} CPU cores"
    if on == "slurm":
        found += " on this machine; jobs have what [slurm] asks for"
        if spec is not None and spec.training.device == "cuda" and not spec.slurm.gpu_count:
            found += ", which is no GPU, but [training] device is 'cuda'"
            return [Check("device", "warning", found, "raise [slurm] gpus if nodes hide theirs")]
        return [Check("device", "ok", found)]
    if spec is not None and spec.training.device == "cuda" and not cuda:
        remedy = "--set training.device=auto, or install torch for the GPU's driver"
        return [Check("device", "failed", f"{found}, but [training] device is 'cuda'", remedy)]
    return [Check("device", "ok", found)]


def _data(spec: StudySpec | None) -> list[Check]:
    path = "sample" if spec is None else spec.data.path
    folder = SAMPLE if path == "sample" else Path(path)
    try:
        dataset = Dataset.read(folder)
    except DataError as error:
        return [Check("data", "failed", str(error))]
    missing = [part for part in SPLITS if not any(folder.joinpath(part).glob("part-*.parquet"))]
    if missing:
        found = f"{folder} has no part-*.parquet in {', '.join(missing)}"
        return [Check("data", "failed", found, "prepare the dataset again with hpo prepare")]
    rows = sum(dataset.rows.values())
    kind = "regions" if dataset.scattered else "cells"
    return [Check("data", "ok", f"{folder}: {rows:,} rows in {len(dataset.cells)} {kind}")]


def _runs_folder(runs: Path, on: str) -> list[Check]:
    what, kind = "runs folder", filesystem.kind_of(runs)
    found = f"{runs} ({kind or 'file system not known'})"
    if fault := filesystem.write_fault(runs):
        found = f"{runs} cannot be written: {fault}"
        return [Check(what, "failed", found, "give another folder with --runs")]
    if on == "slurm" and filesystem.is_private(kind):
        found += ": jobs on other nodes will not see it"
        return [Check(what, "warning", found, "give a folder that all nodes share with --runs")]
    return [Check(what, "ok", found)]


def _free_space(runs: Path) -> list[Check]:
    """Space left on the disk; a quota is not seen."""
    free_gb = shutil.disk_usage(filesystem.nearest(runs)).free / 1e9
    if free_gb < SPACE_GB:
        found = f"{free_gb:.2f} GB left for {runs}"
        return [Check("free space", "warning", found, "make room, or give another --runs")]
    return [Check("free space", "ok", f"{free_gb:,.0f} GB left for {runs}")]
