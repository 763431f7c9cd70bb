"""The page of the emulators beside the runs."""

import json

import pytest

from hpo.dashboard.pages import emulators, verdict
from hpo.records.record import TestNll
from tests.hpo.dashboard.density.test_density_figures import map_of
from tests.hpo.dashboard.test_comparison import site_of
from tests.made_runs import BASE, trained

CARD = {
    "format": 1,
    "architecture": {},
    "event_columns": {"Mass_0": "Msun"},
    "condition_columns": {"Z": ""},
    "cost": {"parameters": 1234},
    "metrics": {
        "test_nll": 4.2478,
        "test_nll_error": 0.0142,
        "beyond_chance": {"cells": 2, "of": 26},
    },
    "provenance": {
        "study": "bbh",
        "trial": 0,
        "data_fingerprint": BASE.data.fingerprint,
        "data_rows": {"train": 47227},
        "data": {"sources": [{"file": "mergers.parquet"}]},
        "trained": "2026-11-30T00:58:17+00:00",
    },
    "reliability": {
        "measured": [
            {"place": "cells", "events": 200, "catalogs": 33, "cells": 13, "cells_inside": 14}
            | {"covered": 24, "square": 1.5, "error": 0.25, "worst": {"Z": 0.001}}
        ],
        "missing": {},
    },
    "files": {"weights.safetensors": "00"},
}


def test_an_emulator_is_listed_with_its_run_and_a_broken_one_with_its_fault(tmp_path):
    (tmp_path / "runs").mkdir()
    site = site_of(tmp_path / "runs", trained(5.0))
    for name, text in (("good", json.dumps(CARD)), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "emulator.json").write_text(text)
    (tmp_path / "linked").symlink_to(tmp_path / "good")

    page = str(emulators.layout(site))

    assert "4.248 ± 0.014" in page
    assert "/runs/run/bbh/trial-00000" in page
    assert "export the emulator again" in page
    assert "linked" not in page
    for told in ("47,227 rows of mergers.parquet", "2 of 26", "400 (270 to 800) events"):
        assert told in page


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({}, "It is good for 400 (270 to 800) events", id="its-export"),
        pytest.param({"members": [{}]}, "no export measured", id="trained-anew"),
        pytest.param({"trial": 1}, "no export measured", id="another-run"),
        pytest.param({"data_fingerprint": "cd"}, "no export measured", id="other-data"),
    ],
)
def test_a_run_is_good_for_as_many_events_as_its_export_measured(tmp_path, changes, told):
    (tmp_path / "bbh").mkdir()
    card = CARD | {"provenance": CARD["provenance"] | changes}
    (tmp_path / "bbh" / "emulator.json").write_text(json.dumps(card))

    sentence, rests = verdict.of_map(map_of(), trained(5.0), tmp_path)

    assert sentence.startswith("No cell has the 200 rows that distances need. ")
    assert told in sentence
    assert "1,862 test rows" in rests.children


@pytest.mark.parametrize(
    ("vals", "changes", "told"),
    [
        pytest.param(
            (5.0, 4.5),
            {"state": "running"},
            "It is training: after 2 epochs its best",
            id="running",
        ),
        pytest.param((), {"state": "failed"}, "It failed, and has no", id="none"),
        pytest.param(
            (4.5,), {"test": TestNll(nll=4.2, error=0.01, rows=99)}, "is 4.200 ± 0.010", id="ended"
        ),
    ],
)
def test_before_its_cells_are_compared_a_run_tells_its_own_numbers(vals, changes, told):
    first, *_ = verdict.of_record(trained(*vals, **changes))

    assert told in first
