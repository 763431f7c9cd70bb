"""`dataset.json`: the cells, rows and ranges of a prepared dataset, and where it came from.

The only module that writes or reads `dataset.json`. A prepared dataset is a folder of
`{train,val,test}/part-*.parquet` with this file beside them.
"""

from __future__ import annotations

import itertools
import json
import re
import reprlib
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.atomic import draft_of
from data_prep.columns import Column
from data_prep.errors import DataError
from data_prep.untrusted import contents, is_finite, parse

SCHEMA = 1
"""Version of `dataset.json`. Raised when a reader of the old one would misread the new one."""

TOTALS = {"simulated_binaries": "binaries", "simulated_mass": "Msun"}
"""Column of a table of totals, and the unit that `Dataset.totals_unit` then is."""

SPLITS = ("train", "val", "test")
"""The three parts of a dataset, and the names of their folders."""

SAMPLE = Path(__file__).resolve().parent / "sample"
"""The prepared dataset shipped with the package: 78,713 binary black holes from COSMIC."""

MOST_ROWS = 2**53
"""Rows that a float can count."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One distinct combination of condition values, and its rows in each part."""

    conditions: tuple[float, ...]
    """In the order of `Dataset.condition_columns`, exactly as the source wrote them."""
    train: int
    val: int
    test: int

    @property
    def rows(self) -> int:
        """Of all parts."""
        return self.train + self.val + self.test


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
        if not all(map(is_finite, self.conditions)):
            raise ValueError(f"a cell's conditions must be finite, got {self.conditions}")
        if not (is_finite(self.simulated) and self.simulated > 0):
            raise ValueError(
                f"what was simulated must be above 0, got {reprlib.repr(self.simulated)}"
            )
        if not _is_count(self.mergers):
            raise ValueError(f"mergers must be a count, got {reprlib.repr(self.mergers)}")


def key(conditions: Sequence[float]) -> tuple[float, ...]:
    """The identity of a cell: float32 values, so that 0.0004 is a cell however it was written."""
    return tuple(map(_single, conditions))


def rows_of(cells: Sequence[Cell]) -> dict[str, int]:
    """Rows of the cells in each part."""
    return {split: sum(getattr(cell, split) for cell in cells) for split in SPLITS}


def shown(names: Iterable[str], conditions: Iterable[float]) -> str:
    """A cell as people read it: `Z = 0.001, alpha = 1`."""
    pairs = zip(names, conditions, strict=True)
    return ", ".join(f"{name} = {value:.7g}" for name, value in pairs)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_ROWS


def _single(value: float) -> float:
    # Not numpy, which `hpo --help` must not load.
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """`dataset.json`: what a prepared dataset holds and where it came from."""

    event_columns: tuple[Column, ...]
    condition_columns: tuple[Column, ...]
    rows: dict[str, int]
    """Rows of each part: train, val, test."""
    cells: tuple[Cell, ...]
    """In ascending order of the conditions."""
    ranges: dict[str, tuple[float, float]]
    """Lowest and highest value of each column over all parts, in its own unit."""
    fingerprint: str
    """sha256 over columns, values and split: it does not depend on folder, date or codec."""
    sources: tuple[dict[str, Any], ...] = ()
    """Of each source file: `file` (name only), `layout`, `rows`, `bytes`, `sha256`."""
    command: str = ""
    seed: int = 0
    split: tuple[float, float, float] = (0.6, 0.2, 0.2)
    where: str | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows left out, by reason."""
    bytes_before: int = 0
    """Of the source files."""
    bytes_after: int = 0
    """Of the Parquet files."""
    totals: tuple[Total, ...] = ()
    """Of each simulated cell, with or without mergers; empty where no table of totals was given.

    They are no part of the fingerprint: they can be added to data that flows were trained on.
    """
    totals_unit: str | None = None
    """binaries or Msun: what `totals` count; None where there are none."""

    @classmethod
    def read(cls, folder: Path) -> Dataset:
        """The dataset prepared in `folder`.

        Raises:
            DataError: If `folder` holds no readable `dataset.json`. Says how to make one.
        """
        path = Path(folder) / "dataset.json"
        try:
            stored = parse(contents(path))
        except FileNotFoundError:
            raise DataError(
                f"{folder} is not a prepared dataset (it has no dataset.json): "
                f"make one with `hpo prepare SOURCE --out {folder}`"
            ) from None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({error}): prepare the dataset again"
            ) from error
        try:
            return _from_json(stored)
        except _Newer as error:
            raise DataError(f"{path} {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{path} is not a dataset.json of schema {SCHEMA} ({error!r}): "
                "prepare the dataset again"
            ) from error

    def write(self, folder: Path) -> Path:
        """Put `dataset.json` in `folder` in one step: a reader sees the whole file or none."""
        path = Path(folder) / "dataset.json"
        values = asdict(self)
        if not self.totals:  # nothing new for a reader that knows no totals
            del values["totals"], values["totals_unit"]
        text = json.dumps({"schema": SCHEMA, **values}, indent=1, allow_nan=False)
        with draft_of(path) as draft:
            draft.write_text(_compact(text) + "\n", encoding="utf-8")
        return path


class _Newer(ValueError):
    pass


def _from_json(stored: Mapping[str, Any]) -> Dataset:
    values = dict(stored)
    schema = values.pop("schema")
    if not isinstance(schema, int):
        raise ValueError("a schema that is no number")
    if schema > SCHEMA:
        raise _Newer(f"has schema {schema}, this version reads up to {SCHEMA}: upgrade hpo-flows")
    for name in ("event_columns", "condition_columns"):
        values[name] = tuple(Column(**column) for column in values[name])
    for name, kind in (("cells", Cell), ("totals", Total)):
        rows = values.get(name, ())
        values[name] = tuple(
            kind(**{**row, "conditions": tuple(row["conditions"])}) for row in rows
        )
    values["ranges"] = {name: (low, high) for name, (low, high) in values["ranges"].items()}
    values["sources"], values["split"] = tuple(values["sources"]), tuple(values["split"])
    dataset = Dataset(**values)
    for wrong, what in itertools.chain(_odd_values(dataset), _odd_totals(dataset)):
        if wrong:
            raise ValueError(what)
    return dataset


def _odd_values(dataset: Dataset) -> Iterator[tuple[bool, str]]:
    """Of each rule: whether a value breaks it, and what is wrong then."""
    conditions = len(dataset.condition_columns)
    columns = (*dataset.event_columns, *dataset.condition_columns)
    names = {column.name for column in columns}
    yield sorted(dataset.rows) != sorted(SPLITS), f"rows of {sorted(dataset.rows)}"
    yield not dataset.event_columns or not conditions, "no event or no condition column"
    yield len(names) < len(columns), "a column that is there twice"
    yield not names <= set(dataset.ranges), f"no range of {names - set(dataset.ranges)}"
    yield not _all_finite(dataset.ranges.values()), "a range that is not finite"
    found = [cell.conditions for cell in dataset.cells]
    found += [total.conditions for total in dataset.totals]
    yield any(len(each) != conditions for each in found), "a cell that does not name all conditions"
    yield not _all_finite(found), "a cell whose conditions are not finite"
    counts = [count for cell in dataset.cells for count in (cell.train, cell.val, cell.test)]
    counts += [*dataset.rows.values(), *dataset.dropped.values()]
    counts += [dataset.bytes_before, dataset.bytes_after]
    yield not all(map(_is_count, counts)), "a count of rows or bytes that is none"
    yield len(dataset.split) != 3 or not _all_finite([dataset.split]), "a split that is none"
    texts = (dataset.fingerprint, dataset.command, dataset.where or "")
    yield not all(isinstance(text, str) for text in texts), "a text that is none"
    yield not isinstance(dataset.seed, int), "a seed that is none"
    yield not all(isinstance(source, dict) for source in dataset.sources), "a source that is none"


def _odd_totals(dataset: Dataset) -> Iterator[tuple[bool, str]]:
    known = tuple(TOTALS.values()) if dataset.totals else (None,)
    yield dataset.totals_unit not in known, f"totals in the unit {dataset.totals_unit!r}"
    if dataset.totals:
        counted = {key(one.conditions): one.mergers for one in dataset.totals}
        rows = Counter[tuple[float, ...]]()
        for cell in dataset.cells:
            rows[key(cell.conditions)] += cell.rows
        yield len(counted) < len(dataset.totals), "totals that name a cell twice"
        differing = {where: count for where, count in counted.items() if count} != rows
        yield differing, "totals whose mergers are not the rows of the cells"


def _all_finite(rows: Iterable[Iterable[object]]) -> bool:
    return all(is_finite(value) for row in rows for value in row)


def _compact(text: str) -> str:
    """Innermost lists and objects on one line each, so that a person can read the cells."""
    return re.sub(
        r"[\[{][^\[\]{}\"]*[\]}]|[\[{]\s+\"[^\[\]{}]*[\]}]",
        lambda found: re.sub(r"\n\s*", " ", found[0]),
        text,
    )
