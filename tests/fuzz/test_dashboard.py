"""The dashboard's port with any address and any payload: no 500, nothing from outside the runs."""

import json
import logging
from pathlib import Path
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.test import Client

from data_prep.where import Filter
from hpo.dashboard import app, catalog, server
from tests.fuzz.strategies import fuzz, memory, texts, values

TOKEN = "a-token-of-the-tests"
SECRET = "what-lies-outside"
RUN = (Path(__file__).parent.parent / "data" / "run-schema-1.json").read_text()
KEY = "s/trial-00017"
POST = "/runs/_dash-update-component"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The port of a folder with two runs, beside a file that is no business of it."""
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "secret.txt").write_text(SECRET)
    for name in (KEY, "s/trial-00018"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "run.json").write_text(RUN)
        (folder / "runs" / name / "log.txt").write_text("began\n")
    (folder / "runs" / "s" / "trial-00019").mkdir()
    (folder / "runs" / "s" / "trial-00019" / "run.json").symlink_to(folder / "secret.txt")
    looking = catalog.Catalog(folder / "runs")
    looking.refresh()
    dash = app.create(looking)
    wsgi = server.application(dash.server, None, token=TOKEN, script_hashes=dash.csp_hashes())
    client = Client(wsgi)
    client.set_cookie("hpo-80", TOKEN)
    client.get("/runs/")
    Filter.parse("a > 1", ["a"])  # Arrow's pool reserves its memory before `memory` limits it
    level = dash.server.logger.level
    dash.server.logger.setLevel(logging.CRITICAL)  # Flask names it as the package: hpo
    yield client, dash
    dash.server.logger.setLevel(level)


def answered(pages, path, **options):
    client, _ = pages
    with memory(1024):
        answer = client.open(path, base_url="http://localhost", **options)
    text = answer.get_data().decode(errors="replace")
    assert answer.status_code < 500, text
    assert SECRET not in text
    assert TOKEN not in text + str(answer.headers)
    return answer


PLACES = st.sampled_from(
    ["/runs", "/runs/", "/runs/compare", "/runs/run/", "/dashboard", "/static/", "/runs/assets/"]
    + ["/runs/_dash-layout", "/runs/_dash-dependencies", "/runs/_dash-component-suites/", "/api/"]
    + ["/runs/study/", "/runs/trial/", "/runs/_favicon.ico", "/runs-link.js", "//evil.example/"]
)
ODD = ["../", "..%2f", "%2e%2e/", "%00", "%ff", "\\", "//", "secret.txt", "/etc/passwd", "%C0%AE"]
BITS = st.sampled_from([*ODD, KEY, "s/trial-00019", "?where=", "?run=", "&", "=", "%5B", "9" * 50])
BITS |= texts.map(lambda text: quote(text, safe="", errors="replace"))
BITS |= st.binary(max_size=8).map(quote_from_bytes)


@fuzz(150)
@given(place=PLACES, bits=st.lists(BITS, max_size=4).map("".join))
@example("/runs/study/", "9" * 400)
@example("/runs/trial/", "9" * 400 + "/" + "9" * 5000)
@example("/runs/assets/", "../../secret.txt")
@example("/runs/assets/", "..%2f..%2fsecret.txt")
@example("/runs/_dash-component-suites/", "dash/../../../etc/passwd")
@example("/runs/_dash-component-suites/", "nothing/at/all.js")
@example("/runs/_dash-component-suites/", "x")
@example("/runs/_dash-component-suites/", "os/path.py")
def test_any_address(pages, place, bits):
    answered(pages, place + bits)


@fuzz(60)
@given(body=st.binary(max_size=60) | values.map(json.dumps).map(str.encode))
@example(b"[" * 100_000)
@example(b"{}")
@example(b"[]")
@example(b"null")
@example(b'{"output": "page.children"}')
@example(b'{"output": "none.children", "inputs": [], "changedPropIds": []}')
def test_any_body(pages, body):
    answered(pages, POST, method="POST", data=body, content_type="application/json")


WORD = (
    st.sampled_from(
        [KEY, "s/trial-00019", "../../secret.txt", "/runs/run/../../secret.txt", "/runs/run/" + KEY]
        + [
            "/runs/compare",
            "?run=" + KEY,
            "val_nll",
            "hidden",
            "best_val_nll",
            "study == 's'",
            "all",
        ]
        + ["(" * 2000, "not " * 200 + "trial > 1", "epoch", "minutes", "rows", "dark"]
    )
    | texts
)
WORDS = st.lists(WORD, max_size=3)
OF_ID = {
    "columns": WORDS | st.none(),
    "differing": WORDS | st.none(),
    "logs": WORDS | st.none(),
    "compared": WORDS | st.just([KEY, "s/trial-00018"]),
    "smoothing": st.floats(0, 0.99) | st.none(),
    "grid": st.none() | st.just([]),
    "seen": st.integers(-3, 3) | st.tuples(st.integers(-3, 3), WORD).map(list),
    "compared-seen": st.integers(-3, 3),
    "run-seen": st.integers(-3, 3),
    "along": st.sampled_from(["epoch", "minutes", "rows"]),
    "run-along": st.sampled_from(["epoch", "minutes", "rows"]),
    "tick": st.integers(),
}
"""What a control of the page can hold; any other holds a text."""


@st.composite
def payloads(draw, callbacks):
    """What a browser sends for one of the callbacks."""
    name, callback = draw(st.sampled_from(callbacks))

    def held(listed):
        strategies = [OF_ID.get(each["id"], WORD | st.none()) for each in listed]
        return [{**each, "value": draw(one)} for each, one in zip(listed, strategies, strict=True)]

    inputs, state = held(callback["inputs"]), held(callback["state"])
    each = [
        dict(zip(("id", "property"), one.rsplit(".", 1), strict=True))
        for one in name.strip(".").split("...")
    ]
    return {
        "output": name,
        "outputs": each if name.startswith("..") else each[0],
        "inputs": inputs,
        "state": state,
        "changedPropIds": [f"{inputs[0]['id']}.{inputs[0]['property']}"],
    }


@pytest.mark.slow
@fuzz(100)
@given(data=st.data())
def test_any_payload(pages, data):
    callbacks = [(n, c) for n, c in pages[1].callback_map.items() if "callback" in c]
    payload = data.draw(payloads(callbacks))
    text = json.dumps(payload).encode("utf-8", "surrogatepass")
    answered(pages, POST, method="POST", data=text, content_type="application/json")
