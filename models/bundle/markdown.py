"""Values that may be anything as Markdown: names as they are, never as markup; numbers, or nothing.

For text of what strangers wrote, such as the card of a bundle. Knows nothing of what it tells.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_prep.untrusted import is_finite

LONGEST_TEXT = 1_000
"""Characters of a name or a reference at most."""
_ADDRESS = re.compile(r"https?://[A-Za-z0-9][^\s<>\\\"'`|]*[A-Za-z0-9/]")


def decimals(value: float, digits: int) -> int:
    """Decimals with which a number shows so many leading digits."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def number(value: object) -> float | None:
    return float(value) if is_finite(value) else None  # type: ignore[arg-type]


def count(value: object) -> str:
    found = number(value)
    return "" if found is None or abs(found) > 1e18 else f"{found:,.0f}"


def short(value: object) -> str:
    found = number(value)
    if isinstance(value, int) and found is not None and abs(found) < 1e18:
        return str(value)
    return "" if found is None else f"{found:.7g}"


def limits(value: object) -> tuple[str, str]:
    ends = [short(one) or "?" for one in items(value)]
    return (ends[0], ends[1]) if len(ends) == 2 else ("?", "?")


def score(value: object, error: object) -> str:
    """`4.212 ± 0.014`: as many decimals as the error's two leading digits have."""
    found, spread = number(value), number(error)
    if found is None:
        return ""
    if not spread or not 1e-12 < spread < 1e12:
        return f"{found:.4f}" if abs(found) < 1e12 else f"{found:.4g}"
    places = decimals(spread, 2)
    return f"{found:.{places}f} ± {spread:.{places}f}"


def with_floor(value: object, floor: object) -> str:
    first, second = number(value), number(floor)
    if first is None:
        return "-"
    return f"{first:.3f}" + ("" if second is None else f" ({second:.3f})")


def listed(texts: Sequence[str], most: int, last: str = "") -> str:
    """`a, b, c`, and how many more."""
    shown = list(texts[:most])
    if len(texts) > most:
        return f"{', '.join(shown)} and {len(texts) - most:,} more"
    if last and len(shown) > 1:
        return f"{', '.join(shown[:-1])} {last} {shown[-1]}"
    return ", ".join(shown)


def bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {each}" for each in texts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> str:
    lines = [head, ["---"] * len(head), *rows[:most]]
    told = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if len(rows) > most:
        told += f"\n\nand {len(rows) - most:,} more: see `emulator.json`."
    return told


_MARKUP = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "\\`*[]"},
        **{mark: f"&#{ord(mark)};" for mark in "<>|$~@#"},
    }
)


def plain(text: str) -> str:
    """On one line, however it was given."""
    return "".join(each if each.isprintable() else " " for each in text[:LONGEST_TEXT])


def shown(text: str) -> str:
    """A name as text: nothing in it is markup, a tag, a formula or a line of its own."""
    # Before the marks become entities themselves; no name has a NUL any more.
    safe = re.sub(r"&(?=#?[A-Za-z0-9]+;)", "&\0", plain(text))
    safe = safe.translate(_MARKUP).replace("\0", "amp;")
    # Underscores inside of words, as in Mass_0, are no markup.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", safe)


def linked(text: str) -> str:
    """The same, with its addresses as links."""
    text = plain(text)
    parts, end = [], 0
    for found in _ADDRESS.finditer(text):
        parts += [shown(text[end : found.start()]), f"<{found[0]}>"]
        end = found.end()
    return "".join([*parts, shown(text[end:])])


def code(text: object) -> str:
    """The text as code, where that can hold it in a table; else as a name."""
    if not isinstance(text, str) or not text:
        return "-"
    if len(text) > LONGEST_TEXT or not text.isprintable() or set("`|<>&$") & set(text):
        return shown(text)
    return f"`{text}`" if text.strip() else "-"
