"""Values of any type as Markdown: names as they are, never as markup; numbers, or nothing.

For text that strangers wrote, such as the card of a bundle. In templates of `environment` every
value is escaped, unless a filter has made it Markdown.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from data_prep.untrusted import is_finite
from data_prep.words import numbers

LONGEST_TEXT = 1_000
"""Characters of a name or a reference at most."""
_ADDRESS = re.compile(r"https?://[A-Za-z0-9][^\s<>\\\"'`|]*[A-Za-z0-9/]")
_MARKUP = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "\\`*[]"},
        **{mark: f"&#{ord(mark)};" for mark in "<>|$~@#"},
    }
)


def environment(folder: Path) -> Environment:
    """The templates of a folder, with the functions of this module as filters."""
    made = Environment(
        loader=FileSystemLoader(folder),
        # `finalize` marks its texts as safe, so jinja's own escaping, of HTML, never acts.
        autoescape=True,
        finalize=shown,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (code, count, duration, linked, listed, mapping, pairs, score, short, text, texts)
    made.filters |= {each.__name__: each for each in filters}
    made.filters |= {
        "each": items,
        "limits": lambda value: Markup(" | ".join(limits(value))),
        "value": lambda value: text(value) or short(value),
        "span": lambda value: " to ".join(dict.fromkeys(limits(value))),
        "median": statistics.median,
    }
    return made


def mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def pairs(value: object) -> list[tuple[str, Any]]:
    return list(mapping(value).items())


def items(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def text(value: object) -> str:
    return value if isinstance(value, str) and value.strip() else ""


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


def texts(value: object) -> list[str]:
    """The texts of a list that holds nothing else, and is not empty."""
    found = [text(one) for one in items(value)]
    return found if all(found) else []


def limits(value: object) -> tuple[str, str]:
    ends = [short(one) or "?" for one in items(value)]
    return (ends[0], ends[1]) if len(ends) == 2 else ("?", "?")


def score(value: object, error: object = None) -> str:
    """`4.212 ± 0.014`: see `numbers.with_error`; nothing for no number."""
    found = number(value)
    return "" if found is None else numbers.with_error(found, number(error), between="±")


def duration(value: object) -> str:
    found = number(value)
    return "" if found is None or not 0 <= found < 1e12 else numbers.duration(found)


def listed(values: Sequence[object], most: int, last: str = "") -> Markup:
    """`a, b, c`, and how many more."""
    names = [shown(value) for value in values[:most]]
    if len(values) > most:
        return Markup(f"{', '.join(names)} and {len(values) - most:,} more")
    if last and len(names) > 1:
        return Markup(f"{', '.join(names[:-1])} {last} {names[-1]}")
    return Markup(", ".join(names))


def plain(text: str) -> str:
    """The text on one line."""
    return "".join(each if each.isprintable() else " " for each in text[:LONGEST_TEXT])


def shown(value: object) -> Markup:
    """A name as text: nothing in it is markup, a tag, a formula or a line of its own."""
    if isinstance(value, Markup):
        return value
    # Before the marks become entities themselves; no name has a NUL any more.
    safe = re.sub(r"&(?=#?[A-Za-z0-9]+;)", "&\0", plain(str(value)))
    safe = safe.translate(_MARKUP).replace("\0", "amp;")
    # Underscores inside of words, as in Mass_0, are no markup.
    return Markup(re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", safe))


def linked(text: str) -> Markup:
    """The text as `shown`, with its addresses as links."""
    text = plain(text)
    parts, end = [], 0
    for found in _ADDRESS.finditer(text):
        parts += [shown(text[end : found.start()]), f"<{found[0]}>"]
        end = found.end()
    return Markup("".join([*parts, shown(text[end:])]))


def code(text: object) -> Markup:
    """The text as code, where that can hold it in a table; else as a name."""
    if not isinstance(text, str) or not text:
        return Markup("-")
    if len(text) > LONGEST_TEXT or not text.isprintable() or set("`|<>&$") & set(text):
        return shown(text)
    return Markup(f"`{text}`") if text.strip() else Markup("-")
