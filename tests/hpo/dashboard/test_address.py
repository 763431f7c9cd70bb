import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.dashboard import address
from hpo.dashboard.address import MOST, Query

words = st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable())
keys = st.lists(words, max_size=6, unique=True).map(tuple)


@given(runs=keys, where=words | st.just(""), columns=keys, differing=st.booleans())
def test_an_address_says_what_was_chosen(runs, where, columns, differing):
    query = Query(runs=runs, where=where, columns=columns, differing=differing)

    assert Query.read(str(query)) == query


@given(key=words)
def test_a_runs_address_leads_back_to_its_key(key):
    assert address.run_in(address.of_run(key)) == key


@given(text=st.text())
def test_no_address_is_refused(text):
    query = Query.read(text)

    assert len(query.runs) <= MOST


def test_more_runs_than_can_be_compared_are_cut():
    text = "&".join(f"run=bbh/trial-{number:05d}" for number in range(80))

    assert len(Query.read(f"?{text}").runs) == MOST


@pytest.mark.parametrize("text", [None, "", "?", "?run=", "?unknown=1"])
def test_an_empty_address_chooses_nothing(text):
    assert Query.read(text) == Query()


def test_a_page_of_something_else_is_no_runs_page():
    assert address.run_in("/runs/compare") is None
