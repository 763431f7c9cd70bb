"""One small table, and how the tests of its forms write it down."""

from __future__ import annotations

import io
import zipfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pytest

from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare

NAMES = ("Mass_0", "Mass_1", "Z", "alpha")
ROWS = [(5 + k / 4, 3 + k / 8, (0.0001, 0.03)[k % 2], (0.5, 1.0)[k // 20]) for k in range(40)]
TABLE = pa.table({name: [row[k] for row in ROWS] for k, name in enumerate(NAMES)})


def lines(separator=",", row=lambda values: map(repr, values)):
    return [separator.join(row(values)) for values in ROWS]


def written(*head, rows=None, end="\n"):
    return end.join([*head, *(lines() if rows is None else rows), ""]).encode()


CSV = written("Mass_0,Mass_1,Z,alpha")


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    return path


def refusal(path, folder, **options):
    with pytest.raises(DataError) as caught:
        prepare([path], folder / "out", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zipped(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()
