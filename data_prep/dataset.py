"""`dataset.json`: the cells, rows and ranges of a prepared dataset, and where it came from.

The only module that writes or reads `dataset.json`. A prepared dataset is a folder of
`{train,val,test}/part-*.parquet` with this file beside them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval, Len

from data_prep.atomic import draft_of
from data_prep.columns import Column, Value, single
from data_prep.errors import DataError
from data_prep.untrusted import adapter, contents, fault_of, is_finite

SCHEMA = 1
"""Version of `dataset.json`. Raised when a reader of the old one would misread the new one."""

Unit = Literal["binaries", "Msun"]

TOTALS: dict[str, Unit] = {"simulated_binaries": "binaries", "simulated_mass": "Msun"}
"""Column of a table of totals, and the unit that `Dataset.totals_unit` then is."""

SPLITS = ("train", "val", "test")
"""The three parts of a dataset, and the names of their folders."""

SAMPLE = Path(__file__).resolve().parent / "sample"
"""The prepared dataset shipped with the package: 78,713 binary black holes from COSMIC."""

MOST_ROWS = 2**53
"""Rows that a float can count."""

Count = Annotated[int, Interval(ge=0, le=MOST_ROWS)]
"""Of rows or bytes."""


_REMEDY = "prepare the dataset again"


@dataclass(frozen=True, slots=True)
class Cell:
    """One distinct combination of condition values, or a region of them, and its rows."""

    conditions: tuple[float, ...]
    """In the order of `Dataset.condition_columns`, exactly as the source wrote them. Of a region:
    the medians of its rows."""
    train: Count
    val: Count
    test: Count
    box: tuple[tuple[float, float], ...] = ()
    """Of a region: lowest and highest value of each condition in its rows. Empty for a cell."""
    weights: tuple[float, ...] = ()
    """Sum of the rows' weights in train, val and test; empty where rows count alike."""
    squares: tuple[float, ...] = ()
    """Sum of the squared weights in train, val and test."""

    @property
    def ends(self) -> tuple[tuple[float, float], ...]:
        """Lowest and highest value of each condition: of a region its box."""
        return self.box or tuple((value, value) for value in self.conditions)

    @property
    def rows(self) -> int:
        """Of all parts."""
        return self.train + self.val + self.test

    def effective(self, *splits: str) -> float:
        """Rows of these parts, or of all, of equal weight that would tell as much.

        Source:
            Kish (1965), Survey Sampling, section 11.7: (sum w)^2 / sum w^2.
        """
        chosen = [SPLITS.index(split) for split in splits or SPLITS]
        if not self.weights:
            return float(sum((self.train, self.val, self.test)[k] for k in chosen))
        return kish(sum(self.weights[k] for k in chosen), sum(self.squares[k] for k in chosen))


@dataclass(frozen=True, slots=True)
class Total:
    """The number or mass of simulated binaries of one cell, and the mergers that came of them."""

    conditions: tuple[float, ...]
    """In the order of the condition columns."""
    simulated: float
    """Binaries, or their mass in Msun at birth: finite, above 0."""
    mergers: int
    """Rows of the cell in all parts, after the filter; 0 where the simulation gave none."""

    def __post_init__(self) -> None:
        if not (
            all(map(is_finite, (*self.conditions, self.simulated)))
            and self.simulated > 0
            and type(self.mergers) is int
            and 0 <= self.mergers <= MOST_ROWS
        ):
            raise ValueError("a cell has finite conditions, a total above 0, a count of mergers")


def key(conditions: Sequence[float]) -> tuple[float, ...]:
    """The identity of a cell: float32 values, so that 0.0004 is a cell however it was written."""
    return tuple(map(single, conditions))


def kish(weights: float, squares: float) -> float:
    """Effective number of rows, of the sums of their weights and of the squares of those."""
    return weights**2 / squares if squares else 0.0


def rows_of(cells: Sequence[Cell]) -> dict[str, int]:
    """Rows of the cells in each part."""
    return {split: sum(getattr(cell, split) for cell in cells) for split in SPLITS}


def rows_by_key(cells: Sequence[Cell]) -> Counter[tuple[float, ...]]:
    """Rows of the cells in all parts, by the cells' `key`."""
    rows = Counter[tuple[float, ...]]()
    for cell in cells:
        rows[key(cell.conditions)] += cell.rows
    return rows


def shown(cell: Mapping[str, Value]) -> str:
    """A cell as people read it: `Z = 0.001, channel = CE`."""
    texts = (one if isinstance(one, str) else f"{one:.7g}" for one in cell.values())
    return ", ".join(f"{name} = {text}" for name, text in zip(cell, texts, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """`dataset.json`: what a prepared dataset holds and where it came from."""

    __pydantic_config__ = {"allow_inf_nan": False, "extra": "forbid"}

    schema: Literal[1] = 1
    event_columns: Annotated[tuple[Column, ...], Len(1)]
    condition_columns: Annotated[tuple[Column, ...], Len(1)]
    rows: dict[str, Count]
    """Rows of each part: train, val, test."""
    cells: tuple[Cell, ...]
    """In ascending order of the conditions."""
    ranges: dict[str, tuple[float, float]]
    """Lowest and highest value of each column over all parts, in its own unit."""
    scattered: bool = False
    """Whether the conditions are no grid, so that `cells` are regions."""
    weight_column: Column | None = None
    """How much a row counts; None where all count alike."""
    notes: tuple[str, ...] = ()
    """Sentences about the table that its user should know."""
    fingerprint: str
    """sha256 over columns, values and split: it does not depend on folder, date or codec."""
    sources: tuple[dict[str, str | int], ...] = ()
    """Of each source: `file` (name only), `layout`, `format`, `rows`, `bytes`, `sha256`.

    Of a folder also the number of `files`; its sha256 is that of the lines that sha256sum prints.
    """
    command: str = ""
    seed: int = 0
    split: tuple[float, float, float] = (0.6, 0.2, 0.2)
    where: str | None = None
    dropped: dict[str, Count] = field(default_factory=dict)
    """Rows left out, by reason."""
    bytes_before: Count = 0
    """Of the source files."""
    bytes_after: Count = 0
    """Of the Parquet files."""
    totals: tuple[Total, ...] = ()
    """Of each simulated cell, with or without mergers; empty where no table of totals was given.

    They are no part of the fingerprint: they can be added to data that flows were trained on.
    """
    totals_unit: Unit | None = None
    """binaries or Msun: what `totals` count; None where there are none."""

    def effective(self, split: str) -> float:
        """Rows of a part, of equal weight, that would tell as much as those that it has."""
        if self.weight_column is None:
            return float(self.rows[split])
        part = SPLITS.index(split)
        sums = ((cell.weights[part], cell.squares[part]) for cell in self.cells)
        return kish(*map(sum, zip(*sums, strict=True)))

    def mean_weight(self, split: str) -> float:
        """Of a row of a part; 1 where all count alike."""
        if self.weight_column is None:
            return 1.0
        part = SPLITS.index(split)
        return sum(cell.weights[part] for cell in self.cells) / max(1, self.rows[split])

    @classmethod
    def read(cls, folder: Path) -> Dataset:
        """The dataset prepared in `folder`.

        Raises:
            DataError: If `folder` holds no readable `dataset.json`. Says how to make one.
        """
        from pydantic import ValidationError

        path = Path(folder) / "dataset.json"
        try:
            dataset = adapter(Dataset).validate_json(contents(path), strict=True)
        except FileNotFoundError:
            raise DataError(
                f"{folder} is not a prepared dataset (it has no dataset.json): "
                f"make one with `hpo prepare SOURCE --out {folder}`"
            ) from None
        except ValidationError as error:
            fault = fault_of(error, "a dataset.json", SCHEMA, f": {_REMEDY}")
            raise DataError(f"{path} {fault}") from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}): {_REMEDY}") from error
        for fault in _contradictions(dataset):
            raise DataError(f"{path} is not a dataset.json: {fault}: {_REMEDY}")
        return dataset

    def write(self, folder: Path) -> Path:
        """Put `dataset.json` in `folder` in one step: a reader sees the whole file or none."""
        path = Path(folder) / "dataset.json"
        values = asdict(self)
        # Nothing new for a reader that does not know of it.
        for name in ("totals", "totals_unit", "scattered", "weight_column", "notes"):
            if not values[name]:
                del values[name]
        for what in ("event_columns", "condition_columns"):
            values[what] = [column.as_stored() for column in getattr(self, what)]
        if self.weight_column:
            values["weight_column"] = self.weight_column.as_stored()
        for cell in values["cells"]:
            for name in ("box", "weights", "squares"):
                if not cell[name]:
                    del cell[name]
        text = json.dumps(values, indent=1, allow_nan=False)
        with draft_of(path) as draft:
            draft.write_text(_compact(text) + "\n", encoding="utf-8")
        return path


def located(recorded: Path, fingerprint: str | None, near: Path) -> Path:
    """The folder of a dataset that runs were trained on: as recorded, or where it is by now.

    A project that was moved has its data as far from its runs as before, so the ends of the
    recorded path are looked for in `near` and the folders above it.
    """
    ends = [Path(*recorded.parts[first:]) for first in range(1, len(recorded.parts))]
    moved = (above / end for above in (near, *near.parents) for end in ends)
    places = (recorded, SAMPLE, *moved)
    return next((one for one in places if _fingerprint(one) == fingerprint), recorded)


def _fingerprint(folder: Path) -> str:
    try:
        return Dataset.read(folder).fingerprint
    except DataError:
        return ""


def _contradictions(dataset: Dataset) -> Iterator[str]:
    """Of a stored dataset, the values that do not fit to each other."""
    names = [column.name for column in (*dataset.event_columns, *dataset.condition_columns)]
    if sorted(dataset.rows) != sorted(SPLITS):
        yield f"rows of {sorted(dataset.rows)}"
    if len(set(names)) < len(names):
        yield "a column that is there twice"
    if missing := set(names) - set(dataset.ranges):
        yield f"no range of {missing}"
    found = [one.conditions for one in dataset.cells] + [one.conditions for one in dataset.totals]
    if any(len(values) != len(dataset.condition_columns) for values in found):
        yield "a cell that does not name all conditions"
    parts = len(SPLITS) if dataset.weight_column else 0
    if any(len(sums) != parts for one in dataset.cells for sums in (one.weights, one.squares)):
        yield "a cell whose weights are not those of its parts"
    sides = len(dataset.condition_columns) if dataset.scattered else 0
    if any(len(one.box) != sides for one in dataset.cells):
        yield "a region that has not two sides for each condition, or a cell that has some"
    elif any(
        not low <= value <= high
        for one in dataset.cells
        for value, (low, high) in zip(one.conditions, one.box, strict=False)
    ):
        yield "a region whose conditions are not in its box"
    if bool(dataset.totals) != (dataset.totals_unit is not None):
        yield f"totals in the unit {dataset.totals_unit}"
    counted = {key(one.conditions): one.mergers for one in dataset.totals}
    rows = rows_by_key(dataset.cells)
    if len(counted) < len(dataset.totals):
        yield "totals that name a cell twice"
    if counted and {where: count for where, count in counted.items() if count} != rows:
        yield "totals whose mergers are not the rows of the cells"


def _compact(text: str) -> str:
    """Innermost lists and objects on one line each, so that a person can read the cells."""
    return re.sub(
        r"[\[{][^\[\]{}\"]*[\]}]|[\[{]\s+\"[^\[\]{}]*[\]}]",
        lambda found: re.sub(r"\n\s*", " ", found[0]),
        text,
    )
