"""Totals: what was simulated, from a table to `dataset.json` to an exported emulator."""

import json
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
from click.testing import CliRunner

from data_prep.dataset import Dataset
from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from hpo.cli import main
from hpo.emulator import choice, export
from hpo.execution.trial import run
from models import Emulator
from models.bundle.emulator import EmulatorError

ROWS = [f"{10 + n},{8 + n / 2},{(0.0001, 0.03)[n % 2]},1.0" for n in range(40)]
HEADER = "Z,alpha,simulated_binaries"
TOTALS = ["0.03,1,500", "0.0001,1.0,400", "0.01,1,600"]
"""Of the two cells of the rows, 20 each, and of one that had no merger."""
COSMIC = Path(__file__).parents[3] / "shared" / "data"


def write(path, rows, header):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "mergers.csv", ROWS, "Mass_0,Mass_1,Z,alpha")


def prepared_with(source, rows=TOTALS, header=HEADER, **options):
    totals = write(source.with_name("totals.csv"), rows, header)
    return prepare([source], source.with_name("out"), totals=totals, **options)


def test_every_cell_has_its_total_and_its_mergers(source):
    dataset = prepared_with(source)

    told = {one.conditions: (one.simulated, one.mergers) for one in dataset.totals}
    assert told == {(0.0001, 1.0): (400, 20), (0.01, 1.0): (600, 0), (0.03, 1.0): (500, 20)}
    assert dataset.totals_unit == "binaries"
    assert len(dataset.cells) == 2
    assert Dataset.read(source.with_name("out")) == dataset


def test_mass_is_a_total_too_and_columns_are_renamed(source):
    write(source, ROWS, "Mass_0,Mass_1,metallicity,alpha")

    dataset = prepared_with(
        source,
        ["1e-4,1,1.5e6", "0.03,1,2e6"],
        "metallicity,alpha,simulated_mass",
        columns={"metallicity": "Z"},
    )

    assert dataset.totals_unit == "Msun"
    assert [one.simulated for one in dataset.totals] == [1.5e6, 2e6]


def test_mergers_are_counted_after_the_filter(source):
    dataset = prepared_with(source, where="Mass_0 < 30")

    assert [one.mergers for one in dataset.totals] == [10, 0, 10]


def test_totals_change_nothing_else(source):
    totals = prepared_with(source)
    plain = prepare([source], source.with_name("plain"))

    stored = json.loads((source.with_name("plain") / "dataset.json").read_text())
    assert not {"totals", "totals_unit"} & set(stored)
    assert Dataset.read(source.with_name("plain")) == plain
    assert (plain.fingerprint, plain.cells) == (totals.fingerprint, totals.cells)


def test_cosmics_own_totals_agree_with_its_table(tmp_path):
    if not (COSMIC / "totals.csv").exists():
        pytest.skip("needs ../shared/data")
    totals = COSMIC / "totals.csv"

    dataset = prepare([COSMIC / "bbh_cosmic.parquet"], tmp_path / "out", totals=totals)

    told = pyarrow.csv.read_csv(totals).sort_by([("Z", "ascending"), ("alpha", "ascending")])
    assert [one.mergers for one in dataset.totals] == told["mergers"].to_pylist()
    assert len(dataset.totals) == 36
    assert sum(one.mergers for one in dataset.totals) == 78_713


REFUSED = [
    pytest.param(TOTALS, "Z,alpha,binaries", "no column simulated_binaries or", id="no-total"),
    pytest.param(TOTALS, "Z,beta,simulated_binaries", "no column 'alpha'", id="no-condition"),
    pytest.param(
        [f"{row},9" for row in TOTALS], f"{HEADER},simulated_mass", "has both", id="both-totals"
    ),
    pytest.param(TOTALS[1:], HEADER, "no row for Z = 0.03, alpha = 1, which", id="uncovered"),
    pytest.param(["0.5,1,9"], HEADER, "Z = 0.0001, alpha = 1 and 1 other cells", id="uncovered-2"),
    pytest.param([*TOTALS, "0.03,1,9"], HEADER, "row 4: Z = 0.03, alpha = 1 was in row 1", id="2"),
    pytest.param(["0.03,1,0"], HEADER, "row 1: 0 is not above zero", id="zero"),
    pytest.param(["0.03,1,-3"], HEADER, "row 1: -3 is not above zero", id="negative"),
    pytest.param(["0.03,1,inf"], HEADER, "row 1: inf is not a finite number", id="infinite"),
    pytest.param(["0.03,1,"], HEADER, "row 1: the empty value is not a finite", id="empty"),
    pytest.param(["0.03,1,9.5"], HEADER, "row 1: 9.5 is not a whole number", id="half"),
    pytest.param(["0.03,1,many"], HEADER, "row 1: 'many' is not a number", id="text"),
    pytest.param(["0,1,9"], HEADER, "column 'Z', row 1: 0 is not above zero", id="condition"),
    pytest.param(["0.03,1"], HEADER, "row 1", id="ragged"),
    pytest.param([], HEADER, "totals.csv", id="no-row"),
    pytest.param([*TOTALS[1:], "0.03,1,19"], HEADER, "19 simulated binaries, fewer", id="few"),
]


@pytest.mark.parametrize(("rows", "header", "message"), REFUSED)
def test_totals_that_cannot_be_are_refused_in_a_sentence(source, rows, header, message):
    with pytest.raises(DataError) as refusal:
        prepared_with(source, rows, header)

    assert message in str(refusal.value)
    assert "totals.csv" in str(refusal.value)
    assert not source.with_name("out").exists()


def test_the_command_takes_totals_and_refuses_with_code_2(source):
    out = source.with_name("out")
    totals = write(source.with_name("t.csv"), ["1e-4,1,400", "0.03,1,500"], HEADER)
    words = ["prepare", str(source), "--out", str(out), "--totals"]

    missing = CliRunner().invoke(main, [*words, "none.csv"])
    done = CliRunner().invoke(main, [*words, str(totals)])

    assert (missing.exit_code, done.exit_code) == (2, 0)
    assert "none.csv" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert len(Dataset.read(out).totals) == 2


def _no_unit(stored):
    del stored["totals_unit"]


def _no_totals(stored):
    del stored["totals"]


def _kilograms(stored):
    stored["totals_unit"] = "kg"


def _doubled(stored):
    stored["totals"].append(stored["totals"][0])


def _others(stored):
    stored["totals"][0]["mergers"] += 1


def _uncovered(stored):
    stored["totals"].pop()


def _half(stored):
    stored["totals"][0]["mergers"] = 20.0


def _nothing(stored):
    stored["totals"][1]["simulated"] = 0


def _text(stored):
    stored["totals"][1]["simulated"] = "many"


def _short(stored):
    stored["totals"][1]["conditions"].pop()


def _no_list(stored):
    stored["totals"] = {"Z": 1}


@pytest.mark.parametrize(
    "damage",
    [
        _no_unit,
        _no_totals,
        _kilograms,
        _doubled,
        _others,
        _uncovered,
        _half,
        _nothing,
        _text,
        _short,
        _no_list,
    ],
)
def test_damaged_totals_are_refused(source, damage):
    prepared_with(source)
    path = source.with_name("out") / "dataset.json"
    stored = json.loads(path.read_text())
    damage(stored)
    path.write_text(json.dumps(stored))

    with pytest.raises(DataError, match="is not a dataset.json: .* prepare"):
        Dataset.read(path.parent)


@pytest.mark.slow
def test_an_exported_emulator_tells_the_rates_of_its_data(tmp_path, table, monkeypatch):
    import pyarrow.parquet as pq

    from tests.hpo.execution.test_trial import Setting

    monkeypatch.delenv("HPO_STORAGE", raising=False)
    pq.write_table(table, tmp_path / "mergers.parquet")
    cells = {
        (Z, a) for Z, a in zip(table["Z"].to_pylist(), table["alpha"].to_pylist(), strict=True)
    }
    rows = [f"{Z},{alpha},100000" for Z, alpha in sorted(cells)]
    totals = write(tmp_path / "totals.csv", rows, HEADER)
    prepare([tmp_path / "mergers.parquet"], tmp_path / "plain")
    prepare([tmp_path / "mergers.parquet"], tmp_path / "told", totals=totals)
    setting = Setting(tmp_path / "runs", tmp_path / "plain")
    setting.study().slots.set_total(2)
    for _ in range(2):
        run(setting.claim())

    export.write(choice.best(setting.optuna, tmp_path / "runs" / "s"), tmp_path / "none")
    # The same rows prepared again, with totals: what was trained before knows them, too.
    (tmp_path / "plain" / "dataset.json").write_bytes(
        (tmp_path / "told" / "dataset.json").read_bytes()
    )
    both = choice.best(setting.optuna, tmp_path / "runs" / "s", count=2)
    export.write(both, tmp_path / "two")

    with pytest.raises(EmulatorError, match="--totals"):
        _ = Emulator.load(tmp_path / "none").efficiency
    most = max(Dataset.read(tmp_path / "told").totals, key=lambda one: one.mergers)
    emulator = Emulator.load(tmp_path / "two")
    rate, std = emulator.efficiency(Z=most.conditions[0], alpha=most.conditions[1], return_std=True)
    assert abs(np.log(rate * 100_000 / most.mergers)) < 2 * std / rate
