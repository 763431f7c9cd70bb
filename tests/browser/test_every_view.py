"""What holds of every view: nothing leaves this place, and everybody can read it."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from hpo.records.folder import read_all

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BEYOND = ("share", "cloud", "studio", "upload", "edit in")
"""Words of plotly's offers to take a figure elsewhere."""

CHANGES = ("create", "rename study", "delete study")


@pytest.fixture
def views(study):
    """Paths of our views, by what is drawn in them last."""
    ended = [path.parent for path, one in read_all(study) if one.state == "complete"]
    keys = [folder.relative_to(study).as_posix() for folder in ended]
    compared = "/runs/compare?" + "&".join(f"run={key}" for key in keys)
    return {
        "/runs/": "#best-so-far .main-svg",
        f"/runs/run/{keys[0]}": "#cells .main-svg",
        compared: "#multiples .main-svg",
        "/runs/emulators": "table.emulators",
    }


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1920), ("light", 390)])
def test_every_view_is_readable_by_everybody_and_keeps_to_itself(
    chromium, site, views, scheme, width
):
    # Past the policy of the pages, which would keep axe-core out, too.
    size = {"width": width, "height": 900}
    context = chromium.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    base, _, token = site.partition("/runs/?")
    titles = set()
    for path, last in views.items():
        page.goto(f"{base}{path}{'&' if '?' in path else '?'}{token}")
        expect(page.locator(last).first).to_be_attached(timeout=60_000)
        page.wait_for_load_state("networkidle")

        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        titles.add(page.title())
        assert page.locator("h1").count() == 1
        offers = page.evaluate(
            "[...document.querySelectorAll('.modebar-btn')].map(each => each.dataset.title)"
        )
        assert not [each for each in offers if any(word in each.lower() for word in BEYOND)], path
        found = Axe().run(page).response["violations"]
        grave = [each for each in found if each["impact"] in ("serious", "critical")]
        assert [(each["id"], each["nodes"][0]["html"]) for each in grave] == [], path
    assert len(titles) == len(views)
    context.close()


def test_optunas_pages_show_the_note_of_the_launch_and_offer_neither_a_change_nor_the_cloud(
    page, site
):
    page.goto(site)
    page.goto(f"{site.partition('/runs/')[0]}/dashboard")
    page.get_by_text("tiny").first.wait_for(timeout=60_000)
    buttons = page.locator("button:visible").all()
    names = [each.get_attribute("aria-label") or each.inner_text() for each in buttons]
    assert "RELOAD" in names
    assert not [each for each in names if each.lower().startswith(CHANGES)]

    page.goto(f"{site.partition('/runs/')[0]}/dashboard/studies/1")
    expect(page.locator(".modebar-btn").first).to_be_attached(timeout=60_000)
    offers = page.locator(".modebar-btn").evaluate_all("all => all.map(one => one.dataset.title)")
    assert not [each for each in offers if any(word in each.lower() for word in BEYOND)]

    page.goto(f"{site.partition('/runs/')[0]}/dashboard/studies/1/note")
    page.get_by_text("hpo launch tiny.toml --workers 2").wait_for()
