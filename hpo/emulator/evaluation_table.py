"""An evaluation as one long list of scores, and the tables that are made of it.

The numbers are those of `models.evaluation.report`, or of `comparison` for two emulators. A score
is one measure, of the whole part or of one cell, with its number in each of the evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.columns import Value
from data_prep.dataset import shown
from data_prep.words.numbers import short, with_error
from hpo.emulator.verdict import MARK, marked

Found = Mapping[str, Any]
Row = dict[str, object]
DIFFERENCE = "difference"
KINDS = {
    "trained_cells_nll": "trained cells",
    "held_out_nll": "held-out cells",
    "report_nll": "held-out cells that chose nothing",
}
"""NLLs of kinds of cells, where some were held out."""
CATALOGS = {"trained_cells": "catalogues", "held_out_cells": "catalogues in held-out cells"}


class Score(NamedTuple):
    """One measure, of the whole part or of a cell."""

    cell: Mapping[str, Value] | None
    """Its conditions, of a region their ends; None for the whole part."""
    held_out: bool | str | None
    """Whether the emulator was trained without the cell; of two, the one that was."""
    measure: str
    values: Mapping[str, tuple[float | None, float | None]]
    """Number and standard error by title: `value`, or names of two emulators and `difference`."""
    ideal: float | None
    """The value of a perfect emulator, on average."""
    unit: str
    note: str = ""
    """What people want to know of the measure beside its name."""


class _Measure(NamedTuple):
    name: str
    keys: tuple[str, ...]
    """Where its number is in an evaluation, or in one of its cells."""
    unit: str = ""
    ideal: float | tuple[str, ...] | None = None
    """The value of a perfect emulator, or the place of its floor."""
    note: str = ""


def scores(
    found: Found, split: str, units: Mapping[str, str], names: tuple[str, str] | None = None
) -> list[Score]:
    """Every score: of the whole part first, then cell by cell.

    Args:
        found: An evaluation, or a comparison.
        split: The part that it is of.
        units: Of the event columns.
        names: Of the two emulators that are compared.
    """
    evaluations = {"value": found}
    if names:
        keys = ("emulator", "against", "difference")
        titles = zip((*names, DIFFERENCE), keys, strict=True)
        evaluations = {title: found[key] for title, key in titles}
    first = next(iter(evaluations.values()))
    kinds = [kind for kind in KINDS if any(each[kind] for each in evaluations.values())]
    told = [_score(one, evaluations) for one in _measures(first, split, kinds)]
    for index, cell in enumerate(first["cells"]):
        here = {title: each["cells"][index] for title, each in evaluations.items()}
        held_out = cell["held_out"]
        if names:  # those of the two that did not see the cell in training
            without = [name for name in names if here[name]["held_out"]]
            held_out = "both" if len(without) == 2 else (without or ["none"])[0]
        for one in _measures_of_cell(cell, units, weighted="weights" in first):
            told.append(_score(one, here, _place(cell), held_out))
    return told


def numbers(told: Sequence[Score]) -> list[Row]:
    """To compute with: one score a row, a row of the whole part without conditions."""
    conditions = next((list(one.cell) for one in told if one.cell), [])
    rows = []
    for one in told:
        row: Row = {name: (one.cell or {}).get(name) for name in conditions}
        row |= {_held_out(one): one.held_out, "measure": one.measure}
        for title, (value, error) in one.values.items():
            row |= {title: value, "error" if title == "value" else f"{title} error": error}
        rows.append({**row, "ideal": one.ideal, "unit": one.unit})
    return rows


def whole(told: Sequence[Score]) -> list[Row]:
    """To look at: the scores of the whole part; beside those of one emulator a mark where they
    are out of bounds, and `ideal`."""
    rows: list[Row] = []
    for one in told:
        if one.cell is None:
            ideal = {"ideal": "" if one.ideal is None else f"{one.ideal:.3g}"}
            alone = ideal if len(one.values) == 1 else {}
            name = f"{one.measure} ({one.note})" if one.note else one.measure
            mark = {"": MARK if _off(one) else ""} if alone else {}
            rows.append({"measure": name, **_texts(one), **mark, **alone, "unit": one.unit})
    return rows


def _off(one: Score) -> bool:
    ((value, error),) = one.values.values()
    return marked(one.measure, value, error, one.ideal)


def cells(told: Sequence[Score]) -> list[Row]:
    """To look at, a row for each cell: all its scores, of two emulators their NLLs.

    A number in parentheses is the floor of the distance before it.
    """
    here = [one for one in told if one.cell is not None]
    some_held_out = any(one.held_out not in (False, "none") for one in here)
    rows: list[Row] = []
    for one in here:
        if one.measure == "rows":  # the first score of a cell
            (count, _), *_ = one.values.values()
            held_out = {_held_out(one): one.held_out} if some_held_out else {}
            rows.append({**(one.cell or {}), "rows": count, **held_out})
        elif one.measure == "effective rows":
            (count, _), *_ = one.values.values()
            rows[-1][one.measure] = None if count is None else short(count)
        elif one.measure == "NLL" or len(one.values) == 1:
            rows[-1] |= _columns(one)
    return rows


def _place(cell: Found) -> dict[str, Value]:
    """The conditions of a cell; of a region the ends of those that have some."""
    place: dict[str, Value] = {}
    for name, value in cell["conditions"].items():
        low, high = cell.get("box", {}).get(name, (None, None))
        place |= {name: value} if low is None else {f"{name} from": low, f"{name} to": high}
    return place


def _measures(found: Found, split: str, kinds: Sequence[str]) -> Iterator[_Measure]:
    nats = "nats per event"
    if "weights" in found:
        yield _Measure("effective rows", (f"{split}_nll", "effective_rows"))
    yield _Measure(f"{split} NLL", (f"{split}_nll", "mean"), nats)
    yield _Measure("NLL, mean of cells", ("cell_averaged_nll", "mean"), nats)
    if "held_out_nll" in kinds:
        for kind in kinds:
            yield _Measure(f"{split} NLL, {KINDS[kind]}", (kind, "mean"), nats)
    yield _Measure("C2ST AUC", ("two_sample", "auc"), ideal=0.5)
    yield _Measure("C2ST AUC, real against real", ("real_against_real", "auc"), ideal=0.5)
    levels = "calibration"
    for percent, one in found[levels]["coverage"].items():
        keys = (levels, "coverage", percent, "fraction")
        yield _Measure(f"coverage of densest {percent} %", keys, ideal=one["nominal"])
    floor: tuple[str, ...] = (levels, "level_ks_floor")
    yield _Measure("KS of levels to uniform", (levels, "level_ks"), ideal=floor)
    for name in found[levels]["pit"]:
        keys, floor = (levels, "pit", name, "ks"), (levels, "pit", name, "ks_floor")
        yield _Measure(f"KS of PIT {name} to uniform", keys, ideal=floor)
    for label, key in (("KS", "ks"), ("W1", "wasserstein"), ("JS", "jensen_shannon")):
        yield _Measure(f"{label} / floor, median of cells", (f"median_{key}_over_floor",), ideal=1)
    if worst := found["worst_ks"]:
        note = f"{worst['column']}, {shown(worst['conditions'])}"
        at = "worst_ks"
        yield _Measure("KS / floor, worst cell", (at, "over_floor"), "", (at, "ideal"), note)
    yield from _measures_of_catalogs(found.get("catalogs", {}))
    if found["small_cells"]:
        yield from _measures_of_small_cells(found["small_cells"])
    for name in found["outside_range"]:
        floor = ("outside_range_floor", name)
        yield _Measure(f"draws outside the data's {name}", ("outside_range", name), ideal=floor)
    if found["not_finite"]:
        yield _Measure("draws that are not finite", ("not_finite",), ideal=0)
    yield _Measure("parameters", ("cost", "parameters"))
    yield _Measure("operations", ("cost", "flops_per_event"), "FLOPs per density")
    yield _Measure("draws", ("speed", "samples_per_second"), "per second")
    yield _Measure("densities", ("speed", "log_prob_per_second"), "per second")


def _measures_of_catalogs(found: Found) -> Iterator[_Measure]:
    for place, name in CATALOGS.items():
        if one := found.get(place):
            at, share = ("catalogs", place), one["nominal"]
            note = f"{one['covered']} of {one['catalogs']}"
            title = f"{name}, coverage of {100 * share:.0f} %"
            yield _Measure(title, (*at, "fraction"), "", share, note)
            title, note = f"{name}, squared distance", f"{one['events']} events each"
            yield _Measure(title, (*at, "square", "mean"), "", 1, note)


def _measures_of_small_cells(found: Found) -> Iterator[_Measure]:
    place = ("small_cells",)
    yield _Measure("small cells, rows", (*place, "rows"))
    if found["two_sample"]:
        yield _Measure("small cells, C2ST AUC", (*place, "two_sample", "auc"), ideal=0.5)
    levels = found["calibration"] or {"coverage": {}, "pit": {}}
    for percent, one in levels["coverage"].items():
        keys = (*place, "calibration", "coverage", percent, "fraction")
        name = f"small cells, coverage of densest {percent} %"
        yield _Measure(name, keys, ideal=one["nominal"])
    for name in levels["pit"]:
        pit = (*place, "calibration", "pit", name)
        title = f"small cells, KS of PIT {name} to uniform"
        yield _Measure(title, (*pit, "ks"), ideal=(*pit, "ks_floor"))


def _measures_of_cell(
    cell: Found, units: Mapping[str, str], *, weighted: bool
) -> Iterator[_Measure]:
    yield _Measure("rows", ("rows",))
    if weighted:
        yield _Measure("effective rows", ("effective_rows",))
    yield _Measure("NLL", ("nll", "mean"), "nats per event")
    for name in cell["ks"]:
        yield _Measure(f"KS {name}", ("ks", name), ideal=("floor", name))
    for name in cell["wasserstein"]:
        floor = ("wasserstein_floor", name)
        yield _Measure(f"W1 {name}", ("wasserstein", name), units.get(name, ""), floor)
    yield _Measure("JS", ("jensen_shannon",), "nats", ("jensen_shannon_floor",))


def _score(
    one: _Measure,
    evaluations: Mapping[str, Found],
    cell: Mapping[str, Value] | None = None,
    held_out: bool | str | None = None,
) -> Score:
    has_error = one.keys[-1] in ("mean", "auc", "fraction")
    values = {
        title: (_at(each, one.keys), _at(each, (*one.keys[:-1], "error")) if has_error else None)
        for title, each in evaluations.items()
    }
    ideal = one.ideal
    if isinstance(ideal, tuple):
        ideal = _at(next(iter(evaluations.values())), ideal)
    note = one.note if len(evaluations) == 1 else ""
    return Score(cell, held_out, one.name, values, ideal, one.unit, note)


def _at(found: Found, keys: Sequence[str]) -> float | None:
    """The number there; None if there is none."""
    value: Any = found
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None


def _held_out(one: Score) -> str:
    """The column that tells of cells kept out of training."""
    return "held out" if len(one.values) == 1 else "held out by"


def _texts(one: Score) -> Row:
    return {
        title: _with_error(*number, sign="+" if title == DIFFERENCE else "")
        for title, number in one.values.items()
    }


def _columns(one: Score) -> Row:
    """A score of a cell as columns, their units in the heads."""
    heads = {"value": one.measure, DIFFERENCE: DIFFERENCE}
    unit = f" [{one.unit.removesuffix(' per event')}]" if one.unit else ""
    floor = "" if one.ideal is None else f" ({short(one.ideal, 2)})"
    texts = (
        {"value": ("-" if (value := one.values["value"][0]) is None else short(value, 2)) + floor}
        if floor
        else _texts(one)
    )
    return {f"{heads.get(t, f'{one.measure} of {t}')}{unit}": text for t, text in texts.items()}


def _with_error(value: float | None, error: float | None, *, sign: str = "") -> str | None:
    if value is None:
        return None
    return with_error(value, error, sign=sign) if error else short(value, sign=sign)
