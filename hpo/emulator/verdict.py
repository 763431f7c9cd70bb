"""What an evaluation amounts to, in a sentence, and which of its cells are the worst."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_prep.dataset import shown
from data_prep.words.numbers import counted, short
from models.bundle.reliability import Reliability
from models.evaluation.calibration import KOLMOGOROV_MEAN
from models.evaluation.cells import CELL_ROWS

Found = Mapping[str, Any]
MARK = "!"
ERRORS = 3.0
"""Standard errors from a perfect emulator's value beyond which a number is marked."""
KS_OVER_FLOOR = 1.949 / KOLMOGOROV_MEAN
"""As far above its floor a distance is once in 1000 samples of an exact emulator."""


def verdict(found: Found, reliability: Reliability | None) -> str:
    """How many cells are further from the data than chance, which is the worst, and for how many
    events of a catalogue it is good.

    Args:
        found: An evaluation of one emulator.
        reliability: Of the emulator.
    """
    cells, worst = found["cells"], found["worst_ks"]
    beyond = sum(cell["beyond_chance"] for cell in cells)
    if cells:
        told = f"{beyond or 'None'} of {counted(len(cells), 'cell')} "
        told += f"{'is' if beyond < 2 else 'are'} further from the data than chance explains"
    else:
        told = f"No cell has the {CELL_ROWS} rows that distances need"
    if worst:
        told += f"; the worst is {shown(worst['conditions'])}, where the KS distance of "
        told += f"{worst['column']} is {short(worst['over_floor'], 2)} times its floor"
    if reliability is None or reliability.good_for is None:
        return f"{told}. For how many events of a catalogue it is good, no export measured."
    return f"{told}. It is good for {reliability.good_for} events of a catalogue."


def by_badness(found: Found) -> list[int]:
    """The places of the cells in the evaluation, those furthest from the data first."""
    return sorted(range(len(found["cells"])), key=lambda k: -_over_floor(found["cells"][k]))


def _over_floor(cell: Found) -> float:
    distances = ((cell["ks"][name], floor) for name, floor in cell["floor"].items() if floor)
    return max((math.inf if ks is None else ks / floor for ks, floor in distances), default=0.0)


def marked(measure: str, value: float | None, error: float | None, ideal: float | None) -> bool:
    """Whether a number of the whole part is further from a perfect emulator's than chance is."""
    if value is None or ideal is None:
        return False
    if error:
        return abs(value - ideal) > ERRORS * error
    return "KS of" in measure and value > KS_OVER_FLOOR * ideal


def worst_first(
    rows: Sequence[dict[str, object]], found: Found, most: int | None
) -> Iterable[dict[str, object]]:
    """The rows of cells, in the order of the evaluation, as a person reads them: with a mark."""
    for k in by_badness(found)[:most]:
        mark: dict[str, object] = {"": MARK if found["cells"][k]["beyond_chance"] else ""}
        ends = list(rows[k]).index("rows") + 1
        first, last = list(rows[k].items())[:ends], list(rows[k].items())[ends:]
        yield dict(first) | mark | dict(last)
