"""What an export may replace, and what it says of it."""

import pytest

from hpo.emulator.choice import ExportError
from hpo.emulator.outcome import replaced
from models.bundle.emulator import Emulator
from tests import made_runs
from tests.random_flows import a_flow


def saved(folder, **origin):
    first = made_runs.run(3)
    known = {"study": "bbh", "trial": 3, "data_fingerprint": "ab", "trained": first.updated}
    card = {
        "provenance": known | origin,
        "metrics": {"test_nll": 4.2407, "test_nll_error": 0.0141},
    }
    return Emulator(a_flow(), card).save(folder)


def test_a_new_place_and_the_emulator_of_the_same_trial_are_free(tmp_path):
    assert replaced(tmp_path / "e", [made_runs.run(3)]) is None

    saved(tmp_path / "e")

    assert replaced(tmp_path / "e", [made_runs.run(3)]) == (
        "trial 3 of bbh, test NLL 4.241 +- 0.014"
    )
    assert replaced(tmp_path / "e", [made_runs.run(3)], anew=True)


@pytest.mark.parametrize(
    ("record", "origin"),
    [
        pytest.param(made_runs.run(4), {}, id="trial"),
        pytest.param(made_runs.run(3, study="quick"), {}, id="study"),
        pytest.param(made_runs.run(3, updated="2026-06-01T00:00:00+00:00"), {}, id="begun-again"),
        pytest.param(made_runs.run(3), {"data_fingerprint": "cd"}, id="data"),
        pytest.param(made_runs.run(3), {"trial": None, "trials": [3, 4]}, id="ensemble"),
    ],
)
def test_another_emulator_is_replaced_only_if_that_is_asked_for(tmp_path, record, origin):
    saved(tmp_path / "e", **origin)

    with pytest.raises(ExportError, match="another emulator .* --overwrite"):
        replaced(tmp_path / "e", [record])
    assert "test NLL 4.241" in (replaced(tmp_path / "e", [record], overwrite=True) or "")


def test_a_damaged_emulator_may_have_been_anyones(tmp_path):
    saved(tmp_path / "e")
    (tmp_path / "e" / "emulator.json").write_text("{")

    with pytest.raises(ExportError, match=r"\(of no study\)"):
        replaced(tmp_path / "e", [made_runs.run(3)])
    assert replaced(tmp_path / "e", [made_runs.run(3)], overwrite=True)


def test_the_same_members_in_another_order_are_another_ensemble(tmp_path):
    saved(tmp_path / "e", trial=None, trials=[3, 4])
    some = [made_runs.run(3), made_runs.run(4)]

    assert replaced(tmp_path / "e", some)
    with pytest.raises(ExportError, match="trials 4, 3 of bbh"):
        replaced(tmp_path / "e", some[::-1])
