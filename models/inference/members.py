"""The flows of an ensemble as densities of one set of columns, for a population model.

The error of an emulator is common to all events of a catalogue, so it is the catalogue whose
likelihood is averaged over members, not each event's density. A member is therefore kept apart.

Array names end in their axes:
    N rows    F event columns    C conditions    M members    S the axes of the data
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from data_prep.columns import Column
from models.bundle.domain import Known, Regions, limits_of, texts_of
from models.bundle.reliability import Reliability
from models.inference.mixture import PopulationError
from models.namespaces import Array, Namespace, namespace

MEMBER = "member"
"""The parameter that chooses one: a number below that of members, whose whole part counts."""


class Density(Protocol):
    """What an `ArrayFlow` and a `Table` have in common."""

    event_columns: tuple[str, ...]
    condition_columns: tuple[str, ...]
    domain: dict[str, Known]
    regions: Regions | None

    @property
    def condition_supports(self) -> tuple[Column, ...]:
        """The conditions, with where their values lie."""

    def log_density(self, x: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """Natural-log density of events `(*S, F)` under conditions `(*S, C)`."""


class Members:
    """Densities that differ where the data left them open, and what they have in common."""

    def __init__(self, emulator: Any) -> None:
        """Take apart an ensemble.

        Args:
            emulator: An `Emulator`, `ArrayFlow` or `Table`, or a sequence of such as members.

        Raises:
            PopulationError: If there is none, columns differ, or no condition is in the domain of
                all of them.
        """
        given = list(emulator) if isinstance(emulator, Sequence) else [emulator]
        if not given:
            raise PopulationError("a population model needs an emulator, got an empty list")
        wholes: list[Density] = [
            one if hasattr(one, "log_density") else ByTorch(one, one.module) for one in given
        ]
        self.each: tuple[Density, ...] = tuple(
            member for one in wholes for member in getattr(one, "members", (one,))
        )
        first = wholes[0]
        self.event_columns, self.condition_columns = first.event_columns, first.condition_columns
        self.condition_supports = first.condition_supports
        for other in wholes[1:]:
            for what in ("event_columns", "condition_columns"):
                ours, theirs = getattr(first, what), getattr(other, what)
                if ours != theirs:
                    raise PopulationError(
                        f"the members of an ensemble have one set of {what.replace('_', ' ')}, got "
                        f"{', '.join(ours) or 'none'} and {', '.join(theirs) or 'none'}"
                    )
        self.domain = {name: _common(name, wholes) for name in self.condition_columns}
        """What all of them know of each condition."""
        self.regions = Regions.met([one.regions for one in wholes])
        # Of emulators that are only put together here nobody knows it, nor of a Table.
        measured: Reliability | None = getattr(given[0], "reliability", None)
        self.reliability = measured if len(given) == 1 else None
        """For how many events it is good, as its export measured."""

    def chosen(self, xp: Namespace, member_N: Array) -> tuple[Sequence[Density], Array]:
        """The members that rows ask for by `MEMBER`, as far as that is known, and which of those.

        A number for all rows is known under numpy. No member is told by the index -1.
        """
        number_N, count = xp.floor(member_N), len(self.each)
        valid_N = (number_N >= 0) & (number_N < count)
        index_N = xp.where(valid_N, number_N, -1.0).astype(int)
        if xp is np and len(index_N) == 1:
            at = max(int(index_N[0]), 0)
            return self.each[at : at + 1], np.minimum(index_N, 0)
        return self.each, index_N


class ByTorch:
    """An `Emulator`, or one of its members, as a density on numpy arrays."""

    def __init__(self, emulator: Any, module: Any) -> None:
        """Args: whose columns and domain it has, and the flow, or ensemble of flows."""
        self._emulator, self._module = emulator, module
        self.event_columns: tuple[str, ...] = emulator.event_columns
        self.condition_columns: tuple[str, ...] = emulator.condition_columns
        self.condition_supports: tuple[Column, ...] = emulator.module.condition_columns
        self.domain: dict[str, Known] = emulator.domain
        self.regions: Regions | None = emulator.regions

    @property
    def members(self) -> tuple[ByTorch, ...]:
        """Each flow of an ensemble by itself."""
        return tuple(
            ByTorch(self._emulator, one) for one in getattr(self._module, "flows", [self._module])
        )

    def log_density(self, x: Array, c: Array, *, xp: Namespace | None = None) -> Array:
        """As that of `ArrayFlow`, by numpy alone."""
        if (xp or namespace(x, c)) is not np:
            raise PopulationError(
                "an Emulator works on numpy arrays alone: load the bundle with "
                "models.arrays.flow.ArrayFlow for JAX and cupy"
            )
        shape = np.broadcast_shapes(x.shape[:-1], c.shape[:-1])
        # Copies: torch warns of arrays that it may not write to.
        x_NF = np.array(np.broadcast_to(x, (*shape, x.shape[-1]))).reshape(-1, x.shape[-1])
        c = c if math.prod(c.shape[:-1]) == 1 else np.broadcast_to(c, (*shape, c.shape[-1]))
        c_NC = np.array(c).reshape(-1, c.shape[-1])
        from models.bundle import batched  # here: torch takes seconds to load

        return batched.log_prob(self._module, x_NF, c_NC).reshape(shape)


def _common(name: str, members: Sequence[Density]) -> Known:
    """What all members know of a condition."""
    known = [one.domain[name] for one in members]
    if any(texts_of(one) != texts_of(known[0]) for one in known):
        raise PopulationError(f"the members of an ensemble know different texts of {name}")
    if texts_of(known[0]):
        return known[0]
    lows, highs = zip(*map(limits_of, known), strict=True)
    low, high = max(lows), min(highs)
    if low > high:
        raise PopulationError(
            f"no {name} is in the domain of all members: leave out those of other simulations"
        )
    return low, high
