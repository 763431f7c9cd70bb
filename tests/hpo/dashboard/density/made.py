"""Runs of known data, as the tests of densities need them."""

import dataclasses

import numpy as np

from hpo.dashboard.catalog import Catalog
from hpo.records.record import DataUsed
from models.config import FlowConfig
from models.flow.coordinates import Constants, Moments
from models.flow.density import build_flow
from models.layout import inputs_of
from models.training import checkpoint
from tests import made_runs

KEY = "bbh/trial-00000"
SMALL = FlowConfig(base="normal", blocks=2, hidden=16, bins=8)
LARGEST = {"Z": 0.01, "alpha": 5.0}
"""The cell of the known table with most rows."""


def record_of(dataset, path, **changes):
    used = DataUsed(path=str(path), fingerprint=dataset.fingerprint, rows=dataset.rows)
    return made_runs.run(**{"data": used, **changes})


def put(record, folder):
    """Write the record of the checkpoint in a folder."""
    stored = checkpoint.load(folder)
    dataclasses.replace(record, weights=checkpoint.digest(stored)).write(folder)


def catalog_of(folder):
    catalog = Catalog(folder)
    catalog.refresh()
    return catalog


def untrained(dataset, folder):
    """A checkpoint of a flow for these columns, without a training."""
    moments = [
        Moments(10, np.full(len(columns), 2.0), np.full(len(columns), 1.0))
        for columns in (dataset.event_columns, inputs_of(dataset.condition_columns))
    ]
    flow = build_flow(SMALL, dataset, Constants(*moments))
    tensors = {checkpoint.BEST + name: each for name, each in flow.state_dict().items()}
    stored = checkpoint.Checkpoint(tensors=tensors, state={"flow": flow.describe()})
    checkpoint.save(folder, stored)
    return flow
