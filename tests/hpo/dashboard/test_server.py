"""The dashboard's port on a real server: who is let in, what may be changed, how it ends."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import flask
import optuna
import psutil
import pytest
from werkzeug.test import Client

from hpo.dashboard import optuna_page
from hpo.dashboard.server import PAGE, ServerError, application, listen
from hpo.storage.address import url_of
from hpo.storage.open import open_storage

TOKEN = "a-token-of-the-tests"

SERVER = """
import sys, time
from pathlib import Path
import flask
from hpo.dashboard import optuna_page, server
from hpo.storage.address import url_of
from hpo.storage.open import open_storage

runs = flask.Flask("runs")

@runs.get("/")
def first():
    return "<p>the runs</p>"

@runs.get("/<path:page>")
def any(page):
    return f"{page} {flask.request.query_string.decode()}"

@runs.post("/_dash-update-component")
def update():
    return {"changed": "nothing"}

@runs.get("/slow")
def slow():
    print("slow", flush=True)
    time.sleep(30)
    return "done"

token, database = sys.argv[1:]
optuna = None
if database:
    storage = open_storage(url_of(database, Path()), reading=True, retrying=False)
    optuna = optuna_page.wsgi(storage)
with server.listen(port=0) as listening:
    print(listening.getsockname()[1], flush=True)
    wsgi = server.application(runs, optuna, token=token)
    server.serve(wsgi, listening)
"""


@contextlib.contextmanager
def serving(database=""):
    """A server in a process of its own, ended as by Ctrl-C; it must have said nothing wrong."""
    command = [sys.executable, "-c", SERVER, TOKEN, str(database)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            port = int(process.stdout.readline() or 0)
            assert port, process.stderr.read()
            yield SimpleNamespace(port=port, process=process)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def database_in(folder):
    url = f"sqlite:///{folder}/hpo.db"
    storage = open_storage(url_of(url, folder))
    study = optuna.create_study(study_name="mine", storage=storage)
    study.add_trial(optuna.trial.create_trial(value=2.0))
    storage.engine.dispose()
    return url


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of one study that may only be looked at."""
    with serving(database_in(tmp_path_factory.mktemp("server"))) as running:
        yield running


def ask(server, path, *, method="GET", cookie=True, body=None, **headers):
    """One request, and its answer with `status`, `headers` and `text`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if cookie:
        given["Cookie"] = f"hpo-{server.port}={TOKEN if cookie is True else cookie}"
    try:
        # By hand, since it would add headers of its own.
        connection.putrequest(method, path, skip_host="Host" in given, skip_accept_encoding=True)
        for name, value in given.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode() if body is not None else None)
        answer = connection.getresponse()
        return SimpleNamespace(
            status=answer.status, headers=answer.headers, text=answer.read().decode("latin-1")
        )
    finally:
        connection.close()


PATHS = ["/", "/runs/", "/runs/_dash-layout", "/runs-link.js", "/dashboard", "/api/studies"]
PATHS += ["/static/bundle.js", "/favicon.ico", "/none"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param({"cookie": False}, id="nothing"),
        pytest.param({"cookie": "wrong"}, id="cookie"),
        pytest.param({"cookie": False, "method": "POST"}, id="post"),
    ],
)
def test_who_has_no_token_is_told_nothing(server, path, words):
    answer = ask(server, path, **words)

    assert answer.status == 401
    told = "Open the address that `hpo dashboard` printed, with its token."
    assert answer.text == PAGE.format(text=told, root="/runs/")


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "%C3%BC%ff"])
def test_a_wrong_token_opens_nothing(server, token):
    answer = ask(server, f"/runs/?token={token}", cookie=False)

    assert answer.status == 401
    assert "Set-Cookie" not in answer.headers


def test_the_token_becomes_a_cookie_and_leaves_the_address(server):
    answer = ask(server, f"/runs/compare?run=a%2Fb&token={TOKEN}&where=x%20%3E%201", cookie=False)

    assert answer.status == 303
    assert answer.headers["Location"] == "/runs/compare?run=a%2Fb&where=x%20%3E%201"
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"hpo-{server.port}={TOKEN};")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    followed = ask(server, answer.headers["Location"])
    assert (followed.status, followed.text) == (200, "compare run=a%2Fb&where=x%20%3E%201")


@pytest.mark.parametrize(
    "path", ["//evil.example/", "/\\evil.example/", "///evil.example", "/%2F%2Fevil.example/"]
)
def test_the_token_leads_to_no_other_server(server, path):
    answer = ask(server, f"{path}?token={TOKEN}", cookie=False)

    assert answer.status == 303
    assert answer.headers["Location"].startswith("/evil.example")


@pytest.mark.parametrize("path", ["/", "/runs"])
def test_the_first_page_is_that_of_the_runs(server, path):
    assert ask(server, path).headers["Location"] == "/runs/"
    assert ask(server, "/runs/").text == "<p>the runs</p>"


@pytest.mark.parametrize("name", ["localhost:{}", "127.0.0.1:{}", "[::1]:{}", "localhost:9000"])
def test_the_names_of_this_machine_are_answered(server, name):
    name = name.format(server.port)
    cookie = f"hpo-{name.rpartition(':')[2]}={TOKEN}"

    assert ask(server, "/runs/", cookie=False, Host=name, Cookie=cookie).status == 200


@pytest.mark.parametrize("name", ["evil.example", "evil.example:{}", "127.0.0.1.evil.example", ""])
def test_a_foreign_name_that_leads_here_is_refused(server, name):
    answer = ask(server, f"/runs/?token={TOKEN}", Host=name.format(server.port))

    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers


def test_every_answer_forbids_what_no_page_of_ours_does(server):
    for path in [*PATHS, "/runs/none"]:
        headers = ask(server, path).headers
        assert headers.get_all("X-Content-Type-Options") == ["nosniff"], path
        assert headers.get_all("Referrer-Policy") == ["same-origin"], path
        assert headers.get_all("X-Frame-Options") == ["DENY"], path
        assert headers.get_all("Cross-Origin-Opener-Policy") == ["same-origin"], path
        [policy] = headers.get_all("Content-Security-Policy")
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert "script-src 'self' 'unsafe-eval';" in policy  # none that stands in a page


def test_what_is_told_of_runs_is_not_kept_by_the_browser(server):
    for path in ("/runs/", "/dashboard", "/api/studies"):
        assert ask(server, path).headers.get_all("Cache-Control") == ["no-store"], path


CHANGES = [("POST", "/api/studies"), ("DELETE", "/api/studies/1"), ("PUT", "/api/studies/1/note")]
CHANGES += [("POST", "/api/studies/1/rename"), ("PATCH", "/dashboard"), ("OPTIONS", "/api/studies")]


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_study_can_be_looked_at_but_not_changed(server, method, path):
    answer = ask(server, path, method=method, body="{}", Content_Type="application/json")

    assert answer.status == 403
    assert "--allow-edit" in answer.text
    names = [one["study_name"] for one in studies_of(server)]
    assert names == ["mine"]


def studies_of(server):
    return json.loads(ask(server, "/api/studies").text)["study_summaries"]


def test_the_page_of_runs_may_ask_by_post(server):
    answer = ask(server, "/runs/_dash-update-component", method="POST", body="{}")

    assert json.loads(answer.text) == {"changed": "nothing"}


@pytest.mark.parametrize("origin", ["http://localhost:1", "https://evil.example", "null"])
def test_what_another_page_sends_is_refused(server, origin):
    ours = f"http://127.0.0.1:{server.port}"
    path = "/runs/_dash-update-component"

    assert ask(server, path, method="POST", body="{}", Origin=origin).status == 403
    assert ask(server, path, method="POST", body="{}", Origin=ours).status == 200


def test_optunas_page_has_the_link_to_the_runs_and_its_files_come_to_any_client(server):
    page = ask(server, "/dashboard/studies/1/trials")

    assert page.text.count('<script defer src="/runs-link.js" data-read-only></script></body>') == 1
    assert int(page.headers["Content-Length"]) == len(page.text)
    assert "pushState" in ask(server, "/runs-link.js").text
    assert ask(server, "/static/bundle.js").status == 200
    assert ask(server, "/static/bundle.js", Accept_Encoding="gzip").text[:2] == "\x1f\x8b"


def within(optuna_dashboard, *, edit=False):
    """A client with the cookie, to whom the application answers in this process."""
    runs = flask.Flask("runs")
    runs.add_url_rule("/", view_func=lambda: "<p>the runs</p>")
    client = Client(application(runs, optuna_dashboard, token=TOKEN, allow_edit=edit))
    client.set_cookie("hpo-80", TOKEN)
    return client


def test_without_a_database_optunas_page_says_so():
    client = within(None)
    page = client.get("/dashboard/studies/1")

    assert page.status_code == 404
    assert "There is no study database beside these runs" in page.text
    assert 'href="/runs/"' in page.text
    assert client.get("/api/studies").status_code == 404
    assert client.get("/runs/").status_code == 200


def test_studies_can_be_changed_where_that_was_allowed(tmp_path):
    storage = open_storage(url_of(database_in(tmp_path), tmp_path))
    client = within(optuna_page.wsgi(storage), edit=True)
    answer = client.delete("/api/studies/1", data="{}", content_type="text/json")

    assert answer.status_code == 204
    assert json.loads(client.get("/api/studies").text)["study_summaries"] == []
    storage.engine.dispose()


def test_a_server_ends_at_once_though_requests_are_open():
    # The end by SIGINT, with no request open, is that of every other server here.
    with serving() as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            stack.callback(connection.close)
            connection.request(
                "GET", "/runs/slow", headers={"Cookie": f"hpo-{server.port}={TOKEN}"}
            )
            assert server.process.stdout.readline() == "slow\n"
        idle = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        idle.sendall(b"GET /runs/ HTTP/1.1\r\n")

        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 2


def test_a_port_that_was_asked_for_and_is_taken_is_refused():
    with listen(port=0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} of 127.0.0.1 .*: give another --port"):
            listen(port=port)


def test_a_port_that_was_not_asked_for_is_the_next_free_one():
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(listen()).getsockname()[1] for _ in range(3)]

    assert len(set(ports)) == 3
    assert all(8050 <= port < 8150 for port in ports)


def test_a_host_that_is_not_here_is_refused():
    with pytest.raises(ServerError, match=r"192\.0\.2\.1 is no address of this machine"):
        listen("192.0.2.1", 0)


def test_a_socket_is_heard_by_this_machine_alone(server):
    heard = [one.laddr for one in psutil.net_connections("tcp") if one.status == "LISTEN"]

    assert [at.ip for at in heard if at.port == server.port] == ["127.0.0.1"]
