"""The bundle's `README.md`: what `emulator.json` says, told to people.

Text from the card alone, which may be of any version, or forged: what is missing is said to be
missing, what is no number is passed over, and names are shown as they are, never as markup. Tables
have an end; what they leave out is in `emulator.json`. Knows no torch.

Sections as in Mitchell et al. (2019), https://arxiv.org/abs/1810.03993; the front matter is that of
https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

from data_prep.untrusted import is_finite
from models.bundle import FORMAT_OF_SEVERAL, EmulatorError
from models.layout import MEMBERS

MOST_CELLS, MOST_SOURCES, MOST_MEMBERS, MOST_COLUMNS, MOST_VALUES = 60, 20, 20, 12, 12
"""Lines, or names in a line, at most."""
LONGEST_TEXT = 1_000
"""Characters of a reference, or an author's name."""
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
_ADDRESS = re.compile(r"https?://[A-Za-z0-9][^\s<>\\\"'`|]*[A-Za-z0-9/]")

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
                if not text.strip() or len(text) > LONGEST_TEXT or not text.isprintable():
                    raise EmulatorError(
                        f"{what} must be one line of text, of at most {LONGEST_TEXT} characters, "
                        f"got {text[:100]!r}"
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


def decimals(value: float, digits: int) -> int:
    """Decimals with which a number shows so many leading digits."""
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


# ---- sections


def _front_matter(card: Card) -> str:
    given = _plain(_text(card.get("license")) or "")[:100]
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
    what = f"A mixture of {several} normalizing flows, equally weighted," if several else ""
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
        for name, unit in _dict(card.get(f"{role}_columns")).items():
            rows.append([_code(name), role, _unit(unit), _shown(MEANINGS.get(name, ""))])
    units = Counter(map(_text, _dict(card.get("event_columns")).values()))
    named = [f"{_shown(unit)}^-{times}" for unit, times in units.items() if unit]
    per = f": in {' '.join(named[:MOST_COLUMNS])}" if named else ""
    return "\n\n".join(
        [
            "## What it emulates",
            f"The probability density of one event, p({_density(card)}), normalised over the "
            f"events. Natural logarithms throughout; per unit of each event column{per}.",
            _table(["column", "role", "unit", "meaning by convention"], rows, 2 * MOST_CELLS),
        ]
    )


def _data(card: Card) -> str:
    origin = _dict(card.get("provenance"))
    data, rows = _dict(origin.get("data")), _dict(origin.get("data_rows"))
    told = []
    if fingerprint := _text(origin.get("data_fingerprint")):
        told.append(f"fingerprint (sha256 over columns, values and split): {_code(fingerprint)}")
    parts = [f"{_count(rows[name])} {name}" for name in ("train", "val", "test") if name in rows]
    if parts:
        told.append(f"rows: {', '.join(parts)}")
    if cells := _count(data.get("cells")):
        told.append(f"cells, distinct combinations of the conditions: {cells}")
    if where := _text(data.get("where")):
        told.append(f"rows kept: {_code(where)}")
    if command := _text(data.get("command")):
        told.append(f"prepared by {_code(command)}")
    lines = ["## Data", _bullets(told) or "Not recorded."]
    sources = [_dict(one) for one in _list(data.get("sources"))]
    if sources:
        table = [
            [_code(one.get("file")), _count(one.get("rows")), _code(one.get("sha256"))]
            for one in sources
        ]
        lines.append(_table(["source file", "rows", "sha256"], table, MOST_SOURCES))
    elif told and not data:
        lines.append(
            "The data were not there any more when this was exported, so that neither "
            "cells nor source files are listed."
        )
    return "\n\n".join(lines)


def _training(card: Card) -> str:
    origin, cost = _dict(card.get("provenance")), _dict(card.get("cost"))
    members, flows = _members(card), _flows(card)
    told = [f"flow: {each}" for each in dict.fromkeys(map(_flow, flows)) if each][:MOST_MEMBERS]
    if parameters := _count(cost.get("parameters")):
        operations = _count(cost.get("flops_per_event"))
        also = f"; {operations} floating-point operations for one density" if operations else ""
        told.append(f"{parameters} parameters{also}")
    if study := _text(origin.get("study")):
        trials = [_count(one) for one in _list(origin.get("trials"))]
        trial = _count(origin.get("trial"))
        which = f", trial {trial}" if trial else ""
        which = f", trials {_listed(trials, MOST_MEMBERS)}" if any(trials) else which
        told.append(f"chosen by hyperparameter search: study {_shown(study)}{which}")
    first = _dict(next(iter(_list(origin.get("members"))), None)) if members else origin
    told += _settings(_dict(first.get("training")), "" if not members else "of the best: ")
    told += _environment(first)
    lines = ["## Training", _bullets(told) or "Not recorded."]
    if members:
        lines.append(_of_members(card, members))
    return "\n\n".join(lines)


def _quality(card: Card) -> str:
    metrics = _dict(card.get("metrics"))
    cells = [_dict(cell) for cell in _list(metrics.get("cells"))]
    nlls = [
        ("validation", "val_nll", ""),
        ("test", "test_nll", "test_nll_error"),
        ("test, in cells that it was not trained on", "held_out_nll", "held_out_nll_error"),
    ]
    rows = [
        [f"NLL, {name}", score, "nats per event"]
        for name, key, error in nlls
        if (score := _score(metrics.get(key), metrics.get(error)))
    ]
    if ratios := _ratios(cells):
        middle = sorted(ratios)[len(ratios) // 2]
        rows.append(["KS / floor, median of cells and columns", f"{middle:.2f}", ""])
        rows.append(["KS / floor, worst", f"{max(ratios):.2f}", ""])
    if (unphysical := _number(metrics.get("unphysical_fraction"))) is not None:
        rows.append(["unphysical draws", f"{unphysical:.3g}", "fraction"])
    lines = ["## Quality"]
    if not rows:
        return "\n\n".join([*lines, "Not measured. `hpo evaluate` does, on a prepared dataset."])
    lines += [
        "NLL is the mean of -ln p over events that it was not trained on, in the data's own units. "
        "Lower is better, and only NLLs on the same data compare.",
        _table(["measure", "value", "unit"], rows, len(rows)),
    ]
    if cells:
        lines += [_about_cells(metrics, cells), _cells(card, cells)]
    else:
        lines.append(
            "Single cells were not measured: the data were not there any more. "
            "`hpo evaluate` does, on the prepared dataset."
        )
    return "\n\n".join(lines)


def _validity(card: Card) -> str:
    domain, units = _dict(card.get("domain")), _dict(card.get("condition_columns"))
    data = _dict(_dict(card.get("provenance")).get("data"))
    grid, ranges = _dict(data.get("grid")), _dict(data.get("ranges"))
    rows = []
    for name, unit in units.items():
        low, high = _limits(domain.get(name))
        values = [_short(value) for value in _list(grid.get(name))]
        rows.append([_code(name), _unit(unit), low, high, _listed(values, MOST_VALUES) or "-"])
    lines = [
        "## Where it holds",
        _table(["condition", "unit", "from", "to", "values simulated"], rows, MOST_CELLS),
        'Outside of a range it warns, or refuses with `on_extrapolation="raise"`; what it says '
        "there is a guess. Inside, between the values that were simulated, it interpolates: only "
        "cells kept out of training (`hold_out_cells`) can tell how well.",
    ]
    if positive := _positive(card):
        lines.append(
            f"The density is exactly 0 where {_listed(positive, MOST_COLUMNS, 'or')} is not above "
            "0, and nowhere else: it does not end at the edges of the data."
        )
    seen = [
        [_code(name), _unit(unit), *_limits(ranges.get(name))]
        for name, unit in _dict(card.get("event_columns")).items()
        if name in ranges
    ]
    if seen:
        lines.append(_table(["event column", "unit", "lowest in the data", "highest"], seen, 60))
    lines.append(
        "It knows nothing but the simulation that it was fitted to: neither observations "
        "nor how likely a value of a condition is."
    )
    return "\n\n".join(lines)


def _loading(card: Card) -> str:
    domain = _dict(card.get("domain"))
    at = {_plain(name): _limits(limits)[0] for name, limits in domain.items()}
    call = "".join(f", {_argument(name, value)}" for name, value in at.items())
    words = " ".join(f"{shlex.quote('--' + name)} {value}" for name, value in at.items())
    rate = ""
    if (told := _dict(card.get("efficiency"))) and call:
        per = "per simulated binary" if told.get("unit") == "binaries" else "per Msun simulated"
        rate = f"rate = emulator.efficiency({call[2:]})  # mergers {per}\n"
    noise = len(_dict(card.get("event_columns"))) + bool(_members(card))
    order = ", ".join(_code(name) for name in list(at)[:MOST_COLUMNS])
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
from models.arrays import ArrayFlow

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
    given = [_linked(one) for one in map(_text, _list(card.get("citation"))) if one]
    authors = [_shown(one) for one in map(_text, _list(card.get("authors"))) if one]
    version = _version(card)
    told = [f"this emulator, by {_listed(authors, MOST_MEMBERS)}"] if authors else []
    told += [f"as its makers ask: {one}" for one in given[:MOST_MEMBERS]]
    if not given:
        told.append(
            "the simulation behind the data: whoever exported this did not name it; ask "
            "them (`hpo export --cite` names it)"
        )
    told.append(
        f"the software: {', '.join(AUTHORS)}, *{SOFTWARE}*{version and f', version {version}'}"
    )
    told.append(f"the method, masked autoregressive flows: {_linked(FLOW)}")
    if any(_dict(flow.get("config")).get("kind") == "spline" for flow in _flows(card)):
        told.append(f"their splines: {_linked(SPLINES)}")
    if _members(card):
        told.append(f"mixing several: {_linked(ENSEMBLE)}")
    return f"## How to cite it\n\n{_bullets(told)}"


def _licence(card: Card) -> str:
    given = _text(card.get("license"))
    ours = f"The software that reads it, hpo-flows, is under the {SOFTWARE_LICENSE} licence."
    if given:
        return f"## Licence\n\nThis emulator: {_shown(given)}. {ours}"
    return (
        "## Licence\n\nNo licence was given for this emulator: ask whoever made it before you pass "
        f"it on (`hpo export --license` says one). {ours}"
    )


# ---- parts of sections


def _flow(flow: Card) -> str:
    """A flow's shape in words."""
    config = _dict(flow.get("config"))
    layers, depth, hidden = (_count(config.get(name)) for name in ("blocks", "depth", "hidden"))
    if not (layers and hidden):
        return ""
    kind = "affine steps"
    if config.get("kind") == "spline":
        kind = f"rational-quadratic splines of {_count(config.get('bins'))} pieces"
    names = {"separate": "a network for each column", "masked": "a masked network for each layer"}
    network = names.get(str(config.get("conditioner")), names["masked"])
    # Configs of before the option had it so.
    coordinates = COORDINATES.get(str(config.get("coordinates", "log")), "")
    plural = "" if layers == "1" else "s"
    return (
        f"{layers} autoregressive layer{plural} of {kind}; {network}, {depth or 1} x {hidden} "
        f"{_shown(_text(config.get('activation')) or '')} units; in {coordinates}"
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
        name.format(_short(value)) for name, value in options.items() if _number(value) is not None
    ]
    told = [f"{whose}{', '.join(said)}"] if said else []
    if epochs := _count(training.get("epochs_run")):
        best = _count(training.get("best_epoch"))
        kept = f", the weights of epoch {best} kept" if best else ""
        seconds, device = _number(training.get("seconds")), _text(training.get("device"))
        took = f" in {seconds:,.0f} s" if seconds is not None else ""
        where = f" on {_shown(device)}" if device else ""
        told.append(f"{whose}{epochs} epochs{took}{where}{kept}")
    return told


def _environment(origin: Card) -> list[str]:
    told = []
    if trained := _text(origin.get("trained")):
        told.append(f"trained {_shown(trained)}")
    versions = _dict(origin.get("versions"))
    named = [f"{_shown(str(name))} {_shown(str(value))}" for name, value in versions.items()]
    if named:
        told.append(f"with {_listed(named, MOST_COLUMNS)}")
    if commit := _text(origin.get("git_commit")):
        told.append(f"commit of hpo-flows: {_code(commit)}")
    return told


def _of_members(card: Card, members: Sequence[Card]) -> str:
    origins = [_dict(one) for one in _list(_dict(card.get("provenance")).get("members"))]
    metrics = [_dict(one) for one in _list(_dict(card.get("metrics")).get("members"))]
    rows = []
    for number, flow in enumerate(members):
        origin = origins[number] if number < len(origins) else {}
        scored = metrics[number] if number < len(metrics) else {}
        config = _dict(flow.get("config"))
        rows.append(
            [
                _count(origin.get("trial")) or "-",
                *(_count(config.get(name)) or "-" for name in ("blocks", "hidden", "bins")),
                _count(_dict(origin.get("training")).get("epochs_run")) or "-",
                _score(scored.get("val_nll"), None) or "-",
                _score(scored.get("test_nll"), scored.get("test_nll_error")) or "-",
            ]
        )
    head = ["trial", "blocks", "hidden", "bins", "epochs", "validation NLL", "test NLL"]
    return _table(head, rows, MOST_MEMBERS)


def _ratios(cells: Iterable[Card]) -> list[float]:
    """Each distance divided by its floor."""
    pairs = [
        (_number(value), _number(_dict(cell.get("ks_floor")).get(name)))
        for cell in cells
        for name, value in _dict(cell.get("ks")).items()
    ]
    return [value / floor for value, floor in pairs if value is not None and floor]


def _about_cells(metrics: Card, cells: Sequence[Card]) -> str:
    rows = _count(metrics.get("cells_rows"))
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
    conditions = list(_dict(card.get("condition_columns")))[:MOST_COLUMNS]
    events = list(_dict(card.get("event_columns")))[:MOST_COLUMNS]
    chosen = _most_populated(cells)
    rows = []
    for cell in chosen:
        at, counts = _dict(cell.get("conditions")), _dict(cell.get("rows"))
        ks, floor = _dict(cell.get("ks")), _dict(cell.get("ks_floor"))
        mark = " *" if cell.get("held_out") is True else ""
        rows.append(
            [
                *(_short(at.get(name)) or "-" for name in conditions),
                (_count(counts.get("train")) or "-") + mark,
                _count(counts.get("test")) or "-",
                _score(cell.get("nll"), cell.get("nll_error")) or "-",
                *(_with_floor(ks.get(name), floor.get(name)) for name in events),
            ]
        )
    head = [*map(_shown, conditions), "rows", "test rows", "NLL [nats]"]
    head += [f"KS {_shown(name)}" for name in events]
    total = _count(_dict(_dict(card.get("provenance")).get("data")).get("cells"))
    table = _table(head, rows, len(rows))
    if len(chosen) < len(cells):
        table += (
            f"\n\nThese are the {len(chosen)} cells with the most rows, of {total or len(cells)}; "
            "`emulator.json` has the others."
        )
    return table


def _most_populated(cells: Sequence[Card]) -> list[Card]:
    """As many as are shown, in their order."""

    def rows(number: int) -> float:
        return -(_number(_dict(cells[number].get("rows")).get("train")) or 0)

    kept = sorted(range(len(cells)), key=rows)[:MOST_CELLS]
    return [cells[number] for number in sorted(kept)]


def _version(card: Card) -> str:
    origin = _dict(card.get("provenance"))
    for one in (origin, *map(_dict, _list(origin.get("members"))[:1])):
        if version := _text(_dict(one.get("versions")).get("hpo")):
            return _shown(version)
    return ""


def _flows(card: Card) -> list[Card]:
    """The description of each flow."""
    return _members(card) or [_dict(card.get("architecture"))]


def _members(card: Card) -> list[Card]:
    """Those of an ensemble; none of a single flow."""
    if card.get("format") != FORMAT_OF_SEVERAL:
        return []
    return [_dict(one) for one in _list(_dict(card.get("architecture")).get(MEMBERS))]


def _positive(card: Card) -> list[str]:
    columns = [_dict(one) for one in _list(_flows(card)[0].get("event_columns"))]
    return [_code(one.get("name")) for one in columns if one.get("positive") is True]


# ---- values that may be anything


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _number(value: object) -> float | None:
    return float(value) if is_finite(value) else None  # type: ignore[arg-type]


def _count(value: object) -> str:
    number = _number(value)
    return "" if number is None or abs(number) > 1e18 else f"{number:,.0f}"


def _short(value: object) -> str:
    number = _number(value)
    if isinstance(value, int) and number is not None and abs(number) < 1e18:
        return str(value)
    return "" if number is None else f"{number:.7g}"


def _limits(value: object) -> tuple[str, str]:
    ends = [_short(one) or "?" for one in _list(value)]
    return (ends[0], ends[1]) if len(ends) == 2 else ("?", "?")


def _score(value: object, error: object) -> str:
    """`4.212 ± 0.014`: as many decimals as the error's two leading digits have."""
    number, spread = _number(value), _number(error)
    if number is None:
        return ""
    if not spread or not 1e-12 < spread < 1e12:
        return f"{number:.4f}" if abs(number) < 1e12 else f"{number:.4g}"
    places = decimals(spread, 2)
    return f"{number:.{places}f} ± {spread:.{places}f}"


def _with_floor(value: object, floor: object) -> str:
    first, second = _number(value), _number(floor)
    if first is None:
        return "-"
    return f"{first:.3f}" + ("" if second is None else f" ({second:.3f})")


# ---- Markdown


def _density(card: Card) -> str:
    parts = ([_shown(n) for n in _dict(card.get(f"{p}_columns"))] for p in ("event", "condition"))
    events, conditions = (_listed(part, MOST_COLUMNS) for part in parts)
    return f"{events} | {conditions}" if conditions else events


def _unit(unit: object) -> str:
    return _shown(_text(unit) or "pure number")


def _argument(name: str, value: str) -> str:
    if name.isidentifier() and not iskeyword(name):
        return f"{name}={value}"
    return f"**{{{json.dumps(name, ensure_ascii=False)}: {value}}}"


def _listed(texts: Sequence[str], most: int, last: str = "") -> str:
    """`a, b, c`, and how many more."""
    shown = list(texts[:most])
    if len(texts) > most:
        return f"{', '.join(shown)} and {len(texts) - most:,} more"
    if last and len(shown) > 1:
        return f"{', '.join(shown[:-1])} {last} {shown[-1]}"
    return ", ".join(shown)


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {each}" for each in texts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> str:
    lines = [head, ["---"] * len(head), *rows[:most]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if len(rows) > most:
        table += f"\n\nand {len(rows) - most:,} more: see `emulator.json`."
    return table


_MARKUP = str.maketrans(
    {
        **{mark: f"\\{mark}" for mark in "\\`*[]"},
        **{mark: f"&#{ord(mark)};" for mark in "<>|$~@#"},
    }
)


def _plain(text: str) -> str:
    """On one line, however it was given."""
    return "".join(each if each.isprintable() else " " for each in text[:LONGEST_TEXT])


def _shown(text: str) -> str:
    """A name as text: nothing in it is markup, a tag, a formula or a line of its own."""
    # Before the marks become entities themselves; no name has a NUL any more.
    plain = re.sub(r"&(?=#?[A-Za-z0-9]+;)", "&\0", _plain(text))
    plain = plain.translate(_MARKUP).replace("\0", "amp;")
    # Underscores inside of words, as in Mass_0, are no markup.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", plain)


def _linked(text: str) -> str:
    """The same, with its addresses as links."""
    parts, end = [], 0
    for found in _ADDRESS.finditer(text):
        parts += [_shown(text[end : found.start()]), f"<{found[0]}>"]
        end = found.end()
    return "".join([*parts, _shown(text[end:])])


def _code(text: object) -> str:
    """The text as code, where that can hold it in a table; else as a name."""
    if not isinstance(text, str) or not text:
        return "-"
    if len(text) > LONGEST_TEXT or not text.isprintable() or set("`|<>&$") & set(text):
        return _shown(text)
    return f"`{text}`" if text.strip() else "-"
