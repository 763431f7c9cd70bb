"""How pandas lays a frame into HDF5 (`DataFrame.to_hdf`), in its two formats.

"fixed": `axis0` holds the names of all columns, `block0_items` those of a block of columns of one
type, `block0_values` their values, shape (rows, columns), and `axis1` the index.

"table": a dataset `table` of records, in which a field such as `values_block_0` holds the columns
of one type. Their names lie in the dataset's attribute `values_block_0_kind`, pickled. They are
read from the opcodes of the pickle, which is never loaded: a pickle can run any code.

Source:
    pandas, pandas/io/pytables.py (classes `FrameFixed` and `AppendableFrameTable`).
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from data_prep.errors import DataError

if TYPE_CHECKING:
    import h5py

MISSING = "nan"
"""What pandas writes where a text is missing."""
KINDS = {"b": "number", "i": "number", "u": "number", "f": "number", "S": "text", "O": "text"}
"""What numpy's kinds of types hold."""
LITERALS = re.compile(r"UNICODE|STRING|^(BIN)?INT|^LONG")
"""Opcodes of a pickle that hold a text or a whole number."""
INNER = re.compile(r"(^|/)(_i_table|meta/[^/]+/meta)(/|$)|__table_column_meta__$")
"""Where PyTables and astropy keep what is no table: indices, categories, units."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a column lies in a file."""

    dataset: str
    kind: str
    """number, text, or pickled; empty where it is neither."""
    field: str | None = None
    """Of a dataset of records."""
    at: int | None = None
    """Which column, where the dataset or the field holds several."""
    categories: tuple[str, ...] | None = None
    """The texts that its numbers stand for; -1 for none."""
    of_pandas: bool = False

    def part(self, at: int) -> Place:
        return replace(self, at=at)


Places: TypeAlias = list[tuple[str, Place]]
"""Columns with their names, which can be there twice."""


def kind_of(dtype: np.dtype[Any]) -> str:
    """What a type holds: number, text, or neither."""
    if dtype.kind == "O":  # h5py tells texts from references and sequences by metadata
        return "text" if dtype.metadata and dtype.metadata.get("vlen") in (str, bytes) else ""
    return KINDS.get(dtype.kind, "")


def text_of(value: object) -> str:
    """An attribute's text; empty where it is none."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


def is_inner(path: str) -> bool:
    """Whether a place is one of those in which there is no table of its own."""
    return INNER.search(path) is not None


def is_part(path: str, tables: Container[str]) -> bool:
    """Whether the records are those of a frame, which is the group around them."""
    group, _, name = path.rpartition("/")
    return name == "table" and group in tables


def is_frame(group: h5py.Group) -> bool:
    kind = text_of(group.attrs.get("pandas_type"))
    return "axis0" in group if kind == "frame" else kind.endswith("_table") and "table" in group


def frame(group: h5py.Group) -> tuple[Places, int]:
    """The columns of a frame, and how many rows it has."""
    return _appended(group) if "table" in group else _fixed(group)


def units_of_astropy(node: h5py.Group | h5py.Dataset) -> dict[str, str]:
    """Units that astropy wrote beside a dataset of records: lines of YAML, one for each column."""
    lines = node.parent.get(f"{node.name}.__table_column_meta__", ())
    found = [re.match(rb"- \{name: (.+?), unit: (.+?)[,}]", bytes(line)) for line in lines]
    return {match[1].decode(): match[2].decode() for match in found if match}


def _fixed(group: h5py.Group) -> tuple[Places, int]:
    index = group["axis1"]
    # PyTables stores no empty array: one of length 1 tells by an attribute that it has no row.
    rows = 0 if "shape" in index.attrs else index.shape[0]
    found: Places = []
    block = 0
    while (items := f"block{block}_items") in group:
        values = group[f"block{block}_values"]
        kind = "pickled" if "PSEUDOATOM" in values.attrs else kind_of(values.dtype)
        names = [each.decode() if isinstance(each, bytes) else str(each) for each in group[items]]
        found += [(name, Place(values.name, kind, at=at)) for at, name in enumerate(names)]
        block += 1
    name = text_of(index.attrs.get("name"))
    return found + _index(name, found, Place(index.name, kind_of(index.dtype))), rows


def _appended(group: h5py.Group) -> tuple[Places, int]:
    table = group["table"]
    found: Places = []
    for field in table.dtype.names:
        base, shape = table.dtype[field].base, table.dtype[field].shape
        names = [] if field == "index" else _unpickled(table, f"{field}_kind")
        if len(names) != (0 if field == "index" else shape[0] if shape else 1):
            raise DataError(
                f"{group.file.filename}: pandas' table {group.name} does not tell the names of its "
                "columns in a way that can be read: write it anew with to_hdf(..., format='table')"
            )
        place = Place(table.name, kind_of(base), field, of_pandas=True)
        if text_of(table.attrs.get(f"{field}_meta")) == "category":
            values = group[f"meta/{field}/meta/table"]["values"]
            texts = tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)
            place = replace(place, kind=kind_of(values.dtype), categories=texts)
        found += [(name, place.part(at) if shape else place) for at, name in enumerate(names)]
    told = _unpickled(group, "info")
    name = told[told.index("index_name") + 1] if "index_name" in told[:-1] else ""
    place = Place(table.name, kind_of(table.dtype["index"]), "index", of_pandas=True)
    return found + _index(name, found, place), table.shape[0]


def _index(name: str, found: Places, place: Place) -> Places:
    """The index as a column, where it has a name that no column has."""
    named = name.isprintable() and name not in ("", "N.") and name not in dict(found)
    return [(name, place)] if named and place.kind else []


def _unpickled(node: h5py.Group | h5py.Dataset, attribute: str) -> list[str]:
    """The texts and whole numbers of a pickle in their order, read without unpickling."""
    value = node.attrs.get(attribute)
    if not isinstance(value, bytes):
        return []
    try:
        told = [(code.name, argument) for code, argument, _ in pickletools.genops(value)]
    except ValueError:
        return []
    return [str(argument) for code, argument in told if LITERALS.search(code)]
