"""Tables in HDF5 files: pandas' stores, groups of columns, datasets of records.

A file can hold many tables, each known by its path in the file. Three shapes are tables:

- a frame of pandas (`DataFrame.to_hdf`), in both of its formats, as COSMIC and POSYDON write it;
- a group whose datasets are columns of one length, as COMPAS writes a record type;
- a dataset of records (a compound type), as h5py, PyTables and astropy write structured arrays.

This module finds them and reads their rows, and the texts and attributes beside them; `store` knows
the layout of pandas.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep import atomic
from data_prep.errors import DataError, first_line, suggestion
from data_prep.tables import store
from data_prep.tables.chunk import Chunk
from data_prep.tables.store import Place, Places

if TYPE_CHECKING:
    import h5py

MAGIC = b"\x89HDF\r\n\x1a\n"
"""The first bytes of a file."""
CHUNK_BYTES = 16 * 2**20
"""Of the wanted datasets, decoded at once."""
WIDEST = 64
"""Places of a dataset of two dimensions up to which each is a column of the table."""
LISTED = 40
"""Tables that a message names at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HDF5:
    """One table of an HDF5 file."""

    path: Path
    name: str
    """Its path in the file, without the first slash."""
    rows: int
    header: tuple[str, ...]
    places: Mapping[str, Place]
    units: Mapping[str, str]
    layout: str = "hdf5"

    @property
    def unread(self) -> frozenset[str]:
        """Columns that are refused when they are asked for."""
        return frozenset(old for old, place in self.places.items() if place.kind == "pickled")

    def chunks(self, names: Mapping[str, str], numbers: Collection[str]) -> Iterator[Chunk]:
        """The columns `names`, name in the file by name in the chunk; `numbers` must be some.

        Raises:
            DataError: For a column that pandas pickled: a pickle is not read.
        """
        columns = {name: self.places[old] for name, old in names.items()}
        for name, column in columns.items():
            if column.kind == "pickled":
                raise DataError(
                    f"{self.path} has column {names[name]!r} of table {self.name} as pickled "
                    "objects, which are not read because a pickle can run any code: write the "
                    "table in pandas with to_hdf(..., format='table')"
                )
        kinds = {n: n in numbers or column.kind == "number" for n, column in columns.items()}
        with opened(self.path) as file:
            datasets = {column.dataset: file[column.dataset] for column in columns.values()}
            wanted = {
                path: [*{c.field: None for c in columns.values() if c.dataset == path and c.field}]
                for path in datasets
            }
            self._check_compression(datasets.values())
            step = _step(datasets.values())
            for start in range(0, self.rows, step):
                end = min(start + step, self.rows)
                blocks = {
                    path: (dataset.fields(wanted[path]) if wanted[path] else dataset)[start:end]
                    for path, dataset in datasets.items()
                }
                found = {name: _array(blocks[c.dataset], c) for name, c in columns.items()}
                yield Chunk.read(np.arange(start + 1, end + 1), end, found, kinds)

    def values(self, names: Collection[str]) -> dict[str, NDArray[np.float64]]:
        """Whole columns of numbers, NaN where there is none."""
        parts = [chunk.numbers for chunk in self.chunks({name: name for name in names}, names)]
        none = [dict.fromkeys(names, np.empty(0))]
        return {name: np.concatenate([part[name] for part in parts or none]) for name in names}

    def _check_compression(self, datasets: Iterable[h5py.Dataset]) -> None:
        import h5py

        for dataset in datasets:
            steps = dataset.id.get_create_plist()
            for number, _, _, name in map(steps.get_filter, range(steps.get_nfilters())):
                if not h5py.h5z.filter_avail(number):
                    raise DataError(
                        f"{self.path} is compressed by {name.decode(errors='replace')}, which h5py "
                        "does not know alone: pip install hdf5plugin, or name a copy that "
                        "ptrepack --complib=zlib --complevel=1 makes"
                    )


def tables(path: Path) -> dict[str, HDF5]:
    """All tables of the file, by name.

    Raises:
        DataError: If h5py is not installed, or the file is no HDF5 that it can read.
    """
    found: dict[str, HDF5] = {}
    with opened(path) as file:

        def look(name: str, node: h5py.Group | h5py.Dataset) -> None:
            if store.is_inner(name):
                return
            if table := _table(path, name, node):
                found[table.name] = table

        look("", file)
        file.visititems(look)  # meets each object once, and none of another file
    return {name: found[name] for name in found if not store.is_part(name, found)}


def choose(path: Path, found: Mapping[str, HDF5], name: str | None) -> HDF5:
    """The table of that name, or the only one.

    Raises:
        DataError: If there is no such table, or there are several and no name: it lists them.
    """
    if not found:
        raise DataError(
            f"{path} is an HDF5 file without a table (a frame of pandas, a group of columns of one "
            "length, a dataset of records): name another file"
        )
    if name is not None:
        if table := found.get(name.strip("/") or "/"):
            return table
        hint = suggestion(name.strip("/"), found, otherwise="its tables are")
        raise DataError(f"--table {name}: {path} has no such table: {hint}")
    if len(found) > 1:
        listed = ", ".join(f"{each.name} ({each.rows} rows)" for each in [*found.values()][:LISTED])
        more = ", ..." if len(found) > LISTED else ""
        raise DataError(
            f"{path} is an HDF5 file with tables {listed}{more}: choose one with --table"
        )
    return next(iter(found.values()))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        DataError: If h5py is not installed.
        OSError: If it is damaged.
    """
    h5py = _library(path)
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401 - it makes more ways of compression known to h5py
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise OSError(first_line(error)) from error  # what is not where the file says it is


def texts(path: Path, group: str) -> dict[str, str]:
    """The texts that a group holds, by the names of their datasets; none if there is no group."""
    with opened(path) as file:
        nodes = dict(file[group].items()) if group in file else {}
        return {name: store.text_of(node[()]) for name, node in nodes.items() if _is_text(node)}


def attributes(path: Path, *nodes: str) -> dict[str, Any]:
    """The attributes of the file and of some of its nodes together; later ones win."""
    with opened(path) as file:
        found = [file.attrs, *(file[node].attrs for node in nodes if node in file)]
        return {name: value for each in found for name, value in each.items()}


@contextlib.contextmanager
def created(path: Path) -> Iterator[h5py.File]:
    """A new file to be filled, which takes the place of `path` when the body ends well.

    Raises:
        DataError: If h5py is not installed.
        OSError: If it cannot be written; it names `path`.
    """
    h5py = _library(path)
    with atomic.draft_of(path) as draft, h5py.File(draft, "w") as file:
        yield file


def _library(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise DataError(
            f"{path} is an HDF5 file, and h5py, which reads it, is not installed: "
            "pip install 'hpo-flows[hdf5]'"
        ) from None
    return h5py


def _is_text(node: h5py.Group | h5py.Dataset) -> bool:
    return hasattr(node, "dtype") and node.size == 1 and store.kind_of(node.dtype) == "text"


def _table(path: Path, name: str, node: h5py.Group | h5py.Dataset) -> HDF5 | None:
    """The table that a node is, if it is one."""
    import h5py

    if isinstance(node, h5py.Dataset):
        found, rows = _records(node), node.shape[0] if node.shape else 0
    elif not isinstance(node, h5py.Group):
        return None  # the name of a type
    elif store.is_frame(node):
        found, rows = store.frame(node)
    else:
        found, rows = _group(node)
    if not found:
        return None
    units = {
        old: unit
        for old, column in found
        if (unit := _unit(node if column.field else node.file[column.dataset]))
    }
    units |= store.units_of_astropy(node)
    return HDF5(
        path=path,
        name=name or "/",
        rows=rows,
        header=tuple(old for old, _ in found),
        places=dict(found),
        units=units,
    )


def _records(dataset: h5py.Dataset) -> Places:
    """The fields of a dataset of records; a field that holds several numbers is several columns."""
    found: Places = []
    fields = dataset.dtype.names if dataset.ndim == 1 else None
    for field in fields or ():
        base, shape = dataset.dtype[field].base, dataset.dtype[field].shape
        found += _split(field, Place(dataset.name, store.kind_of(base), field), shape)
    return found


def _group(group: h5py.Group) -> tuple[Places, int]:
    """The datasets of the length that most have."""
    import h5py

    # A link of another kind can lead to another file, or to none.
    names = (name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink))
    datasets = {
        name: node
        for name, node in ((name, group[name]) for name in names)
        if isinstance(node, h5py.Dataset) and node.shape and len(node.shape) <= 2
        if store.kind_of(node.dtype) and not store.is_inner(name)
    }
    lengths = Counter(node.shape[0] for node in datasets.values())
    if not lengths:
        return [], 0
    rows = max(lengths, key=lambda length: (lengths[length], length))
    found: Places = []
    for name, node in datasets.items():
        if node.shape[0] == rows:
            found += _split(name, Place(node.name, store.kind_of(node.dtype)), node.shape[1:])
    return found, rows


def _split(name: str, column: Place, shape: tuple[int, ...]) -> Places:
    if not column.kind or len(shape) > 1 or max(shape, default=0) > WIDEST:
        return []
    if not shape or shape == (1,):
        return [(name, column.part(0) if shape else column)]
    return [(f"{name}_{at}", column.part(at)) for at in range(shape[0])]


def _unit(dataset: h5py.Dataset) -> str:
    for key in ("units", "unit"):
        if key in dataset.attrs:
            return store.text_of(dataset.attrs[key])
    return ""


def _step(datasets: Iterable[h5py.Dataset]) -> int:
    """Rows that are read at once: whole chunks of the file, which would be decoded again."""
    datasets = list(datasets)
    row = sum(each.dtype.itemsize * max(1, *each.shape[1:], 1) for each in datasets)
    step = max(1, CHUNK_BYTES // max(1, int(row)))
    chunk = min(max((int(each.chunks[0]) for each in datasets if each.chunks), default=1), step)
    return step - step % chunk


def _array(block: NDArray[Any], column: Place) -> pa.Array:
    """A column of rows that were read, as Arrow has it."""
    values = block[column.field] if column.field else block
    values = values[:, column.at] if column.at is not None else values
    if column.categories is not None:
        codes = pa.array(values, mask=values < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(column.categories, pa.string()))
    if values.dtype.kind in "SO":
        texts = pa.array(values.tolist(), pa.binary()).cast(pa.string()).dictionary_encode()
        if not column.of_pandas:
            return texts
        missing = pc.equal(texts.dictionary, store.MISSING).take(texts.indices)
        codes = pc.if_else(missing, None, texts.indices)
        return pa.DictionaryArray.from_arrays(codes, texts.dictionary)
    # Arrow knows the processor's own order of bytes, and floats of up to eight bytes.
    kind = {2: "f4", 16: "f8"}.get(values.dtype.itemsize) if values.dtype.kind == "f" else None
    return pa.array(values.astype(kind or values.dtype.newbyteorder("="), copy=False))
