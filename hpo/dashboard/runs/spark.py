"""The validation curve of a run as a picture the size of a word."""

from __future__ import annotations

import numpy as np

from hpo.dashboard.runs.history import curve
from hpo.records.record import RunRecord

WIDE, HIGH, MOST = 96, 24, 48
"""Pixels, and points at most."""

COLOUR = "#3f8fd0"
"""Seen on both backgrounds."""


def spark(record: RunRecord) -> str:
    """An SVG of the validation NLL along the epochs; the fall of the first ones is cut off."""
    values = curve(record).val_nll
    values = values[np.isfinite(values)]
    values = values[np.linspace(0, len(values) - 1, min(len(values), MOST)).astype(int)]
    line = ""
    if len(values) > 1:
        low, middle = float(values.min()), float(np.median(values))
        span = 3 * (middle - low) or 1.0
        y = 2 + (HIGH - 4) * (1 - np.clip((values - low) / span, 0, 1))
        x = np.linspace(2, WIDE - 2, len(values))
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        line = f'<polyline points="{points}" fill="none" stroke="{COLOUR}" stroke-width="1.6"/>'
    size = f'width="{WIDE}" height="{HIGH}" viewBox="0 0 {WIDE} {HIGH}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{line}</svg>'
