"""The bundle's `README.md`: what `emulator.json` says, told to people.

The words are in `card.md.jinja`. All facts come from the card, which may be of any version, or
forged: a missing fact is said to be missing, values of a wrong type are passed over, and names are
shown as they are, never as markup. Tables have an end; `emulator.json` has the rest. This module
needs no torch.

Sections as in Mitchell et al. (2019), https://arxiv.org/abs/1810.03993; the front matter is that of
https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any

from markupsafe import Markup

from models.bundle.files import FORMAT, EmulatorError
from models.bundle.readme import markdown as md
from models.bundle.reliability import Reliability
from models.layout import MEMBERS

MOST_CELLS = 60
"""Cells that are shown: those with the most rows."""
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+() -]{0,99}")

_TEMPLATES = md.environment(Path(__file__).parent)

Card = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Licence, authors and references, which the exporter of an emulator gives."""

    license: str | None = None
    """Of the emulator: an SPDX identifier, such as CC-BY-4.0."""
    authors: tuple[str, ...] = ()
    """Makers of the emulator."""
    citation: tuple[str, ...] = ()
    """References to cite: the paper of the emulator, the simulation behind the data."""

    def __post_init__(self) -> None:
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise EmulatorError(
                "the licence must be an SPDX identifier, such as CC-BY-4.0 or MIT, got "
                f"{self.license[:100]!r}: choose one at https://spdx.org/licenses"
            )
        for what, texts in (("an author", self.authors), ("a reference", self.citation)):
            for text in texts:
                if not text.strip() or len(text) > md.LONGEST_TEXT or not text.isprintable():
                    raise EmulatorError(
                        f"{what} must be one line of text, of at most {md.LONGEST_TEXT} "
                        f"characters, got {text[:100]!r}"
                    )

    def to_card(self) -> dict[str, object]:
        """The terms that are given, as they stand in `emulator.json`."""
        texts = {"authors": list(self.authors), "citation": list(self.citation)}
        return {k: value for k, value in {"license": self.license, **texts}.items() if value}


def text(card: Card) -> str:
    """The model card in Markdown, with a YAML front matter."""
    origin, metrics = md.mapping(card.get("provenance")), md.mapping(card.get("metrics"))
    members, origins = _members(card), _mappings(origin.get("members"))
    flows = members or [md.mapping(card.get("architecture"))]
    best = (origins or [{}])[0] if members else origin
    cells = _mappings(metrics.get("cells"))
    rows = [md.number(md.mapping(cell.get("rows")).get("train")) or 0 for cell in cells]
    most_populated = sorted(range(len(cells)), key=lambda k: -rows[k])[:MOST_CELLS]
    columns = [
        (name, unit, role)
        for role in ("event", "condition")
        for name, unit in md.pairs(card.get(f"{role}_columns"))
    ]
    licence = md.plain(md.text(card.get("license")))[:100] or "unknown"
    # Where it is no single identifier, the hub has a field of its own for the name.
    known = re.fullmatch(r"(?!LicenseRef)[A-Za-z0-9.+-]+", licence)
    # How many event columns have a unit: the density is per all of them.
    units = Counter(map(md.text, md.mapping(card.get("event_columns")).values()))
    rendered = _TEMPLATES.get_template("card.md.jinja").render(
        card=card,
        license=licence.lower() if known else "other",
        license_name="" if known else licence,
        **_call(card),
        columns=columns,
        atoms=_atoms(card)[:12],
        events=[name for name, _, role in columns if role == "event"],
        conditions=[name for name, _, role in columns if role == "condition"],
        units=[(unit, times) for unit, times in units.items() if unit][:12],
        origin=origin,
        data=md.mapping(origin.get("data")),
        best=best,
        flows=flows,
        zero=_zero(_mappings(flows[0].get("event_columns"))),
        members=members,
        origins=origins,
        scores=_mappings(metrics.get("members")),
        versions=[f"{name} {value}" for name, value in md.pairs(best.get("versions"))],
        metrics=metrics,
        # What the trial reached by whose configuration they were trained anew, if they were.
        anew=md.mapping(metrics.get("trial")),
        cells=cells,
        largest=[cells[k] for k in sorted(most_populated)],
        ratios=_ratios(cells),
        worst=max(cells, key=lambda cell: max(_ratios([cell]), default=0.0), default=None),
        reliability=_reliability(card),
    )
    # The template's statements leave empty lines.
    return re.sub(r"\n{3,}", "\n\n", rendered).strip() + "\n"


def _call(card: Card) -> dict[str, object]:
    """The first value of each condition as arguments in Python and as options; the ONNX inputs."""
    known = {md.plain(name): value for name, value in md.pairs(card.get("domain"))}
    texts = {name: [*map(md.plain, md.texts(value))] for name, value in known.items()}
    at = {name: (texts[name] or md.limits(value))[0] for name, value in known.items()}
    written = {
        name: json.dumps(value, ensure_ascii=False) if texts[name] else value
        for name, value in at.items()
    }
    arguments = [
        f"{name}={value}"
        if name.isidentifier() and not iskeyword(name)
        else f"**{{{json.dumps(name, ensure_ascii=False)}: {value}}}"
        for name, value in written.items()
    ]
    words = " ".join(f"{shlex.quote('--' + k)} {shlex.quote(v)}" for k, v in at.items())
    return {
        "call": Markup("".join(f", {each}" for each in arguments)),
        "words": Markup(words),
        "order": list(at),
        "numbered": [(name, [*enumerate(each)]) for name, each in texts.items() if each],
        "noise": len(md.mapping(card.get("event_columns")))
        + bool(_members(card))
        + bool(_atoms(card))
        + (md.mapping(_first(card).get("config")).get("base") == "mixture"),
    }


def _reliability(card: Card) -> Reliability | None:
    """For how many events it is good; None where nothing was measured, or nothing can be read."""
    with suppress(EmulatorError):
        return Reliability.from_card(card)
    return None


def _zero(columns: Sequence[Card]) -> list[Markup]:
    """Where the density of these event columns is 0."""
    positive = [md.code(column.get("name")) for column in columns if column.get("positive") is True]
    told = [Markup(f"{md.listed(positive, 12, 'or')} is not above 0")] if positive else []
    for column in columns:
        ends = (("below", md.short(column.get("low"))), ("above", md.short(column.get("high"))))
        if sides := [f"{side} {bound}" for side, bound in ends if bound]:
            told.append(Markup(f"{md.code(column.get('name'))} is {' or '.join(sides)}"))
    return told


def _ratios(cells: Iterable[Card]) -> list[float]:
    """Each distance divided by its floor."""
    pairs = [
        (md.number(value), md.number(md.mapping(cell.get("ks_floor")).get(name)))
        for cell in cells
        for name, value in md.pairs(cell.get("ks"))
    ]
    return [value / floor for value, floor in pairs if value is not None and floor]


def _members(card: Card) -> list[Card]:
    """The description of each flow of an ensemble; none for a single flow."""
    if card.get("format") == FORMAT:
        return []
    return _mappings(md.mapping(card.get("architecture")).get(MEMBERS))


def _first(card: Card) -> Card:
    """The description of the flow, or of the first of an ensemble."""
    return (_members(card) or [md.mapping(card.get("architecture"))])[0]


def _atoms(card: Card) -> list[tuple[str, list[str]]]:
    """Each event column with atoms, and those."""
    atoms = [
        (md.text(column.get("name")), list(map(md.short, md.items(column.get("atoms")))))
        for column in _mappings(_first(card).get("event_columns"))
    ]
    return [(name, [each for each in values if each]) for name, values in atoms if any(values)]


def _mappings(value: object) -> list[Card]:
    return [md.mapping(one) for one in md.items(value)]
