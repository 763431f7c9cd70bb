"""Monotonic rational-quadratic splines: one smooth, invertible curve for each number.

In a bin of width w, height h, mean slope s = h / w and slopes d0, d1 at its edges, with
t = (x - left) / w:

    z = bottom + h t (s t + d0 (1 - t)) / (s + (d0 + d1 - 2 s) t (1 - t))

There are K bins in [-bound, bound]; outside lies the identity, and the derivative is continuous.
A curve may have fewer bins than there is room for: the others, whose raw slopes are `UNIT_SLOPE`,
have no size.
The curve is written twice: as plain tensor operations (any derivative, vmap, export) and as
`FusedCurves`, with its derivative by hand, for training and evaluation. Bins are found by
comparison with all edges: boolean indexing, as in nflows, is several times slower and cannot be
exported.

Arrays hold the parameters first. Tensor names end in their axes:
    F features    N rows    K bins    P = 3K - 1 parameters of a curve
    M curves (N, or fewer that rows share)

Durkan, Bekasov, Murray & Papamakarios (2019), https://arxiv.org/abs/1906.04032
Gregory & Delbourgo (1982), IMA Journal of Numerical Analysis 2, 123
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from models.flow.fused import give_back, take
from models.flow.network import at_columns
from models.layout import LARGEST_RAW, SMALLEST_BIN, SMALLEST_SLOPE, UNIT_SLOPE

Own = int | Tensor
"""How many bins curves have: a number, or one for each."""


class Bins(NamedTuple):
    """The bin of every row, edges and sizes in units of the whole interval."""

    left: Tensor
    width: Tensor
    bottom: Tensor
    height: Tensor
    slope_0: Tensor
    """Derivative at the left edge."""
    slope_1: Tensor
    """Derivative at the right edge."""


def forward(
    x_N: Tensor, parameters_PN: Tensor, bound: float, own: Own | None = None
) -> tuple[Tensor, Tensor]:
    """The curves at `x_N` and the logarithms of their derivatives, both `(N,)`.

    Args:
        x_N: Where.
        parameters_PN: Of the curves.
        bound: To which they reach.
        own: How many bins each has, `(N,)`; None for all that there is room for.
    """
    inside_N = x_N.abs() < bound
    x_01 = _unit(torch.where(inside_N, x_N, 0.0), bound)
    bins = _bins(x_01, parameters_PN, own, inverse=False)
    t = ((x_01 - bins.left) / bins.width).clamp(0, 1)
    above, below, slopes, s = _terms(t, bins)
    z_N = (bins.bottom + bins.height * above / below) * (2 * bound) - bound
    log_det_N = 2 * s.log() + slopes.log() - 2 * below.log()
    return torch.where(inside_N, z_N, x_N), torch.where(inside_N, log_det_N, 0.0)


def inverse(
    z_N: Tensor, parameters_PN: Tensor, bound: float, own: Own | None = None
) -> tuple[Tensor, Tensor]:
    """Where the curves are `z_N`, and the logarithms of the inverses' derivatives, both `(N,)`."""
    inside_N = z_N.abs() < bound
    z_01 = _unit(torch.where(inside_N, z_N, 0.0), bound)
    bins = _bins(z_01, parameters_PN, own, inverse=True)
    t = _solve(z_01, bins)
    _, below, slopes, s = _terms(t, bins)
    log_det_N = 2 * below.log() - 2 * s.log() - slopes.log()
    x_N = (t * bins.width + bins.left) * (2 * bound) - bound
    return torch.where(inside_N, x_N, z_N), torch.where(inside_N, log_det_N, 0.0)


def _terms(t: Tensor, bins: Bins) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numerator and denominator of the curve, the sum in its derivative, and the mean slope."""
    u, s = 1 - t, bins.height / bins.width
    left, right, mean = bins.slope_0 * u, bins.slope_1 * t, s * t
    above = t * (mean + left)
    below = s + (bins.slope_0 + bins.slope_1 - 2 * s) * (t * u)
    slopes = right * t + (2 * mean + left) * u
    return above, below, slopes, s


def _solve(z_01: Tensor, bins: Bins) -> Tensor:
    """Where in its bin, from 0 to 1, a curve takes a value."""
    rise, s = z_01 - bins.bottom, bins.height / bins.width
    # Of a quadratic equation divided by its largest slope, whose square might overflow.
    scale = 1 / (bins.slope_0 + bins.slope_1 + 2 * s).detach()
    first, mean = bins.slope_0 * scale, s * scale
    bend = rise * (first + bins.slope_1 * scale - 2 * mean)
    a, b = bins.height * (mean - first) + bend, bins.height * first - bend
    c = -mean * rise
    # b and the root with one sign: nothing cancels. Where b <= 0, a = mean height - b > 0.
    rising = b > 0
    large = b.abs() + (b * b - 4 * a * c).clamp_min(1e-30).sqrt()
    return torch.where(rising, -2 * c / large, large / (2 * torch.where(rising, 1.0, a))).clamp(
        0, 1
    )


def _bins(at_N: Tensor, parameters_PN: Tensor, own: Own | None, *, inverse: bool) -> Bins:
    """The bins that rows fall in, by plain operations; by their heights for the inverse."""
    count = _count(parameters_PN)
    sizes = parameters_PN[: 2 * count].clamp(-LARGEST_RAW, LARGEST_RAW).exp()
    own = count if own is None else own
    upper_w, upper_h = (_upper(part, own) for part in torch.split(sizes, count))
    upper = (upper_h if inverse else upper_w).detach()
    bin_1N = (upper <= at_N.detach() * upper[-1:]).sum(0, keepdim=True).clamp(max=own - 1)
    left, width = _edge_and_size(sizes[:count], upper_w, bin_1N, own)
    bottom, height = _edge_and_size(sizes[count:], upper_h, bin_1N, own)
    raw = functional.pad(parameters_PN[2 * count :], (0, 0, 1, 1), value=UNIT_SLOPE)
    slope_0, slope_1 = (_slope(raw.gather(0, bin_1N + side)[0]) for side in (0, 1))
    return Bins(left, width, bottom, height, slope_0, slope_1)


def _edge_and_size(
    sizes_KN: Tensor, upper_KN: Tensor, bin_1N: Tensor, own: Own
) -> tuple[Tensor, Tensor]:
    whole_N = upper_KN[-1]
    size_N = sizes_KN.gather(0, bin_1N)[0] + whole_N * _share(own)
    return (upper_KN.gather(0, bin_1N)[0] - size_N) / whole_N, size_N / whole_N


class FusedCurves:
    """The curves of all features at once, with the derivative by hand, in arrays used again.

    Not to be asked twice for its derivative: the first gives its arrays back.
    """

    def __init__(self, bound: float, own: Own | None = None) -> None:
        """Args: to where they reach, and numbers of bins, `(T,)` of the flows of a stack."""
        self.bound, self.own = bound, own

    def forward(
        self, x_FN: Tensor, parameters: Sequence[Tensor], index_N: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Values and log-derivatives, `(F, N)`.

        Args:
            x_FN: Where.
            parameters: Of each feature, `(P, M)`: of every row, or of the first feature fewer
                that rows share.
            index_N: The curve of each row for the first feature; None for one each.
        """
        self.inside = x_FN.abs() < self.bound
        x_01 = _unit(torch.where(self.inside, x_FN, 0.0), self.bound)
        self.looked_up = [
            _LookUp(x_01[f], parameters[f], None if f else index_N, self.own, inverse=False)
            for f in range(len(x_FN))
        ]
        self.bins = Bins(*torch.stack([one.bins for one in self.looked_up], 1))
        self.t = ((x_01 - self.bins.left) / self.bins.width).clamp_(0, 1)
        self.above, self.below, self.slopes, self.s = _terms(self.t, self.bins)
        z_FN = (self.bins.bottom + self.bins.height * self.above / self.below) * (2 * self.bound)
        log_det = 2 * (self.s / self.below).log_() + self.slopes.log()
        return torch.where(self.inside, z_FN - self.bound, x_FN), log_det.mul_(self.inside)

    def inverse(self, z_N: Tensor, parameters_PM: Tensor, index_N: Tensor | None) -> Tensor:
        """Where the curves of one feature are `z_N`."""
        inside_N = z_N.abs() < self.bound
        z_01 = _unit(torch.where(inside_N, z_N, 0.0), self.bound)
        one = _LookUp(z_01, parameters_PM, index_N, self.own, inverse=True)
        one.give_back()
        bins = Bins(*one.bins)
        x_01 = _solve(z_01, bins).mul_(bins.width).add_(bins.left)
        return torch.where(inside_N, x_01.mul_(2 * self.bound).sub_(self.bound), z_N)

    def give_back(self) -> None:
        """Give back all arrays, when no derivative is wanted."""
        for one in self.looked_up:
            one.give_back()

    def backward(self, grad_z_FN: Tensor, grad_log_det_FN: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gradients of `x_FN` and of every feature's parameters."""
        bins, t, s, bound = self.bins, self.t, self.s, self.bound
        grad_z = torch.where(self.inside, grad_z_FN, 0.0).mul_(2 * bound)
        grad_l = torch.where(self.inside, grad_log_det_FN, 0.0)
        r, u, bend = t * (1 - t), 1 - t, bins.slope_0 + bins.slope_1 - 2 * s
        over = grad_z / self.below
        d_above = over * bins.height
        d_below = -(d_above * self.above + 2 * grad_l) / self.below
        d_slopes = grad_l / self.slopes
        d_r = d_above * bins.slope_0 + d_below * bend + 2 * s * d_slopes
        d_s = d_above * t * t + d_below * (1 - 2 * r) + 2 * (d_slopes * r + grad_l / s)
        d_t = 2 * (d_above * s * t + d_slopes * (bins.slope_1 * t - bins.slope_0 * u)) + d_r * (
            u - t
        )
        d_t = d_t / bins.width
        d_s = d_s / bins.width
        grads = torch.stack(
            [
                -d_t,
                -(d_s * s + d_t * t),
                grad_z,
                over * self.above + d_s,
                d_above * r + d_below * r + d_slopes * u * u,
                d_below * r + d_slopes * t * t,
            ]
        )
        grad_x_FN = torch.where(self.inside, d_t / (2 * bound), grad_z_FN)
        return grad_x_FN, [one.backward(grads[:, f]) for f, one in enumerate(self.looked_up)]


class _LookUp:
    """The bins of one feature's rows, and the way back from their gradients to the parameters.

    Two axes more: 2 for widths and heights, or for the slopes at the left and the right edge.
    """

    def __init__(
        self,
        at_N: Tensor,
        parameters_PM: Tensor,
        index_N: Tensor | None,
        own: Own | None,
        *,
        inverse: bool,
    ) -> None:
        self.count = count = _count(parameters_PM)
        own = count if own is None else own
        self.own = at_columns(own, len(at_N))
        self.index_N = index_N
        self.curves = parameters_PM.shape[1]
        self.sizes_2KM = take(parameters_PM, 2, count, self.curves)
        raw_2KM = parameters_PM[: 2 * count].view(2, count, -1)
        torch.clamp(raw_2KM, -LARGEST_RAW, LARGEST_RAW, out=self.sizes_2KM).exp_()
        upper_2KM = take(parameters_PM, 2, count, self.curves)
        for side in (0, 1):
            _upper_into(self.sizes_2KM[side], own, upper_2KM[side])
        self._find(at_N, upper_2KM[int(inverse)])
        self.bins = torch.empty(6, len(at_N), dtype=at_N.dtype, device=at_N.device)
        self._pick_sizes(upper_2KM)
        self._pick_slopes(parameters_PM[2 * count :])
        give_back([upper_2KM])

    def _find(self, at_N: Tensor, upper_KM: Tensor) -> None:
        """The bin of every row, and its place in a flat array of `(K, M)`."""
        if self.index_N is None:
            below = take(upper_KM, *upper_KM.shape)
            torch.le(upper_KM, at_N * upper_KM[-1], out=below)
            found_N = below.sum(0).long()
            give_back([below])
            self.column_N = _numbers(len(at_N), at_N.device)
        else:
            self.column_N = self.index_N
            # All curves one after another in a single sorted array. float64: U edges apart by 1.
            # Of a flow that is no number any more they must be in order, too: others may be beside.
            keys = (upper_KM / upper_KM[-1]).nan_to_num_(nan=1.0).t().double()
            keys = keys + _numbers(self.curves, at_N.device)[:, None]
            found_N = torch.searchsorted(keys.flatten(), at_N.double() + self.index_N, right=True)
            found_N.sub_(self.index_N, alpha=self.count)
        self.bin_N = found_N.clamp_(min=0).clamp_(max=self.own - 1)
        self.place_N = torch.add(self.column_N, self.bin_N, alpha=self.curves)

    def _pick_sizes(self, upper_2KM: Tensor) -> None:
        whole = upper_2KM[:, -1]
        self.whole_2N = (
            whole.clone() if self.index_N is None else whole.index_select(1, self.index_N)
        )
        size_2N = self.sizes_2KM.flatten(1).index_select(1, self.place_N)
        size_2N.add_(self.whole_2N * _share(self.own))
        edge_2N = upper_2KM.flatten(1).index_select(1, self.place_N).sub_(size_2N)
        torch.div(edge_2N, self.whole_2N, out=self.bins[0:4:2])
        torch.div(size_2N, self.whole_2N, out=self.bins[1:4:2])

    def _pick_slopes(self, raw: Tensor) -> None:
        """The slopes at both edges of the bin: those between two bins are free, the ends are 1."""
        if self.count == 1:
            self.bins[4:] = 1.0
            return
        edge_2N = self.bin_N + _sides(self.bin_N.device)
        self.end_2N = (edge_2N < 0) | (edge_2N > self.count - 2)
        edge_2N.clamp_(0, self.count - 2)
        self.at_2N = torch.add(self.column_N, edge_2N, alpha=self.curves)
        self.raw_2N = raw.reshape(-1).take(self.at_2N).masked_fill_(self.end_2N, UNIT_SLOPE)
        torch.add(functional.softplus(self.raw_2N), SMALLEST_SLOPE, out=self.bins[4:])

    def give_back(self) -> None:
        give_back([self.sizes_2KM])

    def backward(self, grads_6N: Tensor) -> Tensor:
        """The gradient of the parameters, `(P, M)`; to be given back."""
        count = self.count
        out_PM = take(self.sizes_2KM, 3 * count - 1, self.curves)
        out_2KM = out_PM[: 2 * count].view(2, count, -1)
        self._to_sizes(grads_6N[0:4:2], grads_6N[1:4:2], out_2KM)
        out_2KM.mul_(self.sizes_2KM)
        self.give_back()
        if count > 1:
            grads_2N = (grads_6N[4:] * self.raw_2N.sigmoid()).masked_fill_(self.end_2N, 0.0)
            flat = out_PM[2 * count :].zero_().view(-1)
            flat.scatter_add_(0, self.at_2N.view(-1), grads_2N.view(-1))
        return out_PM

    def _to_sizes(self, d_edge_2N: Tensor, d_size_2N: Tensor, out_2KM: Tensor) -> None:
        """Gradient of the sizes before the least one was added.

        With S their sum and T = (1 + K least) S the whole, a bin's edge is the sum of the sizes
        before it plus k least S, its size its own plus least S, both divided by T.
        """
        edge_2N, size_2N = self.bins[0:4:2], self.bins[1:4:2]
        d_edge_2N, d_size_2N = d_edge_2N / self.whole_2N, d_size_2N / self.whole_2N
        d_all_2N = torch.addcmul(d_size_2N, d_edge_2N, self.bin_N).mul_(SMALLEST_BIN)
        moved_2N = (d_edge_2N * edge_2N).addcmul_(d_size_2N, size_2N)
        d_all_2N.sub_(moved_2N.mul_(1 + self.own * SMALLEST_BIN))
        if self.index_N is None:
            after_KN = take(out_2KM, *out_2KM.shape[1:])
            number_K1 = _numbers(self.count, out_2KM.device)[:, None].to(out_2KM)
            torch.lt(number_K1, self.bin_N.to(out_2KM), out=after_KN)
            torch.mul(after_KN, d_edge_2N[:, None], out=out_2KM).add_(d_all_2N[:, None])
            out_2KM.flatten(1).index_add_(1, self.place_N, d_size_2N)
            give_back([after_KN])
            return
        zeros = out_2KM.new_zeros(2, self.count * self.curves)
        at_2KM = zeros.index_add(1, self.place_N, d_edge_2N).view_as(out_2KM)
        own_2KM = zeros.index_add_(1, self.place_N, d_size_2N).view_as(out_2KM)
        all_2M = out_2KM.new_zeros(2, self.curves).index_add_(1, self.index_N, d_all_2N)
        # The sum after a bin is the sum over all bins less the sum up to it.
        after_2M = (at_2KM.sum(1) + all_2M)[:, None]
        torch.sub(after_2M, at_2KM.cumsum(1), out=out_2KM).add_(own_2KM)


def _count(parameters: Tensor) -> int:
    return (len(parameters) + 1) // 3


def _share(own: Own) -> Any:
    """The least size in units of the whole."""
    return SMALLEST_BIN / (1 + own * SMALLEST_BIN)


def _upper(sizes_KM: Tensor, own: Own) -> Tensor:
    """Upper edges of bins, the least size included; `own` of each curve."""
    count, device = len(sizes_KM), sizes_KM.device
    if isinstance(own, int) and device.type == "cpu":
        # Not one kept from earlier: export, vmap and inference mode make tensors of their own kind.
        return _edges.__wrapped__(count, own, sizes_KM.dtype, device) @ sizes_KM
    # No product: a GPU may round what it multiplies to 10 bits (TF32).
    number_K1 = torch.arange(count, device=device)[:, None]
    upper_KM = sizes_KM.where(number_K1 < own, 0.0).cumsum(0)
    return upper_KM + (number_K1 + 1).clamp(max=own) * SMALLEST_BIN * upper_KM[-1:]


def _upper_into(sizes_KM: Tensor, own: Own, out_KM: Tensor) -> None:
    """The same, written; `own` of each flow of a stack."""
    if sizes_KM.device.type != "cpu":
        out_KM.copy_(_upper(sizes_KM, at_columns(own, sizes_KM.shape[1])))
        return
    count, each = len(sizes_KM), own.tolist() if isinstance(own, Tensor) else [own]
    parts = zip(each, *(one.chunk(len(each), 1) for one in (sizes_KM, out_KM)), strict=True)
    for bins, part_KM, into_KM in parts:
        torch.mm(_edges(count, bins, part_KM.dtype, part_KM.device), part_KM, out=into_KM)


@lru_cache
def _edges(count: int, own: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix that makes upper edges of sizes, `(K, K)`, the least size included.

    Sizes beyond the `own` first are no size.
    """
    ones = torch.ones(count, count, dtype=dtype, device=device)
    number = torch.arange(1, count + 1, dtype=dtype, device=device)
    return (ones.tril() + SMALLEST_BIN * number.clamp(max=own)[:, None]) * (number <= own)


@lru_cache
def _numbers(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device)


@lru_cache
def _sides(device: torch.device) -> Tensor:
    """Added to the number of a bin: the numbers of the inner edges on its left and right."""
    return torch.tensor([[-1], [0]], device=device)


def _unit(x: Tensor, bound: float) -> Tensor:
    return (x + bound) / (2 * bound)


def _slope(raw: Tensor) -> Tensor:
    return functional.softplus(raw) + SMALLEST_SLOPE
