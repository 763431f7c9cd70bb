import sqlite3
import subprocess
import sys
from contextlib import closing

import optuna
import pytest
from sqlalchemy.engine import make_url

from data_prep.errors import InputError
from hpo.cluster.jobs import slurm_available
from hpo.doctor import database, machine
from hpo.doctor.check import Check
from hpo.doctor.cluster import _minutes
from hpo.doctor.machine import PreflightError, check, refuse
from hpo.execution.slurm import sbatch_text
from hpo.storage import filesystem
from hpo.storage.address import url_of
from hpo.study.spec import parse

REVISION = "v3.0.0.d"
"""One that Optuna's tables had once."""

NODES = """\
debug*|up|30:00|2|idle
gpu|up|2-00:00:00|3|mixed
gpu|up|2-00:00:00|1|drained
gone|inactive|infinite|1|idle
late|down|infinite|1|idle
ill|up|infinite|1|drained*
"""
SCRIPTS = {
    "sinfo": f"cat <<'END'\n{NODES}END",
    "scontrol": "echo 'Slurmctld(primary) at head is UP'",
    "sbatch": '(echo "$@"; cat) > "$(dirname "$0")/asked"',
    "squeue": "true",
    "scancel": "true",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Changes what SLURM's commands say: `cluster(sbatch="exit 1")`. Gives their folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def say(**scripts):
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return folder

    say(**SCRIPTS)
    return say


def spec_of(data="sample", slurm=None, **training):
    tables = {"study": {"name": "mine"}, "data": {"path": str(data)}, "training": training}
    return parse(tables | {"slurm": slurm or {}}, source="test")


def checked(tmp_path, spec=None, *, on="local", storage=None, workers=2, **options):
    """The checks by name."""
    url = make_url(storage) if storage else url_of(None, tmp_path)
    if spec and on == "slurm":
        options["script"] = sbatch_text(spec, tmp_path / "runs", workers)
    found = check(spec, on=on, runs=tmp_path / "runs", url=url, workers=workers, **options)
    return {one.what: one for one in found}


@pytest.fixture(autouse=True)
def _no_storage_of_the_user(monkeypatch):
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    monkeypatch.delenv("HPO_STORAGE_FILE", raising=False)


# This machine


def test_a_machine_that_is_fit_passes_and_nothing_is_left_behind(tmp_path, prepared):
    checks = checked(tmp_path, spec_of(prepared))

    assert {one.verdict for one in checks.values()} == {"ok"}, checks
    assert "6,000 rows in 9 cells" in checks["data"].found
    assert "optuna 5" in checks["versions"].found
    assert list(tmp_path.iterdir()) == []


def test_all_failures_are_refused_at_once_as_a_users_mistake(tmp_path):
    (tmp_path / "runs").write_text("a file")

    with pytest.raises(PreflightError) as caught:
        refuse(checked(tmp_path, spec_of(tmp_path / "none")).values())

    assert isinstance(caught.value, InputError)
    assert "data: " in str(caught.value)
    assert "hpo prepare SOURCE" in str(caught.value)
    assert "runs folder: " in str(caught.value)
    assert "versions" not in str(caught.value)


def test_warnings_alone_are_not_refused():
    refuse([Check("data", "ok", "there"), Check("free space", "warning", "little", "make room")])


def test_a_check_that_breaks_off_is_a_warning_with_its_reason(tmp_path, monkeypatch):
    def broken(_path):
        raise OSError("stale file handle")

    monkeypatch.setattr(machine.shutil, "disk_usage", broken)

    found = checked(tmp_path)["free space"]

    assert (found.verdict, "stale file handle" in found.found) == ("warning", True)


def test_a_package_that_is_not_as_required_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        machine.metadata, "requires", lambda _name: ["optuna>=99,<100", "unheard-of; extra=='x'"]
    )

    found = checked(tmp_path)["versions"]

    assert found.verdict == "failed"
    assert found.found == f"optuna is {optuna.__version__}"
    assert found.remedy == "pip install 'optuna<100,>=99'"


def test_a_gpu_that_is_not_here_is_missed_only_where_the_workers_would_be_here(
    tmp_path, cluster, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = spec_of(device="cuda")

    assert checked(tmp_path, spec)["device"].verdict == "failed"
    assert checked(tmp_path, spec, on="slurm")["device"].verdict == "ok"


def test_a_dataset_without_one_of_its_parts_is_not_one(tmp_path, prepared):
    (tmp_path / "dataset.json").write_bytes((prepared / "dataset.json").read_bytes())

    found = checked(tmp_path, spec_of(tmp_path))["data"]

    assert found.verdict == "failed"
    assert "no part-*.parquet in train, val, test" in found.found


def test_a_runs_folder_that_only_this_machine_sees_is_a_warning_for_jobs(
    tmp_path, cluster, monkeypatch
):
    monkeypatch.setattr(filesystem, "kind_of", lambda _path: "tmpfs")

    assert checked(tmp_path)["runs folder"].verdict == "ok"
    found = checked(tmp_path, on="slurm")["runs folder"]
    assert (found.verdict, "will not see it" in found.found) == ("warning", True)


def test_a_disk_that_is_nearly_full_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "SPACE_GB", 1e9)

    assert checked(tmp_path)["free space"].verdict == "warning"


def test_importing_the_checks_does_not_import_torch():
    words = "import sys, hpo.doctor.machine; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


# The database


@pytest.mark.parametrize(
    ("on", "kind", "fit"),
    [
        pytest.param("local", "ext4", True, id="own disk"),
        pytest.param("local", "nfs4", False, id="network"),
        pytest.param("slurm", "ext4", False, id="several machines"),
    ],
)
def test_sqlite_is_refused_where_its_locks_may_not_hold_unless_forced(
    tmp_path, cluster, monkeypatch, on, kind, fit
):
    monkeypatch.setattr(filesystem, "kind_of", lambda _path: kind)

    assert checked(tmp_path, on=on)["storage locks"].verdict == ("ok" if fit else "failed")
    forced = checked(tmp_path, on=on, force_sqlite=True)["storage locks"]
    assert forced.verdict == ("ok" if fit else "warning")
    assert fit or "run hpo db start, or give a server with --storage" in forced.remedy


def test_sqlite_in_memory_is_refused_though_forced(tmp_path):
    found = checked(tmp_path, storage="sqlite://", force_sqlite=True)["storage locks"]

    assert (found.verdict, "one process alone" in found.found) == ("failed", True)


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql+psycopg://me:s3cret@127.0.0.1:1/db",
        "postgresql+psycopg://me@127.0.0.1:1/db?password=s3cret",
        "postgresql+psycopg://me:s3cret@127.0.0.1:1/db?sslmode=s3cret",
    ],
)
def test_a_server_that_does_not_answer_fails_and_no_line_shows_the_password(tmp_path, storage):
    checks = checked(tmp_path, storage=storage)

    assert checks["storage"].verdict == "failed"
    assert "does not answer" in checks["storage"].found
    assert "s3cret" not in repr(checks)
    assert "storage tables" not in checks


def test_a_driver_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pymysql", None)

    found = checked(tmp_path, storage="mysql+pymysql://me@127.0.0.1:1/db")["storage"]

    assert (found.verdict, "driver" in found.found) == ("failed", True)
    assert "hpo-flows[mysql]" in found.remedy


def test_a_database_as_it_is_today_passes_and_stays_as_it_is(tmp_path, with_database):
    before = (tmp_path / "hpo.db").read_bytes()

    checks = checked(tmp_path)

    assert (checks["storage"].verdict, checks["storage tables"].verdict) == ("ok", "ok")
    assert (tmp_path / "hpo.db").read_bytes() == before


@pytest.mark.parametrize(
    ("revision", "verdict", "remedy"),
    [
        pytest.param(REVISION, "failed", "hpo db upgrade", id="older"),
        pytest.param("v99.0.0.a", "failed", "pip install --upgrade optuna", id="newer"),
        pytest.param(None, "warning", "hpo db upgrade", id="none"),
    ],
)
def test_tables_of_another_optuna_are_not_taken_for_todays(
    tmp_path, with_database, revision, verdict, remedy
):
    with closing(sqlite3.connect(tmp_path / "hpo.db")) as connection, connection:
        connection.execute("update alembic_version set version_num = ?", (revision or "",))
        if revision is None:
            connection.execute("drop table alembic_version")

    found = checked(tmp_path)["storage tables"]

    assert (found.verdict, found.remedy) == (verdict, remedy)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        pytest.param(None, "hpo db upgrade", id="older"),
        pytest.param(99, "pip install --upgrade hpo-flows", id="newer"),
    ],
)
def test_our_tables_of_another_version_are_not_taken_for_todays(
    tmp_path, with_database, version, remedy
):
    with closing(sqlite3.connect(tmp_path / "hpo.db")) as connection, connection:
        connection.execute("create table hpo_leases (trial_id integer)")
        if version:
            connection.execute("create table hpo_version (version integer)")
            connection.execute("insert into hpo_version values (?)", (version,))

    found = checked(tmp_path)["storage tables"]

    assert (found.verdict, found.remedy) == ("failed", remedy)


def test_looking_at_an_empty_database_makes_no_tables(tmp_path):
    sqlite3.connect(tmp_path / "hpo.db").close()
    (tmp_path / "hpo.db").touch()

    checks = checked(tmp_path)

    assert "will make Optuna's tables" in checks["storage tables"].found
    assert (tmp_path / "hpo.db").stat().st_size == 0


def test_a_file_that_is_no_database_fails(tmp_path):
    (tmp_path / "hpo.db").write_text("a shopping list, long enough to be read as one. " * 9)

    found = checked(tmp_path)["storage"]

    assert (found.verdict, "not a database" in found.found) == ("failed", True)


def test_a_database_whose_folder_cannot_be_made_fails(tmp_path):
    (tmp_path / "file").touch()

    found = checked(tmp_path, storage=f"sqlite:///{tmp_path}/file/hpo.db")["storage"]

    assert (found.verdict, "cannot be made" in found.found) == ("failed", True)


def test_workers_beyond_the_servers_free_connections_are_a_warning():
    assert database._room(85, 100, 10).verdict == "ok"
    found = database._room(86, 100, 10)

    assert (found.verdict, found.remedy) == (
        "warning",
        "fewer --workers, or max_connections = 101 or more",
    )
    own = database._room(86, 100, 10, own=True)
    assert own.remedy == "fewer --workers, or hpo db stop and hpo db start --connections 101"


# The cluster


def test_a_request_that_fits_the_cluster_passes_with_what_there_is(tmp_path, cluster):
    spec = spec_of(slurm={"partition": "gpu", "gpus": 1, "cpus": 16, "memory_gb": 64})

    checks = checked(tmp_path, spec, on="slurm", workers=2500)

    assert {checks[what].verdict for what in checks if what.startswith("slurm")} == {"ok"}
    assert checks["slurm partition"].found == "gpu: 3 mixed, 1 drained; limit 2880 min"


def test_sbatch_is_asked_with_the_studys_own_request_and_submits_nothing(tmp_path, cluster):
    slurm = {
        "partition": "gpu",
        "account": "ligo",
        "exclude": "n[1-3]",
        "gpus": 2,
        "cpus": 12,
        "workers_per_gpu": 3,
        "extra": {"reservation": "night", "exclusive": True},
    }

    found = checked(tmp_path, spec_of(slurm=slurm), on="slurm")["slurm request"]

    asked = (cluster() / "asked").read_text()
    assert found.verdict == "ok"
    assert asked == "--test-only\n" + sbatch_text(spec_of(slurm=slurm), tmp_path / "runs", 2)
    assert {"--partition=gpu", "--ntasks-per-node=6", "--exclusive"} <= set(found.found.split())


@pytest.mark.parametrize(
    ("slurm", "verdict", "found"),
    [
        pytest.param({"partition": "gup"}, "failed", "no partition 'gup'", id="typo"),
        pytest.param({"partition": "gpu", "timeout_min": 2881}, "failed", "2880", id="time"),
        pytest.param(
            {"partition": "gpu", "timeout_min": 2881, "qos": "long"}, "warning", "long", id="qos"
        ),
        pytest.param({"partition": "gone"}, "warning", "until the partition is up", id="inactive"),
        pytest.param({"partition": "late"}, "warning", "until the partition is up", id="down"),
        pytest.param({"partition": "late,gpu"}, "ok", "1 drained, 1 idle", id="one of two"),
        pytest.param({"timeout_min": 30}, "ok", "debug: 2 idle", id="default"),
    ],
)
def test_what_the_partition_cannot_give_is_told(tmp_path, cluster, slurm, verdict, found):
    told = checked(tmp_path, spec_of(slurm=slurm), on="slurm")["slurm partition"]

    assert (told.verdict, found in told.found) == (verdict, True), told


def test_a_cluster_without_a_default_partition_wants_one_named(tmp_path, cluster):
    cluster(sinfo="echo 'gpu|up|infinite|1|idle'")

    found = checked(tmp_path, on="slurm")["slurm partition"]

    assert (found.verdict, found.found) == ("failed", "no partition is the default")


UNFIT = "allocation failure: Requested node configuration is not available"


@pytest.mark.parametrize(
    ("partition", "said", "verdict"),
    [
        ("gpu", "allocation failure: Invalid account", "failed"),
        (
            "gpu",
            "allocation failure: Required node not available (down, drained or reserved)",
            "warning",
        ),
        pytest.param("gpu", UNFIT, "failed", id="no node is as large"),
        pytest.param("ill", UNFIT, "warning", id="all nodes are drained"),
    ],
)
def test_what_sbatch_says_against_the_request_is_told(tmp_path, cluster, partition, said, verdict):
    cluster(sbatch=f"echo '{said}' >&2; exit 1")

    spec = spec_of(slurm={"partition": partition})
    found = checked(tmp_path, spec, on="slurm")["slurm request"]

    assert (found.verdict, said in found.found) == (verdict, True)


def test_without_slurm_there_is_one_line_about_it_and_not_five(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    checks = checked(tmp_path, on="slurm")

    assert [what for what in checks if what.startswith("slurm")] == ["slurm"]
    assert checks["slurm"].verdict == "failed"


@pytest.mark.parametrize(
    "script", ["echo 'Slurmctld(primary) at head is DOWN'", "echo 'no such host' >&2; exit 1"]
)
def test_a_controller_that_does_not_answer_fails(tmp_path, cluster, script):
    cluster(scontrol=script)

    found = checked(tmp_path, on="slurm")["slurm"]

    assert found.verdict == "failed"


@pytest.mark.parametrize(
    ("command", "script", "what"),
    [
        ("sinfo", "echo 'out of order' >&2; exit 1", "slurm partition"),
        ("sinfo", "echo 'debug*|up|infinite|many|idle'", "slurm partition"),
    ],
)
def test_a_command_without_a_usable_answer_is_a_warning(tmp_path, cluster, command, script, what):
    cluster(**{command: script})

    found = checked(tmp_path, on="slurm")[what]

    assert (found.verdict, "could not be checked" in found.found) == ("warning", True)


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("30:00", 30), ("4:00:00", 240), ("1-00:30:00", 1470), ("infinite", float("inf"))],
)
def test_a_time_limit_is_read_as_slurm_writes_it(limit, minutes):
    assert _minutes(limit) == minutes


def test_the_checks_without_a_study_do_not_judge_a_request(tmp_path, cluster):
    checks = checked(tmp_path, on="slurm")

    assert "slurm request" not in checks
    assert checks["slurm partition"].verdict == "ok"
    assert slurm_available()
