"""What a user is told of the columns: the one line of each, and the sentences where one is due."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_prep.columns import Column, pair_of
from data_prep.dataset import Dataset
from data_prep.errors import quoted
from data_prep.names.hints import certain, counterparts
from data_prep.names.known import meaning_of
from data_prep.preparation.request import Request

EVENTS, CONDITIONS = ("Mass_0", "Mass_1"), ("Z", "alpha")
"""Columns of a dataset that are not named otherwise, as SEVN calls them."""
WIDEST = 24
"""Characters of the texts of a column that are shown."""
_TWO_MASSES = (("mass", "mass ratio"), ("chirp mass", "mass ratio"), ("total mass", "mass ratio"))
HEAVY = 0.2
"""Effective rows over rows, below which a user is told."""
Ranges = Mapping[str, tuple[float, float]]


def lines(
    events: Sequence[Column],
    conditions: Sequence[Column],
    weight: Column | None,
    ranges: Ranges,
    *,
    turned: bool = True,
) -> list[dict[str, object]]:
    """One row for each column: role, unit, support, range in the data, and what a flow sees.

    A range that is not there is None, and so is the unit of a pure number. Unless the flow has
    another choice of coordinates, a pair of masses is `turned` to their ratio.
    """
    pair = pair_of(events) if turned else None
    told = [
        *((column, "event", _event(column, pair, k)) for k, column in enumerate(events)),
        *((column, "condition", _condition(column)) for column in conditions),
        *((column, "weight", None) for column in [weight] if column),
    ]
    return [_line(column, role, seen, ranges.get(column.name)) for column, role, seen in told]


def shortened(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, object]]:
    """The same for a terminal of 80 characters: the range as one text."""
    short = []
    for row in rows:
        lowest, highest = row["lowest"], row["highest"]
        ends = () if lowest is None else dict.fromkeys((f"{lowest:.5g}", f"{highest:.5g}"))
        texts = ", ".join(row.get("categories", ()))
        texts = texts if len(texts) <= WIDEST else f"{texts[: WIDEST - 3]}..."
        short.append(
            {name: row[name] for name in ("column", "role", "unit", "support")}
            | {"in the data": " to ".join(ends) or texts or None, "in the flow": row["in the flow"]}
        )
    return short


def remarks(request: Request, ranges: Ranges, names: Iterable[str]) -> Iterator[str]:
    """What a user should know of how the columns were understood.

    Args:
        request: Its columns, and what was said of them.
        ranges: Lowest and highest value of each column.
        names: All columns of the tables.
    """
    columns = (*request.event_columns, *request.condition_columns)
    numbers = [column for column in columns if not column.categories]
    unknown = [one for one in numbers if not (meaning_of(one.name) or one.name in request.support)]
    for column in unknown:
        way = "say otherwise by --support and --unit"
        if ranges[column.name][0] > 0 and column in request.event_columns:
            way = (
                f"all are above 0, so if they must be, pass --support {quoted(column.name)}"
                "=positive, else a flow draws negative ones"
            )
        yield f"{column.name} is no known name, so its values are taken for real numbers: {way}"
    for column in numbers:
        known = meaning_of(column.name)
        if known and known.unit is None and column.name not in request.units:
            unit = "Rsun" if known.quantity == "separation" else "Myr"
            yield (
                f"the unit of {column.name} differs from code to code: "
                f"pass --unit {quoted(column.name)}={unit}, or whatever it is"
            )
    for name, step in request.lattice.items():
        yield f"{name} was rounded to {step:g}: each value was spread evenly over its step"
    weights = [name for name in names if (m := meaning_of(name)) and m.quantity == "weight"]
    if request.weights is None and weights:
        yield (
            f"the table has a column {weights[0]!r}, but all rows count alike: pass --weights "
            f"{quoted(weights[0])} if it says how much each counts"
        )


def weighing(dataset: Dataset) -> Iterator[str]:
    """A sentence, where a few heavy rows decide nearly everything."""
    rows, effective = dataset.rows["train"], dataset.effective("train")
    if effective < HEAVY * rows:
        yield (
            f"the weights differ so much that the {rows:,} rows of train tell as much as "
            f"{effective:,.0f} of equal weight, and a flow learns no more than from so many"
        )


def own_names(request: Request, names: Sequence[str]) -> str:
    """The options that ask for the columns of a table by the names that it has for them.

    Where the events are those of every table, any pair of columns will do that tells two masses.
    """
    absent = [name for name in request.names if name not in names]
    others = [name for name in names if name not in request.names]
    near = certain(counterparts(absent, others)) | {name: name for name in names}
    events = [near[name] for name in request.events if name in near]
    if len(events) < len(request.events):
        quantities = {each: m.quantity for each in others if (m := meaning_of(each))}
        pairs = (
            [next((one for one in others if quantities.get(one) == each), None) for each in pair]
            for pair in _TWO_MASSES
        )
        found = next((pair for pair in pairs if None not in pair), [])
        events = [*filter(None, found)] if request.events == EVENTS else []
    options = {
        "--events": events,
        "--conditions": [near[name] for name in request.conditions if name in near],
    }
    return " ".join(
        f"{option} {quoted(','.join(each))}" for option, each in options.items() if each
    )


def _line(
    column: Column, role: str, seen: str | None, span: tuple[float, float] | None
) -> dict[str, object]:
    support = "positive" if role == "weight" else column.support
    if column.categories:
        support, span = f"{len(column.categories)} texts", None
    lowest, highest = span or (None, None)
    return {
        "column": column.name,
        "role": role,
        "unit": column.unit or None,
        "support": support,
        "lowest": lowest,
        "highest": highest,
        "in the flow": seen,
    } | ({"categories": list(column.categories)} if column.categories else {})


def _event(column: Column, pair: tuple[int, int] | None, number: int) -> str:
    if pair and number == pair[1]:
        seen = "log ratio"
    elif column.positive:
        seen = "log"
    elif len(column.bounds) == 2:
        seen = "bounded probit"
    else:
        seen = "log from its bound" if column.bounds else "standardised"
    atoms = ", ".join(f"{atom:g}" for atom in column.atoms)
    return f"atom at {atoms}, else {seen}" if atoms else seen


def _condition(column: Column) -> str:
    if column.categories:
        return "one-hot"
    return "log" if column.positive else "standardised"
