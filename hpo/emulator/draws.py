"""Drawn events as a file for other programs, with the conditions that they were drawn at."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from data_prep.atomic import draft_of
from data_prep.errors import InputError


def write(
    path: Path,
    columns: Sequence[str],
    events: NDArray[np.float64],
    at: Mapping[str, NDArray[Any]],
) -> None:
    """Put a table of the events in `path`, whole or not at all.

    Args:
        path: Ends in `.parquet` or `.csv`; `-` is the output, as CSV.
        columns: Names of the event columns.
        events: Shape `(N, len(columns))`, in the columns' units.
        at: The value of each condition, one for each event.

    Raises:
        InputError: If the file's ending is another one.
    """
    if path.suffix not in (".parquet", ".csv") and str(path) != "-":
        raise InputError(f"{path} must end in .parquet or .csv, or be - for the output")
    values = {name: events[:, index] for index, name in enumerate(columns)}
    table = pa.table(values | dict(at))
    if str(path) == "-":
        csv.write_csv(table, sys.stdout.buffer)
        return
    with draft_of(path) as draft:
        if path.suffix == ".csv":
            csv.write_csv(table, draft)
        else:
            parquet.write_table(table, draft, compression="zstd")
