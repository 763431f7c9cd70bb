"""What has to be right before workers start: this machine, the data, the database, the cluster.

`hpo launch` refuses on what failed, `hpo doctor` prints every line. Nothing stays behind: a look
makes no database, no table and no folder, and submits no job. What cannot be looked at is a
warning that says why.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from optuna.storages import RDBStorage
from packaging.requirements import Requirement  # comes with Optuna
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from data_prep.columns import SAMPLE, SPLITS, DataError, Dataset
from data_prep.errors import InputError
from hpo import filesystem, scheduler
from hpo.scheduler import SchedulerError
from hpo.spec import SlurmTable, StudySpec
from hpo.storage import masked

Verdict = Literal["ok", "warning", "failed"]

SPACE_GB = 1
"""Free space below which there is a warning: a trial's checkpoints and log take a few MB."""
PROBE_BYTES = 65_536
"""Written to see whether a disk takes any: a full one takes an empty file."""
SPARE = 5
"""Connections to the database beside the workers': launch, status, dashboard, other users."""
ANSWER_S = 10
"""Longest wait for a database server to take a connection."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    found: str
    remedy: str | None = None


class PreflightError(InputError):
    """A study that would not run here. The message lists every failed check."""

    def __init__(self, failed: Iterable[Check]) -> None:
        lines = (
            f"{one.what}: {one.found}" + (f": {one.remedy}" if one.remedy else "") for one in failed
        )
        super().__init__("\n  - ".join(["the study cannot run here:", *lines]))


def refuse(checks: Iterable[Check]) -> None:
    """Let the study go on only if no check failed.

    Raises:
        PreflightError: With every one that did.
    """
    if failed := [one for one in checks if one.verdict == "failed"]:
        raise PreflightError(failed)


def check(
    spec: StudySpec | None,
    *,
    on: str,
    runs: Path,
    url: URL,
    workers: int,
    force_sqlite: bool = False,
) -> list[Check]:
    """Everything that can be checked before workers start.

    Args:
        spec: The study; None checks what every study needs, on the shipped data.
        on: `local` or `slurm`: where the workers would run.
        runs: Folder of all runs. It need not be there yet.
        url: Of the study's database, which need not be there yet.
        workers: How many would run at once.
        force_sqlite: SQLite where its locks may not hold is a warning, and no failure.
    """
    looks: list[tuple[str, Callable[[], list[Check]]]] = [
        ("versions", _versions),
        ("device", lambda: _device(spec, on)),
        ("data", lambda: _data(spec)),
        ("runs folder", lambda: _runs_folder(runs, on)),
        ("free space", lambda: _free_space(runs)),
        ("storage locks", lambda: _storage_locks(url, on, force_sqlite)),
        ("storage", lambda: _storage(url, workers)),
    ]
    if on == "slurm":
        looks.append(("slurm", lambda: _slurm(spec, workers)))
    return [one for what, look in looks for one in _guarded(what, look, url)]


def _guarded(what: str, look: Callable[[], list[Check]], url: URL) -> list[Check]:
    """What the look finds; a warning if it breaks off."""
    try:
        return look()
    except Exception as error:
        found = f"could not be checked: {type(error).__name__}: {_said(error, url)}"
        return [Check(what, "warning", found)]


def _said(error: Exception, url: URL) -> str:
    """The first line of an error, of a driver's own where it has one, without the password."""
    text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    line = text.splitlines()[0]
    for secret in (url.password, url.query.get("password")):
        line = line.replace(str(secret), "***") if secret else line
    return line


# This machine


def _versions() -> list[Check]:
    """The installed packages against what ours requires of them."""
    wanted = [Requirement(line) for line in metadata.requires("hpo-flows") or ()]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    unmet = [one for one in needed if not _is_met(one)]
    if unmet:
        found = ", ".join(f"{one.name} is {_installed(one.name) or 'missing'}" for one in unmet)
        remedy = "pip install " + " ".join(f"'{one.name}{one.specifier}'" for one in unmet)
        return [Check("versions", "failed", found, remedy)]
    shown = ("hpo-flows", "torch", "optuna", "submitit", "sqlalchemy", "nflows")
    versions = [f"{name} {_installed(name)}" for name in shown]
    return [Check("versions", "ok", ", ".join([f"python {platform.python_version()}", *versions]))]


def _is_met(requirement: Requirement) -> bool:
    version = _installed(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device(spec: StudySpec | None, on: str) -> list[Check]:
    import torch  # seconds, and only this line needs it

    from hpo.cluster import cores

    cuda = torch.cuda.is_available()
    device = f"cuda ({torch.cuda.get_device_name()})" if cuda else "cpu"
    found = f"{device}, {cores()} CPU cores"
    if on == "slurm":
        return [Check("device", "ok", f"{found} on this machine; jobs have what [slurm] asks for")]
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
    return [Check("data", "ok", f"{folder}: {rows:,} rows in {len(dataset.cells)} cells")]


def _runs_folder(runs: Path, on: str) -> list[Check]:
    kind = filesystem.kind_of(runs)
    found = f"{runs} ({kind or 'file system not known'})"
    if fault := write_fault(runs):
        remedy = "give another folder with --runs"
        return [Check("runs folder", "failed", f"{runs} cannot be written: {fault}", remedy)]
    if on == "slurm" and filesystem.is_private(kind):
        remedy = "give a folder that all nodes share with --runs"
        found += ": jobs on other nodes will not see it"
        return [Check("runs folder", "warning", found, remedy)]
    return [Check("runs folder", "ok", found)]


def _free_space(runs: Path) -> list[Check]:
    """What the disk has left, not what a quota has."""
    free_gb = shutil.disk_usage(_nearest(runs)).free / 1e9
    if free_gb < SPACE_GB:
        found = f"{free_gb:.2f} GB left for {runs}"
        return [Check("free space", "warning", found, "make room, or give another --runs")]
    return [Check("free space", "ok", f"{free_gb:,.0f} GB left for {runs}")]


def write_fault(folder: Path) -> str | None:
    """Why no file can be written in the folder, or in the parent that it would be made in."""
    nearest = _nearest(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".hpo-") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # a quota may be told as late as that
            return None
    except OSError as error:
        return f"{nearest}: {error.strerror}"


def _nearest(path: Path) -> Path:
    """The path, or the nearest parent that is there."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if os.path.lexists(one))


# The database


def _storage_locks(url: URL, on: str, force_sqlite: bool) -> list[Check]:
    """Whether two workers can write at once without harm."""
    if url.get_backend_name() != "sqlite":
        return [Check("storage locks", "ok", "a server keeps the workers apart")]
    if not url.database:
        found = "SQLite in memory is seen by one process alone"
        return [Check("storage locks", "failed", found, "name a file: --storage sqlite:///hpo.db")]
    kind = filesystem.kind_of(Path(url.database))
    found = f"{masked(url)} is for one machine"
    if on == "slurm":
        found += ": SQLite's locks do not hold between nodes"
    elif filesystem.is_network(kind):
        found += f", but lies on {kind}, where SQLite's locks may not hold"
    else:
        return [Check("storage locks", "ok", f"{found}, as the workers are ({kind or 'unknown'})")]
    remedy = "give a server with --storage postgresql+psycopg://user@host/database"
    if on != "slurm":
        remedy += ", or a file on this machine's own disk"
    return [Check("storage locks", "warning" if force_sqlite else "failed", found, remedy)]


def _storage(url: URL, workers: int) -> list[Check]:
    """Whether the database answers, and then what it says."""
    new = _is_new_file(url)
    reachable = _new_file(url) if new else _reachable(url)
    if new or reachable.verdict != "ok":
        return [reachable]
    return [
        reachable,
        *_guarded("storage tables", lambda: _tables(url), url),
        *_guarded("storage connections", lambda: _connections(url, workers), url),
    ]


def _is_new_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file()


def _new_file(url: URL) -> Check:
    folder = Path(url.database or "").absolute().parent
    if fault := write_fault(folder):
        found = f"{masked(url)} cannot be made: {fault}"
        return Check("storage", "failed", found, "give another with --storage")
    return Check("storage", "ok", f"{masked(url)} will be made")


def _reachable(url: URL) -> Check:
    # SQLite opens a file only when it is read: `select 1` would find nothing wrong with a picture.
    sqlite = url.get_backend_name() == "sqlite"
    try:
        with _connected(url) as connection:
            connection.exec_driver_sql("pragma schema_version" if sqlite else "select 1")
    except ImportError as error:
        found = f"{masked(url)} needs a driver that is not installed: {error}"
        remedy = "pip install 'hpo-flows[postgres]' or 'hpo-flows[mysql]'"
        return Check("storage", "failed", found, remedy)
    except SQLAlchemyError as error:
        found = f"{masked(url)} does not answer: {_said(error, url)}"
        return Check("storage", "failed", found, "check the URL, and that the database is there")
    if sqlite and (fault := write_fault(Path(url.database or "").absolute().parent)):
        found = f"{masked(url)} cannot be written: {fault}"
        return Check("storage", "failed", found, "give another with --storage")
    return Check("storage", "ok", f"{masked(url)} answers")


def _tables(url: URL) -> list[Check]:
    """Optuna's tables against the installed Optuna. RDBStorage itself would make what it misses."""
    with _connected(url) as connection:
        if not inspect(connection).has_table("version_info"):
            return [Check("storage tables", "ok", "hpo launch will make Optuna's tables")]
        revision = _revision(connection)
    head, *older = _revisions()
    optuna = metadata.version("optuna")
    if revision == head:
        return [Check("storage tables", "ok", f"of Optuna {optuna} ({revision})")]
    if revision is None:
        found = "Optuna's tables have no revision: they are being made, or very old"
        return [Check("storage tables", "warning", found, "hpo db upgrade")]
    found = f"Optuna's tables are of {revision}, the installed Optuna {optuna} has {head}"
    remedy = "hpo db upgrade" if revision in older else "pip install --upgrade optuna"
    return [Check("storage tables", "failed", found, remedy)]


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.exec_driver_sql("select version_num from alembic_version").scalar()
    return None if found is None else str(found)


def _revisions() -> list[str]:
    """Those that the installed Optuna knows, the newest first."""
    storage = RDBStorage("sqlite://")
    try:
        head = storage.get_head_version()
        return [head, *(one for one in storage.get_all_versions() if one != head)]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _connections(url: URL, workers: int) -> list[Check]:
    """Whether the server has a connection left for each worker."""
    backend = url.get_backend_name()
    if backend not in ("postgresql", "mysql", "mariadb"):
        return []
    with _connected(url) as connection:
        count = _of_postgresql if backend == "postgresql" else _of_mysql
        limit, used = count(connection)
    return [_room(workers, limit=limit, used=used)]


def _room(workers: int, *, limit: int, used: int) -> Check:
    found = f"{limit - used} of the server's {limit} are free, {workers} workers take one each"
    if workers + SPARE > limit - used:
        remedy = f"fewer --workers, or max_connections = {workers + SPARE + used} or more"
        return Check("storage connections", "warning", found, remedy)
    return Check("storage connections", "ok", found)


def _of_postgresql(connection: Connection) -> tuple[int, int]:
    """Connections that ordinary users can have, and those that are in use.

    Not counted in pg_stat_activity: there others' sessions do not show what they are.
    """
    row = connection.exec_driver_sql(
        "select cast(current_setting('max_connections') as int)"
        " - cast(current_setting('superuser_reserved_connections') as int)"
        " - cast(coalesce(current_setting('reserved_connections', true), '0') as int),"
        " (select cast(sum(numbackends) as int) from pg_stat_database)"
    ).one()
    return int(row[0]), int(row[1])


def _of_mysql(connection: Connection) -> tuple[int, int]:
    limit = connection.exec_driver_sql("show variables like 'max_connections'").one()
    used = connection.exec_driver_sql("show status like 'Threads_connected'").one()
    return int(limit[1]), int(used[1])


_WAIT: dict[str, dict[str, Any]] = {
    "psycopg": {"connect_timeout": ANSWER_S},
    "psycopg2": {"connect_timeout": ANSWER_S},
    "pymysql": {"connect_timeout": ANSWER_S, "read_timeout": ANSWER_S},
}


@contextlib.contextmanager
def _connected(url: URL) -> Iterator[Connection]:
    """One connection, closed at the end. A SQLite file that is not there is not made."""
    if url.get_backend_name() == "sqlite":
        place = f"{Path(url.database or '').absolute().as_uri()}?mode=rw"
        engine = create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(place, uri=True), poolclass=NullPool
        )
    else:
        wait = _WAIT.get(url.get_driver_name(), {})
        engine = create_engine(url, connect_args=wait, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


# The cluster


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes of a partition that are alike: a line of sinfo's."""

    partition: str
    default: bool
    state: str
    """Of the partition: `up`, `down`, `drain` or `inactive`, which takes no jobs either."""
    limit_min: float
    count: int
    cpus: int
    memory_gb: float
    gpus: int

    def describe(self) -> str:
        """What there is, for people."""
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"{self.count} nodes of {self.cpus} CPUs, {self.memory_gb:.0f} GB{gpus}"


def _slurm(spec: StudySpec | None, workers: int) -> list[Check]:
    if not scheduler.available():
        found = "sbatch, squeue, scontrol or scancel is not on this machine"
        return [Check("slurm", "failed", found, "go to a login node, or use --on local")]
    try:
        controllers = scheduler.ask("scontrol", "ping").strip()
    except SchedulerError as error:
        controllers = str(error)
    if " is UP" not in controllers:
        return [Check("slurm", "failed", _in_a_line(controllers), "try again when it answers")]
    table = spec.slurm if spec else None
    return [
        Check("slurm", "ok", _in_a_line(controllers)),
        *_asked("slurm partition", lambda: _partition(table)),
        *_asked("slurm arrays", lambda: _arrays(workers, table)),
        *([_request(table)] if table else []),
    ]


def _asked(what: str, look: Callable[[], Check]) -> list[Check]:
    try:
        return [look()]
    except (SchedulerError, ValueError, KeyError) as error:  # no answer, or of another shape
        return [Check(what, "warning", f"could not be checked: {_in_a_line(str(error))}")]


def _partition(table: SlurmTable | None) -> Check:
    """Whether the partition is there and has nodes for such a job.

    With EnforcePartLimits=NO, which is SLURM's default, sbatch accepts what never can start.
    """
    columns = "%P|%a|%l|%D|%c|%m|%G"
    everything = _nodes(
        scheduler.ask("sinfo", "--noheader", "--all", "--exact", f"--format={columns}")
    )
    wanted = table.partition if table else None
    nodes = [one for one in everything if _is_wanted(one, wanted)]
    if not nodes:
        found = f"there is no partition {wanted!r}" if wanted else "no partition is the default"
        names = ", ".join(sorted({one.partition for one in everything})) or "none"
        remedy = f"choose [slurm] partition from: {names}"
        return Check("slurm partition", "failed", found, remedy)
    faults = _shortfalls(table, nodes) if table else []
    doubts = _doubts(table, nodes)
    if faults or doubts:
        verdict: Verdict = "failed" if faults else "warning"
        remedy = "change [slurm] of the study file, or choose another partition"
        return Check("slurm partition", verdict, "; ".join([*faults, *doubts]), remedy)
    what = "; ".join(one.describe() for one in nodes)
    found = f"{wanted or nodes[0].partition}: {what}; limit {_limit(nodes):g} min"
    return Check("slurm partition", "ok", found)


def _is_wanted(nodes: _Nodes, wanted: str | None) -> bool:
    return nodes.partition in wanted.split(",") if wanted else nodes.default


def _limit(nodes: Iterable[_Nodes]) -> float:
    return max(one.limit_min for one in nodes)


def _shortfalls(table: SlurmTable, nodes: Sequence[_Nodes]) -> list[str]:
    """What a job asks for and no node of these has."""
    cpus = table.tasks * max(1, table.cpus // table.tasks)
    asked = {"gpus": table.gpus, "cpus": cpus, "memory_gb": table.memory_gb}
    faults = [
        f"no node has {key} = {value:g}, the largest has {largest:g}"
        for key, value in asked.items()
        if (largest := max(getattr(one, key) for one in nodes)) < value
    ]
    if not faults and not any(
        all(getattr(one, key) >= value for key, value in asked.items()) for one in nodes
    ):
        together = ", ".join(f"{key} = {value:g}" for key, value in asked.items())
        faults = [f"no node has {together} together"]
    if table.timeout_min > _limit(nodes) and table.qos is None:
        faults.append(_too_long(table, nodes))
    if not any(one.state in ("up", "down") for one in nodes):
        faults.append(f"the partition takes no jobs: it is {nodes[0].state}")
    return faults


def _doubts(table: SlurmTable | None, nodes: Sequence[_Nodes]) -> list[str]:
    """What may keep a job from its start."""
    doubts = []
    if table and table.timeout_min > _limit(nodes) and table.qos is not None:
        doubts.append(f"{_too_long(table, nodes)}, unless the QOS {table.qos!r} lifts it")
    states = {one.state for one in nodes}
    if "down" in states and "up" not in states:
        doubts.append("no job starts until the partition is up: it is down")
    return doubts


def _too_long(table: SlurmTable, nodes: Iterable[_Nodes]) -> str:
    limit = f"the partition's limit of {_limit(nodes):g} min"
    return f"timeout_min = {table.timeout_min} is above {limit}"


def _nodes(text: str) -> list[_Nodes]:
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 6]
    return [
        _Nodes(
            partition=partition.rstrip("*"),
            default=partition.endswith("*"),
            state=state,
            limit_min=_minutes(limit),
            count=int(count),
            cpus=int(cpus.rstrip("+")),
            memory_gb=int(memory.rstrip("+")) / 1024,
            gpus=_gpus(gres),
        )
        for partition, state, limit, count, cpus, memory, gres in rows
    ]


def _minutes(limit: str) -> float:
    """A time limit as sinfo writes it: `30:00`, `4:00:00`, `1-00:00:00` or `infinite`."""
    if not limit[:1].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = [0, 0, *(int(part) for part in clock.split(":"))][-3:]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _gpus(gres: str) -> int:
    """GPUs of a node: 6 for `gpu:a100:4(S:0-1),gpu:v100:2`."""
    items = [item.split(":") for item in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return sum(
        int(item[-1]) if item[-1].isdigit() else 1 for item in items if item[0].lower() == "gpu"
    )


def _arrays(workers: int, table: SlurmTable | None) -> Check:
    largest = int(scheduler.settings()["MaxArraySize"])
    jobs = -(-workers // (table.tasks if table else 1))
    if largest < 1:
        remedy = "ask the cluster's administrators for MaxArraySize, or use --on local"
        return Check("slurm arrays", "failed", "the cluster allows no job arrays", remedy)
    chunks = [min(largest, jobs - start) for start in range(0, jobs, largest)]
    found = f"at most {largest} jobs each: {jobs} go as {' + '.join(map(str, chunks))}"
    return Check("slurm arrays", "ok", found)


_MAY_COME = (
    "are busy",
    "not available now",
    "down, drained or reserved",
    # Said of nodes that lack something, too, but those _partition has found.
    "node configuration is not available",
)
"""In what `sbatch --test-only` says of a job that waits for nodes or a partition that is down."""


def _request(table: SlurmTable) -> Check:
    """What sbatch would say to a job of the study. None is submitted."""
    try:
        scheduler.ask("sbatch", "--test-only", *_options(table), "--wrap=true")
    except SchedulerError as error:
        said = _in_a_line(str(error))
        verdict: Verdict = "warning" if any(text in said for text in _MAY_COME) else "failed"
        return Check("slurm request", verdict, said, "change [slurm] of the study file")
    return Check("slurm request", "ok", f"sbatch accepts {' '.join(_options(table))}")


def _options(table: SlurmTable) -> list[str]:
    """Of sbatch: what the study's jobs ask for."""
    asked: dict[str, Any] = {
        "partition": table.partition,
        "account": table.account,
        "qos": table.qos,
        "constraint": table.constraint,
        "exclude": table.exclude,
        "nodes": 1,
        "ntasks-per-node": table.tasks,
        "cpus-per-task": max(1, table.cpus // table.tasks),
        "gpus-per-node": table.gpus or None,
        "mem": f"{table.memory_gb}GB",
        "time": table.timeout_min,
    } | {key.lstrip("-").replace("_", "-"): value for key, value in table.extra.items()}
    return [
        f"--{key}" if value is True else f"--{key}={value}"
        for key, value in asked.items()
        if value is not None
    ]


def _in_a_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
