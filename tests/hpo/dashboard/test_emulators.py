"""The page of the emulators beside the runs."""

import json

from hpo.dashboard.pages import emulators
from tests.hpo.dashboard.test_comparison import site_of
from tests.made_runs import trained

CARD = {
    "format": 1,
    "architecture": {},
    "event_columns": {"Mass_0": "Msun"},
    "condition_columns": {"Z": ""},
    "cost": {"parameters": 1234},
    "metrics": {"test_nll": 4.2478, "test_nll_error": 0.0142},
    "provenance": {"study": "bbh", "trial": 0, "trained": "2026-11-30T00:58:17+00:00"},
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
