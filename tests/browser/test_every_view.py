"""What holds of every view: nothing leaves this place."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from hpo.records.folder import read_all

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def views(study):
    """Paths of all views, optuna-dashboard's with graphs among them."""
    ended = [path.parent for path, one in read_all(study) if one.state == "complete"]
    keys = [folder.relative_to(study).as_posix() for folder in ended]
    compared = "/runs/compare?" + "&".join(f"run={key}" for key in keys)
    return ["/runs/", f"/runs/run/{keys[0]}", compared, "/dashboard/studies/1"]


def test_no_figure_offers_to_send_itself_elsewhere(page, site, views):
    page.goto(site)
    graphs = 0
    for path in views:
        page.goto(site.partition("/runs/")[0] + path)
        if path != "/runs/":
            expect(page.locator(".modebar-btn").first).to_be_attached(timeout=60_000)
        offers = page.evaluate(
            "[...document.querySelectorAll('.modebar-btn')].map(each => each.dataset.title)"
        )
        graphs += len(offers)
        assert not [each for each in offers if any(s in each.lower() for s in BEYOND)], path
    assert graphs > 20


BEYOND = ("share", "cloud", "studio", "upload", "edit in")
