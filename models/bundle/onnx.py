"""The bundle's ONNX graphs, for use without Python or torch: density and draws.

`log_prob.onnx`: events `(N, F)`, conditions `(N, C)` -> log_prob `(N,)`, nats.
`sample.onnx`: noise `(N, F)`, standard normal, conditions `(N, C)` -> events `(N, F)`; columns
with atoms need one number more, which chooses the pattern, and an ensemble one for the member.
All float32 and in physical units; N is free. Conditions that cannot be at all, such as a
metallicity of 0, give NaN. Torch needs the package `onnx` for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from models.bundle.ensemble import Density

LOG_PROB, SAMPLE = "log_prob.onnx", "sample.onnx"
OPSET = 17
"""Oldest set of operators that has what the flow needs; runtimes since 2022 read it."""


class _Graph(nn.Module):
    """A method of a flow as the `forward` that the exporter asks for."""

    def __init__(self, flow: Density, method: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.flow = flow
        self._method = method

    def forward(self, first_NF: Tensor, c_NC: Tensor | None = None) -> Tensor:
        if c_NC is None:
            return self._method(first_NF, first_NF[:, :0])
        return self._method(first_NF, c_NC)


def write(flow: Density, folder: Path) -> None:
    """Write both graphs into `folder`."""
    flow.eval()
    _export(flow, flow.log_prob, folder / LOG_PROB, ("events", "log_prob"))
    _export(flow, flow.from_noise, folder / SAMPLE, ("noise", "events"))


def _export(
    flow: Density, method: Callable[[Tensor, Tensor], Tensor], path: Path, names: tuple[str, str]
) -> None:
    width = flow.noise_columns if path.name == SAMPLE else len(flow.event_columns)
    rows = torch.ones(3, width).to(flow.conditions.mean_K)
    conditions = torch.ones(3, len(flow.condition_columns)).to(rows)
    first, out = names
    # Nothing that a user would have to pass for a flow without conditions.
    inputs = {first: rows} | ({"conditions": conditions} if flow.condition_columns else {})
    with warnings.catch_warnings():
        # The tracing exporter is deprecated, but the new one takes 50 times as long, wants another
        # 12 MB of packages, and says more. Sizes that tracing would fix are tested to be free.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(flow, method).eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[out],
            dynamic_axes={name: {0: "rows"} for name in (*inputs, out)},
        )
