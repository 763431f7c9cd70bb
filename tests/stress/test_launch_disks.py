"""A launch whose disk is full or taken away: a sentence, and the same command goes on later."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from hpo.records.folder import read

pytestmark = pytest.mark.slow

STUDY = """
[study]
name = "s"
trials = 2

[space]
base = "normal"
hidden = [4]
blocks = 2

[training]
epochs = 40
batch_size = 64
patience = 0

[pruner]
kind = "none"
"""


@pytest.mark.parametrize("fault", ["full", "gone"])
def test_a_launch_whose_disk_fails_goes_on_when_it_is_back(forks, disk, data, tmp_path, fault):
    runs, away = disk.folder / "runs", disk.folder / "away"
    (tmp_path / "s.toml").write_text(STUDY + f'[data]\npath = "{data}"\n')
    command = [sys.executable, "-m", "hpo.cli", "launch", "s.toml", "--runs", str(runs)]
    command += ["--workers", "1"]
    options = {"cwd": tmp_path, "text": True, "stdout": subprocess.PIPE}
    options |= {"stderr": subprocess.STDOUT, "start_new_session": True}
    # A database of its own stays when the folder goes: only the folder itself can tell.
    storage = tmp_path / "elsewhere.db" if fault == "gone" else runs / "hpo.db"
    options["env"] = {**os.environ, "HPO_STORAGE": f"sqlite:///{storage}"}
    process = subprocess.Popen(command, **options)
    try:
        log = runs / "s" / "trial-00000" / "log.txt"
        until(lambda: log.exists() and "epoch 2:" in log.read_text(), process)
        disk.fill() if fault == "full" else runs.rename(away)
        said, _ = process.communicate(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    assert process.returncode == 2, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith(f"Error: {runs}" if fault == "gone" else "Error: ")
    assert last.endswith("then run the same command again")
    assert runs.exists() == (fault == "full")  # or what is written now would hide what comes back
    disk.make_room() if fault == "full" else away.rename(runs)

    url = options["env"]["HPO_STORAGE"]
    done = forks.hpo(*command[3:], cwd=tmp_path, storage=url)
    assert done.code == 0, done.said
    assert "2 of 2 trials done (2 complete, 0 pruned, 0 failed)" in done.said
    records = [read(path) for path in sorted(runs.glob("s/trial-*/run.json"))]
    assert [(one.state, len(one.epochs)) for one in records] == [("complete", 40)] * 2
    assert "goes on after epoch" in log.read_text()


def until(happened, process):
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
