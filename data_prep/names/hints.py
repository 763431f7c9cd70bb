"""Columns that a table lacks, and those that may be meant: names of other codes first."""

from __future__ import annotations

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from data_prep.names.known import meaning_of

CLOSE = 0.6
"""Ratio of difflib from which on two names are taken for two spellings of one."""


def counterparts(names: Sequence[str], there: Sequence[str]) -> dict[str, list[str]]:
    """Of each name that a table lacks, the columns that it may mean: all that are as near.

    Where as many names are missing as there are columns for them, as of the two stars of a binary,
    each gets its own, in alphabetical order.
    """
    found = {name: _alike(name, there) for name in names}
    for near in {tuple(each) for each in found.values()}:
        sharing = sorted(name for name in names if tuple(found[name]) == near)
        if len(sharing) == len(near):
            found |= {name: [one] for name, one in zip(sharing, sorted(near), strict=True)}
    return found


def certain(near: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The counterpart of each name that has one, which is that of no other name."""
    taken = Counter(each[0] for each in near.values() if len(each) == 1)
    return {name: each[0] for name, each in near.items() if len(each) == 1 == taken[each[0]]}


def missing(path: object, names: Sequence[str], there: Sequence[str]) -> str:
    """Says which columns a table lacks, and what to type instead: the sentence of a DataError.

    Args:
        path: Of the table.
        names: The columns that are wanted and not there.
        there: The others.
    """
    near = counterparts(names, there)
    clear = certain(near)
    listed = ", ".join(there[:40]) + (", ..." if len(there) > 40 else "") or "no other"
    if len(names) == 1:
        (name,) = names
        each = near[name]
        typed = [f"--columns {shlex.quote(f'{old}={name}')}" for old in each]
        if not each:
            hint = f"it has {listed}; name the right one with --columns OLD={shlex.quote(name)}"
        elif clear:
            hint = f"the nearest is {each[0]!r}; if that is it, pass {typed[0]}"
        else:
            nearest = f"{', '.join(map(repr, each[:-1]))} and {each[-1]!r}"
            hint = f"{nearest} are as near; pass the right one of {' or '.join(typed)}"
        return f"{path} has no column {name!r}: {hint}"
    hints = []
    if clear:
        typed = [f"--columns {shlex.quote(f'{old}={name}')}" for name, old in clear.items()]
        hints.append(f"if these are they, pass {' '.join(typed)}")
    if rest := [name for name in names if name not in clear]:
        several = sorted({old for name in rest for old in near[name]}) or [listed]
        wanted = f"for {_listed(rest)} " if clear or several != [listed] else ""
        one = "one" if len(rest) == 1 else "ones"
        hints.append(
            f"{wanted}it has {', '.join(several)}; name the right {one} with --columns OLD=NEW"
        )
    return f"{path} has no columns {_listed(names)}: {'; '.join(hints)}"


def _listed(names: Sequence[str]) -> str:
    """The names in quotes: 'a', 'b' and 'c'."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} and {last}" if others else last


def _alike(name: str, there: Sequence[str]) -> list[str]:
    known = meaning_of(name)
    others = {each: meaning_of(each) for each in there}
    same = [
        each
        for each, meaning in others.items()
        if known and meaning and meaning.quantity == known.quantity
        if known.quantity == "metallicity" or _is_initial(each) == _is_initial(name)
    ]
    # mass_1 is the first star of two, Mass_1 the second: case alone tells nothing of a pair.
    if len(same) > 1:
        return same
    possible = [each for each, meaning in others.items() if each in same or not (known and meaning)]
    if exact := [each for each in possible if each.casefold() == name.casefold()]:
        return exact
    if same:
        return same
    ratios = {each: difflib.SequenceMatcher(None, each, name).ratio() for each in possible}
    best = max(ratios.values(), default=0.0)
    return [each for each, ratio in ratios.items() if ratio == best >= CLOSE]


def _is_initial(name: str) -> bool:
    return re.search("zams|ini|birth", name.lower()) is not None
