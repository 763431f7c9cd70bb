"""What is mixed or summed over: fractions of the texts of categories, and weights of values.

The fractions of a category are as many numbers as it has texts, none below 0, with a sum of 1. All
but the last are parameters, `channel_CE` for the text CE of `channel`.

Array names end in their axes:
    N rows    T combinations of the texts    K values that are summed over
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from data_prep.columns import Column
from data_prep.errors import InputError
from models.bundle import domain
from models.bundle.domain import Floats, Known, inside, limits_of, texts_of
from models.namespaces import Array, Namespace

TOLERANCE = 1e-6
"""By which fractions may miss a sum of 1; they are then divided by their sum."""
Over = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""Conditions that are summed over: values, or texts, and weights of each."""


class PopulationError(InputError):
    """A model or a catalogue that cannot be used. The message is one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Categories that are mixed with free fractions."""

    texts: Mapping[str, tuple[str, ...]]
    """Of each category."""

    @property
    def combinations(self) -> int:
        """Of the texts of all categories."""
        return math.prod(map(len, self.texts.values()))

    @property
    def names(self) -> list[str]:
        """Of the fractions of all texts, category by category."""
        return [each for name in self.texts for each in self._of(name)]

    @property
    def free(self) -> list[str]:
        """Names of the fractions that are parameters."""
        return [each for name in self.texts for each in self._of(name)[:-1]]

    def complete(self, xp: Namespace, given: Mapping[str, Array]) -> dict[str, Array]:
        """The parameters with the fractions of all texts, as far as the given ones tell them.

        Raises:
            PopulationError: If a text is none of its category, or all fractions are given and
                their sum is not 1. The latter by numpy alone: other libraries may trace.
        """
        out = dict(given)
        for name, texts in self.texts.items():
            *others, last = self._of(name)
            if name in out:
                text = out.pop(name)
                if not isinstance(text, str) or text not in texts:
                    raise PopulationError(
                        f"{name} must be one of {', '.join(texts)}, got {text!r}: to mix them, "
                        f"give the fractions {', '.join(others) or last}"
                    )
                out |= {each: float(each == f"{name}_{text}") for each in self._of(name)}
            elif last in out:
                _check_sum(xp, name, [out.get(each, 0.0) for each in (*others, last)])
            elif all(each in out for each in others):
                out[last] = 1.0 - sum(out[each] for each in others)
        return out

    def logs(self, xp: Namespace, fractions_N: Sequence[Array]) -> tuple[Array, Array]:
        """Logs of the fractions of all combinations, `(T, N or 1)`, and where they are fractions.

        `fractions_N` are those of `names`; the last category varies fastest.
        """
        ln_TN, good_N, rest = xp.zeros((1, 1)), xp.asarray(True), list(fractions_N)
        for texts in self.texts.values():
            each_TN = xp.stack(xp.broadcast_arrays(*rest[: len(texts)]))
            rest = rest[len(texts) :]
            sums_to_one_N = abs(each_TN.sum(0) - 1) <= TOLERANCE
            good_N = good_N & (each_TN >= -TOLERANCE).all(0) & sums_to_one_N
            some_TN = each_TN > 0
            total_N = xp.where(some_TN, each_TN, 0.0).sum(0)
            share_TN = each_TN / xp.where(total_N > 0, total_N, 1.0)
            # Harmless numbers inside the log, or else gradients are NaN.
            ln_each_TN = xp.log(xp.where(some_TN, share_TN, 1.0))
            ln_each_TN = xp.where(some_TN, ln_each_TN, -math.inf)
            ln_TN = (ln_TN[:, None] + ln_each_TN).reshape(-1, ln_each_TN.shape[-1])
        return ln_TN, good_N

    def summed(
        self, over: Over, conditions: Sequence[str], known: Mapping[str, Known], extrapolate: bool
    ) -> tuple[dict[str, Any], Any]:
        """Numbers of what is summed over or mixed at all their combinations; log weights.

        What is mixed varies fastest, and its weights are all 1. Raises PopulationError.
        """
        if unknown := sorted(set(over) - set(conditions)):
            raise PopulationError(
                f"over names {', '.join(unknown)}, but the emulator's conditions are "
                f"{', '.join(conditions) or 'none'}"
            )
        terms = {
            name: _values_and_log_weights(name, *pair, known[name], extrapolate)
            for name, pair in over.items()
        }
        for name, texts in self.texts.items():
            terms[name] = np.arange(float(len(texts))), np.zeros(len(texts))
        if not terms:
            return {}, np.zeros(1)
        pairs = zip(*terms.values(), strict=True)
        values, logs = (np.meshgrid(*part, indexing="ij") for part in pairs)
        nodes = {name: grid.ravel() for name, grid in zip(terms, values, strict=True)}
        return nodes, sum(grid.ravel() for grid in logs)

    def _of(self, name: str) -> list[str]:
        return [f"{name}_{text}" for text in self.texts[name]]


def _check_sum(xp: Namespace, name: str, fractions: Sequence[Array]) -> None:
    total = np.asarray(sum(fractions)) if xp is np else np.ones(1)
    if (wrong := np.abs(total - 1) > TOLERANCE).any():
        raise PopulationError(
            f"the fractions of {name} add up to {total[wrong].flat[0]:.7g}, not to 1: divide them "
            "by their sum, or leave out the last one"
        )


def _values_and_log_weights(
    name: str, values: ArrayLike, weights: ArrayLike, known: Known, extrapolate: bool
) -> tuple[Floats, Floats]:
    """Values of weight above 0, of a text its number, and the logs of their scaled weights."""
    if texts := texts_of(known):
        values = domain.values_of(Column(name, "", categories=texts), values)
    values_K, weights_K = np.asarray(values, float), np.asarray(weights, float)
    good = values_K.ndim == 1 and values_K.shape == weights_K.shape
    if not good or not (weights_K >= 0).all() or not 0 < weights_K.sum() < math.inf:
        raise PopulationError(
            f"over[{name!r}] must be as many values as weights, the weights at least 0 and not "
            f"all 0, got shapes {values_K.shape} and {weights_K.shape}"
        )
    values_K, weights_K = values_K[weights_K > 0], weights_K[weights_K > 0]
    limits = limits_of(known)
    if not extrapolate and not (within_K := inside(values_K, limits)).all():
        raise PopulationError(
            f"over has {name} = {values_K[~within_K][0]:g}, outside the range [{limits[0]:g}, "
            f"{limits[1]:g}] that the emulator was trained on: leave it out, or set "
            "extrapolate=True"
        )
    return values_K, np.log(weights_K / weights_K.sum())
