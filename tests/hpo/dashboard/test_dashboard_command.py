"""`hpo dashboard` as a real process: what it prints, which database it finds, what it refuses."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import pytest

from hpo.cli.dashboard import _opening
from hpo.dashboard.server import listen
from hpo.storage.address import FILE_VARIABLE, VARIABLE, url_of
from hpo.storage.open import open_storage

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_storage_of_ours(monkeypatch):
    for name in (VARIABLE, FILE_VARIABLE, "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")


@contextlib.contextmanager
def showing(*words, lines=4):
    """A dashboard, and the lines that it prints at first; ended as by Ctrl-C, without a fault."""
    asked = [sys.executable, "-m", "hpo.cli", "dashboard", *map(str, words)]
    with subprocess.Popen(
        asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = [process.stdout.readline().rstrip("\n") for _ in range(lines)]
            assert said[0].startswith("dashboard  http://"), process.stderr.read()
            yield said
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def refused(*words):
    """What a dashboard that does not begin says."""
    asked = [sys.executable, "-m", "hpo.cli", "dashboard", *map(str, words)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def ask(address, path, method="GET"):
    """Status and text of an answer to one who came by the address."""
    parts = urlsplit(address.removeprefix("dashboard  "))
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    cookie = f"hpo-{parts.port}={parts.query.removeprefix('token=')}"
    connection.request(method, path, headers={"Cookie": cookie})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def make_study(folder):
    storage = open_storage(url_of(f"sqlite:///{folder}/hpo.db", folder))
    optuna.create_study(study_name="mine", storage=storage)
    storage.engine.dispose()


def test_an_empty_folder_is_shown_and_stays_empty(tmp_path):
    with showing(tmp_path, "--port", 0) as said:
        assert ask(said[0], "/runs/")[0] == 200
        assert ask(said[0], "/dashboard")[0] == 404

    assert said[1] == f"runs       0 in {tmp_path}"
    assert said[2] == "studies    no database: only the runs are shown"
    assert said[3] == "Ctrl-C ends it."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["the runs' folder", "a study's folder"])
def test_the_database_of_the_runs_is_found(tmp_path, where):
    make_study(tmp_path)
    (tmp_path / "mine/trial-00000").mkdir(parents=True)
    folder = tmp_path if where == "the runs' folder" else tmp_path / "mine"

    with showing(folder, "--port", 0) as said:
        status, text = ask(said[0], "/api/studies")
        assert status == 200
        assert ask(said[0], "/api/studies/1", "DELETE")[0] == 403
    assert [one["study_name"] for one in json.loads(text)["study_summaries"]] == ["mine"]
    assert said[2] == f"studies    sqlite:///{tmp_path}/hpo.db"


def test_with_leave_a_study_can_be_deleted(tmp_path):
    make_study(tmp_path)

    with showing(tmp_path, "--port", 0, "--allow-edit") as said:
        assert ask(said[0], "/api/studies/1", "DELETE")[0] == 204
    storage = open_storage(url_of(f"sqlite:///{tmp_path}/hpo.db", tmp_path))
    assert optuna.get_all_study_names(storage) == []


def test_on_a_login_node_it_says_how_to_come_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")

    with showing(tmp_path, "--port", 0) as said:
        port = urlsplit(said[0].split()[1]).port
    assert said[3].startswith(f"from home  ssh -L {port}:localhost:{port} ")


def test_a_password_of_the_database_is_not_shown(tmp_path, monkeypatch):
    make_study(tmp_path)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/hpo.db?password=hunter2")

    with showing(tmp_path, "--port", 0) as said:
        assert "hunter2" not in "".join(said)
        assert "hunter2" not in ask(said[0], "/runs/_dash-layout")[1]


def test_a_server_that_is_away_leaves_the_runs(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "postgresql://me:s3cret@127.0.0.1:1/db")
    asked = [sys.executable, "-m", "hpo.cli", "dashboard", str(tmp_path), "--port", "0"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        assert ask(one.stdout.readline().strip(), "/runs/")[0] == 200
        one.terminate()
        assert one.wait(10) == 0
        told = one.stderr.read()

    assert "does not answer" in told
    assert "The runs are shown without Optuna's pages" in told
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["none"], "none is not a folder", id="folder"),
        pytest.param([".", "--storage", "sqlite:///none.db"], "no study database", id="storage"),
        pytest.param([".", "--data", "."], "not a prepared dataset", id="data"),
        pytest.param([".", "--host", "192.0.2.1"], "no address of this machine", id="host"),
        pytest.param([".", "--port", "70000"], "70000", id="port"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)

    assert message in refused(*words)
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_refused(tmp_path):
    with listen(port=0) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 cannot be had" in refused(tmp_path, "--port", port)


def test_the_browser_is_opened_by_a_file_of_the_users_own(monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    with _opening("http://127.0.0.1:1/runs/?token=secret"):
        [address] = opened
        path = Path(address.removeprefix("file://"))
        assert "secret" not in address  # which everyone can read in the browser's command line
        assert "url=http://127.0.0.1:1/runs/?token=secret" in path.read_text()
        assert os.stat(path).st_mode & 0o077 == 0
    assert not path.exists()
