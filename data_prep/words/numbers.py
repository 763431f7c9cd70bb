"""Numbers as people read them: on a terminal, in a model card, on the page.

One function for each kind of number, so that the same one reads alike everywhere. Files for
programs, JSON and CSV, hold numbers whole instead.
"""

from __future__ import annotations

import math

PLUS_MINUS = "+-"
"""Between a number and its error on a terminal, whose encoding may lack `±`."""
_UNITS = ("B", "kB", "MB", "GB", "TB")


def counted(number: int, one: str) -> str:
    """`1 worker`, `78,713 rows`."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def nll(value: float, *, sign: str = "") -> str:
    """An NLL of which no error is known, in nats per event: four decimals.

    `sign` is `+` to have it told of a number above 0, too.
    """
    return f"{value:{sign}.4f}" if abs(value) < 1e12 else f"{value:{sign}.4g}"


def with_error(
    value: float, error: float | None, *, sign: str = "", between: str = PLUS_MINUS
) -> str:
    """`4.212 +- 0.014`: as many decimals as the error's two leading digits have.

    Args:
        value: Of any size.
        error: Its standard error. Without a usable one the number is told as `nll` does.
        sign: `+` to have it told of a number above 0, too.
        between: `±` where every reader can show it.
    """
    if not error or not 1e-12 < error < 1e12:
        return nll(value)
    places = decimals(error, 2)
    return f"{value:{sign}.{places}f} {between} {error:.{places}f}"


def short(value: float, digits: int = 3, *, sign: str = "") -> str:
    """The number with so many digits at least, without an exponent; a count in full."""
    if isinstance(value, int) or not value or not math.isfinite(value):
        return f"{value:{sign if value else ''},.0f}"
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{rounded:{sign},.{decimals(value, digits)}f}"


def setting(value: float) -> str:
    """A value that was chosen, of any size: five digits, a power of ten where it is far from 1."""
    return f"{value:.5g}"


def duration(seconds: float) -> str:
    """`0.42 s`, `14.8 s`, `1 min 20 s`, `3 h 05 min`, `2 d 01 h`: three digits, or two units.

    A time that is only estimated is rounded to whole seconds before.
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.3g} s" if seconds >= 1e-3 else "0 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days:,} d {hours:02d} h"


def size(bytes: int) -> str:
    """`548 kB`, `10.8 MB`: three digits, in powers of 1000."""
    power = 0
    while bytes >= 999.5 * 1000**power and power < len(_UNITS) - 1:
        power += 1
    return f"{short(bytes / 1000**power)} {_UNITS[power]}"


def decimals(value: float, digits: int) -> int:
    """Decimals with which a number shows so many leading digits."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))
