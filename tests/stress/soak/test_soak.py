"""A soak of a minute, and whether it would tell of what it looks for."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.cluster.postgres import need_postgres

from . import findings, gauge
from .__main__ import run
from .findings import Findings
from .gauge import Reading
from .options import Options


@pytest.fixture
def place():
    """A folder that other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-soak-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_study_ends_whole_though_workers_and_launches_are_killed_and_the_server_restarts(place):
    need_postgres()
    said = []
    often = {"kill_s": 10, "launch_min": 0.4, "restart_min": 0.4, "pace_s": 1}
    options = Options(trials=60, workers=2, sample_s=2, minutes=10, **often)

    missed = run(options, place, said.append)

    print("\n".join(said))
    assert missed == []
    (harms,) = [line for line in said if line.startswith("60 trials in ")]
    assert "of a worker" in harms
    assert "of the launch" in harms
    assert "restart of the database" in harms


class Over:
    """What is left of a soak, as the findings see it."""

    def __init__(self, place, *, readings=()):
        self.work, self.scratch, self.home = (place / name for name in ("work", "tmp", "home"))
        self.folder = self.work / "runs" / "soak"
        self.readings = readings
        self.options = Options()
        self.folder.mkdir(parents=True)


def missed(judge, *arguments):
    found = Findings(say=lambda line: None)
    judge(*arguments, found)
    return found.missed


def readings(*, mb_a_trial=0.0, files_a_trial=0.0):
    """Of a worker that reads 30 MB in its first fifty trials, and of one that was soon killed."""
    for trials in range(0, 600, 3):
        mb = 200 + min(trials, 50) * 0.6 + mb_a_trial * trials + trials % 2
        yield Reading("worker", (1, 1.0), trials, mb, int(5 + files_a_trial * trials))
        if trials < 30:
            yield Reading("worker", (2, 2.0), trials, 250 + trials, 5)


def test_memory_that_a_worker_takes_at_first_is_no_growth(tmp_path):
    over = Over(tmp_path, readings=list(readings()))

    assert missed(findings.judge_growth, over, "worker") == []


@pytest.mark.parametrize(
    ("kept", "word"),
    [
        pytest.param({"mb_a_trial": 0.05}, "MB more after 1,000 trials: 50", id="memory"),
        pytest.param(
            {"files_a_trial": 0.02}, "open files more after 1,000 trials: 19.79", id="files"
        ),
    ],
)
def test_what_a_worker_keeps_of_each_trial_is_growth(tmp_path, kept, word):
    over = Over(tmp_path, readings=list(readings(**kept)))

    (line,) = missed(findings.judge_growth, over, "worker")

    assert word in line


def test_a_soak_without_a_worker_that_lived_long_tells_nothing_of_growth(tmp_path):
    short = [one for one in readings() if one.process[0] == 2]

    assert len(missed(findings.judge_growth, Over(tmp_path, readings=short), "worker")) == 3


def test_a_process_is_found_whoever_its_parent_is():
    mark = f"test-{os.getpid()}"
    words = ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]
    pid = int(subprocess.check_output(words, env={**os.environ, gauge.MARK: mark}, text=True))
    try:
        (process,) = gauge.marked(mark)["other"]
        assert process.pid == pid
        assert process.ppid() != os.getpid()
    finally:
        os.kill(pid, 9)
    deadline = time.monotonic() + 10
    while any(gauge.marked(mark).values()):
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "left",
    [
        pytest.param("runs/soak/trial-00000/.run.json.host.123.draft", id="draft"),
        pytest.param("runs/soak/trial-00000/checkpoint.safetensors.tmp", id="temporary"),
        pytest.param("runs/soak/workers/123_0_result.pkl.save_tmp", id="submitit"),
        pytest.param("runs/hpo.db", id="another database"),
        pytest.param("core", id="where it was launched"),
    ],
)
def test_a_file_that_was_left_is_named(tmp_path, left):
    over = Over(tmp_path)
    whole = [f"trial-00000/{name}" for name in findings.TRIAL_FILES] + ["workers/12_0_log.err"]
    for path in [*(over.folder / name for name in whole)]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert missed(findings.judge_files, over) == []

    (over.work / left).touch()

    (line,) = missed(findings.judge_files, over)
    assert left in line


def test_a_file_that_a_trial_lacks_is_named(tmp_path):
    over = Over(tmp_path)
    (over.folder / "trial-00000").mkdir()
    for name in findings.TRIAL_FILES[1:]:
        (over.folder / "trial-00000" / name).touch()

    (line,) = missed(findings.judge_files, over)
    assert "trial-00000/checkpoint.json" in line
