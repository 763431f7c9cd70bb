"""The bundle's `README.md`: what `emulator.json` says, told to people.

Text from the card alone, which may be of any version, or forged: what is missing is said to be
missing, what is no number is passed over, and names are shown as they are, never as markup. Tables
have an end; what they leave out is in `emulator.json`. Knows no torch.

Sections as in Mitchell et al. (2019), https://arxiv.org/abs/1810.03993; the front matter is that of
https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

from models.bundle import markdown as md
from models.bundle.files import FORMAT_OF_SEVERAL, EmulatorError
from models.layout import MEMBERS

MOST_CELLS, MOST_SOURCES, MOST_MEMBERS, MOST_COLUMNS, MOST_VALUES = 60, 20, 20, 12, 12
"""Lines, or names in a line, at most."""
SOFTWARE = "hpo-flows: tuned normalizing-flow emulators of binary population synthesis"
AUTHORS = ("The hpo-flows developers",)
SOFTWARE_LICENSE = "MIT"
"""As in CITATION.cff, which an installed package does not have."""
MEANINGS = {
    "Mass_0": "mass of the remnant of the initially more massive star",
    "Mass_1": "mass of the remnant of the initially less massive star; may exceed Mass_0",
    "Z": "metallicity, as a mass fraction",
    "alpha": "common-envelope efficiency",
}
"""Of the names that `hpo prepare` gives to the columns of SEVN and COSMIC."""
COORDINATES = {
    "log_ratio": "the logarithms of the first of a pair of columns and of their ratio",
    "log_total": "the logarithms of the sum of a pair of columns and of their ratio",
    "log": "the logarithm of each positive column",
}
FLOW = "Papamakarios, Pavlakou & Murray (2017), https://arxiv.org/abs/1705.07057"
SPLINES = "Durkan, Bekasov, Murray & Papamakarios (2019), https://arxiv.org/abs/1906.04032"
ENSEMBLE = "Lakshminarayanan, Pritzel & Blundell (2017), https://arxiv.org/abs/1612.01474"
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+() -]{0,99}")

Card = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What whoever exports an emulator says of it to those who use it."""

    license: str | None = None
    """Of the emulator: an SPDX identifier, such as CC-BY-4.0."""
    authors: tuple[str, ...] = ()
    """Who made it."""
    citation: tuple[str, ...] = ()
    """What to cite: the paper of the emulator, the simulation behind the data."""

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
        """What is given, as it stands in `emulator.json`."""
        told = {
            "license": self.license,
            "authors": list(self.authors),
            "citation": list(self.citation),
        }
        return {name: value for name, value in told.items() if value}


def text(card: Card) -> str:
    """The model card in Markdown, with a YAML front matter."""
    sections = (
        _front_matter(card),
        _head(card),
        _emulated(card),
        _data(card),
        _training(card),
        _quality(card),
        _validity(card),
        _loading(card),
        _citing(card),
        _licence(card),
    )
    return "\n\n".join(sections) + "\n"


# ---- sections


def _front_matter(card: Card) -> str:
    given = md.plain(md.text(card.get("license")) or "")[:100]
    # Where it is no single identifier, the hub has a field of its own for the name.
    single = re.fullmatch(r"(?!LicenseRef)[A-Za-z0-9.+-]+", given)
    name = given.lower() if single else "other" if given else "unknown"
    lines = ["---", f"license: {json.dumps(name)}"]
    if given and not single:
        lines.append(f"license_name: {json.dumps(given)}")
    tags = ("density-estimation", "emulator", "normalizing-flow", "population-synthesis")
    return "\n".join([*lines, "library_name: hpo-flows", "tags:", *(f"- {t}" for t in tags), "---"])


def _head(card: Card) -> str:
    several = len(_members(card))
    what = f"An ensemble of {several} normalizing flows, equally weighted," if several else ""
    return "\n\n".join(
        [
            f"# Emulator of p({_density(card)})",
            f"{what or 'A normalizing flow'} fitted to simulated events. It draws events at any "
            "values of its conditions within the ranges below, and gives their exact density.",
        ]
    )


def _emulated(card: Card) -> str:
    rows = []
    for role in ("event", "condition"):
        for name, unit in md.mapping(card.get(f"{role}_columns")).items():
            rows.append([md.code(name), role, _unit(unit), md.shown(MEANINGS.get(name, ""))])
    units = Counter(map(md.text, md.mapping(card.get("event_columns")).values()))
    named = [f"{md.shown(unit)}^-{times}" for unit, times in units.items() if unit]
    per = f": in {' '.join(named[:MOST_COLUMNS])}" if named else ""
    return "\n\n".join(
        [
            "## What it emulates",
            f"The probability density of one event, p({_density(card)}), normalised over the "
            f"events. Natural logarithms throughout; per unit of each event column{per}.",
            md.table(["column", "role", "unit", "meaning by convention"], rows, 2 * MOST_CELLS),
        ]
    )


def _data(card: Card) -> str:
    origin = md.mapping(card.get("provenance"))
    data, rows = md.mapping(origin.get("data")), md.mapping(origin.get("data_rows"))
    told = []
    if fingerprint := md.text(origin.get("data_fingerprint")):
        told.append(f"fingerprint (sha256 over columns, values and split): {md.code(fingerprint)}")
    parts = [f"{md.count(rows[name])} {name}" for name in ("train", "val", "test") if name in rows]
    if parts:
        told.append(f"rows: {', '.join(parts)}")
    if cells := md.count(data.get("cells")):
        told.append(f"cells, distinct combinations of the conditions: {cells}")
    if where := md.text(data.get("where")):
        told.append(f"rows kept: {md.code(where)}")
    if command := md.text(data.get("command")):
        told.append(f"prepared by {md.code(command)}")
    lines = ["## Data", md.bullets(told) or "Not recorded."]
    sources = [md.mapping(one) for one in md.items(data.get("sources"))]
    if sources:
        table = [
            [md.code(one.get("file")), md.count(one.get("rows")), md.code(one.get("sha256"))]
            for one in sources
        ]
        lines.append(md.table(["source file", "rows", "sha256"], table, MOST_SOURCES))
    elif told and not data:
        lines.append(
            "Neither cells nor source files are listed, as where the data are not there any more "
            "when an emulator is exported."
        )
    return "\n\n".join(lines)


def _training(card: Card) -> str:
    origin, cost = md.mapping(card.get("provenance")), md.mapping(card.get("cost"))
    members, flows = _members(card), _flows(card)
    told = [f"flow: {each}" for each in dict.fromkeys(map(_flow, flows)) if each][:MOST_MEMBERS]
    if parameters := md.count(cost.get("parameters")):
        operations = md.count(cost.get("flops_per_event"))
        also = f"; {operations} floating-point operations for one density" if operations else ""
        told.append(f"{parameters} parameters{also}")
    if study := md.text(origin.get("study")):
        trials = [md.count(one) for one in md.items(origin.get("trials"))]
        trial = md.count(origin.get("trial"))
        which = f", trial {trial}" if trial else ""
        which = f", trials {md.listed(trials, MOST_MEMBERS)}" if any(trials) else which
        told.append(f"chosen by hyperparameter search: study {md.shown(study)}{which}")
    first = md.mapping(next(iter(md.items(origin.get("members"))), None)) if members else origin
    told += _settings(md.mapping(first.get("training")), "" if not members else "of the best: ")
    told += _environment(first)
    lines = ["## Training", md.bullets(told) or "Not recorded."]
    if members:
        lines.append(_of_members(card, members))
    return "\n\n".join(lines)


def _quality(card: Card) -> str:
    metrics = md.mapping(card.get("metrics"))
    cells = [md.mapping(cell) for cell in md.items(metrics.get("cells"))]
    nlls = [
        ("validation", "val_nll", ""),
        ("test", "test_nll", "test_nll_error"),
        ("test, in cells that it was not trained on", "held_out_nll", "held_out_nll_error"),
    ]
    rows = [
        [f"NLL, {name}", score, "nats per event"]
        for name, key, error in nlls
        if (score := md.score(metrics.get(key), metrics.get(error)))
    ]
    if ratios := _ratios(cells):
        middle = statistics.median(ratios)
        rows.append(["KS / floor, median of cells and columns", f"{middle:.2f}", ""])
        rows.append(["KS / floor, worst", f"{max(ratios):.2f}", ""])
    if (unphysical := md.number(metrics.get("unphysical_fraction"))) is not None:
        rows.append(["unphysical draws", f"{unphysical:.3g}", "fraction"])
    lines = ["## Quality"]
    if not rows:
        return "\n\n".join([*lines, "Not measured. `hpo evaluate` does, on a prepared dataset."])
    lines += [
        "NLL is the mean of -ln p over events that it was not trained on, in the data's own units. "
        "Lower is better, and only NLLs on the same data compare.",
        md.table(["measure", "value", "unit"], rows, len(rows)),
    ]
    if cells:
        lines += [_about_cells(metrics, cells), _cells(card, cells)]
    else:
        lines.append(
            "Single cells were not measured when this was exported. `hpo evaluate` does, on the "
            "prepared dataset."
        )
    return "\n\n".join(lines)


def _validity(card: Card) -> str:
    domain, units = md.mapping(card.get("domain")), md.mapping(card.get("condition_columns"))
    data = md.mapping(md.mapping(card.get("provenance")).get("data"))
    grid, ranges = md.mapping(data.get("grid")), md.mapping(data.get("ranges"))
    rows = []
    for name, unit in units.items():
        low, high = md.limits(domain.get(name))
        values = [md.short(value) for value in md.items(grid.get(name))]
        rows.append([md.code(name), _unit(unit), low, high, md.listed(values, MOST_VALUES) or "-"])
    lines = [
        "## Where it holds",
        md.table(["condition", "unit", "from", "to", "values simulated"], rows, MOST_CELLS),
        'Outside of a range it warns, or refuses with `on_extrapolation="raise"`; what it says '
        "there is a guess. Inside, between the values that were simulated, it interpolates: only "
        "cells kept out of training (`hold_out_cells`) can tell how well.",
    ]
    if positive := _positive(card):
        lines.append(
            f"The density is exactly 0 where {md.listed(positive, MOST_COLUMNS, 'or')} is not "
            "above 0, and nowhere else: it does not end at the edges of the data."
        )
    seen = [
        [md.code(name), _unit(unit), *md.limits(ranges.get(name))]
        for name, unit in md.mapping(card.get("event_columns")).items()
        if name in ranges
    ]
    if seen:
        lines.append(md.table(["event column", "unit", "lowest in the data", "highest"], seen, 60))
    lines.append(
        "It knows nothing but the simulation that it was fitted to: neither observations "
        "nor how likely a value of a condition is."
    )
    return "\n\n".join(lines)


def _loading(card: Card) -> str:
    domain = md.mapping(card.get("domain"))
    at = {md.plain(name): md.limits(limits)[0] for name, limits in domain.items()}
    call = "".join(f", {_argument(name, value)}" for name, value in at.items())
    words = " ".join(f"{shlex.quote('--' + name)} {value}" for name, value in at.items())
    rate = ""
    if (told := md.mapping(card.get("efficiency"))) and call:
        per = "per simulated binary" if told.get("unit") == "binaries" else "per Msun simulated"
        rate = f"rate = emulator.efficiency({call[2:]})  # mergers {per}\n"
    noise = len(md.mapping(card.get("event_columns"))) + bool(_members(card))
    order = ", ".join(md.code(name) for name in list(at)[:MOST_COLUMNS])
    return f"""## How to load it

In Python, with the package hpo-flows:

```python
from models import Emulator

emulator = Emulator.load(".")  # this folder
events = emulator.sample(100_000{call}, seed=7)
logp = emulator.log_prob(events{call})
{rate}```

Under numpy or JAX, without torch:

```python
from models import ArrayFlow

logp = ArrayFlow.load(".").log_prob(events{call})
```

From a command line:

```console
$ hpo sample . -n 100000 {words} --out events.parquet
```

In other languages, by an ONNX runtime: `log_prob.onnx` turns `events` and `conditions` ({order}, in
this order) into natural-log densities, `sample.onnx` turns `noise`, {noise} standard normal numbers
for each event, and `conditions` into events. All are float32, in physical units.

`emulator.json` holds everything in full, with the sha256 of every file, which loading compares; no
pickle is ever loaded."""


def _citing(card: Card) -> str:
    given = [md.linked(one) for one in map(md.text, md.items(card.get("citation"))) if one]
    authors = [md.shown(one) for one in map(md.text, md.items(card.get("authors"))) if one]
    version = _version(card)
    told = [f"this emulator, by {md.listed(authors, MOST_MEMBERS)}"] if authors else []
    told += [f"as its makers ask: {one}" for one in given[:MOST_MEMBERS]]
    if not given:
        told.append(
            "the simulation behind the data: whoever exported this did not name it; ask "
            "them (`hpo export --cite` names it)"
        )
    told.append(
        f"the software: {', '.join(AUTHORS)}, *{SOFTWARE}*{version and f', version {version}'}"
    )
    told.append(f"the method, masked autoregressive flows: {md.linked(FLOW)}")
    if any(md.mapping(flow.get("config")).get("kind") == "spline" for flow in _flows(card)):
        told.append(f"their splines: {md.linked(SPLINES)}")
    if _members(card):
        told.append(f"mixing several: {md.linked(ENSEMBLE)}")
    return f"## How to cite it\n\n{md.bullets(told)}"


def _licence(card: Card) -> str:
    given = md.text(card.get("license"))
    ours = f"The software that reads it, hpo-flows, is under the {SOFTWARE_LICENSE} licence."
    if given:
        return f"## Licence\n\nThis emulator: {md.shown(given)}. {ours}"
    return (
        "## Licence\n\nNo licence was given for this emulator: ask whoever made it before you pass "
        f"it on (`hpo export --license` says one). {ours}"
    )


# ---- parts of sections


def _flow(flow: Card) -> str:
    """A flow's shape in words."""
    config = md.mapping(flow.get("config"))
    layers, depth, hidden = (md.count(config.get(name)) for name in ("blocks", "depth", "hidden"))
    if not (layers and hidden):
        return ""
    kind = "affine steps"
    if config.get("kind") == "spline":
        kind = f"rational-quadratic splines of {md.count(config.get('bins'))} pieces"
    names = {"separate": "a network for each column", "masked": "a masked network for each layer"}
    network = names.get(str(config.get("conditioner")), names["masked"])
    # Configs of before the option had it so.
    coordinates = COORDINATES.get(str(config.get("coordinates", "log")), "")
    plural = "" if layers == "1" else "s"
    return (
        f"{layers} autoregressive layer{plural} of {kind}; {network}, {depth or 1} x {hidden} "
        f"{md.shown(md.text(config.get('activation')) or '')} units; in {coordinates}"
    )


def _settings(training: Card, whose: str) -> list[str]:
    """How one trial was trained."""
    options = {
        "at most {} epochs": training.get("epochs"),
        "batches of {}": training.get("batch_size"),
        "AdamW, learning rate {}": training.get("learning_rate"),
        "weight decay {}": training.get("weight_decay") or None,
        "averaged weights ({})": training.get("ema") or None,
        "conditions moved between the values simulated ({})": training.get("jitter") or None,
        "seed {}": training.get("seed"),
    }
    said = [
        name.format(md.short(value))
        for name, value in options.items()
        if md.number(value) is not None
    ]
    told = [f"{whose}{', '.join(said)}"] if said else []
    if epochs := md.count(training.get("epochs_run")):
        best = md.count(training.get("best_epoch"))
        kept = f", the weights of epoch {best} kept" if best else ""
        seconds, device = md.number(training.get("seconds")), md.text(training.get("device"))
        took = f" in {seconds:,.0f} s" if seconds is not None else ""
        where = f" on {md.shown(device)}" if device else ""
        told.append(f"{whose}{epochs} epochs{took}{where}{kept}")
    return told


def _environment(origin: Card) -> list[str]:
    told = []
    if trained := md.text(origin.get("trained")):
        told.append(f"trained {md.shown(trained)}")
    versions = md.mapping(origin.get("versions"))
    named = [f"{md.shown(str(name))} {md.shown(str(value))}" for name, value in versions.items()]
    if named:
        told.append(f"with {md.listed(named, MOST_COLUMNS)}")
    if commit := md.text(origin.get("git_commit")):
        told.append(f"commit of hpo-flows: {md.code(commit)}")
    return told


def _of_members(card: Card, members: Sequence[Card]) -> str:
    origins = [
        md.mapping(one) for one in md.items(md.mapping(card.get("provenance")).get("members"))
    ]
    metrics = [md.mapping(one) for one in md.items(md.mapping(card.get("metrics")).get("members"))]
    rows = []
    for number, flow in enumerate(members):
        origin = origins[number] if number < len(origins) else {}
        scored = metrics[number] if number < len(metrics) else {}
        config = md.mapping(flow.get("config"))
        rows.append(
            [
                md.count(origin.get("trial")) or "-",
                *(md.count(config.get(name)) or "-" for name in ("blocks", "hidden", "bins")),
                md.count(md.mapping(origin.get("training")).get("epochs_run")) or "-",
                md.score(scored.get("val_nll"), None) or "-",
                md.score(scored.get("test_nll"), scored.get("test_nll_error")) or "-",
            ]
        )
    head = ["trial", "blocks", "hidden", "bins", "epochs", "validation NLL", "test NLL"]
    return md.table(head, rows, MOST_MEMBERS)


def _ratios(cells: Iterable[Card]) -> list[float]:
    """Each distance divided by its floor."""
    pairs = [
        (md.number(value), md.number(md.mapping(cell.get("ks_floor")).get(name)))
        for cell in cells
        for name, value in md.mapping(cell.get("ks")).items()
    ]
    return [value / floor for value, floor in pairs if value is not None and floor]


def _about_cells(metrics: Card, cells: Sequence[Card]) -> str:
    rows = md.count(metrics.get("cells_rows"))
    of = f", of {rows} test events" if rows else ""
    told = (
        f"Of each cell{of}: the NLL, and the Kolmogorov-Smirnov distance between drawn events and "
        "the data's in each event column, with its floor in parentheses, which is what a perfect "
        "emulator would reach with as many events. Cells with few test events have none."
    )
    if any(cell.get("held_out") is True for cell in cells):
        told += " Cells marked * were kept out of training."
    return told


def _cells(card: Card, cells: Sequence[Card]) -> str:
    conditions = list(md.mapping(card.get("condition_columns")))[:MOST_COLUMNS]
    events = list(md.mapping(card.get("event_columns")))[:MOST_COLUMNS]
    chosen = _most_populated(cells)
    rows = []
    for cell in chosen:
        at, counts = md.mapping(cell.get("conditions")), md.mapping(cell.get("rows"))
        ks, floor = md.mapping(cell.get("ks")), md.mapping(cell.get("ks_floor"))
        mark = " *" if cell.get("held_out") is True else ""
        rows.append(
            [
                *(md.short(at.get(name)) or "-" for name in conditions),
                (md.count(counts.get("train")) or "-") + mark,
                md.count(counts.get("test")) or "-",
                md.score(cell.get("nll"), cell.get("nll_error")) or "-",
                *(md.with_floor(ks.get(name), floor.get(name)) for name in events),
            ]
        )
    head = [*map(md.shown, conditions), "rows", "test rows", "NLL [nats]"]
    head += [f"KS {md.shown(name)}" for name in events]
    total = md.count(md.mapping(md.mapping(card.get("provenance")).get("data")).get("cells"))
    table = md.table(head, rows, len(rows))
    if len(chosen) < len(cells):
        table += (
            f"\n\nThese are the {len(chosen)} cells with the most rows, of {total or len(cells)}; "
            "`emulator.json` has the others."
        )
    return table


def _most_populated(cells: Sequence[Card]) -> list[Card]:
    """As many as are shown, in their order."""

    def rows(number: int) -> float:
        return -(md.number(md.mapping(cells[number].get("rows")).get("train")) or 0)

    kept = sorted(range(len(cells)), key=rows)[:MOST_CELLS]
    return [cells[number] for number in sorted(kept)]


def _version(card: Card) -> str:
    origin = md.mapping(card.get("provenance"))
    for one in (origin, *map(md.mapping, md.items(origin.get("members"))[:1])):
        if version := md.text(md.mapping(one.get("versions")).get("hpo")):
            return md.shown(version)
    return ""


def _flows(card: Card) -> list[Card]:
    """The description of each flow."""
    return _members(card) or [md.mapping(card.get("architecture"))]


def _members(card: Card) -> list[Card]:
    """Those of an ensemble; none of a single flow."""
    if card.get("format") != FORMAT_OF_SEVERAL:
        return []
    return [md.mapping(one) for one in md.items(md.mapping(card.get("architecture")).get(MEMBERS))]


def _positive(card: Card) -> list[str]:
    columns = [md.mapping(one) for one in md.items(_flows(card)[0].get("event_columns"))]
    return [md.code(one.get("name")) for one in columns if one.get("positive") is True]


def _density(card: Card) -> str:
    parts = (
        [md.shown(n) for n in md.mapping(card.get(f"{p}_columns"))] for p in ("event", "condition")
    )
    events, conditions = (md.listed(part, MOST_COLUMNS) for part in parts)
    return f"{events} | {conditions}" if conditions else events


def _unit(unit: object) -> str:
    return md.shown(md.text(unit) or "pure number")


def _argument(name: str, value: str) -> str:
    if name.isidentifier() and not iskeyword(name):
        return f"{name}={value}"
    return f"**{{{json.dumps(name, ensure_ascii=False)}: {value}}}"
