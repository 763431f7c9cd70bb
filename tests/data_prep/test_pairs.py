"""Rows that are no merger of two black holes: refused or told, with the filter that helps."""

import re
import shlex

import numpy as np
import pandas as pd
import pytest

from data_prep.errors import DataError
from data_prep.preparation.prepare import prepare
from data_prep.tables.text import table as text

ROWS = 60


def sevn(kinds: dict[str, int]) -> pd.DataFrame:
    """SEVN's table: mergers, and rows of other kinds among them."""
    rng = np.random.default_rng(5)
    kind = rng.permutation([*["merger"] * ROWS, *(k for k, n in kinds.items() for _ in range(n))])
    rows = len(kind)
    table = pd.DataFrame(
        {
            "Mass_0": 5 + rng.gamma(2, 5, rows),
            "Mass_1": 5 + rng.gamma(2, 5, rows),
            "RemnantType_0": np.where(kind == "BHNS", rng.choice([4, 5], rows), 6),
            "RemnantType_1": 6,
            "BWorldtime": 10.0,
            "Semimajor": 5 + rng.gamma(2, 5, rows),
            "GWtime": np.where(kind == "late", 2e4, 100.0),
            "Z": 0.001,
            "alpha": 1,
            "kind": kind,
        }
    )
    gone = np.isin(kind, ["unbound", "nothing"])
    table.loc[gone, ["Semimajor", "GWtime"]] = np.nan
    table.loc[kind == "nothing", ["Mass_0", "RemnantType_0"]] = [0, -1]
    return table


def prepared(table: pd.DataFrame, folder, **options):
    table.to_csv(folder / "table.csv", index=False)
    dataset = prepare([folder / "table.csv"], folder / "out", **options)
    (folder / "out").rename(folder / f"out{len(list(folder.iterdir()))}")
    return dataset


def filter_of(message: str) -> str:
    """The `--where` of a message, as a shell takes it."""
    return shlex.split(message[message.index("--where") :].replace(", or", " "))[1]


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        pytest.param({"unbound": 7}, "7 of 67 rows can be no merger (7 unbound (", id="unbound"),
        pytest.param({"nothing": 9}, "(9 without two remnants (RemnantType_0", id="no remnant"),
        pytest.param({"nothing": 9, "unbound": 7}, "16 of 76 rows can be no", id="both"),
    ],
)
def test_rows_that_can_be_no_merger_are_refused_with_the_filter_that_helps(kinds, told, tmp_path):
    with pytest.raises(DataError, match=re.escape(told)) as error:
        prepared(sevn(kinds), tmp_path)

    assert "--drop-invalid" not in str(error.value)
    helped = prepared(sevn(kinds), tmp_path, where=filter_of(str(error.value)))
    assert sum(helped.rows.values()) == ROWS
    assert helped.notes == prepared(sevn({}), tmp_path).notes


def test_rows_that_can_be_no_merger_are_dropped_when_asked(tmp_path):
    dataset = prepared(sevn({"nothing": 9, "unbound": 7}), tmp_path, drop_invalid=True)

    assert sum(dataset.rows.values()) == ROWS
    assert sorted(dataset.dropped.values()) == [7, 9]


def test_the_filter_goes_on_from_the_one_before(tmp_path):
    table = sevn({"unbound": 7, "BHNS": 20})
    bound = "kind == 'BHNS' or kind == 'unbound'"
    with pytest.raises(DataError) as error:
        prepared(table, tmp_path, where=bound)

    helped = prepared(table, tmp_path, where=filter_of(str(error.value)))

    assert sum(helped.rows.values()) == 20


@pytest.mark.parametrize(("kind", "share"), [("BHNS", "25%"), ("late", "25%")])
def test_other_pairs_are_kept_and_told(kind, share, tmp_path):
    dataset = prepared(sevn({kind: 20}), tmp_path)

    (note,) = [note for note in dataset.notes if " kept" in note]
    assert sum(dataset.rows.values()) == ROWS + 20
    assert note.startswith(f"of 80 rows, 20 ({share}) ")
    helped = prepared(sevn({kind: 20}), tmp_path, where=filter_of(note))
    assert sum(helped.rows.values()) == ROWS


COMPAS = {"Stellar_Type(1)": 14, "Stellar_Type(2)": 14}
CODES = {
    "COMPAS": ({**COMPAS, "Merges_Hubble_Time": 1}, 13, 0),
    "COMPAS by pandas": ({**COMPAS, "Merges_Hubble_Time": True}, 13, False),
    "COSMIC": ({"kstar_1": 14, "kstar_2": 14}, 13, 13),
    "POSYDON": ({"S1_state": "BH", "S2_state": "BH"}, "NS", "WD"),
}


@pytest.mark.parametrize("code", CODES)
def test_pairs_of_every_code_are_told(code, tmp_path):
    names, other, last = CODES[code]
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"Mass_0": 5 + rng.gamma(2, 5, 40), "Mass_1": 9 + rng.gamma(2, 5, 40)})
    table = table.assign(Z=0.001, alpha=1, **names)
    first, *_, final = names
    table.loc[:9, first] = other
    table.loc[5:14, final] = last

    dataset = prepared(table, tmp_path)

    (told,) = [note for note in dataset.notes if " kept" in note]
    assert sum(dataset.rows.values()) == 40
    assert re.findall(r"(\d+) \(", told) == (["10", "10"] if "COMPAS" in code else ["15"])
    assert sum(prepared(table, tmp_path, where=filter_of(told)).rows.values()) == 25


def test_a_table_of_other_pairs_alone_is_told_without_a_filter_that_leaves_nothing(tmp_path):
    dataset = prepared(sevn({"BHNS": 20}), tmp_path, where="kind == 'BHNS'")

    (note,) = [note for note in dataset.notes if " kept" in note]
    assert note.startswith("all 20 rows are no pair of black holes (RemnantType_0")
    assert "--where" not in note


@pytest.mark.parametrize("block", [text.BLOCK_BYTES, 100])
def test_a_column_of_that_name_with_other_contents_is_nobodys(block, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    table = sevn({}).assign(RemnantType_0="?", GWtime=["3", *["no number"] * (ROWS - 1)])

    assert sum(prepared(table, tmp_path).rows.values()) == ROWS


def test_a_column_that_means_something_else_can_be_renamed(tmp_path):
    table = sevn({}).assign(Semimajor=np.nan)
    with pytest.raises(DataError, match="60 of 60 rows can be no merger.*rename a column"):
        prepared(table, tmp_path)

    dataset = prepared(table, tmp_path, columns={"Semimajor": "other"})

    assert sum(dataset.rows.values()) == ROWS
