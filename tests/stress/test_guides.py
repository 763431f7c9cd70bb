"""What slurm.md, guides/databases.md and guides/cluster.md tell, done so, on a real cluster.

A user who is not root makes a PostgreSQL of their own, and a study runs on it by SLURM; another one
runs on one node with SQLite. Only numbers, names of places and the size of the study are others.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from hpo.records.folder import read
from tests.cluster.postgres import USER, need_postgres
from tests.cluster.slurm import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DOCS = Path(__file__).resolve().parents[2] / "docs"
SMALL = (
    "--set training.epochs=1 --set pruner.min_epochs=1 --set space.batch_size=2048 "
    "--set space.blocks=1 --set slurm.gpus=0 --set slurm.cpus=1 --set slurm.memory_gb=2"
)
OTHERS = {
    "=gpu": "=low",
    "--workers 20": "--workers 2",
    "--workers 16": "--workers 2",
    "=16": "=2",
    "--trials 200": f"--trials 2 {SMALL}",
    "hpo logs bbh 17": "hpo logs bbh 1",
    "--out emulator": "--out emulator --catalogs 0",
    "emulator sample": "emulator sample --catalogs 0",
    "sbatch one": "sbatch --wait one",
}
"""What a page says, and what is done instead."""


def said(page, *, after, to="\n## "):
    """The commands of the blocks below a heading, up to the next one, and files by their titles."""
    text = (DOCS / page).read_text().partition(f"\n## {after}\n")[2].partition(to)[0]
    assert text, f"{page} has no section {after}"
    blocks = re.findall(r'^```(\w+)(?: title="(\S+)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    printed = "".join(each for *_, each in blocks)
    commands = re.findall(r"^\$ ((?:.*\\\n)*.+)$", printed, re.MULTILINE)
    return commands, {title: each for _, title, each in blocks if title}


def done(commands, place, *, others=(), **options):
    """Run the commands in one shell; what they print."""
    script = "\n".join(commands)
    for old, new in (*OTHERS.items(), *others):
        script = script.replace(old, new)
    ended = subprocess.run(
        ["bash", "-euxc", script],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        start_new_session=True,  # else a password would be asked for on the terminal
        **options,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.fixture
def environment(slurm, tmp_path):
    """Of a shell in which `hpo` is installed, on the login node."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), slurm.environment["PATH"]])
    return {**own, **slurm.environment, "PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def home(forks):
    """Of a user who is not root, with a PostgreSQL of their own that runs."""
    need_postgres()
    place = Path(tempfile.mkdtemp(prefix="hpo-home-"))
    if os.geteuid() == 0:
        shutil.chown(place, USER, USER)
    environment = {"HOME": place, "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}

    def hpo(command):
        words = [
            *shlex.split(command)[1:],
            *(["--host", "127.0.0.1"] if "start" in command else []),
        ]
        return forks.hpo(*words, cwd=place, user=USER, environment=environment)

    commands, _ = said("guides/databases.md", after="One of your own")
    assert commands == ["hpo db start", "hpo db status"]
    try:
        for command in commands:
            ended = hpo(command)
            assert ended.code == 0, ended.said
        yield place
        assert hpo("hpo db stop").code == 0
    finally:
        shutil.rmtree(place, ignore_errors=True)


def records(place):
    return [read(path) for path in sorted(place.glob("runs/bbh/trial-*/run.json"))]


def test_a_study_runs_on_slurm_with_a_postgresql_of_ones_own(environment, home, tmp_path):
    environment |= {"HOME": str(home), "XDG_CONFIG_HOME": ""}
    own = home / ".config" / "hpo" / "storage"
    password = make_url(own.read_text()).password
    shutil.copy(own, home / ".hpo-storage")
    start, _ = said("slurm.md", after="Start a database, once")
    sections = {
        "slurm.md": ["Search", "Take the emulator home", "The same with your table"],
        "guides/cluster.md": ["From the login node"],
        "guides/databases.md": ["Copies", "The password"],
    }
    commands = [
        command
        for page, titles in sections.items()
        for title in titles
        for command in said(page, after=title)[0]
    ]
    assert start == ["hpo db start"]

    told = done(
        [f"python {DOCS.parent}/examples/tables.py", *commands, "hpo status mine --watch"],
        tmp_path,
        env=environment,
    )

    assert re.search(r"storage connections +\d+ of the server's 297 are free", told), told
    assert "bbh: 2 of 2 trials done" in told
    assert "mine: 2 of 2 trials done" in told
    assert [record.restarts for record in records(tmp_path)] == [0, 0]
    assert all(record.environment.slurm_job_id for record in records(tmp_path))
    assert password not in told
    assert password not in (tmp_path / "runs" / "bbh" / "launch.log").read_text()


def one_node(place, *others):
    """Write the script of the section on SQLite, smaller; its commands."""
    commands, files = said("guides/cluster.md", after="Without a database server")
    ((name, script),) = files.items()
    for old, new in (*OTHERS.items(), *others):
        script = script.replace(old, new)
    (place / name).write_text(script)
    return commands


def test_a_study_runs_on_one_node_without_a_server_and_goes_on_in_the_next_job(
    environment, tmp_path
):
    first = done(one_node(tmp_path), tmp_path, env=environment)
    second = done(one_node(tmp_path, ("--trials 2", "--trials 3")), tmp_path, env=environment)

    assert "bbh: 2 of 2 trials done" in first
    assert "bbh: 3 of 3 trials done" in second
    assert [record.restarts for record in records(tmp_path)] == [0, 0, 0]
    card = json.loads((tmp_path / "emulator" / "emulator.json").read_text())
    assert card["provenance"]["study"] == "bbh"


def test_the_job_of_one_node_hands_its_trials_back_before_its_time_is_up(
    environment, slurm, tmp_path
):
    sbatch, *after = one_node(tmp_path, ("epochs=1", "epochs=1000"))[:-1]
    told = done([sbatch.replace("sbatch", "sbatch --parsable")], tmp_path, env=environment)
    job = told.split()[-1]
    wait_for(lambda: records(tmp_path), timeout_s=120, why="a trial begins")
    said = tmp_path / f"slurm-{job}.out"
    (database,) = re.findall(r"sqlite:///(\S+)", said.read_text())
    # A worker that takes long to end has the database open while it is kept.
    with contextlib.closing(sqlite3.connect(database)) as straggler:
        straggler.execute("select * from studies").fetchall()
        slurm.ask("scancel", "--signal=INT", job)  # what --signal does at its time
        kept = (tmp_path / "runs" / "kept.db").exists
        wait_for(kept, timeout_s=120, why=f"the database is kept: {said.read_text()}")

    assert "0 failed), 0 running, 2 waiting" in done(after, tmp_path, env=environment)
    assert {record.restarts for record in records(tmp_path)} == {0}
