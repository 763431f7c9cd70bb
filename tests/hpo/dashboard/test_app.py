"""The Dash application, before anybody looks at it."""

import dataclasses
import importlib.util
import itertools
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from hpo.dashboard import app
from hpo.dashboard.density.draws import Densities
from hpo.dashboard.pages import overview
from tests.hpo.dashboard.test_comparison import site_of
from tests.made_runs import trained


def test_pandas_is_loaded_before_there_are_threads_to_find_it_half_loaded(tmp_path):
    probe = (
        "import sys, pathlib; from hpo.dashboard import app, catalog;"
        "app.create(catalog.Catalog(pathlib.Path('.'))); print('pandas' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True
    )

    installed = importlib.util.find_spec("pandas") is not None
    assert done.stdout.strip() == str(installed), done.stderr


@pytest.fixture
def site(tmp_path):
    """A site over one run, whose database tells of one trial that waits."""
    left = itertools.count(60, -1)
    waiting = SimpleNamespace(study="bbh", waiting=1, running=())
    return dataclasses.replace(
        site_of(tmp_path, trained(5.0)),
        progress=lambda: [SimpleNamespace(**vars(waiting), eta_s=next(left))],
    )


def asked(app, output, **inputs):
    """The answer to the browser's question for that output; the other inputs have no value."""
    name, callback = next(each for each in app.callback_map.items() if output in each[0])
    given = {
        kind: [one | {"value": inputs.get(f"{one['id']}")} for one in callback[kind]]
        for kind in ("inputs", "state")
    }
    return app.server.test_client().post(
        "/_dash-update-component",
        json={
            "output": name,
            "outputs": [
                dict(zip(("id", "property"), each.rsplit(".", 1), strict=True))
                for each in name.strip(".").split("...")
            ],
            "changedPropIds": ["tick.n_intervals"],
            **given,
        },
    )


def test_the_time_that_is_left_counts_on_though_no_run_changes(site):
    made = app.create(site.catalog, progress=site.progress)

    told = [
        asked(made, "going-on.children", tick=tick, seen=[site.catalog.version, ""])
        for tick in (overview.COUNTED, overview.COUNTED + 1, 2 * overview.COUNTED)
    ]

    assert [each.status_code for each in told] == [200, 204, 200]
    assert "done in about 1 min 00 s" in told[0].text
    assert "done in about 59 s" in told[2].text
    assert "rowData" not in told[2].text


def test_a_look_for_new_runs_makes_up_for_the_answer_about_a_filter_that_it_overtook(site):
    made = app.create(site.catalog)
    seen = [site.catalog.version, ""]

    kept, lost, wrong = (
        asked(made, "going-on.children", tick=1, seen=seen, where=where)
        for where in ("", "trial > 2", "trail > 2")
    )

    assert kept.status_code == 204
    assert '"rowData":[]' in lost.text.replace(" ", "")
    assert "did you mean" in wrong.text


def test_a_sketch_is_not_kept_back_for_the_picture_that_replaces_it(site):
    made = app.create(site.catalog, densities=Densities(site.catalog, []))

    drawn = Counter(
        output.partition("@")[0] for name in made.callback_map for output in name.split("...")
    )

    for graph in ("contours", "cells"):
        assert drawn[f"{graph}-fresh.data"] + drawn[f"..{graph}-fresh.data"] == 1
        assert drawn[f"{graph}-fine.data"] + drawn[f"..{graph}-fine.data"] == 1


def test_the_scripts_of_pictures_are_asked_for_at_once_and_are_there(site):
    browser = app.create(site.catalog).server.test_client()

    links = re.compile(r'rel="preload" as="script" href="/runs([^"]+)"')
    early = links.findall(browser.get("/compare").text)

    assert links.findall(browser.get("/").text) == []  # they would keep the table waiting
    assert [path.rsplit("/", 1)[1] for path in early][:2] == ["plotly.min.js", "async-graph.js"]
    assert {browser.head(path).status_code for path in early} == {200}
