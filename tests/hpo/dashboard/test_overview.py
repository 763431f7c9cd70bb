"""The first page: which runs a filter keeps, and what stands above the table."""

import dataclasses
import re

import pytest

from hpo.dashboard.address import Query
from hpo.dashboard.pages import overview
from hpo.dashboard.pages.grid import example, matching, table_of
from hpo.dashboard.runs import figures
from hpo.dashboard.runs.spark import spark
from tests.hpo.dashboard.test_comparison import site_of
from tests.made_runs import BASE, row, searched, trained


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        pytest.param("", {0, 1}, id="nothing"),
        pytest.param("a > 1", {1}, id="expression"),
        pytest.param("SILU", {0}, id="word"),
        pytest.param("silu bbh", {0}, id="two-words"),
        pytest.param("silu nowhere", set(), id="both-words"),
    ],
)
def test_a_filter_compares_and_words_are_looked_for_in_every_cell(where, kept):
    rows = searched(({"a": 1, "b": "silu"}, 5.0), ({"a": 2, "b": "relu"}, 4.0))

    assert {row["trial"] for row in matching(rows, where)} == kept


def test_the_example_of_a_filter_is_one_of_these_runs():
    rows = searched(({"a": 1}, 5.0), ({"a": 2}, 4.0))

    assert matching(rows, example(rows).partition(",")[0])


def test_a_wrong_filter_in_the_address_shows_all_runs_and_says_so(tmp_path):
    site = site_of(tmp_path, trained(5.0))

    page = str(overview.layout(site, Query(where="trail < 2")))

    assert "did you mean" in page
    assert "bbh/trial-00000" in page


def test_without_a_run_the_page_says_how_to_start(tmp_path):
    empty, some = (
        next(each for each in overview.layout(site, Query()) if getattr(each, "id", "") == "start")
        for site in (site_of(tmp_path), site_of(tmp_path, trained(5.0)))
    )

    assert "hpo launch" in empty.children
    assert (empty.hidden, some.hidden) == (False, True)


def test_the_best_so_far_never_rises():
    rows = [
        row("a", trained(nll, trial=i, updated=f"2026-05-01T12:00:0{9 - i}+00:00"))
        for i, nll in enumerate([4.0, 5.0, 4.5, 6.0])
    ]

    line = next(each for each in figures.progress(rows).data if each.mode == "lines")

    assert list(line.y) == [6.0, 4.5, 4.5, 4.0]
    assert list(line.x) == sorted(line.x)


def test_each_data_set_has_its_best_and_its_ranks(tmp_path):
    other = dataclasses.replace(BASE.data, path="other", fingerprint="cd")
    site = site_of(tmp_path, trained(5.0), trained(4.0, trial=1, data=other))

    page = str(overview.layout(site, Query()))
    table = table_of(site.catalog.rows(), Query())

    assert re.findall(r"best on (\w+): bbh (\d)", page) == [("prepared", "0"), ("other", "1")]
    assert [each["rank"] for each in table.rows] == [1, 1]
    assert [each["data set"] for each in table.rows] == ["prepared", "other"]
    assert "data set" in [each["field"] for each in table.heads]


def test_the_curve_of_a_row_falls_where_the_nll_does():
    line = re.search(r'points="([^"]*)"', spark(trained(7.0, 6.0, None, 5.0)))[1]

    heights = [float(point.partition(",")[2]) for point in line.split()]
    assert heights == sorted(heights)  # downwards on the screen
    assert spark(trained()).endswith("</svg>")
