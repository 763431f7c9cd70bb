"""The address of a page: it holds the chosen runs, filter and columns, so that it can be shared.

Runs are named by their keys in the catalog; the pages pass over a key that is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlencode

ROOT = "/runs/"
COMPARE = f"{ROOT}compare"
RUN = f"{ROOT}run/"
EMULATORS = f"{ROOT}emulators"

MOST = 50
"""Runs that are compared at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """The query of an address: a choice that was made on a page."""

    runs: tuple[str, ...] = ()
    """Keys of the runs, in the order in which they were chosen."""
    where: str = ""
    """Filter, as `hpo runs --where` takes it."""
    columns: tuple[str, ...] = ()
    """Columns of the table; none: the usual ones."""
    differing: bool = False
    """Only the columns that differ."""

    @classmethod
    def read(cls, text: str | None) -> Query:
        """The query that stands in an address, `?run=...&where=...`; what is unknown is ignored."""
        given = parse_qs((text or "").removeprefix("?"))
        return cls(
            runs=tuple(dict.fromkeys(given.get("run", ())))[:MOST],
            where=given.get("where", [""])[0],
            columns=tuple(dict.fromkeys(given.get("column", ()))),
            differing=given.get("differing") == ["1"],
        )

    def __str__(self) -> str:
        parts = {
            "run": self.runs,
            "where": self.where or (),
            "column": self.columns,
            "differing": "1" if self.differing else (),
        }
        text = urlencode(parts, doseq=True, safe="/")
        return f"?{text}" if text else ""


def of_run(key: str) -> str:
    """The address of a run's own page."""
    return RUN + quote(key)


def run_in(pathname: str) -> str | None:
    """The key of the run whose page this is; None for other pages."""
    return unquote(pathname.removeprefix(RUN)) if pathname.startswith(RUN) else None
