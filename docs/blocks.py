"""Blocks of code that fit the page, and transcripts whose button copies the commands alone."""

from __future__ import annotations

import re
from html import escape, unescape
from typing import Any

_BLOCK = re.compile(r'<div class="language-(\w+) highlight">(<pre>.*?</pre>)</div>', re.DOTALL)


def copied(transcript: str) -> str:
    """Its commands, without prompts and without what they print."""
    return "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)$", transcript, re.MULTILINE))


def fitted(html: str) -> str:
    """A page whose blocks tell how many columns they have, and what is copied of a transcript."""
    return _BLOCK.sub(_fitted, html)


def _fitted(block: re.Match[str]) -> str:
    language, pre = block.groups()
    text = unescape(re.sub(r"<[^>]+>", "", pre))
    columns = max(map(len, text.splitlines()), default=0)
    kind, copy = language, ""
    if language == "console":
        copy = f' data-copy="{escape(copied(text))}"'
        kind += "" if copied(text) else " printed"
    elif language == "text" and text.count("\n") == 1:
        kind += " message"
    return f'<div class="language-{kind} highlight"{copy} style="--columns: {columns}">{pre}</div>'


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs."""
    return fitted(html)
