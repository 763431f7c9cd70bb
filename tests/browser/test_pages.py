"""Every view of the dashboard in a real browser, on a study that really ran.

Whatever the browser complains of on the way (console, page, requests) fails the test: see conftest.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from data_prep.words.numbers import with_error
from hpo.records.folder import read_all
from hpo.records.record import EpochRow

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SOON_MS = 20_000
"""What a busy machine may need for what a person sees at once."""

expect.set_options(timeout=SOON_MS)


@pytest.fixture(scope="module")
def changing(study, serving, tmp_path_factory):
    """Address of a dashboard over a copy of the study, and its runs' folder, to be changed.

    Each test takes a complete run of it and leaves it so no more.
    """
    runs = shutil.copytree(study, tmp_path_factory.mktemp("changing") / "runs")
    with serving(runs) as address:
        yield address, runs


def rows_of(page: Page) -> list[str]:
    """The runs in the table, in its order."""
    grid = page.locator("#grid")
    expect(grid.locator(".ag-row").first).to_be_visible()
    return grid.locator(".ag-pinned-left-cols-container [col-id=run] a").all_inner_texts()


def go(page: Page, site: str, path: str) -> None:
    """Open a path of the dashboard, with the token."""
    base, _, token = site.partition("/runs/?")
    page.goto(f"{base}{path}{'&' if '?' in path else '?'}{token}")


def drawn(page: Page, name: str) -> None:
    """Wait until the graph of that id shows marks or a sentence."""
    graph = page.locator(f"#{name}")
    expect(graph.locator(".main-svg").first).to_be_visible()


def test_the_table_shows_every_run_the_best_first(page, site, study):
    go(page, site, "/runs/")

    shown = rows_of(page)

    every = {path.parent.relative_to(study).as_posix(): record for path, record in read_all(study)}
    assert set(shown) == set(every)
    ended = [key for key in shown if every[key].state in ("complete", "stopped_early")]
    assert ended == sorted(ended, key=lambda key: every[key].best_val_nll)
    assert shown[: len(ended)] == ended  # the pruned ones after them, without a rank


def test_a_filter_keeps_what_matches_and_a_wrong_one_says_what_is_wrong(page, site, study):
    go(page, site, "/runs/")
    everything = rows_of(page)

    page.locator("#where").fill("trial < 2")
    expect(page.locator("#grid .ag-pinned-left-cols-container .ag-row")).to_have_count(2)
    page.wait_for_function("location.search.includes('where=trial')")

    page.locator("#where").fill("trail < 2")
    expect(page.locator("#fault")).to_contain_text("did you mean 'trial'")

    page.locator("#where").fill("trial < 2 and best_v")
    offered = page.locator("#names option").evaluate_all("all => all.map(one => one.value)")
    assert "trial < 2 and best_val_nll" in offered

    page.locator("#where").fill("")
    expect(page.locator("#fault")).to_be_empty()
    expect(page.locator("#grid .ag-pinned-left-cols-container .ag-row")).to_have_count(
        len(everything)
    )


def test_only_what_differs_hides_the_columns_that_are_the_same(page, site):
    go(page, site, "/runs/?column=kind&column=best_val_nll")
    rows_of(page)
    heads = page.locator("#grid .ag-header-cell[col-id=kind]")
    expect(heads).to_have_count(1)

    page.get_by_label("only what differs").check()

    expect(heads).to_have_count(0)
    page.wait_for_function("location.search.includes('differing=1')")


def test_what_is_chosen_is_in_the_address_and_comes_back_with_it(page, site):
    go(page, site, "/runs/")
    rows_of(page)
    page.get_by_role("button", name="Choose the best").click()
    expect(page.locator("#compare")).to_contain_text(re.compile("Compare|Look at"))
    page.wait_for_function("location.search.includes('run=')")
    chosen = page.locator("#grid .ag-row-selected").count()

    page.goto(page.url)

    rows_of(page)
    expect(page.locator("#grid .ag-row-selected")).to_have_count(chosen)


def test_what_is_shown_can_be_taken_away(page, site):
    go(page, site, "/runs/?where=trial<3&column=best_val_nll".replace("<", "%3C"))
    shown = rows_of(page)

    for kind, beginning in {"csv": "run,rank", "latex": r"% \usepackage{booktabs}"}.items():
        with page.expect_download() as taken:
            page.locator(f"#as-{kind}").click()

        text = Path(taken.value.path()).read_text()
        assert text.startswith(beginning)
        for key in shown:
            assert key.split("/")[-1] in text


def test_chosen_runs_are_compared_in_every_picture(page, site):
    go(page, site, "/runs/")
    rows_of(page)
    page.get_by_role("button", name="Choose the best").click()
    page.wait_for_function("document.querySelector('#compare').href.includes('run=')")
    page.locator("#compare").click()

    expect(page.get_by_role("heading", name="runs compared")).to_be_visible()
    for name in ("curves", "rates", "pareto", "multiples", "scatter"):
        drawn(page, name)
    expect(page.locator("#differences table")).to_contain_text("learning_rate")

    page.get_by_label("wall-clock time").first.check()
    expect(page.locator("#curves .xtitle").first).to_contain_text("min")
    page.get_by_label("above the best").check()
    expect(page.locator("#curves .ytitle").first).to_contain_text("NLL −")


def test_a_run_shows_its_curves_and_what_it_draws_and_each_can_be_taken_away(page, site, study):
    path, record = next((path, one) for path, one in read_all(study) if one.state == "complete")
    key = path.parent.relative_to(study).as_posix()

    go(page, site, f"/runs/run/{key}")

    nll = with_error(record.best_val_nll, record.best_val_error, between="±")
    expect(page.locator("#facts")).to_contain_text(nll)
    drawn(page, "run-curves")
    drawn(page, "contours")
    drawn(page, "cells")
    expect(page.locator("#verdict")).to_contain_text("further from the data than chance")
    expect(page.locator(".options")).to_contain_text("learning_rate")
    expect(page.locator("#log")).to_contain_text("epoch 1:")
    takes_away(page, record.trial)


def test_the_conditions_follow_the_keys_and_a_click_on_a_cell(page, site, study):
    key = next(p for p, one in read_all(study) if one.state == "complete").parent.name
    go(page, site, f"/runs/run/{study_name(study)}/{key}")
    drawn(page, "contours")
    told = page.locator("[data-condition=Z] .slider-head b")
    thumb = page.locator("[data-condition=Z]").get_by_role("slider")
    before = told.inner_text()
    expect(thumb).to_have_attribute("aria-valuetext", before)

    thumb.press("ArrowLeft")
    expect(told).not_to_have_text(before)
    expect(told).not_to_contain_text("between")
    for _ in range(4):
        thumb.press("Shift+ArrowLeft")
    expect(told).to_contain_text("between")
    expect(page.locator("#contours .legend")).to_contain_text("nearest cell")

    weights = page.locator("[data-condition='after epoch']")
    now = weights.locator(".slider-head b").inner_text()
    last = weights.get_by_role("slider")
    expect(last).to_have_attribute("aria-valuetext", now)
    assert re.fullmatch(r"\d, NLL \d\.\d{4}", now)
    last.press("ArrowLeft")
    expect(weights.locator(".slider-head b")).not_to_have_text(now)
    expect(told).to_contain_text("between")

    drawn(page, "cells")
    area = page.locator("#cells .nsewdrag").bounding_box()
    page.mouse.click(area["x"] + 0.9 * area["width"], area["y"] + 0.1 * area["height"])
    expect(told).not_to_contain_text("between")


def test_the_run_leads_to_its_trial_and_the_trial_back(page, site, study):
    path, record = next(iter(read_all(study)))
    key = path.parent.relative_to(study).as_posix()
    go(page, site, f"/runs/run/{key}")

    page.get_by_role("link", name="Open in Optuna").click()
    page.wait_for_url(re.compile(rf"/dashboard/studies/\d+/trials\?numbers={record.trial}"))
    back = page.locator("a[href*='/runs/trial/']")
    expect(back).to_be_visible()
    back.click()

    page.wait_for_url(re.compile(re.escape(f"/runs/run/{key}")))


def test_a_running_trial_moves_by_itself_and_the_zoom_stays(page, changing):
    site, runs = changing
    path, record = next((path, one) for path, one in read_all(runs) if one.state == "complete")
    moving = dataclasses.replace(record, state="running", epochs=record.epochs[:2], test=None)
    moving.write(path.parent)
    key = path.parent.relative_to(runs).as_posix()
    go(page, site, f"/runs/compare?run={key}")
    drawn(page, "curves")
    plot = "document.querySelector('#curves .js-plotly-plot')"
    area = page.locator("#curves .nsewdrag").bounding_box()
    middle = area["y"] + area["height"] / 2
    page.mouse.move(area["x"] + 0.2 * area["width"], middle)
    page.mouse.down()
    page.mouse.move(area["x"] + 0.7 * area["width"], middle, steps=5)
    page.mouse.up()
    page.wait_for_function(f"{plot}.layout.xaxis.autorange === false")
    zoomed = page.evaluate(f"{plot}.layout.xaxis.range")

    grown = dataclasses.replace(moving, epochs=(*moving.epochs, another(moving.epochs[-1])))
    grown.write(path.parent)

    last = f"Math.max(...{plot}._fullData.flatMap(trace => Array.from(trace.x)))"
    page.wait_for_function(f"{last} >= 3", timeout=SOON_MS)
    assert page.evaluate(f"{plot}.layout.xaxis.range") == zoomed


def test_the_table_counts_on_while_a_trial_runs(page, changing):
    site, runs = changing
    path, record = next((path, one) for path, one in read_all(runs) if one.state == "complete")
    key = path.parent.relative_to(runs).as_posix()
    moving = dataclasses.replace(record, state="running", epochs=record.epochs[:1], test=None)
    moving.write(path.parent)
    go(page, site, "/runs/?column=epochs&column=state")
    rows_of(page)
    cell = page.locator(f"#grid .ag-row[row-id='{key}'] [col-id=epochs]")
    expect(cell).to_have_text("1")
    page.locator(f"#grid .ag-row[row-id='{key}'] .ag-checkbox-input").first.check()

    began = time.monotonic()
    dataclasses.replace(moving, epochs=record.epochs[:3]).write(path.parent)

    expect(cell).to_have_text("3")
    assert time.monotonic() - began < SOON_MS / 1000
    expect(page.locator("#grid .ag-row-selected")).not_to_have_count(0)  # the choice stays


def test_what_a_stranger_wrote_into_a_run_json_stays_text(page, changing):
    site, runs = changing
    path, record = next((path, one) for path, one in read_all(runs) if one.state == "complete")
    script = '<img src=x onerror="window.harmed=1"><script>window.harmed=1</script>'
    evil = dataclasses.replace(
        record,
        study=script,
        reason=script,
        params={**record.params, script: script},
        flow={**record.flow, "kind": script},
        environment=dataclasses.replace(record.environment, host=script, device=script),
    )
    evil.write(path.parent)
    (path.parent / "log.txt").write_text(script)
    key = path.parent.relative_to(runs).as_posix()

    for where in ("/runs/", f"/runs/run/{key}", f"/runs/compare?run={key}"):
        go(page, site, where)
        expect(page.locator("main > *").first).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.harmed") is None


def test_broken_runs_are_rows_with_a_reason_and_harm_nothing_else(page, changing, study):
    site, runs = changing
    whole = len(read_all(runs))
    for number, text in ((90, "{"), (91, "[]"), (92, "{" * 100_000)):
        folder = runs / study_name(study) / f"trial-{number:05d}"
        folder.mkdir()
        (folder / "run.json").write_text(text)
    link = runs / study_name(study) / "trial-00093"
    link.mkdir()
    (link / "run.json").symlink_to("/etc/passwd")

    go(page, site, "/runs/?column=state&column=reason")

    assert len(rows_of(page)) == whole + 4
    expect(page.locator("#summary")).to_contain_text("4 unreadable")
    expect(page.locator("#grid")).not_to_contain_text("root:")


def test_the_theme_is_switched_and_kept(page, site):
    go(page, site, "/runs/")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")

    page.locator("#theme-switch").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")

    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def takes_away(page: Page, trial: int) -> None:
    """A figure comes under a name that says what it is."""
    page.wait_for_function(
        "document.querySelector('#run-curves .js-plotly-plot')?._fullData?.length > 1"
    )
    menu = page.locator("figure:has(#run-curves) .take")
    menu.locator("summary").click()

    head = b'"curve","run","Epoch"'
    begins = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF-1.4", "csv": head}
    for kind, beginning in begins.items():
        with page.expect_download() as taken:
            menu.locator(f"[data-take={kind}]").click()

        assert taken.value.suggested_filename == f"tiny-{trial}-how-it-learned.{kind}"
        assert Path(taken.value.path()).read_bytes().startswith(beginning)


def study_name(study: Path) -> str:
    """Of the only study below the folder."""
    return next(study.glob("*/trial-*")).parent.name


def another(last: EpochRow) -> EpochRow:
    """One epoch more."""
    return dataclasses.replace(last, epoch=last.epoch + 1)
