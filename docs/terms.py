"""Words of the glossary as links to it: the first of each on a page, with its meaning as a hint.

A row of the glossary may have several words, with commas between them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GLOSSARY = "glossary.md"
WITHOUT = {GLOSSARY, "index.md", "changelog.md", "reference/commands.md"}
"""Pages that have no such links."""
AMBIGUOUS = frozenset(
    "base bin block box card claim component coordinates distance divergence event floor layer"
    " owner region restart run slot space split spread stale support table totals".split()
)
"""Words that a text also needs for something else."""

_ROW = re.compile(r"^\| (?!word )([\w][^|]*?) \| (.+?) \|$", re.MULTILINE)
_ASIDE = re.compile(
    r"^```.*?^```$|^(?:#|:::)[^\n]*$|^    [^\n]*$|`[^`]+`|<[^>]+>|\$[^$]+\$|"
    r"!?\[[^\]]*\]\([^)]*\)(?:\{[^}]*\})?",
    re.MULTILINE | re.DOTALL,
)
"""What holds no link: blocks, headings, code, links, HTML."""


def rows(text: str) -> Iterator[tuple[str, list[str], str]]:
    """Of the glossary's text: the anchor of each row, its words, their meaning."""
    for words, meaning in _ROW.findall(text):
        each = words.split(", ")
        yield anchor(each[0]), each, re.sub(r"[`\"\[\]*]|\([^)]*\)", "", meaning).strip()


def anchor(word: str) -> str:
    """The place of a word in the glossary."""
    return re.sub(r"\W+", "-", word.lower()).strip("-")


def anchored(text: str) -> str:
    """The glossary with an anchor in each row."""
    return _ROW.sub(
        lambda row: f"| {row[1]} {{ #{anchor(row[1].split(', ')[0])} }} | {row[2]} |", text
    )


def linked(text: str, glossary: str, address: str) -> str:
    """A page's text, the first of each word of the glossary a link to it at this address."""
    places = {
        word.lower(): (place, meaning)
        for place, words, meaning in rows(glossary)
        for word in words
        if word not in AMBIGUOUS
    }
    longest_first = sorted(map(re.escape, places), key=len, reverse=True)
    word = re.compile(rf"(?<![\w-])({'|'.join(longest_first)})(s?)(?![\w-])", re.IGNORECASE)
    seen = set()

    def link(found: re.Match[str]) -> str:
        place, meaning = places[found[1].lower()]
        if place in seen:
            return found[0]
        seen.add(place)
        return f'[{found[0]}]({address}#{place} "{meaning}"){{ .term }}'

    parts, end = [], 0
    for aside in _ASIDE.finditer(text):
        parts += [word.sub(link, text[end : aside.start()]), aside[0]]
        end = aside.end()
    return "".join([*parts, word.sub(link, text[end:])])


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Anchors in the glossary, links to them elsewhere."""
    uri = page.file.src_uri
    if uri == GLOSSARY:
        return anchored(markdown)
    if uri in WITHOUT:
        return markdown
    glossary = (Path(config.docs_dir) / GLOSSARY).read_text(encoding="utf-8")
    return linked(markdown, glossary, posixpath.relpath(GLOSSARY, posixpath.dirname(uri) or "."))
