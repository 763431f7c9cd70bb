"""The model card for people: what it says, and that nothing in it is anything but text."""

import html
import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from data_prep.columns import Column
from hpo.cli import main
from models import Emulator
from models.bundle.emulator import EmulatorError
from models.bundle.ensemble import Ensemble
from models.bundle.readme import card as model_card
from models.bundle.readme import markdown
from models.bundle.readme.card import MOST_CELLS, Terms
from tests.random_flows import GRID, a_flow, flow

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
render = MarkdownIt("commonmark", {"html": True}).enable("table").render


def cell(number, *, held_out=False):
    return {
        "conditions": {"Z": 0.001 * (number + 1), "alpha": 1.0},
        "rows": {"train": 600 + number, "val": 200, "test": 200},
        "held_out": held_out,
        "nll": 4.25 + number,
        "nll_error": 0.0314,
        "ks": {"Mass_0": 0.031, "Mass_1": 0.02},
        "ks_floor": {"Mass_0": 0.02, "Mass_1": 0.02},
    }


def told(cells=3, **more):
    """What an export tells of a flow."""
    return {
        "metrics": {
            "val_nll": 4.2425,
            "test_nll": 4.2301,
            "test_nll_error": 0.0141,
            "cells": [cell(number, held_out=number == 1) for number in range(cells)],
            "cells_rows": 15738,
            "outside_range": {"Mass_0": 2e-4, "Mass_1": 1e-4},
            "outside_range_floor": {"Mass_0": 1.3e-4, "Mass_1": 1.3e-4},
            "not_finite": 0.0,
        },
        "provenance": {
            "study": "bbh",
            "trial": 3,
            "data_fingerprint": "f" * 64,
            "data_rows": {"train": 600, "val": 200, "test": 200},
            "data": {
                "cells": cells,
                "grid": {"Z": [0.001, 0.002], "alpha": [1.0]},
                "ranges": {"Mass_0": [5.7, 47.9], "Mass_1": [5.7, 43.8]},
                "where": "Mass_0 > 3",
                "command": "hpo prepare a.csv --out prepared",
                "sources": [{"file": "a.csv", "rows": 1000, "sha256": "a" * 64}],
                "source_files": 1,
            },
            "training": {"epochs": 50, "batch_size": 256, "epochs_run": 47, "device": "cpu"},
            "versions": {"hpo": "0.1.0", "torch": "2.13.0"},
            "git_commit": "c0ffee",
            "trained": "2026-11-28T10:00:00+00:00",
        },
        **more,
    }


def card_of(flow=None, **more):
    return Emulator(flow or a_flow(), told(**more)).card


def text_of(markdown):
    """What a reader sees of a rendered line, without tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", render(markdown)))


def section(card, title):
    return model_card.text(card).partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_section_is_there_in_order():
    titles = re.findall(r"^## (.*)$", model_card.text(card_of()), re.MULTILINE)

    assert titles == [
        "What it emulates",
        "Data",
        "Training",
        "Quality",
        "Where it holds",
        "How to load it",
        "How to cite it",
        "Licence",
    ]


def test_it_says_what_the_card_says():
    card = card_of()

    assert "# Emulator of p(Mass_0, Mass_1 | Z, alpha)\n" in model_card.text(card)
    assert "in Msun^-2" in section(card, "What it emulates")
    data = section(card, "Data")
    for fact in ("f" * 64, "600 train", "Mass_0 > 3", "`a.csv` | 1,000 | `" + "a" * 64):
        assert fact in data.replace("&#62;", ">")
    training = section(card, "Training")
    for fact in ("study bbh, trial 3", "at most 50 epochs", "47 epochs on cpu", "`c0ffee`"):
        assert fact in training
    quality = section(card, "Quality")
    assert "| NLL, test | 4.230 ± 0.014 |" in quality
    assert "| 0.001 | 1 | 600 | 200 | 4.250 ± 0.031 | 0.031 (0.020) | 0.020 (0.020) |" in quality
    assert "| 0.002 | 1 | 601 * | 200 |" in quality
    assert "| KS / floor, worst | 1.55 |" in quality
    validity = section(card, "Where it holds")
    assert "| `Z` | pure number | 0.0001 | 0.01 | 0.001, 0.002 |" in validity
    assert "`Mass_0` or `Mass_1` is not above 0" in validity


def test_what_is_missing_is_said_to_be_missing():
    card = Emulator(a_flow()).card

    assert "Not recorded." in section(card, "Data")
    assert "Not measured." in section(card, "Quality")
    gone = told()
    del gone["provenance"]["data"], gone["metrics"]["cells"]
    card = Emulator(a_flow(), gone).card
    assert "not there any more" in section(card, "Data")
    assert "not measured when this was exported" in section(card, "Quality")


def test_an_ensemble_lists_its_members():
    origin = told()["provenance"] | {"members": [{"trial": 4}, {"trial": 9}]}
    metrics = told()["metrics"] | {"members": [{"test_nll": 4.5, "test_nll_error": 0.01}] * 2}
    flow = Ensemble([a_flow(), a_flow(seed=1)])

    card = Emulator(flow, {"metrics": metrics, "provenance": origin}).card

    assert "ensemble of 2" in model_card.text(card)
    assert "| 9 | 2 | 24 | 16 | - | - | 4.500 ± 0.010 |" in section(card, "Training")
    assert "`noise`, 3 standard normal" in section(card, "How to load it")


def test_a_category_is_told_by_its_texts():
    texts = ("CE", "a `b`|<c>", "SMT")
    category = Column("channel", "", categories=tuple(sorted(texts)))
    facts = told(cells=2)
    for each in facts["metrics"]["cells"]:
        each["conditions"] = {"Z": 0.001, "channel": "SMT"}
    facts["metrics"]["cells"][1]["box"] = {"Z": [0.001, 0.002]}

    card = Emulator(flow(conditions=(GRID[0], category)), facts).card

    assert "| `channel` | condition | text |" in section(card, "What it emulates")
    quality, validity = section(card, "Quality"), section(card, "Where it holds")
    assert "| 0.001 | SMT | 600 |" in quality
    assert "| 0.001 to 0.002 | SMT | 601 *" in quality
    assert "| `channel` | text | - | - | CE, SMT, a &#96;b" in validity.replace("\\`", "&#96;")
    load = section(card, "How to load it")
    assert 'emulator.sample(100_000, Z=0.5, channel="CE", seed=7)' in load
    assert "--Z 0.5 --channel CE --out" in load
    assert "`channel` is given as a number: 0 for CE, 1 for SMT, 2 for a" in load
    assert "<c>" not in render(model_card.text(card))


def test_regions_are_told_by_their_boxes():
    scattered = told(cells=2)
    scattered["provenance"]["data"]["scattered"] = True
    for number, each in enumerate(scattered["metrics"]["cells"]):
        each["box"] = {"Z": [0.001 * (number + 1), 0.0015 * (number + 1)], "alpha": [1.0, 1.0]}

    card = Emulator(a_flow(), scattered).card

    assert "| 0.002 to 0.003 | 1 | 601 *" in section(card, "Quality")
    assert "Of each region of the conditions" in section(card, "Quality")
    assert "regions of the conditions, which are scattered: 2" in model_card.text(card)
    assert "where no simulated event is near" in section(card, "Where it holds")


def test_of_thousands_of_cells_the_largest_are_shown_and_the_rest_counted():
    quality = section(card_of(cells=3000), "Quality")

    assert len(quality) < 10_000
    assert f"the {MOST_CELLS} cells with the most rows, of 3,000" in quality
    assert "| 3 | 1 | 3,599 |" in quality
    assert "| 0.001 | 1 |" not in quality


def test_many_columns_sources_and_values_have_an_end():
    card = card_of()
    card["event_columns"] = {f"m{number}": "Msun" for number in range(5000)}
    data = card["provenance"]["data"]
    data["sources"] *= 1000
    data["grid"]["Z"] = list(range(1000))

    assert len(model_card.text(card)) < 30_000


def test_the_front_matter_is_what_model_hubs_read():
    for license, name, full in (
        ("CC-BY-4.0", "cc-by-4.0", None),
        ("MIT OR Apache-2.0", "other", "MIT OR Apache-2.0"),
        ("LicenseRef-ours", "other", "LicenseRef-ours"),
        (None, "unknown", None),
    ):
        card = card_of(**Terms(license=license).to_card())
        matter = yaml.safe_load(model_card.text(card).split("---\n")[1])

        assert matter["license"] == name
        assert matter.get("license_name") == full
        assert matter["library_name"] == "hpo-flows"
        assert "normalizing-flow" in matter["tags"]


def test_licence_authors_and_references_are_those_that_were_given():
    terms = Terms(
        license="CC-BY-4.0",
        authors=("A. Maker", "B. Baker"),
        citation=("Maker et al. (2026), https://doi.org/10.1/a_b_c",),
    )
    card = card_of(**terms.to_card())

    assert "This emulator: CC-BY-4.0." in section(card, "Licence")
    cite = section(card, "How to cite it")
    assert "by A. Maker, B. Baker" in cite
    assert 'href="https://doi.org/10.1/a_b_c"' in render(cite)
    assert "did not name it" not in cite
    without = card_of()
    assert "No licence was given" in section(without, "Licence")
    assert "did not name it" in section(without, "How to cite it")


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        pytest.param({"license": "ask me!"}, "must be an SPDX identifier", id="licence"),
        pytest.param({"license": ""}, "must be an SPDX identifier", id="empty-licence"),
        pytest.param({"authors": ("A\nB",)}, "an author must be one line", id="author"),
        pytest.param({"citation": (" ",)}, "a reference must be one line", id="reference"),
        pytest.param({"citation": ("x" * 2000,)}, "at most 1000 characters", id="long"),
    ],
)
def test_terms_that_cannot_be_shown_are_refused(terms, message):
    with pytest.raises(EmulatorError, match=message):
        Terms(**terms)


def test_the_software_is_cited_as_its_own_file_asks():
    wanted = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    cite = section(card_of(), "How to cite it")

    assert wanted["title"] in cite
    assert all(author["name"] in cite for author in wanted["authors"])
    assert f"version {wanted['version']}" in cite
    assert f"under the {wanted['license']} licence" in section(card_of(), "Licence")
    assert "1906.04032" in cite
    assert "1906.04032" not in section(
        card_of(a_flow(options={"kind": "affine"})), "How to cite it"
    )


def test_what_it_shows_runs_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(Emulator(a_flow(), told()).save(tmp_path / "emulator"))
    blocks = BLOCK.findall(Path("README.md").read_text())
    session = {}

    for language, text in blocks:
        if language == "python":
            exec(text.replace("100_000", "100"), session)
        else:
            done = CliRunner().invoke(main, text.split()[2:])
            assert done.exit_code == 0, done.output

    assert session["events"].shape == (100, 2)
    assert session["logp"].shape == (100,)
    assert Path("events.parquet").exists()
    assert len(blocks) == 3


def test_conditions_of_any_name_can_be_passed_as_it_shows():
    columns = (Column("a b", "", True), Column("class", "", True))
    card = card_of()
    card["condition_columns"] = {column.name: "" for column in columns}
    card["domain"] = {"a b": [1.0, 2.0], "class": [0.5, 1.0]}

    for language, text in BLOCK.findall(section(card, "How to load it")):
        if language == "python":
            compile(text, "card", "exec")
        else:
            assert "'--a b' 1" in text


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
    | st.text("_*`[]()<>&|$~@#!\\\"'-+=:;x", min_size=1, max_size=20)
)
def test_a_name_is_shown_as_it_is(name):
    assert text_of(f"x {markdown.shown(name)} x") == f"x {name} x\n"
    assert text_of(f"x {markdown.code(name)} x") == f"x {name} x\n"
    table = render(f"| a | b |\n| --- | --- |\n| {markdown.shown(name)} | 2 |\n")
    assert table.count("<td>") == 2
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)\b)", table)


HOSTILE = '<img src=x onerror="alert(1)"> | **b** [a](javascript:b) `c`\n# head\n```\n'


def test_no_field_of_a_card_becomes_markup():
    text = json.dumps(card_of(license="MIT", authors=["A"], citation=["B"]))
    for name in ("bbh", "a.csv", "cpu", "c0ffee", "Msun", "Z", "hpo", "Mass_0 > 3", "A", "B"):
        text = text.replace(json.dumps(name), json.dumps(HOSTILE))

    shown = render(model_card.text(json.loads(text)).split("---\n", 2)[2])

    assert "<img" not in shown
    assert 'href="javascript' not in shown
    assert "<strong>" not in shown
    assert [title for title in re.findall("<h.>(.*?)</h.>", shown) if title == "head"] == []
    assert shown.count("<pre>") == 3


def test_it_says_that_rows_are_weighted_and_how_many_equal_ones_they_are_worth():
    card = told()
    card["provenance"] |= {
        "data_weights": "mixture_weight",
        "data_effective_rows": {"train": 213.4, "val": 71.0, "test": 70.2},
    }
    for each in card["metrics"]["cells"]:
        each["effective_rows"] = {"train": 88.2, "val": 30.0, "test": 29.6}
    card = Emulator(a_flow(), card).card

    data = section(card, "Data")
    assert "- rows are weighted by `mixture_weight`, in training and in every measure below" in data
    assert "equal rows that would tell as much: 213 train, 71 val, 70 test" in data
    quality = section(card, "Quality")
    assert "| 0.001 | 1 | 600 (88) | 200 (30) | 4.250 ± 0.031 |" in quality
    assert "In parentheses after the rows" in quality
    assert "weighted by" not in section(card_of(), "Data")
    assert "after the rows" not in section(card_of(), "Quality")


def test_it_says_where_there_is_no_density():
    columns = (Column("m", "Msun", True), Column("q", "", low=0, high=1), Column("n", "", low=1))

    holds = section(card_of(flow(columns, GRID)), "Where it holds")

    told = "0 where `m` is not above 0, `q` is below 0 or above 1 or `n` is below 1, and nowhere"
    assert told in " ".join(holds.split())


def test_draws_outside_the_data_stand_beside_what_fresh_rows_would_do():
    quality = section(card_of(), "Quality")

    assert "| draws outside the data's `Mass_0` (of fresh rows 0.00013) | 0.0002 |" in quality
    assert "| draws that are not finite | 0 |" in quality


def test_a_card_of_an_older_version_keeps_its_own_measure():
    card = card_of()
    metrics = {k: v for k, v in card["metrics"].items() if "outside" not in k and k != "not_finite"}

    quality = section({**card, "metrics": {**metrics, "unphysical_fraction": 0.25}}, "Quality")

    assert "not finite, or not positive where they must be | 0.25 |" in quality
