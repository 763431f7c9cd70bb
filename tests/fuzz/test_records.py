"""Run JSONs of strangers: read or refused, listed, and drawn by the dashboard."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpo.dashboard import catalog
from hpo.dashboard.runs import differences, figures, importance, learning, tables
from hpo.records import listing, record, table
from hpo.records.folder import read, read_all
from tests.fuzz.strategies import answer, broken, damaged, fuzz, memory

RUN = json.loads((Path(__file__).parent.parent / "data" / "run-schema-1.json").read_text())
THESIS = {
    "label": "x",
    "A": "relu",
    "blocks": 3,
    "hidden": 20,
    "batch_size": 100,
    "stopped_early": True,
    "epochs": 2,
    "best_loss": 5.0,
    "runtime": 9.0,
    "device": "cpu",
    "training_file": "/a/b.csv",
    "epoch_time": [1.0, 2.0, 3.0],
    "d_score_rate": [-0.1, float("nan")],
}


def packed(**named):
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


CURVES = packed(train_loss=np.arange(3.0), valid_loss=np.arange(3.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("runs")
    (made / "s" / "trial-00001").mkdir(parents=True)
    (made / "s" / "trial-00000").mkdir()
    (made / "s" / "trial-00000" / "run.json").write_text(json.dumps(RUN))
    return made


def listed(folder):
    """Every record below the folder, listed in every format."""
    found = read_all(folder)
    rows = table.rows(folder)
    for style in listing.FORMATS:
        text = listing.render(rows, style)
        assert "\x1b" not in text or style == "csv"
    chosen = answer(table.select, rows, sort=["best_val_nll"], best=2)
    assert chosen is None or len(chosen) <= 2
    return {str(path): each for path, each in found if isinstance(each, record.RunRecord)}


def drawn(folder, records):
    """What the dashboard shows of them."""
    looking = catalog.Catalog(folder)
    looking.refresh()
    every = looking.rows()
    known = tables.columns(every)
    for column in (*known[:8], *tables.axes(every)[:4]):
        figures.scatter(every, "best_val_nll", column.name, colour=column.name).to_json()
    figures.pareto(every, "seconds").to_json()
    for name, _ in answer(importance.importance, every) or []:
        importance.direction(every, name)
    differences.cautions(records.values())
    differences.difference(records)
    tables.names(records)
    curves(records)


def curves(records):
    with np.errstate(all="ignore"):
        for along in ("epoch", "rows"):
            learning.curves(records, along=along, excess=True, smoothing=0.5, log_x=True).to_json()
        learning.rates(records, along="minutes").to_json()


@pytest.mark.slow
@fuzz(6)
@given(run=broken(RUN))
@example({**RUN, "params": {"\x1b[2J": "\x1b[2J", "[red]": "[/]", "study": 1, "run": 2}})
@example({**RUN, "params": {"hidden": 10**400}})
@example({**RUN, "params": {"hidden": 10**30}})
@example({**RUN, "trial": 10**4000})
@example({**RUN, "cost": {**RUN["cost"], "parameters": 10**400}})
@example({**RUN, "flow": {"a": [{"b": [[[1e308]]]}]}})
@example({**RUN, "best_val_nll": 1e308})
@example({**RUN, "best_val_nll": -1e308})
@example({**RUN, "started": "\x00", "updated": "9999-99-99"})
@example({**RUN, "epochs": [{**RUN["epochs"][0], "epoch": 10**400}]})
@example({**RUN, "epochs": [{**RUN["epochs"][0], "val_nll": 1e308, "seconds": 1e308}] * 3})
@example({**RUN, "epochs": [{**RUN["epochs"][0], "val_nll": 5e-324, "seconds": -1e308}] * 3})
@example({**RUN, "seeds": {"x": 10**400}, "restarts": -(10**400)})
def test_a_broken_run(folder, run):
    (folder / "s" / "trial-00001" / "run.json").write_bytes(
        json.dumps(run).encode("utf-8", "surrogatepass")
    )
    with memory(512):
        drawn(folder, listed(folder))


@fuzz(80)
@given(text=damaged(json.dumps(RUN).encode()) | st.binary(max_size=40))
@example(b"[" * 1_000_000)
@example(b'{"params":' * 100_000)
@example(b'{"schema": ' + b"1" * 100_000 + b"}")
@example(b'{"schema": 1, "study": "\\ud800"}')
@example(json.dumps({**RUN, "params": {"a": None}}).replace("null", "1" * 100_000).encode())
def test_a_damaged_run(folder, text):
    path = folder / "s" / "trial-00001" / "run.json"
    path.write_bytes(text)
    with memory(512):
        answer(read, path)
        answer(read, path, last_epoch=True)


def npy(header, content=b""):
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def zipped(train):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("valid_loss.npy", npy_of(np.arange(3.0)))
        archive.writestr("train_loss.npy", train)
    return buffer.getvalue()


def npy_of(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


HEADER = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,), }"


@pytest.mark.slow
@fuzz(12)
@given(run=st.just(THESIS) | broken(THESIS), arrays=st.just(CURVES) | damaged(CURVES))
@example(THESIS, zipped(npy(HEADER % 10**15)))
@example(THESIS, zipped(npy(HEADER % 10**10)))
@example(THESIS, zipped(npy(HEADER % 10**30)))
@example(THESIS, zipped(npy(HEADER % -1)))
@example(THESIS, zipped(npy(HEADER % ("(" * 5000))))
@example(THESIS, zipped(npy(HEADER.replace("<f8", "|O") % 3)))
@example(THESIS, zipped(npy("__import__('os').system('touch broken')")))
@example(THESIS, zipped(npy("{'descr': '<f8'")))
@example(THESIS, zipped(npy('"""')))
@example(THESIS, zipped(npy_of(np.zeros(2**18))))
@example(THESIS, zipped(npy_of(np.zeros(9 * 2**20))))
@example(THESIS, zipped(npy_of(np.array([1, 2**63 - 1]))))
@example({**THESIS, "epoch_time": [1e308, -1e308, 1e308]}, CURVES)
@example({**THESIS, "blocks": 10**400}, CURVES)
def test_a_broken_run_of_the_thesis(tmp_path_factory, run, arrays):
    folder = tmp_path_factory.mktemp("thesis")
    (folder / "x.json").write_bytes(json.dumps(run).encode("utf-8", "surrogatepass"))
    (folder / "x_loss.npz").write_bytes(arrays)
    with memory(512):
        curves(listed(folder))
    assert sorted(each.name for each in folder.iterdir()) == ["x.json", "x_loss.npz"]
