"""An evaluation as rows to print: each measure with its error, what would be ideal, and its unit.

The numbers are those of `models.evaluation`; here they become short text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hpo.listing import Format

Found = Mapping[str, Any]
Row = dict[str, object]


class _Measure(NamedTuple):
    """One line of the table."""

    name: str
    keys: tuple[str, ...]
    """Where its number is in an evaluation."""
    error: tuple[str, ...] = ()
    ideal: str | tuple[str, ...] = ""
    """What a perfect emulator has, or where its floor is in an evaluation."""
    unit: str = ""


def scores(found: Found, split: str) -> list[Row]:
    """One evaluation: measure, value with its standard error, ideal, unit."""
    return [
        {
            "measure": one.name,
            "value": _with_error(_at(found, one.keys), _at(found, one.error)),
            "ideal": one.ideal if isinstance(one.ideal, str) else _short(_at(found, one.ideal)),
            "unit": one.unit,
        }
        for one in _measures(found, split)
    ]


def beside(found: Found, split: str, name: str, other: str, style: Format) -> list[Row]:
    """Two evaluations and their difference; as numbers in CSV, as short text elsewhere."""
    first, second, difference = (found[key] for key in ("emulator", "against", "difference"))
    show = _numbers if style == "csv" else _texts
    return [show(one, first, second, difference, name, other) for one in _measures(first, split)]


def cells(found: Found, units: Mapping[str, str]) -> list[Row]:
    """Each cell: its NLL, and every distance with its floor in parentheses.

    Args:
        found: An evaluation.
        units: Of the event columns.
    """
    rows: list[Row] = []
    for cell in found["cells"]:
        row = {**cell["conditions"], "rows": cell["rows"], "NLL [nats]": _nll(cell["nll"])}
        for name in cell["ks"]:
            row[f"KS {name}"] = _with_floor(cell["ks"][name], cell["floor"][name])
        for name, value in cell["wasserstein"].items():
            unit = f" [{units[name]}]" if units.get(name) else ""
            row[f"W1 {name}{unit}"] = _with_floor(value, cell["wasserstein_floor"][name])
        row["JS [nats]"] = _with_floor(cell["jensen_shannon"], cell["jensen_shannon_floor"])
        rows.append(row)
    return rows


def cells_beside(found: Found) -> list[Row]:
    """Each cell: both NLLs in nats per event, and their difference with its error."""
    together = zip(*(found[key]["cells"] for key in found), strict=True)
    return [
        {
            **first["conditions"],
            "rows": first["rows"],
            "NLL [nats]": _nll(first["nll"]),
            "against": _nll(second["nll"]),
            "difference": _nll(difference["nll"], sign="+"),
        }
        for first, second, difference in together
    ]


def _measures(found: Found, split: str) -> Iterator[_Measure]:
    nll, averaged = f"{split}_nll", "cell_averaged_nll"
    yield _Measure(f"{split} NLL", (nll, "mean"), (nll, "error"), unit="nats per event")
    yield _Measure(
        "NLL, mean of cells", (averaged, "mean"), (averaged, "error"), unit="nats per event"
    )
    of_test = "two_sample"
    yield _Measure("C2ST accuracy", (of_test, "accuracy"), (of_test, "error"), "0.5")
    for percent, one in found["calibration"]["coverage"].items():
        where = ("calibration", "coverage", percent)
        yield _Measure(
            f"coverage of densest {percent} %",
            (*where, "fraction"),
            (*where, "error"),
            f"{one['nominal']:g}",
        )
    yield _Measure(
        "KS of levels to uniform",
        ("calibration", "level_ks"),
        ideal=("calibration", "level_ks_floor"),
    )
    for label, key in (("KS", "ks"), ("W1", "wasserstein"), ("JS", "jensen_shannon")):
        yield _Measure(f"{label} / floor, median of cells", (f"median_{key}_over_floor",), (), "1")
    yield _Measure("unphysical draws", ("unphysical_fraction",), (), "0")
    yield _Measure("parameters", ("cost", "parameters"))
    yield _Measure("operations", ("cost", "flops_per_event"), unit="FLOPs per density")
    yield _Measure("draws", ("speed", "samples_per_second"), unit="per second")
    yield _Measure("densities", ("speed", "log_prob_per_second"), unit="per second")


def _numbers(
    one: _Measure, first: Found, second: Found, difference: Found, name: str, other: str
) -> Row:
    values: Row = {"measure": one.name}
    for column, found in ((name, first), (other, second), ("difference", difference)):
        values[column] = _at(found, one.keys)
        values[f"{column} error"] = _at(found, one.error)
    return {**values, "unit": one.unit}


def _texts(
    one: _Measure, first: Found, second: Found, difference: Found, name: str, other: str
) -> Row:
    gap = _with_error(_at(difference, one.keys), _at(difference, one.error), sign="+")
    return {
        "measure": one.name,
        name: _with_error(_at(first, one.keys), _at(first, one.error)),
        other: _with_error(_at(second, one.keys), _at(second, one.error)),
        "difference": gap,
        "unit": one.unit,
    }


def _at(found: Found, keys: Sequence[str]) -> float | None:
    """The number there; None if there is none."""
    value: Any = found if keys else None
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None


def _nll(score: Found, sign: str = "") -> str | None:
    return _with_error(score["mean"], score["error"], sign=sign)


def _with_error(value: float | None, error: float | None, *, sign: str = "") -> str | None:
    """`4.212 +- 0.014`: as many decimals as the error's two leading digits have."""
    if value is None:
        return None
    if not error:
        return _short(value, sign=sign)
    decimals = _decimals(error, 2)
    return f"{value:{sign}.{decimals}f} +- {error:.{decimals}f}"


def _with_floor(value: float | None, floor: float | None) -> str:
    return f"{_short(value, 2) or '-'} ({_short(floor, 2) or '-'})"


def _short(value: float | None, digits: int = 3, *, sign: str = "") -> str | None:
    """That many digits at least, without an exponent; a count in full."""
    if value is None:
        return None
    if isinstance(value, int) or not value:
        return f"{value:{sign if value else ''},.0f}"
    return f"{_rounded(value, digits):{sign},.{_decimals(value, digits)}f}"


def _rounded(value: float, digits: int) -> float:
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def _decimals(value: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))
