"""The token, and the way between the page of runs and optuna-dashboard."""

import re

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def root(site):
    """The part of the address before any path."""
    return site.partition("/runs/")[0]


def test_the_token_leaves_the_address_and_the_browser_is_known_from_then_on(site, root, page):
    page.goto(site)
    assert page.url == f"{root}/runs/"
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")

    page.goto(root)
    assert page.url == f"{root}/runs/"


def test_without_the_token_the_page_says_where_it_is(root, page):
    page.goto(f"{root}/runs/")

    assert "Open the address that `hpo dashboard` printed" in page.inner_text("body")
    assert page.faults  # the refusal, and what the browser says of it
    page.expected.append("401")


def test_an_address_that_a_file_leads_to_opens_the_page(site, root, page, tmp_path):
    leading = tmp_path / "leading.html"
    leading.write_text(f'<meta http-equiv="refresh" content="0; url={site}">')

    page.goto(leading.as_uri())
    page.wait_for_url(f"{root}/runs/")
    page.wait_for_selector("header")
    # The browser keeps a strict cookie back on its way from elsewhere; it comes the second time.
    page.expected.append("401")


def test_optunas_page_shows_the_study_and_its_link_follows_to_the_trial(site, root, page):
    page.goto(site)
    page.goto(f"{root}/dashboard")
    link = page.locator("#hpo-runs")
    assert link.inner_text() == "Runs"

    page.get_by_text("tiny").first.click()
    page.wait_for_url(re.compile(r"/dashboard/studies/1"))
    assert link.get_attribute("href") == "/runs/study/1"
    page.goto(f"{root}/dashboard/studies/1/trials?numbers=3")
    assert link.get_attribute("href") == "/runs/trial/1/3"
    page.get_by_text("Trial 3").first.wait_for()

    link.click()
    page.wait_for_url(re.compile(r"/runs/run/tiny/trial-00003"))
