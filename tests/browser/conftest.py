"""A browser, a small study that was really run, and the real dashboard on it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hpo.storage.address import FILE_VARIABLE, VARIABLE

DATA = Path(__file__).parents[1] / "data"

STUDY = """
[study]
name = "tiny"
trials = 6

[data]
path = "{data}"

[space]
base = "normal"
hidden = [4, 8]
blocks = {{ low = 1, high = 2 }}
learning_rate = {{ low = 1e-3, high = 1e-2, log = true }}

[training]
epochs = 4
batch_size = 512
snapshots = 3

[pruner]
kind = "none"
"""


@pytest.fixture(scope="session")
def chromium():
    """The browser: $CHROMIUM, or that of the system."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(path).exists():
        reason = "to run this: apt-get install --no-install-recommends chromium fonts-dejavu-core"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    arguments = [
        "--disable-dev-shm-usage",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def environment():
    """Of the processes started here: no database but that of their folder."""
    return {key: value for key, value in os.environ.items() if key not in (VARIABLE, FILE_VARIABLE)}


@pytest.fixture(scope="session")
def study(tmp_path_factory, prepared):
    """Folder of the runs of a finished study of six trials on `prepared`. Do not write into it.

    Beside it lies an emulator of another study.
    """
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(DATA / "emulator-1-affine", folder / "emulator")
    (folder / "tiny.toml").write_text(STUDY.format(data=prepared))
    command = [sys.executable, "-m", "hpo.cli", "launch", "tiny.toml", "--workers", "2"]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs"


@pytest.fixture(scope="session")
def site(study):
    """Address of a dashboard over the study, with its token."""
    with _running(study) as address:
        yield address


@pytest.fixture(scope="session")
def serving():
    """A context of `hpo dashboard FOLDER`, which gives the address that it printed, with the token.

    At its end the command is ended as by Ctrl-C, which must be well.
    """
    return _running


@contextlib.contextmanager
def _running(folder, *words):
    command = [sys.executable, "-m", "hpo.cli", "dashboard", str(folder), "--port", "0", *words]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said = []
        listener = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
        listener.start()
        try:
            first = process.stdout.readline().split()
            assert first[:1] == ["dashboard"], _rest(process, listener, said)
            yield first[1]
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0, _rest(process, listener, said)
            assert "Traceback" not in _rest(process, listener, said)
        finally:
            process.kill()


def _rest(process, listener, said):
    """What it said on stderr until its end."""
    process.wait(10)
    listener.join(10)
    return "".join(said)


@pytest.fixture
def page(chromium):
    """A page of a fresh browser, 1280 by 800; the test fails if anything went wrong in it.

    `page.faults` holds what did, `page.expected` parts of those that a test means to see: the
    browser tells some of them late.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.faults = faults = []
    page.expected = expected = []
    page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("requestfailed", lambda request: faults.append(_failed(request)))
    page.on("response", lambda answer: faults.append(_refused(answer)))
    yield page
    context.close()
    unexpected = [
        fault for fault in faults if fault and not any(part in fault for part in expected)
    ]
    assert unexpected == []


def _failed(request):
    """A request without an answer; one that was given up as its page was left is none."""
    return None if request.failure == "net::ERR_ABORTED" else f"{request.url}: {request.failure}"


def _refused(answer):
    return f"{answer.url}: {answer.status}" if answer.status >= 400 else None
