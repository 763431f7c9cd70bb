"""`hpo dashboard` as a real process: what it prints, which database it finds, what it refuses."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import pytest
from click.testing import CliRunner

from hpo.cli import main
from hpo.cli.dashboard import _database, _opening, _tell
from hpo.dashboard.catalog import Catalog
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
    """The words of a dashboard that does not begin."""
    done = CliRunner().invoke(main, ["dashboard", *map(str, words)])
    assert done.exit_code == 2, done.output
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


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database with one study. Do not write into it."""
    folder = tmp_path_factory.mktemp("database")
    storage = open_storage(url_of(f"sqlite:///{folder}/hpo.db", folder))
    optuna.create_study(study_name="mine", storage=storage)
    storage.engine.dispose()
    return folder / "hpo.db"


@pytest.fixture
def studies(database, tmp_path):
    """A folder with a copy of that database."""
    shutil.copy(database, tmp_path)
    return tmp_path


def test_an_empty_folder_is_shown_and_stays_empty(tmp_path):
    with showing(tmp_path, "--port", 0) as said:
        assert ask(said[0], "/runs/")[0] == 200
        assert ask(said[0], "/dashboard")[0] == 404

    assert said[1] == f"runs       0 in {tmp_path}"
    assert said[2] == "studies    no database: only the runs are shown"
    assert said[3] == "Ctrl-C ends it."
    assert list(tmp_path.iterdir()) == []


def test_the_database_of_the_runs_is_found(studies):
    with showing(studies, "--port", 0) as said:
        status, text = ask(said[0], "/api/studies")
        assert status == 200
        assert ask(said[0], "/api/studies/1", "DELETE")[0] == 403
    assert [one["study_name"] for one in json.loads(text)["study_summaries"]] == ["mine"]
    assert said[2] == f"studies    sqlite:///{studies}/hpo.db"


def test_the_database_beside_a_study_s_folder_is_found(studies):
    (studies / "mine/trial-00000").mkdir(parents=True)

    assert _database(None, studies / "mine").database == f"{studies}/hpo.db"


def test_with_leave_a_study_can_be_deleted(studies):
    with showing(studies, "--port", 0, "--allow-edit") as said:
        assert ask(said[0], "/api/studies/1", "DELETE")[0] == 204
    storage = open_storage(url_of(f"sqlite:///{studies}/hpo.db", studies))
    assert optuna.get_all_study_names(storage) == []
    storage.engine.dispose()


def test_on_a_login_node_it_says_how_to_come_from_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")

    _tell("http://127.0.0.1:8051/", Catalog(tmp_path), None, host="127.0.0.1", port=8051)

    assert "\nfrom home  ssh -L 8051:localhost:8051 " in capsys.readouterr().out


def test_a_password_of_the_database_is_not_shown(studies, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"sqlite:///{studies}/hpo.db?password=hunter2")

    with showing(studies, "--port", 0) as said:
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
