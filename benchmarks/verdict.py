"""The line of a benchmark that says whether an aim is met."""

from __future__ import annotations


def verdict(what: str, found: float, sign: str, aim: float) -> None:
    """Print it. `sign` is >=, <= or <."""
    met = {">=": found >= aim, "<=": found <= aim, "<": found < aim}[sign]
    print(f"{'met   ' if met else 'MISSED'} {what}: {found:.4g} (aim {sign} {aim:g})", flush=True)
