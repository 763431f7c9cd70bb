"""The table of runs that the page shows: its columns, their units, and the names of runs.

A row is a row of `hpo.records.table` with the run's key in the column `run`, as the catalog gives
it. This module, `history`, `differences` and `importance` know neither Dash nor Plotly.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from data_prep.errors import InputError
from data_prep.words import numbers
from hpo.records import table
from hpo.records.listing import columns_of
from hpo.records.record import NAME
from hpo.records.table import Row

Kind = Literal["number", "text", "time"]

NLL = "nats/event"
"""Unit of every NLL: the density is in the data's own units."""

WIDE = 50
"""Numbers whose largest is more than so many times the smallest are seen on a logarithmic axis."""

_RESULTS = {
    "epochs": ("epochs trained", ""),
    "best_epoch": ("best epoch", ""),
    "best_val_nll": ("best validation NLL", NLL),
    "best_val_error": ("standard error of the best validation NLL", NLL),
    "best_held_out_nll": ("best held-out NLL", NLL),
    "reported_epochs": ("epochs, as reported", ""),
    "reported_val_nll": ("best running mean of the validation NLL", NLL),
    "test_nll": ("test NLL", NLL),
    "test_error": ("standard error of the test NLL", NLL),
    "held_out_nll": ("held-out test NLL", NLL),
    "held_out_error": ("standard error of the held-out test NLL", NLL),
    "held_out_worst": ("highest test NLL of a held-out cell", NLL),
    "report_nll": ("test NLL in the report cells", NLL),
    "report_error": ("standard error of the test NLL in the report cells", NLL),
    "report_worst": ("highest test NLL of a report cell", NLL),
    "loss_rate": ("last loss rate", ""),
    "seconds": ("wall-clock time", "s"),
    "parameters": ("trainable parameters", ""),
    "flops_per_event": ("cost of a log-density", "FLOP/event"),
}
"""Label and unit of each result; the unit of the loss rate depends on the runs."""

_OPTIONS = {
    "training_epochs": ("epochs asked for", ""),
    "bound": ("reach of the splines", "standard deviations"),
    "hidden": ("hidden units", ""),
    "depth": ("hidden layers", ""),
    "batch_size": ("batch size", "rows"),
    "ema": ("weight of the past (EMA)", ""),
    "eval_every": ("evaluate every", "steps"),
    "min_rate": ("least loss rate", ""),
    "max_minutes": ("time budget", "min"),
    "memory_mb": ("memory for rows", "MB"),
    "clip_norm": ("longest gradient", "nats per unit of the weights"),
}

_LABELS = _RESULTS | _OPTIONS

_PREFIXES = {
    "version_": "{} version",
    "seed_": "seed of the {}",
    "pruner_": "pruner: {}",
    "environment_": "{} used",
    "training_": "{} of the training",
    "flow_": "{} of the flow",
}
"""Labels of the columns that `hpo.records.table` prefixes."""

_SPLIT_ROWS = re.compile(r"(train|val|test)_rows")
_TIMES = ("started", "updated")

_TRIAL = re.compile(r"trial-0*(\d+)")
_OF_THESIS = re.compile(r"blocks_(\d+)_hidden_(\d+)_A_([a-z]+)(_.*)?")


class TablesError(InputError):
    """A question that these runs cannot answer. The message is one sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the table of runs."""

    name: str
    """Its name in the rows, in filters and in `hpo runs`."""
    label: str
    """Its name for people."""
    unit: str
    """Empty where it has none."""
    kind: Kind
    """Decides how it is sorted and drawn."""

    @property
    def title(self) -> str:
        """Label and unit, as it stands at an axis."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


def columns(rows: Sequence[Row]) -> list[Column]:
    """The rows' columns in their order, without `run`."""
    names = columns_of(rows)
    chosen = parameters(names)
    results = [name for name in _RESULTS if name not in chosen]
    return [_column(name, name in results, rows) for name in names if name != "run"]


def differing(rows: Sequence[Row]) -> list[str]:
    """The columns that differ between the rows; study and trial are always among them."""
    return [name for name in columns_of(table.select(rows, differing=True)) if name != "run"]


def axes(rows: Sequence[Row]) -> list[Column]:
    """The columns that can be an axis: numbers, and at least one of them given."""
    return [
        each
        for each in columns(rows)
        if each.kind == "number" and any(number(row.get(each.name)) is not None for row in rows)
    ]


def by_data(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by the fingerprint of their data, the largest group first; "" where it is unknown.

    NLLs compare within such a group alone.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["state"] != table.UNREADABLE:
            found.setdefault(str(row.get("fingerprint") or ""), []).append(row)
    return dict(sorted(found.items(), key=lambda each: -len(each[1])))


def data_names(rows: Iterable[Row]) -> dict[str, str]:
    """A name for each of the rows' data sets: its folder's, and its fingerprint's beginning."""
    folders = {
        each: str(found[0].get("data") or "").rstrip("/").rsplit("/", 1)[-1] or "unknown"
        for each, found in by_data(rows).items()
    }
    often = Counter(folders.values())
    return {
        each: name if often[name] == 1 else f"{name} {each[:6]}".rstrip()
        for each, name in folders.items()
    }


def ranks(rows: Iterable[Row]) -> dict[str, int]:
    """The rank of each run that came to its own end, from 1 among the runs of the same data."""
    return {
        str(row["run"]): rank
        for group in by_data(rows).values()
        for rank, row in enumerate(table.ranked(group), start=1)
    }


def objective(row: Row) -> float | None:
    """The value that ranks the run, lowest first, in nats per event; None without a result."""
    return number(table.objective(row))


def objective_text(row: Row) -> str:
    """The same as people read it, with its standard error where that is known."""
    nll = objective(row)
    if nll is None:
        return "–"
    by_val = nll == row.get("best_val_nll")
    return numbers.with_error(
        nll, number(row.get("best_val_error")) if by_val else None, between="±"
    )


def objective_label(rows: Iterable[Row]) -> str:
    """The name of these rows' `objective`, with its unit."""
    judged = {row.get("objective") == "held_out_nll" for row in rows}
    name = (
        "objective" if len(judged) > 1 else "held-out NLL" if True in judged else "validation NLL"
    )
    return f"best {name} [{NLL}]"


def number(value: object) -> float | None:
    """The value as a float, None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def logarithmic(values: Iterable[float]) -> bool:
    """Whether these numbers are better seen on a logarithmic axis: see `WIDE`."""
    given = list(values)
    return bool(given) and min(given) > 0 and max(given) > WIDE * min(given)


def short(key: str) -> str:
    """A run's name for people: `bbh 17` for bbh/trial-00017."""
    *folders, last = key.removesuffix(f"/{NAME}").split("/")
    if found := _TRIAL.fullmatch(last):
        return f"{folders[-1] if folders else 'trial'} {found[1]}"
    last = last.removesuffix(".json")
    if found := _OF_THESIS.fullmatch(last):
        return f"thesis {found[1]}×{found[2]} {found[3]}"
    return last


def names(keys: Iterable[str]) -> dict[str, str]:
    """`short` of each key; keys with equal short names stay as they are."""
    given = list(keys)
    often = Counter(map(short, given))
    return {key: short(key) if often[short(key)] == 1 else key for key in given}


def text_of(value: object) -> str:
    """A value as people read it: numbers to five digits, nothing as a dash."""
    if value is None or value == ():
        return "–"
    if isinstance(value, float):
        return numbers.setting(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def parameters(names: Sequence[str]) -> list[str]:
    """The samplers' choices: `hpo.records.table` puts them between `state` and `epochs`."""
    if "state" not in names or "epochs" not in names:
        return []
    return list(names[names.index("state") + 1 : names.index("epochs")])


def per(unit: object) -> str:
    return "epoch" if unit == "epoch" else "s"


def _column(name: str, result: bool, rows: Sequence[Row]) -> Column:
    label, unit = _described(name, result, rows)
    given = [row[name] for row in rows if row.get(name) is not None]
    all_numbers = bool(given) and all(number(each) is not None for each in given)
    # A result is a number while no run has a value yet, too.
    kind: Kind = "number" if all_numbers or result else "text"
    kind = "time" if name in _TIMES else kind
    return Column(name=name, label=label, unit=unit, kind=kind)


def _described(name: str, result: bool, rows: Sequence[Row]) -> tuple[str, str]:
    """Label and unit."""
    if name in ("loss_rate", "min_rate"):
        units = {per(row.get("rate_per")) for row in rows if row.get(name) is not None}
        return _LABELS[name][0], " or ".join(f"nats/{each}" for each in sorted(units or {"epoch"}))
    if name in _LABELS and (result or name not in _RESULTS):
        return _LABELS[name]
    if found := _SPLIT_ROWS.fullmatch(name):
        return f"{found[1]} split", "rows"
    for prefix, label in _PREFIXES.items():
        if name.startswith(prefix):
            return label.format(name.removeprefix(prefix).replace("_", " ")), ""
    return name.replace("_", " "), ""
