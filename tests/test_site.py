"""What the site makes of the pages: blocks that fit, what is copied, links to the glossary."""

import importlib.util
import re
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
PAGES = [
    *(ROOT / "README.md", *(ROOT / "docs" / name for name in ("tutorial.md", "slurm.md"))),
    *(ROOT / "docs" / "inference.md", *sorted(ROOT.glob("docs/guides/*.md"))),
]
"""That a reader follows at a terminal."""
WIDEST = 96
"""Columns of a transcript, which the page shows in a size that can be read."""
BLOCK = re.compile(r"^```(?:console|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def hook(name):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


blocks, terms = hook("blocks"), hook("terms")


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_a_transcript_is_no_wider_than_the_page(page):
    for text in BLOCK.findall(page.read_text()):
        for line in text.splitlines() if text.count("\n") > 1 else []:
            assert len(line) <= WIDEST, line


HTML = """<div class="language-console highlight"><pre><span></span><code>\
<span class="gp">$ </span>hpo<span class="w"> </span>launch<span class="w"> </span>a<span>\\</span>
<span class="w">    </span>--set<span class="s">&#39;a &gt; 1&#39;</span>
<span class="go">trial 0, complete</span>
<span class="gp">$ </span>hpo<span class="w"> </span>status
</code></pre></div>"""


def test_the_button_copies_the_commands_alone():
    (copied,) = re.findall('data-copy="([^"]*)"', blocks.fitted(HTML))

    assert unescape(copied) == "hpo launch a\\\n    --set'a > 1'\nhpo status"
    assert re.findall(r"--columns: (\d+)", blocks.fitted(HTML)) == ["17"]
    assert "printed" not in blocks.fitted(HTML)


def test_of_output_alone_nothing_is_copied():
    printed = '<div class="language-console highlight"><pre><code>a\nb\n</code></pre></div>'

    assert 'class="language-console printed highlight" data-copy=""' in blocks.fitted(printed)


def test_the_first_of_a_word_on_a_page_leads_to_the_glossary():
    page = "# A trial\n\nSome `trial`, [a trial](x.md), **trials** and trials: NLL.\n"

    text = terms.linked(page, GLOSSARY, "glossary.md")

    assert "# A trial\n\nSome `trial`, [a trial](x.md), **[trials](glossary.md#trial" in text
    assert "and trials: [NLL](glossary.md#nll" in text
    assert text.count("glossary.md") == 2


def test_words_of_a_table_lead_to_the_glossary_and_those_of_code_do_not():
    page = "| fence | of a worker |\n|---|---|\n\n```console\n$ hpo a lease\n```\n"

    text = terms.linked(page, GLOSSARY, "glossary.md")

    assert text.startswith('| [fence](glossary.md#fence "')
    assert "$ hpo a lease\n" in text


def test_every_word_of_the_glossary_has_a_place_of_its_own():
    places = re.findall(r"\{ #(\S+) \}", terms.anchored(GLOSSARY))
    words = [word for _, words, _ in terms.rows(GLOSSARY) for word in words]

    assert len(places) == len(GLOSSARY.split("\n| ")) - 1 - GLOSSARY.count("| word |")
    assert len(places) == len(set(places))
    assert set(words) >= terms.AMBIGUOUS
