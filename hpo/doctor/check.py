"""`Check`: the result of one check before a launch, shown by `hpo doctor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.engine import URL

from data_prep.errors import first_line

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    what: str
    verdict: Verdict
    found: str
    remedy: str | None = None


def guarded(what: str, look: Callable[[], list[Check]], url: URL | None = None) -> list[Check]:
    """The checks that `look` makes; a warning if it raises."""
    try:
        return look()
    except Exception as error:
        found = f"could not be checked: {type(error).__name__}: {said(error, url)}"
        return [Check(what, "warning", found)]


def said(error: Exception, url: URL | None) -> str:
    """The first line of an error, of a driver's own where it has one, without the password."""
    line = first_line(error)
    for secret in (url.password, url.query.get("password")) if url else ():
        line = line.replace(str(secret), "***") if secret else line
    return line
