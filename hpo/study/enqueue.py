"""Parameters to be tried by a study: from a file, or the best of an earlier study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from data_prep.errors import InputError
from data_prep.untrusted import UntrustedError, contents, parse
from hpo.queue.trials import TrialReader
from hpo.study.space import Dimension, Range, fits

Point = dict[str, Any]


class PointsError(InputError):
    """Points that a study cannot try. The message lists every fault."""


def read_points(path: Path) -> list[Point]:
    """The points of a JSON file: a list of objects, one object, or one object a line.

    Raises:
        PointsError: If it is none of these.
    """
    try:
        text = contents(path)
    except UntrustedError as error:
        raise PointsError(f"{path} {error}: name a file of points") from None
    try:
        found = parse(text)
    except ValueError:
        try:
            found = [parse(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise PointsError(f"{path} is not JSON: {error}") from None
    points = found if isinstance(found, list) else [found]
    # A run JSON holds its parameters among other things.
    points = [one.get("params", one) if isinstance(one, dict) else one for one in points]
    if not points or not all(isinstance(one, dict) and one for one in points):
        raise PointsError(f'{path} must hold objects such as {{"blocks": 2, "hidden": 64}}')
    return points


def best_points(study: optuna.Study, count: int) -> list[Point]:
    """The parameters of a study's best trials, the best first.

    Raises:
        PointsError: If no trial of it has ended well.
    """
    best = TrialReader(study).look().ranked[:count]
    if not best:
        raise PointsError(f"no trial of {study.study_name} ended well: it has no best one")
    trials = study.get_trials(deepcopy=False)
    return [dict(trials[one.number].params) for one in best]


def fitting_points(
    points: Sequence[Point], space: Mapping[str, Dimension], source: str
) -> list[Point]:
    """The points restricted to the searched parameters; a fixed one must have the fixed value.

    A parameter that a point does not give is chosen by the study's sampler.

    Raises:
        PointsError: If a value lies outside of the space. Lists every such value.
    """
    faults = [
        f"point {number}: {fault}"
        for number, point in enumerate(points)
        for fault in _faults(point, space)
    ]
    if faults:
        raise PointsError("\n  - ".join([f"{source} does not fit the study's [space]:", *faults]))
    searched = {key for key, line in space.items() if isinstance(line, Range | list)}
    return [{key: value for key, value in one.items() if key in searched} for one in points]


def _faults(point: Point, space: Mapping[str, Dimension]) -> Iterator[str]:
    for key, value in point.items():
        line = space.get(key)
        if line is None:
            yield f"{key} is not searched: it has {', '.join(sorted(space))}"
        elif not fits(value, line):
            shown = f"{line.low} to {line.high}" if isinstance(line, Range) else line
            yield f"{key} = {value!r} is outside of {shown}"
