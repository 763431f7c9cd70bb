"""An evaluation as rows to print: each measure with its error, what would be ideal, and its unit.

The numbers are those of `models.evaluation.report`; here they become short text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from models.bundle.markdown import decimals

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


def beside(found: Found, split: str, name: str, other: str) -> list[Row]:
    """Two evaluations and their difference: measure, the three with their errors, unit."""
    first, second, difference = (found[key] for key in ("emulator", "against", "difference"))
    return [
        {
            "measure": one.name,
            name: _with_error(_at(first, one.keys), _at(first, one.error)),
            other: _with_error(_at(second, one.keys), _at(second, one.error)),
            "difference": _with_error(
                _at(difference, one.keys), _at(difference, one.error), sign="+"
            ),
            "unit": one.unit,
        }
        for one in _measures_of_both(first, second, split)
    ]


def cells(found: Found, units: Mapping[str, str]) -> list[Row]:
    """Each cell: its NLL, and every distance with its floor in parentheses.

    Args:
        found: An evaluation.
        units: Of the event columns.
    """
    some_held_out = any(cell["held_out"] for cell in found["cells"])
    rows: list[Row] = []
    for cell in found["cells"]:
        row: Row = {**cell["conditions"], "rows": cell["rows"]}
        if some_held_out:
            row["held out"] = "yes" if cell["held_out"] else "no"
        row["NLL [nats]"] = _nll(cell["nll"])
        for name in cell["ks"]:
            row[f"KS {name}"] = _with_floor(cell["ks"][name], cell["floor"][name])
        for name, value in cell["wasserstein"].items():
            unit = f" [{units[name]}]" if units.get(name) else ""
            row[f"W1 {name}{unit}"] = _with_floor(value, cell["wasserstein_floor"][name])
        row["JS [nats]"] = _with_floor(cell["jensen_shannon"], cell["jensen_shannon_floor"])
        rows.append(row)
    return rows


def cells_beside(found: Found, name: str, other: str) -> list[Row]:
    """Each cell: both NLLs in nats per event, and their difference with its error."""
    together = list(zip(*(found[key]["cells"] for key in found), strict=True))
    some_held_out = any(one["held_out"] for pair in together for one in pair[:2])
    return [
        {
            **first["conditions"],
            "rows": first["rows"],
            **({"held out by": _who(first, second, name, other)} if some_held_out else {}),
            f"NLL of {name}": _nll(first["nll"]),
            f"NLL of {other}": _nll(second["nll"]),
            "difference": _nll(difference["nll"], sign="+"),
            "unit": "nats",
        }
        for first, second, difference in together
    ]


def numbers(found: Found, split: str, units: Mapping[str, str]) -> list[Row]:
    """One evaluation to compute with, one number a row: the whole part first, then each cell.

    A row of the whole part has no conditions. `ideal` is a floor where there is one.
    """
    names = _conditions(found)
    rows: list[Row] = [
        {**dict.fromkeys(names), "held out": None, **_number(one, found)}
        for one in _measures(found, split)
    ]
    for cell in found["cells"]:
        where = {**cell["conditions"], "held out": cell["held_out"]}
        rows += [{**where, **_number(one, cell)} for one in _measures_of_cell(cell, units)]
    return rows


def numbers_beside(
    found: Found, split: str, name: str, other: str, units: Mapping[str, str]
) -> list[Row]:
    """Two evaluations and their difference, likewise."""
    first, second, difference = (found[key] for key in ("emulator", "against", "difference"))
    titles = (name, other, "difference")
    everywhere = {**dict.fromkeys(_conditions(first)), "held out by": None}
    rows: list[Row] = [
        {**everywhere, **_numbers(one, (first, second, difference), titles)}
        for one in _measures_of_both(first, second, split)
    ]
    for three in zip(first["cells"], second["cells"], difference["cells"], strict=True):
        where = {**three[0]["conditions"], "held out by": _who(*three[:2], name, other)}
        rows += [
            {**where, **_numbers(one, three, titles)} for one in _measures_of_cell(three[0], units)
        ]
    return rows


def _conditions(found: Found) -> list[str]:
    return list(found["cells"][0]["conditions"]) if found["cells"] else []


def _who(first: Found, second: Found, name: str, other: str) -> str:
    """Which of the two did not see the cell in training."""
    match first["held_out"], second["held_out"]:
        case True, True:
            return "both"
        case True, False:
            return name
        case False, True:
            return other
        case _:
            return "none"


def _measures_of_both(first: Found, second: Found, split: str) -> Iterator[_Measure]:
    """Those that one of the two has."""
    held_out = first["held_out_nll"] or second["held_out_nll"]
    return _measures({**first, "held_out_nll": held_out}, split)


def _measures(found: Found, split: str) -> Iterator[_Measure]:
    nll, averaged = f"{split}_nll", "cell_averaged_nll"
    yield _Measure(f"{split} NLL", (nll, "mean"), (nll, "error"), unit="nats per event")
    yield _Measure(
        "NLL, mean of cells", (averaged, "mean"), (averaged, "error"), unit="nats per event"
    )
    if found["held_out_nll"]:
        for label, key in (("trained", "trained_cells_nll"), ("held-out", "held_out_nll")):
            name = f"{split} NLL, {label} cells"
            yield _Measure(name, (key, "mean"), (key, "error"), unit="nats per event")
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
    for name in found["calibration"]["pit"]:
        where = ("calibration", "pit", name)
        yield _Measure(f"KS of PIT {name} to uniform", (*where, "ks"), ideal=(*where, "ks_floor"))
    for label, key in (("KS", "ks"), ("W1", "wasserstein"), ("JS", "jensen_shannon")):
        yield _Measure(f"{label} / floor, median of cells", (f"median_{key}_over_floor",), (), "1")
    yield _Measure("unphysical draws", ("unphysical_fraction",), (), "0")
    yield _Measure("parameters", ("cost", "parameters"))
    yield _Measure("operations", ("cost", "flops_per_event"), unit="FLOPs per density")
    yield _Measure("draws", ("speed", "samples_per_second"), unit="per second")
    yield _Measure("densities", ("speed", "log_prob_per_second"), unit="per second")


def _measures_of_cell(cell: Found, units: Mapping[str, str]) -> Iterator[_Measure]:
    yield _Measure("rows", ("rows",))
    yield _Measure("NLL", ("nll", "mean"), ("nll", "error"), unit="nats per event")
    for name in cell["ks"]:
        yield _Measure(f"KS {name}", ("ks", name), ideal=("floor", name))
    for name in cell["wasserstein"]:
        floor = ("wasserstein_floor", name)
        yield _Measure(f"W1 {name}", ("wasserstein", name), (), floor, units.get(name, ""))
    yield _Measure("JS", ("jensen_shannon",), (), ("jensen_shannon_floor",), "nats")


def _number(one: _Measure, found: Found) -> Row:
    return {
        "measure": one.name,
        "value": _at(found, one.keys),
        "error": _at(found, one.error),
        "ideal": _ideal(one, found),
        "unit": one.unit,
    }


def _numbers(one: _Measure, three: Sequence[Found], titles: Sequence[str]) -> Row:
    values: Row = {"measure": one.name}
    for title, found in zip(titles, three, strict=True):
        values[title] = _at(found, one.keys)
        values[f"{title} error"] = _at(found, one.error)
    return {**values, "ideal": _ideal(one, three[0]), "unit": one.unit}


def _ideal(one: _Measure, found: Found) -> float | None:
    """As a number: what a perfect emulator has."""
    if isinstance(one.ideal, tuple):
        return _at(found, one.ideal)
    return float(one.ideal) if one.ideal else None


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
    places = decimals(error, 2)
    return f"{value:{sign}.{places}f} +- {error:.{places}f}"


def _with_floor(value: float | None, floor: float | None) -> str:
    return f"{_short(value, 2) or '-'} ({_short(floor, 2) or '-'})"


def _short(value: float | None, digits: int = 3, *, sign: str = "") -> str | None:
    """That many digits at least, without an exponent; a count in full."""
    if value is None:
        return None
    if isinstance(value, int) or not value:
        return f"{value:{sign if value else ''},.0f}"
    return f"{_rounded(value, digits):{sign},.{decimals(value, digits)}f}"


def _rounded(value: float, digits: int) -> float:
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))
