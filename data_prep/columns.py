"""A column of a table: its name, its unit, and where its values can lie."""

from __future__ import annotations

import difflib
import itertools
import math
import re
import reprlib
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, NamedTuple

from data_prep.errors import DataError, quoted
from data_prep.untrusted import is_finite

MOST_CATEGORIES = 64
"""Texts of one column: each is an input of a flow of its own."""
NOT_CONDITIONS = frozenset({"self", "n", "events", "seed", "return_std", "on_extrapolation"})
"""Arguments of an emulator's methods, which no condition can be called."""
ROUNDING = 2.0**-24
"""How far, relatively, single precision moves a number."""
LONGEST_NAME = 200
"""Characters of a column's name or unit."""
CLOSE = 0.6
"""Ratio of difflib from which on two names are taken for two spellings of one."""


class Meaning(NamedTuple):
    """What a column of a well-known name holds."""

    quantity: str
    unit: str | None
    """None where the codes differ."""
    support: str
    """As `--support` takes it."""

    def within(self, unit: str) -> str:
        """The support in that unit: the bounds of an angle in another one are not known."""
        other = self.unit and unit != self.unit and ":" in self.support
        return "real" if other else self.support


# Names are compared without case, blanks and signs: Mass(1), mass_1 and MASS1 are one. No text
# is made of these words in two ways, else a long name would take for ever.
_MORE = (
    "s[12]|star|primary|secondary|zams|ini|init|initial|birth|form|formation|dco|comp|compact"
    "|moremassive|lessmassive|remnant|rem|final|merge[rd]?|bh|ns|co|source|src|det|detector|lab|obs|frame"
)
_OF, _AT = f"(?:{_MORE})*", f"(?:[0-2ab]|{_MORE})*"
_PI = 3.1415927410125732  # in single precision, which is above it
_KNOWN = tuple(
    (re.compile(pattern), Meaning(quantity, unit, support))
    for quantity, unit, support, pattern in (
        ("weight", "", "0:", "w|[a-z]*weights?[a-z0-9]*"),
        ("detection probability", "", "0:1", "p?det(ection)?prob(ability)?|pdet[a-z0-9]*"),
        ("chirp mass", "Msun", "positive", f"(mchirp|chirpm(ass)?|mc){_AT}"),
        ("total mass", "Msun", "positive", f"m(ass)?(tot(al)?|merge[rd]?|sum){_AT}"),
        ("total mass", "Msun", "positive", f"tot(al)?m(ass)?{_AT}"),
        ("mass", "Msun", "positive", f"{_OF}(mass|m|mzams|zams){_AT}"),
        ("mass ratio", "", "0:1", f"(q|massratio){_AT}"),
        ("symmetric mass ratio", "", "0:0.25", "eta|symmetricmassratio"),
        ("effective spin", "", "-1:1", "(chi|x)eff(ective)?|effective(inspiral)?spin"),
        ("precessing spin", "", "0:1", "chip(rec(ession|essing)?)?|effectiveprecess(ing|ion)spin"),
        ("spin component", "", "-1:1", "chi[12]|(a|s|chi|spin)[12][xyz]|(chi|spin)[xyz][12]?"),
        ("spin", "", "0:1", f"a[12]|chi(b|birth)|{_OF}(a?spin|(a|chi|spin)mag(nitude)?){_AT}"),
        ("cosine", "", "-1:1", f"cos(ine)?(tilt|theta|t|iota|inc(l|lination)?)(jn)?{_AT}"),
        ("tilt", "rad", f"0:{_PI!r}", f"{_OF}(spinorbit)?tilt(angle)?{_AT}"),
        ("eccentricity", "", "0:1", f"e0?|(orb(it(al)?)?)?ecc(entricity)?{_AT}"),
        ("redshift", "", "positive", f"(redshift|z)(at|events?)?{_AT}"),
        # COMPAS, SEVN and COSMIC write Z for metallicity, the codes of mergers z for redshift.
        ("metallicity", "", "positive", f"(Z|[zZ]?met(al)?(licity)?){_AT}"),
        ("common-envelope efficiency", "", "positive", "alpha(1|10|cee?)?|cee?alpha"),
        ("time", "Myr", "positive", "(gwtime|b?worldtime)[a-z0-9]*|tphys|time"),
        ("time", "Myr", "positive", "coalescencetime|tinspiral"),
        ("time", None, "positive", f"t(ime)?(delay|gw|coal|lookback|merge[rd]?|form(ation)?){_AT}"),
        ("time", None, "positive", f"(delay|inspiral|merger|formation|lookback)time{_AT}"),
        ("separation", "AU", "positive", "semimajoraxis(dco|zams)"),
        ("separation", None, "positive", f"(semimajoraxis|(orbital)?separation){_AT}"),
        ("separation", "Rsun", "positive", f"semimajor[a-z0-9]*|(sep|smjaxis){_AT}"),
        ("radius", "Rsun", "positive", "radius[a-z0-9]*"),
        ("period", "d", "positive", f"(porb|orbitalperiod){_AT}"),
        ("distance", "Mpc", "positive", "lum(inosity)?dist(ance)?|dl"),
        ("speed", "km / s", "0:", f"v?kick(mag(nitude)?|speed|velocity)?{_AT}"),
        ("speed", "km / s", "0:", f"(natal|applied|drawn)kick(mag(nitude)?|speed|velocity)?{_AT}"),
        ("speed", "km / s", "0:", f"(vsys|systemicspeed){_AT}"),
        ("speed", "km / s", "positive", "sigmakick|kicksigma"),
    )
)
"""Columns of SEVN, MOBSE, BSE, COSMIC, COMPAS, POSYDON, AMAZE, bilby and gwpopulation."""

_UNITS = {
    **dict.fromkeys(("", "-", "--", "#", "1", "none", "state", "dimensionless"), ""),
    **dict.fromkeys(("msun", "msol", "solmass"), "Msun"),
    **dict.fromkeys(("rsun", "rsol", "solrad"), "Rsun"),
    **dict.fromkeys(("lsun", "lsol", "sollum"), "Lsun"),
    **dict.fromkeys(("d", "day", "days"), "d"),
    **dict.fromkeys(("yr", "year", "years"), "yr"),
    **{name.lower(): name for name in ("Myr", "Gyr", "AU", "Mpc", "Gpc", "kpc", "rad", "deg")},
    **dict.fromkeys(("km/s", "kms-1", "kms^-1", "kms**-1"), "km / s"),
}
"""astropy's name of a unit, by its name in other places, in lower case without blanks and `_`."""
_ENDS = "|".join(re.escape(unit) for unit, known in _UNITS.items() if known and len(unit) > 1)
_ENDING = re.compile(rf"(.*[^\s_/[(])[\s_/]*[\s_/[(]({_ENDS})[\])]?", re.IGNORECASE)
"""A name that ends in a unit: apart from it, or in brackets."""


Value = float | str
"""Of a condition, as people write it: a number, or a text of a category."""


def single(value: float) -> float:
    """The nearest float32, as rows are kept; the value itself beyond them."""
    # Not numpy, which `hpo --help` must not load.
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return value


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the prepared table."""

    name: str
    unit: str
    """As astropy writes it; empty for a pure number."""
    positive: bool = False
    """Whether every value must be above zero, so that its logarithm exists."""
    low: float | None = None
    """Least possible value; None where there is none, or the column is positive."""
    high: float | None = None
    """Greatest possible value; None where there is none."""
    atoms: tuple[float, ...] = ()
    """Values that many rows have exactly, so that each has a probability of its own."""
    categories: tuple[str, ...] = ()
    """The texts that the numbers 0, 1, ... stand for, sorted; empty for a column of numbers."""

    def __post_init__(self) -> None:
        # Names are printed and drawn: one that moves a terminal's cursor is none.
        for what, text in (("name", self.name), ("unit", self.unit)):
            if not isinstance(text, str) or len(text) > LONGEST_NAME or not text.isprintable():
                raise DataError(
                    f"the {what} of a column must be printable text of at most {LONGEST_NAME} "
                    f"characters, got {reprlib.repr(text)}"
                )
        if not self.name:
            raise DataError("a column has an empty name: give it one")
        if not isinstance(self.positive, bool):
            raise DataError(f"positive must be true or false, got {reprlib.repr(self.positive)}")
        # Of JSON come lists.
        for what in ("atoms", "categories"):
            object.__setattr__(self, what, tuple(getattr(self, what)))
        if not all(map(is_finite, self.bounds + self.atoms)):
            raise DataError(
                f"the bounds and atoms of column {self.name!r} must be finite numbers, "
                f"got {reprlib.repr(self.bounds + self.atoms)}"
            )
        if len(set(map(single, self.atoms))) < len(self.atoms):
            raise DataError(
                f"column {self.name!r} has an atom twice, in the single precision that rows are "
                f"kept in: {', '.join(map(str, self.atoms))}: name it once"
            )
        if self.categories and (self.positive or self.bounds or self.atoms):
            raise DataError(f"column {self.name!r} is made of texts, which no bounds can have")
        if self.positive and self.bounds:
            raise DataError(f"column {self.name!r} has both bounds and positive values: choose one")
        if len(self.bounds) == 2 and self.bounds[0] >= self.bounds[1]:
            raise DataError(f"no value of column {self.name!r} can lie in {self.support}")
        if self.categories:
            check_categories(self.name, self.categories)

    @property
    def bounds(self) -> tuple[float, ...]:
        """Those that the column has: the least value, the greatest, both or none."""
        return tuple(bound for bound in (self.low, self.high) if bound is not None)

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest possible value; infinite where there is no bound."""
        low = -math.inf if self.low is None else self.low
        return low, math.inf if self.high is None else self.high

    def holds(self, values: Any) -> Any:
        """Whether finite values, one or an array of any library, lie in the support.

        A bound may be missed by what single precision rounds away.
        """
        if self.positive:
            return values > 0
        low, high = self.limits
        return (values >= low - ROUNDING * abs(low)) & (values <= high + ROUNDING * abs(high))

    @property
    def support(self) -> str:
        """Where values lie, as people read it: real, positive, [0, 1] or [1, inf)."""
        if self.positive or not self.bounds:
            return "positive" if self.positive else "real"
        low = "(-inf" if self.low is None else f"[{self.low:g}"
        return f"{low}, inf)" if self.high is None else f"{low}, {self.high:g}]"

    @property
    def title(self) -> str:
        """Its name with categories or atoms: what a flow and its data must agree on."""
        if self.atoms:
            return f"{self.name} (atoms {', '.join(f'{atom:.9g}' for atom in self.atoms)})"
        return f"{self.name} ({', '.join(self.categories)})" if self.categories else self.name

    def number(self, value: object) -> float:
        """The number that a condition's value is stored as: of a category the place of its text.

        Raises:
            DataError: If it is no number, or none of the categories, which are listed.
        """
        if isinstance(value, str) and value in self.categories:
            return float(self.categories.index(value))
        # A number of numpy counts as one, too.
        if self.categories or not isinstance(value, Real) or not math.isfinite(value):
            kind = f"one of {', '.join(self.categories)}" if self.categories else "a number"
            raise DataError(f"{self.name} must be {kind}, got {reprlib.repr(value)}")
        return float(value)

    def value(self, number: float) -> Value:
        """What a stored number stands for: a category's text, else the number itself."""
        return self.categories[int(number)] if self.categories else number

    def as_stored(self) -> dict[str, Any]:
        """For JSON: without what an older version does not know, where it says nothing."""
        values = asdict(self)
        told = {name: values.pop(name) for name in ("low", "high", "atoms", "categories")}
        return values | {name: value for name, value in told.items() if value not in (None, ())}

    @classmethod
    def named(
        cls,
        name: str,
        *,
        unit: str | None = None,
        support: str | None = None,
        atoms: Sequence[float] = (),
    ) -> Column:
        """The column of that name, as a user says it is, or as the name is known.

        Args:
            name: One that is not known is that of a pure number, which may have any sign.
            unit: None takes that of the name.
            support: `positive`, `real` or `LOW:HIGH`; None takes that of the name.
            atoms: Values that many rows have exactly.

        Raises:
            DataError: If `support` is none, or the atoms are outside it.
        """
        known = meaning_of(name) or Meaning("", _with_unit(name)[1], "real")
        unit = (known.unit or "") if unit is None else unit_of(unit)
        if support is None:
            support = known.within(unit)
        return cls(name, unit, **_support(name, support), atoms=tuple(atoms))


def meaning_of(name: str) -> Meaning | None:
    """What a column of that name holds in the codes of the trade; None where it is unknown.

    A name may end in its unit, as `m1_Msun` or `t_delay [Gyr]` does.
    """
    name, unit = _with_unit(name)
    plain = re.sub("[^0-9A-Za-z]", "", name)
    lower = plain.lower()
    for text in ("Z" + lower[1:], lower) if plain.startswith("Z") else (lower,):
        for pattern, meaning in _KNOWN:
            if pattern.fullmatch(text):
                return (
                    meaning
                    if unit is None
                    else meaning._replace(unit=unit, support=meaning.within(unit))
                )
    return None


def _with_unit(name: str) -> tuple[str, str | None]:
    """The name without the unit that it ends in, and that unit."""
    found = _ENDING.fullmatch(name)
    return (found[1], unit_of(found[2])) if found else (name, None)


def unit_of(text: str) -> str:
    """A unit as astropy writes it, where it is a common one; else as it is."""
    return _UNITS.get(re.sub(r"[\s_]", "", text.lower()), text.strip())


def _support(name: str, text: str) -> dict[str, Any]:
    """The fields of a column that say where its values lie."""
    if text in ("positive", "real"):
        return {"positive": text == "positive"}
    low, colon, high = text.partition(":")
    try:
        sides = [float(side) if side.strip() else None for side in (low, high)]
        if not colon or sides == [None, None] or not all(map(is_finite, filter(None, sides))):
            raise ValueError
    except ValueError:
        raise DataError(
            f"--support {name}={text}: write positive, real or LOW:HIGH such as 0:1, where a side "
            "that is open stays empty"
        ) from None
    return {"low": sides[0], "high": sides[1]}


def check_categories(name: str, texts: Sequence[str]) -> None:
    """Raises DataError for texts that are no categories of a column, in ascending order."""
    for text in texts:
        if not (isinstance(text, str) and text.strip() and text.isprintable()):
            raise DataError(
                f"the categories of column {name!r} must be printable texts, "
                f"got {reprlib.repr(text)}"
            )
        if len(text) > LONGEST_NAME:
            raise DataError(
                f"a category of column {name!r} has {len(text)} characters, over {LONGEST_NAME}: "
                "is it a condition?"
            )
    if len(texts) > MOST_CATEGORIES:
        raise DataError(
            f"column {name!r} has {len(texts)} categories, over {MOST_CATEGORIES}: is it a name "
            "or a number of each row? Choose other conditions"
        )
    if list(texts) != sorted(set(texts)):
        raise DataError(f"the categories of column {name!r} must be sorted, each once")


def values_of(columns: Sequence[Column], numbers: Iterable[float]) -> dict[str, Value]:
    """The conditions that these numbers stand for, by name."""
    pairs = zip(columns, numbers, strict=True)
    return {column.name: column.value(number) for column, number in pairs}


def pair_of(columns: Sequence[Column]) -> tuple[int, int] | None:
    """The first two positive columns of one unit, such as two masses; None where there are none."""
    positive = [k for k, column in enumerate(columns) if column.positive and column.unit]
    pairs = itertools.combinations(positive, 2)
    return next((pair for pair in pairs if len({columns[k].unit for k in pair}) == 1), None)


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
    """Says that a table lacks `names` and has `there`, and what to type: a DataError's sentence."""
    near = counterparts(names, there)
    clear = certain(near)
    listed = ", ".join(there[:40]) + (", ..." if len(there) > 40 else "") or "no other"
    if len(names) == 1:
        (name,) = names
        each = near[name]
        typed = [f"--columns {quoted(f'{old}={name}')}" for old in each]
        if not each:
            hint = f"it has {listed}; name the right one with --columns OLD={quoted(name)}"
        elif clear:
            hint = f"the nearest is {each[0]!r}; if that is it, pass {typed[0]}"
        else:
            nearest = f"{', '.join(map(repr, each[:-1]))} and {each[-1]!r}"
            hint = f"{nearest} are as near; pass the right one of {' or '.join(typed)}"
        return f"{path} has no column {name!r}: {hint}"
    hints = []
    if clear:
        typed = [f"--columns {quoted(f'{old}={name}')}" for name, old in clear.items()]
        hints.append(f"if these are they, pass {' '.join(typed)}")
    if rest := [name for name in names if name not in clear]:
        several = sorted({old for name in rest for old in near[name]}) or [listed]
        hints.append(
            f"for {' and '.join(map(repr, rest))} it has {', '.join(several)}; name the right one "
            "with --columns OLD=NEW"
        )
    every = f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"
    return f"{path} has no columns {every}: {'; '.join(hints)}"


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
