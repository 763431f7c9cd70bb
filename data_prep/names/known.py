"""What the codes call a column, and what such a column holds: SEVN, COSMIC, COMPAS, bilby and more.

A name that is not in this table means nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple


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


def meaning_of(name: str) -> Meaning | None:
    """What a column of that name holds in the codes of the trade; None where it is unknown.

    A name may end in its unit, as `m1_Msun` or `t_delay [Gyr]` does.
    """
    name, unit = with_unit(name)
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


def with_unit(name: str) -> tuple[str, str | None]:
    """The name without the unit that it ends in, and that unit."""
    found = _ENDING.fullmatch(name)
    return (found[1], unit_of(found[2])) if found else (name, None)


def unit_of(text: str) -> str:
    """A unit as astropy writes it, where it is a common one; else as it is."""
    return _UNITS.get(re.sub(r"[\s_]", "", text.lower()), text.strip())
