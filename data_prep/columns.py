"""What a prepared dataset is: its columns, cells and `dataset.json`.

The only module that writes or reads `dataset.json`. A prepared dataset is a folder of
`{train,val,test}/part-*.parquet` with this file beside them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.draft import draft_of
from data_prep.errors import InputError

SCHEMA = 1
"""Version of `dataset.json`. Raised when a reader of the old one would misread the new one."""

SPLITS = ("train", "val", "test")
"""The three parts of a dataset, and the names of their folders."""

SAMPLE = Path(__file__).resolve().parent / "sample"
"""The prepared dataset shipped with the package: 78,713 binary black holes from COSMIC."""

_KNOWN = (
    (r"(mass|zams|mzams)(_.*)?", "Msun", True),
    (r"(radius|semimajor)(_.*)?", "Rsun", True),
    (r"(gwtime|bworldtime)(_.*)?", "Myr", True),
    (r"(z|metallicity|alpha|alpha1)", "", True),
)
"""Pattern of a name, unit, and whether the values are positive: SEVN's and COSMIC's columns."""


class DataError(InputError):
    """Data that cannot be used. The message is one sentence: file, column, row, found, remedy."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the prepared table."""

    name: str
    unit: str
    """As astropy writes it; empty for a pure number."""
    positive: bool
    """Whether every value must be above zero, so that its logarithm exists."""

    @classmethod
    def named(cls, name: str) -> Column:
        """The column of that name, with the unit and sign that SEVN and COSMIC give it."""
        for pattern, unit, positive in _KNOWN:
            if re.fullmatch(pattern, name, re.IGNORECASE):
                return cls(name, unit, positive)
        return cls(name, "", False)


def pair_of(columns: Sequence[Column]) -> tuple[int, int] | None:
    """The first two positive columns of one unit, such as two masses; None where there are none."""
    positive = [(k, column.unit) for k, column in enumerate(columns) if column.positive]
    for number, (k, unit) in enumerate(positive):
        for other, its_unit in positive[number + 1 :]:
            if unit and unit == its_unit:
                return k, other
    return None


@dataclass(frozen=True, slots=True)
class Cell:
    """One distinct combination of condition values, and its rows in each part."""

    conditions: tuple[float, ...]
    """In the order of `Dataset.condition_columns`, exactly as the source wrote them."""
    train: int
    val: int
    test: int


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
    """sha256 over columns, values and split: the same whatever the folder, date or codec."""
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

    @classmethod
    def read(cls, folder: Path) -> Dataset:
        """The dataset prepared in `folder`.

        Raises:
            DataError: If `folder` holds no readable `dataset.json`. Says how to make one.
        """
        path = Path(folder) / "dataset.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
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
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, allow_nan=False)
        with draft_of(path) as draft:
            draft.write_text(_compact(text) + "\n", encoding="utf-8")
        return path


class _Newer(ValueError):
    pass


def _from_json(stored: Mapping[str, Any]) -> Dataset:
    values = dict(stored)
    schema = values.pop("schema")
    if schema > SCHEMA:
        raise _Newer(f"has schema {schema}, this version reads up to {SCHEMA}: upgrade hpo-flows")
    for key in ("event_columns", "condition_columns"):
        values[key] = tuple(Column(**column) for column in values[key])
    values["cells"] = tuple(
        Cell(tuple(cell["conditions"]), cell["train"], cell["val"], cell["test"])
        for cell in values["cells"]
    )
    values["ranges"] = {name: (low, high) for name, (low, high) in values["ranges"].items()}
    values["sources"] = tuple(values["sources"])
    values["split"] = tuple(values["split"])
    dataset = Dataset(**values)
    if sorted(dataset.rows) != sorted(SPLITS):
        raise ValueError(f"rows of {sorted(dataset.rows)}, not of {sorted(SPLITS)}")
    if not all(math.isfinite(v) for low_high in dataset.ranges.values() for v in low_high):
        raise ValueError("a range that is not finite")
    return dataset


def _compact(text: str) -> str:
    """Innermost lists and objects on one line each, so that a person can read the cells."""
    return re.sub(
        r"[\[{][^\[\]{}\"]*[\]}]|[\[{]\s+\"[^\[\]{}]*[\]}]",
        lambda found: re.sub(r"\n\s*", " ", found[0]),
        text,
    )
