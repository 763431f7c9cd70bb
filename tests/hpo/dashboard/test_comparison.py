"""The page of chosen runs, which it compares and in which order; and what a run's page shows."""

import dataclasses
import shlex

import click

from hpo.cli import main
from hpo.dashboard.address import Query
from hpo.dashboard.catalog import Catalog
from hpo.dashboard.pages import comparison, run
from hpo.dashboard.parts import Site
from tests.made_runs import BASE, trained


def site_of(tmp_path, *records):
    for record in records:
        record.write(tmp_path / "bbh" / f"trial-{record.trial:05d}")
    catalog = Catalog(tmp_path)
    catalog.refresh()
    return Site(catalog=catalog, densities=None, studies=None)


def keys(*trials):
    return tuple(f"bbh/trial-{trial:05d}" for trial in trials)


def test_runs_of_different_data_are_not_compared_but_offered_apart(tmp_path):
    other = dataclasses.replace(BASE.data, fingerprint="cd")
    site = site_of(tmp_path, trained(5.0), trained(4.0, trial=1, data=other), trained(3.0, trial=2))

    page = comparison.layout(site, Query(runs=keys(0, 1, 2)))

    assert next(each.data for each in page if getattr(each, "id", "") == "compared") == [
        *keys(0, 2)
    ]
    assert f'href="{"/runs/compare?run=bbh/trial-00001"}"' in str(page).replace("'", '"')


def test_the_rows_are_sorted_by_nll_and_what_ended_early_comes_last(tmp_path):
    early = trained(1.0, trial=3, state="pruned")
    site = site_of(tmp_path, trained(5.0), trained(4.0, trial=1), trained(4.5, trial=2), early)
    records = {key: site.catalog.record(key) for key in keys(0, 1, 2, 3)}

    shown = comparison._differences(site, records, dict.fromkeys(records, "#000000"))

    rows = shown.children[1].children.children[1].children
    assert [getattr(each, "data-run") for each in rows] == [*keys(1, 2, 0, 3)]
    assert [each.children[3].children for each in rows] == ["", "+0.5000", "+1.0000", "-3.0000"]


def test_the_commands_that_a_run_shows_are_commands(tmp_path):
    site = site_of(tmp_path, trained(5.0))
    inside = [part for card in run.layout(site, *keys(0)) for part in card._traverse()]
    shown = next(part for part in inside if getattr(part, "id", "") == "commands")

    lines = [shlex.split(line) for line in shown.children.splitlines()]

    assert [words[0] for words in lines] == ["hpo"] * 5
    for _, *words in lines:
        group, context = main, click.Context(main)
        while isinstance(group, click.Group):
            name, group, words = group.resolve_command(context, words)
        group.make_context(name, words, parent=context)
