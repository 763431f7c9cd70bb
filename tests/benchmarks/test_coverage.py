"""The catalogues of the benchmark of coverage, its files and its errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from models import Emulator
from models.bundle.ensemble import Ensemble
from tests.random_flows import a_flow

ROOT = Path(__file__).parents[2]
DOMAIN = np.array([[1e-4, 1e-2], [0.5, 5.0]])


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """Modules of `benchmarks/`, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import coverage
        import coverage_report

        yield SimpleNamespace(main=coverage, report=coverage_report)


def test_catalogues_of_one_size_share_no_row_and_are_no_ones_training(bench, prepared):
    options = SimpleNamespace(data=prepared, between=None, sizes=(5, 20), catalogs=300)

    made = list(bench.main.of_simulation(options, DOMAIN))

    rows = bench.main.read_split(prepared, "test")
    here = (rows.conditions == np.float32([0.001, 1.0])).all(1).sum()
    for size in options.sizes:
        some = [one for one in made if len(one.events_NF) == size]
        events = np.concatenate([one.events_NF for one in some])
        assert len(some) == here // size
        assert len(np.unique(events, axis=0)) == len(events)
        assert np.isin(events, rows.events.astype(float)).all()
    assert {tuple(np.float32(one.truth_C)) for one in made} == {tuple(np.float32([0.001, 1.0]))}


def test_a_run_tells_of_every_method_and_goes_on(bench, prepared, tmp_path, monkeypatch, capsys):
    small = {"kind": "affine", "blocks": 1, "hidden": 8}
    flows = [a_flow(options=small, seed=seed, noise=0.1) for seed in (5, 6)]
    Emulator(Ensemble(flows)).save(tmp_path / "two")
    Emulator(flows[0]).save(tmp_path / "single")
    words = ["two", "single", "--results", "found", "--data", str(prepared), "--catalogs", "2"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["coverage.py", *words, "--sizes", "5", "9", "--workers", "1"])

    bench.main.main()
    first = capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "found").glob("*.npz")}
    bench.main.main()

    assert len(times) == 4
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for method in ("two one", "two mean density", "two members", "single one", "control"):
        assert method in first
    monkeypatch.setattr("sys.argv", ["coverage.py", *words, "--law", "known", "--workers", "1"])
    with pytest.raises(SystemExit, match="holds results of other emulators or data"):
        bench.main.main()


def test_catalogues_of_one_cell_count_as_one(bench):
    """Ten cells in which all catalogues fail or none does: the error is that of ten draws."""
    cells = np.repeat(np.arange(10), 50)
    inside = np.repeat(np.arange(10) < 7, 50).astype(float)

    assert bench.report.error(cells, inside) == pytest.approx(np.sqrt(0.7 * 0.3 / 10), rel=0.1)
