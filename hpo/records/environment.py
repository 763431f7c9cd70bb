"""Where a trial runs: versions, device, host, job, commit, threads, as its record tells them."""

from __future__ import annotations

import platform
import socket
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from hpo.records.record import Environment

PACKAGES = ("torch", "nflows", "optuna", "pyarrow", "numpy", "submitit", "sqlalchemy")


def describe(device: str, job: str | None, *, stack: int = 1) -> Environment:
    """This process's environment.

    Args: the training's option, the scheduler's id, and the trials that are trained at a time.
    """
    return Environment(
        versions=_versions(),
        device=device_of(device),
        host=socket.gethostname(),
        slurm_job_id=job,
        git_commit=_commit(),
        threads=torch.get_num_threads(),
        stack=stack,
    )


def device_of(option: str) -> str:
    """The device that a training with this option is done on, by name."""
    if option == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda ({torch.cuda.get_device_name()})"


@cache
def _versions() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"hpo": metadata.version("hpo-flows"), "python": platform.python_version()} | versions


@cache
def _commit() -> str | None:
    """The commit of the code that runs, with `+` when files differ from it; None if installed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # no git here, or a checkout of another user's that it will not read


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
