"""The model card of whatever a stranger's `emulator.json` holds."""

import re

from hypothesis import given
from markdown_it import MarkdownIt

from models import Emulator
from models.bundle.readme import card as model_card
from models.evaluation.cells import held_out_of
from tests.fuzz.strategies import answer, broken, fuzz
from tests.fuzz.test_bundle import CONFIG
from tests.models.bundle.test_card import told
from tests.random_flows import a_flow

FULL_CARD = Emulator(a_flow(options=CONFIG), told(cells=2)).card | {
    "license": "MIT",
    "authors": ["A. Maker"],
    "citation": ["Maker 2026, https://doi.org/10.1/a_b"],
    "efficiency": {"unit": "binaries", "cells": []},
}
TAGS = re.compile(r"<(?!/?(?:h[123]|p|ul|li|table|thead|tbody|tr|th|td|code|pre|em|a|hr)\b)")


@fuzz(150)
@given(card=broken(FULL_CARD, most=6))
def test_a_broken_card_is_told_to_people_all_the_same(card):
    """A stranger's bundle that is loaded and saved again gets a model card of its card."""
    if not isinstance(card, dict):
        return
    text = model_card.text(card)

    assert len(text.encode("utf-8")) < 200_000
    body = text.split("---\n", 2)[2]
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert not TAGS.findall(shown)
    assert 'href="javascript' not in shown
    assert len(re.findall("<h2>", shown)) == 8
    answer(held_out_of, card if isinstance(card.get("metrics"), dict) else {})
