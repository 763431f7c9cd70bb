"""The distinct conditions of rows: a function of the condition alone is computed once for each.

Tensor names end in their axes:
    N rows    C conditions    U distinct conditions    K anything
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

RUN_ROWS = 64
"""Fewest rows of a condition, on average, for which a product spreads values fastest."""
SHARED_ROWS = 4
"""Fewest rows of a condition, on average, worth putting a batch in the order of its conditions."""
Rows = Tensor | slice
"""Which rows of a batch."""
Part = Callable[[Tensor, Tensor, Sequence[int] | None], Tensor]
"""A method of a flow: rows, their conditions, and `counts`."""


@dataclass(frozen=True)
class Conditions:
    """The conditions of N rows."""

    c_CU: Tensor
    """The U distinct conditions."""
    counts: Sequence[int] | None = None
    """Rows of each condition, next to each other; None for one each, so that U = N."""
    fused: bool = False
    """Whether first derivatives are enough, so that steps with a derivative by hand can be used."""
    of_rows: Tensor | None = None
    """In place of `counts`, where rows are in any order: which condition each has, `(N,)`."""
    apart: bool = False
    """Whether they belong to several flows, so that a number of one that is none stays there."""
    slopes_N: Tensor | None = None
    """The gradient by each row's log density, where it is known before: steps with a derivative by
    hand then go back at once, while their arrays are in the cache."""

    @cached_property
    def index_N(self) -> Tensor | None:
        """Which of the distinct conditions each row has; None for one each."""
        if self.counts is None:
            return self.of_rows
        counts_U = torch.tensor(self.counts, device=self.c_CU.device)
        numbers_U = torch.arange(len(self.counts), device=self.c_CU.device)
        return torch.repeat_interleave(numbers_U, counts_U, output_size=sum(self.counts))

    @cached_property
    def runs_UN(self) -> Tensor | None:
        """1 where a row has the condition, else 0; None where a product with it costs more.

        None on a GPU, too, which may round what it multiplies to 10 bits (TF32).
        """
        index_N = self.index_N
        if not self.fused or index_N is None or self.c_CU.shape[1] * RUN_ROWS > len(index_N):
            return None
        if self.apart or self.c_CU.device.type != "cpu":
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


def distinct(c_NC: Tensor) -> tuple[Tensor, Tensor]:
    """The U distinct rows of conditions, `(U, C)`, and which of them each row has, `(N,)`."""
    # Sorting rows is slow. Sums with irrational weights, one number for each row, sort 20 times
    # as fast; rows that differ hardly ever have one sum, and where they do, it is seen.
    weights_C = torch.arange(1, c_NC.shape[1] + 1, dtype=torch.float64, device=c_NC.device).sqrt()
    keys_U, index_N = torch.unique(c_NC.double() @ weights_C, return_inverse=True)
    c_UC = c_NC.new_empty(len(keys_U), c_NC.shape[1])
    c_UC[index_N] = c_NC
    if not torch.equal(c_UC[index_N], c_NC):
        c_UC, index_N = torch.unique(c_NC, dim=0, return_inverse=True)
    return c_UC, index_N


def micro_batches(
    c_UC: Tensor, index_N: Tensor, rows: int
) -> Iterator[tuple[Rows, Tensor, list[int]]]:
    """Parts of at most `rows` rows: which they are, their distinct conditions, and rows of each.

    Rows are put in the order of their conditions, so that equal ones are computed once: on a
    grid that leaves a third of the work.
    """
    count = len(index_N)
    slices = [slice(at, min(at + rows, count)) for at in range(0, count, rows)]
    shared = len(c_UC) <= count // SHARED_ROWS
    if shared and len(c_UC) > 1:
        index_N, order_N = torch.sort(index_N, stable=True)
    for part in slices:
        size = part.stop - part.start
        if len(c_UC) == 1:
            yield part, c_UC, [size]
        elif not shared:
            yield part, c_UC[index_N[part]], [1] * size
        else:
            present, counts = torch.unique_consecutive(index_N[part], return_counts=True)
            yield order_N[part], c_UC[present], counts.tolist()


def by_choice(
    out: Tensor,
    choice_N: Tensor,
    parts: Sequence[Part],
    x_NK: Tensor,
    c_NC: Tensor,
    counts: Sequence[int] | None,
) -> Tensor:
    """`out` with the results of the part that each row chose by its number; -1 chooses none."""
    # A graph cannot leave rows out.
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        for k, part in enumerate(parts):
            chosen_N = (choice_N == k).reshape(-1, *[1] * (out.ndim - 1))
            out = torch.where(chosen_N, part(x_NK, c_NC, None), out)
        return out
    if counts is None and len(c_NC) != len(x_NK):
        counts = [len(x_NK)]
    if counts is not None:
        lengths_U = torch.as_tensor(counts, dtype=torch.long, device=c_NC.device)
        runs_U = torch.arange(len(lengths_U), device=c_NC.device)
        run_N = torch.repeat_interleave(runs_U, lengths_U, output_size=len(x_NK))
    for k, part in enumerate(parts):
        rows = (choice_N == k).nonzero()[:, 0]
        if not len(rows):
            continue
        if counts is None:
            out[rows] = part(x_NK[rows], c_NC[rows], None)
        else:
            left_U = torch.bincount(run_N[rows], minlength=len(lengths_U))
            some = left_U > 0
            out[rows] = part(x_NK[rows], c_NC[some], left_U[some].tolist())
    return out
