"""Cases in which every value of an option meets every value of every other option."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import pytest


def every_pair(**options: Iterable[Any] | Mapping[str, Any]) -> pytest.MarkDecorator:
    """Parametrize a test with few cases that hold each pair of values at least once.

    A fault shows as a rule with one value, or with two together; the full product of the options
    would cost several times as much. Values of a mapping are called by their keys.
    """
    named = [
        list(values.items()) if isinstance(values, Mapping) else [(str(v), v) for v in values]
        for values in options.values()
    ]
    pairs = {
        case: set(itertools.combinations(enumerate(case), 2))
        for case in itertools.product(*(range(len(values)) for values in named))
    }
    left, chosen = set().union(*pairs.values()), []
    while left:
        # The first of those with most pairs that are still to be met.
        chosen.append(max(pairs, key=lambda case: len(pairs[case] & left)))
        left -= pairs[chosen[-1]]
    cases = [[named[k][number] for k, number in enumerate(case)] for case in sorted(chosen)]
    return pytest.mark.parametrize(
        list(options),
        [pytest.param(*(v for _, v in one), id="-".join(name for name, _ in one)) for one in cases],
    )
