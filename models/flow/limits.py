"""Numbers that keep a flow's arithmetic finite, the same for torch and for plain arrays."""

from __future__ import annotations

import math

SMALLEST_BIN = 3e-3
"""Least width and height of a spline's bin, relative to the sum of all before it was added."""
SMALLEST_SLOPE = 3e-2
"""Least derivative at an edge between two bins."""
LARGEST_RAW = 20.0
"""Raw widths and heights beyond this change nothing: all other bins are at their least by then."""
UNIT_SLOPE = math.log(math.expm1(1 - SMALLEST_SLOPE))
"""The raw derivative that makes a slope of 1, which the curve has at both ends."""
LOG_SCALE_LAYER, LOG_SCALE_TOTAL = 3.0, 30.0
"""Largest |log-scale| of one affine layer and of all: e^30, squared, is still a float32."""
TINY, HUGE = 1.2e-38, 3.4e38
"""Smallest and largest float32 that a positive column can take when drawn: never 0, never inf."""
