"""The conditions of rows, told so that what depends on nothing else is worked out once.

Tensor names end in their axes:
    N rows    C conditions    U distinct conditions    K anything
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

RUN_ROWS = 64
"""Fewest rows of a condition, on average, for which a product spreads values fastest."""


@dataclass(frozen=True)
class Given:
    """The conditions of N rows."""

    c_CU: Tensor
    """The U distinct conditions."""
    counts: Sequence[int] | None = None
    """Rows of each condition, next to each other; None for one each, so that U = N."""
    fused: bool = False
    """Whether first derivatives are enough, so that steps with a derivative by hand can be used."""

    @cached_property
    def index_N(self) -> Tensor | None:
        """Which of the distinct conditions each row has; None for one each."""
        if self.counts is None:
            return None
        counts_U = torch.tensor(self.counts, device=self.c_CU.device)
        numbers_U = torch.arange(len(self.counts), device=self.c_CU.device)
        return torch.repeat_interleave(numbers_U, counts_U, output_size=sum(self.counts))

    @cached_property
    def runs_UN(self) -> Tensor | None:
        """1 where a row has the condition, else 0; None where a product with it costs more."""
        index_N = self.index_N
        if not self.fused or index_N is None or self.c_CU.shape[1] * RUN_ROWS > len(index_N):
            return None
        one_UU = torch.eye(self.c_CU.shape[1], dtype=self.c_CU.dtype, device=self.c_CU.device)
        return one_UU.index_select(1, index_N)

    @cached_property
    def c_CN(self) -> Tensor:
        """The condition of every row."""
        return self.c_CU if self.index_N is None else self.c_CU.index_select(1, self.index_N)

    def spread(self, x_KU: Tensor) -> Tensor:
        """Values of the distinct conditions at every row, `(K, N)`."""
        if self.runs_UN is not None:
            return x_KU @ self.runs_UN
        return x_KU if self.index_N is None else x_KU.index_select(1, self.index_N)
