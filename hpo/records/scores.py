"""The NLLs by which a record tells the quality of finished weights: on the test split, nats."""

from __future__ import annotations

from pathlib import Path

from data_prep.cells import Named
from data_prep.untrusted import finite
from hpo.records.record import CellNll, HeldOutNll, TestNll
from models.bundle.ensemble import Density
from models.evaluation.nll import cell_nlls, nll


def score(flow: Density, folder: Path, hold_out: Named) -> TestNll:
    """On the test rows of all cells but the held-out ones."""
    found = nll(flow, folder, "test", without=hold_out)
    return TestNll(nll=found.mean, error=found.error, rows=found.rows)


def score_held_out(flow: Density, folder: Path, hold_out: Named) -> HeldOutNll | None:
    """On the test rows of the held-out cells, together and each; None where there are none."""
    if not hold_out:
        return None
    found = nll(flow, folder, "test", only=hold_out)
    cells = tuple(
        CellNll(
            conditions=cell.conditions,
            nll=finite(cell.nll.mean) if cell.nll else None,
            error=finite(cell.nll.error) if cell.nll else None,
            rows=cell.nll.rows if cell.nll else 0,
        )
        for cell in cell_nlls(flow, folder, "test", hold_out)
    )
    return HeldOutNll(
        nll=finite(found.mean), error=finite(found.error), rows=found.rows, cells=cells
    )
