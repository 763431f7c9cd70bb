"""For how many events an exported emulator is good, as its bundle says."""

import dataclasses

from data_prep.cells import folds
from data_prep.dataset import SAMPLE, Dataset
from hpo.emulator import export, outcome
from hpo.emulator.choice import Run
from hpo.emulator.members import train_on
from models import ArrayFlow, Emulator
from models.bundle.reliability import CELLS, HELD_OUT
from models.evaluation.catalogs import coverage
from models.evaluation.cells import keys
from tests.hpo.emulator.test_members import chosen


def other_data(run, **changes):
    """The same weights, as if trained on other data."""
    data = dataclasses.replace(run.record.data, **changes)
    return Run(dataclasses.replace(run.record, data=data), run.folder)


def test_an_export_measures_its_own_flow_in_cells_and_in_held_out_ones(tmp_path, monkeypatch):
    """Small catalogues, of which the sample has many."""
    monkeypatch.setattr(coverage, "SIZES", (25,))
    dataset, done = Dataset.read(SAMPLE), []
    run = chosen(SAMPLE, tmp_path / "trial", hold_out=(), batch_size=4096)
    (trained,), _ = train_on(run, tmp_path / "m", members=1, epochs=1)
    out = tuple(folds(dataset, 2)[0])

    run = other_data(trained, report_cells=out)
    export.write([run], tmp_path / "e", catalogs=10, step=lambda *each: done.append(each))

    emulator = Emulator.load(tmp_path / "e")
    found = emulator.reliability
    assert done == [(number, 20) for number in range(1, 21)]
    assert {one.place: one.catalogs for one in found.measured} == {CELLS: 10, HELD_OUT: 10}
    assert found.missing == {}
    held_out = [(emulator.module, keys(dataset, out))]
    again = coverage.measure(emulator.module, SAMPLE, catalogs=10, held_out=held_out)
    assert again == found == ArrayFlow.load(tmp_path / "e").reliability
    text = (tmp_path / "e" / "README.md").read_text()
    assert f"| 10 | 25 | {found.at(HELD_OUT).cells} of " in text
    assert str(found.good_for) in text
    said = outcome.told([trained.record], tmp_path / "e")
    where = "by 10 catalogues of 25 in cells and 10 catalogues of 25 in held-out cells"
    assert said.endswith(f"good for: {found.good_for}, {where}")

    gone = other_data(trained, fingerprint="other").record
    found = export._reliability(emulator, gone, [], 10, lambda *each: None)
    assert "the data were not there" in found.missing[CELLS]
    assert found.good_for is None
