"""Runs as flat rows, to be filtered, sorted, ranked and compared.

Columns, in this order: what identifies the run, what its sampler chose, how it went, every resolved
option of flow, training and pruner, the data and the environment. An option whose name another
column has already is prefixed with where it comes from: `training_epochs` is how many were asked
for, `epochs` how many were trained.

`best_val_nll` is of a single epoch, whoever trained the run, so runs are ranked by it (or by
`best_held_out_nll`, where that is the objective). `reported_val_nll` exists for runs of the thesis
alone: what its program called its best, a running mean since the first step that lags behind (5.093
for a run that stood at 4.970).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.columns import Value
from data_prep.dataset import shown
from data_prep.errors import InputError, suggestion
from data_prep.words.numbers import duration, with_error
from hpo.records.folder import read_all
from hpo.records.listing import columns_of
from hpo.records.record import FINISHED, RecordError, RunRecord

if TYPE_CHECKING:
    from data_prep.where import Filter

Row = dict[str, object]

UNREADABLE = "unreadable"
"""State of the row that stands for a file which holds no record; its reason says why."""

IDENTITY = ("study", "trial")
"""Kept whatever else is left out."""

USUAL = (
    "state",
    "epochs",
    "best_epoch",
    "best_val_nll",
    "best_held_out_nll",
    "reported_val_nll",
    "test_nll",
    "test_error",
    "held_out_nll",
    "held_out_error",
    "held_out_worst",
    "report_nll",
    "report_error",
    "report_worst",
    "loss_rate",
    "seconds",
    "restarts",
    "reason",
)
"""The columns that are shown of every run beside its parameters, unless more are asked for."""


NLLS = {"val NLL": "best_val_nll", "held-out NLL": "best_held_out_nll"}
"""Heads of what runs are judged by."""

APART = frozenset(
    ("started", "updated", "host", "slurm_job_id", "git_commit", "threads", "restarts", "reason")
)
APART_WITH = ("seed", "version_")
"""Columns that differ from run to run and explain no result, by their names or how these begin."""


class RunsError(InputError):
    """Runs that cannot be listed as asked. The message is one sentence."""


def rows(folder: Path) -> list[Row]:
    """One row for each run below `folder`, all with the same columns.

    A file that cannot be read has a row too, of state `unreadable`. RecordError if it is no folder.
    """
    found = read_all(folder)
    return aligned([flat(path, each) for path, each in found], [each for _, each in found])


def flat(path: Path, found: RunRecord | RecordError) -> Row:
    """The row of what was found at `path`, with the columns of its own."""
    return _unreadable(path, found) if isinstance(found, RecordError) else row(found)


def aligned(rows: Sequence[Row], found: Iterable[RunRecord | RecordError]) -> list[Row]:
    """The rows, each with the columns of all; `found` is what they are of."""
    # Two studies may search different things; all of that stands together.
    parameters = [name for each in found if isinstance(each, RunRecord) for name in each.params]
    whole_first = sorted(rows, key=lambda each: each["state"] == UNREADABLE)
    names = dict.fromkeys([*IDENTITY, "state", *parameters, *columns_of(whole_first)])
    return [{name: each.get(name) for name in names} for each in rows]


def row(record: RunRecord) -> Row:
    """The run as one flat row; the module says which columns there are."""
    reported, cost = record.reported, record.cost
    last = record.epochs[-1] if record.epochs else None
    cells = {"held_out": record.data.hold_out_cells, "report": record.data.report_cells}
    flat: Row = {
        "study": record.study,
        "trial": record.trial,
        "state": record.state,
        **record.params,
        "epochs": last.epoch if last else 0,
        "best_epoch": record.best_epoch,
        "best_val_nll": record.best_val_nll,
        "best_val_error": record.best_val_error,
    }
    if record.data.hold_out_cells:
        flat["best_held_out_nll"] = record.best_held_out_nll
    if reported:
        flat |= {f"reported_{name}": getattr(reported, name) for name in ("epochs", "val_nll")}
        flat["label"] = reported.label
    for name in ("test", *(name for name, some in cells.items() if some)):
        found = getattr(record, name)
        for value in ("nll", "error"):
            flat[f"{name}_{value}"] = getattr(found, value, None)
        if name in cells:
            flat[f"{name}_worst"] = found.worst.nll if found and found.worst else None
    flat |= {
        "loss_rate": last.loss_rate if last else None,
        "seconds": cost.seconds,
        "parameters": cost.parameters,
        "flops_per_event": cost.flops_per_event,
        "restarts": record.restarts,
        "reason": record.reason,
        "started": record.started,
        "updated": record.updated,
    }
    return _with_options(flat, record)


def select(
    rows: Sequence[Row],
    *,
    where: Filter | None = None,
    sort: Sequence[str] = (),
    best: int | None = None,
    differing: bool = False,
) -> list[Row]:
    """The rows and columns asked for; in this order: where, best, sort, differing.

    Args:
        rows: From `rows`; all of its columns can be filtered and sorted by.
        where: Keeps the rows that match. A value that is missing never does.
        sort: Columns, the first weighing most; `-column` is descending. Missing values come last.
        best: How many runs to keep, in the order of `ranked`.
        differing: Leaves out columns that are the same in every row kept, but not study and trial.

    Raises:
        RunsError: If there is no such column. Names the nearest.
    """
    kept = [each for each in rows if where is None or where.matches(each)]
    if best:
        kept = ranked(kept)[:best]
    names = columns_of(rows)
    for column in reversed(sort):
        name = column.removeprefix("-")
        check_columns(rows, [name])
        kept = _sorted(kept, name, descending=column.startswith("-"))
    if differing:
        names = [name for name in names if name in IDENTITY or _tells_apart(kept, name)]
    return [{name: each.get(name) for name in names} for each in kept]


def check_columns(rows: Sequence[Row], asked: Iterable[str]) -> None:
    """Refuse, by a RunsError, a column that the rows do not have."""
    names = columns_of(rows)
    for name in asked:
        if names and name not in names:
            raise RunsError(f"the runs have no column {name!r}: {suggestion(name, names)}")


def ranked(rows: Iterable[Row]) -> list[Row]:
    """The runs that came to their own end with a result, that with the lowest objective first."""
    able = [each for each in rows if each["state"] in FINISHED and objective(each) is not None]
    return sorted(able, key=lambda each: _order(objective(each)))


def usual(rows: Sequence[Row]) -> list[str]:
    """The columns of a table that a person can take in: identity, parameters and `USUAL`.

    Parameters are the columns between `state` and `epochs`. One that no row has a value in is
    left out.
    """
    names = columns_of(rows)
    if not names:
        return []
    parameters = names[: names.index("epochs")] if "epochs" in names else []
    wanted = dict.fromkeys([*IDENTITY, *parameters, *USUAL])
    return [name for name in wanted if any(each.get(name) is not None for each in rows)]


def short(rows: Sequence[Row], *, differing: bool = False) -> list[Row]:
    """The runs as people compare them, what matters most first, under heads that people read.

    The rank is among runs of the same data and objective. Of the parameters those stand first that
    differ; with `differing` they stand alone, and with them what else differs of the options.
    """
    names, places = columns_of(rows), _ranks(rows)
    parameters = names[names.index("state") + 1 : names.index("epochs")] if rows else []
    options = names[names.index("flops_per_event") + 1 :] if "flops_per_event" in names else []
    chosen = [name for name in (*parameters, *options) if _tells_apart(rows, name)]
    if not differing:
        chosen = [one for one in chosen if one in parameters]
        chosen += [one for one in parameters if one not in chosen]
    found = [_short(each, places[k], chosen) for k, each in enumerate(rows)]
    if not _differs(rows, "study"):
        found = [{name: value for name, value in one.items() if name != "study"} for one in found]
    heads = [name for name in columns_of(found) if any(one[name] is not None for one in found)]
    return [{name: one[name] for name in heads} for one in found]


def reasons(rows: Sequence[Row]) -> list[str]:
    """A sentence for each run that has no result, and why."""
    return [
        f"{_name(one)} {one['state']}: {one['reason']}"
        for one in rows
        if one["state"] in ("failed", UNREADABLE) and one.get("reason")
    ]


def objective(each: Row) -> object:
    """The NLL by which the run was judged, lowest first."""
    by_held_out = each.get("objective") == "held_out_nll"
    return each.get("best_held_out_nll" if by_held_out else "best_val_nll")


def _short(each: Row, rank: int | None, parameters: Sequence[str]) -> Row:
    nll = {
        head: None if (value := each.get(name)) is None else round(value, 4)  # type: ignore[call-overload]
        for head, name in NLLS.items()
    }
    scores = {
        f"{head} NLL": with_error(value, each.get(f"{name}_error"))  # type: ignore[arg-type]
        if isinstance(value := each.get(f"{name}_nll"), float)
        else None
        for head, name in {"test": "test", "report": "report", "held-out test": "held_out"}.items()
    }
    seconds = each.get("seconds")
    return {
        "study": each["study"],
        "trial": each["trial"],
        "rank": rank,
        "state": str(each["state"]).replace("_", " "),
        **nll,
        **scores,
        **{name.replace("_", " "): each.get(name) for name in parameters},
        "epochs": each.get("epochs"),
        "time": duration(seconds) if isinstance(seconds, float) else None,
        "restarts": each.get("restarts") or None,
    }


def _name(each: Row) -> str:
    return str(each["study"]) + ("" if each["trial"] is None else f" trial {each['trial']}")


def _ranks(rows: Sequence[Row]) -> list[int | None]:
    """The place of each run among those of the same data and objective that have a result."""
    places, counts = {}, Counter[tuple[object, object]]()
    for each in ranked(rows):
        group = each.get("fingerprint"), each.get("objective")
        counts[group] += 1
        places[id(each)] = counts[group]
    return [places.get(id(each)) for each in rows]


def _with_options(flat: Row, record: RunRecord) -> Row:
    """The row with every resolved option, the data and the environment after it."""
    environment = asdict(record.environment)
    versions = environment.pop("versions")
    options: dict[str, Mapping[str, object]] = {
        "flow": record.flow,
        "training": record.training,
        "pruner": record.pruner,
        "seed": record.seeds,
        "data": {
            "data": record.data.path,
            "fingerprint": record.data.fingerprint,
            **{f"{split}_rows": count for split, count in record.data.rows.items()},
            **_weighted(record),
            **{
                which: _listed(named)
                for which in ("hold_out_cells", "report_cells")
                if (named := getattr(record.data, which))
            },
        },
        "environment": environment,
        "version": versions,
    }
    for group, values in options.items():
        # The sampler's choices are among the resolved options once more.
        fresh = {name: each for name, each in values.items() if name not in record.params}
        always = group in {"pruner", "seed", "version"}
        for name, each in fresh.items():
            flat[f"{group}_{name}" if always or name in flat else name] = each
    return flat


def _weighted(record: RunRecord) -> dict[str, object]:
    """The weight column and the effective rows; of unweighted rows there are none."""
    effective = record.data.effective_rows or {}
    named: dict[str, object] = {"weights": record.data.weights} if record.data.weights else {}
    return named | {f"{split}_effective_rows": count for split, count in effective.items()}


def _listed(cells: Iterable[Mapping[str, Value]]) -> str:
    return "; ".join(map(shown, cells))


def _unreadable(path: Path, fault: RecordError) -> Row:
    trial = path.parent.name.removeprefix("trial-")
    in_place = trial.isdecimal() and path.parent.name != trial
    return {
        "study": path.parent.parent.name if in_place else path.name,
        "trial": int(trial) if in_place else None,
        "state": UNREADABLE,
        "epochs": None,
        "best_val_nll": None,
        "reason": str(fault),
    }


def _sorted(rows: Sequence[Row], column: str, *, descending: bool) -> list[Row]:
    given = [each for each in rows if each[column] is not None]
    missing = [each for each in rows if each[column] is None]
    return sorted(given, key=lambda each: _order(each[column]), reverse=descending) + missing


def _order(value: object) -> tuple[bool, float, str]:
    """Numbers by size, before everything else by its text."""
    if isinstance(value, int | float):
        return False, value, ""
    return True, 0.0, str(value)


def _tells_apart(rows: Sequence[Row], column: str) -> bool:
    return column not in APART and not column.startswith(APART_WITH) and _differs(rows, column)


def _differs(rows: Sequence[Row], column: str) -> bool:
    # By text: a list is not hashable, and 1 is not the same setting as True.
    return len({repr(each[column]) for each in rows}) > 1
