"""What a training takes of a GPU's memory, worked out on the processor."""

from __future__ import annotations

import torch

from data_prep.dataset import Dataset
from models.config import FlowConfig
from models.flow.conditions import Conditions
from models.flow.density import build_flow, unset

ROWS = 256
"""Rows of the step that is looked at."""
PEAK = 1.5
"""How much more than what it keeps for its gradients a step has at its largest: 1.1 times as much
as a dispatch mode counts arrays that live (affine, splines, none), and room between them."""
COPIES = 12
"""Arrays as large as the weights: six in a stack, as many on the way of a step."""


EVALUATED = 1e9
"""Bytes of an evaluation, one of which is under way at a time (`models/training/loss.py`)."""


def bytes_of_all(dataset: Dataset) -> float:
    """Bytes that all trainings share: the training rows, and an evaluation."""
    each = 4 * (len(dataset.event_columns) + 2) + 8  # weight, log-Jacobian, number of its cell
    return EVALUATED + each * dataset.rows["train"]


def bytes_of_training(config: FlowConfig, dataset: Dataset, batch_size: int) -> float:
    """Bytes of a training in a stack, at the most.

    A step without derivatives by hand is taken forwards with a few rows, and every array counted
    that autograd keeps of it.
    """
    flow = build_flow(config, dataset, unset(dataset.event_columns, dataset.condition_columns))
    y_NF = torch.randn(ROWS, len(dataset.event_columns))
    cells = min(len(dataset.cells), ROWS)
    inputs = flow.conditions.mean_K.numel()
    conditions = Conditions(torch.randn(inputs, cells), of_rows=torch.arange(ROWS) % cells)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _graph = flow.train().log_prob_standardised(y_NF, conditions)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in flow.parameters())
    columns = len(dataset.event_columns) + len(dataset.condition_columns) + 1
    validation = 4 * columns * dataset.rows["val"]
    return PEAK * batch_size * sum(kept.values()) / ROWS + COPIES * weights + validation
