"""`hpo db start`, `stop` and `status`, on the real programs."""

import json
import os
import shlex
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import threading
import time

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from hpo.server.folder import kept_url
from hpo.server.server import _safely
from hpo.storage.address import url_of
from tests import claimers
from tests.cluster.daemons import need_root
from tests.cluster.postgres import USER
from tests.forks import spread

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def running(own):
    yield
    own.start()


def ask(url, question="select 1"):
    with create_engine(url, poolclass=NullPool).begin() as connection:
        rows = connection.execute(text(question))
        return rows.scalar() if rows.returns_rows else None


def status(own, **options):
    done = own.db("status", "--format", "json", **options)
    return json.loads(done.said)[0]


def test_one_command_gives_a_database_that_the_others_find(own):
    assert ask(own.url, "select current_user || current_setting('listen_addresses')") == (
        "hpo127.0.0.1"
    )
    done = own.hpo("status", user=None)
    assert f"@{socket.gethostname()}:{own.url.port}/hpo holds no studies" in done.said


def test_a_study_needs_no_word_more(own, monkeypatch):
    for name in ("HPO_STORAGE", "HPO_STORAGE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own.environment["XDG_CONFIG_HOME"]))
    slots, study = claimers.slots_of(None)
    slots.set_total(1)
    slots.finish(slots.claim(claimers.Owner.this_process()), TrialState.COMPLETE, 4.5)
    own.db("stop")
    own.start()

    assert study.best_value == 4.5
    assert status(own)["studies"] == 1
    optuna.delete_study(study_name=claimers.STUDY, storage=study._storage)
    claimers.close()


def test_it_outlives_the_shell_that_started_it(own):
    pid = int((own.data / "postmaster.pid").read_text().split()[0])

    assert os.getsid(pid) == pid


def test_who_names_another_database_is_told_that_it_comes_first(own):
    said = own.db("start", storage="sqlite:///x.db").said

    assert "HPO_STORAGE is set and comes first: unset HPO_STORAGE" in said
    assert "comes first" not in own.start().said


def test_a_second_start_changes_nothing(own):
    before, since = own.file.read_text(), status(own)["since"]

    assert "runs already" in own.start().said

    assert (own.file.read_text(), status(own)["since"]) == (before, since)


def test_status_tells_where_since_when_and_how_much(own):
    told = status(own)

    assert told["state"] == "running"
    assert told["host"] == socket.gethostname()
    assert told["address"] == f"127.0.0.1:{own.url.port}"
    assert told["encrypted"] is True
    assert told["allowed"] >= 200
    assert told["connections"] >= 1
    assert told["studies"] == 0
    assert own.db("status").code == 0


def test_only_the_owner_can_read_the_password(own):
    modes = {
        path.relative_to(own.home): stat.S_IMODE(path.stat().st_mode)
        for path in (own.file, own.file.parent, own.data, own.data / "server.key")
    }

    assert sorted(map(oct, modes.values())) == ["0o600", "0o600", "0o700", "0o700"]


def test_the_password_is_in_no_command_line_and_no_log(own):
    secret = own.url.password
    said = own.start().said + own.db("status").said + own.log()
    with pytest.raises(OperationalError):
        ask(own.url.set(password="guess"))

    lines = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]

    assert len(secret) > 40
    assert secret not in " ".join([*lines, said, own.log()])
    kept = (own.data / "hpo.json").read_text() + (own.data / "start.log").read_text()
    assert secret not in kept


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"password": "guess"}, "password authentication failed", id="password"),
        pytest.param({"username": "postgres"}, "no pg_hba.conf entry", id="superuser"),
        pytest.param({"database": "postgres"}, "no pg_hba.conf entry", id="other-database"),
        pytest.param({"query": {"sslmode": "disable"}}, "no encryption", id="in-the-clear"),
    ],
)
def test_nobody_else_gets_in(own, changes, reason):
    with pytest.raises(OperationalError, match=reason):
        ask(own.url.set(host="127.0.0.1", **changes))


def answer_to(address, port):
    """The first byte that the server answers to who comes from this address: R asks who it is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), source_address=(address, 0)) as plain:
        plain.sendall(struct.pack("!ii", 8, 80877103))
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as channel:
            words = b"user\0hpo\0database\0hpo\0\0"
            channel.sendall(struct.pack("!ii", 8 + len(words), 196608) + words)
            return channel.recv(1)


def test_no_other_address_gets_in_unless_it_is_let_in(own):
    port = own.url.port
    assert (answer_to("127.0.0.1", port), answer_to("127.0.0.2", port)) == (b"R", b"E")

    own.start("--allow", "127.0.0.2/31")

    assert (answer_to("127.0.0.3", port), answer_to("127.0.0.4", port)) == (b"R", b"E")


@pytest.mark.parametrize("encrypted", [True, False])
def test_who_takes_the_port_of_a_stopped_server_learns_no_password(tmp_path, encrypted):
    heard = []

    def impostor(listening):
        with listening.accept()[0] as connection:
            for _ in range(4):
                asked = connection.recv(1000)
                heard.append(asked)
                if not asked:
                    return
                wants_to_encrypt = asked[4:8] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30")
                connection.sendall(b"N" if wants_to_encrypt else b"R" + struct.pack("!ii", 8, 3))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=impostor, args=(listening,))
        thread.start()
        url = url_of(f"postgresql://hpo:s3cret@127.0.0.1:{port}/hpo", tmp_path)
        with pytest.raises(OperationalError):
            ask(url.set(query=_safely(tmp_path, encrypted)))
        thread.join()
    assert heard
    assert b"s3cret" not in b"".join(heard)


def test_a_stopped_server_is_forgotten_until_it_is_started_again(own):
    before = own.file.read_text()
    ask(own.url, "create table kept as select 5 as five")

    assert "is stopped" in own.db("stop").said
    assert not own.file.exists()
    assert own.db("status").code == 1
    assert "there is no study database" in own.hpo("status", user=None).said
    assert "did not run" in own.db("stop").said

    own.start()
    assert own.file.read_text() == before
    assert ask(own.url, "select five from kept") == 5


def test_a_server_that_was_killed_is_told_of_and_starts_again(own):
    ask(own.url, "create table survives as select 5 as five")
    os.kill(int((own.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while status(own)["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert f"run hpo db start on {socket.gethostname()}" in status(own)["state"]
    done = own.hpo("status", user=None)
    assert done.code == 2
    assert f": run hpo db start on {socket.gethostname()}" in done.said

    own.start()
    assert ask(own.url, "select five from survives") == 5


def test_root_is_told_what_to_do(own):
    need_root()
    for command in ("start", "stop"):
        done = own.db(command, user=None)
        assert done.code == 2
        assert f"sudo -u USER hpo db {command}" in done.said


def move_to(own, machine):
    os.unlink(own.data / "hpo.machine")
    os.symlink(machine, own.data / "hpo.machine")


def test_data_that_another_machine_serves_are_left_alone(own):
    pid, machine = (own.data / "postmaster.pid").read_text(), os.readlink(own.data / "hpo.machine")
    move_to(own, "0b1c:4026531836:login9")
    try:
        for command in ("start", "stop"):
            done = own.db(command)
            assert done.code == 2
            assert "login9" in done.said
        assert "hpo db start --takeover" in own.db("start").said
        assert status(own)["host"] == "login9"
        assert (own.data / "postmaster.pid").read_text() == pid
        assert ask(own.url) == 1
    finally:
        move_to(own, machine)


ELSEWHERE = """
import os, pwd, sys
import encodings.ascii, encodings.idna, psycopg, sqlalchemy.dialects.postgresql.psycopg
import hpo.cli, hpo.server.server
user = pwd.getpwnam(sys.argv[1])
os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid)
hpo.cli.main(sys.argv[2:])
"""


def test_a_real_second_machine_starts_no_second_server(own):
    if os.geteuid():
        reason = "to run this: be root, who may make a second machine of namespaces"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    before = (own.data / "postmaster.pid").read_text()
    machine = ["unshare", "--uts", "--pid", "--ipc", "--net", "--fork", "--mount-proc", "sh", "-c"]
    words = [sys.executable, "-c", ELSEWHERE, USER, "db", "start", "--data", str(own.data)]
    done = subprocess.run(
        [*machine, f"hostname login9; exec {shlex.join(words)}"],
        cwd=own.home,
        env={
            **os.environ,
            **{key: str(value) for key, value in own.environment.items()},
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2, done.stderr
    assert f"was started on {socket.gethostname()} and not stopped there" in done.stderr
    assert (own.data / "postmaster.pid").read_text() == before
    assert ask(own.url) == 1


def test_a_machine_that_is_gone_for_good_can_be_replaced(own):
    own.db("stop")
    os.symlink("0b1c:4026531836:login9", own.data / "hpo.machine")

    assert own.db("start").code == 2
    assert own.db("start", "--takeover").code == 0

    assert status(own)["host"] == socket.gethostname()


def test_what_is_asked_once_is_kept_and_not_changed_while_it_runs(own):
    refused = own.db("start", "--connections", "50")
    assert refused.code == 2
    assert "--connections" in refused.said

    own.db("stop")
    own.start("--connections", "50")
    own.db("stop")
    own.start()

    assert status(own)["allowed"] == 47
    assert own.start("--connections", "50").code == 0


def test_a_port_that_another_has_is_told(own):
    own.db("stop")
    with socket.create_server(("127.0.0.1", own.port)):
        done = own.db("start")

    assert done.code == 2
    assert "give another with --port" in done.said
    assert not (own.data / "hpo.machine").is_symlink()


def test_data_of_another_version_are_left_alone(own):
    own.db("stop")
    version = (own.data / "PG_VERSION").read_text()
    (own.data / "PG_VERSION").write_text("9\n")
    try:
        done = own.db("start")
    finally:
        (own.data / "PG_VERSION").write_text(version)

    assert done.code == 2
    assert "the data are of PostgreSQL 9, which is not on this machine" in done.said


def test_a_file_that_names_another_database_is_left_alone(own, other):
    other.environment["XDG_CONFIG_HOME"] = own.environment["XDG_CONFIG_HOME"]
    before = own.file.read_text()

    done = other.db("start", "--host", "127.0.0.1")

    assert done.code == 2
    assert "names another database already" in done.said
    assert own.file.read_text() == before
    assert not other.data.exists()


def test_a_folder_that_holds_something_else_is_left_alone(other):
    other.data.mkdir()
    (other.data / "thesis.tex").write_text("")

    done = other.db("start")

    assert done.code == 2
    assert "give another --data" in done.said
    other.data.joinpath("thesis.tex").unlink()
    other.data.rmdir()


def test_two_starts_at_once_make_one_server(raced):
    place, ended = raced

    assert [one.code for one in ended] == [0, 0], [one.said for one in ended]
    assert ask(place.url) == 1
    assert kept_url(place.data).password == place.url.password


def test_without_openssl_the_password_is_proved_all_the_same(raced):
    place, _ = raced
    place.start()

    assert status(place)["encrypted"] is False
    with pytest.raises(OperationalError, match="password authentication failed"):
        ask(place.url.set(password="guess"))


def test_a_start_that_is_killed_anywhere_can_be_repeated(raced):
    place, _ = raced
    place.db("stop")
    whole = place.db("start", watch=place.home)
    assert whole.code == 0, whole.said

    for moment in spread(len(whole.events), 3):
        place.db("stop")
        assert place.db("start", kill_before=moment, watch=place.home).code == -9
        place.start()
        assert ask(place.url) == 1
