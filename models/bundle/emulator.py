"""`Emulator`: a fitted flow in other people's hands, and the bundle it is shipped as.

The only module that writes the bundle: `emulator.json` (format, architecture, columns, units,
domain, metrics, provenance, sha256 of every other file), `weights.safetensors`, two ONNX graphs,
`run.json`, and `README.md` for people, whose text is that of `card`. Its reading is shared with
`arrays`: see `bundle`.

Array names end in their axes:
    N rows    F event columns    C conditions
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from data_prep.atomic import folder_draft_of
from data_prep.words.numbers import counted
from models.bundle import batched, domain, files, onnx
from models.bundle.domain import Extrapolation, ExtrapolationWarning, Floats
from models.bundle.efficiency import Efficiency
from models.bundle.ensemble import Density, Ensemble, from_description
from models.bundle.files import (
    CARD,
    FORMAT,
    FORMAT_OF_MIXTURES,
    FORMAT_OF_SEVERAL,
    FORMAT_OF_SUPPORTS,
    WEIGHTS,
    EmulatorError,
)
from models.bundle.readme import card as model_card
from models.bundle.readme import markdown as md
from models.bundle.reliability import Reliability
from models.flow.atoms import OneFlow
from models.layout import check_values

__all__ = ["Emulator", "EmulatorError", "ExtrapolationWarning"]

README = "README.md"


class Emulator:
    """p(events | conditions) in physical units: draw from it, evaluate it."""

    def __init__(self, flow: Density, card: Mapping[str, Any] | None = None) -> None:
        """Args: the fitted flow, or an ensemble; what else the card says: metrics, provenance."""
        elsewhere = any(one.device.type != "cpu" for one in flow.parameters())
        # `cpu()` would move the caller's own.
        self.module = (copy.deepcopy(flow) if elsewhere else flow).cpu().eval()
        """torch module: `log_prob(x_NF, c_NC)`, differentiable in events and conditions."""
        self.event_columns = tuple(column.name for column in flow.event_columns)
        """Names of the columns of an event, in order."""
        self.condition_columns = tuple(column.name for column in flow.condition_columns)
        """Names of the conditions, in order."""
        self.domain = domain.told(flow.condition_columns, flow.domain)
        """Range of each condition in the data; of a category its texts."""
        self.regions = domain.Regions.common(
            [one.regions for one in _flows(flow)], flow.condition_columns
        )
        """Where rows are near, of scattered conditions; None where the range is all."""
        self.card: dict[str, Any] = {**_card(flow), **(card or {})}
        """The contents of `emulator.json`."""

    def __repr__(self) -> str:
        """The density, where it holds, of how many flows it is, and its NLL if the card has it."""
        known = ", ".join(
            f"{name} {', '.join(texts) if (texts := domain.texts_of(each)) else _span(each)}"
            for name, each in self.domain.items()
        )
        metrics = md.mapping(self.card.get("metrics"))
        nll = md.score(metrics.get("test_nll"), metrics.get("test_nll_error"))
        density = f"p({', '.join(self.event_columns)} | {', '.join(self.condition_columns)})"
        flows = counted(len(_flows(self.module)), "flow")
        return f"<Emulator of {density}, {known}; {flows}{f'; test NLL {nll}' if nll else ''}>"

    @cached_property
    def efficiency(self) -> Efficiency:
        """Mergers per simulated binary or Msun: a function of the conditions, to be called.

        Raises:
            EmulatorError: If the bundle holds none. The message says how to add it.

        Example:
            >>> rate, std = emulator.efficiency(Z=0.001, alpha=1.0, return_std=True)
        """
        return Efficiency.from_card(self.card, self.module.condition_columns)

    @cached_property
    def reliability(self) -> Reliability | None:
        """For how many events of a catalogue it is good; None where no export measured it.

        Raises:
            EmulatorError: If what the card says of it cannot be read.
        """
        return Reliability.from_card(self.card)

    def sample(
        self,
        n: int,
        *,
        seed: int | None = None,
        on_extrapolation: Extrapolation = "warn",
        **conditions: ArrayLike,
    ) -> Floats:
        """Draw events.

        Args:
            n: Events to draw.
            seed: Makes the draws repeatable on one machine and torch version. The global
                generators are left alone.
            on_extrapolation: Action outside the domain: warn, raise or ignore.
            **conditions: Every condition, one value or one per event: numbers in physical units,
                of a category a text.

        Returns:
            Array of shape `(n, F)`, in the units of the event columns.

        Raises:
            EmulatorError: If a condition is missing, unknown, not finite, none of its categories
                or of a wrong length, or outside the domain under "raise".

        Example:
            >>> emulator.sample(1000, Z=0.001, alpha=1.0, seed=7).shape
            (1000, 2)
            >>> emulator.sample(1000, Z=0.001, channel="CE").shape  # where channels are a condition
            (1000, 2)
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise EmulatorError(f"n must be a whole number of events, at least 0, got {n!r}")
        c_NC = domain.conditions(
            self.module.condition_columns,
            self.module.domain,
            conditions,
            int(n),
            on_extrapolation,
            self.regions,
        )
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        noise_NF = torch.randn(int(n), self.module.noise_columns, generator=generator)
        return batched.from_noise(self.module, noise_NF.numpy(), c_NC)

    @overload
    def log_prob(
        self, events: ArrayLike, *, return_std: Literal[False] = False, **conditions: Any
    ) -> Floats: ...

    @overload
    def log_prob(
        self, events: ArrayLike, *, return_std: Literal[True], **conditions: Any
    ) -> tuple[Floats, Floats]: ...

    def log_prob(
        self,
        events: ArrayLike,
        *,
        return_std: bool = False,
        on_extrapolation: Extrapolation = "warn",
        **conditions: ArrayLike,
    ) -> Floats | tuple[Floats, Floats]:
        """Natural-log density of events, per unit of each event column.

        Args:
            events: Shape `(N, F)`, in the units of the event columns.
            return_std: Also gives the spread of an ensemble's members: the standard deviation of
                their log densities. It is no error: what all of them get wrong is not in it.
            on_extrapolation: Action outside the domain: warn, raise or ignore.
            **conditions: Every condition, one value or one per event: numbers in physical units,
                of a category a text.

        Returns:
            Array of shape `(N,)`; -inf outside the support. With `return_std` a pair of them.

        Raises:
            EmulatorError: If events are not finite or of another shape, or a condition is
                missing, unknown, not finite, none of its categories or of a wrong length, or
                outside the domain under "raise"; or if `return_std` is asked of a single flow.
        """
        x_NF = domain.events(self.event_columns, events)
        c_NC = domain.conditions(
            self.module.condition_columns,
            self.module.domain,
            conditions,
            len(x_NF),
            on_extrapolation,
            self.regions,
        )
        if not return_std:
            return batched.log_prob(self.module, x_NF, c_NC)
        if not isinstance(self.module, Ensemble):
            raise EmulatorError(
                "a single flow has no spread: export an ensemble (hpo export --ensemble K)"
            )
        each_KN = np.stack([batched.log_prob(one, x_NF, c_NC) for one in self.module.flows])
        mean_N = np.logaddexp.reduce(each_KN, axis=0) - np.log(len(each_KN))
        with np.errstate(invalid="ignore"):
            spread_N = each_KN.std(axis=0, ddof=min(1, len(each_KN) - 1))
        return mean_N, np.where(np.isinf(each_KN).all(axis=0), 0.0, spread_N)

    def save(
        self,
        folder: Path | str,
        *,
        extra: Mapping[str, Path | bytes] | None = None,
        check: Callable[[Path], None] = lambda draft: None,
    ) -> Path:
        """Write the bundle; `folder` appears whole or not at all.

        Args:
            folder: A new or empty folder, or an emulator bundle, which is replaced.
            extra: More files for the bundle by name (`run.json`): a path to copy, or contents.
            check: Called with the whole bundle before it takes its place; what it raises passes
                through, and an older bundle stays.

        Raises:
            EmulatorError: If `folder` holds something else.
        """
        folder = Path(folder)
        refuse_other(folder)
        with folder_draft_of(folder, replace=True) as draft:
            for name, given in (extra or {}).items():
                content = given if isinstance(given, bytes) else Path(given).read_bytes()
                (draft / name).write_bytes(content)
            state = {k: _without_tiny(v).contiguous() for k, v in self.module.state_dict().items()}
            (draft / WEIGHTS).write_bytes(to_bytes(state))
            onnx.write(self.module, draft)
            (draft / README).write_text(model_card.text(self.card), encoding="utf-8")
            self.card["files"] = {
                path.name: files.sha256(path.read_bytes()) for path in sorted(draft.iterdir())
            }
            text = json.dumps(self.card, indent=1, allow_nan=False) + "\n"
            (draft / CARD).write_text(text, encoding="utf-8")
            check(draft)
            refuse_other(folder)
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """The emulator of a bundle, its files compared with their sha256.

        Raises:
            EmulatorError: If the folder is no bundle, is of a newer format, or a file is missing
                or changed.
        """
        folder = Path(folder)
        card, content = files.read(folder, whole=True)
        try:
            state = from_bytes(content)
            flow = from_description(card["architecture"], state)
            check_values({name: tensor.numpy() for name, tensor in state.items()})
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise files.misfit(folder, error) from error
        return cls(flow, card)


def _span(known: domain.Known) -> str:
    return " to ".join(f"{end:g}" for end in domain.limits_of(known))


def _card(flow: Density) -> dict[str, Any]:
    return {
        "format": _format(flow),
        "architecture": flow.describe(),
        "event_columns": {column.name: column.unit for column in flow.event_columns},
        "condition_columns": {column.name: column.unit for column in flow.condition_columns},
        "domain": {
            name: list(each)
            for name, each in domain.told(flow.condition_columns, flow.domain).items()
        },
        "cost": asdict(batched.cost(flow)),
        "metrics": {},
        "provenance": {},
        "files": {},
    }


def _flows(flow: Density) -> list[OneFlow]:
    return flow.flows if isinstance(flow, Ensemble) else [flow]


def _format(flow: Density) -> int:
    if any(one.config.base == "mixture" for one in _flows(flow)):
        return FORMAT_OF_MIXTURES
    columns = (*flow.event_columns, *flow.condition_columns)
    if any(column.bounds or column.atoms or column.categories for column in columns):
        return FORMAT_OF_SUPPORTS
    return FORMAT_OF_SEVERAL if isinstance(flow, Ensemble) else FORMAT


def refuse_other(folder: Path) -> None:
    """Raises EmulatorError if there is something in the folder's place that is no bundle."""
    other = folder.exists() and not (folder / CARD).exists()
    if other and (not folder.is_dir() or any(folder.iterdir())):
        raise EmulatorError(f"{folder} holds something that is no emulator: choose a new folder")


def _without_tiny(tensor: torch.Tensor) -> torch.Tensor:
    """Denormal weights as exact zeros: they say nothing and make a CPU 25 times slower."""
    if not tensor.is_floating_point():
        return tensor
    return torch.where(tensor.abs() < torch.finfo(torch.float32).tiny, 0.0, tensor)
